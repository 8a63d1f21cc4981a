# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend renders and plans, on hosts that are texts: the ports of the document, and no others."""

from __future__ import annotations

import json
import sys
import typing as t
from collections import defaultdict
from dataclasses import replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import live_rules
from ansible_collections.openagora.firewall.plugins.module_utils._backends.nftables import parse_listing
from ansible_collections.openagora.firewall.plugins.module_utils._backends.saveformat import parse
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, RuleSet, Side
from document import COMBINATIONS, SDKS, egress, ingress
from imitations import FAMILIES, INSIDE, KINDS, OUTSIDE, Imitation, Opened, planned

NETWORKS = ("192.0.2.0/24", "198.51.100.0/25", "2001:db8::/32")
TARGETS = ("10.0.0.7/32", "fd00::7/128")
THROUGH = Passage((Side("interface", INSIDE),), (Side("interface", OUTSIDE),))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def text_host(request: pytest.FixtureRequest) -> Imitation:
    """Each firewall in turn, with nothing of ours."""
    host: Imitation = request.param()
    assert host.opened() == {}
    return host


def rules_of(*sdks: str, networks: t.Sequence[str] = (), **options: t.Any) -> RuleSet:
    """The rules of SDKs, without any none."""
    if not sdks:
        return RuleSet()
    return compile_request(Request.of(sdks=list(sdks), **options)).rules.ingress_from(networks)


def family_of(network: str) -> str:
    return "ipv6" if ":" in network else "ipv4"


def needed(*sdks: str, networks: t.Sequence[str] = (), targets: t.Sequence[str] = (), place: str = "host") -> Opened:
    """What has to be open for SDKs by the document."""
    found: Opened = defaultdict(set)
    for sdk in sdks:
        for protocol in ("tcp", "udp"):
            for family in FAMILIES:
                found[place, "egress", protocol, family, "", ""] |= egress(sdk, protocol)
                here = [network for network in networks if family_of(network) == family] if networks else [""]
                for network in here:
                    for target in [target for target in targets if family_of(target) == family] or [""]:
                        found[place, "ingress", protocol, family, network, target] |= ingress(sdk, protocol)
    return {key: ports for key, ports in found.items() if ports}


def carry_out(host: Imitation, rules: RuleSet) -> None:
    """Bring the host to these rules."""
    for step in planned(host, rules):
        for action in step.do:
            host.act(action)


@pytest.mark.parametrize("sdks", COMBINATIONS, ids="+".join)
def test_exactly_the_ports_of_the_document_are_open(text_host: Imitation, sdks: tuple[str, ...]) -> None:
    """In both families, and in each direction its own."""
    carry_out(text_host, rules_of(*sdks))
    assert text_host.opened() == needed(*sdks)


@pytest.mark.parametrize("networks", [NETWORKS, NETWORKS[:1], NETWORKS[2:]], ids=["both", "ipv4", "ipv6"])
def test_what_comes_in_comes_from_the_networks_alone(text_host: Imitation, networks: tuple[str, ...]) -> None:
    carry_out(text_host, rules_of("web", "recording", networks=networks))
    assert text_host.opened() == needed("web", "recording", networks=networks)


@pytest.mark.parametrize("networks", [(), NETWORKS], ids=["any", "networks"])
def test_a_gateway_opens_what_crosses_and_nothing_of_its_own(text_host: Imitation, networks: tuple[str, ...]) -> None:
    rules = rules_of("web", "recording", networks=networks)
    carry_out(text_host, rules.placed(["gateway"], THROUGH))
    # To whom there what comes in is to go nobody has said.
    outwards = needed("web", "recording", place="gateway")
    assert text_host.opened() == {key: ports for key, ports in outwards.items() if "egress" in key}
    carry_out(text_host, rules.placed(["host", "gateway"], replace(THROUGH, targets=TARGETS)))
    here = needed("web", "recording", networks=networks)
    through = needed("web", "recording", networks=networks, targets=TARGETS, place="gateway")
    assert text_host.opened() == {**here, **through}


def locked(*sdks: str, allow: t.Sequence[str] = ()) -> RuleSet:
    """The rules of SDKs, locked down."""
    return replace(rules_of(*sdks), lockdown=parse_lockdown(allow, forward=False, log=False))


def test_lockdown_ends_with_what_rejects_the_rest(text_host: Imitation) -> None:
    before = text_host.everything()
    assert not text_host.closing()
    carry_out(text_host, locked("web", allow=["192.0.2.64/26", "123/tcp"]))
    assert text_host.closing()
    assert text_host.opened() == needed("web")
    assert not planned(text_host, locked("web", allow=["192.0.2.64/26", "123/tcp"]))
    carry_out(text_host, rules_of("web"))
    assert not text_host.closing()
    assert text_host.opened() == needed("web")
    carry_out(text_host, RuleSet())
    assert text_host.everything() == before


def within(smaller: Opened, larger: Opened) -> bool:
    return all(ports <= larger.get(key, set()) for key, ports in smaller.items())


ROUNDS: dict[str, list[RuleSet]] = {
    "all-one-none": [rules_of(*SDKS), rules_of("web"), RuleSet()],
    "one-another": [rules_of("recording"), rules_of("native", "web"), rules_of("recording"), RuleSet()],
    "networks": [
        rules_of("recording", networks=NETWORKS),
        rules_of("recording"),
        rules_of("recording", "web", networks=NETWORKS[:1]),
        RuleSet(),
    ],
    "ports": [rules_of("recording"), rules_of("recording", recording_port_ranges=["50000-50100"]), RuleSet()],
    "gateway": [
        rules_of(*SDKS).placed(["host", "gateway"], THROUGH),
        rules_of("web").placed(["gateway"], THROUGH),
        RuleSet(),
    ],
    "lockdown": [
        rules_of("web"),
        locked("web", "recording"),
        locked("web", allow=["5000/udp"]),
        rules_of("native"),
        RuleSet(),
    ],
}


@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
def test_nothing_needed_is_closed_on_the_way_and_each_way_leads_back(
    text_host: Imitation, rounds: list[RuleSet]
) -> None:
    """What is open before and after a change is open all the while, and what is so in neither never."""
    nothing = text_host.everything()
    for rules in rounds:
        before, there = text_host.opened(), text_host.everything()
        steps = planned(text_host, rules)
        assert steps
        for step in steps:
            # For a person, and a way back.
            assert step.what
            assert step.undo
        seen = []
        for action in (action for step in steps for action in step.do):
            text_host.act(action)
            seen.append(text_host.opened())
        after, fresh = text_host.opened(), type(text_host)()
        carry_out(fresh, rules)
        assert after == fresh.opened()
        common = {key: before[key] & after[key] for key in before.keys() & after.keys()}
        either = {key: before.get(key, set()) | after.get(key, set()) for key in before.keys() | after.keys()}
        for opened in seen:
            assert within({key: ports for key, ports in common.items() if ports}, opened)
            assert within(opened, either)
        assert not planned(text_host, rules)
        for step in reversed(steps):
            for action in step.undo:
                text_host.act(action)
        assert text_host.everything() == there
        carry_out(text_host, rules)
        assert text_host.opened() == after
    assert text_host.everything() == nothing


def calls(work: t.Callable[[], object]) -> int:
    """How many functions the work calls, those of Python itself included."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def gateway_work(kind: str, inside: int, outside: int) -> int:
    """How much there is to do for a second run on a gateway with so many sides."""
    host: Imitation = KINDS[kind]()
    near = [Side("source", f"10.{number}.0.0/24") for number in range(inside)]
    far = [Side("source", f"192.0.2.{number}/32") for number in range(outside)]
    rules = rules_of("web", "recording").placed(["gateway"], Passage(tuple(sorted(near)), tuple(sorted(far))))
    carry_out(host, rules)

    def second_run() -> None:
        state = host.backend.read(host)
        assert not host.backend.plan(state, host.backend.render(rules, state))
        assert live_rules(host.backend.places(state)).rules

    return calls(second_run)


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_grows_with_the_pairs_of_sides_and_not_with_their_square(kind: str) -> None:
    """Four times as many pairs: 16 times as much would be their square."""
    assert gateway_work(kind, 16, 8) < 6 * gateway_work(kind, 8, 4)


MANY = 100_000


def test_long_chains_of_others_are_read_in_one_go() -> None:
    """By the square of their rules, this would take an hour."""
    rule = {"family": "inet", "table": "filter", "chain": "input", "handle": 1, "expr": [{"drop": None}]}
    chain = {"family": "inet", "table": "filter", "name": "input"}
    items = [
        {"table": {"family": "inet", "name": "filter"}},
        {"chain": chain},
        *({"rule": rule} for _rule in range(MANY)),
    ]
    assert len(parse_listing(json.dumps({"nftables": items}))["inet filter"].chains["input"].rules) == MANY
    assert len(parse("*filter\n:INPUT ACCEPT [0:0]\n" + "-A INPUT -j DROP\n" * MANY)[1]["INPUT"]) == MANY
