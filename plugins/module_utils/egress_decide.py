"""What a compiled egress policy says to one connection.

Pure, and the one place where it is decided: the proxy's helper, the check of open connections after a change and the tests all ask this.
Whatever is not clearly allowed is refused.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .egress_terms import (
    NEVER,
    NO_PORTS,
    PUBLIC_PORTS,
    Ports,
    Span,
    canonical_name,
    has_port,
    join_ports,
    looks_like_address,
    parents,
    read_address,
    read_port_texts,
    span_of,
    without_ports,
)
from .tls_hello import parse_client_hello

_HTTP, _HTTPS = 80, 443
VIAS = ("proxy-http", "proxy-connect", "intercept-tls")
_NEVER = tuple(map(span_of, NEVER))


class Reason(str, enum.Enum):
    """Why a connection is allowed or refused: a fixed word for logs, and one sentence for people."""

    sentence: str

    def __new__(cls, word: str, sentence: str) -> Reason:
        """The word is the value; the sentence goes with it."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.sentence = sentence
        return member

    def __str__(self) -> str:
        return str(self.value)

    ALLOWED = "allowed", "The class may reach this name."
    ALLOWED_ADDRESS = "allowed address", "The class may reach this address."
    PUBLIC = "public address", "The class may reach the public internet."
    LOOK = "to be inspected", "The TLS connection has yet to say which name it means."
    NO_CLASS = "unknown class", "The connection comes from no session's network."
    NOT_LISTED = "not in the class's list", "The class does not list this destination."
    PORT = "port", "The class lists this destination, but not with this port."
    DENIED = "denied", "The class is denied this destination."
    ADDRESS_LITERAL = "address literal", "Addresses are reached only where the class lists them, written as four decimal numbers."
    NOT_A_NAME = "not a host name", "This is no host name."
    NO_HOST = "no host", "The request does not say which host it means."
    PRIVATE = "private address", "The name leads to an address inside, which is not one of the site's networks."
    NOT_ITS_ADDRESS = "the address is not one of the name", "The resolver did not give this address for the name."
    NO_SNI = "no SNI", "The TLS connection does not say which name it means."
    SNI_DIFFERS = "SNI is not the CONNECT host", "The TLS connection means another name than the proxy was asked for."
    ENCRYPTED_HELLO = "encrypted client hello", "A part of the TLS connection's beginning is encrypted, so its name cannot be checked."
    NOT_TLS = "not TLS", "Port 443 is for TLS, and this is not the beginning of a TLS connection."
    CONNECT_HTTP = "CONNECT to port 80", "A tunnel would hide which host plain HTTP means: ask the proxy without CONNECT."
    HTTP2 = "HTTP/2 without TLS", "Only HTTP/1 has a host that can be checked without TLS."


@dataclass(frozen=True)
class Request:
    """One connection of a session.

    ``via`` is ``proxy-http`` (intercepted plain HTTP as well: it goes where its Host leads), ``proxy-connect`` or ``intercept-tls``.
    ``host`` is what CONNECT, the URL or the Host header says, without its port, and empty for ``intercept-tls``, for which ``original``
    is the address that the client dialled.
    ``hello`` are the raw bytes of the ClientHello's records, None before they are known. ``resolved`` are the IPv4 addresses that our
    own resolver gives for the name: of ``host``, and for ``intercept-tls`` of the name in the ClientHello.
    """

    klass: str
    via: str
    host: str
    port: int
    original: str | None = None
    hello: bytes | None = None
    resolved: frozenset[str] = frozenset()
    method: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is to be done: ``inspect`` asks for the ClientHello before anything is let through. ``name`` is the name that was decided on."""

    allowed: bool
    reason: Reason
    name: str = ""
    inspect: bool = False


@dataclass(frozen=True)
class _Rules:
    names: Mapping[str, Ports]
    networks: tuple[tuple[Ports, tuple[Span, ...]], ...]

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> _Rules:
        return cls(
            {name: read_port_texts(texts) for name, texts in plain["names"].items()},
            tuple((read_port_texts([text]), tuple(map(span_of, networks))) for text, networks in plain["networks"].items()),
        )

    def of_name(self, name: str) -> Ports:
        """The ports of a name, with those of the wildcards above it."""
        found = [self.names[name]] if name in self.names else []
        found += [self.names[wildcard] for parent in parents(name) if (wildcard := f"*.{parent}") in self.names]
        return join_ports(*found) if found else NO_PORTS

    def of_address(self, address: int) -> Ports:
        """The ports of an address."""
        return join_ports(*(ports for ports, spans in self.networks if _within(spans, address)))


@dataclass(frozen=True)
class _Class:
    name: str
    subnet: Span
    public: bool
    allow: _Rules
    deny: _Rules


def _within(spans: Iterable[Span], address: int) -> bool:
    return any(low <= address <= high for low, high in spans)


def _refused(reason: Reason, name: str = "") -> Verdict:
    return Verdict(False, reason, name)


@dataclass(frozen=True)
class Policy:
    """A compiled policy, ready to decide."""

    classes: Mapping[str, _Class]
    closed: tuple[Span, ...]
    site_networks: tuple[Span, ...]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Policy:
        """Read what ``compile_policy`` made. Raises ValueError for another version, or for what is none."""
        if not isinstance(plain, Mapping) or plain.get("version") != 1:
            raise ValueError("this is not an egress policy of version 1")
        try:
            classes = {
                name: _Class(
                    name, span_of(one["subnet"]), bool(one["public_internet"]), _Rules.read(one["allow"]), _Rules.read(one["deny"])
                )
                for name, one in plain["classes"].items()
            }
            return cls(classes, tuple(map(span_of, plain["closed"])), tuple(map(span_of, plain["site_networks"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not an egress policy: {error!r}") from None

    def class_of(self, address: str) -> str | None:
        """The class in whose subnet an address lies; None for any other, and for what is no address."""
        number = read_address(address)
        if number is None:
            return None
        return next((one.name for one in self.classes.values() if _within((one.subnet,), number)), None)

    def resolves(self, klass: str, name: str) -> bool:
        """Whether the class's resolver may answer for a name: it is allowed for some port, or public, and not denied for all."""
        try:
            return klass in self.classes and bool(self._name_ports(self.classes[klass], canonical_name(name)))
        except ValueError:
            return False

    def decide(self, request: Request) -> Verdict:
        """What is to be done with a connection. Raises nothing, whatever the request holds."""
        one = self.classes.get(request.klass)
        if one is None:
            return _refused(Reason.NO_CLASS)
        if request.via == "proxy-http":
            return self._plain(one, request)
        if request.via == "proxy-connect":
            return self._connect(one, request)
        if request.via == "intercept-tls":
            return self._tls(one, request)
        return _refused(Reason.NOT_LISTED)

    def decide_address(self, klass: str, address: str, port: int, protocol: str = "tcp") -> Verdict:
        """What is to be done with a connection to an address itself, as the packet filter sees it."""
        one, number = self.classes.get(klass), read_address(address)
        if one is None:
            return _refused(Reason.NO_CLASS)
        if number is None:
            return _refused(Reason.ADDRESS_LITERAL)
        return self._address(one, number, port, protocol)

    def decide_name(self, klass: str, name: str, port: int, protocol: str = "tcp") -> Verdict:
        """What is to be done with a connection to one of the addresses that the resolver gave for a name."""
        one = self.classes.get(klass)
        return _refused(Reason.NO_CLASS) if one is None else self._name(one, name, port, protocol)

    def _name_ports(self, one: _Class, name: str) -> Ports:
        allowed = one.allow.of_name(name)
        return without_ports(join_ports(allowed, PUBLIC_PORTS) if one.public else allowed, one.deny.of_name(name))

    def _address(self, one: _Class, address: int, port: int, protocol: str = "tcp") -> Verdict:
        if has_port(one.deny.of_address(address), port, protocol):
            return _refused(Reason.DENIED)
        if _within(_NEVER, address):
            return _refused(Reason.ADDRESS_LITERAL)
        # Other sessions stay closed whatever network around them is listed.
        if any(_within((other.subnet,), address) for other in self.classes.values()):
            return _refused(Reason.NOT_LISTED)
        ports = one.allow.of_address(address)
        if has_port(ports, port, protocol):
            return Verdict(True, Reason.ALLOWED_ADDRESS)
        public = one.public and not _within(self.closed, address) and not _within(self.site_networks, address)
        if public and has_port(PUBLIC_PORTS, port, protocol):
            return Verdict(True, Reason.PUBLIC)
        return _refused(Reason.PORT if ports else Reason.NOT_LISTED)

    def _name(self, one: _Class, name: str, port: int, protocol: str = "tcp") -> Verdict:
        if has_port(one.deny.of_name(name), port, protocol):
            return _refused(Reason.DENIED, name)
        ports = self._name_ports(one, name)
        if has_port(ports, port, protocol):
            return Verdict(True, Reason.ALLOWED, name)
        return _refused(Reason.PORT if ports else Reason.NOT_LISTED, name)

    def _host(self, one: _Class, host: str, port: int) -> Verdict:
        """A name, or an address as a host; nothing but a name that is allowed has a name in its verdict and is allowed."""
        if not host:
            return _refused(Reason.NO_HOST)
        address = read_address(host)
        if address is not None:
            verdict = self._address(one, address, port)
            return _refused(Reason.ADDRESS_LITERAL) if verdict.reason is Reason.NOT_LISTED else verdict
        try:
            name = canonical_name(host) if host.isascii() else ""
        except ValueError:
            name = ""
        if not name:
            return _refused(Reason.ADDRESS_LITERAL if looks_like_address(host) else Reason.NOT_A_NAME)
        return self._name(one, name, port)

    def _leads(self, one: _Class, resolved: Iterable[str], port: int) -> Reason | None:
        """Why a name must not be followed to its addresses, None where it may."""
        for text in resolved:
            address = read_address(text)
            if address is None or _within(self.closed, address) or _within(_NEVER, address):
                return Reason.PRIVATE
            if has_port(one.deny.of_address(address), port):
                return Reason.DENIED
        return None

    def _at_address(self, one: _Class, verdict: Verdict, request: Request) -> Verdict:
        """An allowed name at the address that the client dialled, which has to be one of the name's."""
        if request.original not in request.resolved:
            address = read_address(request.original or "")
            direct = _refused(Reason.NOT_ITS_ADDRESS) if address is None else self._address(one, address, request.port)
            return Verdict(True, direct.reason, verdict.name) if direct.allowed else _refused(Reason.NOT_ITS_ADDRESS, verdict.name)
        # What else the name leads to is of no concern: the connection goes where the client dialled.
        reason = self._leads(one, (str(request.original),), request.port)
        return _refused(reason, verdict.name) if reason else verdict

    def _plain(self, one: _Class, request: Request) -> Verdict:
        """Plain HTTP."""
        if request.method.upper() == "PRI":
            return _refused(Reason.HTTP2)
        verdict = self._host(one, request.host, request.port)
        if not verdict.allowed or verdict.reason is Reason.ALLOWED_ADDRESS:
            return verdict
        if request.port == _HTTPS:
            return _refused(Reason.NOT_TLS, verdict.name)
        reason = self._leads(one, request.resolved, request.port)
        return _refused(reason, verdict.name) if reason else verdict

    def _connect(self, one: _Class, request: Request) -> Verdict:
        """A tunnel asked of the proxy: on port 443 its TLS has to mean the same name, on others it is raw TCP."""
        verdict = self._host(one, request.host, request.port)
        if not verdict.allowed or verdict.reason is Reason.ALLOWED_ADDRESS:
            return verdict
        if request.port == _HTTP:
            return _refused(Reason.CONNECT_HTTP, verdict.name)
        if verdict.name:
            reason = self._leads(one, request.resolved, request.port)
            if reason:
                return _refused(reason, verdict.name)
        if request.port != _HTTPS:
            return verdict
        if request.hello is None:
            return Verdict(True, verdict.reason, verdict.name, inspect=True)
        return self._hello(one, request, verdict.name, request.host)

    def _tls(self, one: _Class, request: Request) -> Verdict:
        """Intercepted TLS: all that is known is the address that was dialled, and then the ClientHello."""
        address = read_address(request.original or "")
        if address is None:
            return _refused(Reason.NOT_ITS_ADDRESS)
        direct = self._address(one, address, request.port)
        if direct.reason in (Reason.DENIED, Reason.ALLOWED_ADDRESS):
            return direct
        if _within(self.closed, address) or _within(_NEVER, address):
            return _refused(Reason.PRIVATE)
        if request.hello is None:
            return Verdict(True, Reason.LOOK, inspect=True) if direct.allowed or one.allow.names else direct
        return self._hello(one, request, "", request.original or "")

    def _hello(self, one: _Class, request: Request, name: str, dialled: str) -> Verdict:
        """The ClientHello of a connection to port 443. ``name`` is what CONNECT asked for, empty where an address was dialled."""
        try:
            hello = parse_client_hello(request.hello or b"")
        except ValueError:
            return _refused(Reason.NOT_TLS, name)
        if hello.encrypted:
            return _refused(Reason.ENCRYPTED_HELLO, name)
        if hello.sni is None:
            address = read_address(dialled)
            direct = _refused(Reason.NO_SNI, name) if name or address is None else self._address(one, address, request.port)
            return direct if direct.allowed else _refused(Reason.NO_SNI, name)
        verdict = self._host(one, hello.sni, request.port)
        if name:
            return verdict if verdict.name == name else _refused(Reason.SNI_DIFFERS, name)
        if not verdict.allowed:
            return verdict
        if not verdict.name:
            # RFC 6066 knows no addresses here.
            return _refused(Reason.ADDRESS_LITERAL)
        return self._at_address(one, verdict, dataclasses.replace(request, original=dialled))
