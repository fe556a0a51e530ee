"""The platform as people meet it: Debian's Chromium against the real hub. Pictures are kept in tests/e2e-screenshots."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from cluster import Cluster, Hub, log_in, picture
from playwright.sync_api import Browser, Page, expect

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
USER = "t-browser"
START = 60_000  # milliseconds until a session is there
Guest = Callable[[str], Hub]
Account = Callable[[str], str]
Note = Callable[[str, object], None]


def no_overflow(page: Page) -> None:
    """Nothing of the page is wider than the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{page.url} scrolls sideways"


def test_plain_http_is_sent_to_https_which_is_remembered(cluster: Cluster) -> None:
    plain = http.client.HTTPConnection(cluster.address, 80, timeout=10)
    plain.request("GET", "/hub/login?next=x", headers={"Host": cluster.domain})
    answer = plain.getresponse()
    assert answer.status in (301, 308)
    assert answer.getheader("Location") == f"https://{cluster.domain}/hub/login?next=x"
    secure = http.client.HTTPSConnection(cluster.domain, 443, timeout=10, context=cluster.admin.tls)
    secure.request("GET", "/hub/login")
    hsts = secure.getresponse().getheader("Strict-Transport-Security") or ""
    assert "max-age=" in hsts and int(hsts.partition("max-age=")[2].partition(";")[0]) >= 180 * 86400, hsts


def test_scripts_and_styles_travel_compressed(cluster: Cluster) -> None:
    secure = http.client.HTTPSConnection(cluster.domain, 443, timeout=10, context=cluster.admin.tls)
    lengths = {}
    for encoding in ("identity", "gzip"):
        secure.request("GET", "/hub/static/js/admin-react.js", headers={"Accept-Encoding": encoding})
        answer = secure.getresponse()
        lengths[answer.getheader("Content-Encoding", "identity")] = len(answer.read())
    assert lengths["gzip"] < lengths["identity"] / 2
    # Pages hold the token against forged requests, beside what a user wrote.
    secure.request("GET", "/hub/login", headers={"Accept-Encoding": "gzip"})
    assert secure.getresponse().getheader("Content-Encoding") is None


def test_a_wrong_password(cluster: Cluster, browser: Browser) -> None:
    context = browser.new_context()
    page = log_in(context, cluster, "admin", "certainly wrong")
    expect(page.locator(".login_error")).to_contain_text("Invalid username or password")
    assert "/hub/login" in page.url
    picture(page, "login-wrong")
    context.close()
    phone = browser.new_context(**PHONE)
    page = phone.new_page()
    page.goto(f"https://{cluster.domain}/")
    no_overflow(page)
    picture(page, "phone-login")
    phone.close()


def test_from_log_in_to_log_out(cluster: Cluster, browser: Browser, guest: Guest, account: Account, record_property: Note) -> None:
    guest(USER)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    # What an earlier run left open would come up again.
    cluster.ssh(cluster.storage, f"test ! -d {cluster.home(USER)} || find {cluster.home(USER)} -mindepth 1 -delete")
    page = log_in(context, cluster, USER, account(USER))
    # The start page says what there is.
    cards = page.locator(".mh-card")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("Notebook")
    expect(cards.first.locator("input")).to_be_checked()
    expect(cards.first.locator(".mh-room")).to_contain_text("room for")
    expect(page.locator("main")).to_contain_text("does not persist")
    picture(page, "start")
    state = context.storage_state()
    phone = browser.new_context(**PHONE, storage_state=state)
    small = phone.new_page()
    small.goto(f"https://{cluster.domain}/hub/spawn")
    no_overflow(small)
    picture(small, "phone-start")

    begin = time.monotonic()
    page.click("#start")
    page.wait_for_url("**/user/**/lab**", timeout=START)
    page.wait_for_selector(".jp-Launcher, .jp-NotebookPanel", timeout=START)
    record_property("browser: seconds from the click to the lab's launcher", f"{time.monotonic() - begin:.1f}")
    picture(page, "lab")
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    cell = page.locator(".jp-NotebookPanel:visible .jp-CodeCell .cm-content").first
    # What is run while JupyterLab still asks for a kernel, it forgets. A person sees in the status bar that it is there.
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=START)
    code = "import platform; print('the answer is', 6 * 7, 'on', platform.node())"
    cell.click()
    page.keyboard.type(code)
    expect(cell).to_have_text(code)
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("the answer is 42 on session", timeout=START)
    picture(page, "lab-cell")

    page.goto(f"https://{cluster.domain}/hub/home")
    row = page.locator(".mh-row").first
    expect(row).to_contain_text("running")
    picture(page, "home-running")
    small.goto(f"https://{cluster.domain}/hub/home")
    no_overflow(small)
    picture(small, "phone-home")
    phone.close()
    row.locator("[data-do=stop]").click()
    expect(page.locator("#start")).to_be_visible(timeout=30_000)
    expect(page.locator(".mh-row").first).to_contain_text("stopped")
    picture(page, "home-stopped")
    cluster.nothing_left(USER)
    page.click("#logout")
    page.wait_for_url("**/hub/log*")
    picture(page, "logged-out")
    page.goto(f"https://{cluster.domain}/hub/home")
    assert "/hub/login" in page.url
    context.close()


def test_the_admin_page_is_for_admins(cluster: Cluster, browser: Browser, guest: Guest, account: Account) -> None:
    guest(USER)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = log_in(context, cluster, USER, account(USER))
    page.wait_for_selector("#logout")
    expect(page.locator("nav")).not_to_contain_text("Admin")
    answer = page.goto(f"https://{cluster.domain}/hub/admin")
    assert answer is not None and answer.status == 403
    expect(page.locator("h1")).to_contain_text("not open to you")
    picture(page, "refused")
    context.close()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = log_in(context, cluster, "admin", cluster.password)
    page.wait_for_selector("#logout")
    answer = page.goto(f"https://{cluster.domain}/hub/admin")
    assert answer is not None and answer.status == 200
    expect(page.locator("#react-admin-hook")).to_contain_text(USER, timeout=15_000)
    picture(page, "admin")
    context.close()


def test_a_page_that_is_not_there(cluster: Cluster, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"https://{cluster.domain}/hub/nothing-here")
    assert answer is not None and answer.status == 404
    expect(page.locator("h1")).to_contain_text("nothing here")
    picture(page, "not-found")
    context.close()
