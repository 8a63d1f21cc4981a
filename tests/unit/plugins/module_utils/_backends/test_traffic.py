# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What steps say that they do to traffic, on every backend, and that the guard against lock-outs goes by it."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils import _lockout
from ansible_collections.openagora.firewall.plugins.module_utils._apply import Prepared
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import (
    BackendError,
    Command,
    Plan,
    live_rules,
)
from ansible_collections.openagora.firewall.plugins.module_utils._host.connection import Connection
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet, parse_rules
from ansible_collections.openagora.firewall.plugins.module_utils._proof import trial
from imitations import KINDS, planned
from netns import rule_set
from sessions import MANAGEMENT, PORT

WEB = rule_set("web")
MANAGED = parse_rules([*WEB.data(), MANAGEMENT])
LOCK = parse_lockdown([], forward=False, log=False)


class Guard:
    """The guard on a host that is texts, whose kernel always answers that the connection is cut."""

    def __init__(self, host: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.asked = 0
        monkeypatch.setattr(_lockout, "find", lambda: Connection("192.0.2.1", PORT, "198.51.100.9", 50505))
        monkeypatch.setattr(trial, "cuts", self._cuts)

    def _cuts(self, *_arguments: object) -> bool:
        self.asked += 1
        return True

    def prepared(self, rules: RuleSet) -> Prepared:
        before = live_rules(self.host.backend.places(self.host.backend.read(self.host)))
        return Prepared(Plan(planned(self.host, rules), before, rules))

    def asks(self, rules: RuleSet) -> bool:
        """Whether the kernel is asked, and then believed, before the host gets these rules; it gets them."""
        prepared = self.prepared(rules)
        assert prepared.plan.steps
        before = self.asked
        try:
            _lockout.refuse_lockout(self.host, rules, prepared)
            assert self.asked == before
        except BackendError:
            assert self.asked == before + 1
        for action in (action for step in prepared.plan.steps for action in step.do):
            self.host.act(action)
        return self.asked > before


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Guard:
    return Guard(request.param(), monkeypatch)


def test_each_closing_plan_is_asked_of_the_kernel(guard: Guard) -> None:
    """On every backend: what closes the connection's port, moves it, rejects the rest or ends that; no other plan."""
    assert not guard.asks(WEB)
    assert not guard.asks(rule_set("web", "native"))
    assert not guard.asks(MANAGED)
    assert guard.asks(parse_rules([*rule_set("native").data(), MANAGEMENT]))
    assert guard.asks(WEB)
    assert guard.asks(replace(WEB, lockdown=LOCK))
    assert guard.asks(replace(rule_set("native"), lockdown=LOCK))
    assert guard.asks(WEB)
    assert not guard.asks(MANAGED)
    assert guard.asks(RuleSet())


def test_each_step_that_changes_rules_says_what_it_does(guard: Guard) -> None:
    """Only files, and what asks systemd, need no statement; and none can be left out."""
    for rules in (MANAGED, WEB, replace(WEB, lockdown=LOCK), rule_set("native"), RuleSet()):
        steps = guard.prepared(rules).plan.steps
        assert any(step.traffic for step in steps)
        for step in (step for step in steps if not step.traffic):
            assert {action.argv[0] for action in step.do if isinstance(action, Command)} <= {"systemctl"}
        for step in (step for step in steps if step.traffic):
            with pytest.raises(TypeError, match="traffic"):
                type(step)(what=step.what, do=step.do, undo=step.undo)  # type: ignore[call-arg]
        guard.asks(rules)
