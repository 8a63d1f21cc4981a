# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let the kernel record to which ports packets came, as the independent witness of a firewall. Runs on a test host.

`begin` loads a table of its own with a set for each protocol and family, `end` prints the sets as sorted ranges and
removes the table. On the wire side (`wire`) packets are recorded before anything else sees them, and then dropped:
nobody answers. On a host under test (`past`) they are recorded where they have come past every other chain of the
input hook. That table accepts everything: it can only watch.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time

TABLE = "witness"
SETS = ("tcp4", "tcp6", "udp4", "udp6")
HOOKS = {"wire": ("prerouting", -300, "drop"), "past": ("input", 300, "")}


def rules(place: str, sources: list[str]) -> str:
    """The witness's table, in nft's words."""
    hook, priority, verdict = HOOKS[place]
    lines = [f"table inet {TABLE} {{"]
    lines += [f"set {name} {{ type inet_service; size 65536; flags dynamic; }}" for name in SETS]
    lines.append(f"chain {hook} {{ type filter hook {hook} priority {priority}; policy accept;")
    for source in sources:
        family, key = ("6", "ip6") if ":" in source else ("4", "ip")
        for protocol in ("tcp", "udp"):
            packets = f"{key} saddr {source} meta l4proto {protocol}"
            lines.append(f"{packets} add @{protocol}{family} {{ th dport }} {verdict}")
    return "\n".join([*lines, "}", "}", ""])


def meet(addresses: list[str]) -> None:
    """Make neighbours known to each other, so that no packet of a burst waits for, and is lost to, their discovery."""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(family, socket.SOCK_DGRAM) as udp:
                udp.sendto(b"", (address, 9))
            time.sleep(0.02)
            argv = ["ip", "-json", "neigh", "show", address]
            shown = subprocess.run(argv, check=True, capture_output=True, text=True)
            states = [state for entry in json.loads(shown.stdout or "[]") for state in entry.get("state", [])]
            if {"REACHABLE", "DELAY", "PROBE", "STALE"} & set(states):
                break
            if time.monotonic() > deadline:
                sys.exit(f"{address} is no neighbour: {states}")


def recorded(name: str) -> list[list[int]]:
    """What a set holds, as sorted ranges."""
    argv = ["nft", "--json", "list", "set", "inet", TABLE, name]
    listed = subprocess.run(argv, check=True, capture_output=True, text=True)
    content = next(entry["set"] for entry in json.loads(listed.stdout)["nftables"] if "set" in entry)
    ranges: list[list[int]] = []
    for element in sorted(content.get("elem", [])):
        if ranges and ranges[-1][1] == element - 1:
            ranges[-1][1] = element
        else:
            ranges.append([element, element])
    return ranges


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("begin", "end"))
    parser.add_argument("--place", choices=tuple(HOOKS), default="wire")
    parser.add_argument("--sources", nargs="+", default=[], help="the addresses whose packets are recorded")
    parser.add_argument("--neighbours", nargs="*", default=[], help="the addresses from whose side they come")
    options = parser.parse_args()
    remove = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
    if options.action == "begin":
        meet(options.neighbours)
        text = remove + rules(options.place, options.sources)
        subprocess.run(["nft", "-f", "-"], check=True, input=text, text=True)
    else:
        print(json.dumps({name: recorded(name) for name in SETS}))
        subprocess.run(["nft", "-f", "-"], check=True, input=remove, text=True)


if __name__ == "__main__":
    main()
