# shellcheck shell=bash disable=SC2154
# The kernel of scripts/vm: found in a cache, or fetched as a package and unpacked there, never
# installed. Uses repo and tool_path of its caller and sets kernel_dir.

# Kernels are kept unpacked per version, each complete or not there at all, so nothing in these
# folders can go stale. A plain user may find the first filled by root, or not writable.
kernel_folders() {
    printf '%s\n' "${CARGO_TARGET_DIR:-$repo/target}/vm" \
        "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/netns-lab-vm"
}

cached_kernel() {
    local folder
    while read -r folder; do
        find "$folder" -mindepth 1 -maxdepth 1 -name 'linux-image-*' 2>/dev/null || true
    done < <(kernel_folders) | sort -V | tail -n 1
}

writable_kernel_folder() {
    local folder
    while read -r folder; do
        if mkdir -p "$folder" 2>/dev/null && [[ -w $folder ]]; then
            (cd "$folder" && pwd)
            return
        fi
    done < <(kernel_folders)
}

# The newest kernel that the package lists know: Debian's name for it, then Ubuntu's.
newest_kernel_package() {
    have apt-cache || return 0
    local meta
    for meta in linux-image-cloud-amd64 linux-image-virtual; do
        apt-cache depends "$meta" 2>/dev/null || true
    done | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ && !n++ { print $2 }'
}

# Sets kernel_dir, which holds boot/vmlinuz-VERSION and lib/modules/VERSION. One that is there
# serves without asking apt, which takes over a second; removing target/vm gets a newer one.
find_kernel() {
    kernel_dir=$(cached_kernel)
    if [[ -n $kernel_dir ]]; then
        kernel_dir=$(cd "$kernel_dir" && pwd)
        return
    fi
    local package folder
    package=$(newest_kernel_package)
    folder=$(writable_kernel_folder)
    if [[ -z $folder ]]; then
        die 3 "no folder for the kernel can be written: $(kernel_folders | paste -sd ' ')"
    fi
    kernel_dir=$folder/$package
    if [[ -z $package ]] || ! fetch_kernel "$package" "$kernel_dir"; then
        die 3 "no kernel can be fetched (linux-image-cloud-amd64 or linux-image-virtual)" \
            "the package lists may be missing or old: sudo apt-get update, then again"
    fi
}

# Unpacked beside its place and moved there whole: a run that is killed leaves no half kernel.
fetch_kernel() {
    local package=$1 place=$2 work
    mkdir -p "${place%/*}"
    work=$(mktemp -d "${place%/*}/.fetch.XXXXXX")
    say "vm: fetching $package, once, into $place"
    if download_and_unpack "$package" "$work" && mv -T "$work/root" "$place" 2>/dev/null; then
        rm -rf "$work"
        return 0
    fi
    rm -rf "$work"
    # Another run may have been first.
    [[ -d $place ]]
}

download_and_unpack() (
    set -e
    cd "$2"
    mkdir root
    packages=("$1")
    # Ubuntu keeps the modules in a package of their own.
    mapfile -t -O 1 packages < <(apt-cache depends "$1" |
        awk '$1 == "Depends:" && $2 ~ /^linux-modules-[0-9]/ { print $2 }')
    apt_download "${packages[@]}"
    for file in ./*.deb; do
        dpkg-deb -x "$file" root
    done
    # From here on the package's own folders are all that is needed.
    [[ -d root/lib/modules ]] || { mkdir -p root/lib && mv root/usr/lib/modules root/lib/; }
    PATH=$tool_path depmod -b root "$(ls root/lib/modules)"
    chmod -R a+rX root
)

apt_download() {
    local options=(-qq -o "APT::Sandbox::User=$(id -un)")
    if apt-get "${options[@]}" download "$@" >&2; then
        return
    fi
    # The lists may name a version that the archive has since replaced; only root can tell.
    ((EUID == 0)) || return 1
    say "vm: the package lists look old, so they are refreshed (apt-get update)"
    apt-get -qq update >&2 && apt-get "${options[@]}" download "$@" >&2
}
