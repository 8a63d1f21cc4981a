# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection through which this process was started, as the kernel knows it: proc(5), proc_net(5).

Environments tell it only where nobody has changed the user: sudo takes SSH_CONNECTION away.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import struct
import typing as t
from dataclasses import dataclass

__all__ = ["Connection", "Dialled", "dialled", "find", "tunnels"]

_ESTABLISHED, _LISTEN = "01", "0A"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]\Z")


if t.TYPE_CHECKING:
    # An address and a port.
    _End = tuple[str, int]


@dataclass(frozen=True)
class Connection:
    """A TCP connection that somebody else has opened to this host; `near` is this end of it."""

    near: str
    port: int
    far: str
    far_port: int

    @property
    def family(self) -> str:
        """`ipv4` or `ipv6`."""
        return "ipv6" if ":" in self.near else "ipv4"

    @property
    def told(self) -> tuple[str, ...]:
        """What SSH_CONNECTION says of it."""
        return (self.far, str(self.far_port), self.near, str(self.port))

    def __str__(self) -> str:
        return f"from {self.far} port {self.far_port} to {self.near} port {self.port}"


@dataclass(frozen=True, order=True)
class Dialled:
    """A TCP connection that this host has opened: where its far end is, and the user (by number) who has opened it."""

    far: str
    port: int
    uid: int

    def __str__(self) -> str:
        return f"{self.far} port {self.port}"


def find() -> Connection | None:
    """The connection of the first ancestor that has one (with ssh, that is sshd).

    None where nothing of the kind is seen: a local connection, a container's, one that this host has opened itself, one
    through another network namespace or from this one, and a process that has left its parents and their environment.
    """
    connections = _connections()
    if not connections:
        return None
    ancestors = [process for process in _ancestors() if _namespace(process) == _namespace("self")]
    for process in ancestors:
        for inode in _sockets(process):
            if inode in connections:
                return connections[inode]
    told = {ends for process in ("self", *ancestors) for ends in _environment(process)}
    known = (connection for connection in connections.values() if connection.told in told)
    return next(known, None)


def dialled() -> tuple[Dialled, ...]:
    """The established connections that this host has opened to others."""
    return tuple(sorted(set(_dialled(_Table()).values())))


def tunnels() -> tuple[Dialled, ...]:
    """The connections that this host has opened and through which this process was started.

    An ancestor holds one (an agent), or a connection whose other end is held here by a process with one (`ssh -R`).
    """
    table = _Table()
    opened = _dialled(table)
    if not opened:
        return ()
    held = {inode for process in _ancestors() for inode in _sockets(process)}
    others = {
        table.ends[far, near] for (near, far), inode in table.ends.items() if inode in held and table.here(near, far)
    }
    if others:
        holders = (set(_sockets(process)) for process in filter(str.isdigit, os.listdir("/proc")))
        held.update(inode for sockets in holders if sockets & others for inode in sockets)
    return tuple(sorted({connection for inode, connection in opened.items() if inode in held}))


class _Table:
    """The TCP sockets of this network namespace: the established ones by both ends, and ports that are listened on."""

    def __init__(self) -> None:
        rows = [line.split() for name in ("tcp", "tcp6") for line in _lines(f"/proc/net/{name}")[1:]]
        established = [(_end(row[1]), _end(row[2]), row) for row in rows if row[3] == _ESTABLISHED]
        self.listening = {_end(row[1])[1] for row in rows if row[3] == _LISTEN}
        self.ends = {(near, far): row[9] for near, far, row in established}
        self.users = {row[9]: int(row[7]) for _near, _far, row in established}

    def here(self, near: _End, far: _End) -> bool:
        """Whether the other end is here too, so that it passes no interface but lo."""
        return (far, near) in self.ends


def _connections() -> dict[str, Connection]:
    """The established connections to ports on which somebody listens, by the inode of the socket."""
    table = _Table()
    return {
        inode: Connection(*near, *far)
        for (near, far), inode in table.ends.items()
        if near[1] in table.listening and not table.here(near, far)
    }


def _dialled(table: _Table) -> dict[str, Dialled]:
    """The other ones, likewise."""
    return {
        inode: Dialled(*far, table.users[inode])
        for (near, far), inode in table.ends.items()
        if near[1] not in table.listening and not table.here(near, far)
    }


def _end(text: str) -> _End:
    """An address and port, of which the kernel prints each 32 bits as a number; IPv4 in IPv6 as IPv4."""
    digits, _colon, port = text.partition(":")
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)


def _lines(path: str) -> list[str]:
    # IPv6 may be switched off, and a process may have ended.
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read().splitlines()
    return []


def _ancestors() -> t.Iterator[str]:
    """The numbers of the parent, its parent and so on, the nearest first."""
    process = str(os.getppid())
    while process != "0":
        yield process
        stat = " ".join(_lines(f"/proc/{process}/stat"))
        # The name before it may hold anything.
        process = stat.rpartition(") ")[2].split()[1] if stat else "0"


def _namespace(process: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{process}/ns/net")
    return ""


def _sockets(process: str) -> t.Iterator[str]:
    """The inodes of the sockets that a process holds, in the order of its descriptors: sshd has its own before any
    that it forwards."""
    folder = f"/proc/{process}/fd"
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder), key=int):
            with contextlib.suppress(OSError):
                found = _SOCKET.match(os.readlink(f"{folder}/{name}"))
                if found:
                    yield found[1]


def _environment(process: str) -> t.Iterator[tuple[str, ...]]:
    """What SSH_CONNECTION says in a process; of an address with its interface, the address."""
    for text in "".join(_lines(f"/proc/{process}/environ")).split("\0"):
        name, _equals, value = text.partition("=")
        if name == "SSH_CONNECTION":
            yield tuple(word.partition("%")[0] for word in value.split())
