# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists of Agora's document "Firewall Requirements" (2018-11-06), typed from the document and from nothing else."""

from __future__ import annotations

import typing as t


def to(low: int, high: int) -> set[int]:
    """The document's "low-high"."""
    return set(range(low, high + 1))


# "Open TCP ports ..."
TCP = {
    "native": {1080, 8000, 9700, 25000, 30000},
    "web": {80, 443, 3433, 5668, 5669, *to(5866, 5890), 6080, 6443, 8667, 9667},
    "signaling": {1080, *to(8001, 8199)},
    "recording": {1080, 8000},
    "gaming": {1080, 8000},
}

# "Open UDP ports ...", for Recording its duplex ports.
UDP = {
    "native": {1080, *to(4000, 4030), 7000, 8000, 8913, 9700, 25000},
    "web": {3478, *to(10000, 65535)},
    "signaling": to(8180, 8199),
    "recording": {1080, *to(4000, 4030), 8000, 9700, 25000},
    "gaming": {1080, *to(4000, 4030), 8000, 9700, 25000},
}

# "Whitelist domain ...", "Set whitelist domains: ..."
DOMAINS = {
    "native": {
        *(".agora.io", "qoslbs.agoralab.co", "qos.agoralab.co"),
        *(f"vocs{number}.agora.io" for number in range(1, 6)),
        *(f"ap{number}.agora.io" for number in range(1, 6)),
    },
    "web": {".agora.io"},
    "signaling": {".agora.io"},
    "recording": {".agora.io", "vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"},
    "gaming": {".agora.io", "vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"},
}

# "Agora recommends 40000 ~ 41000 or larger": what recording's simplex downstream ports are when nothing else is said.
DOWNSTREAM = to(40000, 41000)

SDKS = tuple(TCP)


def egress(sdks: t.Iterable[str]) -> dict[str, set[int]]:
    """What a host with these SDKs may send to."""
    sdks = tuple(sdks)
    return {
        "tcp": set().union(*(TCP[sdk] for sdk in sdks)),
        "udp": set().union(*(UDP[sdk] for sdk in sdks)),
    }


def ingress(sdks: t.Iterable[str]) -> dict[str, set[int]]:
    """What may come in to a host with these SDKs: nothing but Recording's duplex and downstream ports."""
    return {"tcp": set(), "udp": UDP["recording"] | DOWNSTREAM if "recording" in sdks else set()}
