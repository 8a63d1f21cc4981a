# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard against plans that cut the connection through which they are made.

Most plans only open, and are not looked at further. Where one takes away or moves what lets the connection pass, or
rejects something, the kernel is asked: in a private copy of the live rules a connection with the same ends is opened,
before the plan and after it.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ._apply import prepare
from ._backends.contract import BackendError
from ._host.connection import find
from ._model.rules import changes

if t.TYPE_CHECKING:
    from ._apply import Prepared
    from ._backends.contract import Command, Host, Plan
    from ._host.connection import Connection
    from ._model.rules import Rule, RuleSet

__all__ = ["refuse_lockout"]


def refuse_lockout(host: Host, rules: RuleSet | None, prepared: Prepared) -> None:
    """Raise BackendError where the plan for these rules cuts the connection through which this process was started."""
    plan = prepared.plan
    effects = {step.traffic.effect for step in plan.steps if step.traffic}
    connection = find() if effects else None
    if connection is None:
        return
    closed = _closed(plan, connection)
    # In another place, or another firewall, the same rule may let nothing pass.
    moved = "closes" in effects and any(_port(rule, connection) in rule.ports for rule in plan.before)
    if not (closed or moved or "may cut" in effects):
        return
    # Only now, because most runs need none of it.
    from ._proof.trial import cuts

    try:
        known = [command for trial in _trials(plan) if callable(trial) for command in trial()]
        cut = cuts(host, connection, lambda: _carry_out(host, rules, prepared, known))
    except BackendError as error:
        raise BackendError(
            f"whether this cuts the connection through which it is made, {connection}, cannot be tried: {error}. "
            "Nothing was changed; lockout_guard: false does without the trial"
        ) from error
    if cut:
        what = "; ".join(closed or [step.what for step in plan.steps])
        advice = "Let such connections in, and their answers out, by rules of your own first"
        if moved and not closed:
            advice = "Does another firewall of this host stop them? Put the rules into that one"
        elif not closed:
            advice = "Connection tracking has to know such connections (does a rule say notrack?)"
        raise BackendError(
            f"this would cut the connection through which it is made, {connection}, which gets through now and would "
            f"not after: {what}. Nothing was changed. {advice}; lockout_guard: false does it all the same"
        )


def _closed(plan: Plan, connection: Connection) -> list[str]:
    """The changes that close what our rules let pass of the connection, unless another one lets that pass."""
    kept = {rule.direction for rule in plan.after if _port(rule, connection) in rule.ports}
    return [
        str(change)
        for change in changes(plan.before, plan.after)
        if change.low <= _port(change.rule, connection) <= change.high and change.rule.direction not in kept
    ]


def _port(rule: Rule, connection: Connection) -> int:
    """The port by which a rule can let packets of the connection pass; 0 where it is about others."""
    far = ipaddress.ip_address(connection.far)
    near = rule.networks and not any(far in ipaddress.ip_network(network) for network in rule.networks)
    if rule.protocol != "tcp" or rule.passage.inside or connection.family not in rule.families or near:
        return 0
    return connection.port if rule.direction == "ingress" else connection.far_port


def _trials(plan: Plan) -> list[t.Any]:
    """What does in a private copy what the plan does to the kernel's rules (see `Traffic`)."""
    return [step.traffic.trial for step in plan.steps if step.traffic]


def _carry_out(host: Host, rules: RuleSet | None, prepared: Prepared, known: list[Command]) -> None:
    """Do in the copy what the plan does to the kernel's rules, `known` first. Raises BackendError."""
    count = sum(not callable(trial) for trial in _trials(prepared.plan))
    # Planned anew, because in the copy nft has other handles.
    plan = prepare(host, rules, backend=prepared.backend or "auto").plan if count else prepared.plan
    here = [trial for trial in _trials(plan) if not callable(trial)]
    if len(here) != count:
        raise BackendError("in a private copy of the live rules the plan is another one")
    for command in (*known, *(command for trial in here for command in trial)):
        outcome = host.run(command.argv, stdin=command.stdin)
        if outcome.code != 0:
            raise BackendError(f"{' '.join(command.argv)} failed in a private copy: {outcome.err.strip()}")
