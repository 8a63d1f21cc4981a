# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults at every step of a change, on throwaway hosts to which another machine opens connections all the while."""

from __future__ import annotations

import contextlib
import json
import sys
import typing as t
from dataclasses import dataclass

import pytest
from contract.faults import CHANGER, HOOK, Trial, changer
from netns import IPTABLES, NFTABLES, NetnsHost
from sessions import COLLECTIONS, ENDS, PORT, other_machine
from test_ufw import furnish

pytestmark = pytest.mark.kernel

# The process that does the work of ufw; its things are counted apart.
WORKER = f"""
import atexit
begun = os.path.exists("/run/faults/begun")
ends = int(open("/run/faults/worker").read())
{HOOK}
def tell():
    # To write it is no thing of ufw's.
    lines = "\\n" * things
    open("/run/faults/worked", "w").write(lines)

if ends:
    # Only the first one: the next one undoes.
    begun and os.unlink("/run/faults/begun")
    things = 0
else:
    begun and atexit.register(tell)
"""

# Stands in for systemd's own: units are files, those that are enabled have another one, and one at most is active.
SYSTEMCTL = """#!/bin/sh
units=/etc/systemd/system
wants=$units/sysinit.target.wants
unit=openagora-firewall.service
case "$1" in
show)
    [ -e $units/$unit ] || exit 0
    enabled=disabled
    [ ! -e $wants/$unit ] || enabled=enabled
    active=inactive
    [ ! -s /run/systemd/active ] || active=active
    printf '%s\\n' Id=$unit LoadState=loaded ActiveState=$active UnitFileState=$enabled
    printf '%s\\n' DefaultDependencies=no Conflicts=
    ;;
reenable) [ -e "$units/$3" ] && mkdir -p $wants && touch "$wants/$3" ;;
disable) [ -e "$units/$3" ] && rm -f "$wants/$3" ;;
restart) [ -e "$units/$2" ] && echo "$2" >/run/systemd/active ;;
stop) [ $# = 3 ] || { [ -e "$units/$2" ] && : >/run/systemd/active; } ;;
esac
"""

SERVE = f"""
import socket
with socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print(flush=True)
    while True:
        server.accept()[0].close()
"""

# Connects until it is told to end, and says what came of it.
CALL = f"""
import collections, json, select, socket, sys
calls = collections.Counter()
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for address in {[ENDS[family][0] for family in ("ipv4", "ipv6")]!r}:
        try:
            socket.create_connection((address, {PORT}), 0.9).close()
            calls["connected"] += 1
        except OSError as error:
            calls[f"{{address}}: {{error}}"] += 1
print(json.dumps(calls))
"""


@dataclass(frozen=True)
class Kind:
    """A kind of firewall: how a host gets one that lets management in alone, and the commands that change it."""

    name: str
    backend: str
    close: t.Callable[[NetnsHost], None]
    commands: tuple[str, ...]


class Host(NetnsHost):
    """A throwaway host, on which the rollback itself is nothing that a change could change."""

    def objects(self) -> list[str]:
        return [part for part in super().objects() if "openagora-rollback" not in part]


def _nftables(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.systemd()
    host.put("/run/systemctl", SYSTEMCTL, mode=0o755)
    host.sh("ln -sf /run/systemctl /usr/local/sbin/systemctl")
    host.stand_in("systemd-run", "exit 0")
    for hook, port in (("input", "dport"), ("output", "sport")):
        host.nft(f"add rule inet filter {hook} tcp {port} {PORT} accept")


def _iptables(host: NetnsHost) -> None:
    IPTABLES.close(host)
    _let_in(host)


def _let_in(host: NetnsHost) -> None:
    for command in ("iptables", "ip6tables"):
        host.sh(f"{command} -A INPUT -p tcp --dport {PORT} -j ACCEPT")
        host.sh(f"{command} -A OUTPUT -p tcp --sport {PORT} -j ACCEPT")


def _ufw(host: NetnsHost) -> None:
    furnish(host)
    host.put("/run/worker", WORKER)
    worker = f"exec {sys.executable} -I -S -c \"import os; exec(open('/run/worker').read())\n$4\""
    host.stand_in("ufw-python", f'[ -d /run/faults ] || exec {sys.executable} "$@"\n{worker}')
    host.put("/usr/local/sbin/ufw", "#!/usr/local/sbin/ufw-python\n", mode=0o755)
    for command, chain in (("iptables", "ufw-user"), ("ip6tables", "ufw6-user")):
        host.sh(f"{command} -I {chain}-input -p tcp --dport {PORT} -j ACCEPT")
        host.sh(f"{command} -I {chain}-output -p tcp --sport {PORT} -j ACCEPT")


RESTORES = ("iptables-restore", "ip6tables-restore")
KINDS = (
    # With systemd, and so with a boot unit; what that is does not depend on the backend.
    Kind("nftables", "nftables", _nftables, ("nft", "systemctl")),
    Kind("iptables", "iptables", _iptables, RESTORES),
    Kind("ufw", "ufw", _ufw, RESTORES),
)


@contextlib.contextmanager
def called(host: NetnsHost) -> t.Iterator[None]:
    """While the block lasts another machine opens connections to the host, and each comes about."""
    with other_machine(host) as machine, host.start([sys.executable, "-c", SERVE], listen=True) as server:
        assert server.stdout
        assert server.stdout.readline()
        argv = ["nsenter", "--net", "--target", machine.process, sys.executable, "-c", CALL]
        with host.start(argv, listen=True) as caller:
            try:
                yield
            finally:
                said, _errors = caller.communicate()
                server.kill()
    calls = json.loads(said)
    assert calls["connected"] > 100
    assert set(calls) == {"connected"}


class Disks(Trial):
    """Faults of disks besides."""

    def each(self, change: str) -> int:
        """The same, and with a folder that cannot be written, or a disk that is full."""
        faults = super().each(change)
        for mount in ("/etc", "/var/lib"):
            self.host.sh(f"mount -o remount,ro {mount}")
            code, said = self.run(change)
            self.host.sh(f"mount -o remount,rw {mount}")
            assert code != 0, said
            self.settle(f"{mount} cannot be written", change, code, said)
            code, said = self.run(change)
            assert code == 0, said
            self.host.sh(f"mount -o remount,ro {mount}")
            self.roll_back()
            self.host.sh(f"mount -o remount,rw {mount}")
            self.settle(f"{mount} cannot be written when the time is up", change, -1, said)
            faults += 2
            self.known += 2
        # What is written below /etc lies in /run.
        for mount in ("/run", "/var/lib"):
            room, code = 0, 1
            while code:
                # What the last fault left of counts would be room, too.
                self._say(number=0, how="")
                used = int(self.host.sh(f"df --output=used -k {mount} | tail -1"))
                self.host.sh(f"mount -o remount,size={max(used + 4 * room, 4)}k {mount}")
                code, said = self.run(change)
                self.host.sh(f"mount -o remount,size=100m {mount}")
                self.settle(f"{mount} has room for {room} pages", change, code, said)
                faults += bool(code)
                self.known += bool(code)
                room = 2 * room or 1
            # What goes needs no room, but its rollback does.
            assert room > 1 or (mount, change) == ("/run", "absent")
        return faults


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_fault_leaves_half_a_change(kind: Kind, record_property: t.Callable[[str, object], None]) -> None:
    with Host() as host:
        kind.close(host)
        # The time of a change is up when the trial says so, and until then nothing waits for it.
        host.stand_in("sleep", '[ "$1" != 600 ] || kill -9 $PPID; exec /bin/sleep 0.1')
        with called(host):
            python = ["env", f"PYTHONPATH={COLLECTIONS}", sys.executable, "-B"]
            with changer(host.start([*python, "-c", CHANGER], listen=True)) as change:
                trial = Disks(host, kind.backend, kind.commands, change)
                record_property("measured", f"{kind.name}: {trial.go_round()}")
