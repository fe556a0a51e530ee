"""The API's document: it has each handler, and each handler enforces what it says there."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from jupyterhub.apihandlers import APIHandler
from jupyterhub.scopes import scope_definitions
from metalhub_hub import handlers, openapi
from metalhub_hub.openapi import fields, operation, text
from openapi_spec_validator import OpenAPIV31SpecValidator

DOCUMENT = openapi.document(handlers.HANDLERS, "1")


def enforced(method: Any) -> list[tuple[str, ...]]:
    """The scopes of each ``needs_scope`` that a method passes."""
    found, inner = [], method
    while inner is not None:
        if inner.__code__.co_name == "_auth_func":
            found.append(dict(zip(inner.__code__.co_freevars, inner.__closure__, strict=True))["scopes"].cell_contents)
        for cell in inner.__closure__ or ():
            # What `whose` wraps is reached by the closure alone.
            checked = cell.cell_contents
            if getattr(checked, "__code__", None) and checked.__code__.co_name == "_auth_func" and inner.__code__.co_name == "run":
                found.append(dict(zip(checked.__code__.co_freevars, checked.__closure__, strict=True))["scopes"].cell_contents)
        inner = getattr(inner, "__wrapped__", None)
    return found


@pytest.mark.parametrize(
    ("pattern", "name", "method", "handler"), [pytest.param(*route, id=f"{route[1]} {route[0]}") for route in openapi.routes(handlers.HANDLERS)]
)
def test_every_handler_declares_what_it_does_and_enforces_its_scope(pattern: str, name: str, method: Any, handler: str) -> None:
    told = getattr(method, "operation", None)
    assert told is not None, (
        f"{handler}.{name} of {pattern} is not in the API's document: put @openapi.operation(\"What it does\", \"scope\", …) on it "
        "in place of @needs_scope; session_pages.py has examples"
    )
    assert all(scope in scope_definitions for scope in told.scopes)
    assert enforced(method) == ([told.scopes] if told.scopes else []), (
        f"{handler}.{name} enforces {enforced(method)} and declares {told.scopes}: the scopes belong into @openapi.operation alone"
    )
    assert told.summary and not told.summary.endswith("."), "the summary is a phrase for a heading, without a full stop"
    path, _ = openapi.path_of(pattern, method)
    assert name in DOCUMENT["paths"][f"/hub{path}"], f"another route has taken {name} {path}"


def test_the_document_has_nothing_else_and_is_consistent() -> None:
    registered = {(f"/hub{openapi.path_of(pattern, method)[0]}", name) for pattern, name, method, _ in openapi.routes(handlers.HANDLERS)}
    written = {(path, name) for path, operations in DOCUMENT["paths"].items() for name in operations}
    assert written == registered
    identities = [one["operationId"] for operations in DOCUMENT["paths"].values() for one in operations.values()]
    assert len(identities) == len(set(identities)), sorted(identities)
    plain = json.dumps(DOCUMENT)
    used = set(re.findall(r"#/components/schemas/(\w+)", plain))
    assert used == set(DOCUMENT["components"]["schemas"]), "each schema with a name is there, and used"
    for path, operations in DOCUMENT["paths"].items():
        for one in operations.values():
            in_path = [each["name"] for each in one.get("parameters", []) if each["in"] == "path"]
            assert in_path == re.findall(r"{(\w+)}", path) and one["responses"]


def faults(document: dict[str, Any]) -> list[str]:
    """What an independent validator finds wrong."""
    found = OpenAPIV31SpecValidator(document).iter_errors()
    return [f"{'/'.join(map(str, each.absolute_path))}: {each.message}" for each in found]


def test_the_document_is_openapi() -> None:
    assert faults(DOCUMENT) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one["responses"]["200"].pop("description"),
        lambda one: one.update(parameters=[{"name": "since", "in": "nowhere", "schema": {"type": "string"}}]),
        lambda one: one.update(parameters=[{"name": "name", "in": "path", "schema": {"type": "string"}}]),
        lambda one: one["responses"]["200"]["content"]["application/json"].update(schema={"type": "texts"}),
    ],
)
def test_what_is_no_openapi_is_found(spoil: Callable[[dict[str, Any]], object]) -> None:
    spoilt = copy.deepcopy(DOCUMENT)
    spoil(spoilt["paths"]["/hub/metalhub/api/queue"]["get"])
    assert faults(spoilt)


class Declared(APIHandler):  # type: ignore[misc]
    @operation("One thing", "read:users", query={"since": text("from then on")}, answer=fields({"name": text()}), faults={409: "Not now."})
    async def get(self, user_name: str, number: str = "") -> None:
        """More of it."""


class Undeclared(APIHandler):  # type: ignore[misc]
    async def post(self) -> None:
        """Nothing declares this."""


def test_a_route_is_written_with_the_names_of_its_arguments() -> None:
    pattern = r"/metalhub/api/things/([^/]+)/parts/(\d{1,9})"
    found = openapi.document([(pattern, Declared), (r"/metalhub/thing", Undeclared), (r"/metalhub/api/un", Undeclared)], "1")
    ((path, operations),) = found["paths"].items()
    assert path == "/hub/metalhub/api/things/{user_name}/parts/{number}"
    one = operations["get"]
    assert [(each["name"], each["in"], each["schema"]["type"]) for each in one["parameters"]] == [
        ("user_name", "path", "string"), ("number", "path", "integer"), ("since", "query", "string"),
    ]  # fmt: skip
    assert one["security"] == [{"token": ["read:users"]}] and set(one["responses"]) == {"200", "403", "404", "409"}
    assert one["description"] == "More of it."


def test_one_name_has_one_schema() -> None:
    with pytest.raises(ValueError, match="two schemas Fault"):
        openapi.named("Fault", text())
