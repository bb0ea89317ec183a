# shellcheck shell=bash disable=SC2154
# The initramfs of scripts/vm: made anew for each run, it holds what the guest needs before it
# sees the host's files, and what it is to run. Uses here, run, busybox, kernel_dir, version,
# tool_path, merge and command of its caller.

# What must be there before the host's files are: the port that they come through, the file
# systems, and the client.
boot_modules=(virtio_pci virtio_console fuse overlay)
hot_programs=(sshfs sh bash env ip iptables iptables-legacy modprobe)

build_initramfs() {
    local root=$run/initramfs
    mkdir -p "$root"/{bin,dev,hot,proc,sys,lower,upper,root,vm/modules}
    cp "$busybox" "$root/bin/busybox"
    cp "$here/lib/vm-init" "$root/init"
    cp "$here/lib/vm-init" "$root/vm/init"
    chmod 755 "$root/init"
    copy_boot_modules "$root/vm/modules"
    copy_hot_files "$root/hot"
    write_client >"$root/vm/sshfs"
    chmod 755 "$root/vm/sshfs"
    write_settings >"$root/vm/settings"
    write_job >"$root/vm/job"
    (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$run/initramfs.cpio"
    rm -rf "$root"
}

# Numbered in the order that they must be loaded in, and unpacked: busybox knows no compressed
# modules.
copy_boot_modules() {
    local file name number=10
    while read -r file; do
        name=${file##*/}
        unpack_module "$file" >"$1/$number-${name%%.ko*}.ko"
        number=$((number + 1))
    done < <(list_boot_modules | awk '$1 == "insmod" && !seen[$2]++ { print $2 }')
}

list_boot_modules() {
    local module
    for module in "${boot_modules[@]}"; do
        PATH=$tool_path modprobe -d "$kernel_dir" -S "$version" --show-depends "$module" ||
            die 3 "the kernel $version has no module $module" "try another: rm -r '$kernel_dir'"
    done
}

unpack_module() {
    case $1 in
    *.zst) zstd -dcq "$1" ;;
    *.xz) xz -dc "$1" ;;
    *.gz) gzip -dc "$1" ;;
    *) cat "$1" ;;
    esac
}

# Each program and the libraries that it loads: the names that they are asked for by (often
# links, their folder without any) and the files behind them.
with_libraries() {
    local program file
    for program in "$@"; do
        file=$(PATH=$tool_path command -v "$program") || continue
        printf '%s\n' "$file"
        ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true
    done | sort -u | while read -r file; do
        printf '%s/%s\n' "$(realpath "${file%/*}")" "${file##*/}"
        realpath "$file"
    done | sort -u
}

# Each open() below the overlay costs two trips to the host, a few milliseconds each in plain
# emulation, and every program start opens the same few files: they go along in the initramfs,
# from where vm-init puts them on the overlay's upper side.
copy_hot_files() {
    local file
    while read -r file; do
        mkdir -p "$1${file%/*}"
        cp -dp "$file" "$1$file"
    done < <(with_libraries "${hot_programs[@]}" && realpath -e /etc/ld.so.cache 2>/dev/null)
}

# In the initramfs the libraries are not where the client looks, so the loader is told.
write_client() {
    local client loader folders
    client=$(with_libraries sshfs | grep -m 1 '/sshfs$')
    loader=$(with_libraries sshfs | grep -m 1 '/ld-[^/]*$')
    folders=$(with_libraries sshfs | sed 's|/[^/]*$||; s|^|/hot|' | sort -u | paste -sd :)
    printf '#!/bin/busybox sh\nexec %s "$@"\n' \
        "$(quote "/hot$loader" --library-path "$folders" "/hot$client")"
}

# quote WORD...: the words as any POSIX shell reads them back, whatever is in them.
quote() {
    local word
    for word in "$@"; do
        printf "'%s' " "${word//\'/\'\\\'\'}"
    done
}

# default_permissions has the guest's kernel check modes, so that a process there that gives up
# root is refused what it should be. The host's files stand still for the guest, so it caches.
write_settings() {
    local mount=passive,ro,allow_other,default_permissions,kernel_cache,noforget
    local cache
    for cache in entry_timeout attr_timeout negative_timeout dcache_timeout; do
        mount+=,$cache=86400
    done
    # Newer versions refuse absolute links unless told otherwise; older do not know the word.
    if sshfs --help 2>&1 | grep -q no_contain_symlinks; then
        mount+=,no_contain_symlinks
    fi
    local interactive=no
    ((${#command[@]} > 0)) || interactive=yes
    printf 'vm_sshfs_options=%s\nvm_modules=%s\nvm_merge=%s\nvm_interactive=%s\n' \
        "$(quote "$mount")" "$(quote "$kernel_dir/lib/modules/$version")" "$merge" "$interactive"
    if [[ $interactive = yes ]]; then
        stty size | awk '{ print "vm_rows=" $1; print "vm_columns=" $2 }'
    fi
}

passed_on=(CI NO_COLOR TERM PATH HOME RUST_BACKTRACE
    CARGO_HOME CARGO_TARGET_DIR RUSTUP_HOME RUSTUP_TOOLCHAIN)

write_job() {
    local name
    for name in "${passed_on[@]}"; do
        if [[ -n ${!name+set} ]]; then
            printf 'export %s=%s\n' "$name" "$(quote "${!name}")"
        fi
    done
    # Inside, the caller is root, and finds root's programs.
    # shellcheck disable=SC2016
    printf 'export USER=root LOGNAME=root SHELL=/bin/bash PATH="%s"\n' \
        '$PATH:/usr/local/sbin:/usr/sbin:/sbin'
    printf 'unset vm_dir\ncd %s || exit 1\n' "$(quote "$PWD")"
    if ((${#command[@]} > 0)); then
        printf 'exec %s\n' "$(quote "${command[@]}")"
    else
        printf 'exec bash -i\n'
    fi
}
