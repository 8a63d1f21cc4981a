# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that run the tests: one run for each checkout, hosts of its own, and a word where one does not come."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import hosts
import pytest

TOOLS = Path(hosts.__file__).parent

# Starts what leaves its parent, its session and its process group, and says so.
RUN = """
import signal, subprocess, sys
from alone import alone
# These tests may run where they are ignored.
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
with alone():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(child.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has nothing but what keeps runs apart."""
    tools = tmp_path / "tests" / "tools"
    tools.mkdir(parents=True)
    shutil.copy(TOOLS / "alone.py", tools)
    return tmp_path


@contextlib.contextmanager
def run(checkout: Path) -> t.Iterator[subprocess.Popen[str]]:
    """A run of the tests in a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "tests" / "tools"), "TEST_RUN_OF": ""}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", RUN], env=environment, text=True, **pipes) as process:
        yield process


def started(process: subprocess.Popen[str]) -> int:
    """The process that a run has started; 0 where it has started none."""
    assert process.stdout
    return int(process.stdout.readline() or 0)


def is_there(process: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(process: int) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + 10
    while is_there(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_there(process)


class TestAlone:
    def test_there_is_one_run_in_a_checkout(self, checkout: Path) -> None:
        with run(checkout) as first:
            child = started(first)
            with run(checkout) as second:
                out, err = second.communicate()
            assert (second.returncode, out) == (1, "")
            assert err == (
                f"Another run of the tests is at work in this checkout: process {first.pid}. End it first.\n"
            )
            assert is_there(child)
            first.communicate("\n")
        assert first.returncode == 0
        assert ends(child)

    def test_another_checkout_has_a_run_of_its_own(
        self, checkout: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        other = shutil.copytree(checkout, tmp_path_factory.mktemp("other"), dirs_exist_ok=True)
        with run(checkout) as first, run(other) as second:
            children = started(first), started(second)
            second.communicate("\n")
            assert (second.returncode, ends(children[1]), is_there(children[0])) == (0, True, True)
            first.communicate("\n")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_run_that_is_interrupted_ends_what_it_has_started(self, checkout: Path, number: signal.Signals) -> None:
        with run(checkout) as process:
            child = started(process)
            process.send_signal(number)
        assert process.returncode == 128 + number
        assert ends(child)

    def test_what_a_killed_run_has_left_is_ended_by_the_next(self, checkout: Path) -> None:
        with run(checkout) as process:
            left = started(process)
            process.kill()
        assert is_there(left)
        with run(checkout) as process:
            child = started(process)
            assert ends(left)
            assert is_there(child)
            process.communicate("\n")


PLENTY = hosts.Room(1000, 2**30, 10**6)


class TestHosts:
    def test_names_and_subnets_are_those_of_the_checkout(self) -> None:
        for network in hosts.NETWORKS:
            assert hosts.CHECKOUT in network.name
            assert hosts.CHECKOUT in network.ipv6
            # IFNAMSIZ is 16 with the zero, and the other end has a letter more.
            assert hosts.CHECKOUT in network.cable
            assert len(f"{network.cable}e") < 16
        found = [container.name for scenario in hosts.SCENARIOS for container in hosts.needed(scenario)]
        assert all(hosts.CHECKOUT in name for name in found)

    def test_the_scarcest_thing_decides_for_how_many_hosts_there_is_room(self) -> None:
        one = hosts.Room(hosts.INOTIFY_INSTANCES, hosts.MEMORY_KIB, hosts.OPEN_FILES)
        assert one.hosts() == 1
        assert hosts.Room(10 * hosts.INOTIFY_INSTANCES, 3 * hosts.MEMORY_KIB, 5 * hosts.OPEN_FILES).hosts() == 3
        assert hosts.Room(hosts.INOTIFY_INSTANCES - 1, 2**30, 10**6).hosts() == 0

    def test_where_there_is_no_room_no_host_is_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hosts.Room, "now", lambda: hosts.Room(9, 2**20, 10**6))
        monkeypatch.setattr(hosts, "ours", dict)
        monkeypatch.setattr(hosts, "lay", lambda _network: None)
        monkeypatch.setattr(hosts, "podman", lambda *_words, **_options: pytest.fail("podman was asked"))
        with pytest.raises(hosts.HostsError) as error:
            hosts.up("nftables")
        assert "there is no room for test host" in str(error.value)
        assert "the machine has 9 inotify instances (fs.inotify.max_user_instances), 1024 MiB" in str(error.value)

    @pytest.mark.parametrize(
        ("state", "limit"), [("exited", 60), ("stopped", 60), ("initialized", 0.2), ("running", 0.2)]
    )
    def test_a_host_that_does_not_start_is_told_with_its_log(
        self, monkeypatch: pytest.MonkeyPatch, state: str, limit: float
    ) -> None:
        """One that has ended is not waited for."""
        if state in ("exited", "stopped"):
            monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("it is waited for"))
        monkeypatch.setattr(hosts, "SECONDS_TO_START", limit)
        monkeypatch.setattr(hosts, "podman", lambda *_words, **_options: f"{state} 0\n")
        monkeypatch.setattr(hosts, "said", lambda argv: f"said by {argv[0 if argv[0] == 'podman' else 5]}")
        monkeypatch.setattr(hosts.Room, "now", lambda: PLENTY)
        with pytest.raises(hosts.HostsError) as error:
            hosts.started("far-1")
        text = str(error.value)
        assert f"test host far-1 has not started all its services within {limit} s: its container is {state}" in text
        assert "said by podman" in text
        assert ("said by journalctl" in text) == (state == "running")

    def test_a_command_of_podman_that_does_not_end_is_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "podman").write_text("#!/bin/sh\necho waits for a lock >&2\nexec sleep 60\n", encoding="ascii")
        (tmp_path / "podman").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(hosts, "SECONDS_FOR_A_COMMAND", 0.5)
        with pytest.raises(hosts.HostsError, match=r"^podman ps has not ended within 0.5 s: .*waits for a lock"):
            hosts.podman("ps")
