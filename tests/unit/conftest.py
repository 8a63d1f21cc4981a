# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of all unit tests; pytest puts this folder on the path, so that tests can import `document`.

Tests of marker `kernel` are told apart from those that run anywhere: a test is one of them when its annotations name a
throwaway host, what has such hosts, or a kind of firewall, and otherwise where the marker stands. One without it is
stopped at the first command that makes namespaces or asks the kernel's firewall, so that nobody forgets the marker.
"""

from __future__ import annotations

import os
import re
import sys
import typing as t
from pathlib import Path

import hypothesis
import pytest
from contract import pytest_report_header, pytest_terminal_summary
from contract.sampling import SOAK
from hypothesis.configuration import set_hypothesis_home_dir

__all__ = ["pytest_report_header", "pytest_terminal_summary"]

# No deadline: how long one example takes says more about a busy machine than about the code.
set_hypothesis_home_dir(Path(__file__).resolve().parents[2] / ".cache" / "hypothesis")
hypothesis.settings.register_profile("collection", deadline=None, max_examples=500 if SOAK else 50)
hypothesis.settings.load_profile("collection")

_THROWAWAY = re.compile(r"\b(NetnsHost|Machine|Site|Firewall)\b")
_COMMANDS = re.compile(r"unshare|nsenter|nft|ip|(ip|ip6|eb)tables.*|firewall-.*|ufw")
# The test that runs, where it has no marker `kernel`.
_unmarked: pytest.Item | None = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that take a throwaway host."""
    for item in items:
        annotations = getattr(getattr(item, "function", None), "__annotations__", {})
        if any(_THROWAWAY.search(str(annotation)) for annotation in annotations.values()):
            item.add_marker("kernel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> t.Iterator[None]:
    """Tell the guard which test runs."""
    global _unmarked
    _unmarked = None if item.get_closest_marker("kernel") else item
    try:
        return (yield)
    finally:
        _unmarked = None


def pytest_sessionfinish() -> None:
    """End what the tests have left running for each other."""
    if "plays" in sys.modules:
        sys.modules["plays"].end()


def _guard(event: str, arguments: tuple[t.Any, ...]) -> None:
    """Stop a test without the marker at a command that needs the kernel."""
    if event == "subprocess.Popen" and _unmarked:
        program = os.path.basename(arguments[0])
        if _COMMANDS.fullmatch(program):
            pytest.fail(f"{_unmarked.nodeid} runs {program}: it needs `pytestmark = pytest.mark.kernel`")


sys.addaudithook(_guard)
