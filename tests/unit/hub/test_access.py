"""Who may do what: each page and each operation of the API, asked of the real hub by everybody. A route without a line here fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from metalhub_hub import handlers
from metalhub_hub.openapi import METHODS
from tornado.web import RequestHandler
from world import CLI_TOKEN, World, world

# Who asks. Ann has a session, and what is asked for is hers; "session" is the token that is in it, "narrow" one of her own that may only
# read what she is and used, not what her sessions are (read:users). The first four are browsers with the page's header against forgery, the others have tokens.
WHO = ("nobody", "ann", "bob", "admin", "cli", "session", "narrow")

# What each gets. A page sends who is not logged in to the login (302), also a token, except where it says that it takes one.
CASES = {
    # a page of everybody
    "GET /metalhub/room":                                  (302, 200, 200, 200, 302, 302, 302),
    "GET /metalhub/room/ann":                              (302, 200, 404, 200, 302, 302, 302),
    "GET /metalhub/invite":                               (410, 410, 410, 410, 410, 410, 410),
    "POST /metalhub/invite":                              (403, 410, 410, 410, 403, 403, 403),
    "GET /metalhub/static/metalhub.css":                   (200, 200, 200, 200, 200, 200, 200),
    # pages of a session, for its owner's browser; the others get a sentence instead of a page. A POST needs a ticket of that page.
    "GET /metalhub/notice/ann":                            (403, 200, 403, 403, 403, 403, 403),
    "POST /metalhub/notice/ann":                           (403, 403, 403, 403, 403, 403, 403),
    "GET /metalhub/notice/ann/other":                      (403, 404, 403, 403, 403, 403, 403),
    "POST /metalhub/notice/ann/other":                     (403, 404, 403, 403, 403, 403, 403),
    # pages for administrators
    "GET /metalhub/egress":                                (302, 403, 403, 200, 302, 302, 302),
    "GET /metalhub/queue":                                 (302, 403, 403, 200, 302, 302, 302),
    "GET /metalhub/usage":                                 (302, 403, 403, 200, 302, 302, 302),
    "GET /metalhub/usage.csv":                             (302, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/sessions":                              (302, 403, 403, 200, 302, 302, 302),
    "GET /metalhub/audit":                                 (302, 403, 403, 200, 302, 302, 302),
    "GET /metalhub/audit.jsonl":                           (302, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/requests":                              (302, 403, 403, 200, 302, 302, 302),
    # the API for everybody, about themselves
    "GET /metalhub/api/openapi.json":                      (403, 200, 200, 200, 200, 200, 200),
    "GET /metalhub/api/usage?user=ann":                    (403, 200, 404, 200, 200, 403, 200),
    "GET /metalhub/api/users/ann/sessions":                (403, 200, 404, 200, 200, 403, 403),
    "GET /metalhub/api/users/ann/session/diagnosis":      (403, 200, 404, 200, 200, 403, 403),
    "GET /metalhub/api/users/ann/sessions/other/diagnosis":(403, 404, 404, 404, 404, 403, 403),
    "POST /metalhub/api/users/ann/session/extend":         (403, 200, 404, 200, 200, 403, 403),
    "POST /metalhub/api/users/ann/sessions/other/extend":  (403, 404, 404, 404, 404, 403, 403),
    "POST /metalhub/api/users/ann/session/hibernate":      (403, 409, 404, 409, 409, 403, 403),
    "POST /metalhub/api/users/ann/sessions/other/hibernate": (403, 404, 404, 404, 404, 403, 403),
    "POST /metalhub/api/users/ann/session/wake":           (403, 200, 404, 200, 200, 403, 403),
    "POST /metalhub/api/users/ann/sessions/other/wake":    (403, 404, 404, 404, 404, 403, 403),
    "GET /metalhub/api/users/ann/snapshots":               (403, 200, 404, 200, 200, 403, 403),
    "POST /metalhub/api/users/ann/snapshots":              (403, 409, 404, 409, 409, 403, 403),
    "POST /metalhub/api/users/ann/snapshots/x/restore":    (403, 409, 404, 409, 409, 403, 403),
    "POST /metalhub/api/users/ann/profile-requests":       (403, 400, 404, 400, 403, 403, 403),
    # the API for administrators
    "GET /metalhub/api/profiles":                          (403, 403, 403, 200, 200, 403, 403),
    "POST /metalhub/api/profiles":                         (403, 403, 403, 400, 400, 403, 403),
    "GET /metalhub/api/profiles/small":                    (403, 403, 403, 200, 200, 403, 403),
    "PATCH /metalhub/api/profiles/small":                  (403, 403, 403, 200, 200, 403, 403),
    "PUT /metalhub/api/profiles/small":                    (403, 403, 403, 200, 200, 403, 403),
    "DELETE /metalhub/api/profiles/small":                 (403, 403, 403, 409, 409, 403, 403),
    "POST /metalhub/api/profiles-converge":                (403, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/api/profile-requests":                  (403, 403, 403, 200, 200, 403, 403),
    "PUT /metalhub/api/profile-requests/bob/small":        (403, 403, 403, 400, 400, 403, 403),
    "GET /metalhub/api/egress":                            (403, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/api/queue":                             (403, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/api/nodes":                             (403, 403, 403, 200, 200, 403, 403),
    "POST /metalhub/api/nodes/none/drain":                (403, 403, 403, 404, 404, 403, 403),
    "GET /metalhub/api/invites":                          (403, 403, 403, 200, 200, 403, 403),
    "POST /metalhub/api/invites":                         (403, 403, 403, 201, 201, 403, 403),
    "DELETE /metalhub/api/invites/99999":                 (403, 403, 403, 404, 404, 403, 403),
    "GET /metalhub/api/accounts":                         (403, 403, 403, 200, 200, 403, 403),
    "POST /metalhub/api/accounts":                        (403, 403, 403, 400, 400, 403, 403),
    "POST /metalhub/api/accounts/nobody/disable":         (403, 403, 403, 404, 404, 403, 403),
    "POST /metalhub/api/accounts/nobody/enable":          (403, 403, 403, 404, 404, 403, 403),
    "GET /metalhub/api/sessions":                          (403, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/api/audit":                             (403, 403, 403, 200, 200, 403, 403),
    "POST /metalhub/api/audit/verify":                     (403, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/api/usage/report":                      (403, 403, 403, 200, 200, 403, 403),
    "GET /metalhub/api/quota/overrides":                   (403, 403, 403, 200, 200, 403, 403),
    "POST /metalhub/api/quota/overrides":                  (403, 403, 403, 400, 400, 403, 403),
    "DELETE /metalhub/api/quota/overrides/99":             (403, 403, 403, 404, 404, 403, 403),
}  # fmt: skip
# What is sent, where it is not nothing.
BODIES = {"POST /metalhub/api/users/ann/session/extend": {"by": "1s"}}


def registered() -> list[tuple[str, str]]:
    """HTTP's method and the pattern of all of Metalhub's own routes."""
    found = []
    for pattern, handler, *_ in handlers.HANDLERS:
        own = [name for name in METHODS if getattr(handler, name) is not getattr(RequestHandler, name)]
        found += [(name.upper(), pattern) for name in own]
    return found


def fits(case: str, method: str, pattern: str) -> bool:
    name, path = case.split(" ")
    return name == method and re.fullmatch(pattern, path.partition("?")[0]) is not None


@pytest.mark.parametrize(("method", "pattern"), registered())
def test_every_route_has_a_line_in_the_table(method: str, pattern: str) -> None:
    assert any(fits(case, method, pattern) for case in CASES), (
        f'{method} {pattern} has no line in CASES: add "{method} <a path>" with the statuses that {", ".join(WHO)} get, in this order'
    )


@pytest.mark.parametrize("case", CASES)
def test_every_line_is_of_a_route(case: str) -> None:
    assert any(fits(case, *route) for route in registered()), f"no route of the hub is {case}"


def prepare(made: World) -> None:
    made.change(lambda raw: raw["profiles"]["small"].update(extension="8h"))
    made.mint()


class Site(World):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tokens: dict[str, str] = {"cli": CLI_TOKEN}

    def everybody(self) -> None:
        for name in ("ann", "bob"):
            self.hub.api("POST", f"/users/{name}")
            self.sign_up(name)
            self.approve(name)
        self.running("ann", profile="small")
        (service,) = self.engine.services.values()
        env = dict(item.split("=", 1) for item in service["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"])
        self.tokens["session"] = env["JUPYTERHUB_API_TOKEN"]
        narrow = self.hub.api("POST", "/users/ann/tokens", json={"note": "narrow", "scopes": ["read:users!user=ann"]})
        self.tokens["narrow"] = narrow.json()["token"]
        self.headers = {name: self.forgery(name) for name in ("ann", "bob", "admin")}

    def send(self, who: str, case: str) -> requests.Response:
        method, path = case.split(" ")
        client, headers = requests.Session(), {"Content-Type": "application/json"}
        client.trust_env = False
        if who in self.tokens:
            headers["Authorization"] = f"token {self.tokens[who]}"
        elif who != "nobody":
            client, headers = self.cookies(who), {**headers, **self.headers[who]}
        data = json.dumps(BODIES.get(case, {})) if method != "GET" else None
        return client.request(method, f"{self.hub.url}{path}", data=data, headers=headers, allow_redirects=False, timeout=30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with world(tmp_path_factory.mktemp("hub"), prepare, Site) as made:
        made.everybody()
        yield made


@pytest.mark.parametrize("case", CASES)
def test_who_gets_what(site: Site, case: str) -> None:
    answers = {who: site.send(who, case) for who in WHO}
    assert tuple(answer.status_code for answer in answers.values()) == CASES[case], {who: answer.text[:200] for who, answer in answers.items()}
    for who, answer in answers.items():
        if answer.status_code == 302:
            assert "/hub/login" in answer.headers["Location"], (who, answer.headers)
        elif answer.status_code in (403, 404):
            assert "mh-ann-" not in answer.text and "127.0.0.1" not in answer.text, "a refusal tells nothing of what was refused"


@pytest.mark.parametrize("case", [case for case, statuses in CASES.items() if not case.startswith("GET") and 200 in statuses])
def test_a_browsers_request_without_the_header_against_forgery_does_nothing(site: Site, case: str) -> None:
    method, path = case.split(" ")
    for name in ("ann", "admin"):
        answer = site.cookies(name).request(method, f"{site.hub.url}{path}", data=json.dumps(BODIES.get(case, {})), timeout=30)
        assert answer.status_code == 403, (name, answer.text)


def test_what_was_taken_away_is_gone_at_once(site: Site) -> None:
    made = site.hub.api("POST", "/users/ann/tokens", json={"note": "short"}).json()
    assert site.ask(made["token"], "/metalhub/api/users/ann/sessions").status_code == 200
    site.hub.api("DELETE", f"/users/ann/tokens/{made['id']}")
    assert site.ask(made["token"], "/metalhub/api/users/ann/sessions").status_code == 403
