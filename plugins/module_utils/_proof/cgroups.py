# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs on control groups, which decide about packets and sockets after all rules; bpf(2).

They belong to processes, so that the copy of a host has none. systemd makes them of IPAddressDeny=, SocketBindDeny= and
RestrictNetworkInterfaces=, systemd.resource-control(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import struct
import typing as t
from dataclasses import dataclass
from pathlib import Path

from .._model.rules import FAMILIES
from .doubt import Doubt

__all__ = ["Filters", "read_filters"]

# linux/bpf.h, enum bpf_attach_type: the places of programs that refuse a packet or a socket, as bpftool names them.
_PLACES = {
    "cgroup_inet_ingress": 0,
    "cgroup_inet_egress": 1,
    "cgroup_inet_sock_create": 2,
    "cgroup_inet4_bind": 8,
    "cgroup_inet6_bind": 9,
    "cgroup_inet4_connect": 10,
    "cgroup_inet6_connect": 11,
    "cgroup_inet4_post_bind": 12,
    "cgroup_inet6_post_bind": 13,
    "cgroup_udp4_sendmsg": 14,
    "cgroup_udp6_sendmsg": 15,
    "cgroup_udp4_recvmsg": 19,
    "cgroup_udp6_recvmsg": 20,
}
_OF_FAMILY = {"ipv4": re.compile(r"inet_|inet4|udp4"), "ipv6": re.compile(r"inet_|inet6|udp6")}
_QUERY, _EFFECTIVE = 16, 1
# The part of union bpf_attr that a query reads: directory, place, flags of the query and of the programs, the address
# of a list, its length.
_ATTRIBUTES = struct.Struct("=IIIIQIxxxx")
_COUNT = 24
# The number of bpf(2), where programs are of 64 bits.
_NUMBERS = {"aarch64": 280, "ppc64le": 361, "riscv64": 280, "s390x": 351, "x86_64": 321}
_WORD = 8
# Where systemd puts process 1.
_INIT = "/init.scope"
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Filters:
    """The programs on control groups of this host.

    `families` are those in which they may refuse what any process sends or receives, `doubts` what there is to tell;
    `meet_proof` is whether this process is under one, so that it may refuse what the proof sends.
    """

    families: frozenset[str] = frozenset()
    doubts: tuple[Doubt, ...] = ()
    meet_proof: bool = False


def read_filters() -> Filters:
    """The programs that the kernel has for processes of the network namespace that this process is in."""
    if not any(line.startswith("0::") for line in _lines("/proc/self/cgroup")):
        # The kernel's hierarchy for such programs was never mounted, so that there are none.
        return Filters()
    mount = _mount()
    if not mount:
        return _untold("no hierarchy of cgroup2 is mounted here")
    # That of a container is its process 1's.
    top, own = (_group(*mount, process) for process in ("1", "self"))
    families: set[str] = set()
    doubts = []
    try:
        meet_proof = bool(_places(own, _EFFECTIVE))
        for group in _groups(top):
            places = _places(group, _EFFECTIVE if group == top else 0)
            if not places:
                continue
            name = f"/{group.relative_to(top)}" if group != top else "/"
            rule = f"{name}: {', '.join(places)}"
            if group == top or (group.parent == top and group.suffix == ".slice"):
                doubts.append(
                    Doubt("control groups", rule, "what programs of the kernel refuse to all processes there")
                )
                families |= {key for key in FAMILIES if any(map(_OF_FAMILY[key].search, places))}
            elif _is_here(group):
                doubts.append(Doubt("one control group", rule, "what programs of the kernel refuse to its processes"))
    except OSError as error:
        return _untold(error.strerror or str(error))
    return Filters(frozenset(families), tuple(doubts), meet_proof)


def _untold(why: str) -> Filters:
    doubt = Doubt("control groups", "all programs on them", f"whether there are any: {why}")
    return Filters(doubts=(doubt,))


def _lines(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return []


def _mount() -> tuple[Path, str] | None:
    """Where the hierarchy is mounted, and which control group that is."""
    for line in reversed(_lines("/proc/self/mountinfo")):
        fields, _dash, kinds = line.partition(" - ")
        if kinds.startswith("cgroup2 "):
            root, place = (_ESCAPED.sub(lambda found: chr(int(found[1], 8)), text) for text in fields.split()[3:5])
            if Path(place, "cgroup.controllers").exists():
                return Path(place), root
    return None


def _group(mounted: Path, root: str, process: str) -> Path:
    """The control group of a process, for process 1 the one that holds all; what is mounted, if it is out of sight."""
    path = next((line[3:] for line in _lines(f"/proc/{process}/cgroup") if line.startswith("0::")), "/")
    path = path[: -len(_INIT)] if process == "1" and path.endswith(_INIT) else path
    begins = root.rstrip("/") + "/"
    group = mounted / path[len(begins) :] if path.startswith(begins) else mounted
    return group if ".." not in group.parts and group.is_dir() else mounted


def _groups(top: Path) -> t.Iterator[Path]:
    """The control groups from this one on; those that go meanwhile are left out."""
    for folder, _folders, _files in os.walk(top):
        yield Path(folder)


def _places(group: Path, flags: int) -> list[str]:
    """Where a control group has programs. Raises OSError."""
    try:
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return [name for name, place in _PLACES.items() if _count(directory, place, flags)]
    finally:
        os.close(directory)


def _count(directory: int, place: int, flags: int) -> int:
    """How many programs a control group has in a place; of one that this kernel does not know none. Raises OSError."""
    number = _NUMBERS.get(platform.machine()) if struct.calcsize("P") == _WORD else None
    if number is None:
        raise OSError(errno.ENOSYS, f"how to ask a kernel for {platform.machine()} is not known")
    attributes = ctypes.create_string_buffer(_ATTRIBUTES.pack(directory, place, flags, 0, 0, 0), _ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), _QUERY, attributes, _ATTRIBUTES.size) == 0:
        (count,) = struct.unpack_from("=I", attributes, _COUNT)
        return int(count)
    code = ctypes.get_errno()
    # A kernel without such programs, or without this place for them; a group that has gone.
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.ENOENT):
        return 0
    raise OSError(code, os.strerror(code))


def _is_here(group: Path) -> bool:
    """Whether it is about this host: processes that all have another network are those of containers."""
    here = os.stat("/proc/self/ns/net").st_ino
    networks = set()
    for inner in _groups(group):
        for number in _lines(str(inner / "cgroup.procs")):
            with contextlib.suppress(OSError):
                networks.add(os.stat(f"/proc/{number}/ns/net").st_ino)
    return not networks or here in networks
