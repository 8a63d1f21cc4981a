# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending packets through the copy of a host, and seeing which of them arrive."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import select
import socket
import struct
import typing as t
from dataclasses import dataclass

from .._backends.contract import BackendError
from .._model.ports import PortSet
from .linux import act_as
from .netlink import Netlink
from .network import ETHERTYPES, HARDWARE, TICK, TICK_TYPE, VERSIONS, Copy, buffered, packet_socket, read_setting
from .packets import NUMBERS, Packets

__all__ = ["Arrivals", "End", "Flow", "Probe"]

End = t.Literal["any", "host", "wire"]

# Packets sent before they are collected: less than half of what the kernel lets wait for a processor
# (net.core.netdev_max_backlog is 1000 unless raised), because what is delivered on the host may have an answer, and no
# more than fit into the buffer of a socket, where a small packet and its answer take up to this many bytes together.
_LONGEST_BURST = 400
_BYTES = 2048
# A table of connections that is full drops packets. Each namespace has its own; they share the setting of its size.
_CONNECTIONS = 16384
_SIZE = "netfilter/nf_conntrack_max"
_SECONDS = 10
_NETFILTER = 12
# No packet of the proof is longer, nor what answers it.
_LONGEST = 128
# linux/netfilter/nfnetlink_conntrack.h: subsystem 1, message 2.
_DELETE_CONNECTIONS = 1 << 8 | 2


# ipv6(7): struct in6_pktinfo, which begins with the address.
_PKTINFO = 20


@dataclass(frozen=True)
class Flow:
    """Packets that the host sends itself (no `interface`), or that come to it through an interface.

    `end` is where they have to arrive: on the wire or on the host, wherever rules send them (`any`); on the host, at
    the very address and port to which they were sent (`host`); on the wire (`wire`).
    """

    family: str
    source: str
    target: str
    interface: str = ""
    end: End = "any"


class Arrivals(t.NamedTuple):
    """The ports whose packets arrive, and those of them whose answers come back to who sent the packet."""

    passing: PortSet
    answered: PortSet


class Probe:
    """The sender and the observers. All on one processor, so that the kernel handles packets in the order sent."""

    def __init__(self, copy: Copy, *, user: int | None) -> None:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        self._wire = copy.wire
        self._user = user
        self._tick = packet_socket(socket.SOCK_DGRAM, TICK_TYPE)
        self._ends = (self._tick, self._wire.tick)
        for end in self._ends:
            end.bind((TICK, TICK_TYPE))
        self._kernel = Netlink(_NETFILTER)
        self._tag = 0
        self._burst = min(_LONGEST_BURST, self._tick.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _BYTES)
        self._since_forgotten = 0
        self._most = min(_CONNECTIONS, int(read_setting(_SIZE) or _CONNECTIONS) // 4)
        self.packets = 0
        # What is delivered on the host, past the last hook.
        self._delivered = {
            (family, protocol): _raw_socket(VERSIONS[family], number)
            for family in ETHERTYPES
            for protocol, number in NUMBERS.items()
        }

    def arrivals(self, flow: Flow, protocol: str, ports: PortSet) -> Arrivals:
        """The ports whose packets arrive where the flow has to end: leave the host, or are delivered on it."""
        # A packet that came before may have begun the connection to which one of these would belong.
        self._forget()
        self._tag += 1
        packets = Packets(flow.family, protocol, flow.source, flow.target, self._tag)
        arrived, returned = bytearray(0x10000), bytearray(0x10000)
        rest = iter(ports)
        with self._sender(flow) as send, self._from_host(flow.family, flow.target) as host:
            while burst := list(itertools.islice(rest, self._burst)):
                for port in burst:
                    send(packets.to(port))
                came = self._arrive(flow, packets, arrived, returned)
                self._answer(flow, packets, came, host)
                self._return(flow, packets, returned)
                self._count(len(burst))
        passing = _port_set(arrived)
        return Arrivals(passing, passing & _port_set(returned))

    def _arrive(self, flow: Flow, packets: Packets, arrived: bytearray, returned: bytearray) -> list[tuple[str, bytes]]:
        """Note the ports of the packets that have arrived, and return these with their places."""
        came = []
        read, read_answer = packets.reader(unchanged=flow.end == "host"), packets.answer_reader()
        for place, data in self._received(packets):
            port = read(data) if flow.end == "any" or (flow.end == "host") == (not place) else 0
            if port:
                arrived[port] = 1
                came.append((place, data))
            elif packets.protocol == "tcp" and bool(place) == bool(flow.interface):
                # Where nobody listens the host refuses a connection, which is an answer as good as any.
                returned[read_answer(data)] = 1
        return came

    def _answer(self, flow: Flow, packets: Packets, came: t.Iterable[tuple[str, bytes]], host: socket.socket) -> None:
        """Answer packets from where they have arrived; what was delivered by TCP the host has answered itself."""
        frame = _frame(flow.family)
        for place, data in came:
            answer = packets.answer(data)
            if place:
                _past_errors(self._wire.injector.sendto, frame + answer, (place, ETHERTYPES[flow.family]))
            elif packets.protocol == "udp":
                _past_errors(host.sendto, answer, (packets.target_of(answer), 0))

    def _return(self, flow: Flow, packets: Packets, returned: bytearray) -> None:
        """Note the ports whose answers have come back."""
        read = packets.answer_reader()
        for place, data in self._received(packets):
            if bool(place) == bool(flow.interface):
                returned[read(data)] = 1

    def _received(self, packets: Packets) -> t.Iterator[tuple[str, bytes]]:
        """What has come to its end: the interface through which it left (empty: delivered on the host), the packet."""
        self._settle()
        wire, delivered = self._wire.arrivals[packets.family], self._delivered[packets.family, packets.protocol]
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = wire.recvfrom(_LONGEST)
                yield address[0], data
        receive = delivered.recv if packets.family == "ipv4" else functools.partial(_with_header, delivered, packets)
        with contextlib.suppress(BlockingIOError):
            while True:
                yield "", receive(_LONGEST)

    def answered(self, flow: Flow, port: int, source_port: int) -> bool:
        """Whether a connection from outside comes about: its first packet is delivered, and the answer leaves."""
        self._forget()
        self._tag += 1
        packets = Packets(flow.family, "tcp", flow.source, flow.target, self._tag, source_port=source_port)
        wire = self._wire.arrivals[flow.family]
        answers = []
        with socket.socket(VERSIONS[flow.family], socket.SOCK_STREAM) as listener, self._sender(flow) as send:
            listener.bind(("", port))
            listener.listen()
            send(packets.to(port))
            self._settle()
            with contextlib.suppress(BlockingIOError):
                while True:
                    answers.append(wire.recv(_LONGEST))
        return any(packets.answered_by(answer, port) for answer in answers)

    def _settle(self) -> None:
        """Wait until every packet has come to its end: ticks queue behind it, into the host, out of it, in again."""
        inside, outside = self._ends
        for sender, receiver in ((outside, inside), (inside, outside), (outside, inside)):
            sender.sendto(b"tick", (TICK, TICK_TYPE, 0, 0, HARDWARE))
            if not select.select([receiver], [], [], _SECONDS)[0]:
                raise BackendError(f"a packet of the private copy took over {_SECONDS} seconds; is the machine stuck?")
            receiver.recv(16)

    def _count(self, packets: int) -> None:
        """Forget connections before their table is full; it is the copy's own."""
        self.packets += packets
        self._since_forgotten += packets
        if self._since_forgotten >= self._most:
            self._forget()

    def _forget(self) -> None:
        """Forget all connections that the packets have begun."""
        self._since_forgotten = 0
        # Without that part of the kernel new connections push out the old ones, which had no answer.
        with contextlib.suppress(OSError):
            self._kernel.ask(_DELETE_CONNECTIONS, struct.pack("!BBH", socket.AF_UNSPEC, 0, 0))

    @contextlib.contextmanager
    def _sender(self, flow: Flow) -> t.Iterator[t.Callable[[bytes], None]]:
        if flow.interface:
            injector = self._wire.injector
            injector.bind((flow.interface, 0))
            frame = _frame(flow.family)
            yield lambda packet: _past_errors(injector.send, frame + packet)
            return
        with self._from_host(flow.family, flow.source) as sender:
            target = (flow.target, 0)
            yield lambda packet: _past_errors(sender.sendto, packet, target)

    @contextlib.contextmanager
    def _from_host(self, family: str, source: str) -> t.Iterator[socket.socket]:
        """A socket that sends packets with their headers from the host."""
        with act_as(self._user):
            sender = socket.socket(VERSIONS[family], socket.SOCK_RAW, socket.IPPROTO_RAW)
        with sender:
            # So that policy rules see the source; an address that is not the host's own cannot be bound.
            with contextlib.suppress(OSError):
                sender.bind((source, 0))
            yield sender


def _past_errors(send: t.Callable[..., t.Any], *arguments: t.Any) -> None:
    """Send; that the kernel refuses a packet (a rule drops it, no way leads there) is its verdict on the port."""
    try:
        send(*arguments)
    except OSError as error:
        if error.errno in (errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN):
            raise BackendError(f"the private copy cannot send: {error.strerror}; is memory short?") from error


def _raw_socket(family: int, number: int) -> socket.socket:
    made = buffered(socket.socket(family, socket.SOCK_RAW, number))
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return made


def _with_header(receiver: socket.socket, packets: Packets, length: int) -> bytes:
    """A packet of IPv6 that was delivered, with its header, which the kernel does not hand on."""
    data, [(_level, _kind, told), *_others], _flags, source = receiver.recvmsg(length, socket.CMSG_SPACE(_PKTINFO))
    return packets.header(len(data), socket.inet_pton(socket.AF_INET6, source[0].partition("%")[0]) + told[:16]) + data


def _frame(family: str) -> bytes:
    """What comes before a packet on a cable."""
    return HARDWARE + HARDWARE + struct.pack("!H", ETHERTYPES[family])


def _port_set(marked: bytearray) -> PortSet:
    """The ports that are marked; 0 is none."""
    marked[0] = 0
    return PortSet(tuple((run.start(), run.end() - 1) for run in re.finditer(b"\x01+", marked)))
