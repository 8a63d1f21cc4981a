# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role recording_host promises, with recorders that receive."""

from contract import recording

globals().update({name: getattr(recording, name) for name in recording.__all__})
