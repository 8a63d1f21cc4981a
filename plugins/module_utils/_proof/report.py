# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the verdicts say: open and unknown ports, and what that means for the rules that are needed."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from .._model.messages import Notice
from .._model.ports import PortSet
from .._model.rules import family_of, overlap
from .table import subtract, table

if t.TYPE_CHECKING:
    from .._model.lockdown import Lockdown
    from .._model.rules import Rule, RuleSet
    from .aims import Aim
    from .probe import Flow
    from .question import Question

__all__ = ["Proof", "Verdict", "report"]

# What became of a packet, by the cause.
_ENDED = {"translation": "translated", "answer": "answers dropped"}

# Family, direction and protocol.
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Verdict:
    """What became of the packets of a flow: those to ports `sure` are answered; to `possible` perhaps, to others never.

    Those to `passing` arrive for sure, whether an answer comes back or not.
    """

    aim: Aim
    flow: Flow
    protocol: str
    sure: PortSet
    possible: PortSet
    passing: PortSet

    @property
    def key(self) -> Key:
        """Family, direction and protocol."""
        return self.aim.family, self.aim.direction, self.protocol

    def concerns(self, rule: Rule) -> bool:
        """Whether the rule is about these packets."""
        return (
            (self.aim.direction, self.protocol, self.aim.networks, self.aim.targets)
            == (rule.direction, rule.protocol, rule.networks, rule.passage.targets)
            and self.aim.family in rule.families
            and (self.aim.placement == "gateway") == bool(rule.passage.inside)
        )

    def closed(self, question: Question, ports: PortSet, rule: Rule) -> PortSet:
        """Those of a rule's ports that are closed; without a far end, names of the rule's scope cannot be judged."""
        if rule.scope == "names" and self.aim.family not in map(family_of, question.far):
            return PortSet()
        return (ports & self.aim.ports) - self.possible

    def essentials(self, lockdown: Lockdown) -> t.Iterator[tuple[str, PortSet]]:
        """The ports that lockdown lets pass besides the rules, by what for: an essential, or `allow`."""
        path = "forward_out" if self.aim.placement == "gateway" else "output"
        for passing in lockdown.passing(path) if self.aim.general and self.aim.direction == "egress" else ():
            # One that looks at more than these is no port that is open to all.
            narrow = passing.state or passing.ack or passing.interface or passing.types or passing.uid >= 0
            fits = passing.family in ("", self.aim.family) and passing.protocol in ("", self.protocol)
            near = not passing.networks or any(overlap(self.flow.target, network) for network in passing.networks)
            if fits and near and not narrow:
                yield passing.why, (passing.dports or self.aim.ports) & self.passing

    def missing(self, question: Question) -> PortSet:
        """The ports that rules need and that are closed."""
        missing = PortSet()
        for rule in question.rules or ():
            if self.concerns(rule):
                missing |= self.closed(question, rule.ports, rule)
        return missing


@dataclass(frozen=True)
class Proof:
    """The result of module `proof`, and the families that were asked for and are switched off.

    `off` are those of the whole host, `lacking` pairs of a family and an interface that was named.
    """

    result: dict[str, t.Any]
    off: tuple[str, ...] = ()
    lacking: tuple[tuple[str, str], ...] = ()

    @property
    def notices(self) -> t.Iterator[Notice]:
        """What is worth knowing about it."""
        for family in self.off:
            yield Notice("family_off", "families", f"{family} is switched off on this host and was left out")
        for family, name in self.lacking:
            text = f"{family} is switched off on interface {name} and was left out there"
            yield Notice("family_off", name, text)
        for sdk, missing in self.result.get("missing_by_sdk", {}).items():
            protocols = {protocol for found in missing.values() for held in found.values() for protocol in held}
            if protocols == {"udp"}:
                text = (
                    "its TCP ports are open and its UDP ports are not: voice and video need UDP; open what is missing"
                )
                yield Notice("udp_closed", sdk, text)

    def faults(self, fail_on: t.Collection[str]) -> str:
        """Why the module fails, with the ports and what drops them; empty when it does not."""
        texts = []
        strange = subtract(self.result.get("beyond", {}), self.result.get("essentials", {}).values())
        for name, words, tree_of in (
            ("missing", "closed and needed", self.result.get("missing", {})),
            ("beyond", "open and not needed", strange),
        ):
            found = tree_of if name in fail_on else {}
            texts += [
                f"{words}: {family} {direction} {protocol} {', '.join(ports)}"
                for family, directions in found.items()
                for direction, protocols in directions.items()
                for protocol, ports in protocols.items()
                if ports
            ]
            if texts and name == "missing":
                texts += [
                    "{0} by {where}: {family} {direction} {protocol} {1}".format(
                        _ENDED.get(drop["cause"], "dropped"), ", ".join(drop["ports"]), **drop
                    )
                    for drop in self.result["dropped_by"]
                ]
        return "; ".join(texts)


def tree(sets: t.Mapping[Key, PortSet]) -> dict[str, t.Any]:
    """Port sets as `{family: {direction: {protocol: texts}}}`."""
    grown: dict[str, t.Any] = {}
    for (family, direction, protocol), ports in sets.items():
        grown.setdefault(family, {}).setdefault(direction, {})[protocol] = ports.texts()
    return grown


def report(question: Question, verdicts: t.Sequence[Verdict], lockdown: Lockdown | None = None) -> dict[str, t.Any]:
    """The part of the result that is about ports.

    A port is open when it is at every placement and wherever packets cross a gateway; what is missing anywhere, or
    let through beyond the rules anywhere, if only one way, is told.
    """
    sure: dict[Key, PortSet] = {}
    possible: dict[Key, PortSet] = {}
    somewhere: dict[Key, PortSet] = {}
    for verdict in verdicts:
        if verdict.aim.general:
            key = verdict.key
            sure[key] = sure.get(key, verdict.sure) & verdict.sure
            possible[key] = possible.get(key, verdict.possible) & verdict.possible
            somewhere[key] = somewhere.get(key, PortSet()) | verdict.passing
    unknown = {key: ports - sure[key] for key, ports in possible.items()}
    result: dict[str, t.Any] = {"open": tree(sure), "unknown": tree(unknown)}
    if question.rules is not None:
        result.update(_against(question, question.rules, verdicts, somewhere, lockdown))
        result["table"] = table(question.rules, result)
    return result


def _against(
    question: Question,
    rules: RuleSet,
    verdicts: t.Sequence[Verdict],
    somewhere: dict[Key, PortSet],
    lockdown: Lockdown | None,
) -> dict[str, t.Any]:
    """What the verdicts mean for the rules that are needed."""
    missing = dict.fromkeys(somewhere, PortSet())
    beyond = dict(somewhere)
    states: dict[str, set[str]] = {sdk: {"yes"} for rule in rules for sdk, _ports in rule.needs}
    lacking: dict[str, dict[Key, PortSet]] = {sdk: {} for sdk in states}
    for verdict, rule in ((verdict, rule) for verdict in verdicts for rule in rules):
        key = verdict.key
        if key[1:] == (rule.direction, rule.protocol) and key[0] in rule.families:
            beyond[key] -= rule.ports
        if not verdict.concerns(rule):
            continue
        for sdk, ports in rule.needs:
            closed = verdict.closed(question, ports, rule)
            if closed:
                states[sdk].add("no")
                missing[key] |= closed
                lacking[sdk][key] = lacking[sdk].get(key, PortSet()) | closed
            elif (ports & verdict.aim.ports) - verdict.sure:
                states[sdk].add("unknown")
    essentials: dict[str, dict[Key, PortSet]] = {}
    for verdict in verdicts:
        for why, ports in verdict.essentials(lockdown) if lockdown else ():
            held = essentials.setdefault(why, {})
            held[verdict.key] = held.get(verdict.key, PortSet()) | (ports & beyond[verdict.key])
    return {
        "missing": tree(missing),
        "beyond": tree(beyond),
        "essentials": {
            why: tree(found)
            for why, held in sorted(essentials.items())
            if (found := {key: ports for key, ports in held.items() if ports})
        },
        "covered": {sdk: min(found, key=("no", "unknown", "yes").index) for sdk, found in sorted(states.items())},
        "missing_by_sdk": {sdk: tree(found) for sdk, found in sorted(lacking.items()) if found},
    }
