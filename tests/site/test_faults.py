"""What breaks a machine room does not end sessions that could live, and an end that has to be is told as it is."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pytest
import websocket
from cluster import Cluster, Hub, ProofError, log_in, picture, wait
from playwright.sync_api import Browser, expect

Guest = Callable[[str], Hub]
Note = Callable[[str, object], None]
USER = "t-fault"
HANG = 12  # seconds; docker_swarm_heartbeat, 7 s, tolerates 14


@pytest.fixture
def mine(cluster: Cluster, guest: Guest) -> Hub:
    """A user with a running session on the first node; the other node takes sessions too."""
    hub = guest(USER)
    cluster.only(cluster.compute[0])
    hub.start(USER, None)
    assert cluster.node_of(USER) == cluster.compute[0]
    cluster.only(*cluster.compute)
    return hub


def answers(hub: Hub, path: str = "/hub/api/") -> bool:
    """Whether the hub answers through Traefik."""
    with contextlib.suppress(ProofError):
        return hub.request("GET", path).status == 200
    return False


def identity(cluster: Cluster) -> tuple[object, ...]:
    """What must stay the same of a session that lives: its start, its service, its container."""
    node = cluster.node_of(USER)
    return cluster.server(USER)["started"], cluster.services(USER), node, cluster.containers(node, USER)


def test_hub_killed(cluster: Cluster, mine: Hub, record_property: Note) -> None:
    before = identity(cluster)
    with mine.kernel(USER) as kernel:
        kernel.run("kept = 6 * 7")
        begin = time.monotonic()
        cluster.ssh(cluster.control, "systemctl kill -s KILL metalhub-hub")
        assert not answers(mine), "the hub was not down at all"
        # All the time that it is down the open socket works.
        cells = 0
        while not answers(mine):
            assert kernel.run("print(kept)").strip() == "42"
            cells += 1
            assert time.monotonic() - begin < 60, "the hub does not come back"
        record_property("hub killed, seconds until it answers again", f"{time.monotonic() - begin:.1f}, {cells} cells ran meanwhile")
        assert cells > 0
        assert kernel.run("print(kept)").strip() == "42"
        # A new socket needs the hub's word.
        late = mine.connect(USER, kernel.id)
        assert late.run("print(kept)").strip() == "42"
        late.channel.close()
    wait("the hub's record of the session", lambda: cluster.server(USER).get("ready"), 30)
    assert identity(cluster) == before
    # Nor does the hub change its mind when it has polled.
    time.sleep(6)
    assert identity(cluster) == before


def test_traefik_killed(cluster: Cluster, mine: Hub, record_property: Note) -> None:
    before = identity(cluster)
    with mine.kernel(USER) as kernel:
        kernel.run("kept = 'through the edge'")
        begin = time.monotonic()
        cluster.ssh(cluster.control, "systemctl kill -s KILL metalhub-traefik")
        wait("Traefik", lambda: answers(mine), 20, 0.05)
        back = time.monotonic() - begin
        record_property("Traefik killed, seconds until the hub answers through it", f"{back:.1f}")

        def run_again() -> str:
            with contextlib.suppress(OSError, websocket.WebSocketException):
                again = mine.connect(USER, kernel.id)
                try:
                    return again.run("print(kept)").strip()
                finally:
                    again.channel.close()
            return ""

        assert wait("a new socket", run_again, 10) == "through the edge"
        record_property("Traefik killed, seconds until a cell runs again", f"{time.monotonic() - begin:.1f}")
        assert back < 5
    assert identity(cluster) == before


def test_engine_hangs(cluster: Cluster, mine: Hub) -> None:
    """The only manager's engine stands still: longer than the hub's patience, and less than the three heartbeats after which
    Swarm itself gives its nodes up and ends what runs on them."""
    before = identity(cluster)
    with mine.kernel(USER) as kernel:
        kernel.run("kept = 1")
        cluster.ssh(cluster.control, "pkill -STOP -x dockerd")
        try:
            end = time.monotonic() + HANG
            while time.monotonic() < end:
                assert cluster.server(USER).get("ready"), "the session was dropped while the engine hung"
                assert kernel.run("print(kept)").strip() == "1"
                time.sleep(1)
        finally:
            cluster.ssh(cluster.control, "pkill -CONT -x dockerd")
        assert "is not known" in cluster.ssh(cluster.control, "journalctl -u metalhub-hub --since -20s -o cat"), "the hub never asked"
        # Swarm itself needs a while to trust its nodes again.
        end = time.monotonic() + 12
        while time.monotonic() < end:
            assert cluster.server(USER).get("ready"), "the session was dropped after the engine hung"
            time.sleep(1)
        wait("all nodes", lambda: all(node["Status"] == "Ready" for node in cluster.nodes().values()), 60, 1)
        assert kernel.run("print(kept)").strip() == "1"
    assert identity(cluster) == before


ANSWER_500 = """
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b'{"message": "rpc error: code = Unknown desc = The swarm does not have a leader."}'
        self.send_response(500); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    do_POST = do_DELETE = do_HEAD = do_GET
server = http.server.ThreadingHTTPServer(("", 23760), Handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/etc/metalhub/pki/node.crt", "/etc/metalhub/pki/node.key")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture
def engine_answers_500(cluster: Cluster) -> Iterator[None]:
    """What the hub asks of the manager's engine goes to a server with the same certificate that answers 500 to all."""
    rules = """
        table ip metalhub-test {
            chain nat { type nat hook output priority dstnat; meta skuid metalhub-hub tcp dport 2376 redirect to :23760; }
            chain open { type filter hook output priority filter; meta skuid metalhub-hub tcp dport 2376 reject with tcp reset; }
        }"""
    cluster.ssh(cluster.control, f"cat > /run/metalhub-test-500.py <<'EOF'\n{ANSWER_500}\nEOF")
    cluster.ssh(cluster.control, "systemd-run -q --collect --unit=metalhub-test-500 /usr/bin/python3 /run/metalhub-test-500.py")
    look = "ss -ltn sport = :23760 | grep LISTEN"
    try:
        wait("the server of errors", lambda: cluster.ssh(cluster.control, look, check=False), 15)
        cluster.ssh(cluster.control, f"nft -f - <<'EOF'\n{rules}\nEOF")
        yield
    finally:
        cluster.ssh(cluster.control, "nft delete table ip metalhub-test; systemctl stop metalhub-test-500", check=False)


def test_engine_answers_500(cluster: Cluster, mine: Hub, engine_answers_500: None) -> None:
    log = "journalctl -u metalhub-hub --since -30s -o cat"
    wait("a 500 in the hub's log", lambda: "does not have a leader" in cluster.ssh(cluster.control, log), 20, 0.5)
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert cluster.server(USER).get("ready"), "the session was dropped because the engine answered 500"
        time.sleep(0.5)
    # Nobody else's start hangs or lies meanwhile.
    other = cluster.admin.request("POST", f"/hub/api/users/{USER}/servers/second", {})
    assert other.status == 503 and "cluster does not answer" in other.json()["message"], other


def test_registry_down(cluster: Cluster, guest: Guest) -> None:
    hub = guest(USER)
    cluster.ssh(cluster.registry, "systemctl stop metalhub-registry")
    try:
        for node in cluster.compute[:2]:
            cluster.only(node)
            hub.start(USER, None)
            assert cluster.node_of(USER) == node
            hub.stop(USER)
    finally:
        cluster.ssh(cluster.registry, "systemctl start metalhub-registry")


def test_engine_of_a_node_restarted(cluster: Cluster, mine: Hub, record_property: Note) -> None:
    """Swarm ends what ran there; the user is told, and the node serves again."""
    node = cluster.compute[0]
    begin = time.monotonic()
    cluster.ssh(node, "systemctl restart docker")
    wait("the end of the session", lambda: not cluster.server(USER).get("ready"), 60, 0.3)
    record_property("engine of a node restarted, seconds until its session is reported as ended", f"{time.monotonic() - begin:.1f}")
    wait("the node", lambda: cluster.nodes()[node]["Status"] == "Ready", 60, 0.5)
    cluster.nothing_left(USER)
    cluster.only(node)
    mine.start(USER, None)
    assert cluster.node_of(USER) == node


def test_node_dies(cluster: Cluster, browser: Browser, account: Callable[[str], str], mine: Hub, record_property: Note) -> None:
    node, other = cluster.compute[:2]
    page = log_in(browser.new_context(viewport={"width": 1280, "height": 800}), cluster, USER, account(USER))
    (old,) = cluster.services(USER)
    with mine.kernel(USER) as kernel:
        kernel.run("import os; file = open('/home/user/kept', 'w'); file.write('intact'); file.flush(); os.fsync(file.fileno())")
        begin = time.monotonic()
        cluster.power(node, "kill")
        try:
            wait("the loss", lambda: not cluster.server(USER).get("ready"), 60, 0.3)
            lost = time.monotonic() - begin
            record_property("node killed, seconds until its session is reported lost", f"{lost:.1f}")
            record = json.loads(cluster.ssh(cluster.control, f"grep '\"{old}\"' /var/lib/metalhub/hub/audit.jsonl | tail -1"))
            assert (record["kind"], record["facts"]["cause"]) == ("session.stopped", "lost"), record
            wait("no service", lambda: not cluster.services(USER), 15)
            found = cluster.diagnosis(USER)
            assert found["cause"] == "node lost" and found["facts"]["machine"] == node, found
            # The page where the session was says what happened, and brings it back by one click.
            page.goto(f"https://{cluster.domain}/user/{USER}/lab")
            expect(page.locator("#why")).to_contain_text("The machine that ran your session stopped answering. Your home is intact")
            picture(page, "session-lost")
            begin = time.monotonic()
            page.click("#start")
            page.wait_for_url(f"**/user/{USER}/lab**", timeout=60_000)
            record_property("node killed, seconds from the click to the session on the other node", f"{time.monotonic() - begin:.1f}")
            page.context.close()
            assert cluster.node_of(USER) == other
            with mine.kernel(USER) as again:
                assert again.run("print(open('/home/user/kept').read())").strip() == "intact"
        finally:
            cluster.power(node, "start")
    assert lost < 30
    # The node comes back: nothing of the old session does, and the node serves again.
    begin = time.monotonic()
    wait("the node", lambda: cluster.nodes()[node]["Status"] == "Ready", 90, 0.5)
    record_property("node started, seconds until Swarm has it back", f"{time.monotonic() - begin:.1f}")
    left = f"docker ps -aq --filter label=metalhub.session={old}"
    wait("no container of the old session", lambda: not cluster.ssh(node, left), 30, 0.5)
    assert old not in cluster.ssh(cluster.control, "docker service ls --format '{{.Name}}'")
    (now,) = cluster.services(USER)
    assert now != old and cluster.node_of(USER) == other, "the session that was started meanwhile stays where it is"
    tasks = cluster.ssh(cluster.control, f"docker node ps --format '{{{{.Name}}}} {{{{.CurrentState}}}}' {node}")
    assert "Running" not in tasks, tasks
    mine.stop(USER)
    cluster.only(node)
    mine.start(USER, None)
    assert cluster.node_of(USER) == node
    with mine.kernel(USER) as kernel:
        assert kernel.run("print(open('/home/user/kept').read())").strip() == "intact"
