# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packets a proof sends: from where to where, for each placement, direction, family and rule."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass, replace

from .._model.rules import family_of
from .probe import Flow
from .question import ALL_PORTS

if t.TYPE_CHECKING:
    from .._backends.contract import Crossing
    from .._model.ports import PortSet
    from .network import Copy
    from .question import Question

__all__ = ["Aim", "aims", "far_address", "flows"]

# Addresses of the public internet, where Agora's servers are; ranges that are kept for documents are what filters drop.
_PUBLIC = {
    "ipv4": [
        f"{first}.{first + 3}.{first + 7}.{first + 9}" for first in range(23, 220, 7) if first not in (100, 127, 198)
    ],
    "ipv6": [f"2a0{digit}:5a0{digit}:1::{digit}" for digit in range(1, 10)],
}
_WRITTEN = re.compile(
    r"(?<![\w.:])((?:\d+\.){3}\d+|[0-9a-fA-F]*:[0-9a-fA-F:.]+)(?:/(\d+)|-([0-9a-fA-F.:]+))?(?![\w.:])"
)
# Networks shorter than this are most of the internet: no address is outside of such.
_SHORTEST = 3


@dataclass(frozen=True)
class Aim:
    """One kind of packets to judge: all of a placement, direction and family, or those that some rules narrow down.

    With `networks` the far end is in these, with `targets` the near one.
    """

    placement: str
    direction: str
    family: str
    networks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    ports: PortSet = ALL_PORTS

    @property
    def general(self) -> bool:
        """Whether no rule narrows it down."""
        return not self.networks and not self.targets


def aims(question: Question, families: t.Collection[str]) -> list[Aim]:
    """Everything to judge, each once, the general ones first."""
    found = {
        Aim(placement, direction, family, ports=question.ports): None
        for placement in question.placements
        for direction in question.directions
        for family in families
    }
    for rule in question.rules or ():
        placement = "gateway" if rule.passage.inside else "host"
        for family in set(rule.families) & set(families):
            aim = Aim(
                placement, rule.direction, family, rule.networks, rule.passage.targets, rule.ports & question.ports
            )
            if not aim.general and replace(aim, networks=(), targets=(), ports=question.ports) in found:
                found[aim] = None
    return list(found)


def far_address(family: str, texts: t.Iterable[str]) -> str:
    """An address of the public internet that no rule names; the first one where rules name them all."""
    ranges: list[tuple[t.Any, t.Any]] = []
    for text in texts:
        for first, length, last in _WRITTEN.findall(text):
            try:
                network = ipaddress.ip_network(f"{first}/{length}" if length else first, strict=False)
                end = ipaddress.ip_address(last) if last else network[-1]
            except ValueError:
                continue
            if not length or int(length) >= _SHORTEST:
                ranges.append((network[0], end))
    candidates: list[t.Any] = [ipaddress.ip_address(text) for text in _PUBLIC[family]]
    same = [(low, high) for low, high in ranges if low.version == high.version == candidates[0].version]
    free = (address for address in candidates if not any(low <= address <= high for low, high in same))
    return str(next(free, candidates[0]))


def flows(copy: Copy, aim: Aim, question: Question, public: str) -> list[Flow]:
    """The packets that an aim is about; ways that the host lacks are made. Raises BackendError.

    There are none where a named interface has the family switched off.
    """
    chosen = [text for text in question.far if family_of(text) == aim.family]
    fars = [copy.neighbour(aim.family, network) for network in aim.networks] or chosen[:1] or [public]
    if aim.placement == "gateway":
        return [
            flow
            for inside, outside in question.passage.crossings(aim.family)
            if not any(
                side and side.kind == "interface" and copy.network.lacks(aim.family, side.name)
                for side in (inside, outside)
            )
            for far in fars
            for flow in _crossing(copy, aim, (inside, outside), far, question.passage.targets)
        ]
    found: list[Flow] = []
    if copy.network.lacks(aim.family, question.interface):
        return found
    for far in fars:
        way = copy.lead(aim.family, far, question.interface, user=question.user)
        near = next((text for text in question.near if family_of(text) == aim.family), way.near)
        if aim.direction == "egress":
            found.append(Flow(aim.family, near, far))
        else:
            found.append(Flow(aim.family, far, near, way.interface, "host"))
    return found


def _crossing(copy: Copy, aim: Aim, sides: Crossing, far: str, targets: t.Iterable[str]) -> t.Iterator[Flow]:
    """The packets of an aim that cross the gateway from one side to one other; `targets` may take what comes in."""
    inside, outside = sides
    if outside is not None and outside.kind == "source" and not aim.networks:
        far = copy.neighbour(aim.family, outside.name)
    within = inside.name if inside.kind == "interface" else ""
    beyond = outside.name if outside is not None and outside.kind == "interface" else ""
    out = copy.lead(aim.family, far, beyond, avoid=within)
    networks = [inside.name] if inside.kind == "source" else []
    if aim.direction == "ingress":
        networks = list(aim.targets) or [text for text in targets if family_of(text) == aim.family][:1] or networks
    inners = [copy.neighbour(aim.family, network) for network in networks]
    for inner in inners or [copy.neighbour_on(aim.family, within)]:
        way = copy.lead(aim.family, inner, within, avoid="" if within else out.interface)
        if aim.direction == "egress":
            yield Flow(aim.family, inner, far, way.interface)
        else:
            yield Flow(aim.family, far, inner, out.interface, "wire")
