# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import look, prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends import boot
from ansible_collections.openagora.firewall.plugins.module_utils._backends.boot import (
    KEEPER,
    KEEPER_PATH,
    SCRIPT_PATH,
    UNIT_PATH,
    Boot,
    notices,
    plan,
    script,
)
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError, WriteFile
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from netns import NFTABLES, NetnsHost, rule_set

UNIT = "openagora-firewall.service"
SCRIPT = script("echo hello\n")


def shown(unit: str, **properties: str) -> str:
    """What `systemctl show` prints about a unit."""
    values = {"Id": unit, "LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
    values = {**values, "DefaultDependencies": "no", "Conflicts": "shutdown.target", **properties}
    return "".join(f"{name}={value}\n" for name, value in values.items())


ABSENT = shown(UNIT, LoadState="not-found", ActiveState="inactive", UnitFileState="")


def asked(host: NetnsHost) -> list[str]:
    """What systemctl was asked to do since the last time."""
    lines = (host.read("/run/systemd/asked") or "").splitlines()
    host.sh("rm -f /run/systemd/asked")
    return lines


def test_read_a_host_without_systemd(host: NetnsHost) -> None:
    assert boot.read(host) == Boot(systemd=False, script=None, unit=None)
    host.put(SCRIPT_PATH, SCRIPT)
    found = boot.read(host)
    assert found == Boot(systemd=False, script=SCRIPT, unit=None)
    assert found.files == (SCRIPT_PATH,)


def test_read_units(host: NetnsHost) -> None:
    host.systemd(
        show="\n".join(
            [
                ABSENT,
                shown("nftables.service"),
                shown("iptables.service", LoadState="not-found"),
                shown("netfilter-persistent.service", ActiveState="failed"),
            ]
        )
    )
    found = boot.read(host)
    assert found == Boot(True, None, None, loaders=("netfilter-persistent.service", "nftables.service"))


def test_loaders_of_red_hat(host: NetnsHost) -> None:
    """iptables-services: ordinary units for each family, which wait for sysinit.target."""
    conflicts = "shutdown.target firewalld.service"
    units = [
        shown(unit, DefaultDependencies="yes", Conflicts=conflicts)
        for unit in ("iptables.service", "ip6tables.service")
    ]
    host.systemd(show="\n".join([ABSENT, *units, shown("netfilter-persistent.service", LoadState="not-found")]))
    assert boot.read(host).loaders == ("ip6tables.service", "iptables.service")
    assert not boot.read(host).early


@pytest.mark.parametrize(
    ("used", "loaders"),
    [
        ("netfilter-persistent.service", ("netfilter-persistent.service",)),
        ("iptables.service", ("ip6tables.service", "iptables.service")),
        ("", ("netfilter-persistent.service",)),
    ],
)
def test_loaders_that_stop_each_other(host: NetnsHost, used: str, loaders: tuple[str, ...]) -> None:
    """Debian 11: netfilter-persistent.service conflicts with the other two, which are the same by an older name."""
    units = {"netfilter-persistent.service": "shutdown.target ip6tables.service iptables.service"}
    units |= dict.fromkeys(("iptables.service", "ip6tables.service"), "shutdown.target")
    idle = {"ActiveState": "inactive", "UnitFileState": "disabled"}
    blocks = [shown(name, Conflicts=stops, **({} if name == used else idle)) for name, stops in units.items()]
    host.systemd(show="\n".join(blocks))
    assert boot.read(host).loaders == loaders


@pytest.mark.parametrize("dependencies", ["yes", "no"])
def test_a_loader_with_default_dependencies_is_late(host: NetnsHost, dependencies: str) -> None:
    loader = shown("iptables.service", DefaultDependencies=dependencies)
    host.systemd(show="\n".join([shown("nftables.service"), loader]))
    assert boot.read(host).early == (dependencies == "no")


@pytest.mark.parametrize(("state", "enabled"), [("enabled", True), ("disabled", False), ("masked", False), ("", False)])
@pytest.mark.parametrize(("activity", "active"), [("active", True), ("inactive", False), ("failed", False)])
def test_read_our_unit(host: NetnsHost, state: str, enabled: bool, activity: str, active: bool) -> None:
    host.systemd(show=shown(UNIT, UnitFileState=state, ActiveState=activity))
    found = boot.read(host)
    assert (found.enabled, found.active, found.loaders) == (enabled, active, ())


@pytest.mark.parametrize("path", [SCRIPT_PATH, UNIT_PATH])
def test_files_of_others_are_refused(host: NetnsHost, path: str) -> None:
    host.put(path, "#!/bin/sh\n# not ours\n")
    before = host.listing()
    for rules in (rule_set("web"), None):
        with pytest.raises(BackendError, match=f"{path} was not written by this collection; move it away"):
            host.apply(rules)
    with pytest.raises(BackendError, match="not written by this collection"):
        look(host)
    assert host.listing() == before


def test_a_failing_systemctl_is_an_error(host: NetnsHost) -> None:
    host.systemd()
    host.stand_in("systemctl", "echo 'no bus' >&2; exit 1")
    with pytest.raises(BackendError, match="systemctl show failed: no bus"):
        boot.read(host)


def test_from_nothing_to_enabled_and_back(host: NetnsHost) -> None:
    host.systemd(show=ABSENT)
    NFTABLES.close(host)
    before = host.listing()
    rules = rule_set("web")
    planned = host.apply(rules).plan
    assert asked(host) == [f"reenable --quiet {UNIT}", f"restart {UNIT}"]
    assert look(host).files == (SCRIPT_PATH, UNIT_PATH)
    assert host.read(UNIT_PATH)
    host.systemd(show=shown(UNIT))
    assert prepare(host, rules, backend="auto").plan.steps == ()
    host.undo(planned.steps)
    assert asked(host) == [f"disable --quiet {UNIT}", f"stop {UNIT}", "daemon-reload"]
    assert host.listing() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_a_unit_is_enabled_again_only_if_it_was(host: NetnsHost, enabled: bool) -> None:
    found = Boot(True, SCRIPT, STANDING.unit, enabled=enabled)
    enabling = [f"reenable --quiet {UNIT}", f"restart {UNIT}"]
    disabling = [f"disable --quiet {UNIT}", f"stop {UNIT}", "daemon-reload"]
    host.systemd()
    for wanted, done, undone in (
        (SCRIPT, enabling, enabling if enabled else disabling),
        (None, disabling, enabling if enabled else ["daemon-reload"]),
    ):
        steps = [step for step in plan(found, wanted) if step.what.startswith("unit")]
        host.carry_out(steps)
        assert asked(host) == done
        host.undo(steps)
        assert asked(host) == undone
        assert host.read(UNIT_PATH) == found.unit


def test_absent_takes_the_unit_and_the_script_away(host: NetnsHost) -> None:
    host.systemd(show=ABSENT)
    NFTABLES.close(host)
    before = host.listing()
    host.apply(rule_set("web"))
    held = host.listing()
    asked(host)
    host.systemd(show=shown(UNIT))
    planned = host.apply(None).plan
    assert asked(host) == [f"disable --quiet {UNIT}", f"stop {UNIT}", "daemon-reload"]
    assert host.listing() == before
    assert [step.what for step in planned.steps] == [
        "nftables: table inet filter: chains and sets of ours go",
        f"unit {UNIT} goes",
        f"file {SCRIPT_PATH} goes",
    ]
    host.undo(planned.steps)
    assert asked(host) == [f"reenable --quiet {UNIT}", f"restart {UNIT}"]
    assert host.listing() == held


def unit_of(found: Boot) -> str:
    """The unit file for a host."""
    return next(
        action.text
        for step in plan(found, SCRIPT)
        for action in step.do
        if isinstance(action, WriteFile) and action.path == UNIT_PATH
    )


NEW = Boot(systemd=True, script=None, unit=None)
STANDING = Boot(systemd=True, script=SCRIPT, unit=unit_of(NEW), enabled=True, active=True)


@pytest.mark.parametrize(
    ("found", "wanted", "steps"),
    [
        (NEW, None, []),
        (NEW, SCRIPT, [f"file {SCRIPT_PATH}", f"unit {UNIT}, enabled and started"]),
        (STANDING, SCRIPT, []),
        (STANDING, script(""), [f"file {SCRIPT_PATH}", f"unit {UNIT}, enabled and started"]),
        (STANDING, None, [f"unit {UNIT} goes", f"file {SCRIPT_PATH} goes"]),
        (Boot(True, SCRIPT, STANDING.unit, enabled=False, active=True), SCRIPT, [f"unit {UNIT}, enabled and started"]),
        (Boot(True, SCRIPT, STANDING.unit, enabled=True, active=False), SCRIPT, [f"unit {UNIT}, enabled and started"]),
        (Boot(True, SCRIPT, "an old one", enabled=True, active=True), SCRIPT, [f"unit {UNIT}, enabled and started"]),
        (Boot(True, SCRIPT, None), SCRIPT, [f"unit {UNIT}, enabled and started"]),
        (
            Boot(True, SCRIPT, STANDING.unit, loaders=("nftables.service",), enabled=True, active=True),
            SCRIPT,
            [f"unit {UNIT}, enabled and started"],
        ),
        (Boot(True, None, STANDING.unit, enabled=True, active=True), None, [f"unit {UNIT} goes"]),
        (Boot(False, None, None), SCRIPT, [f"file {SCRIPT_PATH}"]),
        (Boot(False, SCRIPT, None), SCRIPT, []),
        (Boot(False, SCRIPT, None), None, [f"file {SCRIPT_PATH} goes"]),
        (Boot(False, SCRIPT, "a unit"), None, [f"unit {UNIT} goes", f"file {SCRIPT_PATH} goes"]),
    ],
)
def test_plan(found: Boot, wanted: str | None, steps: list[str]) -> None:
    assert [step.what for step in plan(found, wanted)] == steps


KEEPING = script("echo hello\n", "echo kept")
LOADED = ("nftables.service",)


@pytest.mark.parametrize(
    ("found", "wanted", "steps"),
    [
        (Boot(True, None, None, loaders=LOADED), KEEPING, [SCRIPT_PATH, UNIT, KEEPER]),
        (Boot(True, None, None), KEEPING, [SCRIPT_PATH, UNIT]),
        (Boot(False, None, None), KEEPING, [SCRIPT_PATH]),
        (Boot(True, None, None, loaders=LOADED), SCRIPT, [SCRIPT_PATH, UNIT]),
    ],
)
def test_a_unit_keeps_what_a_loader_empties(found: Boot, wanted: str, steps: list[str]) -> None:
    planned = plan(found, wanted)
    assert [name for step in planned for name in (SCRIPT_PATH, UNIT, KEEPER) if name in step.what] == steps
    texts = {action.path: action.text for step in planned for action in step.do if isinstance(action, WriteFile)}
    keeping = replace(
        found,
        script=wanted,
        unit=texts.get(UNIT_PATH),
        keeper=texts.get(KEEPER_PATH),
        enabled=True,
        active=True,
        keeping=KEEPER_PATH in texts,
    )
    assert plan(keeping, wanted) == ()
    gone = [step.what for step in plan(keeping, None)]
    assert (f"unit {KEEPER} goes" in gone) == (KEEPER_PATH in texts)
    if KEEPER_PATH in texts:
        assert [step.what for step in plan(replace(keeping, keeping=False), wanted)] == [
            f"unit {KEEPER}, enabled and started"
        ]


def test_a_unit_that_does_not_start_is_taken_back(host: NetnsHost) -> None:
    host.systemd(show=ABSENT)
    host.stand_in(
        "systemctl",
        'case "$1" in is-active) exit 3;; show) exec cat /run/systemd/show;; restart) echo "it failed"; exit 1;; esac',
    )
    NFTABLES.close(host)
    before = host.listing()
    message = (
        f"unit {UNIT}, enabled and started: systemctl ended with code 1: it failed; everything is as it was before"
    )
    with pytest.raises(StepError, match=message):
        host.apply(rule_set("web"))
    assert host.listing() == before


def test_a_unit_that_cannot_be_disabled_stays(host: NetnsHost) -> None:
    host.systemd(show=ABSENT)
    NFTABLES.close(host)
    host.apply(rule_set("web"))
    before = host.listing()
    host.systemd(show=shown(UNIT))
    host.stand_in(
        "systemctl", 'case "$1" in is-active) exit 3;; show) exec cat /run/systemd/show;; disable) exit 1;; esac'
    )
    with pytest.raises(StepError, match=f"unit {UNIT} goes: systemctl ended with code 1: no message; everything is as"):
        host.apply(None)
    assert host.listing() == before


def test_without_systemd_the_user_is_told_how() -> None:
    assert list(notices(NEW, SCRIPT)) == []
    assert list(notices(Boot(False, None, None), None)) == []
    (notice,) = notices(Boot(False, None, None), SCRIPT)
    assert notice.data() == {
        "code": "not_at_boot",
        "where": SCRIPT_PATH,
        "message": f"no systemd runs here: let the host's own start-up run /bin/sh {SCRIPT_PATH} "
        "after it loads its firewall",
    }


@pytest.mark.parametrize("failing", [True, False])
def test_a_script_tells_whether_all_went_well(host: NetnsHost, failing: bool) -> None:
    host.put(SCRIPT_PATH, script(f"{'false' if failing else 'true'} || status=1\necho went on\n"))
    done = host.run(["/bin/sh", SCRIPT_PATH])
    assert (done.code, done.out) == (int(failing), "went on\n")
