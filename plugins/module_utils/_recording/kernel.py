# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel has to know for a recording host: ports that it hands to nobody, and sizes. Pure."""

from __future__ import annotations

import posixpath
import re
import typing as t
from dataclasses import dataclass

from .._model.messages import Notice
from .._model.ports import LOWEST, PortSet
from .plan import PORTS_PER_PROCESS

if t.TYPE_CHECKING:
    from .plan import Plan, View

__all__ = ["FILE", "HEADER", "KEY", "Reservation", "Size", "listed", "noted", "reserve", "sizes"]

# The kernel leaves these ports out where it chooses one itself, connect() or bind() with port 0, for UDP and TCP of
# both families; a program that names one gets it all the same (Documentation/networking/ip-sysctl.rst).
KEY = "net.ipv4.ip_local_reserved_ports"

# Files are read in the order of their names, and the last one that sets a key counts (sysctl.d(5)): this one comes
# after all that begin with a number.
FILE = "/etc/sysctl.d/openagora-recording.conf"

HEADER = "# Written by the Ansible collection openagora.firewall; its next run puts right what is changed here.\n"

# Whose the ports of the file are: a run that ends early may have changed a plan, and not yet what is reserved.
_NOTE = "# Reserved for recording alone: "
_NOTED = re.compile(f"^{_NOTE}(.+)$", re.MULTILINE)

_SETTING = re.compile(r"^[ \t]*-?[ \t]*net[./]ipv4[./]ip_local_reserved_ports[ \t]*=(.*)$", re.MULTILINE)

# Agora publishes no sizes. These hold a stream of 8 Mbit/s, more than its highest video profiles send, while a process
# does not get to read for 100 ms; the kernel charges about twice what a packet carries.
_STREAM_BYTES = 8_000_000 // 8 // 10 * 2


@dataclass(frozen=True)
class Reservation:
    """What should be reserved now, and what the file of ours should say ("": there should be none).

    `overridden`: a file that is read later takes some of it back at boot.
    """

    live: PortSet
    text: str
    overridden: bool
    notices: tuple[Notice, ...]


def reserve(plans: t.Iterable[Plan], view: View, settings: t.Sequence[tuple[str, str]]) -> Reservation:
    """Reserve the ranges of all plans besides what others have reserved.

    `settings` are the files of sysctl.d but ours, path and text, in the order in which they are read.
    """
    ranges, ours, boot = PortSet(), PortSet(), PortSet()
    for plan in plans:
        ranges |= plan.range
        ours |= plan.reserves
    notices = []
    last = ""
    for path, text in settings:
        values = _SETTING.findall(text)
        if values:
            last = path
            try:
                boot = listed(values[-1])
            except ValueError:
                boot = PortSet()
                message = f"sets {KEY} to {values[-1].strip()!r}, which the kernel does not take; put it right"
                notices += [Notice("unread", path, message)] if ranges else []
    overridden = posixpath.basename(last) > posixpath.basename(FILE) and bool(ranges - boot)
    if overridden:
        message = f"is read after {FILE} and sets {KEY} too, so that ours is lost at boot; move it before, or out"
        notices.append(Notice("overridden", last, message))
    text = f"{HEADER}{_NOTE}{ours}\n{KEY} = {','.join((boot | ranges).texts())}\n" if ranges else ""
    # What others have set at boot since a plan reserved it is theirs, too.
    return Reservation(view.foreign | (boot & view.reserved) | ranges, text, overridden, tuple(notices))


def noted(text: str) -> PortSet:
    """What the file of ours says that is reserved for us alone."""
    found = _NOTED.search(text)
    try:
        return listed(found[1]) if found else PortSet()
    except ValueError:
        return PortSet()


def listed(text: str) -> PortSet:
    """A list of ports as the kernel takes and gives it, where port 0 means nothing. Raises ValueError."""
    ranges = []
    for item in filter(None, map(str.strip, text.split(","))):
        low, _dash, high = item.partition("-")
        ranges.append((int(low), int(high or low)))
    return PortSet.of(*((max(low, LOWEST), high) for low, high in ranges if high))


@dataclass(frozen=True)
class Size:
    """A limit of the kernel: what it is (None: it does not apply on this host), and what it should be at least."""

    name: str
    value: int | None
    needed: int
    why: str

    @property
    def enough(self) -> bool:
        """Whether it will do."""
        return self.value is None or self.value >= self.needed

    def data(self) -> dict[str, t.Any]:
        """The form in which the module returns it."""
        return {
            "name": self.name,
            "value": self.value,
            "needed": self.needed,
            "enough": self.enough,
            "why": self.why,
        }


def sizes(processes: int, values: t.Mapping[str, t.Sequence[int]], page: int) -> tuple[Size, ...]:
    """Check the limits of a host with so many recording processes.

    `values` are the numbers of each sysctl by its name, empty where the host has none; `page` is the size of a page of
    memory, in which udp_mem counts. Its first number is the one that limits UDP (ip-sysctl.rst since Linux 5.16).
    """

    def first(name: str) -> int | None:
        return values[name][0] if values[name] else None

    ports = processes * PORTS_PER_PROCESS
    buffer = max(first("net.core.rmem_default") or 0, _STREAM_BYTES)
    tracked = first("net.netfilter.nf_conntrack_count") or 0
    return (
        Size(
            "net.core.rmem_default",
            first("net.core.rmem_default"),
            _STREAM_BYTES,
            "bytes that a socket holds until the process reads them: 100 ms of a stream of 8 Mbit/s",
        ),
        Size(
            "net.ipv4.udp_mem",
            first("net.ipv4.udp_mem"),
            -(-ports * buffer // page),
            f"pages for all UDP sockets together: {ports} ports whose buffers are full",
        ),
        Size(
            "net.netfilter.nf_conntrack_max",
            first("net.netfilter.nf_conntrack_max"),
            tracked + 2 * ports,
            f"connections that the firewall tracks: {tracked} now, and {ports} ports twice, because a stream that "
            "ended is remembered while the next one runs",
        ),
    )
