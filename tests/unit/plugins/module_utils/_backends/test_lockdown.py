# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lockdown: what leaves a host, shown by real packets, and that it comes and goes without a trace."""

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, RuleSet, Side
from netns import FIREWALLS, IPTABLES, LEGACY, NFTABLES, Firewall, NetnsHost, rule_set

ALLOWED = ["192.0.2.64/26", "2001:db8:7::/48", "123/tcp", "5000-5010/udp", "user:backup"]

_WIRE = """
ip link set lo up; ip link set in0 up; ip link set out0 up
ip addr add 192.0.2.1/24 dev in0; ip -6 addr add 2001:db8::1/64 dev in0 nodad
ip route add default via 192.0.2.254 dev in0; ip -6 route add default via 2001:db8::fe dev in0
ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 dev in0; ip neigh add 2001:db8::fe lladdr 02:00:00:00:00:01 dev in0
for near in 192.0.2.53 192.0.2.70 192.0.2.200; do ip neigh add $near lladdr 02:00:00:00:00:01 dev in0; done
echo nameserver 192.0.2.53 > /etc/resolv.conf
"""

# The last thing that a packet meets before it leaves.
_WITNESS = """
table inet witness {
    set ipv4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; }
    set ipv6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; }
    chain last {
        type filter hook postrouting priority 300;
        add @ipv4 { ip daddr . meta l4proto . th dport }
        add @ipv6 { ip6 daddr . meta l4proto . th dport }
    }
}
"""

_SEND = """
import contextlib, os, socket, sys
if sys.argv[1] != "-":
    os.setuid(int(sys.argv[1]))
for word in sys.argv[2:]:
    address, port, protocol = word.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with contextlib.suppress(OSError):
            sender.connect((address, int(port)))
            sender.send(b"x")
"""


def locked(*sdks: str, allow: t.Sequence[str] = (), log: bool = False, forward: bool = False) -> RuleSet:
    """The rules of these SDKs, locked down."""
    return replace(rule_set(*sdks), lockdown=parse_lockdown(allow, forward=forward, log=log))


def leaves(host: NetnsHost, *targets: str, user: str = "-") -> list[bool]:
    """Whether a packet to each target (`address,port,protocol`) gets out of the host."""
    host.nft(_WITNESS)
    done = host.run(["python3", "-c", _SEND, user, *targets])
    assert done.code == 0, done.err
    seen = host.sh("nft -n list table inet witness; nft delete table inet witness")
    numbers = {"tcp": 6, "udp": 17}
    words = [(address, numbers[protocol], port) for address, port, protocol in (text.split(",") for text in targets)]
    return [f"{address} . {protocol} . {port}" in seen for address, protocol, port in words]


@pytest.fixture(params=FIREWALLS, ids=lambda firewall: firewall.name)
def wired(request: pytest.FixtureRequest) -> t.Iterator[tuple[NetnsHost, Firewall]]:
    with NetnsHost() as host:
        firewall: Firewall = request.param
        firewall.choose(host)
        host.sh(_WIRE)
        yield host, firewall


@pytest.mark.parametrize("closed", [False, True])
def test_only_what_is_allowed_leaves(wired: tuple[NetnsHost, Firewall], closed: bool) -> None:
    host, firewall = wired
    if closed:
        firewall.close(host)
    passing = ["198.51.100.9,443,tcp", "2001:db8:9::9,443,tcp", "198.51.100.9,3478,udp"]  # Web's own
    passing += ["192.0.2.53,53,udp", "192.0.2.53,53,tcp", "198.51.100.9,123,udp", "2001:db8:9::9,123,udp"]
    passing += ["192.0.2.70,22,tcp", "2001:db8:7::1,22,tcp", "198.51.100.9,123,tcp", "198.51.100.9,5005,udp"]
    stopped = ["198.51.100.9,25,tcp", "2001:db8:9::9,25,tcp", "198.51.100.9,53,udp", "198.51.100.9,5011,udp"]
    stopped += ["2001:db8:9::9,5011,udp", "192.0.2.200,22,tcp"]
    assert set(leaves(host, *passing, *stopped)) == {not closed}
    host.apply(locked("web", allow=ALLOWED), firewall.backend)
    assert leaves(host, *passing) == [True] * len(passing)
    assert leaves(host, *stopped) == [False] * len(stopped)
    assert leaves(host, "198.51.100.9,25,tcp", user="34") == [True]


@pytest.mark.parametrize("closed", [False, True])
def test_it_goes_without_a_trace(wired: tuple[NetnsHost, Firewall], closed: bool) -> None:
    host, firewall = wired
    if closed:
        firewall.close(host)
    if firewall.legacy:
        # Once looked at, these tables are there for good.
        host.sh("iptables-legacy-save -t filter; ip6tables-legacy-save -t filter")
    before = host.listing()
    rules = locked("web", allow=ALLOWED, log=True, forward=True)
    first = host.apply(rules, firewall.backend)
    assert first.effective == "in_force"
    assert "admin" in first.plan.text()
    assert "lockdown: dns" in first.plan.text()
    # An essential is no rule of an SDK.
    before_open = prepare(host, rule_set("web"), backend=firewall.backend).plan.before
    assert {sdk for rule in before_open for sdk, _ports in rule.needs} == {"web"}
    assert prepare(host, rules, backend=firewall.backend).plan.steps == ()
    live = host.listing()
    host.undo(first.plan.steps)
    assert host.listing() == before
    host.apply(rules, firewall.backend)
    assert host.listing() == live
    host.apply(rule_set("web"), firewall.backend)
    assert "reject" not in host.listing().lower()
    host.apply(rules, firewall.backend)
    host.apply(None)
    assert host.listing() == before


def test_it_is_read_back(wired: tuple[NetnsHost, Firewall]) -> None:
    host, firewall = wired
    assert look(host).rules.lockdown is None
    host.apply(locked("web", allow=ALLOWED, log=True), firewall.backend)
    kept = look(host).rules.kept()
    assert kept["lockdown"] == {"allow": [*ALLOWED[:-1], "user:34"], "forward": False, "log": True}
    # On a host that has no other firewall the rules stand in lockdown's alone.
    assert kept["rules"] == rule_set("web").data()
    assert look(host).backends == (firewall.backend,)
    plan = host.apply(locked("native"), firewall.backend).plan
    assert plan.before.data() == rule_set("web").data()
    host.apply(RuleSet.of_kept(kept), firewall.backend)
    assert look(host).rules.kept() == kept
    assert leaves(host, "198.51.100.9,443,tcp", "2001:db8:9::9,443,tcp") == [True, True]


@pytest.mark.parametrize("scope", ["any", "names", "networks"])
def test_it_is_read_back_with_every_scope(host: NetnsHost, scope: str) -> None:
    host.sh(_WIRE)
    rules = rule_set("web", "recording", scope="names" if scope == "names" else "any")
    if scope == "networks":
        for networks in (("192.0.2.0/24", "198.51.100.7/32"), ("2001:db8::/32",)):
            more = [replace(rule, scope=scope, networks=networks) for rule in rule_set("native")]
            rules = RuleSet.of([*rules, *more])
    NFTABLES.close(host)
    host.apply(rules, "nftables")
    live = look(host).rules
    host.apply(replace(rules, lockdown=locked().lockdown), "nftables")
    assert look(host).rules.data() == live.data()


def test_only_what_was_answered_is_reached(host: NetnsHost) -> None:
    host.sh(_WIRE)
    rules = replace(rule_set("web", scope="names"), lockdown=parse_lockdown([], forward=False, log=False))
    host.apply(rules, "nftables")
    sets = ("4#inet#openagora#openagora_names_ipv4", "6#inet#openagora#openagora_names_ipv6")
    assert look(host).address_sets == sets
    near, far = "192.0.2.70,443,tcp", "198.51.100.9,443,tcp"
    assert leaves(host, near, far, "198.51.100.9,3478,udp") == [False, False, True]
    assert set(look(host).unnamed) == {("192.0.2.70", 443), ("198.51.100.9", 443)}
    host.sh("nft add element inet openagora openagora_names_ipv4 { 192.0.2.70 }")
    assert leaves(host, near, far) == [True, False]
    # Another choice of SDKs leaves what is in the sets, and so does the boot script.
    others = replace(rule_set("web", "native", scope="names"), lockdown=rules.lockdown)
    host.apply(others, "nftables")
    assert prepare(host, others, backend="nftables").plan.steps == ()
    host.boot()
    assert prepare(host, others, backend="nftables").plan.steps == ()
    assert leaves(host, near, far) == [True, False]
    host.sh("nft flush ruleset")
    host.boot()
    assert prepare(host, others, backend="nftables").plan.steps == ()
    host.apply(locked("web"), "nftables")
    assert leaves(host, far) == [True]
    host.apply(None)
    assert "openagora" not in host.listing()


def test_what_is_changed_by_hand_is_put_right(wired: tuple[NetnsHost, Firewall]) -> None:
    host, firewall = wired
    rules = locked("web")
    host.apply(rules, firewall.backend)
    if firewall is NFTABLES:
        host.sh("nft insert rule inet openagora output tcp dport 25 accept")
    else:
        host.sh("iptables -I openagora-output -p tcp --dport 25 -j ACCEPT")
    assert leaves(host, "198.51.100.9,25,tcp") == [True]
    host.apply(rules, firewall.backend)
    assert leaves(host, "198.51.100.9,25,tcp") == [False]


@pytest.mark.parametrize("firewall", [IPTABLES, LEGACY], ids=lambda firewall: firewall.name)
def test_what_comes_before_ours_is_no_lockdown(firewall: Firewall, host: NetnsHost) -> None:
    firewall.close(host)
    host.apply(locked("web"), "iptables")
    host.sh("ip6tables -I OUTPUT -p tcp --dport 25 -j DROP")
    assert look(host).rules.lockdown
    host.sh("ip6tables -I OUTPUT -p tcp --dport 25 -j ACCEPT")
    assert look(host).rules.lockdown is None
    host.apply(locked("web"), "iptables")
    assert look(host).rules.lockdown


@pytest.mark.parametrize(
    "change",
    [
        "flush table inet openagora",
        "delete chain inet openagora output",
        "add table inet openagora { flags dormant; }",
        "add chain inet openagora output { policy drop; }",
    ],
)
def test_a_table_that_is_emptied_or_does_not_count_is_put_right(host: NetnsHost, change: str) -> None:
    host.sh(_WIRE)
    before = host.listing()
    rules = locked("web")
    host.apply(rules, "nftables")
    host.nft(change)
    assert look(host).rules.lockdown is None
    host.apply(rules, "nftables")
    assert leaves(host, "198.51.100.9,25,tcp", "198.51.100.9,443,tcp") == [False, True]
    host.nft(change)
    host.apply(None)
    assert host.listing() == before


def test_a_table_of_others_is_no_lockdown(host: NetnsHost) -> None:
    host.nft("table inet openagora { chain output { type filter hook output priority 10; tcp dport 25 drop; }; }")
    before = host.listing()
    with pytest.raises(BackendError, match="table inet openagora carries a name of ours"):
        prepare(host, locked("web"), backend="nftables")
    assert host.listing() == before


@pytest.mark.parametrize("outside", [(), (Side("interface", "out0"), Side("source", "198.51.100.0/24"))])
@pytest.mark.parametrize("closed", [False, True])
def test_a_gateway_holds_its_rules(wired: tuple[NetnsHost, Firewall], closed: bool, outside: tuple[Side, ...]) -> None:
    host, firewall = wired
    if closed:
        firewall.close(host)
    sides = (Side("interface", "in0"), Side("source", "10.20.0.0/24")), outside
    wanted = rule_set("web", "recording", ingress_from=["203.0.113.0/24"])
    through = wanted.placed(["host", "gateway"], Passage(*sides, ("10.20.0.5/32",)))
    rules = replace(through, lockdown=parse_lockdown(ALLOWED, forward=True, log=False))
    host.apply(rules, firewall.backend)
    assert prepare(host, rules, backend=firewall.backend).plan.steps == ()
    # What is not closed needs no rule: answers and what comes to the host itself.
    here = [rule for rule in rules if closed or rule.passage.inside or rule.direction == "egress"]
    live = look(host).rules
    assert [rule for rule in live if rule in here] == here


def test_it_is_back_after_boot(wired: tuple[NetnsHost, Firewall]) -> None:
    host, firewall = wired
    firewall.close(host)
    rules = locked("web", allow=ALLOWED)
    host.apply(rules, firewall.backend)
    firewall.forget(host)
    host.boot()
    assert prepare(host, rules, backend=firewall.backend).plan.steps == ()


def test_all_problems_are_told_together() -> None:
    texts = ["192.0.2.1/24", "70000/tcp", "user:-x", "ssh", "22/sctp", "user:4294967295"]
    with pytest.raises(RequestError) as raised:
        parse_lockdown(texts, forward=False, log=False)
    assert [problem.where for problem in raised.value.problems] == [f"lockdown_allow[{index}]" for index in range(6)]


def test_the_resolvers_are_those_that_packets_go_to(wired: tuple[NetnsHost, Firewall]) -> None:
    host, firewall = wired
    rules = locked("web")
    servers = ["2001:db8::53", "fe80::1%in0", "::ffff:192.0.2.7", "192.0.2.53", "127.0.0.53", "::1", "0.0.0.0"]
    found = []
    for order in (servers, servers[::-1]):
        host.put("/etc/resolv.conf", "".join(f"nameserver {server}\n" for server in order))
        found.append(bool(host.apply(rules, firewall.backend).plan.steps))
    assert found == [True, False]
    lockdown = look(host).rules.lockdown
    assert lockdown
    assert lockdown.resolvers == ("192.0.2.7/32", "192.0.2.53/32", "2001:db8::53/128", "fe80::1/128")


def test_a_user_by_number_needs_no_name(host: NetnsHost) -> None:
    host.sh(_WIRE)
    host.apply(locked("web", allow=["user:100034"]), "nftables")
    target = "198.51.100.9,25,tcp"
    assert leaves(host, target, user="100034") == [True]
    assert leaves(host, target, user="100035") == [False]


def test_what_cannot_be_locked_is_refused(host: NetnsHost) -> None:
    with pytest.raises(BackendError, match="no such user on this host: nobody-here"):
        prepare(host, locked("web", allow=["user:nobody-here"]), backend="nftables")


def test_no_family_is_left_out(host: NetnsHost) -> None:
    host.hidden = {"ip6tables", "ip6tables-save", "ip6tables-restore"}
    assert prepare(host, rule_set("web"), backend="iptables").effective == "nothing_to_open"
    with pytest.raises(BackendError, match="IPv6 is on and there is no ip6tables"):
        prepare(host, locked("web"), backend="iptables")
    host.hidden |= {"/proc/net/if_inet6"}
    assert prepare(host, locked("web"), backend="iptables").effective == "in_force"


def told(host: NetnsHost, rules: RuleSet, code: str, backend: str = "nftables") -> list[str]:
    """Where the notices of this kind are about, each with its text."""
    return [f"{n.where}: {n.message}" for n in prepare(host, rules, backend=backend).notices if n.code == code]


def test_what_is_unbounded_is_told(host: NetnsHost) -> None:
    of_rules = told(host, locked("web"), "unbounded")
    assert [text.partition(" may go")[0] for text in of_rules] == [
        f"lockdown: egress {rule.protocol} {rule.ports}" for rule in rule_set("web")
    ]
    everything = told(host, locked("web", allow=["0.0.0.0/0", "::/1", "8000::/1"]), "unbounded")
    assert [text.partition(", so that")[0] for text in everything[len(of_rules) :]] == [
        "lockdown_allow: 0.0.0.0/0 is every address of ipv4",
        "lockdown_allow: ::/0 is every address of ipv6",
    ]


def test_lockdown_of_a_host_that_forwards_is_told_to_leave_others_open(host: NetnsHost) -> None:
    host.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
    assert not told(host, locked("web"), "forwarded_open")
    host.sh("sysctl -qw net.ipv4.ip_forward=1")
    (text,) = told(host, locked("web"), "forwarded_open")
    assert text.startswith("lockdown: this host forwards ipv4 packets, and ")
    host.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
    assert "ipv4 and ipv6" in told(host, locked("web"), "forwarded_open")[0]
    assert not told(host, locked("web", forward=True), "forwarded_open")
    assert not told(host, rule_set("web"), "forwarded_open")


def test_a_lockdown_that_ends_is_told(wired: tuple[NetnsHost, Firewall]) -> None:
    host, firewall = wired
    assert not told(host, rule_set("web"), "lockdown_lifted", firewall.backend)
    host.apply(locked("web"), firewall.backend)
    assert not told(host, locked("native"), "lockdown_lifted", firewall.backend)
    (text,) = told(host, rule_set("web"), "lockdown_lifted", firewall.backend)
    assert text.startswith("mode: lockdown ends")
    # Also where another backend holds it from now on.
    assert told(host, rule_set("web"), "lockdown_lifted", "iptables" if firewall.backend == "nftables" else "nftables")
    host.apply(rule_set("web"), firewall.backend)
    assert not told(host, rule_set("web"), "lockdown_lifted", firewall.backend)


# A server that speaks first once it is told to, and tells what came of it; its client only listens.
_SPEAK = """
import socket, sys
listening = socket.create_server(("192.0.2.1", 22))
print("listening", flush=True)
session, _address = listening.accept()
print("connected", flush=True)
sys.stdin.readline()
session.settimeout(5)
session.send(b"x")
print("answered" if session.recv(1) == b"y" else "cut", flush=True)
"""
_LISTEN = """
import socket
session = socket.create_connection(("192.0.2.1", 22), 5)
if session.recv(1) == b"x":
    session.send(b"y")
"""


@pytest.mark.parametrize("firewall", FIREWALLS, ids=lambda firewall: firewall.name)
def test_a_session_older_than_connection_tracking_lives_on(firewall: Firewall) -> None:
    """On a host without any rule: nothing was tracked there when it began."""
    with NetnsHost() as host, NetnsHost() as far:
        firewall.choose(host)
        far.sh("ip link delete in0")
        host.sh(f"ip link set out0 netns {far.pid}; ip link set in0 up; ip addr add 192.0.2.1/24 dev in0")
        far.sh("ip link set out0 up; ip addr add 192.0.2.9/24 dev out0")
        with host.start(["python3", "-c", _SPEAK], listen=True) as server:
            assert server.stdin
            assert server.stdout
            assert server.stdout.readline() == "listening\n"
            with far.start(["python3", "-c", _LISTEN]):
                assert server.stdout.readline() == "connected\n"
                host.apply(locked("web"), firewall.backend)
                server.stdin.write("go\n")
                server.stdin.flush()
                assert server.stdout.readline() == "answered\n"
