# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of the host: real sockets of real processes, and files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._recording.host import FOLDER, look
from ansible_collections.openagora.firewall.plugins.module_utils._recording.kernel import FILE
from ansible_collections.openagora.firewall.plugins.module_utils._recording.plan import Bound, View, Wish, make_plan

# Takes a port of each family, says which, and holds them until its input ends.
_HOLDER = """
import socket, subprocess, sys
held = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
for one, address in zip(held, ("127.0.0.1", "::1")):
    one.bind((address, 0))
if "--child" in sys.argv:
    subprocess.Popen(["/bin/cat"], env={}, pass_fds=[one.fileno() for one in held])
print(*(one.getsockname()[1] for one in held), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(*arguments: str, program: str = sys.executable, **environment: str) -> t.Iterator[tuple[int, list[int]]]:
    """A process that holds a UDP port of each family: its number and the ports."""
    with subprocess.Popen(
        [program, "-c", _HOLDER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout
        yield process.pid, [int(port) for port in process.stdout.readline().split()]


def held_by(pid: int, root: Path) -> list[Bound]:
    """What a process holds."""
    return [bound for bound in look("default", (), str(root)).view.bound if bound.pid == pid]


TOLD: list[tuple[list[str], dict[str, str], tuple[tuple[int, int] | None, str, int]]] = [
    ([], {}, (None, "", 0)),
    (["--lowUdpPort", "40000", "--highUdpPort", "40007"], {}, ((40000, 40007), "", 0)),
    (["--highUdpPort=40007", "--lowUdpPort=40000"], {}, ((40000, 40007), "", 0)),
    (["--lowUdpPort", "0", "--highUdpPort", "0"], {}, (None, "", 0)),
    (["--lowUdpPort", "40000"], {}, (None, "", 0)),
    (
        [],
        {
            "AGORA_LOW_UDP_PORT": "40008",
            "AGORA_HIGH_UDP_PORT": "40015",
            "AGORA_RECORDING_PLAN": "default",
            "AGORA_RECORDING_PROCESS": "2",
        },
        ((40008, 40015), "default", 2),
    ),
    (
        ["--lowUdpPort", "1", "--highUdpPort", "2"],
        {"AGORA_LOW_UDP_PORT": "3", "AGORA_HIGH_UDP_PORT": "4"},
        ((1, 2), "", 0),
    ),
]


@pytest.mark.parametrize(("arguments", "environment", "told"), TOLD)
def test_sockets_of_both_families_are_seen_with_who_holds_them(
    tmp_path: Path,
    arguments: list[str],
    environment: dict[str, str],
    told: tuple[tuple[int, int] | None, str, int],
) -> None:
    with holder(*arguments, **environment) as (pid, ports):
        program = Path(f"/proc/{pid}/comm").read_text().strip()
        assert held_by(pid, tmp_path) == [Bound(port, program, pid, *told) for port in sorted(set(ports))]
    assert held_by(pid, tmp_path) == []


def test_a_name_that_is_cut_within_a_character_is_shown(tmp_path: Path) -> None:
    """The kernel keeps 15 bytes of it."""
    program = tmp_path / "a\u5f55\u5236\u670d\u52a1\u8fdb\u7a0b"
    program.symlink_to(sys.executable)
    with holder(program=str(program)) as (pid, ports):
        held = held_by(pid, tmp_path)
        assert {bound.port for bound in held} == set(ports)
        assert {bound.program.encode()[:13] for bound in held} == {program.name.encode()[:13]}


def test_a_child_that_has_the_sockets_of_a_recorder_is_no_stranger(tmp_path: Path) -> None:
    with holder("--child", AGORA_LOW_UDP_PORT="40000", AGORA_HIGH_UDP_PORT="40007") as (pid, ports):
        found = look("default", (), str(tmp_path)).view.bound
        assert {bound.pid for bound in found if bound.port in ports} == {pid}
    with holder("--child") as (_pid, ports):
        found = look("default", (), str(tmp_path)).view.bound
        assert len({bound.pid for bound in found if bound.port in ports}) == 2


def test_a_plan_goes_around_a_port_that_is_really_held(tmp_path: Path) -> None:
    with holder() as (pid, ports):
        low = min(ports) - 4
        view = look("default", (), str(tmp_path)).view
        planned = make_plan(Wish("default", low, low + 99, 1, "per_process"), view)
        assert not planned.plan.ports & PortSet.of(*ports)
        assert f"(process {pid})" in " ".join(conflict.holder for conflict in planned.conflicts)
        # What the plan leaves is free to bind indeed.
        for port in planned.plan.ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(("127.0.0.1", port))


def put(root: Path, path: str, text: str) -> None:
    """Write a file of the host."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_plans_and_environments_are_read(tmp_path: Path) -> None:
    plans = {}
    for name, low in (("default", 40000), ("a", 42000), ("default-1", 43000)):
        plans[name] = make_plan(Wish(name, low, low + 99, 1, "per_process"), View()).plan
        put(tmp_path, f"{FOLDER}/{name}.json", json.dumps(plans[name].data()))
        put(tmp_path, f"{FOLDER}/{name}-1.env", name)
    for foreign in ("agora-recording@.service", "default-1.env.bak"):
        put(tmp_path, f"{FOLDER}/{foreign}", "")
    seen = look("default", (), str(tmp_path))
    assert seen.view.previous == plans["default"]
    assert seen.view.others == (plans["a"], plans["default-1"])
    # Not default-1-1.env, which is of the first process of default-1.
    assert seen.environments == {"default-1.env": "default"}
    put(tmp_path, f"{FOLDER}/gone-12.env", "")
    assert look("default", (), str(tmp_path)).plans == ("a", "default", "default-1", "gone")


def test_folders_go_with_what_is_in_them(tmp_path: Path) -> None:
    plan = make_plan(Wish("default", 40000, 40099, 1, "shared"), View()).plan
    example = f"{FOLDER}/agora-recording@.service"
    for path in (f"{FOLDER}/default.json", f"{FOLDER}/other.json"):
        put(tmp_path, path, json.dumps({**plan.data(), "name": Path(path).stem}))
    for path in (f"{FOLDER}/default-1.env", example):
        put(tmp_path, path, "")
    assert look("default", (), str(tmp_path)).emptied == ()
    assert look("default", (), str(tmp_path), {"other": {}}).emptied == (FOLDER, "/etc/openagora")
    (tmp_path / FOLDER.lstrip("/") / "other.json").unlink()
    assert look("default", (), str(tmp_path)).emptied == (FOLDER, "/etc/openagora")
    (tmp_path / "etc/openagora/others").mkdir()
    assert look("default", (), str(tmp_path)).emptied == (FOLDER,)
    (tmp_path / FOLDER.lstrip("/") / "others").mkdir()
    assert look("default", (), str(tmp_path)).emptied == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}'])
def test_a_plan_that_cannot_be_read_is_an_error_that_names_its_file(tmp_path: Path, text: str) -> None:
    put(tmp_path, f"{FOLDER}/a.json", text)
    put(tmp_path, f"{FOLDER}/b.json", text)
    with pytest.raises(RequestError) as error:
        look("default", (), str(tmp_path))
    assert [problem.where for problem in error.value.problems] == [f"{tmp_path}{FOLDER}/{name}.json" for name in "ab"]


def test_a_file_with_the_name_of_another_plan_is_none(tmp_path: Path) -> None:
    put(tmp_path, f"{FOLDER}/a.json", json.dumps(make_plan(Wish("b", 40000, 41000, 1, "shared"), View()).plan.data()))
    with pytest.raises(RequestError, match="it is plan 'b'"):
        look("default", (), str(tmp_path))


def test_settings_are_read_in_the_order_of_the_boot(tmp_path: Path) -> None:
    """By name, whatever the folder; one of the same name in /etc hides the others; ours is not among them."""
    files = ["/usr/lib/sysctl.d/50-a.conf", "/etc/sysctl.d/50-a.conf", "/run/sysctl.d/10-b.conf", FILE]
    for path in [*files, "/etc/sysctl.d/README", "/usr/lib/sysctl.d/99-c.conf"]:
        put(tmp_path, path, path)
    seen = look("default", (), str(tmp_path))
    wanted = ["/run/sysctl.d/10-b.conf", "/etc/sysctl.d/50-a.conf", "/usr/lib/sysctl.d/99-c.conf"]
    assert seen.settings == tuple((path, path) for path in wanted)
    assert seen.setting == FILE


def test_the_kernel_is_asked(tmp_path: Path) -> None:
    seen = look("default", (), str(tmp_path))
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert seen.view.ephemeral == (int(low), int(high))
    text = Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text().strip()
    assert ",".join(seen.view.reserved.texts()) == text
    assert all(re.fullmatch(r"net\.[a-z0-9_.]+", name) for name in seen.sizes)
