# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the verdicts say: open and unknown ports, and what that means for the rules that are wanted."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from .._model.ports import PortSet
from .._model.rules import Rule, RuleSet
from .aims import Aim, Question

__all__ = ["Verdict", "report"]


@dataclass(frozen=True)
class Verdict:
    """What became of the packets of an aim: `open` wherever they were sent, `somewhere` at least one way, `unknown`."""

    aim: Aim
    protocol: str
    open: PortSet
    somewhere: PortSet
    unknown: PortSet


_Key = tuple[str, str, str]


def _tree(sets: t.Mapping[_Key, PortSet]) -> dict[str, t.Any]:
    """Port sets as `{family: {direction: {protocol: texts}}}`."""
    tree: dict[str, t.Any] = {}
    for (family, direction, protocol), ports in sets.items():
        tree.setdefault(family, {}).setdefault(direction, {})[protocol] = ports.texts()
    return tree


def _key(verdict: Verdict) -> _Key:
    return verdict.aim.family, verdict.aim.direction, verdict.protocol


def concerns(verdict: Verdict, rule: Rule) -> bool:
    """Whether the packets of the verdict are those that the rule is about."""
    aim = verdict.aim
    return (
        (aim.direction, verdict.protocol, aim.networks, aim.targets)
        == (rule.direction, rule.protocol, rule.networks, rule.passage.targets)
        and aim.family in rule.families
        and (aim.placement == "gateway") == bool(rule.passage.inside)
    )


def report(question: Question, verdicts: t.Sequence[Verdict]) -> dict[str, t.Any]:
    """The part of the result that is about ports.

    A port is open when it is at every placement; what is missing or beyond the rules anywhere is told.
    """
    general = [verdict for verdict in verdicts if verdict.aim.general]
    held: dict[_Key, PortSet] = {}
    somewhere: dict[_Key, PortSet] = {}
    unknown: dict[_Key, PortSet] = {}
    for verdict in general:
        key = _key(verdict)
        held[key] = held.get(key, verdict.open) & verdict.open
        somewhere[key] = somewhere.get(key, PortSet()) | verdict.somewhere
        unknown[key] = unknown.get(key, PortSet()) | verdict.unknown
    result = {"open": _tree(held), "unknown": _tree(unknown)}
    if question.rules is not None:
        result.update(_against(question.rules, verdicts, somewhere))
    return result


def _against(rules: RuleSet, verdicts: t.Sequence[Verdict], somewhere: dict[_Key, PortSet]) -> dict[str, t.Any]:
    """What the verdicts mean for the rules that are wanted."""
    missing = dict.fromkeys(somewhere, PortSet())
    needed = dict.fromkeys(somewhere, PortSet())
    states: dict[str, set[str]] = {sdk: {"yes"} for rule in rules for sdk, _ports in rule.needs}
    lacking: dict[str, dict[_Key, PortSet]] = {}
    for verdict in verdicts:
        key = _key(verdict)
        for rule in rules:
            if not concerns(verdict, rule):
                continue
            needed[key] |= rule.ports
            for sdk, ports in rule.needs:
                closed = (ports & verdict.aim.ports) - verdict.open - verdict.unknown
                if closed:
                    states[sdk].add("no")
                    missing[key] |= closed
                    mine = lacking.setdefault(sdk, {})
                    mine[key] = mine.get(key, PortSet()) | closed
                elif ports & verdict.unknown:
                    states[sdk].add("unknown")
    return {
        "missing": _tree(missing),
        "beyond": _tree({key: ports - needed[key] for key, ports in somewhere.items()}),
        "covered": {sdk: min(found, key=("no", "unknown", "yes").index) for sdk, found in sorted(states.items())},
        "missing_by_sdk": {sdk: _tree(found) for sdk, found in sorted(lacking.items())},
    }


def missing_ports(rules: RuleSet, verdict: Verdict) -> PortSet:
    """The ports that rules need and that the packets of a verdict did not find open."""
    needed = PortSet()
    for rule in rules:
        if concerns(verdict, rule):
            needed |= rule.ports & verdict.aim.ports
    return needed - verdict.open - verdict.unknown
