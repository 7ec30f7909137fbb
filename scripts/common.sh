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
