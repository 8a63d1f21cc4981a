# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the time of a plan grows with the rules of others in one chain, beside what nft takes to list them.

Runs as root, in a network namespace of its own. Prints a row and a bar for each size, with the median of a few runs;
judges nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "collections"))

from ansible_collections.openagora.firewall.plugins.module_utils._apply import prepare
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost

SIZES = (1_250, 2_500, 5_000, 10_000, 20_000)
RUNS = 3
INSIDE = "OPENAGORA_BENCHMARK_INSIDE"
BAR = 10  # marks for the time of nft itself


def banned(count: int) -> str:
    """A host that drops, with so many single bans in its chain, one of an address and one of a port in turn."""
    bans = (
        f"ip saddr 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255} drop"
        if number % 2
        else f"tcp dport {1 + number % 500} ip saddr 192.0.2.{number % 256} drop"
        for number in range(count)
    )
    rules = "\n".join(f"add rule inet filter output {ban}" for ban in bans)
    return (
        "flush ruleset\nadd table inet filter\n"
        "add chain inet filter output { type filter hook output priority filter; policy drop; }\n"
        f"{rules}\n"
    )


def median(work: t.Callable[[], object]) -> float:
    """Seconds."""
    took = []
    for _run in range(RUNS):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def main() -> None:
    """Measure each size."""
    rules = compile_request(Request.of(sdks=["web"])).rules
    host = LocalHost()
    print("rules of others | nft -j list ruleset | plan | ratio")
    for count in SIZES:
        subprocess.run(["nft", "-f", "-"], input=banned(count), text=True, check=True)
        listed = median(lambda: subprocess.run(["nft", "-j", "list", "ruleset"], stdout=subprocess.DEVNULL, check=True))
        planned = median(lambda: prepare(host, rules, backend="nftables"))
        ratio = planned / listed
        print(f"{count:15,} | {listed:17.2f} s | {planned:.2f} s | {ratio:.2f} {'#' * round(BAR * ratio)}")


if __name__ == "__main__":
    if os.environ.get(INSIDE):
        main()
    else:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
