"""The scripts of the hub's pages in a real browser: what a click asks of the hub, and what it says when that does not work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_hub import PASSWORD, eventually
from world import World, world

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium here")
Open = Callable[[str, str], Page]


def prepare(made: World) -> None:
    def edit(raw: dict[str, Any]) -> None:
        raw["profiles"]["guarded"] = raw["profiles"]["small"] | {"title": "Guarded", "default": False, "approval": True}

    made.change(edit)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("hub"), prepare) as made:
        for name in ("ann", "bob", "cat"):
            made.hub.api("POST", f"/users/{name}")
            made.sign_up(name)
            made.approve(name)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield made
        made.close()


@pytest.fixture
def visit(site: World, browser: Browser) -> Iterator[Open]:
    """Open a page as somebody. No script of a page may have failed at the end."""
    contexts, failed = [], []

    def go(user: str, path: str) -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: failed.append(f"{page.url}: {error}"))
        page.goto(f"{site.hub.url}/login?next=/hub{path}")
        page.fill("#username_input", user)
        page.fill("#password_input", PASSWORD)
        page.click("#login_submit")
        page.wait_for_url(f"**/hub{path}")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not failed


def test_why_no_session_runs(visit: Open) -> None:
    page = visit("ann", "/home")
    page.locator(".mh-because summary").click()
    expect(page.locator(".mh-because")).to_contain_text("nothing keeps one from starting")
    expect(page.locator("#snapshots")).to_be_visible()
    page.route("**/session/diagnosis", lambda route: route.abort())
    page.locator(".mh-because summary").click()
    page.locator(".mh-because summary").click()
    expect(page.locator(".mh-because")).to_contain_text("The hub did not answer; try again.")


def test_a_profile_is_asked_for_and_given(visit: Open) -> None:
    page = visit("ann", "/spawn")
    card, dialog = page.locator(".mh-card[data-profile=guarded]"), page.locator("#ask")
    card.get_by_role("button", name="Ask for it").click()
    dialog.locator("textarea").fill("a paper is due")
    page.route("**/profile-requests", lambda route: route.abort())
    dialog.get_by_role("button", name="Ask").click()
    expect(dialog.get_by_role("alert")).to_have_text("The hub did not answer; try again.")
    page.unroute("**/profile-requests")
    dialog.get_by_role("button", name="Ask").click()
    expect(dialog).to_be_hidden()
    expect(card.locator(".mh-room")).to_have_text("asked for")

    admin = visit("admin", "/metalhub/requests")
    row = admin.locator("#waiting .mh-row")
    expect(row).to_contain_text("a paper is due")
    expect(row.locator("time")).not_to_contain_text("T")
    admin.route("**/profile-requests/**", lambda route: route.abort())
    row.get_by_role("button", name="Approve").click()
    expect(row.get_by_role("alert")).to_have_text("The hub did not answer; try again.")
    admin.unroute("**/profile-requests/**")
    row.get_by_role("button", name="Approve").click()
    expect(admin.locator("#decided")).to_contain_text("approved")
    expect(card).to_have_attribute("data-state", "free")


def test_a_session_is_restarted_with_its_profile(site: World, visit: Open) -> None:
    site.running("bob", profile="small")
    (before,) = site.engine.services
    page = visit("bob", "/home")
    page.on("dialog", lambda dialog: dialog.accept())
    # Where that leads to in the end is for Traefik, which is not here.
    with page.expect_request(re.compile(r"/hub/spawn/bob\?opt-profile=small$")):
        page.get_by_role("button", name="Restart").click()
    eventually(lambda: (site.hub.server("bob") or {}).get("ready") and before not in site.engine.services)
    assert len(site.engine.services) == 1


def test_a_start_is_cancelled(site: World, visit: Open) -> None:
    site.engine.fate = {"State": "preparing"}
    try:
        site.hub.api("POST", "/users/cat/server", json={"profile": "small"})
        page = visit("cat", "/spawn-pending/cat")
        page.route("**/api/users/cat/server", lambda route: route.abort())
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#trouble")).to_have_text("The hub did not answer; try again.")
        page.unroute("**/api/users/cat/server")
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_url("**/hub/home")
        eventually(lambda: not site.hub.server("cat"))
    finally:
        site.engine.fate = {"State": "running"}


def test_the_log_is_checked_on_its_page(visit: Open) -> None:
    page = visit("admin", "/metalhub/audit")
    page.locator("#verify").click()
    expect(page.locator("#state .mh-good")).to_have_text("good")
