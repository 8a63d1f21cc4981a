# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What brings the rules back at boot: a shell script of ours and the systemd unit that runs it.

For firewalls that keep no rules of their own (iptables, nftables). The unit runs after whatever loads the host's own
rules, before network-pre.target and sysinit.target where the loaders allow it, and again when a loader is reloaded
or restarted.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from .._model.messages import Notice
from .contract import BackendError, Command, RemoveFile, Step, WriteFile

if t.TYPE_CHECKING:
    from .contract import Action, Host

__all__ = ["SCRIPT_PATH", "UNIT_PATH", "Boot", "notices", "plan", "read", "script"]

UNIT = "openagora-firewall.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
SCRIPT_PATH = "/etc/openagora/firewall/boot"

# Who loads a host's own iptables or nftables rules at boot: the services of Debian, of Red Hat (iptables-services) and
# of SUSE (nftables). Of two that cannot stand side by side the first is taken.
LOADERS = ("netfilter-persistent.service", "iptables.service", "ip6tables.service", "nftables.service")

_OURS = "Written by the Ansible collection openagora.firewall"
_HEADER = f"# {_OURS}; its next run puts right what is changed here.\n"


@dataclass(frozen=True)
class Boot:
    """What is there. `early`: no loader waits for sysinit.target, so the unit can come before it."""

    systemd: bool
    script: str | None
    unit: str | None
    loaders: tuple[str, ...] = ()
    early: bool = True
    enabled: bool = False
    active: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files of ours that exist."""
        found = ((SCRIPT_PATH, self.script), (UNIT_PATH, self.unit))
        return tuple(path for path, text in found if text is not None)


def script(body: str) -> str:
    """A whole boot script around `body`, which sets `status` to 1 when something fails."""
    head = "# Puts the Agora rules back, at boot and after the firewall's own loader; harmless while they are there.\n"
    return f"#!/bin/sh\n{_HEADER}{head}status=0\n{body}exit $status\n"


def read(host: Host) -> Boot:
    """The files of ours, the unit's state and the loaders that the host has."""
    script_text, unit_text = host.read(SCRIPT_PATH), host.read(UNIT_PATH)
    for path, text in ((SCRIPT_PATH, script_text), (UNIT_PATH, unit_text)):
        if text is not None and _OURS not in text:
            raise BackendError(f"{path} was not written by this collection; move it away, then run again")
    if not (host.exists("/run/systemd/system") and host.which("systemctl")):
        return Boot(False, script_text, unit_text)
    wanted = "--property=Id,LoadState,ActiveState,UnitFileState,DefaultDependencies,Conflicts"
    outcome = host.run(["systemctl", "show", wanted, UNIT, *LOADERS])
    if outcome.code != 0:
        raise BackendError(f"systemctl show failed: {outcome.err.strip()}")
    units = {}
    for block in outcome.out.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("LoadState") == "loaded":
            units[unit["Id"]] = unit
    ours = units.pop(UNIT, {})
    loaders = _together(units)
    return Boot(
        True,
        script_text,
        unit_text,
        loaders=loaders,
        early=all(units[name]["DefaultDependencies"] == "no" for name in loaders),
        enabled=ours.get("UnitFileState") == "enabled",
        active=ours.get("ActiveState") == "active",
    )


def _together(units: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """The loaders that can run side by side, those in use before others.

    Debian 11's netfilter-persistent.service stops iptables.service, which is the same under an older name; a unit that
    is part of both could not be restarted with the one, because it has to stop with the other.
    """
    chosen: list[str] = []
    for name in sorted(units, key=lambda name: (not _in_use(units[name]), LOADERS.index(name))):
        if not any(other in _stops(units[name]) or name in _stops(units[other]) for other in chosen):
            chosen.append(name)
    return tuple(sorted(chosen))


def _stops(unit: dict[str, str]) -> list[str]:
    return unit["Conflicts"].split()


def _in_use(unit: dict[str, str]) -> bool:
    return unit["ActiveState"] == "active" or unit["UnitFileState"] == "enabled"


def _unit(boot: Boot) -> str:
    loaders = " ".join(boot.loaders)
    # A loader with default dependencies starts after sysinit.target; to be before the target then would be a cycle.
    before = "network-pre.target sysinit.target" if boot.early else "network-pre.target"
    follow = f"PartOf={loaders}\nReloadPropagatedFrom={loaders}\n" if loaders else ""
    return f"""\
{_HEADER}[Unit]
Description=Agora ports in this host's firewall
DefaultDependencies=no
After={" ".join(["local-fs.target", *boot.loaders])}
Before={before} shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
# Every change of the rules restarts the unit, however many come in a row.
StartLimitIntervalSec=0
{follow}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {SCRIPT_PATH}
ExecReload=/bin/sh {SCRIPT_PATH}

[Install]
WantedBy={" ".join(["sysinit.target" if boot.early else "multi-user.target", *boot.loaders])}
"""


def _systemctl(*words: str) -> Command:
    return Command(("systemctl", *words))


def _put(path: str, text: str | None) -> Action:
    return RemoveFile(path) if text is None else WriteFile(path, text)


def plan(boot: Boot, wanted: str | None) -> tuple[Step, ...]:
    """The steps to this boot script and its unit, or to neither of them (None)."""
    start = (_systemctl("reenable", "--quiet", UNIT), _systemctl("restart", UNIT))
    stop = (_systemctl("disable", "--quiet", UNIT), _systemctl("stop", UNIT))
    reload = (_systemctl("daemon-reload"),)
    steps = []
    if wanted is not None and wanted != boot.script:
        steps.append(Step(f"file {SCRIPT_PATH}", (_put(SCRIPT_PATH, wanted),), (_put(SCRIPT_PATH, boot.script),)))
    unit = _unit(boot) if wanted is not None and boot.systemd else None
    before = (_put(UNIT_PATH, boot.unit), *(start if boot.enabled else reload))
    if unit is not None and (unit != boot.unit or not boot.enabled or not boot.active or steps):
        undo = before if boot.enabled else (*stop, *before)
        steps.append(Step(f"unit {UNIT}, enabled and started", (_put(UNIT_PATH, unit), *start), undo))
    elif unit is None and boot.unit is not None:
        do = (*(stop if boot.systemd else ()), _put(UNIT_PATH, None), *(reload if boot.systemd else ()))
        steps.append(Step(f"unit {UNIT} goes", do, before if boot.systemd else before[:1]))
    if wanted is None and boot.script is not None:
        steps.append(Step(f"file {SCRIPT_PATH} goes", (_put(SCRIPT_PATH, None),), (_put(SCRIPT_PATH, boot.script),)))
    return tuple(steps)


def notices(boot: Boot, wanted: str | None) -> t.Iterator[Notice]:
    """What the host cannot do at boot."""
    if wanted is not None and not boot.systemd:
        text = (
            f"no systemd runs here: let the host's own start-up run /bin/sh {SCRIPT_PATH} after it loads its firewall"
        )
        yield Notice("not_at_boot", SCRIPT_PATH, text)
