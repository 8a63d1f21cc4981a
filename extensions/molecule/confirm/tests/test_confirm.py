# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change that is confirmed over SSH promises, and lockdown, on every backend."""

from contract import confirm, lockdown

for module in (confirm, lockdown):
    globals().update({name: getattr(module, name) for name in module.__all__})
