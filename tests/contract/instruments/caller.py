# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open TCP connections without a pause, and count those that fail. Runs on a test host.

`caller.py serve PORT` takes them, `caller.py call PORT FILE ADDRESS ...` makes them, to each address in turn. With
`--server` they are to a name in place of addresses: it asks that server, by turns for A and AAAA. Both are started by
`systemd-run --service-type=notify` and ended by `systemctl stop`; the caller writes its counts into the file then, and
the milliseconds that the longest one took. One that takes longer than `--patience` has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import socket
import time

import resolve

# One retransmission of a SYN comes after a second: a connection that needs it counts as failed.
PATIENCE = 0.9
# Connections a second, as long as they come about that fast; many more, and other processes starve on a small machine.
RATE = 250


def ready() -> None:
    """Tell systemd that this runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1")


def serve(port: int) -> None:
    """Take connections and end them."""
    # A queue that is full would drop a SYN, as a firewall does.
    pathlib.Path("/proc/sys/net/core/somaxconn").write_text("65535", encoding="utf-8")
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=65535) as server:
        ready()
        while True:
            server.accept()[0].close()


def connects(address: str, port: int, patience: float = PATIENCE) -> str:
    """Why no connection comes about, empty when one does."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(patience)
        try:
            client.connect((address, port))
        except OSError as error:
            return f"{address}: {error!r}"
    return ""


def connects_by_name(server: str, name: str, kind: str, port: int) -> str:
    """The same for the first address that the server has for the name."""
    code, addresses = resolve.ask(server, name, kind, tcp=False, wait=2)
    return connects(addresses[0], port) if addresses else f"{name} {kind}: {code}"


def call(port: int, file: str, targets: list[str], server: str, patience: float) -> None:
    """Connect until somebody stops it."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    ready()
    total, failures, longest, begin = 0, [], 0.0, time.monotonic()
    while not stopped:
        start = time.monotonic()
        if server:
            why = connects_by_name(server, targets[0], ("A", "AAAA")[total % 2], port)
        else:
            why = connects(targets[total % len(targets)], port, patience)
        longest = max(longest, time.monotonic() - start)
        total += 1
        time.sleep(max(0.0, begin + total / RATE - time.monotonic()))
        failures += [f"after {time.monotonic() - begin:.1f} seconds: {why}"] if why else []
    seconds = round(time.monotonic() - begin, 1)
    counts = {"total": total, "seconds": seconds, "longest": round(longest * 1000), "failures": failures}
    pathlib.Path(file).write_text(json.dumps(counts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers(dest="action", required=True)
    taking = actions.add_parser("serve")
    taking.add_argument("port", type=int)
    making = actions.add_parser("call")
    making.add_argument("port", type=int)
    making.add_argument("file")
    making.add_argument("targets", nargs="+")
    making.add_argument("--server", default="")
    making.add_argument("--patience", type=float, default=PATIENCE)
    options = parser.parse_args()
    if options.action == "serve":
        serve(options.port)
    else:
        call(options.port, options.file, options.targets, options.server, options.patience)


if __name__ == "__main__":
    main()
