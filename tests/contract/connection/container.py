# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import shlex
import subprocess

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = r"""
name: container
author: The openagora.firewall authors (@openagora)
short_description: Run tasks in a container of this machine, with pipelining
description:
  - Enters the namespaces of a container. C(podman exec), which takes twenty times as long, would add the same large
    amount to everything that is compared; and the connection plugins for podman cannot pipeline.
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

SECONDS_TO_END = 600


class Connection(ConnectionBase):
    """Run commands as root in a container."""

    transport = "container"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        argv = ["nsenter", "--target", str(self.get_option("process")), "--all", "--", "/bin/sh", "-c", cmd]
        try:
            done = subprocess.run(argv, input=in_data or b"", capture_output=True, timeout=SECONDS_TO_END, check=False)
        except subprocess.TimeoutExpired as late:
            raise AnsibleError(f"{cmd} has not ended within {SECONDS_TO_END} s: {late.stderr!r}") from None
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        code, _out, err = self.exec_command(f"cat >{shlex.quote(out_path)}", pathlib.Path(in_path).read_bytes())
        if code:
            raise AnsibleError(f"{in_path} cannot be copied to {out_path}: {err.decode()}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        raise AnsibleError(f"{in_path} was to be fetched: neither tests nor benchmarks do that")

    def close(self) -> None:
        self._connected = False
