# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults at every step of a change that undoes itself: what is left is the old state or the new one, and no half of it.

A first run of each change counts what it does, then one fault after the other is injected: the process is killed before
a thing that it does; a command fails, is killed before or after its work, or goes on without the process; a command of
the rollback fails, or the rollback is killed before it. `make soak` injects all of them, other runs some of each kind.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t
from pathlib import Path

from .forks import FORKS, ask
from .sampling import SOAK, sample

if t.TYPE_CHECKING:
    import subprocess

__all__ = ["CHANGER", "HOOK", "Host", "Trial", "changer"]

FOLDER = "/var/lib/openagora/firewall"

# Counts what a process does, and kills it before one of these things.
HOOK = """
import os, signal, sys
things = 0

def count(name, arguments):
    global things
    changes = name in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "subprocess.Popen")
    written = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if begun and (changes or written):
        things += 1
        if things == ends:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
"""

# Makes a change: to the state that comes of it, with the backend, for so many seconds until it is undone. Whether only
# those things count that the steps do, and before which of them it ends.
CHANGER = f"""
import json, sys
from dataclasses import replace
from ansible_collections.openagora.firewall.plugins.module_utils._apply import prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._host import rollback
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost, StepError, lock
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
begun = False
{HOOK}
def carry_out(*arguments, **options):
    global begun
    begun = True
    return steps_done(*arguments, **options)

steps_done, rollback.carry_out = rollback.carry_out, carry_out

def change(state, backend, seconds, late):
    global begun
    with lock():
        rollback.finish()
        host = LocalHost()
        rules = compile_request(Request.of(sdks=state["sdks"])).rules if state else None
        if "lockdown" in state:
            rules = replace(rules, lockdown=parse_lockdown(state["lockdown"], forward=False, log=False))
        steps = prepare(host, rules, backend=backend).plan.steps
        if seconds:
            open("/run/faults/begun", "w").close()
            begun = not late
        confirm = rollback.change(host, steps, seconds=seconds, former={{"rules": [], "lockdown": None}})
        begun = False
        print(json.dumps([len(steps), things]))

def work(state, backend, seconds, late, before):
    global ends
    ends = before
    try:
        change(state, backend, seconds, late)
    except (BackendError, StepError) as error:
        sys.exit(str(error))
{FORKS}"""

Change = t.Callable[..., tuple[int, str]]


@contextlib.contextmanager
def changer(process: subprocess.Popen[str]) -> t.Iterator[Change]:
    """What makes changes while the block lasts: the process runs `CHANGER` on a host.

    Returns how the change's own process ended (0: well), and what it said: in how many steps, and how many things.
    """

    def change(
        state: dict[str, list[str]], backend: str, *, seconds: int = 0, late: bool = False, ends: int = 0
    ) -> tuple[int, str]:
        done = ask(process, state, backend, seconds, late, ends)
        return done.returncode, done.stdout or done.stderr

    with process:
        yield change


# Stands before a command. In the run whose fault it is, the one of that number comes to grief.
COMMAND = """
[ -e /run/faults/begun ] || exec "$real" "$@"
echo >>/run/faults/commands
read -r number </run/faults/number
[ "$(wc -l </run/faults/commands)" = "$number" ] || exec "$real" "$@"
/bin/rm /run/faults/begun
read -r how </run/faults/how
case $how in
"fails") exit 1 ;;
"is killed") kill -9 $$ ;;
"does its work and is killed") "$real" "$@"; kill -9 $$ ;;
"goes on alone") kill -9 $PPID; "$real" "$@"; touch /run/faults/alone ;;
"is not reached") kill -9 $PPID ;;
esac
"""
HOWS = ("fails", "is killed", "does its work and is killed", "goes on alone")
# A rollback that is not reached is killed; after a command that fails it goes on.
BACKWARDS = ("is not reached", "fails")
# How many faults of each kind happen in a change, where not all do; of the things that happen to commands, each does,
# on one host or the other.
SAMPLE, EACH = 3, 1
# What the rollback does beside the commands of the firewall.
FILES = ("cp", "mv", "rm")

# The states of a host (none: it has nothing of ours), and the changes between them: round and round.
STATES: dict[str, dict[str, list[str]]] = {
    "none": {},
    "some": {"sdks": ["web", "recording"]},
    "locked": {"sdks": ["native", "web"], "lockdown": ["192.0.2.0/24", "5000/tcp"]},
}
CHANGES = {"present": ("none", "some"), "change": ("some", "locked"), "absent": ("locked", "none")}


class Host(t.Protocol):
    """The host that is changed."""

    def run(self, argv: t.Sequence[str]) -> object:
        """Run a command, which may fail."""

    def sh(self, script: str) -> str:
        """Run a shell script that has to succeed, and return what it prints."""

    def path(self, path: str) -> str:
        """Where a file of the host is for this process."""

    def stand_in(self, name: str, script: str) -> None:
        """Put a shell script before the command of this name."""

    def live(self) -> str:
        """All rules of the kernel, counters aside."""

    def objects(self) -> list[str]:
        """Everything that a change could change."""


class Trial:
    """A host, and changes of it to which something happens.

    `change` makes one there (see `changer`), `commands` are those that change the firewall.
    `late`: only what the steps do comes to grief, and not what arms the rollback. `share`: which faults happen here
    where all do, and which kinds of them where not. `name`: what the faults are drawn by where not all do.
    """

    def __init__(
        self,
        host: Host,
        backend: str,
        commands: tuple[str, ...],
        change: Change,
        *,
        late: bool = False,
        share: slice = slice(None),
        name: str = "",
    ) -> None:
        self.host, self.backend, self.change, self.late = host, backend, change, late
        self.share, self.name = share, name or backend
        self.known = 0
        self.states: dict[str, list[str]] = {}
        self.lines: dict[str, set[str]] = {}
        self.faults = Path(host.path("/run/faults"))
        self.faults.mkdir()
        self._say(number=0, how="")
        for name in (*STATES, *STATES, "none"):
            self.turn(name)
            self.states.setdefault(name, host.objects())
            self.lines[name] = set(host.live().splitlines())
            self.expect(name, "no fault")
            assert self.turn(name) == 0
        assert self.states["none"] != self.states["some"] != self.states["locked"] != self.states["none"]
        for command in (*commands, *FILES):
            # What stands there chooses one of two kinds of a command, which go by their names.
            real = host.sh(f'there=$(command -v {command}); readlink "$there" || echo "$there"').strip()
            host.stand_in(command, f"real={real}\n{COMMAND}")

    def turn(self, name: str) -> int:
        """Bring the host to one of the states; returns in how many steps."""
        code, said = self.change(STATES[name], self.backend)
        assert code == 0, said
        steps: int = json.loads(said)[0]
        return steps

    def expect(self, name: str, what: str) -> None:
        """The host is in this state, whole."""
        assert self.host.objects() == self.states[name], what

    def _say(self, *, number: int, how: str, worker: int = 0) -> None:
        for file in self.faults.iterdir():
            file.unlink()
        # A disk that is full keeps no count of the commands.
        for name, text in {"number": number or "none", "how": how, "worker": worker}.items():
            (self.faults / name).write_text(f"{text}\n", encoding="ascii")

    def _wait(self, how: str) -> None:
        deadline = time.monotonic() + 20
        while how == "goes on alone" and not (self.faults / "alone").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (self.faults / "begun").unlink(missing_ok=True)

    def counted(self, name: str) -> int:
        """How many lines a file of the faults has."""
        file = self.faults / name
        return len(file.read_text(encoding="ascii").splitlines()) if file.exists() else 0

    def waits(self, folder: str) -> bool:
        """Whether a rollback waits in this folder."""
        return os.path.isdir(self.host.path(f"{FOLDER}/{folder}"))

    def run(self, change: str, *, ends: int = 0, number: int = 0, how: str = "", worker: int = 0) -> tuple[int, str]:
        """Make a change in which a thing comes to grief: its process before its thing `ends`, the command of this
        number, or ufw's process before its thing `worker`. Returns the code, and what was said.
        """
        self._say(number=number, how=how, worker=worker)
        state = STATES[CHANGES[change][1]]
        code, said = self.change(state, self.backend, seconds=600, late=self.late, ends=ends)
        self._wait(how)
        assert self.counted("commands") >= number
        assert code != 0 or not (ends or worker)
        return code, said

    def roll_back(self, *, number: int = 0, how: str = "") -> int:
        """Let the time of the change be up; something may happen to the rollback's command of this number.

        Returns how many commands it had.
        """
        self._say(number=number, how=how)
        (self.faults / "begun").touch()
        for folder in ("pending", "restoring"):
            if self.waits(folder) and (not number or folder == "pending"):
                path = f"{FOLDER}/{folder}"
                token = Path(self.host.path(f"{path}/token")).read_text(encoding="ascii")
                self.host.run(["/bin/sh", f"{path}/run", "due", token])
        self._wait(how)
        return self.counted("commands")

    def settle(self, what: str, change: str, code: int, said: str) -> int:
        """Look at what is left of a change, roll it back, and look again. Returns the commands of the rollback."""
        old, new = CHANGES[change]
        assert "Traceback" not in said, f"{what}: {said}"
        there = set(self.host.live().splitlines())
        # Nothing is gone that both states have, and nothing is there that neither has.
        assert self.lines[old] & self.lines[new] <= there <= self.lines[old] | self.lines[new], f"{what}: {said}"
        if code == 0:
            self.expect(new, f"{what}: {said}")
        commands = self.roll_back()
        assert not self.waits("pending")
        assert not self.waits("restoring")
        self.expect(old, f"{what}: {said}")
        return commands

    def chosen(self, kind: str, faults: range, count: int = SAMPLE) -> list[int]:
        """The faults of a kind that happen here, by their numbers: a sample, or this host's share of all."""
        self.known += len(faults)
        return list(faults[self.share]) if SOAK else sample(f"{self.name} {kind}", faults, count)

    def each(self, change: str) -> int:
        """Make the change with one fault after the other, from the old state to it again; returns how many."""
        code, said = self.run(change)
        assert code == 0, said
        things = range(1, json.loads(said)[1] + 1)
        commands, worked = (range(1, self.counted(name) + 1) for name in ("commands", "worked"))
        backwards = range(1, self.settle("no fault", change, code, said) + 1)
        assert things
        assert commands
        assert len(backwards) > 1
        faults: list[tuple[str, dict[str, t.Any]]] = []
        for number in self.chosen(f"{change} things", things):
            faults.append((f"killed before its thing {number}", {"ends": number}))
        for number in self.chosen(f"{change} worked", worked):
            faults.append((f"killed before thing {number} of ufw", {"worker": number}))
        for how in HOWS:
            for number in self.chosen(f"{change} {how}", commands, EACH * (how in HOWS[self.share])):
                faults.append((f"command {number} {how}", {"number": number, "how": how}))
        for what, fault in faults:
            self.settle(what, change, *self.run(change, **fault))
        undone = [
            (number, how)
            for how in BACKWARDS
            for number in self.chosen(f"undone {change} {how}", backwards, EACH * (how in BACKWARDS[self.share]))
        ]
        for number, how in undone:
            code, said = self.run(change)
            assert code == 0, said
            assert self.roll_back(number=number, how=how) >= number
            self.settle(f"command {number} of the rollback {how}", change, -1, said)
        return len(faults) + len(undone)

    def go_round(self) -> str:
        """Make all changes with faults, and then once without; returns how many faults there were."""
        faults = {}
        for change, (_old, new) in CHANGES.items():
            before = self.known
            injected = self.each(change)
            faults[change] = (injected, self.known - before)
            self.turn(new)
            self.expect(new, f"{change}, another run after all faults")
        counts = ", ".join(f"{change} {injected} of {known}" for change, (injected, known) in faults.items())
        return f"{sum(injected for injected, _known in faults.values())} of {self.known} faults were injected: {counts}"
