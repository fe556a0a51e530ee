"""One converged cluster for all tests of this directory, and users who leave nothing behind.

METALHUB_INVENTORY names other inventories than the demo's, with blanks between them.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import INVENTORY, Cluster, Hub, ProofError
from playwright.sync_api import Browser, sync_playwright
from runner import play

from demo import demo
from testbed import testbed

DEMO = ["inventories/demo"]
CHROMIUM = Path("/usr/bin/chromium")


def warm_images() -> None:
    """Build both images. What fails here, the role tells when it builds them itself."""
    demo.prepare()
    with contextlib.suppress(testbed.TestbedError):
        demo.warm_image("code", demo.warm_image("lab", testbed.base_image()))


@pytest.fixture(scope="session")
def warm(request: pytest.FixtureRequest) -> Iterator[Future[None]]:
    """The image that takes minutes is built from the beginning on, where one of the tests needs it."""
    needed = INVENTORY == DEMO and any("chosen" in getattr(item, "fixturenames", ()) for item in request.session.items)
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(warm_images if needed else int)


@pytest.fixture(scope="session")
def site(warm: Future[None]) -> Iterator[Cluster]:
    """Hosts that answer; what is on them may be anything."""
    if INVENTORY == DEMO:
        demo.prepare()
        demo.hosts()
    directory = Path(tempfile.mkdtemp(prefix="mh-"))  # a short path: SSH puts sockets in it
    cluster = Cluster(INVENTORY, directory)
    try:
        yield cluster
    finally:
        for host in cluster.hosts:
            cluster.hang_up(host)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(site: Cluster) -> Cluster:
    """A converged platform whose nodes all take sessions."""
    if not site.installed():
        run = play("site.yml")
        assert run.status == 0, run.tail()
    site.only(*site.compute)
    return site


@pytest.fixture
def guest(cluster: Cluster) -> Iterator[Callable[[str], Hub]]:
    """Give a client of a user of this name. In the end their sessions are stopped and all nodes take sessions again."""
    users = []

    def make(user: str) -> Hub:
        with contextlib.suppress(ProofError):
            cluster.admin.request("POST", f"/hub/api/users/{user}")
        users.append(user)
        cluster.stop_all(user)
        cluster.nothing_left(user)
        return cluster.admin.as_user(user)

    yield make
    cluster.only(*cluster.compute)
    for user in users:
        cluster.stop_all(user)


MAKE_ACCOUNT = """
import bcrypt, sqlite3, sys
name, password = sys.stdin.read().split()
hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4))
with sqlite3.connect("/var/lib/metalhub/hub/jupyterhub.sqlite", timeout=20) as database:
    database.execute("delete from users_info where username = ?", (name,))
    database.execute("insert into users_info (username, password, is_authorized, has_2fa) values (?, ?, 1, 0)", (name, hashed))
"""


@pytest.fixture
def account(cluster: Cluster) -> Callable[[str], str]:
    """Give a user a password to log in with, and return it: the demo lets nobody sign up."""

    def make(user: str) -> str:
        password = secrets.token_hex(16)
        run = "runuser -u metalhub-hub -- /opt/metalhub/hub/venv/bin/python -c"
        cluster.ssh(cluster.control, f"echo {user} {password} | {run} {shlex.quote(MAKE_ACCOUNT)}")
        return password

    return make


@pytest.fixture(scope="session")
def browser(cluster: Cluster) -> Iterator[Browser]:
    """Debian's Chromium. It finds the platform's name at its address, and accepts the platform's certificate and no other."""
    if not CHROMIUM.exists():
        testbed.install("chromium")
    script = "openssl x509 -in /etc/metalhub/pki/traefik.crt -noout -pubkey | openssl pkey -pubin -outform der"
    key = cluster.ssh(cluster.control, f"{script} | openssl dgst -sha256 -binary | base64")
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", f"--ignore-certificate-errors-spki-list={key}"]
    arguments += [f"--host-resolver-rules=MAP {cluster.domain} {cluster.address}"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of this directory's tests the converge comes first: what the others find is what it left."""
    here = Path(__file__).parent
    places = [index for index, item in enumerate(items) if here in item.path.parents]
    ours = sorted((items[index] for index in places), key=lambda item: item.path.name != "test_converge.py")
    for index, item in zip(places, ours, strict=True):
        items[index] = item


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests measured."""
    lines = [f"{name}: {value}" for report in terminalreporter.getreports("passed") for name, value in report.user_properties]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
