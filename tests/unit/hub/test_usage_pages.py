"""Usage on the pages, in the API and in the metrics of a real hub: who may see and change what, and a session that is cut while it runs."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import requests
from metalhub_hub.ledger import Held, Ledger
from metalhub_hub.usage import month_span, read_override
from test_hub import PASSWORD, eventually, log_in
from world import World, world

AUDITOR, NOBODY, BOB = "f" * 40, "e" * 40, "bob"


class Site(World):
    bob = ""


def prepare(made: Site) -> None:
    made.change(
        lambda raw: raw.update(
            quotas={"default": "sessions=2, memory=8G", "users": {"bob": "cpu=40h/month", "cut": "cpu=7s/month"}},
            quota_notice="3s",
            rates={"currency": "EUR", "cpu": 0.5, "memory": 0.1},
        )
    )
    made.configure("from metalhub_hub import quota", "quota.TICK = 0.5")
    made.mint()
    made.service("auditor", AUDITOR, "admin-ui", "read:users", "read:metrics")
    made.service("nobody", NOBODY)
    book = Ledger(f"sqlite:///{made.directory}/jupyterhub.sqlite", "before")
    book.create()
    now = int(time.time())
    for name, groups, hours in (("bob", ("lab",), 10), ("<b>carol", (), 2)):
        # So that it is in this month on its first day, too.
        start = max(now - hours * 3600, int(datetime.now(timezone.utc).replace(day=1, hour=0, minute=0, second=0).timestamp()))
        book.begin([Held(name, "", f"mh-{name}", "small", groups, "cpu", 2, 2**30, start, start)])
        book.end(f"mh-{name}", now)
    book.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("hub"), prepare, Site) as made:
        for name in ("bob", "cut"):
            made.hub.api("POST", f"/users/{name}")
        made.bob = made.token("bob")
        yield made


@pytest.fixture(scope="module")
def admin(site: Site) -> requests.Session:
    return log_in(site.hub, "admin", PASSWORD)


def ask(site: Site, who: str, path: str, method: str = "GET", **arguments: Any) -> requests.Response:
    return site.ask(site.bob if who == BOB else who, path, method, **arguments)


@pytest.mark.parametrize(
    ("who", "method", "path", "status"),
    [
        ("", "GET", "/metalhub/usage", 302),
        ("", "GET", "/metalhub/usage.csv", 302),
        ("", "GET", "/metalhub/api/usage", 403),
        ("", "GET", "/metalhub/api/quota/overrides", 403),
        ("", "POST", "/metalhub/api/quota/overrides", 403),
        ("", "DELETE", "/metalhub/api/quota/overrides/1", 403),
        (BOB, "GET", "/metalhub/api/usage", 200),
        (BOB, "GET", "/metalhub/api/usage?user=bob", 200),
        (BOB, "GET", "/metalhub/api/usage?user=admin", 404),
        (BOB, "GET", "/metalhub/api/usage?user=nobody-there", 404),
        (BOB, "GET", "/metalhub/usage.csv", 403),
        (BOB, "GET", "/metalhub/api/quota/overrides", 403),
        (BOB, "POST", "/metalhub/api/quota/overrides", 403),
        (BOB, "DELETE", "/metalhub/api/quota/overrides/1", 403),
        (NOBODY, "GET", "/metalhub/api/usage", 403),
        (NOBODY, "GET", "/metalhub/api/usage?user=bob", 403),
        (NOBODY, "GET", "/metalhub/usage.csv", 403),
        (NOBODY, "POST", "/metalhub/api/quota/overrides", 403),
        (AUDITOR, "GET", "/metalhub/api/usage?user=bob", 200),
        (AUDITOR, "GET", "/metalhub/api/usage?user=nobody-there", 404),
        (AUDITOR, "GET", "/metalhub/usage.csv", 200),
        (AUDITOR, "GET", "/metalhub/usage.csv?month=2026-13", 400),
        (AUDITOR, "GET", "/metalhub/api/quota/overrides", 200),
        (AUDITOR, "DELETE", "/metalhub/api/quota/overrides/99", 404),
    ],
)
def test_who_may_see_and_change_what(site: Site, who: str, method: str, path: str, status: int) -> None:
    answer = ask(site, who, path, method, **({"json": {}} if method == "POST" else {}))
    assert answer.status_code == status, answer.text
    if status >= 300:
        assert "carol" not in answer.text


def test_a_user_sees_what_is_used_and_left(site: Site) -> None:
    found = ask(site, BOB, "/metalhub/api/usage").json()
    assert [limit["resource"] for limit in found["limits"]] == ["sessions", "memory", "cpu"]
    cpu = found["limits"][2]
    assert cpu["used"] + cpu["left"] == 40 * 3600 and 0 < cpu["used"] <= 20 * 3600 and cpu["renews"] > time.time()
    assert "of 40 hours of cpu this month (your own limit)" in cpu["sentence"]
    assert found["notices"] == [] and found["time_zone"] == "UTC"


def test_the_page_and_the_table_of_everybody(site: Site, admin: requests.Session) -> None:
    page = site.hub.page("/metalhub/usage", admin)
    for words in ("By user", "By group", "By profile", "bob", "CPU hours a day", "EUR", "&lt;b&gt;carol"):
        assert words in page, words
    assert "<b>carol" not in page
    assert 'href="/hub/metalhub/usage"' in site.hub.page("/home", admin)
    rows = {(row["kind"], row["name"]): row for row in csv.DictReader(io.StringIO(ask(site, AUDITOR, "/metalhub/usage.csv").text))}
    cpu, memory = float(rows["user", "bob"]["cpu_hours"]), float(rows["user", "bob"]["memory_hours"])
    assert float(rows["user", "bob"]["cost"]) == pytest.approx(cpu * 0.5 + memory * 0.1, abs=0.01)
    assert ("group", "lab") in rows and ("group", "") in rows and ("profile", "small") in rows and ("all", "") in rows
    assert "Nothing ran in 2020-01" in site.hub.page("/metalhub/usage?month=2020-01", admin)


@pytest.mark.parametrize(
    ("query", "users", "groups"),
    [
        ("user=bob", {"bob"}, {"lab"}),
        ("group=lab", {"bob"}, {"lab"}),
        ("user=bob&group=lab&profile=small", {"bob"}, {"lab"}),
        ("user=%3Cb%3Ecarol", {"<b>carol"}, {""}),
        ("profile=slice", set(), set()),
        ("user=bob&group=other", set(), set()),
    ],
)
def test_who_is_asked_for_is_all_that_the_report_has(
    site: Site, admin: requests.Session, query: str, users: set[str], groups: set[str]
) -> None:
    table = list(csv.DictReader(io.StringIO(ask(site, AUDITOR, f"/metalhub/usage.csv?{query}").text)))
    found = ask(site, AUDITOR, f"/metalhub/api/usage/report?{query}").json()
    for kind, wanted in (("user", users), ("group", groups)):
        assert {row["name"] for row in table if row["kind"] == kind} == {row["name"] for row in found[f"{kind}s"]} == wanted
    page = site.hub.page(f"/metalhub/usage?{query}", admin)
    shown = set(re.findall(r'<tr id="users-([^"]*)">', page))
    assert {html.unescape(name) for name in shown} == users
    assert ("Nothing is as you asked" in page) == (not users)
    (link,) = re.findall(r'href="/hub/(metalhub/usage\.csv\?[^"]*)"', page)
    assert ask(site, AUDITOR, "/" + html.unescape(link)).text == ask(site, AUDITOR, f"/metalhub/usage.csv?{query}").text
    # Whom else one can ask for is still offered.
    assert 'value="bob"' in page and ">lab</option>" in page and "Show all" in page and "<b>carol" not in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"user": "nobody-there"}, "user is 'nobody-there'"),
        ({"user": ""}, "user is ''"),
        ({"resource": "sessions"}, "resource is 'sessions'"),
        ({"resource": "gpu_a100"}, "resource is 'gpu_a100'"),
        ({"extra": "2"}, "'2' is not a duration"),
        ({"extra": "0h"}, "extra seconds are 0"),
        ({"extra": 7200}, "extra is 7200"),
        ({"reason": " "}, "reason is ' '"),
        ({"for": None}, "None is not a duration"),
        ({"for": "0s"}, "ended already"),
        ({"until": "2030-01-01T00:00:00Z"}, "needs an end"),
        ({"colour": "blue"}, "colour is not known"),
    ],
)
def test_a_bad_override_has_one_message_and_changes_nothing(site: Site, change: dict[str, Any], words: str) -> None:
    body = {"user": "bob", "resource": "cpu", "extra": "2h", "for": "1d", "reason": "a paper", **change}
    answer = ask(site, AUDITOR, "/metalhub/api/quota/overrides", "POST", json=body)
    assert answer.status_code == 400 and words in answer.json()["message"], answer.text
    assert ask(site, AUDITOR, "/metalhub/api/quota/overrides").json() == {"overrides": []}


def test_an_override_is_given_seen_audited_and_taken_back(site: Site, admin: requests.Session) -> None:
    body = {"user": "bob", "resource": "cpu", "extra": "2h", "for": "1d", "reason": "a paper is due"}
    given = ask(site, AUDITOR, "/metalhub/api/quota/overrides", "POST", json=body)
    assert given.status_code == 201 and given.json()["by"] == "auditor"
    assert ask(site, BOB, "/metalhub/api/usage").json()["limits"][2]["limit"] == 42 * 3600
    assert "a paper is due" in site.hub.page("/metalhub/usage", admin)
    assert ask(site, AUDITOR, f"/metalhub/api/quota/overrides/{given.json()['id']}", "DELETE").status_code == 204
    assert ask(site, BOB, "/metalhub/api/usage").json()["limits"][2]["limit"] == 40 * 3600
    audit = (site.hub.directory / "audit.jsonl").read_text()
    assert '"override"' in audit and '"override.ended"' in audit and "a paper is due" in audit


def test_an_end_by_a_date_needs_its_zone() -> None:
    body = {"user": "bob", "resource": "gpu-a100", "extra": "2h", "reason": "x", "until": "2030-01-01T00:00:00"}
    with pytest.raises(ValueError, match="a time with its zone"):
        read_override(body, 0)
    assert read_override({**body, "until": "2030-01-01T01:00:00+01:00"}, 0)[1].until == 1_893_456_000
    with pytest.raises(ValueError, match="one such as 2026-01"):
        month_span("2026-00", timezone.utc)


def test_a_session_is_cut_while_it_runs_and_its_page_says_why(site: Site) -> None:
    site.hub.spawn("cut")
    eventually(lambda: (site.hub.server("cut") or {}).get("ready"))
    eventually(lambda: ask(site, AUDITOR, "/metalhub/api/usage?user=cut").json()["notices"])
    eventually(lambda: site.hub.server("cut") is None)
    eventually(lambda: not site.engine.services)
    (limit,) = [e for e in ask(site, AUDITOR, "/metalhub/api/usage?user=cut").json()["limits"] if e["resource"] == "cpu"]
    assert 7 <= limit["used"] <= 20
    lines = (site.hub.directory / "audit.jsonl").read_text()
    events = [json.loads(line) for line in lines.splitlines()]
    told = [event["kind"] for event in events if event["facts"].get("cause") == "quota" and event["facts"].get("user") == "cut"]
    assert told[-2:] == ["session.cut", "session.stopped"] and "session.noticed" in told
    refused = site.hub.spawn("cut")
    assert refused.status_code == 403 and "of 7 seconds of cpu this month (your own limit); it begins anew" in refused.json()["message"]
    metrics = ask(site, AUDITOR, "/metrics").text
    assert 'metalhub_quota_cuts_total{resource="cpu"} 1.0' in metrics and "metalhub_gpu_hours_month_to_date" in metrics
