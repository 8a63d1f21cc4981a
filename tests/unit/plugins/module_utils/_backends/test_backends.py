# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend promises, on real firewalls: convergence, the way back, drift, and leaving others alone."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import (
    Passage,
    Rule,
    RuleSet,
    Side,
    normalise_networks,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from netns import FIREWALLS, IPTABLES, LEGACY, NFTABLES, Firewall, NetnsHost, rule_set

HUNDRED_RANGES = [f"{low}-{low + 1}/udp" for low in range(20000, 21000, 10)]
NETWORKS = ["192.0.2.0/24", "198.51.100.7", "203.0.113.0/25", "2001:db8::/32", "fd00::1"]

INTERFACES = Passage(inside=(Side("interface", "in0"),), outside=(Side("interface", "out0"),))
ALL_SIDES = Passage(
    inside=(Side("interface", "in0"), Side("source", "10.0.0.0/8"), Side("source", "fd01::/16")),
    outside=(Side("interface", "out0"), Side("source", "198.51.100.0/24")),
    targets=("10.0.0.5/32", "10.0.0.64/26", "fd01::5/128"),
)
IPV4_SIDES = Passage(inside=(Side("source", "10.0.0.0/8"),), targets=("10.0.0.5/32", "fd01::5/128"))

REQUESTS = {
    "web": rule_set("web"),
    "all": rule_set(),
    "recording": rule_set("recording"),
    "networks": rule_set("recording", ingress_from=NETWORKS),
    "ipv6-networks": rule_set("recording", "web", ingress_from=["2001:db8::/32", "2001:db9::/32"]),
    "everywhere": rule_set("recording", ingress_from=["0.0.0.0/0", "::/0"]),
    "everywhere-ipv4": rule_set("recording", ingress_from=["0.0.0.0/0"]),
    "differing": RuleSet.of(
        [
            Rule("ingress", "udp", needs=(("web", PortSet.of(1)),)),
            Rule("ingress", "udp", "networks", ("192.0.2.0/24",), needs=(("web", PortSet.of(2)),)),
            Rule("ingress", "udp", "networks", ("2001:db8::/32",), needs=(("web", PortSet.of(3)),)),
            Rule("egress", "udp", "networks", ("198.51.100.0/24",), needs=(("web", PortSet.of(2)),)),
        ]
    ),
    "slots": rule_set("native", extra_ports=HUNDRED_RANGES),
    "gateway": rule_set().placed(["gateway"], INTERFACES),
    "host-and-gateway": rule_set(ingress_from=NETWORKS).placed(["host", "gateway"], ALL_SIDES),
    "ipv4-networks-through-all-sides": RuleSet.of(
        [Rule("egress", "tcp", "networks", ("192.0.2.0/24",), needs=(("web", PortSet.of(443)),))]
    ).placed(["gateway"], ALL_SIDES),
    "ipv4-gateway": rule_set("recording").placed(["gateway"], IPV4_SIDES),
    "ipv4-gateway-and-host": rule_set("recording").placed(["gateway", "host"], IPV4_SIDES),
}
requests = pytest.mark.parametrize("rules", REQUESTS.values(), ids=REQUESTS.keys())

OWN_NFT = """
table inet mine {
    counter seen { comment "kept"; }
    set banned { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 } }
    map ways { type inet_service : verdict; elements = { 22 : jump management, 25 : drop } }
    chain management { ip saddr @banned drop comment "the operators' wish"; }
    chain in { type filter hook input priority 10; policy drop; tcp dport vmap @ways; jump management; }
    chain out { type filter hook output priority 10; policy drop; oif "lo" accept comment "openly 'quoted'"; }
}
table inet f2b-table {
    set addr-set-sshd { type ipv4_addr; elements = { 203.0.113.5 }; }
    chain f2b-chain {
        type filter hook input priority -1; policy accept;
        tcp dport 22 ip saddr @addr-set-sshd reject with icmp type port-unreachable
    }
}
"""

OWN_IPTABLES = r"""
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER-USER - [0:0]
:it's - [0:0]
:f2b-sshd - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -p tcp -m tcp --dport 0:1023 -j LOG --log-prefix "- ! \"-j\" "
-A INPUT -p tcp -m tcp --dport 0 -j DROP
-A OUTPUT -m comment --comment "it's -j openly \"quoted\" - ! -p" -j it's
-A f2b-sshd -s 203.0.113.5/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""


def live(host: NetnsHost) -> tuple[Rule, ...]:
    return look(host).rules.rules


def meaning(rules: RuleSet) -> dict[tuple[t.Any, ...], PortSet]:
    """Which ports are open for each SDK and network; iptables does not keep apart rules that name the same ports."""
    ports: dict[tuple[t.Any, ...], PortSet] = {}
    for rule in rules:
        for network in rule.networks or ("any",):
            for sdk, needed in rule.needs:
                key = (rule.direction, rule.protocol, network, sdk, rule.passage)
                ports[key] = ports.get(key, PortSet()) | needed
    return ports


def settle(host: NetnsHost, firewall: Firewall, rules: RuleSet) -> None:
    """Bring the host to these rules and check that it then is there by every account."""
    planned = prepare(host, rules, backend=firewall.backend).plan
    host.carry_out(planned.steps)
    again = prepare(host, rules, backend=firewall.backend).plan
    assert again.steps == ()
    assert again.text() == ""
    assert meaning(again.before) == meaning(again.after) == meaning(rules)
    listing = host.listing()
    assert host.boot() == ""
    assert host.listing() == listing


@requests
def test_a_host_converges_and_comes_back(closed: NetnsHost, firewall: Firewall, rules: RuleSet) -> None:
    before = closed.listing()
    settle(closed, firewall, rules)
    assert live(closed) == rules.rules
    listing = closed.listing()
    firewall.forget(closed)
    assert live(closed) == ()
    closed.boot()
    assert closed.listing() == listing
    closed.apply(None)
    assert closed.listing() == before


PORTS = st.tuples(st.integers(1, 65535), st.integers(0, 300)).map(lambda pair: (pair[0], min(sum(pair), 65535)))
PORT_SETS = st.lists(PORTS, min_size=1, max_size=20).map(lambda ranges: PortSet.of(*ranges))
SCOPES = st.one_of(
    st.just(()),
    st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=4).map(normalise_networks),
)
RULES = st.builds(
    lambda direction, protocol, networks, needs: Rule(
        direction, protocol, "networks" if networks else "any", networks, needs=tuple(needs.items())
    ),
    st.sampled_from(["egress", "ingress"]),
    st.sampled_from(["tcp", "udp"]),
    SCOPES,
    st.dictionaries(st.sampled_from(["web", "native", "extra", "a_1"]), PORT_SETS, min_size=1, max_size=3),
)
RULE_SETS = st.builds(
    lambda rules, placements, passage: RuleSet.of(rules).placed(placements, passage),
    st.lists(RULES, min_size=1, max_size=6),
    st.sets(st.sampled_from(["host", "gateway"]), min_size=1),
    st.sampled_from([INTERFACES, ALL_SIDES, IPV4_SIDES]),
).filter(lambda rules: rules.rules)


@pytest.mark.parametrize("firewall", FIREWALLS, ids=lambda firewall: firewall.name)
@settings(max_examples=4)
@given(sets=st.lists(RULE_SETS, min_size=2, max_size=2))
def test_any_rules_after_any_others(firewall: Firewall, sets: list[RuleSet]) -> None:
    with NetnsHost() as host:
        firewall.close(host)
        before = host.listing()
        for rules in sets:
            settle(host, firewall, rules)
        firewall.forget(host)
        host.boot()
        assert prepare(host, sets[-1], backend=firewall.backend).plan.steps == ()
        host.apply(None)
        assert host.listing() == before


def furnish(host: NetnsHost) -> None:
    """Fill a host with what others may have there, in both kinds of tables."""
    host.nft(OWN_NFT)
    host.sh("iptables-restore --noflush", stdin=OWN_IPTABLES)
    host.sh("ip6tables -P INPUT DROP; ip6tables -A INPUT -p ipv6-icmp -j ACCEPT")
    host.put("/etc/iptables/rules.v4", "not ours\n")


def test_neighbours_stay_as_they_were(closed: NetnsHost, firewall: Firewall) -> None:
    furnish(closed)
    before = closed.listing()
    for rules in (rule_set(), rule_set("web"), rule_set("recording", ingress_from=["192.0.2.0/24"])):
        settle(closed, firewall, rules)
        # Each of their lines is still there, in the same order.
        lines = iter(closed.listing().splitlines())
        assert [line for line in before.splitlines() if line not in lines] == []
    closed.apply(None)
    assert closed.listing() == before


def test_a_virgin_host_is_one_again(host: NetnsHost) -> None:
    before = host.listing()
    for backend in ("iptables", "nftables", "iptables"):
        prepared = host.apply(rule_set(), backend)
        assert prepared.effective == "nothing_to_open"
        assert prepare(host, rule_set(), backend=backend).plan.steps == ()
    assert host.listing() != before
    host.apply(None)
    assert host.listing() == before


def test_the_backend_can_change(closed: NetnsHost) -> None:
    NFTABLES.close(closed)
    before = closed.listing()
    for backend in ("iptables", "nftables", "iptables"):
        closed.apply(rule_set("web"), backend)
        assert look(closed).backends == (backend,)
        assert prepare(closed, rule_set("web"), backend=backend).plan.steps == ()
    closed.apply(None)
    assert closed.listing() == before


# The chain as it is on such a host, with a condition before its first rule.
OUTPUT_OF_RECORDING = """
flush chain inet filter openagora_output
add rule inet filter openagora_output {} tcp dport @openagora_recording_egress_tcp accept comment "openagora recording"
add rule inet filter openagora_output udp dport @openagora_recording_egress_udp accept comment "openagora recording"
add rule inet filter openagora_output ct state established ct direction reply \\
    udp sport @openagora_recording_ingress_udp accept comment "openagora recording"
add rule inet filter openagora_output meta l4proto {{ icmp, icmpv6 }} ct state related accept comment "openagora"
"""

# What somebody may do by hand to what is ours, on a host that holds `REQUESTS["recording"]`.
BY_HAND = {
    "rule-deleted": {
        "nftables": "flush chain inet filter openagora_output",
        "iptables": "iptables -D openagora-output 1",
    },
    "rule-added": {
        "nftables": "add rule inet filter openagora_output ip daddr { 192.0.2.1, 192.0.2.9 } tcp dport 25 "
        'counter accept comment "by hand"',
        "iptables": 'iptables -I openagora-output 2 -d 192.0.2.1 -m comment --comment "by \\"hand\\"" -j DROP',
    },
    "rule-edited": {
        "nftables": "insert rule inet filter openagora_output tcp dport @openagora_recording_egress_tcp drop",
        "iptables": "iptables -R openagora-output 1 -p tcp -m multiport --dports 1 -j ACCEPT",
    },
    "networks-narrowed": {
        "nftables": "insert rule inet filter openagora_output ip daddr 192.0.2.1 "
        'tcp dport @openagora_recording_egress_tcp accept comment "openagora recording"',
        "iptables": "iptables -R openagora-output 1 -d 192.0.2.1 -p tcp -m multiport --dports 1080,8000 "
        '-m comment --comment "openagora recording" -j ACCEPT',
    },
    "rule-with-a-condition": {
        "nftables": OUTPUT_OF_RECORDING.format("ip daddr != 192.0.2.1"),
        "iptables": "iptables -R openagora-output 1 -o lo -p tcp -m multiport --dports 1080,8000 "
        '-m comment --comment "openagora recording" -j ACCEPT',
    },
    "rule-for-a-state": {
        "nftables": OUTPUT_OF_RECORDING.format("ct state new"),
        "iptables": "iptables -R openagora-output 1 -p tcp -m multiport --dports 1080,8000 "
        '-m conntrack --ctstate NEW -m comment --comment "openagora recording" -j ACCEPT',
    },
    "rule-for-an-interface": {
        "nftables": OUTPUT_OF_RECORDING.format('oifname "lo"'),
        "iptables": "iptables -R openagora-output 1 -p tcp -m multiport --dports 1080,8000 "
        '-m comment --comment "openagora recording" -j RETURN',
    },
    "ports-removed": {
        "nftables": "delete element inet filter openagora_recording_egress_tcp { 1080 }",
        "iptables": "iptables -R openagora-output 1 -p tcp -m multiport --dports 8000 "
        '-m comment --comment "openagora recording" -j ACCEPT',
    },
    "ports-added": {
        "nftables": "add element inet filter openagora_recording_ingress_udp { 22 }",
        "iptables": "iptables -A openagora-input -p tcp --dport 22 "
        '-m comment --comment "openagora recording" -j ACCEPT',
    },
    "jump-deleted": {
        "nftables": "flush chain inet filter output",
        "iptables": "iptables -D OUTPUT 1",
    },
    "jump-twice": {
        "nftables": "add rule inet filter output jump openagora_output",
        "iptables": "iptables -A OUTPUT -m comment --comment openagora -j openagora-output",
    },
    "jump-with-a-condition": {
        "nftables": "flush chain inet filter output; "
        'add rule inet filter output ip daddr 192.0.2.1 oif "lo" counter jump openagora_output comment "openagora"',
        "iptables": "iptables -R OUTPUT 1 -d 192.0.2.1 -o lo -m comment --comment openagora -j openagora-output",
    },
    "jump-to-the-wrong-chain": {
        "nftables": "flush chain inet filter output; add rule inet filter output jump openagora_input",
        "iptables": "iptables -R OUTPUT 1 -m comment --comment openagora -j openagora-input",
    },
    "jump-behind-a-drop": {
        "nftables": "insert rule inet filter output drop",
        "iptables": "iptables -I OUTPUT -j DROP",
    },
    "jump-between-drops": {
        "nftables": "insert rule inet filter output drop; insert rule inet filter output accept; "
        "add rule inet filter output udp dport 5 drop",
        "iptables": "iptables -I OUTPUT -j DROP; iptables -I OUTPUT -j ACCEPT; "
        "iptables -A OUTPUT -p udp --dport 5 -j DROP",
    },
    "chain-elsewhere": {
        "nftables": "add chain inet filter openagora_more; add rule inet filter openagora_more counter accept "
        'comment "openagora more"',
        "iptables": 'iptables -N openagora-more; iptables -A openagora-more -m comment --comment "openagora" -j ACCEPT',
    },
    "set-of-old": {
        "nftables": "add set inet filter openagora_old_egress_tcp { type inet_service; flags interval; "
        "elements = { 1-9, 80 }; }",
        "iptables": "iptables -N openagora-old; "
        'iptables -A openagora-old -m comment --comment "openagora web" -j RETURN',
    },
}


BY_HAND["odd-matches"] = {
    "nftables": "insert rule inet filter openagora_output tcp flags & (syn | ack) == syn drop; "
    "insert rule inet filter openagora_output ip daddr . tcp dport { 192.0.2.1 . 80 } drop; "
    "insert rule inet filter openagora_output @nh,0,8 1 counter",
    "iptables": "iptables -I openagora-output -p tcp --tcp-flags SYN,ACK SYN -j DROP",
}
BY_HAND["jump-from-a-chain-of-others"] = {
    "nftables": "add chain inet filter theirs; add rule inet filter theirs udp dport 9 goto openagora_output; "
    "add rule inet filter theirs accept",
    "iptables": "iptables -N theirs; iptables -A theirs -p udp -g openagora-output; iptables -A theirs -j ACCEPT",
}

# After these, packets no longer meet all that is ours.
CLOSED_BY_HAND = (
    "rule-deleted",
    "rule-with-a-condition",
    "rule-for-a-state",
    "rule-for-an-interface",
    "ports-removed",
    "jump-deleted",
    "jump-with-a-condition",
    "jump-to-the-wrong-chain",
    "jump-behind-a-drop",
)

# The legacy commands print the same format; a few will do.
FEW = ("rule-added", "jump-twice", "jump-between-drops")


@pytest.fixture(
    params=[
        pytest.param((firewall, name), id=f"{firewall.name}-{name}")
        for firewall in FIREWALLS
        for name in (FEW if firewall.legacy else BY_HAND)
    ]
)
def by_hand(request: pytest.FixtureRequest, host: NetnsHost) -> tuple[NetnsHost, Firewall, str]:
    """A host on which somebody has changed what is ours, its kind of firewall, and what was done."""
    firewall, name = request.param
    command = BY_HAND[name][firewall.backend]
    firewall.close(host)
    host.apply(REQUESTS["recording"], firewall.backend)
    if firewall.backend == "nftables":
        host.nft(command)
    else:
        host.sh(command)
    return host, firewall, name


def test_what_was_changed_by_hand_is_put_right(by_hand: tuple[NetnsHost, Firewall, str]) -> None:
    host, firewall, name = by_hand
    before = host.objects()
    assert name not in CLOSED_BY_HAND or live(host) != REQUESTS["recording"].rules
    for rules in (REQUESTS["recording"], rule_set("web"), None):
        planned = host.apply(rules, firewall.backend).plan
        assert host.objects() != before
        host.undo(planned.steps)
        assert host.objects() == before
    settle(host, firewall, REQUESTS["recording"])


# What somebody may do by hand on a host that holds `REQUESTS["gateway"]`; each closes something for machines inside.
GATEWAY_BY_HAND = {
    "jump-deleted": ("flush chain inet filter forward", "iptables -D FORWARD 1"),
    "one-way-only": (
        "flush chain inet filter openagora_forward; add rule inet filter openagora_forward "
        'iifname "in0" oifname "out0" jump openagora_forward_out comment "openagora"',
        "ip6tables -D openagora-forward 2",
    ),
    "sides-changed": (
        "flush chain inet filter openagora_forward; add rule inet filter openagora_forward "
        'iifname "out0" oifname "in0" jump openagora_forward_out comment "openagora"',
        "iptables -R openagora-forward 1 -i in0 -o lo -m comment --comment openagora -j openagora-forward-out",
    ),
    "a-drop-between": (
        "insert rule inet filter openagora_forward ip daddr 192.0.2.1 counter drop",
        "ip6tables -I openagora-forward -j DROP",
    ),
    "replies-deleted": ("flush chain inet filter openagora_forward_in", "iptables -F openagora-forward-in"),
    "a-drop-before": ("insert rule inet filter forward tcp dport 443 drop", "ip6tables -I FORWARD -p udp -j DROP"),
}


@pytest.mark.parametrize("name", GATEWAY_BY_HAND)
@pytest.mark.parametrize("firewall", [NFTABLES, IPTABLES], ids=lambda firewall: firewall.name)
def test_a_gateway_that_was_changed_by_hand_is_put_right(host: NetnsHost, firewall: Firewall, name: str) -> None:
    rules = REQUESTS["gateway"]
    nft, iptables = GATEWAY_BY_HAND[name]
    firewall.close(host)
    host.apply(rules, firewall.backend)
    if firewall.backend == "nftables":
        host.nft(nft)
    else:
        host.sh(iptables)
    assert live(host) != rules.rules
    before = host.objects()
    planned = host.apply(rules, firewall.backend).plan
    host.undo(planned.steps)
    assert host.objects() == before
    settle(host, firewall, rules)
    assert live(host) == rules.rules


SIDES = {
    "interface": (Side("interface", "eth7"), r"^inside and outside of the gateway: interface eth7: not on this host"),
    "zone": (Side("zone", "home"), r"zone home: backend \w+ has no zones; name the interface"),
}


@pytest.mark.parametrize(("side", "message"), SIDES.values(), ids=SIDES.keys())
def test_sides_that_are_not_there(closed: NetnsHost, firewall: Firewall, side: Side, message: str) -> None:
    before = closed.listing()
    for passage in (Passage((side,)), Passage((Side("interface", "in0"),), (side,))):
        with pytest.raises(BackendError, match=message):
            closed.apply(rule_set("web").placed(["gateway"], passage), firewall.backend)
    assert closed.listing() == before


def test_a_gateway_that_forwards_nothing_is_told_so(closed: NetnsHost, firewall: Firewall) -> None:
    def told(rules: RuleSet) -> list[str]:
        notices = prepare(closed, rules, backend=firewall.backend).notices
        return [notice.where for notice in notices if notice.code == "not_forwarding"]

    closed.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
    assert told(REQUESTS["gateway"]) == ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    assert told(REQUESTS["ipv4-gateway"]) == ["net.ipv4.ip_forward"]
    assert told(REQUESTS["all"]) == []
    closed.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    assert told(REQUESTS["gateway"]) == []


def test_comments_of_others_may_say_anything(closed: NetnsHost, firewall: Firewall) -> None:
    comments = (
        "ssh, before jump openagora_output",
        'jump openagora_output comment "openagora" # handle 3',
        "-j openagora-output",
    )
    for comment in comments:
        text = comment.replace('"', "'")
        rule = f'tcp dport 22 accept comment "{text}"'
        if firewall.backend == "iptables":
            rule = f'-p tcp --dport 22 -m comment --comment "{text}" -j ACCEPT'
        firewall.insert(closed, "output", rule)
    before = closed.listing()
    planned = closed.apply(rule_set("web"), firewall.backend).plan
    lines = iter(closed.listing().splitlines())
    assert [line for line in before.splitlines() if line not in lines] == []
    closed.undo(planned.steps)
    assert closed.listing() == before
    settle(closed, firewall, rule_set("web"))
    closed.apply(None)
    assert closed.listing() == before


def test_what_is_open_in_one_family_only_is_seen_to_close(host: NetnsHost) -> None:
    IPTABLES.close(host)
    host.apply(rule_set("web", "signaling"), "iptables")
    host.sh("ip6tables -F openagora-output")
    host.sh(
        'iptables -A openagora-output -p tcp -m multiport --dports 22 -m comment --comment "openagora extra" -j ACCEPT'
    )
    lines = prepare(host, rule_set("web"), backend="iptables").plan.text().splitlines()
    assert {"- egress tcp 22 (extra)", "- egress tcp 8001-8199 (signaling)", "+ egress tcp 443 (web)"} <= set(lines)


OVERRIDDEN = {
    "nftables": ("tcp dport { 25, 443 } drop", "nftables table inet filter chain output"),
    "iptables": ("-p tcp -m multiport --dports 25,443 -j REJECT", "iptables chain OUTPUT"),
}


def test_an_explicit_deny_that_is_overridden_is_told(closed: NetnsHost, firewall: Firewall) -> None:
    rule, where = OVERRIDDEN[firewall.backend]
    firewall.insert(closed, "output", rule)

    def told(*sdks: str) -> list[tuple[str, str]]:
        notices = prepare(closed, rule_set(*sdks), backend=firewall.backend).notices
        return [(notice.where, notice.message) for notice in notices if notice.code == "deny_overridden"]

    ((place, message),) = told("web")
    assert place == where
    assert message.startswith("a rule here denies tcp to 25, 443, and ours comes before it")
    assert told("gaming") == []


# Rules that drop what goes beyond a rate, a number or an amount.
LIMITED = {
    "nftables": (
        "tcp dport 443 limit rate over 10/second drop",
        "tcp dport 443 meter flood { ip daddr limit rate over 10/second } drop",
        "tcp dport 443 add @met { ip daddr limit rate over 10/second } drop",
        "tcp dport 443 update @met { ip daddr ct count over 3 } reject",
        "tcp dport 443 add @met { ip daddr quota over 5 mbytes } drop",
        "tcp dport @slow drop",
    ),
    "iptables": (
        "-p tcp --dport 443 -m hashlimit --hashlimit-above 10/second --hashlimit-name x -j DROP",
        "-p tcp --dport 443 -m connlimit --connlimit-above 3 -j REJECT",
        "-p tcp --dport 443 -m recent --update --seconds 30 --hitcount 6 -j DROP",
        "-p tcp --dport 443 -m limit --limit 3/min -j DROP",
    ),
}


def test_a_limit_is_no_deny(closed: NetnsHost, firewall: Firewall) -> None:
    if firewall.backend == "nftables":
        closed.nft("add set inet filter met { type ipv4_addr; flags dynamic; size 99; }")
        limited = "flags dynamic; elements = { 443 limit rate over 10/second };"
        closed.nft(f"add set inet filter slow {{ type inet_service; {limited} }}")
    for rule in LIMITED[firewall.backend]:
        firewall.insert(closed, "output", rule)

    def told() -> list[str]:
        notices = prepare(closed, rule_set("web"), backend=firewall.backend).notices
        return [notice.where for notice in notices if notice.code == "deny_overridden"]

    assert told() == []
    # What adds to a set without a limit drops all.
    if firewall.backend == "nftables":
        firewall.insert(closed, "output", "tcp dport 443 add @met { ip daddr } drop")
        assert told() == ["nftables table inet filter chain output"]


def test_a_first_plan_can_be_undone(closed: NetnsHost, firewall: Firewall) -> None:
    furnish(closed)
    before = closed.listing()
    planned = closed.apply(REQUESTS["networks"], firewall.backend).plan
    assert closed.listing() != before
    closed.undo(planned.steps)
    assert closed.listing() == before


# Rules of others that come to stand before our jump from the hook output, on a host that needs `web` and `recording`.
# Of what they drop, 443 and 3478 are needed.
CLOSING = {
    "a-port": ("tcp dport 443 drop", "-p tcp --dport 443 -j DROP"),
    "with-a-comment": (
        'tcp dport 443 counter drop comment "x"',
        '-p tcp --dport 443 -m comment --comment "x y" -j DROP',
    ),
    "reject": ("udp dport 3478 reject", "-p udp --dport 3478 -j REJECT"),
    "reset": ("tcp dport 443 reject with tcp reset", "-p tcp --dport 443 -j REJECT --reject-with tcp-reset"),
    "a-range": ("udp dport 0-3500 drop", "-p udp --dport :3500 -j DROP"),
    "a-list": ("tcp dport { 22, 400-500 } drop", "-p tcp -m multiport --dports 22,400:500 -j DROP"),
    "all-ports-but-one": ("tcp dport != 22 drop", "-p tcp ! --dport 22 -j DROP"),
    "all-ports-but-a-list": (
        "tcp dport != { 0, 22, 25 } drop",
        "-p tcp -m multiport ! --dports 0,22,25 -j DROP",
    ),
    "a-protocol": ("meta l4proto udp drop", "-p udp -j DROP"),
    "all-protocols-but-one": ("meta l4proto != udp drop", "! -p udp -j DROP"),
    "all-protocols-but-icmp": ("meta l4proto != icmp drop", "! -p icmp -j DROP"),
    "everything": ("drop", "-j DROP"),
    "an-interface": ('oifname "eth0" drop', "-o eth0 -j DROP"),
    "all-but-loopback": ('oif != "lo" drop', "! -o lo -j DROP"),
    "new-connections": ("ct state new drop", "-m conntrack --ctstate NEW -j DROP"),
    "new-and-invalid": ("ct state { new, invalid } drop", "-m state --state INVALID,NEW -j DROP"),
    "all-but-established": (
        "ct state != { established, related } drop",
        "-m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP",
    ),
    "replies": ("udp sport 4000 drop", "-p udp --sport 4000 -j DROP"),
    "a-chain": ("jump theirs", "-j theirs"),
    "a-chain-by-goto": ("meta l4proto tcp goto theirs", "-p tcp -g theirs"),
}

CLOSING_NFT = {
    "ports-of-any-protocol": "meta l4proto { tcp, udp } th dport 443 drop",
    "raw-payload": "@th,16,16 443 drop",
    "protocol-of-ipv4": "ip protocol tcp drop",
    "protocol-of-ipv6": "ip6 nexthdr { 6, 58 } drop",
    "lower-ports": "tcp dport < 1024 drop",
    "upper-ports": "tcp dport >= 1024 drop",
    "some-interfaces": 'oifname { "lo", "eth0" } drop',
    "one-family": "meta nfproto ipv6 drop",
    "marked": "tcp dport 443 meta mark set 1 counter log drop",
    "verdict-map": "tcp dport vmap { 22 : accept, 400-500 : drop }",
    "verdict-map-to-a-chain": "meta l4proto vmap { tcp : jump theirs, udp : accept }",
    "verdict-map-rest": "udp dport vmap { 22 : accept, * : drop }",
    "verdict-map-of-states": "ct state vmap { established : accept, new : drop }",
    "verdict-map-of-pairs": 'oifname . tcp dport vmap { "eth0" . 443 : drop, "lo" . 22 : accept }',
    "named-verdict-map": "tcp dport vmap @ways",
    "named-set-of-ports": "tcp dport @shut drop",
    "not-in-a-named-set": "tcp dport != @open drop",
}

INNOCENT = {
    "an-address": ("ip daddr 192.0.2.1 drop", "-d 192.0.2.1 -j DROP"),
    "an-address-and-port": ("ip daddr 192.0.2.1 tcp dport 443 drop", "-d 192.0.2.1 -p tcp --dport 443 -j DROP"),
    "all-but-an-address": ("ip saddr != 192.0.2.1 drop", "! -s 192.0.2.1 -j DROP"),
    "addresses": ("ip daddr @banned drop", "-m iprange --dst-range 192.0.2.1-192.0.2.9 -j DROP"),
    "loopback": ('oif "lo" drop', "-o lo -j DROP"),
    "invalid": ("ct state invalid drop", "-m conntrack --ctstate INVALID -j DROP"),
    "not-new": ("ct state != { new, established } drop", "-m state ! --state NEW,ESTABLISHED -j DROP"),
    "another-port": ("tcp dport 25 drop", "-p tcp --dport 25 -j DROP"),
    "no-port": ("tcp dport 0 drop", "-p tcp --dport 0 -j DROP"),
    "other-ports": ("udp dport { 1-9, 53 } drop", "-p udp -m multiport --dports 1:9,53 -j DROP"),
    "another-protocol": ("meta l4proto icmp drop", "-p icmp -j DROP"),
    "the-port-of-another-protocol": ("udp dport 443 drop", "-p udp --dport 443 -j DROP"),
    "a-rate": ("limit rate over 9/second drop", "-m limit --limit 9/second -j DROP"),
    "users": ("meta skuid 0 drop", "-m owner --uid-owner 0 -j DROP"),
    "flags": ("tcp flags & (syn | fin) == syn | fin drop", "-p tcp --tcp-flags SYN,FIN SYN,FIN -j DROP"),
    "accept": ("tcp dport 443 accept", "-p tcp --dport 443 -j ACCEPT"),
    "a-chain-for-a-peer": ("ip daddr 192.0.2.1 jump theirs", "-d 192.0.2.1 -j theirs"),
    "a-chain-for-another-protocol": ("meta l4proto icmp jump theirs", "-p icmp -j theirs"),
    "a-chain-for-another-port": ("tcp dport 25 jump theirs", "-p tcp --dport 25 -j theirs"),
    "something-log": ("counter log", "-j LOG"),
}

INNOCENT_NFT = {
    "verdict-map-of-addresses": "ip daddr vmap { 192.0.2.1 : drop, 192.0.2.2 : jump theirs }",
    "verdict-map-of-address-and-port": "ip daddr . tcp dport vmap { 192.0.2.1 . 443 : drop }",
    "verdict-map-of-states": "ct state vmap { established : accept, related : accept, invalid : drop }",
    "verdict-map-of-other-ports": "tcp dport vmap { 25 : drop, 443 : accept }",
    "verdict-map-after-an-address": "ip daddr 192.0.2.1 tcp dport vmap { 443 : drop }",
    "named-verdict-map-of-addresses": "ip daddr vmap @peers",
    "named-set-of-other-ports": "tcp dport @open drop",
    "pairs": "ip daddr . tcp dport { 192.0.2.1 . 443 } drop",
    "more-connections-than": "tcp dport 443 ct count over 90 drop",
    "a-quota": "quota over 9 mbytes drop",
    "broadcast": "fib daddr type broadcast drop",
    "below-the-lowest": "tcp dport < 1 drop",
}

THEIRS_NFT = """
add chain inet filter theirs
add rule inet filter theirs tcp dport 443 drop comment "openly 'theirs'"
add set inet filter banned { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
add set inet filter shut { type inet_service; flags interval; elements = { 53, 400-500 }; }
add set inet filter open { type inet_service; elements = { 22, 25 comment "mail" }; }
add map inet filter ways { type inet_service : verdict; elements = { 25 : accept, 443 comment "x" : jump theirs }; }
add map inet filter peers { type ipv4_addr : verdict; elements = { 192.0.2.1 : drop }; }
"""


def cases(both: dict[str, tuple[str, str]], nft: dict[str, str]) -> t.Any:
    found = [pytest.param(NFTABLES, rule, id=f"nftables-{name}") for name, (rule, _other) in both.items()]
    found += [pytest.param(NFTABLES, rule, id=f"nftables-{name}") for name, rule in nft.items()]
    found += [pytest.param(IPTABLES, rule, id=f"iptables-{name}") for name, (_other, rule) in both.items()]
    # The legacy commands print the same format; a few will do.
    few = list(both.items())[::5]
    found += [pytest.param(LEGACY, rule, id=f"iptables-legacy-{name}") for name, (_other, rule) in few]
    return pytest.mark.parametrize(("standing", "rule"), found, indirect=["standing"])


WEB = rule_set("web", "recording")


@pytest.fixture(scope="module")
def standing_hosts() -> t.Iterator[dict[Firewall, NetnsHost]]:
    with contextlib.ExitStack() as stack:
        yield {firewall: stack.enter_context(NetnsHost()) for firewall in FIREWALLS}


@pytest.fixture
def standing(
    request: pytest.FixtureRequest, standing_hosts: dict[Firewall, NetnsHost]
) -> t.Iterator[tuple[NetnsHost, Firewall]]:
    """A host that holds `WEB`, with things of others that rules can name; the same one for many tests."""
    firewall = request.param
    host = standing_hosts[firewall]
    if not live(host):
        firewall.close(host)
        if firewall.backend == "nftables":
            host.nft(THEIRS_NFT)
        else:
            host.sh("iptables -N theirs; iptables -A theirs -p tcp --dport 443 -j DROP")
        host.apply(WEB, firewall.backend)
    yield host, firewall
    if firewall.backend == "nftables":
        jump = 'jump openagora_output comment "openagora"'
        host.nft(f"flush chain inet filter output; add rule inet filter output {jump}")
    else:
        host.sh("iptables -F OUTPUT; iptables -A OUTPUT -m comment --comment openagora -j openagora-output")


@cases(CLOSING, CLOSING_NFT)
def test_a_drop_before_ours_that_closes_a_needed_port(standing: tuple[NetnsHost, Firewall], rule: str) -> None:
    host, firewall = standing
    firewall.insert(host, "output", rule)
    planned = host.apply(WEB, firewall.backend).plan
    assert planned.steps != ()
    assert planned.before.rules != WEB.rules
    again = prepare(host, WEB, backend=firewall.backend).plan
    assert again.steps == ()
    assert again.before.rules == WEB.rules


@cases(INNOCENT, INNOCENT_NFT)
def test_rules_before_ours_that_close_nothing(standing: tuple[NetnsHost, Firewall], rule: str) -> None:
    host, firewall = standing
    firewall.insert(host, "output", rule)
    planned = prepare(host, WEB, backend=firewall.backend).plan
    assert planned.steps == ()
    assert planned.before.rules == WEB.rules


FOREIGN = {
    "a-chain-with-rules": (
        "add chain inet filter openagora_output; add rule inet filter openagora_output accept",
        "iptables -N openagora-output; iptables -A openagora-output -j ACCEPT",
        r"chain openagora.output in table .*filter carries a name of ours but holds no rule of ours; .*rename",
    ),
    "a-chain-of-ipv6": (
        "add table ip6 x; add chain ip6 x openagora_x; add rule ip6 x openagora_x drop",
        "ip6tables -N openagora-x; ip6tables -A openagora-x -m comment --comment x -j ACCEPT",
        r"chain openagora.x in table .* carries a name of ours",
    ),
    "a-chain-led-to-without-our-mark": (
        "add chain inet filter openagora_output { type filter hook output priority 5; }",
        "iptables -N openagora-input; iptables -A openagora-input -j DROP; iptables -A INPUT -j openagora-input",
        r"chain openagora.\w+ in table .*filter carries a name of ours",
    ),
    "a-set-of-addresses": (
        "add set inet filter openagora_web_egress_tcp { type ipv4_addr; }",
        None,
        "set openagora_web_egress_tcp in table inet filter carries a name of ours but is no set of ours; del",
    ),
    "a-chain-that-others-lead-to": (
        "add chain inet filter openagora_x; add rule inet filter openagora_x tcp dport 9 accept; "
        "add rule inet filter input tcp dport 9 jump openagora_x",
        "iptables -N openagora-x; iptables -A openagora-x -p tcp --dport 9 -j ACCEPT; iptables -A INPUT -j openagora-x",
        r"chain openagora.x in table .*filter carries a name of ours but holds no rule of ours",
    ),
    "a-chain-of-our-own-name-that-others-lead-to": (
        "add chain inet filter openagora_output; add rule inet filter openagora_output tcp dport 9 accept; "
        "add rule inet filter input tcp dport 9 jump openagora_output",
        "iptables -N openagora-output; iptables -A openagora-output -j ACCEPT; iptables -A INPUT -j openagora-output",
        r"chain openagora.output in table .*filter carries a name of ours but holds no rule of ours",
    ),
    "a-comment-that-begins-alike": (
        'add chain inet filter openagora_x; add rule inet filter openagora_x accept comment "openagoraphobia"',
        "iptables -N openagora-x; iptables -A openagora-x -m comment --comment openagoraphobia -j ACCEPT",
        r"chain openagora.x in table .*filter carries a name of ours but holds no rule of ours",
    ),
    "an-empty-chain": (
        "add chain inet filter openagora_x",
        "iptables -N openagora-x",
        r"chain openagora.x in table .*filter carries a name of ours but holds no rule of ours",
    ),
    "a-set-of-ports": (
        "add set inet filter openagora_ports { type inet_service; flags interval; elements = { 22, 25 }; }",
        None,
        "set openagora_ports in table inet filter carries a name of ours but is no set of ours",
    ),
    "a-set-with-a-timeout": (
        "add set inet filter openagora_web_egress_tcp { type inet_service; flags interval, timeout; }",
        None,
        "set openagora_web_egress_tcp in table inet filter carries a name of ours but is no set of ours",
    ),
    "a-map": (
        "add map inet filter openagora_x { type inet_service : verdict; }",
        None,
        "openagora_x in table inet filter",
    ),
}


@pytest.mark.parametrize(("nft", "iptables", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_objects_with_our_names(
    closed: NetnsHost, firewall: Firewall, nft: str, iptables: str | None, message: str
) -> None:
    if firewall.backend == "nftables":
        closed.nft(nft)
    elif iptables:
        closed.sh(iptables)
    else:
        return
    before = closed.listing()
    for rules in (rule_set("web"), None):
        with pytest.raises(BackendError, match=message):
            closed.apply(rules, firewall.backend)
    with pytest.raises(BackendError, match=message):
        look(closed)
    assert closed.listing() == before
