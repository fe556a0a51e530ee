"""Building, pushing and pulling by the Docker engine's API, and a look into a registry.

Passwords travel in a header to the engine's local socket or to the registry: in no argument list and in no file.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import typing as t
import urllib.parse
from collections.abc import Iterator, Mapping

from .engine_api import Engine, EngineError, _Connection

_MANIFESTS = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)


def _header(document: t.Any) -> str:
    return str(base64.urlsafe_b64encode(json.dumps(document).encode()), "ascii")


def _said(message: Mapping[str, t.Any]) -> str:
    """What a BuildKit message has to say: its protobuf records hold the log's lines among their fields, as plain text."""
    if message.get("id") != "moby.buildkit.trace":
        return ""
    record = base64.b64decode(message.get("aux") or "")
    return "".join(found.decode() + "\n" for found in re.findall(rb"[\x20-\x7e\t]{12,}", record))


class ImageEngine(Engine):
    """An engine that speaks to one registry, ``registry`` (host and port), as ``username``."""

    def __init__(self, registry: str, username: str, password: str, timeout: float = 1800) -> None:
        super().__init__(timeout=timeout)
        self._account = {"username": username, "password": password, "serveraddress": registry}
        self._registry = registry

    def _stream(self, path: str, what: str, body: t.Any = None, headers: t.Mapping[str, str] | None = None) -> Iterator[dict[str, t.Any]]:
        """Post and yield the messages of the answer. Raises EngineError when the engine says that it failed."""
        connection = _Connection(self._path, self._timeout)
        lines: list[str] = []
        try:
            connection.request("POST", path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            if answer.status >= 400:
                raise EngineError(f"{what}: {answer.read().decode(errors='replace').strip()}", answer.status)
            for line in answer:
                if not line.strip():
                    continue
                message: dict[str, t.Any] = json.loads(line)
                lines.append(message.get("stream") or _said(message))
                if "error" in message:
                    log = "".join(lines)[-3000:].strip()
                    raise EngineError(f"{what}: {message['error']}" + (f"\n{log}" if log else ""))
                yield message
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"{what}: the Docker engine at {self._path} did not answer: {error}") from error
        finally:
            connection.close()

    def has(self, reference: str) -> bool:
        """Whether the engine has the image."""
        try:
            self.request("GET", f"/images/{urllib.parse.quote(reference, safe='/:@')}/json")
        except EngineError as error:
            if error.status == 404:
                return False
            raise
        return True

    def build(self, context: t.BinaryIO, reference: str, arguments: t.Mapping[str, str]) -> None:
        """Build from a tar archive with the engine's own builder, which every engine has.

        That one runs its steps in the engine's default runtime. A sandbox keeps what it writes to itself, and each step would find
        nothing of the one before: where runc is not the default, the engine's BuildKit, which always uses runc, builds instead.
        """
        runtime = self.request("GET", "/info").get("DefaultRuntime", "runc")
        options = {"t": reference, "buildargs": json.dumps(arguments), "rm": "1", "forcerm": "1"}
        query = urllib.parse.urlencode(options if runtime == "runc" else {**options, "version": "2"})
        headers = {"Content-Type": "application/x-tar", "X-Registry-Config": _header({self._registry: self._account})}
        for _ in self._stream(f"/build?{query}", f"building {reference}", context, headers):
            pass

    def load(self, archive: t.BinaryIO) -> str:
        """Load an archive made by ``docker save`` and return the name or the id of its image. Raises EngineError for none or several."""
        found: list[str] = []
        for message in self._stream("/images/load?quiet=1", "loading the archive", archive, {"Content-Type": "application/x-tar"}):
            kind, _, name = message.get("stream", "").strip().partition(": ")
            if kind in ("Loaded image", "Loaded image ID"):
                found.append(name)
        if len(set(found)) != 1:
            raise EngineError(f"the archive has to hold one image, and holds {', '.join(found) or 'none'}")
        return found[0]

    def pull(self, reference: str) -> None:
        """Pull an image; the account is sent to its own registry alone."""
        headers = {"X-Registry-Auth": _header(self._account)} if reference.startswith(self._registry + "/") else {}
        query = urllib.parse.urlencode({"fromImage": reference})
        for _ in self._stream(f"/images/create?{query}", f"pulling {reference}", headers=headers):
            pass

    def tag(self, source: str, repository: str, tag: str) -> None:
        """Give an image another name."""
        query = urllib.parse.urlencode({"repo": repository, "tag": tag})
        self.request("POST", f"/images/{urllib.parse.quote(source, safe='/:@')}/tag?{query}")

    def push(self, repository: str, tag: str) -> None:
        """Push an image to the registry."""
        query = urllib.parse.urlencode({"tag": tag})
        headers = {"X-Registry-Auth": _header(self._account)}
        for _ in self._stream(f"/images/{repository}/push?{query}", f"pushing {repository}:{tag}", headers=headers):
            pass


class Registry:
    """A registry's HTTP API (distribution v2) over TLS with the authority ``ca`` (PEM); ``timeout`` in seconds."""

    def __init__(self, address: str, username: str, password: str, ca: str, timeout: float = 30) -> None:
        self._address = address
        self._timeout = timeout
        self._context = ssl.create_default_context(cadata=ca)
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode(), "Accept": _MANIFESTS}

    def _request(self, method: str, path: str) -> tuple[int, t.Mapping[str, str], bytes]:
        connection = http.client.HTTPSConnection(self._address, timeout=self._timeout, context=self._context)
        try:
            connection.request(method, path, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the registry {self._address} did not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400 and answer.status != 404:
            raise EngineError(f"the registry {self._address} answered {method} {path} with {answer.status}", answer.status)
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, body

    def digest(self, name: str, tag: str) -> str:
        """Digest of a tag's manifest, empty where the registry has no such tag. Raises EngineError."""
        status, headers, _ = self._request("HEAD", f"/v2/{name}/manifests/{tag}")
        return headers.get("docker-content-digest", "") if status == 200 else ""

    def remove_others(self, name: str, keep: t.Collection[str]) -> list[str]:
        """Remove the repository's tagged images but those with a digest in ``keep``; return the digests removed."""
        status, _, body = self._request("GET", f"/v2/{name}/tags/list")
        tags = json.loads(body).get("tags") or [] if status == 200 else []
        old = {self.digest(name, tag) for tag in tags} - set(keep) - {""}
        for digest in sorted(old):
            self._request("DELETE", f"/v2/{name}/manifests/{digest}")
        return sorted(old)
