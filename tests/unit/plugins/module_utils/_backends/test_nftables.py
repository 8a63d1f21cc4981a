# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nftables backend: which tables decide, which are left alone, and what is found at boot."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._backends.nftables import Nftables, _elements
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from netns import IPTABLES, NFTABLES, NetnsHost, rule_set

WEB = rule_set("web")


def base(hook: str, body: str = "", *, table: str = "inet f", policy: str = "accept", chain: str = "") -> str:
    """A table with a base filter chain of this hook."""
    name = chain or hook[:3]
    return f"table {table} {{ chain {name} {{ type filter hook {hook} priority 0; policy {policy}; {body}; }}; }}\n"


def ours(host: NetnsHost) -> list[str]:
    """The base chains, as `family table chain`, that jump to a chain of ours."""
    found, table, chain = [], "", ""
    for line in host.sh("nft -s list ruleset").splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif line.startswith("\t\tjump openagora_"):
            found.append(f"{table} {chain}")
    return found


DECIDING = {
    "policy-of-output": base("output", policy="drop"),
    "policy-of-input": base("input", policy="drop"),
    "policy-although-all-is-accepted": base("output", "accept", policy="drop"),
    "last-rule": base("output", "tcp dport 22 accept; drop"),
    "last-reject": base("input", "ct state established accept; counter reject with icmpx admin-prohibited"),
    "a-port": base("output", "tcp dport 443 drop"),
    "the-port-of-replies": base("input", "udp sport 3478 drop"),
    "ipv4": base("output", policy="drop", table="ip f"),
    "ipv6": base("input", policy="drop", table="ip6 f"),
    "verdict-map": base("output", "tcp dport vmap { 22 : accept, 443 : drop }"),
    "chain": "table inet f { chain c { reject; }; chain out { type filter hook output priority 0; "
    "udp dport 1-65535 jump c; }; }",
    "two-levels": "table inet f { chain d { tcp dport 80-90 drop; }; chain c { meta l4proto tcp goto d; }; "
    "chain out { type filter hook output priority 0; jump c; }; }",
    "name-of-iptables-in-inet": base("output", policy="drop", table="inet filter", chain="OUTPUT"),
    "table-of-iptables-with-a-chain-of-nft": base("output", policy="drop", table="ip filter", chain="output"),
    "table-of-iptables-with-a-set": "table ip filter { set s { type ipv4_addr; }; "
    "chain OUTPUT { type filter hook output priority 0; policy drop; }; }",
}

NOT_DECIDING = {
    "nothing": "",
    "no-rules": base("output"),
    "accepts": base("output", "tcp dport 25 accept; accept"),
    "address": base("output", "ip daddr 192.0.2.1 drop"),
    "addresses-by-map": base("output", "ip daddr vmap { 192.0.2.1 : drop }"),
    "other-port": base("output", "tcp dport 25 drop"),
    "port-0": base("output", "tcp dport { 0, 25 } drop"),
    "invalid": base("input", "ct state vmap { established : accept, related : accept, invalid : drop }"),
    "loopback": base("input", 'iif lo drop; iif != "lo" ip saddr 127.0.0.0/8 drop'),
    "chain-without-a-jump": "table inet f { chain c { drop; }; chain out { type filter hook output priority 0; }; }",
    "another-hook": base("forward", policy="drop") + base("prerouting", policy="drop"),
    "another-type": "table ip n { chain out { type nat hook output priority 0; }; }",
    "another-family": base("input", policy="drop", table="arp f") + base("input", policy="drop", table="bridge f"),
    "a-device": "table netdev f { chain c { type filter hook ingress device lo priority 0; policy drop; }; }",
    "dormant": "table inet f { flags dormant; chain out { type filter hook output priority 0; policy drop; }; }",
    "firewalld": base("output", policy="drop", table="inet firewalld"),
    "iptables-nft": base("output", policy="drop", table="ip filter", chain="OUTPUT"),
}


@pytest.mark.parametrize("ruleset", DECIDING.values(), ids=DECIDING.keys())
def test_tables_that_decide(host: NetnsHost, ruleset: str) -> None:
    host.nft(ruleset)
    before = host.listing()
    prepared = host.apply(WEB, "nftables")
    assert prepared.effective == "in_force"
    assert len(ours(host)) == 1
    assert prepare(host, WEB, backend="nftables").plan.steps == ()
    host.apply(None)
    assert host.listing() == before


@pytest.mark.parametrize("ruleset", NOT_DECIDING.values(), ids=NOT_DECIDING.keys())
def test_tables_that_do_not_decide(host: NetnsHost, ruleset: str) -> None:
    host.nft(ruleset)
    before = host.listing()
    prepared = host.apply(WEB, "nftables")
    assert prepared.effective == "nothing_to_open"
    assert prepared.plan.steps == ()
    assert prepared.plan.before.rules == WEB.rules
    assert host.listing() == before


@pytest.mark.parametrize(
    ("ruleset", "shown"),
    [
        (base("output", policy="drop"), "table inet f decides at hook output (chain out)"),
        (base("forward", "tcp dport 25 drop"), "table inet f decides at hook forward (chain for)"),
        (base("input", "ct state vmap { invalid : drop }; ip saddr 192.0.2.1 drop"), ""),
        (base("output", policy="drop", table="inet firewalld"), ""),
        (base("output", policy="drop", table="ip filter", chain="OUTPUT"), ""),
    ],
)
def test_in_force(host: NetnsHost, ruleset: str, shown: str) -> None:
    host.nft(ruleset)
    assert Nftables().in_force(host) == shown


def test_without_iptables_its_tables_are_like_any_other(host: NetnsHost) -> None:
    host.nft(base("output", policy="drop", table="ip filter", chain="OUTPUT"))
    host.hidden |= {"iptables-save", "iptables-restore", "iptables-nft-save"}
    assert host.apply(WEB).effective == "in_force"
    assert ours(host) == ["ip filter OUTPUT"]


SEVERAL = (
    base("output", policy="drop")
    + base("output", "tcp dport 443 drop", chain="second")
    + base("input", policy="drop")
    + base("output", policy="drop", table="ip f4-x.y")
    + base("input", policy="drop", table="ip6 f6")
    + base("output", "udp dport 25 drop", table="ip6 f6")
)


def test_ours_stands_in_every_chain_that_decides(host: NetnsHost) -> None:
    host.nft(SEVERAL)
    before = host.listing()
    rules = rule_set("web", "recording", ingress_from=["192.0.2.0/24", "2001:db8::/32"])
    host.apply(rules)
    assert ours(host) == ["inet f out", "inet f second", "inet f inp", "ip f4-x.y out", "ip6 f6 inp"]
    assert look(host).rules.rules == rules.rules
    listing = host.sh("nft list table ip f4-x.y; nft list table ip6 f6")
    ipv4, ipv6 = listing.split("table ip6")
    assert "192.0.2.0/24" in ipv4
    assert "2001:db8::/32" not in ipv4
    assert "192.0.2.0/24" not in ipv6
    assert "2001:db8::/32" in ipv6
    host.boot()
    assert prepare(host, rules, backend="auto").plan.steps == ()
    host.apply(None)
    assert host.listing() == before


def test_a_port_that_one_of_two_tables_closes_is_not_live(host: NetnsHost) -> None:
    host.nft(base("output", policy="drop") + base("output", policy="drop", table="ip6 g"))
    host.apply(WEB)
    host.nft("delete element ip6 g openagora_web_egress_tcp { 443 }")
    ports = {rule.protocol: rule.ports for rule in look(host).rules}
    assert ports["tcp"] == next(rule.ports for rule in WEB if rule.protocol == "tcp") - PortSet.of(443)
    assert prepare(host, WEB, backend="auto").plan.text().startswith("+ egress tcp 443 (web)\n* nftables: table ip6 g:")


def test_what_opens_is_told_where_only_a_last_rule_drops(host: NetnsHost) -> None:
    host.nft(base("output", "tcp dport 22 accept; counter drop"))
    planned = host.apply(WEB).plan
    assert planned.before.rules == ()
    assert "+ egress tcp 443 (web)\n" in planned.text()


def test_a_table_that_ceases_to_decide_loses_ours(host: NetnsHost) -> None:
    host.nft(base("output", policy="drop"))
    before = host.listing()
    host.apply(WEB)
    host.nft("add chain inet f out { policy accept; }")
    assert host.apply(WEB).effective == "nothing_to_open"
    assert ours(host) == []
    host.nft("add chain inet f out { policy drop; }")
    host.apply(None)
    assert host.listing() == before


def test_ours_survives_without_a_list_of_protocols(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(rule_set())
    host.sh("mv /etc/protocols /run/protocols; rm -f /etc/services")
    assert prepare(host, rule_set(), backend="auto").plan.steps == ()
    NFTABLES.forget(host)
    host.boot()
    host.apply(rule_set())
    host.sh("mv /run/protocols /etc/protocols")
    assert prepare(host, rule_set(), backend="auto").plan.steps == ()


@pytest.mark.parametrize(
    ("elements", "ports"),
    [
        ([80, {"range": [90, 95]}], "80, 90-95"),
        ([{"prefix": {"addr": 1024, "len": 6}}], "1024-2047"),
        ([{"elem": {"val": 80, "comment": "x"}}, {"elem": {"val": {"range": [1, 2]}, "counter": None}}], "1-2, 80"),
        ([{"range": [0, 65535]}], "1-65535"),
    ],
)
def test_elements(elements: list[t.Any], ports: str) -> None:
    assert _elements(elements) == PortSet.parse(ports)


def test_elements_that_are_no_ports() -> None:
    assert _elements([0]) == _elements([]) == PortSet()


def test_sets_that_others_use_stay(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(WEB)
    host.nft("add chain inet filter theirs; add rule inet filter theirs tcp dport @openagora_web_egress_tcp accept")
    before = host.listing()
    with pytest.raises(StepError, match=r"(?s)chains and sets of ours go: .*busy.*; everything is as it was before"):
        host.apply(None)
    assert host.listing() == before


def test_a_failing_listing_is_an_error(host: NetnsHost) -> None:
    host.stand_in("nft", "echo 'cannot look' >&2; exit 1")
    with pytest.raises(BackendError, match="nft -j list ruleset failed: cannot look"):
        host.apply(WEB, "nftables")


SERVICE = """\
UnitFileState=enabled
ExecStart={ path=/usr/sbin/nft ; argv[]=/usr/sbin/nft -f /etc/nftables.conf ; ignore_errors=no ; start_time=[n/a] }
"""
RUNNING = "Id=openagora-firewall.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState=active\n"


@pytest.fixture
def booting(host: NetnsHost) -> NetnsHost:
    """A host with systemd whose nftables.service loads /etc/nftables.conf."""
    host.systemd(nftables=SERVICE, show=RUNNING)
    return host


def script(host: NetnsHost) -> list[str]:
    """The tables into which the boot script loads rules."""
    return re.findall(r"^load '(.*?)'", host.read("/etc/openagora/firewall/boot") or "", re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/etc/sysconfig/nftables.conf", "/sbin/nft -f /etc/sysconfig/nftables.conf"),
        ("/etc/nftables/rules/main.nft", '/usr/sbin/nft flush ruleset; include "/etc/nftables/rules/main.nft"'),
    ],
    ids=["Red Hat", "SUSE"],
)
def test_the_services_of_other_distributions(host: NetnsHost, path: str, words: str) -> None:
    """As `systemctl show` prints them: words that were one argument are not told from several."""
    host.systemd(nftables=SERVICE.replace("/usr/sbin/nft -f /etc/nftables.conf", words), show=RUNNING)
    host.put(path, base("output", policy="drop", table="inet early"))
    host.apply(WEB)
    assert script(host) == ["inet early"]


def test_what_will_be_loaded_at_boot_gets_ours_at_boot(booting: NetnsHost) -> None:
    booting.put("/etc/nftables.conf", "flush ruleset\n" + base("output", policy="drop", table="inet early"))
    assert booting.apply(WEB).effective == "nothing_to_open"
    assert ours(booting) == []
    assert script(booting) == ["inet early"]
    assert "table inet early is not there, nothing to open in it" in booting.boot()
    booting.sh("nft -f /etc/nftables.conf")
    booting.boot()
    assert ours(booting) == ["inet early out"]
    assert prepare(booting, WEB, backend="nftables").plan.steps == ()


def test_live_tables_get_ours_at_boot_too(booting: NetnsHost) -> None:
    booting.put("/etc/nftables.conf", base("output", policy="drop", table="inet early"))
    booting.nft(base("output", policy="drop", table="inet late"))
    booting.apply(WEB)
    assert ours(booting) == ["inet late out"]
    assert script(booting) == ["inet late", "inet early"]


@pytest.mark.parametrize(
    "configuration",
    ["nonsense", base("output", 'oif "eth77" accept', policy="drop", table="inet early")],
    ids=["syntax", "interface"],
)
def test_a_configuration_that_does_not_load_elsewhere(booting: NetnsHost, configuration: str) -> None:
    booting.put("/etc/nftables.conf", configuration)
    booting.nft(base("output", policy="drop", table="inet late"))
    before = booting.sh("nft -s list ruleset")
    assert prepare(booting, WEB, backend="auto").plan.steps != ()
    assert booting.sh("nft -s list ruleset") == before
    booting.apply(WEB)
    assert script(booting) == ["inet late"]


def test_a_service_that_is_not_enabled_loads_nothing(booting: NetnsHost) -> None:
    booting.systemd(nftables=SERVICE.replace("enabled", "disabled"), show=RUNNING)
    booting.put("/etc/nftables.conf", base("output", policy="drop", table="inet early"))
    assert booting.apply(WEB).plan.steps == ()


def test_a_table_that_is_gone_at_boot_keeps_no_other_from_its_rules(host: NetnsHost) -> None:
    host.nft(base("output", policy="drop", table="inet a") + base("output", policy="drop", table="inet b"))
    host.apply(WEB)
    host.nft("delete table inet a; flush chain inet b out")
    assert host.boot() == "table inet a is not there, nothing to open in it\n"
    assert ours(host) == ["inet b out"]
    # What is left of the chain that should lead to ours: nothing to hang the jump on.
    host.nft("delete table inet b; add table inet b")
    assert host.run(["/bin/sh", "/etc/openagora/firewall/boot"]).code == 1


def test_tables_of_iptables_are_not_touched(host: NetnsHost) -> None:
    IPTABLES.close(host)
    NFTABLES.close(host)
    host.apply(WEB, "nftables")
    assert ours(host) == ["inet filter input", "inet filter output"]
    assert "openagora" not in host.sh("iptables-save; ip6tables-save")
