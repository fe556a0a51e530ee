"""A start that fails says why in one sentence, at once or soon, and leaves nothing running; one without room waits."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster import Cluster, Hub, ProofError, wait

Guest = Callable[[str], Hub]
USER = "t-refused"
MANIFEST = "/etc/metalhub/images.json"


@pytest.fixture
def refusal(cluster: Cluster, guest: Guest) -> Iterator[Callable[..., str]]:
    """Ask for a session that cannot be, and return the sentence the user is told, after checks that hold for each of them."""
    user = guest(USER)

    def ask(profile: str | None = None, path: str = f"/hub/api/users/{USER}/server") -> str:
        begin = time.monotonic()
        answer = user.request("POST", path, {"profile": profile} if profile else {})
        name = path.partition("/servers/")[2]
        if answer.status in (201, 202):
            # It failed after the answer was due: the reason is in the progress, as the waiting page reads it.
            wait("the end of the start", lambda: cluster.server(USER, name).get("pending") != "spawn", 60)
            assert not cluster.server(USER, name).get("ready"), "the session started"
            sentence = user.failure(USER)
        else:
            assert answer.status in (400, 403, 503), answer
            sentence = answer.json()["message"]
        print(f"\n  after {time.monotonic() - begin:.1f} s: {sentence}")
        assert sentence.rstrip().endswith((".", "!")) or "tell an administrator" in sentence, sentence
        assert "Traceback" not in sentence and len(sentence) < 250, sentence
        return sentence

    yield ask
    cluster.stop_all(USER)
    cluster.nothing_left(USER)


def place_in_queue(cluster: Cluster, user: str) -> dict[str, Any]:
    """What a user is told whose start waits; empty where it does not, or the hub does not answer."""
    with contextlib.suppress(ProofError, ValueError, KeyError):
        (session,) = cluster.admin.request("GET", f"/hub/metalhub/api/users/{user}/sessions").json()["sessions"]
        assert "queue" not in session or session["state"] == "queued"
        return dict(session.get("queue", {}))
    return {}


def test_where_there_is_no_room_a_start_waits(cluster: Cluster, guest: Guest) -> None:
    """The node is large enough for the medium flavor, but a small session holds part of it. The wait outlives the hub."""
    cluster.only(cluster.compute[0])
    guest("t-holder").start("t-holder", None)
    answer = guest(USER).request("POST", f"/hub/api/users/{USER}/server", {"profile": "notebook-medium"})
    # A start that is slow is answered by either.
    assert answer.status in (201, 202), answer
    told = wait("a place in the queue", lambda: place_in_queue(cluster, USER), 20)
    assert told["position"] == 1 and told["message"].startswith("You are next. "), told
    (row,) = cluster.admin.request("GET", "/hub/metalhub/api/queue").json()["queue"]
    assert (row["user"], row["profile"]) == (USER, "notebook-medium")
    assert f"{USER} " in cluster.ssh(cluster.control, "metalhub queue list")
    assert not cluster.services(USER)
    found = cluster.diagnosis(USER)
    assert (found["cause"], found["now"]) == ("no room", True) and found["facts"]["room now"].startswith("0 places on 1 machine")

    cluster.ssh(cluster.control, "systemctl restart metalhub-hub")
    again = wait("the place after the hub's restart", lambda: place_in_queue(cluster, USER), 90, 0.5)
    assert again["since"] == told["since"]
    assert cluster.server("t-holder").get("ready") and not cluster.services(USER)
    cluster.stop_all("t-holder")
    wait("the session", lambda: cluster.server(USER).get("ready"), 60)
    assert len(cluster.services(USER)) == 1 and not place_in_queue(cluster, USER)


def test_who_leaves_the_queue_starts_nothing(cluster: Cluster, guest: Guest) -> None:
    cluster.only(cluster.compute[0])
    guest("t-holder").start("t-holder", None)
    user = guest(USER)
    user.request("POST", f"/hub/api/users/{USER}/server", {"profile": "notebook-medium"})
    wait("a place in the queue", lambda: place_in_queue(cluster, USER), 20)
    cluster.stop_all(USER)
    assert cluster.admin.request("GET", "/hub/metalhub/api/queue").json()["queue"] == []
    cluster.stop_all("t-holder")
    time.sleep(5)
    assert not cluster.services(USER) and not cluster.server(USER).get("ready")


def test_no_machine(cluster: Cluster, refusal: Callable[..., str]) -> None:
    cluster.only()
    assert "no machine of its pool" in refusal()
    assert not cluster.services(USER)


def test_image_missing(cluster: Cluster, refusal: Callable[..., str]) -> None:
    """The manifest names a digest that no registry has."""
    cluster.ssh(cluster.control, f"cp -a {MANIFEST} {MANIFEST}.kept && sed -i -E 's/sha256:[0-9a-f]+/sha256:{'0' * 64}/' {MANIFEST}")
    try:
        sentence = refusal()
    finally:
        cluster.ssh(cluster.control, f"mv {MANIFEST}.kept {MANIFEST}")
    assert "image “lab” is missing" in sentence
    cluster.nothing_left(USER)
    found = cluster.diagnosis(USER)
    assert found["cause"] == "image" and found["facts"]["engine"] and found["facts"]["machine"] in cluster.compute


def test_an_image_that_the_node_has_lost_is_pulled(cluster: Cluster, guest: Guest) -> None:
    """Images are pulled ahead; where one is not there all the same, the hub's account at the registry brings it."""
    node = cluster.compute[0]
    cluster.only(node)
    image = json.loads(cluster.ssh(cluster.control, f"cat {MANIFEST}"))["lab"]
    cluster.ssh(node, f"docker image rm -f $(docker image inspect -f '{{{{.Id}}}}' {image})", timeout=120)
    user = guest("t-pull")
    user.start("t-pull", None)
    assert cluster.node_of("t-pull") == node
    cluster.ssh(node, f"docker image inspect {image}")


def test_home_offline(cluster: Cluster, refusal: Callable[..., str]) -> None:
    cluster.ssh(cluster.storage, "systemctl stop metalhub-storage")
    try:
        sentence = refusal()
        assert cluster.diagnosis(USER)["now"] is True
    finally:
        cluster.ssh(cluster.storage, "systemctl start metalhub-storage")
    assert "home is offline" in sentence
    assert (found := cluster.diagnosis(USER))["cause"] == "home offline" and found["now"] is False
    cluster.nothing_left(USER)


def test_quota(cluster: Cluster, guest: Guest, refusal: Callable[..., str]) -> None:
    """Two sessions at once are what the demo's quota gives."""
    user = cluster.admin.as_user(USER)
    for path in ("server", "servers/second"):
        answer = user.request("POST", f"/hub/api/users/{USER}/{path}", {})
        assert answer.status in (201, 202), answer
    assert "may have 2" in refusal(path=f"/hub/api/users/{USER}/servers/third")
    assert len(cluster.services(USER)) <= 2
    found = cluster.diagnosis(USER, "third")
    assert (found["cause"], found["now"]) == ("quota", True) and "may have 2" in found["sentence"]
    used = cluster.admin.request("GET", f"/hub/metalhub/api/usage?user={USER}").json()
    assert [limit["used"] for limit in used["limits"] if limit["resource"] == "sessions"] == [2]


def test_a_full_disk_on_a_node(cluster: Cluster, guest: Guest, refusal: Callable[..., str]) -> None:
    """Where the engine keeps its containers, a file system without room is mounted; the other node still serves."""
    first, second = cluster.compute[:2]
    place = "/var/lib/docker/containers"
    cluster.ssh(first, f"mount -t tmpfs -o size=64k none {place} && ! head -c 1M /dev/zero > {place}/full 2>/dev/null")
    try:
        cluster.only(first)
        sentence = refusal()
        assert "full disk" in sentence
        assert (found := cluster.diagnosis(USER))["cause"] == "disk full" and found["facts"]["machine"] == first
        cluster.nothing_left(USER)
        cluster.only(first, second)
        guest("t-elsewhere").start("t-elsewhere", None)
        assert cluster.node_of("t-elsewhere") == second
    finally:
        cluster.ssh(first, f"umount {place}")
    cluster.only(first)
    cluster.admin.as_user(USER).start(USER, None)


def test_a_stop_leaves_a_snapshot_that_brings_back_a_deleted_file(cluster: Cluster, guest: Guest) -> None:
    name, snapshots = "t-snapshot", "/hub/metalhub/api/users/t-snapshot/snapshots"
    user, admin = guest(name), cluster.admin
    user.start(name, "notebook")
    with user.kernel(name) as kernel:
        kernel.run("import pathlib; pathlib.Path('/home/user/kept.txt').write_text('what is dear to me')")
        kernel.run("pathlib.Path('/home/user/later.txt').unlink(missing_ok=True)")
    # While it runs nothing is restored, also not what somebody asks for.
    taken = user.request("POST", snapshots, {})
    assert taken.status == 201, taken
    refused = user.request("POST", f"{snapshots}/{taken.json()['name']}/restore", {})
    assert refused.status == 409 and "stop all sessions first" in refused.json()["message"], refused
    user.stop(name)

    def newest() -> dict[str, str]:
        found: dict[str, str] = next(iter(admin.request("GET", snapshots).json()["snapshots"]), {})
        return found

    ended = wait("the snapshot of the session's end", lambda: newest() if newest().get("cause") == "user" else None, 30)
    home = cluster.home(name)
    limit = "btrfs qgroup show -r -f --raw {0} | tail -n 1 | awk '{{print $4}}'"
    before = cluster.ssh(cluster.storage, limit.format(home))
    cluster.ssh(cluster.storage, f"rm {home}/kept.txt && echo new > {home}/later.txt")
    assert guest("t-somebody").request("POST", f"{snapshots}/{ended['name']}/restore", {}).status == 404
    done = user.request("POST", f"{snapshots}/{ended['name']}/restore", {})
    assert done.status == 200, done
    assert cluster.ssh(cluster.storage, limit.format(home)) == before
    user.start(name, "notebook")
    with user.kernel(name) as kernel:
        said = kernel.run("import pathlib; home = pathlib.Path('/home/user'); print((home / 'kept.txt').read_text(), (home / 'later.txt').exists())")
        assert said.strip() == "what is dear to me False"
        kernel.run("(home / 'written.txt').write_text('a restored home can be written to')")
    user.stop(name)
    # The restore can be undone.
    assert user.request("POST", f"{snapshots}/{done.json()['before']}/restore", {}).status == 200
    assert cluster.ssh(cluster.storage, f"cat {home}/later.txt") == "new"
    output = cluster.ssh(cluster.control, f"metalhub snapshot list {name}")
    assert ended["name"] in output and "before_restore" in output
