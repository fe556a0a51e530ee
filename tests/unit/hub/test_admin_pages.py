"""All sessions, the audit log and the metrics on a real hub: what administrators see, and what their buttons ask for."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from metalhub_hub import audit, metrics
from prometheus_client.parser import text_string_to_metric_families
from test_hub import eventually
from world import CLI_TOKEN, World, world

SCRAPER = "f" * 40


def prepare(made: World) -> None:
    made.change(lambda raw: raw.update(rates={"currency": "EUR", "cpu": 3600.0}))
    made.change(lambda raw: raw["profiles"]["small"].update(extension="8h"))
    made.change(lambda raw: raw["quotas"].update(default="sessions=9"))
    made.configure("from metalhub_hub import quota", "quota.TICK = 0.5")
    made.service("scraper", SCRAPER, "read:metrics")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("hub"), prepare) as made:
        made.running("ann", profile="small")
        made.running("ann", "two", profile="small")
        made.running("joann", profile="small")
        yield made


def sessions(site: World, **query: Any) -> dict[str, Any]:
    answer = site.ask(CLI_TOKEN, "/metalhub/api/sessions", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any]) -> list[str]:
    return [f"{row['user']}/{row['name']}" for row in found["sessions"]]


def page(site: World, path: str) -> str:
    answer = site.cookies("admin").get(f"{site.hub.url}{path}", timeout=20)
    return html.unescape(answer.text)


def test_sessions_are_filtered_sorted_and_cut(site: World) -> None:
    found = sessions(site)
    assert names(found) == ["ann/", "ann/two", "joann/"] and (found["all"], found["total"]) == (3, 3)
    assert sum(found["states"].values()) == 3
    row = found["sessions"][0]
    assert (row["profile"], row["title"], row["node"], row["gpu"], row["next"]) == ("small", "Small", "compute1", "", "stop")
    assert row["cpu"] is row["memory"] is None and (row["cpus"], row["memory_limit"]) == (1, 2 * 2**30)
    assert names(sessions(site, user="joann")) == ["joann/"] and names(sessions(site, sort="-user")) == ["joann/", "ann/two", "ann/"]
    some = sessions(site, limit=1, offset=1)
    assert names(some) == ["ann/two"] and some["total"] == 3
    assert names(sessions(site, node="compute2")) == [] == names(sessions(site, state="hibernated"))
    refused = site.ask(CLI_TOKEN, "/metalhub/api/sessions?state=flying")
    assert refused.status_code == 400 and "give one of queued" in refused.json()["message"]


def test_what_a_session_costs_grows(site: World) -> None:
    # A CPU costs 1 a second here.
    before = eventually(lambda: sessions(site, user="joann")["sessions"][0]["cost"])
    eventually(lambda: sessions(site, user="joann")["sessions"][0]["cost"] > before)


def test_the_page_of_sessions(site: World) -> None:
    text = page(site, "/metalhub/sessions")
    assert text.count("<tr data-user=") == 3 and "1 to 3 of 3" in text
    for part in ('href="/hub/metalhub/audit?user=joann"', 'href="/hub/metalhub/usage#users-joann"', 'data-do="extend"', 'data-do="stop"', "EUR"):
        assert part in text, part
    assert 'data-do="hibernate"' not in text and 'data-do="wake"' not in text, "these nodes have no agents"
    text = page(site, "/metalhub/sessions?user=joann&sort=-cost")
    assert text.count("<tr data-user=") == 1 and 'aria-sort="descending"' in text and "?user=joann&sort=cost" in text
    assert "No session is as you asked." in page(site, "/metalhub/sessions?user=zoe")


def test_an_administrator_extends_and_stops(site: World) -> None:
    jar, headers = site.cookies("admin"), {**site.forgery("admin"), "Content-Type": "application/json"}
    url = f"{site.hub.url}/metalhub/api/users/ann/sessions/two/extend"
    assert jar.post(url, data="{}", headers=headers, timeout=20).json()["extended"] == 3600
    assert jar.delete(f"{site.hub.url}/api/users/ann/servers/two", headers=headers, timeout=20).status_code in (202, 204)
    eventually(lambda: names(sessions(site)) == ["ann/", "joann/"])


def log(site: World, **query: Any) -> dict[str, Any]:
    answer = site.ask(CLI_TOKEN, "/metalhub/api/audit", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_log_is_searched_and_exported(site: World) -> None:
    site.cookies("admin")
    found = log(site, user="joann", kind="session", limit=2)
    kinds = [event["kind"] for event in found["events"]]
    assert kinds == ["session.running", "session.queued"] and found["chain"]["head"]["seq"] >= found["events"][0]["seq"]
    assert log(site, user="joann", kind="session", cursor=found["cursor"])["events"] == []
    assert [event["facts"]["user"] for event in log(site, kind="login.ok", actor="admin")["events"]] == ["admin"]
    assert not log(site, until="2026-01-01")["events"] and not log(site, cause="quota")["events"]
    for query, words in (
        ("since=soon", "since: 'soon' is no time"), ("since=1h&until=2h", "until: it is before since"),
        ("cursor=x", "cursor: 'x' is not legal"), ("limit=0", "from 1 to 1000"),
    ):  # fmt: skip
        refused = site.ask(CLI_TOKEN, f"/metalhub/api/audit?{query}")
        assert refused.status_code == 400 and words in refused.json()["message"], refused.text
    exported = site.ask(CLI_TOKEN, "/metalhub/audit.jsonl?user=joann").content.splitlines(keepends=True)
    whole = list(audit.lines(audit.segments(site.directory)))
    assert exported == [line for line in whole if b'"user":"joann"' in line] != []


def test_the_page_of_the_log(site: World) -> None:
    text = page(site, "/metalhub/audit?user=joann&kind=session.r")
    assert "session.running" in text and "session.queued" not in text and "?user=joann&kind=session.running" in text
    wrong = site.cookies("admin").get(f"{site.hub.url}/metalhub/audit?since=%3Cb%3E", timeout=20)
    assert wrong.status_code == 400 and "is no time: write a date" in wrong.text and "<b>" not in wrong.text
    assert "Nothing is as you asked." in page(site, "/metalhub/audit?user=zoe")
    whole = page(site, "/metalhub/audit")
    older = re.search(r'id="older" href="\?(cursor=[^"]+)"', whole)
    assert (older is not None) == (log(site)["cursor"] != "")


def test_the_menu_of_administrators_is_on_each_page(site: World) -> None:
    for path in ("/home", "/metalhub/sessions", "/metalhub/audit", "/metalhub/usage", "/metalhub/egress"):
        text = page(site, path)
        for name in ("sessions", "usage", "audit", "egress"):
            assert f'href="/hub/metalhub/{name}">' in text, (path, name)


def test_the_openapi_document_is_served(site: World) -> None:
    found = site.ask(CLI_TOKEN, "/metalhub/api/openapi.json").json()
    assert found["openapi"] == "3.1.0" and "/hub/metalhub/api/sessions" in found["paths"]


def scrape(site: World) -> dict[str, Any]:
    text = site.ask(SCRAPER, "/metrics").text
    families = text_string_to_metric_families(text)
    return {one.name: one for one in families if one.name.startswith(metrics.PREFIX) and not one.name.endswith("_created")}


def test_the_metrics(site: World) -> None:
    found = scrape(site)
    listed = {name.removesuffix("_total"): set(labels) for name, _, labels, _ in metrics.listed()}
    assert set(found) == set(listed), "the registry that docs/metrics.md is made from is the hub's"
    for name, family in found.items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == listed[name], sample
    states = {(s.labels["state"], s.labels["profile"]): s.value for s in found["metalhub_sessions"].samples}
    assert states["running", "small"] + states["idle", "small"] == 2 and states["hibernated", "slice"] == 0
    (count,) = [s.value for s in found["metalhub_session_start_duration_seconds"].samples if s.name.endswith("_count")]
    assert count == 3
    assert not found["metalhub_session_start_failures"].samples
    site.engine.fate = {"State": "rejected", "Err": "no space left on device"}
    site.hub.api("POST", "/users/joann/servers/none", json={"profile": "small"})
    site.engine.fate = {"State": "running"}
    eventually(lambda: scrape(site)["metalhub_session_start_failures"].samples)
    (failed, *_) = scrape(site)["metalhub_session_start_failures"].samples
    assert (failed.labels, failed.value) == ({"profile": "small", "reason": "disk"}, 1)
    assert found["metalhub_audit_events"].samples[0].value > 10 and found["metalhub_audit_waiting_events"].samples[0].value == 0


def test_the_chain_is_checked_and_a_broken_one_is_told(site: World) -> None:
    jar, headers = site.cookies("admin"), site.forgery("admin")

    def check() -> dict[str, Any]:
        answer = jar.post(f"{site.hub.url}/metalhub/api/audit/verify", headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["checked"]
        return found

    good = check()
    assert good["good"] and good["first"] == 1 and good["last"] > 10 and not good["words"]
    assert "numbers 1 to" in page(site, "/metalhub/audit")
    assert scrape(site)["metalhub_audit_chain_good"].samples[0].value == 1
    path = site.directory / "audit.jsonl"
    text = path.read_bytes()
    try:
        with path.open("r+b") as file:  # the same file, which the hub has open
            file.write(text.replace(b"joann", b"jomary"[:5], 1))
        bad = check()
    finally:
        with path.open("r+b") as file:
            file.write(text)
    line = text[: text.index(b"joann")].count(b"\n") + 1
    assert not bad["good"] and bad["words"].startswith(f"audit.jsonl:{line}: ")
    assert "The log is not as it was written." in page(site, "/metalhub/audit")
    (event,) = log(site, kind="audit.broken")["events"]
    assert event["facts"]["words"] == bad["words"] and event["facts"]["actor"] == "hub"
    assert json.loads((site.directory / "audit-checked.json").read_text())["good"] is False
    assert check()["good"], "the line was put back as it was"


def test_older_files_that_were_moved_away_are_no_break(site: World) -> None:
    events = [json.loads(line) for line in audit.lines(audit.segments(site.directory))]
    site.hub.kill()
    path = site.directory / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[5:]))
    site.hub.start()
    assert events[5]["seq"] == 6
    answer = requests.post(f"{site.hub.url}/metalhub/api/audit/verify", headers={"Authorization": f"token {CLI_TOKEN}"}, timeout=60)
    found = answer.json()["checked"]
    assert found["good"] and found["first"] == 6, found
