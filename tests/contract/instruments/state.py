# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what a host's firewall and its /etc are now, but for counters and dates. Runs on a test host, as root."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess


def listing(*argv: str) -> list[str]:
    """What a command lists: comments hold dates, counters stand in brackets behind a chain, a set has a random seed."""
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return [re.sub(r" \[\d+:\d+\]$| initval \S+", "", line) for line in shown.splitlines() if not line.startswith("#")]


def description(path: str) -> str:
    """A file's kind, mode, owner and content."""
    status = os.lstat(path)
    content = ""
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    return f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {content}"


def files(top: str) -> dict[str, str]:
    """Everything below a folder."""
    return {
        path: description(path)
        for folder, folders, names in os.walk(top)
        for path in sorted(os.path.join(folder, name) for name in folders + names)
    }


def main() -> None:
    state = {
        "iptables": listing("iptables-save"),
        "ip6tables": listing("ip6tables-save"),
        "nftables": listing("nft", "-s", "list", "ruleset"),
        "ipset": listing("ipset", "save"),
        "/etc": files("/etc"),
    }
    print(json.dumps(state))


if __name__ == "__main__":
    main()
