# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof: which ports a host's live rules let through, told by the kernel in a private copy of them."""

from __future__ import annotations

import time
import typing as t

from .._model.ports import PortSet
from .._model.rules import PROTOCOLS
from .aims import Aim, Question, aims, far_address, flows
from .linux import apart
from .network import Copy, read_network
from .probe import Probe
from .report import Verdict, report
from .rulesets import load, read_rules

if t.TYPE_CHECKING:
    from .._backends.contract import Host

__all__ = ["prove"]


def prove(host: Host, question: Question) -> dict[str, t.Any]:
    """The result of module `proof` for this host. Raises BackendError."""
    start = time.monotonic()
    network = read_network()
    pieces = read_rules(host)
    found: dict[str, t.Any] = apart(lambda: _in_copy(host, network, pieces, question))
    return {**found, "seconds": round(time.monotonic() - start, 2)}


def _in_copy(host: Host, network: t.Any, pieces: t.Any, question: Question) -> dict[str, t.Any]:
    copy = Copy(network)
    families = [family for family in question.families if family in network.families]
    public = {family: far_address(family, (piece.text for piece in pieces)) for family in families}
    planned = {aim: flows(copy, aim, question, public[aim.family]) for aim in aims(question, families)}
    load(host, pieces)
    probe = Probe(copy, user=question.user)
    verdicts: list[Verdict] = []
    for aim, packets in planned.items():
        for protocol in PROTOCOLS:
            arrived = [probe.arrivals(flow, protocol, aim.ports) for flow in packets]
            verdicts.append(_verdict(aim, protocol, arrived, arrived))
    return {**report(question, verdicts), "packets": probe.packets, "assumed": copy.assumed}


def _verdict(aim: Aim, protocol: str, strict: list[PortSet], lenient: list[PortSet]) -> Verdict:
    everywhere, anywhere, possible = aim.ports, PortSet(), aim.ports
    for sure, perhaps in zip(strict, lenient):
        everywhere &= sure
        anywhere |= sure
        possible &= perhaps
    return Verdict(aim, protocol, everywhere, anywhere, possible - everywhere)
