# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Address families and networks."""

from __future__ import annotations

import ipaddress
import typing as t

__all__ = ["FAMILIES", "family_of", "normalise_networks", "overlap"]

FAMILIES = ("ipv4", "ipv6")


def family_of(network: str) -> str:
    """`ipv4` or `ipv6`, for a network in CIDR notation."""
    return "ipv6" if ":" in network else "ipv4"


def overlap(one: str, other: str) -> bool:
    """Whether two networks in CIDR notation have addresses in common."""
    return family_of(one) == family_of(other) and ipaddress.ip_network(one).overlaps(ipaddress.ip_network(other))


def normalise_networks(texts: t.Iterable[str]) -> tuple[str, ...]:
    """The fewest networks in CIDR notation that cover the same addresses, IPv4 first, in order of address.

    Raises ValueError when a text is no address or network, has bits set behind its prefix, names an interface, or maps
    IPv4 into IPv6.
    """
    by_version: dict[int, list[t.Any]] = {4: [], 6: []}
    for text in texts:
        if "%" in text:
            raise ValueError(f"{text!r} names an interface (%); rules hold plain networks")
        network = ipaddress.ip_network(text.strip())
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped and network.prefixlen >= 96:
            raise ValueError(
                f"{text!r} maps IPv4, whose packets are none of IPv6; write {mapped}/{network.prefixlen - 96}"
            )
        by_version[network.version].append(network)
    return tuple(str(n) for version in (4, 6) for n in ipaddress.collapse_addresses(by_version[version]))
