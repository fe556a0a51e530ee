"""The edge as a browser meets it, with stand-ins for the hub and a session."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

HERE = Path(__file__).parent
CURL = "curl -s --cacert /etc/metalhub/pki/ca.crt --resolve notebooks.test:443:127.0.0.1 "
LOG = "/var/log/metalhub-traefik/access.log"


def run(host: Host, command: str) -> str:
    done = host.run(command)
    assert done.rc == 0, f"{command}\n{done.stdout}{done.stderr}"
    return str(done.stdout).strip()


@pytest.fixture(scope="module")
def host(hosts: dict[str, Host]) -> Host:
    found = hosts["control"]
    for script in ("backend.py", "edge.py"):
        run(found, f"cat > /run/{script} <<'EOF'\n{(HERE / script).read_text(encoding='utf-8')}\nEOF")
    return found


def write_routes(host: Host, **more: str) -> None:
    """Write routes as the hub does: whole, by a rename, readable by Traefik's group."""
    targets = {"/": "http://127.0.0.1:8081", "/user/a/": "http://127.0.0.1:8888", "/user/gone/": "http://127.0.0.1:9", **more}
    routers = {
        f"r{i}": {"rule": f"PathPrefix(`{prefix}`)", "service": f"s{i}", "entryPoints": ["websecure"]} for i, prefix in enumerate(targets)
    }
    services = {f"s{i}": {"loadBalancer": {"servers": [{"url": url}]}} for i, url in enumerate(targets.values())}
    text = json.dumps({"http": {"routers": routers, "services": services}})
    run(
        host,
        "cd /var/lib/metalhub/routes && cat > .new <<'EOF'\n" + text + "\nEOF\n"
        "chown metalhub-hub:metalhub-traefik .new && chmod 0640 .new && mv .new test.yml",
    )


@pytest.fixture(scope="module")
def edge(host: Host) -> Iterator[Host]:
    for port in (8081, 8888):
        host.run(f"systemctl stop test-backend-{port}")
        run(host, f"systemd-run -q --collect --unit test-backend-{port} python3 /run/backend.py {port}")
    write_routes(host)
    time.sleep(1.5)
    yield host
    host.run("rm /var/lib/metalhub/routes/test.yml; systemctl stop test-backend-8081 test-backend-8888")


def test_tls(edge: Host) -> None:
    headers = run(edge, f"{CURL} -D- -o /dev/null https://notebooks.test/").lower()
    assert "200" in headers.splitlines()[0]
    assert "strict-transport-security: max-age=31536000" in headers
    moved = run(edge, "curl -s -D- -o /dev/null -H 'Host: notebooks.test' http://127.0.0.1/a?b=1").lower()
    assert "301" in moved.splitlines()[0] and "location: https://notebooks.test/a?b=1" in moved
    for option, good in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        done = edge.run(
            f"echo | openssl s_client -connect 127.0.0.1:443 {option} -cipher 'ALL:@SECLEVEL=0' 2>&1 | grep -c 'Cipher is [TE]'"
        )
        assert (str(done.stdout).strip() != "0") is good, option


def test_the_access_log_holds_no_secret(edge: Host) -> None:
    run(
        edge,
        f"{CURL} -o /dev/null -H 'Authorization: token SECRET-1' -H 'Cookie: session=SECRET-2' -H 'Referer: https://x/?token=SECRET-3' "
        "'https://notebooks.test/marker?token=SECRET-4&code=SECRET-5' && sleep 0.5",
    )
    lines = [line for line in run(edge, f"cat {LOG}").splitlines() if "/marker" in line]
    assert lines and "SECRET" not in "".join(lines)
    assert json.loads(lines[0])["RequestPath"] == "/marker"


def test_the_page_while_nobody_answers(edge: Host) -> None:
    run(edge, "systemctl stop test-backend-8081")
    try:
        page = run(edge, f"{CURL} -w '%{{http_code}}' https://notebooks.test/hub/home?next=x")
        assert "The hub is restarting" in page and 'http-equiv="refresh"' in page and page.endswith("503")
        page = run(edge, f"{CURL} -w '%{{http_code}}' https://notebooks.test/user/gone/lab")
        assert "Your session does not answer" in page and page.endswith("503")
        assert run(edge, f"{CURL} https://notebooks.test/user/a/lab") == "backend 8888"
    finally:
        run(edge, "systemd-run -q --collect --unit test-backend-8081 python3 /run/backend.py 8081; sleep 1")
    assert run(edge, f"{CURL} https://notebooks.test/hub/unavailable") == "the hub's own words"


def test_a_route_is_in_at_once(edge: Host) -> None:
    write_routes(edge, **{"/user/new/": "http://127.0.0.1:8888"})
    script = f'for i in $(seq 100); do [ "$({CURL} '
    script += "https://notebooks.test/user/new/lab)\" = 'backend 8888' ] && exit 0; sleep 0.01; done; exit 1"
    begin = time.monotonic()
    run(edge, script)
    assert time.monotonic() - begin < 2


def test_web_sockets_and_uploads_outlive_the_hub_and_changes_of_routes(edge: Host) -> None:
    """An upload of 70 s is longer than Traefik's default limit of 60 s."""
    run(edge, "rm -f /run/socket.out /run/upload.out; for kind in socket upload; do systemd-run -q --unit test-$kind --collect "
              "-p StandardOutput=file:/run/$kind.out python3 /run/edge.py $kind 70; done; sleep 2")  # fmt: skip
    run(edge, "systemctl stop test-backend-8081; sleep 1")
    write_routes(edge)
    run(edge, "systemd-run -q --collect --unit test-backend-8081 python3 /run/backend.py 8081")
    for _ in range(90):
        if (
            edge.run("systemctl is-active test-socket test-upload").rc != 0
            and edge.run("test -s /run/upload.out -a -s /run/socket.out").rc == 0
        ):
            break
        time.sleep(1)
    assert run(edge, "cat /run/upload.out") == "200 70000 bytes"
    assert int(run(edge, "cat /run/socket.out")) > 300


def test_it_is_back_soon_after_it_was_killed(edge: Host) -> None:
    run(edge, "systemctl kill -s KILL metalhub-traefik.service")
    script = f'for i in $(seq 100); do [ "$({CURL} '
    script += "--max-time 1 https://notebooks.test/user/a/)\" = 'backend 8888' ] && exit 0; sleep 0.05; done; exit 1"
    begin = time.monotonic()
    run(edge, script)
    assert time.monotonic() - begin < 5


def test_the_log_rotates(edge: Host) -> None:
    run(
        edge,
        f"logrotate -f /etc/logrotate.d/metalhub-traefik && sleep 0.5 && {CURL} -o /dev/null https://notebooks.test/rotated && sleep 0.5",
    )
    assert "/rotated" in run(edge, f"cat {LOG}")
    assert edge.file(LOG).mode == 0o640


def test_a_renewed_certificate_is_served_without_a_restart(edge: Host) -> None:
    served = "echo | openssl s_client -connect 127.0.0.1:443 -servername notebooks.test 2>/dev/null | openssl x509 -noout -serial"
    pid = run(edge, "systemctl show -p MainPID --value metalhub-traefik")
    before = run(edge, served)
    run(edge, "cd /etc/metalhub/pki && cp -p traefik.crt /run/kept.crt && cp -p traefik.key /run/kept.key && openssl req -x509 -newkey ec "
              "-pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=notebooks.test -addext subjectAltName=DNS:notebooks.test "
              "-keyout /run/new.key -out /run/new.crt 2>/dev/null && "
              "cat /run/new.key > traefik.key && cat /run/new.crt > traefik.crt")  # fmt: skip
    try:
        for _ in range(40):
            if run(edge, served) != before:
                break
            time.sleep(0.25)
        else:
            raise AssertionError("the old certificate is still served")
        assert run(edge, "systemctl show -p MainPID --value metalhub-traefik") == pid
    finally:
        run(edge, "cd /etc/metalhub/pki && cat /run/kept.key > traefik.key && cat /run/kept.crt > traefik.crt; sleep 1")


def test_exposure(edge: Host) -> None:
    for unit in ("metalhub-traefik.service", "metalhub-traefik-pages.service"):
        assert float(run(edge, f"systemd-analyze security --no-pager {unit} | tail -1 | grep -o '[0-9.]* [A-Z]' | cut -d' ' -f1")) <= 1.5
    assert run(edge, "ss -ltnH 'sport = :8099 or sport = :8098' | awk '{print $4}' | sort -u").split() == [
        "127.0.0.1:8098",
        "127.0.0.1:8099",
    ]
    assert edge.run("curl -sf http://127.0.0.1:8099/api/rawdata").rc != 0
