# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Python 3.9 lacks of Linux: namespaces, mounts, and a process that leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import traceback
import typing as t

from .._backends.contract import BackendError

__all__ = ["act_as", "apart", "need_capabilities", "new_network"]

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
_PR_SET_PDEATHSIG = 1
# linux/capability.h
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}


def _call(name: str, *arguments: t.Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def new_network() -> None:
    """Move this process into a new, empty network namespace."""
    _call("unshare", _CLONE_NEWNET)


@contextlib.contextmanager
def act_as(user: int | None) -> t.Iterator[None]:
    """Make sockets that belong to a user, without giving up the right to make raw ones: setfsuid(2)."""
    libc = ctypes.CDLL(None)
    before = libc.setfsuid(ctypes.c_uint(user)) if user is not None else None
    try:
        yield
    finally:
        if before is not None:
            libc.setfsuid(ctypes.c_uint(before))


def need_capabilities() -> None:
    """Raises BackendError with every capability that is missing."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise BackendError(
            f"the proof needs namespaces of its own, and this process lacks {', '.join(missing)}; run it as root "
            "(become: true), in a container with these capabilities added"
        )


def apart(work: t.Callable[[], t.Any]) -> t.Any:
    """Do the work in a process with network, mounts and process numbers of its own; returns its result, plain data.

    Nothing of it outlives this process, however that ends: the kernel kills process 1 of the private process namespace
    when its parent dies, and with it all its processes; what they held goes with them. Raises BackendError.
    """
    reader, writer = os.pipe()
    caller = os.getpid()
    keeper = os.fork()
    if not keeper:
        os.close(reader)
        _child(writer, lambda: _keep(caller, writer, work))
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(keeper, 0)
    if not answer:
        raise BackendError("the private copy ended before it had an answer; was it killed, or is memory short?")
    kind, value = json.loads(answer)
    if kind == "error":
        raise BackendError(value)
    if kind == "defect":
        raise RuntimeError(value)
    return value


def _child(writer: int, body: t.Callable[[], t.Any]) -> t.NoReturn:
    """Run a forked process to its end; what it raises is its answer."""
    answer: tuple[str, t.Any] | None = None
    try:
        answer = body()
    except BackendError as error:
        answer = ("error", str(error))
    except OSError as error:
        answer = ("error", f"the private copy cannot be made: {error}; put that right on the host, and run this again")
    except BaseException:
        answer = ("defect", traceback.format_exc())
    finally:
        if answer:
            with open(writer, "wb") as pipe:
                pipe.write(json.dumps(answer).encode())
        os._exit(0)


def _keep(caller: int, writer: int, work: t.Callable[[], t.Any]) -> None:
    """Make the namespaces, start their process 1, and live as long as it does."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != caller:
        return
    try:
        _call("unshare", _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWPID)
    except OSError as error:
        hint = {
            errno.EPERM: "CAP_SYS_ADMIN is held and not enough: something else, such as a seccomp filter, forbids it",
            errno.ENOSPC: "the limit is reached; see the sysctls user.max_net_namespaces and user.max_pid_namespaces",
        }.get(error.errno or 0, "a kernel with network, mount and process namespaces is needed")
        raise BackendError(f"private namespaces cannot be made: {error.strerror}; {hint}") from error
    line, alive = os.pipe()
    init = os.fork()
    if not init:
        os.close(alive)
        _child(writer, lambda: _first(line, work))
    os.close(writer)
    os.close(line)
    os.waitpid(init, 0)


def _first(line: int, work: t.Callable[[], t.Any]) -> tuple[str, t.Any] | None:
    """Process 1 of the namespaces."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    # The keeper is outside and has no number here; its end of the pipe tells whether it lived until the line above.
    if select.select([line], [], [], 0)[0]:
        return None
    # iptables' lock lies in /run: the host's own is none of ours. /proc shows the private processes and settings.
    try:
        _call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)
        for kind, place in ((b"tmpfs", b"/run"), (b"proc", b"/proc")):
            _call("mount", kind, place, kind, ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC), None)
    except OSError as error:
        raise BackendError(
            f"a private /run and /proc cannot be mounted: {error.strerror}; a container that hides parts of /proc "
            "needs to show them, or to be privileged"
        ) from error
    return "done", work()
