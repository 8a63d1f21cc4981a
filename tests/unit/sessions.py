# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections from another machine to a throwaway host, through which commands are run there."""

from __future__ import annotations

import base64
import contextlib
import pickle
import sys
import time
import typing as t
from pathlib import Path

if t.TYPE_CHECKING:
    from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet
    from netns import NetnsHost

__all__ = ["ENDS", "MANAGEMENT", "PORT", "Machine", "other_machine"]

COLLECTIONS = Path(__file__).resolve().parents[2] / "collections"
PORT = 2222
# What lets the connections in. No SDK needs it.
MANAGEMENT: dict[str, t.Any] = {"direction": "ingress", "protocol": "tcp", "ports": [str(PORT)]}
# The host's address and the other machine's, by what they are to show.
ENDS = {
    "ipv4": ("192.0.2.1", "192.0.2.7"),
    "ipv6": ("2001:db8::1", "2001:db8::7"),
    "link-local": ("fe80::1", "fe80::7"),
}
_HARDWARE = "02:00:00:00:00:01"

# What sshd is to a module: it holds a connection from another machine and runs a command as its child.
_SSHD = """
import socket, subprocess, sys
machine, how, near, *command = sys.argv[1:]
port = {port}
everywhere = how == "mapped"
where = ("::" if everywhere else near, port)
family = socket.AF_INET6 if everywhere or ":" in near else socket.AF_INET
if near.startswith("fe80"):
    where = socket.getaddrinfo(near + "%eth0", port)[0][4]
    near += "%far0"
listener = socket.create_server(where, family=family, dualstack_ipv6=everywhere)
listener.settimeout(5)
dial = f"import socket, sys; held = socket.create_connection(({{near!r}}, {{port}}), 5); sys.stdin.read()"
enter = ["nsenter", "--net", "--target", machine]
with subprocess.Popen([*enter, sys.executable, "-c", dial], stdin=subprocess.PIPE) as far:
    held, (address, number, *_rest) = listener.accept()
    if how == "detached":
        # As what Ansible runs asynchronously: its parent is gone.
        told = f"SSH_CONNECTION={{address}} {{number}} {{near}} {{port}}"
        command = ["env", told, "sh", "-c", '"$@" &', "sh", *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
sys.exit(done.returncode)
"""

# Plans for these rules and asks the guard.
_GUARD = """
import base64, pickle, sys
from ansible_collections.openagora.firewall.plugins.module_utils._apply import Prepared, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import (
    BackendError, Command, Plan, Step, Traffic,
)
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost
from ansible_collections.openagora.firewall.plugins.module_utils._lockout import refuse_lockout
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet
rules, reload, backend = pickle.loads(base64.b64decode(sys.argv[1]))
def trial():
    if not reload[2]:
        raise BackendError("it does not load")
    return (Command(("nft", "-f", "-"), reload[2]),)
try:
    if reload is None:
        prepared = prepare(LocalHost(), rules, backend=backend)
    else:
        step = Step("reload", Traffic(reload[1], trial), (), ())
        prepared = Prepared(Plan((step,), reload[0], rules or RuleSet()))
    refuse_lockout(LocalHost(), rules, prepared)
except BackendError as error:
    print(error)
"""


class Machine:
    """Another machine, at the other end of the host's eth0."""

    def __init__(self, host: NetnsHost, process: int) -> None:
        self._host = host
        self.process = str(process)

    def session(self, ends: str = "ipv4", how: str = "") -> list[str]:
        """The command that runs another one, its arguments, through a connection from this machine.

        `how`: `mapped` if the socket is one of IPv6 for both families, `detached` if the command leaves its parents.
        """
        return ["/run/sshd", self.process, how, ENDS[ends][0]]

    def refusal(
        self,
        rules: RuleSet | None,
        *,
        reload: tuple[RuleSet, str, str] | None = None,
        through: t.Sequence[str] | None = None,
        backend: str = "auto",
    ) -> str:
        """Why the guard refuses to go to these rules, empty if it does not.

        `reload` is a step of a firewall that cannot be asked in a private copy: the rules that are there before it, its
        effect, and what it comes to in nft's words (empty: it cannot tell). `through` is by default a session.
        """
        given = base64.b64encode(pickle.dumps((rules, reload, backend))).decode()
        command = ["env", f"PYTHONPATH={COLLECTIONS}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", _GUARD, given]
        done = self._host.run([*(self.session() if through is None else through), *command])
        assert done.code == 0, done.err
        return done.out.strip()


@contextlib.contextmanager
def other_machine(host: NetnsHost) -> t.Iterator[Machine]:
    """A machine that is there while the block lasts."""
    with host.start(["unshare", "--net", "sh", "-c", "touch /run/machine; exec cat"]) as process:
        deadline = time.monotonic() + 5
        while not host.exists("/run/machine"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        enter = f"nsenter --net --target {process.pid}"
        lines = [f"ip link add eth0 address {_HARDWARE} type veth peer far0 address {_HARDWARE} netns {process.pid}"]
        # The host's firewall stops neighbour discovery, too.
        lines += ["ip link set eth0 arp off up", f"{enter} ip link set far0 arp off up"]
        for near, far in ENDS.values():
            length = 64 if ":" in near else 24
            lines += [f"ip address add dev eth0 {near}/{length}", f"{enter} ip address add dev far0 {far}/{length}"]
        host.sh("\n".join(lines))
        host.put("/run/sshd", f"#!{sys.executable}{_SSHD.format(port=PORT)}", mode=0o755)
        yield Machine(host, process.pid)
