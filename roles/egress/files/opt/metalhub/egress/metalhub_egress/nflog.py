"""Packets that nftables logs to a group of NFLOG, read from the kernel's netlink socket (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import socket
import struct
import typing as t
from dataclasses import dataclass

NETLINK_NETFILTER = 12
_CONFIG, _PACKET = 0x0401, 0x0400  # NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_*
_REQUEST = 0x1
_BIND, _COPY_PACKET = 1, 2
_ATTRIBUTE_COMMAND, _ATTRIBUTE_MODE, _ATTRIBUTE_PAYLOAD = 1, 2, 9
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True)
class Packet:
    """The addresses of a packet. `port` is 0 where the protocol has none, `protocol` a name or IP's number."""

    source: str
    destination: str
    protocol: str
    port: int


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def _request(group: int, attribute: bytes) -> bytes:
    body = struct.pack("=BBH", 0, 0, socket.htons(group)) + attribute
    return struct.pack("=IHHII", len(body) + 16, _CONFIG, _REQUEST, 0, 0) + body


def subscribe(group: int, snap: int = 128) -> socket.socket:
    """A socket that receives the first `snap` bytes of each packet of a group. Raises OSError; it takes CAP_NET_ADMIN."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    channel.bind((0, 0))
    channel.send(_request(group, _attribute(_ATTRIBUTE_COMMAND, bytes([_BIND]))))
    channel.send(_request(group, _attribute(_ATTRIBUTE_MODE, struct.pack(">IBB", snap, _COPY_PACKET, 0))))
    channel.setblocking(False)
    return channel


def packets(data: bytes) -> t.Iterator[Packet]:
    """The IPv4 packets of what was read from the socket; all else is passed over."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if length < 16:
            return
        if kind == _PACKET:
            for attribute, value in _attributes(data[20:length]):
                packet = _ipv4(value) if attribute == _ATTRIBUTE_PAYLOAD else None
                if packet:
                    yield packet
        data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> t.Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _ipv4(data: bytes) -> Packet | None:
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 15) * 4
    number = data[9]
    has_port = number in (6, 17, 132) and len(data) >= header + 4
    port = struct.unpack_from(">H", data, header + 2)[0] if has_port else 0
    return Packet(socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20]), _PROTOCOLS.get(number, str(number)), port)
