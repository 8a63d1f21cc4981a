# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role recording_host promises: recorders that hold their ports, and a sender on another host who reaches them."""

from __future__ import annotations

import contextlib
import json
import typing as t

import pytest

from .document import DOWNSTREAM, ingress
from .lab import both_families, changes, differences

if t.TYPE_CHECKING:
    from .lab import Run, Target

__all__ = ["TestCheck", "TestPlans", "TestRecorders", "TestReservation"]

LOW, HIGH = min(DOWNSTREAM), max(DOWNSTREAM)
PORTS_EACH = 4
FOLDER = "/etc/openagora/recording"
RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"
OUTGOING = 20_000
NOBODY = {"tcp4": 0, "tcp6": 0, "udp4": 0, "udp6": 0}

# What an operator does with the role's example, whose text stays as it is. systemd waits for the stand-in.
INSTALL = rf"""
set -e
cp {FOLDER}/agora-recording@.service /etc/systemd/system/
mkdir -p /etc/agora-recording /opt/agora-recording /etc/systemd/system/agora-recording@.service.d
printf '[Service]\nType=notify\n' >/etc/systemd/system/agora-recording@.service.d/notify.conf
printf '#!/bin/sh\nexec python3 -I -S /opt/instruments/recorder.py "$@"\n' >/opt/agora-recording/recorder_local
chmod 755 /opt/agora-recording/recorder_local
for process; do
    printf 'AGORA_APP_ID=0123456789abcdef\nAGORA_CHANNEL=%s\n' $process >/etc/agora-recording/$process.env
done
systemctl daemon-reload
"""
REMOVE = """
systemctl stop 'agora-recording@*'
rm -rf /etc/systemd/system/agora-recording@.service* /etc/systemd/system/multi-user.target.wants/agora-recording@*
rm -rf /etc/agora-recording /opt/agora-recording
systemctl daemon-reload
"""


def record(target: Target, count: int, *flags: str, layout: str = "per_process", **variables: t.Any) -> Run:
    """Plan, reserve and open."""
    wanted = {"agora_sdks": "recording", "agora_recording_count": count, "agora_recording_layout": layout}
    return target.playbook("openagora.firewall.open_agora", *flags, **wanted, agora_confirm_within=0, **variables)


def replan(target: Target, count: int) -> Run:
    """Plan and reserve, and open nothing."""
    wanted = {"recording_host_count": count, "recording_host_layout": "per_process"}
    return target.role("recording_host", **wanted)


def plan(target: Target, name: str = "default") -> dict[int, tuple[int, int]]:
    """The pair of each process, as start scripts read it."""
    found = json.loads(target.run(f"cat {FOLDER}/{name}.json"))
    return {item["process"]: (item["low"], item["high"]) for item in found["processes"]}


def ports(pairs: t.Iterable[tuple[int, int]]) -> set[int]:
    """All ports of these pairs."""
    return {port for low, high in pairs for port in range(low, high + 1)}


@contextlib.contextmanager
def recorders(target: Target, count: int) -> t.Iterator[None]:
    """While the context lasts, so many processes run, and start at boot, by the unit of the role's example."""
    names = [f"default-{number}" for number in range(1, count + 1)]
    units = " ".join(f"agora-recording@{name}" for name in names)
    try:
        target.run(f"set -- {' '.join(names)}; {INSTALL} systemctl enable --quiet --now {units}")
        yield
    finally:
        target.run(REMOVE)


def reached(target: Target) -> dict[str, dict[int, set[int]]]:
    """The ports on which each process answers somebody on the other side, by the address that he sends to."""
    found = target.far.instrument("recorder", "ask", str(LOW), str(HIGH), *target.plugs["outside"])
    by_process: dict[str, dict[int, set[int]]] = {}
    for address, answers in found.items():
        by_process[address] = {}
        for port, process in answers.items():
            by_process[address].setdefault(process, set()).add(int(port))
    return by_process


def assert_all_reached(target: Target, count: int) -> None:
    """Each of so many processes is reached on ports of its pair, four of them, in both families."""
    pairs = plan(target)
    for processes in reached(target).values():
        assert sorted(processes) == list(range(1, count + 1))
        for process, answering in processes.items():
            assert len(answering) == PORTS_EACH
            assert answering <= ports([pairs[process]])


def assert_open(target: Target, planned: set[int]) -> None:
    """By packets: what comes in is for these ports and for those of the document's list, and for no other."""
    expected = ingress(["recording"])
    expected["udp"] = expected["udp"] - DOWNSTREAM | planned
    measured = target.measure(directions=["ingress"])
    assert not differences("ingress", both_families(expected), measured.ingress)


def given(target: Target) -> dict[str, int]:
    """How many of so many outgoing sockets of each kind get a port of the range."""
    found: dict[str, int] = target.instrument("outgoing", str(OUTGOING), str(LOW), str(HIGH))
    return found


class TestRecorders:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize(("layout", "count"), [("per_process", 125), ("shared", 250)])
    def test_a_sender_reaches_each_of_them(self, target: Target, layout: str, count: int) -> None:
        target.reset()
        assert record(target, count, layout=layout).failed == ""
        with recorders(target, count):
            assert_all_reached(target, count)
            bound = target.module("recording_ports")["bound"]
            assert {item["process"] for item in bound if item["own"]} == set(range(1, count + 1))
            assert target.playbook("openagora.firewall.check_recording").failed == ""
            # The range has room for no other.
            before = target.state()
            assert f"{count + 1} processes need" in record(target, count + 1, layout=layout).failed
            assert not changes(before, target.state())

    def test_open_is_what_is_planned_and_nothing_else(self, target: Target) -> None:
        target.reset()
        assert record(target, 100).failed == ""
        assert_open(target, ports(plan(target).values()))
        assert record(target, 250, layout="shared").failed == ""
        assert_open(target, DOWNSTREAM)


class TestReservation:
    def test_nobody_else_is_given_a_port(self, target: Target) -> None:
        target.reset()
        assert min(given(target).values()) > 0
        assert record(target, 10).failed == ""
        assert given(target) == NOBODY

    def test_a_reboot_changes_nothing(self, target: Target) -> None:
        target.reset()
        assert record(target, 10).failed == ""
        before = target.run(f"cat {RESERVED}"), plan(target)
        with recorders(target, 10):
            target.reboot()
            assert (target.run(f"cat {RESERVED}"), plan(target)) == before
            assert given(target) == NOBODY
            assert_all_reached(target, 10)
        assert record(target, 10).changed == []

    def test_absent_gives_everything_back(self, target: Target) -> None:
        target.reset()
        target.run(f"echo 40500,50000 >{RESERVED}")
        before = target.state()
        assert record(target, 10).failed == ""
        assert target.run(f"cat {RESERVED}") == "40000-41000,50000\n"
        assert target.playbook("openagora.firewall.close_agora").failed == ""
        assert target.run(f"cat {RESERVED}") == "40500,50000\n"
        assert not changes(before, target.state())
        assert target.playbook("openagora.firewall.close_agora").changed == []
        target.reboot()
        assert target.run(f"cat {RESERVED}") == "\n"

    def test_the_playbook_that_opens_closes_no_plan_but_takes_all_away(self, target: Target) -> None:
        target.reset()
        before = target.state()
        wrong = {"agora_ingress_from": "300.1.1.1"}
        assert "ingress_from[0]" in record(target, 10, **wrong).failed
        assert not changes(before, target.state())
        assert record(target, 10).failed == ""
        planned = target.state()
        opens = "openagora.firewall.open_agora"
        found = target.playbook(opens, agora_sdks="web,recording", agora_confirm_within=0).failed
        assert "plans of recording ports (default)" in found
        assert not changes(planned, target.state())
        target.run(f"rm {FOLDER}/default.json")
        assert target.playbook(opens, agora_state="absent").failed == ""
        assert not changes(before, target.state())


class TestPlans:
    def test_pairs_stay_when_processes_come_and_go(self, target: Target) -> None:
        target.reset()
        assert record(target, 5).failed == ""
        running = pairs = plan(target)
        with recorders(target, 5):
            # Also with fewer than run for a time, and with none.
            for count in (5, 20, 7, 3, 12):
                assert replan(target, count).failed == ""
                now = plan(target)
                assert len(now) == count
                assert len(ports(now.values())) == sum(high - low + 1 for low, high in now.values())
                assert all(now[process] == pair for process, pair in {**pairs, **running}.items() if process in now)
                pairs = now
            assert target.role("recording_host", recording_host_state="absent").failed == ""
            assert replan(target, 5).failed == ""
            assert plan(target) == running
            assert_all_reached(target, 5)

    def test_two_plans_have_no_port_in_common(self, target: Target) -> None:
        target.reset()
        assert record(target, 5).failed == ""
        before = target.state()
        night = {"recording_host_name": "night"}
        assert (
            "overlaps 40900-41000 of plan default"
            in record(target, 5, agora_recording_range="40900-41899", **night).failed
        )
        assert not changes(before, target.state())
        assert record(target, 5, agora_recording_range="41001-41999", **night).failed == ""
        both = plan(target), plan(target, "night")
        assert not ports(both[0].values()) & ports(both[1].values())
        assert_open(target, ports(both[0].values()) | ports(both[1].values()))
        assert record(target, 5).changed == []


class TestCheck:
    def faults(self, target: Target, **variables: t.Any) -> str:
        """What the playbook finds fault with."""
        return target.playbook("openagora.firewall.check_recording", **variables).failed

    def test_it_finds_what_is_not_as_planned(self, target: Target) -> None:
        target.reset()
        assert record(target, 3).failed == ""
        with recorders(target, 3):
            assert self.faults(target) == ""
            hold = (
                "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 40030)); time.sleep(600)"
            )
            target.run(f'systemd-run --quiet --unit=stranger --collect python3 -c "{hold}"')
            target.run(f"echo 50000 >{RESERVED}")
            target.run("echo net.ipv4.ip_local_reserved_ports=50000 >/etc/sysctl.d/zz.conf")
            target.run("nft insert rule inet filter input udp dport 51820 accept")
            # A service that gets packets and may not answer would be told too.
            target.run("nft insert rule inet filter output udp sport 51820 accept")
            target.run("nft insert rule inet filter input meta nfproto ipv6 udp dport 40001 drop")
            found = self.faults(target)
            assert "UDP 40030 is held by python3" in found
            assert "the kernel reserves 50000, and not 40000-41000" in found
            assert "does not reserve at boot what the plans need; move /etc/sysctl.d/zz.conf before it, or out" in found
            assert "UDP 40001 of ipv6 is closed" in found
            assert "UDP 51820 of ipv4 is open besides" in found
            target.run("systemctl stop stranger; rm /etc/sysctl.d/zz.conf")
        assert record(target, 3).failed == ""
        assert self.faults(target, check_recording_others="51820") == ""
