# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a Molecule scenario on its test hosts: both lanes at once, or one after the other where there is less room.

Further arguments are Molecule's. The hosts stay for the next scenario; those of one that failed can be looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import hosts
from alone import alone

FOLDER = hosts.ROOT / ".cache" / "molecule"


def runs(scenario: str) -> list[str]:
    """The lanes of each run of Molecule, as TEST_HOST_LANE has them."""
    given = os.environ.get("TEST_HOST_LANE", "")
    room = hosts.Room.now()
    if given or room.hosts() + len(hosts.ours()) >= len(hosts.needed(scenario)):
        return [given]
    print(f"{scenario}: one lane after the other, as {room.told()}", flush=True)
    return [str(lane) for lane in hosts.LANES]


def main() -> int:
    """Run the scenario; returns Molecule's exit code."""
    scenario, *arguments = sys.argv[1:]
    for lane in runs(scenario):
        # What Molecule remembers of a run that was interrupted is not so.
        shutil.rmtree(FOLDER, ignore_errors=True)
        environment = {
            **os.environ,
            "MOLECULE_EPHEMERAL_DIRECTORY": str(FOLDER),
            # Molecule breaks lines of its output, the names of failed tests among them, by the width of the terminal.
            "COLUMNS": "250",
            "TEST_HOST_LANE": lane,
            "TEST_HOST_SCENARIO": scenario,
        }
        command = ["molecule", "test", "--scenario-name", scenario, "--destroy=never", *arguments]
        code = subprocess.run(command, env=environment, cwd=hosts.ROOT, check=False).returncode
        if code:
            return code
        hosts.keep(scenario)
    return 0


if __name__ == "__main__":
    try:
        with alone():
            sys.exit(main())
    except hosts.HostsError as failure:
        sys.exit(f"tests/tools/scenario.py: {failure}")
