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
# What answers of the resolver have put into sets is not in any file: it is kept before a loader empties them. On a
# reload that is this unit's work, on a stop that of the other one, which has to be later than the loaders.
KEEPER = "openagora-firewall-keep.service"
KEEPER_PATH = f"/etc/systemd/system/{KEEPER}"
KEPT_PATH = "/run/openagora-firewall.kept"
SCRIPT_PATH = "/etc/openagora/firewall/boot"

# Who loads a host's own iptables or nftables rules at boot: the services of Debian, of Red Hat (iptables-services) and
# of SUSE (nftables). Of two that cannot stand side by side the first is taken.
LOADERS = ("netfilter-persistent.service", "iptables.service", "ip6tables.service", "nftables.service")

_OURS = "Written by the Ansible collection openagora.firewall"
_HEADER = f"# {_OURS}; its next run puts right what is changed here.\n"


@dataclass(frozen=True)
class Boot:
    """What is there. `early`: no loader waits for sysinit.target, so the unit can come before it.

    `keeper` is the text of the unit that keeps what is in sets, `keeping` whether it is enabled and active.
    """

    systemd: bool
    script: str | None
    unit: str | None
    loaders: tuple[str, ...] = ()
    early: bool = True
    enabled: bool = False
    active: bool = False
    keeper: str | None = None
    keeping: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files of ours that exist."""
        found = ((SCRIPT_PATH, self.script), (UNIT_PATH, self.unit), (KEEPER_PATH, self.keeper))
        return tuple(path for path, text in found if text is not None)


_KEEP = '[ "${1:-}" = keep ]'


def script(body: str, keep: str = "") -> str:
    """A whole boot script around `body`, which sets `status` to 1 when something fails.

    `keep` prints what is in sets, in the words of `nft -f`; what it printed before the loaders ran is put back.
    """
    head = "# Puts the Agora rules back, at boot and after the firewall's own loader; harmless while they are there.\n"
    before = f"if {_KEEP}; then {{ {keep}; }} >{KEPT_PATH} 2>/dev/null; exit 0; fi\n" if keep else ""
    after = f"[ ! -s {KEPT_PATH} ] || nft -f {KEPT_PATH}\nrm -f {KEPT_PATH}\n" if keep else ""
    return f"#!/bin/sh\n{_HEADER}{head}{before}status=0\n{body}{after}exit $status\n"


def read(host: Host) -> Boot:
    """The files of ours, the unit's state and the loaders that the host has."""
    script_text, unit_text, keeper_text = map(host.read, (SCRIPT_PATH, UNIT_PATH, KEEPER_PATH))
    for path, text in ((SCRIPT_PATH, script_text), (UNIT_PATH, unit_text), (KEEPER_PATH, keeper_text)):
        if text is not None and _OURS not in text:
            raise BackendError(f"{path} was not written by this collection; move it away, then run again")
    if not (host.exists("/run/systemd/system") and host.which("systemctl")):
        return Boot(False, script_text, unit_text, keeper=keeper_text)
    wanted = "--property=Id,LoadState,ActiveState,UnitFileState,DefaultDependencies,Conflicts"
    outcome = host.run(["systemctl", "show", wanted, UNIT, KEEPER, *LOADERS])
    if outcome.code != 0:
        raise BackendError(f"systemctl show failed: {outcome.err.strip()}")
    units = {}
    for block in outcome.out.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("LoadState") == "loaded":
            units[unit["Id"]] = unit
    ours, keeper = units.pop(UNIT, {}), units.pop(KEEPER, {})
    loaders = _together(units)
    return Boot(
        True,
        script_text,
        unit_text,
        loaders=loaders,
        early=all(units[name]["DefaultDependencies"] == "no" for name in loaders),
        enabled=ours.get("UnitFileState") == "enabled",
        active=ours.get("ActiveState") == "active",
        keeper=keeper_text,
        keeping=(keeper.get("UnitFileState"), keeper.get("ActiveState")) == ("enabled", "active"),
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


def _unit(boot: Boot, *, keeps: bool) -> str:
    loaders = " ".join(boot.loaders)
    # A loader with default dependencies starts after sysinit.target; to be before the target then would be a cycle.
    before = "network-pre.target sysinit.target" if boot.early else "network-pre.target"
    stop = f"ExecStop=/bin/sh {SCRIPT_PATH} keep\n" if keeps else ""
    follow = f"PartOf={loaders}\nReloadPropagatedFrom={loaders}\n" if loaders else ""
    return f"""\
{_HEADER}[Unit]
Description=Agora ports in this host's firewall
DefaultDependencies=no
ConditionPathExists={SCRIPT_PATH}
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
{stop}
[Install]
WantedBy={" ".join(["sysinit.target" if boot.early else "multi-user.target", *boot.loaders])}
"""


def _keeper(boot: Boot) -> str:
    loaders = " ".join(boot.loaders)
    return f"""\
{_HEADER}[Unit]
Description=Keeps the addresses that names have while the firewall is loaded anew
DefaultDependencies=no
After=local-fs.target
Before={loaders} shutdown.target
Conflicts=shutdown.target
StartLimitIntervalSec=0
ReloadPropagatedFrom={loaders}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecReload=/bin/sh {SCRIPT_PATH} keep

[Install]
WantedBy={loaders}
"""


def _systemctl(*words: str) -> Command:
    return Command(("systemctl", *words))


def _put(path: str, text: str | None) -> Action:
    return RemoveFile(path) if text is None else WriteFile(path, text)


def _unit_steps(
    boot: Boot, name: str, texts: tuple[str | None, str | None], *, enabled: bool, running: bool
) -> t.Iterator[Step]:
    """From the one text of a unit (None: no unit) to the other; `running`: it is enabled, active and up to date."""
    have, wanted = texts
    path = f"/etc/systemd/system/{name}"
    start = (_systemctl("reenable", "--quiet", name), _systemctl("restart", name))
    stop = (_systemctl("disable", "--quiet", name), _systemctl("stop", name))
    reload = (_systemctl("daemon-reload"),)
    before = (_put(path, have), *(start if enabled else reload))
    if wanted is not None and (wanted != have or not running):
        undo = before if enabled else (*stop, *before)
        # A unit that is not there, or no longer, can be neither disabled nor stopped.
        rollback = () if enabled else (_put(path, wanted), *reload, *undo)
        yield Step(f"unit {name}, enabled and started", None, (_put(path, wanted), *start), undo, rollback=rollback)
    elif wanted is None and have is not None:
        # When it stops it keeps what nobody will ask for any more.
        do = (
            *(stop if boot.systemd else ()),
            _put(path, None),
            _put(KEPT_PATH, None),
            *(reload if boot.systemd else ()),
        )
        yield Step(f"unit {name} goes", None, do, before if boot.systemd else before[:1])


def plan(boot: Boot, wanted: str | None) -> tuple[Step, ...]:
    """The steps to this boot script and its unit, or to neither of them (None)."""
    steps = []
    if wanted is not None and wanted != boot.script:
        do, undo = (_put(SCRIPT_PATH, wanted),), (_put(SCRIPT_PATH, boot.script),)
        steps.append(Step(f"file {SCRIPT_PATH}", None, do, undo))
    keeps = wanted is not None and _KEEP in wanted
    unit = _unit(boot, keeps=keeps) if wanted is not None and boot.systemd else None
    keeper = _keeper(boot) if unit is not None and keeps and boot.loaders else None
    running = boot.enabled and boot.active and not steps
    steps += _unit_steps(boot, UNIT, (boot.unit, unit), enabled=boot.enabled, running=running)
    steps += _unit_steps(boot, KEEPER, (boot.keeper, keeper), enabled=boot.keeping, running=boot.keeping)
    if wanted is None and boot.script is not None:
        do, undo = (_put(SCRIPT_PATH, None),), (_put(SCRIPT_PATH, boot.script),)
        steps.append(Step(f"file {SCRIPT_PATH} goes", None, do, undo))
    return tuple(steps)


def notices(boot: Boot, wanted: str | None) -> t.Iterator[Notice]:
    """What the host cannot do at boot."""
    if wanted is not None and not boot.systemd:
        text = (
            f"no systemd runs here: let the host's own start-up run /bin/sh {SCRIPT_PATH} after it loads its firewall"
        )
        yield Notice("not_at_boot", SCRIPT_PATH, text)
