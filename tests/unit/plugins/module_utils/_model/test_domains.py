# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.domains import (
    DomainError,
    DomainSet,
    normalise,
)
from hypothesis import given
from hypothesis import strategies as st

# A small alphabet, so that names lie below each other often.
BARE = st.lists(st.sampled_from(["a", "b", "xa"]), min_size=2, max_size=5).map(".".join)
ENTRIES = st.builds(lambda dot, name: dot + name, st.sampled_from(["", "."]), BARE)
LISTS = st.lists(ENTRIES, max_size=8)

# Every name of up to six labels that the entries above can speak of: suffixes cover whole families of them.
UNIVERSE = [".".join(labels) for size in range(2, 7) for labels in itertools.product(["a", "b", "xa"], repeat=size)]


def covered(name: str, entries: list[str]) -> bool:
    """The oracle: one entry after the other, by the definition of a suffix."""
    return any(name == e or (e.startswith(".") and (name == e[1:] or name.endswith(e))) for e in entries)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("qos.agoralab.co", "qos.agoralab.co"),
        (" Qos.AgoraLab.CO\t", "qos.agoralab.co"),
        ("qos.agoralab.co.", "qos.agoralab.co"),
        (".agora.io", ".agora.io"),
        (".agora.io.", ".agora.io"),
        ("*.agora.io", ".agora.io"),
        ("*.AP.sd-rtn.com", ".ap.sd-rtn.com"),
        ("129-227-108-211.edge.agora.io", "129-227-108-211.edge.agora.io"),
        ("1.agora.io", "1.agora.io"),
        (".edge.agora.i0", ".edge.agora.i0"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("a" * 63 + ".io", "a" * 63 + ".io"),
        (".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]), ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])),
    ],
)
def test_normalise(text: str, name: str) -> None:
    assert normalise(text) == name
    assert normalise(name) == name


LABEL = "is not a label of a host name (letters, digits and, not at its ends, hyphens)"
SINGLE = "is a single label, which would stand for far too much; at least two are needed"
ADDRESS = "looks like an address; a domain name ends in a label that begins with a letter"
DOTS = "has an empty label (two dots in a row, or nothing but dots)"
ASCII = "has characters beyond ASCII; write the name in its A-label form (xn--...)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a domain is needed, as in qos.agoralab.co or .agora.io"),
        ("  ", "is empty; a domain is needed, as in qos.agoralab.co or .agora.io"),
        (".com", f"'.com' {SINGLE}"),
        ("*.com", f"'*.com' {SINGLE}"),
        ("localhost", f"'localhost' {SINGLE}"),
        ("io.", f"'io.' {SINGLE}"),
        (".", f"'.' {DOTS}"),
        ("*.", f"'*.' {DOTS}"),
        ("..agora.io", f"'..agora.io' {DOTS}"),
        ("agora..io", f"'agora..io' {DOTS}"),
        ("agora.io..", f"'agora.io..' {DOTS}"),
        ("*", f"'*': '*' {LABEL}"),
        ("*agora.io", f"'*agora.io': '*agora' {LABEL}"),
        ("*.*.agora.io", f"'*.*.agora.io': '*' {LABEL}"),
        ("ap.*.agora.io", f"'ap.*.agora.io': '*' {LABEL}"),
        ("-a.io", f"'-a.io': '-a' {LABEL}"),
        ("a-.io", f"'a-.io': 'a-' {LABEL}"),
        ("_dns.agora.io", f"'_dns.agora.io': '_dns' {LABEL}"),
        ("qos agora.io", f"'qos agora.io': 'qos agora' {LABEL}"),
        ("agora.io\n", f"'agora.io\\n': 'io\\n' {LABEL}"),
        ("agora.io\nevil.io", f"'agora.io\\nevil.io': 'io\\nevil' {LABEL}"),
        ("'agora.io'", f'"\'agora.io\'": "\'agora" {LABEL}'),
        ('"agora.io"', f"'\"agora.io\"': '\"agora' {LABEL}"),
        ("agora.io;reboot", f"'agora.io;reboot': 'io;reboot' {LABEL}"),
        ("$(id).agora.io", f"'$(id).agora.io': '$(id)' {LABEL}"),
        ("`id`.agora.io", f"'`id`.agora.io': '`id`' {LABEL}"),
        ("https://agora.io/", f"'https://agora.io/': 'https://agora' {LABEL}"),
        ("agora.io:443", f"'agora.io:443': 'io:443' {LABEL}"),
        ("agora.io\0", f"'agora.io\\x00': 'io\\x00' {LABEL}"),
        ("10.0.0.1", f"'10.0.0.1' {ADDRESS}"),
        ("0x7f.0x1", f"'0x7f.0x1' {ADDRESS}"),
        ("10.0.0.0/8", f"'10.0.0.0/8': '0/8' {LABEL}"),
        ("2001:db8::1", f"'2001:db8::1': '2001:db8::1' {LABEL}"),
        ("münchen.example", f"'münchen.example' {ASCII}"),
        ("声网.cn", f"'声网.cn' {ASCII}"),
        ("agora。io", f"'agora。io' {ASCII}"),
        ("\u212aagora.io", f"'\u212aagora.io' {ASCII}"),
        ("a" * 64 + ".io", f"'{'a' * 64}.io' has a label of 64 characters; at most 63 are legal"),
        (
            ".".join(["a" * 63] * 3 + ["d" * 62]),
            f"'{'.'.join(['a' * 63] * 3 + ['d' * 62])}' has 254 characters; at most 253 are legal",
        ),
    ],
)
def test_normalise_refuses(text: str, message: str) -> None:
    with pytest.raises(DomainError) as caught:
        normalise(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given_names", "names"),
    [
        ((), ()),
        ((".agora.io", "vocs.agora.io", "agora.io", ".edge.agora.io"), (".agora.io",)),
        (("*.agora.io", ".agora.io", "AGORA.io."), (".agora.io",)),
        (("agora.io", "vocs.agora.io"), ("agora.io", "vocs.agora.io")),
        ((".agora.io", "notagora.io", "agora.io.example.com"), (".agora.io", "agora.io.example.com", "notagora.io")),
        (
            ("qos.agoralab.co", ".agora.io", "ap1.agora.io", "qoslbs.agoralab.co"),
            (".agora.io", "qos.agoralab.co", "qoslbs.agoralab.co"),
        ),
        ((".edge.agora.io", "edge.agora.io", "ap.agora.io"), (".edge.agora.io", "ap.agora.io")),
    ],
)
def test_of_is_the_sorted_minimal_cover(given_names: tuple, names: tuple) -> None:
    domains = DomainSet.of(*given_names)
    assert domains.names == names
    assert list(domains) == list(names)
    assert len(domains) == len(names)
    assert bool(domains) == bool(names)


@pytest.mark.parametrize(
    "names",
    [
        ("Agora.io",),
        ("b.io", "a.io"),
        ("a.io", "a.io"),
        (".agora.io", "vocs.agora.io"),
        ("*.agora.io",),
        ("localhost",),
        ["a.io"],
    ],
)
def test_the_constructor_takes_the_normal_form_only(names: tuple) -> None:
    with pytest.raises(DomainError):
        DomainSet(names)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("agora.io", True),
        ("AP1.Agora.IO.", True),
        ("a.b.c.agora.io", True),
        (".agora.io", True),
        ("*.agora.io", True),
        (".edge.agora.io", True),
        ("notagora.io", False),
        ("agora.io.example.com", False),
        ("qos.agoralab.co", True),
        ("x.qos.agoralab.co", False),
        (".qos.agoralab.co", False),
        ("agoralab.co", False),
    ],
)
def test_covers(name: str, answer: bool) -> None:
    domains = DomainSet.of(".agora.io", "qos.agoralab.co")
    assert domains.covers(name) is answer
    assert (name in domains) is answer


@pytest.mark.parametrize("thing", ["localhost", "a b.agora.io", "", None, 7])
def test_what_is_no_name_is_not_in_a_set(thing: object) -> None:
    assert thing not in DomainSet.of(".agora.io")


def test_covers_refuses_what_is_no_name() -> None:
    with pytest.raises(DomainError, match="single label"):
        DomainSet.of(".agora.io").covers("localhost")


@given(LISTS)
def test_covers_what_the_entries_cover(entries: list[str]) -> None:
    domains = DomainSet.of(*entries)
    assert [name for name in UNIVERSE if domains.covers(name)] == [name for name in UNIVERSE if covered(name, entries)]


@given(LISTS)
def test_no_entry_can_be_spared(entries: list[str]) -> None:
    names = DomainSet.of(*entries).names
    assert list(names) == sorted(set(names))
    for name in names:
        rest = DomainSet.of(*(other for other in names if other != name))
        assert not rest.covers(name)


@given(LISTS, ENTRIES)
def test_a_suffix_is_covered_when_all_below_it_is(entries: list[str], entry: str) -> None:
    # One label more than any entry has stands for all deeper names: no single name of the list reaches it.
    below = ["z." + entry[1:], entry[1:]] if entry.startswith(".") else [entry]
    assert DomainSet.of(*entries).covers(entry) == all(covered(name, entries) for name in below)


@given(LISTS, LISTS)
def test_union(left: list[str], right: list[str]) -> None:
    assert DomainSet.of(*left) | DomainSet.of(*right) == DomainSet.of(*left, *right)


@given(LISTS, st.randoms())
def test_the_order_in_which_names_come_does_not_matter(entries: list[str], random) -> None:
    assert DomainSet.of(*entries) == DomainSet.of(*random.sample(entries, len(entries)))


def test_sets_are_values() -> None:
    one, two = DomainSet.of("a.io"), DomainSet.of("b.io")
    assert {one, two, DomainSet.of("A.io")} == {one, two}
    assert sorted([two, one]) == [one, two]
    with pytest.raises(FrozenInstanceError):
        one.names = two.names  # type: ignore[misc]  # the assignment is what is refused
