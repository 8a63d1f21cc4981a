# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a DNS server for names, and print what comes back as JSON. Runs on a test host.

For each NAME or NAME/TYPE the answer's code and addresses, sorted; `silence` when none comes, `closed` when nobody is
there.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import socket
import struct
import typing as t

CODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
TYPES = {"A": 1, "PTR": 12, "AAAA": 28}


def after_name(message: bytes, at: int) -> int:
    """Where a name in a message ends."""
    while message[at] and message[at] < 0xC0:
        at += 1 + message[at]
    return at + (2 if message[at] else 1)


def parse(message: bytes) -> tuple[str, list[str]]:
    """The code and the addresses of an answer."""
    _id, flags, questions, answers = struct.unpack_from("!HHHH", message)
    at = 12
    for _question in range(questions):
        at = after_name(message, at) + 4
    found = []
    for _answer in range(answers):
        at = after_name(message, at)
        kind, _class, _ttl, length = struct.unpack_from("!HHIH", message, at)
        data = message[at + 10 : at + 10 + length]
        at += 10 + length
        if kind in (TYPES["A"], TYPES["AAAA"]):
            found.append(str(ipaddress.ip_address(data)))
        elif kind == TYPES["PTR"]:
            found.append("PTR")
    return ("TRUNCATED" if flags & 0x200 else CODES[flags & 15]), sorted(found)


def received(sock: socket.socket, count: int) -> bytes:
    """So many bytes of a stream."""
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def ask(server: str, name: str, kind: str, *, tcp: bool, wait: float) -> tuple[str, list[str]]:
    """The answer to one question."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", TYPES[kind], 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(wait)
        try:
            sock.connect((server, 53))
            sock.send(struct.pack("!H", len(question)) + question if tcp else question)
            answer = received(sock, struct.unpack("!H", received(sock, 2))[0]) if tcp else sock.recv(4096)
        except socket.timeout:
            return "silence", []
        except OSError:
            return "closed", []
    return parse(answer)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--wait", type=float, default=3)
    options = parser.parse_args()
    result: dict[str, t.Any] = {}
    for text in options.names:
        name, _slash, kind = text.partition("/")
        result[text] = ask(options.server, name, kind or "A", tcp=options.tcp, wait=options.wait)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
