# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that have loaded what they need once, and do each piece of work in a child of their own."""

from __future__ import annotations

import json
import subprocess

__all__ = ["FORKS", "ask"]

# Comes after a program that defines the function `work`. A line of its input is a piece of work.
FORKS = """
import json, os, sys, tempfile
for line in sys.stdin:
    files = [tempfile.TemporaryFile("w+") for _stream in range(3)]
    text, *arguments = json.loads(line)
    files[0].write(text)
    files[0].seek(0)
    process = os.fork()
    if not process:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        work(*arguments)
        sys.exit()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    for file in files:
        file.seek(0)
    print(json.dumps([code, *(file.read() for file in files[1:])]), flush=True)
"""


def ask(process: subprocess.Popen[str], *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Let such a process, its input and output pipes, do a piece of work, and say how the child ended."""
    assert process.stdin
    assert process.stdout
    print(json.dumps([stdin, *arguments]), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    assert answer, f"the process that was to do this has ended: {process.args!r}"
    code, out, err = json.loads(answer)
    return subprocess.CompletedProcess(arguments, code, out, err)
