"""Homes of sessions that were made in advance: what is mounted, once, and what is never removed. Mounts are real in molecule/hibernation."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROLE = Path(__file__).parents[3] / "roles/session_agent/files/opt/metalhub/session-agent"
sys.path.insert(0, str(ROLE))

from metalhub_session_agent import warm_homes  # noqa: E402
from metalhub_session_agent.warm_homes import Homes, ask, serve  # noqa: E402

NAME, OTHER = "mh--warm-0123456789ab", "mh--warm-ba9876543210"


class Mounts:
    """A kernel that knows which directory is mounted on which, as far as mount(2) and umount2(2) tell."""

    def __init__(self) -> None:
        self.on: dict[str, list[str]] = {}
        self.busy = False

    def mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        self.on.setdefault(target, []).append(os.path.realpath(source) if source.startswith("/proc/") else source)

    def umount(self, target: str) -> bool:
        if self.busy:
            raise OSError(16, "Device or resource busy", target)
        return bool(self.on.get(target) and self.on[target].pop())


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    found = Mounts()
    monkeypatch.setattr(warm_homes, "mount", found.mount)
    monkeypatch.setattr(warm_homes, "umount", found.umount)
    return found


@pytest.fixture
def homes(tmp_path: Path, mounts: Mounts) -> Homes:
    (tmp_path / "homes" / "ann").mkdir(parents=True)
    (tmp_path / "homes" / "ann" / "thesis").write_text("years")
    made = Homes(str(tmp_path / "homes"), str(tmp_path / "warm"), str(tmp_path / "claims"))
    made.prepare()
    return made


def do(homes: Homes, **asked: Any) -> str:
    return str(homes.answer(json.dumps(asked).encode()).get("error", ""))


def test_a_home_comes_and_goes(homes: Homes, mounts: Mounts, tmp_path: Path) -> None:
    inner = str(tmp_path / "warm" / NAME / "user")
    assert do(homes, do="make", name=NAME) == ""
    assert os.stat(inner).st_mode & 0o777 == 0o755, "who is not root can write nothing there before the home is"
    assert do(homes, do="give", name=NAME, home="ann", user="ann", profile="small") == ""
    assert mounts.on[inner] == [str(tmp_path / "homes" / "ann")]
    assert json.loads((tmp_path / "claims" / NAME).read_text()) == {"user": "ann", "profile": "small"}
    assert homes.answer(b'{"do": "list"}') == {"names": [NAME]}
    assert do(homes, do="end", name=NAME) == ""
    assert mounts.on[inner] == [] and os.listdir(tmp_path / "warm") == os.listdir(tmp_path / "claims") == []
    assert (tmp_path / "homes" / "ann" / "thesis").read_text() == "years"
    assert do(homes, do="end", name=NAME) == "", "the end may come twice"


def test_it_is_given_once(homes: Homes, mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "homes" / "bob").mkdir()
    do(homes, do="make", name=NAME)
    do(homes, do="give", name=NAME, home="ann")
    assert "somebody's already" in do(homes, do="give", name=NAME, home="bob")
    assert "File exists" in do(homes, do="make", name=NAME), "nor is its name used again"
    assert mounts.on[str(tmp_path / "warm" / NAME / "user")] == [str(tmp_path / "homes" / "ann")]


def test_what_cannot_be_unmounted_is_not_touched(homes: Homes, mounts: Mounts, tmp_path: Path) -> None:
    do(homes, do="make", name=NAME)
    # As if the home were there: nothing below may ever be removed by anything but its user.
    inner = tmp_path / "warm" / NAME / "user"
    (inner / "thesis").write_text("years")
    assert "not empty" in do(homes, do="end", name=NAME)
    mounts.busy = True
    assert "busy" in do(homes, do="end", name=NAME)
    assert (inner / "thesis").read_text() == "years"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"do": "give", "name": NAME, "home": "bob"}, "the home bob is not there"),
        ({"do": "give", "name": NAME, "home": "link"}, "the home link is not there"),
        ({"do": "give", "name": NAME, "home": "file"}, "the home file is not there"),
        ({"do": "give", "name": NAME, "home": "../homes/ann"}, "is no home"),
        ({"do": "give", "name": NAME, "home": ".."}, "is no home"),
        ({"do": "give", "name": NAME, "home": ""}, "is no home"),
        ({"do": "give", "name": NAME}, "is no home"),
        ({"do": "give", "name": OTHER, "home": "ann"}, "has no directory here"),
        ({"do": "give", "name": "../" + NAME, "home": "ann"}, "is no session that was made ready"),
        ({"do": "make", "name": "../evil"}, "is no session that was made ready"),
        ({"do": "make", "name": NAME + "\n"}, "is no session that was made ready"),
        ({"do": "end", "name": ".."}, "is no session that was made ready"),
        ({"do": "end", "name": None}, "is no session that was made ready"),
        ({"do": "format"}, "none of make, give, end and list"),
        ({}, "KeyError"),
    ],
)
def test_what_is_refused(homes: Homes, mounts: Mounts, tmp_path: Path, asked: dict[str, Any], why: str) -> None:
    (tmp_path / "homes" / "link").symlink_to("ann")
    (tmp_path / "homes" / "file").write_text("")
    do(homes, do="make", name=NAME)
    before = {place: list(found) for place, found in mounts.on.items()}
    assert why in do(homes, **asked)
    assert mounts.on == before and os.listdir(tmp_path / "warm") == [NAME]


@pytest.fixture
def channel(homes: Homes, tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        threading.Thread(target=serve, args=(homes, listening), daemon=True).start()
        yield path


def test_by_the_socket(channel: str, tmp_path: Path) -> None:
    assert ask({"do": "make", "name": NAME}, channel) == {}
    assert ask({"do": "list"}, channel) == {"names": [NAME]}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as nonsense:
        nonsense.connect(channel)
        nonsense.sendall(b"\xff\n")
        assert "error" in json.loads(nonsense.recv(4096))
    assert ask({"do": "end", "name": NAME}, channel) == {}, "it goes on"
