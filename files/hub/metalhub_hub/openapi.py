"""The API's own description, in OpenAPI 3.1: what each handler says of itself is both what it enforces and what is written down.

A method of a handler under ``/metalhub/api/`` is declared by ``operation``, beside its code. Routes come from the lists of handlers, the
names of what is in a path from the method's arguments. ``docs/api.md`` is this document for people.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

BASE = "/metalhub/api/"
METHODS = ("get", "post", "put", "patch", "delete")
FORBIDDEN = "Nobody is logged in, or the scope is missing, or a page's request has no token against forgery."
MISSING = "There is no such thing, or it is not the caller's to know of."

Schema = dict[str, Any]
Handlers = Sequence[tuple[Any, ...]]

SCHEMAS: dict[str, Schema] = {}


# Schemas, in few words


def text(words: str = "", **more: Any) -> Schema:
    return _typed("string", words, more)


def integer(words: str = "", **more: Any) -> Schema:
    return _typed("integer", words, more)


def number(words: str = "", **more: Any) -> Schema:
    return _typed("number", words, more)


def truth(words: str = "", **more: Any) -> Schema:
    return _typed("boolean", words, more)


def anything(words: str) -> Schema:
    return {"description": words}


def _typed(kind: str, words: str, more: Mapping[str, Any]) -> Schema:
    """``null=True``: it may also be null."""
    more = dict(more)
    kinds: Any = [kind, "null"] if more.pop("null", False) else kind
    return {"type": kinds, **({"description": words} if words else {}), **more}


def array(items: Schema, words: str = "") -> Schema:
    return _typed("array", words, {"items": items})


def mapping(values: Schema, words: str = "") -> Schema:
    """An object whose keys are names."""
    return _typed("object", words, {"additionalProperties": values})


def fields(required: Mapping[str, Schema] | None = None, words: str = "", **optional: Schema) -> Schema:
    """An object with these keys and no others: ``required`` ones, and those that may be missing."""
    required = required or {}
    more: dict[str, Any] = {"properties": {**required, **optional}, "additionalProperties": False}
    if required:
        more["required"] = list(required)
    return _typed("object", words, more)


def named(name: str, schema: Schema) -> Schema:
    """A schema that has a name, which is written down once."""
    if SCHEMAS.setdefault(name, schema) != schema:
        raise ValueError(f"there are two schemas {name}")
    return {"$ref": f"#/components/schemas/{name}"}


FAULT = named("Fault", fields({"status": integer("as in the answer's first line"), "message": text("a sentence for people")}))


# Operations


@dataclass(frozen=True)
class Operation:
    """What one method of a handler does. Any one of ``scopes`` is enough; without one any login is."""

    summary: str
    scopes: tuple[str, ...]
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    body_needed: bool = True
    answers: Mapping[int, tuple[str, Schema | None]] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)
    media: str = "application/json"
    whose: str = ""


def operation(
    summary: str,
    *scopes: str,
    query: Mapping[str, Schema] | None = None,
    body: Schema | None = None,
    body_needed: bool = True,
    answer: Schema | None = None,
    status: int = 200,
    faults: Mapping[int, str] | None = None,
    media: str = "application/json",
    whose: str = "",
) -> Callable[[Any], Any]:
    """Declare a handler's method, and let in only who has one of ``scopes``. Do not put ``needs_scope`` beside it.

    ``answer`` is the schema of what comes with ``status``, ``faults`` what else may come, by status. ``whose``: the argument
    ``user_name`` comes from the query parameter of this name, and is the caller where that is missing.
    """
    told = Operation(
        summary, scopes, query or {}, body, body_needed, {status: (summary, answer)}, {404: MISSING} | (faults or {}), media, whose
    )

    def decorate(method: Any) -> Any:
        checked = needs_scope(*scopes)(method) if scopes else _logged_in(method)
        if not whose:
            run = checked
        else:

            @functools.wraps(method)
            async def run(self: Any, *args: Any) -> None:
                caller = self.current_user.name if self.current_user else ""
                await checked(self, *args, user_name=self.get_argument(whose, caller))

        run.operation = told
        return run

    return decorate


def _logged_in(method: Any) -> Any:
    @functools.wraps(method)
    def check(self: Any, *args: Any, **more: Any) -> Any:
        if self.current_user is None:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        return method(self, *args, **more)

    return check


# The document


def methods(handler: Any) -> dict[str, Any]:
    """The methods that a handler has of its own, by HTTP's name for them."""
    return {name: getattr(handler, name) for name in METHODS if getattr(handler, name) is not getattr(APIHandler, name)}


def path_of(pattern: str, method: Any) -> tuple[str, dict[str, Schema]]:
    """A route as OpenAPI writes it, with the parameters in it. ``([^/]+)`` takes the name of the method's argument."""
    names = [name for name in inspect.signature(inspect.unwrap(method)).parameters if name != "self"]
    found: dict[str, Schema] = {}

    def named_part(match: re.Match[str]) -> str:
        name = names[len(found)]
        found[name] = integer() if match[1].startswith(r"\d") else text()
        return f"{{{name}}}"

    return re.sub(r"\(([^()]*)\)", named_part, pattern).replace("\\", "").rstrip("$"), found


def routes(handlers: Handlers) -> list[tuple[str, str, Any, str]]:
    """Pattern, HTTP's method, what runs, and the handler's name, of all handlers below BASE."""
    return [
        (pattern, name, method, handler.__name__)
        for pattern, handler, *_ in handlers
        if pattern.startswith(BASE)
        for name, method in methods(handler).items()
    ]


def document(handlers: Handlers, version: str) -> dict[str, Any]:
    """The OpenAPI document of these handlers. What declares nothing of itself is not in it; a test finds that."""
    paths: dict[str, dict[str, Any]] = {}
    for pattern, name, method, handler in routes(handlers):
        told = getattr(method, "operation", None)
        if told is None:
            continue
        path, parts = path_of(pattern, method)
        one = _operation(told, parts, inspect.getdoc(inspect.unwrap(method)) or "")
        number_of_parts = str(len(parts)) if any(p != pattern for p, n, m, h in routes(handlers) if (n, h) == (name, handler)) else ""
        paths.setdefault(f"/hub{path}", {})[name] = {"operationId": f"{name}{handler.removesuffix('Handler')}{number_of_parts}", **one}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Metalhub",
            "version": version,
            "description": "What Metalhub has beside JupyterHub's own API, which is at /hub/api. Times are seconds, sizes bytes.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(SCHEMAS.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of JupyterHub's. Any one of the scopes that an operation names is enough.",
                }
            },
        },
    }


def _operation(told: Operation, parts: Mapping[str, Schema], words: str) -> dict[str, Any]:
    parameters = [{"name": name, "in": "path", "required": True, "schema": schema} for name, schema in parts.items()]
    for name, schema in told.query.items():
        rest = {key: value for key, value in schema.items() if key != "description"}
        parameters.append({"name": name, "in": "query", "description": schema.get("description", ""), "schema": rest})
    found: dict[str, Any] = {"summary": told.summary}
    if words:
        found["description"] = " ".join(words.split())
    if parameters:
        found["parameters"] = parameters
    if told.body is not None:
        found["requestBody"] = {"required": told.body_needed, "content": {"application/json": {"schema": told.body}}}
    answers: dict[str, Any] = {}
    for status, (sentence, schema) in told.answers.items():
        answers[str(status)] = {"description": sentence, **({"content": {told.media: {"schema": schema}}} if schema else {})}
    for status, sentence in {403: FORBIDDEN, **told.faults}.items():
        if status == 404 and not parts and not told.whose:
            continue
        answers[str(status)] = {"description": sentence, "content": {"application/json": {"schema": FAULT}}}
    found["responses"] = dict(sorted(answers.items()))
    found["security"] = [{"token": [scope]} for scope in told.scopes] or [{"token": []}]
    return found


def handler(handlers: Callable[[], Handlers], version: str) -> tuple[str, Any]:
    """The route that serves the document of ``handlers``, which may be a list that is not complete yet."""

    class OpenAPIHandler(APIHandler):  # type: ignore[misc]
        @operation("This document, as JSON", answer=anything("OpenAPI 3.1"))
        async def get(self) -> None:
            self.finish(document(handlers(), version))

    return r"/metalhub/api/openapi\.json", OpenAPIHandler


# For people


def markdown(document: Mapping[str, Any]) -> str:
    """The document as docs/api.md has it."""
    lines = []
    for path, operations in document["paths"].items():
        for name, one in operations.items():
            lines += ["", f"### {name.upper()} `{path}`", "", one["summary"] + "."]
            if "description" in one:
                lines += ["", one["description"]]
            scopes = [f"`{scope}`" for each in one["security"] for scope in each["token"]]
            lines += ["", f"Scope: {' or '.join(scopes) or 'any login'}."]
            query = [each for each in one.get("parameters", []) if each["in"] == "query"]
            if query:
                lines += ["", "| query | type | what |", "|---|---|---|"]
                lines += [f"| `{each['name']}` | {_kind(each['schema'])} | {_cell(each['description'])} |" for each in query]
            if "requestBody" in one:
                needed = "" if one["requestBody"]["required"] else " (may be missing)"
                lines += ["", f"Body{needed}:", *_table(one["requestBody"]["content"]["application/json"]["schema"])]
            lines += ["", "| answer | what |", "|---|---|"]
            for status, answer in one["responses"].items():
                if int(status) < 300:
                    (media, schema) = next(iter(answer.get("content", {}).items()), ("", {}))
                    kind = _kind(schema.get("schema", {})) if schema else "no body"
                    lines.append(f"| {status} | {_cell(kind)}{'' if media in ('', 'application/json') else f', {media}'} |")
                    inline = schema.get("schema", {}) if schema else {}
                elif answer["description"] != FORBIDDEN:
                    lines.append(f"| {status} | {_cell(answer['description'])} |")
            if "properties" in inline:
                lines += _table(inline)
    lines += ["", "## Schemas"]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"### {name}", *_table(schema)]
    return "\n".join(lines[1:])


def _table(schema: Mapping[str, Any]) -> list[str]:
    """An object's keys, those of objects in it below them."""
    if "properties" not in schema:
        return ["", f"{_kind(schema)}."]
    lines = ["", "| key | type | what |", "|---|---|---|"]

    def rows(inner: Mapping[str, Any], prefix: str) -> None:
        for name, each in inner["properties"].items():
            missing = "" if name in inner.get("required", ()) else ", may be missing"
            lines.append(f"| `{prefix}{name}` | {_cell(_kind(each))}{missing} | {_cell(each.get('description', ''))} |")
            nested = each.get("items", each)
            if "properties" in nested:
                rows(nested, f"{prefix}{name}{'[]' if 'items' in each else ''}.")

    rows(schema, "")
    return lines


def _kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    kinds = schema.get("type", "anything")
    kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "items" in schema:
        kind = f"{kind} of {_kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        kind = f"object of {_kind(schema['additionalProperties'])} by name"
    return kind + (": " + ", ".join(f"`{value}`" for value in schema["enum"]) if "enum" in schema else "")


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")
