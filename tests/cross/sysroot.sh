#!/bin/sh
# Makes a directory with Debian's packages of another architecture: sysroot.sh ARCH DIR DEBS. What building and testing need: libraries, headers,
# mosquitto. apt gets a state of its own, so the machine's packages, foreign architectures and lists stay as they are, and no right is needed.
# The packages stay in DEBS/ARCH: where they are complete, no network is used.
set -eu

[ $# -eq 3 ] || {
    echo "usage: sysroot.sh ARCH DIR DEBS" >&2
    exit 2
}
arch=$1 dir=$2 debs=$3/$1
packages='libc6-dev libsodium-dev libinih-dev libjansson-dev libelf-dev uthash-dev check mosquitto mosquitto-clients'

fail() {
    echo "sysroot.sh: $*" >&2
    exit 1
}

absolute() {
    mkdir -p "$1" && (cd "$1" && pwd)
}

# In the list: what apt was asked for, then the files with their sums.
is_complete() {
    [ -f "$debs/list" ] && [ "$(sed -n 's/^# //p' "$debs/list")" = "$packages" ] && (cd "$debs" && grep -v '^#' list | sha256sum --check --status)
}

apt() {
    tool=$1
    shift
    "$tool" -qq -o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state" -o "Dir::Cache::archives=$debs" \
        -o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" -o "APT::Sandbox::User=$(id -un)" "$@"
}

download() {
    state=$(mktemp -d)
    trap 'rm -rf "$state"' EXIT
    mkdir -p "$state/lists/partial" "$debs/partial"
    : >"$state/status"
    rm -f "$debs"/*.deb "$debs/list"
    # one list that cannot be had (a third party's, a mirror that is being written) is no obstacle if the packages can
    apt apt-get update || echo "sysroot.sh: going on with the lists that could be had" >&2
    # shellcheck disable=SC2086 # a list of words
    apt apt-get install -y --download-only --no-install-recommends $packages >/dev/null ||
        fail "the packages of $arch cannot be downloaded (apt says why above). A mirror of Debian is needed once;" \
            "afterwards they are in $debs"
    rm -rf "$debs/partial" "$debs/lock"
    (cd "$debs" && { echo "# $packages" && sha256sum ./*.deb; } >list.new && mv list.new list)
}

# Links to absolute paths lead out of the directory.
relink() {
    find "$1" -type l -lname '/*' | while IFS= read -r link; do
        ln -sfn "$(realpath -m --relative-to="$(dirname "$link")" "$1$(readlink "$link")")" "$link"
    done
}

debs=$(absolute "$debs")
is_complete || download
new=$dir.new
rm -rf "$dir" "$new"
new=$(absolute "$new")
for deb in "$debs"/*.deb; do
    dpkg-deb -x "$deb" "$new"
done
# not wanted, and nothing a tester should find in his tree
rm -rf "$new/usr/share/doc" "$new/usr/share/man" "$new/usr/share/locale"
relink "$new"
mv "$new" "$dir"
