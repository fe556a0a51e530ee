"""Refusals and the state of the way out on the pages of a real hub, and who may see them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import FakeNode, refusal
from metalhub_hub.core.egress_report import summarize
from test_hub import PASSWORD, eventually, log_in
from world import World, world

AUDITOR, NOBODY = "d" * 40, "e" * 40


def ago(**time: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Site(World):
    """A hub with two nodes, an administrator and a user."""

    one: FakeNode
    two: FakeNode


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pki: Path) -> Iterator[Site]:
    one = FakeNode(pki, "127.0.0.1")
    two = FakeNode(pki, "127.0.0.2", one.port)

    def edit(raw: dict[str, Any]) -> None:
        raw["engine"] |= {"ca": f"{pki}/ca.crt", "cert": f"{pki}/hub-client.crt", "key": f"{pki}/hub-client.key"}
        raw["egress"] = {"port": one.port}
        raw["egress_classes"]["packages"] |= {"title": "Packages & more", "description": "Mirrors.", "reach": "mirror.example.org"}

    def prepare(made: Site) -> None:
        made.one, made.two = one, two
        made.engine.nodes[1]["Status"]["Addr"] = "127.0.0.2"
        made.change(edit)
        made.configure("from metalhub_hub import egress", "egress.HEALTH_EVERY = egress.REPORT_AGE = 0.3", "egress.HEALTH_PATIENCE = 20")
        made.service("auditor", AUDITOR, "admin-ui")
        made.service("nobody", NOBODY)

    with world(tmp_path_factory.mktemp("hub"), prepare, Site) as made:
        yield made
    one.close()
    two.close()


@pytest.fixture(scope="module")
def admin(site: Site) -> requests.Session:
    return log_in(site.hub, "admin", PASSWORD)


@pytest.fixture(scope="module")
def bob(site: Site) -> requests.Session:
    site.sign_up("bob", PASSWORD + "2")
    site.approve("bob")
    return log_in(site.hub, "bob", PASSWORD + "2")


@pytest.fixture(autouse=True)
def well(site: Site) -> Iterator[None]:
    yield
    for node in (site.one, site.two):
        node.down, node.lines, node.answers = [], [], {}


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [
        ("anonymous", "/metalhub/egress", 302),
        ("user", "/metalhub/egress", 403),
        ("admin", "/metalhub/egress", 200),
        ("anonymous", "/metalhub/api/egress", 403),
        ("user", "/metalhub/api/egress", 403),
        ("token without the scope", "/metalhub/api/egress", 403),
        ("wrong token", "/metalhub/api/egress", 403),
        ("token", "/metalhub/api/egress", 200),
        ("token", "/metalhub/egress", 302),
    ],
)
def test_who_may_see_what(
    site: Site, admin: requests.Session, bob: requests.Session, who: str, path: str, status: int
) -> None:
    site.one.lines = [refusal("secret.example.org", time=ago(minutes=1), user="carol")]
    tokens = {"token": AUDITOR, "token without the scope": NOBODY, "wrong token": "f" * 40}
    client = {"admin": admin, "user": bob}.get(who) or requests.Session()
    headers = {"Authorization": f"token {tokens[who]}"} if who in tokens else {}
    answer = client.get(f"{site.hub.url}{path}", headers=headers, allow_redirects=False, timeout=10)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert "carol" not in answer.text and "secret.example.org" not in answer.text


def test_the_link_is_for_administrators(site: Site, admin: requests.Session, bob: requests.Session) -> None:
    assert "metalhub/egress" in site.hub.page("/home", admin)
    assert "metalhub/egress" not in site.hub.page("/home", bob)


def rows(page: str) -> list[str]:
    """The table's rows as text."""
    found = re.findall(r"<tr>(.*?)</tr>", page.partition("<tbody>")[2].partition("</tbody>")[0], re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in found]


def page(site: Site, admin: requests.Session, query: str = "") -> str:
    return str(admin.get(f"{site.hub.url}/metalhub/egress{query}", timeout=10).text)


def fresh(site: Site, admin: requests.Session, words: str, query: str = "") -> str:
    """The page, once it says this."""
    return str(eventually(lambda: words in (text := page(site, admin, query)) and text))


def test_the_page_of_refusals(site: Site, admin: requests.Session) -> None:
    last, yesterday = ago(minutes=2), ago(hours=5)
    site.one.lines = [refusal(time=yesterday, count=3), refusal("<b>x</b>", 80, time=last, reason="denied", user="dan", **{"class": "internal"})]
    site.two.lines = [refusal(time=last, node="compute2", count=4)]
    text = fresh(site, admin, "data.example.org")
    line = "- data.example.org:443 # metalhub_egress_packages"
    assert rows(text) == [
        f"7 data.example.org:443 The class does not list this destination. ann Packages & more {last} on compute1, compute2 {line} Copy",
        f"1 <b>x</b>:80 The class is denied this destination. dan internal {last} on compute1 No line would.",
    ]
    assert "<b>x</b>" not in text
    assert "<code>- data.example.org:443  # metalhub_egress_packages</code>" in text
    assert rows(page(site, admin, "?user=dan")) == rows(page(site, admin, "?class=internal")) == rows(text)[1:]
    assert rows(fresh(site, admin, "<tbody>", "?span=hour"))[0].startswith("4 data.example.org:443")
    nothing = page(site, admin, "?span=week&user=dan&class=packages")
    assert "Nothing was refused within the last week to dan in class packages." in nothing and not rows(nothing)
    bad = admin.get(f"{site.hub.url}/metalhub/egress?span=year", timeout=10)
    assert bad.status_code == 400 and "hour, day, week" in html.unescape(bad.text)


def test_nothing_was_refused(site: Site, admin: requests.Session) -> None:
    text = fresh(site, admin, "Nothing was refused within the last day.")
    assert "compute1<small>runs</small>" in text and "did not answer" not in text
    site.two.answers["/refusals"] = lambda: (_ for _ in ()).throw(OSError(5, "Input/output error", "disk"))
    text = fresh(site, admin, "as far as the nodes know that answered")
    assert "<b>compute2</b> did not answer, so what it refused is missing below: it answers 500" in text


def test_the_same_as_json(site: Site) -> None:
    site.one.lines = [refusal(time=ago(minutes=1)), refusal("b.example.org", time=ago(minutes=1), user="dan")]
    site.two.answers["/refusals"] = {"lines": None}

    def ask(query: str = "") -> Any:
        headers = {"Authorization": f"token {AUDITOR}"}
        return requests.get(f"{site.hub.url}/metalhub/api/egress{query}", headers=headers, timeout=10).json()

    answer = eventually(lambda: (found := ask())["silent"] and found["rows"] and found)
    assert [(row["destination"], row["class"], row["nodes"]) for row in answer["rows"]] == [
        ("b.example.org", "packages", ["compute1"]),
        ("data.example.org", "packages", ["compute1"]),
    ]
    (row,) = summarize(site.one.lines[:1])
    assert answer["rows"][1]["allow_line"] == row.allow_line and answer["rows"][1]["sentence"] == row.sentence
    assert (answer["span"], list(answer["silent"]), answer["nodes"]["compute1"]) == ("day", ["compute2"], "runs")
    assert [row["user"] for row in ask("?user=dan")["rows"]] == ["dan"]
    assert "hour, day, week" in ask("?span=x")["message"]


def test_cards_name_the_class_in_words(site: Site, bob: requests.Session) -> None:
    text = site.hub.page("/spawn/bob", bob)
    assert "<dd>Packages &amp; more<small>Mirrors.</small>" in text and "Reaches mirror.example.org." in text


def test_a_closed_way_out_is_told(site: Site, admin: requests.Session, bob: requests.Session) -> None:
    assert site.hub.api("POST", "/users/bob/server", json={"profile": "small"}).status_code in (201, 202)
    eventually(lambda: (site.hub.server("bob") or {}).get("ready"))
    closed = "Your session's way out is closed: the proxy on node compute1 does not run; administrators see it too."

    def told() -> str:
        return html.unescape(site.hub.page("/home", bob))

    def asked() -> Any:
        (session,) = bob.get(f"{site.hub.url}/metalhub/api/users/bob/sessions", timeout=10).json()["sessions"]
        return session["way_out"]

    assert closed not in told() and asked() == ""
    site.one.down = ["metalhub-squid@packages.service"]
    eventually(lambda: closed in told())
    assert asked() == closed
    assert "metalhub/egress" not in told(), "the alarm is the administrators'"
    assert "The way out of sessions on compute1: the proxy of class packages does not run." in html.unescape(site.hub.page("/home", admin))
    assert "The way out of sessions on <b>compute1</b>: the proxy of class packages does not run." in page(site, admin)
    site.one.down = []
    eventually(lambda: closed not in told())
    # What only another class needs closes nobody else's way out.
    site.one.down = ["metalhub-resolver@open.service"]
    eventually(lambda: "resolver of class open" in site.hub.page("/home", admin))
    assert asked() == ""
