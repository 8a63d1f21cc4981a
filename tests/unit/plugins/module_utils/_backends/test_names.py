# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of scope names with nftables: sets that the resolver fills, and that every other change leaves alone."""

from __future__ import annotations

import re

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.boot import KEPT_PATH, SCRIPT_PATH
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from netns import NetnsHost, rule_set

WEB = rule_set("web", scope="names")
ALL = rule_set(scope="names")
SETS = {"openagora_names_ipv4", "openagora_names_ipv6", "openagora_unnamed_ipv4", "openagora_unnamed_ipv6"}

# On the loopback, where both ends are at hand: 127.0.0.2 has a name, 127.0.0.3 has none.
NAMED, OTHER, NAMED_6, OTHER_6 = "127.0.0.2", "127.0.0.3", "fd00::2", "fd00::3"
FIREWALL = """
table inet f {
    chain out { type filter hook output priority 0; policy drop; }
    chain in { type filter hook input priority 0; policy drop; }
}
"""

CONNECT = """
import socket, sys
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, int(sys.argv[1])), family=family), socket.socket(family) as client:
        client.settimeout(0.3)
        try:
            client.connect((address, int(sys.argv[1])))
            print("open", end=" ")
        except OSError:
            print("closed", end=" ")
"""


@pytest.fixture
def named(host: NetnsHost) -> NetnsHost:
    """A host that drops everything but what Web needs at the addresses that a name has."""
    host.sh("ip link set lo up; ip -6 address add fd00::2/128 dev lo nodad; ip -6 address add fd00::3/128 dev lo nodad")
    host.nft(FIREWALL)
    host.apply(WEB, "nftables")
    answer(host, NAMED, NAMED_6)
    # The other end is on this host: its side of a connection is no egress of an SDK.
    host.sh("nft insert rule inet f in tcp dport 443 accept; nft insert rule inet f out tcp sport 443 accept")
    return host


def answer(host: NetnsHost, *addresses: str) -> None:
    """Do what dnsmasq does with the addresses of an answer."""
    for address in addresses:
        host.sh(f"nft add element inet f openagora_names_ipv{6 if ':' in address else 4} {{ {address} }}")


def held(host: NetnsHost) -> dict[str, str]:
    """The sets of addresses with what is in them, without the time that it has left."""
    found = {}
    for name in SETS:
        text = host.sh(f"nft list set inet f {name} 2>/dev/null || true")
        elements = re.search(r"elements = \{([^}]*)\}", text)
        if text:
            found[name] = re.sub(r" expires \w+|\s", "", elements[1]) if elements else ""
    return found


def tries(host: NetnsHost, *addresses: str, port: int = 443) -> list[str]:
    """Whether a connection to each address comes about."""
    host.put("/run/connect.py", CONNECT)
    return host.sh(f"python3 {host.path('/run/connect.py')} {port} {' '.join(addresses)}").split()


def test_only_what_was_answered_is_reached(named: NetnsHost) -> None:
    assert tries(named, NAMED, OTHER, NAMED_6, OTHER_6) == ["open", "closed", "open", "closed"]


def test_what_was_not_answered_is_remembered(named: NetnsHost) -> None:
    tries(named, NAMED, OTHER, OTHER_6)
    assert look(named).unnamed == ((OTHER, 443), (OTHER_6, 443))


def test_udp_goes_anywhere(named: NetnsHost) -> None:
    assert [(rule.protocol, rule.scope) for rule in look(named).rules] == [("tcp", "names"), ("udp", "any")]


def test_the_sets_are_as_dnsmasq_takes_them(named: NetnsHost) -> None:
    assert look(named).address_sets == ("4#inet#f#openagora_names_ipv4", "6#inet#f#openagora_names_ipv6")


def test_nothing_changes_what_is_in_the_sets(named: NetnsHost) -> None:
    before = held(named)
    assert before["openagora_names_ipv4"] == NAMED
    for rules in (ALL, WEB, rule_set("native", scope="names"), ALL, WEB):
        named.apply(rules, "nftables")
        assert held(named) == before
        assert prepare(named, rules, backend="nftables").plan.steps == ()
    assert named.boot() == named.boot() == ""
    assert held(named) == before


def test_what_is_in_the_sets_outlives_a_loader(named: NetnsHost) -> None:
    """As systemd does it: kept before nftables.service reloads its file, put back after it."""
    before = held(named)
    named.sh(f"sh {named.path(SCRIPT_PATH)} keep")
    named.sh("nft flush ruleset")
    named.nft(FIREWALL)
    assert named.boot() == ""
    assert held(named) == before
    assert not named.exists(KEPT_PATH)


def test_use_keeps_an_address(named: NetnsHost) -> None:
    named.sh(f"nft delete element inet f openagora_names_ipv4 {{ {NAMED} }}")
    named.sh(f"nft add element inet f openagora_names_ipv4 {{ {NAMED} timeout 10s }}")
    assert tries(named, NAMED) == ["open"]
    assert "expires 59m" in named.sh("nft list set inet f openagora_names_ipv4")


def test_a_connection_outlives_its_address(named: NetnsHost) -> None:
    named.put(
        "/run/talk.py",
        """
import socket, subprocess
with socket.create_server(("127.0.0.2", 443)) as server, socket.create_connection(("127.0.0.2", 443)) as client:
    peer = server.accept()[0]
    subprocess.run("nft flush set inet f openagora_names_ipv4", shell=True, check=True)
    for sock in (client, peer):
        sock.settimeout(1)
    client.send(b"1"), peer.recv(1), peer.send(b"2")
    print(client.recv(1).decode())
""",
    )
    assert named.sh(f"python3 {named.path('/run/talk.py')}") == "2\n"
    assert tries(named, NAMED) == ["closed"]


def test_the_sets_go_with_the_last_rule(named: NetnsHost) -> None:
    named.apply(rule_set("web"), "nftables")
    assert held(named) == {}
    named.apply(WEB, "nftables")
    assert held(named).keys() == SETS
    named.apply(None)
    assert "openagora" not in named.listing()


def test_a_failure_later_on_leaves_what_is_in_the_sets(named: NetnsHost) -> None:
    before = named.objects()
    named.stand_in("systemctl", "exit 1")
    named.systemd(show="")
    plan = prepare(named, ALL, backend="nftables").plan
    named.carry_out(plan.steps[:1])
    named.undo(plan.steps[:1])
    assert named.objects() == before
    assert held(named)["openagora_names_ipv4"] == NAMED


def test_dnsmasq_forgets_when_a_set_was_made(host: NetnsHost) -> None:
    host.nft(FIREWALL)
    host.stand_in("systemctl", 'echo "$*" >>/run/systemctl')
    host.apply(WEB, "nftables")
    assert host.sh("cat /run/systemctl; rm /run/systemctl") == "kill --signal=HUP dnsmasq.service\n"
    host.apply(ALL, "nftables")
    assert host.sh("cat /run/systemctl 2>/dev/null || true") == ""
    host.boot()
    assert host.sh("cat /run/systemctl; rm /run/systemctl") == "kill --signal=HUP dnsmasq.service\n"
    # A set that goes and comes back is empty.
    plan = prepare(host, rule_set("web"), backend="nftables").plan
    host.carry_out(plan.steps[:1])
    assert host.sh("cat /run/systemctl 2>/dev/null || true") == ""
    host.undo(plan.steps[:1])
    assert host.sh("cat /run/systemctl") == "kill --signal=HUP dnsmasq.service\n"


@pytest.mark.parametrize(
    "shape", ["type ipv4_addr", "type ipv4_addr; flags interval,timeout; timeout 1h", "type inet_service; timeout 1h"]
)
def test_a_set_of_others_with_the_name_is_refused(host: NetnsHost, shape: str) -> None:
    host.nft(FIREWALL)
    host.sh(f"nft 'add set inet f openagora_names_ipv4 {{ {shape}; }}'")
    with pytest.raises(BackendError, match="set openagora_names_ipv4 in table inet f carries a name of ours"):
        prepare(host, WEB, backend="nftables")


def test_damage_is_put_right(named: NetnsHost) -> None:
    before = named.objects()
    rules = named.sh("nft -a list chain inet f openagora_output")
    for handle in re.findall(r"(?:openagora_names|original|unnamed).*# handle (\d+)", rules):
        named.sh(f"nft delete rule inet f openagora_output handle {handle}")
        assert prepare(named, WEB, backend="nftables").plan.steps
    named.apply(WEB, "nftables")
    assert named.objects() == before


def test_a_rule_for_one_family_alone_is_no_rule(named: NetnsHost) -> None:
    rules = named.sh("nft -a list chain inet f openagora_output")
    (handle,) = re.findall(r"openagora_names_ipv6.*# handle (\d+)", rules)
    named.sh(f"nft delete rule inet f openagora_output handle {handle}")
    assert [rule.protocol for rule in look(named).rules] == ["udp"]
