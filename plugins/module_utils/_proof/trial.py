# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a change cuts a connection, told by the kernel in a private copy of the live rules."""

from __future__ import annotations

import ipaddress
import typing as t

from .linux import apart, need_capabilities
from .network import Copy, read_network
from .probe import Flow, Probe
from .rulesets import feed, read_rules, settled

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .._host.connection import Connection

__all__ = ["cuts"]


def cuts(host: Host, connection: Connection, change: t.Callable[[], None]) -> bool:
    """Whether a connection with these ends comes about in the copy, and no more after the change is made there.

    `change` runs commands in the private namespaces; files are the host's. Raises BackendError.
    """
    need_capabilities()
    network, pieces = read_network(), settled(lambda: read_rules(host))
    interface = _interface(host, connection)

    def work() -> bool:
        copy = Copy(network)
        probe = Probe(copy, user=None)
        for piece in pieces:
            feed(host, piece)
        way = copy.lead(connection.family, connection.far, interface)
        flow = Flow(connection.family, connection.far, connection.near, way.interface)
        if not probe.answered(flow, connection.port, connection.far_port):
            return False
        change()
        return not probe.answered(flow, connection.port, connection.far_port)

    cut: bool = apart(work)
    return cut


def _interface(host: Host, connection: Connection) -> str:
    """The interface of a link-local address (proc_net(5), if_inet6), which no route tells; else empty."""
    near = ipaddress.ip_address(connection.near)
    if not (near.is_link_local and near.version == 6):
        return ""
    rows = [line.split() for line in (host.read("/proc/net/if_inet6") or "").splitlines()]
    return next((row[-1] for row in rows if row[0] == near.packed.hex()), "")
