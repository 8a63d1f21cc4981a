# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS messages: what is built is what a server reads, and nothing that a stranger sends does harm."""

from __future__ import annotations

import contextlib
import struct

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._dns.wire import (
    CHAOS,
    NXDOMAIN,
    REFUSED,
    Answer,
    Record,
    build,
    parse,
)
from hypothesis import given
from hypothesis import strategies as st

QUESTION = b"\x05agora\x02io\0\0\x01\0\x01"


def head(
    *, flags: int = 0x8180, questions: int = 1, answers: int = 0, authority: int = 0, additional: int = 0
) -> bytes:
    """The header of an answer."""
    return struct.pack("!6H", 7, flags, questions, answers, authority, additional)


def record(kind: int, value: bytes, *, name: bytes = b"\xc0\x0c", ttl: int = 2) -> bytes:
    """A record whose name is the question's."""
    return name + struct.pack("!HHIH", kind, 1, ttl, len(value)) + value


def test_a_query_is_what_rfc_1035_says() -> None:
    assert build(7, "agora.io", "A", edns=False) == struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + QUESTION
    assert build(7, "agora.io", "A") == (
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 1) + QUESTION + bytes.fromhex("00 0029 04d0 00000000 0000")
    )
    assert build(7, "agora.io", "A", dnssec=True).endswith(bytes.fromhex("00 0029 04d0 00008000 0000"))
    assert build(7, "version.bind", "TXT", klass=CHAOS, edns=False).endswith(b"\x04bind\0\0\x10\0\x03")
    assert build(7, "", "SOA", edns=False)[12:] == b"\0\0\x06\0\x01"


@pytest.mark.parametrize("name", ["a..b", ".agora.io", "x" * 64 + ".io", ".".join(["x" * 62] * 5), "ä.io"])
def test_a_name_that_does_not_fit_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        build(7, name, "A")


def test_a_chain_of_aliases_is_read() -> None:
    target = b"\x06target\x03cdn\x04test\0"
    chain = record(5, target) + record(1, b"\xc6\x12\x00\x01", name=target) + record(28, b"\0" * 15 + b"\x01")
    assert parse(head(answers=3) + QUESTION + chain) == Answer(
        7,
        0,
        False,
        (
            Record("agora.io", "CNAME", "target.cdn.test"),
            Record("target.cdn.test", "A", "198.18.0.1"),
            Record("agora.io", "AAAA", "::1"),
        ),
        None,
        (),
    )


def test_codes_and_what_goes_with_them_are_read() -> None:
    soa = record(6, b"\x02ns\xc0\x0c" + b"\0" + struct.pack("!5I", 1, 2, 3, 4, 5))
    answer = parse(head(flags=0x8183, authority=1) + QUESTION + soa)
    assert (answer.code, answer.authority, answer.truncated) == (NXDOMAIN, "ns.agora.io", False)
    ede = record(41, struct.pack("!HHH", 15, 2, 23), name=b"\0", ttl=0)
    answer = parse(head(flags=0x8385, additional=1) + QUESTION + ede)
    assert (answer.code, answer.errors, answer.truncated) == (REFUSED, (23,), True)
    assert parse(head(additional=1) + QUESTION + record(41, b"", name=b"\0", ttl=1 << 24)).code == 16


def test_a_record_of_another_kind_or_class_is_passed_over() -> None:
    other_class = b"\xc0\x0c" + struct.pack("!HHIH", 1, 3, 2, 4) + b"\x7f\0\0\x01"
    assert parse(head(answers=2) + QUESTION + record(16, b"\x01x") + other_class).records == ()


def test_what_looks_like_another_name_is_escaped() -> None:
    name = b"\x05a.b\n\xff\x02io\0"
    assert parse(head(answers=1) + QUESTION + record(5, name)).records[0].value == r"a\046b\010\255.io"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head()[:11],
        head(flags=0x0100) + QUESTION,
        head() + QUESTION[:4],
        head() + QUESTION[:-1],
        head(answers=1) + QUESTION,
        head(answers=1) + QUESTION + record(1, b"\x7f\0\0\x01")[:-1],
        head(answers=1) + QUESTION + record(1, b"\x7f\0\0"),
        head(answers=1) + QUESTION + record(28, b"\0" * 4),
        head(answers=1) + QUESTION + record(1, b"\x7f\0\0\x01", name=b"\x41" + b"x" * 65 + b"\0"),
        head(answers=1) + QUESTION + record(16, b"\x05hello")[:-1],
        head(additional=1) + QUESTION + record(41, b"\0\x0f\0", name=b"\0"),
        # To itself; to each other; a name that grows with each round.
        head(answers=1) + QUESTION + record(1, b"\x7f\0\0\x01", name=b"\xc0\x1a"),
        head(answers=1) + QUESTION + record(1, b"\x7f\0\0\x01", name=b"\xc0\x1c\xc0\x1a"),
        head(answers=1) + QUESTION + record(5, b"\x01x\xc0\x26"),
    ],
)
def test_what_is_no_answer_is_one_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="no DNS answer"):
        parse(data)


@given(st.binary(max_size=80), st.integers(0, 3), st.integers(0, 3))
def test_no_bytes_do_harm(tail: bytes, answers: int, additional: int) -> None:
    with contextlib.suppress(ValueError):
        parse(head(answers=answers, additional=additional) + QUESTION + tail)


@given(st.binary(max_size=60))
def test_no_bytes_do_harm_whatever_the_header(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(data)
