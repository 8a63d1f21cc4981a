# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run Ansible's modules in children of a process that has imported what they need.

Ends at once, and leaves the process on the host. A connection to its socket is a module, as the program that Ansible
sends to Python; the answer is its exit code and its outputs, base64, in a list of JSON. Ansible's code and the
collection lie in the folder of the socket.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import socket
import sys
import tempfile
import traceback

FOLDER = "/run/resident"
COLLECTION = "ansible_collections.openagora.firewall.plugins.module_utils"


def load() -> None:
    """Import what modules import."""
    sys.path.insert(0, FOLDER)
    importlib.import_module("ansible.module_utils.basic")
    importlib.import_module("ansible.module_utils._internal._ansiballz._loader")
    for name in ("_apply", "_front", "_lockout", "_host.rollback", "_proof.prove"):
        importlib.import_module(f"{COLLECTION}.{name}")


def run(program: bytes) -> int:
    """Run a module as Python runs what it reads; returns its exit code."""
    for number, mode in enumerate("rww"):
        setattr(sys, ("stdin", "stdout", "stderr")[number], open(number, mode))  # noqa: SIM115 # they stay open
    sys.argv = ["-"]
    code: object = 0
    try:
        exec(compile(program, "<stdin>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def serve(work: socket.socket) -> None:
    """Read a module, let a child run it, and answer."""
    program = b"".join(iter(lambda: work.recv(65536), b""))
    streams = [tempfile.TemporaryFile() for _stream in range(3)]  # noqa: SIM115 # a child has them too
    child = os.fork()
    if not child:
        work.close()
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        os._exit(run(program))
    status = os.waitpid(child, 0)[1]
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    for stream in streams:
        stream.seek(0)
    outputs = [base64.b64encode(stream.read()).decode() for stream in streams[1:]]
    work.sendall(json.dumps([code, *outputs]).encode())


def main() -> None:
    """Leave the process behind that waits for work."""
    load()
    listener = socket.socket(socket.AF_UNIX)
    path = f"{FOLDER}/socket"
    if os.path.exists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen()
    if os.fork():
        return
    os.setsid()
    empty = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(empty, number)
    while True:
        work, _address = listener.accept()
        if not os.fork():
            listener.close()
            serve(work)
            os._exit(0)
        work.close()
        # Those that have ended.
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


if __name__ == "__main__":
    main()
