# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a scenario, what is asked of them and what is measured on them."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import textwrap
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ansible
from tools import hosts

from . import document
from .faults import CHANGER, changer
from .forks import ANSIBLE, FORKS, SECONDS_TO_END, ask

if t.TYPE_CHECKING:
    from .faults import Change
    from .profiles import Profile

ROOT = pathlib.Path(__file__).resolve().parents[2]

CONNECTIONS = str(ROOT / "tests" / "contract" / "connection")
ENVIRONMENT = {
    **os.environ,
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_CONNECTION_PLUGINS": CONNECTIONS,
    # One of them is made of the other.
    "PYTHONPATH": CONNECTIONS,
    "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
}

# What a command on a machine finds in its environment.
SETTINGS = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")

# What is not copied of Python's code.
LEFT = shutil.ignore_patterns("__pycache__")

# The sets of a measurement: a protocol and a family each.
SETS = ("tcp4", "tcp6", "udp4", "udp6")

Ports = dict[str, set[int]]


LOADED = f"""{ANSIBLE}
def work(name, *arguments):
    command(name, *arguments)
{FORKS}"""
_idle: list[subprocess.Popen[str]] = []


def tool(name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `ansible` or `ansible-playbook`, which are loaded already."""
    try:
        process = _idle.pop()
    except IndexError:
        process = start([sys.executable, "-c", LOADED], env=ENVIRONMENT, cwd=ROOT)
    done = ask(process, name, *arguments, stdin=stdin)
    _idle.append(process)
    return done


def start(argv: list[str], **options: t.Any) -> subprocess.Popen[str]:
    """Start a command with pipes for its input and output."""
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def command(name: str) -> str:
    """Where one of Ansible's commands is: that of this Python's environment."""
    return str(pathlib.Path(sys.executable).with_name(name))


def as_text(ports: t.Iterable[int]) -> str:
    """Ports as a person writes them."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def as_sets(found: dict[str, list[list[int]]]) -> Ports:
    """What an instrument printed: ranges, by protocol and family."""
    return {name: {port for low, high in ranges for port in range(low, high + 1)} for name, ranges in found.items()}


def both_families(ports: Ports) -> Ports:
    """What is expected of IPv4 and IPv6 alike."""
    return {name: ports[name[:3]] for name in SETS}


def neighbours(ports: t.Iterable[int]) -> set[int]:
    """low-1 and high+1 of every range of ports."""
    ports = set(ports)
    return {near for port in ports for near in (port - 1, port + 1) if near not in ports and 1 <= near <= 65535}


@dataclass(frozen=True)
class Measured:
    """The ports whose packets came through, in each direction, as seen from the host under test."""

    egress: Ports
    ingress: Ports


def as_opened(proof: dict[str, t.Any]) -> Measured:
    """The same by the result of module proof."""
    found: dict[str, Ports] = {"egress": {}, "ingress": {}}
    for family, directions in proof["open"].items():
        for direction, protocols in directions.items():
            for protocol, texts in protocols.items():
                ranges = [[int(end) for end in text.split("-")] for text in texts]
                found[direction].update(as_sets({protocol + family[-1]: [[ends[0], ends[-1]] for ends in ranges]}))
    return Measured(**found)


def differences(direction: str, expected: Ports, measured: Ports) -> list[str]:
    """What is closed and should be open, and what is open beyond; the neighbours of a range are named first."""
    lines = []
    for name in SETS:
        beyond = measured[name] - expected[name]
        near = beyond & neighbours(expected[name])
        for text, ports in (
            ("closed", expected[name] - measured[name]),
            ("open, next to a listed range", near),
            ("open beyond the list", beyond - near),
        ):
            if ports:
                lines.append(f"{direction} {name} {text}: {as_text(ports)}")
    return lines


def changes(before: dict[str, t.Any], after: dict[str, t.Any]) -> list[str]:
    """What differs between two states of a host, for a person."""
    lines = []
    for part in before:
        one, other = before[part], after[part]
        if part == "/etc":
            one, other = ([f"{path} {text}" for path, text in sorted(files.items())] for files in (one, other))
        lines += [f"{part}: {line}" for line in difflib.ndiff(one, other) if line[0] in "+-"]
    return lines


class Machine:
    """A test host: commands and instruments on it."""

    def __init__(self, name: str, container: hosts.Container) -> None:
        self.name = name
        self.container = container
        variables = hosts.variables(container)
        # What Ansible has to know of it.
        self.settings = {key: value for key, value in variables.items() if key.startswith("ansible_")}
        self.plugs: dict[str, list[str]] = variables["test_host_plugs"]
        self.addresses = next(iter(self.plugs.values()))
        self._process = 0

    @property
    def process(self) -> int:
        """The machine's process 1, by whose namespaces it is entered."""
        if not self._process:
            self._process = hosts.started(self.container.name)
        return self._process

    @property
    def enter(self) -> list[str]:
        """The words before a command that is to run there."""
        return [*hosts.enter(self.process), "env", "--ignore-environment", *SETTINGS]

    def path(self, path: str) -> str:
        """Where a file of the machine is for this process."""
        return f"/proc/{self.process}/root{path}"

    def attempt(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command, which may fail, and has to end in time."""
        argv = [*self.enter, "sh", "-c", command]
        try:
            return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS_TO_END, check=False)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(
                f"{self.name}: {command}: not at its end within {SECONDS_TO_END} s: {late.stderr!r} {late.stdout!r}\n"
                f"{hosts.condition(self.container.name)}"
            ) from None

    def run(self, command: str) -> str:
        """Run a shell command that has to succeed; gives back what it prints."""
        done = self.attempt(command)
        assert done.returncode == 0, f"{self.name}: {command}: code {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def instrument(self, name: str, *arguments: str) -> t.Any:
        """Run one of the instruments; gives back what it prints as JSON."""
        text = self.run(" ".join(("python3", f"/opt/instruments/{name}.py", *arguments)))
        return json.loads(text) if text else None

    def echo(self, *arguments: str) -> Running:
        """Answer on every port while the context lasts."""
        return Running(self, "echo", arguments)


@dataclass(frozen=True)
class Running:
    """An instrument that runs on a host while the context lasts."""

    machine: Machine
    name: str
    arguments: tuple[str, ...]

    def __enter__(self) -> None:
        command = " ".join((f"python3 /opt/instruments/{self.name}.py", *self.arguments))
        # One that a test which was interrupted has left.
        self.machine.attempt(f"systemctl stop {self.name}.service")
        self.machine.run(f"systemd-run --quiet --unit={self.name} --collect --service-type=notify {command}")

    def __exit__(self, *_error: object) -> None:
        self.machine.run(f"systemctl stop {self.name}.service")


@dataclass(frozen=True)
class Run:
    """How a playbook ended: the tasks that changed something, and why it failed (empty when it did not)."""

    changed: list[str]
    failed: str


class Target(Machine):
    """A host under test, with the firewall of a backend: between the other side and a machine inside."""

    def __init__(self, target: hosts.Target, profile: Profile) -> None:
        super().__init__(target.name, target.container)
        self.resolver = target.subject if target.dns else ""
        if target.dns:
            self.settings["agora_dns"] = target.subject
        self.far, self.inside = (Machine(host.name, host) for host in hosts.beside(target.container.lane))
        self.profile = profile
        self._resident = 0

    def reset(self, firewall: str | None = None) -> None:
        """As it was made, with its backend's own firewall and neighbours, or with another kind of `reset`."""
        self.run(f"/opt/instruments/reset {firewall or self.profile.name}")

    def reset_site(self) -> None:
        """As it was made in a scenario of role dns_allowlist: a host that asks the other side for names."""
        self.run(f"/opt/instruments/reset nftables-dns {' '.join(self.far.addresses)}")

    def forward(self) -> None:
        """Become the gateway between the other side and the machine inside."""
        self.run("sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        for machine, plug, other in ((self.far, "outside", self.inside), (self.inside, "inside", self.far)):
            for address, gateway in zip(other.addresses, self.plugs[plug]):
                machine.run(f"ip route replace {address} via {gateway}")
            machine.instrument("witness", "begin", "--neighbours", *self.plugs[plug])
            machine.instrument("witness", "end")

    def state(self) -> dict[str, t.Any]:
        """Everything that the collection might change."""
        state: dict[str, t.Any] = self.instrument("state")
        return state

    def reboot(self) -> None:
        """Restart the host; returns when it has started all its services."""
        hosts.podman("restart", "--time=2", self.container.name)
        self._process = hosts.started(self.container.name)
        # Not every test's host has it enabled.
        self.attempt(self.profile.ready)

    def wait(self, script: str, what: str, seconds: int = 30) -> None:
        """Run a shell script that ends when something has come about, for at most so many seconds."""
        done = self.attempt(f"timeout {seconds} sh -c {shlex.quote(script)}")
        assert done.returncode == 0, (
            f"{self.name}: no {what} within {seconds} s: {done.stdout}{done.stderr}\n"
            f"{hosts.condition(self.container.name)}"
        )

    @contextlib.contextmanager
    def probe(self) -> t.Iterator[None]:
        """While the context lasts, a service that starts as early as promised writes down what is in force then.

        With a unit of ours that is before any ordinary one; firewalls that bring our rules do it before the network.
        """
        target, unit = ("basic.target", "") if self.profile.boot_unit else ("multi-user.target", "network-pre.target")
        text = f"""
            [Unit]
            Description=Looks at the firewall
            After={unit}
            Wants={unit}
            [Service]
            Type=oneshot
            ExecStart=/bin/sh -c "({self.profile.show}) >/var/tmp/at-boot"
            """
        # Not below /etc, which is what tests compare.
        folder = "/usr/local/lib/systemd/system"
        self.run(f"mkdir -p {folder}/{target}.wants; echo '{textwrap.dedent(text)}' >{folder}/probe.service")
        self.run(f"ln -s {folder}/probe.service {folder}/{target}.wants/")
        try:
            yield
        finally:
            self.run(f"rm -r {folder}/probe.service {folder}/{target}.wants /var/tmp/at-boot")

    @contextlib.contextmanager
    def commands_that(self, does: str, *commands: str, when: str = "*") -> t.Iterator[None]:
        """While the context lasts, these commands do something else first when their arguments match a pattern."""
        for command in commands:
            lines = (
                "#!/bin/sh",
                f'case "$*" in {when}) {does};; esac',
                f'exec {self.run(f"command -v {command}").strip()} "$@"',
            )
            self.run(f"printf '%s\\n' {shlex.join(lines)} >/usr/local/bin/{command}")
        wrappers = " ".join(f"/usr/local/bin/{command}" for command in commands)
        self.run(f"chmod 755 {wrappers}")
        try:
            yield
        finally:
            self.run(f"rm {wrappers}")

    @contextlib.contextmanager
    def changes(self) -> t.Iterator[Change]:
        """What makes changes there without Ansible, while the context lasts."""
        package = pathlib.Path(self.path("/run/collections/ansible_collections/openagora/firewall"))
        shutil.copytree(ROOT / "plugins", package / "plugins", ignore=LEFT)
        argv = [*self.enter, "env", "PYTHONPATH=/run/collections", "python3", "-c", CHANGER]
        try:
            with changer(start(argv)) as change:
                yield change
        finally:
            self.run("/bin/rm -rf /run/collections")

    @property
    def inventory(self) -> tuple[str, ...]:
        """How Ansible's commands find the host: it alone, by a faster connection than that of the inventory."""
        self.keep_resident()
        variables = {**self.settings, "ansible_connection": "resident", "container_process": self.process}
        return ("--inventory", f"{self.name},", "--extra-vars", json.dumps(variables))

    def keep_resident(self) -> None:
        """Have the process on the host that runs modules, with the code of this checkout."""
        if self._resident == self.process:
            return
        folder = pathlib.Path(self.path("/run/resident"))
        shutil.rmtree(folder, ignore_errors=True)
        code = pathlib.Path(ansible.__file__).parent
        for name in ("module_utils", "modules"):
            shutil.copytree(code / name, folder / "ansible" / name, ignore=LEFT)
        # What Ansible sends with a module in place of its own file.
        release = f"__version__ = {ansible.__version__!r}\n__author__ = {ansible.__author__!r}\n"
        (folder / "ansible" / "__init__.py").write_text(release, encoding="utf-8")
        package = folder / "ansible_collections" / "openagora" / "firewall"
        shutil.copytree(ROOT / "plugins", package / "plugins", ignore=LEFT)
        self.run("python3 /opt/instruments/resident.py")
        self._resident = self.process

    def module(self, module: str, *flags: str, **options: t.Any) -> dict[str, t.Any]:
        """Run a module of the collection through Ansible; gives back its result."""
        arguments = [self.name, *self.inventory, "--diff", *flags, "-m", f"openagora.firewall.{module}"]
        return self._result(tool("ansible", *arguments, *(["-a", json.dumps(options)] if options else [])))

    def _result(self, done: subprocess.CompletedProcess[str]) -> dict[str, t.Any]:
        """What the only task of a run of Ansible returned."""
        try:
            result: dict[str, t.Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"][self.name]
        except (ValueError, LookupError) as error:
            raise AssertionError(f"no result from ansible: {done.stdout}{done.stderr}") from error
        return result

    def playbook(self, playbook: str, *flags: str, stdin: str = "", **variables: t.Any) -> Run:
        """Run a playbook on the host alone."""
        wanted = ("--extra-vars", json.dumps({"agora_hosts": self.name, **variables}))
        done = tool("ansible-playbook", *self.inventory, *wanted, *flags, playbook, stdin=stdin)
        try:
            plays = json.loads(done.stdout)["plays"]
        except ValueError as error:
            raise AssertionError(f"no result from ansible: {done.stdout}{done.stderr}") from error
        tasks = [(task["task"]["name"], task["hosts"].get(self.name, {})) for play in plays for task in play["tasks"]]
        return Run(
            [name for name, result in tasks if result.get("changed")],
            "; ".join(f"{name}: {result}" for name, result in tasks if result.get("failed")),
        )

    def role(self, role: str, *flags: str, **variables: t.Any) -> Run:
        """Run a role of the collection alone."""
        play = {"hosts": self.name, "gather_facts": False, "roles": [f"openagora.firewall.{role}"]}
        return self.playbook("/dev/stdin", *flags, stdin=json.dumps([play]), **variables)

    def apply(self, *sdks: str, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        """Run module apply, which has to succeed."""
        if sdks:
            options["sdks"] = list(sdks)
        result = self.module("apply", *(["--check"] if check else []), **options)
        assert not result.get("failed"), result.get("msg")
        return result

    def apply_each(self, wishes: list[list[str]], **options: t.Any) -> list[dict[str, t.Any]]:
        """Run module apply for one choice of SDKs after the other, each of which has to succeed."""
        task = {"openagora.firewall.apply": {"sdks": "{{ item }}", **options}, "loop": wishes}
        play = {"hosts": self.name, "gather_facts": False, "tasks": [task]}
        result = self._result(tool("ansible-playbook", *self.inventory, "/dev/stdin", stdin=json.dumps([play])))
        assert not result.get("failed"), [item["msg"] for item in result["results"] if item.get("failed")]
        return list(result["results"])

    def refused(self, **options: t.Any) -> str:
        """Run module apply, which has to fail with a message of its own and change nothing; gives back the message."""
        before = self.state()
        result = self.module("apply", **options)
        assert result.get("failed"), result
        assert "Traceback" not in result["msg"] + result.get("module_stderr", ""), result
        assert not changes(before, self.state())
        return str(result["msg"])

    def measure(
        self,
        *,
        directions: t.Collection[str] = ("egress", "ingress"),
        through: bool = False,
        sport: int = 2,
        flags: str = "syn",
        low: int = 1,
        high: int = 65535,
    ) -> Measured:
        """Send a packet to every port, in both directions, protocols and families, and see which come through.

        Egress is what arrives on the other side; ingress is what comes past all chains of the host's input hook. With
        `through` the packets are those of the machine inside, and ingress is what arrives there.
        """
        packets = ("--sport", str(sport), "--flags", flags, "--low", str(low), "--high", str(high))
        # What former packets left in connection tracking must not let anything through.
        self.run("conntrack --flush")
        near, place = (self.inside, "wire") if through else (self, "past")
        ways = {"egress": (near, self.far, "wire"), "ingress": (self.far, near, place)}
        known = {self.far: self.plugs["outside"], self.inside: self.plugs["inside"], self: ()}
        # Also where only ingress is measured: the other side gets to know this host.
        for sender, receiver, at in ways.values():
            words = ("--place", at, "--sources", *sender.addresses, "--neighbours", *known[receiver])
            receiver.instrument("witness", "begin", *words)
        with ThreadPoolExecutor() as pool:
            sent = [
                pool.submit(sender.instrument, "sender", *receiver.addresses, *packets)
                for direction, (sender, receiver, _at) in ways.items()
                if direction in directions
            ]
            for sending in sent:
                counts = sending.result()
                assert all(sum(count.values()) == high - low + 1 for count in counts.values()), counts
            seen = {
                direction: pool.submit(receiver.instrument, "witness", "end")
                for direction, (_sender, receiver, _at) in ways.items()
            }
        return Measured(**{direction: as_sets(recording.result()) for direction, recording in seen.items()})

    def prove(self, **options: t.Any) -> Measured:
        """What module proof says of the same: the kernel's verdict in a copy of the live rules."""
        result = self.module("proof", **options)
        assert not result.get("failed"), result.get("msg")
        return as_opened(result)

    def assert_open(self, *sdks: str) -> None:
        """By packets: open is what the document lists for these SDKs, and nothing else."""
        measured = self.measure()
        assert not differences("egress", both_families(document.egress(sdks)), measured.egress)
        assert not differences("ingress", both_families(document.ingress(sdks)), measured.ingress)

    def lets_out(self, protocol: str, port: int) -> dict[str, bool]:
        """By packets: whether one port is open for egress, for each family."""
        measured = self.measure(directions=["egress"], low=port, high=port)
        return {name[-1]: port in measured.egress[name] for name in SETS if name.startswith(protocol)}
