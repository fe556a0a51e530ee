"""The audit log's files: what a crash, a full disk and an older release leave, and that nothing is ever dropped in silence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from metalhub_hub import acting, audit
from metalhub_hub.core import audit_chain


def make(directory: Path, **settings: Any) -> audit.Audit:
    return audit.Audit(str(directory / "audit.jsonl"), journal=str(directory / "no-journal"), **settings)


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit.lines(audit.segments(directory))]


def kinds(directory: Path) -> list[str]:
    return [event["kind"] for event in events(directory)]


def verified(directory: Path) -> audit_chain.Verdict:
    verdict = audit_chain.verify(audit.lines(audit.segments(directory)), head=audit.kept_head(directory))
    assert verdict.problem is None
    return verdict


def test_states_events_and_who_asked(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.write("queued", user="ann", session="s")
    asked = acting.request.set(acting.Request("user:bob", "192.0.2.7"))
    log.write("stopped", user="ann", session="s", cause="admin")
    log.write("stopped", user="ann", session="s", cause="lost")
    log.write("override", user="ann", actor="user:root", reason="a deadline")
    acting.request.reset(asked)
    log.close()
    found = [(event["kind"], event["facts"]["actor"]) for event in events(tmp_path)]
    assert found == [
        ("audit.begin", "hub"),
        ("session.queued", "hub"),
        ("session.stopped", "user:bob"),
        ("session.stopped", "hub"),  # he watches the page of a session whose node dies
        ("override", "user:root"),
    ]
    assert verified(tmp_path).lines == 5
    assert audit.kept_head(tmp_path) == log.head
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o640 for name in ("audit.jsonl", "audit-head.json"))


def test_a_second_writer_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, second = make(tmp_path), make(tmp_path)
    second.write("queued", session="s")
    assert second.lag == 1 and "Cannot open the audit log" in caplog.text
    log.close()
    second.write("running", session="s")
    second.close()
    assert kinds(tmp_path) == ["audit.begin", "session.queued", "session.running", "audit.late"]
    verified(tmp_path)


def test_files_of_one_chain(tmp_path: Path) -> None:
    log = make(tmp_path, segment=2000)
    for number in range(40):
        log.write("running", session="s", number=number)
    log.close()
    files = audit.segments(tmp_path)
    assert len(files) > 3 and files[-1].name == "audit.jsonl" and files[0].name == "audit-000000000001.jsonl"
    assert files[1].name == f"audit-{json.loads(files[1].read_bytes().splitlines()[0])['seq']:012}.jsonl"
    # A hub that was killed after it renamed a file and before it began the next.
    os.rename(tmp_path / "audit.jsonl", tmp_path / "audit-000000000039.jsonl")
    log = make(tmp_path, segment=2000)
    log.write("running", session="s")
    log.close()
    assert verified(tmp_path).lines == 42


def test_a_log_without_a_chain_is_kept_and_vouched_for(tmp_path: Path) -> None:
    old = b'{"at": "2026-01-01", "state": "queued"}\n{"at": "2026-01-02", "state": "run'
    (tmp_path / "audit.jsonl").write_bytes(old)
    make(tmp_path).close()
    make(tmp_path).close()
    (event,) = events(tmp_path)
    (file,) = event["facts"]["unchained"]
    assert (tmp_path / file["file"]).read_bytes() == old
    assert file == {"file": "audit-unchained.jsonl", "bytes": len(old), "sha256": hashlib.sha256(old).hexdigest()}


@pytest.mark.parametrize("torn", [b'{"seq":3,"at":"20', b"\0" * 4096, b"{", b"x" * 200_000])
def test_a_torn_line_is_set_aside_and_told(tmp_path: Path, torn: bytes) -> None:
    log = make(tmp_path)
    log.write("queued", session="s")
    log.close()
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(torn)
    make(tmp_path).close()
    assert kinds(tmp_path) == ["audit.begin", "session.queued", "audit.torn"]
    told = events(tmp_path)[-1]["facts"]
    assert (tmp_path / told["file"]).read_bytes() == torn and told["sha256"] == hashlib.sha256(torn).hexdigest()
    make(tmp_path).close()
    assert verified(tmp_path).lines == 3


def test_a_torn_first_line(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_bytes(b'{"seq":1,')
    make(tmp_path).close()
    assert kinds(tmp_path) == ["audit.begin", "audit.torn"]


def test_a_hub_killed_while_it_sets_a_torn_line_aside_tells_it_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path).close()
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b"torn")
    monkeypatch.setattr(audit.Audit, "_append", fails(OSError(errno.ENOSPC, "full")))
    killed = make(tmp_path)
    monkeypatch.undo()
    os.close(killed._lock)
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b"torn again")
    make(tmp_path).close()
    assert kinds(tmp_path)[1:] == ["audit.torn", "audit.torn"]
    assert [(tmp_path / event["facts"]["file"]).read_bytes() for event in events(tmp_path)[1:]] == [b"torn", b"torn again"]


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_a_full_disk_stops_nothing_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    log = make(tmp_path)
    log.write("queued", session="s", number=0)
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:99])

    monkeypatch.setattr(audit.os, "write", half)
    for number in range(1, 4):
        log.write("queued", session="s", number=number)
    assert (log.lag, log.lost) == (3, 0) and log.failed >= 3
    assert caplog.text.count("Cannot write the audit log") == 1
    assert verified(tmp_path).lines == 2, "what did not fit was taken back"
    monkeypatch.undo()
    log.write("queued", session="s", number=4)
    assert log.lag == 0
    log.close()
    found = events(tmp_path)
    assert [event["facts"].get("number") for event in found[1:-1]] == [0, 1, 2, 3, 4]
    assert found[-1]["kind"] == "audit.late" and found[-1]["facts"]["late"] == 3 and found[-1]["facts"]["lost"] == 0
    verified(tmp_path)


def test_what_memory_cannot_hold_is_counted_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WAITING", 5)
    log = make(tmp_path)
    monkeypatch.setattr(audit.os, "write", fails(OSError(errno.EIO, "broken")))
    for _ in range(8):
        log.write("queued", session="s")
    assert (log.lag, log.lost) == (5, 3)
    monkeypatch.undo()
    log.close()
    assert kinds(tmp_path)[-1] == "audit.late" and events(tmp_path)[-1]["facts"]["lost"] == 3
    verified(tmp_path)


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    log = make(tmp_path / "later")
    log.write("queued", session="s")
    assert log.lag == 1
    (tmp_path / "later").mkdir()
    log.write("running", session="s")
    log.close()
    assert kinds(tmp_path / "later") == ["audit.begin", "session.queued", "session.running", "audit.late"]


@pytest.mark.parametrize("how", ["removed", "emptied", "cut"])
def test_lines_missing_at_the_end_are_told(tmp_path: Path, how: str) -> None:
    log = make(tmp_path)
    for _ in range(3):
        log.write("queued", session="s")
    log.close()
    path = tmp_path / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "emptied" else b"".join(lines[:2]))
    make(tmp_path).close()
    assert kinds(tmp_path)[-1] == "audit.truncated"
    facts = events(tmp_path)[-1]["facts"]
    assert (facts["written"], facts["sha256"]) == (4, log.head.sha256)


def test_a_file_moved_away_under_the_hub_is_told(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.write("queued", session="s")
    os.rename(log.path, tmp_path / "elsewhere")
    log.write("running", session="s")
    log.close()
    assert kinds(tmp_path) == ["audit.begin", "audit.truncated", "session.running"]


def test_after_a_line_that_no_hub_wrote_the_rest_is_a_chain_again(tmp_path: Path) -> None:
    make(tmp_path).close()
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b"scribble\n")
    log = make(tmp_path)
    log.write("queued", session="s")
    log.close()
    problem = audit_chain.verify(audit.lines(audit.segments(tmp_path))).problem
    assert problem is not None and problem.index == 2
    last = audit_chain.read((tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)[2])
    assert last is not None and (last["seq"], last["prev"]) == (3, hashlib.sha256(b"scribble\n").hexdigest())


def test_the_end_of_a_large_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "TAIL", 300)
    log = make(tmp_path)
    for _ in range(20):
        log.write("queued", session="s", text="x" * 400)
    log.close()
    log = make(tmp_path)
    log.write("running", session="s")
    log.close()
    assert verified(tmp_path).lines == 22


KILLED = """
import sys
from metalhub_hub import audit
log = audit.Audit(sys.argv[1], journal="/none", segment=20_000)
print("ready", flush=True)
while True:
    log.write("running", session="s", text="x" * 300)
"""


def test_a_hub_killed_at_any_moment_leaves_a_chain(tmp_path: Path) -> None:
    import time

    for number in range(5):
        package = str(Path(__file__).parents[3] / "files" / "hub")
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "audit.jsonl")],
            env={**os.environ, "PYTHONPATH": package}, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout and process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + number * 0.013)
        process.kill()
        process.wait(10)
        process.stdout.close()
    make(tmp_path).close()
    assert verified(tmp_path).lines > 5
    assert set(kinds(tmp_path)) <= {"audit.begin", "session.running", "audit.torn"}


def test_the_journal_has_each_line_with_its_digest(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        journal.settimeout(5)
        log = audit.Audit(str(tmp_path / "audit.jsonl"), journal=str(tmp_path / "socket"))
        log.write("login.ok", user="ann\nMESSAGE=forged")
        received = [journal.recv(65536).decode() for _ in range(2)]
    fields = dict(line.split("=", 1) for line in received[1].splitlines())
    assert (fields["METALHUB_AUDIT_SEQ"], fields["METALHUB_AUDIT_SHA256"]) == ("2", log.head.sha256)
    assert fields["MESSAGE"].encode() + b"\n" == (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)[1]
    log.close()


def test_a_changed_document_is_told_by_the_names_of_its_parts(tmp_path: Path) -> None:
    document = tmp_path / "hub.yml"
    log = make(tmp_path)
    for text in ("quotas: {default: sessions=2}\npools: {}\n", "pools: {}\nquotas: {default: sessions=2}\n", "quotas: {}\nflavors: {}\n"):
        document.write_text(text)
        log.start(document)
    log.close()
    started = [event["facts"] for event in events(tmp_path) if event["kind"] == "hub.started"]
    assert [facts["changed"] for facts in started] == [["pools", "quotas"], [], ["flavors", "pools", "quotas"]]
    assert started[2]["sha256"] == hashlib.sha256(document.read_bytes()).hexdigest()
