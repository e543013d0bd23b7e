# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Completion of remforkctl for bash. What options there are is asked of the program itself, so that this file cannot lag behind; only
# the values of options are listed here.

# Entries "4242 (python3)" for readline's list. What goes onto the command line is the number alone: readline itself inserts only what
# all entries share, and where it would insert a whole one (a single match, or menu-complete, COMP_TYPE 37 and 42) the rest is cut off.
_remforkctl_numbers() {
        local line
        COMPREPLY=()
        while read -r line; do
                [[ $line == "$cur"* ]] && COMPREPLY+=("${line%% *} (${line#* })")
        done
        if [[ ${#COMPREPLY[@]} == 1 || ${COMP_TYPE-} == 37 || ${COMP_TYPE-} == 42 ]]; then
                COMPREPLY=("${COMPREPLY[@]%% *}")
        fi
}

# All processes but those of the kernel, which are children of process 2 and are not cloned.
_remforkctl_processes() {
        command ps -N -p 2 --ppid 2 -o pid=,comm= 2>/dev/null | command sed 's/^ *//; s/  */ /g'
}

_remforkctl_requests() {
        remforkctl list 2>/dev/null | command sed -n '/^ *ID /,/^$/{/^ *ID /d; /^$/d; s/^ *//; s/  */ /gp}'
}

# "4267 4242 python3 ...": the clone, its source, its program.
_remforkctl_clones() {
        remforkctl list 2>/dev/null | command sed -n '/^ *CLONE /,${/^ *CLONE /d; s/^ *//; s/  */ /g; s/^\([0-9]*\) \([0-9]*\) \([^ ]*\).*/\1 \3, of \2/p}'
}

# The value of option $prev; fails where that is no option with a value.
_remforkctl_value() {
        local values number
        case $prev in
                --json) values='short pretty off' ;;
                --trigger) values='immediate syscall' ;;
                --parent) values='shared daemon' ;;
                --threads) values='all caller' ;;
                --engine) values='auto kernel ptrace' ;;
                --signal | -s) values='HUP INT QUIT KILL USR1 USR2 TERM CONT STOP' ;;
                --isolate) values='none files all' ;;
                --timeout) values='500ms 2s 10s 1min' ;;
                --count) values= ;;
                --compress) values='none zstd' ;;
                --scope) values= ;;
                --host | -H) values= && _known_hosts_real -a "$cur" ;;
                --machine | -M) values=$(machinectl list --no-legend --no-pager 2>/dev/null | command sed 's/ .*//') ;;
                --slice) values=$(systemctl list-units --type=slice --plain --no-legend --no-pager 2>/dev/null | command sed 's/ .*//') ;;
                --property | -p)
                        values='CPUQuota= CPUWeight= IOWeight= MemoryHigh= MemoryMax= MemorySwapMax= RuntimeMaxSec= TasksMax='
                        compopt -o nospace
                        ;;
                --output | -o) values= && _filedir ;;
                --name) values=$(command ps -N -p 2 --ppid 2 -o comm= 2>/dev/null | sort -u | command grep -v '[^[:alnum:]._-]') ;;
                --unit) values=$(systemctl list-units --type=service --state=running --plain --no-legend --no-pager 2>/dev/null | command sed 's/ .*//') ;;
                --stdin | --stdout | --stderr)
                        values=inherit
                        _filedir
                        ;;
                --fd)
                        [[ $cur == *:* ]] || return 0
                        values=close number=${cur%%:*} cur=${cur#*:}
                        _filedir
                        ;;
                *) return 1 ;;
        esac
        COMPREPLY+=($(compgen -W "$values" -- "$cur"))
        # readline takes the ":" for the end of a word, unless COMP_WORDBREAKS was changed.
        [[ -z ${number-} || $COMP_WORDBREAKS == *:* ]] || COMPREPLY=("${COMPREPLY[@]/#/$number:}")
}

_remforkctl() {
        local cur prev words cword split verb i
        _init_completion -s -n : || return

        for ((i = 1; i < cword; i++)); do
                if [[ ${words[i]} != -* ]]; then
                        verb=${words[i]}
                        break
                fi
        done

        _remforkctl_value && return
        if [[ $cur == -* ]]; then
                COMPREPLY=($(compgen -W '$(_parse_help remforkctl "${verb:+$verb }--help")' -- "$cur"))
                [[ ${COMPREPLY-} != *= ]] || compopt -o nospace
                return
        fi
        case ${verb-} in
                '') COMPREPLY=($(compgen -W '$(remforkctl --help 2>/dev/null | command sed -n "s/^  \([a-z][a-z]*\).*/\1/p")' -- "$cur")) ;;
                clone | core | debug) _remforkctl_numbers < <(_remforkctl_processes) ;;
                kill | show | wait) _remforkctl_numbers < <(_remforkctl_clones) ;;
                cancel) _remforkctl_numbers < <(_remforkctl_requests) ;;
        esac
} && complete -F _remforkctl remforkctl
