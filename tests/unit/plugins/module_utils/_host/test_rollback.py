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
        steps = prepare(host, RuleSet.of_data(rules), backend="auto").plan.steps
        print(rollback.change(host, steps, seconds=seconds, former=[]))
        if ends < 0:
            sys.stdout.flush()
            signal.pause()
    if ends:
        print(sum(len(step.do) for step in steps))
except (BackendError, StepError) as error:
    sys.exit(str(error))
"""


def change(host: NetnsHost, *sdks: str, seconds: int = 60, ends: int = 0) -> tuple[int, str]:
    """Open what these SDKs need. `ends`: before which action the process is killed, if any.

    Returns the code and what was printed: the command that confirms it, or what is wrong.
    """
    given = json.dumps([rule_set(*sdks).data(), seconds, ends])
    done = host.run([sys.executable, "-c", CHANGE, given])
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
    assert web.sh(f"ls {FOLDER}") == "former.json\n"


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


def test_a_second_change_has_to_wait(quick: NetnsHost) -> None:
    before = quick.listing()
    code, _confirm = change(quick, "native", seconds=2)
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
    quick.sh(f"pkill -f 'sleep 6[1]; exec /bin/sh {FOLDER}' && echo {until} >{FOLDER}/pending/until")
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


def test_a_step_that_fails_needs_no_rollback(quick: NetnsHost) -> None:
    before = quick.listing()
    quick.stand_in("nft", 'case "$*" in *-f*) echo full >&2; exit 1;; esac; exec /usr/sbin/nft "$@"')
    code, said = change(quick, "native")
    assert (code, "everything is as it was before" in said) == (1, True)
    assert quick.listing() == before
    assert not waits(quick)
