"""Every cause that a session's diagnosis can name, brought about on a real hub with fakes around it; and who may ask."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from conftest import FakeNode, Served
from metalhub_hub.core.diagnosis import STEPS
from test_audit_hub import Site
from test_hub import PASSWORD, TOKEN, eventually, log_in
from world import CLI_TOKEN, world

GIB = 2**30
HOUSE = Path("figures.json")
FIGURES = """
import json, pathlib
from metalhub_hub import drains, egress, homes, platform
from metalhub_hub.core.diagnosis import Memory
drains.TICK = egress.HEALTH_EVERY = 0.3
egress.HEALTH_PATIENCE = 20
def figures(session):
    known = json.loads(pathlib.Path({path!r}).read_text())
    found = next((known[user] for user in known if session.startswith(f"mh-{{user}}-")), None)
    return Memory(*found) if found else None
platform.current().figures = figures
"""


class House(Site):
    """The site of the audit log's tests with a storage, a node's egress service and figures of memory that tests decide on."""

    def __init__(self, directory: Path, traefik: int) -> None:
        super().__init__(directory, traefik)
        self.homes: dict[str, int] = {}
        self.storage = 200
        self.seen: set[str] = set()
        self.mint()

    def fill(self, node: FakeNode, pki: Path, storage: int) -> None:
        """Once the node and the storage are there."""
        self.node = node

        def edit(raw: dict[str, Any]) -> None:
            raw["engine"] |= {"ca": f"{pki}/ca.crt", "cert": f"{pki}/hub-client.crt", "key": f"{pki}/hub-client.key"}
            raw |= {"egress": {"port": node.port}, "storage": {"url": f"http://127.0.0.1:{storage}"}, "cull_every": "1s"}
            raw["session"] |= {"stop_notice": "2s", "start_timeout": "8s"}
            raw["profiles"]["small"]["egress"] = "packages"
            raw["profiles"]["brief"] = raw["profiles"]["small"] | {"idle_stop": "4s", "default": False}
            raw["profiles"]["old"] = raw["profiles"]["small"] | {"max_session": "4s", "default": False}

        self.change(edit)
        self.figures({})
        self.configure(FIGURES.format(path=str(self.directory / HOUSE)))

    def figures(self, known: dict[str, list[int]]) -> None:
        new = self.directory / ".new"
        new.write_text(json.dumps(known))
        new.replace(self.directory / HOUSE)

    async def answer(self, request: web.Request) -> web.Response:
        """The homes service."""
        if self.storage != 200:
            return web.json_response({"error": "No space left on device"}, status=self.storage)
        home = request.path.rpartition("/")[2]
        used = self.homes.get(home, GIB)
        return web.json_response({"home": home, "path": f"/homes/{home}", "limit_bytes": 10 * GIB, "used_bytes": used})

    def diagnosis(self, user: str, name: str = "", cause: str = "") -> dict[str, Any]:
        """The diagnosis, once it is the one that is waited for."""

        def look() -> Any:
            found = self.json("session", "diagnose", f"{user}/{name}" if name else user)
            return found if found["cause"] == cause else None

        found: dict[str, Any] = eventually(look, 40)
        self.seen.add(found["cause"])
        return found

    def refused(self, user: str, **options: str) -> None:
        """Ask for a session that does not start; the reason may come later than the answer."""
        self.hub.api("POST", f"/users/{user}")
        answer = self.hub.api("POST", f"/users/{user}/server", json=options)
        assert answer.status_code >= 400 or answer.status_code == 202, answer.text
        eventually(lambda: not self.hub.server(user))

    def up(self, user: str) -> None:
        if not (self.hub.server(user) or {}).get("ready"):
            self.running(user)

    def task(self, user: str) -> dict[str, Any]:
        return next(t for t in self.engine.tasks if t["Spec"]["ContainerSpec"]["Labels"]["metalhub.session"].startswith(f"mh-{user}-"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> Iterator[House]:
    node, box = FakeNode(pki, "127.0.0.1"), list[House]()

    async def storage(request: web.Request) -> web.Response:
        return await box[0].answer(request)

    def prepare(made: House) -> None:
        box.append(made)
        made.fill(node, pki, homes.port)

    with Served(storage) as homes, world(tmp_path_factory.mktemp("hub"), prepare, House) as made:
        yield made
    node.close()


def facts(found: dict[str, Any]) -> dict[str, str]:
    return {each["what"]: each["text"] for each in found["evidence"]}


def test_healthy(house: House) -> None:
    house.hub.api("POST", "/users/ann")
    assert house.diagnosis("ann", cause="healthy")["sentence"] == "No session runs, and nothing keeps one from starting."
    house.up("ann")
    found = house.diagnosis("ann", cause="healthy")
    assert found["sentence"].startswith("The session runs") and facts(found)["home"] == "1 of 10 GiB" and found["node"] == "compute1"


def test_a_way_out_that_is_closed(house: House) -> None:
    house.up("ann")
    house.node.down = ["metalhub-squid@packages.service"]
    try:
        found = house.diagnosis("ann", cause="egress")
        assert "the proxy on node compute1 does not run" in found["sentence"] and "metalhub-squid@" in found["administrators"]
    finally:
        house.node.down = []
    house.diagnosis("ann", cause="healthy")


def test_a_home_that_is_full_or_offline_while_its_session_runs(house: House) -> None:
    house.up("ann")
    house.homes["ann"] = 10 * GIB - 2**20
    assert facts(house.diagnosis("ann", cause="home full"))["home now"] == "9.9 of 10 GiB"
    house.storage = 500
    try:
        assert "500" in facts(house.diagnosis("ann", cause="home offline"))["home now"]
    finally:
        house.storage = 200
        del house.homes["ann"]


def test_a_kernel_that_is_ended_for_memory_is_told_in_the_session(house: House) -> None:
    house.up("ann")
    house.figures({"ann": [int(1.95 * GIB), 2 * GIB, 1]})
    try:
        found = house.diagnosis("ann", cause="out of memory")
        assert facts(found)["memory"] == "1.9 of 2 GiB" and facts(found)["killed for memory"] == "1"
        headers = {"Authorization": f"token {CLI_TOKEN}"}
        view = requests.get(f"{house.hub.url}/metalhub/api/users/ann/sessions", headers=headers, timeout=10).json()["sessions"][0]
        (told,) = [each for each in view["notices"] if each["key"] == "memory 1"]
        assert "its memory was full (1.9 of 2 GiB)" in told["text"] and told["text"] in view["troubles"]
    finally:
        house.figures({})


def test_a_session_that_says_nothing(house: House) -> None:
    house.up("ann")
    house.session.answering = False
    try:
        house.diagnosis("ann", cause="silent")
    finally:
        house.session.answering = True


def test_a_cluster_that_says_nothing(house: House) -> None:
    house.hub.api("POST", "/users/bob")
    house.engine.mode = "no leader"
    try:
        house.refused("bob")
        found = house.diagnosis("bob", cause="cluster")
        assert found["now"] and "leader" in facts(found)["cluster"]
    finally:
        house.engine.mode = "ok"
    assert house.diagnosis("bob", cause="cluster")["now"] is False


def test_quota(house: House) -> None:
    for name in ("one", "two"):
        house.running("carol", name)
    house.refused("carol")
    found = house.diagnosis("carol", cause="quota")
    assert found["now"] and "may have 2" in found["sentence"] and found["at"]
    # What was refused is known to the next hub, and that there is quota again.
    house.hub.kill()
    house.hub.start()
    assert house.diagnosis("carol", cause="quota")["now"]
    house.json("session", "stop", "carol/one")
    found = house.diagnosis("carol", cause="quota")
    assert not found["now"] and found["step"] == "That is over: start the session again."
    house.json("session", "stop", "carol/two")


def test_no_room(house: House) -> None:
    house.refused("dan", profile="slice")
    found = house.diagnosis("dan", cause="no room")
    assert "There is no room" in found["sentence"] and found["now"] and facts(found)["room now"] == "0 places on 0 machines, 0 of them large enough"


def test_an_image_that_cannot_be_pulled(house: House) -> None:
    house.engine.fate = {"State": "rejected", "Err": "No such image: 10.0.0.1:5000/lab@sha256:aa"}
    try:
        house.refused("emma")
    finally:
        house.engine.fate = {"State": "running"}
    found = house.diagnosis("emma", cause="image")
    assert "could not be fetched" in found["sentence"]
    assert "No such image" in facts(found)["engine"] and facts(found)["machine"].startswith("compute")


def test_a_home_that_is_offline_or_cannot_be_made(house: House) -> None:
    house.storage = 500
    try:
        house.refused("fred")
        assert house.diagnosis("fred", cause="home offline")["now"]
        house.storage = 507
        house.refused("fred")
        assert "No space left" in facts(house.diagnosis("fred", cause="home full"))["engine"]
    finally:
        house.storage = 200
    assert not house.diagnosis("fred", cause="home full")["now"]


def test_a_full_home_is_why_a_session_ends_at_once(house: House) -> None:
    house.homes["greta"] = 10 * GIB
    house.engine.fate = {"State": "failed", "Err": "task: non-zero exit (1)", "ContainerStatus": {"ExitCode": 1}}
    try:
        house.refused("greta")
    finally:
        house.engine.fate = {"State": "running"}
    assert "10 of 10 GiB are used" in house.diagnosis("greta", cause="home full")["sentence"]


def test_a_machine_with_a_full_disk(house: House) -> None:
    house.engine.fate = {"State": "rejected", "Err": "mkdir /var/lib/docker/x: no space left on device"}
    try:
        house.refused("hanna")
    finally:
        house.engine.fate = {"State": "running"}
    house.diagnosis("hanna", cause="disk full")


def test_out_of_memory_with_numbers(house: House) -> None:
    house.running("ina")
    house.figures({"ina": [int(1.96 * GIB), 2 * GIB, 1]})
    house.task("ina")["Status"].update(State="failed", Err="task: non-zero exit (137)", ContainerStatus={"ExitCode": 137})
    found = eventually(lambda: (found := house.diagnosis("ina", cause="out of memory"))["at"] and found)
    house.figures({})
    assert "out of memory at 1.9 of 2 GiB" in found["sentence"] and "hold less data" in found["sentence"]
    assert facts(found)["memory"] == "1.9 of 2 GiB" and "137" in facts(found)["engine"] and found["node"] == facts(found)["machine"]
    # It is written down.
    house.hub.kill()
    house.hub.start()
    assert facts(house.diagnosis("ina", cause="out of memory"))["memory"] == "1.9 of 2 GiB"


def test_a_node_that_is_lost(house: House) -> None:
    house.running("jon")
    node = next(n for n in house.engine.nodes if n["ID"] == house.task("jon")["NodeID"])
    node["Status"]["State"] = "down"
    try:
        found = house.diagnosis("jon", cause="node lost")
        assert "stopped answering" in found["sentence"] and facts(found)["machine"] == node["Description"]["Hostname"]
    finally:
        node["Status"]["State"] = "ready"


def test_a_node_that_is_drained(house: House) -> None:
    house.running("kim")
    node = next(n for n in house.engine.nodes if n["ID"] == house.task("kim")["NodeID"])["Description"]["Hostname"]
    assert house.json("node", "drain", node, "--grace", "1s", "--wait")["availability"] == "drain"
    house.diagnosis("kim", cause="drain")
    assert house.cli("node", "undrain", node).returncode == 0


def test_ordinary_ends(house: House) -> None:
    house.hub.api("POST", "/users/lee")
    for name in ("brief", "old"):
        assert house.hub.api("POST", f"/users/lee/servers/{name}", json={"profile": name}).status_code in (201, 202)
    assert "nothing ran in it for 4 seconds" in house.diagnosis("lee", "brief", "idle")["sentence"]
    assert "longest time, 4 seconds" in house.diagnosis("lee", "old", "max age")["sentence"]
    house.running("lee")
    house.json("session", "stop", "lee")
    house.diagnosis("lee", cause="stopped")


def test_a_session_that_crashes(house: House) -> None:
    house.running("mia")
    house.task("mia")["Status"].update(State="failed", Err="task: non-zero exit (139)", ContainerStatus={"ExitCode": 139})
    assert "segmentation fault" in house.diagnosis("mia", cause="crashed")["sentence"]


def test_a_profile_that_is_not_ones_own_and_an_account_that_is_disabled(house: House) -> None:
    house.refused("nora", profile="pii")
    assert "no profile 'pii' for you" in house.diagnosis("nora", cause="profile")["sentence"]
    assert house.cli("user", "disable", "nora").returncode == 0
    house.diagnosis("nora", cause="disabled")
    assert house.cli("user", "enable", "nora").returncode == 0


def test_each_cause_was_there(house: House) -> None:
    """The last of its kind: pytest runs a module's tests in their order."""
    if len(house.seen) > 15:  # not when only some are run
        assert house.seen == set(STEPS)


def test_the_table_for_people(house: House) -> None:
    house.refused("otto", profile="slice")
    done = house.cli("session", "diagnose", "otto")
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert lines["SESSION"] == "otto" and lines["CAUSE"] == "no room" and "no room for “Slice”" in lines["WHAT"]
    assert lines["THE USER"].startswith("Try again later") and "metalhub node list" in lines["YOU"] and lines["WHEN"].endswith("ago")


@pytest.mark.parametrize(
    ("session", "code", "message"),
    [("nobody", 1, "There is no such user."), ("ann/none", 1, "There is no such session."), ("a/b/c", 2, "is no session"), ("", 2, "is no session")],
)
def test_bad_input_is_one_message(house: House, session: str, code: int, message: str) -> None:
    house.hub.api("POST", "/users/ann")
    done = house.cli("session", "diagnose", session)
    assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_who_may_ask(house: House) -> None:
    for name in ("paul", "rosa"):
        house.hub.api("POST", f"/users/{name}")
    tokens = {name: house.token(name) for name in ("paul", "rosa")}
    house.engine.fate = {"State": "rejected", "Err": "No such image: 10.0.0.1:5000/lab@sha256:aa"}
    try:
        house.refused("paul")
    finally:
        house.engine.fate = {"State": "running"}
    admin = log_in(house.hub, "admin", PASSWORD)
    cases = [("", 403), ("f" * 40, 403), (tokens["rosa"], 404), (tokens["paul"], 200), (CLI_TOKEN, 200), (TOKEN, 200)]
    for path in ("session/diagnosis", "sessions/none/diagnosis"):
        for token, status in cases:
            headers = {"Authorization": f"token {token}"} if token else {}
            answer = requests.get(f"{house.hub.url}/metalhub/api/users/paul/{path}", headers=headers, timeout=10)
            wanted = 404 if status == 200 and "none" in path else status
            assert answer.status_code == wanted, (token, path, answer.text)
            if answer.ok:
                assert answer.json()["cause"] == "image"
                # The engine's words are for administrators.
                assert ("10.0.0.1" in answer.text) is (token == CLI_TOKEN), token
                assert bool(answer.json()["administrators"]) is (token == CLI_TOKEN)
    page = admin.get(f"{house.hub.url}/metalhub/api/users/paul/session/diagnosis", timeout=10)
    assert page.ok and "10.0.0.1" in page.text
    assert "Why?" in html.unescape(admin.get(f"{house.hub.url}/home", timeout=10).text)
