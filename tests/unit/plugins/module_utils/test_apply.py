# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One plan for the whole host: the chosen backend, the boot sequence, the other backends."""

from __future__ import annotations

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import Live, look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.boot import SCRIPT_PATH
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, RuleSet, Side, newly_open
from netns import IPTABLES, NFTABLES, Firewall, NetnsHost, rule_set

WEB = rule_set("web")

WEB_LINES = [
    "+ egress tcp 80 (web)",
    "+ egress tcp 443 (web)",
    "+ egress tcp 3433 (web)",
    "+ egress tcp 5668-5669 (web)",
    "+ egress tcp 5866-5890 (web)",
    "+ egress tcp 6080 (web)",
    "+ egress tcp 6443 (web)",
    "+ egress tcp 8667 (web)",
    "+ egress tcp 9667 (web)",
    "+ egress udp 3478 (web)",
    "+ egress udp 10000-65535 (web)",
]


def test_a_plan_on_nftables(host: NetnsHost) -> None:
    NFTABLES.close(host)
    prepared = prepare(host, WEB, backend="auto")
    assert (prepared.backend, prepared.effective) == ("nftables", "in_force")
    assert prepared.reason == "nftables table inet filter chain input stops what is needed"
    assert prepared.plan.text().splitlines() == [
        *WEB_LINES,
        "* nftables: table inet filter: chains, sets and jumps of ours",
        f"* file {SCRIPT_PATH}",
    ]
    assert prepared.plan.before == RuleSet()
    assert prepared.plan.after == WEB
    assert [notice.code for notice in prepared.notices] == ["not_at_boot"]


def test_a_plan_on_iptables(host: NetnsHost) -> None:
    IPTABLES.close(host)
    prepared = prepare(host, WEB, backend="auto")
    assert (prepared.backend, prepared.effective) == ("iptables", "in_force")
    assert prepared.reason == "iptables chain OUTPUT (policy DROP) stops what is needed"
    chains = "openagora-output (2 rules), openagora-input (3 rules), jumped to from INPUT, OUTPUT"
    assert prepared.plan.text().splitlines() == [
        *WEB_LINES,
        f"* iptables: {chains}",
        f"* ip6tables: {chains}",
        f"* file {SCRIPT_PATH}",
    ]


def test_a_plan_changes_nothing(closed: NetnsHost, firewall: Firewall) -> None:
    before = closed.listing()
    first = prepare(closed, WEB, backend=firewall.backend)
    assert prepare(closed, WEB, backend=firewall.backend) == first
    assert closed.listing() == before


def test_what_was_planned_is_what_is_done(closed: NetnsHost, firewall: Firewall) -> None:
    closed.apply(rule_set("signaling"), firewall.backend)
    planned = prepare(closed, WEB, backend=firewall.backend).plan
    assert newly_open(planned.before, planned.after)
    lines = planned.text().splitlines()
    assert [line for line in lines if line.startswith("+")] == WEB_LINES
    assert [line for line in lines if line.startswith("-")] == [
        "- egress tcp 1080 (signaling)",
        "- egress tcp 8001-8199 (signaling)",
        "- egress udp 8180-8199 (signaling)",
    ]
    closed.carry_out(planned.steps)
    assert look(closed).rules.rules == WEB.rules


def test_only_the_sdks_differ(closed: NetnsHost, firewall: Firewall) -> None:
    closed.apply(rule_set("gaming", "native"), firewall.backend)
    planned = closed.apply(rule_set("native"), firewall.backend).plan
    assert newly_open(planned.before, planned.after) == newly_open(planned.after, planned.before) == []
    assert "~ egress tcp 1080 (gaming, native -> native)" in planned.text()


def test_absent_on_a_host_without_ours(host: NetnsHost) -> None:
    NFTABLES.close(host)
    prepared = prepare(host, None, backend="auto")
    assert (prepared.plan.steps, prepared.plan.text(), prepared.backend, prepared.notices) == ((), "", "", ())


def test_absent_takes_ours_from_every_backend(host: NetnsHost) -> None:
    NFTABLES.close(host)
    IPTABLES.close(host)
    before = host.listing()
    host.apply(WEB, "iptables")
    kept = host.listing()
    host.apply(WEB, "nftables")
    host.sh("iptables-restore --noflush", stdin="*filter\n:openagora-output -\nCOMMIT\n")
    assert host.listing() != kept
    planned = host.apply(None).plan
    assert [step.what for step in planned.steps] == [
        "nftables: table inet filter: chains and sets of ours go",
        "iptables: chains and jumps of ours go",
        f"file {SCRIPT_PATH} goes",
    ]
    assert host.listing() == before


def test_absent_needs_no_firewall(host: NetnsHost) -> None:
    host.hidden |= {"nft", "iptables-save", "iptables-restore"}
    assert prepare(host, None, backend="auto").plan.steps == ()
    assert look(host) == Live((), RuleSet(), ())


def test_a_change_of_backend_opens_before_it_closes(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB, "iptables")
    planned = prepare(host, rule_set("web", "native"), backend="nftables").plan
    assert [step.what.partition(":")[0] for step in planned.steps] == [
        "nftables",
        f"file {SCRIPT_PATH}",
        "iptables",
        "iptables",
        "ip6tables",
        "ip6tables",
    ]
    # The first backend holds what is open already, so it is not new.
    assert "+ egress tcp 443 (web)" not in planned.text()
    assert "+ egress udp 8913 (native)" in planned.text()


def test_a_failure_at_the_end_puts_everything_back(host: NetnsHost) -> None:
    NFTABLES.close(host)
    IPTABLES.close(host)
    host.apply(WEB, "iptables")
    before = host.objects()
    host.stand_in(
        "ip6tables-restore",
        'test -e /run/failed && exec /usr/sbin/ip6tables-restore "$@"; touch /run/failed; exit 1',
    )
    with pytest.raises(StepError, match=r"ip6tables: chains and jumps of ours go: .*; everything is as it was before"):
        host.apply(rule_set(), "nftables")
    assert host.objects() == before


def test_names_are_refused_where_nothing_can_fill_sets(host: NetnsHost) -> None:
    message = "^backend iptables cannot hold rules of scope names: .*; use backend nftables, or scope any$"
    with pytest.raises(BackendError, match=message):
        prepare(host, rule_set("web", scope="names"), backend="iptables")


def test_nothing_to_open(host: NetnsHost) -> None:
    prepared = prepare(host, WEB, backend="nftables")
    assert (prepared.effective, prepared.plan.steps, prepared.notices) == ("nothing_to_open", (), ())
    assert prepared.plan.before.rules == prepared.plan.after.rules == WEB.rules


def test_rules_of_a_family_that_the_host_does_not_have(host: NetnsHost) -> None:
    host.nft("table ip f { chain o { type filter hook input priority 0; policy drop; }; }")
    rules = rule_set("recording", ingress_from=["192.0.2.0/24", "2001:db8::/32"])
    planned = host.apply(rules, "nftables").plan
    assert "2001:db8" not in planned.text()
    again = prepare(host, rules, backend="nftables").plan
    assert again.steps == ()
    assert again.before.rules == again.after.rules == rules.in_families(["ipv4"]).rules


def test_look(closed: NetnsHost, firewall: Firewall) -> None:
    assert look(closed) == Live((), RuleSet(), ())
    closed.apply(rule_set(), firewall.backend)
    live = look(closed)
    assert (live.backends, live.rules.rules, live.files) == ((firewall.backend,), rule_set().rules, (SCRIPT_PATH,))
    firewall.forget(closed)
    assert look(closed) == Live((), RuleSet(), (SCRIPT_PATH,))


def hindrances(host: NetnsHost, backend: str) -> list[str]:
    notices = prepare(host, WEB, backend=backend).notices
    return [notice.where for notice in notices if notice.code == "dropped_elsewhere"]


def test_a_firewall_beside_the_chosen_one_that_drops_is_told(host: NetnsHost) -> None:
    for firewall in (IPTABLES, NFTABLES):
        firewall.close(host)
        assert hindrances(host, firewall.backend) == []
        host.nft("flush ruleset")
    NFTABLES.close(host)
    host.sh("iptables -P FORWARD DROP; ip6tables -A OUTPUT -p tcp --dport 443 -j REJECT")
    assert hindrances(host, "nftables") == ["ip6tables chain OUTPUT"]
    assert hindrances(host, "iptables") == [
        "nftables table inet filter chain input",
        "nftables table inet filter chain output",
    ]
    # What is ours in the other firewall does not count, it goes.
    host.apply(WEB, "iptables")
    assert hindrances(host, "nftables") == ["ip6tables chain OUTPUT"]
    through = WEB.placed(["gateway"], Passage((Side("interface", "in0"),)))
    notices = prepare(host, through, backend="nftables").notices
    assert "iptables chain FORWARD (policy DROP)" in [notice.where for notice in notices]


def test_old_tables_beside_those_of_the_hosts_commands_are_told(host: NetnsHost) -> None:
    host.sh("iptables-legacy -A OUTPUT -d 192.0.2.1 -j DROP")
    for backend in ("iptables", "nftables"):
        assert hindrances(host, backend) == []
    host.sh("iptables-legacy -A OUTPUT -p udp --dport 3478 -j DROP; ip6tables-legacy -P INPUT DROP")
    for backend in ("iptables", "nftables"):
        assert hindrances(host, backend) == [
            "iptables-legacy chain OUTPUT",
            "ip6tables-legacy chain INPUT (policy DROP)",
        ]
    assert "ip6_tables_names" not in host.listing()


def test_a_table_that_another_program_owns_is_told_and_left_alone(host: NetnsHost) -> None:
    NFTABLES.close(host)
    with host.owner("add table inet theirs { flags owner; }") as nft:
        nft("add chain inet theirs output { type filter hook output priority 5; policy drop; }")
        for backend in ("nftables", "iptables"):
            where = "nftables table inet theirs chain output, which another program owns"
            assert where in hindrances(host, backend)
        host.apply(WEB, "nftables")
        assert "openagora" not in host.sh("nft list table inet theirs")
        assert prepare(host, WEB, backend="nftables").plan.steps == ()
