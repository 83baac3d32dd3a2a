#!/bin/sh
# Installs Debian packages that are not there yet: deps.sh GROUP... with GROUP base, ci, bench, cross or all. Says what to run where it may not.
set -eu

# base: what `make demo` and `make check` need
base='gcc libc6-dev pkg-config libsodium-dev uthash-dev libinih-dev libjansson-dev libelf-dev check
libtcmalloc-minimal4 libjemalloc2 mosquitto mosquitto-clients python3 python3-pytest python3-pytest-xdist python3-cryptography python3-paho-mqtt openssl curl ca-certificates
libmosquitto-dev libpaho-mqtt-dev binutils'
# ci: other compilers, analysers and fuzzers
ci='clang libclang-rt-14-dev valgrind clang-format clang-tidy shellcheck man-db groff-base git'
# bench: what the benchmark compares with, programs whose slowing down it measures, and its plot
bench='libmosquitto-dev stunnel4 gnuplot-nox openssl git'
# all: `make interop-all`, clients and brokers in other languages
all='nodejs npm default-jdk-headless libmqtt-client-java rabbitmq-server'
# cross: compilers and an emulator for other architectures; tests/cross/sysroot.sh downloads the rest
cross='gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf qemu-user'

missing=
for group in "$@"; do
    case $group in
    base) packages=$base ;;
    ci) packages=$ci ;;
    bench) packages=$bench ;;
    all) packages=$all ;;
    cross) packages=$cross ;;
    *)
        echo "deps.sh: no group $group; there are base, ci, bench, cross and all" >&2
        exit 2
        ;;
    esac
    for package in $packages; do
        # of other makers' packages of Node.js one has npm too, and excludes Debian's
        [ "$package" = npm ] && command -v npm >/dev/null && continue
        # default-jdk-headless is a name for one of them
        [ "$package" = default-jdk-headless ] && command -v javac >/dev/null && continue
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "deps.sh: these Debian packages are missing; install them as root: apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# The packages' own services (mosquitto, stunnel) are not wanted: the tests start private ones.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
