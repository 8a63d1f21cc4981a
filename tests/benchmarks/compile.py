# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long computing the rules of all five SDKs takes, in process. Prints the median; judges nothing."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "collections"))

from ansible_collections.openagora.firewall.plugins.module_utils._catalog import CATALOG
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request

RUNS = 500


def once() -> float:
    """Milliseconds from the names of the SDKs to the rules as data."""
    start = time.perf_counter()
    compile_request(Request.of(sdks=list(CATALOG))).rules.data()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    took = sorted(once() for _run in range(RUNS))
    median, slowest = statistics.median(took), took[-1]
    print(f"compile {', '.join(CATALOG)}: median {median:.2f} ms, slowest {slowest:.2f} ms of {RUNS} runs")
