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
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet
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


def edges(rules: RuleSet) -> PortSet:
    """The first and last port of each range that is opened, and their neighbours."""
    found = [
        port for rule in rules for low, high in rule.ports.ranges for port in (low - 1, low, high, min(high + 1, 65535))
    ]
    return PortSet.of(*found)


@pytest.mark.parametrize("sdks", [*((sdk,) for sdk in SDKS), tuple(SDKS)], ids="+".join)
def test_the_proof_of_a_host_is_its_rule_set(closed: NetnsHost, firewall: Firewall, sdks: tuple[str, ...]) -> None:
    rules = rule_set(*sdks)
    within = edges(rules) if len(sdks) == 1 else EVERYWHERE
    closed.apply(rules, firewall.backend)
    before = closed.listing()
    proof = prove(closed, rules=rules, ports=within)
    assert proof["open"] == as_written(rules, within)
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


# Hosts that are broken in ways which a reading of our own rules would miss: the firewall, what is broken by a script of
# the shell, what is then missing (family, direction, protocol, ports), and what drops it.
BROKEN: dict[str, tuple[Firewall, str, list[tuple[str, str, str, str]], str]] = {
    "a drop in a later base chain": (
        NFTABLES,
        "nft 'table inet late { chain out { type filter hook output priority 10; udp dport 3478 drop; }; }'",
        [("ipv4", "egress", "udp", "3478"), ("ipv6", "egress", "udp", "3478")],
        "nft inet late out: udp dport 3478 drop",
    ),
    "a policy in a later base chain": (
        NFTABLES,
        "nft 'table ip6 late { chain out {"
        "type filter hook output priority 10; policy drop; tcp dport 1-79 accept; }; }'",
        [("ipv6", "egress", "tcp", "80"), ("ipv6", "egress", "tcp", "443"), ("ipv6", "egress", "udp", "3478")],
        "nft ip6 late out: policy drop",
    ),
    "an earlier reject": (
        NFTABLES,
        "nft insert rule inet filter output tcp dport 443 reject",
        [("ipv4", "egress", "tcp", "443"), ("ipv6", "egress", "tcp", "443")],
        "nft inet filter output: tcp dport 443 reject",
    ),
    "an earlier reject in iptables": (
        IPTABLES,
        "iptables -I OUTPUT -p tcp --dport 443 -j REJECT",
        [("ipv4", "egress", "tcp", "443")],
        "iptables-nft filter OUTPUT: -p tcp -m tcp --dport 443 -j REJECT --reject-with icmp-port-unreachable",
    ),
    "a policy in ip6tables only": (
        IPTABLES,
        "ip6tables -F OUTPUT",
        [("ipv6", "egress", "tcp", "80"), ("ipv6", "egress", "udp", "3478"), ("ipv6", "egress", "udp", "10000-10003")],
        "ip6tables-nft filter OUTPUT: policy DROP",
    ),
    "a legacy rule beside nft": (
        NFTABLES,
        "iptables-legacy -A OUTPUT -p udp --dport 10001 -j DROP",
        [("ipv4", "egress", "udp", "10001")],
        "iptables-legacy filter OUTPUT: -p udp -m udp --dport 10001 -j DROP",
    ),
    "a wrong interface": (
        NFTABLES,
        "nft insert rule inet filter output oifname != in0 tcp dport 80 drop",
        [("ipv4", "egress", "tcp", "80"), ("ipv6", "egress", "tcp", "80")],
        'nft inet filter output: oifname != "in0" tcp dport 80 drop',
    ),
    "an ipset that lacks the port": (
        IPTABLES,
        "ipset create agora bitmap:port range 1-65535; ipset add agora 80; ipset add agora 3478;"
        "iptables -I OUTPUT -p tcp -m set ! --match-set agora dst -j DROP",
        [("ipv4", "egress", "tcp", "443"), ("ipv4", "egress", "tcp", "5668-5669")],
        "iptables-nft filter OUTPUT: -p tcp -m set ! --match-set agora dst -j DROP",
    ),
    "the table of raw": (
        LEGACY,
        "ip6tables -t raw -A OUTPUT -p udp --dport 3478 -j DROP",
        [("ipv6", "egress", "udp", "3478")],
        "ip6tables-legacy raw OUTPUT: -p udp -m udp --dport 3478 -j DROP",
    ),
    "a set whose elements come and go": (
        NFTABLES,
        "nft 'table inet guard {"
        "set shut { type inet_service; flags interval,timeout; elements = { 440-450 timeout 1h }; };"
        "chain out { type filter hook output priority 0; tcp dport @shut drop; }; }'",
        [("ipv4", "egress", "tcp", "443"), ("ipv6", "egress", "tcp", "443")],
        "nft inet guard out: tcp dport @shut drop",
    ),
    "a door of one device": (
        NFTABLES,
        "nft 'table inet guard { chain out { type filter hook output priority 0;"
        "oif lo accept; oif != lo udp dport 65535 drop; }; }'",
        [("ipv4", "egress", "udp", "65535"), ("ipv6", "egress", "udp", "65535")],
        'nft inet guard out: oif != "lo" udp dport 65535 drop',
    ),
}


@pytest.mark.parametrize(("firewall", "script", "missing", "where"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_hosts_are_caught(
    host: NetnsHost, firewall: Firewall, script: str, missing: list[tuple[str, str, str, str]], where: str
) -> None:
    firewall.close(host)
    host.apply(WEB, firewall.backend)
    assert prove(host, rules=WEB, ports=SOME)["covered"] == {"web": "yes"}
    host.sh(script)
    before = host.listing()
    proof = prove(host, rules=WEB, ports=SOME)
    for family, direction, protocol, text in missing:
        assert text in proof["missing"][family][direction][protocol]
    told = [(drop["family"], drop["direction"], drop["protocol"], *drop["ports"][:1]) for drop in proof["dropped_by"]]
    assert {family for family, *_rest in told} == {family for family, *_rest in missing}
    assert {drop["where"] for drop in proof["dropped_by"]} == {where}
    assert proof["covered"] == {"web": "no"}
    assert host.listing() == before


# Rules whose verdict hangs on what one packet does not show: the firewall, the script, and the family, direction and
# protocol of a port that is then unknown, and the reason.
IN_DOUBT: dict[str, tuple[Firewall, str, tuple[str, str, str, str], str]] = {
    "a rate limit": (
        NFTABLES,
        "nft insert rule inet filter output tcp dport 443 limit rate over 10/minute drop",
        ("ipv6", "egress", "tcp", "443"),
        "limit",
    ),
    "a rate limit that opens": (
        NFTABLES,
        "nft add rule inet filter output tcp dport 22 limit rate 10/minute accept",
        ("ipv4", "egress", "tcp", "22"),
        "limit",
    ),
    "a set with limits": (
        NFTABLES,
        "nft 'table inet m { set s { type ipv4_addr; flags dynamic; size 9; };"
        "chain o { type filter hook output priority 0;"
        "udp dport 3478 add @s { ip daddr limit rate over 1/day } drop; }; }'",
        ("ipv4", "egress", "udp", "3478"),
        "limit",
    ),
    "a user": (
        NFTABLES,
        "nft insert rule inet filter output meta skuid 1234 udp dport 3478 drop",
        ("ipv4", "egress", "udp", "3478"),
        "who sends the packet; choose with option user",
    ),
    "a mark": (
        NFTABLES,
        "nft insert rule inet filter output meta mark 7 udp dport 3478 drop",
        ("ipv4", "egress", "udp", "3478"),
        "a mark that no rule of this host sets",
    ),
    "chance": (
        NFTABLES,
        "nft insert rule inet filter output udp dport 3478 numgen random mod 2 == 1 drop",
        ("ipv4", "egress", "udp", "3478"),
        "numgen",
    ),
    "hashlimit": (
        IPTABLES,
        "iptables -I OUTPUT -p udp --dport 3478 -m hashlimit --hashlimit-above 5/sec --hashlimit-name x -j DROP",
        ("ipv4", "egress", "udp", "3478"),
        "hashlimit",
    ),
    "recent": (
        IPTABLES,
        "ip6tables -A OUTPUT -p tcp --dport 22 -m recent --rcheck --seconds 9 --name x -j ACCEPT",
        ("ipv6", "egress", "tcp", "22"),
        "recent",
    ),
    "a connection limit": (
        LEGACY,
        "iptables -I OUTPUT -p tcp --dport 443 -m connlimit --connlimit-above 5 -j REJECT",
        ("ipv4", "egress", "tcp", "443"),
        "connlimit",
    ),
    "an owner": (
        IPTABLES,
        "iptables -I OUTPUT -p tcp --dport 443 -m owner ! --uid-owner 0 -j REJECT",
        ("ipv4", "egress", "tcp", "443"),
        "who sends the packet; choose with option user",
    ),
    "a jump": (
        IPTABLES,
        "iptables -N lim; iptables -A lim -j DROP; iptables -I OUTPUT -p tcp --dport 443 -m limit --limit 5/sec -j lim",
        ("ipv4", "egress", "tcp", "443"),
        "limit",
    ),
    "a program": (
        IPTABLES,
        "iptables -I OUTPUT -p tcp --dport 443 -j NFQUEUE --queue-num 1",
        ("ipv4", "egress", "tcp", "443"),
        "NFQUEUE",
    ),
}


@pytest.mark.parametrize(("firewall", "script", "place", "what"), IN_DOUBT.values(), ids=IN_DOUBT.keys())
def test_what_one_packet_cannot_show_is_unknown(
    host: NetnsHost, firewall: Firewall, script: str, place: tuple[str, str, str, str], what: str
) -> None:
    firewall.close(host)
    host.apply(WEB, firewall.backend)
    host.sh(script)
    proof = prove(host, rules=WEB, ports=SOME)
    family, direction, protocol, port = place
    assert proof["unknown"][family][direction][protocol] == [port]
    assert port not in proof["open"][family][direction][protocol]
    assert proof["missing"] == NONE
    assert proof["covered"] == {"web": "unknown" if port != "22" else "yes"}
    assert [doubt["what"] for doubt in proof["not_modelled"]] == [what]


# Rules of the same kinds that decide nothing, or whose outcome is the same either way.
HARMLESS: dict[str, tuple[Firewall, str]] = {
    "a log with a limit": (NFTABLES, "nft insert rule inet filter output limit rate 3/minute log"),
    "a chain that logs, with a limit": (
        NFTABLES,
        "nft add chain inet filter lg; nft add rule inet filter lg log prefix lg;"
        "nft insert rule inet filter output limit rate 3/minute jump lg",
    ),
    "what is dropped behind it": (NFTABLES, "nft insert rule inet filter output tcp dport 22 limit rate 3/minute drop"),
    "a set that is filled by packets": (
        NFTABLES,
        "nft 'table inet m { set s { type ipv4_addr; flags dynamic; };"
        "chain o { type filter hook output priority 0; ip daddr @s drop; tcp dport 5 add @s { ip daddr }; }; }'",
    ),
    "what is accepted behind it": (
        IPTABLES,
        "iptables -I OUTPUT -p tcp --dport 443 -m limit --limit 3/min -j ACCEPT",
    ),
    "log and limit": (IPTABLES, "iptables -I OUTPUT -m limit --limit 3/min -j LOG"),
    "a chain that logs": (
        IPTABLES,
        "iptables -N lg; iptables -A lg -m limit --limit 1/sec -j RETURN; iptables -A lg -j LOG;"
        "iptables -I OUTPUT -m limit --limit 3/min -j lg",
    ),
    "an ipset that is filled by packets": (
        IPTABLES,
        "ipset create scan hash:ip; iptables -I OUTPUT -m set --match-set scan dst -j DROP;"
        "iptables -A OUTPUT -p tcp --dport 5 -j SET --add-set scan dst",
    ),
    "marks that rules set": (
        IPTABLES,
        "iptables -t mangle -A OUTPUT -p tcp --dport 5 -j MARK --set-mark 7;"
        "iptables -I OUTPUT -m mark --mark 7 -j DROP",
    ),
}


@pytest.mark.parametrize(("firewall", "script"), HARMLESS.values(), ids=HARMLESS.keys())
def test_what_decides_nothing_leaves_no_doubt(host: NetnsHost, firewall: Firewall, script: str) -> None:
    firewall.close(host)
    host.apply(WEB, firewall.backend)
    host.sh(script)
    proof = prove(host, rules=WEB, ports=SOME)
    assert (proof["open"], proof["unknown"]) == (as_written(WEB, SOME), NONE)
