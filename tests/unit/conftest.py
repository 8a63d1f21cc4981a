# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of all unit tests; pytest puts this folder on the path, so that tests can import `document`."""

from __future__ import annotations

from pathlib import Path

import hypothesis
from contract import pytest_terminal_summary
from hypothesis.configuration import set_hypothesis_home_dir

__all__ = ["pytest_terminal_summary"]

# No deadline: how long one example takes says more about a busy machine than about the code.
set_hypothesis_home_dir(Path(__file__).resolve().parents[2] / ".cache" / "hypothesis")
hypothesis.settings.register_profile("collection", deadline=None)
hypothesis.settings.load_profile("collection")
