# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS messages on the wire: build a query, read an answer (RFC 1035, sections 3 and 4; EDNS: RFC 6891)."""

from __future__ import annotations

import ipaddress
import struct
import typing as t
from dataclasses import dataclass

__all__ = ["CHAOS", "INTERNET", "KINDS", "NOERROR", "NXDOMAIN", "REFUSED", "Answer", "Record", "build", "parse"]

KINDS = {"A": 1, "CNAME": 5, "SOA": 6, "PTR": 12, "TXT": 16, "AAAA": 28}
NOERROR, NXDOMAIN, REFUSED = 0, 3, 5
INTERNET, CHAOS = 1, 3

_OPT = 41
_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")
_RESPONSE, _TRUNCATED, _RECURSION_DESIRED = 0x8000, 0x0200, 0x0100
# What fits into a datagram on every path, as most resolvers have it since DNS flag day 2020.
_UDP_SIZE = 1232
# Where other records have their time to live (RFC 6891, section 6.1.3).
_DNSSEC_OK = 0x8000
# Extended DNS errors: RFC 8914, section 2.
_EDE = 15
_NAME_LENGTH = 255
# A name of 255 octets has no more labels than this, so none that is right has more pointers.
_MOST_JUMPS = 128


@dataclass(frozen=True)
class Record:
    """An answer; `kind` is A, AAAA or CNAME, `value` an address or a name."""

    name: str
    kind: str
    value: str


@dataclass(frozen=True)
class Answer:
    """What an answer says.

    `code`: the response code, with the upper bits of EDNS. `authority`: the primary server of the SOA record in the
    authority section, None without one. `errors`: the extended errors (RFC 8914).
    """

    number: int
    code: int
    truncated: bool
    records: tuple[Record, ...]
    authority: str | None
    errors: tuple[int, ...]


def build(
    number: int, name: str, kind: str, *, klass: int = INTERNET, edns: bool = True, dnssec: bool = False
) -> bytes:
    """A query that asks for recursion.

    `number`: 0 to 65535. `kind`: one of KINDS. `dnssec`, with `edns`: asks for signatures too (DO, RFC 3225). Raises
    ValueError for a name that does not fit on the wire.
    """
    labels = [label.encode("ascii") for label in name.split(".")] if name else []
    if any(not 0 < len(label) < 64 for label in labels) or sum(len(label) + 1 for label in labels) >= _NAME_LENGTH:
        raise ValueError(f"{name!r} does not fit into a query; labels have 1 to 63 octets, names at most 253")
    question = (
        b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", KINDS[kind], klass)
    )
    option = b"\0" + _FIXED.pack(_OPT, _UDP_SIZE, _DNSSEC_OK if dnssec else 0, 0) if edns else b""
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, int(edns)) + question + option


def _text(label: bytes) -> str:
    """A label as text; what could be taken for something else is escaped (RFC 1035, section 5.1)."""
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
    return "".join(chr(octet) if octet in plain else f"\\{octet:03d}" for octet in label.lower())


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at a place, and where what follows it begins. Raises ValueError or IndexError."""
    labels: list[str] = []
    length, jumps, after = 0, 0, 0
    while data[at]:
        size = data[at]
        if size >= 0xC0:
            after = after or at + 2
            jumps += 1
            at = (size & 0x3F) << 8 | data[at + 1]
            if jumps > _MOST_JUMPS:
                raise ValueError("a name leads back to itself")
            continue
        if size >= 0x40:
            raise ValueError("a label of no known kind")
        label = data[at + 1 : at + 1 + size]
        length += size + 1
        if len(label) < size or length >= _NAME_LENGTH:
            raise ValueError("a name that is cut off or too long")
        labels.append(_text(label))
        at += 1 + size
    return ".".join(labels), after or at + 1


def _value(data: bytes, kind: int, start: int, end: int) -> str:
    """The value of a record of type A, AAAA, CNAME or SOA (its primary server). Raises ValueError or IndexError."""
    if kind == KINDS["A"]:
        return str(ipaddress.IPv4Address(data[start:end]))
    if kind == KINDS["AAAA"]:
        return str(ipaddress.IPv6Address(data[start:end]))
    return _name(data, start)[0]


def _options(data: bytes) -> t.Iterator[int]:
    """The extended errors among the options of EDNS. Raises struct.error."""
    while data:
        code, length = struct.unpack_from("!HH", data)
        if code == _EDE:
            yield struct.unpack_from("!H", data, 4)[0]
        data = data[4 + length :]


def _parse(data: bytes) -> Answer:
    number, flags, questions, *counts = _HEADER.unpack_from(data)
    if not flags & _RESPONSE:
        raise ValueError("a query, no answer")
    at = _HEADER.size
    for _question in range(questions):
        at = _name(data, at)[1] + 4
        if at > len(data):
            raise ValueError("a question that is cut off")
    code = flags & 15
    records: list[Record] = []
    authority = None
    errors: tuple[int, ...] = ()
    read = {KINDS[name]: name for name in ("A", "AAAA", "CNAME")}
    for section, count in enumerate(counts):
        for _record in range(count):
            owner, at = _name(data, at)
            kind, klass, ttl, length = _FIXED.unpack_from(data, at)
            start = at + _FIXED.size
            at = start + length
            if at > len(data):
                raise ValueError("a record that is cut off")
            if kind == _OPT:
                code |= ttl >> 24 << 4
                errors = tuple(_options(data[start:at]))
            elif klass == INTERNET and section == 0 and kind in read:
                records.append(Record(owner, read[kind], _value(data, kind, start, at)))
            elif klass == INTERNET and section == 1 and kind == KINDS["SOA"]:
                authority = _value(data, kind, start, at)
    return Answer(number, code, bool(flags & _TRUNCATED), tuple(records), authority, errors)


def parse(data: bytes) -> Answer:
    """Read an answer, whoever sent it. Raises ValueError for what is none."""
    try:
        return _parse(data)
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"no DNS answer: {error}") from error
