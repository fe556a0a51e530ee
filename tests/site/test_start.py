"""A start that fails says why in one sentence, at once or soon, and leaves nothing running."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from cluster import Cluster, Hub, wait

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


def test_no_room_now(cluster: Cluster, guest: Guest, refusal: Callable[..., str]) -> None:
    """The node is large enough for the medium flavor, but a small session holds part of it."""
    cluster.only(cluster.compute[0])
    guest("t-holder").start("t-holder", None)
    sentence = refusal("notebook-medium")
    assert "no room" in sentence and "others hold" in sentence
    assert not cluster.services(USER)


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
    finally:
        cluster.ssh(cluster.storage, "systemctl start metalhub-storage")
    assert "home is offline" in sentence
    cluster.nothing_left(USER)


def test_quota(cluster: Cluster, guest: Guest, refusal: Callable[..., str]) -> None:
    """Two sessions at once are what the demo's quota gives."""
    user = cluster.admin.as_user(USER)
    for path in ("server", "servers/second"):
        answer = user.request("POST", f"/hub/api/users/{USER}/{path}", {})
        assert answer.status in (201, 202), answer
    assert "may have 2" in refusal(path=f"/hub/api/users/{USER}/servers/third")
    assert len(cluster.services(USER)) <= 2
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
        cluster.nothing_left(USER)
        cluster.only(first, second)
        guest("t-elsewhere").start("t-elsewhere", None)
        assert cluster.node_of("t-elsewhere") == second
    finally:
        cluster.ssh(first, f"umount {place}")
    cluster.only(first)
    cluster.admin.as_user(USER).start(USER, None)
