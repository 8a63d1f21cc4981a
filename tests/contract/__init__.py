# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend has to do, decided by packets between real hosts. The Molecule scenarios run it."""

import pytest

from .sampling import SEED, SOAK

__all__ = ["pytest_report_header", "pytest_terminal_summary"]

# Modules of the suite are no test modules by name, and explain their assertions all the same.
pytest.register_assert_rewrite(
    "contract.confirm",
    "contract.dns",
    "contract.faults",
    "contract.firewalld",
    "contract.lab",
    "contract.lockdown",
    "contract.recording",
    "contract.suite",
)


def pytest_report_header() -> str:
    """Say what the samples of this run are drawn by."""
    return "samples: all" if SOAK else f"samples: TEST_SEED={SEED} draws the same again"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the tests have counted and measured: their properties of the name `measured`, a line each."""
    reports = [report for held in terminalreporter.stats.values() for report in held if hasattr(report, "when")]
    found = [text for report in reports if report.when == "call" for _name, text in report.user_properties]
    for text in sorted(found):
        terminalreporter.write_line(text)
