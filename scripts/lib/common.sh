# shellcheck shell=bash
# What every script here shares: how it speaks, how it ends, how it becomes root.
# Sourced, never run.

# Standard output belongs to the command that a script runs, so remarks go to standard error.
say() {
    printf '%s\n' "$*" >&2
}

# die CODE MESSAGE [HINT]: 2 for a wrong call, 3 for something that the host lacks.
die() {
    say "${0##*/}: $2"
    if [[ -n ${3:-} ]]; then
        say "  $3"
    fi
    exit "$1"
}

# A plain user's PATH often ends before the folders where modprobe and iptables live.
have() {
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1
}

# Runs its arguments as root: as they are for root, through sudo for others.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die 3 "'$*' needs root, and there is no sudo here" \
            "run this script again as root (su -c '$0 --yes')"
    fi
}
