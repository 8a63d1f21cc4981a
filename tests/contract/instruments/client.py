# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to the ports of a host as an SDK would: real connections and datagrams, and answers. Runs on a test host.

`exchange` says by family and protocol which ports answered; `errors` says what a connected socket was told about one
port: the errno of its datagram, and the MTU of the path that it knows then.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import time
import typing as t

# Of linux/in.h and linux/in6.h; Python does not name them.
MTU = {socket.AF_INET: (socket.IPPROTO_IP, 10, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 24)}
DISCOVER_ALWAYS = 2

MARK = b"echo:"


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ports_of(text: str) -> list[int]:
    """The ports of `80,5668-5669`."""
    ports: list[int] = []
    for item in filter(None, text.split(",")):
        low, _dash, high = item.partition("-")
        ports += range(int(low), int(high or low) + 1)
    return ports


def ranges(ports: t.Iterable[int]) -> list[list[int]]:
    """Ports as sorted ranges."""
    found: list[list[int]] = []
    for port in sorted(ports):
        if found and found[-1][1] == port - 1:
            found[-1][1] = port
        else:
            found.append([port, port])
    return found


def udp(address: str, ports: list[int]) -> set[int]:
    """The ports that answer a datagram. One socket that is not connected: an ICMP error does not end it."""
    answered: set[int] = set()
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for wait in (0.1, 0.3, 0.6):
            missing = [port for port in ports if port not in answered]
            silent = 0
            for start in range(0, len(missing), 64):
                batch = missing[start : start + 64]
                before = len(answered)
                for port in batch:
                    try:
                        client.sendto(str(port).encode(), (address, port))
                    except PermissionError:
                        # This host's own firewall drops it.
                        continue
                listen(client, answered, before + len(batch), wait)
                silent = silent + 1 if len(answered) == before else 0
                if silent == 5:
                    # Nobody answers there; the next ports will not either, and they are many.
                    break
    return answered


def listen(client: socket.socket, answered: set[int], enough: int, wait: float) -> None:
    """Take answers until there are enough, or none has come for a while."""
    client.settimeout(wait)
    while len(answered) < enough:
        try:
            data, peer = client.recvfrom(2048)
        except socket.timeout:
            return
        if data == MARK + str(peer[1]).encode():
            answered.add(peer[1])


def tcp(address: str, ports: list[int]) -> set[int]:
    """The ports over which a connection is made and an answer comes."""
    answered: set[int] = set()
    for start in range(0, len(ports), 500):
        answered |= tcp_batch(address, ports[start : start + 500])
    return answered


def tcp_batch(address: str, ports: list[int]) -> set[int]:
    """The same, for as many connections as may be open at once."""
    answered: set[int] = set()
    with selectors.DefaultSelector() as selector:
        for port in ports:
            client = socket.socket(family_of(address), socket.SOCK_STREAM)
            client.setblocking(False)
            client.connect_ex((address, port))
            selector.register(client, selectors.EVENT_WRITE, port)
        deadline = time.monotonic() + 5
        while selector.get_map() and time.monotonic() < deadline:
            for key, events in selector.select(timeout=0.2):
                client = t.cast(socket.socket, key.fileobj)
                text = str(key.data).encode()
                try:
                    if events & selectors.EVENT_WRITE:
                        client.send(text)
                        selector.modify(client, selectors.EVENT_READ, key.data)
                        continue
                    if client.recv(2048) == text:
                        answered.add(key.data)
                except OSError:
                    # Refused, or reset: no answer.
                    pass
                selector.unregister(client)
                client.close()
        for key in list(selector.get_map().values()):
            t.cast(socket.socket, key.fileobj).close()
    return answered


def told(address: str, port: int) -> dict[str, int | None]:
    """The errno and the path's MTU that a connected UDP socket is told after a datagram."""
    family = family_of(address)
    level, discover, mtu = MTU[family]
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setsockopt(level, discover, DISCOVER_ALWAYS)
        client.connect((address, port))
        client.settimeout(1)
        error = None
        try:
            client.send(b"x" * 1400)
            client.recv(2048)
        except socket.timeout:
            pass
        except OSError as problem:
            error = problem.errno
        # A second error, about the same datagram, may follow the first.
        time.sleep(0.2)
        return {"errno": error, "mtu": client.getsockopt(level, mtu)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("exchange", "errors"))
    parser.add_argument("targets", nargs="+", help="addresses")
    parser.add_argument("--tcp", type=ports_of, default=[])
    parser.add_argument("--udp", type=ports_of, default=[])
    options = parser.parse_args()
    result: dict[str, t.Any] = {}
    for target in options.targets:
        suffix = "6" if ":" in target else "4"
        if options.action == "exchange":
            result["tcp" + suffix] = ranges(tcp(target, options.tcp))
            result["udp" + suffix] = ranges(udp(target, options.udp))
        else:
            result["udp" + suffix] = [told(target, port) for port in options.udp]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
