"""Sessions that nobody uses, as their users meet them: one hibernates until somebody is back, one is ready before anybody asks for it,
and one is stopped, beside another that computes. One converge serves all of them.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from cluster import ROOT, Cluster, Hub, log_in, picture, wait
from playwright.sync_api import Browser, Page, expect
from runner import other_choices

Guest = Callable[[str], Hub]
Account = Callable[[str], str]
Note = Callable[[str, object], None]
START = 60_000
IDLER, WORKER, SLEEPER, COMER, LARGE = "t-idler", "t-worker", "t-sleeper", "t-comer", "t-large"
MIB = 1 << 20
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def choices(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Swap, and profiles of which each does in seconds what takes half an hour elsewhere."""
    offer = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/10-platform.yml").read_text(encoding="utf-8"))
    inspect = "docker node inspect -f '{{.Description.Resources.NanoCPUs}}' " + cluster.compute[0]
    whole = {"cpus": int(cluster.ssh(cluster.control, inspect)) // 10**9, "memory": "1G"}
    notebook = offer["metalhub_profiles"]["notebook"] | {"default": False}
    profiles = {name: one | {"idle_stop": "1m", "extension": "1m"} for name, one in offer["metalhub_profiles"].items()}
    profiles["sleeper"] = notebook | {"title": "Sleeper", "hibernate_after": "30s"}
    profiles["ready"] = notebook | {"title": "Ready", "warm": 1}
    profiles["whole"] = notebook | {"title": "Whole machine", "flavor": "whole"}
    with other_choices(tmp_path_factory.mktemp("choices")) as converge:
        converge(
            metalhub_flavors=offer["metalhub_flavors"] | {"whole": whole},
            metalhub_profiles=profiles,
            metalhub_egress_internal=["data.example.org"],
            hub_cull_every="5s",
            hub_stop_notice="30s",
            base_swap_size="1G",
            session_agent_hibernate_largest="512M",
        )
        yield
    # The hub sweeps what a former one had ready, within a minute or two.
    cluster.ssh(cluster.control, "docker service ls -q --filter label=metalhub.warm | xargs -r docker service rm")


def events(cluster: Cluster, user: str) -> list[tuple[str, str]]:
    """What the audit log has of a user's sessions: kinds and causes."""
    lines = cluster.ssh(cluster.control, f"grep {user} /var/lib/metalhub/hub/audit.jsonl").splitlines()
    told = [(event["kind"], event["facts"].get("cause", "")) for event in map(json.loads, lines)]
    return [(kind.removeprefix("session."), cause) for kind, cause in told if kind.startswith("session.")]


def enter(browser: Browser, cluster: Cluster, user: str, password: str, title: str = "") -> Page:
    """Log in, start a session of a profile, and wait for its lab."""
    page = log_in(browser.new_context(viewport={"width": 1280, "height": 800}), cluster, user, password)
    if title:
        page.locator(".mh-card", has_text=title).click()
    page.click("#start")
    page.wait_for_url("**/user/**/lab**", timeout=START)
    page.wait_for_selector(".jp-Launcher", timeout=START)
    return page


# Hibernation


class Sleeper:
    """A user's only session, where it runs."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        self.cluster, self.user = cluster, user
        self.node = cluster.node_of(user)
        (self.container,) = cluster.containers(self.node, user)

    def paused(self) -> bool:
        """What the node's engine says."""
        return self.cluster.ssh(self.node, f"docker inspect -f '{{{{.State.Paused}}}}' {self.container}") == "true"

    def memory(self) -> int:
        """Bytes that the kernel charges its control group, of whichever version."""
        find = f"find /sys/fs/cgroup -path '*{self.container}*' -name memory.usage_in_bytes -o -path '*{self.container}*' -name memory.current"
        return int(self.cluster.ssh(self.node, f"cat $({find} | head -n 1)"))

    def led(self) -> str:
        """Where Traefik leads whoever comes."""
        script = f"""
            import base64, json, urllib.request
            account = base64.b64encode(b"hub:" + open("/etc/metalhub/secrets/hub-traefik-api", "rb").read().strip()).decode()
            def ask(what):
                request = urllib.request.Request("http://127.0.0.1:8099/api/http/" + what, headers={{"Authorization": "Basic " + account}})
                return json.load(urllib.request.urlopen(request, timeout=5))
            service, = (one["service"] for one in ask("routers?per_page=1000") if "`/user/{self.user}/`" in one["rule"])
            print(ask("services/" + service + "@file")["loadBalancer"]["servers"][0]["url"])"""
        return self.cluster.ssh(self.cluster.control, f"python3 - <<'EOF'\nif True:{script}\nEOF")


def run(page: Page, code: str, answer: str) -> None:
    """Run a cell at the end of the open notebook, and see what it prints."""
    cell = page.locator(".jp-NotebookPanel:visible .jp-CodeCell .cm-content").last
    cell.click()
    page.keyboard.type(code)
    expect(cell).to_have_text(code)
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-NotebookPanel:visible .jp-OutputArea-output").last).to_contain_text(answer, timeout=START)


# What a tab that was left open asks for, and what it would save.
POLL = """async (user) => {
    const found = [];
    for (const [method, path] of [["GET", "api/kernels?1"], ["GET", "api/contents?content=1"], ["GET", "lab"], ["PUT", "api/contents/kept.txt"]])
        found.push((await fetch(`/user/${user}/${path}`, {method, body: method === "PUT" ? "{}" : undefined})).status);
    return found;
}"""


def test_a_session_hibernates_and_is_found_as_it_was_left(
    cluster: Cluster, browser: Browser, guest: Guest, account: Account, record_property: Note
) -> None:
    hub = guest(SLEEPER)
    # What an earlier run left open would come up again.
    cluster.ssh(cluster.storage, f"test ! -d {cluster.home(SLEEPER)} || find {cluster.home(SLEEPER)} -mindepth 1 -delete")
    tab = enter(browser, cluster, SLEEPER, account(SLEEPER), "Sleeper")
    tab.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    expect(tab.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=START)
    run(tab, "import hashlib, os; data = os.urandom(1 << 20) * 128; mark = hashlib.sha256(data).hexdigest(); print('made', len(data))", "made 134217728")
    intact = "print('{}', hashlib.sha256(data).hexdigest() == mark)"
    session = Sleeper(cluster, SLEEPER)
    place, before = session.led(), session.memory()
    assert before > 128 * MIB

    # An administrator has it hibernate, and the tab stays open.
    done = cluster.ssh(cluster.control, f"metalhub session hibernate {SLEEPER}")
    assert done == "The session is hibernated. Whoever opens it wakes it."
    assert session.paused() and session.led() != place
    assert "hibernated" in cluster.ssh(cluster.control, f"metalhub session show {SLEEPER}")
    wait("its memory given back", lambda: session.memory() < 0.3 * before, 60, 0.5)
    record_property("hibernated in gVisor: MiB of memory before and after", f"{before // MIB}, {session.memory() // MIB}")
    assert tab.evaluate(POLL, SLEEPER) == [503] * 4
    refused = hub.request("GET", f"/user/{SLEEPER}/api/kernels")
    assert refused.status == 503 and "This session is hibernated" in refused.json()["message"]
    assert session.paused() and session.led() != place, "what nobody looks at wakes nothing"
    begin = time.monotonic()
    visit = tab.context.new_page()
    visit.goto(f"https://{cluster.domain}/user/{SLEEPER}/lab")
    visit.wait_for_selector(".jp-NotebookPanel, .jp-Launcher", timeout=START)
    record_property("seconds from the visit of a hibernated session to its lab", f"{time.monotonic() - begin:.1f}")
    assert not session.paused() and session.led() == place
    visit.close()
    run(tab, intact.format("visited"), "visited True")

    # Nobody uses it: the tab that was forgotten says what is, and goes on when its user is back.
    begin = time.monotonic()
    wait("its profile's hibernation", session.paused, 90, 0.5)
    record_property("seconds until an unused session hibernates, limit 30", round(time.monotonic() - begin))
    expect(tab.get_by_text("This session is hibernated")).to_be_visible(timeout=45_000)
    picture(tab, "lab-hibernated")
    home = tab.context.new_page()
    home.goto(f"https://{cluster.domain}/hub/home")
    expect(home.locator(".mh-does").first).to_have_text("hibernated")
    picture(home, "home-hibernated")
    assert session.paused(), "a tab that is open is nobody who is there"
    tab.get_by_text("Wake it").click()
    expect(tab.get_by_text("The session is awake.")).to_be_visible()
    assert not session.paused() and session.led() == place
    run(tab, intact.format("awake"), "awake True")

    # It has grown too large: it goes on, and its user is told why.
    run(tab, "more = os.urandom(1 << 20) * 384; print('more', len(more))", "more 402653184")
    said = cluster.ssh(cluster.control, f"metalhub session hibernate {SLEEPER} 2>&1 || true")
    assert "only those with at most 512M can hibernate" in said, said
    assert not session.paused() and session.led() == place
    home.reload()
    expect(home.locator(".mh-when").first).to_contain_text("Not hibernated: This session holds")
    run(tab, intact.format("large"), "large True")
    assert events(cluster, SLEEPER)[-5:] == [("running", ""), ("hibernated", "admin"), ("woken", "visit"), ("hibernated", "idle"), ("woken", "user")]
    tab.context.close()


# Ready in advance

LOOK = """
import errno, json, os, pathlib, socket
home, found = pathlib.Path.home(), {"user": os.environ["JUPYTERHUB_USER"]}
found["before"] = (home / "before.txt").read_text()
(home / "after.txt").write_text("from one that was ready")
try:
    with open(home / "fill", "wb", 0) as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
except OSError as error:
    found["full"] = errno.errorcode[error.errno]
(home / "fill").unlink()
channel = socket.socket()
channel.settimeout(5)
found["closed"] = channel.connect_ex(("203.0.113.9", 4712)) != 0
print(json.dumps(found))
"""


def ready(cluster: Cluster) -> list[str]:
    """The services that wait for somebody, where the hub says that they could take one."""
    if 'metalhub_warm_sessions{profile="ready"} 1.0' not in cluster.admin.request("GET", "/hub/metrics").body:
        return []
    return cluster.ssh(cluster.control, "docker service ls --filter label=metalhub.warm --format '{{.Name}}'").split()


def node_of(cluster: Cluster, service: str) -> str:
    return cluster.ssh(cluster.control, f"docker service ps --filter desired-state=running --format '{{{{.Node}}}}' {service}")


def test_one_is_ready_before_anybody_asks(cluster: Cluster, guest: Guest, record_property: Note) -> None:
    (taken,) = wait("a session that is ready", lambda: ready(cluster), 90, 0.5)
    node, place = node_of(cluster, taken), f"/run/metalhub/warm/{taken}/user"
    (container,) = cluster.ssh(node, f"docker ps -q --filter label=metalhub.session={taken}").split()
    assert "metalhub.user" not in json.loads(cluster.ssh(node, f"docker inspect -f '{{{{json .Config.Labels}}}}' {container}"))
    assert cluster.ssh(node, f"stat -c %U {place} && ls -A {place}") == "root", "nobody's home is in it"

    hub = guest(COMER)
    cold = hub.start(COMER, "notebook")
    with hub.kernel(COMER) as kernel:
        kernel.run("import pathlib; (pathlib.Path.home() / 'before.txt').write_text('from an ordinary one')")
    hub.stop(COMER)
    warm = hub.start(COMER, "ready")
    record_property("seconds from the click to the lab: an ordinary session, one that was ready", f"{cold:.2f}, {warm:.2f}")
    assert wait("its user's label", lambda: cluster.services(COMER), 10) == [taken]
    assert cluster.server(COMER)["ready"] and cluster.node_of(COMER) == node

    # What is in it is its user's, and what limits it as well.
    home = cluster.home(COMER)
    limit = f"btrfs qgroup show -rf --raw {home} | awk 'END {{print $4}}'"
    assert cluster.ssh(cluster.storage, limit) == str(1 << 30)
    cluster.ssh(cluster.storage, f"btrfs qgroup limit 32M {home}")
    with hub.kernel(COMER) as kernel:
        found = json.loads(kernel.run(LOOK).splitlines()[-1])
    assert found["user"] == COMER and found["before"] == "from an ordinary one" and found["closed"], found
    assert found["full"] in ("EDQUOT", "ENOSPC"), found
    assert cluster.ssh(cluster.storage, f"cat {home}/after.txt") == "from one that was ready"
    used = cluster.admin.request("GET", f"/hub/metalhub/api/usage?user={COMER}").json()["limits"]
    assert [limit["used"] for limit in used if limit["resource"] == "sessions"] == [1]

    def refused() -> list[dict[str, Any]]:
        rows = cluster.admin.request("GET", f"/hub/metalhub/api/egress?span=hour&user={COMER}").json()["rows"]
        return [row for row in rows if (row["destination"], row["port"]) == ("203.0.113.9", 4712)]

    (row,) = wait("what it was refused, by its user's name", refused, 30, 1)
    assert row["user"] == COMER and row["class"] == "internal"

    # The next one is made, on the machine with the most room. It goes for somebody who needs that.
    (following,) = wait("another that is ready", lambda: ready(cluster), 60, 0.5)
    assert following != taken and (other := node_of(cluster, following)) != node
    guest(LARGE).start(LARGE, "whole")
    assert cluster.node_of(LARGE) == other
    assert following not in cluster.ssh(cluster.control, "docker service ls --format '{{.Name}}'").split()
    assert cluster.server(COMER)["ready"], "what is somebody's goes for nobody"


# The end


def cell(kernel: Any) -> None:
    """A long cell that prints nothing, until its socket is closed."""
    with contextlib.suppress(Exception):
        kernel.run("import time; time.sleep(600)")


def test_a_forgotten_tab_is_announced_extended_and_stopped(
    cluster: Cluster, browser: Browser, guest: Guest, account: Account, record_property: Note
) -> None:
    worker = guest(WORKER)
    worker.start(WORKER, "notebook")
    with worker.kernel(WORKER) as kernel:
        threading.Thread(target=cell, args=(kernel,), daemon=True).start()
        forgotten(cluster, browser, guest, account, record_property)
        assert cluster.server(WORKER).get("ready"), "a cell that computes and prints nothing is no idle session"


def forgotten(cluster: Cluster, browser: Browser, guest: Guest, account: Account, record_property: Note) -> None:
    """A user opens a session and does nothing."""
    guest(IDLER)
    page = enter(browser, cluster, IDLER, account(IDLER))
    begin = time.monotonic()
    # The tab goes on asking for files, which is no activity.
    expect(page.get_by_text("This session stops")).to_be_visible(timeout=90_000)
    picture(page, "lab-announced")
    page.get_by_text("Extend by 1 minute").click()
    expect(page.get_by_text("The session was extended by 1 minute.")).to_be_visible()
    home = page.context.new_page()
    home.goto(f"https://{cluster.domain}/hub/home")
    expect(home.locator(".mh-when").first).to_contain_text("Stops in")
    picture(home, "home-announced")
    wait("the end of the forgotten session", lambda: not cluster.server(IDLER).get("ready"), 240, 1)
    record_property("seconds from the launcher to the end of an idle session, limit 60 and extended by 60", round(time.monotonic() - begin))
    home.goto(f"https://{cluster.domain}/hub/home")
    expect(home.locator(".mh-row").first).to_contain_text("stopped because nothing ran in it for 1 minute")
    told = events(cluster, IDLER)[-5:]
    assert told == [("running", ""), ("warned", "idle"), ("extended", ""), ("warned", "idle"), ("stopped", "idle")], told
    page.context.close()
