# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that undoes itself unless it is confirmed in time.

Before the change a shell script with all undo actions is written to a folder of root's alone, and a timer is set that
runs it: a transient one of systemd, or a detached process. It depends on neither the connection nor the process that
makes the change. At the next boot a unit runs it, which only brings files back: no rule of ours is live by then.

The folder `pending` is the state of it all: to confirm is to rename it, so is to begin to restore. One of them wins.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import time
import typing as t
from dataclasses import dataclass

from .._backends.contract import BackendError, RemoveFile, WriteFile
from .local import LOCK, PATH, LocalHost, StepError, carry_out, put

if t.TYPE_CHECKING:
    from .._backends.contract import Action, Step

__all__ = ["FOLDER", "Pending", "change", "finish", "former", "pending", "unreadable"]

FOLDER = "/var/lib/openagora/firewall"
UNIT = "openagora-rollback"
_PENDING = f"{FOLDER}/pending"
# What is not there yet, or no longer; nothing in it counts.
_NEW = f"{FOLDER}/new"
_FORMER = f"{FOLDER}/former.json"
# Of the files that a later run reads, which may be one of another version of the collection.
_VERSION = 1
_BOOT_UNIT = f"{UNIT}-boot.service"
_SYSTEM = "/etc/systemd/system"
_LINK = f"{_SYSTEM}/sysinit.target.wants/{_BOOT_UNIT}"

# How long the script waits for a run that is still at work, before it ends that.
_PATIENCE = 5

# A rollback that was ended, or could not bring all of it back, is tried again so often, with so many seconds between.
_TRIES, _PAUSE = 30, 10

_BOOT = f"""\
# Written by the Ansible collection openagora.firewall; gone when the change that waits is confirmed.
[Unit]
Description=Brings back what was before a change of the firewall that nobody has confirmed
DefaultDependencies=no
ConditionPathIsDirectory=|{_PENDING}
ConditionPathIsDirectory=|{FOLDER}/restoring
RequiresMountsFor={FOLDER}
After=local-fs.target
Before=openagora-firewall.service ufw.service firewalld.service nftables.service netfilter-persistent.service
Before=iptables.service ip6tables.service network-pre.target sysinit.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cd {FOLDER}; [ ! -d restoring ] || exec /bin/sh restoring/run boot; exec /bin/sh pending/run boot'
"""

_SCRIPT = f"""\
#!/bin/sh
# `run due TOKEN` brings back what was before the change, `run again TOKEN` tries that until it works, `run boot` does
# it at boot, `run held` for one who holds the lock. `run confirm TOKEN` lets the change be.
PATH={PATH} LC_ALL=C
export PATH LC_ALL
umask 022
cd {FOLDER} || exit 1

end() {{
    rm -f {_LINK} {_SYSTEM}/{_BOOT_UNIT}
    if [ -d /run/systemd/system ]; then systemctl stop {UNIT}.timer 2>/dev/null; fi
}}

mode=$1
if [ "$mode" = confirm ]; then
    rm -rf confirmed
    if [ "$(cat pending/token 2>/dev/null)" != "$2" ] || ! mv pending confirmed; then
        echo "no change waits for this confirmation; what became of it: $(cat outcome 2>/dev/null)"
        exit 1
    fi
    echo "confirmed $2" >outcome
    end
    mv confirmed/former former.json
    rm -rf confirmed
    exit
fi

if [ "$mode" = again ]; then
    for number in $(seq {_TRIES}); do
        folder=pending
        [ ! -d restoring ] || folder=restoring
        [ -d $folder ] || exit 0
        /bin/sh $folder/run due "$2" </dev/null && exit 0
        sleep {_PAUSE}
    done
    exit 1
fi

mine() {{
    [ "$(cat pending/token restoring/token 2>/dev/null)" = "$1" ]
}}

end_process() {{
    # With what it has started, which would do its work later on; stopped, it starts no more. It may have started this.
    [ "$1" != $$ ] || return 0
    kill -STOP "$1"
    for started in $(cat "/proc/$1/task/"*/children); do end_process "$started"; done
    kill -KILL "$1"
}}

if [ "$mode" = due ]; then
    # A run that is still at work, and hangs, is ended; not one that brings this back already, nor one that came later.
    exec 9>>{LOCK}
    if ! flock -w {_PATIENCE} 9; then
        # Who holds it may be bringing this back already, and fail.
        [ ! -d restoring ] || ! mine "$2" || exit 1
        [ -d pending ] && mine "$2" || exit 0
        end_process "$(cat pending/process)"
        flock -w {_PATIENCE} 9
    fi
    mine "$2" || exit 0
fi
mv pending restoring 2>/dev/null
failed=
late=
here=$PWD/restoring
# On a disk that cannot be written any more it stays where it is.
[ -d "$here" ] || here=$PWD/pending
[ -d "$here" ] || exit 0

put() {{
    mkdir -p "$(dirname "$3")"
    place=$(readlink -f "$3")
    new=${{place%/*}}/.${{place##*/}}.openagora
    cp "$here/$1" "$new" && chmod "$2" "$new" && like "$place" "$new" && mv -f "$new" "$place" || failed="$failed $3"
}}

like() {{
    # A file that is there keeps whose it is, and its label where there are labels.
    if [ -e "$1" ]; then
        chmod --reference="$1" "$2"
        chown --reference="$1" "$2"
        chcon --reference="$1" "$2" 2>/dev/null
    fi
    true
}}

remove() {{
    rm -f "$1" "${{1%/*}}/.${{1##*/}}.openagora" || failed="$failed $1"
    folder=$(dirname "$1")
    while :; do
        case $folder in
        *openagora* | *.service.d) ;;
        *) break ;;
        esac
        # Who was killed may have made the outer one alone.
        [ ! -e "$folder" ] || rmdir "$folder" 2>/dev/null || break
        folder=$(dirname "$folder")
    done
}}

act() {{
    input=$1
    shift
    if [ "$mode" = boot ]; then
        # No rule is there to be taken back, and no unit can be waited for; those that are back are started in the end.
        case "$1 $2" in
        "systemctl disable" | "systemctl reenable") shift; set -- systemctl --root=/ "$@" ;;
        "systemctl restart") late="$late $3"; return ;;
        *) return ;;
        esac
    fi
    # Another program may hold the firewall's lock, or the firewall be about to start.
    for pause in 1 2 4; do
        "$@" <"$input" && return
        sleep "$pause"
    done
    "$@" <"$input" || failed="$failed $1"
}}

"""

_END = """
number=$(wc -l <"$here/begun")
while [ "$number" -gt 0 ]; do
    "undo_$number"
    number=$((number - 1))
done
echo "restored $(date -u +%Y-%m-%dT%H:%M:%SZ)${failed:+; these failed:$failed}" >outcome
if [ "$failed" ]; then
    echo "these failed:$failed" >&2
    exit 1
fi
sync
# This boot was planned without them.
if [ "$late" ]; then systemctl daemon-reload; systemctl start --no-block $late; fi
end
# At once: what is left of a folder half removed would be run again, and cannot be.
rm -rf new
mv "$here" new
rm -rf new
[ "$mode" != held ] || [ ! -d "$here" ]
"""


@dataclass(frozen=True)
class Pending:
    """A change that waits for its confirmation; `left` are the seconds until it is undone, 0 when that is overdue."""

    left: float


@dataclass(frozen=True)
class _Armed:
    """A rollback that is armed: what confirms it."""

    token: str

    def begin(self, number: int) -> str:
        """Remember, on disk, that a step (from 0 on) is about to be done; the text says why that cannot be."""
        path = f"{_PENDING}/begun"
        try:
            with open(path, "a", encoding="ascii") as file:
                file.write(f"{number}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""

    @property
    def confirm(self) -> str:
        """The shell command that confirms the change; it fails when it comes too late, not when it comes twice."""
        asked = f"grep -qsx 'confirmed {self.token}' {FOLDER}/outcome"
        return f"{asked} || /bin/sh {_PENDING}/run confirm {self.token}"


def _call(action: Action, files: dict[str, str]) -> str:
    """An action as a call of one of the script's functions; `files` gets the text that it needs."""
    if isinstance(action, RemoveFile):
        return f"remove {shlex.quote(action.path)}"
    text = action.text if isinstance(action, WriteFile) else action.stdin
    name = "/dev/null"
    if text is not None:
        name = f"text{len(files)}"
        files[name] = text
    if isinstance(action, WriteFile):
        return f"put {name} {action.mode:o} {shlex.quote(action.path)}"
    return f"act {name if text is None else f'$here/{name}'} {shlex.join(action.argv)}"


def _script(steps: t.Sequence[Step]) -> dict[str, str]:
    """The script and the texts that it needs, by file name."""
    files: dict[str, str] = {}
    functions = []
    for number, step in enumerate(steps, 1):
        calls = [_call(action, files) for action in step.rollback or step.undo] or [":"]
        functions.append("\n    ".join([f"undo_{number}() {{", *calls]) + "\n}\n")
    return {**files, "run": _SCRIPT + "\n".join(functions) + _END}


def _now() -> tuple[str, float]:
    """Which boot of the kernel this is, and the seconds since then, which no change of the clock moves."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)


def _arm(steps: t.Sequence[Step], seconds: int, former: t.Any) -> _Armed:
    """Set the rollback: these steps will be undone in `seconds`. `former` is what a later undo on demand needs.

    Raises BackendError when it cannot be set; nothing is left of it then.
    """
    token = secrets.token_hex(8)
    try:
        boot, now = _now()
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
        shutil.rmtree(_NEW, ignore_errors=True)
        os.mkdir(_NEW, 0o700)
        texts = {
            **_script(steps),
            "begun": "",
            "token": token,
            "process": str(os.getpid()),
            "until": f"{boot} {now + seconds} {_VERSION}",
            "former": json.dumps({"version": _VERSION, "former": former}),
        }
        for name, text in texts.items():
            put(f"{_NEW}/{name}", text, 0o600)
        if os.path.lexists(f"{FOLDER}/outcome"):
            os.unlink(f"{FOLDER}/outcome")
        os.rename(_NEW, _PENDING)
        _set_timer(seconds, token)
    except (OSError, BackendError) as error:
        _withdraw()
        raise BackendError(
            f"the rollback cannot be armed: {error}; nothing was changed. Put that right, or set confirm_within to 0"
        ) from error
    return _Armed(token)


def _set_timer(seconds: int, token: str) -> None:
    # Plain words: others are not what they were when systemd has been reloaded (252 reads back `\;` for `;`).
    run = ["/bin/sh", f"{_PENDING}/run", "again", token]
    if not os.path.isdir("/run/systemd/system"):
        with open(os.devnull, "r+b") as null:
            # It is to live longer than this process.
            subprocess.Popen(  # pylint: disable=consider-using-with,ansible-bad-function
                ["/bin/sh", "-c", f"sleep {seconds}; exec {shlex.join(run)}"],
                stdin=null,
                stdout=null,
                stderr=null,
                start_new_session=True,
                cwd="/",
            )
        return
    put(f"{_SYSTEM}/{_BOOT_UNIT}", _BOOT, 0o644)
    os.makedirs(os.path.dirname(_LINK), exist_ok=True)
    if not os.path.lexists(_LINK):
        os.symlink(f"../{_BOOT_UNIT}", _LINK)
    # Its clock is that of the kernel, which nobody can set; without the accuracy it may be a minute late.
    _stop_timer()
    timer = [f"--on-active={seconds}", "--timer-property=AccuracySec=100ms", f"--unit={UNIT}", "--collect", "--quiet"]
    done = LocalHost().run(["systemd-run", *timer, *run])
    if done.code:
        raise BackendError(done.err.strip())


def _stop_timer() -> None:
    """Also one that a run which was killed has left, and a rollback that would be tried again."""
    LocalHost().run(["systemctl", "stop", f"{UNIT}.timer", f"{UNIT}.service"])


def _withdraw() -> None:
    """Take the rollback back: nothing was changed, or all of it is undone."""
    shutil.rmtree(_NEW, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rename(_PENDING, _NEW)
    if os.path.isdir("/run/systemd/system"):
        with contextlib.suppress(BackendError):
            _stop_timer()
    _clear_up()


def _clear_up() -> None:
    """Remove what counts for nothing while no change waits: a run or a rollback that was ended may have left it."""
    shutil.rmtree(_NEW, ignore_errors=True)
    for path in (_LINK, f"{_SYSTEM}/{_BOOT_UNIT}"):
        # One that cannot be taken away has nothing to do without the folder, as its conditions say.
        with contextlib.suppress(OSError):
            os.unlink(path)


def change(host: LocalHost, steps: t.Sequence[Step], *, seconds: int, former: t.Any) -> str:
    """Do the steps, which undo themselves after `seconds` unless the shell command that is returned comes before that.

    With 0 seconds, or nothing to do, they stay, and there is no command (empty text). `former` is what a later undo on
    demand needs, as JSON can hold it. Raises BackendError when the rollback cannot be armed, StepError when a step
    fails.
    """
    if not (steps and seconds):
        carry_out(host, steps)
        return ""
    armed = _arm(steps, seconds, former)
    try:
        carry_out(host, steps, begin=armed.begin)
    except StepError as error:
        if error.undone:
            _withdraw()
            raise
        raise StepError(f"{error}; the host tries again in {seconds} seconds") from error
    return armed.confirm


def pending() -> Pending | None:
    """The change that waits for its confirmation, if there is one. Raises StepError where that cannot be read."""
    if os.path.isdir(f"{FOLDER}/restoring"):
        return Pending(0)
    try:
        with open(f"{_PENDING}/until", encoding="ascii") as file:
            boot, until, *version = file.read().split()
        if version not in ([], [str(_VERSION)]):
            raise ValueError(f"it is of version {' '.join(version)}, and this one reads {_VERSION}")
        ends = float(until)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StepError(
            f"{_PENDING}/until does not tell how long a change waits for its confirmation: {error}; bring back what "
            f"was before it (/bin/sh {_PENDING}/run held), or remove {_PENDING} to keep what is there now"
        ) from error
    this_boot, now = _now()
    return Pending(max(0.0, ends - now) if boot == this_boot else 0)


def finish(*, check: bool = False) -> None:
    """Undo now what was to be undone by now, before anything else is changed; `check`: touch nothing.

    Its timer may have gone with the process that slept, or the power may have failed. Raises StepError while a change
    waits, and when it cannot be undone.
    """
    waiting = pending()
    if waiting is None:
        if not check:
            _clear_up()
        return
    if waiting.left:
        raise StepError(
            f"another change waits {waiting.left:.0f} more seconds for its confirmation, and is undone then; "
            "run this again after that"
        )
    if check:
        return
    folder = "restoring" if os.path.isdir(f"{FOLDER}/restoring") else "pending"
    done = LocalHost().run(["/bin/sh", f"{FOLDER}/{folder}/run", "held"])
    if done.code:
        raise StepError(
            f"a change that nobody has confirmed cannot be undone: {done.err.strip()}; put that right and run this "
            f"again, or remove {FOLDER}/pending and {FOLDER}/restoring to keep what is there now"
        )


def former() -> t.Any:
    """What was before the last confirmed change, as `change` was given it; None when nothing is known.

    Raises BackendError where that cannot be read.
    """
    try:
        with open(_FORMER, encoding="utf-8") as file:
            kept = json.load(file)
        if kept["version"] != _VERSION:
            raise ValueError(f"it is of version {kept['version']}, and this one reads {_VERSION}")
        return dict(kept["former"])
    except FileNotFoundError:
        return None
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> BackendError:
    """What is told where what `former` gives, or its file, is not what a run of this version has kept."""
    return BackendError(
        f"{_FORMER} does not tell what was before the last confirmed change ({type(error).__name__}: {error}); it is "
        "damaged, or of another version of the collection. The next confirmed change writes it anew"
    )
