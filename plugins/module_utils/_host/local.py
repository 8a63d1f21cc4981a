# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that this process runs on: commands, files, the lock, and the runner of steps."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
import typing as t

from .._backends.contract import BackendError, Command, Outcome, RemoveFile, Step, WriteFile

if t.TYPE_CHECKING:
    from .._backends.contract import Action

__all__ = ["LOCK", "PATH", "LocalHost", "StepError", "carry_out", "lock", "put"]

# Where the tools of a firewall lie, also for a user or a connection whose PATH leaves the sbin folders out.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOCK = "/run/openagora-firewall.lock"
_LOCK_SECONDS = 60


class StepError(Exception):
    """A step failed; what had been done was undone, or could not be, which the message says too."""

    def __init__(self, message: str, *, undone: bool = True) -> None:
        super().__init__(message)
        self.undone = undone


class LocalHost:
    """Commands and files of this host (the `Host` of the backend contract)."""

    def __init__(self) -> None:
        self._environment = {**os.environ, "LC_ALL": "C", "PATH": PATH}

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        """Run a command in the C locale; one that is not there ends with code 127. Raises BackendError if it cannot."""
        try:
            done = subprocess.run(  # pylint: disable=ansible-bad-function  # run_command needs a module, this has none
                list(argv),
                input=stdin or "",
                env=self._environment,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
            )
        except FileNotFoundError:
            return Outcome(127, "", f"{argv[0]}: command not found")
        except OSError as error:
            raise BackendError(f"{error.strerror}: {argv[0]}") from error
        return Outcome(done.returncode, done.stdout, done.stderr)

    def which(self, name: str) -> str | None:
        """The path of a command, None when it is not installed."""
        return shutil.which(name, path=PATH)

    def read(self, path: str) -> str | None:
        """A file's text with its own line ends, None when it is not there. Raises BackendError if it cannot be read."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendError(f"{path} cannot be read: {error.strerror}") from error

    def exists(self, path: str) -> bool:
        """Whether anything is at the path."""
        return os.path.lexists(path)


def put(path: str, text: str, mode: int) -> None:
    """Replace a file whole, on disk before it has its name; an SELinux label it had is kept."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    temporary = _temporary(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            with contextlib.suppress(OSError):
                os.setxattr(temporary, "security.selinux", os.getxattr(path, "security.selinux"))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        _unlink(temporary)
        if isinstance(error, OSError):
            # A full disk names no file.
            error.filename = error.filename or path
        raise


def _temporary(path: str) -> str:
    """Where a file's new text stands until it is whole: always there, because who is killed leaves it to the next."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.openagora"


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    folder = os.path.dirname(path)
    # Folders of ours go with their last file, and those for what is added to a service, which say nothing when they are
    # empty; rmdir refuses one that still holds something.
    with contextlib.suppress(OSError):
        while "openagora" in folder or folder.endswith(".service.d"):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)
            folder = os.path.dirname(folder)


def _remove(path: str) -> None:
    for one in (_temporary(path), path):
        _unlink(one)


# A command that ends like this may have done a part of its work.
_KILLED = "was killed by signal"


def _act(host: LocalHost, action: Action) -> str:
    """Carry out one action; the text says why it failed and is empty when it did not."""
    try:
        if isinstance(action, WriteFile):
            put(action.path, action.text, action.mode)
        elif isinstance(action, RemoveFile):
            _remove(action.path)
        elif isinstance(action, Command):
            outcome = host.run(action.argv, stdin=action.stdin)
            why = outcome.err.strip() or outcome.out.strip() or "no message"
            if outcome.code < 0:
                return f"{action.argv[0]} {_KILLED} {-outcome.code}: {why}"
            if outcome.code > 0:
                return f"{action.argv[0]} ended with code {outcome.code}: {why}"
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    except BackendError as error:
        return str(error)
    return ""


def carry_out(host: LocalHost, steps: t.Sequence[Step], *, begin: t.Callable[[int], str] = lambda number: "") -> None:
    """Do the steps in order, each after `begin` was told its number (from 0 on); its text says why it cannot be done.

    When one fails, undo it and those before it, the last first, and raise StepError.
    """
    for number, step in enumerate(steps):
        failure = begin(number)
        for position, action in enumerate(step.do):
            failure = failure or _act(host, action)
            if not failure:
                continue
            # An action that fails has changed nothing, unless it was killed, or was systemctl, which may have done all
            # but tell systemd: when it is the first one, its step has nothing to undo.
            unsure = _KILLED in failure or failure.startswith("systemctl ")
            begun = steps[: number + 1] if position or unsure else steps[:number]
            undos = (undo for done in reversed(begun) for undo in done.undo)
            left = [problem for problem in (_act(host, undo) for undo in undos) if problem]
            state = f"undoing it failed too: {'; '.join(left)}" if left else "everything is as it was before"
            raise StepError(f"{step.what}: {failure}; {state}", undone=not left)


@contextlib.contextmanager
def lock() -> t.Iterator[None]:
    """Hold the host's one lock for changes, so that two runs do not interleave.

    Raises StepError after a minute, and where it cannot be opened.

    What this process makes from here on, folders too, can be changed by root alone.
    """
    os.umask(0o022)
    try:
        handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"{LOCK}, which keeps two runs apart, cannot be opened: {error.strerror}; put that right first"
        raise StepError(message) from error
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"another run holds {LOCK} for over {_LOCK_SECONDS} seconds; see who: fuser {LOCK}"
                    raise StepError(message) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)
