# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import parse_rules
from ansible_collections.openagora.firewall.plugins.module_utils._proof.table import table

RULES = parse_rules(
    [
        {"direction": "egress", "protocol": "tcp", "ports": ["80", "443"], "sdks": {"web": ["80", "443"]}},
        {
            "direction": "egress",
            "protocol": "udp",
            "ports": ["1080", "3478"],
            "sdks": {"web": ["3478"], "native": ["1080"]},
        },
    ]
)
OPEN = {"tcp": ["22", "80", "443"], "udp": ["1080", "3478"]}
NONE = {"tcp": [], "udp": []}


def test_all_is_open() -> None:
    both = {family: {"egress": OPEN} for family in ("ipv4", "ipv6")}
    beyond = {family: {"egress": {"tcp": ["22"], "udp": []}} for family in ("ipv4", "ipv6")}
    assert table(RULES, {"open": both, "unknown": {}, "beyond": beyond, "missing_by_sdk": {}}) == [
        "SDK     direction  protocol  needed  open  missing",
        "native  egress     udp       1       1     -",
        "web     egress     tcp       2       2     -",
        "web     egress     udp       1       1     -",
        "also open: egress tcp 22",
    ]


def test_missing_and_unknown() -> None:
    result = {
        "open": {"ipv4": {"egress": {"tcp": ["443"], "udp": []}}, "ipv6": {"egress": {"tcp": ["80"], "udp": ["9"]}}},
        "unknown": {"ipv4": {"egress": {"tcp": ["80"], "udp": []}}, "ipv6": {"egress": NONE}},
        "beyond": {"ipv4": {"egress": NONE}, "ipv6": {"egress": {"tcp": [], "udp": ["9"]}}},
        "missing_by_sdk": {
            "web": {"ipv4": {"egress": {"udp": ["3478"]}}, "ipv6": {"egress": {"udp": ["3478"], "tcp": ["443"]}}},
            "native": {"ipv4": {"egress": {"udp": ["1080"]}}},
        },
    }
    assert table(RULES, result) == [
        "SDK     direction  protocol  needed  open  missing",
        "native  egress     udp       1       0     1080 (ipv4)",
        "web     egress     tcp       2       0     443 (ipv6); unknown: 80 (ipv4)",
        "web     egress     udp       1       0     3478",
        "also open: egress udp 9 (ipv6)",
    ]


def test_one_family() -> None:
    """Where a host has but one family, nothing speaks of the other one."""
    result = {
        "open": {"ipv4": {"egress": OPEN}},
        "unknown": {},
        "beyond": {},
        "missing_by_sdk": {"web": {"ipv4": {"egress": {"tcp": ["80"]}}}},
    }
    assert table(RULES, result)[2:] == [
        "web     egress     tcp       2       1     80",
        "web     egress     udp       1       1     -",
        "nothing else is open",
    ]
