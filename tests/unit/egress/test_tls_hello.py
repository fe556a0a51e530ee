"""ClientHellos: real ones, and all that must not pass for one."""

from __future__ import annotations

import ssl

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils.tls_hello import ClientHello, parse_client_hello
from egress_hellos import ECH, SNI, handshake, hello, real, record, server_name, vector
from hypothesis import given
from hypothesis import strategies as st


def test_real_ones() -> None:
    newest = parse_client_hello(real("data.example.org", ["h2", "http/1.1"]))
    assert (newest.sni, newest.alpn, newest.encrypted) == ("data.example.org", ("h2", "http/1.1"), False)
    assert 0x0304 in newest.versions
    older = parse_client_hello(real("data.example.org", newest=ssl.TLSVersion.TLSv1_2))
    assert older.sni == "data.example.org"
    assert 0x0304 not in older.versions
    assert parse_client_hello(real(None)).sni is None


def test_an_address_as_name_is_given_as_it_is() -> None:
    assert parse_client_hello(hello(server_name("10.0.0.5"))).sni == "10.0.0.5"


def test_without_extensions() -> None:
    whole = handshake()[4:-2]
    assert parse_client_hello(record(b"\x01" + vector(3, whole))) == ClientHello(None, (), False, (0x0303,))


@pytest.mark.parametrize("kind", [0xFE0D, 0xFE08, 0xFFCE])
@pytest.mark.parametrize("first", [True, False])
def test_encrypted(kind: int, first: bool) -> None:
    extensions = [(kind, ECH[1]), SNI]
    found = parse_client_hello(hello(*(extensions if first else extensions[::-1])))
    assert found.encrypted
    assert found.sni == "data.example.org"


@pytest.mark.parametrize("size", [1, 2, 5, 37, 100])
def test_fragments(size: int) -> None:
    whole = real("data.example.org", ["http/1.1"])
    message = whole[5:]
    parts = [message[i : i + size] for i in range(0, len(message), size)]
    assert parse_client_hello(b"".join(map(record, parts))) == parse_client_hello(whole)


BAD = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: data.example.org\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SSL 2": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(37),
    "an alert": record(b"\x02\x28", kind=21),
    "application data": record(handshake(SNI), kind=23),
    "another handshake message": record(b"\x02" + handshake(SNI)[1:]),
    "DTLS": record(handshake(SNI), version=0xFEFD),
    "an odd record version": record(handshake(SNI), version=0x0305),
    "an odd version": record(handshake(SNI, version=0x0200)),
    "two SNIs": hello(server_name("data.example.org", "evil.example.net")),
    "two SNI extensions": hello(SNI, server_name("evil.example.net")),
    "the same SNI extension twice": hello(SNI, SNI),
    "any extension twice": hello(SNI, (35, b""), (35, b"")),
    "an unknown kind of name": hello(server_name("data.example.org", kind=1)),
    "an empty name": hello(server_name("")),
    "no name": hello((0, vector(2, b""))),
    "an empty SNI extension": hello((0, b"")),
    "a NUL in the name": hello(server_name("data.example.org\0.evil.example.net")),
    "a space in the name": hello(server_name("data example.org")),
    "a name that is not ASCII": hello(server_name("d\xe4ta.example.org")),
    "bytes after the name": hello((0, SNI[1] + b"\0")),
    "a list of names that ends early": hello((0, b"\0\xff" + SNI[1][2:])),
    "bytes after the hello": hello(SNI) + b"\0",
    "a record after the hello": hello(SNI) + record(b"\x01\0", kind=20),
    "two hellos": hello(SNI) + hello(server_name("evil.example.net")),
    "two hellos in one record": record(handshake(SNI) + handshake(server_name("evil.example.net"))),
    "an empty record": record(b"") + hello(SNI),
    "an empty record inside": record(handshake(SNI)[:50]) + record(b"") + record(handshake(SNI)[50:]),
    "an alert inside": record(handshake(SNI)[:50]) + record(b"\x01\0", kind=21) + record(handshake(SNI)[50:]),
    "a long record": record(bytes(2**14 + 1)),
    "a long session id": record(handshake(SNI, session=bytes(33))),
    "no ciphers": record(handshake(SNI, suites=b"")),
    "half a cipher": record(handshake(SNI, suites=b"\x13\x01\x13")),
    "only compressed": record(handshake(SNI, compression=b"\x01")),
    "no compression": record(handshake(SNI, compression=b"")),
    "bytes after the extensions": record(b"\x01" + vector(3, handshake(SNI)[4:] + b"\0")),
    "an extension that ends early": record(b"\x01" + vector(3, handshake(SNI)[4:-1] + b"")),
    "an extension after the pre-shared key": hello((41, b""), SNI),
    "an empty ALPN": hello(SNI, (16, vector(2, b""))),
    "an empty protocol": hello(SNI, (16, vector(2, vector(1, b"")))),
    "bytes after ALPN": hello(SNI, (16, vector(2, vector(1, b"h2")) + b"\0")),
    "no versions": hello(SNI, (43, vector(1, b""))),
    "half a version": hello(SNI, (43, vector(1, b"\x03"))),
    "a huge one": b"".join(record(bytes([1]) * 2**14) for _ in range(5)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_client_hello(data)


def test_no_prefix_of_a_hello_is_one() -> None:
    whole = real("data.example.org")
    for size in range(len(whole)):
        with pytest.raises(ValueError):
            parse_client_hello(whole[:size])


WHOLE = real("data.example.org", ["h2"])


@given(
    st.binary(max_size=400) | st.binary(max_size=300).map(record) | st.binary(max_size=300).map(lambda b: record(b"\x01" + vector(3, b)))
)
def test_garbage_raises_nothing_else(data: bytes) -> None:
    try:
        parse_client_hello(data)
    except ValueError as error:
        assert str(error)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_raises_nothing_else(index: int, byte: int) -> None:
    data = bytearray(WHOLE)
    data[index] = byte
    try:
        parse_client_hello(bytes(data))
    except ValueError as error:
        assert str(error)
