# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rules iptables-nft made, by what nft lists of them.

`xtables` was recorded on Debian 11, 12 and 13: rules that iptables made, and rules that nft made, with their words, of
each of which iptables-save there prints nothing, a part, or that it cannot.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends.xtables import made_by_iptables

RECORDED = Path(__file__).parent / "xtables"


@pytest.mark.parametrize("version", ["1.8.7", "1.8.9", "1.8.11"])
def test_what_iptables_made(version: str) -> None:
    rules = json.loads((RECORDED / f"iptables-{version}.json").read_text(encoding="utf-8"))
    assert [rule for rule in rules if not made_by_iptables(rule, ports=version != "1.8.7")] == []
    # One part in braces, a concatenation, a map, or a word more, and it did not.
    for rule in rules:
        assert not made_by_iptables([*rule, {"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 5}}])


@pytest.mark.parametrize("version", ["0.9.8", "1.0.6", "1.1.3"])
def test_what_nft_made(version: str) -> None:
    rules = json.loads((RECORDED / f"nft-{version}.json").read_text(encoding="utf-8"))
    assert [words for words, rule in rules if made_by_iptables(rule)] == []


PORT = {"payload": {"protocol": "tcp", "field": "dport"}}
MARK = {"meta": {"key": "mark"}}


def matching(*matches: tuple[str, object, object]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [
        {"match": {"op": operator, "left": left, "right": right}} for operator, left, right in matches
    ]
    return [*found, {"accept": None}]


def test_an_old_iptables_has_no_words_for_ports_and_marks() -> None:
    """Version 1.8.7 prints rules of nft without them."""
    for match in (("==", PORT, 22), ("==", PORT, {"range": [22, 25]}), ("!=", MARK, 5)):
        assert made_by_iptables(matching(match))
        assert not made_by_iptables(matching(match), ports=False)


def test_iptables_looks_at_nothing_twice() -> None:
    """Of two of a kind its commands print the last."""
    assert not made_by_iptables(matching(("==", PORT, 22), ("==", PORT, 23)))
    numbers = [{"meta": {"key": "l4proto"}}, {"payload": {"protocol": "ip", "field": "protocol"}}]
    assert not made_by_iptables(matching(*(("==", left, "tcp") for left in numbers)))
    assert made_by_iptables(matching(("==", PORT, 22), ("==", MARK, 23)))
