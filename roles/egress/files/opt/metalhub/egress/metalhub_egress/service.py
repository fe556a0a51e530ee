"""The egress service: decides for the proxy, knows what is open, cuts what the policy no longer allows, and tells what was refused.

Everything on the loop is short: a decision is a look-up. Commands and the disk are for threads.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import typing as t
import urllib.parse

from . import nflog
from .egress_decide import Policy, Request
from .egress_terms import LOG_GROUP, NODE_LINES
from .engine_api import Engine
from .node_service import Refusal, Server, notify
from .questions import Flow, Question, ResolverLog, parse_flows, parse_question, parse_syslog
from .refusals import Journal
from .sessions import Sessions

POLICY = "/etc/metalhub/egress/policy.json"
JOURNAL = "/var/lib/metalhub/egress/refusals.jsonl"
# What runs for all classes, and for each that has names.
UNITS, CLASS_UNITS = ("metalhub-resolver@_node.service",), ("metalhub-resolver@{}.service", "metalhub-squid@{}.service")
# Connections and answers that are remembered; the oldest go first.
CAPACITY = 200_000
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def run(*argv: str) -> str:
    """Run a command of the system and return its output; an error is its words in the journal and an empty text."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT)
    if done.returncode:
        print(f"{' '.join(argv)}: {done.stderr.strip()}", flush=True)
    return done.stdout


class Answers:
    """Which addresses the resolver gave for which names lately, by class: what a rule by name stands for in the packet filter."""

    def __init__(self) -> None:
        self._seen: collections.OrderedDict[tuple[str, str, str], None] = collections.OrderedDict()

    def add(self, klass: str, name: str, address: str) -> None:
        """Remember one answer."""
        self._seen[(klass, name, address)] = None
        self._seen.move_to_end((klass, name, address))
        if len(self._seen) > CAPACITY:
            self._seen.popitem(last=False)

    def all(self) -> list[tuple[str, str, str]]:
        """(class, name, address) of all that is remembered."""
        return list(self._seen)


class Service:
    """The state of the service. `command` runs a program of the system and returns its output."""

    def __init__(self, settings: t.Mapping[str, t.Any], journal: Journal, command: t.Callable[..., str] = run) -> None:
        self.settings, self.journal, self._command = settings, journal, command
        self.answers = Answers()
        self.resolver_log = ResolverLog()
        # (client, port) of connections through the proxy, as they were allowed.
        self.open: collections.OrderedDict[tuple[str, int], Request] = collections.OrderedDict()
        self.cut = 0
        self._policy_text = ""
        self.policy = Policy.from_plain({"version": 1, "classes": {}, "closed": [], "site_networks": []})
        self._health: tuple[float, dict[str, t.Any]] = (0, {})

    def load(self) -> bool:
        """Read the policy; says whether it differs from the one before. Raises OSError and ValueError."""
        with open(POLICY, encoding="utf-8") as stream:
            text = stream.read()
        if text == self._policy_text:
            return False
        self.plain = json.loads(text)
        self.policy = Policy.from_plain(self.plain)
        self._policy_text = text
        return True

    # -- the proxy -----------------------------------------------------------------------------------------------------

    def decide(self, line: str) -> str:
        """Answer one line of squid's. Whatever cannot be read is refused."""
        channel = line.split(" ", 1)[0]
        try:
            question = parse_question(line)
            klass = self.policy.class_of(question.client)
            if klass is None:
                return f"{channel} ERR message=no%20class"
            # squid looks the name up, and ends the connection if the address that was dialled is not the name's (host_verify_strict).
            request = Request(
                klass=klass, via=question.via, host=question.host, port=question.port, original=question.original or None,
                hello=question.hello, resolved=frozenset(filter(None, [question.original])), method=question.method,
            )  # fmt: skip
            verdict = self.policy.decide(request)
        except (ValueError, KeyError) as error:
            print(f"a question that cannot be read: {error}: {line[:200]!r}", flush=True)
            return f"{channel} BH message=unreadable"
        if verdict.allowed and verdict.inspect and question.hello is None:
            return f"{channel} OK inspect_=yes"
        if not verdict.allowed or self.plain["classes"][klass]["log"] == "all":
            self._note(klass, question, verdict)
        if not verdict.allowed:
            return f"{channel} ERR message={urllib.parse.quote(verdict.reason)}"
        self.open[(question.client, question.client_port)] = request
        if len(self.open) > CAPACITY:
            self.open.popitem(last=False)
        return f"{channel} OK inspect_=no"

    def _note(self, klass: str, question: Question, verdict: t.Any) -> None:
        self.journal.note(
            verdict="allowed" if verdict.allowed else "refused", source=question.client,
            destination=verdict.name or question.host or question.original, port=question.port, protocol="tcp", via=question.via,
            reason="" if verdict.allowed else str(verdict.reason), **{"class": klass},
        )  # fmt: skip

    # -- what the others say ---------------------------------------------------------------------------------------------

    def logged(self, data: bytes) -> None:
        """A datagram of the resolvers or of squid."""
        line = parse_syslog(data)
        if line is None:
            return
        program, process, text = line
        if "squid" in program:
            self._squid(text)
            return
        found = self.resolver_log.feed(process, text)
        klass = self.policy.class_of(found[1]) if found else None
        if found is None or klass is None:
            return
        what, client, kind, name, address = found
        if what == "answered":
            self.answers.add(klass, name, address)
        # A name of the class without such a record is nobody's refusal.
        elif kind not in ("A", "AAAA", "HTTPS", "SVCB") or not self.policy.resolves(klass, name):
            self.journal.note(
                verdict="refused", source=client, destination=name, port=53, protocol=kind, via="dns", reason="not in the class's list",
                **{"class": klass},
            )  # fmt: skip

    def _squid(self, text: str) -> None:
        """A line of squid's log: ``metalhub <client> <port> <method> <error> <host>``; the connection is over, or squid itself refused."""
        words = text.split()
        if len(words) < 6 or words[0] != "metalhub":
            return
        _, client, port, method, error, host = words[:6]
        if method == "CONNECT" and port.isdecimal():
            self.open.pop((client, int(port)), None)
        klass = self.policy.class_of(client)
        # What this service refused it has noted itself (ERR_ACCESS_DENIED); a site that is away is nobody's refusal.
        if klass and error in ("ERR_CONFLICT_HOST", "ERR_INVALID_REQ", "ERR_PROTOCOL_UNKNOWN", "ERR_UNSUP_REQ", "ERR_INVALID_URL"):
            reason = {"ERR_CONFLICT_HOST": "the address is not one of the name"}.get(error, "not a request that the proxy understands")
            self.journal.note(
                verdict="refused", source=client, destination=host, port=0, protocol="tcp", via="proxy", reason=reason, **{"class": klass},
            )  # fmt: skip

    def packets(self, data: bytes) -> None:
        """What the packet filter refused."""
        for packet in nflog.packets(data):
            klass = self.policy.class_of(packet.source)
            if klass:
                self.journal.note(
                    verdict="refused", source=packet.source, destination=packet.destination, port=packet.port, protocol=packet.protocol,
                    via="packet", reason="not in the class's list", **{"class": klass},
                )  # fmt: skip

    # -- a policy that changes ---------------------------------------------------------------------------------------------

    def recheck(self) -> int:
        """Cut what is open and no longer allowed, and give the packet filter the addresses of names again. Returns how many were cut."""
        known = list(self.open.items())
        refused = {key for key, request in known if not self.policy.decide(request).allowed}
        names: dict[str, dict[str, list[str]]] = {klass: {} for klass in self.plain["classes"]}
        for klass, name, address in self.answers.all():
            if klass in names:
                names[klass].setdefault(address, []).append(name)
        there, count = set(), 0
        for klass, one in self.plain["classes"].items():
            self._fill(one, names[klass])
            for flow in parse_flows(self._command("conntrack", "-L", "-s", one["subnet"])):
                key = (flow.source, flow.source_port)
                if flow.protocol == "tcp":
                    there.add(key)
                if (flow.protocol == "tcp" and key in refused) or not self._still(klass, one, flow, names[klass]):
                    self._forget(flow.protocol, *key)
                    count += 1
        # A proxy that is killed tells no ends, so what the kernel does not know is over.
        for key, _ in known:
            if key in refused or key not in there:
                self.open.pop(key, None)
        self.cut += count
        return count

    def _fill(self, one: t.Mapping[str, t.Any], names: t.Mapping[str, t.Sequence[str]]) -> None:
        for key, content in one["name_sets"].items():
            places = tuple(f".{place}" for place in content["names"])
            addresses = sorted(address for address, led in names.items() if any(f".{name}".endswith(places) for name in led))
            if addresses:
                self._command("nft", "add", "element", "inet", "metalhub", key, "{ " + ", ".join(addresses) + " }")

    def _still(self, klass: str, one: t.Mapping[str, t.Any], flow: Flow, names: t.Mapping[str, t.Sequence[str]]) -> bool:
        """Whether the packet filter would let this connection begin today. Those to the node are the proxy's and the resolver's.

        `names` are those that led to an address lately.
        """
        if flow.protocol == "tcp" and (flow.source, flow.source_port) in self.open:
            return True
        if flow.destination == one["gateway"]:
            # Whatever came through the proxy before this service began is not known here any more.
            return flow.port == 53
        if flow.destination in self.settings["control"]:
            return True
        if self.policy.decide_address(klass, flow.destination, flow.port, flow.protocol).allowed:
            return True
        led = names.get(flow.destination, ())
        return any(self.policy.decide_name(klass, name, flow.port, flow.protocol).allowed for name in led)

    def _forget(self, protocol: str, client: str, port: int) -> None:
        """Without its entry the next packet counts as the first of a new connection, and is not one: it is reset."""
        self._command("conntrack", "-D", "-p", protocol, "-s", client, "--sport", str(port))

    # -- what the control host asks ------------------------------------------------------------------------------------------

    def health(self) -> dict[str, t.Any]:
        """Which parts are there."""
        when, found = self._health
        if time.monotonic() - when > 2 or not found:
            named = [name for name, one in self.plain["classes"].items() if one["named"]]
            units = [*UNITS, *(unit.format(name) for name in named for unit in CLASS_UNITS)]
            states = self._command("systemctl", "is-active", *units).split()
            down = sorted(unit for place, unit in enumerate(units) if states[place : place + 1] != ["active"])
            found = {"status": "ok" if not down else "down", "down": down, "open": len(self.open), "dropped": self.journal.dropped}
            self._health = (time.monotonic(), found)
        return found

    def answer(self, method: str, path: str, body: bytes) -> t.Mapping[str, t.Any] | str:
        """GET /health, /metrics, /refusals?since=<time>."""
        place = urllib.parse.urlsplit(path)
        if method != "GET" or body:
            raise Refusal(400, "only GET is answered")
        if place.path == "/health":
            return self.health()
        if place.path == "/metrics":
            return self.metrics()
        if place.path == "/refusals":
            since = urllib.parse.parse_qs(place.query).get("since", [""])[0]
            return {"lines": list(collections.deque(self.journal.lines(since), maxlen=NODE_LINES))}
        raise Refusal(404, "there are /health, /metrics and /refusals?since=<time>")

    def metrics(self) -> str:
        """Counters in Prometheus's text format."""
        name = "metalhub_egress_decisions_total"
        lines = [f"# HELP {name} What sessions asked for and got or were refused.", f"# TYPE {name} counter"]
        for (klass, verdict, via, reason), number in sorted(self.journal.counts.items()):
            lines.append(f'{name}{{class="{klass}",verdict="{verdict}",via="{via}",reason="{reason}"}} {number}')
        for name, kind, text, value in (
            ("open_connections", "gauge", "Connections through the proxy.", len(self.open)),
            ("cut_total", "counter", "Connections that a change of the policy ended.", self.cut),
            ("dropped_total", "counter", "Refusals that were not written.", self.journal.dropped),
            ("up", "gauge", "Whether all proxies and resolvers run.", int(self.health()["status"] == "ok")),
        ):
            lines += [f"# HELP metalhub_egress_{name} {text}", f"# TYPE metalhub_egress_{name} {kind}", f"metalhub_egress_{name} {value}"]
        return "\n".join(lines) + "\n"


async def serve(service: Service) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()

    async def questions(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            while True:
                line = await reader.readuntil(b"\n")
                writer.write((service.decide(line.decode("utf-8", "replace").rstrip("\n")) + "\n").encode())
                await writer.drain()
        writer.close()

    # systemd's sockets: they outlive this service, so nobody loses what he holds of them when it starts again.
    sockets = {one.type: one for one in (socket.socket(fileno=3), socket.socket(fileno=4))}
    # A ClientHello is at most 64 KiB, a third more as base64.
    await asyncio.start_unix_server(questions, sock=sockets[socket.SOCK_STREAM], limit=2**18)
    log = sockets[socket.SOCK_DGRAM]
    log.setblocking(False)
    packets = nflog.subscribe(LOG_GROUP)

    def read(channel: socket.socket, use: t.Callable[[bytes], None]) -> None:
        for _ in range(100):
            try:
                use(channel.recv(65536))
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS: more came than was read
                service.journal.dropped += 1
                print(f"some of the log is lost: {error.strerror}", flush=True)
                return

    loop.add_reader(log, read, log, service.logged)
    loop.add_reader(packets, read, packets, service.packets)

    def reload() -> None:
        try:
            changed = service.load()
            # Also with the same policy: the packet filter's rules may be new, and its sets of addresses with them empty.
            loop.run_in_executor(None, lambda: print(f"reloaded; {service.recheck()} connections were cut", flush=True))
            if changed:
                print("the policy has changed", flush=True)
        except (OSError, ValueError) as error:
            print(f"{POLICY} cannot be used, the one before stays: {error}", flush=True)

    loop.add_signal_handler(1, reload)
    notify("READY=1")
    await asyncio.Event().wait()


def main() -> int:
    """Serve until killed; what stops it from starting is one line and exit status 1."""
    try:
        with open("/etc/metalhub/egress/service.json", encoding="utf-8") as stream:
            settings = json.load(stream)
        journal = Journal(JOURNAL, Sessions(Engine(timeout=5), settings["node"]))
        service = Service(settings, journal)
        service.load()
        server = Server((settings["listen"], settings["port"]), service.answer, settings["clients"], os.environ["RUNTIME_DIRECTORY"])
    except (OSError, ValueError, KeyError) as error:
        print(f"metalhub-egress: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=journal.run, daemon=True).start()
    asyncio.run(serve(service))
    return 0
