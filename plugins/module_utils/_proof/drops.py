# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rule drops a packet: told by nft's trace, and by the counters of iptables."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import typing as t

from .._backends.saveformat import appended, leads
from .._model.ports import PortSet
from .netlink import unpack

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .probe import Flow, Probe
    from .rulesets import Rules

__all__ = ["Drops"]

_UNTOLD = "no rule tells; look at routing (forwarding, rp_filter) and at what filters beside the rules"

# Says of every packet that its way is to be told.
_TRACE = """
table inet openagora_trace {
    chain prerouting { type filter hook prerouting priority -500; meta nftrace set 1; }
    chain output { type filter hook output priority -500; meta nftrace set 1; }
}
"""
_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP = 12, 270, 1, 9
# linux/netfilter/nf_tables.h
_MESSAGE = 10 << 8 | 17
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _POLICY = 1, 2, 3, 4, 5, 6, 16
_BY_POLICY, _BY_RULE = 1, 3
_CODE = 1
_FAMILIES = {0: "netdev", 1: "inet", 2: "ip", 10: "ip6", 5: "netdev"}

_COUNTED = re.compile(r"(?:\[(\d+):\d+\] )?(:\S+ \S+|-A .*?)(?: \[(\d+):\d+\])?$")


class Drops:
    """Asks what drops packets in the copy, where the rules are loaded."""

    def __init__(self, host: Host, rules: Rules, probe: Probe) -> None:
        self._host = host
        self._probe = probe
        self._iptables = [tool for tool in rules.tools if tool not in ("nft", "ipset")]
        self._texts: dict[str, str] = {}
        self._traces: socket.socket | None = None
        if "nft" in rules.tools:
            self._texts = rules.nft_texts()
            host.run(["nft", "-f", "-"], stdin=_TRACE)
            self._traces = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
            # The kernel tells only those that have a number.
            self._traces.bind((0, 0))
            self._traces.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
            self._traces.setblocking(False)

    def where(self, flow: Flow, protocol: str, ports: PortSet) -> list[tuple[str, PortSet]]:
        """What drops these ports; a range whose ends fall to the same rule is taken to fall to it whole."""
        found: dict[str, PortSet] = {}
        for low, high in ports.ranges:
            for name, part in self._split(flow, protocol, low, high):
                found[name] = found.get(name, PortSet()) | part
        return list(found.items())

    def _split(self, flow: Flow, protocol: str, low: int, high: int) -> t.Iterator[tuple[str, PortSet]]:
        first = self._ask(flow, protocol, low)
        last = self._ask(flow, protocol, high) if high > low else first
        if first == last or high - low < 2:
            yield first, PortSet.of((low, high) if first == last else low)
            if first != last:
                yield last, PortSet.of(high)
            return
        middle = (low + high) // 2
        yield from self._split(flow, protocol, low, middle)
        yield from self._split(flow, protocol, middle + 1, high)

    def _ask(self, flow: Flow, protocol: str, port: int) -> str:
        """What drops one packet."""
        before = self._counters(flow.family)
        if self._traces:
            self._traced()
        self._probe.arrivals(flow, protocol, PortSet.of(port))
        return self._traced() or _risen(before, self._counters(flow.family)) or _UNTOLD

    def _traced(self) -> str:
        """The drop that nft told of last: of the first packet only, what answers it has a way of its own."""
        told, packet = "", b""
        with contextlib.suppress(BlockingIOError):
            while self._traces:
                data = self._traces.recv(1 << 16)
                kind, family = struct.unpack_from("=HxxxxxxxxxxB", data, 4)
                if kind == _MESSAGE:
                    found = dict(unpack(data[20:]))
                    packet = packet or found.get(_ID, b"")
                    if found.get(_ID) == packet:
                        told = told or self._drop(_FAMILIES.get(family, ""), found)
        return told

    def _drop(self, family: str, found: dict[int, bytes]) -> str:
        (kind,) = struct.unpack("!I", found[_TYPE])
        table, chain = (found.get(name, b"").rstrip(b"\0").decode() for name in (_TABLE, _CHAIN))
        if kind == _BY_POLICY and found.get(_POLICY) == bytes(4):
            return f"nft {family} {table} {chain}: policy drop"
        if kind == _BY_RULE and dict(unpack(found.get(_VERDICT, b""))).get(_CODE) == bytes(4):
            (handle,) = struct.unpack("!Q", found[_HANDLE])
            return f"nft {family} {table} {chain}: {self._texts.get(f'{family} {table} {handle}', f'handle {handle}')}"
        return ""

    def _counters(self, family: str) -> list[tuple[int, str, int]]:
        """Each rule and policy of a family that drops, with how many packets it has met.

        Rejects come first: what answers a packet may itself fall to a rule, and that rule to nothing but a policy.
        """
        counters = []
        for tool in self._iptables:
            if tool.startswith("ip6") != (family == "ipv6"):
                continue
            table = ""
            for line in self._host.run([f"{tool}-save", "-c"]).out.splitlines():
                found = _COUNTED.match(line)
                if line.startswith("*"):
                    table = line[1:]
                elif found:
                    name, count = found[2], int(found[1] or found[3] or 0)
                    if name.startswith(":") and name.endswith(" DROP"):
                        counters.append((2, f"{tool} {table} {name[1:-5]}: policy DROP", count))
                    elif name.startswith("-A ") and leads(appended(name)[1]) in ("DROP", "REJECT"):
                        chain, spec = appended(name)
                        rank = ("REJECT", "DROP").index(leads(spec))
                        counters.append((rank, f"{tool} {table} {chain}: {spec}", count))
        return counters


def _risen(before: list[tuple[int, str, int]], after: list[tuple[int, str, int]]) -> str:
    """The first counter that has risen."""
    risen = [(rank, name) for (rank, name, was), (_rank, _name, now) in zip(before, after) if now > was]
    return min(risen)[1] if risen else ""
