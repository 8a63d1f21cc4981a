# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller does for module apply, on throwaway hosts."""

from __future__ import annotations

import typing as t

from netns import IPTABLES, NFTABLES, NetnsHost, rule_set
from plays import call, fail, play, run


def test_a_change_over_no_network_is_confirmed_at_once_and_can_be_taken_back(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.listing()
    wish = {"sdks": ["native"], "confirm_within": "20.0"}
    none, first, live, again, check, back, left, forth = play(
        host,
        [
            fail("apply", state="restored"),
            call("apply", **wish),
            call("applied_info"),
            call("apply", **wish),
            call("apply", check=True, state="absent", confirm_within=20),
            call("apply", state="restored", confirm_within=20),
            call("applied_info"),
            call("apply", state="restored"),
        ],
    )
    assert none["msg"].startswith("state: restored needs a change that was confirmed")
    assert first["confirmed"]
    assert first["rules"] == rule_set("native").data()
    assert "confirmed_locally" in [notice["code"] for notice in first["notices"]]
    assert "confirm" not in first
    assert "pending" not in live
    assert (again["changed"], "confirmed" in again) == (False, False)
    assert (check["changed"], "confirmed" in check) == (True, False)
    assert (back["confirmed"], left["rules"], left["files"]) == (True, [], [])
    assert forth["rules"] == rule_set("native").data()
    assert host.listing() != before


def test_the_notice_about_it_is_a_warning_too(host: NetnsHost) -> None:
    NFTABLES.close(host)
    said = " ".join(run(host, [call("apply", sdks=["native"], confirm_within=20)]).split())
    assert "[WARNING]: confirm_within: connection ansible.builtin.local crosses no network" in said


def test_seconds_that_are_true_or_false_are_refused(host: NetnsHost) -> None:
    """They would be taken for one, or for none."""
    NFTABLES.close(host)
    before = host.listing()
    for value in (True, False):
        (done,) = play(host, [fail("apply", sdks=["web"], confirm_within=value)])
        assert done["msg"].startswith("confirm_within: is true or false; write the seconds")
        assert done["problems"][0]["where"] == "confirm_within"
    for value in (-1, 86401, 10**10):
        (done,) = play(host, [fail("apply", sdks=["webb"], confirm_within=value)])
        assert f"2 problems: confirm_within: is {value}; it is seconds, up to 86400" in done["msg"]
    assert host.listing() == before


ROLE = [{"ansible.builtin.include_role": {"name": "openagora.firewall.open_ports"}}]


def test_what_is_no_number_and_no_yes_or_no_is_refused(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.listing()
    for given in ("agora_confirm_within=60s", "agora_lockout_guard=ture", "agora_prove=maybe", "agora_lockdown_log=of"):
        name, _equals, value = given.partition("=")
        said = run(host, ROLE, "--extra-vars", f"agora_sdks=web {given}", succeeds=False)
        assert f"open_ports_{name.removeprefix('agora_')}" in said
        assert value in said
    assert host.listing() == before
    said = run(
        host, ROLE, "--extra-vars", "agora_sdks=web agora_confirm_within=0 agora_lockout_guard=no agora_prove=off"
    )
    assert "Prove it" not in said
    assert host.listing() != before


def test_a_variable_that_is_misspelt_is_told_with_the_one_that_is_meant(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.listing()
    wrong = "agora_sdk=web agora_recording_port_range=42000-43999 agora_cofnirm_within=60"
    said = " ".join(run(host, ROLE, "--extra-vars", wrong, succeeds=False).split())
    assert (
        "3 problems: agora_cofnirm_within: is no variable of this collection; did you mean agora_confirm_within?"
        in said
    )
    assert (
        "agora_recording_port_range: is no variable of this collection; did you mean agora_recording_port_ranges?"
        in said
    )
    assert "agora_sdk: is no variable of this collection; did you mean agora_sdks?" in said
    assert "is empty or not set" not in said
    assert host.listing() == before
    # What else a playbook has is its own, and so are all names where it calls the module itself.
    run(host, ROLE, "--extra-vars", "agora_sdks=web agora_team=media agora_=1")
    run(host, [call("apply", sdks=["native"])], "--extra-vars", "agora_sdk=web")


# A stand-in for ssh that crosses no network, and notes which socket of a shared connection the real one would use to
# confirm a change.
SSH = """
for command; do :; done
case $command in
*confirm*) (echo asked; /usr/bin/ssh -G "$@" | grep ^controlpath) >>/run/asked ;;
esac
exec /bin/sh -c "$command"
"""


def over_ssh(task: dict[str, t.Any], **variables: str) -> dict[str, t.Any]:
    """The task over connection ssh, with these further variables."""
    words = {"ansible_connection": "ssh", "ansible_ssh_executable": "/usr/local/sbin/ssh", **variables}
    return {**task, "vars": {**task.get("vars", {}), **words}}


def test_no_shared_connection_confirms(host: NetnsHost) -> None:
    """Wherever the user asks for one."""
    NFTABLES.close(host)
    host.stand_in("ssh", SSH)
    shared = "-o ControlMaster=auto -o ControlPersist=60s -o ControlPath=/run/own"
    options = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
    wishes: list[dict[str, str]] = [{option: shared} for option in options]
    wishes += [{"ansible_ssh_args": "-M -S /run/own"}, {}]
    sdks = ("web", "native", "gaming", "recording", "signaling")
    results = play(
        host,
        [over_ssh(call("apply", sdks=[sdk], confirm_within=20), **variables) for sdk, variables in zip(sdks, wishes)],
    )
    assert [result["confirmed"] for result in results] == [True] * 5
    assert host.sh("cat /run/asked") == "asked\n" * 5


# A connection that lasts, as those of paramiko do, and that comes about only the second time that it is made anew.
LASTING = """
DOCUMENTATION = "{name: lasting, short_description: lasting, author: nobody, description: lasting}"

from pathlib import Path
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

class Connection(Local):
    transport = "lasting"

    def reset(self):
        tried = Path("/run/tried")
        if not tried.exists():
            tried.touch()
            raise AnsibleConnectionFailure("no route")
"""


def test_a_connection_that_lasts_is_made_anew_until_that_works(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.put("/run/play/connection_plugins/lasting.py", LASTING)
    words = {"ansible_connection": "lasting", "ansible_pipelining": False}
    (result,) = play(host, [{**call("apply", sdks=["web"], confirm_within=20), "vars": words}])
    assert result["confirmed"]
    assert host.exists("/run/tried")


def test_what_was_there_comes_back_also_where_something_else_stopped_it(host: NetnsHost) -> None:
    """Rules of a firewall that is not the one in force open nothing, and are held all the same."""
    NFTABLES.close(host)
    wish = {"backend": "iptables", "confirm_within": 20}
    *_before, back = play(
        host,
        [
            call("apply", sdks=["web"], **wish),
            call("apply", sdks=["native"], **wish),
            call("apply", state="restored", **wish),
        ],
    )
    assert back["rules"] == rule_set("web").data()


def test_what_was_there_comes_back_in_its_own_firewall(host: NetnsHost) -> None:
    NFTABLES.close(host)
    *_before, back = play(
        host,
        [
            call("apply", sdks=["web"], backend="iptables", confirm_within=20),
            call("apply", sdks=["web"], backend="nftables", confirm_within=20),
            call("apply", state="restored"),
        ],
    )
    assert (back["changed"], back["backend"]["name"]) == (True, "iptables")


def test_a_lockdown_comes_back_that_others_had_let_something_past(host: NetnsHost) -> None:
    """As libvirt does, whose rules come first."""
    IPTABLES.close(host)
    wish = {"mode": "lockdown", "backend": "iptables", "confirm_within": 20}
    first = [call("apply", sdks=["web"], **wish)]
    play(host, first)
    host.sh("iptables -N LIBVIRT_OUT; iptables -I OUTPUT -j LIBVIRT_OUT")
    _change, _back, live = play(
        host, [call("apply", sdks=["native"], **wish), call("apply", state="restored"), call("applied_info")]
    )
    assert live["mode"] == "lockdown"


def test_check_mode_waits_as_the_run_would(host: NetnsHost) -> None:
    NFTABLES.close(host)
    host.sh("mkdir -p -m 700 /var/lib/openagora/firewall/pending")
    host.sh("echo $(cat /proc/sys/kernel/random/boot_id) 99999999 >/var/lib/openagora/firewall/pending/until")
    results = play(host, [fail("apply", sdks=["web"]), {**fail("apply", sdks=["web"]), "check_mode": True}])
    assert ["another change waits" in result["msg"] for result in results] == [True, True]


# A host that cannot be reached from the time on that a change is to be confirmed: a new connection fails, and one that
# is shared hangs.
CUT = """
for command; do :; done
case $* in
*"-O check"*) test -e /run/shared; exit ;;
*"-O stop"*) rm /run/shared; exit ;;
esac
case $command in *confirm*) touch /run/cut ;; esac
if [ -e /run/cut ]; then
    case $* in *"-S none"*) exit 255 ;; esac
    [ ! -e /run/shared ] || { touch /run/hung; sleep 20; }
    exit 255
fi
touch /run/shared
exec /bin/sh -c "$command"
"""


def test_a_host_that_stays_away_does_not_hide_what_happened(host: NetnsHost) -> None:
    """Without pipelining Ansible has a folder to remove there in the end."""
    NFTABLES.close(host)
    host.stand_in("ssh", CUT)
    words = {"ansible_pipelining": "false", "ansible_ssh_transfer_method": "piped"}
    said = run(host, [over_ssh(call("apply", sdks=["web"], confirm_within=1), **words)], succeeds=False)
    assert "the change was not confirmed: no new connection" in said
    assert "UNREACHABLE" not in said
    assert not host.exists("/run/hung")
