# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import (
    Accept,
    Drop,
    Place,
    Plan,
    Step,
    accepts,
    closes,
    live_rules,
)
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, Rule, RuleSet, Side
from netns import rule_set

BOTH = ("ipv4", "ipv6")
WEB_TCP = PortSet.parse("80, 443")
WEB_UDP = PortSet.parse("3478, 10000-65535")


def rule(direction: str, protocol: str, needs: dict[str, str], networks: tuple[str, ...] = ()) -> Rule:
    ports = tuple((sdk, PortSet.parse(text)) for sdk, text in needs.items())
    return Rule(direction, protocol, "networks" if networks else "any", networks, needs=ports)


RULES = RuleSet.of(
    [
        rule("egress", "tcp", {"web": "80, 443", "native": "1080"}),
        rule("ingress", "udp", {"recording": "4000-4030"}, ("192.0.2.0/24",)),
        rule("ingress", "udp", {"recording": "4000-4030"}, ("2001:db8::/32",)),
    ]
)


def said(accept: Accept) -> tuple[str, ...]:
    return (accept.kind, accept.direction, accept.protocol, accept.sdk, *accept.networks, str(accept.ports))


def test_accepts_at_output() -> None:
    assert [said(accept) for accept in accepts(RULES, "output", BOTH)] == [
        ("open", "egress", "tcp", "native", "1080"),
        ("open", "egress", "tcp", "web", "80, 443"),
        ("reply", "ingress", "udp", "recording", "192.0.2.0/24", "4000-4030"),
        ("reply", "ingress", "udp", "recording", "2001:db8::/32", "4000-4030"),
        ("error", "", "", "", ""),
    ]


def test_accepts_at_input() -> None:
    assert [said(accept) for accept in accepts(RULES, "input", BOTH)] == [
        ("open", "ingress", "udp", "recording", "192.0.2.0/24", "4000-4030"),
        ("open", "ingress", "udp", "recording", "2001:db8::/32", "4000-4030"),
        ("reply", "egress", "tcp", "native", "1080"),
        ("reply", "egress", "tcp", "web", "80, 443"),
        ("error", "", "", "", ""),
    ]


def test_accepts_of_one_family() -> None:
    assert [said(accept) for accept in accepts(RULES, "output", ["ipv6"])][2] == (
        "reply",
        "ingress",
        "udp",
        "recording",
        "2001:db8::/32",
        "4000-4030",
    )
    assert len(accepts(RULES, "output", ["ipv6"])) == 4


def test_accepts_through_a_gateway_are_those_of_a_host_narrowed_to_the_targets() -> None:
    passage = Passage((Side("interface", "eth1"),), targets=("10.0.0.5/32",))
    both = RULES.placed(["host", "gateway"], passage)
    for path, through in (("output", "forward_out"), ("input", "forward_in")):
        assert accepts(both, path, BOTH) == accepts(RULES, path, BOTH)
        assert accepts(RULES, through, BOTH) == ()
        # There is no target of IPv6.
        found = [said(accept) for accept in accepts(both, through, BOTH)]
        assert found == [said(accept) for accept in accepts(RULES, path, ["ipv4"])]
        for accept in accepts(both, through, BOTH):
            targets = passage.targets if accept.direction == "ingress" else ()
            assert accept.passage == (dataclasses.replace(passage, targets=targets) if accept.sdk else Passage())


@pytest.mark.parametrize("hook", ["output", "input"])
def test_nothing_is_accepted_for_nothing(hook: str) -> None:
    assert accepts(RuleSet(), hook, BOTH) == ()
    only_ipv4 = RuleSet.of([rule("ingress", "udp", {"recording": "4000"}, ("192.0.2.0/24",))])
    assert accepts(only_ipv4, hook, ["ipv6"]) == ()


def test_errors_leave_only_where_something_comes_in() -> None:
    kinds = [accept.kind for accept in accepts(rule_set("web"), "output", BOTH)]
    assert kinds == ["open", "open"]
    assert [accept.kind for accept in accepts(rule_set("web"), "input", BOTH)] == ["reply", "reply", "error"]


def test_comments_carry_our_mark() -> None:
    assert [accept.comment for accept in accepts(RULES, "output", BOTH)] == [
        "openagora native",
        "openagora web",
        "openagora recording",
        "openagora recording",
        "openagora",
    ]


PORTS = PortSet.parse("1-100")
LOW, HIGH = PortSet.parse("1-50"), PortSet.parse("51-200")


@pytest.mark.parametrize(
    ("outer", "inner", "both"),
    [
        (Drop(), Drop(), Drop()),
        (Drop("tcp"), Drop(), Drop("tcp")),
        (Drop(), Drop("udp"), Drop("udp")),
        (Drop("tcp"), Drop("tcp"), Drop("tcp")),
        (Drop("tcp"), Drop("udp"), None),
        (Drop("tcp", PORTS), Drop(), Drop("tcp", PORTS)),
        (Drop(), Drop("tcp", PORTS), Drop("tcp", PORTS)),
        (Drop("tcp", PORTS), Drop(None, LOW), Drop("tcp", LOW)),
        (Drop("tcp", PORTS), Drop("tcp", HIGH), Drop("tcp", PortSet.parse("51-100"))),
        (Drop("tcp", LOW), Drop("tcp", HIGH), None),
        (Drop("tcp", LOW), Drop("tcp", None, HIGH), Drop("tcp", LOW, HIGH)),
        (Drop("tcp", None, LOW), Drop("tcp", None, PORTS), Drop("tcp", None, LOW)),
        (Drop("tcp", None, LOW), Drop("tcp", None, HIGH), None),
        (Drop("tcp", LOW, LOW), Drop("tcp", PORTS, HIGH), None),
    ],
)
def test_narrowed(outer: Drop, inner: Drop, both: Drop | None) -> None:
    assert outer.narrowed(inner) == both


OPEN = Accept("open", "egress", "tcp", "web", ports=WEB_TCP)
REPLY = Accept("reply", "egress", "tcp", "web", ports=WEB_TCP)


@pytest.mark.parametrize(
    ("drop", "accept", "closed"),
    [
        (Drop(), OPEN, True),
        (Drop(), REPLY, True),
        (Drop(), Accept("error"), False),
        (Drop("tcp"), OPEN, True),
        (Drop("udp"), OPEN, False),
        (Drop("tcp", PortSet.of(443)), OPEN, True),
        (Drop(None, PortSet.of(443)), OPEN, True),
        (Drop("tcp", PortSet.of((81, 442))), OPEN, False),
        (Drop("tcp", PortSet()), OPEN, False),
        # From which port this side sends is not known: such a rule closes some connections, not the port.
        (Drop("tcp", None, PortSet.of(443)), OPEN, False),
        (Drop("tcp", PortSet.of(443), PortSet.of(443)), OPEN, False),
        (Drop("tcp", None, PortSet.of(443)), REPLY, True),
        (Drop("tcp", None, PortSet.of(22)), REPLY, False),
        (Drop("tcp", PortSet.of(443)), REPLY, False),
    ],
)
def test_closes(drop: Drop, accept: Accept, closed: bool) -> None:
    assert closes(drop, [accept]) == closed
    assert closes(drop, [Accept("error"), accept]) == closed
    assert not closes(drop, [])


def places(*kept: tuple[str, tuple[str, ...]]) -> list[Place]:
    return [Place(f"{hook} {families}", hook, families, accepts(RULES, hook, families)) for hook, families in kept]


EVERYWHERE = places(("output", BOTH), ("input", BOTH))


def test_live_rules_are_those_that_every_place_accepts() -> None:
    assert live_rules(EVERYWHERE).rules == RULES.rules
    by_family = places(("output", ("ipv4",)), ("output", ("ipv6",)), ("input", ("ipv4",)), ("input", ("ipv6",)))
    assert live_rules(by_family).rules == RULES.rules


def test_nothing_is_live_nowhere() -> None:
    assert live_rules([]) == RuleSet()
    assert live_rules([Place("a", "output", BOTH)]) == RuleSet()


@pytest.mark.parametrize("index", [0, 1])
def test_a_place_that_accepts_nothing_closes_all(index: int) -> None:
    held = list(EVERYWHERE)
    held[index] = dataclasses.replace(held[index], accepts=())
    assert live_rules(held) == RuleSet()
    assert live_rules([*EVERYWHERE, Place("another", "output", ("ipv6",))]).rules == tuple(
        rule for rule in RULES if rule.networks == ("192.0.2.0/24",)
    )


def test_a_port_counts_when_every_place_accepts_it() -> None:
    held = list(EVERYWHERE)
    fewer = tuple(
        dataclasses.replace(accept, ports=accept.ports - PortSet.of(443)) for accept in held[1].accepts if accept.sdk
    )
    held[1] = dataclasses.replace(held[1], accepts=fewer)
    wanted = [rule("egress", "tcp", {"web": "80", "native": "1080"}), *(item for item in RULES if item.networks)]
    assert live_rules(held).rules == RuleSet.of(wanted).rules


def test_accepts_for_the_same_add_up() -> None:
    both = [Accept("open", "egress", "tcp", "web", ports=PortSet.of(port)) for port in (80, 443)]
    assert live_rules([Place("a", "output", BOTH, tuple(both))]).rules == (rule("egress", "tcp", {"web": "80, 443"}),)


def test_the_text_of_a_plan() -> None:
    before = RuleSet.of([rule("egress", "udp", {"native": "1080, 4000-4030"})])
    after = RuleSet.of([rule("egress", "udp", {"native": "1080", "web": "1080, 3478"})])
    steps = (Step("the first thing", None, (), ()), Step("the second", None, (), ()))
    assert Plan(steps, before, after).text() == (
        "~ egress udp 1080 (native -> native, web)\n"
        "+ egress udp 3478 (web)\n"
        "- egress udp 4000-4030 (native)\n"
        "* the first thing\n"
        "* the second\n"
    )
    assert Plan((), before, after).text() == ""
    assert Plan(steps[:1], after, after).text() == "* the first thing\n"
