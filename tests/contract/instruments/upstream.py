# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answer every DNS name with made-up data: what a filtering resolver asks in the tests. Runs on a test host.

Every name has an IPv4 and an IPv6 address that follow from the name alone, except:

  alias.agora.io      is an alias of target.cdn.example; the answer holds the whole chain
  big.agora.io        has so many addresses that UDP gets them cut off (TC), and TCP is needed
  missing.agora.io    does not exist, nor does anything below it: NXDOMAIN with the SOA of the zone
  *.in-addr.arpa, *.ip6.arpa    have a PTR record each, into corp.example

A zone is the last two labels of a name. It prints `ready` once it listens.
Started by `systemd-run --service-type=notify` or by hand, ended by SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import ipaddress
import os
import signal
import socket
import struct
import sys
import typing as t

A, CNAME, SOA, PTR, AAAA, OPT = 1, 5, 6, 12, 28, 41
NOERROR, FORMERR, SERVFAIL, NXDOMAIN = 0, 1, 2, 3

# Response, recursion available; the answers have to look like those of the resolver of a provider.
FLAGS = 0x8080
AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED = 0x0400, 0x0200, 0x0100

ALIASES = {"alias.agora.io": "target.cdn.example"}
MISSING = "missing.agora.io"
BIG = "big.agora.io"
# More than the 1,232 bytes that resolvers take over UDP.
BIG_COUNT = 100

Record = tuple[str, int, bytes]


def encode(name: str) -> bytes:
    """A name on the wire (RFC 1035, section 3.1)."""
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def made_up(name: str, kind: int, number: int = 0) -> str:
    """The address of a name: 198.18.0.0/15 is for benchmarks (RFC 2544), 2001:db8::/32 for examples (RFC 3849)."""
    digest = hashlib.sha256(f"{name} {number}".encode()).digest()
    if kind == A:
        return str(ipaddress.IPv4Address(0xC6120000 + int.from_bytes(digest[:4], "big") % 0x20000))
    return str(ipaddress.IPv6Address((0x20010DB8 << 96) + int.from_bytes(digest[:8], "big")))


class Data:
    """The made-up data."""

    def __init__(
        self, addresses: t.Mapping[str, t.Sequence[str]], missing: t.Sequence[str], broken: t.Sequence[str]
    ) -> None:
        self.addresses = addresses
        self.missing = missing
        self.broken = broken

    def of(self, name: str, kind: int) -> list[str]:
        """The addresses of one family; a name that was given addresses has no others."""
        if name in self.addresses:
            version = 4 if kind == A else 6
            return [text for text in self.addresses[name] if ipaddress.ip_address(text).version == version]
        return [made_up(name, kind, number) for number in range(BIG_COUNT if name == BIG else 1)]

    def answer(self, name: str, kind: int) -> tuple[int, list[Record], list[Record]]:
        """The response code, the answers and what stands in the authority section."""
        zone = ".".join(name.split(".")[-2:])
        serials = struct.pack("!5I", 1, 3600, 600, 86400, 2)
        authority = [(zone, SOA, encode(f"ns.{zone}") + encode(f"hostmaster.{zone}") + serials)]
        if name in self.broken:
            return SERVFAIL, [], []
        if any(name == missing or name.endswith(f".{missing}") for missing in self.missing):
            return NXDOMAIN, [], authority
        answers: list[Record] = []
        if kind == SOA and name == zone:
            answers = authority
        elif kind == PTR and name.endswith((".in-addr.arpa", ".ip6.arpa")):
            answers = [(name, PTR, encode(f"{name.rpartition('.')[0].replace('.', '-')[:60]}.corp.example"))]
        elif kind in (A, AAAA, CNAME):
            while name in ALIASES:
                answers.append((name, CNAME, encode(ALIASES[name])))
                name = ALIASES[name]
            if kind != CNAME:
                answers += [(name, kind, ipaddress.ip_address(text).packed) for text in self.of(name, kind)]
        return NOERROR, answers, [] if answers else authority


class Server:
    """Answers queries, and writes down what was asked."""

    def __init__(self, data: Data, ttl: int, log: t.TextIO | None) -> None:
        self.data = data
        self.ttl = ttl
        self.log = log

    def respond(self, query: bytes, transport: str) -> bytes | None:
        """The answer to a query; none for what is no query."""
        if len(query) < 12 or query[2] & 0x80:
            return None
        number, flags, questions = struct.unpack_from("!HHH", query)
        flags = FLAGS | (flags & RECURSION_DESIRED)
        labels, at = [], 12
        while at < len(query) and 0 < query[at] < 64:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
            at += 1 + query[at]
        end = at + 5
        if questions != 1 or end > len(query) or query[at]:
            return struct.pack("!6H", number, flags | FORMERR, 0, 0, 0, 0)
        name = ".".join(labels).lower()
        (kind,) = struct.unpack_from("!H", query, at + 1)
        if self.log:
            names = {A: "A", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", AAAA: "AAAA"}
            self.log.write(f"{transport} {names.get(kind, kind)} {name}\n")
            self.log.flush()
        code, answers, authority = self.data.answer(name, kind)
        flags |= AUTHORITATIVE | code
        if name == BIG and len(answers) == BIG_COUNT and transport == "udp":
            flags |= TRUNCATED
            answers = []
        # A query with EDNS gets an answer with it (RFC 6891, section 6.1.1).
        edns = struct.pack("!BHHIH", 0, OPT, 1232, 0, 0) if query[end : end + 3] == struct.pack("!BH", 0, OPT) else b""
        head = struct.pack("!6H", number, flags, 1, len(answers), len(authority), int(bool(edns)))
        records = [
            # The name of the question need not be repeated (RFC 1035, section 4.1.4).
            (b"\xc0\x0c" if owner == name else encode(owner))
            + struct.pack("!HHIH", record, 1, self.ttl, len(value))
            + value
            for owner, record, value in (*answers, *authority)
        ]
        return head + query[12:end] + b"".join(records) + edns

    async def tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the queries of one connection, each with its length before it (RFC 1035, section 4.2.2)."""
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self.respond(await reader.readexactly(length), "tcp")
                if answer:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class Udp(asyncio.DatagramProtocol):
    """One address to answer datagrams on."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def connection_made(self, transport: t.Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: t.Any) -> None:
        answer = self.server.respond(data, "udp")
        if answer:
            self.transport.sendto(answer, addr)


def ready() -> None:
    """Tell who started this that answers can be expected."""
    print("ready", flush=True)
    if "NOTIFY_SOCKET" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(os.environ["NOTIFY_SOCKET"])
            notify.send(b"READY=1")


async def serve(server: Server, addresses: t.Sequence[str], port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    for address in addresses:
        await loop.create_datagram_endpoint(lambda: Udp(server), local_addr=(address, port))
        await asyncio.start_server(server.tcp, address, port, backlog=1024)
    ready()
    await stop.wait()


def given(text: str) -> tuple[str, list[str]]:
    """NAME=ADDR[,ADDR]; the addresses as text, each checked."""
    name, equals, addresses = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=ADDR[,ADDR] is needed")
    try:
        return name.lower().rstrip("."), [str(ipaddress.ip_address(one)) for one in addresses.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listen", nargs="+", metavar="ADDRESS", help="where to listen, over UDP and TCP")
    parser.add_argument("--port", type=int, default=53, help="the port (default: 53)")
    parser.add_argument(
        "--address",
        type=given,
        action="append",
        default=[],
        metavar="NAME=ADDR[,ADDR]",
        help="the addresses of one name, instead of made-up ones; a family without any gets an empty answer",
    )
    parser.add_argument(
        "--missing", action="append", default=[], metavar="NAME", help="a further name that does not exist"
    )
    parser.add_argument(
        "--broken", action="append", default=[], metavar="NAME", help="a name whose servers fail: SERVFAIL"
    )
    parser.add_argument("--ttl", type=int, default=2, help="seconds that resolvers may keep an answer (default: 2)")
    parser.add_argument("--log", help="a file that gets a line for each query: udp or tcp, type, name")
    options = parser.parse_args()
    log = open(options.log, "a", encoding="utf-8") if options.log else None  # noqa: SIM115 open as long as the process runs
    server = Server(Data(dict(options.address), [MISSING, *options.missing], options.broken), options.ttl, log)
    try:
        asyncio.run(serve(server, options.listen, options.port))
    except OSError as error:
        sys.exit(f"cannot listen: {error}")


if __name__ == "__main__":
    main()
