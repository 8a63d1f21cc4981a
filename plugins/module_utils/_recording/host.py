# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of this host bears on a port plan: sockets and who holds them, kernel settings, plans, files. Impure."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import re
import typing as t
from dataclasses import dataclass

from .._backends.contract import BackendError
from .._host.local import LocalHost
from .._model.messages import Problem, RequestError
from .._model.ports import PortError, PortSet
from .kernel import FILE, listed, noted
from .plan import Bound, Plan, PlanError, View

__all__ = ["FOLDER", "Seen", "look"]

# Each plan is NAME.json here, the environment of each of its processes NAME-NUMBER.env.
FOLDER = "/etc/openagora/recording"

_FILE_OF_PLAN = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})(?:\.json|-[0-9]+\.env)")
_EXAMPLE = "agora-recording@.service"

# In the order in which a file hides one of the same name (sysctl.d(5)).
_SYSCTL_FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")

_SIZES = (
    "net.core.rmem_default",
    "net.ipv4.udp_mem",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
)


@dataclass(frozen=True)
class Seen:
    """What a plan depends on, and what has to be kept in step with it.

    `environments` are the files of the plan's processes by name, `settings` the files of sysctl.d but ours in the order
    in which they are read, `setting` is ours; `sizes` are the numbers of each sysctl that matters. `plans` are the
    names of all plans, also of those that only environments are left of, `emptied` the folders that hold nothing once
    the plan is gone, the inner one first.
    """

    view: View
    environments: dict[str, str]
    settings: tuple[tuple[str, str], ...]
    setting: str
    sizes: dict[str, list[int]]
    plans: tuple[str, ...]
    emptied: tuple[str, ...]


def look(
    name: str,
    agora: tuple[tuple[str, PortSet], ...],
    root: str = "",
    making: t.Mapping[str, dict[str, t.Any]] | None = None,
) -> Seen:
    """Look at the host. Raises RequestError for plans that cannot be read, BackendError without what the kernel tells.

    `making` are plans that count in place of those in the files, empty ones for none; `root` is where the host's /etc
    is, for tests.
    """
    host = LocalHost()
    laid_over = _made(making or {})
    plans = {one: plan for one, plan in {**_plans(host, root + FOLDER), **laid_over}.items() if plan}
    ephemeral = _numbers(host, "net.ipv4.ip_local_port_range")
    if len(ephemeral) != 2:
        raise BackendError("net.ipv4.ip_local_port_range, a sysctl, holds no two numbers here; is /proc mounted?")
    low, high = ephemeral
    setting = host.read(root + FILE) or ""
    view = View(
        bound=_bound(host),
        previous=plans.pop(name, None),
        others=tuple(plan for _name, plan in sorted(plans.items())),
        agora=agora,
        ephemeral=(low, high),
        reserved=_reserved(),
        noted=noted(setting),
    )
    environments = [file for file in _list(root + FOLDER) if file.endswith(".env") and _plan_of(file)]
    return Seen(
        view=view,
        environments={
            file: host.read(f"{root}{FOLDER}/{file}") or "" for file in environments if _plan_of(file) == name
        },
        settings=tuple(_settings(host, root)),
        setting=setting,
        sizes={name: _numbers(host, name) for name in _SIZES},
        plans=tuple(sorted({*plans, *map(_plan_of, environments), *([name] if view.previous else [])})),
        emptied=_emptied(root, {name, *laid_over} - plans.keys(), last=not plans),
    )


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _plans(host: LocalHost, folder: str) -> dict[str, Plan]:
    """All plans of the host by name."""
    plans = {}
    problems = []
    for file in _list(folder):
        name, ending = posixpath.splitext(file)
        if ending != ".json":
            continue
        path = f"{folder}/{file}"
        try:
            plans[name] = _read(name, json.loads(host.read(path) or ""))
        except ValueError as error:
            problems.append(Problem(path, f"no plan can be read from it: {error}; put it right, or remove it"))
    if problems:
        raise RequestError(problems)
    return plans


def _made(making: t.Mapping[str, t.Any]) -> dict[str, Plan | None]:
    """The plans of an option, by name; None for those that are gone."""
    plans = {}
    problems = []
    for name, data in making.items():
        try:
            plans[name] = _read(name, data) if data else None
        except PlanError as error:
            problems.append(Problem(f"making.{name}", f"{error}; give what this module returned as plan"))
    if problems:
        raise RequestError(problems)
    return plans


def _read(name: str, data: t.Any) -> Plan:
    plan = Plan.of(data)
    if plan.name != name:
        raise PlanError(f"it is plan {plan.name!r}")
    return plan


def _plan_of(file: str) -> str:
    """The name of the plan that a file of the folder is of, empty for others."""
    match = _FILE_OF_PLAN.fullmatch(file)
    return match[1] if match else ""


def _emptied(root: str, gone: t.Collection[str], *, last: bool) -> tuple[str, ...]:
    """The folders that hold nothing without the plans of these names; after the last one the example goes, too."""
    if any(_plan_of(file) not in gone and not (last and file == _EXAMPLE) for file in _list(root + FOLDER)):
        return ()
    parent, folder = posixpath.split(FOLDER)
    return (FOLDER,) if set(_list(root + parent)) - {folder} else (FOLDER, parent)


def _settings(host: LocalHost, root: str) -> t.Iterator[tuple[str, str]]:
    """The files that set sysctls at boot, but ours."""
    paths: dict[str, str] = {}
    for folder in _SYSCTL_FOLDERS:
        for file in _list(root + folder):
            if file.endswith(".conf"):
                paths.setdefault(file, f"{folder}/{file}")
    for _file, path in sorted(paths.items()):
        if path != FILE:
            yield path, host.read(root + path) or ""


def _numbers(host: LocalHost, name: str) -> list[int]:
    """The numbers that a sysctl holds; none where there is no such sysctl."""
    return [int(number) for number in (host.read(f"/proc/sys/{name.replace('.', '/')}") or "").split()]


def _reserved() -> PortSet:
    """The reserved ports; the kernel gives them to the first read alone, however long they are."""
    handle = os.open("/proc/sys/net/ipv4/ip_local_reserved_ports", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return listed(os.read(handle, 1 << 20).decode("ascii"))
    finally:
        os.close(handle)


def _bound(host: LocalHost) -> tuple[Bound, ...]:
    """The bound UDP ports of both families; proc(5) has the format."""
    sockets = []
    for path in ("/proc/net/udp", "/proc/net/udp6"):
        for line in (host.read(path) or "").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if port:
                sockets.append((port, fields[9]))
    holders = _holders({inode for _port, inode in sockets if inode != "0"})
    found = set()
    for port, inode in sockets:
        # A tunnel of the kernel's own (WireGuard, VXLAN) has a socket that no file leads to.
        nobody = "the kernel" if inode == "0" else "a process that cannot be seen from here"
        held = {_told(port, pid) for pid in holders.get(inode, [])} or {Bound(port, nobody)}
        # A child of a recorder that has inherited its socket was told nothing, and is no stranger.
        found |= {bound for bound in held if bound.told} or held
    return tuple(sorted(found, key=lambda bound: (bound.port, bound.pid)))


def _holders(inodes: set[str]) -> dict[str, list[int]]:
    """The processes that hold each of the sockets. One that ends meanwhile holds nothing."""
    holders: dict[str, list[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for file in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{file}")
                    inode = target[len("socket:[") : -1]
                    if target.startswith("socket:[") and inode in inodes:
                        holders.setdefault(inode, []).append(int(pid))
    return holders


def _told(port: int, pid: int) -> Bound:
    """The holder of a port, and the range that it was told: on its command line, else in its environment.

    --lowUdpPort and --highUdpPort are the options of Agora's own command (en/Recording/recording_cmd_cpp.md); the
    variables are those of our environment files.
    """
    words = _words(f"/proc/{pid}/cmdline")
    given = dict(word.partition("=")[::2] for word in _words(f"/proc/{pid}/environ") if "=" in word)
    bounds = []
    for option, variable in (("--lowUdpPort", "AGORA_LOW_UDP_PORT"), ("--highUdpPort", "AGORA_HIGH_UDP_PORT")):
        behind = [following for word, following in zip(words, words[1:]) if word == option]
        behind += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
        bounds.append((behind or [given.get(variable, "")])[-1])
    told = None
    with contextlib.suppress(PortError):
        told = PortSet.parse("-".join(bounds)).ranges[0]
    number = given.get("AGORA_RECORDING_PROCESS", "")
    return Bound(
        port,
        (_words(f"/proc/{pid}/comm") or ["?"])[0].strip(),
        pid,
        told,
        given.get("AGORA_RECORDING_PLAN", ""),
        int(number) if re.fullmatch(r"[0-9]{1,5}", number) else 0,
    )


def _words(path: str) -> list[str]:
    """What stands between the zero bytes of a file of /proc; nothing once the process is gone."""
    try:
        # A process may have any name, and the kernel cuts it at a byte; results are UTF-8.
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return file.read().split("\0")
    except OSError:
        return []
