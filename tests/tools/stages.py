# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make each of the named targets and say how long it took; end at the first that fails, and repeat what failed in it.

The table at the end has the seconds of each stage, and how busy it kept the machine's processors.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from alone import ROOT, alone

sys.path.insert(0, str(ROOT / "tests"))

from contract.sampling import SEED, SOAK  # needs the path above

SHOWN = 20


@dataclass
class Stage:
    """A target that has been made."""

    name: str
    output: str
    code: int
    seconds: float
    line: str

    @classmethod
    def make(cls, name: str) -> Stage:
        """Make it, and show its output meanwhile."""
        print(f"\n==== {name}", flush=True)
        argv = [os.environ.get("MAKE", "make"), "--no-print-directory", name]
        began, busy = time.monotonic(), busy_seconds()
        chunks: list[bytes] = []
        with subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout
            for chunk in iter(lambda: process.stdout.read1(65536), b""):
                chunks.append(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
        seconds = time.monotonic() - began
        share = (busy_seconds() - busy) / seconds / (os.cpu_count() or 1)
        outcome = "FAILED" if process.returncode else "passed"
        line = f"{name:24} {outcome} after {seconds:5.0f} s, processors busy {share:4.0%}"
        print(f"==== {line}", flush=True)
        # Molecule colours what it frames.
        text = re.sub(r"\x1b\[[0-9;]*m", "", b"".join(chunks).decode(errors="replace"))
        return cls(name, text, process.returncode, seconds, line)

    def said(self, pattern: str) -> list[str]:
        """What a pattern finds in its output, lines as Molecule frames them included."""
        return re.findall(rf"^[ │]*{pattern}", self.output, re.MULTILINE)

    def failures(self) -> list[str]:
        """Each failed test with its message, as pytest sums up, and the errors of ansible-test."""
        return self.said(r"((?:FAILED|ERROR) [^ ]+::.*|ERROR: .*)$")[-SHOWN:]

    def counted(self) -> str:
        """How many tests pytest has passed in it."""
        return ", ".join(self.said(r"=* ?(\d+ passed)\b"))


def busy_seconds() -> float:
    """For how long the machine's processors have worked so far, all together."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _waits, *interrupts = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def record(made: list[Stage], path: Path, seconds: float) -> None:
    """Write down when all stages have passed, on what, and what they have counted and measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = [f"| `{stage.name}` | {stage.seconds:.0f} | {stage.counted()} |" for stage in made]
    measured = [
        f"- {line}" for stage in made for line in stage.said(r"(\S.*: .*(?:faults were injected|connections, ).*)$")
    ]
    text = [
        "# The last `make soak`",
        "",
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit.stdout.strip()}, {os.cpu_count()} processors,"
        f" {seconds / 60:.0f} minutes; nothing was left to chance but what hypothesis draws (TEST_SEED={SEED}).",
        "",
        "| stage | seconds | tests |",
        "| --- | --- | --- |",
        *rows,
        "",
        "What the tests counted and measured:",
        "",
        *measured,
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> int:
    """Make all stages that were asked for; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--record", type=Path, help="the file that tells of a run that has passed")
    parser.add_argument("stages", nargs="+", metavar="STAGE")
    options = parser.parse_args()
    began = time.monotonic()
    chance = "all" if SOAK else f"drawn by TEST_SEED={SEED}"
    print(f"{len(options.stages)} stages; samples: {chance}", flush=True)
    made: list[Stage] = []
    for name in options.stages:
        made.append(Stage.make(name))
        if made[-1].code:
            break
    failed = made[-1].code != 0
    seconds = time.monotonic() - began
    print("\n" + "\n".join(stage.line for stage in made))
    if failed:
        print(f"Not run: {' '.join(options.stages[len(made) :]) or 'nothing'}")
        print(f"\nFailed in {made[-1].name} (samples: {chance}):")
        print("\n".join(made[-1].failures() or ["(no test by name: see above)"]))
    if options.record and not failed:
        record(made, options.record, seconds)
    print(f"\n{seconds / 60:.1f} minutes in all; samples: {chance}")
    print(f"\n{len(made) - failed} passed, {int(failed)} failed")
    return failed


if __name__ == "__main__":
    with alone():
        sys.exit(main())
