# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connect sockets that leave their port to the kernel, and count those that are given one of a range. On a test host.

`outgoing.py COUNT LOW HIGH` connects COUNT sockets of each protocol and family, one after the other, within the host.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

ADDRESSES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

# Ended at once, so that no port is left waiting.
RESET = struct.pack("ii", 1, 0)


def given(kind: socket.SocketKind, family: socket.AddressFamily, count: int) -> list[int]:
    """The ports that so many sockets get."""
    ports = []
    with socket.socket(family, kind) as peer:
        peer.bind((ADDRESSES[family], 0))
        if kind == socket.SOCK_STREAM:
            peer.listen()
        for _number in range(count):
            with socket.socket(family, kind) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.connect(peer.getsockname())
                ports.append(one.getsockname()[1])
                if kind == socket.SOCK_STREAM:
                    peer.accept()[0].close()
    return ports


def main() -> None:
    count, low, high = map(int, sys.argv[1:])
    found = {
        f"{name}{digit}": sum(low <= port <= high for port in given(kind, family, count))
        for name, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM))
        for digit, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
