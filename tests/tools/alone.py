# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of the tests at a time in a checkout, which ends with all that it has started, however it is ended.

A run is told from others by a variable in the environment of its processes, which stays with those that leave their
parent, their session or their process group. What a run that was killed has left behind is ended by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time
import typing as t
from pathlib import Path

__all__ = ["ROOT", "alone"]

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "TEST_RUN_OF"
LOCK = ROOT / ".cache" / "test.lock"
PR_SET_PDEATHSIG = 1  # prctl(2)


@contextlib.contextmanager
def alone() -> t.Iterator[None]:
    """Hold the checkout while the block lasts; a part of a run that holds it already shares it.

    Exits with a message where another run is at work.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What nohup ignores stays ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the parent of this run has ended")
    if os.environ.get(VARIABLE) == str(ROOT):
        yield
        return
    LOCK.parent.mkdir(exist_ok=True)
    with open(LOCK, "a+", encoding="ascii") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            sys.exit(
                f"Another run of the tests is at work in this checkout: process {lock.read().strip()}. End it first."
            )
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        end_what_is_left()
        os.environ[VARIABLE] = str(ROOT)
        try:
            yield
        finally:
            end_what_is_left()


def end_what_is_left() -> None:
    """Kill all processes of this checkout's runs but for this one and its ancestors."""
    # A second at most: whatever is at its start for so long, it is not one of ours.
    for _look in range(50):
        if not _end():
            return
        time.sleep(0.02)


def _end() -> bool:
    """Kill those that can be told now; returns whether there are others, at the very start of a program.

    The kernel lets a parent go on when its child has begun to execute a program, and shows no environment of that until
    it is loaded.
    """
    unclear = False
    mark = f"{VARIABLE}={ROOT}\0".encode()
    spared = set(_line(os.getpid()))
    here = os.readlink("/proc/self/ns/pid")
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            # A thread of the kernel has none either, and executes no file.
            unclear |= not environment and not (folder / "cmdline").read_bytes() and bool(os.readlink(folder / "exe"))
            if int(folder.name) in spared or mark not in environment:
                continue
            # A test host and what podman has beside it end by podman's own commands.
            if (folder / "comm").read_text(encoding="utf-8") == "conmon\n" or os.readlink(
                folder / "ns" / "pid"
            ) != here:
                continue
            os.kill(int(folder.name), signal.SIGKILL)
    return unclear


def _line(process: int) -> t.Iterator[int]:
    """The process and its ancestors."""
    while process:
        yield process
        # The name before the last bracket may hold anything.
        process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
