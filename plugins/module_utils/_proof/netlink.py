# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink: messages, attributes, and a socket to ask the kernel with; netlink(7), rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
import struct
import typing as t

__all__ = ["Attribute", "Netlink", "pack", "unpack"]

Attribute = tuple[int, bytes]

_ROUTE = 0
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# Bits that say how an attribute is encoded.
_KIND = 0x3FFF


def pack(attributes: t.Iterable[Attribute]) -> bytes:
    """Attributes as they stand in a message."""
    return b"".join(
        _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4) for kind, value in attributes
    )


def unpack(data: bytes) -> list[Attribute]:
    """The attributes of a message, in order."""
    found = []
    while len(data) >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found.append((kind & _KIND, data[4:length]))
        data = data[max(4, length + -length % 4) :]
    return found


class Netlink:
    """A socket for requests in the network namespace in which it was made."""

    def __init__(self, protocol: int = _ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))

    def _send(self, kind: int, body: bytes, flags: int) -> None:
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)

    def _receive(self) -> t.Iterator[tuple[int, bytes]]:
        data = self._socket.recv(1 << 18)
        while data:
            length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
            yield kind, data[_HEADER.size : length]
            data = data[length + -length % 4 :]

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers to a request for a list."""
        self._send(kind, body, _DUMP)
        bodies: list[bytes] = []
        while True:
            for answer, found in self._receive():
                if answer == _DONE:
                    return bodies
                if answer == _ERROR:
                    raise _failure(found)
                bodies.append(found)

    def ask(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """Have something done; returns the body of the answer, if there is one. Raises OSError."""
        self._send(kind, body, _ACK | flags)
        reply = b""
        while True:
            for answer, found in self._receive():
                if answer != _ERROR:
                    reply = found
                elif found[:4] != b"\0\0\0\0":
                    raise _failure(found)
                else:
                    return reply


def _failure(body: bytes) -> OSError:
    number = -struct.unpack_from("=i", body)[0]
    return OSError(number, os.strerror(number) if number != errno.EPERM else "not permitted, CAP_NET_ADMIN is needed")
