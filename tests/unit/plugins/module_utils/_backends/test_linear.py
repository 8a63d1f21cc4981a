# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Twice the rules on a host, twice the work: counted in rules and ports that are handled, which no clock disturbs."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends import iptables, nftables, saveformat
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Accept
from ansible_collections.openagora.firewall.plugins.module_utils._model import ports
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage

Counted = t.Callable[[int], int]


def is_linear(work: Counted, size: int) -> bool:
    """Whether the work grows no faster than what is to be done; a square would be four times as much."""
    return work(2 * size) <= 2.2 * work(size)


def test_foreign_rules_in_one_chain_of_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    handled = 0
    replace = nftables.replace

    def counting(chain: t.Any, **fields: t.Any) -> t.Any:
        nonlocal handled
        handled += sum(len(value) for value in fields.values() if isinstance(value, tuple))
        return replace(chain, **fields)

    monkeypatch.setattr(nftables, "replace", counting)

    def work(size: int) -> int:
        nonlocal handled
        handled = 0
        place = {"family": "inet", "table": "filter"}
        chain = {**place, "name": "output", "type": "filter", "hook": "output", "policy": "drop"}
        items: list[t.Any] = [{"table": {"family": "inet", "name": "filter"}}, {"chain": chain}]
        items += [
            {"rule": {**place, "chain": "output", "handle": number, "comment": str(number), "expr": [{"drop": None}]}}
            for number in range(size)
        ]
        held = nftables.parse_listing(json.dumps({"nftables": items}))["inet filter"].chains["output"]
        assert held.handles == tuple(range(size))
        assert held.comments == tuple(map(str, range(size)))
        return handled

    assert is_linear(work, 500)


def test_single_ports_read_back_from_iptables(monkeypatch: pytest.MonkeyPatch) -> None:
    handled = 0
    merge = ports._merge

    def counting(ranges: t.Collection[tuple[int, int]]) -> t.Any:
        nonlocal handled
        handled += len(ranges)
        return merge(ranges)

    monkeypatch.setattr(ports, "_merge", counting)

    def work(size: int) -> int:
        nonlocal handled
        wanted = Accept("open", "egress", "tcp", "extra", ports=PortSet.of(*range(1, 2 * size, 2)))
        specs = tuple(iptables._specs(wanted, "ipv4"))
        saved = "".join(f"-A openagora-output {spec}\n" for spec in specs)
        handled = 0
        assert saveformat.parse(saved)[1]["openagora-output"] == specs
        assert iptables._accepts_of(specs, "output", "ipv4", Passage()) == (wanted,)
        return handled

    assert is_linear(work, 3000)


def test_a_rule_that_only_counts() -> None:
    """As `iptables -A INPUT` makes it."""
    assert saveformat.parse(":INPUT ACCEPT [0:0]\n-A INPUT\n-A INPUT -j DROP\n")[1] == {"INPUT": ("", "-j DROP")}
