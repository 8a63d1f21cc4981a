# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send a TCP segment and a UDP datagram to every port of a host, in both families. Runs on a test host, as root.

Raw sockets: a packet per port needs no socket per port, and what the sender's own kernel does with it is what the
sender's firewall decides. Prints how many packets the kernel took and how many it refused, by family and protocol.
"""

from __future__ import annotations

import argparse
import errno
import json
import socket
import struct
import time

FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16}
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}

# The receiver's queue holds a thousand packets, its kernel may share a processor with this process, and so may three
# others of this kind: both directions of both lanes.
BATCH = 200
PAUSE = 0.0002


def checksum(data: bytes) -> int:
    """The internet checksum of some bytes, not yet complemented (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def header(protocol: str, sport: int, flags: int) -> bytes:
    """A TCP or UDP header without destination port and checksum."""
    if protocol == "tcp":
        return struct.pack("!HHIIBBHHH", sport, 0, 1, 1 if flags & FLAGS["ack"] else 0, 5 << 4, flags, 64240, 0, 0)
    return struct.pack("!HHHH", sport, 0, 8, 0)


def send(target: str, protocol: str, ports: range, sport: int, flags: int) -> dict[str, int]:
    """Send a packet to each port."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    number = PROTOCOLS[protocol]
    with socket.socket(family, socket.SOCK_RAW, number) as raw:
        raw.connect((target, 0))
        packet = bytearray(header(protocol, sport, flags))
        source = socket.inet_pton(family, raw.getsockname()[0])
        pseudo = source + socket.inet_pton(family, target) + struct.pack("!HH", number, len(packet))
        base = checksum(pseudo + bytes(packet))
        at = 16 if protocol == "tcp" else 6
        counts = {"sent": 0, "refused": 0}
        for port in ports:
            total = base + port
            total = (total & 0xFFFF) + (total >> 16)
            struct.pack_into("!H", packet, 2, port)
            # A UDP checksum of zero would mean that there is none.
            struct.pack_into("!H", packet, at, ~total & 0xFFFF or 0xFFFF)
            try:
                raw.send(packet)
                counts["sent"] += 1
            except OSError as error:
                # The sender's own firewall drops it, or says what the other side's rejects.
                if error.errno not in (errno.EPERM, errno.ECONNREFUSED, errno.EACCES, errno.EHOSTUNREACH):
                    raise
                counts["refused"] += 1
            if port % BATCH == 0:
                time.sleep(PAUSE)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+", help="addresses")
    parser.add_argument("--sport", type=int, default=2, help="source port; the default is in no list of anybody")
    parser.add_argument("--flags", default="syn", help="TCP flags, such as syn,ack")
    parser.add_argument("--low", type=int, default=1)
    parser.add_argument("--high", type=int, default=65535)
    options = parser.parse_args()
    flags = sum(FLAGS[flag] for flag in options.flags.split(","))
    ports = range(options.low, options.high + 1)
    counts = {
        f"{protocol}{6 if ':' in target else 4}": send(target, protocol, ports, options.sport, flags)
        for target in options.targets
        for protocol in PROTOCOLS
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
