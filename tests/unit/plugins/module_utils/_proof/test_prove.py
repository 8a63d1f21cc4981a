# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proof finds on hosts that are in order, and on hosts that are broken in ways that their rules hide."""

from __future__ import annotations

import base64
import pickle
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, RuleSet, Side
from ansible_collections.openagora.firewall.plugins.module_utils._proof.question import Question
from document import SDKS
from netns import IPTABLES, LEGACY, NFTABLES, Firewall, NetnsHost, rule_set

COLLECTIONS = Path(__file__).resolve().parents[5] / "collections"

# Answers the pickled question of its standard input, on the host on which it runs.
ANSWER = """
import base64, pickle, sys
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost
from ansible_collections.openagora.firewall.plugins.module_utils._proof.prove import prove
try:
    answer = prove(LocalHost(), pickle.loads(base64.b64decode(sys.stdin.read()))).result
except BackendError as error:
    answer = error
print(base64.b64encode(pickle.dumps(answer)).decode())
"""
PROVER = ["env", f"PYTHONPATH={COLLECTIONS}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", ANSWER]

Result = dict[str, t.Any]

EVERYWHERE = PortSet.of((1, 65535))
WEB = rule_set("web")
# Ports of SDKs and others; enough where not every port is the point.
SOME = PortSet.of((1, 600), (3478, 3480), (5660, 5670), (9999, 10003), 65535)


def prove(host: NetnsHost, **question: t.Any) -> Result:
    """What the proof says of the host."""
    asked = base64.b64encode(pickle.dumps(Question(**question))).decode()
    done = host.run(PROVER, stdin=asked)
    assert done.code == 0, done.err
    answer = pickle.loads(base64.b64decode(done.out))
    if isinstance(answer, Exception):
        raise answer
    return answer


def ports(rules: RuleSet, direction: str, protocol: str, within: PortSet = EVERYWHERE) -> list[str]:
    """What a rule set opens."""
    found = PortSet()
    for rule in rules:
        if (rule.direction, rule.protocol) == (direction, protocol):
            found |= rule.ports & within
    return found.texts()


def as_written(rules: RuleSet, within: PortSet = EVERYWHERE) -> Result:
    """What the proof has to say of a host that holds exactly these rules."""
    return {
        family: {
            direction: {protocol: ports(rules, direction, protocol, within) for protocol in ("tcp", "udp")}
            for direction in ("egress", "ingress")
        }
        for family in ("ipv4", "ipv6")
    }


NONE = as_written(RuleSet())


@pytest.mark.parametrize("sdks", [*((sdk,) for sdk in SDKS), tuple(SDKS)], ids="+".join)
def test_the_proof_of_a_host_is_its_rule_set(closed: NetnsHost, firewall: Firewall, sdks: tuple[str, ...]) -> None:
    rules = rule_set(*sdks)
    closed.apply(rules, firewall.backend)
    before = closed.listing()
    proof = prove(closed, rules=rules)
    assert proof["open"] == as_written(rules)
    assert (proof["unknown"], proof["missing"], proof["beyond"]) == (NONE, NONE, NONE)
    assert proof["covered"] == dict.fromkeys(sdks, "yes")
    assert proof["not_modelled"] == proof["dropped_by"] == []
    assert closed.listing() == before


def test_a_host_without_rules_lets_everything_through(host: NetnsHost) -> None:
    proof = prove(host, rules=WEB)
    whole = {"tcp": ["1-65535"], "udp": ["1-65535"]}
    assert proof["open"] == dict.fromkeys(("ipv4", "ipv6"), dict.fromkeys(("egress", "ingress"), whole))
    assert proof["beyond"]["ipv6"]["egress"]["udp"] == ["1-3477", "3479-9999"]
    assert proof["packets"] == 8 * 65535
