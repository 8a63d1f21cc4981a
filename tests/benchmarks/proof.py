# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a proof of all ports takes, with few rules on the host and with 10,000 rules of others.

Each host is a network namespace of its own whose firewall drops in both directions and holds the rules of all five
SDKs. Prints medians, with the memory of the largest process; judges nothing but that each proof found these rules.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from netns import IPTABLES, LEGACY, NFTABLES, Firewall, NetnsHost, rule_set

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = 10_000
AIMS = {"ipv4": "at most 5", "ipv4, ipv6": "at most 10"}

# Proves in a process of its own, as module `proof` does, and prints the result with its memory in KiB.
PROVE = f"""
import json, resource, sys
sys.path.insert(0, {str(ROOT / "collections")!r})
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost
from ansible_collections.openagora.firewall.plugins.module_utils._proof.prove import prove
from ansible_collections.openagora.firewall.plugins.module_utils._proof.question import Question
result = prove(LocalHost(), Question(families=tuple(sys.argv[1:]))).result
used = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({{**result, "memory": used}}))
"""


def burden(host: NetnsHost, firewall: Firewall) -> None:
    """Give the host rules of others, one for each of many addresses, which every packet that comes in passes."""
    addresses = [f"100.64.{number // 250}.{number % 250 + 1}" for number in range(FOREIGN)]
    if firewall.backend == "iptables":
        lines = "\n".join(f"-I INPUT -s {address} -j DROP" for address in addresses)
        host.sh("iptables-restore --noflush", stdin=f"*filter\n{lines}\nCOMMIT\n")
    else:
        lines = "\n".join(f"ip saddr {address} drop" for address in addresses)
        host.nft(f"table inet banned {{\nchain input {{\ntype filter hook input priority -1;\n{lines}\n}}\n}}\n")


def prove(host: NetnsHost, families: t.Sequence[str]) -> dict[str, t.Any]:
    """One proof; ends the benchmark when it does not find the rules of the SDKs."""
    done = host.run([sys.executable, "-c", PROVE, *families])
    if done.code:
        sys.exit(done.err)
    result: dict[str, t.Any] = json.loads(done.out)
    for rule in rule_set():
        for family in families:
            found = result["open"][family][rule.direction][rule.protocol]
            if found != rule.ports.texts():
                sys.exit(f"{family} {rule.direction} {rule.protocol}: {found} instead of {rule.ports.texts()}")
    return result


def measure(firewall: Firewall, foreign: int, families: t.Sequence[str], runs: int) -> str:
    """A line of the table."""
    with NetnsHost() as host:
        firewall.close(host)
        host.apply(rule_set(), firewall.backend)
        if foreign:
            burden(host, firewall)
        results = [prove(host, families) for _run in range(runs)]
    took = [result["seconds"] for result in results]
    shown = ", ".join(families)
    return FORM.format(
        firewall.name,
        foreign,
        shown,
        f"{statistics.median(took):.2f}",
        f"{min(took):.2f}-{max(took):.2f}",
        results[0]["packets"],
        f"{max(result['memory'] for result in results) / 1024:.0f}",
        "" if foreign else AIMS[shown],
    ).rstrip()


FORM = "{:16} {:>13} {:11} {:>7} {:>13} {:>8} {:>4}  {}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=3, help="how often each is timed (default: 3)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs: at least 1 is needed")
    load = os.getloadavg()[0]
    print(f"All 65,535 ports of TCP and UDP, egress and ingress; seconds of module_utils' prove, median of {runs}.")
    print(f"Linux {platform.release()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    print(FORM.format("host", "foreign rules", "families", "seconds", "from-to", "packets", "MB", "aim").rstrip())
    for firewall in (NFTABLES, IPTABLES, LEGACY):
        for families in (["ipv4"], ["ipv4", "ipv6"]):
            print(measure(firewall, 0, families, runs), flush=True)
    for firewall in (NFTABLES, IPTABLES, LEGACY):
        print(measure(firewall, FOREIGN, ["ipv4"], runs), flush=True)
    print(f"load average: {load:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
