# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The five lists of Agora's document "Firewall Requirements" (2018-11-06), copied by hand, not from the catalog."""

from __future__ import annotations

import itertools

# (low, high) is what the document writes as low-high.
DOCUMENT = {
    "native": {
        "tcp": [1080, 8000, 9700, 25000, 30000],
        "udp": [1080, (4000, 4030), 7000, 8000, 8913, 9700, 25000],
        "udp_duplex": [],
        "udp_downstream": False,
        "domains": [
            ".agora.io",
            "vocs1.agora.io",
            "vocs2.agora.io",
            "vocs3.agora.io",
            "vocs4.agora.io",
            "vocs5.agora.io",
            "qoslbs.agoralab.co",
            "qos.agoralab.co",
            "ap1.agora.io",
            "ap2.agora.io",
            "ap3.agora.io",
            "ap4.agora.io",
            "ap5.agora.io",
        ],
    },
    "web": {
        "tcp": [80, 443, 3433, 5668, 5669, (5866, 5890), 6080, 6443, 8667, 9667],
        "udp": [3478, (10000, 65535)],
        "udp_duplex": [],
        "udp_downstream": False,
        "domains": [".agora.io"],
    },
    "signaling": {
        "tcp": [1080, (8001, 8199)],
        "udp": [(8180, 8199)],
        "udp_duplex": [],
        "udp_downstream": False,
        "domains": [".agora.io"],
    },
    "recording": {
        "tcp": [1080, 8000],
        "udp": [],
        "udp_duplex": [1080, (4000, 4030), 8000, 9700, 25000],
        "udp_downstream": True,
        "domains": [".agora.io", "vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"],
    },
    "gaming": {
        "tcp": [1080, 8000],
        "udp": [1080, (4000, 4030), 8000, 9700, 25000],
        "udp_duplex": [],
        "udp_downstream": False,
        "domains": [".agora.io", "vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"],
    },
}

# What the document recommends for the recording processes: "40000 ~ 41000 or larger".
RECORDING_RANGE = (40000, 41000)

SDKS = tuple(DOCUMENT)
COMBINATIONS = [chosen for size in range(1, 6) for chosen in itertools.combinations(SDKS, size)]


def expand(items: list) -> set[int]:
    """Every single port of a list."""
    ranges = (item if isinstance(item, tuple) else (item, item) for item in items)
    return {port for low, high in ranges for port in range(low, high + 1)}


def egress(sdk: str, protocol: str) -> set[int]:
    """The ports that the SDK dials."""
    listed = DOCUMENT[sdk]
    return expand(listed["tcp"]) if protocol == "tcp" else expand(listed["udp"] + listed["udp_duplex"])


def ingress(sdk: str, protocol: str) -> set[int]:
    """The ports on which the SDK is sent to, with the recording range that the document recommends."""
    listed = DOCUMENT[sdk]
    if protocol == "tcp":
        return set()
    return expand(listed["udp_duplex"] + ([RECORDING_RANGE] if listed["udp_downstream"] else []))
