# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes that undo themselves: on every kind of firewall, whatever ends the process that makes them."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._host.rollback import FOLDER
from netns import NFTABLES, NetnsHost, rule_set

ROOT = Path(__file__).resolve().parents[5]

# Makes a change in the host's namespaces, and prints what confirms it.
CHANGE = f"""
import json, os, signal, sys
sys.path.insert(0, {str(ROOT / "collections")!r})
from ansible_collections.openagora.firewall.plugins.module_utils._apply import prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._host import local, rollback
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import LocalHost, StepError, lock
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet
rules, seconds, ends = json.loads(sys.argv[1])
act = local._act

def die(host, action):
    global ends
    ends -= 1
    if ends == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return act(host, action)

if ends:
    local._act = die
try:
    with lock():
        rollback.finish()
        host = LocalHost()
        steps = prepare(host, RuleSet.of_kept(rules), backend="auto").plan.steps
        print(rollback.change(host, steps, seconds=seconds, former=[]))
        if ends < 0:
            sys.stdout.flush()
            signal.pause()
    if ends:
        print(sum(len(step.do) for step in steps))
except (BackendError, StepError) as error:
    sys.exit(str(error))
"""


def change(host: NetnsHost, *sdks: str, seconds: int = 60, ends: int = 0, mask: str = "022") -> tuple[int, str]:
    """Open what these SDKs need, or without any take away what is ours. `ends`: before which action the process is
    killed, if any.

    Returns the code and what was printed: the command that confirms it, or what is wrong.
    """
    rules = rule_set(*sdks).kept() if sdks else {"rules": [], "lockdown": None}
    given = json.dumps([rules, seconds, ends])
    done = host.run(["sh", "-c", f'umask {mask}; exec "$@"', "sh", sys.executable, "-c", CHANGE, given])
    return done.code, (done.out or done.err).strip()


def waits(host: NetnsHost) -> bool:
    """Whether a change waits for its confirmation, or is being undone."""
    return host.exists(f"{FOLDER}/pending") or host.exists(f"{FOLDER}/restoring")


def wait_for_old_state(host: NetnsHost) -> None:
    """Until the host has undone the change."""
    deadline = time.monotonic() + 15
    while waits(host):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def web(closed: NetnsHost) -> NetnsHost:
    """A host that has the rules of one SDK, so that a change has something to come back to."""
    closed.apply(rule_set("web"))
    return closed


def test_what_is_not_confirmed_is_undone(web: NetnsHost) -> None:
    before = web.listing()
    code, confirm = change(web, "native", "recording", seconds=1)
    assert code == 0
    assert web.listing() != before
    assert oct(Path(web.path(FOLDER)).stat().st_mode)[-3:] == "700"
    wait_for_old_state(web)
    assert web.listing() == before
    late = web.run(["sh", "-c", confirm])
    assert late.code != 0


def test_what_is_confirmed_stays(web: NetnsHost) -> None:
    code, confirm = change(web, "native", seconds=2)
    assert code == 0
    after = web.listing()
    wrong = web.run(["sh", "-c", f"{confirm}x"])
    assert (wrong.code, "no change waits for this confirmation" in wrong.out) == (1, True)
    web.sh(confirm)
    assert not waits(web)
    time.sleep(2.5)
    assert web.listing() == after
    assert web.sh(f"ls {FOLDER}") == "former.json\noutcome\n"


def test_a_process_that_is_killed_leaves_no_half_state(web: NetnsHost) -> None:
    """Before each of its actions in turn; what it had done is undone."""
    before = web.listing()
    ends = 1
    while True:
        code, said = change(web, "native", "recording", seconds=1, ends=ends)
        if code >= 0:
            break
        assert waits(web)
        wait_for_old_state(web)
        assert web.listing() == before
        ends += 1
    assert ends > 2, said
    web.sh(said.splitlines()[0])
    assert web.listing() != before


@pytest.fixture
def quick(host: NetnsHost) -> NetnsHost:
    """One kind of firewall is enough for what the script does by itself."""
    NFTABLES.close(host)
    host.apply(rule_set("web"))
    return host


def test_a_process_that_hangs_is_ended(quick: NetnsHost) -> None:
    """It holds the lock, which the rollback waits for, but not for ever."""
    before = quick.listing()
    started = time.monotonic()
    code, _said = change(quick, "native", seconds=1, ends=-1)
    assert code == -9
    assert time.monotonic() - started < 10
    wait_for_old_state(quick)
    assert quick.listing() == before


def test_what_a_process_that_is_ended_has_started_ends_too(quick: NetnsHost) -> None:
    """A command that waits for something would do its work after the rollback."""
    before = quick.listing()
    hang = "[ -e /run/hung ] || { touch /run/hung; sleep 9; }"
    quick.stand_in("nft", f'case "$*" in *-f*) {hang} ;; esac; exec /usr/sbin/nft "$@"')
    code, _said = change(quick, "native", seconds=1)
    assert code == -9
    wait_for_old_state(quick)
    time.sleep(5)
    quick.sh("rm /usr/local/sbin/nft")
    assert quick.listing() == before


def test_a_confirmation_may_be_asked_for_again(quick: NetnsHost) -> None:
    """Its answer may be lost with the connection."""
    _code, confirm = change(quick, "native", seconds=60)
    quick.sh(confirm)
    quick.sh(confirm)


def test_the_timer_of_a_change_leaves_later_ones_alone(quick: NetnsHost) -> None:
    """Where there is no systemd, nobody ends the process that sleeps."""
    _code, confirm = change(quick, "native", seconds=2)
    quick.sh(confirm)
    _code, confirm = change(quick, "gaming", seconds=60)
    after = quick.listing()
    time.sleep(2.5)
    assert waits(quick)
    assert quick.listing() == after
    quick.sh(confirm)


def test_what_fails_once_is_tried_again(quick: NetnsHost) -> None:
    """Another program may hold the firewall's lock, or the firewall be about to start."""
    before = quick.listing()
    change(quick, "native", seconds=1)
    fail = "[ -e /run/failed ] || { touch /run/failed; exit 1; }"
    quick.stand_in("nft", f'case "$*" in *-f*) {fail} ;; esac; exec /usr/sbin/nft "$@"')
    wait_for_old_state(quick)
    assert quick.exists("/run/failed")
    assert quick.listing() == before
    assert "failed" not in quick.sh(f"cat {FOLDER}/outcome")


@pytest.mark.parametrize("place", ["/etc", "/var/lib"])
def test_what_cannot_be_written_back_is_tried_until_it_can(quick: NetnsHost, place: str) -> None:
    """The kernel may have found a fault of the disk."""
    before = quick.listing()
    change(quick, "native", seconds=1)
    quick.sh(f"mount -o remount,ro {place}")
    quick.stand_in("sleep", "touch /run/again; exec /bin/sleep 0.2")
    time.sleep(2)
    assert waits(quick)
    ruleset = quick.sh("nft list ruleset")
    code, said = change(quick, "gaming")
    assert (code, "a change that nobody has confirmed cannot be undone: " in said) == (1, True)
    assert quick.sh("nft list ruleset") == ruleset
    quick.sh(f"mount -o remount,rw {place}")
    code, said = change(quick, "web")
    assert (code, said) == (0, "")
    assert quick.listing() == before


def test_a_rollback_that_is_killed_begins_again(quick: NetnsHost) -> None:
    """Where nobody makes another run: the operator may be locked out."""
    before = quick.listing()
    quick.stand_in("mv", '[ -e /run/killed ] || { touch /run/killed; mv "$@"; kill -9 $PPID; }; exec /bin/mv "$@"')
    quick.stand_in("sleep", '[ "$1" != 10 ] || exec /bin/sleep 0.2; exec /bin/sleep "$1"')
    change(quick, "native", seconds=1)
    wait_for_old_state(quick)
    assert quick.exists("/run/killed")
    assert quick.listing() == before


def test_another_run_that_fails_with_it_does_not_end_its_tries(quick: NetnsHost) -> None:
    """That run holds the lock longer than the rollback waits for it."""
    before = quick.listing()
    hang = "[ -e /run/held ] || { touch /run/held; /bin/sleep 6; }; exit 1"
    quick.stand_in("nft", f'case "$*" in *-f*) [ -e /run/free ] || {{ {hang}; }} ;; esac; exec /usr/sbin/nft "$@"')
    quick.stand_in("sleep", "exec /bin/sleep 0.2")
    quick.sh("touch /run/free")
    change(quick, "native", seconds=61)
    token = quick.sh(f"cat {FOLDER}/pending/token").strip()
    quick.sh(f"pkill -f 'sleep 6[1]; exec'; echo another-boot 0 >{FOLDER}/pending/until; rm /run/free")
    wait = "until [ -e /run/held ]; do /bin/sleep 0.01; done"
    again = quick.start(["sh", "-c", f"{wait}; exec sh {FOLDER}/restoring/run again {token}"])
    with again:
        code, said = change(quick, "gaming")
        assert (code, "cannot be undone" in said) == (1, True)
        assert again.poll() is None
        quick.sh("touch /run/free")
        wait_for_old_state(quick)
    assert quick.listing() == before


def test_a_rollback_that_ends_while_it_clears_up_is_over(quick: NetnsHost) -> None:
    """The power fails when a part of its folder is gone: nothing is left that could, or has to, be run."""
    before = quick.listing()
    change(quick, "native", seconds=60)
    quick.stand_in("rm", 'if [ "$1" = -rf ] && [ -e "$2/run" ]; then rm "$2/run"; exit; fi; exec /bin/rm "$@"')
    quick.sh(f"/bin/sh {FOLDER}/pending/run held")
    quick.sh("rm /usr/local/sbin/rm")
    assert quick.listing() == before
    assert not waits(quick)
    code, confirm = change(quick, "native")
    assert (code, bool(confirm)) == (0, True)


def test_a_second_change_has_to_wait(quick: NetnsHost) -> None:
    before = quick.listing()
    code, _confirm = change(quick, "native", seconds=8)
    assert code == 0
    code, said = change(quick, "gaming")
    assert code == 1
    assert re.fullmatch(r"another change waits \d more seconds for its confirmation, and is undone then; .*", said)
    wait_for_old_state(quick)
    assert quick.listing() == before


@pytest.mark.parametrize("until", ["$(cat /proc/sys/kernel/random/boot_id) 0", "another-boot 999999999"])
def test_what_is_overdue_is_undone_first(quick: NetnsHost, until: str) -> None:
    """The process that slept until then is gone, after a power failure for example."""
    before = quick.listing()
    change(quick, "native", "recording", seconds=61)
    quick.sh(f"pkill -f 'sleep 6[1]; exec' && echo {until} >{FOLDER}/pending/until")
    code, confirm = change(quick, "web")
    assert (code, confirm) == (0, "")
    assert quick.listing() == before
    assert quick.sh(f"cat {FOLDER}/outcome").startswith("restored ")


def test_at_boot_files_come_back_and_commands_are_left_out(quick: NetnsHost) -> None:
    quick.systemd()
    quick.stand_in("systemd-run", "exit 0")
    quick.stand_in("nft", 'case "$*" in *-f*) exit 1;; esac; exec /usr/sbin/nft "$@"')
    files = quick.sh("cat /etc/openagora/firewall/boot")
    change(quick, "native")
    assert quick.sh("cat /etc/openagora/firewall/boot") == files
    quick.sh("rm /usr/local/sbin/nft")
    code, confirm = change(quick, "native")
    assert (code, bool(confirm)) == (0, True)
    unit = quick.sh("cat /etc/systemd/system/sysinit.target.wants/openagora-rollback-boot.service")
    assert quick.sh("cat /etc/openagora/firewall/boot") != files
    (command,) = re.findall(r"^ExecStart=/bin/sh -c '(.*)'$", unit, re.MULTILINE)
    quick.sh("nft flush ruleset; rm -f /run/systemd/asked")
    quick.sh(command)
    assert quick.sh("cat /etc/openagora/firewall/boot") == files
    assert "openagora-rollback" not in quick.listing()
    assert quick.sh("nft list ruleset") == ""
    assert not waits(quick)


def test_a_unit_that_is_back_at_boot_is_started(host: NetnsHost) -> None:
    """systemd has planned the boot without it."""
    NFTABLES.close(host)
    unit = ("Id=openagora-firewall.service", "LoadState=loaded", "ActiveState=active", "UnitFileState=enabled")
    host.systemd(show="\n".join([*unit, "DefaultDependencies=no", "Conflicts="]))
    host.apply(rule_set("web"))
    host.stand_in("systemd-run", "exit 0")
    code, confirm = change(host)
    assert (code, bool(confirm)) == (0, True)
    host.sh(f"rm /run/systemd/asked; /bin/sh {FOLDER}/pending/run boot")
    asked = host.sh("cat /run/systemd/asked").splitlines()
    assert asked[-3:-1] == ["daemon-reload", "start --no-block openagora-firewall.service"]
    assert host.exists("/etc/systemd/system/openagora-firewall.service")


def test_what_systemd_is_asked_to_do(host: NetnsHost) -> None:
    """No timer, and no rollback that is tried again, stays from one change to the next one."""
    NFTABLES.close(host)
    host.systemd()
    host.stand_in("systemd-run", 'echo "systemd-run" >>/run/systemd/asked')
    before = host.listing()
    for mode in ("held", "boot"):
        host.sh("rm -f /run/systemd/asked")
        code, _confirm = change(host, "web")
        assert code == 0
        asked = host.sh("cat /run/systemd/asked; rm /run/systemd/asked").splitlines()
        assert asked[:2] == ["stop openagora-rollback.timer openagora-rollback.service", "systemd-run"]
        host.sh(f"/bin/sh {FOLDER}/pending/run {mode}")
        undone = host.sh("cat /run/systemd/asked").splitlines()
        assert undone[-1] == "stop openagora-rollback.timer"
        disable = "disable" if mode == "held" else "--root=/ disable"
        assert f"{disable} --quiet openagora-firewall.service" in undone
        if mode == "held":
            assert host.listing() == before


def test_a_rollback_that_cannot_be_armed_changes_nothing(quick: NetnsHost) -> None:
    before = quick.listing()
    quick.systemd()
    before = quick.listing()
    quick.stand_in("systemd-run", "echo no bus >&2; exit 1")
    code, said = change(quick, "native")
    assert code == 1
    assert said.startswith("the rollback cannot be armed: no bus; nothing was changed.")
    assert quick.listing() == before
    assert not waits(quick)


def test_what_an_earlier_change_has_left_at_boot_need_not_go(quick: NetnsHost) -> None:
    """A run was killed after its rollback was over; then the kernel found a fault of the disk."""
    quick.systemd()
    quick.stand_in("systemd-run", "exit 0")
    change(quick, "native")
    quick.sh(f"/bin/sh {FOLDER}/pending/run held")
    folder = "/etc/systemd/system/sysinit.target.wants"
    unit = "openagora-rollback-boot.service"
    quick.sh(f"mkdir -p {folder}; ln -s ../{unit} {folder}; touch {folder}/../{unit}")
    before = quick.listing()
    quick.sh("mount -o remount,ro /etc")
    code, said = change(quick, "gaming")
    quick.sh("mount -o remount,rw /etc")
    assert code == 1
    assert re.match(r"the rollback cannot be armed: .*Read-only file system.*; nothing was changed\.", said)
    assert quick.listing() == before
    assert not waits(quick)


def test_what_an_earlier_change_has_left_goes_with_the_next(quick: NetnsHost) -> None:
    """Also where that one needs no confirmation; nothing of ours is to stay when all of it goes."""
    folder, unit = "/etc/systemd/system/sysinit.target.wants", "openagora-rollback-boot.service"
    before = quick.sh("find /etc/systemd /var/lib/openagora 2>/dev/null || true")
    quick.sh(f"mkdir -p {folder} {FOLDER}/new; ln -s ../{unit} {folder}; touch {folder}/../{unit} {FOLDER}/new/token")
    assert change(quick, seconds=0)[0] == 0
    left = quick.sh("find /etc/systemd /var/lib/openagora ! -type d 2>/dev/null || true")
    assert set(left.split()) <= set(before.split())
    assert not quick.exists(f"{FOLDER}/new")


def test_a_step_that_fails_needs_no_rollback(quick: NetnsHost) -> None:
    before = quick.listing()
    quick.stand_in("nft", 'case "$*" in *-f*) echo full >&2; exit 1;; esac; exec /usr/sbin/nft "$@"')
    code, said = change(quick, "native")
    assert (code, "everything is as it was before" in said) == (1, True)
    assert quick.listing() == before
    assert not waits(quick)


def test_a_disk_that_is_full_by_then_changes_nothing(quick: NetnsHost) -> None:
    quick.systemd()
    before = quick.listing()
    quick.stand_in("systemd-run", "mount -o remount,size=256k /var/lib; cat /dev/zero >/var/lib/fill; exit 0")
    code, said = change(quick, "native")
    assert (code, "No space left on device; everything is as it was before" in said) == (1, True)
    assert quick.listing() == before
    assert not waits(quick)


def test_root_alone_can_change_what_root_will_run(host: NetnsHost) -> None:
    """Whatever permissions new files have by default."""
    NFTABLES.close(host)
    host.systemd()
    host.stand_in("systemd-run", "exit 0")
    code, _confirm = change(host, "web", mask="000")
    assert code == 0
    assert host.sh("find /var/lib/openagora /etc/openagora /etc/systemd ! -type l -perm /022") == ""
