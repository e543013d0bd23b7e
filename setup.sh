#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Everything from a fresh Debian 12 to a clone of a running process. "./setup.sh help" says what it can do.

set -euo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
build=${REMFORK_BUILDDIR:-$top/build}
export REMFORK_BUILDDIR=$build

packages_build='autoconf autoconf-archive automake gcc libc6-dev libcap-dev libglib2.0-bin libglib2.0-dev libjson-glib-dev
libsmartcols-dev libsystemd-dev make pkgconf scdoc xz-utils'
packages_run='dbus dbus-daemon polkitd procps python3-minimal systemd util-linux'
packages_bench='criu gdb gnuplot-nox'
packages_proof='bc bison cpio debhelper dh-apparmor dpkg-dev fakeroot flex kmod libelf-dev libssl-dev lintian rsync stress-ng'
packages_test='clang dash gcc-multilib gdb nginx-light perl python3 redis-server socat spin sqlite3 vim-tiny zstd'

usage() {
        cat <<'END'
Usage: sudo ./setup.sh COMMAND

  demo     install what is needed, build, and show a running program being cloned
  build    install what is needed and build, into ./build (or $REMFORK_BUILDDIR)
  install  build and install remfork on this machine
  check    build and run every test, also those that need virtual machines
  bench    build and run the measurements: on this machine, and the thesis's tables in virtual machines
  proof    what takes hours: 100,000 rounds of each race, 10,000 kills at random instants, every kernel selftest; a page of
           figures, each with its command
  fuzz     fuzz each parser for 10 minutes; what breaks one is kept, and how to see it again is printed
  vm       build and give a shell in a virtual machine with the patched kernel
  help     show this text

Each command does what those before it need and is not there yet; running one again repeats nothing that is done.
END
}

step() { printf '\n==> %s\n' "$*" >&2; }

fail() {
        printf '\nsetup.sh: %s\n' "$*" >&2
        exit 1
}

check_machine() {
        [ "$(uname -m)" = x86_64 ] || fail "remfork supports x86-64 only; this machine is $(uname -m)."
        # shellcheck source=/dev/null
        [ -r /etc/os-release ] && . /etc/os-release
        [ "${ID:-} ${VERSION_ID:-}" = "debian 12" ] ||
                printf 'setup.sh: this is %s, tried is Debian 12; going on.\n' "${PRETTY_NAME:-an unknown system}" >&2
}

# Packages of @... that are not installed.
missing_packages() {
        local p
        for p; do
                [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
        done
}

apt() {
        DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@" </dev/null >&2
}

remove_policy() { rm -f /usr/sbin/policy-rc.d; }

install_packages() {
        local missing
        missing=$(missing_packages "$@")
        [ -n "$missing" ] || return 0
        [ "$(id -u)" = 0 ] || fail "these packages are missing, and only root can install them: run \"sudo ./setup.sh $command\"
$missing"
        step "Installing packages:" $missing

        # Programs are wanted, not services: the tests start their own nginx, and without systemd nothing would end one.
        if [ ! -e /usr/sbin/policy-rc.d ]; then
                trap remove_policy EXIT
                printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
                chmod 755 /usr/sbin/policy-rc.d
        fi
        # shellcheck disable=SC2086
        if ! apt install -y --no-install-recommends $missing 2>/tmp/remfork-apt.$$; then
                # The lists are missing, or so old that they name versions that the mirror no longer has.
                apt update || { cat /tmp/remfork-apt.$$ >&2; fail "the package lists cannot be had: check the network and /etc/apt."; }
                apt install -y --no-install-recommends $missing ||
                        fail "packages could not be installed; what apt-get says above tells why. Then run this again."
        fi
        rm -f /tmp/remfork-apt.$$
        if [ "$(trap -p EXIT)" ]; then
                remove_policy
                trap - EXIT
        fi
}

# Runs a command as whoever owns the sources, so that sudo leaves no files behind that the owner cannot remove.
as_owner() {
        local owner
        owner=$(stat -c %U "$top")
        if [ "$(id -u)" = 0 ] && [ "$owner" != root ] && [ "$owner" != UNKNOWN ]; then
                runuser -u "$owner" -- "$@"
        else
                "$@"
        fi
}

do_build() {
        # shellcheck disable=SC2086
        install_packages $packages_build $packages_run
        if [ ! -x "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ]; then
                step "Generating configure"
                as_owner autoreconf --install --force "$top" >&2 || fail "autoreconf failed; what it says above tells why."
        fi
        if [ ! -e "$build/config.status" ]; then
                step "Configuring in $build"
                if [ ! -d "$build" ]; then
                        mkdir -p "$build"
                        chown "$(stat -c %u:%g "$top")" "$build"
                fi
                (cd "$build" && as_owner "$top/configure" --quiet --prefix=/usr --sysconfdir=/etc --localstatedir=/var >&2) ||
                        fail "configure failed; its last lines above name what is missing."
        fi
        step "Building in $build"
        as_owner make --silent -C "$build" -j "$(nproc)" >&2 || fail "the build failed; the first error above tells where."
}

do_install() {
        do_build
        [ "$(id -u)" = 0 ] || fail "only root can install: run \"sudo ./setup.sh install\"."
        step "Installing remfork"
        make --silent -C "$build" install >&2 || fail "\"make install\" failed; what it says above tells why."
        systemd-sysusers remfork.conf || fail "the user remfork could not be created."
        if [ -d /run/systemd/system ]; then
                systemctl daemon-reload
                journalctl --update-catalog
                systemctl reload dbus.service
                systemctl try-restart remforkd.service
                step 'Done. Try: sleep 1000 & remforkctl clone $!'
        else
                step "Done. systemd is not PID 1 here, so nothing starts remforkd; tests/with-daemon runs it for one command."
        fi
}

do_demo() {
        do_build
        [ "$(id -u)" = 0 ] || fail "the demo starts a daemon with capabilities: run \"sudo ./setup.sh demo\"."
        step "Starting a private system bus, polkitd and remforkd"
        exec "$top/tests/with-daemon" -- "$top/tests/demo"
}

test_packages() {
        local file
        for file in "$top"/tests/integration/packages "$top"/tests/vm/packages; do
                # Comments are for the reader; a name is a line.
                [ ! -e "$file" ] || sed -e 's/#.*//' "$file"
        done
}

do_check() {
        # shellcheck disable=SC2046,SC2086
        install_packages $packages_build $packages_run $packages_test $(test_packages)
        do_build
        [ "$(id -u)" = 0 ] || fail "the tests start daemons with capabilities: run \"sudo ./setup.sh check\"."
        step "Building the tests"
        as_owner make --silent -C "$build" -j "$(nproc)" check TESTS= >&2 || fail "the tests could not be built."
        exec "$top/tests/run"
}

do_bench() {
        local status=0

        # shellcheck disable=SC2046,SC2086
        install_packages $packages_build $packages_run $packages_test $packages_bench $(test_packages)
        do_build
        [ "$(id -u)" = 0 ] || fail "the measurements clone processes of root: run \"sudo ./setup.sh bench\"."
        step "Building the tests"
        as_owner make --silent -C "$build" -j "$(nproc)" check TESTS= >&2 || fail "the tests could not be built."
        mkdir -p "$build/bench"
        step "Measuring on this machine, the ptrace engine and the bus: a minute or two"
        "$top/tests/bench/run" --json="$build/bench/here.json" || status=$?
        step "Measuring in virtual machines, the thesis's tables: a quarter of an hour, and more where a kernel must be built first"
        "$top/tests/bench/evaluate" || status=$?
        exit "$status"
}

do_proof() {
        # shellcheck disable=SC2046,SC2086
        install_packages $packages_build $packages_run $packages_test $packages_bench $packages_proof $(test_packages)
        do_build
        [ "$(id -u)" = 0 ] || fail "the tests start daemons with capabilities: run \"sudo ./setup.sh proof\"."
        step "Building the tests"
        as_owner make --silent -C "$build" -j "$(nproc)" check TESTS= >&2 || fail "the tests could not be built."
        step "Proving: many hours without hardware virtualisation; \"tests/proof --help\" tells how to have less"
        exec "$top/tests/proof"
}

do_fuzz() {
        # shellcheck disable=SC2046,SC2086
        install_packages $packages_build $packages_run $packages_test $(test_packages)
        do_build
        step "Fuzzing: 10 minutes for each target, $(nproc) at a time"
        exec "$top/tests/fuzz/test-live" --seconds=600 --jobs="$(nproc)"
}

do_vm() {
        # shellcheck disable=SC2046,SC2086
        install_packages $packages_build $packages_run $packages_test $(test_packages)
        do_build
        [ -x "$top/tests/vm/run" ] || fail "this version has no virtual machine: tests/vm/run is not there."
        exec "$top/tests/vm/run" --shell
}

command=${1:-help}
[ $# -le 1 ] || fail "one command is expected, there are $#: $*"
cd "$top"
case $command in
demo | build | install | check | bench | fuzz | proof | vm)
        check_machine
        "do_$command"
        ;;
help | -h | --help) usage ;;
*)
        usage >&2
        fail "\"$command\" is not a command."
        ;;
esac
