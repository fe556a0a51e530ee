"""What has to work with the control on, in the same world: as a table, tried in each sandbox with and without proxy variables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .control import gateway
from .places import ADDRESSES
from .suite import Suite

BOTH, DIRECT = ("proxy", "direct"), ("direct",)
LARGE = 500_000_000
ERRANDS = "python3 -m egress.attacker.errands"
APT = ("-o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/nowhere -o APT::Sandbox::User=root -o Acquire::Retries=0 -o Dir::State=$PWD/state "
       "-o Dir::Cache=$PWD/cache -o Dir::State::status=/var/lib/dpkg/status")  # fmt: skip


@dataclass(frozen=True)
class Errand:
    """Something that users do: a shell command in which `{way}` is the way's name, and a text that has to be in its output."""

    name: str
    command: str
    wanted: str
    ways: Sequence[str] = BOTH
    klass: str = "listed"


ERRANDS_OF_USERS = (
    Errand("curl", "curl -s https://allowed.example/", '"sni": "allowed.example"'),
    Errand("curl, plain HTTP", "curl -s http://allowed.example/", '"port": 80'),
    # The authority's wildcard covers one label, the class's any number.
    Errand("curl, far below a wildcard", "curl -sk https://some.thing.wild.example/", '"sni": "some.thing.wild.example"'),
    Errand("curl, a wildcard", "curl -s https://a.wild.example/", '"sni": "a.wild.example"'),
    Errand("curl, a shared address", "curl -s https://cdn.example/", '"sni": "cdn.example"'),
    Errand("curl, a name in the site's own network", "curl -s https://intra.corp.example/", '"place": "corp"'),
    Errand("curl, HTTP/2 alone", "python3 -c \"import socket,ssl; c=ssl.create_default_context(); c.set_alpn_protocols(['h2']); "
           "s=c.wrap_socket(socket.create_connection(('allowed.example',443),9),server_hostname='allowed.example'); print(s.selected_alpn_protocol())\"", "h2", DIRECT),
    Errand("TLS 1.2", "curl -s --tls-max 1.2 https://allowed.example/", '"sni": "allowed.example"'),
    Errand("pip", "rm -rf /tmp/{way}-pip; python3 $(echo /usr/share/python-wheels/pip-*.whl)/pip install -q --no-cache-dir --disable-pip-version-check --target /tmp/{way}-pip "
           "-i https://pip.pkg.example/simple/ egress-probe && PYTHONPATH=/tmp/{way}-pip python3 -c 'import egress_probe; print(egress_probe.WORDS)'",
           "installed through the control"),
    *(Errand(name, f"mkdir -p /tmp/{directory}/state/lists/partial /tmp/{directory}/cache/archives/partial; cd /tmp/{directory}; rm -f *.deb; "
             f"echo 'deb [trusted=yes] {scheme}://apt.pkg.example/debian ./' > sources.list; apt-get {APT} -q update && apt-get {APT} -q download egress-probe && "
             "dpkg-deb -f egress-probe_1.0_all.deb", "Package: egress-probe")
      for name, scheme, directory in (("apt", "http", "{way}-apt"), ("apt over TLS", "https", "{way}-apts"))),
    Errand("git", "rm -rf /tmp/{way}-git; git clone -q https://git.pkg.example/probe.git /tmp/{way}-git && cat /tmp/{way}-git/words", "cloned through the control"),
    Errand("conda", "curl -s --compressed https://conda.pkg.example/channel/noarch/repodata.json | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"info\"])' && "
           "for n in 1 2 3 4 5 6 7 8; do curl -s -o /dev/null -w '%{size_download}\\n' https://conda.pkg.example/large/4000000 & done; wait", "4000000"),
    Errand("a web socket", f"{ERRANDS} echo https://ws.pkg.example/", "beats"),
    Errand("a web socket without TLS", f"{ERRANDS} echo http://ws.pkg.example/", "beats", DIRECT),
    Errand("a large download", f"curl -s -o /dev/null -w '%{{size_download}}' https://files.pkg.example/large/{LARGE}", str(LARGE)),
    Errand("a large download without TLS", f"curl -s -o /dev/null -w '%{{size_download}}' http://files.pkg.example/large/{LARGE}", str(LARGE)),
    Errand("a large upload", f"truncate -s {LARGE} /tmp/{{way}}-large; curl -s -T /tmp/{{way}}-large https://files.pkg.example/upload", f"{LARGE} bytes"),
    Errand("200 connections at once", f"{ERRANDS} parallel 200 https://allowed.example/", "200 answers"),
    Errand("a port of its own of a name", f"{ERRANDS} raw a.wild.example:2222 x", "SSH-2.0-world", DIRECT),
    Errand("a listed address", f"{ERRANDS} raw {ADDRESSES['listed']}:8443 x", '"place": "listed"', DIRECT),
    Errand("a listed address, port 443", f"{ERRANDS} raw {ADDRESSES['listed']}:443 x", '"place": "listed"', DIRECT),
    Errand("a listed address by UDP", f"{ERRANDS} udp {ADDRESSES['listed']}:9999 x", '"place": "listed"', DIRECT),
    Errand("the hub's API", f"{ERRANDS} raw {{control}}:8081 x", '"place": "hub"', DIRECT),
    Errand("the public internet", "curl -s https://attacker.example/", '"place": "attacker"', BOTH, "open"),
    Errand("the public internet without TLS", "curl -s http://attacker.example/", '"place": "attacker"', BOTH, "open"),
    Errand("the public internet, another port", f"{ERRANDS} raw attacker.example:9100 x", '"place": "attacker"', DIRECT, "open"),
    Errand("the public internet by address", "curl -sk https://{attacker}/", '"place": "attacker"', DIRECT, "open"),
)  # fmt: skip


def _environment(klass: str, way: str) -> str:
    proxy = f"http://{gateway(klass)}:3128"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY") if way == "proxy" else ()
    return " ".join(f"-e {name}={proxy}" for name in names)


def try_all(suite: Suite, sandbox: str) -> list[str]:
    """Run every errand in one sandbox with the control as it is. Returns what did not work, with what it said."""
    failed: list[str] = []

    def one(errand: Errand, way: str) -> None:
        session = suite.attackers[sandbox, errand.klass]
        command = errand.command.replace("{way}", way).replace("{control}", suite.words["control"]).replace("{attacker}", suite.words["attacker"])
        environment = f"-e PATH=/usr/bin:/usr/sbin -e HOME=/tmp -e SSL_CERT_FILE=/egress/ca.crt {_environment(errand.klass, way)}"
        got = session.host.run(f"timeout 120 docker exec {environment} {session.container} sh -c {shlex.quote(command)} 2>&1", timeout=150, check=False)
        if errand.wanted not in got:
            failed.append(f"{sandbox}: {errand.name} ({way}): {got.strip()[-300:]}")

    with ThreadPoolExecutor(3) as pool:
        for errand in ERRANDS_OF_USERS:
            for way in errand.ways:
                pool.submit(one, errand, way)
    return failed
