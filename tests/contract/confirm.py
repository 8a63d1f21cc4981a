# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change promises to those who are connected: nobody is locked out, and no connection fails.

For the first there is a real sshd, and a controller in the other side's network.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from . import document
from .forks import SECONDS_TO_END
from .lab import ENVIRONMENT, ROOT, Running, changes, command
from .lockdown import LOOSEN, MODE, ask
from .sampling import SOAK, walk

if t.TYPE_CHECKING:
    from .lab import Target

__all__ = ["TestConfirmed", "TestCut", "TestInterrupted", "TestSteady", "reachable"]

# For a change that is undone in the end, and for one that has to be confirmed on a machine that is busy.
WITHIN = 10
AMPLE = 20
PATIENCE = 15
PENDING = "/var/lib/openagora/firewall/pending"

# How the operator lets SSH in, and what goes wrong: our own chain closes it. The commands that change our chains.
SSH = {
    "iptables": (
        "for i in iptables ip6tables; do $i -A INPUT -p tcp --dport 22 -j ACCEPT;"
        " $i -A OUTPUT -p tcp --sport 22 -j ACCEPT; done",
        "iptables -I openagora-input 1 -p tcp --dport 22 -j DROP && ip6tables -I openagora-input 1 -p tcp --dport 22"
        " -j DROP",
        ("ip6tables-restore",),
    ),
    "nftables": (
        "nft 'add rule inet filter input tcp dport 22 accept; add rule inet filter output tcp sport 22 accept'",
        "nft insert rule inet filter openagora_input tcp dport 22 drop",
        ("nft",),
    ),
    "ufw": (
        "ufw allow 22/tcp",
        "iptables -I ufw-user-input 1 -p tcp --dport 22 -j DROP",
        ("iptables-restore",),
    ),
    "firewalld": (
        "for when in '' --permanent; do firewall-cmd -q $when --zone=$(firewall-cmd --get-zone-of-interface=eth0"
        " || firewall-cmd --get-default-zone) --add-service=ssh; done",
        "firewall-cmd -q --policy=openagora-in --add-rich-rule='rule port port=22 protocol=tcp drop'",
        ("busctl",),
    ),
}


class Controller:
    """Ansible on the other side, which reaches the host over SSH alone."""

    def __init__(self, target: Target, key: Path) -> None:
        self.target = target
        self.key = key
        self.before = ("nsenter", "--target", str(target.far.process), "--net", "--")

    def words(self, **variables: t.Any) -> list[str]:
        """The command that runs the playbook."""
        ssh = {
            **self.target.settings,
            "ansible_connection": "ssh",
            "ansible_host": self.target.plugs["outside"][0],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            # A shared connection of another test may be to the host as it was before it started again.
            "ansible_control_path_dir": str(self.key.parent),
            "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
            # For Recording the playbook looks for plans first, which is another connection or two.
            "agora_sdks": [sdk for sdk in document.SDKS if sdk != "recording"],
        }
        given = json.dumps({**ssh, "agora_hosts": self.target.name, **variables})
        words = ["--inventory", f"{self.target.name},", "--extra-vars", given, "openagora.firewall.open_agora"]
        return [*self.before, command("ansible-playbook"), *words]

    def run(self, **variables: t.Any) -> dict[str, t.Any]:
        """The result of module apply."""
        argv = self.words(**variables)
        done = subprocess.run(
            argv, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_TO_END, check=False
        )
        with contextlib.suppress(ValueError, StopIteration):
            plays = json.loads(done.stdout)["plays"]
            found = (
                task["hosts"] for play in plays for task in play["tasks"] if "firewall hold" in task["task"]["name"]
            )
            result: dict[str, t.Any] = next(found)[self.target.name]
            return result
        raise AssertionError(f"no result from ansible: {done.stdout}{done.stderr}")

    def start(self, **variables: t.Any) -> subprocess.Popen[bytes]:
        """Run it in a process group of its own."""
        argv = self.words(**variables)
        return subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)

    def reaches(self) -> bool:
        """Whether the host answers a new connection, on both families."""
        ssh = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "UserKnownHostsFile=/dev/null")
        ssh = (*ssh, "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", "-i", str(self.key), "-l", "root")
        argv = [(*self.before, *ssh, address, "true") for address in self.target.plugs["outside"]]
        return all(subprocess.run(words, capture_output=True, check=False).returncode == 0 for words in argv)


@pytest.fixture
def reachable(target: Target, tmp_path: Path) -> Controller:
    """The host with an sshd that its own firewall lets the controller in to."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    target.reset()
    target.run(
        f"mkdir -p -m 0700 /root/.ssh && echo '{key.with_suffix('.pub').read_text()}' >/root/.ssh/authorized_keys"
    )
    # OpenSSH from 9.8 on refuses for a while who has broken off connections; one before it does not know the word.
    penalties = "/etc/ssh/sshd_config.d/penalties.conf"
    target.run(f"mkdir -p /run/sshd; echo PerSourcePenalties no >{penalties}; sshd -t 2>/dev/null || rm {penalties}")
    target.run("rm -rf /var/lib/openagora /run/cut; systemctl restart ssh")
    target.run(SSH[target.profile.name][0])
    controller = Controller(target, key)
    assert controller.reaches()
    return controller


# Closes SSH also where no chain of ours is left.
CUT = "nft 'table inet cut { chain input { type filter hook input priority -500; tcp dport 22 drop; }; }'"


@contextlib.contextmanager
def cutting(target: Target, by: str = "") -> t.Iterator[None]:
    """While the context lasts, our own chain closes SSH whenever a change that waits has changed it, or this does."""
    _open, cut, commands = SSH[target.profile.name]
    cut = by or cut
    does = f"""
        if [ -d {PENDING} ]; then
            PATH=/usr/sbin:/usr/bin:/sbin:/bin
            "${{0##*/}}" "$@"
            code=$?
            ({cut}) 2>/dev/null && touch /run/cut
            exit $code
        fi"""
    # Those that only look are left alone.
    when = {"busctl": "*reload*|*setPolicySettings*", "nft": "-f*"}.get(commands[0], "*")
    with target.commands_that(does, *commands, when=when):
        yield


class TestConfirmed:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("pipelining", [True, False])
    def test_a_change_that_leaves_ssh_open_is_confirmed(self, reachable: Controller, pipelining: bool) -> None:
        become = {"ansible_become": True, "ansible_become_method": "su"}
        result = reachable.run(agora_confirm_within=AMPLE, ansible_ssh_pipelining=pipelining, **become)
        assert (result.get("failed", False), result["changed"], result["confirmed"]) == (False, True, True)
        assert "confirmed_locally" not in [notice["code"] for notice in result["notices"]]
        target = reachable.target
        assert "pending" not in target.module("applied_info")
        state = target.state()
        again = reachable.run(**become)
        assert (again["changed"], "confirmed" in again) == (False, False)
        assert not target.run("systemctl list-units --all --no-legend 'openagora-rollback.*'")
        assert not changes(state, target.state())

    def test_it_can_be_taken_back(self, reachable: Controller) -> None:
        target = reachable.target
        before = target.state()
        assert reachable.run()["confirmed"]
        assert reachable.run(agora_state="restored")["confirmed"]
        assert not changes(before, target.state())


class TestCut:
    def test_the_host_answers_again_with_its_old_firewall(self, reachable: Controller) -> None:
        target = reachable.target
        before = target.state()
        with cutting(target):
            result = reachable.run(agora_confirm_within=WITHIN)
            assert target.attempt("test -e /run/cut").returncode == 0
        assert result["failed"]
        assert "was not confirmed" in result["msg"]
        assert "The host has restored" in result["msg"]
        assert reachable.reaches()
        assert not changes(before, target.state())

    def test_so_it_does_when_there_was_something_of_ours_before(self, reachable: Controller) -> None:
        target = reachable.target
        assert reachable.run(agora_sdks=["web", "recording"])["confirmed"]
        before = target.state()
        with cutting(target):
            # With more SDKs, for a set of nft's that goes and comes back is listed last.
            assert reachable.run(agora_sdks=list(document.SDKS), agora_confirm_within=WITHIN)["failed"]
        assert reachable.reaches()
        assert not changes(before, target.state())


@contextlib.contextmanager
def pending(controller: Controller, by: str = "", **variables: t.Any) -> t.Iterator[subprocess.Popen[bytes]]:
    """While the context lasts a change waits, which will not be confirmed soon."""
    target = controller.target
    with cutting(target, by):
        process = controller.start(agora_confirm_within=WITHIN, **variables)
        deadline = time.monotonic() + 30
        while target.attempt("test -e /run/cut").returncode:
            assert time.monotonic() < deadline, f"{target.name}: no change has been made within 30 s"
            assert process.poll() is None, f"{target.name}: the play has ended before it changed anything"
            time.sleep(0.1)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class TestInterrupted:
    def test_a_controller_that_dies(self, reachable: Controller) -> None:
        target = reachable.target
        before = target.state()
        with pending(reachable) as process:
            os.killpg(process.pid, signal.SIGKILL)
            assert target.module("applied_info")["pending"]["seconds_left"] > 0
            assert "another change waits" in target.module("apply", sdks=["web"])["msg"]
            deadline = time.monotonic() + WITHIN + PATIENCE
            while "pending" in target.module("applied_info"):
                assert time.monotonic() < deadline, target.run(
                    "systemctl list-timers --all 'openagora*'; ls -lR /var/lib/openagora"
                )
        assert not changes(before, target.state())
        assert reachable.reaches()

    def test_a_clock_that_jumps(self, reachable: Controller) -> None:
        """The kernel's own goes on; `date` cannot be set in a container, so this looks at what the timer goes by."""
        with pending(reachable):
            shown = reachable.target.run(
                "systemctl show openagora-rollback.timer --property=TimersMonotonic,TimersCalendar"
            )
        assert "OnActiveUSec=" in shown
        assert "OnCalendar" not in shown

    def test_a_reboot(self, reachable: Controller) -> None:
        """Everything that survives one is as it was; the operator's own firewall is loaded by its own means."""
        target = reachable.target
        target.reset()
        target.reboot()
        before = target.state()
        target.run(f"systemctl start ssh; {SSH[target.profile.name][0]}")
        files = target.state()["/etc"]
        with pending(reachable):
            target.reboot()
        after = target.state()
        # What podman writes anew.
        assert {**after["/etc"], "/etc/hosts": ""} == {**files, "/etc/hosts": ""}
        if target.profile.name in ("iptables", "nftables"):
            assert not changes(before, {**after, "/etc": before["/etc"]})
        assert "openagora" not in json.dumps(after)
        assert target.attempt(f"ls {PENDING}").returncode

    def test_a_reboot_while_a_lockdown_is_to_go(self, reachable: Controller) -> None:
        """It is in force again, with the unit that loads it at boot."""
        target = reachable.target
        ask(target)
        target.apply("web", **MODE)
        with pending(reachable, CUT, agora_state="absent", agora_lockout_guard=False):
            assert target.module("applied_info")["rules"] == []
            target.reboot()
        assert target.attempt(f"ls {PENDING}").returncode
        ask(target)
        assert (target.lets_out("tcp", 443), target.lets_out("tcp", 25)) == (
            {"4": True, "6": True},
            {"4": False, "6": False},
        )
        assert target.apply("web", **MODE)["changed"] is False


class TestSteady:
    def test_no_connection_fails_through_many_changes(
        self, target: Target, record_property: t.Callable[[str, object], None]
    ) -> None:
        """To a port that stays open, while others come and go."""
        target.reset()
        target.apply("web")
        caller = Running(target, "caller", ("call", "443", "/tmp/calls", *target.far.addresses))
        with target.changes() as change, Running(target.far, "caller", ("serve", "443")), caller:
            for sdks in walk(target.name, "web"):
                code, said = change({"sdks": sdks}, target.profile.name)
                assert code == 0, said
                assert json.loads(said)[0] > 0
        calls = json.loads(target.run("cat /tmp/calls"))
        record_property("measured", f"{target.name}, a walk of changes: {_told(calls)}")
        assert calls["total"] > 100
        assert calls["failures"] == []

    def test_none_fails_while_the_first_run_and_the_last_reload_firewalld(
        self, target: Target, record_property: t.Callable[[str, object], None]
    ) -> None:
        """They wait, for as long as this prints: the kernel sends anew what is lost meanwhile."""
        target.reset()
        target.run(LOOSEN[target.profile.name])
        words = ("call", "443", "/tmp/calls", *target.far.addresses, "--patience", "5")
        caller = Running(target, "caller", words)
        with target.changes() as change, Running(target.far, "caller", ("serve", "443")), caller:
            for state in [{"sdks": ["web"]}, {}] * (5 if SOAK else 2):
                code, said = change(state, target.profile.name)
                assert code == 0, said
                assert json.loads(said)[0] > 0
        calls = json.loads(target.run("cat /tmp/calls"))
        record_property("measured", f"{target.name}, first run and absent again and again: {_told(calls)}")
        assert calls["failures"] == []

    def test_a_port_that_is_closed_is_closed_at_once(self, target: Target) -> None:
        target.reset()
        target.apply("web", "native")
        assert target.lets_out("tcp", 9700) == {"4": True, "6": True}
        target.apply("web")
        assert target.lets_out("tcp", 9700) == {"4": False, "6": False}


def _told(calls: dict[str, t.Any]) -> str:
    rate = calls["total"] / calls["seconds"]
    return f"{calls['total']} connections, {rate:.0f} a second; the longest took {calls['longest']} ms"
