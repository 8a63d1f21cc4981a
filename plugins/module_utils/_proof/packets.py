# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packets of the proof: one per port, which says itself to which port it was sent, whatever NAT does to it."""

from __future__ import annotations

import ipaddress
import struct
import typing as t

__all__ = ["NUMBERS", "Packets"]

NUMBERS = {"tcp": 6, "udp": 17}

# Above 32768, as most systems have it for connections that they begin.
_SOURCE_PORT = 52427
_TTL = 64
_DONT_FRAGMENT = 0x4000
_SYN, _ACK = 0x02, 0x10
_WINDOW = 64240
# Maximum segment size 1460 and selective acknowledgement, without which some firewalls take a SYN for a forged one.
_SYN_OPTIONS = struct.pack("!BBHBBBB", 2, 4, 1460, 4, 2, 1, 1)


def _checksum(data: bytes) -> int:
    """The checksum of the internet protocols, RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Packets:
    """The packets from one address to all ports of another: TCP SYN or UDP.

    Each carries a tag, by which packets of different purposes are told apart, and the complement of its port: as the
    TCP sequence number, or in the UDP payload. A port and its complement always add up to the same, so that the
    checksum is the same for all ports.
    """

    def __init__(
        self, family: str, protocol: str, source: str, target: str, tag: int, *, source_port: int = _SOURCE_PORT
    ) -> None:
        self.family = family
        self.protocol = protocol
        self.target = target
        self._source_port = source_port
        self._tag = struct.pack("!H", tag)
        # Where the tag stands, behind the IP header.
        self._offset = 4 if protocol == "tcp" else 8
        addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
        whole = self._transport(0)
        pseudo = addresses + struct.pack("!II", len(whole), NUMBERS[protocol])
        # A UDP checksum of 0 means that there is none.
        whole = self._transport(_checksum(pseudo + whole) or 0xFFFF)
        header = _ip_header(family, len(whole), NUMBERS[protocol], addresses)
        self._header_length = len(header)
        self._head = header + whole[:2]
        self._middle = whole[4 : self._offset + 2]
        self._tail = whole[self._offset + 4 :]

    def _transport(self, checksum: int) -> bytes:
        """The packet to port 0."""
        if self.protocol == "udp":
            return struct.pack("!HHHH2sHI", self._source_port, 0, 16, checksum, self._tag, 0xFFFF, 0)
        return (
            struct.pack("!HH2sHIBBHHH", self._source_port, 0, self._tag, 0xFFFF, 0, 7 << 4, _SYN, _WINDOW, checksum, 0)
            + _SYN_OPTIONS
        )

    def to(self, port: int) -> bytes:
        """The packet to a port."""
        two = port.to_bytes(2, "big")
        other = (0xFFFF - port).to_bytes(2, "big")
        return self._head + two + self._middle + other + self._tail

    def answered_by(self, data: bytes, port: int) -> bool:
        """Whether a received packet, from its IP header on, accepts the connection that one to a port has asked for."""
        start = self._header_length
        if len(data) < start + 14 or data[9 if self.family == "ipv4" else 6] != NUMBERS["tcp"]:
            return False
        source, target, _number, acknowledged, _offset, flags = struct.unpack_from("!HHIIBB", data, start)
        (number,) = struct.unpack_from("!I", self.to(port), start + 4)
        answers = (source, target, acknowledged) == (port, self._source_port, number + 1)
        return answers and flags == _SYN | _ACK

    def answer(self, data: bytes) -> bytes:
        """The packet that answers one which has arrived, given from its IP header on.

        Addresses and ports change places, which no checksum notices. UDP carries what it carried, and TCP accepts the
        connection.
        """
        start = self._header_length
        size = len(ipaddress.ip_address(self.target).packed)
        near, far, rest = data[start - 2 * size : start - size], data[start - size : start], data[start + 4 :]
        if self.protocol == "tcp":
            number, _none, offset, flags, window, checksum = struct.unpack_from("!IIBBHH", rest)
            acknowledged = number + 1 & 0xFFFFFFFF
            total = (checksum ^ 0xFFFF) + (acknowledged >> 16) + (acknowledged & 0xFFFF) + _ACK
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            rest = (
                struct.pack("!IIBBHH", number, acknowledged, offset, flags | _ACK, window, total ^ 0xFFFF) + rest[14:]
            )
        return data[: start - 2 * size] + far + near + data[start + 2 : start + 4] + data[start : start + 2] + rest

    def target_of(self, data: bytes) -> str:
        """The address to which a packet goes."""
        size = len(ipaddress.ip_address(self.target).packed)
        return str(ipaddress.ip_address(data[self._header_length - size : self._header_length]))

    def header(self, length: int, addresses: bytes) -> bytes:
        """The IP header before so many bytes, between two addresses."""
        return _ip_header(self.family, length, NUMBERS[self.protocol], addresses)

    def reader(self, *, unchanged: bool = False) -> t.Callable[[bytes], int]:
        """A function that says to which port a packet was sent, 0 for one that is none of these.

        It is given from its IP header on. `unchanged`: only those count whose target is the address and port to which
        they were sent.
        """
        tag, number = self._tag, NUMBERS[self.protocol]
        # The header ends with the address that the packet goes to.
        end = self._header_length
        target = ipaddress.ip_address(self.target).packed
        at = end - len(target)
        start = self._offset + end
        # Where the IP header says the protocol.
        place = 9 if self.family == "ipv4" else 6

        def read(data: bytes) -> int:
            if data[start : start + 2] != tag or data[place] != number:
                return 0
            port = 0xFFFF - int.from_bytes(data[start + 2 : start + 4], "big")
            if unchanged and (data[at:end], data[end + 2 : end + 4]) != (target, port.to_bytes(2, "big")):
                return 0
            return port

        return read

    def answer_reader(self) -> t.Callable[[bytes], int]:
        """A function that says to the packet to which port one is an answer, 0 for one that is none."""
        if self.protocol == "udp":
            return self.reader()
        tag, number = self._tag, NUMBERS[self.protocol]
        # What it acknowledges is the number of the packet and one.
        start = self._header_length + 8
        place = 9 if self.family == "ipv4" else 6

        def read(data: bytes) -> int:
            if data[start : start + 2] != tag or data[place] != number:
                return 0
            return 0x10000 - int.from_bytes(data[start + 2 : start + 4], "big")

        return read


def _ip_header(family: str, length: int, number: int, addresses: bytes) -> bytes:
    if family == "ipv6":
        return struct.pack("!IHBB", 6 << 28, length, number, _TTL) + addresses

    def header(checksum: int) -> bytes:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, _DONT_FRAGMENT, _TTL, number, checksum) + addresses

    return header(_checksum(header(0)))
