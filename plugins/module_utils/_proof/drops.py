# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rule drops a packet, or sends it elsewhere: told by nft's trace, and by the counters of iptables."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import typing as t

from .._backends.saveformat import leads
from .._model.ports import PortSet
from .netlink import unpack

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .probe import Flow, Probe
    from .rulesets import Rules

__all__ = ["Drops", "Ending"]

Cause = t.Literal["drop", "translation", "answer", "unknown"]

_UNTOLD = "no rule tells; look at routing (forwarding, rp_filter) and at what filters beside the rules"
# Rules that change where a packet goes, in the words of nft and of iptables.
_TRANSLATES = re.compile(r'(?<![\w@])(?:dnat|redirect)\b|xt target "?(?:DNAT|NETMAP|REDIRECT)\b')
_QUOTED = re.compile(r'(?<!xt target )"[^"]*"')
# Targets of iptables, with the rank in which they are told and what they do to a packet.
_ENDING: dict[str, tuple[int, Cause]] = {
    "REJECT": (0, "drop"),
    "DROP": (1, "drop"),
    **dict.fromkeys(("DNAT", "NETMAP", "REDIRECT"), (0, "translation")),
}

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
_DROP, _ACCEPT = (struct.pack("!I", code) for code in (0, 1))
_FAMILIES = {0: "netdev", 1: "inet", 2: "ip", 10: "ip6", 5: "netdev"}

_COUNTED = re.compile(r"(?:\[(\d+):\d+\] )?(:\S+ \S+|-A .*?)(?: \[(\d+):\d+\])?$")


class Ending(t.NamedTuple):
    """Why a packet does not arrive: the cause, and the table, chain and rule."""

    cause: Cause
    where: str


class Drops:
    """Asks what keeps packets from arriving in the copy, where the rules are loaded."""

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

    def where(self, flow: Flow, protocol: str, ports: PortSet) -> list[tuple[Ending, PortSet]]:
        """What these ports fall to; a range whose ends fall to the same rule is taken to fall to it whole."""
        found: dict[Ending, PortSet] = {}
        for low, high in ports.ranges:
            for ending, part in self._split(flow, protocol, low, high):
                found[ending] = found.get(ending, PortSet()) | part
        return list(found.items())

    def _split(self, flow: Flow, protocol: str, low: int, high: int) -> t.Iterator[tuple[Ending, PortSet]]:
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

    def _ask(self, flow: Flow, protocol: str, port: int) -> Ending:
        """What one packet falls to, or its answer where the packet arrives."""
        before = self._counters(flow.family)
        self._traced()
        arrived = self._probe.arrivals(flow, protocol, PortSet.of(port)).passing
        (first_traced, last_traced), risen = self._traced(), _risen(before, self._counters(flow.family))
        if arrived:
            # What the kernel says itself comes before the answer, or while it is rejected.
            drops = [ending.where for ending in (*last_traced, *risen) if ending.cause == "drop"]
            return Ending("answer", drops[0]) if drops else Ending("unknown", _UNTOLD)
        # Of a packet that has to keep its target, a rule that drops it afterwards drops another one.
        first: Cause = "translation" if flow.end == "host" else "drop"
        told = [*first_traced, *risen]
        return min(told, key=lambda ending: ending.cause != first, default=Ending("unknown", _UNTOLD))

    def _traced(self) -> tuple[list[Ending], list[Ending]]:
        """What nft told of the first packet, and of the one that it spoke of last."""
        told: dict[bytes, list[Ending]] = {}
        packet = b""
        with contextlib.suppress(BlockingIOError):
            while self._traces:
                data = self._traces.recv(1 << 16)
                kind, family = struct.unpack_from("=HxxxxxxxxxxB", data, 4)
                if kind == _MESSAGE:
                    found = dict(unpack(data[20:]))
                    packet = found.get(_ID, b"")
                    told.setdefault(packet, []).extend(self._ending(_FAMILIES.get(family, ""), found))
        return next(iter(told.values()), []), told.get(packet, [])

    def _ending(self, family: str, found: dict[int, bytes]) -> t.Iterator[Ending]:
        (kind,) = struct.unpack("!I", found[_TYPE])
        table, chain = (found.get(name, b"").rstrip(b"\0").decode() for name in (_TABLE, _CHAIN))
        if kind == _BY_POLICY and found.get(_POLICY) == _DROP:
            yield Ending("drop", f"nft {family} {table} {chain}: policy drop")
        elif kind == _BY_RULE and _HANDLE in found:
            (handle,) = struct.unpack("!Q", found[_HANDLE])
            text = self._texts.get(f"{family} {table} {handle}", f"handle {handle}")
            verdict = dict(unpack(found.get(_VERDICT, b""))).get(_CODE)
            if verdict == _DROP:
                yield Ending("drop", f"nft {family} {table} {chain}: {text}")
            elif verdict == _ACCEPT and _TRANSLATES.search(_QUOTED.sub("", text)):
                yield Ending("translation", f"nft {family} {table} {chain}: {text}")

    def _counters(self, family: str) -> list[tuple[int, Ending, int]]:
        """Each rule and policy of a family that drops or translates, with how many packets it has met.

        Rejects come first: what answers a packet may itself fall to a rule, and that rule to nothing but a policy.
        """
        counters: list[tuple[int, Ending, int]] = []
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
                        counters.append((2, Ending("drop", f"{tool} {table} {name[1:-5]}: policy DROP"), count))
                    elif name.startswith("-A "):
                        _append, chain, spec = name.split(None, 2)
                        target = leads(spec)
                        if target in _ENDING:
                            rank, cause = _ENDING[target]
                            counters.append((rank, Ending(cause, f"{tool} {table} {chain}: {spec}"), count))
        return counters


def _risen(before: list[tuple[int, Ending, int]], after: list[tuple[int, Ending, int]]) -> list[Ending]:
    """The counters that have risen, the first ones first."""
    risen = [(rank, ending) for (rank, ending, was), (_rank, _ending, now) in zip(before, after) if now > was]
    return [ending for _rank, ending in sorted(risen)]
