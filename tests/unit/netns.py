# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throwaway host for the tests of what reads and changes a firewall: the kernel and the commands are the real ones."""

from __future__ import annotations

import os
import re
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Command, Outcome, Step
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost, carry_out

__all__ = ["NetnsHost"]

# An overlay needs its upper folder outside of what it lies upon. /usr/local/sbin comes first in the host's PATH: a test
# puts there what is to stand in for a command. Outside of a process with CAP_SYS_RESOURCE, `ip` wants its folder.
_FURNISH = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work,userxattr overlay /etc
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
echo ready
exec cat
"""

_LEGACY = [f"ip{six}tables{verb}" for six in ("", "6") for verb in ("", "-save", "-restore")]


class NetnsHost(LocalHost):
    """A host with network, mounts, /etc and /run of its own, held by a process that ends with the tests.

    As root it is made directly, for an ordinary user in a user namespace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()
        user = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
        # Two steps: a network namespace made before the user map is written has files that nobody can read.
        self._holder = subprocess.Popen(
            [*user, "unshare", "--mount", "--net", "sh", "-c", _FURNISH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = self._holder.stdout.readline().strip() if self._holder.stdout else ""
        if said != "ready":
            self.end()
            raise RuntimeError(
                "these tests need hosts made of Linux namespaces, as root or with user namespaces for ordinary users "
                f"(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns): {said}"
            )
        self.enter = ["nsenter", f"--target={self._holder.pid}", "--mount", "--net"]
        self.enter += ["--user", "--preserve-credentials"] if user else []

    def end(self) -> None:
        """End the holder, and with it the host."""
        self._holder.communicate()

    # The `Host` of the backend contract

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        if argv[0] in self.hidden:
            return Outcome(127, "", f"{argv[0]}: command not found")
        return super().run([*self.enter, *argv], stdin=stdin)

    def which(self, name: str) -> str | None:
        if name in self.hidden:
            return None
        return self.run(["sh", "-c", 'command -v "$1"', "sh", name]).out.strip() or None

    def read(self, path: str) -> str | None:
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
        self.put(f"/usr/local/sbin/{name}", f"#!/bin/sh\n{script}\n", mode=0o755)

    def use_legacy(self) -> None:
        """Make iptables and its companions those of the legacy variant, as `update-alternatives` would."""
        for name in _LEGACY:
            self.sh(f"ln -s /usr/sbin/{name.replace('tables', 'tables-legacy')} /usr/local/sbin/{name}")

    def sh(self, script: str) -> str:
        """Run a shell script that has to succeed, and return what it prints."""
        done = self.run(["sh", "-ec", script])
        assert done.code == 0, done.err
        return done.out

    def nft(self, text: str) -> None:
        """Load a file of nft."""
        done = self.run(["nft", "-f", "-"], stdin=text)
        assert done.code == 0, done.err

    def restore(self, text: str, *, six: bool = False) -> None:
        """Load a file of iptables-save, or of ip6tables-save."""
        done = self.run([f"ip{'6' if six else ''}tables-restore", "--noflush"], stdin=text)
        assert done.code == 0, done.err

    def carry_out(self, steps: t.Sequence[Step]) -> None:
        """What `carry_out` does on its own host."""
        carry_out(self, [replace(step, do=self._here(step.do), undo=self._here(step.undo)) for step in steps])

    def _here(self, actions: tuple[t.Any, ...]) -> tuple[t.Any, ...]:
        return tuple(
            action if isinstance(action, Command) else replace(action, path=self.path(action.path)) for action in actions
        )

    def listing(self) -> str:
        """All rules, counters aside, and what was changed below /etc."""
        parts = [self.sh("nft -s list ruleset")]
        for name in ("iptables", "ip6tables"):
            listed = self.read(f"/proc/net/{name.replace('tables', '_tables')}_names")
            # Looking creates a legacy table.
            if listed:
                parts.append(self.sh(f"{name}-legacy-save"))
        parts.append(self.sh("cd /run/upper; find . -type f -exec ls -l {} + -exec cat {} +; ls"))
        return re.sub(r"\[\d+:\d+\]|^#.*\n", "", "\n".join(parts), flags=re.MULTILINE)
