"""Run all attacks in both sandboxes with the control off and on, and say what leaked.

    python3 -m egress.suite TESTBED [--only TEXT] [--sandbox runc] [--mode off] [--out DIRECTORY]
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from . import cases, hosts, report
from .cases import Case
from .cases.table import EVERYWHERE
from .control import SUBNETS, Control, gateway
from .places import ADDRESSES, ADDRESSES6, permitted
from .stage import SESSIONS6, SITE6, Session, World

SANDBOXES = ("runc", "gvisor")
SECONDS = 240
SECRET = re.compile(r"SECRET-7f3a(?: (\{[^\n]*?\}))?")


@dataclass
class Outcome:
    """What came of one case: why it leaked in each mode, empty where it did not."""

    case: Case
    leaks: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


def _words(value: object, words: Mapping[str, str]) -> object:
    """Put addresses in the place of the table's words, in texts, lists and dicts."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), value)
    if isinstance(value, Mapping):
        return {key: _words(item, words) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_words(item, words) for item in value]
    return value


def _private(text: str) -> bool:
    """Whether an address that a resolver gave away leads inside, or nowhere in public."""
    address = ipaddress.ip_address(text)
    if text in (*ADDRESSES.values(), *ADDRESSES6.values()):
        return text in (ADDRESSES["internal"], ADDRESSES["metadata"], ADDRESSES6["internal"])
    return not address.is_global


def why(case: Case, got: str, lines: Iterable[Mapping[str, object]]) -> str:
    """What is leaked, in one line; empty where nothing is. `lines` are those of the servers' logs with the case's token."""
    for line in lines:
        if not permitted(case.klass, line):
            return " ".join(f"{key}={value}" for key, value in line.items() if key != "token")
    for match in SECRET.finditer(got):
        try:
            if match[1] and permitted(case.klass, json.loads(match[1])):
                continue
        except ValueError:
            pass
        return f"the answer {match[0]}"
    kind, _, text = case.sign.partition(":")
    if kind == "connected" and got.startswith("CONNECTED"):
        return "the connection was opened"
    if kind == "text" and text in got:
        return f"the answer has {text!r}"
    if kind == "address" and (found := [a for a in re.findall(r"ADDRESS=(\S+)", got) if _private(a)]):
        return f"the resolver gave {found[0]}"
    return ""


class Suite:
    """Sessions on a stage, and what they can do there."""

    def __init__(self, testbed: str) -> None:
        machines = hosts.load(testbed)
        self.world = World(machines)
        self.control = Control([machines["compute1"], machines["compute2"]], [machines["control"]])
        self.attackers: dict[tuple[str, str], Session] = {}
        self.words: dict[str, str] = {}
        self.dead: list[str] = []

    def up(self, sandboxes: Sequence[str] = SANDBOXES) -> None:
        """Make the world and the sessions."""
        self.control.on()
        self.world.up()
        targets = {name: Session(self.world, f"egress-{name}", node, klass, "runc", True)
                   for name, node, klass in (("same", "compute1", "listed"), ("other", "compute1", "open"), ("far", "compute2", "listed"))}  # fmt: skip
        self.attackers = {(sandbox, klass): Session(self.world, f"egress-{sandbox}-{klass}", "compute1", klass, sandbox)
                          for sandbox in sandboxes for klass in SUBNETS}  # fmt: skip
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(Session.start, [*targets.values(), *self.attackers.values()]))
        self.world.bridges_up()
        same, other = targets["same"], targets["other"]
        for target in targets.values():
            target.watch()
        node = self.world.node
        self.words = {
            **ADDRESSES, **{f"{name}6": address for name, address in ADDRESSES6.items()},
            "node": node.address, "peer": self.world.hosts["compute2"].address, "control": self.world.hosts["control"].address,
            "same": same.address, "same_dashed": same.address.replace(".", "-"), "same_port": str(same.port), "same_mac": same.mac(),
            "same6": same.take_ipv6(), "other": other.address, "other_port": str(other.port), "far_port": str(targets["far"].port),
            "control6": f"{SITE6}3", **{f"gw_{klass}": gateway(klass) for klass in SUBNETS},
        }  # fmt: skip
        for (_sandbox, klass), session in self.attackers.items():
            if klass != "none":
                session.take_ipv6()
                session.host.run(f"nsenter -t {session.pid} -n ip neigh replace {same.address} lladdr {same.mac()} dev eth0 2>/dev/null", check=False)

    def _of(self, sandbox: str, klass: str) -> dict[str, str]:
        """The words that depend on who attacks."""
        session, node = self.attackers[sandbox, klass], self.world.node
        link = node.run(f"ip -o link show mh-{klass} | grep -o 'ether [0-9a-f:]*' | cut -d' ' -f2; ip -6 -o addr show dev mh-{klass} scope link | awk '{{print $4; exit}}'").split()
        return {**self.words, "gw": gateway(klass), "me": session.address, "gateway_mac": link[0], "link6": link[1].split("/")[0], "gateway6": f"{SESSIONS6[klass]}1",
                "broadcast": str(ipaddress.ip_network(SUBNETS[klass]).broadcast_address)}  # fmt: skip

    def fill(self, arguments: Mapping[str, object], words: Mapping[str, str]) -> object:
        """A case's arguments with addresses in them."""
        return _words(arguments, words)

    def attack(self, sandbox: str, wanted: Sequence[Case]) -> dict[int, tuple[str, str]]:
        """Carry out cases in the state that the control is in. Returns by the case's number why it leaked, and what its program said."""
        # A protocol without ports has one flow to a place behind address translation, so that of the other sandbox must not be remembered.
        self.world.node.run("conntrack -F 2>/dev/null; for name in listed open none; do ip neigh flush dev mh-$name; done", check=False)
        tokens: dict[str, int] = {}
        got: dict[str, tuple[str, str]] = {}
        # Last the attacks that change where the node thinks the neighbour is.
        for where in ("inside", "netns", "poison"):
            for klass in SUBNETS:
                chosen = [(number, case) for number, case in enumerate(wanted) if (case.klass, case.where) == (klass, where)]
                if not chosen:
                    continue
                session, words = self.attackers[sandbox, klass], self._of(sandbox, klass)
                job: dict[str, object] = {"gateway": gateway(klass), "seconds": SECONDS, "address": session.address, "gateway_mac": words["gateway_mac"],
                                          "address6": f"{SESSIONS6[klass]}{session.address.rsplit('.', 1)[1]}", "cases": []}  # fmt: skip
                for number, case in chosen:
                    token = f"tok{secrets.token_hex(6)}"
                    tokens[token] = number
                    arguments = self.fill(case.arguments, {**words, "token": token, "TOKEN": token.upper()})
                    job["cases"].append({"token": token, "method": case.method, "where": where, "arguments": arguments})  # type: ignore[attr-defined]
                inside = f"docker exec -i {session.container} python3 -m egress.attacker"
                outside = f"PYTHONPATH=/opt/egress-test nsenter -t {session.pid} -n python3 -m egress.attacker"
                text = session.host.run(inside if where == "inside" else outside, stdin=json.dumps(job).encode(), timeout=SECONDS + 30, check=False)
                for line in text.splitlines():
                    if line.startswith("{"):
                        result = json.loads(line)
                        got[result["token"]] = (result["got"], result["error"])
        time.sleep(1.5)
        lines: dict[str, list[dict[str, object]]] = {}
        for line in self.world.seen():
            lines.setdefault(str(line["token"]), []).append(line)
        found = {}
        for token, number in tokens.items():
            answer, error = got.get(token, ("", "no result within the time"))
            found[number] = (why(wanted[number], answer, lines.get(token, [])), error or answer[:200])
        return found

    def alive(self) -> list[str]:
        """What says that a control which is on lets through what it should; a dead one stops every attack, and proves nothing."""
        found = []
        for (sandbox, klass), session in self.attackers.items():
            if klass != "listed":
                continue
            for way in (f"-x http://{gateway(klass)}:3128", "--noproxy '*'"):
                # The proxy may have been started a moment ago.
                command = f"for try in 1 2 3 4 5; do docker exec {session.container} curl -sk --max-time 10 {way} https://allowed.example/ && break; sleep 1; done"
                if '"sni": "allowed.example"' not in session.host.run(command, check=False, timeout=90):
                    found.append(f"{sandbox}: a listed name cannot be reached (curl {way}), so that the attacks prove nothing")
        return found

    def run(self, wanted: Sequence[Case], sandboxes: Sequence[str], modes: Sequence[str]) -> dict[str, list[Outcome]]:
        """All wanted cases in all sandboxes and modes."""
        results = {sandbox: [Outcome(case) for case in wanted] for sandbox in sandboxes}
        for mode in modes:
            (self.control.off if mode == "off" else self.control.on)()
            time.sleep(1)
            self.dead += self.alive() if mode == "on" else []
            for sandbox in sandboxes:
                started = time.monotonic()
                found = self.attack(sandbox, wanted)
                if mode == "off":
                    # On a busy machine a program has not always done its work within the time: what should leak and did not has a second try.
                    missed = [number for number, (leak, _) in found.items() if not leak and not unshown(wanted[number], sandbox)]
                    again = self.attack(sandbox, [wanted[number] for number in missed]) if missed else {}
                    found |= {missed[number]: outcome for number, outcome in again.items()}
                for number, (leak, said) in found.items():
                    results[sandbox][number].leaks[mode] = leak
                    results[sandbox][number].said[mode] = said
                print(f"{sandbox}, control {mode}: {sum(bool(o.leaks[mode]) for o in results[sandbox])} of {len(wanted)} leak, "
                      f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
            self.dead += self.alive() if mode == "on" else []
        self.control.on()
        return results


def unshown(case: Case, sandbox: str) -> str:
    """Why a case cannot be shown to leak with the control off; empty where it can."""
    return case.unshown.get(sandbox) or case.unshown.get(EVERYWHERE) or ""


def problems(results: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """What must not be: a leak with the control on, and a case that shows nothing without a reason."""
    found = []
    for sandbox, outcomes in results.items():
        for outcome in outcomes:
            case = outcome.case
            name = f"{sandbox}: {case.family}: {case.name}"
            if outcome.leaks.get("on") and not case.limit:
                found.append(f"{name}: LEAKS with the control on: {outcome.leaks['on']}")
            if "off" in outcome.leaks and not outcome.leaks["off"] and not unshown(case, sandbox):
                found.append(f"{name}: does not leak with the control off: {outcome.said['off']!r}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testbed")
    parser.add_argument("--only", default="", help="a part of the family's or the case's name")
    parser.add_argument("--sandbox", action="append", choices=SANDBOXES)
    parser.add_argument("--mode", action="append", choices=("off", "on"))
    parser.add_argument("--out", type=Path, help="a directory for the report")
    options = parser.parse_args()
    sandboxes, modes = options.sandbox or list(SANDBOXES), options.mode or ["off", "on"]
    wanted = [case for case in cases.every() if options.only in f"{case.family}: {case.name}"]
    suite = Suite(options.testbed)
    suite.up(sandboxes)
    results = suite.run(wanted, sandboxes, modes)
    print(report.table(results))
    if options.out:
        report.write(results, options.out)
    found = suite.dead + problems(results)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
