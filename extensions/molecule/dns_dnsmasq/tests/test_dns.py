# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role dns_allowlist promises, with dnsmasq."""

from contract import dns
from contract.dns import TestManagers, TestNames

__all__ = ["TestManagers", "TestNames"]

globals().update({name: getattr(dns, name) for name in dns.__all__})
