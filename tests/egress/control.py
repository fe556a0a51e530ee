"""How the control is switched off and on: the only file that knows what it is made of."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .hosts import Machine
from .places import ADDRESSES

SUBNETS = {"listed": "10.231.64.0/20", "open": "10.231.32.0/20", "none": "10.231.48.0/20"}
# What runs on a node for sessions. Where a unit is not there, that part of the control is not there either.
UNITS = ("metalhub-egress.socket", "metalhub-egress.service", *(f"metalhub-resolver@{name}.service" for name in ("_node", *SUBNETS)),
         *(f"metalhub-squid@{name}.service" for name in SUBNETS))  # fmt: skip
TABLES = ("inet metalhub", "bridge metalhub")


def gateway(klass: str) -> str:
    """The node's address on the bridge of a class: resolver at port 53, proxy at port 3128."""
    return str(next(ipaddress.ip_network(SUBNETS[klass]).hosts()))


@dataclass(frozen=True)
class Control:
    """The control of these hosts; `nodes` run sessions."""

    nodes: Sequence[Machine]
    others: Sequence[Machine]

    def off(self) -> None:
        """Nothing protects: no rules, a bridge that forwards, and on the gateways a resolver and a proxy that ask no questions."""
        for host in (*self.nodes, *self.others):
            host.run("; ".join(f"nft delete table {table} 2>/dev/null" for table in TABLES), check=False)
        for node in self.nodes:
            node.run(f"timeout 20 systemctl stop {' '.join(UNITS)} 2>/dev/null; systemctl kill -s KILL {' '.join(UNITS)} 2>/dev/null", check=False)
            for klass in SUBNETS:
                node.run(f"for way in i o; do iptables -C DOCKER-USER -$way mh-{klass} -j ACCEPT 2>/dev/null || iptables -I DOCKER-USER -$way mh-{klass} -j ACCEPT; done")
            node.run("ip6tables -P FORWARD ACCEPT")
            node.run("conntrack -F 2>/dev/null", check=False)
            # What the control itself has for ports is as open as any other port of a node then.
            node.unit("egress-stand-in", f"python3 -m egress.listen platform tcp:8701 {'' if node is self.nodes[0] else 'tcp:3128'}", "/run/egress-stand-in.log")
        first = self.nodes[0]
        first.unit("egress-naive", f"python3 -m egress.naive {ADDRESSES['nameserver']} {' '.join(gateway(k) for k in SUBNETS)}", "/run/egress-naive.log")

    def on(self) -> None:
        """As the roles left it."""
        for node in self.nodes:
            node.run("systemctl stop egress-naive egress-stand-in 2>/dev/null", check=False)
        for node in self.nodes:
            for klass in SUBNETS:
                node.run(f"for way in i o; do while iptables -D DOCKER-USER -$way mh-{klass} -j ACCEPT 2>/dev/null; do :; done; done", check=False)
        for host in (*self.nodes, *self.others):
            host.run("nft -f /etc/metalhub/nftables.nft")
        for node in self.nodes:
            node.run(f"for unit in {' '.join(UNITS)}; do systemctl cat $unit > /dev/null 2>&1 && systemctl start $unit; done; true")
            node.run("conntrack -F 2>/dev/null", check=False)

    def present(self) -> Mapping[str, bool]:
        """Which parts of the control the first node has."""
        text = self.nodes[0].run(f"for unit in {' '.join(UNITS)}; do systemctl cat $unit > /dev/null 2>&1 && echo $unit; done; true")
        return {unit: unit in text.split() for unit in UNITS}
