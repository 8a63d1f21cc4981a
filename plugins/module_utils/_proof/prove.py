# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof: which ports a host's live rules let through, told by the kernel in a private copy of them."""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace

from .._apply import look
from .._model.ports import PortSet
from .._model.rules import PROTOCOLS
from .aims import aims, far_address, flows
from .beneath import read_beneath
from .cgroups import read_filters
from .doubt import VARIANTS
from .drops import Drops
from .linux import apart, need_capabilities
from .network import Copy, read_network
from .probe import Probe
from .question import without_zones
from .report import Proof, Verdict, report
from .rulesets import Rules, read_rules, settled

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .._model.lockdown import Lockdown
    from .aims import Aim
    from .cgroups import Filters
    from .doubt import Doubt
    from .network import Network
    from .probe import Flow
    from .question import Question
    from .rulesets import Piece

__all__ = ["prove"]

Asked = tuple["Aim", "Flow", str]


def prove(host: Host, question: Question) -> Proof:
    """The proof for this host. Raises BackendError."""
    start = time.monotonic()
    need_capabilities()
    question = replace(question, passage=without_zones(host, question.passage))
    network = read_network()
    pieces, beneath = settled(lambda: _read(host, network))
    filters = read_filters()
    off = tuple(family for family in question.families if family not in network.families)
    lacking = tuple(
        (family, name)
        for family in question.families
        for name in question.interfaces
        if family not in off and network.lacks(family, name)
    )
    lockdown = look(host).rules.lockdown if question.rules is not None else None
    result: dict[str, t.Any] = apart(lambda: _in_copy(host, network, pieces, beneath, filters, question, lockdown))
    return Proof({**result, "seconds": round(time.monotonic() - start, 2)}, off, lacking)


def _read(host: Host, network: Network) -> tuple[tuple[Piece, ...], tuple[Piece | None, list[Doubt]]]:
    """All rules, and what stands in for those beneath interfaces."""
    pieces = read_rules(host)
    return pieces, read_beneath(host, network, pieces)


def _in_copy(
    host: Host,
    network: Network,
    pieces: tuple[Piece, ...],
    beneath: tuple[Piece | None, list[Doubt]],
    filters: Filters,
    question: Question,
    lockdown: Lockdown | None,
) -> dict[str, t.Any]:
    """What the kernel says, in a private namespace."""
    copy = Copy(network)
    families = [family for family in question.families if family in network.families]
    public = {family: far_address(family, (piece.text for piece in pieces)) for family in families}
    planned = {aim: flows(copy, aim, question, public[aim.family]) for aim in aims(question, families)}
    asked = [(aim, flow, protocol) for aim, packets in planned.items() for flow in packets for protocol in PROTOCOLS]
    probe = Probe(copy, user=question.user)
    rules = Rules(host, pieces, beneath, user=question.user is not None, steered=network.routes_by_mark)
    refused = _refused(filters, probe, asked)
    bounds = _bounds(rules, probe, asked)
    verdicts = []
    routed: dict[tuple[str, str], PortSet] = {}
    for (aim, flow, protocol), (held, more, passing), lost in zip(asked, bounds, refused):
        unsure = PortSet()
        if not flow.interface:
            unsure = copy.unsure(aim.family, protocol, user=question.user is not None) & aim.ports
            routed[aim.family, protocol] = unsure
        if aim.placement == "host" and aim.family in filters.families:
            unsure |= held
            passing = PortSet()
        verdicts.append(Verdict(aim, flow, protocol, held - unsure, more | unsure | lost, passing - unsure))
    result = report(question, verdicts, lockdown)
    if question.rules is not None:
        missing = [(verdict, verdict.missing(question)) for verdict in verdicts]
        result["dropped_by"] = _dropped_by(
            host, rules, probe, [(verdict, ports) for verdict, ports in missing if ports]
        )
    notes = [{"where": "network", "rule": note, "what": "it cannot be copied"} for note in copy.notes]
    notes += [
        {
            "where": "network",
            "rule": f"policy rules: {family} egress {protocol} {ports}",
            "what": "a route chosen by protocol, port or user",
        }
        for (family, protocol), ports in routed.items()
        if ports
    ]
    return {
        **result,
        "not_modelled": [doubt.data() for doubt in (*rules.doubts, *filters.doubts)] + notes,
        "assumed": copy.assumed,
        "packets": probe.packets,
    }


def _bounds(rules: Rules, probe: Probe, asked: t.Sequence[Asked]) -> list[tuple[PortSet, PortSet, PortSet]]:
    """Load the rules; of each question the ports that are open whatever rules in doubt do, that may be, that pass."""
    rules.load(VARIANTS[0])
    worst = [probe.arrivals(flow, protocol, aim.ports) for aim, flow, protocol in asked]
    if not rules.doubts:
        return [(held, held, passing) for passing, held in worst]
    # What passes although rules in doubt drop has met none of them, but for those that translate.
    either = any(doubt.translates for doubt in rules.doubts)
    rules.load(VARIANTS[1])
    found = []
    for (aim, flow, protocol), (passing, held) in zip(asked, worst):
        best = probe.arrivals(flow, protocol, aim.ports if either else aim.ports - held)
        possible = held | best.answered
        if either:
            held, passing = held & best.answered, passing & best.passing
        found.append((held, possible, passing))
    return found


def _refused(filters: Filters, probe: Probe, asked: t.Sequence[Asked]) -> list[PortSet]:
    """The ports of each question whose packets a program on the control group of the proof may refuse.

    They do not arrive without any rule either; none must be loaded yet.
    """
    return [
        aim.ports - probe.arrivals(flow, protocol, aim.ports).answered
        if filters.meet_proof and aim.placement == "host"
        else PortSet()
        for aim, flow, protocol in asked
    ]


def _dropped_by(
    host: Host, rules: Rules, probe: Probe, missing: list[tuple[Verdict, PortSet]]
) -> list[dict[str, t.Any]]:
    """What packets to missing ports fall to."""
    told: list[dict[str, t.Any]] = []
    if not missing:
        return told
    drops = Drops(host, rules, probe)
    for verdict, ports in missing:
        family, direction, protocol = verdict.key
        place = {"placement": verdict.aim.placement, "family": family, "direction": direction, "protocol": protocol}
        for ending, part in drops.where(verdict.flow, protocol, ports):
            found = {**place, "ports": part.texts(), **ending._asdict()}
            if found not in told:
                told.append(found)
    return told
