# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that have loaded what they need once, and do each piece of work in a child of their own."""

from __future__ import annotations

import json
import signal
import subprocess

__all__ = ["ANSIBLE", "FORKS", "SECONDS_TO_END", "ask"]

# What anything that a test starts may take, even on a machine that is busy.
SECONDS_TO_END = 600

# A program that has loaded Ansible's commands. To load them, and what a play finds by name while it runs, takes several
# times as long as what they are asked for: one play with a module of ours has been run before the first question. What
# Ansible keeps of that for the life of a process is forgotten again: the command line, its variables and the vault.
ANSIBLE = """
import atexit, os, sys, warnings
from ansible.cli.adhoc import AdHocCLI
from ansible.cli.playbook import PlaybookCLI
from ansible.parsing.vault import VaultSecretsContext
from ansible.utils.context_objects import GlobalCLIArgs
from ansible.utils.path import cleanup_tmp_file
from ansible.utils.vars import load_extra_vars, load_options_vars

def command(name, *arguments):
    {"ansible": AdHocCLI, "ansible-playbook": PlaybookCLI}[name].cli_executor([name, *arguments])

def warm():
    streams = [os.dup(number) for number in range(3)]
    empty = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(empty, number)
    try:
        # The host that is there without an inventory is this one, with this Python.
        command("ansible", "localhost", "--inventory=/dev/null", "-m", "openagora.firewall.rules", "-a", "sdks=web")
    except SystemExit as ended:
        assert not ended.code, "a play on this machine fails"
    sys.stdout.flush()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.close(empty)
    GlobalCLIArgs._Singleton__instance = VaultSecretsContext._current = None
    load_extra_vars.extra_vars = load_options_vars.options_vars = None
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    # The folder of temporary files is for those that come later, too.
    atexit.unregister(cleanup_tmp_file)

warm()
"""

# Comes after a program that defines the function `work`. A line of its input is a piece of work.
FORKS = f"""
import json, os, signal, sys, tempfile
for line in sys.stdin:
    files = [tempfile.TemporaryFile("w+") for _stream in range(3)]
    text, *arguments = json.loads(line)
    files[0].write(text)
    files[0].seek(0)
    process = os.fork()
    if not process:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        signal.alarm({SECONDS_TO_END})
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
    assert code != -signal.SIGALRM, f"{arguments} is not at its end within {SECONDS_TO_END} s: {out}{err}"
    return subprocess.CompletedProcess(arguments, code, out, err)
