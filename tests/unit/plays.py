# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays as Ansible runs them, on throwaway hosts."""

from __future__ import annotations

import json
import sys
import typing as t
from pathlib import Path

if t.TYPE_CHECKING:
    from netns import NetnsHost

__all__ = ["Result", "Task", "call", "fail", "play", "run"]

ROOT = Path(__file__).resolve().parents[2]
Result = dict[str, t.Any]
Task = dict[str, t.Any]


def call(module: str, *, check: bool = False, **options: t.Any) -> Task:
    """A task that has to succeed."""
    return {f"openagora.firewall.{module}": options, "check_mode": check}


def fail(module: str, *, interpreter: str = sys.executable, **options: t.Any) -> Task:
    """A task that has to fail."""
    return {**call(module, **options), "fails": True, "vars": {"ansible_python_interpreter": interpreter}}


def run(host: NetnsHost, playbook: str | list[Task], *arguments: str, succeeds: bool = True) -> str:
    """Run tasks, or a playbook of the collection, on the host, and return what Ansible says."""
    folder = Path(host.path("/run/play"))
    folder.mkdir(exist_ok=True)
    if isinstance(playbook, str):
        file = str(ROOT / "playbooks" / playbook)
    else:
        file = "play.json"
        plays = [{"hosts": "localhost", "gather_facts": False, "tasks": playbook}]
        (folder / file).write_text(json.dumps(plays), encoding="utf-8")
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": {"localhost": variables}}}), encoding="utf-8")
    environment = [
        f"ANSIBLE_COLLECTIONS_PATH={ROOT / 'collections'}",
        "ANSIBLE_HOME=/run/play",
        "ANSIBLE_REMOTE_TEMP=/run/play/tmp",
        "ANSIBLE_PIPELINING=1",
        "LC_ALL=C.UTF-8",
    ]
    command = [sys.executable, "-m", "ansible", "playbook", "--inventory=inventory.json", file, *arguments]
    done = host.run(["env", "--chdir=/run/play", *environment, *command])
    assert (done.code == 0) == succeeds, done.out + done.err
    return done.out + done.err


def play(host: NetnsHost, tasks: list[Task]) -> list[Result]:
    """Run tasks on the host in one play, and return their results."""
    lines = []
    for number, task in enumerate(tasks):
        name = f"result_{number}"
        expected = {"failed_when": f"{name} is not failed"} if task.pop("fails", False) else {}
        lines.append({**task, **expected, "register": name})
    names = ", ".join(line["register"] for line in lines)
    keep = {"content": f"{{{{ [{names}] | to_json }}}}", "dest": "/run/play/results.json", "mode": "0644"}
    run(host, [*lines, {"ansible.builtin.copy": keep}])
    return json.loads(Path(host.path("/run/play/results.json")).read_text(encoding="utf-8"))
