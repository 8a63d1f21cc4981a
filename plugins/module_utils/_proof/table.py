# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proof as a table that a person reads at a glance."""

from __future__ import annotations

import typing as t

from .._model.ports import PortSet

if t.TYPE_CHECKING:
    from .._model.rules import RuleSet

__all__ = ["subtract", "table"]

# `{family: {direction: {protocol: texts}}}`, as the proof returns port sets; empty entries may be left out.
Tree = t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Sequence[str]]]]

_HEAD = ("SDK", "direction", "protocol", "needed", "open", "missing")


def _by_family(tree: Tree, direction: str, protocol: str) -> dict[str, PortSet]:
    found = {}
    for family, directions in tree.items():
        texts = directions.get(direction, {}).get(protocol, ())
        found[family] = PortSet.parse(",".join(texts)) if texts else PortSet()
    return found


def _text(by_family: t.Mapping[str, PortSet], families: t.Collection[str]) -> str:
    """Ports for a person: the family is named where only one of them has these."""
    held = {family: by_family.get(family, PortSet()) for family in families}
    common = set(held.values())
    if len(common) == 1:
        return str(common.pop())
    return "; ".join(f"{ports} ({family})" for family, ports in held.items() if ports)


def subtract(tree: Tree, others: t.Iterable[Tree]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """The ports of the first tree that none of the others has."""
    held = list(others)
    left: dict[str, dict[str, dict[str, list[str]]]] = {}
    for family, directions in tree.items():
        for direction, protocols in directions.items():
            for protocol in protocols:
                ports = _by_family(tree, direction, protocol)[family]
                for other in held:
                    ports -= _by_family(other, direction, protocol).get(family, PortSet())
                left.setdefault(family, {}).setdefault(direction, {})[protocol] = ports.texts()
    return left


def _ways(tree: Tree) -> list[tuple[str, str]]:
    return sorted({(way, kind) for directions in tree.values() for way in directions for kind in directions[way]})


def table(rules: RuleSet, result: t.Mapping[str, t.Any]) -> list[str]:
    """What each SDK needs, how many of these ports are open in all families, which are not, and what else is open.

    `result` is what the proof returns: `open`, `unknown`, `beyond`, `essentials` and `missing_by_sdk` are read.
    """
    families = tuple(result["open"])
    needs: dict[tuple[str, str, str], PortSet] = {}
    for rule in rules:
        for sdk, ports in rule.needs:
            key = (sdk, rule.direction, rule.protocol)
            needs[key] = needs.get(key, PortSet()) | ports
    rows = [_HEAD]
    for (sdk, direction, protocol), needed in sorted(needs.items()):
        closed = _by_family(result["missing_by_sdk"].get(sdk, {}), direction, protocol)
        unsure = _by_family(result["unknown"], direction, protocol)
        unsure = {family: (ports & needed) - closed.get(family, PortSet()) for family, ports in unsure.items()}
        left = needed
        for ports in (*closed.values(), *unsure.values()):
            left -= ports
        said = [_text(closed, families), f"unknown: {text}" if (text := _text(unsure, families)) else ""]
        rows.append((sdk, direction, protocol, str(len(needed)), str(len(left)), "; ".join(filter(None, said)) or "-"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    essentials = result.get("essentials", {})
    for why, held in essentials.items():
        for direction, protocol in _ways(held):
            more = _text(_by_family(held, direction, protocol), families)
            lines.append(f"open in lockdown for {why}: {direction} {protocol} {more}")
    count = len(lines)
    beyond = subtract(result["beyond"], essentials.values())
    for direction, protocol in _ways(beyond):
        more = _text(_by_family(beyond, direction, protocol), families)
        if more:
            lines.append(f"also open: {direction} {protocol} {more}")
    return lines if len(lines) > count else [*lines, "nothing else is open"]
