"""The homes service: the real server over real TLS, with a file system that is told by transcripts of btrfs."""

from __future__ import annotations

import http.client
import importlib.machinery
import importlib.util
import json
import os
import ssl
import stat
import threading
import typing as t
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from authority import make_authority
from hypothesis import given
from hypothesis import strategies as st

PROGRAM = Path(__file__).parents[3] / "roles/storage/files/opt/metalhub/storage/metalhub-storage"
SHOW_614 = """Qgroupid    Referenced    Exclusive Max referenced Max exclusive Path
--------    ----------    --------- -------------- ------------- ----
0/257         20938752     20938752       20971520          none homes/alice
"""
SHOW_62 = """Qgroupid    Referenced    Exclusive Max referenced Max exclusive\x20
--------    ----------    --------- -------------- -------------\x20
0/300            16384        16384           none          none\x20
"""


def load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("metalhub_storage", str(PROGRAM))
    spec = importlib.util.spec_from_loader("metalhub_storage", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


service = load()


class FakeBtrfs:
    """Answers as btrfs does, on plain directories; a subvolume is one that was made through it."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.limits, self.failure = root, [], {}, None
        self.subvolumes: set[int] = set()

    def __call__(self, argv: Sequence[str]) -> str:
        self.calls.append(list(argv))
        if self.failure and list(argv[:3]) == self.failure[0]:
            raise service.Refusal(*self.failure[1])
        if list(argv[:3]) == ["btrfs", "subvolume", "create"]:
            os.mkdir(argv[3], 0o755)
            self.subvolumes.add(os.stat(argv[3]).st_ino)
        elif list(argv[:3]) == ["btrfs", "qgroup", "limit"]:
            self.limits[os.stat(argv[4]).st_ino] = argv[3]
        elif list(argv[:7]) == ["btrfs", "qgroup", "show", "-r", "-e", "-f", "--raw"]:
            return f"Qgroupid\n---\n0/257 4096 4096 {self.limits.get(os.stat(argv[7]).st_ino, 'none')} none\n"
        elif argv[0] == "stat":
            return "9123683e\n"
        elif list(argv[:3]) != ["btrfs", "quota", "enable"]:
            raise AssertionError(argv)
        return ""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBtrfs:
    fake = FakeBtrfs(tmp_path)

    def is_home(place: str) -> bool:
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode) or status.st_ino not in fake.subvolumes:
            raise service.Refusal(409, f"{place} is no subvolume")
        return True

    monkeypatch.setattr(service.Homes, "_is_home", staticmethod(is_home))
    monkeypatch.setattr(service.os, "chown", lambda *_: None)
    monkeypatch.setattr(service.os.path, "ismount", lambda _: True)
    return fake


@pytest.fixture
def homes(disk: FakeBtrfs) -> t.Any:
    homes = service.Homes(str(disk.root), "/srv/metalhub", disk)
    homes.prepare(manage_quota=True)
    disk.calls.clear()
    return homes


def test_transcripts() -> None:
    assert service.parse_qgroup(SHOW_614) == (20938752, 20971520)
    assert service.parse_qgroup(SHOW_62) == (16384, None)
    with pytest.raises(service.Refusal, match="quotas"):
        service.parse_qgroup("ERROR: can't list qgroups: quotas not enabled\n")


def test_a_home_is_made_once_and_its_limit_changed(homes: t.Any, disk: FakeBtrfs) -> None:
    assert homes.put("alice", 2**30) == {"home": "alice", "path": "/srv/metalhub/homes/alice", "limit_bytes": 2**30, "used_bytes": 4096}
    assert stat.S_IMODE((disk.root / "homes/alice").stat().st_mode) == 0o700
    (disk.root / "homes/alice/file").write_text("kept", encoding="ascii")
    disk.calls.clear()
    homes.put("alice", 2**30)
    assert not [call for call in disk.calls if call[2] != "show"]
    assert homes.put("alice", 2**31)["limit_bytes"] == 2**31
    assert (disk.root / "homes/alice/file").read_text(encoding="ascii") == "kept"


def test_a_home_that_was_half_made_is_finished(homes: t.Any, disk: FakeBtrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(service.os, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "x")))
        with pytest.raises(OSError):
            homes.put("alice", 2**30)
    with pytest.raises(service.Refusal, match="no home alice"):
        homes.get("alice")
    assert homes.put("alice", 2**30)["limit_bytes"] == 2**30
    assert sorted(path.name for path in (disk.root / "homes").iterdir()) == ["alice"]


def test_many_at_once_make_one(homes: t.Any, disk: FakeBtrfs) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: homes.put("alice", 2**30 + n % 2), range(40)))
    assert {answer["home"] for answer in answers} == {"alice"}
    assert len([call for call in disk.calls if call[1:3] == ["subvolume", "create"]]) == 1


def test_what_is_in_the_way_is_left_alone(homes: t.Any, disk: FakeBtrfs) -> None:
    (disk.root / "homes/plain").mkdir()
    (disk.root / "homes/link").symlink_to("/etc")
    for home in ("plain", "link"):
        with pytest.raises(service.Refusal) as error:
            homes.put(home, 2**30)
        assert error.value.status == 409
    assert not disk.calls


@given(st.text())
def test_only_names_of_homes_reach_the_file_system(name: str) -> None:
    touched: list[str] = []
    homes = service.Homes("/nowhere", "/srv", lambda argv: touched.append("x") or "")
    with pytest.raises(service.Refusal) as error:
        homes.get(name)
    legal = 1 <= len(name) <= 32 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and name[0] != "-" != name[-1]
    assert error.value.status == (404 if legal else 400)
    assert not touched


def test_it_has_no_way_to_remove() -> None:
    text = PROGRAM.read_text(encoding="utf-8")
    for word in ("rmtree", "unlink", "rmdir", "os.remove", '"delete"', "do_DELETE"):
        assert word not in text


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    make_authority(directory, "ca", {name: name for name in ("node", "metalhub-hub", "somebody")}, ["127.0.0.1"])
    make_authority(directory, "foreign", {"forged": "metalhub-hub"}, ["127.0.0.1"])
    return directory


@pytest.fixture
def server(homes: t.Any, pki: Path) -> Iterator[t.Any]:
    server = service.Server(("127.0.0.1", 0), homes.answer, ["metalhub-hub"], str(pki))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def connect(server: t.Any, pki: Path, name: str | None) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if name:
        context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    return http.client.HTTPSConnection("127.0.0.1", server.server_address[1], context=context, timeout=5)


def ask(connection: http.client.HTTPSConnection, method: str, path: str, body: object = None) -> tuple[int, t.Any]:
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_the_hub_is_served_on_one_connection(server: t.Any, pki: Path) -> None:
    connection = connect(server, pki, "metalhub-hub")
    assert ask(connection, "GET", "/health")[1]["status"] == "ok"
    assert ask(connection, "GET", "/homes/alice") == (404, {"error": "there is no home alice"})
    status, home = ask(connection, "PUT", "/homes/alice", {"limit_bytes": 2**30})
    assert (status, home["path"], home["limit_bytes"]) == (200, "/srv/metalhub/homes/alice", 2**30)
    assert ask(connection, "GET", "/homes/alice") == (200, home)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/homes/alice", {"limit_bytes": "1G"}),
        ("/homes/alice", {"limit_bytes": True}),
        ("/homes/alice", {"limit_bytes": 0}),
        ("/homes/alice", {"limit_bytes": -1}),
        ("/homes/alice", {"limit_bytes": 2**70}),
        ("/homes/alice", {}),
        ("/homes/alice", {"limit_bytes": 2**30, "owner": 0}),
        ("/homes/alice", []),
        ("/homes/alice", "x" * 5000),
        ("/homes/Alice", {"limit_bytes": 2**30}),
        ("/homes/..", {"limit_bytes": 2**30}),
        ("/homes/a/b", {"limit_bytes": 2**30}),
        ("/homes/", {"limit_bytes": 2**30}),
        ("/homes/a%2e", {"limit_bytes": 2**30}),
    ],
)
def test_bad_requests_change_nothing(server: t.Any, pki: Path, disk: FakeBtrfs, path: str, body: object) -> None:
    status, answer = ask(connect(server, pki, "metalhub-hub"), "PUT", path, body)
    assert status == 400 and answer["error"]
    assert not disk.calls
    assert ask(connect(server, pki, "metalhub-hub"), "GET", "/health")[0] == 200


def test_others_are_refused(server: t.Any, pki: Path, disk: FakeBtrfs) -> None:
    assert ask(connect(server, pki, "somebody"), "PUT", "/homes/alice", {"limit_bytes": 2**30})[0] == 403
    for name in (None, "forged"):
        with pytest.raises((ssl.SSLError, OSError)):
            ask(connect(server, pki, name), "GET", "/health")
    assert not disk.calls


def test_a_full_disk_is_told_as_such(server: t.Any, pki: Path, disk: FakeBtrfs) -> None:
    disk.failure = (["btrfs", "subvolume", "create"], (507, "btrfs subvolume create: No space left on device"))
    assert ask(connect(server, pki, "metalhub-hub"), "PUT", "/homes/alice", {"limit_bytes": 2**30})[0] == 507


def test_a_renewed_certificate_is_served_without_a_restart(homes: t.Any, pki: Path, tmp_path: Path) -> None:
    for name in ("ca.crt", "node.crt", "node.key"):
        (tmp_path / name).write_bytes((pki / name).read_bytes())
    server = service.Server(("127.0.0.1", 0), homes.answer, ["metalhub-hub"], str(tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:

        def serial() -> str:
            connection = connect(server, pki, "metalhub-hub")
            connection.connect()
            return str(connection.sock.getpeercert()["serialNumber"])

        before = serial()
        for ending in ("crt", "key"):
            (tmp_path / f"node.{ending}").write_bytes((pki / f"somebody.{ending}").read_bytes())
        os.utime(tmp_path / "node.crt", (1, 1))
        assert serial() != before
    finally:
        server.shutdown()
        server.server_close()
