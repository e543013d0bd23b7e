# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# What the scripts of this folder share: messages, the cache, its locks. Sourced, never run; the caller sets $prog, its name,
# and $here, this folder.

# Exit status of a script of this folder that could not do its own work, so that it is told apart from a command's own.
EXIT_TROUBLE=125

log() {
        printf '%s: %s\n' "${prog:-vm}" "$*" >&2
}

die() {
        log "$*"
        exit "$EXIT_TROUBLE"
}

# --help is the comment at the top of the script, so that the two cannot differ.
usage() {
        sed -n '/^# Usage:/,/^[^#]/{ /^#/!d; s/^# \{0,1\}//; p; }' "$0"
}

need_commands() {
        local command missing=()

        for command; do
                command -v "$command" >/dev/null || missing+=("$command")
        done
        [ ${#missing[@]} -eq 0 ] ||
                die "not found: ${missing[*]}; install the packages named in ${here:?}/packages"
}

is_number() {
        [[ $1 =~ ^[1-9][0-9]{0,8}$ ]]
}

cache_dir() {
        printf '%s/remfork' "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}"
}

# First 16 hexadecimal digits of the SHA-256 of standard input: 64 bits are ample to tell cache entries apart.
hash_stdin() {
        sha256sum | cut -c1-16
}

# Hash of some files by name (relative, so that a checkout can move) and content.
hash_files() {
        local file

        for file; do
                printf '%s ' "${file##*/}"
                sha256sum <"$file" || return 1
        done | hash_stdin
}

# Takes an exclusive lock that the kernel drops when this process ends, however it ends. $1: name of the lock. The descriptor is
# kept in a variable of the shell; children that must not hold the lock on are started with 9>&-.
take_lock() {
        local file

        file=$(cache_dir)/lock/$1
        mkdir -p "${file%/*}"
        exec 9>"$file"
        flock --nonblock 9 && return
        log "waiting for another run that works on $1"
        flock 9
}

drop_lock() {
        exec 9>&-
}

# publish FROM TO: puts a finished directory in the cache under its final name. rename(2) is atomic: another run sees all or nothing.
publish() {
        mkdir -p "${2%/*}"
        rm -rf "$2"
        mv -T "$1" "$2"
}

# prune DIRECTORY KEEP: leaves the KEEP entries that were used last. Entries are touched whenever they are used. A guest that still
# runs from a pruned entry has its files open and does not notice.
prune() {
        local entry

        find "$1" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' 2>/dev/null | sort -rn | tail -n +"$(($2 + 1))" | cut -d' ' -f2- |
                while read -r entry; do
                        rm -rf "$entry"
                done
}

# Leftovers of a run that was killed: directories for work in progress are named after the process that fills them.
prune_unfinished() {
        local entry pid

        for entry in "$1"/.new.*; do
                pid=${entry##*.}
                [ -d "$entry" ] && [ ! -e "/proc/$pid" ] && rm -rf "$entry"
        done
        return 0
}
