# Shared by the scripts: words for people, and checks with a fix. Sourced, never run.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*" | { [ -t 1 ] && cat || sed 's/\x1b\[[0-9;]*m//g'; }; }

# die MESSAGE FIX: an error in the form that plait itself uses.
die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '  fix: %s\n' "$2" >&2
    exit 1
}

# quietly LOG COMMAND...: run with its output in LOG, show its end when it fails.
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "$1 failed; all of its output is in $log"
    }
}

need_root() {
    [ "$(id -u)" = 0 ] || die "$1 needs root: it makes network namespaces" "sudo $1"
}

# need_packages PACKAGE...: install what is missing of Debian's packages, starting no service:
# one that starts by itself would change this host's network (dockerd makes docker0 and rewrites
# iptables, etcd listens). Everything here is started by hand, in namespaces.
need_packages() {
    local package missing=() policy=/usr/sbin/policy-rc.d log
    for package in "$@"; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing Debian packages: ${missing[*]}"
    log=$(mktemp /tmp/plait-apt.XXXXXX)
    (
        export DEBIAN_FRONTEND=noninteractive
        if [ ! -e $policy ]; then
            trap 'rm -f /usr/sbin/policy-rc.d' EXIT
            printf '#!/bin/sh\nexit 101\n' >$policy
            chmod +x $policy
        fi
        quietly "$log" apt-get update -q
        quietly "$log" apt-get install -y -q --no-install-recommends "${missing[@]}"
    )
    rm -f "$log"
}

installed() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }
