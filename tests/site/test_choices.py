"""What an operator can choose in place of the defaults, chosen on the running platform and taken back at the end:
accounts of an OpenID Connect provider and PostgreSQL, then the image with VS Code and a way out.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import oidc_provider_mock
import pytest
import yaml
from cluster import ROOT, Cluster, Hub, log_in, picture, wait
from playwright.sync_api import Browser, Page, expect
from runner import Converge, other_choices, play
from werkzeug.serving import make_server

Guest = Callable[[str], Hub]
Account = Callable[[str], str]
START = 60_000  # milliseconds until a session is there

ANN = oidc_provider_mock.User(sub="1234", claims={"preferred_username": "t-ann", "groups": ["research"]})
BOB = oidc_provider_mock.User(sub="5678", claims={"preferred_username": "t-bob", "groups": ["visitors"]})
EVE = oidc_provider_mock.User(sub="9", claims={"preferred_username": "t-eve", "groups": ["research", "operators"]})


@pytest.fixture
def provider(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A provider on this machine, at an address that the hub's host and the browser reach. Gives its URL."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")  # it has no certificate
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((cluster.address, 9))
        address = probe.getsockname()[0]
    server = make_server(address, 0, oidc_provider_mock.app(user_claims=[ANN, BOB, EVE]), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{address}:{server.server_port}"
    server.shutdown()
    thread.join(10)


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """An empty PostgreSQL database on the control host. Gives its URL."""
    password = secrets.token_hex(16)
    install = "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql"
    cluster.ssh(cluster.control, install, timeout=300)
    make = f"""-c "create role hub login password '{password}'" -c "create database hub owner hub" """
    cluster.ssh(cluster.control, f"cd / && runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 {make}")
    yield f"postgresql://hub:{password}@127.0.0.1/hub"
    cluster.ssh(cluster.control, "apt-get purge -qy 'postgresql*' && rm -rf /var/lib/postgresql", timeout=300)


@pytest.fixture
def converged(cluster: Cluster, tmp_path: Path) -> Iterator[Converge]:
    """Converge the site with other variables. At the end it is as the inventory says."""
    with other_choices(tmp_path) as converge:
        yield converge


@pytest.fixture(scope="module")
def chosen(cluster: Cluster, warm: futures.Future[None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A site with VS Code, and with a way out for the sessions that have none in the demo."""
    futures.wait([warm])
    offer = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/10-platform.yml").read_text(encoding="utf-8"))
    images = offer["metalhub_images"] | {"code": {"title": "VS Code", "build": "code"}}
    profile = offer["metalhub_profiles"]["notebook-medium"] | {"title": "VS Code", "image": "code"}
    with other_choices(tmp_path_factory.mktemp("choices")) as converge:
        converge(
            metalhub_images=images,
            metalhub_profiles=offer["metalhub_profiles"] | {"vscode": profile},
            metalhub_egress_internal=["data.example.org", "git.example.org:22"],
        )
        yield


def come(browser: Browser, cluster: Cluster, person: oidc_provider_mock.User) -> Page:
    """Log in as a person by the provider."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.goto(f"https://{cluster.domain}/")
    if person is ANN:
        picture(page, "login-provider")
    page.get_by_text("Log in with The Institute").click()
    page.get_by_role("button", name=person.sub, exact=True).click()
    return page


def test_a_provider_and_postgresql(cluster: Cluster, browser: Browser, provider: str, database: str, converged: Converge) -> None:
    oidc = {"title": "The Institute", "client_id": "metalhub", "username_claim": "preferred_username", "scope": ["openid", "profile"]}
    oidc |= {"groups_claim": "groups", "allowed_groups": ["research"], "admin_groups": ["operators"]}
    oidc |= {
        "authorize_url": f"{provider}/oauth2/authorize",
        "token_url": f"{provider}/oauth2/token",
        "userdata_url": f"{provider}/userinfo",
    }
    secret = secrets.token_hex(16)
    converged(hub_authenticator="oidc", hub_oidc=oidc, hub_oidc_client_secret=secret, hub_database_url=database)
    for name in ("hub-oidc-client", "hub-database-url"):
        look = f"grep -rlF -f /etc/metalhub/secrets/{name} /etc/metalhub /opt/metalhub/hub/app /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
        assert cluster.ssh(cluster.control, f"{look} 2>/dev/null", check=False) == f"/etc/metalhub/secrets/{name}"

    page = come(browser, cluster, BOB)
    expect(page.locator("body")).to_contain_text("403")
    picture(page, "provider-refused")
    page.context.close()

    page = come(browser, cluster, ANN)
    page.click("#start", timeout=START)
    page.wait_for_url("**/user/t-ann/lab**", timeout=START)
    page.wait_for_selector(".jp-Launcher, .jp-NotebookPanel", timeout=START)
    ask = "cd / && runuser -u postgres -- psql -At hub -c"
    rows = cluster.ssh(
        cluster.control,
        f"""{ask} "select users.name, admin, spawners.state::text like '%service_name%' from users join spawners on user_id = users.id" """,
    )
    assert rows == "t-ann|f|t"
    page.goto(f"https://{cluster.domain}/hub/home")
    page.locator(".mh-row [data-do=stop]").first.click()
    expect(page.locator(".mh-row").first).to_contain_text("stopped", timeout=30_000)
    page.context.close()

    page = come(browser, cluster, EVE)
    page.wait_for_selector("#logout")
    expect(page.locator("nav")).to_contain_text("Admin")
    page.context.close()
    assert cluster.ssh(cluster.control, f"{ask} 'select name from users where admin order by name'") == "admin\nt-eve"


@pytest.mark.timeout(1200)
def test_vs_code_in_the_same_home(cluster: Cluster, browser: Browser, guest: Guest, account: Account, chosen: None) -> None:
    user = "t-code"
    guest(user)
    cluster.ssh(cluster.storage, f"test ! -d {cluster.home(user)} || find {cluster.home(user)} -mindepth 1 -delete")
    page = log_in(browser.new_context(viewport={"width": 1280, "height": 800}), cluster, user, account(user))
    page.locator(".mh-card", has_text="VS Code").click()
    page.click("#start")
    page.wait_for_url("**/user/t-code/vscode/**", timeout=START)
    home = cluster.home(user)
    cluster.ssh(cluster.storage, f"echo 'print(6 * 7)' > {home}/answer.py && chown 1000:1000 {home}/answer.py")
    # A sandbox is not told of files that come from outside: the explorer may have looked before.
    page.reload()
    page.wait_for_selector(".monaco-workbench", timeout=START)
    row = page.locator(".explorer-viewlet .monaco-list-row", has_text="answer.py")
    expect(row).to_be_visible(timeout=START)
    row.dblclick()
    expect(page.locator(".monaco-editor .view-line").first).to_contain_text("print(6", timeout=START)
    picture(page, "vscode-lab")
    page.keyboard.press("Control+End")
    page.keyboard.type("# from the editor")
    page.keyboard.press("Control+s")
    wait("the file saved in the home", lambda: "from the editor" in cluster.ssh(cluster.storage, f"cat {home}/answer.py"), 20)
    page.context.close()


ASK = """
import http.client, json, os, socket, urllib.error, urllib.request
found = {"proxy": os.environ.get("https_proxy", "")}
try:
    urllib.request.urlopen("http://nowhere.example.org/", timeout=8)
except urllib.error.HTTPError as error:
    found["refused"] = [error.code, error.read().decode()]
try:
    socket.getaddrinfo("stranger.example.net", 443)
except socket.gaierror:
    found["unknown"] = True
channel = socket.socket()
channel.settimeout(5)
found["address"] = channel.connect_ex(("203.0.113.9", 4711))
print(json.dumps(found))
"""


@pytest.mark.timeout(1200)
def test_what_was_refused_is_known(cluster: Cluster, browser: Browser, guest: Guest, account: Account, chosen: None) -> None:
    user = "t-egress"
    hub = guest(user)
    hub.start(user, None)
    node = cluster.node_of(user)
    with hub.kernel(user) as kernel:
        found = json.loads(kernel.run(ASK).splitlines()[-1])
    assert found["proxy"] == "http://10.231.0.1:3128" and found["unknown"] and found["address"] != 0
    status, text = found["refused"]
    assert status == 403 and "This session may not reach <b>nowhere.example.org</b>: not in the class" in text

    # A person who is no administrator sees nothing of it.
    page = log_in(browser.new_context(), cluster, user, account(user))
    page.wait_for_url(lambda url: "/hub/login" not in url)
    answer = page.goto(f"https://{cluster.domain}/hub/metalhub/egress")
    assert answer and answer.status == 403
    admin = cluster.ssh(cluster.control, "cat /etc/metalhub/secrets/admin-password")
    page = log_in(browser.new_context(viewport={"width": 1280, "height": 800}), cluster, "admin", admin)
    page.wait_for_url(lambda url: "/hub/login" not in url)

    def told() -> bool:
        page.goto(f"https://{cluster.domain}/hub/metalhub/egress?user={user}")
        return page.locator("tbody tr").count() >= 3

    wait("what was refused is on the page", told, 30, 2)
    for destination in ("nowhere.example.org", "stranger.example.net", "203.0.113.9:4711"):
        expect(page.locator("tbody tr", has_text=destination)).to_contain_text(user)
    line = page.locator("tbody tr", has_text="nowhere.example.org").locator(".mh-copy code")
    expect(line).to_contain_text("nowhere.example.org")
    picture(page, "egress")
    run = play("egress_report.yml", "-e", "egress_report_since=1h")
    assert run.status == 0 and run.changed == 0, run.tail()
    assert "nowhere.example.org" in run.output and user in run.output

    # The person is told when there is no way out.
    cluster.ssh(node, "systemctl stop 'metalhub-squid@*'")
    try:
        page = log_in(browser.new_context(viewport={"width": 1280, "height": 800}), cluster, user, account(user))
        page.wait_for_url(lambda url: "/hub/login" not in url)

        def alarm() -> bool:
            page.goto(f"https://{cluster.domain}/hub/home")
            return "way out is closed" in page.content()

        wait("the session's page says that the way out is closed", alarm, 40, 2)
        picture(page, "egress-closed")
        found = cluster.diagnosis(user)
        assert (found["cause"], found["now"]) == ("egress", True), found
    finally:
        cluster.ssh(node, "cd /etc/metalhub/egress/squid && for class in *.conf; do systemctl start metalhub-squid@${class%.conf}; done")
