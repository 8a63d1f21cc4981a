# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists of the Agora Gaming SDK."""

from __future__ import annotations

from .._model.ports import PortSet
from .editions import Edition, Listing

__all__ = ["LISTING"]

LISTING = Listing(
    sdk="gaming",
    title="Agora Gaming SDK",
    editions=(
        Edition(
            effective_from="2018-11-01",
            source="AgoraIO/Documentation, en/Agora Platform/firewall.md, cccb0d6af1e4",
            tcp=PortSet.parse("1080, 8000"),
            udp=PortSet.parse("1080, 4000-4030, 8000, 9700, 25000"),
            domains=(".agora.io", "vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"),
        ),
    ),
)
