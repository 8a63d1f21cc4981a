# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists of the Agora Signaling SDK."""

from __future__ import annotations

from .._model.ports import PortSet
from .editions import Edition, Listing

__all__ = ["LISTING"]

LISTING = Listing(
    sdk="signaling",
    title="Agora Signaling SDK",
    editions=(
        Edition(
            effective_from="2018-11-01",
            source="AgoraIO/Documentation, en/Agora Platform/firewall.md, cccb0d6af1e4",
            tcp=PortSet.parse("1080, 8001-8199"),
            udp=PortSet.parse("8180-8199"),
            domains=(".agora.io",),
        ),
    ),
)
