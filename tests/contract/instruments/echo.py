# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answer on every port: what comes to any UDP port, and over any TCP connection, goes back. Runs on a test host.

UDP is answered through raw sockets, so that the whole range needs no socket per port and no address translation, whose
table would overflow. TCP needs a real peer: nft redirects every port to one listener, when asked to. With `--too-big`
the answer to a datagram is the ICMP error that it was too big for a link on the way.
Started by `systemd-run --service-type=notify`, ended by `systemctl stop`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import struct
import subprocess

TABLE = "echo"
LISTENER = 7
MARK = b"echo:"
# The MTU that the answer to a datagram too big names. IPv6 allows no smaller one.
NARROW = 1280


def checksum(data: bytes) -> int:
    """The internet checksum of some bytes, to put in a header (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class UdpEcho:
    """Every UDP port of this host, in one family."""

    def __init__(self, family: int, *, too_big: bool) -> None:
        self.family = family
        self.too_big = too_big
        self.raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
        self.raw.setblocking(False)
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if family == socket.AF_INET6:
            # The kernel fills in the checksum, at this place in the header.
            self.raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
            self.icmp = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        else:
            self.icmp = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    def answer(self) -> None:
        """Answer what has come in."""
        while True:
            try:
                packet, peer = self.raw.recvfrom(65535)
            except BlockingIOError:
                return
            # IPv4 hands over the IP header too.
            datagram = packet[(packet[0] & 15) * 4 :] if self.family == socket.AF_INET else packet
            sport, dport, _length, _sum = struct.unpack("!HHHH", datagram[:8])
            payload = datagram[8:]
            if payload.startswith(MARK):
                continue
            if self.too_big:
                self.refuse(packet, peer)
                continue
            reply = MARK + payload
            header = struct.pack("!HHHH", dport, sport, 8 + len(reply), 0)
            try:
                self.raw.sendto(header + reply, (peer[0], 0))
            except OSError:
                # This host's own firewall drops it: the peer goes without, and says so.
                continue

    def refuse(self, packet: bytes, peer: tuple[str, ...]) -> None:
        """Tell the peer that its datagram was too big (RFC 1191, RFC 4443)."""
        if self.family == socket.AF_INET:
            message = struct.pack("!BBHHH", 3, 4, 0, 0, NARROW) + packet[:28]
            message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        else:
            here = socket.inet_pton(self.family, self.route(peer[0]))
            there = socket.inet_pton(self.family, peer[0])
            # The header that the raw socket did not hand over.
            header = struct.pack("!IHBB", 6 << 28, len(packet), socket.IPPROTO_UDP, 64) + there + here
            message = struct.pack("!BBHI", 2, 0, 0, NARROW) + header + packet
        self.icmp.sendto(message, (peer[0], 0))

    def route(self, peer: str) -> str:
        """The address of this host that the peer sees."""
        with socket.socket(self.family, socket.SOCK_DGRAM) as udp:
            udp.connect((peer, 9))
            return str(udp.getsockname()[0])


async def tcp_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until the peer has no more."""
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


def nft(text: str) -> None:
    """Load rules."""
    subprocess.run(["nft", "-f", "-"], check=True, input=text, text=True)


def ready() -> None:
    """Tell systemd that answers can be expected."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1")


async def serve(*, redirect_tcp: bool, too_big: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    for family in (socket.AF_INET, socket.AF_INET6):
        echo = UdpEcho(family, too_big=too_big)
        loop.add_reader(echo.raw, echo.answer)
    server = await asyncio.start_server(tcp_echo, None, LISTENER, backlog=1024)
    if redirect_tcp:
        chain = "type nat hook prerouting priority dstnat; policy accept;"
        nft(f"table inet {TABLE} {{\nchain prerouting {{\n{chain}\nmeta l4proto tcp redirect to :{LISTENER}\n}}\n}}\n")
    ready()
    await stop.wait()
    server.close()
    if redirect_tcp:
        nft(f"delete table inet {TABLE}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redirect-tcp", action="store_true")
    parser.add_argument("--too-big", action="store_true")
    options = parser.parse_args()
    asyncio.run(serve(redirect_tcp=options.redirect_tcp, too_big=options.too_big))


if __name__ == "__main__":
    main()
