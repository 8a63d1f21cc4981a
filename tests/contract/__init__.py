# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend has to do, decided by packets between real hosts. The Molecule scenarios run it."""

import pytest

# Modules of the suite are no test modules by name, and explain their assertions all the same.
pytest.register_assert_rewrite(
    "contract.confirm", "contract.dns", "contract.firewalld", "contract.lab", "contract.suite"
)
