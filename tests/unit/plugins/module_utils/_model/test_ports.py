# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortError, PortSet
from hypothesis import example, given
from hypothesis import strategies as st

# Small numbers meet each other often; the ends of the legal range are where arithmetic goes wrong.
PORTS = st.one_of(st.integers(1, 40), st.integers(65500, 65535), st.integers(1, 65535))
RANGES = st.one_of(PORTS, st.tuples(PORTS, PORTS).map(lambda ends: (min(ends), max(ends))))
ITEMS = st.lists(RANGES, max_size=12)
SETS = ITEMS.map(lambda items: PortSet.of(*items))


def plain(items: list) -> set[int]:
    """The oracle: Python's own set of single ports."""
    return {port for item in items for port in ([item] if isinstance(item, int) else range(item[0], item[1] + 1))}


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("80", ((80, 80),)),
        ("1", ((1, 1),)),
        ("65535", ((65535, 65535),)),
        ("1-65535", ((1, 65535),)),
        ("5-5", ((5, 5),)),
        ("  80 ,443 ", ((80, 80), (443, 443))),
        ("443, 80, 443", ((80, 80), (443, 443))),
        ("5668, 5669", ((5668, 5669),)),
        ("5866-5890, 5880-6000, 6001", ((5866, 6001),)),
        (
            "1080, 4000-4030, 8000, 9700 and 25000",
            ((1080, 1080), (4000, 4030), (8000, 8000), (9700, 9700), (25000, 25000)),
        ),
        ("8000, 9700, and 25000", ((8000, 8000), (9700, 9700), (25000, 25000))),
        ("3478 AND 10000 To 65535", ((3478, 3478), (10000, 65535))),
        ("1080; 7000; 8000", ((1080, 1080), (7000, 7000), (8000, 8000))),
        ("9137; 9140, 9141", ((9137, 9137), (9140, 9141))),
        ("1080；7000，8000、8913", ((1080, 1080), (7000, 7000), (8000, 8000), (8913, 8913))),
        ("4000 - 4030", ((4000, 4030),)),
        ("4000 to 4030", ((4000, 4030),)),
        ("40000 ~ 41000", ((40000, 41000),)),
        ("4000–4030", ((4000, 4030),)),
        ("4000—4030", ((4000, 4030),)),
        ("4000－4030", ((4000, 4030),)),
        ("4000～4030", ((4000, 4030),)),
        ("4000〜4030", ((4000, 4030),)),
        ("４０００－４０３０", ((4000, 4030),)),
        ("80,\n443\n", ((80, 80), (443, 443))),
        ("80,\u3000443\u00a0", ((80, 80), (443, 443))),
    ],
)
def test_parse(text: str, ranges: tuple) -> None:
    assert PortSet.parse(text).ranges == ranges


NOT_A_PORT = "is not a port or a range of ports such as 5668-5669"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a port or a range of ports is needed, as in 80, 5668-5669"),
        (" \n", "is empty; a port or a range of ports is needed, as in 80, 5668-5669"),
        ("0", "'0': ports are 1-65535"),
        ("65536", "'65536': ports are 1-65535"),
        ("100080", "'100080': ports are 1-65535"),
        ("0-10", "'0-10': ports are 1-65535"),
        ("10-65536", "'10-65536': ports are 1-65535"),
        ("4030-4000", "'4030-4000': a range begins with its lower port, as in 4000-4030"),
        ("80, 443, 70000", "item 3, '70000': ports are 1-65535"),
        ("80; 20 to 10", "item 2, '20 to 10': a range begins with its lower port, as in 10-20"),
        ("80, http", f"item 2, 'http' {NOT_A_PORT}"),
        ("80,", f"item 2, '' {NOT_A_PORT}"),
        (",80", f"item 1, '' {NOT_A_PORT}"),
        ("80,,443", f"item 2, '' {NOT_A_PORT}"),
        ("80 443", f"'80 443' {NOT_A_PORT}"),
        ("and 80", f"'and 80' {NOT_A_PORT}"),
        ("-1", f"'-1' {NOT_A_PORT}"),
        ("+1", f"'+1' {NOT_A_PORT}"),
        ("1-2-3", f"'1-2-3' {NOT_A_PORT}"),
        ("10-", f"'10-' {NOT_A_PORT}"),
        ("010", f"'010' {NOT_A_PORT}"),
        ("0x50", f"'0x50' {NOT_A_PORT}"),
        ("80.0", f"'80.0' {NOT_A_PORT}"),
        ("1_000", f"'1_000' {NOT_A_PORT}"),
        ("80/tcp", f"'80/tcp' {NOT_A_PORT}"),
        ("8²", f"'8²' {NOT_A_PORT}"),
        ("٨٠", f"'٨٠' {NOT_A_PORT}"),
        ("80\n443", f"'80\\n443' {NOT_A_PORT}"),
        ("80$(id)", f"'80$(id)' {NOT_A_PORT}"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(PortError) as caught:
        PortSet.parse(text)
    assert str(caught.value) == message


def test_a_number_too_long_for_int_is_refused_as_any_other() -> None:
    with pytest.raises(PortError, match="ports are 1-65535"):
        PortSet.parse("9" * 5000)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((0,), "0: ports are 1-65535"),
        ((65536,), "65536: ports are 1-65535"),
        (((1, 65536),), "1-65536: ports are 1-65535"),
        (((9, 8),), "9-8: a range begins with its lower port, as in 8-9"),
    ],
)
def test_of_refuses(items: tuple, message: str) -> None:
    with pytest.raises(PortError) as caught:
        PortSet.of(*items)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "ranges",
    [
        ((0, 5),),
        ((5, 65536),),
        ((5, 4),),
        ((10, 20), (1, 5)),
        ((1, 5), (5, 9)),
        ((1, 5), (6, 9)),
        ((1, 5), (1, 5)),
        [(1, 5)],
    ],
)
def test_the_constructor_takes_the_normal_form_only(ranges: tuple) -> None:
    with pytest.raises(PortError):
        PortSet(ranges)


@pytest.mark.parametrize(
    ("ports", "texts", "text"),
    [
        (PortSet(), [], ""),
        (PortSet.of(80), ["80"], "80"),
        (PortSet.of((5668, 5669), 80), ["80", "5668-5669"], "80, 5668-5669"),
    ],
)
def test_texts(ports: PortSet, texts: list[str], text: str) -> None:
    assert ports.texts() == texts
    assert str(ports) == text


@given(ITEMS)
def test_of_holds_the_same_ports_in_the_normal_form(items: list) -> None:
    ports = PortSet.of(*items)
    assert set(ports) == plain(items)
    assert list(ports) == sorted(plain(items))
    assert len(ports) == len(plain(items))
    assert bool(ports) == bool(items)
    assert all(high + 1 < low for (_low, high), (low, _high) in zip(ports.ranges, ports.ranges[1:]))


@given(ITEMS, st.randoms())
def test_the_order_in_which_items_come_does_not_matter(items: list, random) -> None:
    shuffled = random.sample(items, len(items))
    assert PortSet.of(*items) == PortSet.of(*shuffled)
    assert hash(PortSet.of(*items)) == hash(PortSet.of(*shuffled))


@given(ITEMS, ITEMS)
@example([(1, 10)], [5])
@example([(1, 10), (20, 30)], [(5, 25)])
@example([(1, 65535)], [1, 65535])
def test_algebra_is_that_of_sets(left: list, right: list) -> None:
    a, b = PortSet.of(*left), PortSet.of(*right)
    assert set(a | b) == plain(left) | plain(right)
    assert set(a & b) == plain(left) & plain(right)
    assert set(a - b) == plain(left) - plain(right)
    assert (a | b) - b == a - b
    assert (a - b) | (a & b) == a


@given(ITEMS, PORTS)
def test_contains(items: list, port: int) -> None:
    assert (port in PortSet.of(*items)) == (port in plain(items))


@pytest.mark.parametrize("thing", [0, 65536, -1, "80", None, 80.5, (80, 80)])
def test_contains_nothing_that_is_no_port(thing: object) -> None:
    assert thing not in PortSet.of((1, 65535))


@given(SETS.filter(bool))
def test_text_round_trip(ports: PortSet) -> None:
    assert PortSet.parse(str(ports)) == ports
    assert PortSet.parse("；".join(text.replace("-", " ～ ") for text in ports.texts())) == ports


# Adjacent numbers cannot both be single ports, so the numbers of a gap-rich set are drawn apart from each other.
PIECES = st.lists(st.booleans(), max_size=60).map(
    lambda wide: PortSet.of(*((10 * at + 1, 10 * at + (5 if is_range else 1)) for at, is_range in enumerate(wide)))
)


def slots_of(ports: PortSet) -> int:
    return sum(1 if low == high else 2 for low, high in ports.ranges)


@given(PIECES, st.integers(2, 16))
@example(PortSet.of(*range(1, 30, 2), *((at, at + 1) for at in range(100, 160, 4))), 15)
def test_chunks_are_the_fewest_that_fit(ports: PortSet, slots: int) -> None:
    chunks = ports.chunks(slots)
    assert PortSet.of(*(piece for chunk in chunks for piece in chunk.ranges)) == ports
    assert sum(len(chunk) for chunk in chunks) == len(ports)
    assert all(1 <= slots_of(chunk) <= slots for chunk in chunks)
    assert list(chunks) == sorted(chunks)
    ranges = sum(1 for low, high in ports.ranges if low != high)
    assert len(chunks) == max(math.ceil(ranges / (slots // 2)), math.ceil(slots_of(ports) / slots))


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("80, 443, 3433, 5668, 5669, 5866-5890, 6080, 6443, 8667, 9667", 1),
        ("1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29", 1),
        ("1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31", 2),
        ("1-2, 4-5, 7-8, 10-11, 13-14, 16-17, 19-20, 22-23", 2),
    ],
)
def test_chunks_have_the_fifteen_slots_of_multiport(text: str, chunks: int) -> None:
    assert len(PortSet.parse(text).chunks()) == chunks


def test_the_empty_set_has_no_chunks() -> None:
    assert PortSet().chunks() == ()


def test_chunks_need_room_for_a_range() -> None:
    with pytest.raises(ValueError, match="1 slots cannot hold a range"):
        PortSet.of(80).chunks(1)


def test_sets_are_values() -> None:
    one, two = PortSet.of(80), PortSet.of(443)
    assert {one, two, PortSet.parse("80")} == {one, two}
    assert sorted([two, one]) == [one, two]
    with pytest.raises(FrozenInstanceError):
        one.ranges = two.ranges  # type: ignore[misc]  # the assignment is what is refused


def test_blanks_in_a_row_cost_no_more_than_their_number() -> None:
    """By their square, this would take hours."""
    blanks = " " * 1_000_000
    assert PortSet.parse(f"80{blanks},{blanks}443") == PortSet.of(80, 443)
    with pytest.raises(PortError, match="'80 443' is not a port"):
        PortSet.parse(f"80{blanks}443")


@given(st.lists(SETS, max_size=5))
def test_a_union_holds_what_any_set_holds(sets: list[PortSet]) -> None:
    assert plain(list(PortSet.union(sets).ranges)) == set().union(*(plain(list(ports.ranges)) for ports in sets))
