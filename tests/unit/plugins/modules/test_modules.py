# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as Ansible runs them, on throwaway hosts."""

from __future__ import annotations

import json
import sys
import typing as t

from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import parse_rules
from netns import NFTABLES, NetnsHost, rule_set
from plays import Task, call, fail, play

RULE = {"direction": "egress", "protocol": "tcp", "ports": ["80"]}
EVERYTHING_WRONG: dict[str, t.Any] = {
    "sdks": ["webb", "native", ""],
    "revision": "2018-02-30",
    "recording_port_ranges": ["0", "1-65536", "41000-40000"],
    "extra_ports": ["443", "0/tcp", "65536/udp", "80/icmp", "$(reboot)/tcp"],
    "extra_domains": ["a b.com", 'a".com', "a\nb.com", "$(reboot).com", "`reboot`.com"],
    "ingress_from": ["192.0.2.0/24", "junk", "192.0.2.1/24"],
}
WRONG_PLACES = [
    "revision",
    "sdks[0]",
    "sdks[2]",
    "recording_port_ranges[0]",
    "recording_port_ranges[1]",
    "recording_port_ranges[2]",
    "extra_ports[0]",
    "extra_ports[1]",
    "extra_ports[2]",
    "extra_ports[3]",
    "extra_ports[4]",
    "extra_domains[0]",
    "extra_domains[1]",
    "extra_domains[2]",
    "extra_domains[3]",
    "extra_domains[4]",
    "ingress_from[1]",
    "ingress_from[2]",
]

# A task, and the places of its problems; for what is no problem of the request, what the message says.
WRONG: list[tuple[Task, list[str] | str]] = [
    (fail("apply", **EVERYTHING_WRONG), WRONG_PLACES),
    (fail("rules", sdks=["webb", "nope"], revision="yesterday"), ["revision", "sdks[0]", "sdks[1]"]),
    (fail("rules", sdks=[]), ["sdks"]),
    (fail("apply", sdks=[], ingress_from=["x"]), ["sdks", "ingress_from[0]"]),
    (fail("apply"), "state is present but any of the following are missing: sdks, rules"),
    (fail("apply", sdks=["web"], revision="2018-10-31"), ["revision"]),
    (fail("apply", rules=[]), ["rules"]),
    (
        fail("apply", rules=[{}, RULE, {**RULE, "ports": ["0", "9-5"]}, {**RULE, "sdks": {"A": ["80"]}}]),
        [
            "rules[0].direction",
            "rules[0].protocol",
            "rules[0].ports",
            "rules[2].ports[0]",
            "rules[2].ports[1]",
            "rules[3].sdks",
        ],
    ),
    (fail("apply", rules=[RULE], sdks=["web"]), "parameters are mutually exclusive: rules|sdks"),
    (fail("apply", rules=[RULE], scope="any"), "parameters are mutually exclusive: rules|scope"),
    (fail("apply", rules=["x"]), "Elements value for option 'rules' is of type str"),
    (
        fail("apply", sdks=["web"], backend="pf"),
        "value of backend must be one of: auto, firewalld, ufw, iptables, nftables, got: pf",
    ),
    (
        fail("apply", sdks=["web"], backend="iptables"),
        "backend iptables is not installed on this host; installed: nftables",
    ),
    (fail("apply", sdks=["web"], interpreter="/run/ordinary"), "needs root on the managed host; set become: true"),
    (fail("applied_info", interpreter="/run/ordinary"), "needs root on the managed host; set become: true"),
    (fail("catalog_info", since="2018-10-31"), ["since"]),
    (fail("catalog_info", revision="no such day"), ["revision"]),
    (
        fail("recording_ports", name="a b", low=41000, high=70000, count=0, sdks=["webb"]),
        ["name", "high", "count", "sdks[0]"],
    ),
    (fail("recording_ports"), ["count"]),
    (fail("recording_ports", count=300), ["count"]),
    (fail("recording_ports", interpreter="/run/ordinary"), "needs root on the managed host; set become: true"),
    (fail("apply", sdks=["web"]), "ended with code 4: it broke; everything is as it was before"),
]


def test_wrong_requests_are_one_error_and_change_nothing(host: NetnsHost) -> None:
    NFTABLES.close(host)
    # All commands of iptables are links to one program.
    host.sh("touch /run/nothing; mount --bind /run/nothing /usr/sbin/iptables-save")
    # In a user namespace without a map, a process is nobody.
    host.put("/run/ordinary", f'#!/bin/sh\nexec unshare --user {sys.executable} "$@"\n', mode=0o755)
    host.stand_in("nft", 'test "$1" != -f || { echo "it broke" >&2; exit 4; }; exec /usr/sbin/nft "$@"')
    before = host.listing()
    results = play(host, [dict(task) for task, _expected in WRONG])
    assert host.listing() == before
    for result, (_task, expected) in zip(results, WRONG):
        assert not result["changed"]
        assert "Traceback" not in json.dumps(result)
        if isinstance(expected, str):
            assert expected in result["msg"]
        else:
            assert [problem["where"] for problem in result["problems"]] == expected
            for problem in result["problems"]:
                assert f"{problem['where']}: {problem['message']}" in result["msg"]
    assert "did you mean 'web'?" in results[0]["msg"]


LIST = {"ansible.builtin.command": "nft -s list ruleset", "changed_when": False}


def test_a_host_from_nothing_to_nothing(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.listing()
    all_sdks = ["native", "web", "signaling", "recording", "gaming"]
    wanted: dict[str, t.Any] = {"sdks": all_sdks, "ingress_from": ["192.0.2.0/24"]}
    results = play(
        host,
        [
            call("applied_info"),
            call("rules", sdks=all_sdks),
            call("apply", check=True, **wanted),
            dict(LIST),
            call("apply", **wanted),
            call("apply", check=True, **wanted),
            call("apply", rules="{{ result_1.rules }}", ingress_from=["192.0.2.0/24"]),
            call("applied_info"),
            call("apply", sdks=["web"]),
            call("apply", state="absent", check=True),
            call("apply", state="absent"),
            call("apply", state="absent"),
            call("applied_info"),
            call("catalog_info"),
            call("catalog_info", since="2018-11-01", revision="2018-11-06"),
        ],
    )
    nothing, computed, check, listing, first, second, edited, live, fewer, going, gone, again, left = results[:13]
    catalog, differing = results[13:]
    rules = rule_set(ingress_from=["192.0.2.0/24"])

    assert [nothing[key] for key in ("changed", "backends", "rules", "files")] == [False, [], [], []]
    assert not computed["changed"]
    assert parse_rules(computed["rules"]).rules == rule_set().rules
    assert computed["revision"] == "2018-11-06"
    assert sorted(computed["by_sdk"]) == sorted(all_sdks)
    assert ".agora.io" in computed["domains"]

    assert listing["stdout"].strip() == before.strip()
    assert check["changed"]
    assert check["rules"] == check["added"] == rules.data()
    assert check["removed"] == []
    assert "+ ingress udp 4000-4030 (recording) from 192.0.2.0/24" in check["diff"]["prepared"]
    for key in ("changed", "rules", "added", "removed", "diff", "backend", "effective", "notices"):
        assert first[key] == check[key]
    assert first["backend"] == {
        "name": "nftables",
        "reason": "nftables table inet filter chain input stops what is needed",
    }
    assert first["effective"] == "in_force"
    assert [notice["code"] for notice in first["notices"]] == ["not_at_boot"]
    assert any("no systemd runs here" in warning for warning in first["warnings"])

    for same in (second, edited):
        assert not same["changed"]
        assert (same["added"], same["removed"], same["diff"]["prepared"]) == ([], [], "")
    assert (live["backends"], live["files"]) == (["nftables"], ["/etc/openagora/firewall/boot"])
    assert live["rules"] == rules.data()

    assert fewer["changed"]
    assert fewer["added"] == []
    assert fewer["rules"] == rule_set("web").data()
    assert "- ingress udp 4000-4030 (recording) from 192.0.2.0/24" in fewer["diff"]["prepared"]
    assert going["changed"]
    assert going["removed"] == gone["removed"] == rule_set("web").data()
    assert going["diff"] == gone["diff"]
    assert "backend" not in gone
    assert not again["changed"]
    assert (gone["rules"], left["rules"], left["files"]) == ([], [], [])
    assert host.listing() == before

    assert "differences" not in catalog
    assert set(all_sdks) <= set(catalog["sdks"])
    assert catalog["latest"] >= "2018-11-06"
    assert "9700" in differing["differences"]["native"]["tcp_added"]


def test_a_proof_tells_what_is_missing_and_fails_if_asked_to(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.apply(rule_set("web", "recording"))
    host.nft("table inet site { chain out { type filter hook output priority 5; udp dport 3478 drop; }; }\n")
    host.nft("insert rule inet filter output tcp dport 22 accept")
    rules = {"rules": rule_set("web", "recording").data(), "directions": ["egress"]}
    before = host.listing()
    plain, told, check, missing, beyond, wrong, names = play(
        host,
        [
            call("proof", directions=["ingress"], families=["ipv6"]),
            call("proof", **rules),
            call("proof", check=True, **rules),
            fail("proof", **rules, fail_on=["missing"]),
            fail("proof", **rules, fail_on=["beyond"], families=["ipv4"]),
            fail(
                "proof",
                placement=["gateway"],
                directions=[],
                far=["junk", "192.0.2.1", "192.0.2.2"],
                user="nobody-of-this-name",
                ingress_from=["192.0.2.1/24"],
                fail_on=["missing"],
            ),
            fail("proof", rules=[{**RULE, "direction": "sideways"}], near=["::1%lo"], user="4294967295"),
        ],
    )
    assert list(plain["open"]) == ["ipv6"]
    assert list(plain["open"]["ipv6"]) == ["ingress"]
    assert "missing" not in plain
    assert told["missing"]["ipv4"]["egress"] == {"tcp": [], "udp": ["3478"]}
    assert told["beyond"]["ipv6"]["egress"] == {"tcp": ["22"], "udp": []}
    assert told["covered"] == {"recording": "yes", "web": "no"}
    assert told["missing_by_sdk"] == {"web": {key: {"egress": {"udp": ["3478"]}} for key in ("ipv4", "ipv6")}}
    assert [notice["code"] for notice in told["notices"]] == ["udp_closed"]
    assert any("voice and video need UDP" in warning for warning in told["warnings"])
    assert told["dropped_by"][0] == {
        "placement": "host",
        "family": "ipv4",
        "direction": "egress",
        "protocol": "udp",
        "ports": ["3478"],
        "cause": "drop",
        "where": "nft inet site out: udp dport 3478 drop",
    }
    same = ("open", "unknown", "missing", "beyond", "covered", "dropped_by", "not_modelled", "packets", "changed")
    assert [check[key] for key in same] == [told[key] for key in same]
    assert missing["msg"] == (
        "closed and needed: ipv4 egress udp 3478; closed and needed: ipv6 egress udp 3478; "
        "dropped by nft inet site out: udp dport 3478 drop: ipv4 egress udp 3478; "
        "dropped by nft inet site out: udp dport 3478 drop: ipv6 egress udp 3478"
    )
    assert missing["covered"]["web"] == "no"
    assert beyond["msg"] == "open and not needed: ipv4 egress tcp 22"
    assert [problem["where"] for problem in wrong["problems"]] == [
        "ingress_from[0]",
        "inside",
        "far[0]",
        "far[2]",
        "user",
        "directions",
        "fail_on",
    ]
    assert [problem["where"] for problem in names["problems"]] == ["rules[0].direction", "near[0]", "user"]
    assert host.listing() == before


def test_a_proof_names_the_interface_that_lacks_a_family(host: NetnsHost) -> None:
    host.sh("ip link set in0 up; ip link set out0 up; sysctl -qw net.ipv6.conf.in0.disable_ipv6=1")
    (told,) = play(host, [call("proof", placement=["gateway"], inside=[{"interface": "in0"}], directions=["egress"])])
    assert list(told["open"]) == ["ipv4"]
    assert told["notices"] == [
        {
            "code": "family_off",
            "where": "in0",
            "message": "ipv6 is switched off on interface in0 and was left out there",
        }
    ]


# dns_check


def test_dns_check_says_what_became_of_each_name_and_fails_when_asked_to(host: NetnsHost) -> None:
    host.sh("ip link set lo up")
    fixed = {"agora.io": ("192.0.2.1", "2001:db8::1"), "notagora.io": ("192.0.2.2", "2001:db8::2")}
    lines = [f"address=/{name}/{address}" for name, addresses in fixed.items() for address in addresses]
    host.put("/run/dnsmasq.conf", "\n".join(["no-resolv", "no-hosts", *lines, ""]))
    resolver = host.start(["dnsmasq", "--keep-in-foreground", "--conf-file=/run/dnsmasq.conf", "--pid-file="])
    native = {"sdks": ["native"], "server": "::1"}
    try:
        while not host.sh("ss -Hlnt"):
            assert resolver.poll() is None
        shown, failed, wrong = play(
            host,
            [
                call("dns_check", **native, check=True),
                fail("dns_check", **native, fail_on=["missing", "beyond"]),
                fail("dns_check", sdks=["webb"], server="localhost", extra_domains=["a b"], others=["com"]),
            ],
        )
    finally:
        resolver.terminate()
        resolver.communicate()
    assert shown["changed"] is False
    assert (shown["missing"], shown["beyond"]) == (["qos.agoralab.co", "qoslbs.agoralab.co"], ["notagora.io"])
    assert {answer["verdict"] for answer in shown["answers"]} == {"answered", "refused"}
    assert len(shown["table"]) == 1 + len({answer["name"] for answer in shown["answers"]})
    assert (failed["missing"], failed["beyond"]) == (shown["missing"], shown["beyond"])
    assert "not answered: qos.agoralab.co, qoslbs.agoralab.co; the resolver refuses this" in failed["msg"]
    assert "answered though not allowlisted: notagora.io; " in failed["msg"]
    places = ["sdks[0]", "extra_domains[0]", "others[0]", "server"]
    assert [problem["where"] for problem in wrong["problems"]] == places
