# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A DNS server with made-up data that answers every name, so that a filter before it is seen to leak.

A and AAAA of a name are made from its letters, or given with `--address`. `alias.agora.io` and names below it are
aliases of `target.cdn.example`; `big.agora.io` has more addresses than a datagram holds; a name that begins with
`missing` does not exist; names below `arpa` have a PTR. Everything lives for two seconds.
With `--log` each question is a line in a file. Runs on a test host, started by `systemd-run --service-type=notify` and
ended by `systemctl stop`.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import pathlib
import socket
import struct
import typing as t
import zlib

A, CNAME, SOA, PTR, AAAA = 1, 5, 6, 12, 28
NXDOMAIN = 3
TTL = 2
# What a datagram holds without EDNS (RFC 1035, section 2.3.4).
DATAGRAM = 512
ALIAS, TARGET, BIG = "alias.agora.io", "target.cdn.example", "big.agora.io"


def encoded(name: str) -> bytes:
    """A name as labels."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def question_of(message: bytes) -> tuple[str, int, int]:
    """The name and type that are asked for, and where the question ends."""
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode().lower())
        at += 1 + message[at]
    return ".".join(labels), struct.unpack_from("!H", message, at + 1)[0], at + 5


def record(name: str, kind: int, data: bytes) -> bytes:
    """A resource record."""
    return encoded(name) + struct.pack("!HHIH", kind, 1, TTL, len(data)) + data


class Zone:
    """All names."""

    def __init__(self, given: list[str], log: str | None) -> None:
        self.given = {name: addresses.split(",") for name, addresses in (item.split("=") for item in given)}
        self.log = pathlib.Path(log) if log else None

    def addresses(self, name: str, kind: int) -> list[bytes]:
        """The addresses of a name, packed."""
        number = 1 + zlib.crc32(name.encode()) % 250
        made = ["198.51.100." + str(number), f"2001:db8::{number:x}"]
        if name == BIG:
            made += [f"198.51.100.{more}" for more in range(1, 100)]
            made += [f"2001:db8::{more:x}" for more in range(1, 100)]
        found = [ipaddress.ip_address(text) for text in self.given.get(name, made)]
        return [address.packed for address in found if (address.version == 4) == (kind == A)]

    def records(self, name: str, kind: int) -> list[bytes]:
        """The answer to a question."""
        if name == ALIAS or name.endswith("." + ALIAS):
            return [record(name, CNAME, encoded(TARGET)), *self.records(TARGET, kind)]
        if kind in (A, AAAA):
            return [record(name, kind, data) for data in self.addresses(name, kind)]
        return [record(name, PTR, encoded("somebody.corp.example"))] if kind == PTR else []

    def answer(self, message: bytes, room: int, transport: str) -> bytes:
        """The reply to a message."""
        name, kind, end = question_of(message)
        if self.log:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{transport} {kind} {name}\n")
        missing = name.startswith("missing")
        answers = [] if missing else self.records(name, kind)
        numbers = struct.pack("!IIIII", 1, 60, 60, 60, TTL)
        authority = [] if answers else [record("", SOA, encoded("ns.example") + encoded("me.example") + numbers)]
        # Response, recursion desired and available.
        flags = 0x8180 | (NXDOMAIN if missing else 0)
        head = struct.pack("!HHHHHH", struct.unpack_from("!H", message)[0], flags, 1, len(answers), len(authority), 0)
        whole = head + message[12:end] + b"".join(answers + authority)
        if len(whole) <= room:
            return whole
        cut = struct.pack("!HHHHHH", struct.unpack_from("!H", message)[0], flags | 0x200, 1, 0, 0, 0)
        return cut + message[12:end]


class Datagrams(asyncio.DatagramProtocol):
    """Questions over UDP."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = t.cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(self.zone.answer(data, DATAGRAM, "udp"), addr)


async def serve(addresses: list[str], zone: Zone) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = zone.answer(await reader.readexactly(length), 65535, "tcp")
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_datagram_endpoint(lambda: Datagrams(zone), local_addr=(address, 53))
        await asyncio.start_server(connection, address, 53)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1")
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("addresses", nargs="+", help="addresses to answer on")
    parser.add_argument("--address", action="append", default=[], help="NAME=ADDRESS,...: what a name has")
    parser.add_argument("--log", help="a file")
    options = parser.parse_args()
    asyncio.run(serve(options.addresses, Zone(options.address, options.log)))


if __name__ == "__main__":
    main()
