"""Look for tokens in every frame that arrives, whatever protocol it has: what no server would answer is still a leak.

    python3 -m egress.world.sniff INTERFACE PLACE

PLACE names what every frame counts for; `world` tells places by the destination. Connections by TCP are left to the servers, which see
what is said in them; here they count when they go to another place than the allowed ones.
"""

from __future__ import annotations

import ipaddress
import socket
import sys

from ..places import PLACE_OF, TOKEN
from .log import seen


def _packet(frame: bytes) -> tuple[str, str, int | None, bool]:
    """Protocol, destination, destination port and whether the transport's header is there (not so in later fragments)."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0800 and len(frame) >= 34:
        start = 14 + (frame[14] & 15) * 4
        number, address = frame[23], str(ipaddress.ip_address(frame[30:34]))
        first = not int.from_bytes(frame[20:22], "big") & 0x1FFF
    elif kind == 0x86DD and len(frame) >= 54:
        start, number, address, first = 54, frame[20], str(ipaddress.ip_address(frame[38:54])), True
    else:
        return f"ethertype {kind:#06x}", "", None, False
    name = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp6"}.get(number, f"protocol {number}")
    port = int.from_bytes(frame[start + 2 : start + 4], "big") if number in (6, 17) and first else None
    return name, address, port, first


def main() -> None:
    interface, place = sys.argv[1:3]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sniffer:
        sniffer.bind((interface, 0))
        while True:
            frame, (_, _, kind, _, _) = sniffer.recvfrom(1 << 16)
            if kind == socket.PACKET_OUTGOING or not TOKEN.search(frame):
                continue
            protocol, address, port, _ = _packet(frame)
            where = PLACE_OF.get(address, f"address {address}") if place == "world" else place
            # Streams of the permitted places and questions to the site's nameserver are judged by those who understand them.
            if place == "world" and (where in ("allowed", "cdn", "corp") and protocol == "tcp" or where == "nameserver" and port == 53):
                continue
            if place == "platform" and port == 8081:
                where = "hub"
            # Outside has every port of a place behind one rule of its own, so the destination here is still the one that was dialled.
            seen(frame, place=where, protocol=protocol, port=port, way="packet")


if __name__ == "__main__":
    main()
