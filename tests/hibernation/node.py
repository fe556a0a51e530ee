"""What is done on the node: sessions are made, paused and woken by the engine's API, and the agent is asked as the hub asks it.

    python3 -m hibernation.node FUNCTION SANDBOX [NUMBER...]      calls a function of this file and prints what it gives as a line of JSON
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, "/opt/metalhub/session-agent")

from metalhub_session_agent.engine_api import Engine, EngineError  # noqa: E402

from . import IMAGE  # noqa: E402
from .holder import PORT  # noqa: E402

PKI = "/etc/metalhub/pki"
engine = Engine()


def ask_agent(path: str, address: str = "127.0.0.1", method: str = "GET", body: t.Any = None) -> t.Any:
    """One question to the agent with the hub's certificate."""
    context = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
    context.check_hostname = False
    context.load_cert_chain(f"{PKI}/hub-client.crt", f"{PKI}/hub-client.key")
    connection = http.client.HTTPSConnection(address, 8702, timeout=20, context=context)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body))
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return json.loads(text) if text.startswith("{") else text


class Session:
    """One container as the hub's services make them, but for Swarm."""

    def __init__(self, name: str, sandbox: str, mib: int, limit: int = 0) -> None:
        self.name = name
        self.remove()
        self.container = engine.request("POST", f"/containers/create?name={name}", {
            "Image": IMAGE, "Cmd": ["python3", "-m", "hibernation.holder", str(mib)], "User": "1000:1000",
            "Env": [f"METALHUB_SANDBOX={sandbox}", "PYTHONPATH=/hibernation", "PYTHONDONTWRITEBYTECODE=1"], "Labels": {"metalhub.session": name},
            "HostConfig": {"Binds": ["/usr:/usr:ro", "/opt/hibernation-test:/hibernation:ro"], "CapDrop": ["ALL"], "ReadonlyRootfs": True,
                           "Memory": limit or (mib + 1024) << 20, "RestartPolicy": {"Name": "no"}},
        })["Id"]  # fmt: skip
        engine.request("POST", f"/containers/{self.container}/start")
        self.address = engine.request("GET", f"/containers/{self.container}/json")["NetworkSettings"]["IPAddress"]
        self.channel = self._connect()

    def _connect(self) -> t.Any:
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection((self.address, PORT), timeout=120).makefile("rw")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def ask(self, question: str) -> t.Any:
        """One question to what runs in it."""
        self.channel.write(question + "\n")
        self.channel.flush()
        return json.loads(self.channel.readline())

    def pause(self) -> None:
        """Pause it, as the hub does."""
        engine.request("POST", f"/containers/{self.container}/pause")

    def unpause(self) -> None:
        """Let it go on."""
        engine.request("POST", f"/containers/{self.container}/unpause")

    def figures(self) -> t.Any:
        """What the agent says of it; None where it says nothing."""
        return next((one for one in ask_agent("/status")["sessions"] if one["container"] == self.container), None)

    def wait(self, *states: str, seconds: float = 60) -> t.Any:
        """Its figures once it is in one of the states."""
        deadline = time.monotonic() + seconds
        while (found := self.figures()) is None or found["state"] not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not {' or '.join(states)}: {found}")
            time.sleep(0.05)
        return found

    def remove(self) -> None:
        """End it, and forget it."""
        try:
            engine.request("DELETE", f"/containers/{self.name}?force=true&v=true")
        except EngineError as error:
            if error.status != 404:
                raise


def measure(sandbox: str, mib: int, cycles: int, agent: bool = True) -> dict[str, t.Any]:
    """Hibernate and wake a session so many times; at last read all of its memory. Without the agent it is only paused."""
    one = Session(f"hibernate-{sandbox}", sandbox, mib)
    try:
        digest, count = one.ask("all")["digest"], one.ask("small")["count"]
        held, left, seconds, wakes = [], [], [], []
        for _ in range(cycles):
            # All of it is in memory before, or what stayed in swap the last time would make the next easier than it is.
            one.ask("all")
            if agent:
                held.append(one.figures()["memory"])
            one.pause()
            if agent:
                found = one.wait("reclaimed", seconds=120)
                left.append(found["memory"])
                seconds.append(found["seconds"])
            start = time.monotonic()
            one.unpause()
            answer = one.ask("small")["count"]
            wakes.append(time.monotonic() - start)
            count += 1
            if answer != count:
                raise AssertionError(f"the session counted to {answer} and not to {count}")
        start = time.monotonic()
        after = one.ask("all")
        touched = time.monotonic() - start
        return {"sandbox": sandbox, "mib": mib, "cycles": cycles, "same": after["digest"] == digest and after["count"] == count,
                "held": held, "left": left, "seconds": seconds, "wakes": wakes, "touched": touched}  # fmt: skip
    finally:
        one.remove()


def paused(sandbox: str, mib: int, cycles: int) -> dict[str, t.Any]:
    """The same while there is no agent: what pausing and waking costs by itself. Nothing is held and left then."""
    subprocess.run(["systemctl", "stop", "metalhub-session-agent"], check=True)
    try:
        return measure(sandbox, mib, cycles, agent=False)
    finally:
        subprocess.run(["systemctl", "start", "metalhub-session-agent"], check=True)


def refused(sandbox: str, mib: int) -> dict[str, t.Any]:
    """A session that may not hibernate is asked about, and paused all the same."""
    one = Session(f"refused-{sandbox}", sandbox, mib)
    try:
        digest = one.ask("all")["digest"]
        before = one.wait("running")["memory"]
        check = ask_agent(f"/check/{one.name}")
        one.pause()
        one.wait("frozen")
        time.sleep(1)
        after = one.figures()
        one.unpause()
        return {"check": check, "state": after["state"], "before": before, "after": after["memory"], "same": one.ask("all")["digest"] == digest}
    finally:
        one.remove()


def _kill_in_the_middle(one: Session) -> None:
    one.pause()
    one.wait("reclaiming")
    subprocess.run(["systemctl", "kill", "-s", "KILL", "metalhub-session-agent"], check=True)


def killed(sandbox: str, mib: int) -> dict[str, t.Any]:
    """The agent is killed in mid-reclaim: the session is woken without it, and the next time is left to the agent that comes after."""
    one = Session(f"killed-{sandbox}", sandbox, mib)
    try:
        first = one.ask("all")
        check = ask_agent(f"/check/{one.name}")
        _kill_in_the_middle(one)
        one.unpause()
        woken = one.ask("all") == first
        deadline = time.monotonic() + 30
        while True:  # the unit comes back by itself
            try:
                ask_agent("/status")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        one.wait("running")
        _kill_in_the_middle(one)
        time.sleep(2)
        left = one.wait("reclaimed")["memory"]
        paused = engine.request("GET", f"/containers/{one.container}/json")["State"]["Paused"]
        one.unpause()
        return {"check": check, "woken": woken, "left": left, "paused": paused, "same": one.ask("all") == first}
    finally:
        one.remove()


def interrupted(sandbox: str, mib: int) -> dict[str, t.Any]:
    """A session is woken in mid-reclaim: what it answers, and how much the kernel goes on to take from it afterwards."""
    one = Session(f"interrupted-{sandbox}", sandbox, mib)
    try:
        first = one.ask("all")
        one.pause()
        one.wait("reclaiming")
        one.unpause()
        same = one.ask("all") == first
        state, memory = (found := one.figures())["state"], found["memory"]
        time.sleep(1)
        return {"same": same, "state": state, "memory": memory, "later": one.figures()["memory"]}
    finally:
        one.remove()


def out_of_memory(sandbox: str, mib: int) -> t.Any:
    """A session takes memory until the kernel ends it: what the agent says of it afterwards."""
    one = Session(f"oom-{sandbox}", sandbox, mib, limit=2 * mib << 20)
    try:
        one.wait("running")
        with contextlib.suppress(OSError, ValueError):  # it is gone, and its answer with it
            one.ask("grow")
        return one.wait("ended", seconds=90)
    finally:
        one.remove()


def strangers(_: str) -> dict[str, str]:
    """What others than the hub get: a host's own certificate, and none."""
    said = {}
    for name, certificate in {"node": f"{PKI}/node", "none": ""}.items():
        context = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
        context.check_hostname = False
        if certificate:
            context.load_cert_chain(f"{certificate}.crt", f"{certificate}.key")
        connection = http.client.HTTPSConnection("127.0.0.1", 8702, timeout=10, context=context)
        try:
            connection.request("GET", "/status")
            said[name] = str(connection.getresponse().status)
        except OSError as error:
            said[name] = type(error).__name__
    return said


WAITS = """
touch /home/user/early && echo wrote before it was anybodys
while ! cat /home/user/thesis 2>/dev/null; do sleep 0.05; done
echo mine > /home/user/written
sleep 300
"""


def given(sandbox: str) -> dict[str, t.Any]:
    """A session is made before it is anybody's, is given a home, and ends; in runc nobody is there to hear of the end."""
    name, home = f"mh--warm-{os.urandom(6).hex()}", Path("/srv/metalhub/homes/ann")
    home.mkdir(parents=True, exist_ok=True)
    for file in ("written", "thesis"):
        (home / file).unlink(missing_ok=True)
    # Docker logs whole lines.
    (home / "thesis").write_text("years\n")
    os.chown(home, 1000, 1000)
    said = {"unknown": ask_agent(f"/warm/{name}/home", method="PUT", body={"home": "ann"})}
    said["made"] = ask_agent(f"/warm/{name}", method="PUT", body={})
    container = engine.request("POST", f"/containers/create?name={name}", {
        "Image": IMAGE, "Cmd": ["sh", "-c", WAITS], "User": "1000:1000", "Env": [f"METALHUB_SANDBOX={sandbox}"],
        "Labels": {"metalhub.session": name},
        "HostConfig": {"Binds": ["/usr:/usr:ro", f"/run/metalhub/warm/{name}:/home:rslave"], "CapDrop": ["ALL"], "ReadonlyRootfs": True},
    })["Id"]  # fmt: skip
    try:
        engine.request("POST", f"/containers/{container}/start")
        time.sleep(2)
        begin = time.monotonic()
        said["given"] = ask_agent(f"/warm/{name}/home", method="PUT", body={"home": "ann", "user": "ann", "profile": "small"})
        while not (home / "written").exists() and time.monotonic() - begin < 20:
            time.sleep(0.01)
        said["seconds"] = time.monotonic() - begin
        said["again"] = ask_agent(f"/warm/{name}/home", method="PUT", body={"home": "ann"})
        said["claim"] = json.loads(Path("/run/metalhub/claims", name).read_text())
        said["log"] = subprocess.run(["docker", "logs", name], check=True, capture_output=True, text=True).stdout
        if sandbox == "runc":
            subprocess.run(["systemctl", "kill", "-s", "KILL", "metalhub-session-agent", "metalhub-warm-homes"], check=True)
    finally:
        engine.request("DELETE", f"/containers/{container}?force=true")
    place = Path("/run/metalhub/warm", name)
    begin = time.monotonic()
    while place.exists() and time.monotonic() - begin < 120:
        time.sleep(0.1)
    return {**said, "cleared": not place.exists(), "files": sorted(os.listdir(home)), "written": (home / "written").read_text()}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))))
