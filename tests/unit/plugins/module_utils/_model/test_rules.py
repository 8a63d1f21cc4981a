# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.domains import DomainSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import (
    Passage,
    Rule,
    RuleSet,
    Side,
    changes,
    family_of,
    newly_open,
    normalise_networks,
    parse_rules,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = DomainSet.of(".agora.io")

# Few ports and few SDKs, so that rules meet each other often.
PORTS = st.integers(1, 12)
PORT_SETS = st.lists(PORTS, min_size=1, max_size=6).map(lambda ports: PortSet.of(*ports))
PLACES = st.sampled_from(
    [
        {"scope": "any"},
        {"scope": "names", "domains": NAMES},
        {"scope": "networks", "networks": ("192.0.2.0/24",)},
        {"scope": "networks", "networks": ("2001:db8::/32",)},
    ]
)
RULES = st.builds(
    lambda direction, protocol, place, needs: Rule(direction, protocol, needs=tuple(needs.items()), **place),
    st.sampled_from(["egress", "ingress"]),
    st.sampled_from(["tcp", "udp"]),
    PLACES,
    st.dictionaries(st.sampled_from(["gaming", "native", "web"]), PORT_SETS, max_size=3),
)
LISTS = st.lists(RULES, max_size=6)
RULE_SETS = LISTS.map(RuleSet.of)


def holds(rules) -> set[tuple]:
    """The oracle: every (key, port, SDK) that rules hold, one by one."""
    return {(rule.key, port, sdk) for rule in rules for sdk, ports in rule.needs for port in ports}


def egress(protocol: str = "tcp", scope: str = "any", **needs: str) -> Rule:
    return Rule("egress", protocol, scope, needs=tuple((sdk, PortSet.parse(text)) for sdk, text in needs.items()))


@given(LISTS)
def test_a_rule_set_holds_what_its_rules_hold(rules: list[Rule]) -> None:
    assert holds(RuleSet.of(rules)) == holds(rules)


@given(LISTS)
def test_a_rule_set_has_one_sorted_rule_for_each_key(rules: list[Rule]) -> None:
    built = RuleSet.of(rules)
    assert list(built) == sorted(built)
    assert len({rule.key for rule in built}) == len(built.rules)
    for rule in built:
        assert list(rule.needs) == sorted(rule.needs)
        assert all(ports for _sdk, ports in rule.needs)
        assert rule.ports


@given(LISTS, st.randoms())
def test_the_order_in_which_rules_come_does_not_matter(rules: list[Rule], random) -> None:
    shuffled = RuleSet.of(random.sample(rules, len(rules)))
    assert RuleSet.of(rules) == shuffled
    assert hash(RuleSet.of(rules)) == hash(shuffled)


@given(RULE_SETS)
def test_building_a_rule_set_anew_changes_nothing(rules: RuleSet) -> None:
    assert RuleSet.of(rules, domains=rules.domains) == rules


def test_rules_of_the_same_key_are_merged() -> None:
    built = RuleSet.of([egress(web="80, 82"), egress(native="81"), egress(web="81"), egress(protocol="udp", web="80")])
    assert built.data() == [
        {
            "direction": "egress",
            "protocol": "tcp",
            "scope": "any",
            "ports": ["80-82"],
            "sdks": {"native": ["81"], "web": ["80-82"]},
        },
        {"direction": "egress", "protocol": "udp", "scope": "any", "ports": ["80"], "sdks": {"web": ["80"]}},
    ]


def test_networks_of_two_families_make_two_rules() -> None:
    both = ("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32")
    built = RuleSet.of([Rule("ingress", "udp", "networks", both, needs=(("recording", PortSet.of(1080)),))])
    assert [(rule.networks, rule.families) for rule in built] == [
        (("192.0.2.0/24", "198.51.100.7/32"), ("ipv4",)),
        (("2001:db8::/32",), ("ipv6",)),
    ]


def test_a_rule_for_no_network_opens_nothing() -> None:
    assert RuleSet.of([Rule("ingress", "udp", "networks", (), needs=(("recording", PortSet.of(1080)),))]) == RuleSet()


def test_domains_of_merged_rules_are_united() -> None:
    one = Rule("egress", "tcp", "names", domains=DomainSet.of("qos.agora.io"), needs=(("native", PortSet.of(80)),))
    two = Rule("egress", "tcp", "names", domains=DomainSet.of(".agora.io", "a.b"), needs=(("web", PortSet.of(80)),))
    (rule,) = RuleSet.of([one, two])
    assert rule.data()["domains"] == [".agora.io", "a.b"]


@pytest.mark.parametrize(
    ("texts", "networks"),
    [
        ([], ()),
        (["192.0.2.1"], ("192.0.2.1/32",)),
        ([" 192.0.2.0/24 "], ("192.0.2.0/24",)),
        (["192.0.2.0/25", "192.0.2.128/25"], ("192.0.2.0/24",)),
        (["10.0.0.0/8", "10.1.2.3"], ("10.0.0.0/8",)),
        (["2001:DB8::/32", "10.0.0.0/8", "::1"], ("10.0.0.0/8", "::1/128", "2001:db8::/32")),
        (["10.0.0.0/9", "9.0.0.0/8", "10.128.0.0/9"], ("9.0.0.0/8", "10.0.0.0/8")),
        (["0.0.0.0/0", "::/0", "192.0.2.1"], ("0.0.0.0/0", "::/0")),
    ],
)
def test_normalise_networks(texts: list[str], networks: tuple[str, ...]) -> None:
    assert normalise_networks(texts) == networks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' does not appear to be an IPv4 or IPv6 network"),
        ("agora.io", "'agora.io' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("10.0.0.0/33", "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
        ("1", "'1' does not appear to be an IPv4 or IPv6 network"),
        ("10.0.0.0/8; reboot", "'10.0.0.0/8; reboot' does not appear to be an IPv4 or IPv6 network"),
        ("fe80::%eth0/64", "'fe80::%eth0/64' names an interface (%); rules hold plain networks"),
    ],
)
def test_normalise_networks_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        normalise_networks([text])


@pytest.mark.parametrize(("network", "family"), [("0.0.0.0/0", "ipv4"), ("::/0", "ipv6"), ("192.0.2.1/32", "ipv4")])
def test_family_of(network: str, family: str) -> None:
    assert family_of(network) == family


def test_ingress_from_narrows_ingress_from_anywhere_only() -> None:
    ports = (("recording", PortSet.of(1080)),)
    out, anywhere = Rule("egress", "udp", needs=ports), Rule("ingress", "udp", needs=ports)
    narrow = Rule("ingress", "udp", "networks", ("203.0.113.0/24",), needs=ports)
    rules = RuleSet.of([out, anywhere, narrow], domains=NAMES)
    narrowed = rules.ingress_from(("192.0.2.0/24", "2001:db8::/32"))
    assert [rule.key[:4] for rule in narrowed] == [
        ("egress", "udp", "any", ()),
        ("ingress", "udp", "networks", ("192.0.2.0/24",)),
        ("ingress", "udp", "networks", ("2001:db8::/32",)),
        ("ingress", "udp", "networks", ("203.0.113.0/24",)),
    ]
    assert narrowed.domains == NAMES
    assert rules.ingress_from(()) == rules


def test_in_families_leaves_out_rules_that_cannot_match() -> None:
    ports = (("recording", PortSet.of(1080)),)
    both = ("192.0.2.0/24", "2001:db8::/32")
    rules = RuleSet.of(
        [Rule("egress", "udp", needs=ports), Rule("ingress", "udp", "networks", both, needs=ports)], domains=NAMES
    )
    assert [rule.networks for rule in rules.in_families(["ipv4"])] == [(), ("192.0.2.0/24",)]
    assert [rule.networks for rule in rules.in_families(["ipv6"])] == [(), ("2001:db8::/32",)]
    assert rules.in_families(["ipv4", "ipv6"]) == rules
    assert rules.in_families([]) == RuleSet(domains=NAMES)


ETH1, ETH0, LAN = Side("interface", "eth1"), Side("interface", "eth0"), Side("source", "10.0.0.0/8")


@pytest.mark.parametrize(
    ("inside", "outside", "ipv4", "ipv6"),
    [
        ([ETH1], [], [(ETH1, None)], [(ETH1, None)]),
        ([ETH1], [ETH0], [(ETH1, ETH0)], [(ETH1, ETH0)]),
        ([ETH1, LAN], [ETH0], [(ETH1, ETH0), (LAN, ETH0)], [(ETH1, ETH0)]),
        ([LAN], [], [(LAN, None)], []),
        ([ETH1], [LAN], [(ETH1, LAN)], []),
    ],
)
def test_crossings_join_each_side_inside_with_each_outside(
    inside: list[Side], outside: list[Side], ipv4: list, ipv6: list
) -> None:
    passage = Passage(tuple(inside), tuple(outside))
    assert list(passage.crossings("ipv4")) == ipv4
    assert list(passage.crossings("ipv6")) == ipv6
    families = tuple(family for family, pairs in (("ipv4", ipv4), ("ipv6", ipv6)) if pairs)
    assert Rule("egress", "tcp", passage=passage).families == families


def test_placed_narrows_ingress_to_the_targets_of_a_gateway() -> None:
    ports = (("recording", PortSet.of(1080)),)
    networks = ("192.0.2.0/24", "2001:db8::/32")
    rules = RuleSet.of(
        [Rule("egress", "udp", needs=ports), Rule("ingress", "udp", "networks", networks, needs=ports)], domains=NAMES
    )
    passage = Passage((ETH1,), (ETH0,), ("10.0.0.5/32", "10.0.0.9/32"))
    assert rules.placed(["host"], Passage()) == rules
    through = rules.placed(["gateway"], passage)
    assert through.domains == NAMES
    assert [(rule.direction, rule.networks, rule.passage.targets) for rule in through] == [
        ("egress", (), ()),
        ("ingress", ("192.0.2.0/24",), ("10.0.0.5/32", "10.0.0.9/32")),
    ]
    assert through.data()[0] == {
        **rules.data()[0],
        "placement": "gateway",
        "inside": [{"interface": "eth1"}],
        "outside": [{"interface": "eth0"}],
    }
    assert through.data()[1]["recording_targets"] == ["10.0.0.5/32", "10.0.0.9/32"]
    assert set(rules.placed(["host", "gateway"], passage)) == set(rules) | set(through)
    without = rules.placed(["gateway"], Passage((LAN,)))
    assert [(rule.direction, rule.families) for rule in without] == [("egress", ("ipv4",))]


def test_targets_of_two_families_make_two_rules() -> None:
    rules = RuleSet.of([Rule("ingress", "udp", needs=(("recording", PortSet.of(1080)),))])
    through = rules.placed(["gateway"], Passage((ETH1,), (), ("10.0.0.5/32", "fd01::5/128")))
    assert [(rule.passage.targets, rule.families) for rule in through] == [
        (("10.0.0.5/32",), ("ipv4",)),
        (("fd01::5/128",), ("ipv6",)),
    ]


def apply_changes(before: RuleSet, after: RuleSet) -> set[tuple]:
    """What `before` holds, once every listed change is carried out port by port."""
    state = holds(before)
    for change in changes(before, after):
        for port in range(change.low, change.high + 1):
            was = {(change.rule.key, port, sdk) for sdk in change.before}
            assert was == {item for item in state if item[:2] == (change.rule.key, port)}
            state = (state - was) | {(change.rule.key, port, sdk) for sdk in change.after}
    return state


@given(RULE_SETS, RULE_SETS)
def test_changes_lead_from_one_rule_set_to_the_other(before: RuleSet, after: RuleSet) -> None:
    assert apply_changes(before, after) == holds(after)


@given(RULE_SETS, RULE_SETS)
def test_changes_are_the_longest_runs(before: RuleSet, after: RuleSet) -> None:
    found = changes(before, after)
    assert [change.rule.key for change in found] == sorted(change.rule.key for change in found)
    for one, two in zip(found, found[1:]):
        if one.rule.key == two.rule.key:
            assert one.high < two.low
            assert one.high + 1 < two.low or (one.before, one.after) != (two.before, two.after)


@given(RULE_SETS)
def test_nothing_changes_between_a_rule_set_and_itself(rules: RuleSet) -> None:
    assert changes(rules, rules) == []
    assert newly_open(rules, rules) == []


@pytest.mark.parametrize(
    ("before", "after", "texts"),
    [
        ([], [egress("udp", web="3478")], ["+ egress udp 3478 (web)"]),
        ([egress("udp", web="3478")], [], ["- egress udp 3478 (web)"]),
        ([], [egress(web="80, 5668-5669")], ["+ egress tcp 80 (web)", "+ egress tcp 5668-5669 (web)"]),
        (
            [egress(native="8000-8010")],
            [egress(native="8000-8005", gaming="8003-8012")],
            [
                "~ egress tcp 8003-8005 (native -> gaming, native)",
                "~ egress tcp 8006-8010 (native -> gaming)",
                "+ egress tcp 8011-8012 (gaming)",
            ],
        ),
        (
            [],
            [
                Rule(
                    "ingress",
                    "udp",
                    "networks",
                    ("192.0.2.0/24", "198.51.100.0/24"),
                    needs=(("recording", PortSet.of(1)),),
                )
            ],
            ["+ ingress udp 1 (recording) from 192.0.2.0/24, 198.51.100.0/24"],
        ),
        (
            [],
            [Rule("egress", "tcp", "networks", ("2001:db8::/32",), needs=(("web", PortSet.of(1)),))],
            ["+ egress tcp 1 (web) to 2001:db8::/32"],
        ),
        (
            [],
            [Rule("egress", "tcp", "names", domains=NAMES, needs=(("web", PortSet.of(1)),))],
            ["+ egress tcp 1 (web) to allowlisted names"],
        ),
        (
            [],
            [
                Rule(
                    "ingress",
                    "udp",
                    "networks",
                    ("192.0.2.0/24",),
                    needs=(("recording", PortSet.of(1)),),
                    passage=Passage((Side("interface", "eth1"), Side("source", "10.0.0.0/8")), (), ("10.0.0.5/32",)),
                )
            ],
            [
                "+ ingress udp 1 (recording) from 192.0.2.0/24 through the gateway, "
                "interface eth1, source 10.0.0.0/8 to anywhere, only to 10.0.0.5/32"
            ],
        ),
    ],
)
def test_changes_as_text(before: list[Rule], after: list[Rule], texts: list[str]) -> None:
    assert [str(change) for change in changes(RuleSet.of(before), RuleSet.of(after))] == texts


@given(RULE_SETS, RULE_SETS)
def test_newly_open_is_what_was_open_for_nobody(before: RuleSet, after: RuleSet) -> None:
    open_before = {(key, port) for key, port, _sdk in holds(before)}
    fresh = {item for item in holds(after) if item[:2] not in open_before}
    entries = newly_open(before, after)
    assert holds(parse_rules(entries)) == fresh if entries else not fresh


def test_data_of_a_gateway_comes_back() -> None:
    sides = (Side("interface", "eth1"), Side("source", "10.0.0.0/8")), (Side("zone", "dmz"),)
    wanted = [
        Rule("ingress", "udp", "networks", ("192.0.2.0/24",), needs=(("recording", PortSet.of((1, 3), 9)),)),
        Rule("egress", "tcp", "names", domains=NAMES, needs=(("native", PortSet.of(80)), ("web", PortSet.of(80, 443)))),
    ]
    passage = Passage(*sides, targets=("10.0.0.5/32", "fd00::/64"))
    rules = RuleSet.of(wanted, domains=NAMES).placed(["host", "gateway"], passage)
    rules = replace(rules, lockdown=parse_lockdown(["10.0.0.0/8", "22/tcp", "user:backup"], forward=True, log=False))
    assert RuleSet.of_kept(json.loads(json.dumps(rules.kept()))) == rules


@given(RULE_SETS.filter(lambda rules: bool(rules.rules)))
def test_data_round_trip(rules: RuleSet) -> None:
    through_json = json.loads(json.dumps(rules.data()))
    parsed = parse_rules(through_json)
    assert parsed.rules == rules.rules
    assert RuleSet.of_kept(json.loads(json.dumps(rules.kept()))) == parsed
    assert parsed.domains == (NAMES if any(rule.scope == "names" for rule in rules) else DomainSet())


def entry(**fields: object) -> dict:
    """A legal rule entry, changed in some fields (None takes a field away)."""
    whole = {
        "direction": "egress",
        "protocol": "tcp",
        "scope": "any",
        "ports": ["80"],
        "sdks": {"web": ["80"]},
        **fields,
    }
    return {key: value for key, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    ("items", "needs"),
    [
        ([entry()], [("web", "80")]),
        ([entry(sdks=None)], [("extra", "80")]),
        ([entry(scope=None)], [("web", "80")]),
        ([entry(ports=[80], sdks={"web": [80]})], [("web", "80")]),
        ([entry(ports=["80", "81"], sdks={"web": ["80-81"]})], [("web", "80-81")]),
        ([entry(), entry(sdks={"native": ["80"]})], [("native", "80"), ("web", "80")]),
        ([entry(networks=[], domains=[])], [("web", "80")]),
    ],
)
def test_parse_rules(items: list, needs: list[tuple[str, str]]) -> None:
    (rule,) = parse_rules(items)
    assert [(sdk, str(ports)) for sdk, ports in rule.needs] == needs


@pytest.mark.parametrize(
    ("items", "problems"),
    [
        ([], [("rules", "is empty; use state: absent to close everything of ours")]),
        (["80/tcp"], [("rules[0]", "a rule is a dictionary as module rules returns it, not '80/tcp'")]),
        ([entry(direction="out")], [("rules[0].direction", "'out' is not one of egress, ingress")]),
        ([entry(direction=None)], [("rules[0].direction", "None is not one of egress, ingress")]),
        ([entry(protocol="sctp")], [("rules[0].protocol", "'sctp' is not one of tcp, udp")]),
        ([entry(scope="all")], [("rules[0].scope", "'all' is not one of any, names, networks")]),
        (
            [entry(port="80")],
            [
                (
                    "rules[0].port",
                    "is not a key of a rule; known: direction, protocol, scope, ports, sdks, networks, domains",
                )
            ],
        ),
        ([entry(ports=["0"])], [("rules[0].ports[0]", "'0': ports are 1-65535")]),
        (
            [entry(ports=["80", "9-8"], sdks={"web": ["x"]})],
            [
                ("rules[0].ports[1]", "'9-8': a range begins with its lower port, as in 8-9"),
                ("rules[0].sdks.web[0]", "'x' is not a port or a range of ports such as 5668-5669"),
            ],
        ),
        (
            [entry(ports="80")],
            [("rules[0].ports", "a list of port texts is needed (such as ['80', '5668-5669']), not '80'")],
        ),
        (
            [entry(ports=["80", "443"], sdks={"web": ["80-81"]})],
            [("rules[0].ports", "ports and sdks must name the same ports; only in ports: 443; only in sdks: 81")],
        ),
        (
            [entry(sdks={})],
            [("rules[0].ports", "ports and sdks must name the same ports; only in ports: 80; only in sdks: none")],
        ),
        ([entry(sdks=["web"])], [("rules[0].sdks", "a dictionary of SDK name to ports is needed, not ['web']")]),
        (
            [entry(sdks={"web'; drop": ["80"]})],
            [("rules[0].sdks", '"web\'; drop": a name is lower-case letters, digits and _, at most 32')],
        ),
        (
            [entry(sdks={"web\n": ["80"]})],
            [("rules[0].sdks", "'web\\n': a name is lower-case letters, digits and _, at most 32")],
        ),
        (
            [entry(scope="networks")],
            [("rules[0].networks", "is needed with scope networks")],
        ),
        (
            [entry(networks=["192.0.2.0/24"])],
            [("rules[0].networks", "goes with scope networks only; the scope is any")],
        ),
        (
            [entry(domains=["agora.io"])],
            [("rules[0].domains", "goes with scope names only; the scope is any")],
        ),
        (
            [entry(scope="networks", networks=["192.0.2.1/24"])],
            [("rules[0].networks[0]", "192.0.2.1/24 has host bits set")],
        ),
        (
            [entry(scope="names", domains=["localhost"])],
            [
                (
                    "rules[0].domains[0]",
                    "'localhost' is a single label, which would stand for far too much; at least two are needed",
                )
            ],
        ),
        (
            [entry(protocol="icmp"), entry(), entry(ports=["70000"], sdks=None)],
            [
                ("rules[0].protocol", "'icmp' is not one of tcp, udp"),
                ("rules[2].ports[0]", "'70000': ports are 1-65535"),
            ],
        ),
    ],
)
def test_parse_rules_names_every_problem(items: list, problems: list[tuple[str, str]]) -> None:
    with pytest.raises(RequestError) as caught:
        parse_rules(items)
    assert [(problem.where, problem.message) for problem in caught.value.problems] == problems


@pytest.mark.parametrize("field", ["networks", "domains"])
@pytest.mark.parametrize("value", [5, "192.0.2.0/24", {"a": "b"}, True])
def test_parse_rules_wants_lists(field: str, value: object) -> None:
    scope = "networks" if field == "networks" else "names"
    with pytest.raises(RequestError) as caught:
        parse_rules([entry(scope=scope, **{field: value})])
    assert [problem.where for problem in caught.value.problems] == [f"rules[0].{field}"]


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(entry(networks=[], domains=[]))), JUNK))
def test_whatever_an_entry_holds_the_answer_is_a_rule_set_or_its_problems(fields: dict) -> None:
    with suppress(RequestError):
        parsed = parse_rules([{**entry(), **fields}])
        assert parse_rules(parsed.data()) == parsed


def test_rules_are_values() -> None:
    one, two = RuleSet.of([egress(web="80")]), RuleSet.of([egress(web="81")])
    (change,) = changes(RuleSet(), one)
    assert {one, two, RuleSet.of([egress(web="80")])} == {one, two}
    assert sorted([two, one]) == [one, two]
    assert sorted([*changes(RuleSet(), two), change])[0] == change
    for thing, name in ((one, "rules"), (one.rules[0], "needs"), (change, "low")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, ())
