# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long opening all five SDKs takes, beside a ping and beside a loop of ansible.builtin.iptables.

Everything runs against one container, over one connection plugin with the same settings, and is timed as a user waits
for it: from the start of ansible-playbook to its end. Prints medians; judges nothing but that each run did its work.
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
IMAGE = "localhost/openagora-test:bookworm"
CONTAINER = "openagora-benchmark"
SDKS = ["native", "web", "signaling", "recording", "gaming"]

# The runs that follow each other on the same host: name, playbook, and how many changed tasks its recap has to show.
GROUPS: dict[str, list[tuple[str, str, int]]] = {
    "ping": [("ping", "ping", 0)],
    "apply": [
        ("module apply, first run", "apply", 1),
        ("module apply, second run", "apply", 0),
        ("module apply, state: absent", "absent", 1),
    ],
    "playbook": [
        ("open-agora.yml, first run", "open-agora", 1),
        ("open-agora.yml, second run", "open-agora", 0),
        ("module apply, state: absent", "absent", 1),
    ],
    "loop": [
        ("loop, first run", "loop", 1),
        ("loop, second run", "loop", 0),
    ],
}
BACKENDS = {"iptables": ["ping", "apply", "playbook", "loop"], "nftables": ["ping", "apply", "playbook"]}
AIMS = {
    "module apply, first run": "at most 1.6 x ping, loop at least 8 x",
    "module apply, second run": "at most 1.4 x ping, loop at least 8 x",
}

# How the control node reaches the container: what the inventory says, and what to know about it.
CONNECTIONS: dict[str, tuple[dict[str, str], str]] = {
    "nsenter": (
        {"ansible_connection": "container", "container_process": "{process}"},
        "nsenter with pipelining: a task costs one process, less than over any network",
    ),
    "podman": (
        {"ansible_connection": "containers.podman.podman", "ansible_host": CONTAINER},
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
def container() -> t.Iterator[int]:
    """A host that lives as long as the context, also when the benchmark is interrupted; yields its process 1."""
    if subprocess.run(["podman", "image", "exists", IMAGE], check=False).returncode:
        sys.exit(f"there is no image {IMAGE}; make it with: make images")
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What nohup ignores stays ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    options = ["--detach", "--replace", f"--name={CONTAINER}", "--pull=never", "--network=none"]
    options += ["--runtime=runc", "--systemd=always", "--privileged"]
    options += ["--ulimit=nofile=16384:16384", "--ulimit=nproc=1024:1024"]
    options += [f"--volume={ROOT / 'tests/contract/instruments'}:/opt/instruments:ro"]
    try:
        run("podman", "run", *options, IMAGE, "/sbin/init")
        process = int(run("podman", "inspect", "--format={{.State.Pid}}", CONTAINER))
        # Says "No such file" until systemd listens, and has an exit code of its own for a host that is degraded.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            argv = ["podman", "exec", CONTAINER, "systemctl", "is-system-running", "--wait"]
            state = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
            if state in ("running", "degraded"):
                break
            time.sleep(0.2)
        else:
            sys.exit(f"systemd in container {CONTAINER} is not running after a minute")
        yield process
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        subprocess.run(
            ["podman", "rm", "--force", "--ignore", "--time=0", CONTAINER], stdout=subprocess.DEVNULL, check=False
        )


class Control:
    """The control node: an inventory with the container, the playbooks, and the way they are run."""

    def __init__(self, folder: Path, process: int, connection: str) -> None:
        self._folder = folder
        self._inventory = folder / "hosts.json"
        # The settings of the checkout, and none of the user's.
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).with_name("connection")),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "LC_ALL": "C.UTF-8",
        }
        host = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,
            "agora_sdks": SDKS,
            **{name: value.format(process=process) for name, value in CONNECTIONS[connection][0].items()},
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


def loop_items(rules: list[dict[str, t.Any]]) -> list[dict[str, str]]:
    """An item of the loop for each direction, protocol and range of what module `rules` returned."""
    chains = {"egress": "OUTPUT", "ingress": "INPUT"}
    return [
        {"chain": chains[rule["direction"]], "protocol": rule["protocol"], "ports": ports.replace("-", ":")}
        for rule in rules
        for ports in rule["ports"]
    ]


def write_playbooks(control: Control) -> int:
    """Write what is timed; returns how many items the loop has."""
    items = loop_items(control.ask("openagora.firewall.rules", sdks=SDKS)["rules"])
    control.write("ping", {"ansible.builtin.ping": {}})
    control.write("apply", {"openagora.firewall.apply": {"sdks": SDKS}})
    control.write("absent", {"openagora.firewall.apply": {"state": "absent"}})
    rule = {"chain": "{{ item.chain }}", "protocol": "{{ item.protocol }}", "destination_port": "{{ item.ports }}"}
    control.write("loop", {"ansible.builtin.iptables": {**rule, "jump": "ACCEPT"}, "loop": items})
    return len(items)


def settle(control: Control, process: int, backend: str) -> None:
    """Give the host the firewall of a backend, and make sure that auto takes it; a first, untimed run fills caches."""
    enter(process, "/opt/instruments/reset", backend)
    control.play("apply", 1)
    held = control.ask("openagora.firewall.applied_info")["backends"]
    if held != [backend]:
        sys.exit(f"backend {backend} was to be measured, and the rules went to {', '.join(held)}")
    control.play("absent", 1)


def measure(control: Control, process: int, runs: int) -> dict[str, Times]:
    """For each backend, what each kind of run took. Every round measures all, and turns the order around."""
    took: dict[str, Times] = {backend: {} for backend in BACKENDS}
    for number in range(runs):
        turn = 1 if number % 2 == 0 else -1
        for backend in list(BACKENDS)[::turn]:
            settle(control, process, backend)
            for group in BACKENDS[backend][::turn]:
                for what, playbook, changed in GROUPS[group]:
                    took[backend].setdefault(what, []).append(control.play(playbook, changed))
                if group == "loop":
                    enter(process, "/opt/instruments/reset", backend)
        print(f"round {number + 1} of {runs} is done", file=sys.stderr, flush=True)
    return took


def facts(process: int) -> t.Iterator[str]:
    """The machine and the versions that the figures belong to."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    yield f"machine: {cores} cores ({model[1] if model else platform.machine()}), Linux {platform.release()}"
    yield f"control node: ansible-core {importlib.metadata.version('ansible-core')}, Python {platform.python_version()}"
    debian = enter(process, "cat", "/etc/debian_version").strip()
    versions = [enter(process, *command).split() for command in (["python3", "-V"], ["iptables", "-V"], ["nft", "-v"])]
    python, iptables, nft = (words[1].removeprefix("v") for words in versions)
    yield f"host: container of Debian {debian}, Python {python}, iptables {iptables} (nf_tables), nftables {nft}"


def table(took: dict[str, Times]) -> t.Iterator[str]:
    """A line for each kind of run: median, spread, and the ratios that the aims are about."""
    medians = {
        backend: {what: statistics.median(times) for what, times in kinds.items()} for backend, kinds in took.items()
    }
    loop = medians["iptables"]
    form = "{:9} {:28} {:>7}  {:>13} {:>7} {:>7}  {}"
    yield form.format("backend", "what", "seconds", "from-to", "x ping", "loop x", "aim").rstrip()
    for backend, kinds in took.items():
        for what, times in kinds.items():
            median = medians[backend][what]
            order = "first" if "first" in what else "second" if "second" in what else ""
            yield form.format(
                backend,
                what,
                f"{median:.2f}",
                f"{min(times):.2f}-{max(times):.2f}",
                f"{median / medians[backend]['ping']:.2f}",
                f"{loop[f'loop, {order} run'] / median:.1f}" if order and not what.startswith("loop") else "",
                AIMS.get(what, ""),
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
        sys.exit("the benchmark makes a container, which needs root; run it with: make benchmark")
    with container() as process, tempfile.TemporaryDirectory() as folder:
        control = Control(Path(folder), process, arguments.connection)
        items = write_playbooks(control)
        load = [os.getloadavg()[0]]
        took = measure(control, process, runs)
        load.append(os.getloadavg()[0])
        lines = [
            f"All five SDKs ({', '.join(SDKS)}) on one host whose firewall drops in both directions.",
            f"Wall-clock seconds of a whole ansible-playbook, median of {runs}.",
            f"Connection, the same for all: {CONNECTIONS[arguments.connection][1]}.",
            f"loop: the same ports, a task of ansible.builtin.iptables with {items} items, on the iptables host.",
            "It opens IPv4 only, lets no replies through and is gone after a reboot; apply sees to all of that.",
            "Column `loop x`: how many times as long the loop takes as this run.",
            *facts(process),
            f"load average: {load[0]:.1f} before, {load[1]:.1f} after",
            "",
            *table(took),
        ]
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the container is gone")
