# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend contract as tests of a host."""

from __future__ import annotations

import itertools
import json
import re
import types
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import document
from .lab import Measured, as_sets, as_text, both_families, changes, differences, neighbours
from .sampling import sample

if t.TYPE_CHECKING:
    from .lab import Machine, Ports, Target
    from .profiles import Breakage

__all__ = ["contract_with"]

ALL = document.SDKS
NOTHING: Ports = both_families({"tcp": set(), "udp": set()})
EVERYTHING: Ports = both_families({"tcp": document.to(1, 65535), "udp": document.to(1, 65535)})

ECONNREFUSED = 111


class TestInstruments:
    """The instruments themselves, against firewalls made by hand: they see what is there, and what is not."""

    def test_closed_host(self, target: Target) -> None:
        target.reset()
        measured = target.measure()
        assert measured.egress == NOTHING
        assert measured.ingress == NOTHING

    def test_open_host(self, target: Target) -> None:
        target.reset("none")
        measured = target.measure()
        assert not differences("egress", EVERYTHING, measured.egress)
        assert not differences("ingress", EVERYTHING, measured.ingress)

    def test_some_ports_in_one_family(self, target: Target) -> None:
        target.reset("none")
        rules = """
            table inet by_hand {
                chain output { type filter hook output priority 0; policy drop;
                    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                    meta nfproto ipv6 udp dport { 1, 1000-2000, 65535 } accept; }
                chain input { type filter hook input priority 0; policy drop;
                    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                    meta nfproto ipv4 tcp dport 1-65534 accept; }
            }"""
        target.run(f"echo '{rules}' | nft -f -")
        measured = target.measure()
        assert measured.egress == {**NOTHING, "udp6": {1, 65535, *document.to(1000, 2000)}}
        assert measured.ingress == {**NOTHING, "tcp4": document.to(1, 65534)}

    def test_answers_need_return_traffic(self, target: Target, far: Machine) -> None:
        """A host that lets everything out and nothing in gets no answer, and is told no error."""
        target.reset("none")
        target.run("nft 'add table inet by_hand; add chain inet by_hand input { type filter hook input priority 0; }'")
        target.run("nft add rule inet by_hand input icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept")
        target.run("nft add rule inet by_hand input meta l4proto '{ tcp, udp, icmp, icmpv6 }' drop")
        with far.echo("--redirect-tcp"):
            answered = target.instrument("client", "exchange", *far.addresses, "--tcp", "443", "--udp", "3478")
        assert as_sets(answered) == NOTHING
        with far.echo("--too-big"):
            target.run("ip route flush cache; ip -6 route flush cache")
            told = target.instrument("client", "errors", *far.addresses, "--udp", "3478")
        assert [entry["errno"] for answers in told.values() for entry in answers] == [None, None]
        assert [entry["mtu"] for answers in told.values() for entry in answers] == [1500, 1500]


def assert_exact(target: Target, *sdks: str) -> None:
    """By packets: every listed port in its direction; no neighbour of a range, no egress from outside, nothing else.

    And the kernel's own verdict in a copy of the rules is what the packets say.
    """
    target.reset()
    result = target.apply(*sdks)
    assert result["backend"]["name"] == target.profile.name
    measured = target.measure()
    for name in measured.egress:
        listed = document.egress(sdks)[name[:3]]
        for port in sorted(neighbours(listed)):
            assert port not in measured.egress[name], f"egress {name} {port}, next to a range"
        if "recording" not in sdks:
            assert not listed & measured.ingress[name], f"ingress {name} on egress ports"
    assert not differences("egress", both_families(document.egress(sdks)), measured.egress)
    assert not differences("ingress", both_families(document.ingress(sdks)), measured.ingress)
    proved = target.prove()
    assert not differences("proved egress", measured.egress, proved.egress)
    assert not differences("proved ingress", measured.ingress, proved.ingress)


class TestEachSdk:
    """The same as in `TestPackets`, for one SDK after the other."""

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("sdk", ALL)
    def test_open_is_exactly_the_list(self, target: Target, sdk: str) -> None:
        assert_exact(target, sdk)


class TestPackets:
    """What is open, by packets to all 65,535 ports of both protocols, in both directions and families."""

    def test_open_is_exactly_the_list(self, target: Target) -> None:
        assert_exact(target, *ALL)

    def test_ingress_from(self, target: Target, far: Machine) -> None:
        """Ingress only from where it was asked for: the other side's IPv4 address, and no IPv6."""
        target.reset()
        target.apply("recording", ingress_from=[f"{far.addresses[0]}/32", "2001:db8::/32"])
        measured = target.measure(directions=["ingress"])
        wanted = document.ingress(["recording"])["udp"]
        assert not differences("ingress", {**NOTHING, "udp4": wanted}, measured.ingress)


class TestReturnTraffic:
    """What is opened works, on a host whose own firewall knows no established connections; and only that."""

    def test_answers(self, opened: Target, far: Machine) -> None:
        """Real connections and datagrams to every port get their answer, though nothing else lets it in or out."""
        ports = document.egress(ALL)
        with far.echo("--redirect-tcp"):
            arguments = ("--tcp", as_text(ports["tcp"]), "--udp", as_text(ports["udp"]))
            answered = opened.instrument("client", "exchange", *far.addresses, *arguments)
        assert not differences("answers from outside", both_families(ports), as_sets(answered))
        ports = document.ingress(ALL)
        with opened.echo():
            answered = far.instrument("client", "exchange", *opened.addresses, "--udp", as_text(ports["udp"]))
        assert not differences("answers to outside", both_families(ports), as_sets(answered))

    def test_errors_about_our_packets(self, opened: Target, far: Machine) -> None:
        """A closed port on the other side, and a link on the way that is too narrow, are told to the socket."""
        told = opened.instrument("client", "errors", *far.addresses, "--udp", "3478,4000")
        assert [entry["errno"] for answers in told.values() for entry in answers] == [ECONNREFUSED] * 4
        opened.run("ip route flush cache; ip -6 route flush cache")
        with far.echo("--too-big"):
            told = opened.instrument("client", "errors", *far.addresses, "--udp", "3478")
        opened.run("ip route flush cache; ip -6 route flush cache")
        assert [entry["mtu"] for answers in told.values() for entry in answers] == [1280, 1280]

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize(("sport", "flags"), [(443, "syn"), (443, "syn,ack"), (3478, "ack"), (1080, "rst")])
    def test_strays_from_ports_of_ours_stay_outside(self, opened: Target, sport: int, flags: str) -> None:
        """The source port alone lets nothing in that belongs to no connection of ours."""
        measured = opened.measure(directions=["ingress"], sport=sport, flags=flags)
        assert not differences("ingress", both_families(document.ingress(ALL)), measured.ingress)

    def test_strays_from_ports_of_ours_stay_inside(self, target: Target) -> None:
        """The same for what leaves from a port on which recording receives."""
        target.reset()
        target.apply("recording")
        measured = target.measure(directions=["egress"], sport=40000)
        assert not differences("egress", both_families(document.egress(["recording"])), measured.egress)


SIDES = {"placement": ["gateway"], "inside": [{"interface": "eth1"}], "outside": [{"interface": "eth0"}]}


class TestGateway:
    """The SDKs run on a machine inside, whose packets the host forwards."""

    def test_open_is_exactly_the_list(self, gateway: Target, inside: Machine) -> None:
        """Through the gateway, and not to or from the gateway itself."""
        result = gateway.apply(*ALL, **SIDES, recording_targets=inside.addresses)
        assert not [
            notice for notice in result["notices"] if notice["code"] in ("not_forwarding", "no_recording_targets")
        ]
        through = gateway.measure(through=True)
        assert not differences("egress", both_families(document.egress(ALL)), through.egress)
        assert not differences("ingress", both_families(document.ingress(ALL)), through.ingress)
        proved = gateway.prove(**SIDES, recording_targets=inside.addresses)
        assert not differences("proved egress", through.egress, proved.egress)
        assert not differences("proved ingress", through.ingress, proved.ingress)
        measured = gateway.measure()
        assert measured.egress == NOTHING
        assert measured.ingress == NOTHING

    def test_answers(self, gateway: Target, far: Machine, inside: Machine) -> None:
        """Connections from inside get their answers, those from outside get theirs from the recording machine."""
        gateway.apply(*ALL, **SIDES, recording_targets=inside.addresses)
        ports = document.egress(ALL)
        with far.echo("--redirect-tcp"):
            arguments = ("--tcp", as_text(ports["tcp"]), "--udp", as_text(ports["udp"]))
            answered = inside.instrument("client", "exchange", *far.addresses, *arguments)
        assert not differences("answers from outside", both_families(ports), as_sets(answered))
        ports = document.ingress(ALL)
        with inside.echo():
            answered = far.instrument("client", "exchange", *inside.addresses, "--udp", as_text(ports["udp"]))
        assert not differences("answers to outside", both_families(ports), as_sets(answered))
        told = inside.instrument("client", "errors", *far.addresses, "--udp", "3478,4000")
        assert [entry["errno"] for answers in told.values() for entry in answers] == [ECONNREFUSED] * 4

    def test_sides_and_targets(self, gateway: Target, inside: Machine) -> None:
        """Sources instead of interfaces, here of IPv4 alone; ingress reaches no machine but the recording targets."""
        other = re.sub(r"\d+$", "99/32", inside.addresses[0])
        sides = {"placement": ["gateway"], "inside": [{"source": f"{inside.addresses[0]}/32"}, {"source": other}]}
        gateway.apply("recording", **sides, recording_targets=[other])
        through = gateway.measure(through=True)
        listed = {name: ports for name, ports in both_families(document.egress(["recording"])).items() if "4" in name}
        assert not differences("egress", {**NOTHING, **listed}, through.egress)
        assert not differences("ingress", NOTHING, through.ingress)
        result = gateway.apply("recording", **sides)
        assert "no_recording_targets" in [notice["code"] for notice in result["notices"]]

    def test_host_and_gateway(self, gateway: Target, inside: Machine) -> None:
        before = gateway.state()
        wanted = {**SIDES, "placement": ["host", "gateway"], "recording_targets": inside.addresses}
        check = gateway.apply(*ALL, check=True, **wanted)
        assert not changes(before, gateway.state())
        assert gateway.apply(*ALL, **wanted)["diff"] == check["diff"]
        gateway.assert_open(*ALL)
        assert gateway.apply(*ALL, **wanted)["changed"] is False
        found = gateway.module("applied_info")["rules"]
        assert [rule.get("placement", "host") for rule in found].count("gateway") >= 3
        # From both to the host alone.
        assert gateway.apply("web")["changed"] is True
        assert gateway.measure(through=True) == Measured(egress=NOTHING, ingress=NOTHING)
        gateway.assert_open("web")
        gateway.apply(state="absent")
        assert not changes(before, gateway.state())

    def test_local_containers(self, gateway: Target, far: Machine) -> None:
        """Containers on a bridge of the host are machines inside: their packets never pass the output hook."""
        gateway.run(
            "ip link add bridge0 type bridge; ip link set bridge0 up; ip address add 10.89.79.1/24 dev bridge0;"
            "ip netns add box; ip link add box0 type veth peer name eth0 netns box; ip link set box0 master bridge0 up;"
            "ip -n box link set eth0 up; ip -n box address add 10.89.79.2/24 dev eth0;"
            "ip -n box route add default via 10.89.79.1"
        )
        far.run(f"ip route replace 10.89.79.0/24 via {gateway.addresses[0]}")
        try:
            gateway.apply("web", placement=["gateway"], inside=[{"interface": "bridge0"}])
            asks = "ip netns exec box python3 /opt/instruments/client.py exchange"
            with far.echo("--redirect-tcp"):
                answered = gateway.run(f"{asks} {far.addresses[0]} --tcp 80,444,5668-5670 --udp 3478-3479")
        finally:
            gateway.run("ip netns delete box; ip link delete bridge0")
        assert as_sets(json.loads(answered)) == {"tcp4": {80, 5668, 5669}, "udp4": {3478}}

    @pytest.mark.once("firewalld")
    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ({"placement": ["gateway"]}, "inside"),
            ({"inside": [{"interface": "eth1"}]}, "placement gateway only"),
            ({"placement": ["gateway"], "inside": [{"interface": "eth7"}]}, "eth7"),
            ({"placement": ["gateway"], "inside": [{"zone": "nowhere"}]}, "zone"),
            ({**SIDES, "outside": [{"interface": "eth1"}]}, "inside too"),
            (
                {"placement": ["gateway"], "inside": [{"source": "10.0.0.0/24"}], "recording_targets": ["10.0.1.5"]},
                "10.0.1.5/32 is not inside",
            ),
        ],
        ids=str,
    )
    def test_bad_input(self, target: Target, options: dict[str, t.Any], word: str) -> None:
        assert word in target.refused(sdks=["web"], **options)


class TestChanges:
    """From one wish to the next."""

    @pytest.mark.parametrize(
        "options", [{"sdks": ["web", "recording"]}, {"state": "absent"}], ids=["present", "absent"]
    )
    def test_four_steps(self, target: Target, options: dict[str, t.Any]) -> None:
        """check = changed, run = changed, check = unchanged, run = unchanged; a check writes nothing."""
        target.reset()
        if "state" in options:
            target.apply(*ALL)
        before = target.state()
        check = target.apply(check=True, **options)
        assert not changes(before, target.state())
        run = target.apply(**options)
        after = target.state()
        assert changes(before, after)
        for result in (check, run):
            assert result["changed"] is True
            assert result["added"] + result["removed"]
        for key in ("added", "removed", "diff"):
            assert check[key] == run[key], key
        assert run["diff"]["prepared"].strip()
        for again in (target.apply(check=True, **options), target.apply(**options)):
            assert again["changed"] is False, again
            assert not again["added"] + again["removed"]
        assert not changes(after, target.state())

    def test_applied_info(self, target: Target) -> None:
        """What module applied_info reads from the live firewall is the document's list."""
        target.reset()
        nothing = target.module("applied_info")
        assert not nothing["rules"] + nothing["backends"] + nothing["files"]
        target.apply(*ALL)
        info = target.module("applied_info")
        assert info["backends"] == [target.profile.name]
        assert info["files"]
        found = {(rule["direction"], rule["protocol"]): ",".join(rule["ports"]) for rule in info["rules"]}
        assert found == {
            ("egress", "tcp"): as_text(document.egress(ALL)["tcp"]),
            ("egress", "udp"): as_text(document.egress(ALL)["udp"]),
            ("ingress", "udp"): as_text(document.ingress(ALL)["udp"]),
        }


class TestChoices:
    """From one choice of SDKs to the next, and from one play to another."""

    def test_an_sdk_that_goes_takes_only_its_own_ports(self, target: Target) -> None:
        """A port that another SDK needs too stays open: 1080 and 8000 are on many lists, Web's range is around them."""
        target.reset()
        target.apply(*ALL)
        for left in (("web", "signaling", "recording", "gaming"), ("recording", "gaming"), ("gaming",)):
            assert target.apply(*left)["changed"] is True
            target.assert_open(*left)

    def test_one_of_two_sdks_goes(self, target: Target) -> None:
        """Whichever two they are, what closes is what the other one does not need. Every run reads the live rules."""
        target.reset()
        pairs = sample(f"pairs of SDKs on {target.name}", list(itertools.permutations(ALL, 2)), 4)
        wishes = [sdks for pair in pairs for sdks in (pair, pair[1:])]
        results = target.apply_each([list(sdks) for sdks in wishes])
        for before, after, result in zip([(), *wishes], wishes, results):
            for key, more, less in (("added", after, before), ("removed", before, after)):
                expected = [
                    (direction, protocol, as_text(listed(more)[protocol] - listed(less)[protocol]))
                    for direction, listed in (("egress", document.egress), ("ingress", document.ingress))
                    for protocol in ("tcp", "udp")
                ]
                found = [(rule["direction"], rule["protocol"], ",".join(rule["ports"])) for rule in result[key]]
                assert found == [entry for entry in expected if entry[2]], f"{before} to {after}, {key}"
        target.assert_open(*wishes[-1])

    @pytest.mark.once("ufw")
    def test_two_plays_at_once(self, target: Target) -> None:
        """They do not interleave: the host holds what one of them wanted."""
        target.reset()
        wishes = (("web",), ("native", "recording"))
        # A host so slow that each play looks at it before the other one has changed anything.
        slow = target.commands_that("sleep 0.3", "nft", "iptables-save", "ip6tables-save", "systemctl")
        with ThreadPoolExecutor() as pool:
            # So that Ansible is loaded for both of them.
            list(pool.map(target.module, ["applied_info"] * 2))
        with slow, ThreadPoolExecutor() as pool:
            for play in [pool.submit(target.apply, *sdks) for sdks in wishes]:
                play.result()
        last = [sdks for sdks in wishes if not target.apply(*sdks, check=True)["changed"]]
        assert len(last) == 1
        target.assert_open(*last[0])

    def test_backend_switch(self, target: Target) -> None:
        """The other backend of the host keeps nothing of ours."""
        target.reset()
        target.apply(*ALL)
        wanted = target.state()
        target.reset()
        target.apply(*ALL, backend=target.profile.other)
        assert target.apply(*ALL, backend=target.profile.name)["changed"] is True
        assert not changes(wanted, target.state())


class TestDrift:
    """What somebody does by hand to rules of ours is seen by packets, told by a check and put right by a run."""

    @pytest.mark.sampled(4)
    def test_broken_by_hand(self, opened: Target, breakage: Breakage) -> None:
        opened.run(breakage.command)
        broken = opened.state()
        expected = {family: family not in breakage.families for family in "46"}
        assert opened.lets_out(breakage.protocol, breakage.port) == expected
        check = opened.apply(*ALL, check=True)
        assert check["changed"] is True
        assert not changes(broken, opened.state())
        assert opened.apply(*ALL)["changed"] is True
        assert opened.lets_out(breakage.protocol, breakage.port) == {"4": True, "6": True}

    def test_all_is_repaired(self, opened: Target) -> None:
        """After all that, everything is open and nothing is left to do."""
        assert opened.apply(*ALL)["changed"] is False
        opened.assert_open(*ALL)

    def test_an_innocent_rule_before_ours(self, target: Target) -> None:
        """Others may come first, and stay first, as long as they close no needed port."""
        target.reset()
        target.apply(*ALL)
        target.run(target.profile.innocent)
        before = target.state()
        assert target.apply(*ALL, check=True)["changed"] is False
        assert target.apply(*ALL)["changed"] is False
        assert not changes(before, target.state())
        target.apply("web")
        assert target.attempt(target.profile.first_rule).stdout.strip() == "1", "it stands first no more"


class TestUndo:
    """`absent` gives back what was, to the letter."""

    def test_with_neighbours(self, target: Target) -> None:
        target.reset()
        before = target.state()
        target.apply(*ALL)
        target.apply("web", "recording")
        assert target.apply(state="absent", check=True)["changed"] is True
        assert target.apply(state="absent")["changed"] is True
        assert not changes(before, target.state())
        assert target.apply(state="absent")["changed"] is False

    def test_on_a_host_without_any_rule(self, target: Target) -> None:
        target.reset("none")
        before = target.state()
        check = target.apply(*ALL, check=True, backend=target.profile.name)
        assert not changes(before, target.state())
        run = target.apply(*ALL, backend=target.profile.name)
        assert check["changed"] is run["changed"]
        again = target.apply(*ALL, backend=target.profile.name)
        assert again["changed"] is False, again
        target.apply(state="absent")
        assert not changes(before, target.state())

    def test_after_damage(self, target: Target) -> None:
        """Also what somebody has damaged goes, and nothing of others with it."""
        target.reset()
        before = target.state()
        target.apply(*ALL)
        target.run(target.profile.breakages[0].command)
        target.apply(state="absent")
        assert not changes(before, target.state())


class TestBoot:
    """The rules come back by themselves, before any ordinary service starts."""

    def test_reboot(self, target: Target) -> None:
        target.reset()
        target.apply(*ALL)
        with target.probe():
            target.reboot()
            if target.profile.boot_unit:
                assert target.profile.mark in target.run("cat /var/tmp/at-boot"), "not there for ordinary services"
        assert not target.run("journalctl --boot --no-pager | grep -i 'ordering cycle' || true")
        if target.profile.boot_unit:
            assert {"network-pre.target", "sysinit.target"} <= set(self.order(target, "Before"))
            assert target.profile.loader in self.order(target, "After")
        target.assert_open(*ALL)
        assert target.apply(*ALL)["changed"] is False

    @staticmethod
    def order(target: Target, way: str) -> list[str]:
        return target.run(f"systemctl show --value --property={way} openagora-firewall.service").split()

    def test_the_loader_again(self, target: Target, verb: str) -> None:
        """Reloading the host's own firewall brings ours back with it."""
        target.reset()
        target.apply(*ALL)
        target.run(f"systemctl {verb} {target.profile.loader}")
        target.run(target.profile.ready)
        # systemd hands the reload on to our unit.
        target.wait(
            f"until ({target.profile.show}) | grep -q '{target.profile.mark}'; do sleep 0.1; done", "rule of ours"
        )
        assert target.lets_out("tcp", 443) == {"4": True, "6": True}
        assert target.apply(*ALL)["changed"] is False

    def test_absent_stays_absent(self, target: Target) -> None:
        target.reset()
        target.apply(*ALL)
        target.apply(state="absent")
        target.reboot()
        assert target.profile.mark not in target.run(target.profile.show)
        assert "openagora" not in target.run(target.profile.show)
        assert not target.run("systemctl list-units --all --no-legend 'openagora*'")


class TestLegacyIptables:
    """The old kind of iptables, whose tables nft does not know."""

    def test_everything(self, legacy: Target) -> None:
        before = legacy.state()
        assert legacy.apply(*ALL, check=True)["changed"] is True
        assert not changes(before, legacy.state())
        result = legacy.apply(*ALL)
        assert result["backend"]["name"] == "iptables"
        legacy.assert_open(*ALL)
        assert legacy.apply(*ALL)["changed"] is False
        legacy.apply("web")
        legacy.assert_open("web")
        legacy.reboot()
        assert legacy.lets_out("udp", 10000) == {"4": True, "6": True}
        assert legacy.apply("web")["changed"] is False

    def test_absent(self, legacy: Target) -> None:
        before = legacy.state()
        legacy.apply(*ALL)
        legacy.apply(state="absent")
        assert not changes(before, legacy.state())


class TestErrors:
    """One clear error, and nothing has changed."""

    def test_a_foreign_chain_with_a_name_of_ours(self, target: Target) -> None:
        target.reset()
        target.run(target.profile.foreign)
        assert target.profile.foreign_name in target.refused(sdks=list(ALL))
        assert target.profile.foreign_name in target.refused(sdks=["web"], state="present")

    @pytest.mark.once
    def test_all_problems_at_once(self, target: Target) -> None:
        target.reset()
        message = target.refused(
            sdks=["web", "webb", " "],
            revision="yesterday",
            recording_port_ranges=["41000-40000"],
            extra_ports=["0/tcp", "443", "65536/udp"],
            extra_domains=["evil.example; reboot", 'a"b.example\n', "ok.example"],
            ingress_from=["10.0.0.300/8"],
        )
        named = ["sdks[1]", "sdks[2]", "webb", "revision", "yesterday", "recording_port_ranges[0]"]
        named += ["extra_ports[0]", "extra_ports[1]", "extra_ports[2]", "extra_domains[0]", "extra_domains[1]"]
        for word in [*named, "10.0.0.300"]:
            assert word in message, word

    @pytest.mark.once
    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ({}, "sdks"),
            ({"sdks": []}, "sdks"),
            ({"sdks": ["web"], "revision": "2018-10-31"}, "2018-11-01"),
            ({"sdks": ["web"], "backend": "pf"}, "pf"),
        ],
        ids=str,
    )
    def test_bad_input(self, target: Target, options: dict[str, t.Any], word: str) -> None:
        assert word in target.refused(**options)

    def test_a_backend_that_is_not_installed(self, target: Target) -> None:
        target.reset()
        target.run(f"mkdir /root/away && mv {target.profile.other_commands} /root/away/")
        try:
            result = target.module("apply", sdks=["web"], backend=target.profile.other)
        finally:
            target.run("mv /root/away/* /usr/sbin/ && rmdir /root/away")
        assert result.get("failed")
        assert target.profile.other in result["msg"]
        assert "install" in result["msg"].lower()

    def test_a_failure_half_way(self, target: Target) -> None:
        """What was done before the step that fails is undone."""
        target.reset()
        # What comes before it is done by then.
        profile = target.profile
        with target.commands_that("echo refused >&2; exit 1", profile.last_command, when=profile.last_arguments):
            message = target.refused(sdks=list(ALL))
        assert "refused" in message
        assert target.apply(*ALL)["changed"] is True

    @pytest.mark.once
    @pytest.mark.parametrize("options", [{"sdks": ["web"]}, {"state": "restored"}], ids=["present", "restored"])
    def test_no_root(self, target: Target, options: dict[str, t.Any]) -> None:
        target.reset()
        target.run("mkdir -p -m 0700 /var/lib/openagora")
        before = target.state()
        way = "ansible_connection=containers.podman.podman ansible_remote_tmp=/tmp/nobody"
        nobody = ("--user", "nobody", "--extra-vars", way)
        result = target.module("apply", *nobody, **options)
        assert result.get("failed")
        assert "root" in result["msg"]
        assert not changes(before, target.state())


EVERYWHERE = (
    TestBoot,
    TestChanges,
    TestChoices,
    TestDrift,
    TestEachSdk,
    TestErrors,
    TestGateway,
    TestPackets,
    TestReturnTraffic,
    TestUndo,
)


# What shows on any release: how a request is refused, how one follows another, how damage is put right, and that what
# holds of all SDKs holds of each.
ON_ONE_RELEASE = (
    *("TestChoices", "TestDrift", "TestEachSdk", "TestEdits", "TestErrors", "TestFaults", "TestInstruments"),
)


def contract_with(backend: types.ModuleType, *, without: t.Collection[str] = ()) -> dict[str, t.Any]:
    """The tests that every backend has to pass, and those of one's own, which replace others of their name."""
    tests = {test.__name__: test for test in EVERYWHERE} | {name: getattr(backend, name) for name in backend.__all__}
    return {name: test for name, test in tests.items() if name not in without}
