# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long opening all five SDKs takes, beside a ping and beside loops of the modules that people use otherwise.

All runs of a backend go to one container, over one connection plugin with the same settings, and are timed as a user
waits for them: from the start of ansible-playbook to its end. Prints medians; judges nothing but that each run did its
work.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/openagora-test"
CONTAINER = "openagora-benchmark"
SDKS = ["native", "web", "signaling", "recording", "gaming"]


class Backend(t.NamedTuple):
    """Where a backend is measured, what a loop is made of there, and the aims of apply's first and second run."""

    suite: str
    loop: str | None
    first: str
    second: str


BACKENDS = {
    "iptables": Backend(
        "bookworm",
        "ansible.builtin.iptables",
        "at most 1.6 x ping, loop at least 8 x",
        "at most 1.4 x ping, loop at least 8 x",
    ),
    "nftables": Backend("bookworm", None, "at most 1.6 x ping", "at most 1.4 x ping"),
    "ufw": Backend(
        "bookworm-ufw", "community.general.ufw", "loop at least 12 x", "at most 1.4 x ping, loop at least 18 x"
    ),
    "firewalld": Backend(
        "bookworm", "ansible.posix.firewalld", "loop at least 9 x", "at most 1.4 x ping, loop at least 10 x"
    ),
}
# What carries the modules of the loops, ansible-core's own aside.
LOOP_COLLECTIONS = ("ansible.posix", "community.general")

FIRST, SECOND = "module apply, first run", "module apply, second run"
# The runs that follow each other on the same host: name, playbook, and how many changed tasks its recap has to show.
GROUPS: dict[str, list[tuple[str, str, int]]] = {
    "ping": [("ping", "ping", 0)],
    "apply": [(FIRST, "apply", 1), (SECOND, "apply", 0), ("module apply, state: absent", "absent", 1)],
    "playbook": [
        ("open-agora.yml, first run", "open-agora", 1),
        ("open-agora.yml, second run", "open-agora", 0),
        ("module apply, state: absent", "absent", 1),
    ],
    "loop": [("loop, first run", "loop-{backend}", 1), ("loop, second run", "loop-{backend}", 0)],
}

# How the control node reaches the container: what the inventory says, and what to know about it.
CONNECTIONS: dict[str, tuple[dict[str, str], str]] = {
    "nsenter": (
        {"ansible_connection": "container", "container_process": "{process}"},
        "nsenter with pipelining: a task costs one process, less than over any network",
    ),
    "podman": (
        {"ansible_connection": "containers.podman.podman", "ansible_host": "{container}"},
        "containers.podman.podman, which cannot pipeline: a task costs several calls of podman",
    ),
}

Times = dict[str, list[float]]


def run(*argv: str, **options: t.Any) -> str:
    """Run a command and return its output; its failure ends the benchmark with what it said."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        argv, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        sys.exit(f"{' '.join(argv)} ended with code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def enter(process: int, *argv: str) -> str:
    """Run a command in the container."""
    return run("nsenter", "--target", str(process), "--all", "--", *argv)


@contextlib.contextmanager
def container(suite: str) -> t.Iterator[tuple[str, int]]:
    """A host that lives as long as the context, also when the benchmark is interrupted: its name and process 1."""
    name, image = f"{CONTAINER}-{suite}", f"{IMAGE}:{suite}"
    if subprocess.run(["podman", "image", "exists", image], check=False).returncode:
        sys.exit(f"there is no image {image}; make it with: make image-{suite}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What nohup ignores stays ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    options = ["--detach", "--replace", f"--name={name}", "--pull=never", "--network=none"]
    options += ["--runtime=runc", "--systemd=always", "--privileged"]
    options += ["--ulimit=nofile=16384:16384", "--ulimit=nproc=1024:1024"]
    options += [f"--volume={ROOT / 'tests/contract/instruments'}:/opt/instruments:ro"]
    try:
        run("podman", "run", *options, image, "/sbin/init")
        process = int(run("podman", "inspect", "--format={{.State.Pid}}", name))
        # Says "No such file" until systemd listens, and has an exit code of its own for a host that is degraded.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            argv = ["podman", "exec", name, "systemctl", "is-system-running", "--wait"]
            state = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
            if state in ("running", "degraded"):
                break
            time.sleep(0.2)
        else:
            sys.exit(f"systemd in container {name} is not running after a minute")
        yield name, process
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        subprocess.run(
            ["podman", "rm", "--force", "--ignore", "--time=0", name], stdout=subprocess.DEVNULL, check=False
        )


class Control:
    """The control node: an inventory with the container, the playbooks, and the way they are run."""

    def __init__(self, folder: Path, container: str, process: int, connection: str) -> None:
        self.process = process
        self._folder = folder
        self._inventory = folder / "hosts.json"
        # The settings of the checkout, and none of the user's.
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "tests" / "contract" / "connection"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "LC_ALL": "C.UTF-8",
        }
        host = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,
            "agora_sdks": SDKS,
            **{
                name: value.format(container=container, process=process)
                for name, value in CONNECTIONS[connection][0].items()
            },
        }
        self._inventory.write_text(json.dumps({"all": {"hosts": {"host": host}}}), encoding="utf-8")
        self._paths = {"open-agora": ROOT / "open-agora.yml"}

    def ask(self, module: str, **options: t.Any) -> dict[str, t.Any]:
        """What a module returns."""
        argv = ["ansible", "host", f"--inventory={self._inventory}", f"--module-name={module}"]
        out = self._run(*argv, *([f"--args={json.dumps(options)}"] if options else []))
        return dict(json.loads(out[out.index("{") :]))

    def write(self, name: str, task: dict[str, t.Any]) -> None:
        """Write a playbook of one task."""
        self._paths[name] = self._folder / f"{name}.json"
        play = {"hosts": "all", "gather_facts": False, "tasks": [task]}
        self._paths[name].write_text(json.dumps([play]), encoding="utf-8")

    def play(self, name: str, changed: int) -> float:
        """The seconds that a playbook takes. Ends the benchmark when it did not change as many tasks as it should."""
        start = time.perf_counter()
        out = self._run("ansible-playbook", f"--inventory={self._inventory}", str(self._paths[name]))
        took = time.perf_counter() - start
        if f"changed={changed} " not in out:
            sys.exit(f"playbook {name} should have changed {changed} tasks:\n{out}")
        return took

    def _run(self, command: str, *arguments: str) -> str:
        return run(str(Path(sys.executable).with_name(command)), *arguments, env=self._environment, cwd=ROOT)


def loop_task(backend: str, rules: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """The task that opens the ports of what module `rules` returned with the module that people use on this firewall.

    An item for each direction, protocol and range. A zone of firewalld knows no direction: there the egress ports are
    all, because every ingress port is among them.
    """
    items = [
        {"direction": rule["direction"], "protocol": rule["protocol"], "ports": ports}
        for rule in rules
        for ports in rule["ports"]
        if backend != "firewalld" or rule["direction"] == "egress"
    ]
    protocol, ports = "{{ item.protocol }}", "{{ item.ports | replace('-', ':') }}"
    egress = "item.direction == 'egress'"
    options: dict[str, dict[str, t.Any]] = {
        "iptables": {
            "chain": f"{{{{ 'OUTPUT' if {egress} else 'INPUT' }}}}",
            "protocol": protocol,
            "destination_port": ports,
            "jump": "ACCEPT",
        },
        "ufw": {
            "rule": "allow",
            "direction": f"{{{{ 'out' if {egress} else 'in' }}}}",
            "proto": protocol,
            "to_port": ports,
        },
        "firewalld": {
            "zone": "outside",
            "port": "{{ item.ports }}/{{ item.protocol }}",
            "state": "enabled",
            "permanent": True,
            "immediate": True,
        },
    }
    return {str(BACKENDS[backend].loop): options[backend], "loop": items}


def write_playbooks(control: Control) -> dict[str, int]:
    """Write what is timed; returns how many items the loop of each backend has."""
    rules = control.ask("openagora.firewall.rules", sdks=SDKS)["rules"]
    control.write("ping", {"ansible.builtin.ping": {}})
    control.write("apply", {"openagora.firewall.apply": {"sdks": SDKS}})
    control.write("absent", {"openagora.firewall.apply": {"state": "absent"}})
    loops = {name: loop_task(name, rules) for name, backend in BACKENDS.items() if backend.loop}
    for name, task in loops.items():
        control.write(f"loop-{name}", task)
    return {name: len(task["loop"]) for name, task in loops.items()}


def settle(control: Control, backend: str) -> None:
    """Give the host the firewall of a backend, and make sure that auto takes it; a first, untimed run fills caches."""
    enter(control.process, "/opt/instruments/reset", backend)
    control.play("apply", 1)
    held = control.ask("openagora.firewall.applied_info")["backends"]
    if held != [backend]:
        sys.exit(f"backend {backend} was to be measured, and the rules went to {', '.join(held)}")
    control.play("absent", 1)


def measure(controls: dict[str, Control], runs: int) -> dict[str, Times]:
    """For each backend, what each kind of run took. Every round measures all, and turns the order around."""
    took: dict[str, Times] = {backend: {} for backend in BACKENDS}
    for number in range(runs):
        turn = 1 if number % 2 == 0 else -1
        for name, backend in list(BACKENDS.items())[::turn]:
            control = controls[backend.suite]
            settle(control, name)
            for group in [group for group in GROUPS if group != "loop" or backend.loop][::turn]:
                for what, playbook, changed in GROUPS[group]:
                    took[name].setdefault(what, []).append(control.play(playbook.format(backend=name), changed))
                if group == "loop":
                    enter(control.process, "/opt/instruments/reset", name)
        print(f"round {number + 1} of {runs} is done", file=sys.stderr, flush=True)
    return took


def facts(controls: dict[str, Control]) -> t.Iterator[str]:
    """The machine and the versions that the figures belong to."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    yield f"machine: {cores} cores ({model[1] if model else platform.machine()}), Linux {platform.release()}"
    versions = [f"Python {platform.python_version()}", f"ansible-core {importlib.metadata.version('ansible-core')}"]
    for name in LOOP_COLLECTIONS:
        manifest = f"ansible_collections/{name.replace('.', '/')}/MANIFEST.json"
        text = Path(str(importlib.metadata.distribution("ansible").locate_file(manifest))).read_text(encoding="utf-8")
        versions.append(f"{name} {json.loads(text)['collection_info']['version']}")
    yield f"control node: {', '.join(versions)}"
    for suite, control in controls.items():
        debian = enter(control.process, "cat", "/etc/debian_version").strip()
        packages = ["python3", *(name for name, backend in BACKENDS.items() if backend.suite == suite)]
        show = "--showformat=, ${Package} ${source:Upstream-Version}"
        installed = enter(control.process, "dpkg-query", "--show", show, *packages)
        yield f"host {suite}: container of Debian {debian}{installed}"


def table(took: dict[str, Times]) -> t.Iterator[str]:
    """A line for each kind of run: median, spread, and the ratios that the aims are about."""
    medians = {
        backend: {what: statistics.median(times) for what, times in kinds.items()} for backend, kinds in took.items()
    }
    form = "{:9} {:28} {:>7}  {:>13} {:>7} {:>7}  {}"
    yield form.format("backend", "what", "seconds", "from-to", "x ping", "loop x", "aim").rstrip()
    for backend, kinds in took.items():
        aims = {FIRST: BACKENDS[backend].first, SECOND: BACKENDS[backend].second}
        for what, times in kinds.items():
            median = medians[backend][what]
            order = "first" if "first" in what else "second" if "second" in what else ""
            loop = medians[backend if BACKENDS[backend].loop else "iptables"].get(f"loop, {order} run")
            yield form.format(
                backend,
                what,
                f"{median:.2f}",
                f"{min(times):.2f}-{max(times):.2f}",
                f"{median / medians[backend]['ping']:.2f}",
                f"{loop / median:.1f}" if loop and not what.startswith("loop") else "",
                aims.get(what, ""),
            ).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="how often each is timed (default: 5)")
    parser.add_argument("--connection", choices=CONNECTIONS, default="nsenter", help="default: nsenter")
    arguments = parser.parse_args()
    runs = arguments.runs
    if runs < 1:
        parser.error("--runs: at least 1 is needed")
    if os.geteuid():
        sys.exit("the benchmark makes containers, which needs root; run it with: make benchmark")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        controls: dict[str, Control] = {}
        for suite in dict.fromkeys(backend.suite for backend in BACKENDS.values()):
            (folder / suite).mkdir()
            name, process = stack.enter_context(container(suite))
            controls[suite] = Control(folder / suite, name, process, arguments.connection)
            items = write_playbooks(controls[suite])
        load = [os.getloadavg()[0]]
        took = measure(controls, runs)
        load.append(os.getloadavg()[0])
        lines = [
            f"All five SDKs ({', '.join(SDKS)}) on one host whose firewall drops in both directions.",
            f"Wall-clock seconds of a whole ansible-playbook, median of {runs}.",
            f"Connection, the same for all: {CONNECTIONS[arguments.connection][1]}.",
            "loop: the same ports, one task with an item for each direction, protocol and range:",
            *(f"  {name}: {BACKENDS[name].loop}, {count} items" for name, count in items.items()),
            "With iptables it opens IPv4 only, lets no replies through and is gone after a reboot. With ufw it writes",
            "over the host's own deny of 1080/tcp. With firewalld it opens a zone: inwards, where SDKs dial out.",
            "Column `loop x`: how many times as long the loop takes as this run; nftables beside that of iptables.",
            *facts(controls),
            f"load average: {load[0]:.1f} before, {load[1]:.1f} after",
            "",
            *table(took),
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the containers are gone")
