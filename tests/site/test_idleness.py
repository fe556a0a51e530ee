"""The end of a session that nobody uses, as its user meets it, and one that computes beside it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from cluster import ROOT, Cluster, Hub, log_in, picture, wait
from playwright.sync_api import Browser, expect
from test_choices import Converge, converged  # noqa: F401

Guest = Callable[[str], Hub]
Account = Callable[[str], str]
Note = Callable[[str, object], None]
START = 60_000
IDLER, WORKER = "t-idler", "t-worker"


def cell(kernel: Any) -> None:
    """A long cell that prints nothing, until its socket is closed."""
    with contextlib.suppress(Exception):
        kernel.run("import time; time.sleep(600)")


@pytest.mark.timeout(1200)
def test_a_forgotten_tab_is_announced_extended_and_stopped(
    cluster: Cluster,
    browser: Browser,
    guest: Guest,
    account: Account,
    converged: Converge,  # noqa: F811
    record_property: Note,
) -> None:
    offer = yaml.safe_load((ROOT / "inventories/demo/group_vars/all/10-platform.yml").read_text(encoding="utf-8"))
    profiles = {name: one | {"idle_stop": "1m", "extension": "1m"} for name, one in offer["metalhub_profiles"].items()}
    converged(metalhub_profiles=profiles, hub_cull_every="5s", hub_stop_notice="30s")
    worker = guest(WORKER)
    worker.start(WORKER, "notebook")
    with worker.kernel(WORKER) as kernel:
        threading.Thread(target=cell, args=(kernel,), daemon=True).start()
        forgotten(cluster, browser, guest, account, record_property)
        assert cluster.server(WORKER).get("ready"), "a cell that computes and prints nothing is no idle session"


def forgotten(cluster: Cluster, browser: Browser, guest: Guest, account: Account, record_property: Note) -> None:
    """A user opens a session and does nothing."""
    guest(IDLER)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = log_in(context, cluster, IDLER, account(IDLER))
    page.click("#start")
    page.wait_for_url("**/user/**/lab**", timeout=START)
    page.wait_for_selector(".jp-Launcher", timeout=START)
    begin = time.monotonic()
    # The tab goes on asking for files, which is no activity.
    expect(page.get_by_text("This session stops")).to_be_visible(timeout=90_000)
    picture(page, "lab-announced")
    page.get_by_text("Extend by 1 minute").click()
    expect(page.get_by_text("The session was extended by 1 minute.")).to_be_visible()
    home = context.new_page()
    home.goto(f"https://{cluster.domain}/hub/home")
    expect(home.locator(".mh-when").first).to_contain_text("Stops in")
    picture(home, "home-announced")
    wait("the end of the forgotten session", lambda: not cluster.server(IDLER).get("ready"), 240, 1)
    record_property("seconds from the launcher to the end of an idle session, limit 60 and extended by 60", round(time.monotonic() - begin))
    home.goto(f"https://{cluster.domain}/hub/home")
    expect(home.locator(".mh-row").first).to_contain_text("stopped because nothing ran in it for 1 minute")
    lines = cluster.ssh(cluster.control, f"grep {IDLER} /var/lib/metalhub/hub/audit.jsonl").splitlines()
    events = [(event["kind"], event["facts"].get("cause", "")) for event in map(json.loads, lines)]
    told = [(kind.removeprefix("session."), cause) for kind, cause in events if kind.startswith("session.")][-5:]
    assert told == [("running", ""), ("warned", "idle"), ("extended", ""), ("warned", "idle"), ("stopped", "idle")], told
    context.close()
