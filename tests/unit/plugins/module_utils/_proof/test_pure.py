# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the proof: packets, far ends, and what stands in for rules in doubt."""

from __future__ import annotations

import ipaddress
import re
import struct
import typing as t

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._proof.aims import far_address
from ansible_collections.openagora.firewall.plugins.module_utils._proof.doubt import in_save_format
from ansible_collections.openagora.firewall.plugins.module_utils._proof.packets import Packets
from ansible_collections.openagora.firewall.plugins.module_utils._proof.rulesets import _without_extensions

ENDS = {"ipv4": ("192.0.2.2", "198.51.100.1"), "ipv6": ("2001:db8::2", "2001:db8:1::1")}


def total(data: bytes) -> int:
    """The ones' complement sum of 16-bit words; 0xffff over what holds its own checksum."""
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


@pytest.mark.parametrize("family", ENDS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_packets_are_valid_and_say_to_which_port_they_were_sent(family: str, protocol: str) -> None:
    source, target = ENDS[family]
    packets = Packets(family, protocol, source, target, 7)
    others = Packets(family, protocol, source, target, 8)
    length = 20 if family == "ipv4" else 40
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    for port in (1, 80, 255, 256, 32768, 65534, 65535):
        packet = packets.to(port)
        head, body = packet[:length], packet[length:]
        number = {"tcp": 6, "udp": 17}[protocol]
        assert total(addresses + struct.pack("!II", len(body), number) + body) == 0xFFFF
        assert family == "ipv6" or total(head) == 0xFFFF
        assert body[2:4] == port.to_bytes(2, "big")
        translated = head + body[:2] + b"\x0c\x38" + body[4:]
        assert packets.reader()(translated) == packets.reader(unchanged=True)(packet) == port
        assert packets.reader(unchanged=True)(translated) == 0
        elsewhere = head[:-1] + b"\x77" + body
        assert (packets.reader()(elsewhere), packets.reader(unchanged=True)(elsewhere)) == (port, 0)
        assert others.reader()(packet) == 0
        place = 9 if family == "ipv4" else 6
        assert packets.reader()(packet[:place] + b"\x01" + packet[place + 1 :]) == 0
    assert packets.reader()(b"") == 0


@pytest.mark.parametrize("family", ENDS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_answers_are_valid_and_say_what_they_answer(family: str, protocol: str) -> None:
    source, target = ENDS[family]
    packets = Packets(family, protocol, source, target, 7)
    length = 20 if family == "ipv4" else 40
    addresses = ipaddress.ip_address(target).packed + ipaddress.ip_address(source).packed
    for port in (1, 80, 255, 256, 32768, 65534, 65535):
        packet = packets.to(port)
        answer = packets.answer(packet)
        head, body = answer[:length], answer[length:]
        number = {"tcp": 6, "udp": 17}[protocol]
        assert head[-len(addresses) :] == addresses
        assert total(addresses + struct.pack("!II", len(body), number) + body) == 0xFFFF
        assert family == "ipv6" or total(head) == 0xFFFF
        assert body[:4] == packet[length + 2 : length + 4] + packet[length : length + 2]
        assert packets.answer_reader()(answer) == port
        assert packets.target_of(answer) == source
        if protocol == "tcp":
            assert packets.answered_by(answer, port)
            assert packets.answer_reader()(packet) == 0
    assert packets.answer_reader()(b"") == 0


def test_the_far_end_is_one_that_no_rule_names() -> None:
    first, other = far_address("ipv4", []), far_address("ipv4", ["ip saddr 0.0.0.0/0 accept"])
    assert first == other
    assert ipaddress.ip_address(first).is_global
    named = [
        f"-s {first}/32",
        f"ip daddr {first}",
        f"{first.rpartition('.')[0]}.0/24",
        f"elements = {{ 1.0.0.0-{first} }}",
    ]
    for text in named:
        assert far_address("ipv4", [text]) != first
    assert far_address("ipv4", ["1.0.0.0-255.0.0.0"]) == first
    sixth = far_address("ipv6", [])
    assert ipaddress.ip_address(sixth).is_global
    assert far_address("ipv6", [f"ip6 daddr {sixth}/64 drop", "12:30:45 is a time", "1.2.3.4.5"]) != sixth


# A rule of OUTPUT, and what stands in for it at its worst and at its best (empty: nothing).
STAND_INS: dict[str, tuple[str, str, str]] = {
    "-p tcp -m limit --limit 3/min -j ACCEPT": ("limit", "", "-p tcp -j ACCEPT"),
    "-p tcp -m limit --limit 3/min -j DROP": ("limit", "-p tcp -j DROP", ""),
    "-p tcp -m connlimit --connlimit-above 3 -m tcp --dport 5 -j REJECT --reject-with tcp-reset": (
        "connlimit",
        "-p tcp -m tcp --dport 5 -j DROP",
        "",
    ),
    '-m comment --comment "-m limit -j DROP" -m recent --rcheck --name x -j ACCEPT': (
        "recent",
        "",
        '-m comment --comment "-m limit -j DROP" -j ACCEPT',
    ),
    "-p tcp -m owner ! --uid-owner 0 -j inner": ("who", "-p tcp -j DROP", "-p tcp -j ACCEPT"),
    "-p udp -m statistic --mode random -g inner": ("statistic", "-p udp -j DROP", "-p udp -j ACCEPT"),
    "-m mark --mark 0x1 -j RETURN": ("a mark", "-j DROP", "-j ACCEPT"),
    "-p udp -j NFQUEUE --queue-num 1": ("NFQUEUE", "-p udp -j DROP", "-p udp -j ACCEPT"),
    "-p udp -m physdev --physdev-in eth1 -j DROP": ("physdev", "-p udp -j DROP", ""),
    "-p udp -m length --length 200:65535 -j DROP": ("length", "-p udp -j DROP", ""),
    "-m unheard-of --thing -j LOG": ("", "", ""),
    "-m limit --limit 3/min -j quiet": ("", "", ""),
    "-m limit --limit 3/min -g quiet": ("limit", "-j DROP", "-j ACCEPT"),
    "-p tcp -j SET --add-set banned dst": ("", "", ""),
    "-p tcp -j TEE --gateway 192.0.2.1": ("", "", ""),
    "-m recent --set --name x -j ACCEPT": ("", "-m recent --set --name x -j ACCEPT", ""),
}
_TABLE = """*filter
:OUTPUT DROP [0:0]
:inner - [0:0]
:quiet - [0:0]
-A OUTPUT {}
-A inner -j DROP
-A quiet -m limit --limit 1/sec -j RETURN
-A quiet -j LOG
COMMIT
"""


def stand_in(spec: str, variant: str, **known: t.Any) -> tuple[str, list[str]]:
    """What stands in for a rule, and what is in doubt."""
    options = {"user": False, "sets": True, **known}
    text, doubts = in_save_format(_TABLE.format(spec), "iptables", variant=variant, **options)
    lines = [line[len("-A OUTPUT ") :] for line in text.splitlines() if line.startswith("-A OUTPUT")]
    return "".join(lines), [doubt.what for doubt in doubts]


@pytest.mark.parametrize(("spec", "expected"), STAND_INS.items())
def test_rules_in_doubt_do_their_worst_and_their_best(spec: str, expected: tuple[str, str, str]) -> None:
    what, worst, best = expected
    found, doubts = stand_in(spec, "worst")
    assert found == worst
    assert [doubt[: len(what)] for doubt in doubts] == ([what] if what else [])
    assert stand_in(spec, "best") == (best if what else worst, doubts)


def test_what_is_known_is_not_in_doubt() -> None:
    for spec, known in (
        ("-m owner --uid-owner 0 -j DROP", {"user": True}),
        ("-m owner ! --uid-owner 0-9 -j DROP", {"user": True}),
        ("-m set --match-set x dst -j DROP", {"sets": True}),
    ):
        assert stand_in(spec, "worst", **known) == (spec, [])
        assert stand_in(spec, "worst", **dict.fromkeys(known, False))[1]


def test_the_group_of_who_sends_is_never_known() -> None:
    for spec in ("-m owner --gid-owner 0 -j DROP", "-m owner --uid-owner 0 --gid-owner 0 -j DROP"):
        assert stand_in(spec, "worst", user=True) == ("-j DROP", ["who sends the packet; choose with option user"])


def test_a_mark_is_known_when_rules_set_it() -> None:
    marked = "*mangle\n-A OUTPUT -p tcp -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
    matched = "*filter\n-A OUTPUT -m mark --mark 0x1 -j DROP\nCOMMIT\n"
    doubtful = "*mangle\n-A OUTPUT -p tcp -m limit --limit 1/sec -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"
    for text, count in ((marked + matched, 0), (matched, 1), (doubtful + matched, 1), (marked + doubtful + matched, 1)):
        assert len(in_save_format(text, "iptables", user=False, sets=True, variant="worst")[1]) == count


def test_in_the_table_nat_a_rule_in_doubt_matches_or_does_not() -> None:
    text = "*nat\n-A OUTPUT -p tcp -m statistic --mode random -j REDIRECT --to-ports 5\nCOMMIT\n"
    worst, best = (
        in_save_format(text, "iptables", user=False, sets=True, variant=name)[0] for name in ("worst", "best")
    )
    assert worst == "*nat\nCOMMIT\n"
    assert best == "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 5\nCOMMIT\n"


def xt(name: str, kind: str = "match") -> dict[str, t.Any]:
    return {"xt": {"type": kind, "name": name}}


ACCEPT: list[dict[str, t.Any]] = [{"counter": {"packets": 0, "bytes": 0}}, {"accept": None}]
JUMP: list[dict[str, t.Any]] = [{"jump": {"target": "theirs"}}]
UNNAMED: dict[str, t.Any] = {"xt": None}


@pytest.mark.parametrize(
    ("listed", "rule", "kept", "doubt"),
    [
        ("tcp dport { 1, 2 }  counter accept", [xt("multiport"), xt("comment"), *ACCEPT], "", ""),
        ("ct state new counter accept", [xt("conntrack"), *ACCEPT], "", ""),
        ("tcp dport 5 xt match recent counter accept", [xt("recent"), *ACCEPT], "tcp dport 5 counter accept", "recent"),
        ('xt match "recent" counter accept', [xt("recent"), *ACCEPT], "counter accept", "recent"),
        ("tcp dport 1 counter", [xt("multiport"), xt("LOG", "target")], "", ""),
        # It is left out where a state is asked for together with one that has other words.
        ("tcp dport 5 ct status dnat counter accept", [xt("conntrack"), *ACCEPT], "counter accept", "conntrack"),
        # What it makes of others is not sure.
        ("tcp dport 5 meta length 5 jump theirs", [xt("length"), *JUMP], "counter jump theirs", "length"),
        # Before nft 1.0 extensions have no names, and `! --dport 53` loses its negation.
        ("udp dport 53 counter accept", [UNNAMED, UNNAMED, *ACCEPT], "counter accept", "an extension"),
        ("udp dport 53 counter reject", [UNNAMED, ACCEPT[0], UNNAMED], "counter", "an extension"),
        # It told that it has no library for this one.
        (" counter accept", [xt("addrtype"), *ACCEPT], "counter accept", "addrtype"),
    ],
)
def test_extensions_as_nft_lists_them(listed: str, rule: list[dict[str, t.Any]], kept: str, doubt: str) -> None:
    line = re.match(r"(.*) # handle (\d+)", f"\t\t{listed} # handle 7")
    assert line
    text = _without_extensions({"7": rule}, frozenset(["addrtype"]), line)
    said, _comment, what = text.strip().partition(' comment "openagora extensions: ')
    assert (said.strip(), what.rstrip('"')) == (kept or listed, doubt)
