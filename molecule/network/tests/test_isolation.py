"""Attacks on the isolation of sessions. Each is also run with the rules off, and must then get through.

The attacker is stronger than a session: the host's root inside the session's network namespace, so raw sockets and
addresses of its own choice are his.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

HERE = Path(__file__).parent
METADATA = "169.254.169.254"
PUBLIC = "203.0.113.10"  # the role's variables in this scenario count it as the public internet
PRIVATE_NETWORK = "fd77:1::"


def run(host: Host, command: str) -> str:
    done = host.run(command)
    assert done.rc == 0, f"{command}\n{done.stdout}{done.stderr}"
    return str(done.stdout).strip()


def put(host: Host, script: str) -> None:
    text = (HERE / script).read_text(encoding="utf-8")
    run(host, f"cat > /run/{script} <<'EOF'\n{text}\nEOF")


@pytest.fixture(scope="module")
def address(hosts: Any) -> dict[str, str]:
    return dict(hosts.addresses)


IMAGE = """docker image inspect bb:1 > /dev/null 2>&1 && exit 0
set -e
[ -x /bin/busybox ] || { apt-get update -q; apt-get -o DPkg::Lock::Timeout=60 install -qy busybox-static; } > /dev/null
rm -rf /run/bb
mkdir -p /run/bb/bin
cp /bin/busybox /run/bb/bin/
cd /run/bb/bin
for name in sh httpd nslookup timeout; do ln -s busybox $name; done
tar -C /run/bb -c . | docker import - bb:1"""


@pytest.fixture(scope="module")
def world(hosts: dict[str, Host], address: dict[str, str]) -> Iterator[None]:
    """Servers that must and must not be reached, all inside the test network; nothing routes further."""
    for name in ("compute1", "compute2"):
        run(hosts[name], IMAGE)
    run(hosts["outside"], f"ip addr replace {METADATA}/32 dev eth0; ip addr replace {PUBLIC}/32 dev eth0")
    for name, ports in {
        "outside": "tcp:80 tcp:53 udp:53 udp:443@203.0.113.10 tcp:8000 tcp:8001 udp:5353 udp:5354",
        "control": "tcp:5000 tcp:5001 tcp:8081 tcp:8700",
        "compute2": "tcp:8700",
    }.items():
        put(hosts[name], "listen.py")
        run(hosts[name], f"systemctl reset-failed test-listen 2>/dev/null; systemctl stop test-listen 2>/dev/null; "
                         f"systemd-run -q --collect --unit test-listen python3 /run/listen.py {ports}")  # fmt: skip
    for name in ("control", "compute1", "compute2"):
        for target in (METADATA, PUBLIC):
            network = "169.254.0.0/16" if target == METADATA else "203.0.113.0/24"
            run(hosts[name], f"ip route replace blackhole {network}; ip route replace {target}/32 via {address['outside']}")
    for host in hosts.values():
        put(host, "reach.py")
    yield
    for host in hosts.values():
        host.run(f"systemctl stop test-listen; ip addr del {METADATA}/32 dev eth0; ip addr del {PUBLIC}/32 dev eth0; "
                 f"for net in {METADATA}/32 {PUBLIC}/32 169.254.0.0/16 203.0.113.0/24; do ip route del $net; done")  # fmt: skip


class Session:
    """A Swarm service like one of the hub's."""

    def __init__(self, hosts: dict[str, Host], name: str, node: str, egress: str, options: str = "") -> None:
        self.name, self.node, self.host, self.manager = name, node, hosts[node], hosts["control"]
        run(
            self.manager,
            f"docker service rm {name} 2>/dev/null; docker service create -q --no-resolve-image -d --name {name} --network mh-{egress} "
            f"--constraint node.hostname=={node} --constraint node.labels.metalhub.network==ready --endpoint-mode dnsrr "
            "--publish mode=host,target=8888 --restart-condition none --cap-drop ALL --stop-grace-period 1s "
            f"--label metalhub.session=test {options} bb:1 httpd -f -p 8888 -h /bin",
        )
        self.port = self.wait()
        self.container = run(self.host, f"docker ps -q --filter label=com.docker.swarm.service.name={name}")
        self.pid, self.ip = run(
            self.host,
            f"docker inspect {self.container} --format "
            "'{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'",
        ).split()

    def wait(self) -> int:
        for _ in range(100):
            text = run(
                self.manager,
                f"docker inspect $(docker service ps -q {self.name}) --format '{{{{.Status.State}}}} {{{{.Status.Err}}}}"
                "{{range .Status.PortStatus.Ports}}{{.PublishedPort}}{{end}}'",
            )
            state, rest = (text.split(" ", 1) + [""])[:2]
            assert state not in ("rejected", "failed"), f"{self.name}: {text}"
            if state == "running" and rest.strip().isdigit():
                return int(rest)
            time.sleep(0.3)
        raise AssertionError(f"{self.name} did not start: {text}")

    def reach(self, *targets: str) -> set[str]:
        """The targets that answer the attacker in this session's network namespace."""
        return set(run(self.host, f"nsenter -t {self.pid} -n python3 /run/reach.py {' '.join(targets)}").splitlines())

    def inside(self, command: str) -> str:
        return run(self.host, f"nsenter -t {self.pid} -n sh -c '{command}'")


@pytest.fixture(scope="module")
def sessions(hosts: dict[str, Host], world: None) -> Iterator[dict[str, Session]]:
    made = {
        "me": Session(hosts, "t-me", "compute1", "internal"),
        "same": Session(hosts, "t-same", "compute1", "internal"),
        "other": Session(hosts, "t-other", "compute1", "open"),
        "far": Session(hosts, "t-far", "compute2", "internal"),
    }
    yield made
    run(hosts["control"], "docker service rm $(docker service ls -q --filter label=metalhub.session=test)")


def rules_off(host: Host) -> None:
    """Ours away, and Docker's own rule between sessions of one bridge overruled: nothing protects now."""
    host.run("nft delete table inet metalhub; nft delete table bridge metalhub")
    for bridge in ("mh-internal", "mh-open"):
        run(host, f"iptables -I DOCKER-USER -i {bridge} -j ACCEPT; iptables -I DOCKER-USER -o {bridge} -j ACCEPT")


def rules_on(host: Host) -> None:
    for bridge in ("mh-internal", "mh-open"):
        host.run(f"iptables -D DOCKER-USER -i {bridge} -j ACCEPT; iptables -D DOCKER-USER -o {bridge} -j ACCEPT")
    run(host, "nft -f /etc/metalhub/nftables.nft")


@pytest.fixture
def off(hosts: dict[str, Host]) -> Iterator[None]:
    for name in ("control", "compute1", "compute2"):
        if name.startswith("compute"):
            rules_off(hosts[name])
        else:
            run(hosts[name], "nft delete table inet metalhub")
    yield
    for name in ("control", "compute1", "compute2"):
        rules_on(hosts[name])


def forbidden(sessions: dict[str, Session], address: dict[str, str]) -> dict[str, str]:
    """What a session of class `internal` on compute1 must not reach, by name."""
    me, same, other, far = (sessions[n] for n in ("me", "same", "other", "far"))
    gateway = me.inside("ip -4 route show default").split()[2]
    return {
        "session on the same node": f"tcp:{same.ip}:8888",
        "session of another class on the same node": f"tcp:{other.ip}:8888",
        "published port of a session on the same node": f"tcp:{address['compute1']}:{same.port}",
        "published port of a session on the same node, by the gateway": f"tcp:{gateway}:{same.port}",
        "published port of a session on another node": f"tcp:{address['compute2']}:{far.port}",
        "SSH of the node": f"tcp:{address['compute1']}:22",
        "SSH of the node, by the gateway": f"tcp:{gateway}:22",
        "SSH of another node": f"tcp:{address['compute2']}:22",
        "SSH of the control host": f"tcp:{address['control']}:22",
        "Docker API of the node": f"tcp:{address['compute1']}:2376",
        "Docker API of another node": f"tcp:{address['compute2']}:2376",
        "Docker API of the control host": f"tcp:{address['control']}:2376",
        "Swarm's manager port": f"tcp:{address['control']}:2377",
        "Swarm's gossip": f"tcp:{address['compute2']}:7946",
        "registry": f"tcp:{address['control']}:5000",
        "registry, the write side": f"tcp:{address['control']}:5001",
        "homes service": f"tcp:{address['compute2']}:8700",
        "metadata address": f"tcp:{METADATA}:80",
        "public internet": f"tcp:{PUBLIC}:80",
        "DNS by UDP": f"udp:{address['outside']}:53",
        "QUIC": f"udp:{PUBLIC}:443",
        "an address that is not listed": f"tcp:{address['outside']}:80",
        "another port of a listed address": f"tcp:{address['outside']}:8001",
        "another UDP port of a listed address": f"udp:{address['outside']}:5354",
    }


ALLOWED = ("tcp:{control}:8081", "tcp:{outside}:8000", "udp:{outside}:5353")


def test_a_session_reaches_only_what_its_class_lists(sessions: dict[str, Session], address: dict[str, str]) -> None:
    targets = forbidden(sessions, address)
    allowed = {target.format(**address) for target in ALLOWED}
    assert sessions["me"].reach(*targets.values(), *allowed) == allowed


def test_the_same_attacks_get_through_without_the_rules(sessions: dict[str, Session], address: dict[str, str], off: None) -> None:
    targets = forbidden(sessions, address)
    reached = sessions["me"].reach(*targets.values())
    assert {name for name, target in targets.items() if target not in reached} == set()


def test_our_rules_alone_keep_sessions_of_one_bridge_apart(hosts: dict[str, Host], sessions: dict[str, Session]) -> None:
    run(hosts["compute1"], "iptables -I DOCKER-USER -i mh-internal -o mh-internal -j ACCEPT")
    try:
        assert sessions["me"].reach(f"tcp:{sessions['same'].ip}:8888") == set()
    finally:
        run(hosts["compute1"], "iptables -D DOCKER-USER -i mh-internal -o mh-internal -j ACCEPT")


def test_a_class_with_public_internet(sessions: dict[str, Session], address: dict[str, str]) -> None:
    """Names, and with them ports 80 and 443, are the proxy's. Here is none, so they are closed."""
    other, me = sessions["other"], sessions["me"]
    allowed = {f"tcp:{PUBLIC}:8000", f"tcp:{address['control']}:8081"}
    closed = {
        f"tcp:{PUBLIC}:80", f"udp:{PUBLIC}:443", f"udp:{address['outside']}:53", f"tcp:{address['outside']}:53", f"tcp:{address['outside']}:80",
        f"tcp:{METADATA}:80", f"tcp:{address['compute1']}:22", f"tcp:{address['control']}:5000", f"tcp:{me.ip}:8888",
        f"tcp:{address['compute1']}:{me.port}",
    }  # fmt: skip
    assert other.reach(*allowed, *closed) == allowed


def test_icmp_is_closed(sessions: dict[str, Session], address: dict[str, str], hosts: dict[str, Host]) -> None:
    me = sessions["me"]
    ping = f"nsenter -t {me.pid} -n ping -c1 -W1 "
    for target in (address["outside"], address["compute1"], address["control"], sessions["same"].ip):
        assert hosts["compute1"].run(ping + target).rc != 0, target
    rules_off(hosts["compute1"])
    try:
        for target in (address["outside"], address["compute1"], address["control"], sessions["same"].ip):
            assert hosts["compute1"].run(ping + target).rc == 0, target
    finally:
        rules_on(hosts["compute1"])


def test_ipv6_is_closed(sessions: dict[str, Session], hosts: dict[str, Host], address: dict[str, str]) -> None:
    """Docker gives sessions no IPv6; the attacker turns it on, and the site has it on its network."""
    me, same = sessions["me"], sessions["same"]
    node, outside = hosts["compute1"], hosts["outside"]
    for session, suffix in ((me, 2), (same, 3)):
        session.inside(
            f"sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0; "
            f"ip addr replace {PRIVATE_NETWORK}{suffix}/64 dev eth0 nodad; ip -6 route replace default via {PRIVATE_NETWORK}1"
        )
    run(node, "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.mh-internal.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 "
              f"net.ipv6.conf.all.forwarding=1; ip addr replace {PRIVATE_NETWORK}1/64 dev mh-internal nodad; "
              "ip addr replace fd77:2::1/64 dev eth0 nodad")  # fmt: skip
    run(outside, f"sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0; "
                 f"ip addr replace fd77:2::2/64 dev eth0 nodad; "
                 f"ip -6 route replace {PRIVATE_NETWORK}/64 via fd77:2::1")  # fmt: skip
    link_local = run(node, "ip -6 -o addr show dev mh-internal scope link | awk '{print $4; exit}'").split("/")[0]
    run(same.host, f"systemctl stop test-v6 2>/dev/null; nsenter -t {same.pid} -n systemd-run -q --collect --unit test-v6 "
                   f"nsenter -t {same.pid} -n python3 -m http.server --bind :: 9999")  # fmt: skip
    time.sleep(1)
    try:
        targets = {
            "the node by its link-local address": f"tcp:[{link_local}%eth0]:22",
            "the node by its bridge address": f"tcp:[{PRIVATE_NETWORK}1]:22",
            "the node by its own address": "tcp:[fd77:2::1]:22",
            "another host": "tcp:[fd77:2::2]:8000",
            "another session": f"tcp:[{PRIVATE_NETWORK}3]:9999",
        }
        assert me.reach(*targets.values()) == set()
        rules_off(node)
        node.run("ip6tables -P FORWARD ACCEPT")
        reached = me.reach(*targets.values())
        assert {name for name, target in targets.items() if target not in reached} == set()
    finally:
        rules_on(node)
        run(node, f"systemctl stop test-v6; ip addr del {PRIVATE_NETWORK}1/64 dev mh-internal; ip addr del fd77:2::1/64 dev eth0")
        run(outside, "ip addr del fd77:2::2/64 dev eth0")


def reach_from(host: Host, *targets: str, user: str = "") -> set[str]:
    prefix = f"setpriv --reuid={user} --clear-groups " if user else ""
    return set(run(host, f"{prefix}python3 /run/reach.py {' '.join(targets)}").splitlines())


def test_only_the_control_host_opens_session_ports(sessions: dict[str, Session], hosts: dict[str, Host], address: dict[str, str]) -> None:
    me = sessions["me"]
    published, direct = f"tcp:{address['compute1']}:{me.port}", f"tcp:{me.ip}:8888"
    for name in ("outside", "compute2"):
        run(hosts[name], f"ip route replace {me.ip}/32 via {address['compute1']}")
    # Docker's own rules let the container port in from anywhere once it is published, so the route above is a way in.
    try:
        assert reach_from(hosts["control"], published) == {published}
        for name in ("outside", "compute2", "compute1"):
            assert reach_from(hosts[name], published, direct) == set(), name
        assert reach_from(hosts["compute1"], published, direct, user="65534") == set()
        for name in ("compute1", "compute2"):
            rules_off(hosts[name])
        for name in ("outside", "compute2", "compute1"):
            assert reach_from(hosts[name], published, direct) == {published, direct}, name
    finally:
        for name in ("compute1", "compute2"):
            rules_on(hosts[name])
        for name in ("outside", "compute2"):
            run(hosts[name], f"ip route del {me.ip}/32")


@pytest.mark.parametrize("verbs", ["restart", "reload", "stop start"])
def test_sessions_outlive_a_flush_of_the_packet_filter(
    hosts: dict[str, Host], sessions: dict[str, Session], address: dict[str, str], verbs: str
) -> None:
    """The distribution's unit flushes Docker's rules too; the engine would make them again only when it starts."""
    me, node = sessions["far"], hosts["compute2"]
    published, allowed = f"tcp:{address['compute2']}:{me.port}", f"tcp:{address['outside']}:8000"
    rules = "iptables-save | grep -v ^# | sed 's/ .[0-9]*:[0-9]*.$//'"
    run(node, "systemctl start nftables")
    before = run(node, rules)
    assert "DOCKER" in before
    for verb in verbs.split():
        run(node, f"systemctl {verb} nftables")
        assert run(node, rules) == before
        assert reach_from(hosts["control"], published) == {published}
        assert me.reach(allowed, f"tcp:{PUBLIC}:80") == {allowed}
    Session(hosts, f"t-after-{verbs.split()[0]}", "compute2", "internal")


def test_engines_and_services_are_for_the_platform_only(hosts: dict[str, Host], address: dict[str, str], world: None) -> None:
    engine = {f"tcp:{address[n]}:2376" for n in ("control", "compute1", "compute2")}
    swarm = {
        f"tcp:{address['control']}:2377",
        f"tcp:{address['compute1']}:7946",
        f"tcp:{address['control']}:8081",
        f"tcp:{address['control']}:5000",
    }
    ssh = {f"tcp:{address[n]}:22" for n in ("control", "compute1", "compute2")}
    assert reach_from(hosts["outside"], *engine, *swarm, *ssh) == ssh, "SSH stays open, all of ours is closed"
    assert reach_from(hosts["control"], *engine, *swarm) == engine | swarm
    other_engines = engine - {f"tcp:{address['compute2']}:2376"}
    assert reach_from(hosts["compute2"], *other_engines, *swarm) == swarm
    for name in ("control", "compute1", "compute2"):
        run(hosts[name], "nft delete table inet metalhub")
    try:
        assert reach_from(hosts["outside"], *engine, *swarm) == engine | swarm
    finally:
        for name in ("control", "compute1", "compute2"):
            rules_on(hosts[name])


def test_docker_dns_is_no_way_out(sessions: dict[str, Session], hosts: dict[str, Host]) -> None:
    """The engine's resolver listens in each session. What it forwards leaves from the session's namespace, where the rules hold."""
    me, node = sessions["me"], hosts["compute1"]
    server = run(node, "awk '/^nameserver/ {print $2; exit}' /etc/resolv.conf")
    run(node, f"ip route replace {server}/32 via $(ip -4 route get {PUBLIC} | grep -o 'via [0-9.]*' | cut -d' ' -f2)")
    run(hosts["outside"], f"ip addr replace {server}/32 dev eth0")

    def asked(mark: str) -> bool:
        node.run(f"docker exec {me.container} timeout 4 nslookup {mark}.example. 127.0.0.11")
        return mark in run(hosts["outside"], "journalctl -u test-listen --no-pager -o cat -n 300")

    try:
        assert not asked(f"closed{int(time.time())}")
        rules_off(node)
        assert asked(f"open{int(time.time())}")
    finally:
        rules_on(node)
        run(node, f"ip route del {server}/32")
        run(hosts["outside"], f"ip addr del {server}/32 dev eth0")


def test_docker_dns_asks_nobody_for_the_host(hosts: dict[str, Host], world: None) -> None:
    """Where the host's resolver is a loopback address, Docker's forwards from the host's namespace. The hub names another one."""
    node, kept = hosts["compute1"], "/run/resolv.kept"
    put(node, "listen.py")
    run(node, f"cat /etc/resolv.conf > {kept}; echo nameserver 127.0.0.1 > /etc/resolv.conf")
    run(node, "systemd-run -q --collect --unit test-resolver python3 /run/listen.py udp:53@127.0.0.1")

    def asked(options: str) -> bool:
        one = Session(hosts, "t-dns", "compute1", "internal", options)
        mark = f"dns{time.time_ns()}"
        node.run(f"docker exec {one.container} timeout 4 nslookup {mark}.example. 127.0.0.11")
        return mark in run(node, "journalctl -u test-resolver --no-pager -o cat -n 300")

    try:
        assert asked(""), "the leak is there"
        assert not asked("--dns 192.0.2.1")
    finally:
        node.run(f"systemctl stop test-resolver; cat {kept} > /etc/resolv.conf")
        run(hosts["control"], "docker service rm t-dns")


ATTACKER = "attacker"


@pytest.fixture
def attacker(hosts: dict[str, Host], address: dict[str, str], world: None) -> Iterator[str]:
    """A network namespace on the session bridge that, unlike a session, lives through restarts of the engine."""
    node = hosts["compute1"]
    # Started here, for it takes Docker's rules away; the routes make up for the address translation that goes with them.
    run(node, "systemctl start nftables; systemctl restart docker")
    for name in ("control", "outside"):
        run(hosts[name], f"ip route replace 10.231.0.0/20 via {address['compute1']}")
    wait_ready(hosts["control"], "compute1")
    session = Session(hosts, "t-anchor", "compute1", "internal")  # makes the bridge
    node.run(f"ip netns del {ATTACKER}; ip link del at0")
    run(node, f"ip netns add {ATTACKER}; ip link add at0 type veth peer name at1; ip link set at1 netns {ATTACKER} name eth0")
    # Where the engine took the bridge away, make it as it was.
    attach = (
        "ip link show mh-internal > /dev/null 2>&1 || { ip link add mh-internal type bridge; "
        "ip addr add 10.231.0.1/20 dev mh-internal; ip link set mh-internal up; }; ip link set at0 master mh-internal up || true"
    )
    run(node, f"{attach}; ip -n {ATTACKER} addr add 10.231.15.250/20 dev eth0; "
              f"ip -n {ATTACKER} link set eth0 up; ip -n {ATTACKER} link set lo up; "
              f"ip -n {ATTACKER} route add default via 10.231.0.1")  # fmt: skip
    yield attach
    run(node, f"ip netns del {ATTACKER}; systemctl restart docker")
    run(session.manager, "docker service rm t-anchor")
    for name in ("control", "outside"):
        run(hosts[name], "ip route del 10.231.0.0/20")
    wait_ready(session.manager, "compute1")


ACTIONS = {
    "nftables restarts": "systemctl restart nftables",
    "nftables reloads": "systemctl reload nftables",
    "nftables stops and starts": "systemctl stop nftables; sleep 0.3; systemctl start nftables",
    "our own unit restarts": "for verb in restart reload stop start; do systemctl $verb metalhub-network; done",
    "the engine restarts": "systemctl reset-failed docker; systemctl restart docker",
    "the engine is killed": "systemctl kill -s KILL docker; sleep 1; systemctl reset-failed docker; systemctl start docker",
}


def probe_during(node: Host, address: dict[str, str], attach: str, actions: list[str]) -> tuple[set[str], int]:
    """Attack without a pause while things restart. Returns what answered, and how often the allowed destination did."""
    forbidden_here = [
        f"tcp:{address['compute1']}:7946", f"tcp:{address['compute1']}:2376", f"tcp:{address['outside']}:8001", f"tcp:{METADATA}:80",
        f"tcp:{address['control']}:2377", f"tcp:{PUBLIC}:80",
    ]  # fmt: skip
    allowed = f"tcp:{address['outside']}:8000"
    run(node, "systemctl stop test-attack 2>/dev/null; systemctl reset-failed test-attack 2>/dev/null; "
              "rm -f /run/attack.log; "
              "systemd-run -q --collect --unit test-attack -p StandardOutput=file:/run/attack.log "
              f"ip netns exec {ATTACKER} python3 /run/reach.py --for 300 {allowed} {' '.join(forbidden_here)}")  # fmt: skip
    time.sleep(1)
    for action in actions:
        for _ in range(2):
            node.run(action)
            # The engine may have made the bridge anew; while it was away nothing could pass.
            node.run(attach)
            time.sleep(0.3)
    time.sleep(1)
    run(node, "systemctl stop test-attack")
    hits = [line.split()[1] for line in run(node, "cat /run/attack.log").splitlines()]
    return set(hits) - {allowed}, hits.count(allowed)


def test_restarts_open_nothing(hosts: dict[str, Host], address: dict[str, str], attacker: str) -> None:
    leaks, allowed = probe_during(hosts["compute1"], address, attacker, list(ACTIONS.values()))
    assert leaks == set()
    assert allowed > 20, "the attacker must have been at work"


def test_without_the_drop_in_a_restart_of_nftables_opens_all(hosts: dict[str, Host], address: dict[str, str], attacker: str) -> None:
    node = hosts["compute1"]
    drop_in = "/etc/systemd/system/nftables.service.d/metalhub.conf"
    run(node, f"mv {drop_in} /run/kept.conf; systemctl daemon-reload")
    try:
        leaks, _ = probe_during(node, address, attacker, ["systemctl restart nftables; sleep 1"])
        assert leaks
    finally:
        run(node, f"mv /run/kept.conf {drop_in}; systemctl daemon-reload; systemctl restart metalhub-network docker")


def test_sessions_start_after_the_engine_was_restarted_or_killed(hosts: dict[str, Host], sessions: dict[str, Session]) -> None:
    """moby#37087: a record of the swarm's network that stays behind makes the engine reject every later session."""
    node = hosts["compute2"]
    for action in (ACTIONS["the engine restarts"], ACTIONS["the engine is killed"]):
        Session(hosts, "t-before", "compute2", "internal")
        run(node, action)
        wait_ready(hosts["control"], "compute2")
        Session(hosts, "t-after", "compute2", "internal")


def wait_ready(manager: Host, node: str) -> None:
    for _ in range(60):
        if run(manager, f"docker node inspect {node} --format '{{{{.Status.State}}}}'") == "ready":
            return
        time.sleep(0.5)
    raise AssertionError(f"{node} did not come back")


def test_without_the_cure_the_engine_rejects_sessions(hosts: dict[str, Host]) -> None:
    node = hosts["compute2"]
    run(
        node,
        "mkdir -p /run/systemd/system/docker.service.d; "
        "printf '[Service]\nExecStartPre=\n' > /run/systemd/system/docker.service.d/zz.conf; systemctl daemon-reload",
    )
    try:
        Session(hosts, "t-before", "compute2", "internal")
        run(node, ACTIONS["the engine is killed"])
        wait_ready(hosts["control"], "compute2")
        with pytest.raises(AssertionError, match="exists"):
            Session(hosts, "t-after", "compute2", "internal")
    finally:
        run(node, "rm /run/systemd/system/docker.service.d/zz.conf; systemctl daemon-reload; systemctl restart docker")
        wait_ready(hosts["control"], "compute2")


def test_networks_of_others_are_kept(hosts: dict[str, Host]) -> None:
    """The cure would lose a network that somebody else made, so it is left out, and the engine's log says so."""
    node = hosts["compute2"]
    run(node, "docker network create somebody-elses")
    try:
        run(node, "systemctl restart docker")
        assert "somebody-elses" in run(node, "docker network ls --format '{{.Name}}'").split()
        assert "networks that Metalhub did not make: somebody-elses" in run(node, "journalctl -u docker --no-pager -o cat -n 50")
    finally:
        run(node, "docker network rm somebody-elses; systemctl restart docker")
        wait_ready(hosts["control"], "compute2")
