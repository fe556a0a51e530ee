"""A session that was made in advance waits for its user: a real server, really asked."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[3] / "files/images/lab/rootfs/opt/lab/libexec/claim.py"
SECRET = "s3cret"


@pytest.fixture
def claim() -> Any:
    spec = importlib.util.spec_from_file_location("claim", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Waiting:
    def __init__(self, claim: Any, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.thread = threading.Thread(target=claim.wait, args=(str(home), self.port), daemon=True)
        self.thread.start()

    def ask(self, method: str, path: str, body: str = "", token: str = "") -> tuple[int, dict[str, Any]]:
        for _ in range(100):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request(method, path, body=body or None, headers={"Authorization": token} if token else {})
                break
            except ConnectionRefusedError:
                threading.Event().wait(0.02)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def waiting(claim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    monkeypatch.setenv("METALHUB_WARM", SECRET)
    monkeypatch.setenv("WHO", "nobody")
    before = os.getcwd()
    yield Waiting(claim, tmp_path)
    os.chdir(before)


def test_it_becomes_somebodys_once(waiting: Waiting, tmp_path: Path) -> None:
    assert waiting.ask("GET", "/") == (200, {"warm": True})
    status, _ = waiting.ask("POST", "/claim", '{"WHO": "ann"}', f"token {SECRET}")
    waiting.thread.join(5)
    assert status == 200 and not waiting.thread.is_alive()
    assert os.environ["WHO"] == "ann" and os.getcwd() == str(tmp_path)
    assert "METALHUB_WARM" not in os.environ, "what runs in it must not know the secret"
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", waiting.port, timeout=1).request("GET", "/")


@pytest.mark.parametrize(
    ("path", "body", "token", "status"),
    [
        ("/claim", '{"WHO": "eve"}', "", 403),
        ("/claim", '{"WHO": "eve"}', "token wrong", 403),
        ("/claim", '{"WHO": "eve"}', f"Bearer {SECRET}", 403),
        ("/", '{"WHO": "eve"}', f"token {SECRET}", 403),
        ("/claim", "[]", f"token {SECRET}", 400),
        ("/claim", '{"WHO": 1}', f"token {SECRET}", 400),
        ("/claim", "{", f"token {SECRET}", 400),
        ("/claim", "x" * (2**18 + 1), f"token {SECRET}", 413),
    ],
)
def test_it_stays_nobodys(waiting: Waiting, path: str, body: str, token: str, status: int) -> None:
    assert waiting.ask("POST", path, body, token)[0] == status
    assert waiting.thread.is_alive() and os.environ["WHO"] == "nobody"
    assert waiting.ask("GET", "/") == (200, {"warm": True})
    # So that the thread ends.
    waiting.ask("POST", "/claim", "{}", f"token {SECRET}")
    waiting.thread.join(5)
