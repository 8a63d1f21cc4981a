# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists of the Agora Web SDK."""

from __future__ import annotations

from .._model.ports import PortSet
from .editions import Edition, Listing

__all__ = ["LISTING"]

LISTING = Listing(
    sdk="web",
    title="Agora Web SDK",
    editions=(
        Edition(
            effective_from="2018-11-01",
            source="AgoraIO/Documentation, en/Agora Platform/firewall.md, cccb0d6af1e4",
            tcp=PortSet.parse("80, 443, 3433, 5668, 5669, 5866-5890, 6080, 6443, 8667, 9667"),
            udp=PortSet.parse("3478, 10000-65535"),
            domains=(".agora.io",),
        ),
    ),
)
