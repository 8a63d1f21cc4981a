# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The iptables backend on both variants of the commands."""

from __future__ import annotations

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._backends.iptables import Iptables
from ansible_collections.openagora.firewall.plugins.module_utils._backends.nftables import Nftables
from ansible_collections.openagora.firewall.plugins.module_utils._backends.saveformat import options_of
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from netns import IPTABLES, LEGACY, NFTABLES, Firewall, NetnsHost, rule_set

WEB = rule_set("web")
LEGACY_NAMES = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


@pytest.fixture(params=[IPTABLES, LEGACY], ids=lambda firewall: firewall.name)
def firewall(request: pytest.FixtureRequest) -> Firewall:
    return request.param


RULES: list[tuple[str, dict[str, str]]] = [
    ("-j ACCEPT", {"-j": "ACCEPT"}),
    ("-g theirs", {"-g": "theirs"}),
    ("", {}),
    ("-p tcp --dport 80 -j DROP", {"-p": "tcp", "--dport": "80", "-j": "DROP"}),
    ("-p udp --sport :53 -j DROP", {"-p": "udp", "--sport": "0:53", "-j": "DROP"}),
    ("-p udp --sport 1024: -j DROP", {"-p": "udp", "--sport": "1024:65535", "-j": "DROP"}),
    (
        "-p tcp -m multiport ! --dports 1,2:3 ! -i lo -j DROP",
        {"-i!": "lo", "-p": "tcp", "--dports!": "1,2:3", "-j": "DROP"},
    ),
    ("! -p tcp ! -s 192.0.2.1 -j DROP", {"-s!": "192.0.2.1/32", "-p!": "tcp", "-j": "DROP"}),
    (
        "-m conntrack ! --ctstate NEW,INVALID --ctdir REPLY -j DROP",
        {"--ctstate!": "INVALID,NEW", "--ctdir": "REPLY", "-j": "DROP"},
    ),
    (
        "-p tcp ! --tcp-flags SYN,FIN SYN -j DROP",
        {"-p": "tcp", "--tcp-flags!": "FIN,SYN SYN", "-j": "DROP"},
    ),
    ('-m comment --comment "two words" -j DROP', {"--comment": "two words", "-j": "DROP"}),
    ("-m comment --comment -j -j DROP", {"--comment": "-j", "-j": "DROP"}),
    ("-m comment --comment '!' -j DROP", {"--comment": "!", "-j": "DROP"}),
    ("-m comment --comment '-p udp ! -j' -j DROP", {"--comment": "-p udp ! -j", "-j": "DROP"}),
    (r"""-m comment --comment "it's \"a\" \\ b" -j DROP""", {"--comment": 'it\'s "a" \\ b', "-j": "DROP"}),
    ("-m comment --comment '' -j DROP", {"--comment": "", "-j": "DROP"}),
    ('-j "it\'s"', {"-j": "it's"}),
    ("-j 'a\"b'", {"-j": 'a"b'}),
    (
        "-j LOG --log-level 4 --log-prefix '-j ACCEPT '",
        {"-j": "LOG", "--log-prefix": "-j ACCEPT"},
    ),
    (
        "-m comment --comment one -m comment --comment two -j DROP",
        {"--comment": "two", "-j": "DROP"},
    ),
]


def test_options_are_read_from_what_the_commands_save(host: NetnsHost, firewall: Firewall) -> None:
    firewall.close(host)
    host.sh("""iptables -N theirs; iptables -N "it's"; iptables -N 'a"b'""")
    host.sh("\n".join(f"iptables -A INPUT {rule}" for rule, _found in RULES))
    saved = [line for line in host.sh("iptables-save -t filter").splitlines() if line.startswith("-A INPUT")]
    found = [options_of(line[len("-A INPUT") :]) for line in saved]
    assert found == [expected for _rule, expected in RULES]


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        ("true", ""),
        ("iptables -A FORWARD -j ACCEPT", "iptables chain FORWARD has rules"),
        ("iptables -P OUTPUT DROP", "iptables chain OUTPUT has policy DROP"),
        ("ip6tables -P INPUT DROP", "ip6tables chain INPUT has policy DROP"),
        ("ip6tables -A OUTPUT -p udp -j ACCEPT", "ip6tables chain OUTPUT has rules"),
        ("iptables -t nat -A OUTPUT -j ACCEPT; iptables -N theirs; iptables -A theirs -j DROP", ""),
    ],
)
def test_in_force(host: NetnsHost, make: str, shown: str) -> None:
    host.sh(make)
    assert Iptables().in_force(host) == shown


@pytest.mark.parametrize(
    ("make", "effective"),
    [
        ("true", "nothing_to_open"),
        ("iptables -P FORWARD DROP", "nothing_to_open"),
        ("iptables -A OUTPUT -p tcp --dport 25 -j DROP", "nothing_to_open"),
        ("iptables -A OUTPUT -d 192.0.2.1 -j DROP", "nothing_to_open"),
        ("iptables -A OUTPUT -o lo -j DROP", "nothing_to_open"),
        ("iptables -A INPUT -p tcp --dport 443 -j DROP", "nothing_to_open"),
        ("ip6tables -P OUTPUT DROP", "in_force"),
        ("iptables -A OUTPUT -p tcp --dport 25 -j ACCEPT; iptables -A OUTPUT -j REJECT", "in_force"),
        ("iptables -N theirs; iptables -A theirs -j DROP; iptables -A INPUT -p tcp -j theirs", "in_force"),
        ("iptables -A INPUT -p tcp --sport 443 -j DROP", "in_force"),
    ],
)
def test_effective(host: NetnsHost, make: str, effective: str) -> None:
    host.sh(make)
    assert host.apply(WEB, "iptables").effective == effective
    assert prepare(host, WEB, backend="iptables").effective == effective


BASE_CHAINS = {
    "virgin": "true",
    "one-family": "ip6tables -P INPUT DROP",
    "one-hook": "iptables -A INPUT -j ACCEPT; ip6tables -P OUTPUT DROP",
    "another-hook": "iptables -P FORWARD DROP; ip6tables -A FORWARD -j ACCEPT",
    "another-table": "iptables -t nat -A POSTROUTING -j ACCEPT",
    "only-a-chain": "iptables -N theirs; iptables -A theirs -j DROP; ip6tables -N theirs",
    "native-chains": "nft add table ip filter; nft add chain ip filter input "
    "'{ type filter hook input priority 0; policy drop; }'",
    "native-table": "nft add table ip filter; nft add chain ip filter x; nft add set ip filter y '{ type mark; }'",
}


@pytest.mark.parametrize("make", BASE_CHAINS.values(), ids=BASE_CHAINS.keys())
def test_base_chains_go_only_if_they_came_with_ours(host: NetnsHost, make: str) -> None:
    host.sh(make)
    before = host.listing()
    for rules in (WEB, rule_set(), WEB):
        host.apply(rules, "iptables")
        assert prepare(host, rules, backend="iptables").plan.steps == ()
        host.boot()
    host.apply(None)
    assert host.listing() == before


def test_base_chains_that_others_use_by_now_stay(host: NetnsHost) -> None:
    host.apply(WEB, "iptables")
    host.sh(
        "iptables -A INPUT -p tcp --dport 22 -j ACCEPT; ip6tables -P OUTPUT DROP; iptables -N theirs; "
        "iptables -A theirs -j DROP"
    )
    planned = host.apply(None).plan
    assert host.sh("iptables-save -t filter; ip6tables-save -t filter").count("openagora") == 0
    kept = host.sh("nft -s list ruleset")
    assert "dport 22" in kept
    assert "chain theirs" in kept
    assert "hook output priority filter; policy drop" in kept
    assert kept.count("type filter hook") == 2
    host.undo(planned.steps)
    assert prepare(host, WEB, backend="iptables").plan.steps == ()


def test_without_nft_base_chains_stay(host: NetnsHost) -> None:
    host.hidden.add("nft")
    host.apply(WEB, "iptables")
    assert look(host).rules.rules == WEB.rules
    host.apply(None)
    host.hidden.clear()
    assert "openagora" not in host.listing()


FAILS_ONCE = "test -e /run/failed || { touch /run/failed; echo 'it broke' >&2; exit 4; }; exec /usr/sbin/$0 \"$@\""


def fails_once(host: NetnsHost, command: str) -> None:
    host.stand_in(command, FAILS_ONCE.replace("$0", command))


def test_when_the_second_family_fails_the_first_is_put_back(host: NetnsHost) -> None:
    IPTABLES.close(host)
    host.apply(rule_set("native"), "iptables")
    before = host.listing()
    fails_once(host, "ip6tables-restore")
    message = "ip6tables: .*: ip6tables-restore ended with code 4: it broke; everything is as it was before"
    with pytest.raises(StepError, match=message):
        host.apply(WEB, "iptables")
    assert host.listing() == before


def test_a_way_back_that_fails_is_told(host: NetnsHost) -> None:
    IPTABLES.close(host)
    host.stand_in(
        "iptables-restore", 'test -e /run/once && exit 3; touch /run/once; exec /usr/sbin/iptables-restore "$@"'
    )
    fails_once(host, "ip6tables-restore")
    message = "it broke; undoing it failed too: /bin/sh ended with code 3: no message"
    with pytest.raises(StepError, match=message):
        host.apply(WEB, "iptables")


@pytest.mark.parametrize("missing", ["/proc/net/if_inet6", "ip6tables-save"])
def test_a_host_without_ipv6(host: NetnsHost, missing: str) -> None:
    IPTABLES.close(host)
    host.hidden.add(missing)
    rules = rule_set("recording", ingress_from=["192.0.2.0/24", "2001:db8::/32"])
    prepared = host.apply(rules, "iptables")
    assert "ip6tables" not in prepared.plan.text()
    assert "2001:db8" not in prepared.plan.text()
    assert "ip6tables" not in (host.read("/etc/openagora/firewall/boot") or "")
    assert prepare(host, rules, backend="iptables").plan.steps == ()
    assert look(host).rules.rules == rules.in_families(["ipv4"]).rules
    assert "openagora" not in host.sh("ip6tables-save")


def test_looking_creates_no_legacy_table(host: NetnsHost) -> None:
    LEGACY.choose(host)
    before = [host.read(path) for path in LEGACY_NAMES]
    assert look(host).rules.rules == ()
    assert prepare(host, WEB, backend="iptables").plan.steps != ()
    host.apply(None)
    assert [host.read(path) for path in LEGACY_NAMES] == before == ["", ""]
    LEGACY.close(host)
    assert [host.read(path) for path in LEGACY_NAMES] == ["filter\n", "filter\n"]


@pytest.mark.parametrize("path", LEGACY_NAMES)
def test_which_legacy_tables_there_are_may_be_hidden(
    host: NetnsHost, firewall: Firewall, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace the file can belong to nobody; the nf_tables variant does not need it."""
    firewall.close(host)
    read = host.read

    def denied(asked: str) -> str | None:
        if asked == path:
            raise BackendError(f"{path} cannot be read: Permission denied")
        return read(asked)

    monkeypatch.setattr(host, "read", denied)
    if firewall.legacy:
        with pytest.raises(BackendError, match=f"{path} cannot be read"):
            prepare(host, WEB, backend="iptables")
    else:
        assert prepare(host, WEB, backend="iptables").plan.steps != ()


def test_a_failing_save_is_an_error(host: NetnsHost) -> None:
    host.stand_in("ip6tables-save", "echo 'no such thing' >&2; exit 1")
    with pytest.raises(BackendError, match="ip6tables-save -t filter failed: no such thing"):
        host.apply(WEB, "iptables")
    assert "openagora" not in host.listing()


def test_rules_are_loaded_without_a_list_of_protocols(host: NetnsHost, firewall: Firewall) -> None:
    host.sh("rm -f /etc/protocols /etc/services")
    firewall.close(host)
    host.apply(rule_set(), "iptables")
    assert prepare(host, rule_set(), backend="iptables").plan.steps == ()
    host.boot()


def test_fifteen_slots(host: NetnsHost, firewall: Firewall) -> None:
    firewall.close(host)
    rules = rule_set("native", extra_ports=[f"{port}/tcp" for port in range(2001, 2031, 2)])
    host.apply(rules, "iptables")
    assert host.sh("iptables-save").count('openagora extra" -j ACCEPT') == 2
    rules = rule_set("native", extra_ports=[f"{port}/tcp" for port in range(2001, 2033, 2)])
    host.apply(rules, "iptables")
    assert host.sh("iptables-save").count('openagora extra" -j ACCEPT') == 4
    assert look(host).rules.rules == rules.rules


def test_jumps_come_first_and_foreign_rules_keep_their_order(host: NetnsHost, firewall: Firewall) -> None:
    firewall.close(host)
    host.sh("for port in 1 2 3; do iptables -A OUTPUT -p tcp --dport $port -j ACCEPT; done")
    host.apply(WEB, "iptables")
    host.sh("iptables -I OUTPUT -p tcp --dport 443 -j DROP; iptables -I OUTPUT -p tcp --dport 4 -j ACCEPT")
    host.apply(WEB, "iptables")
    saved = [line for line in host.sh("iptables-save").splitlines() if line.startswith("-A OUTPUT")]
    assert saved[0] == "-A OUTPUT -m comment --comment openagora -j openagora-output"
    assert [line.split("--dport ")[1].split()[0] for line in saved[1:]] == ["4", "443", "1", "2", "3"]


def test_rules_by_hand_that_lead_to_a_chain_of_ours_go_with_it(host: NetnsHost, firewall: Firewall) -> None:
    firewall.close(host)
    host.sh("iptables -N theirs; iptables -A theirs -j ACCEPT")
    before = host.listing()
    host.apply(WEB, "iptables")
    host.sh("iptables -A FORWARD -g openagora-output; iptables -I theirs -p udp -j openagora-input")
    host.apply(None)
    assert host.listing() == before


def test_a_table_that_iptables_cannot_read_is_nfts(host: NetnsHost) -> None:
    host.nft(
        "".join(
            f"add table {table}\n"
            f"add chain {table} {hook.upper()} {{ type filter hook {hook} priority filter; policy drop; }}\n"
            f"add rule {table} {hook.upper()} ct state vmap {{ established : accept, invalid : drop }}\n"
            for table in ("ip filter", "ip6 filter")
            for hook in ("input", "output")
        )
    )
    before = host.listing()
    with pytest.raises(
        BackendError, match=r"^table filter of iptables, ip6tables was made by nft, .*backend: nftables"
    ):
        host.apply(WEB, "iptables")
    assert host.apply(WEB).backend == "nftables"
    assert look(host).rules.rules == WEB.rules
    assert prepare(host, WEB, backend="auto").plan.steps == ()
    host.apply(None)
    assert host.listing() == before


def test_base_chains_that_came_with_a_failed_run_go_with_it(host: NetnsHost) -> None:
    before = host.listing()
    host.stand_in("ip6tables-restore", "echo nope >&2; exit 4")
    with pytest.raises(StepError, match="nope; everything is as it was before"):
        host.apply(WEB, "iptables")
    assert host.listing() == before
    host.sh("rm /usr/local/sbin/ip6tables-restore")
    host.apply(WEB, "iptables")
    host.apply(None)
    assert host.listing() == before


# Rules of nft in a table of iptables, and whether its commands cannot print the table for them: they end, they refuse
# it, or they print a part of the rule.
NATIVE = {
    "a user": ("meta skuid 1000 accept", True),
    "arithmetic": ('iifname "tailscale0" counter meta mark set meta mark and 0xff00ffff xor 0x40000', True),
    "a state": ("ct state established accept", True),
    "a set": ("tcp dport { 25, 465, 587 } drop", False),
    "a range": ("ip daddr 192.0.2.1-192.0.2.9 drop", False),
}
BEFORE = "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -N ts-forward"


@pytest.mark.parametrize("chain", ["OUTPUT", "ts-forward"])
@pytest.mark.parametrize(("rule", "broken"), NATIVE.values(), ids=NATIVE.keys())
def test_a_table_with_rules_of_nft_stays_with_iptables(host: NetnsHost, rule: str, broken: bool, chain: str) -> None:
    IPTABLES.close(host)
    host.sh(BEFORE)
    host.nft(f"insert rule ip filter {chain} {rule}")
    before = host.objects()
    applied = host.apply(WEB)
    assert applied.backend == "iptables"
    told = [notice for notice in applied.notices if notice.code == "not_of_iptables"]
    assert [notice.where for notice in told] == [f"iptables chain {chain}"]
    assert rule[:12] in told[0].message
    assert ("cannot print the table" in told[0].message) == broken
    there = host.objects()
    assert prepare(host, WEB, backend="auto").plan.steps == ()
    assert look(host).rules.rules == WEB.rules
    host.boot()
    assert host.objects() == there
    changed = host.apply(rule_set("native"))
    assert look(host).rules.rules == rule_set("native").rules
    host.undo(changed.plan.steps)
    assert host.objects() == there
    gone = host.apply(None)
    assert host.objects() == before
    host.undo(gone.plan.steps)
    assert host.objects() == there


@pytest.mark.parametrize(("rule", "broken"), NATIVE.values(), ids=NATIVE.keys())
def test_a_rule_of_nft_that_comes_before_ours(host: NetnsHost, rule: str, broken: bool) -> None:
    """The commands find no rule of ours behind one at which they end."""
    IPTABLES.close(host)
    host.apply(WEB, "iptables")
    host.nft(f"insert rule ip filter OUTPUT {rule}")
    there = host.objects()
    assert (host.run(["iptables-save", "-t", "filter"]).out.count("COMMIT") == 0) == broken
    assert prepare(host, WEB, backend="auto").plan.steps == ()
    host.boot()
    assert host.objects() == there
    # By hand, twice and elsewhere: all of them go, and one comes back.
    host.sh("iptables -A OUTPUT -j openagora-output; iptables -A FORWARD -g openagora-output")
    host.apply(WEB)
    assert host.live().count("openagora-output\n") == 2
    assert prepare(host, WEB, backend="auto").plan.steps == ()
    host.apply(None)
    assert "openagora" not in host.listing()


def test_a_rule_of_nft_that_comes_before_a_way_back(host: NetnsHost) -> None:
    """Of a change that is taken back later, and of one that was carried out half."""
    IPTABLES.close(host)
    changed = host.apply(WEB, "iptables")
    host.nft("insert rule ip filter OUTPUT meta skuid 1000 accept")
    host.undo(changed.plan.steps)
    assert "openagora" not in host.live()
    fails_once(host, "ip6tables-restore")
    before = host.live()
    with pytest.raises(StepError, match="everything is as it was before"):
        host.apply(WEB, "iptables")
    assert host.live() == before


def test_rules_of_nft_alone_are_nfts_in_both_families(host: NetnsHost) -> None:
    """They can all be told, and the family that has none of them gets the same firewall."""
    IPTABLES.close(host)
    host.nft("add rule ip filter OUTPUT tcp dport { 22, 8022 } accept")
    before = host.objects()
    applied = host.apply(WEB)
    assert (applied.backend, applied.reason) == (
        "nftables",
        "nftables table ip filter chain INPUT stops what is needed",
    )
    assert [notice.code for notice in applied.notices if notice.code == "dropped_elsewhere"] == []
    assert look(host).rules.rules == WEB.rules
    host.apply(None)
    assert host.objects() == before
    # Asked for, it does without a word about the other one.
    applied = host.apply(WEB, "iptables")
    assert [notice.code for notice in applied.notices if notice.code == "dropped_elsewhere"] == []
    assert prepare(host, WEB, backend="auto").plan.steps == ()
    host.apply(None)
    assert host.objects() == before


@pytest.mark.parametrize("extension", ["", "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"])
@pytest.mark.parametrize(
    ("rule", "stops"),
    [
        ("tcp dport { 25, 465, 587 } drop", False),
        ("tcp dport { 25, 443 } drop", True),
        ("tcp dport vmap { 25 : drop, 443 : accept }", False),
        ("ip daddr . tcp dport { 192.0.2.1 . 443 } drop", False),
        ("udp length 30 drop", False),
        ("meta skuid 1000 drop", False),
    ],
)
def test_what_a_rule_of_nft_stops(host: NetnsHost, rule: str, stops: bool, extension: str) -> None:
    host.sh(f"iptables -P OUTPUT ACCEPT; {extension}")
    host.nft(f"add rule ip filter OUTPUT {rule}")
    for backend in (Iptables(), Nftables()):
        ways = backend.in_the_way(backend.read(host), WEB)
        assert bool(ways) == (stops and backend.name == ("iptables" if extension else "nftables")), ways
    assert ("stops what is needed" in prepare(host, WEB, backend="auto").reason) == stops


@pytest.mark.parametrize("rule", ["meta skuid 1000 accept", "ct state established accept"])
def test_a_rule_of_nft_beside_another_firewall(host: NetnsHost, rule: str) -> None:
    NFTABLES.close(host)
    host.sh(BEFORE)
    host.nft(f"add rule ip filter ts-forward {rule}")
    before = host.listing()
    assert host.apply(WEB).backend == "nftables"
    assert prepare(host, WEB, backend="auto").plan.steps == ()
    assert look(host).rules.rules == WEB.rules
    host.apply(None)
    assert host.listing() == before


def test_without_nft_a_table_that_cannot_be_printed_is_an_error_with_a_way_out(host: NetnsHost) -> None:
    IPTABLES.close(host)
    host.nft("add rule ip filter OUTPUT meta skuid 1000 accept")
    host.hidden.add("nft")
    with pytest.raises(BackendError, match=r"(?s)iptables-save -t filter failed: .*install nftables, which lists it"):
        host.apply(WEB, "iptables")
