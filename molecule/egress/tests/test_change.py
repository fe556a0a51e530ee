"""What a change of a class does to sessions that run, and what happens while a part of the control is away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from egress.control import gateway  # noqa: E402
from egress.places import ADDRESSES  # noqa: E402
from egress.stage import Session  # noqa: E402
from egress.suite import SANDBOXES, Suite  # noqa: E402

NETWORK = f"mol-{os.environ['MOLECULE_SCENARIO_NAME']}"
CLASSES = yaml.safe_load((ROOT / "molecule/egress/inventory/group_vars/all.yml").read_text())["metalhub_egress_classes"]
LISTED = ADDRESSES["listed"]
# Open before the change: what stays in the list, and what is taken out of it.
STAY = ("tunnel=tunnel:allowed.example:443", "tls=tls:allowed.example:443", f"address=plain:{LISTED}:8443", "plain=plain:allowed.example:80")
GO = ("gone-tunnel=tunnel:cdn.example:443", "gone-tls=tls:cdn.example:443", f"gone-address=plain:{LISTED}:443",
      "gone-port=plain:a.wild.example:2222")  # fmt: skip
TAKEN = {"cdn.example", f"{LISTED}:443", "*.wild.example:2222"}


def converge(**variables: Any) -> None:
    """As an operator does after editing the inventory, with the roles that know of classes."""
    sources = [ROOT / "molecule/shared/inventory", ROOT / f".cache/testbed/{NETWORK}/inventory.yml", ROOT / "molecule/egress/inventory"]
    done = subprocess.run(
        ["ansible-playbook", *(f"--inventory={source}" for source in sources), "molecule/egress/converge.yml", "-e", json.dumps(variables)],
        cwd=ROOT, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
                       "ANSIBLE_ROLES_PATH": str(ROOT / "roles")},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(scope="module")
def suite() -> Suite:
    made = Suite(NETWORK)
    made.control.on()
    made.world.up()
    return made


@pytest.fixture(scope="module")
def sessions(suite: Suite) -> Iterator[dict[str, Session]]:
    made = {sandbox: Session(suite.world, f"egress-change-{sandbox}", "compute1", "listed", sandbox) for sandbox in SANDBOXES}
    for one in made.values():
        one.start()
    yield made
    suite.world.hosts["control"].run(f"docker service rm {' '.join(one.name for one in made.values())}")


@pytest.fixture
def session(sessions: dict[str, Session]) -> Session:
    return sessions["gvisor"]


def inside(session: Session, command: str) -> str:
    return session.host.run(f"docker exec {session.container} {command}", check=False).strip()


def reaches(session: Session, url: str) -> bool:
    return inside(session, f"curl -sk -m 8 -o /dev/null -w '%{{http_code}}' {url}") == "200"


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_change_reaches_what_is_open(sessions: dict[str, Session], sandbox: str) -> None:
    session = sessions[sandbox]
    log = f"/run/linger-{session.sandbox}"
    session.host.unit(
        "egress-linger", f"docker exec {session.container} python3 -m egress.attacker.linger 200 {gateway('listed')} {' '.join((*STAY, *GO))}", log
    )
    time.sleep(4)
    opened = {json.loads(line)["name"] for line in session.host.run(f"cat {log}").splitlines() if "open" in line}
    assert opened == {flow.partition("=")[0] for flow in (*STAY, *GO)}, session.host.run(f"cat {log}")
    assert reaches(session, "https://cdn.example/") and not reaches(session, "https://www.allowed.example/")
    allow = [*(one for one in CLASSES["listed"]["allow"] if one not in TAKEN), "www.allowed.example"]
    converge(metalhub_egress_classes=CLASSES | {"listed": CLASSES["listed"] | {"allow": allow}})
    changed = float(session.host.run("date -r /etc/metalhub/egress/policy.json +%s.%N"))
    time.sleep(3)
    lines = [json.loads(line) for line in session.host.run(f"cat {log}").splitlines()]
    ended = {line["name"]: line["ended"] - changed for line in lines if "ended" in line}
    assert set(ended) == {flow.partition("=")[0] for flow in GO}, lines
    print(f"{session.sandbox}: cut {max(ended.values()):.1f} s after the policy was written")
    assert max(ended.values()) < 10
    assert reaches(session, "https://www.allowed.example/") and not reaches(session, "https://cdn.example/")
    session.host.run("systemctl stop egress-linger")
    converge()
    assert reaches(session, "https://cdn.example/") and not reaches(session, "https://www.allowed.example/")


PARTS = {
    "metalhub-squid@listed.service": ("https://allowed.example/", "http://allowed.example/"),
    "metalhub-egress.service metalhub-egress.socket": ("https://allowed.example/", "http://allowed.example/"),
    "metalhub-resolver@listed.service": ("https://allowed.example/",),
    "metalhub-resolver@_node.service": ("https://allowed.example/",),
}


@pytest.mark.parametrize("units", PARTS)
def test_a_part_that_is_away_closes(session: Session, units: str) -> None:
    urls = PARTS[units]
    assert all(reaches(session, url) for url in urls)
    session.host.run(f"systemctl stop {units}")
    try:
        assert not any(reaches(session, url) for url in (*urls, "https://attacker.example/", f"https://{ADDRESSES['attacker']}/"))
    finally:
        session.host.run(f"systemctl start {' '.join(reversed(units.split()))}")
    for _ in range(20):
        if all(reaches(session, url) for url in urls):
            return
        time.sleep(0.5)
    raise AssertionError(f"{units} was started again, and {urls} cannot be reached")


def test_a_part_that_dies_is_back_by_itself(session: Session) -> None:
    for unit in ("metalhub-squid@listed", "metalhub-egress", "metalhub-resolver@listed", "metalhub-resolver@_node"):
        session.host.run(f"systemctl kill -s KILL {unit}")
        deadline = time.monotonic() + 15
        while not reaches(session, "https://allowed.example/"):
            assert time.monotonic() < deadline, unit


def test_who_was_refused_what_is_known(session: Session) -> None:
    inside(session, f"curl -sk -m 3 https://nowhere-{session.sandbox}.example/")
    inside(session, f"curl -sk -m 3 -x http://{gateway('listed')}:3128 https://attacker.example/")
    inside(session, f"curl -sk -m 3 http://{ADDRESSES['attacker']}:4711/")
    time.sleep(3)
    text = session.host.run("tail -n 200 /var/lib/metalhub/egress/refusals.jsonl")
    # Somebody else may have had the address before.
    lines = [line for line in map(json.loads, text.splitlines()) if line["source"] == session.address and line["session"] == session.name]
    found = {(line["via"], line["destination"], line["port"]) for line in lines}
    assert {("dns", f"nowhere-{session.sandbox}.example", 53), ("proxy-connect", "attacker.example", 443), ("packet", ADDRESSES["attacker"], 4711)} <= found
    assert {line["class"] for line in lines} == {"listed"}


def test_limits_hold(session: Session) -> None:
    """Bandwidth and connections of a class, each session for itself."""
    url = "https://files.pkg.example/large/20000000"

    def seconds() -> float:
        return float(inside(session, f"curl -sk -m 60 -o /dev/null -w '%{{time_total}}' {url}"))

    free = seconds()
    converge(metalhub_egress_classes=CLASSES | {"listed": CLASSES["listed"] | {"bandwidth": "20M", "connections": 10}})
    try:
        limited = seconds()
        print(f"{session.sandbox}: 20 MB in {free:.2f} s without a limit, in {limited:.2f} s with 20 Mbit/s (8 s)")
        assert limited > 6 > free
        answers = inside(session, "python3 -m egress.attacker.errands parallel 30 https://allowed.example/")
        assert "30 answers" not in answers, answers
    finally:
        converge()
    assert "30 answers" in inside(session, "python3 -m egress.attacker.errands parallel 30 https://allowed.example/")
