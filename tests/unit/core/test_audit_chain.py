"""The audit log's chain: each way to change a file is found at the right line."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.module_utils import audit_chain
from plugins.module_utils.audit_chain import GENESIS, START, Link

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)


def chain(count: int, start: Link = START) -> list[bytes]:
    lines, last = [], start
    for number in range(count):
        line = audit_chain.seal(last.seq + 1, audit_chain.stamp(NOW), "session.running", {"user": "ann", "number": number}, last.sha256)
        lines.append(line)
        last = Link(last.seq + 1, audit_chain.digest(line))
    return lines


def head(lines: list[bytes]) -> Link:
    return Link(json.loads(lines[-1])["seq"], audit_chain.digest(lines[-1]))


def test_a_line_says_what_it_is_and_can_be_checked_by_hand() -> None:
    one, two = chain(2)
    assert one == (
        b'{"seq":1,"at":"2026-03-01T12:00:00.123Z","kind":"session.running","facts":{"user":"ann","number":0},"prev":"' + b"0" * 64 + b'"}\n'
    )
    assert json.loads(one)["prev"] == GENESIS
    assert json.loads(two)["prev"] == hashlib.sha256(one).hexdigest()


@given(st.integers(0, 12), st.integers(0, 1000))
def test_a_whole_chain_is_good_from_wherever_it_begins(count: int, begin: int) -> None:
    start = Link(begin, "ab" * 32)
    lines = chain(count, start)
    verdict = audit_chain.verify(lines, start, head(lines) if lines else None)
    assert (verdict.problem, verdict.lines, verdict.last.seq) == (None, count, begin + count)


def edit(line: bytes, old: bytes = b"ann", new: bytes = b"eve") -> bytes:
    assert old in line
    return line.replace(old, new)


def without(lines: list[bytes], begin: int, end: int) -> list[bytes]:
    return lines[:begin] + lines[end:]


def forged(lines: list[bytes], at: int) -> bytes:
    """A line that somebody who knows the format puts after the first ``at``."""
    return audit_chain.seal(at + 1, audit_chain.stamp(NOW), "login.ok", {"user": "eve"}, audit_chain.digest(lines[at - 1]))


@pytest.mark.parametrize(
    ("change", "index", "what"),
    [
        (lambda x: [*x[:4], edit(x[4]), *x[5:]], 5, "edited"),
        (lambda x: [edit(x[0]), *x[1:]], 1, "edited"),
        (lambda x: [*x[:4], edit(x[4], x[4][-67:-3], b"f" * 64), *x[5:]], 5, "edited"),
        (lambda x: [edit(x[0], b"0" * 64, b"f" * 64), *x[1:]], 1, "edited"),
        (lambda x: [*x[:4], edit(x[4], b'"seq":5', b'"seq":7'), *x[5:]], 5, "edited"),
        (lambda x: [*x[:4], b"\n", *x[5:]], 5, "edited"),
        (lambda x: [*x[:4], b"not JSON\n", *x[5:]], 5, "edited"),
        (lambda x: [*x[:4], b'{"seq": true}\n', *x[5:]], 5, "edited"),
        (lambda x: [*x[:4], edit(x[4], b'{"seq":5', b'{"seq":5,"seq":5'), *x[5:]], 5, "edited"),
        (lambda x: without(x, 4, 5), 5, "removed"),
        (lambda x: without(x, 4, 7), 5, "removed"),
        (lambda x: without(x, 0, 3), 1, "removed"),
        (lambda x: [*x[:4], x[4], x[4], *x[5:]], 5, "inserted"),
        (lambda x: [*x[:4], forged(x, 4), *x[4:]], 5, "inserted"),
        (lambda x: [*x[:4], x[5], x[4], *x[6:]], 5, "reordered"),
        (lambda x: [*x, x[-1][:40]], 11, "torn"),
        (lambda x: x[:8], 9, "truncated"),
        (lambda x: [], 1, "truncated"),
        (lambda x: [*x[:9], edit(x[9])], 10, "edited"),
        (lambda x: [*x[:9], forged(x, 9)], 10, "edited"),
    ],
)
def test_the_first_broken_line_is_named(change: Callable[[list[bytes]], list[bytes]], index: int, what: str) -> None:
    lines = chain(10)
    problem = audit_chain.verify(change(lines), head=head(lines)).problem
    assert problem is not None
    assert (problem.index, problem.what) == (index, what), problem.words


@given(st.data())
def test_no_changed_byte_goes_unseen(data: st.DataObject) -> None:
    lines = chain(6)
    text = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= data.draw(st.integers(1, 255))
    problem = audit_chain.verify(bytes(text).splitlines(keepends=True), head=head(lines)).problem
    line = bytes(b"".join(lines)[:at]).count(b"\n") + 1
    # A byte that becomes a newline, or was one, makes two lines of one or one of two.
    assert problem is not None and abs(problem.index - line) <= 1


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_the_checks_by_hand_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    script = page.split("and for all of them:\n\n")[1].split("\n\n## ")[0]
    lines = chain(6)
    (tmp_path / "audit-000000000001.jsonl").write_bytes(b"".join(lines[:3]))
    for last, said in ((lines[5], ""), (edit(lines[5], b'"prev":"', b'"prev":"0'), "broken at: "), (lines[4], "broken at: ")):
        (tmp_path / "audit.jsonl").write_bytes(b"".join([*lines[3:5], last]))
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert not done.stderr and done.stdout.startswith(said) and bool(done.stdout) is bool(said)


def test_what_it_cannot_tell_without_a_head_that_was_kept() -> None:
    lines = chain(10)
    assert audit_chain.verify(lines[:8]).problem is None
    assert audit_chain.verify(lines[:8], head=head(lines[:5])).problem is None
    with pytest.raises(ValueError, match="give a later head"):
        audit_chain.verify(lines[5:], head(lines[:5]), head(lines[:2]))


def test_no_secret_and_no_endless_text_becomes_a_fact() -> None:
    facts = {"password": "hunter2", "token": "abc", "nested": {"api_key": "k", "Authorization": "token x"}, "long": "x" * 5000, "set": {"b", "a"}}
    line = audit_chain.seal(1, audit_chain.stamp(NOW), "x.y", facts, GENESIS)
    assert not any(secret in line for secret in (b"hunter2", b'"abc"', b'"k"', b"token x"))
    found = json.loads(line)["facts"]
    assert len(found["long"]) == audit_chain.LONGEST and found["set"] == ["a", "b"]


@pytest.mark.parametrize("name", ["Jörg", "a\nb", "\ud800", "\x00", "\u2028", '"'])
def test_any_name_is_one_line(name: str) -> None:
    line = audit_chain.seal(1, audit_chain.stamp(NOW), "login.ok", {"user": name}, GENESIS)
    assert line.count(b"\n") == 1 and json.loads(line)["facts"]["user"] == name
    assert audit_chain.verify([line]).problem is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-01-31", "2026-01-31T00:00:00.000Z"),
        ("2026-01-31T13:00", "2026-01-31T13:00:00.000Z"),
        ("2026-01-31T13:00:01.500Z", "2026-01-31T13:00:01.500Z"),
        ("2026-01-31T13:00+02:00", "2026-01-31T11:00:00.000Z"),
        ("24h", "2026-02-28T12:00:00.123Z"),
    ],
)
def test_moments(text: str, found: str) -> None:
    assert audit_chain.moment(text, NOW) == found


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "7", "99999999w"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: write a date"):
        audit_chain.moment(text, NOW)
