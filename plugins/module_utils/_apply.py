# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a rule set to one plan for the whole host: the chosen backend, the boot sequence, and the other backends."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ._backends import boot
from ._backends.contract import BackendError, Plan, Step, live_rules
from ._backends.detect import BACKENDS, choose
from ._model.messages import Notice
from ._model.rules import RuleSet

if t.TYPE_CHECKING:
    from ._backends.contract import Host, Outcome

__all__ = ["Live", "Prepared", "look", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """What would be done to a host, and by which backend (empty when everything of ours goes)."""

    plan: Plan
    backend: str = ""
    reason: str = ""
    effective: str = ""
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Live:
    """What of ours is live on a host."""

    backends: tuple[str, ...]
    rules: RuleSet
    files: tuple[str, ...]


class _Look:
    """A host asked each question once: a whole plan comes from one look, and no command runs twice for it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answers: dict[tuple[str, ...], Outcome] = {}
        self.which, self.read, self.exists = host.which, host.read, host.exists

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        """The outcome of the first time that this command ran."""
        key = (*argv, stdin or "")
        if key not in self._answers:
            self._answers[key] = self._host.run(argv, stdin=stdin)
        return self._answers[key]


def _others(host: Host, chosen: str) -> tuple[list[Step], RuleSet]:
    """The steps that take ours away from every backend but the chosen one, and the rules that go with them."""
    steps: list[Step] = []
    rules: list[RuleSet] = []
    for name, backend in BACKENDS.items():
        if name != chosen and backend.available(host):
            state = backend.read(host)
            steps += backend.plan(state, backend.render(RuleSet(), state))
            rules.append(live_rules(backend.places(state)))
    return steps, RuleSet.of(rule for held in rules for rule in held)


def _refuse_names(rules: RuleSet, name: str) -> None:
    if any(rule.scope == "names" for rule in rules):
        raise BackendError(
            f"backend {name} cannot hold rules of scope names: nothing fills their addresses; use scope: any"
        )


def prepare(host: Host, rules: RuleSet | None, *, backend: str) -> Prepared:
    """The plan that makes the host hold exactly these rules, or none of ours (None). Raises BackendError."""
    host = _Look(host)
    booting = boot.read(host)
    if rules is None:
        steps, before = _others(host, "")
        return Prepared(Plan((*steps, *boot.plan(booting, None)), before, RuleSet()))
    chosen, reason = choose(host, backend)
    _refuse_names(rules, chosen.name)
    state = chosen.read(host)
    desired = chosen.render(rules, state)
    script = chosen.boot_script(state, desired)
    gone, before = _others(host, chosen.name)
    effective = chosen.effective(state, desired)
    places = chosen.places(state)
    # Where nothing stands in the way the ports are open already.
    live = live_rules(places) if places else rules
    families = {family for place in places for family in place.families} or {"ipv4", "ipv6"}
    return Prepared(
        plan=Plan(
            steps=(*chosen.plan(state, desired), *boot.plan(booting, script), *gone),
            before=RuleSet.of([*live, *before]),
            after=rules.in_families(families),
        ),
        backend=chosen.name,
        reason=reason,
        effective=effective,
        notices=tuple(boot.notices(booting, script)),
    )


def look(host: Host) -> Live:
    """What of ours is live, read from the host's firewalls and files. Raises BackendError."""
    host = _Look(host)
    names = []
    rules: list[RuleSet] = []
    for name, backend in BACKENDS.items():
        if backend.available(host):
            held = live_rules(backend.places(backend.read(host)))
            rules.append(held)
            names += [name] if held.rules else []
    return Live(tuple(names), RuleSet.of(rule for held in rules for rule in held), boot.read(host).files)
