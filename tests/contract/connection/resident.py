# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import json
import re
import socket
import typing as t

from container import Connection as Container

DOCUMENTATION = r"""
name: resident
author: The openagora.firewall authors (@openagora)
short_description: Run tasks in a container of this machine, in children of a Python that has loaded Ansible
description:
  - As connection C(container), but for the modules. Each of them comes as a program for Python,
    which a process on the host (C(tests/contract/instruments/resident.py)) runs in a child of its own.
    Most of a module's time is what Python takes to start and to import, and that is done there already.
options:
  process:
    description: Process 1 of the container, as the machine numbers it.
    type: int
    required: true
    vars:
      - name: container_process
extends_documentation_fragment:
  - connection_pipelining
"""

PROGRAM = re.compile(r"/bin/sh -c '/usr/bin/python3 && sleep 0'")


class Connection(Container):
    """Run modules in children of the process on the host, and everything else as before."""

    transport = "resident"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        if not in_data or not PROGRAM.fullmatch(cmd):
            return super().exec_command(cmd, in_data, sudoable)
        with socket.socket(socket.AF_UNIX) as work:
            work.connect(f"/proc/{self.get_option('process')}/root/run/resident/socket")
            work.sendall(in_data)
            work.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: work.recv(65536), b""))
        code, out, err = json.loads(answer)
        return t.cast(int, code), base64.b64decode(out), base64.b64decode(err)
