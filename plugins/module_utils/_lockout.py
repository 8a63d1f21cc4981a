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
import re
import typing as t

from ._apply import prepare
from ._backends.contract import MARK, BackendError, Command, nft_items
from ._host.connection import dialled, find, tunnels
from ._model.messages import Notice
from ._model.rules import changes

if t.TYPE_CHECKING:
    from ._apply import Prepared
    from ._backends.contract import Action, Host, Plan
    from ._host.connection import Connection, Dialled
    from ._model.rules import Rule, RuleSet

__all__ = ["cut_off", "refuse_lockout"]

# So many connections are told one by one.
_FEW = 5
_STOPS = re.compile(r"\b(?:drop|reject)\b", re.IGNORECASE)


def refuse_lockout(host: Host, rules: RuleSet | None, prepared: Prepared) -> None:
    """Raise BackendError where the plan for these rules cuts the connection through which this process was started."""
    plan = prepared.plan
    lost = _not_again(plan.after, tunnels()) if plan.steps and plan.after.lockdown else []
    if lost:
        raise BackendError(
            f"this is made through a connection that this host has opened itself, to {_some(lost)}, and lockdown would "
            "not let it open that again. Nothing was changed. Name its far end in lockdown_allow; lockout_guard: false "
            "does it all the same"
        )
    commands = [command for step in plan.steps for command in (*_commands(step.live or step.do), *_commands(step.undo))]
    rejects = any(_STOPS.search(command.stdin or "") for command in commands)
    connection = find() if plan.steps else None
    if connection is None:
        return
    closed = _closed(plan, connection)
    # In another place, or another firewall, the same rule may let nothing pass.
    moved = bool(commands) and any(_port(rule, connection) in rule.ports for rule in plan.before)
    if not (closed or rejects or moved):
        return
    # Only now, because most runs need none of it.
    from ._proof.trial import cuts

    try:
        cut = cuts(host, connection, lambda: _carry_out(host, rules, prepared.backend, emptied=bool(closed)))
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


def cut_off(rules: RuleSet) -> t.Iterator[Notice]:
    """The connections of this host to others that live on in lockdown and could not be opened again."""
    lost = _not_again(rules, dialled()) if rules.lockdown else []
    if lost:
        text = (
            f"connections of this host to {_some(lost)} live on, and cannot be opened again once they end; what is to "
            "last (a tunnel, an agent) is to be named in lockdown_allow"
        )
        yield Notice("not_again", "lockdown", text)


def _some(connections: t.Sequence[Dialled]) -> str:
    more = f" and {len(connections) - _FEW} more" if len(connections) > _FEW else ""
    return f"{', '.join(map(str, connections[:_FEW]))}{more}"


def _not_again(rules: RuleSet, connections: t.Iterable[Dialled]) -> list[Dialled]:
    """Those connections that neither the rules nor what lockdown lets pass besides would let this host open."""
    passing = rules.lockdown.passing("output") if rules.lockdown else ()
    lost = []
    for one in connections:
        far = ipaddress.ip_address(one.far)
        family = f"ipv{far.version}"
        # Of scope names, only the kernel's sets know the addresses.
        ruled = any(
            rule.direction == "egress" and rule.protocol == "tcp" and not rule.passage.inside and one.port in rule.ports
            for rule in rules.in_families([family])
        )
        besides = any(
            each.why in ("dns", "allow")
            and each.family in ("", family)
            and each.protocol in ("", "tcp")
            and (not each.dports or one.port in each.dports)
            and (not each.networks or any(far in ipaddress.ip_network(network) for network in each.networks))
            and each.uid in (-1, one.uid)
            for each in passing
        )
        if not (ruled or besides):
            lost.append(one)
    return lost


def _commands(actions: t.Iterable[Action]) -> list[Command]:
    """Those of the actions that change rules in the kernel, and nothing else."""
    commands = [action for action in actions if isinstance(action, Command)]
    # A restore may have a shell before it.
    return [cmd for cmd in commands if cmd.argv[0] == "nft" or any(word.endswith("-restore") for word in cmd.argv)]


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


def _carry_out(host: Host, rules: RuleSet | None, backend: str, *, emptied: bool) -> None:
    """Do in the copy what the plan does to the kernel's rules. Raises BackendError.

    `emptied`: the plan closes what let the connection pass, and so in the copy our policies of firewalld allow nothing:
    only firewalld itself could make their rules anew.
    """
    # Planned anew, because in the copy nft has other handles.
    steps = prepare(host, rules, backend=backend or "auto").plan.steps
    commands = [command for step in steps for command in _commands(step.live or step.do)]
    if emptied and host.which("nft"):
        for item in nft_items(host.run(["nft", "-j", "list", "chains"]).out):
            chain = item.get("chain", {})
            if chain.get("table") == "firewalld" and f"{MARK}-" in chain["name"]:
                commands.append(Command(("nft", "flush", "chain", chain["family"], chain["table"], chain["name"])))
    for command in commands:
        outcome = host.run(command.argv, stdin=command.stdin)
        if outcome.code != 0:
            raise BackendError(f"{' '.join(command.argv)} failed in a private copy: {outcome.err.strip()}")
