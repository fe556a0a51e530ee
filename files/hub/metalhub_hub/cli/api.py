"""The hub's API as the command line asks it: on the loopback address, with a token of its own."""

from __future__ import annotations

import getpass
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

DOCUMENT = "/etc/metalhub/hub.yml"
TIMEOUT = 40.0
PAGE = 200


class HubRefused(Exception):
    """The hub answered, and said no. ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HubAway(Exception):
    """The hub did not answer, or what is needed to ask it is not there."""


def document() -> Mapping[str, Any]:
    """The hub's document. Raises HubAway."""
    import yaml  # the log can be verified without it

    path = os.environ.get("METALHUB_HUB_CONFIG", DOCUMENT)
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except PermissionError:
        raise HubAway(f"{path} cannot be read: run this as root") from None
    except OSError as error:
        raise HubAway(f"{path} cannot be read: {error.strerror}; is this the control host?") from None
    except yaml.YAMLError:
        raise HubAway(f"{path} is not YAML") from None
    if not isinstance(found, dict):
        raise HubAway(f"{path} is not the hub's document")
    return found


def operator() -> str:
    """Who sits at the command line, for the audit log."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


@dataclass(frozen=True)
class Hub:
    """``url`` ends in ``/hub``; ``timeout`` is how many seconds an answer may take."""

    url: str
    token: str
    timeout: float = TIMEOUT

    @classmethod
    def local(cls) -> Hub:
        """The hub of this host. Raises HubAway."""
        found = document()
        path = str(found.get("cli_token_file") or "")
        if not path:
            raise HubAway("the hub's document names no cli_token_file: run the site's playbook")
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise HubAway(f"{path} cannot be read: {error.strerror}") from None
        return cls(f"http://127.0.0.1:{urlsplit(str(found.get('listen', ''))).port or 8081}/hub", token)

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The JSON of an answer, None where it has no body. Raises HubRefused and HubAway."""
        url = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {
            "Authorization": f"token {self.token}",
            "Accept": "application/jupyterhub-pagination+json, application/json",
            "Content-Type": "application/json",
            "X-Metalhub-Operator": quote(operator(), safe="@._-"),
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            # No proxy, whatever the environment says.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise HubAway(f"the hub does not answer at {self.url}: {getattr(reason, 'strerror', None) or reason}") from None
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise HubAway(f"what answers at {self.url} is not the hub") from None

    @staticmethod
    def _refusal(error: urllib.error.HTTPError) -> Exception:
        try:
            message = str(json.loads(error.read())["message"])
        except (ValueError, KeyError, TypeError, OSError):
            message = ""
        if error.code in (502, 503, 504):
            return HubAway(message or f"the hub answers {error.code}")
        if error.code in (401, 403) and not message:
            message = "the hub does not accept the command line's token: run the site's playbook"
        return HubRefused(error.code, message or f"the hub answers {error.code}")

    def pages(self, path: str, **query: str) -> Iterator[Any]:
        """All items of a list that comes in pages."""
        offset: int | None = 0
        while offset is not None:
            answer = self.ask("GET", path, offset=str(offset), limit=str(PAGE), **query)
            yield from answer["items"]
            following = answer["_pagination"]["next"]
            offset = following and int(following["offset"])


def part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")
