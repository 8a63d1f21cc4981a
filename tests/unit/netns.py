# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway hosts for the tests of what reads and changes a firewall: their kernel and their commands are real."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
import typing as t
from dataclasses import dataclass, replace
from pathlib import Path

from ansible_collections.openagora.firewall.plugins.module_utils._apply import Prepared, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Command, Outcome, Step
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost, carry_out
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet, normalise_networks
from document import SDKS

__all__ = ["FIREWALLS", "IPTABLES", "LEGACY", "NFTABLES", "Firewall", "NetnsHost", "rule_set"]

# /etc holds what the commands need, in files that belong to the host's root; its upper folder then has what a test
# changed. /var/lib is empty. /usr/local/sbin comes first in the host's PATH: a test puts there what is to stand in for
# a command. in0 and out0 are the two sides of a gateway.
_FURNISH = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/upper /run/work /run/lower/systemd/system
cd /etc
cp -r --no-dereference alternatives group ld.so.* nsswitch.conf passwd protocols services /run/lower
cd /
mount -t overlay -o lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work,userxattr overlay /etc
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
mount -t tmpfs -o mode=755 tmpfs /var/lib
ip link add in0 type veth peer name out0
echo ready
exec cat
"""

# Looking at a legacy table creates it.
_LIVE = """
nft -s list ruleset
read -r table </proc/net/ip_tables_names && iptables-legacy-save
read -r table </proc/net/ip6_tables_names && ip6tables-legacy-save
"""

_SYSTEMCTL = """
case "$*" in
    is-active*) grep -qx "$3" /run/systemd/active ;;
    show*ExecStart*) cat /run/systemd/nftables ;;
    show*) cat /run/systemd/show ;;
    *) echo "$*" >> /run/systemd/asked ;;
esac
"""


class NetnsHost(LocalHost):
    """A host with network, mounts, /etc and /run of its own, held by a process that ends with the tests.

    For an ordinary user it is made in a user namespace. A context manager: the host ends with the block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()
        # Two steps: the files of a network namespace that is made before the user map is written belong to nobody.
        user = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            [*user, "unshare", "--mount", "--net", "sh", "-c", _FURNISH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = self._holder.stdout.readline().strip() if self._holder.stdout else ""
        if said != "ready":
            self._holder.communicate()
            raise RuntimeError(
                "these tests make hosts of Linux namespaces: they have to run as root, or where users may make "
                f"namespaces (sysctl user.max_user_namespaces): {said}"
            )
        self._enter = ["nsenter", f"--target={self._holder.pid}", "--mount", "--net"]
        self._enter += ["--user", "--preserve-credentials"] if user else []

    def __enter__(self) -> NetnsHost:
        return self

    def __exit__(self, *_error: object) -> None:
        self._holder.communicate()

    # The host of the backend contract

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        if argv[0] in self.hidden:
            return Outcome(127, "", f"{argv[0]}: command not found")
        return super().run([*self._enter, *argv], stdin=stdin)

    def which(self, name: str) -> str | None:
        if name in self.hidden:
            return None
        return super().which(name) or (name if self.exists(f"/usr/local/sbin/{name}") else None)

    def read(self, path: str) -> str | None:
        if path.startswith("/proc/sys/net/"):
            # What is read there is that of the reader's network namespace.
            return self.run(["cat", path]).out
        return None if path in self.hidden else super().read(self.path(path))

    def exists(self, path: str) -> bool:
        return path not in self.hidden and super().exists(self.path(path))

    # What tests do to it and ask it

    def path(self, path: str) -> str:
        """Where a file of the host is for this process."""
        process = f"/proc/{self._holder.pid}"
        return path.replace("/proc", process, 1) if path.startswith("/proc/") else f"{process}/root{path}"

    def put(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the host."""
        file = Path(self.path(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def stand_in(self, name: str, script: str) -> None:
        """Put a shell script before the command of this name."""
        # What stands there may be a link, and to write through it would overwrite the machine's own command.
        Path(self.path(f"/usr/local/sbin/{name}")).unlink(missing_ok=True)
        self.put(f"/usr/local/sbin/{name}", f"#!/bin/sh\n{script}\n", mode=0o755)

    def systemd(self, *, show: str = "", nftables: str = "", active: str = "") -> None:
        """Let the host look as if systemd ran there.

        `show` is what systemctl shows of units, `nftables` what it shows of nftables.service, `active` a unit that is
        active. What else it is asked to do stands, a line each, in /run/systemd/asked; it fails when that is a folder.
        """
        self.put("/run/systemd/system/.keep", "")
        self.put("/run/systemd/show", show)
        self.put("/run/systemd/nftables", nftables)
        self.put("/run/systemd/active", active)
        self.stand_in("systemctl", _SYSTEMCTL)

    def sh(self, script: str, *, stdin: str | None = None) -> str:
        """Run a shell script that has to succeed, and return what it prints."""
        done = self.run(["sh", "-ec", script], stdin=stdin)
        assert done.code == 0, done.err or done.out
        return done.out

    def nft(self, text: str) -> None:
        """Load a file of nft."""
        self.sh("nft -f -", stdin=text)

    @property
    def pid(self) -> int:
        """The process whose namespaces are the host's."""
        return self._holder.pid

    def start(self, argv: t.Sequence[str], *, listen: bool = False) -> subprocess.Popen[str]:
        """Start a command that reads its standard input; listen: its standard output is to be read."""
        return subprocess.Popen(
            [*self._enter, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if listen else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @contextlib.contextmanager
    def owner(self, command: str) -> t.Iterator[t.Callable[[str], None]]:
        """A program that stays while the block lasts, and does this and further commands of nft."""
        argv = [*self._enter, "nft", "--interactive"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, bufsize=1) as program:

            def nft(text: str) -> None:
                assert program.stdin
                before = self.sh("nft list ruleset")
                program.stdin.write(f"{text}\n")
                deadline = time.monotonic() + 5
                while self.sh("nft list ruleset") == before:
                    assert time.monotonic() < deadline, f"nothing has come of {text}"

            nft(command)
            yield nft

    def carry_out(self, steps: t.Sequence[Step]) -> None:
        """What the runner does when it is this host's."""
        carry_out(self, [replace(step, do=self._here(step.do), undo=self._here(step.undo)) for step in steps])

    def _here(self, actions: tuple[t.Any, ...]) -> tuple[t.Any, ...]:
        return tuple(
            action if isinstance(action, Command) else replace(action, path=self.path(action.path))
            for action in actions
        )

    def apply(self, rules: RuleSet | None, backend: str = "auto") -> Prepared:
        """Prepare and carry out; returns what was prepared."""
        prepared = prepare(self, rules, backend=backend)
        self.carry_out(prepared.plan.steps)
        return prepared

    def undo(self, steps: t.Sequence[Step]) -> None:
        """Take back steps that were carried out, the last first."""
        self.carry_out([Step(f"undo {step.what}", None, step.undo, ()) for step in reversed(steps)])

    def boot(self) -> str:
        """Run the boot script, which has to succeed, and return what it prints."""
        return self.sh("/bin/sh /etc/openagora/firewall/boot 2>&1")

    def live(self) -> str:
        """All rules of the kernel, counters aside."""
        return re.sub(r"\[\d+:\d+\]|^#.*\n", "", self.run(["sh", "-c", _LIVE]).out, flags=re.MULTILINE)

    def listing(self) -> str:
        """Everything that a backend could change: all rules, and what differs below /etc."""
        ours = sorted(path.name for path in Path(self.path("/etc")).glob("openagora*"))
        upper = Path(self.path("/run/upper"))
        files = sorted(path for path in upper.rglob("*") if path.is_file() and not path.is_symlink())
        texts = [f"./{path.relative_to(upper)} {path.stat().st_mode:o}\n{path.read_text()}" for path in files]
        return "\n".join([self.live(), *ours, *texts])

    def objects(self) -> list[str]:
        """A listing in which it does not matter in which order sets and chains were made."""
        return sorted(part.strip() for part in re.split(r"\n(?=\t(?:set|map|chain) |}|:|\./)", self.listing()))


@dataclass(frozen=True)
class Firewall:
    """One kind of firewall that a host can have; `backend` is ours for it."""

    name: str
    backend: str
    legacy: bool = False

    def choose(self, host: NetnsHost) -> None:
        """Make the commands of this variant those that the host uses, as `update-alternatives` would."""
        if self.legacy:
            names = [f"ip{six}tables{verb}" for six in ("", "6") for verb in ("", "-save", "-restore")]
            links = [f"ln -sf /usr/sbin/{name.replace('tables', 'tables-legacy')} {name}" for name in names]
            host.sh("\n".join(["cd /usr/local/sbin", *links]))

    def close(self, host: NetnsHost) -> None:
        """Give the host a firewall that drops everything in both directions and both families."""
        self.choose(host)
        if self.backend == "iptables":
            closed = r"printf '*filter\n:INPUT DROP\n:OUTPUT DROP\n:FORWARD DROP\nCOMMIT\n'"
            host.sh(f"{closed} | iptables-restore --noflush; {closed} | ip6tables-restore --noflush")
        else:
            host.nft(
                "table inet filter {\n"
                "chain input { type filter hook input priority filter; policy drop; }\n"
                "chain output { type filter hook output priority filter; policy drop; }\n"
                "chain forward { type filter hook forward priority filter; policy drop; }\n"
                "}\n"
            )

    def insert(self, host: NetnsHost, hook: str, rule: str) -> None:
        """Put a rule, in the firewall's own words, before all others of a hook."""
        if self.backend == "iptables":
            host.sh(f"iptables -I {hook.upper()} {rule}")
        else:
            host.nft(f"insert rule inet filter {hook} {rule}")

    def forget(self, host: NetnsHost) -> None:
        """Bring the host back to where `close` had left it, as a reboot does."""
        if self.legacy:
            for command in ("iptables", "ip6tables"):
                host.sh(f"{command} -F; {command} -X")
        else:
            host.nft("flush ruleset")
        self.close(host)


NFTABLES = Firewall("nftables", "nftables")
IPTABLES = Firewall("iptables", "iptables")
LEGACY = Firewall("iptables-legacy", "iptables", legacy=True)
FIREWALLS = (NFTABLES, IPTABLES, LEGACY)


def rule_set(*sdks: str, ingress_from: t.Iterable[str] = (), **options: t.Any) -> RuleSet:
    """The rules for these SDKs (none: all five), as module `apply` hands them to the backends."""
    rules = compile_request(Request.of(sdks=sdks or SDKS, **options)).rules
    return rules.ingress_from(normalise_networks(ingress_from))
