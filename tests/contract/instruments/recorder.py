# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand in for Agora's recorder_local: hold the first four UDP ports that are free in the range that one is told.

It takes the options of that command and answers every datagram with its own number, which the environment has. Runs on
a test host, as a unit of type notify. `recorder.py ask LOW HIGH ADDRESS ...` is the other side: it sends to every port
of a range and prints, for each address, who answered on which port.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import sys
import time

# What Agora says of one process ("Firewall Requirements").
PORTS = 4

# Between two packets of the other side, for hundreds of processes wake up for them; and after the last one.
PAUSE = 0.001
PATIENCE = 2


def hold(low: int, high: int) -> list[socket.socket]:
    """Bind the ports, in both families."""
    held: list[socket.socket] = []
    for port in range(low, high + 1):
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            receiver.bind(("::", port))
        except OSError:
            receiver.close()
            continue
        held.append(receiver)
        if len(held) == PORTS:
            return held
    sys.exit(f"fewer than {PORTS} ports are free in {low}-{high}")


def record(low: int, high: int) -> None:
    """Answer what comes until somebody stops it."""
    held = hold(low, high)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1")
    number = os.environ["AGORA_RECORDING_PROCESS"].encode()
    while True:
        for receiver in select.select(held, [], [])[0]:
            receiver.sendto(number, receiver.recvfrom(2048)[1])


def ask(low: int, high: int, addresses: list[str]) -> dict[str, dict[int, int]]:
    """The number of the process that answers on each port, by address."""
    found: dict[str, dict[int, int]] = {}
    for address in addresses:
        answers = found[address] = {}
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            for port in range(low, high + 1):
                sender.sendto(b"x", (address, port))
                time.sleep(PAUSE)
            sender.settimeout(PATIENCE)
            with contextlib.suppress(TimeoutError):
                while True:
                    data, peer = sender.recvfrom(2048)
                    answers[peer[1]] = int(data)
    return found


def main() -> None:
    if sys.argv[1] == "ask":
        low, high = map(int, sys.argv[2:4])
        print(json.dumps(ask(low, high, sys.argv[4:])))
        return
    parser = argparse.ArgumentParser()
    for name in ("appId", "channel", "uid", "appliteDir"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("lowUdpPort", "highUdpPort"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    record(options.lowUdpPort, options.highUdpPort)


if __name__ == "__main__":
    main()
