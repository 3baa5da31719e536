#!/bin/sh
# Speaks the protocol and has no pool: enough for cases that make none. The arguments say what it
# is like besides.
like=" $* "
is() { case $like in *" $1 "*) true ;; *) false ;; esac; }
seen() { until [ -e "$1" ]; do sleep 0.05; done; }
echo "HOME=$HOME TMPDIR=$TMPDIR" >&2
while read -r line; do
    id=${line#*'"id":'}
    id=${id%%[!0-9]*}
    ok={}
    case $line in
        *'"do":"hello"'*)
            ok='{"protocol":1,"name":"a shell","version":"3.1"}'
            if is lacking; then
                ok='{"protocol":1,"name":"a shell","lacks":{"virtual-size":"disks are never larger"}}'
            fi
            if is uncounted; then
                ok='{"protocol":1,"name":"a shell","lacks":{"counters":"none are kept"}}'
            fi
            is silent && exit 3
            ;;
        *'"do":"new"'*)
            number=${line#*'"max_concurrent_vms":'}
            number=${number%%[!0-9-]*}
            ok="{\"pool_size\":$((number / 2))}"
            ;;
        *'"do":"stats"'*)
            ok='{"ready":{},"pooled":0,"on_demand":0,"failed":0,"discarded":0}'
            if is countless; then ok='{"ready":{}}'; fi
            ;;
        *'"do":"acquire"'*)
            # An overlay as qemu-img makes it of itself.
            qemu-img create -q -f qcow2 -b "$PWD/base.qcow2" -F qcow2 vm.qcow2 >&2
            ok="{\"source\":\"on-demand\",\"base\":\"$PWD/base.qcow2\",\"target\":\"$PWD/vm.qcow2\"}"
            ;;
        *orphan*'"do":"start"'*)
            # What ends only when it is killed, and is found nowhere but among its own case's.
            tail -f /dev/null </dev/null >/dev/null 2>&1 &
            : >../orphan-is-there
            ;;
        *reaper*'"do":"start"'*)
            seen ../orphan-is-there
            for process in /proc/[0-9]*; do
                read -r name <"$process/comm" || continue
                [ "$name" != tail ] || kill "${process#/proc/}"
            done 2>/dev/null
            : >../reaper-is-done
            ;;
        *'"do":"stop"'*)
            if [ -e orphan ]; then seen ../reaper-is-done; fi
            ;;
    esac
    echo "{\"id\":$id,\"ok\":$ok}"
    case $line in *'"do":"exit"'*) exit ;; esac
done
