"""Bring the fake internet up on the test hosts, and sessions that attack or are attacked."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .control import SUBNETS, gateway
from .hosts import HostError, Machine
from .places import ADDRESSES, ADDRESSES6, RANGES, RANGES6

HERE = Path(__file__).parent
BLACKHOLE = ("ip route replace blackhole {}", "ip -6 route replace blackhole {}")
# Stand-ins on the platform's hosts. Real services keep their ports.
PLATFORM = ("tcp:2375 tcp:2376 tcp:2377 tcp:7946 tcp:5000 tcp:5001 tcp:8700 tcp:8702 tcp:111 tcp:2049 tcp:20048 tcp:445 tcp:8099 tcp:9100 tcp:32768 "
            "udp:111 udp:2049 udp:7946 udp:4789 tcp:8999@127.0.0.1 udp:8998@127.0.0.1 tcp:2375@127.0.0.1 udp:53@{address}")  # fmt: skip
NODE_ONLY = "udp:7948@:: udp:5353@224.0.0.251@{gateway} udp:5355@224.0.0.252@{gateway} udp:1900@239.255.255.250@{gateway}"
# IPv6 of the site: nodes and hosts on one network, sessions behind a node. Docker gives sessions none; the attacker takes it.
SITE6, SESSIONS6 = "fd77:2::", {"listed": "fd77:1::", "open": "fd77:3::", "none": "fd77:4::"}

IMAGE = """docker image inspect egress-attacker:2 > /dev/null 2>&1 && exit 0
set -e
rm -rf /run/egress-image; mkdir -p /run/egress-image; cd /run/egress-image
for name in bin sbin lib lib64; do ln -s usr/$name $name; done
mkdir -p usr egress proc sys dev run tmp etc/apt/apt.conf.d etc/apt/preferences.d etc/apt/trusted.gpg.d var/lib/dpkg/info var/lib/dpkg/updates \
  var/lib/apt/lists/partial var/cache/apt/archives/partial var/log/apt root etc/ssl/certs
touch var/lib/dpkg/status etc/resolv.conf etc/ssl/certs/ca-certificates.crt; chmod 1777 tmp
echo root:x:0:0:root:/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group; echo 'hosts: files dns' > etc/nsswitch.conf
tar -c . | docker import - egress-attacker:2 > /dev/null"""


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(HERE.rglob("*.py")):
            archive.add(path, f"egress/{path.relative_to(HERE)}")
    return buffer.getvalue()


@dataclass(frozen=True)
class World:
    """Hosts by their part in the play."""

    hosts: Mapping[str, Machine]

    @property
    def node(self) -> Machine:
        return self.hosts["compute1"]

    @property
    def outside(self) -> Machine:
        return self.hosts["outside"]

    @property
    def platform(self) -> Sequence[Machine]:
        return [self.hosts[name] for name in ("control", "compute1", "compute2")]

    def up(self) -> None:
        """Addresses, routes, servers. May run any number of times."""
        data = _archive()
        for host in self.hosts.values():
            host.run("rm -rf /opt/egress-test; mkdir -p /opt/egress-test; tar -x -C /opt/egress-test; python3 -m compileall -q /opt/egress-test", stdin=data)
        self._outside()
        for number, host in enumerate(self.platform, 3):
            self._routes(host, number)
        authority = self.outside.run("cat /run/egress-world/ca.crt")
        for name in ("compute1", "compute2"):
            host = self.hosts[name]
            host.run("cat > /opt/egress-test/ca.crt", stdin=authority.encode())
            for klass in SUBNETS:
                host.run(f"printf 'nameserver {gateway(klass)}\\noptions timeout:1 attempts:2\\n' > /opt/egress-test/resolv-{klass}")
            host.run(IMAGE)

    def _outside(self) -> None:
        host = self.outside
        lines = [f"ip addr replace {a}/32 dev eth0" for a in ADDRESSES.values()]
        lines += ["sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0", f"ip addr replace {SITE6}2/64 dev eth0 nodad"]
        lines += [f"ip addr replace {a}/128 dev eth0 nodad" for a in ADDRESSES6.values()]
        lines += [f"ip -6 route replace {network}/64 via {SITE6}4" for network in SESSIONS6.values()]
        lines += [BLACKHOLE[0].format(r) for r in RANGES] + [BLACKHOLE[1].format(r) for r in RANGES6]
        host.run("; ".join(lines))
        rules = "\n".join(
            f"table {family} egress_world\ndelete table {family} egress_world\ntable {family} egress_world {{\n chain in {{\n"
            f"  type nat hook prerouting priority dstnat;\n"
            f"  {family} daddr {{ {', '.join(addresses)} }} tcp dport 1-65535 dnat to :9000\n"
            f"  {family} daddr {{ {', '.join(addresses)} }} udp dport != {{ 53, 443, 853, 2222, 8443, 9999 }} dnat to :9000\n }}\n}}"
            for family, addresses in (("ip", ADDRESSES.values()), ("ip6", ADDRESSES6.values()))
        )
        host.run("nft -f -", stdin=rules.encode())
        hosts = " ".join(f"{h.name}={h.address}" for h in self.platform)
        host.unit("egress-world", f"python3 -m egress.world {hosts}", "/run/egress-world.log")
        host.unit("egress-sniff", "python3 -m egress.world.sniff eth0 world", "/run/egress-sniff.log")
        for _ in range(100):
            if "LISTEN" in host.run("ss -ltn 'sport = :9000'"):
                return
            time.sleep(0.1)
        raise HostError("the fake internet did not start: " + host.run("cat /run/egress-world.log.errors"))

    def _routes(self, host: Machine, number: int) -> None:
        """All test ranges lead to the fake internet's places, and nowhere where it has none."""
        via = self.outside.address
        lines = [BLACKHOLE[0].format(r) for r in RANGES] + [f"ip route replace {a}/32 via {via}" for a in ADDRESSES.values()]
        lines += ["sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.all.forwarding=1",
                  f"ip addr replace {SITE6}{number}/64 dev eth0 nodad"]  # fmt: skip
        lines += [BLACKHOLE[1].format(r) for r in RANGES6] + [f"ip -6 route replace {a}/128 via {SITE6}2" for a in ADDRESSES6.values()]
        lines += [f"ip -6 route replace {network}/64 via {SITE6}4" for network in SESSIONS6.values()] if host is not self.node else []
        # Kept for a host that boots, whose routes are gone.
        host.run("cat > /opt/egress-test/routes.sh", stdin="\n".join(lines).encode())
        host.run("sh /opt/egress-test/routes.sh")
        if host.name == "control":
            host.unit("egress-hub", "python3 -m egress.listen hub tcp:8081", "/run/egress-hub.log")
        if host is not self.node:
            host.unit("egress-sniff", "python3 -m egress.world.sniff eth0 platform", "/run/egress-sniff.log")
            host.unit("egress-platform", f"python3 -m egress.listen platform {PLATFORM.format(address=host.address)} {'tcp:8701' if host.name == 'control' else ''}", "/run/egress-platform.log")

    def bridges_up(self) -> None:
        """What needs the session bridges of the first node, which exist once a session is on them."""
        for klass, network in SESSIONS6.items():
            self.node.run(f"sysctl -qw net.ipv6.conf.mh-{klass}.disable_ipv6=0; ip addr replace {network}1/64 dev mh-{klass} nodad")
        words = f"{PLATFORM.format(address=self.node.address)} {NODE_ONLY.format(gateway=gateway('listed'))}"
        self.node.unit("egress-platform", f"python3 -m egress.listen platform {words}", "/run/egress-platform.log")

    def seen(self) -> list[dict[str, object]]:
        """All lines of all logs."""
        text = "".join(host.run("cat /run/egress-*.log 2>/dev/null", check=False) for host in self.hosts.values())
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@dataclass
class Session:
    """A Swarm service like one of the hub's. One that is to be attacked listens."""

    world: World
    name: str
    node: str
    klass: str
    sandbox: str
    listens: bool = False
    restart: str = "none"
    program: str = "sleep 36000"
    container: str = ""
    pid: int = 0
    address: str = ""
    port: int = 0

    @property
    def host(self) -> Machine:
        return self.world.hosts[self.node]

    def start(self) -> None:
        """Create the service, and wait until its task runs."""
        program = "python3 -m egress.listen session tcp:8888 udp:8888 tcp:9999 udp:5353 udp:7946" if self.listens else self.program
        self.world.hosts["control"].run(
            f"docker service rm {self.name} > /dev/null 2>&1; docker service create -q --no-resolve-image -d --name {self.name} --network mh-{self.klass} "
            f"--constraint node.hostname=={self.node} --constraint node.labels.metalhub.network==ready --endpoint-mode dnsrr "
            f"--publish mode=host,target=8888 --restart-condition {self.restart} --cap-drop ALL --stop-grace-period 1s "
            f"--label metalhub.session=egress-test --container-label metalhub.session={self.name} --env METALHUB_SANDBOX={self.sandbox} --env PYTHONPATH=/egress "
            "--mount type=bind,src=/usr,dst=/usr,ro --mount type=bind,src=/opt/egress-test,dst=/egress,ro --mount type=tmpfs,dst=/tmp "
            f"--mount type=bind,src=/opt/egress-test/resolv-{self.klass},dst=/etc/resolv.conf,ro "
            f"--mount type=bind,src=/opt/egress-test/ca.crt,dst=/etc/ssl/certs/ca-certificates.crt,ro egress-attacker:2 {program}"
        )
        for _ in range(100):
            text = self.world.hosts["control"].run(
                f"docker inspect $(docker service ps -q {self.name}) --format '{{{{.Status.State}}}} {{{{.Status.Err}}}}"
                "{{range .Status.PortStatus.Ports}}{{.PublishedPort}}{{end}}'"
            )
            state, _, rest = text.strip().partition(" ")
            if state in ("rejected", "failed", "complete"):
                raise HostError(f"{self.name}: {text}")
            if state == "running" and rest.strip().isdigit():
                self.port = int(rest)
                break
            time.sleep(0.3)
        else:
            raise HostError(f"{self.name} did not start: {text}")
        # The newest first: one of an earlier run may still be ending.
        self.container = self.host.run(f"docker ps -q --filter label=com.docker.swarm.service.name={self.name} | head -n 1").strip()
        found = self.host.run(f"docker inspect {self.container} --format '{{{{.State.Pid}}}} {{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}}'")
        self.pid, self.address = int(found.split()[0]), found.split()[1]

    def take_ipv6(self) -> str:
        """Give the session's namespace an address of IPv6, as an attacker who is root there would. Returns it."""
        address = f"{SESSIONS6[self.klass]}{self.address.rsplit('.', 1)[1]}"
        self.host.run(f"nsenter -t {self.pid} -n sh -c 'sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0; "
                      f"ip addr replace {address}/64 dev eth0 nodad; ip -6 route replace default via {SESSIONS6[self.klass]}1'")  # fmt: skip
        return address

    def mac(self) -> str:
        """The hardware address of its interface."""
        return self.host.run(f"nsenter -t {self.pid} -n ip -o link show eth0 | grep -o 'ether [0-9a-f:]*' | cut -d' ' -f2").strip()

    def watch(self) -> None:
        """Log the frames that arrive in its namespace."""
        self.host.unit(f"egress-watch-{self.name}", f"nsenter -t {self.pid} -n python3 -m egress.world.sniff eth0 session", f"/run/egress-watch-{self.name}.log")
