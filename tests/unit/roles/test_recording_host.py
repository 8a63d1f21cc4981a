# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role recording_host and its playbooks on throwaway hosts, with processes that hold ports as recorders do."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import plays
import pytest
from netns import NFTABLES, NetnsHost
from plays import Task, call, play

# Of a module that shares a process with Ansible the warnings are not told: where a test is about them it is run apart.
run = functools.partial(plays.run, forked=True)

FOLDER = "/etc/openagora/recording"
FILE = "/etc/sysctl.d/openagora-recording.conf"
RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"
OTHERS = "net.ipv4.ip_local_reserved_ports = 40500,50000\n"

# Binds four UDP ports of the range that it was told, in both families, as a process of Agora's SDK does.
_RECORDER = """
import os, socket, sys
low, high = (int(os.environ[f"AGORA_{end}_UDP_PORT"]) for end in ("LOW", "HIGH"))
held = []
for port in range(low, high + 1):
    try:
        for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
            one = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address, port))
            held.append(one)
    except OSError:
        continue
    if len(held) == 8:
        break
ports = " ".join(str(one.getsockname()[1]) for one in held)
open(f"/run/ready-{os.environ['AGORA_RECORDING_PROCESS']}", "w").write(ports)
sys.stdin.read()
"""

# As systemd does: the file's variables are the environment of the process.
_START = f"""
exec 3<&0
for file in {FOLDER}/"$1"-*.env; do
    (set -a; . "$file"; exec {sys.executable} -I /run/recorder.py <&3) &
done
wait
"""

# Lets the kernel choose a port for a number of sockets, and prints those that it chose within a range.
_ASK = """
import socket, sys
kind, low, high, count = sys.argv[1], *map(int, sys.argv[2:])
found, held = [], []
for number in range(count):
    one = socket.socket(socket.AF_INET6 if number % 2 else socket.AF_INET, getattr(socket, kind))
    one.bind(("::1" if number % 2 else "127.0.0.1", 0))
    held.append(one)
    found.append(one.getsockname()[1])
print(len([port for port in found if low <= port <= high]))
"""


@pytest.fixture
def host() -> t.Iterator[NetnsHost]:
    """A host on which somebody else has reserved ports, now and at boot."""
    with NetnsHost() as host:
        host.put("/etc/sysctl.d/50-site.conf", OTHERS)
        host.sh(f"ip link set lo up; echo 40500,50000 > {RESERVED}")
        yield host


@pytest.fixture
def closed(host: NetnsHost) -> NetnsHost:
    """A host with a firewall that lets nothing in."""
    NFTABLES.close(host)
    host.sh("ip addr add 192.0.2.1/24 dev out0; ip link set out0 up; ip link set in0 up")
    return host


def role(**variables: t.Any) -> Task:
    """The role for a plan, one of two processes unless it is said otherwise."""
    given = {"count": 2, "layout": "per_process", **variables}
    values = {f"recording_host_{name}": value for name, value in given.items()}
    return {"ansible.builtin.include_role": {"name": "openagora.firewall.recording_host"}, "vars": values}


def changed(said: str) -> int:
    """How many tasks of a play changed something."""
    found = re.search(r"changed=(\d+)", said)
    assert found, said
    return int(found[1])


def files(host: NetnsHost) -> dict[str, str]:
    """All files of ours, and what is reserved."""
    listed = host.sh(f"find /etc/openagora /etc/sysctl.d -type f 2>/dev/null | sort; echo {RESERVED}").split()
    return {path: host.sh(f"cat '{path}'") for path in listed}


@contextlib.contextmanager
def recorders(host: NetnsHost, name: str = "default") -> t.Iterator[dict[int, list[int]]]:
    """Recorders with the environments of a plan, while the block lasts: the ports of each."""
    host.put("/run/recorder.py", _RECORDER)
    count = int(host.sh(f"rm -f /run/ready-*; ls {FOLDER}/{name}-*.env | wc -l"))
    process = host.start(["sh", "-c", _START, "sh", name])
    try:
        deadline = time.monotonic() + 60
        ready: list[str] = []
        while len(ready) < count:
            assert time.monotonic() < deadline, "the recorders have not come up"
            time.sleep(0.05)
            ready = host.sh("find /run -maxdepth 1 -name 'ready-*' -size +0").split()
        yield {int(file.rpartition("-")[2]): [int(port) for port in host.sh(f"cat {file}").split()] for file in ready}
    finally:
        process.communicate()


@contextlib.contextmanager
def stranger(host: NetnsHost, port: int) -> t.Iterator[None]:
    """A program that holds a UDP port while the block lasts."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"s.bind(('127.0.0.1', {port})); open('/run/held', 'w').write('x'); sys.stdin.read()"
    )
    process = host.start([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 20
        while not host.exists("/run/held"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.communicate()
        host.sh("rm /run/held")


def test_from_nothing_to_nothing(host: NetnsHost) -> None:
    before = files(host)
    checked = plays.run(host, [role()], "--check", "--diff")
    assert files(host) == before
    assert '+            "low": 40008' in checked
    assert "is not reserved" in checked
    assert "+net.ipv4.ip_local_reserved_ports = 40000-41000,50000" in checked

    show = {"ansible.builtin.debug": {"msg": "open: {{ agora_recording_port_ranges | join(' and ') }}"}}
    said = plays.run(host, [role(), show])
    assert "open: 40000-40015" in said
    assert "net.core.rmem_default: " in said
    # Not in the run that reserves them.
    assert "is not reserved" not in said
    assert changed(checked) == changed(said) > 0
    live = files(host)
    assert live[RESERVED] == "40000-41000,50000\n"
    assert live[FILE].endswith("\nnet.ipv4.ip_local_reserved_ports = 40000-41000,50000\n")
    assert live[f"{FOLDER}/default-2.env"].splitlines()[1:] == [
        "AGORA_RECORDING_PLAN=default",
        "AGORA_RECORDING_PROCESS=2",
        "AGORA_LOW_UDP_PORT=40008",
        "AGORA_HIGH_UDP_PORT=40015",
    ]
    plan = json.loads(live[f"{FOLDER}/default.json"])
    assert plan["processes"][1] == {"process": 2, "low": 40008, "high": 40015}

    again = run(host, [role()])
    assert (changed(again), files(host)) == (0, live)

    # What somebody changes by hand is told by check mode, and put right.
    host.sh(f"echo 40500,50000 > {RESERVED}; rm {FOLDER}/default-1.env")
    assert changed(run(host, [role()], "--check")) == 2
    assert changed(run(host, [role()])) == 2
    assert files(host) == live

    # At the next boot, the kernel gets what the files say.
    host.sh(f"echo > {RESERVED}; sysctl --quiet --load=/etc/sysctl.d/50-site.conf --load={FILE}")
    assert files(host) == live

    gone = run(host, [role(state="absent")], "--check")
    assert files(host) == live
    assert changed(gone) == changed(run(host, [role(state="absent")])) > 0
    assert files(host) == before
    assert not host.exists("/etc/openagora")
    assert changed(run(host, [role(state="absent")])) == 0


def test_two_plans(host: NetnsHost) -> None:
    """Each has its own range; what is open and reserved is that of both; one goes and leaves the other."""
    before = files(host)
    other = role(name="default-1", range="42000-42099", layout="shared", count=1)
    show = {"ansible.builtin.debug": {"msg": "{{ agora_recording_port_ranges | join(' and ') }}"}}
    assert "40000-40015 and 42000-42099" in run(host, [role(), other, show])
    both = files(host)
    assert both[RESERVED] == "40000-41000,42000-42099,50000\n"
    assert changed(run(host, [other, role()])) == 0

    said = run(host, [role(name="third")], succeeds=False)
    assert "40000-41000 overlaps" in said
    assert files(host) == both
    said = run(host, "check_recording.yml", "--extra-vars=recording_host_name=third", succeeds=False)
    assert "no plan third stands on this host, but default, default-1; name one of them" in said
    assert "or run role recording_host" in said

    run(host, [role(state="absent")])
    left = files(host)
    assert left[RESERVED] == "40500,42000-42099,50000\n"
    assert {path for path in left if "default-1" in path} == {f"{FOLDER}/default-1.json", f"{FOLDER}/default-1-1.env"}
    assert f"{FOLDER}/default-1.json" in left
    # What others have there stays, and be it an empty folder.
    host.sh("mkdir /etc/openagora/others")
    run(host, [role()])
    run(host, "close_agora.yml", "--extra-vars=agora_hosts=localhost")
    assert files(host) == before
    assert host.sh("ls /etc/openagora") == "others\n"


def test_check_mode_knows_the_plans_that_the_play_makes_and_takes_away(host: NetnsHost) -> None:
    other = {"name": "night", "layout": "shared", "count": 1}
    show = {"ansible.builtin.debug": {"msg": "{{ agora_recording_port_ranges | join(' and ') }}"}}
    both = [role(), role(range="42000-42099", **other), show]
    checked = run(host, both, "--check", "--diff")
    assert "40000-40015 and 42000-42099" in checked
    assert "+net.ipv4.ip_local_reserved_ports = 40000-41000,42000-42099,50000" in checked
    overlapping = [role(), role(range="40900-42099", **other)]
    assert "overlaps 40900-41000 of plan default" in run(host, overlapping, "--check", succeeds=False)
    assert not host.exists("/etc/openagora")
    run(host, both)
    gone = [role(state="absent"), role(name="night", state="absent")]
    checked = run(host, gone, "--check", "--diff")
    assert changed(checked) == changed(run(host, gone))


def test_what_is_wrong_changes_nothing(host: NetnsHost) -> None:
    before = files(host)
    wrong = {
        "count: is 0; say how many": role(count=0),
        "high: is missing beside low, 40000": role(range="40000"),
        "low: 41000 is above high, 40000": role(range="41000-40000"),
        "126 processes need 1008 ports": role(count=126),
        "cannot be converted to an int": role(count="many"),
    }
    for wanted in ("forty-fifty", "40000~41000", "40000-", "40000-41000-42000"):
        wrong[f"recording_host_range is '{wanted}'; it is the lowest and"] = role(range=wanted)
    for text, task in wrong.items():
        assert text in run(host, [task], succeeds=False)
    for count in ("4.7", "true"):
        include = [{"ansible.builtin.include_role": {"name": "openagora.firewall.recording_host"}}]
        said = run(host, include, f'--extra-vars={{"agora_recording_count": {count}}}', succeeds=False)
        assert "onvert" in said
    with stranger(host, 40100):
        assert "UDP 40100 is held by" in run(host, [role(layout="shared")], succeeds=False)
    assert files(host) == before


@pytest.mark.parametrize("then", ["", '/bin/dd "$@"'], ids=["before", "after"])
def test_a_run_that_ended_while_the_range_changed_leaves_nothing_behind(host: NetnsHost, then: str) -> None:
    """It came to where the kernel is told, or has been told, and not to its end."""
    before = files(host)
    run(host, [role()])
    host.stand_in("dd", f"{then}\nexit 1")
    run(host, [role(range="40400-41399")], succeeds=False)
    host.sh("rm /usr/local/sbin/dd")
    run(host, [role(range="42000-42999")])
    live = files(host)
    assert live[RESERVED] == "40500,42000-42999,50000\n"
    assert changed(run(host, [role(range="42000-42999")])) == 0
    assert files(host) == live
    run(host, [role(state="absent")])
    assert files(host) == before


def test_a_long_list_of_others_survives(host: NetnsHost) -> None:
    """The kernel takes and gives it in pieces, or in one."""
    ports = ",".join(str(port) for port in range(10001, 30000, 2))
    host.sh(f"rm /etc/sysctl.d/50-site.conf; dd bs=1M iflag=fullblock status=none of={RESERVED}", stdin=ports)
    run(host, [role()])
    assert play(host, [call("recording_ports")])[0]["reservation"]["in_force"]
    run(host, [role(state="absent")])
    assert ",".join(play(host, [call("recording_ports", count=1)])[0]["reserved"]) == ports


@pytest.mark.parametrize("layout", ["shared", "per_process"])
def test_recorders_get_their_ports_and_stay_while_others_come(host: NetnsHost, layout: str) -> None:
    run(host, [role(count=5, layout=layout)])
    with recorders(host) as held:
        assert {len(ports) for ports in held.values()} == {8}
        taken = {process: set(ports) for process, ports in held.items()}
        assert sum(len(ports) for ports in taken.values()) == len(set().union(*taken.values())) == 20
        (found,) = play(host, [call("recording_ports")])
        assert {one["process"] for one in found["bound"] if one["own"]} == set(held)
        assert (len(found["bound"]), found["conflicts"]) == (5, [])
        pairs = found["processes"]
        if layout == "per_process":
            for one in pairs:
                assert taken[one["process"]] <= set(range(one["low"], one["high"] + 1))
            with stranger(host, pairs[1]["low"] + 6):
                assert "other ports than before for process 2" in plays.run(host, [role(count=7)])
            (found,) = play(host, [call("recording_ports")])
            moved = [one["process"] for one, was in zip(found["processes"], pairs) if one != was]
            assert (len(found["processes"]), moved) == (7, [2])
        else:
            assert changed(run(host, [role(count=7, layout=layout)])) == 2


def within(host: NetnsHost, kind: str) -> int:
    """How many of 3000 sockets that ask the kernel for a port get one of the range."""
    return int(host.run([sys.executable, "-c", _ASK, kind, "40000", "41000", "3000"]).out)


def test_nobody_is_handed_a_reserved_port(host: NetnsHost) -> None:
    """On a host where others have reserved nothing, so that in the end nothing is."""
    host.sh(f"rm /etc/sysctl.d/50-site.conf; echo > {RESERVED}")
    before = files(host)
    host.sh("echo 39000 45000 > /proc/sys/net/ipv4/ip_local_port_range")
    assert min(within(host, "SOCK_DGRAM"), within(host, "SOCK_STREAM")) > 0
    run(host, [role()])
    assert (within(host, "SOCK_DGRAM"), within(host, "SOCK_STREAM")) == (0, 0)
    run(host, [role(state="absent")])
    assert files(host) == before
    assert within(host, "SOCK_DGRAM") > 0


def test_the_playbooks_open_what_is_planned_and_check_it(closed: NetnsHost) -> None:
    host = closed
    given = ["--extra-vars=agora_hosts=localhost agora_sdks=recording agora_recording_count=3"]
    given.append("--extra-vars=agora_recording_layout=per_process agora_prove=true")
    said = run(host, "open_agora.yml", *given)
    assert "40000-40023" in said
    assert not re.search(r"40000-41000(?! lies)", host.sh("nft list ruleset"))
    run(host, "prove_agora.yml", *given)
    with recorders(host):
        said = run(host, "check_recording.yml", "--extra-vars=agora_hosts=localhost")
        assert "a recorder that was told 40016-40023" in said
        # Whatever is not as it should be fails it, all in one message.
        host.put("/etc/sysctl.d/zz.conf", OTHERS)
        host.sh(f"echo 50000 > {RESERVED}")
        NFTABLES.insert(host, "input", "udp dport 51820 accept")
        NFTABLES.insert(host, "input", "udp dport 40001 drop")
        host.nft(
            "table ip way { chain in { type nat hook prerouting priority -100; udp dport 40005 redirect to :40900; }; }"
        )
        with stranger(host, 40030):
            said = " ".join(run(host, "check_recording.yml", succeeds=False).split())
        for fault in (
            "UDP 40030 is held by ",
            "the kernel reserves 50000, and not 40000-41000,50000; ",
            f"{FILE} does not reserve at boot what the plans need; move /etc/sysctl.d/zz.conf before it, or out",
            "UDP 40001 of ipv4 is closed; run role open_ports, or look at nft inet filter input: udp dport 40001 drop",
            "UDP 40005 of ipv4 is translated by nft ip way in: udp dport 40005 redirect to :40900, and no recorder",
            "UDP 51820 of ipv6 is open besides; ",
        ):
            assert fault in said
        assert "UDP 40005 of ipv4 is closed" not in said
        host.sh(f"nft delete table ip way; rm /etc/sysctl.d/zz.conf; echo > {FILE}")
        said = " ".join(run(host, "check_recording.yml", succeeds=False).split())
        assert f"{FILE} does not reserve at boot what the plans need; run role recording_host again" in said
        run(host, [role(count=3)])
        NFTABLES.insert(host, "input", "udp dport 40001 accept")
        said = " ".join(
            run(host, "check_recording.yml", "--extra-vars=check_recording_others=51820", succeeds=False).split()
        )
        assert "UDP 51820 of ipv4 lets no answer out; run role open_ports, or look at nft inet filter output: " in said
        NFTABLES.insert(host, "output", "ct state established accept")
        run(host, "check_recording.yml", "--extra-vars=check_recording_others=51820")
        run(host, "check_recording.yml", "--extra-vars={check_recording_others: ['51820']}")


def opened(host: NetnsHost, variables: str, *, succeeds: bool = True) -> str:
    """What the playbook says that opens what is planned."""
    said = run(host, "open_agora.yml", f"--extra-vars=agora_hosts=localhost {variables}", succeeds=succeeds)
    return " ".join(said.split())


def test_a_plan_stays_unless_everything_is_taken_away(closed: NetnsHost) -> None:
    before = files(closed)
    planned = "agora_sdks=recording agora_recording_count=3 agora_recording_layout=per_process"
    opened(closed, planned)
    live = {path: text for path, text in files(closed).items() if "/firewall/" not in path}
    rules = closed.live()
    said = opened(closed, "agora_sdks=web,recording", succeeds=False)
    assert "this host has plans of recording ports (default), which" in said
    assert closed.live() == rules
    opened(closed, "agora_sdks=web")
    opened(closed, f"agora_state=restored {planned}")
    assert {path: text for path, text in files(closed).items() if "/firewall/" not in path} == live
    # What a run left that was interrupted, or somebody who has removed a plan by hand, goes too.
    run(closed, [role(name="night", range="42000-42099")])
    closed.sh(f"rm {FOLDER}/default.json; touch {FOLDER}/third-1.env")
    opened(closed, "agora_state=absent")
    assert files(closed) == before
    assert not closed.exists("/etc/openagora")


def test_leftovers_of_the_last_plan_are_taken_away(host: NetnsHost) -> None:
    before = files(host)
    run(host, [role()])
    host.sh(f"rm {FOLDER}/default.json")
    run(host, "close_agora.yml", "--extra-vars=agora_hosts=localhost")
    assert files(host) == before
    assert not host.exists("/etc/openagora")


def test_nothing_is_planned_for_a_request_that_is_wrong(closed: NetnsHost) -> None:
    before = files(closed)
    assert "sdks" in opened(closed, "agora_recording_count=3", succeeds=False)
    assert files(closed) == before
    wrong = "agora_sdks=recording agora_recording_count=3 agora_ingress_from=300.1.1.1"
    assert "ingress_from[0]" in opened(closed, wrong, succeeds=False)
    assert files(closed) == before


def test_the_example_unit_is_one_that_systemd_takes(host: NetnsHost, tmp_path: Path) -> None:
    run(host, [role()])
    text = host.sh(f"cat {FOLDER}/agora-recording@.service")
    unit = tmp_path / "agora-recording@.service"
    unit.write_text(text.replace("/opt/agora-recording/recorder_local", "/bin/true"))
    argv = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "agora-recording@default-1.service")]
    (tmp_path / "agora-recording@default-1.service").symlink_to(unit)
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
