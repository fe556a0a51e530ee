#!/bin/sh
# The steps of playbooks/teardown.yml on a host. Prints what it changes; safe to run again.
#   teardown.sh sessions                            on one manager: removes sessions and the swarm's networks of ours
#   teardown.sh leave                               leaves the swarm
#   teardown.sh remove HOMES secrets|keep state|keep  removes what the roles installed, by their manifests;
#                                                   HOMES is empty, or the path of the homes that are to be deleted
set -eu
trees=/var/lib/metalhub/tree

say() { echo "$*"; }

sessions() {
    systemctl -q is-active docker.service && docker node ls > /dev/null 2>&1 || return 0
    services=$(docker service ls -q --filter label=metalhub.session)
    [ -z "$services" ] || docker service rm $services
    for _ in $(seq 60); do
        networks=$(docker network ls --filter scope=swarm --filter driver=bridge --format '{{.Name}}' | grep '^mh-') || return 0
        docker network rm $networks 2> /dev/null && return 0
        sleep 1
    done
    echo "these networks are still used by services that Metalhub did not make: $networks; remove those (docker service ls)" >&2
    return 1
}

leave() {
    systemctl -q is-active docker.service || return 0
    [ "$(docker info --format '{{.Swarm.LocalNodeState}}')" = inactive ] || docker swarm leave --force
    for network in $(docker network ls --format '{{.Name}}' | grep '^mh-.*-cfg$'); do docker network rm "$network"; done
}

owned() { [ ! -d "$trees" ] || python3 -c '
import glob, json
for name in glob.glob("/var/lib/metalhub/tree/*.json"):
    print("\n".join(json.load(open(name))["paths"]))'; }

stop() {
    for kind in "$@"; do
        for unit in $(printf '%s\n' $units | grep "\.$kind\$" || true); do
            if systemctl -q is-active "$unit" || systemctl -q is-enabled "$unit" 2>/dev/null; then
                systemctl disable --now -q "$unit" 2>/dev/null || systemctl stop "$unit"
                say "stopped $unit"
            fi
        done
    done
}

gone() {
    for path in "$@"; do
        if [ -e "$path" ]; then rm -rf --one-file-system -- "$path" && say "removed $path"; fi
    done
}

remove() {
    homes=$1 secrets=$2 state=$3

    # 1. Units, while their files are there. Mounts come last: the homes may lie on one.
    units=$(owned | sed -nE 's#^/etc/systemd/system/([^/]*\.(service|socket|timer|path|mount|automount|swap))$#\1#p' | grep -v '@\.' || true)
    units="$units
$(systemctl list-units --plain --no-legend --all 'metalhub-*@*' | cut -d' ' -f1)"
    stop timer path socket service

    # 2. Homes, only where they were named, while their file system is still mounted. btrfs subvolumes are deleted as such.
    if [ -n "$homes" ] && [ -d "$homes" ]; then
        for home in "$homes"/* "$(dirname "$homes")"/.snapshots/*/*; do
            [ -e "$home" ] || continue
            btrfs subvolume delete "$home" > /dev/null 2>&1 || rm -rf --one-file-system -- "$home"
        done
        say "deleted the homes in $homes, and their snapshots"
    fi
    stop automount swap mount

    # 3. Files. What lay there before Metalhub comes back.
    engine=no
    for path in $(owned); do
        case $path in /etc/docker/*|/etc/systemd/system/docker.service.d/*) engine=yes ;; esac
        if [ -e "$trees/backup$path" ]; then
            mv -f -- "$trees/backup$path" "$path" && say "restored $path"
        elif [ -e "$path" ] || [ -L "$path" ]; then
            rm -f -- "$path" && say "removed $path"
        fi
        case $path in
            */metalhub*/*|/etc/systemd/system/*.d/*) rmdir --ignore-fail-on-non-empty -- "$(dirname "$path")" 2>/dev/null || true ;;
        esac
    done
    rm -rf -- "$trees"

    # 4. Rules, after the units that would load them again.
    for family in inet bridge; do
        if nft list table $family metalhub > /dev/null 2>&1; then
            nft delete table $family metalhub && say "removed the table $family metalhub"
        fi
    done

    # 5. Software, and state where that was asked for. Nothing here is a parent of homes: those and their images lie in
    # directories that are not named, and --one-file-system stops at a mount.
    gone /opt/metalhub /run/metalhub /run/metalhub-mig /etc/metalhub/docker.d /etc/metalhub/mig /etc/metalhub/session
    gone /etc/metalhub/traefik /etc/metalhub/egress /run/metalhub-egress
    [ "$state" != state ] || gone /var/lib/metalhub/egress /var/lib/metalhub/hub /var/lib/metalhub/registry /var/lib/metalhub/traefik /var/lib/metalhub/routes /var/log/metalhub-traefik
    [ "$secrets" != secrets ] || gone /etc/metalhub/ca /etc/metalhub/pki /etc/metalhub/secrets
    rmdir --ignore-fail-on-non-empty /etc/metalhub /var/lib/metalhub 2>/dev/null || true

    if systemctl is-system-running > /dev/null 2>&1 || [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    if [ $engine = yes ] && systemctl -q is-active docker.service; then
        systemctl restart docker.service && say "restarted the engine without Metalhub's settings"
    fi
}

"$@"
