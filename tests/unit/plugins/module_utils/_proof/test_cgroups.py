# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs on control groups: real ones on a group of the test's own, and what the kernel may answer elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import struct
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, Side
from ansible_collections.openagora.firewall.plugins.module_utils._proof import cgroups
from netns import NetnsHost
from test_prove import NONE, ROUTED, SOME, WEB, prove

# bpf(2): its number, commands, the type of programs that look at packets of control groups, and its places.
NUMBERS = {"aarch64": 280, "ppc64le": 361, "riscv64": 280, "s390x": 351, "x86_64": 321}
LOAD, ATTACH = 5, 8
CGROUP_SKB = 8
INGRESS, EGRESS = 0, 1


def bpf(command: int, attributes: bytes) -> int:
    """Ask the kernel. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes.ljust(64, b"\0"), max(64, len(attributes)))
    answer = libc.syscall(ctypes.c_long(NUMBERS[platform.machine()]), command, buffer, len(buffer))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(answer)


def load(verdict: int) -> int:
    """A program of two instructions, `r0 = verdict; exit`. Raises OSError."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0), 16)
    licence = ctypes.create_string_buffer(b"GPL")
    return bpf(
        LOAD, struct.pack("=IIQQIIQI", CGROUP_SKB, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0)
    )


def permitted() -> bool:
    """Whether this machine lets this user make control groups and load programs for them."""
    try:
        os.close(load(1))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
            raise
        return False
    return os.access(mounted(), os.W_OK)


def mounted() -> Path:
    """Where the hierarchy is."""
    found = re.search(r"^\S+ \S+ \S+ / (\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    return Path(found[1]) if found else Path("/nonexistent")


def attach(group: Path, verdict: int, *places: int) -> None:
    """Put a program on a control group, where it stays as long as that."""
    directory, program = os.open(group, os.O_RDONLY | os.O_DIRECTORY), load(verdict)
    for place in places:
        bpf(ATTACH, struct.pack("=IIII", directory, program, place, 2))
    os.close(program)
    os.close(directory)


@contextlib.contextmanager
def own_group() -> t.Iterator[Path]:
    """A control group that is the whole hierarchy of processes started through `enter`, while the block lasts."""
    group = mounted() / f"openagora-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        for folder, _folders, _files in os.walk(group, topdown=False):
            os.rmdir(folder)


def enter(group: Path, inner: str = "") -> list[str]:
    """What starts a command in a control group of which it sees nothing but that, with those in it."""
    script = (
        f"echo $$ >{group}/cgroup.procs; exec unshare --cgroup --mount sh -ec '"
        f'umount {mounted()}; mkdir -p /run/cgroup; mount -t cgroup2 none /run/cgroup; {inner} exec "$@"\' sh "$@"'
    )
    return ["sh", "-ec", script, "sh"]


# What the proof says of a host, by where a program lies below the group that is the whole of its hierarchy: whether all
# is unknown, and what is told.
PLACES: dict[str, tuple[str, bool, tuple[str, str] | None]] = {
    "the root": ("", True, ("control groups", "/: cgroup_inet_ingress, cgroup_inet_egress")),
    "a slice of all services": (
        "system.slice",
        True,
        ("control groups", "/system.slice: cgroup_inet_ingress, cgroup_inet_egress"),
    ),
    "a unit": (
        "system.slice/one.service",
        False,
        ("one control group", "/system.slice/one.service: cgroup_inet_ingress, cgroup_inet_egress"),
    ),
}


@pytest.mark.parametrize(("place", "unknown", "told"), PLACES.values(), ids=PLACES.keys())
def test_a_program_on_a_control_group(host: NetnsHost, place: str, unknown: bool, told: tuple[str, str]) -> None:
    host.sh(ROUTED)
    host.nft("table inet f { chain o { type filter hook output priority 0; tcp dport 5 drop; }; }")
    if not permitted():
        # Then the kernel does not tell of such programs either; test_what_the_kernel_may_answer has the rest.
        assert prove(host, ports=SOME)["unknown"] == NONE
        return
    with own_group() as group:
        (group / place).mkdir(parents=True, exist_ok=True)
        clean = prove(host, through=enter(group), rules=WEB, ports=SOME)
        assert (clean["covered"], clean["not_modelled"]) == ({"web": "yes"}, [])
        attach(group / place, 1, INGRESS, EGRESS)
        found = prove(host, through=enter(group), rules=WEB, ports=SOME)
        assert [(item["where"], item["rule"]) for item in found["not_modelled"]] == [told]
        assert found["covered"] == {"web": "unknown" if unknown else "yes"}
        # What rules drop is as closed as before.
        opened = found["unknown" if unknown else "open"]
        assert opened["ipv4"]["egress"]["tcp"] == (SOME - PortSet.of(5)).texts()
        assert found["open"]["ipv6"]["egress"]["udp"] == ([] if unknown else SOME.texts())
        # What a gateway forwards belongs to no process of its.
        ways = Passage((Side("interface", "in0"),), (Side("interface", "out0"),))
        across = prove(host, through=enter(group), placements=("gateway",), passage=ways, ports=SOME)
        assert across["unknown"] == NONE


# Sends one packet of UDP, and prints what the kernel says.
SEND = """
import socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("44.1.1.1", 3478))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("place", ["", "one.service"])
def test_what_is_refused_to_the_proof_itself_is_unknown(host: NetnsHost, place: str) -> None:
    """A program drops after the rules have let a packet through, so that nothing tells of what it drops."""
    host.sh(ROUTED)
    if not permitted():
        assert prove(host, ports=SOME)["unknown"] == NONE
        return
    with own_group() as group:
        (group / place).mkdir(exist_ok=True)
        attach(group / place, 0, INGRESS, EGRESS)
        through = enter(group, f"echo 0 >/run/cgroup/{place}/cgroup.procs;")
        assert host.run([*through, sys.executable, "-c", SEND]).out == "Operation not permitted\n"
        found = prove(host, through=through, rules=WEB, ports=SOME)
        assert (found["missing"], found["covered"]) == (NONE, {"web": "unknown"})
        assert found["unknown"]["ipv4"]["egress"]["udp"] == found["unknown"]["ipv6"]["ingress"]["tcp"] == SOME.texts()


def test_a_container_with_a_network_of_its_own_is_another_host(host: NetnsHost) -> None:
    if not permitted():
        assert prove(host, ports=SOME)["unknown"] == NONE
        return
    with own_group() as group:
        for name in ("container", "unit"):
            (group / name / "inner").mkdir(parents=True)
            attach(group / name, 1, EGRESS)
        script = f'echo $$ >{group}/$0/inner/cgroup.procs; echo x >/run/in-$0; exec "$@"'
        others = [
            host.start(["sh", "-ec", script, "container", "unshare", "--net", "cat"]),
            host.start(["sh", "-ec", script, "unit", "cat"]),
        ]
        try:
            host.sh("until test -e /run/in-unit && test -e /run/in-container; do sleep 0.05; done; sleep 0.3")
            found = prove(host, through=enter(group), ports=SOME)["not_modelled"]
        finally:
            for other in others:
                other.communicate()
    assert [item["rule"] for item in found] == ["/unit: cgroup_inet_egress"]


class Stand:
    """A stand-in for the kernel's files and answers: a hierarchy with programs, as they are on the groups named."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.root = folder
        self.programs: dict[str, list[str]] = {}
        self.first = "/init.scope"
        self.own = "/"
        self.mount = "/"
        self.refusal = 0
        (folder / "cgroup.controllers").write_text("")
        monkeypatch.setattr(cgroups, "_lines", self.lines)
        monkeypatch.setattr(cgroups, "_places", self.places)

    def lines(self, path: str) -> list[str]:
        return {
            "/proc/self/cgroup": ["1:name=systemd:/", f"0::{self.own}"],
            "/proc/1/cgroup": [f"0::{self.first}"],
            "/proc/self/mountinfo": [f"41 31 0:38 {self.mount} {self.root} rw - cgroup2 cgroup2 rw"],
        }.get(path, [])

    def places(self, group: Path, flags: int) -> list[str]:
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        groups = [group, *(group.parents if flags else [])]
        return [name for each in groups for name in self.programs.get(f"/{each}".replace(f"/{self.root}", "", 1), [])]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stand:
    return Stand(monkeypatch, tmp_path)


def told(filters: cgroups.Filters) -> list[str]:
    return [doubt.rule for doubt in filters.doubts]


def test_a_program_for_one_family_leaves_the_other_one_as_it_is(stand: Stand) -> None:
    for place, families in (
        ("cgroup_inet6_connect", {"ipv6"}),
        ("cgroup_udp4_sendmsg", {"ipv4"}),
        ("cgroup_inet_sock_create", {"ipv4", "ipv6"}),
    ):
        stand.programs = {"": [place]}
        assert cgroups.read_filters().families == families


def test_a_container_that_sees_the_hierarchy_of_its_machine_tells_of_its_own_part(stand: Stand) -> None:
    for path in ("system.slice/ssh.service", "pod/x/system.slice/one.service"):
        (stand.root / path).mkdir(parents=True)
    stand.programs = {"/system.slice": ["cgroup_inet_egress"], "/pod/x/system.slice": ["cgroup_inet_ingress"]}
    stand.first = stand.own = "/pod/x/init.scope"
    found = cgroups.read_filters()
    assert (told(found), found.meet_proof) == (["/system.slice: cgroup_inet_ingress"], False)
    # What the machine has above it holds for all of it.
    stand.programs["/pod"] = ["cgroup_inet_egress"]
    found = cgroups.read_filters()
    assert told(found) == ["/: cgroup_inet_egress", "/system.slice: cgroup_inet_ingress"]
    assert found.families == {"ipv4", "ipv6"}


@pytest.mark.parametrize(("first", "mount"), [("/../../init.scope", "/"), ("/x", "/y"), ("/gone", "/")])
def test_where_process_1_is_out_of_sight_what_is_mounted_is_the_whole(stand: Stand, first: str, mount: str) -> None:
    stand.first, stand.mount = first, mount
    stand.programs = {"": ["cgroup_inet_egress"]}
    assert told(cgroups.read_filters()) == ["/: cgroup_inet_egress"]


def test_what_the_kernel_may_answer(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.read_filters() == cgroups.Filters()
    stand.refusal = errno.EPERM
    (doubt,) = cgroups.read_filters().doubts
    assert doubt.data() == {
        "where": "control groups",
        "rule": "all programs on them",
        "what": "whether there are any: Operation not permitted",
    }
    (stand.root / "cgroup.controllers").unlink()
    (doubt,) = cgroups.read_filters().doubts
    assert doubt.what == "whether there are any: no hierarchy of cgroup2 is mounted here"
    # Of a hierarchy that was never mounted there is nothing to tell.
    monkeypatch.setattr(cgroups, "_lines", lambda path: ["1:name=systemd:/"] if path == "/proc/self/cgroup" else [])
    assert cgroups.read_filters() == cgroups.Filters()


def test_a_machine_whose_kernel_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="how to ask a kernel for vax is not known"):
        cgroups._places(tmp_path, 0)
    assert cgroups._places(tmp_path / "gone", 0) == []
