# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lockdown: what leaves a host, or passes a gateway, by packets to all ports; and what has to work all the same."""

from __future__ import annotations

import json
import subprocess
import time
import typing as t

import pytest

from . import document
from .lab import as_opened, as_sets, both_families, changes, differences
from .suite import NOTHING, SIDES

if t.TYPE_CHECKING:
    from .confirm import Controller
    from .lab import Machine, Ports, Target

__all__ = ["TestLockdown", "TestLockdownOfAGateway", "leased"]

ALLOW = ["7000-7001/tcp", "203.0.113.0/24"]
MODE = {"mode": "lockdown", "lockdown_allow": ALLOW}

# How the operator lets everything out, and the answers in, now and at boot.
LOOSEN = {
    "iptables": (
        "for i in iptables ip6tables; do $i -P OUTPUT ACCEPT; $i -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT;"
        " done; sed -i 's/^:OUTPUT DROP/:OUTPUT ACCEPT/;"
        " s/^COMMIT/-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\\nCOMMIT/' /etc/iptables/rules.v[46]"
    ),
    "nftables": (
        "sed -i '/chain output/,/}/s/policy drop/policy accept/;"
        ' s/iif "lo" accept.*/&\\n ct state established accept/\' /etc/nftables.conf; nft -f /etc/nftables.conf'
    ),
    "ufw": "ufw default allow outgoing",
    "firewalld": "firewall-cmd -q --permanent --delete-policy=shut-out; firewall-cmd -q --reload",
}

# What lets another port out all the same, and how the firewall's own tool then writes its rules anew.
LEAK = {
    "iptables": "for i in iptables ip6tables; do $i -I OUTPUT -p tcp --dport 25 -j ACCEPT; done",
    "nftables": "nft insert rule inet openagora output tcp dport 25 accept",
    "ufw": "ufw prepend allow out 25/tcp; ufw allow 81/tcp; ufw --force reload",
    "firewalld": ("firewall-cmd -q --permanent --policy=openagora-out --add-port=25/tcp; firewall-cmd -q --reload"),
}


NETWORKD = "/run/systemd/system/systemd-networkd.service.d"

# No rule of firewalld tells a client of DHCP by its own port.
DHCP = {"firewalld": {"ipv4": 67, "ipv6": 547}}


def passing(target: Target, *sdks: str, through: bool = False) -> Ports:
    """What leaves for the other side, which the host asks for names; `through`: from machines inside."""
    listed = document.egress(sdks)
    found = both_families({"tcp": listed["tcp"] | {53, 7000, 7001}, "udp": listed["udp"] | {53, 123}})
    for family, port in DHCP.get(target.profile.name, {}).items() if not through else ():
        found[f"udp{family[-1]}"] = found[f"udp{family[-1]}"] | {port}
    return found


def site(target: Target, *, loose: bool) -> None:
    """The host as it was made, which asks the other side for names; loose: its own firewall lets everything out."""
    target.reset()
    if loose:
        target.run(LOOSEN[target.profile.name])
    ask(target)


def ask(target: Target) -> None:
    """Let the host ask the other side for names; in place, because the file is a mount of its own."""
    target.run(f"printf 'nameserver %s\\n' {' '.join(target.far.addresses)} >/etc/resolv.conf")


class Lease:
    """An address that the host has from the other side, on a cable of its own, by systemd-networkd."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def left(self) -> int:
        """For how many seconds more it has it; -1 if it has none."""
        shown = json.loads(self.target.run("ip -j -4 address show dev lease0 dynamic"))
        return max((entry["valid_life_time"] for link in shown for entry in link.get("addr_info", ())), default=-1)

    def grow_old(self) -> None:
        """Until what is left of it is so much less that another lease shows."""
        first, deadline = self.left(), time.monotonic() + 60
        while self.left() > first - 2:
            assert time.monotonic() < deadline, f"{self.target.name}: its lease of {first} s does not grow old"
            time.sleep(0.1)

    def wait(self, seconds: int) -> None:
        """Until it has it for that long."""
        deadline = time.monotonic() + 60
        while self.left() < seconds:
            assert time.monotonic() < deadline, self.target.run("journalctl -n 20 -u systemd-networkd")
            time.sleep(0.1)


@pytest.fixture
def leased(target: Target, far: Machine) -> t.Iterator[Lease]:
    """The host with such an address, and a firewall that lets everything out."""
    site(target, loose=True)
    end, other = (["name", "lease0", "netns", str(machine.process)] for machine in (target, far))
    subprocess.run(["ip", "link", "add", *end, "type", "veth", "peer", *other], check=True)
    server = "Address=198.51.100.1/24\nDHCPServer=yes\n[DHCPServer]\nEmitRouter=no\nEmitDNS=no"
    for machine, how in ((far, server), (target, "DHCP=ipv4")):
        network = f"[Match]\nName=lease0\n[Network]\n{how}"
        # With a /sys that it may write to it waits for udev, which no container has.
        machine.run(
            f"mkdir -p /run/systemd/network {NETWORKD}; echo '{network}' >/run/systemd/network/lease.network;"
            f" printf '[Service]\nBindReadOnlyPaths=/sys\n' >{NETWORKD}/sys.conf;"
            " systemctl daemon-reload; systemctl restart systemd-networkd"
        )
    lease = Lease(target)
    try:
        lease.wait(0)
        yield lease
    finally:
        for machine in (target, far):
            machine.run(
                f"systemctl stop systemd-networkd.socket systemd-networkd; rm -r /run/systemd/network {NETWORKD};"
                " systemctl daemon-reload"
            )
        target.run("ip link delete lease0")


class TestLockdown:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("loose", [False, True], ids=["closed", "loose"])
    def test_nothing_else_leaves(self, target: Target, loose: bool) -> None:
        site(target, loose=loose)
        before = target.state()
        check = target.apply("web", check=True, **MODE)
        assert not changes(before, target.state())
        result = target.apply("web", **MODE)
        assert (result["backend"]["name"], result["diff"]) == (target.profile.name, check["diff"])
        assert {notice["code"] for notice in result["notices"]} >= {"unbounded"}
        # One after the other: what the other side answers to the packets of one is no packet of the other.
        assert not differences("ingress", NOTHING, target.measure(directions=["ingress"]).ingress)
        measured = target.measure(directions=["egress"])
        assert not differences("egress", passing(target, "web"), measured.egress)
        assert target.apply("web", **MODE)["changed"] is False
        info = target.module("applied_info")
        assert (info["mode"], sorted(info["lockdown_allow"])) == ("lockdown", sorted(ALLOW))
        # Another choice of SDKs, and then none of it.
        target.apply("native", **MODE)
        target.apply(state="absent")
        assert not changes(before, target.state())

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("loose", [False, True], ids=["closed", "loose"])
    def test_the_proof_names_the_essentials(self, target: Target, far: Machine, loose: bool) -> None:
        """Before and after another choice of SDKs it finds what passes by packets."""
        site(target, loose=loose)
        for sdk in ("web", "native"):
            target.apply(sdk, **MODE)
            wanted = target.module("rules", sdks=[sdk])["rules"]
            options = {"rules": wanted, "far": far.addresses, "directions": ["egress"]}
            proof = target.module("proof", **options, fail_on=["missing", "beyond"])
            assert not proof.get("failed"), proof["msg"]
            named = {"allow": {"tcp": ["7000-7001"]}, "dns": {"tcp": ["53"], "udp": ["53"]}, "ntp": {"udp": ["123"]}}
            essentials = {
                why: {family: {"egress": found} for family in ("ipv4", "ipv6")} for why, found in named.items()
            }
            beyond = {family: {"tcp": ["53", "7000-7001"], "udp": ["53", "123"]} for family in ("ipv4", "ipv6")}
            for family, port in DHCP.get(target.profile.name, {}).items():
                essentials.setdefault("dhcp", {})[family] = {"egress": {"udp": [str(port)]}}
                beyond[family]["udp"] = sorted([*beyond[family]["udp"], str(port)], key=int)
            assert proof["essentials"] == essentials
            assert proof["beyond"] == {family: {"egress": found} for family, found in beyond.items()}
            assert not differences("proved", passing(target, sdk), as_opened(proof).egress)
            measured = target.measure(directions=["egress"])
            assert not differences("egress", passing(target, sdk), measured.egress)

    def test_what_ip_needs(self, target: Target, far: Machine) -> None:
        """Names, time, the lease of an address, the MTU of a path and neighbours in IPv6."""
        site(target, loose=True)
        target.apply("web", **MODE)
        target.run("ip -6 neighbour flush dev eth0; ip neighbour flush dev eth0; conntrack --flush")
        with far.echo("--redirect-tcp"):
            words = ("--tcp", "53,443", "--udp", "53,123,3478")
            answered = target.instrument("client", "exchange", *far.addresses, *words)
        assert as_sets(answered) == both_families({"tcp": {53, 443}, "udp": {53, 123, 3478}})
        target.run("ip route flush cache; ip -6 route flush cache")
        with far.echo("--too-big"):
            told = target.instrument("client", "errors", *far.addresses, "--udp", "3478")
        target.run("ip route flush cache; ip -6 route flush cache")
        assert [entry["mtu"] for answers in told.values() for entry in answers] == [1280, 1280]
        # A client of DHCP renews its lease from its own port.
        for client, server, name in ((68, 67, "udp4"), (546, 547, "udp6")):
            for sport in (client, client + 1):
                measured = target.measure(directions=["egress"], sport=sport, low=server, high=server)
                passes = sport == client or target.profile.name in DHCP
                expected = {**NOTHING, name: {server}} if passes else NOTHING
                assert not differences(f"egress from {sport}", expected, measured.egress)

    def test_a_lease_is_renewed(self, target: Target, leased: Lease) -> None:
        target.apply("web", **MODE)
        leased.grow_old()
        left = leased.left()
        target.run("networkctl renew lease0")
        leased.wait(left + 1)

    def test_what_leaks_is_stopped(self, target: Target) -> None:
        site(target, loose=True)
        target.apply("web", **MODE)
        target.run(LEAK[target.profile.name])
        assert target.lets_out("tcp", 25) == {"4": True, "6": True}
        assert target.apply("web", **MODE)["changed"] is True
        assert not differences("egress", passing(target, "web"), target.measure(directions=["egress"]).egress)
        assert target.apply("web", **MODE)["changed"] is False

    def test_it_is_in_force_when_the_host_has_started(self, target: Target) -> None:
        site(target, loose=True)
        target.apply("web", **MODE)
        with target.probe():
            target.reboot()
            shown = target.run("cat /var/tmp/at-boot")
            assert target.profile.mark in shown
            assert "reject" in shown.lower()
        service = "openagora-firewall.service" if target.profile.boot_unit else target.profile.loader
        assert "network-pre.target" in target.run(f"systemctl show --value --property=Before {service}").split()
        ask(target)
        assert not differences("egress", passing(target, "web"), target.measure(directions=["egress"]).egress)
        assert target.apply("web", **MODE)["changed"] is False

    def test_who_is_connected_stays_so(self, reachable: Controller) -> None:
        target = reachable.target
        ask(target)
        before = target.state()
        result = reachable.run(agora_sdks=["web"], agora_mode="lockdown", agora_lockdown_allow=",".join(ALLOW))
        assert (result["changed"], result.get("confirmed")) == (True, True), result.get("msg")
        assert reachable.reaches()
        assert target.module("applied_info")["mode"] == "lockdown"
        assert reachable.run(agora_state="restored")["confirmed"]
        assert not changes(before, target.state())

    def test_who_is_connected_past_connection_tracking_is_not_cut_off(self, reachable: Controller) -> None:
        """Where a rule says notrack for SSH: its answers leave, or the run is refused, which names the rule's word.

        No rule of firewalld tells them from what the host begins itself.
        """
        target = reachable.target
        ask(target)
        if target.profile.name in ("firewalld", "ufw"):
            target.run(LOOSEN[target.profile.name])
        for hook, end in (("prerouting", "dport"), ("output", "sport")):
            chain = f"chain {hook} {{ type filter hook {hook} priority raw; tcp {end} 22 notrack; }}"
            target.run(f"nft 'table inet untracked {{ {chain}; }}'")
        assert reachable.reaches()
        before = target.state()
        result = reachable.run(agora_sdks=["web"], agora_mode="lockdown", agora_confirm_within=0)
        assert reachable.reaches()
        if target.profile.name == "firewalld":
            assert result.get("failed"), result
            assert "would cut the connection" in result["msg"]
            assert "notrack" in result["msg"]
            assert not changes(before, target.state())
        else:
            assert result["changed"] is True, result.get("msg")


class TestLockdownOfAGateway:
    def test_nothing_else_passes(self, gateway: Target, inside: Machine) -> None:
        site(gateway, loose=False)
        before = gateway.state()
        wanted = {**SIDES, **MODE, "placement": ["host", "gateway"], "recording_targets": inside.addresses}
        gateway.apply("web", "recording", **wanted)
        through = gateway.measure(through=True, directions=["egress"])
        assert not differences("egress", passing(gateway, "web", "recording", through=True), through.egress)
        through = gateway.measure(through=True, directions=["ingress"])
        assert not differences("ingress", both_families(document.ingress(["recording"])), through.ingress)
        measured = gateway.measure(directions=["egress"])
        assert not differences("egress of the gateway", passing(gateway, "web", "recording"), measured.egress)
        assert gateway.apply("web", "recording", **wanted)["changed"] is False
        gateway.apply(state="absent")
        assert not changes(before, gateway.state())
