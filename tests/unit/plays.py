# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays as Ansible runs them, on throwaway hosts."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

from ansible_collections.openagora.firewall.plugins.module_utils._host.local import PATH
from contract.forks import ANSIBLE, FORKS, ask
from contract.sampling import SOAK

if t.TYPE_CHECKING:
    from netns import NetnsHost

__all__ = ["Result", "Task", "call", "end", "fail", "play", "run"]

ROOT = Path(__file__).resolve().parents[2]
# Ansible, loaded once, in a process that does each run in a child within the namespaces of a host.
_LOADED = f"""{ANSIBLE}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)

def work(pid, names, folder, *arguments):
    namespaces = [os.open(f"/proc/{{pid}}/ns/{{name}}", os.O_RDONLY) for name in names]
    for namespace in namespaces:
        if libc.setns(namespace, 0):
            raise OSError(ctypes.get_errno(), "the namespaces of the host cannot be entered")
        os.close(namespace)
    os.chdir(folder)
    command("ansible-playbook", *arguments)
{FORKS}"""

# A connection whose modules run in children of the process that has loaded Ansible, and with it what most of a module's
# time goes by in: its imports. It is for roles; what a module is made of, Ansible's own way to run it shows.
_FORKED = """
DOCUMENTATION = "{name: forked, short_description: forked, author: nobody, description: forked}"

import os, sys, tempfile, traceback
from ansible.plugins.connection.local import Connection as Local

class Connection(Local):
    transport = "forked"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        if not in_data or sys.executable not in cmd:
            return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        streams = [tempfile.TemporaryFile() for _stream in range(3)]
        streams[0].write(in_data)
        streams[0].seek(0)
        process = os.fork()
        if not process:
            code = 1
            try:
                for number, stream in enumerate(streams):
                    os.dup2(stream.fileno(), number)
                sys.stdin, sys.stdout, sys.stderr = (open(number, "r" if not number else "w") for number in range(3))
                os.chdir(os.path.expanduser("~"))
                sys.argv = ["-"]
                try:
                    exec(compile(in_data, "<stdin>", "exec"), {"__name__": "__main__"})
                    code = 0
                except SystemExit as ended:
                    code = ended.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        for stream in streams:
            stream.seek(0)
        return code, streams[1].read(), streams[2].read()
"""

Result = dict[str, t.Any]
Task = dict[str, t.Any]


def call(module: str, *, check: bool = False, **options: t.Any) -> Task:
    """A task that has to succeed."""
    return {f"openagora.firewall.{module}": options, "check_mode": check}


def fail(module: str, *, interpreter: str = sys.executable, **options: t.Any) -> Task:
    """A task that has to fail."""
    return {**call(module, **options), "fails": True, "vars": {"ansible_python_interpreter": interpreter}}


def run(
    host: NetnsHost, playbook: str | list[Task], *arguments: str, succeeds: bool = True, forked: bool = False
) -> str:
    """Run tasks, or a playbook of the collection, on the host, and return what Ansible says.

    `forked`: modules need not run in a Python of their own, which takes long; in `make soak` they do.
    """
    folder = Path(host.path("/run/play"))
    folder.mkdir(exist_ok=True)
    if isinstance(playbook, str):
        file = str(ROOT / "playbooks" / playbook)
    else:
        file = "play.json"
        plays = [{"hosts": "localhost", "gather_facts": False, "tasks": playbook}]
        (folder / file).write_text(json.dumps(plays), encoding="utf-8")
    host.put("/run/play/connection_plugins/forked.py", _FORKED)
    variables = {
        "ansible_connection": "forked" if forked and not SOAK else "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
    }
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": {"localhost": variables}}}), encoding="utf-8")
    names = ["mnt", "net"] if os.geteuid() == 0 else ["user", "mnt", "net"]
    done = ask(_loaded(), host.pid, names, "/run/play", "--inventory=inventory.json", file, *arguments)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == succeeds, said
    return said


@functools.cache
def _loaded() -> subprocess.Popen[str]:
    """The process that has loaded Ansible; it ends with the tests."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_HOME": str(ROOT / ".cache" / "ansible"),
        "ANSIBLE_CONNECTION_PLUGINS": "/run/play/connection_plugins",
        # Made when Ansible is loaded, so outside of any host.
        "ANSIBLE_LOCAL_TEMP": "/tmp",
        "ANSIBLE_REMOTE_TEMP": "/run/play/tmp",
        "ANSIBLE_PIPELINING": "1",
        "LC_ALL": "C.UTF-8",
        "PATH": PATH,
    }
    command = [sys.executable, "-c", _LOADED]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/")


def end() -> None:
    """End that process, if there is one, at the end of the tests."""
    if _loaded.cache_info().currsize:
        _loaded().communicate()
        _loaded.cache_clear()


def play(host: NetnsHost, tasks: list[Task]) -> list[Result]:
    """Run tasks on the host in one play, and return their results."""
    lines = []
    for number, task in enumerate(tasks):
        name = f"result_{number}"
        expected = {"failed_when": f"{name} is not failed"} if task.pop("fails", False) else {}
        lines.append({**task, **expected, "register": name})
    names = ", ".join(line["register"] for line in lines)
    # Not in a file of the host's: to write it takes two modules.
    said = run(host, [*lines, {"ansible.builtin.debug": {"msg": f"{{{{ [{names}] | to_json }}}}"}}])
    results: list[Result] = json.loads(json.loads(re.findall(r'^    "msg": (".*")$', said, re.MULTILINE)[-1]))
    return results
