"""The homes service: the real server over real TLS, with a file system that is told by transcripts of btrfs."""

from __future__ import annotations

import http.client
import importlib.machinery
import importlib.util
import json
import os
import shutil
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


NOW = 1_769_882_400


def load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("metalhub_storage", str(PROGRAM))
    spec = importlib.util.spec_from_loader("metalhub_storage", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


service = load()


class Killed(BaseException):
    """The end of the service in the middle of something."""


class FakeBtrfs:
    """Answers as btrfs does, on plain directories; a subvolume is one that was made through it."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.limits, self.failure = root, [], {}, None
        self.subvolumes: set[int] = set()
        self.sealed: set[int] = set()
        self.killed_at: tuple[str, ...] = ()  # the service is killed before the first command that begins so

    def __call__(self, argv: Sequence[str]) -> str:
        if self.killed_at and tuple(argv[: len(self.killed_at)]) == self.killed_at:
            raise Killed
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
        elif list(argv[:3]) == ["btrfs", "subvolume", "snapshot"]:
            shutil.copytree(argv[-2], argv[-1], symlinks=True)
            self.subvolumes.add(os.stat(argv[-1]).st_ino)
            if argv[3] == "-r":
                self.sealed.add(os.stat(argv[-1]).st_ino)
        elif list(argv[:3]) == ["btrfs", "subvolume", "delete"]:
            assert len(argv) == 4 and os.stat(argv[3]).st_ino in self.sealed & self.subvolumes
            shutil.rmtree(argv[3])
        elif list(argv[:5]) == ["btrfs", "property", "get", "-t", "subvol"]:
            return f"ro={'true' if os.stat(argv[5]).st_ino in self.sealed else 'false'}\n"
        elif list(argv[:5]) == ["btrfs", "property", "set", "-t", "subvol"] and list(argv[6:]) == ["ro", "true"]:
            self.sealed.add(os.stat(argv[5]).st_ino)
        elif argv[0] == "stat":
            return "9123683e\n"
        elif list(argv[:3]) not in (["btrfs", "quota", "enable"], ["btrfs", "quota", "rescan"], ["btrfs", "qgroup", "clear-stale"]):
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
    homes = service.Homes(str(disk.root), "/srv/metalhub", disk, keep=3, clock=lambda: NOW)
    homes.prepare(manage_quota=True)
    disk.calls.clear()
    return homes


def test_transcripts() -> None:
    assert service.parse_qgroup(SHOW_614) == (20938752, 20938752, 20971520)
    assert service.parse_qgroup(SHOW_62) == (16384, 16384, None)
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


def test_it_has_one_way_to_remove() -> None:
    text = PROGRAM.read_text(encoding="utf-8")
    for word in ("rmtree", "unlink", "rmdir", "os.remove", "do_DELETE"):
        assert word not in text
    assert [line.strip() for line in text.splitlines() if '"delete"' in line] == ['self._run(["btrfs", "subvolume", "delete", place])']


def inside(disk: FakeBtrfs, home: str = "alice") -> str:
    return (disk.root / "homes" / home / "file").read_text(encoding="ascii")


def write(disk: FakeBtrfs, text: str, home: str = "alice") -> None:
    (disk.root / "homes" / home / "file").write_text(text, encoding="ascii")


def kept(homes: t.Any, home: str = "alice") -> list[str]:
    return [one["name"] for one in homes.snapshots(home)["snapshots"]]


def test_snapshots_are_taken_and_the_oldest_go(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    homes.put("bob", 2**30)
    assert homes.snapshots("alice") == {"home": "alice", "keep": 3, "snapshots": []}
    homes.take("bob", "idle")
    taken = []
    for number in range(5):
        write(disk, str(number))
        taken.append(homes.take("alice", "idle"))
    first, last = taken[0], taken[-1]
    # Five within a second, by the clock.
    assert (first["name"], first["at"], first["cause"]) == ("20260131T180000Z-idle", NOW, "idle")
    assert (first["used_bytes"], first["own_bytes"], last["retired"]) == (4096, 4096, [taken[1]["name"]])
    assert kept(homes) == [one["name"] for one in taken[:1:-1]]
    assert (disk.root / ".snapshots/alice" / last["name"] / "file").read_text(encoding="ascii") == "4"
    assert len(kept(homes, "bob")) == 1
    assert stat.S_IMODE((disk.root / ".snapshots").stat().st_mode) == 0o700


def test_a_restore_brings_back_and_keeps_what_was(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    write(disk, "first")
    first = homes.take("alice", "idle")["name"]
    write(disk, "second")
    done = homes.restore("alice", first)
    assert (done["limit_bytes"], done["restored"], inside(disk)) == (2**30, first, "first")
    assert kept(homes) == [done["before"], first]
    # A restore can be undone, and then once more.
    again = homes.restore("alice", done["before"])
    assert (inside(disk), homes.get("alice")["limit_bytes"]) == ("second", 2**30)
    assert homes.restore("alice", again["before"]) and inside(disk) == "first"
    # What restores replaced stays whatever else is taken.
    for _ in range(6):
        homes.take("alice", "idle")
    assert len([name for name in kept(homes) if name.endswith("before_restore")]) == 3


@pytest.mark.parametrize(
    ("command", "home"),
    [
        (("btrfs", "subvolume", "snapshot"), "second"),
        (("btrfs", "qgroup", "limit"), "second"),
        (("exchange",), "second"),
        (("btrfs", "property", "set"), "first"),
    ],
)
def test_killed_in_a_restore_it_leaves_a_whole_home(
    homes: t.Any, disk: FakeBtrfs, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], home: str
) -> None:
    homes.put("alice", 2**30)
    write(disk, "first")
    first = homes.take("alice", "idle")["name"]
    write(disk, "second")
    exchange = service.exchange

    def dying(one: str, other: str) -> None:
        if disk.killed_at == ("exchange",):
            raise Killed
        exchange(one, other)

    monkeypatch.setattr(service, "exchange", dying)
    disk.killed_at = command
    with pytest.raises(Killed):
        homes.restore("alice", first)
    disk.killed_at = ()
    assert inside(disk) == home
    # The next service knows nothing of it.
    after = service.Homes(str(disk.root), "/srv/metalhub", disk, keep=1, clock=lambda: NOW + 60)
    assert after.put("alice", 2**30)["limit_bytes"] == 2**30 and inside(disk) == home
    names = kept(after)
    texts = {(disk.root / ".snapshots/alice" / name / "file").read_text(encoding="ascii") for name in names} | {inside(disk)}
    assert texts == {"first", "second"}
    assert all(os.stat(disk.root / ".snapshots/alice" / name).st_ino in disk.sealed for name in names)
    assert after.restore("alice", first)["restored"] == first and inside(disk) == "first"
    assert after.get("alice")["limit_bytes"] == 2**30


def test_what_could_have_been_written_to_is_never_removed(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    for _ in range(3):
        homes.take("alice", "idle")
    disk.sealed.discard(os.stat(disk.root / ".snapshots/alice" / kept(homes)[-1]).st_ino)
    assert homes.take("alice", "idle")["retired"] == []
    assert len(kept(homes)) == 4


def test_a_snapshot_that_cannot_be_removed_stays(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    disk.failure = (["btrfs", "subvolume", "delete"], (500, "btrfs subvolume delete: Directory not empty"))
    for _ in range(5):
        assert homes.take("alice", "idle")["retired"] == []
    disk.failure = None
    assert len(homes.take("alice", "idle")["retired"]) == 3


def test_a_full_storage_takes_no_snapshot(homes: t.Any, disk: FakeBtrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    homes.put("alice", 2**30)
    for _ in range(3):
        homes.take("alice", "idle")
    homes.free, homes.keep = 10, 2
    monkeypatch.setattr(homes, "health", lambda: {"total_bytes": 1000, "free_bytes": 99})
    with pytest.raises(service.Refusal, match="less than 10 % of the storage is free") as error:
        homes.take("alice", "idle")
    assert error.value.status == 507 and len(kept(homes)) == 2
    homes.restore("alice", kept(homes)[0])
    monkeypatch.setattr(homes, "health", lambda: {"total_bytes": 1000, "free_bytes": 100})
    homes.take("alice", "idle")


def test_without_snapshots_those_that_are_there_can_be_restored(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    write(disk, "first")
    name = homes.take("alice", "idle")["name"]
    write(disk, "second")
    homes.keep = 0
    with pytest.raises(service.Refusal, match="storage_snapshots_keep is 0") as error:
        homes.take("alice", "idle")
    assert error.value.status == 501
    homes.restore("alice", name)
    assert inside(disk) == "first" and len(kept(homes)) == 2


def test_restores_have_an_end(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    name = homes.take("alice", "idle")["name"]
    for _ in range(20):
        homes.restore("alice", name)
    with pytest.raises(service.Refusal, match="restored 20 times within 7 days") as error:
        homes.restore("alice", name)
    assert error.value.status == 409 and len(kept(homes)) == 21


def test_limits_are_counted_anew_where_the_kernel_gave_up(homes: t.Any, disk: FakeBtrfs, tmp_path: Path) -> None:
    flag = tmp_path / "inconsistent"
    homes._inconsistent = str(flag)
    for text, expected in (("0\n", 0), ("1\n", 1)):
        flag.write_text(text, encoding="ascii")
        homes.put("alice", 2**30)
        assert len([call for call in disk.calls if call[1:3] == ["quota", "rescan"]]) == expected
    disk.failure = (["btrfs", "quota", "rescan"], (500, "quota rescan failed: Operation now in progress"))
    homes.put("alice", 2**30)


def test_a_home_does_not_wait_for_another_ones_snapshot(homes: t.Any, disk: FakeBtrfs) -> None:
    homes.put("alice", 2**30)
    going, on = threading.Event(), threading.Event()

    def slow(argv: Sequence[str]) -> str:
        if argv[1:3] == ["subvolume", "snapshot"]:
            going.set()
            assert on.wait(10)
        return disk(argv)

    homes._run = slow
    with ThreadPoolExecutor(2) as pool:
        taken = pool.submit(homes.take, "alice", "idle")
        assert going.wait(10)
        homes.put("bob", 2**30)
        same = pool.submit(homes.put, "alice", 2**30)
        assert not taken.done() and not same.done()
        on.set()
        assert taken.result(10)["cause"] == "idle" and same.result(10)["home"] == "alice"


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
        ("/homes/alice/snapshots", {}),
        ("/homes/alice/snapshots", {"cause": 1}),
        ("/homes/alice/snapshots", {"cause": "a/b"}),
        ("/homes/alice/snapshots", {"cause": "before_restore"}),
        ("/homes/alice/snapshots", {"cause": "idle", "keep": 0}),
        ("/homes/alice/snapshots/x", {"cause": "idle"}),
        ("/homes/Alice/snapshots", {"cause": "idle"}),
        ("/homes/../snapshots", {"cause": "idle"}),
        ("/homes/alice/restore", {"snapshot": "../../homes/bob"}),
        ("/homes/alice/restore", {"snapshot": "20260131T180000Z"}),
        ("/homes/alice/restore", {"snapshot": None}),
        ("/homes/alice/restore", {"name": "20260131T180000Z-idle"}),
    ],
)
def test_bad_requests_change_nothing(server: t.Any, pki: Path, disk: FakeBtrfs, path: str, body: object) -> None:
    status, answer = ask(connect(server, pki, "metalhub-hub"), "PUT", path, body)
    assert status == 400 and answer["error"]
    assert not disk.calls
    assert ask(connect(server, pki, "metalhub-hub"), "GET", "/health")[0] == 200


def test_snapshots_by_the_hub(server: t.Any, pki: Path, disk: FakeBtrfs) -> None:
    connection = connect(server, pki, "metalhub-hub")
    for path, body in (("snapshots", {"cause": "idle"}), ("restore", {"snapshot": "20260131T180000Z-idle"})):
        assert ask(connection, "PUT", f"/homes/alice/{path}", body) == (404, {"error": "there is no home alice"})
    ask(connection, "PUT", "/homes/alice", {"limit_bytes": 2**30})
    assert ask(connection, "PUT", "/homes/alice/restore", {"snapshot": "20260131T180000Z-idle"})[0] == 404
    status, taken = ask(connection, "PUT", "/homes/alice/snapshots", {"cause": "idle"})
    assert (status, taken["name"]) == (200, "20260131T180000Z-idle")
    status, found = ask(connection, "GET", "/homes/alice/snapshots")
    assert (status, [one["name"] for one in found["snapshots"]]) == (200, [taken["name"]])
    assert ask(connection, "PUT", "/homes/alice/restore", {"snapshot": taken["name"]})[1]["restored"] == taken["name"]
    # Another one's snapshots are not the home's.
    ask(connection, "PUT", "/homes/bob", {"limit_bytes": 2**30})
    assert ask(connection, "PUT", "/homes/bob/restore", {"snapshot": taken["name"]})[0] == 404
    assert ask(connect(server, pki, "somebody"), "GET", "/homes/alice/snapshots")[0] == 403


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
