#!/usr/bin/env python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test hosts: systemd containers of this machine, one for each image and lane, kept from one scenario to the next.

`hosts.py --list` prints them as Ansible's inventory, `hosts.py up SCENARIO` starts those that a scenario needs,
`hosts.py keep SCENARIO` says that they may be used again, and `hosts.py down` removes all of this checkout.

Names, cables and subnets are those of the checkout, so that several checkouts can test on one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LANES", "SCENARIOS", "Container", "HostsError", "Target", "started", "targets", "variables"]

ROOT = Path(__file__).resolve().parents[2]
INSTRUMENTS = ROOT / "tests" / "contract" / "instruments"
IMAGE = os.environ.get("TEST_HOST_IMAGE") or "localhost/openagora-test"

# By the checkout's folder, in hexadecimal: what the names of its hosts and networks have, and where its subnets lie.
CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:4]
PREFIX = f"openagora-{CHECKOUT}"
LABEL = "openagora.checkout"
# Says on a host that the scenario before has left it as it should.
KEPT = "/run/openagora-kept"

# One systemd needs seven of the machine's inotify instances (fs.inotify.max_user_instances, often 128), and with
# a network manager, a resolver and firewalld up to ten.
INOTIFY_INSTANCES = 10
MEMORY_KIB = 256 * 1024
OPEN_FILES = 1024
SECONDS_TO_START = 120
SECONDS_FOR_A_COMMAND = 180


class HostsError(Exception):
    """A host or the machine is not as it has to be; the message says which, how it is, and what to do."""


# What there is


@dataclass(frozen=True)
class Network:
    """A cable between hosts, with no end in the machine's own network."""

    plug: str
    interface: str
    octet: int

    @property
    def name(self) -> str:
        return f"{PREFIX}-{self.plug}"

    @property
    def cable(self) -> str:
        return f"oa{CHECKOUT}{self.interface[-1]}"

    @property
    def ipv4(self) -> str:
        """The first three bytes of its addresses; a host's number is the last one."""
        low = int(CHECKOUT, 16)
        return f"10.{self.octet + low // 256 % 64}.{low % 256}"

    @property
    def ipv6(self) -> str:
        """What its addresses begin with, up to the two colons before a host's number."""
        return f"fd{self.octet:02x}:{CHECKOUT}:"

    @property
    def mac(self) -> str:
        return f"02:00:{self.octet:02x}:{CHECKOUT[:2]}:{CHECKOUT[2:]}"


NETWORKS = (Network("outside", "eth0", 128), Network("inside", "eth1", 192))

LANES = (1, 2)
IMAGES = ("bookworm", "trixie", "bullseye", "bookworm-ufw", "trixie-ufw", "bullseye-ufw")


@dataclass(frozen=True)
class Container:
    """A host: under test, or one of the two beside them in its lane, `far` on the other side or `inside`."""

    image: str
    lane: int
    role: str = ""

    @property
    def name(self) -> str:
        return f"{PREFIX}-{self.role or self.image}-{self.lane}"

    @property
    def number(self) -> int:
        """The end of its addresses."""
        return 10 * self.lane + (0 if self.role else 1 + IMAGES.index(self.image))

    @property
    def plugs(self) -> tuple[Network, ...]:
        beside = {"far": NETWORKS[:1], "inside": NETWORKS[1:]}
        return beside.get(self.role, NETWORKS)


def beside(lane: int) -> tuple[Container, Container]:
    """The other side and the machine inside: each lane has its own, so that one is tested beside another."""
    return Container("bookworm", lane, "far"), Container("bookworm", lane, "inside")


@dataclass(frozen=True)
class Target:
    """A firewall, or a resolver, on a host: what a scenario tests."""

    subject: str
    container: Container
    firewall: str
    dns: bool = False

    @property
    def name(self) -> str:
        return f"{self.subject}-{self.container.image.partition('-')[0]}"

    @property
    def reset(self) -> list[str]:
        """What `instruments/reset` is told."""
        return ["nftables-dns", *addresses(beside(self.container.lane)[0])] if self.dns else [self.firewall]


def _on_both(subject: str, firewall: str, *, suffix: str = "", dns: bool = False) -> tuple[Target, ...]:
    places = (Container(f"bookworm{suffix}", 1), Container(f"trixie{suffix}", 2))
    return tuple(Target(subject, place, firewall, dns) for place in places)


def _each(*places: tuple[str, str, int]) -> tuple[Target, ...]:
    return tuple(Target(firewall, Container(image, lane), firewall) for firewall, image, lane in places)


# In the order in which `make test` runs them: hosts of one image follow each other.
SCENARIOS: dict[str, tuple[Target, ...]] = {
    "iptables": _on_both("iptables", "iptables"),
    "nftables": _on_both("nftables", "nftables"),
    "firewalld": _on_both("firewalld", "firewalld"),
    "recording": _on_both("recording", "nftables"),
    "dns_dnsmasq": _on_both("dnsmasq", "nftables", dns=True),
    "dns_unbound": _on_both("unbound", "nftables", dns=True),
    # Before Debian 13 firewalld counts as started sooner than its rules are there.
    "confirm": _each(
        ("firewalld", "bookworm", 1), ("nftables", "bookworm", 1), ("iptables", "trixie", 2), ("ufw", "trixie-ufw", 2)
    ),
    "ufw": _on_both("ufw", "ufw", suffix="-ufw"),
    "bullseye": _each(
        ("firewalld", "bullseye", 1),
        ("nftables", "bullseye", 1),
        ("iptables", "bullseye", 2),
        ("ufw", "bullseye-ufw", 2),
    ),
}


def lanes() -> tuple[int, ...]:
    """The lanes of this run: one of them where TEST_HOST_LANE names it."""
    lane = os.environ.get("TEST_HOST_LANE")
    return (int(lane),) if lane else LANES


def targets(scenario: str) -> tuple[Target, ...]:
    """What a scenario tests in the lanes of this run."""
    if scenario not in SCENARIOS:
        raise HostsError(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    return tuple(target for target in SCENARIOS[scenario] if target.container.lane in lanes())


def addresses(container: Container) -> tuple[str, str]:
    """Its addresses of IPv4 and IPv6 on its first cable."""
    network = container.plugs[0]
    return f"{network.ipv4}.{container.number}", f"{network.ipv6}:{container.number}"


def needed(scenario: str) -> list[Container]:
    """The hosts of a scenario, those beside the ones under test first."""
    tested = dict.fromkeys(target.container for target in targets(scenario))
    return [host for lane in lanes() for host in beside(lane)] + list(tested)


# The inventory


def variables(container: Container) -> dict[str, t.Any]:
    """What Ansible and the tests have to know of a host."""
    return {
        # That of tests/contract/connection: podman's takes several times as long for a task.
        "ansible_connection": "container",
        "ansible_host": container.name,
        "ansible_python_interpreter": "/usr/bin/python3",
        # One is root there, and there is no sudo.
        "ansible_become": False,
        "test_host_plugs": {
            network.plug: [f"{network.ipv4}.{container.number}", f"{network.ipv6}:{container.number}"]
            for network in container.plugs
        },
    }


def inventory() -> dict[str, t.Any]:
    """A group for each scenario, with one target for each of its hosts: a play goes to all of them at once."""
    groups: dict[str, t.Any] = {}
    hostvars: dict[str, t.Any] = {}
    there = ours()
    for scenario in SCENARIOS:
        first: dict[Container, Target] = {}
        for target in targets(scenario):
            first.setdefault(target.container, target)
        groups[scenario] = {"hosts": [target.name for target in first.values()]}
        for target in first.values():
            resolver = {"agora_dns": target.subject} if target.dns else {}
            process = there.get(target.container.name, {"Pid": 0})["Pid"]
            hostvars[target.name] = {**variables(target.container), "container_process": process, **resolver}
    return {**groups, "_meta": {"hostvars": hostvars}}


# A host that runs


def podman(*words: str, check: bool = True) -> str:
    """What a command of podman prints; its failure ends the work with what it said."""
    try:
        done = subprocess.run(
            ["podman", *words], capture_output=True, text=True, timeout=SECONDS_FOR_A_COMMAND, check=False
        )
    except subprocess.TimeoutExpired as late:
        text = f"podman {' '.join(words)} has not ended within {SECONDS_FOR_A_COMMAND} s: {late.stderr!r}"
        raise HostsError(text) from None
    if check and done.returncode:
        raise HostsError(f"podman {' '.join(words)} ended with code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def enter(process: int) -> list[str]:
    """The words before a command on the host with this process 1: a tenth of what `podman exec` costs."""
    return ["nsenter", "--target", str(process), "--all", "--"]


def said(argv: t.Sequence[str], seconds: float = 20) -> str:
    """What a command prints, on whichever of its outputs, if it ends in time."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"(no answer within {seconds:.0f} s)"
    return done.stdout.decode(errors="replace").strip()


def state_of(name: str) -> tuple[str, int]:
    """What podman calls a host's state, and its process 1 (0 where there is none)."""
    state, _blank, process = podman("inspect", "--format={{.State.Status}} {{.State.Pid}}", name).strip().partition(" ")
    return state, int(process)


def condition(name: str) -> str:
    """How a host is, for whoever has to find out why it is not as it has to be: its state and its last log lines."""
    state, process = state_of(name)
    lines = [f"Container {name} is {state}; {Room.now().told()}."]
    lines.append(said(["podman", "logs", "--tail=20", name]))
    if state == "running":
        for command in (
            "systemctl is-system-running",
            "systemctl --failed --no-legend",
            "systemctl list-jobs",
            # Without the kernel, whose messages are those of all hosts.
            "journalctl --lines=20 --no-pager _TRANSPORT=stdout + _TRANSPORT=journal + _TRANSPORT=syslog",
        ):
            lines.append(f"$ {command}\n{said([*enter(process), *command.split()])}")
    return "\n".join(filter(None, lines))


def started(name: str) -> int:
    """Wait until systemd has started everything on a host, and its addresses can be used; returns its process 1.

    Raises `HostsError` with the host's condition when it does not come so far.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    state = units = tentative = ""
    while time.monotonic() < deadline:
        state, process = state_of(name)
        if state in ("exited", "stopped"):
            break
        if state == "running":
            units = said([*enter(process), "systemctl", "is-system-running"])
            # Nobody can listen on an address of IPv6 before the kernel has asked whether somebody else has it.
            tentative = said([*enter(process), "ip", "-6", "address", "show", "tentative"])
            if units == "running" and not tentative:
                return process
            if units == "degraded":
                break
        time.sleep(0.1)
    raise HostsError(
        f"test host {name} has not started all its services within {SECONDS_TO_START} s: its container is"
        f" {state}, its systemd {units or 'gave no answer'}"
        f"{', addresses are tentative' if tentative else ''}.\n{condition(name)}"
    )


# What the machine has left


@dataclass(frozen=True)
class Room:
    """What the machine has left of what systemd containers take, and never gets more of: no setting is changed."""

    inotify_instances: int
    memory_kib: int
    open_files: int

    @classmethod
    def now(cls) -> Room:
        used = sum(_is_inotify(entry) for entry in _descriptors())
        limit = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
        memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        files = [int(word) for word in Path("/proc/sys/fs/file-nr").read_text(encoding="ascii").split()]
        return cls(limit - used, int(memory["MemAvailable"].split()[0]), files[2] - files[0])

    def hosts(self) -> int:
        """For how many more hosts that is enough."""
        wants = (
            (self.inotify_instances, INOTIFY_INSTANCES),
            (self.memory_kib, MEMORY_KIB),
            (self.open_files, OPEN_FILES),
        )
        return min(has // wants_each for has, wants_each in wants)

    def told(self) -> str:
        return (
            f"the machine has {self.inotify_instances} inotify instances (fs.inotify.max_user_instances),"
            f" {self.memory_kib // 1024} MiB of memory and {self.open_files} open files (fs.file-max) left"
        )


def _descriptors() -> t.Iterator[str]:
    for folder in Path("/proc").glob("[0-9]*/fd"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            yield from (entry.path for entry in os.scandir(folder))


def _is_inotify(descriptor: str) -> bool:
    try:
        return os.readlink(descriptor) == "anon_inode:inotify"
    except OSError:
        return False


# Start and end


def ours() -> dict[str, dict[str, t.Any]]:
    """All containers of this checkout, as podman describes them."""
    listed = json.loads(podman("ps", "--all", f"--filter=label={LABEL}={CHECKOUT}", "--format=json"))
    return {container["Names"][0]: container for container in listed}


def remove(containers: t.Iterable[dict[str, t.Any]]) -> None:
    """End hosts at once, and what an interrupted run has left there."""
    found = list(containers)
    processes = {str(container["Pid"]) for container in found if container["Pid"]}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            # One that has stopped itself with its child would keep the host's process 1 from ending.
            if words[:2] == ["nsenter", "--target"] and words[2] in processes:
                os.kill(int(folder.name), signal.SIGKILL)
    if found:
        podman("rm", "--force", "--time=0", "--volumes", *(container["Names"][0] for container in found))


def lay(network: Network) -> None:
    """A cable with both ends in the air, and podman's network on it.

    Nothing is plugged in there, so no packet of a test leaves the machine, and unlike a bridge it leads past the
    machine's own firewall and connection tracking, whose table would overflow.
    """
    if not Path("/sys/class/net", network.cable).exists():
        words = ["add", network.cable, "up", "type", "veth", "peer", "name", f"{network.cable}e"]
        subprocess.run(["ip", "link", *words], check=True)
        subprocess.run(["ip", "link", "set", f"{network.cable}e", "up"], check=True)
    options = ["--driver=macvlan", f"--opt=parent={network.cable}", "--internal", "--disable-dns", "--ipv6"]
    options += [f"--subnet={network.ipv4}.0/24", f"--gateway={network.ipv4}.1"]
    options += [f"--subnet={network.ipv6}:/64", f"--gateway={network.ipv6}:1"]
    if subprocess.run(["podman", "network", "exists", network.name], check=False).returncode:
        podman("network", "create", *options, network.name)


def start(host: Container) -> None:
    """Start a host; returns before systemd has started its services."""
    files = min(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    options = ["--detach", f"--name={host.name}", f"--hostname={host.name.removeprefix(PREFIX + '-')}"]
    options += [f"--label={LABEL}={CHECKOUT}", "--runtime=runc", "--pull=never", "--systemd=always", "--privileged"]
    # What a machine without CAP_SYS_RESOURCE can grant.
    options += [f"--ulimit=nofile={files}:{files}", "--ulimit=nproc=1024:1024"]
    options += [f"--volume={INSTRUMENTS}:/opt/instruments:ro"]
    # The addresses stay over a reboot, the MAC too: nobody has to wait until a neighbour notices a new one.
    for network in host.plugs:
        settings = {
            "ip": f"{network.ipv4}.{host.number}",
            "ip6": f"{network.ipv6}:{host.number}",
            "mac": f"{network.mac}:{host.number}",
            "interface_name": network.interface,
        }
        options.append(f"--network={network.name}:" + ",".join(f"{key}={value}" for key, value in settings.items()))
    podman("run", *options, f"{IMAGE}:{host.image}", "/sbin/init")


def usable(container: dict[str, t.Any]) -> bool:
    """Whether a host runs on the image of today, and was left in order by the scenario before; says so only once."""
    kept = Path(f"/proc/{container['Pid']}/root{KEPT}")
    if container["State"] != "running" or not kept.exists():
        return False
    kept.unlink()
    image = podman("image", "inspect", "--format={{.Id}}", container["Image"], check=False).strip()
    return container["ImageID"] == image


def up(scenario: str) -> None:
    """Start the hosts of a scenario that do not run yet, and give each its firewall."""
    wanted = needed(scenario)
    names = [host.name for host in wanted]
    there = ours()
    kept = {name for name in names if name in there and usable(there[name])}
    remove(container for name, container in there.items() if name in names and name not in kept)
    for network in NETWORKS:
        lay(network)
    missing = [host for host in wanted if host.name not in kept]
    if Room.now().hosts() < len(missing):
        remove(container for name, container in ours().items() if name not in names)
    for host in missing:
        room = Room.now()
        if room.hosts() < 1:
            raise HostsError(
                f"there is no room for test host {host.name}: {room.told()}, and it needs {INOTIFY_INSTANCES},"
                f" {MEMORY_KIB // 1024} MiB and {OPEN_FILES}. End other containers, or try one lane (TEST_HOST_LANE=1)."
            )
        start(host)
    processes = {host: started(host.name) for host in wanted}
    print(f"{scenario}: {len(kept)} hosts kept, {len(missing)} started; {Room.now().told()}")
    furnish(scenario, processes)


def furnish(scenario: str, processes: dict[Container, int]) -> None:
    """Give each host its firewall with foreign neighbours, and the site of a resolver its name server."""
    work: dict[Container, str] = {}
    for target in targets(scenario):
        purge = "/opt/instruments/purge && " if target.dns else ""
        work.setdefault(target.container, f"{purge}/opt/instruments/reset {' '.join(target.reset)}")
        if target.dns:
            far = beside(target.container.lane)[0]
            upstream = f"python3 /opt/instruments/upstream.py {' '.join(addresses(far))}"
            work[far] = (
                "systemctl --quiet stop upstream.service 2>/dev/null;"
                f" systemd-run --quiet --unit=upstream --collect --service-type=notify {upstream}"
            )
    running = {
        host: subprocess.Popen(
            [*enter(processes[host]), "timeout", str(SECONDS_FOR_A_COMMAND), "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for host, script in work.items()
    }
    for host, process in running.items():
        out = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            raise HostsError(
                f"test host {host.name}: {work[host]} ended with code {process.returncode} (124 is for"
                f" {SECONDS_FOR_A_COMMAND} s being over): {out}\n{condition(host.name)}"
            )


def keep(scenario: str) -> None:
    """Say that the hosts of a scenario are in order and may be used by the next one."""
    there = ours()
    for host in needed(scenario):
        if host.name in there and there[host.name]["State"] == "running":
            Path(f"/proc/{there[host.name]['Pid']}/root{KEPT}").touch()


def down() -> None:
    """Remove all hosts, networks and cables of this checkout."""
    remove(ours().values())
    for network in NETWORKS:
        podman("network", "rm", "--force", network.name)
        if Path("/sys/class/net", network.cable).exists():
            subprocess.run(["ip", "link", "delete", network.cable], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--list", action="store_true", help="print Ansible's inventory")
    parser.add_argument("--host", help="print nothing: the inventory has the variables of all hosts")
    commands = parser.add_subparsers(dest="command")
    for name in ("up", "keep"):
        commands.add_parser(name).add_argument("scenario")
    commands.add_parser("down")
    options = parser.parse_args()
    try:
        if options.command == "up":
            up(options.scenario)
        elif options.command == "keep":
            keep(options.scenario)
        elif options.command == "down":
            down()
        else:
            print(json.dumps({} if options.host else inventory(), indent=4))
    except HostsError as failure:
        sys.exit(f"tests/tools/hosts.py: {failure}")


if __name__ == "__main__":
    main()
