# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists that Agora published, SDK by SDK."""

from __future__ import annotations

import typing as t

from .gaming import LISTING as GAMING
from .native import LISTING as NATIVE
from .recording import LISTING as RECORDING
from .signaling import LISTING as SIGNALING
from .web import LISTING as WEB

if t.TYPE_CHECKING:
    from .editions import Listing

__all__ = ["CATALOG", "DEFAULT_REVISION"]

# By name, in the order of Agora's document.
CATALOG: dict[str, Listing] = {listing.sdk: listing for listing in (NATIVE, WEB, SIGNALING, RECORDING, GAMING)}

# The document that this collection implements, and the last one in which these five SDKs stand side by side.
DEFAULT_REVISION = "2018-11-06"
