# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans that cut the connection through which they are made, on hosts with real rules and real connections."""

from __future__ import annotations

import shlex
import sys
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet, parse_rules
from netns import NFTABLES, Firewall, NetnsHost, rule_set
from plays import call, fail, play
from sessions import ENDS, MANAGEMENT, PORT, Machine, other_machine

WEB = rule_set("web")


def with_management(*networks: str) -> RuleSet:
    """The rules of one SDK, and what lets the connections in, from anywhere or from these networks."""
    return parse_rules([*WEB.data(), MANAGEMENT]).ingress_from(networks)


@pytest.fixture
def machine(closed: NetnsHost) -> t.Iterator[Machine]:
    with other_machine(closed) as machine:
        closed.apply(with_management())
        yield machine


@pytest.mark.parametrize("ends", ["ipv4", "ipv6"])
def test_what_takes_the_connections_rule_away_is_refused(closed: NetnsHost, machine: Machine, ends: str) -> None:
    before = closed.listing()
    near, far = ENDS[ends]
    for rules in (WEB, None):
        refusal = machine.refusal(rules, through=machine.session(ends))
        assert f"made, from {far} port " in refusal
        assert f" to {near} port 2222, which" in refusal
        assert "would not after: - ingress tcp 2222 (extra)." in refusal
    assert closed.listing() == before


def test_what_lets_the_connection_through_is_not_refused(machine: Machine) -> None:
    _near, far = ENDS["ipv4"]
    for rules in (
        parse_rules([MANAGEMENT]),
        with_management(f"{far}/32"),
        parse_rules([*rule_set("native").data(), {**MANAGEMENT, "ports": ["2000-3000"]}]),
        with_management(),
    ):
        assert machine.refusal(rules) == ""
    # Not through this connection.
    assert machine.refusal(None, through=()) == ""


# How the operator lets the connections in, and out what belongs to one.
LET_IN = {"nftables": f"tcp dport {PORT} accept", "iptables": f"-p tcp --dport {PORT} -j ACCEPT"}
LET_OUT = {
    "nftables": "ct state established accept",
    "iptables": "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
}


def test_rules_of_the_operator_count_in_both_directions(
    closed: NetnsHost, firewall: Firewall, machine: Machine
) -> None:
    firewall.insert(closed, "input", LET_IN[firewall.backend])
    assert machine.refusal(None)
    firewall.insert(closed, "output", LET_OUT[firewall.backend])
    assert machine.refusal(None) == ""
    before = closed.listing()
    assert machine.refusal(WEB) == ""
    assert closed.listing() == before


def test_that_the_connection_itself_would_live_on_is_not_enough(
    closed: NetnsHost, firewall: Firewall, machine: Machine
) -> None:
    for hook in ("input", "output"):
        firewall.insert(closed, hook, LET_OUT[firewall.backend])
    assert machine.refusal(None)


@pytest.fixture
def managed(host: NetnsHost) -> t.Iterator[Machine]:
    """A machine that manages a host through a rule of ours, and not through its first interface."""
    NFTABLES.close(host)
    host.sh("ip link set in0 up; ip link set out0 up")
    with other_machine(host) as machine:
        host.apply(with_management())
        yield machine


def test_networks_without_the_other_end_are_refused(managed: Machine) -> None:
    assert "2222 (extra). Nothing" in managed.refusal(with_management("203.0.113.0/24"))


@pytest.mark.parametrize(("ends", "how"), [("ipv4", "mapped"), ("ipv4", "detached"), ("link-local", "")])
def test_the_connection_is_found(managed: Machine, ends: str, how: str) -> None:
    _near, far = ENDS[ends]
    assert f"cut the connection through which it is made, from {far} port " in managed.refusal(
        None, through=managed.session(ends, how)
    )


def test_without_a_trial_there_is_no_change(managed: Machine) -> None:
    powerless = ("setpriv", "--bounding-set=-sys_admin")
    refusal = managed.refusal(None, through=[*managed.session(), *powerless])
    assert "cannot be tried: " in refusal
    assert "lacks CAP_SYS_ADMIN" in refusal
    assert managed.refusal(with_management(), through=[*managed.session(), *powerless]) == ""


def test_a_firewall_that_cannot_be_asked_in_the_copy_tells_beforehand(host: NetnsHost) -> None:
    """As firewalld 1.3.3 lets its policies come before its zones, in short."""
    host.nft(
        "table inet firewalld {\n"
        "chain filter_INPUT { type filter hook input priority filter + 10; policy accept;\n"
        "ct state { established, related } accept; jump filter_IN_openagora-in; jump filter_IN_public; drop; }\n"
        "chain filter_IN_openagora-in { jump filter_IN_openagora-in_allow; }\n"
        f"chain filter_IN_openagora-in_allow {{ tcp dport {PORT} accept; }}\n"
        "chain filter_IN_public { }\n"
        "}\n"
    )
    empty = "flush chain inet firewalld filter_IN_openagora-in_allow"
    with other_machine(host) as machine:
        assert "- ingress tcp 2222 (extra)" in machine.refusal(None, reload=(with_management(), "closes", empty))
        kept = with_management("192.0.2.0/24")
        assert machine.refusal(kept, reload=(with_management(), "closes", "add table inet firewalld")) == ""
        # It lets the same pass, says its backend, and the kernel does not.
        assert "another firewall" in machine.refusal(kept, reload=(with_management(), "closes", empty))
        shut = "insert rule inet firewalld filter_INPUT drop"
        assert "notrack" in machine.refusal(WEB, reload=(WEB, "may cut", shut))
        assert "cannot be tried: it does not load" in machine.refusal(WEB, reload=(WEB, "may cut", ""))
        assert machine.refusal(WEB, reload=(WEB, "opens", shut)) == ""
        host.nft(f"add rule inet firewalld filter_IN_public tcp dport {PORT} accept")
        assert machine.refusal(None, reload=(with_management(), "closes", empty)) == ""


def test_the_module_refuses_in_check_mode_too_and_does_as_it_is_told(host: NetnsHost, managed: Machine) -> None:
    host.put("/run/python", f'#!/bin/sh\nexec {shlex.join(managed.session())} {sys.executable} "$@"\n', mode=0o755)
    before = host.listing()
    through = {"interpreter": "/run/python", "state": "absent"}
    results = play(host, [fail("apply", **through), {**fail("apply", **through), "check_mode": True}])
    assert host.listing() == before
    for result in results:
        assert "would not after: - ingress tcp 2222 (extra). Nothing was changed." in result["msg"]
    told = {**call("apply", state="absent", lockout_guard=False), "vars": fail("apply", **through)["vars"]}
    assert play(host, [told])[0]["changed"]
    assert "openagora" not in host.listing()


def test_rules_that_move_where_they_let_nothing_pass(managed: Machine) -> None:
    """The same ports in another firewall, beside the one that drops."""
    refusal = managed.refusal(with_management(), backend="iptables")
    assert "Does another firewall of this host stop them?" in refusal
    assert managed.refusal(with_management(), backend="nftables") == ""


@pytest.mark.parametrize("rules", [WEB, None], ids=["open", "absent"])
def test_a_lockdown_that_goes_takes_what_let_answers_out(
    closed: NetnsHost, firewall: Firewall, rules: RuleSet | None
) -> None:
    firewall.insert(closed, "input", LET_IN[firewall.backend])
    with other_machine(closed) as machine:
        closed.apply(replace(WEB, lockdown=parse_lockdown([], forward=False, log=False)))
        assert "would not after" in machine.refusal(rules)


# What the operator lets pass without connection tracking, in and out.
UNTRACKED = {
    "nftables": (
        f"nft insert rule inet filter output tcp sport {PORT} accept; nft -f - <<'END'\n"
        f"table inet raw {{ chain i {{ type filter hook prerouting priority raw; tcp dport {PORT} notrack; }}\n"
        f"chain o {{ type filter hook output priority raw; tcp sport {PORT} notrack; }}\n}}\nEND"
    ),
    "iptables": (
        f"iptables -I OUTPUT -p tcp --sport {PORT} -j ACCEPT; "
        f"iptables -t raw -A PREROUTING -p tcp --dport {PORT} -j CT --notrack; "
        f"iptables -t raw -A OUTPUT -p tcp --sport {PORT} -j CT --notrack"
    ),
}


def test_lockdown_lets_answers_out_and_is_not_refused(closed: NetnsHost, firewall: Firewall, machine: Machine) -> None:
    """Those of connections too that connection tracking does not know."""
    locked = replace(with_management(), lockdown=parse_lockdown([], forward=False, log=False))
    assert machine.refusal(locked) == ""
    firewall.insert(closed, "input", LET_IN[firewall.backend])
    closed.sh(UNTRACKED[firewall.backend])
    assert machine.refusal(locked) == ""
