# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proof finds on hosts that are in order, and on hosts that are broken in ways that their rules hide."""

from __future__ import annotations

import base64
import itertools
import os
import pickle
import sys
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, Rule, RuleSet, Side
from ansible_collections.openagora.firewall.plugins.module_utils._proof.question import Question
from ansible_collections.openagora.firewall.plugins.module_utils._proof.report import Proof
from contract.sampling import SOAK, draw
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
# By which its processes are found.
MARK = f"OPENAGORA_PROVER={os.getpid()}"
PROVER = ["env", MARK, f"PYTHONPATH={COLLECTIONS}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", ANSWER]

Result = dict[str, t.Any]

EVERYWHERE = PortSet.of((1, 65535))
WEB = rule_set("web")
# Ports of SDKs and others; enough where not every port is the point.
SOME = PortSet.of((1, 600), (3478, 3480), (5660, 5670), (9999, 10003), 65535)


def asked(**question: t.Any) -> str:
    """What the prover reads."""
    return base64.b64encode(pickle.dumps(Question(**question))).decode()


def prove(host: NetnsHost, *, through: t.Sequence[str] = (), **question: t.Any) -> Result:
    """What the proof says of the host; `through` is a command that starts it."""
    done = host.run([*through, *PROVER], stdin=asked(**question))
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


def test_lockdown_lets_nothing_pass_but_the_rules_and_what_it_names(host: NetnsHost, firewall: Firewall) -> None:
    firewall.choose(host)
    lockdown = parse_lockdown(["7000-7001/tcp", "192.0.2.0/24"], forward=False, log=False)
    host.apply(replace(WEB, lockdown=lockdown), firewall.backend)
    proof = prove(host, rules=WEB, directions=("egress",))

    def both(tcp: t.Sequence[str] = (), udp: t.Sequence[str] = ()) -> Result:
        return {family: {"egress": {"tcp": [*tcp], "udp": [*udp]}} for family in ("ipv4", "ipv6")}

    assert (proof["missing"], proof["beyond"]) == (both(), both(["7000-7001"], ["123"]))
    assert proof["table"][-3:] == [
        "open in lockdown for allow: egress tcp 7000-7001",
        "open in lockdown for ntp: egress udp 123",
        "nothing else is open",
    ]
    assert proof["essentials"]["ntp"] == {family: {"egress": {"udp": ["123"]}} for family in ("ipv4", "ipv6")}
    assert Proof(proof).faults(["beyond"]) == ""
    # To an address that is allowed everything may go.
    near = prove(host, rules=WEB, directions=("egress",), far=("192.0.2.9",), families=("ipv4",))
    assert near["open"]["ipv4"]["egress"] == {"tcp": ["1-65535"], "udp": ["1-65535"]}
    assert near["essentials"]["allow"] == near["beyond"]


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
    "length": (
        NFTABLES,
        "nft insert rule inet filter output udp dport 3478 meta length 200-65535 drop",
        ("ipv4", "egress", "udp", "3478"),
        "meta length",
    ),
    "length of what it carries": (
        NFTABLES,
        "nft insert rule inet filter output udp dport 3478 udp length 200-65535 drop",
        ("ipv4", "egress", "udp", "3478"),
        "what the packet carries",
    ),
    "what it carries": (
        NFTABLES,
        "nft insert rule inet filter output udp dport 3478 @ih,0,8 7 drop",
        ("ipv4", "egress", "udp", "3478"),
        "what the packet carries",
    ),
    "chance by addresses": (
        NFTABLES,
        "nft insert rule inet filter output udp dport 3478 jhash ip saddr . udp sport mod 2 == 1 drop",
        ("ipv4", "egress", "udp", "3478"),
        "jhash",
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
    "a translation": (
        IPTABLES,
        "iptables -t nat -A OUTPUT -p tcp --dport 443 -m statistic --mode random --probability 0.5 -j REDIRECT"
        " --to-ports 9; iptables -I OUTPUT -p tcp --dport 9 -j DROP",
        ("ipv4", "egress", "tcp", "443"),
        "statistic",
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


# Rules of nft in a table that iptables made: what iptables-save prints of them says less, or nothing. Afterwards, which
# ports of TCP and UDP are open outwards, and which nobody knows.
SHARED: dict[str, tuple[str, list[str], list[str], list[str]]] = {
    "sets": ("tcp dport { 22, 8022 } accept; {} udp dport { 53, 123 } accept", ["22", "8022"], ["53", "123"], []),
    "a verdict map": ("tcp dport vmap { 22 : accept, 8022 : drop }", ["22"], [], []),
    "a concatenation": ("meta l4proto . th dport { tcp . 22, udp . 53 } accept", ["22"], ["53"], []),
    "a masked port": ("tcp dport & 0xffff == 22 accept", ["22"], [], []),
    "a range of addresses": ("ip daddr 192.0.2.1-192.0.2.9 accept", [], [], []),
    "a length": ("udp length 1-30 accept", [], [], ["tcp", "udp"]),
    "a user": ("meta skuid 1000 accept", [], [], ["tcp", "udp"]),
    "a rule that only marks": ("counter meta mark set meta mark and 0xff00ffff xor 0x40000", [], [], []),
    "a rate": ("tcp dport 22 limit rate over 5/second drop; {} tcp dport 23 accept", ["23"], [], []),
    "a port twice": ("tcp dport 1-25 tcp dport 22-40 accept", ["22-25"], [], []),
    "a state and sets": ("ct state { new } tcp dport { 22, 23 } accept", ["22-23"], [], []),
}
MANY = PortSet.of((1, 300), (8000, 8030))


@pytest.mark.parametrize("extension", [False, True], ids=["alone", "beside extensions"])
@pytest.mark.parametrize(("rules", "tcp", "udp", "unknown"), SHARED.values(), ids=SHARED.keys())
def test_rules_of_nft_in_a_table_of_iptables(
    host: NetnsHost, rules: str, tcp: list[str], udp: list[str], unknown: list[str], extension: bool
) -> None:
    """Official tools write such: iptables-restore-translate, and programs that share the table."""
    IPTABLES.close(host)
    host.sh("iptables -A OUTPUT -o lo -j ACCEPT; ip6tables -A OUTPUT -o lo -j ACCEPT")
    if extension:
        host.sh("iptables -A OUTPUT -p tcp -m multiport --dports 200,210:212 -m comment --comment hello -j ACCEPT")
        host.sh("iptables -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
        host.sh("iptables -A OUTPUT -p udp -m recent --update --seconds 5 --name none --dport 9 -j ACCEPT")
        tcp = [*tcp, "200", "210-212"]
        tcp = sorted(tcp, key=lambda text: int(text.partition("-")[0]))
    host.nft("add rule ip filter OUTPUT " + rules.replace("{}", "add rule ip filter OUTPUT").replace("; ", "\n"))
    found = prove(host, rules=WEB, ports=MANY)
    held = {"tcp": tcp, "udp": sorted(udp, key=int)}
    assert found["open"]["ipv4"]["egress"] == held
    assert found["open"]["ipv6"]["egress"] == {"tcp": [], "udp": []}
    nobody = {"tcp": [], "udp": ["9"] if extension else []}
    for protocol in unknown:
        nobody[protocol] = (MANY - PortSet.parse(",".join(held[protocol]) or "1") if held[protocol] else MANY).texts()
    assert found["unknown"]["ipv4"]["egress"] == nobody
    assert found["covered"] == {"web": "no"}
    named = [doubt["rule"] for doubt in found["not_modelled"] if "recent" not in doubt["what"]]
    assert len(named) == bool(unknown) or rules.startswith("tcp dport 22 limit")


@pytest.mark.parametrize("rule", ["tcp dport { 25, 465 } drop", "meta skuid 1000 udp dport 7 drop", "ct state new"])
def test_ours_in_a_table_with_rules_of_nft_is_proved(host: NetnsHost, rule: str) -> None:
    """Chains of ours are what iptables says, whatever else is in the table."""
    IPTABLES.close(host)
    host.sh("iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
    host.apply(WEB, "iptables")
    host.nft(f"add rule ip filter OUTPUT {rule}")
    before = host.listing()
    found = prove(host, rules=WEB, ports=SOME)
    assert (found["open"], found["unknown"], found["covered"]) == (as_written(WEB, SOME), NONE, {"web": "yes"})
    assert host.listing() == before


# Translations that nft makes and that say what the rule says, and one that says less.
TRANSLATED: dict[str, tuple[Firewall, str]] = {
    "ports": (IPTABLES, "iptables -I OUTPUT -p tcp -m multiport ! --dports 1:100,443 -j DROP"),
    "states": (IPTABLES, "iptables -I OUTPUT -p tcp --dport 443 -m conntrack ! --ctstate NEW,INVALID -j DROP"),
    "addresses": (IPTABLES, "iptables -I OUTPUT -p tcp --dport 443 -m iprange --dst-range 1.0.0.0-99.0.0.0 -j REJECT"),
    "no library": (IPTABLES, "iptables -I OUTPUT -p tcp --dport 443 -m string --string x --algo bm -j DROP"),
    "half a state": (IPTABLES, "iptables -I OUTPUT -p tcp --dport 443 -m conntrack --ctstate NEW,DNAT -j DROP"),
    "a translation of ports": (
        IPTABLES,
        "iptables -t nat -A OUTPUT -p tcp --dport 443 -j REDIRECT --to-ports 9;"
        "iptables -I OUTPUT -p tcp --dport 9 -j DROP",
    ),
}
OF_IPTABLES = {
    name: script
    for scripts in ({name: case[:2] for name, case in IN_DOUBT.items()}, HARMLESS, TRANSLATED)
    for name, (firewall, script) in scripts.items()
    if firewall is IPTABLES
}


def held(found: Result, what: str, family: str, direction: str, protocol: str) -> PortSet:
    texts = found[what][family][direction][protocol]
    return PortSet.parse(",".join(texts)) if texts else PortSet()


@pytest.mark.parametrize("script", OF_IPTABLES.values(), ids=OF_IPTABLES.keys())
def test_two_readings_of_a_table_differ_by_what_is_unknown_at_most(host: NetnsHost, script: str) -> None:
    IPTABLES.close(host)
    host.apply(WEB, "iptables")
    host.sh(script)
    # As iptables prints it, and as nft does, because of a rule that decides nothing here.
    alone = prove(host, ports=SOME)
    for family in ("ip", "ip6"):
        host.nft(f"add chain {family} filter ts-forward; add rule {family} filter ts-forward meta skuid 1000 accept")
    shared = prove(host, ports=SOME)
    for place in itertools.product(("ipv4", "ipv6"), ("egress", "ingress"), ("tcp", "udp")):
        known, unsure = (held(alone, what, *place) for what in ("open", "unknown"))
        nft, nft_unsure = (held(shared, what, *place) for what in ("open", "unknown"))
        assert not nft - known
        assert not known - nft - nft_unsure
        assert not unsure - nft_unsure


REDIRECTED = {
    "nftables": (
        NFTABLES,
        "nft 'table ip way {"
        "chain out { type nat hook output priority -100; tcp dport { 80, 443 } redirect to :3128; };"
        "chain in { type nat hook prerouting priority -100; tcp dport 81 redirect to :8080; }; }';"
        "nft add rule inet filter output tcp dport 3128 accept; nft add rule inet filter input tcp dport 3128 accept;"
        "nft add rule inet filter input tcp dport 8080 accept",
    ),
    "iptables": (
        IPTABLES,
        "iptables -t nat -A OUTPUT -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 3128;"
        "iptables -t nat -A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 8080;"
        "iptables -A OUTPUT -p tcp --dport 3128 -j ACCEPT; iptables -A INPUT -p tcp --dport 3128 -j ACCEPT;"
        "iptables -A INPUT -p tcp --dport 8080 -j ACCEPT",
    ),
}


@pytest.mark.parametrize(("firewall", "script"), REDIRECTED.values(), ids=REDIRECTED.keys())
def test_ports_are_those_from_before_any_translation(host: NetnsHost, firewall: Firewall, script: str) -> None:
    firewall.close(host)
    host.sh(script)
    found = prove(host, families=("ipv4",), ports=PortSet.of((1, 600), 3128, 8080))["open"]["ipv4"]
    assert found["egress"] == {"tcp": ["80", "443", "3128"], "udp": []}
    assert found["ingress"] == {"tcp": ["81", "3128", "8080"], "udp": []}


# Two interfaces with addresses and a way to the internet through out0.
ROUTED = """
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link set in0 up; ip link set out0 up
ip address add 10.1.0.1/24 dev in0; ip address add 192.0.2.2/24 dev out0; ip route add default via 192.0.2.1
ip address add fd01::1/64 dev in0 nodad; ip address add 2001:db8::2/64 dev out0 nodad
ip -6 route add default via 2001:db8::1
"""
BOTH_WAYS = Passage((Side("interface", "in0"),), (Side("interface", "out0"),), ("10.1.0.5/32", "fd01::5/128"))


@pytest.fixture
def routed(host: NetnsHost) -> NetnsHost:
    """A host with interfaces in use."""
    host.sh(ROUTED)
    return host


def test_a_host_is_proved_on_the_way_that_its_packets_take(routed: NetnsHost) -> None:
    NFTABLES.close(routed)
    routed.apply(WEB)
    routed.nft(
        "table inet guard { chain out { type filter hook output priority 5;\n"
        'oifname "in0" tcp dport 80 drop\nip saddr != 192.0.2.2 udp dport 3478 drop\n'
        "ip6 daddr 2001:db8:7::/48 tcp dport 443 drop\n}\n}\n"
    )
    proof = prove(routed, rules=WEB, ports=SOME)
    assert (proof["missing"], proof["assumed"]) == (NONE, [])
    proof = prove(routed, rules=WEB, ports=SOME, interface="in0", near=("10.1.0.1",), far=("2001:db8:7::1",))
    assert proof["missing"]["ipv4"]["egress"] == {"tcp": ["80"], "udp": ["3478"]}
    assert proof["missing"]["ipv6"]["egress"] == {"tcp": ["80", "443"], "udp": []}
    assert any("sent through in0" in text for text in proof["assumed"])


def test_the_user_who_sends_can_be_chosen(routed: NetnsHost) -> None:
    NFTABLES.close(routed)
    routed.apply(WEB)
    routed.nft("insert rule inet filter output meta skuid 1234 udp dport 3478 drop")
    for user, missing in ((1234, ["3478"]), (1235, [])):
        proof = prove(routed, rules=WEB, ports=SOME, user=user)
        assert proof["unknown"] == NONE
        assert proof["missing"]["ipv6"]["egress"]["udp"] == missing


@pytest.mark.parametrize("firewall", [NFTABLES, IPTABLES], ids=lambda firewall: firewall.name)
def test_a_gateway_is_proved_at_what_it_forwards(routed: NetnsHost, firewall: Firewall) -> None:
    firewall.close(routed)
    rules = rule_set().placed(["gateway"], BOTH_WAYS)
    routed.apply(rules, firewall.backend)
    within = edges(rules)
    proof = prove(routed, placements=("gateway",), passage=BOTH_WAYS, rules=rules, ports=within)
    assert proof["open"] == as_written(rules, within)
    assert (proof["missing"], proof["beyond"]) == (NONE, NONE)
    assert set(proof["covered"].values()) == {"yes"}
    # The host itself is as closed as before.
    both = prove(routed, placements=("host", "gateway"), passage=BOTH_WAYS, rules=rules, ports=within)
    assert both["open"] == NONE
    assert (both["missing"], set(both["covered"].values())) == (NONE, {"yes"})
    firewall.insert(routed, "forward", "tcp dport 443 drop" if firewall is NFTABLES else "-p tcp --dport 443 -j DROP")
    proof = prove(routed, placements=("gateway",), passage=BOTH_WAYS, rules=rules, ports=within)
    assert (proof["missing"]["ipv4"]["egress"]["tcp"], proof["covered"]["web"]) == (["443"], "no")
    assert "443" in proof["dropped_by"][0]["where"]
    routed.sh("sysctl -qw net.ipv4.ip_forward=0")
    proof = prove(routed, placements=("gateway",), passage=BOTH_WAYS, rules=rules, ports=SOME, families=("ipv4",))
    assert proof["open"]["ipv4"]["egress"] == {"tcp": [], "udp": []}
    assert {drop["where"][:14] for drop in proof["dropped_by"]} == {"no rule tells;"}


SOURCES = Passage((Side("source", "10.1.0.0/24"), Side("source", "fd01::/64")), (), ("10.1.0.0/26", "fd01::5/128"))


def test_a_gateway_whose_sides_are_networks(routed: NetnsHost) -> None:
    NFTABLES.close(routed)
    rules = rule_set("recording", ingress_from=["198.51.100.0/24", "2001:db8:7::/48"]).placed(["gateway"], SOURCES)
    routed.apply(rules)
    within = edges(rules)
    proof = prove(routed, placements=("gateway",), passage=SOURCES, rules=rules, ports=within)
    assert proof["open"]["ipv4"]["egress"]["udp"] == ports(rules, "egress", "udp", within)
    # Not for everybody, but for those who may.
    assert proof["open"]["ipv4"]["ingress"]["udp"] == []
    assert (proof["missing"], proof["covered"]) == (NONE, {"recording": "yes"})


def test_ingress_for_some_networks_is_proved_from_each_of_them(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(rule_set("recording", ingress_from=["198.51.100.0/24", "2001:db8:7::/48"]))
    wider = rule_set("recording", ingress_from=["198.51.100.0/24", "203.0.113.0/24", "2001:db8:7::/48"])
    proof = prove(host, rules=wider, ports=edges(wider))
    assert proof["missing"]["ipv4"]["ingress"]["udp"] == ports(wider, "ingress", "udp", edges(wider))
    assert proof["missing"]["ipv6"] == NONE["ipv6"]
    assert proof["beyond"] == NONE


def test_the_far_end_is_never_the_host_itself(host: NetnsHost) -> None:
    """In a network that is its own, too, of which it often has the first address."""
    NFTABLES.close(host)
    host.sh("ip addr add 198.51.100.1/24 dev out0; ip link set out0 up; ip link set in0 up")
    rules = rule_set("recording", ingress_from=["198.51.100.0/24"])
    host.apply(rules)
    assert prove(host, rules=rules, ports=edges(rules), families=("ipv4",))["covered"] == {"recording": "yes"}
    ways = Passage((Side("source", "10.1.0.0/24"),), (Side("source", "198.51.100.0/24"),))
    host.sh("ip addr add 10.1.0.1/24 dev in0; sysctl -qw net.ipv4.ip_forward=1")
    web = rule_set("web").placed(["gateway"], ways)
    host.apply(web)
    proof = prove(host, placements=("gateway",), passage=ways, rules=web, ports=edges(web), families=("ipv4",))
    assert proof["covered"] == {"web": "yes"}


def test_rules_for_names_are_unknown_unless_a_far_end_is_named(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.nft("add rule inet filter output ip daddr 198.51.100.7 tcp dport != 443 accept")
    rules = RuleSet.of(rule for rule in rule_set("web", scope="names") if rule.protocol == "tcp")
    proof = prove(host, rules=rules, ports=SOME, families=("ipv4",))
    assert (proof["covered"], proof["missing"]["ipv4"]) == ({"web": "unknown"}, NONE["ipv4"])
    proof = prove(host, rules=rules, ports=SOME, families=("ipv4",), far=("198.51.100.7",))
    assert (proof["covered"], proof["missing"]["ipv4"]["egress"]["tcp"]) == ({"web": "no"}, ["443"])


def test_a_family_that_is_off_is_left_out(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB)
    host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    proof = prove(host, rules=WEB, ports=SOME)
    assert proof["open"] == {"ipv4": as_written(WEB, SOME)["ipv4"]}
    assert proof["covered"] == {"web": "yes"}


def test_a_family_that_one_interface_has_is_proved(routed: NetnsHost) -> None:
    routed.sh(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.out0.disable_ipv6=0;"
        "ip -6 address add 2001:db8::2/64 dev out0; ip -6 route add default via 2001:db8::1;"
        "ip6tables -A OUTPUT -p udp --dport 3478 -j DROP"
    )
    proof = prove(routed, ports=SOME, families=("ipv4", "ipv6"))
    assert proof["open"]["ipv6"]["egress"]["udp"] == (SOME - PortSet.of(3478)).texts()


def test_no_packet_is_taken_for_the_answer_to_one_before_it(routed: NetnsHost) -> None:
    """One of those that come in goes to the port from which those that went out were sent."""
    routed.nft(
        "table inet f { chain i { type filter hook input priority 0; policy drop;\n"
        "ct state established,related accept; }; }"
    )
    proof = prove(routed, ports=PortSet.of((52000, 53000)))
    assert proof["open"]["ipv4"]["ingress"] == proof["open"]["ipv6"]["ingress"] == {"tcp": [], "udp": []}


def test_the_network_is_copied(routed: NetnsHost) -> None:
    """Policy routing, reverse path filters and interfaces of any kind decide as on the host."""
    routed.sh(
        "ip route add blackhole default table 77; ip rule add to 45.0.0.0/8 table 77; ip route add 46.0.0.0/8 dev in0;"
        "ip route add unreachable 47.0.0.0/8; sysctl -qw net.ipv4.conf.all.rp_filter=1;"
        "ip link add br0 type bridge; ip link set br0 up group 7"
    )
    routed.nft(
        "table inet f { chain i { type filter hook input priority 0;\n"
        'iif "in0" tcp dport 1 drop\niif "br0" iifgroup 7 tcp dport 2 drop\n}\n}\n'
    )

    def found(far: str, interface: str = "") -> tuple[list[str], list[str]]:
        few = PortSet.of((1, 3))
        held = prove(routed, ports=few, families=("ipv4",), far=(far,), interface=interface)["open"]["ipv4"]
        return held["egress"]["tcp"], held["ingress"]["tcp"]

    assert found("44.1.1.1") == (["1-3"], ["1-3"])
    assert found("44.1.1.1", "br0") == (["1-3"], ["1", "3"])
    assert found("45.1.1.1") == ([], [])
    assert found("46.1.1.1") == (["1-3"], ["2-3"])
    assert found("47.1.1.1") == ([], [])


# Extensions whose commands are gone: the script takes the commands away, the ports are then unknown.
FOREIGN = """
iptables -A OUTPUT -p tcp --dport 22 -m recent --rcheck --name x -j ACCEPT
iptables -A OUTPUT -p tcp --dport 60 -j REJECT
iptables -A OUTPUT -p udp --dport 5 -j LOG
"""
NO_IPTABLES = "for name in nft legacy; do mount --bind /dev/null /usr/sbin/xtables-$name-multi; done;"
NO_EXTENSIONS = "mount -t tmpfs tmpfs $(dirname $(find /usr/lib /usr/lib64 -name libxt_recent.so | head -n 1));"


@pytest.mark.parametrize(
    ("script", "unknown"),
    [
        # What nft can translate it can copy.
        (NO_IPTABLES, {"22": "recent"}),
        (NO_IPTABLES + NO_EXTENSIONS, {"22": "recent", "60": "REJECT"}),
    ],
    ids=["listed", "left out"],
)
def test_extensions_that_nft_cannot_copy_are_unknown(host: NetnsHost, script: str, unknown: dict[str, str]) -> None:
    host.sh(FOREIGN)
    host.sh(script)
    found = prove(host, ports=PortSet.of((1, 99)), families=("ipv4",))
    assert found["unknown"]["ipv4"]["egress"] == {"tcp": list(unknown), "udp": []}
    assert found["open"]["ipv4"]["egress"] == {"tcp": ["1-21", "23-59", "61-99"], "udp": ["1-99"]}
    assert [doubt["what"] for doubt in found["not_modelled"]] == list(unknown.values())


def corrupted(command: str, edit: str) -> str:
    """A script that puts one before a command which spoils what it prints, if it reads nothing."""
    name = f"/usr/local/sbin/{command.rpartition('/')[2]}"
    script = f'[ "$1" = -f ] && exec {command} "$@"; {command} "$@" | sed "{edit}"'
    return f"printf '%s\\n' '#!/bin/sh' '{script}' > {name}; chmod +x {name}; "


BAD: dict[str, tuple[str, list[str], list[str]]] = {
    "no commands": (
        f"{NO_IPTABLES} mount --bind /dev/null /usr/sbin/nft",
        [],
        ["neither nft nor iptables-save is installed", "install nftables or iptables"],
    ),
    "no capability": (
        "",
        ["setpriv", "--bounding-set=-sys_admin,-net_admin"],
        ["lacks CAP_NET_ADMIN, CAP_SYS_ADMIN;", "become: true"],
    ),
    "a table that does not load": (
        corrupted("/usr/sbin/nft", "s/dport 5 /dport oddity /")
        + "nft 'table inet odd { chain c { tcp dport 5 accept; }; }'",
        [],
        ["table inet odd of nft does not load, line 3, 'tcp dport oddity accept'", "Write that rule another way"],
    ),
    "rules that do not load": (
        corrupted("/usr/sbin/iptables-nft-save", "s/--dport/--oddity/")
        + "iptables -A OUTPUT -p tcp --dport 80 -j DROP",
        [],
        ["what iptables-nft-save prints does not load, line ", "--oddity 80 -j DROP"],
    ),
}


@pytest.mark.parametrize(("script", "through", "texts"), BAD.values(), ids=BAD.keys())
def test_what_keeps_a_proof_from_being_made(host: NetnsHost, script: str, through: list[str], texts: list[str]) -> None:
    host.sh(script)
    with pytest.raises(BackendError) as raised:
        prove(host, through=through, ports=SOME)
    for text in texts:
        assert text in str(raised.value)


# The command of nft, with which a table goes before its rules are read: once, or each time anew.
GOING = """
[ "$1 $2" = "-s list" ] && [ -e /run/going ] && { rm -f /run/going; exec /usr/sbin/nft list table inet gone; }
exec /usr/sbin/nft "$@"
"""


def test_a_table_that_goes_while_it_is_read(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB)
    host.stand_in("nft", GOING)
    host.sh("touch /run/going")
    assert prove(host, rules=WEB, ports=SOME)["covered"] == {"web": "yes"}
    assert not host.exists("/run/going")
    host.stand_in("nft", GOING.replace("rm -f /run/going;", ""))
    host.sh("touch /run/going")
    with pytest.raises(BackendError, match=r"nft -s list table inet filter failed: .*No such file"):
        prove(host, rules=WEB, ports=SOME)


def test_an_interface_that_is_not_there(host: NetnsHost) -> None:
    with pytest.raises(BackendError, match="interface eth9: not on this host, which has lo, out0, in0"):
        prove(host, ports=SOME, interface="eth9")


def provers() -> list[int]:
    """The processes of provers that are alive."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def traces(host: NetnsHost) -> str:
    """Everything that a proof could leave on the host."""
    state = host.sh("ip -o link; ip address; ip route show table all; find /run /etc -xdev; cat /proc/self/mountinfo")
    return state + host.listing() + host.sh("nft list ruleset")


def test_nothing_is_left_of_many_proofs_some_of_which_are_killed(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB)
    host.sh("iptables -A OUTPUT -p tcp --dport 6 -j DROP; ipset create banned hash:ip")
    before = traces(host)
    chance = draw("killed proofs")
    # Takes minutes: what is gone soon has not just come to its end.
    networks = tuple(f"198.51.{number}.0/24" for number in range(250))
    long = RuleSet.of([Rule("ingress", "udp", "networks", networks, needs=(("web", EVERYWHERE),))])
    for number in range(50 if SOAK else 9):
        if number % 3:
            assert prove(host, ports=PortSet.of(80, 81), families=("ipv4",))["open"]["ipv4"]["egress"]["tcp"] == ["80"]
            continue
        with host.start(PROVER) as prover:
            assert prover.stdin
            prover.stdin.write(asked(rules=long))
            prover.stdin.close()
            time.sleep(chance.uniform(0, 1.5))
            prover.kill()
    deadline = time.monotonic() + 20
    while provers():
        assert time.monotonic() < deadline, "a process of a proof that was killed is still there"
        time.sleep(0.05)
    assert traces(host) == before


def test_the_sides_of_a_gateway_can_be_zones(routed: NetnsHost) -> None:
    NFTABLES.close(routed)
    rules = WEB.placed(["gateway"], BOTH_WAYS)
    routed.apply(rules)
    routed.stand_in(
        "firewall-cmd",
        'case "$1 $2" in "--zone=lan --list-interfaces") echo in0 ;; "--zone=lan --list-sources") echo ipset:x ;;'
        '"--zone=wan --list-interfaces") ;; "--zone=wan --list-sources") echo 198.51.100.0/24 2001:db8:7::/48 ;;'
        "*) echo INVALID_ZONE >&2; exit 112 ;; esac",
    )
    zones = Passage((Side("zone", "lan"),), (Side("zone", "wan"),))
    proof = prove(routed, placements=("gateway",), passage=zones, rules=rules, ports=SOME)
    assert proof["open"] == as_written(rules, SOME)
    with pytest.raises(BackendError, match="zone dmz: firewall-cmd says INVALID_ZONE"):
        prove(routed, placements=("gateway",), passage=Passage((Side("zone", "dmz"),)), ports=SOME)


def test_a_table_that_a_program_owns_is_copied(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB)
    table = "add table inet owned { flags owner; chain o { type filter hook output priority 5; tcp dport 80 drop; }; }"
    with host.owner(table):
        proof = prove(host, rules=WEB, ports=SOME)
    assert proof["missing"]["ipv6"]["egress"] == {"tcp": ["80"], "udp": []}
    assert {drop["where"] for drop in proof["dropped_by"]} == {"nft inet owned o: tcp dport 80 drop"}


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (
            "bridge b { chain o { type filter hook output priority 0; ether type ip udp dport 3478 drop; }; }",
            "bridge b",
        ),
        (
            "netdev n { chain i { type filter hook ingress device in0 priority 0; udp dport 3478 drop; }; }",
            "netdev n",
        ),
    ],
)
def test_what_lies_beneath_an_interface_is_unknown(routed: NetnsHost, table: str, name: str) -> None:
    routed.sh("ip link add br0 type bridge; ip link set in0 master br0; ip link set br0 up")
    routed.nft(f"table {table}")
    elsewhere = prove(routed, ports=SOME, families=("ipv4",))
    assert (elsewhere["unknown"], elsewhere["open"]["ipv4"]["egress"]["udp"]) == ({"ipv4": NONE["ipv4"]}, SOME.texts())
    found = prove(routed, ports=SOME, families=("ipv4",), interface="br0", far=("44.1.1.1",))
    assert found["open"] == {"ipv4": NONE["ipv4"]}
    assert found["unknown"]["ipv4"]["egress"]["udp"] == found["unknown"]["ipv4"]["ingress"]["tcp"] == SOME.texts()
    assert [(item["where"], item["what"]) for item in found["not_modelled"]] == [
        (f"nft {name}", "what lies beneath br0")
    ]


def test_what_ipsec_does_is_unknown(host: NetnsHost) -> None:
    host.sh("ip xfrm policy add dir out src 0.0.0.0/0 dst 0.0.0.0/0 proto udp action block")
    found = prove(host, ports=SOME, families=("ipv4",))
    assert found["open"] == {"ipv4": NONE["ipv4"]}
    assert found["unknown"]["ipv4"]["egress"]["udp"] == SOME.texts()
    assert [item["where"] for item in found["not_modelled"]] == ["IPsec"]


@pytest.mark.parametrize(
    "contents",
    [
        "flags dynamic; elements = { 443 limit rate 1/minute, 80 };",
        "flags dynamic; limit rate 1/minute; elements = { 443 };",
    ],
)
def test_elements_with_a_limit_are_unknown(host: NetnsHost, contents: str) -> None:
    chain = "chain o { type filter hook output priority 0; policy drop; tcp dport @s accept; }"
    host.nft(f"table inet f {{ set s {{ type inet_service; {contents} }}; {chain}; }}")
    found = prove(host, ports=SOME, families=("ipv4",))
    assert found["open"]["ipv4"]["egress"]["tcp"] == []
    assert found["unknown"]["ipv4"]["egress"]["tcp"] == SOME.texts()


def test_ways_that_hang_on_port_or_user_are_unknown(routed: NetnsHost) -> None:
    routed.sh(
        "ip rule add ipproto udp dport 3478-3479 prohibit; ip rule add ipproto tcp prohibit;"
        "ip -6 rule add uidrange 1234-1234 prohibit"
    )
    proof = prove(routed, ports=SOME)
    assert proof["unknown"] == {
        "ipv4": {"egress": {"tcp": SOME.texts(), "udp": ["3478-3479"]}, "ingress": NONE["ipv4"]["ingress"]},
        "ipv6": {"egress": dict.fromkeys(("tcp", "udp"), SOME.texts()), "ingress": NONE["ipv6"]["ingress"]},
    }
    assert "policy rules: ipv4 egress udp 3478-3479" in {item["rule"] for item in proof["not_modelled"]}
    assert prove(routed, ports=SOME, user=1234)["unknown"]["ipv6"] == NONE["ipv6"]


@pytest.mark.parametrize(
    "script",
    [
        "iptables -t mangle -A OUTPUT -p udp --dport 3478 -m owner --uid-owner 1234 -j MARK --set-mark 1",
        "nft 'table ip m { chain o { type route hook output priority -150;"
        "udp dport 3478 meta skuid 1234 meta mark set 1; }; }'",
        "nft 'table ip m { chain o { type route hook output priority -150;"
        "udp dport 3478 meta skuid 1234 meta mark set 1 accept; }; }'",
    ],
)
def test_a_way_that_hangs_on_a_mark_in_doubt_is_unknown(routed: NetnsHost, script: str) -> None:
    routed.sh(f"{script}; ip rule add fwmark 1 prohibit")
    proof = prove(routed, ports=SOME, families=("ipv4",))
    egress = {"tcp": [], "udp": ["3478"]}
    assert proof["unknown"] == {"ipv4": {"egress": egress, "ingress": NONE["ipv4"]["ingress"]}}
    assert prove(routed, ports=SOME, families=("ipv4",), user=1234)["unknown"] == {"ipv4": NONE["ipv4"]}


def test_a_table_at_rest_decides_nothing(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB)
    host.nft("table inet rest { flags dormant; chain o { type filter hook output priority 5; policy drop; }; }\n")
    assert prove(host, rules=WEB, ports=SOME)["covered"] == {"web": "yes"}


def test_a_door_of_a_device_is_copied(routed: NetnsHost) -> None:
    routed.nft("table netdev d { chain i { type filter hook ingress device out0 priority 0; udp dport 5 drop; }; }\n")
    found = prove(routed, ports=PortSet.of((1, 9)), families=("ipv4",))["open"]["ipv4"]
    assert found["ingress"] == {"tcp": ["1-9"], "udp": ["1-4", "6-9"]}
