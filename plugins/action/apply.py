# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller does for module apply: it confirms a change over a connection of its own."""

from __future__ import annotations

import contextlib
import time
import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ..module_utils._model.messages import Problem, RequestError

# The variables that roles and playbooks share.
VARIABLES = frozenset(
    f"agora_{name}"
    for name in (
        *("backend", "confirm_within", "dns", "hosts", "ingress_from", "inside", "lists", "lists_by_sdk"),
        *("lists_folder", "lists_local_domains", "lists_upstreams", "lockdown_allow", "lockdown_log"),
        *("lockout_guard", "mode", "outside", "placement", "prove", "recording_count", "recording_layout"),
        *("recording_port_ranges", "recording_range", "recording_targets", "revision", "scope", "sdks", "state"),
        "throwaway",
    )
)
# So many letters may be wrong in a name that is taken for another one.
_SLIP = 2
# Connections that cross no network, by the last part of their names.
_LOCAL = (
    *("buildah", "chroot", "docker", "docker_api", "funcd", "incus", "iocage", "jail", "kubectl", "libvirt_lxc"),
    *("local", "lxc", "lxd", "nsenter", "oc", "podman", "podman_unshare", "qubes", "sandbox", "zone"),
)
# How long the host may take, after its time is up, to bring back what was.
_PATIENCE = 15
_PAUSE = 1
_OUTCOME = "cat /var/lib/openagora/firewall/outcome"


def _distance(one: str, other: str) -> int:
    """How many letters have to be put in, taken out or changed to make the one name the other."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        above, row = row, [number]
        for position, wanted in enumerate(other):
            row.append(min(above[position + 1] + 1, row[position] + 1, above[position] + (letter != wanted)))
    return row[-1]


class ActionModule(ActionBase):
    """Runs the module, and confirms what it changed."""

    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """The module's result, with `confirmed` when a change had to be."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        problems = [*self._unusable(), *self._misspelt(task_vars or {})]
        if problems:
            error = RequestError(problems)
            return {**result, "failed": True, "msg": str(error), "problems": error.data()}
        # The host's time begins later than this.
        started = time.monotonic()
        result.update(self._execute_module(task_vars=task_vars))
        command = result.pop("confirm", "")
        if not command:
            return result
        # What the module takes for a whole number may be the text of one, such as 20.0.
        until = started + float(self._task.args["confirm_within"])
        connection = str(self._connection.ansible_name)
        if connection.rpartition(".")[2] in _LOCAL:
            why = self._ask(command)
            text = f"connection {connection} crosses no network, so this proves nothing about one"
            result["notices"].append({"code": "confirmed_locally", "where": "confirm_within", "message": text})
            self._display.warning(f"confirm_within: {text}")
        else:
            why = self._confirm(command, until)
        result["confirmed"] = not why
        if why:
            result.update(failed=True, msg=f"the change was not confirmed: {why}. {self._aftermath(until)}")
        return result

    def _unusable(self) -> t.Iterator[Problem]:
        """What the module would take for something else."""
        if isinstance(self._task.args.get("confirm_within"), bool):
            yield Problem("confirm_within", "is true or false; write the seconds, such as 60, or 0 for never")

    def _misspelt(self, variables: t.Mapping[str, t.Any]) -> t.Iterator[Problem]:
        """Variables that look like one of the collection's and would be ignored; other names are the user's own."""
        # Whoever calls the module names its options.
        if self._task._role is None:  # pylint: disable=protected-access  # there is no other way to tell
            return
        for name in sorted(name for name in variables if name.startswith("agora_") and name not in VARIABLES):
            near = min(VARIABLES, key=lambda known: _distance(name, known))
            if _distance(name, near) <= _SLIP:
                yield Problem(name, f"is no variable of this collection; did you mean {near}? Else rename it")

    def cleanup(self, force: bool = False) -> None:
        """Remove what Ansible has put on the host; where that cannot be reached, the result tells more."""
        with contextlib.suppress(AnsibleError):
            super().cleanup(force)

    def _confirm(self, command: str, until: float) -> str:
        """Run the command over a fresh connection, again and again until then; empty, or why that never worked."""
        options = self._connection
        # Others have ssh_extra_args too, for the ProxyCommand in them alone.
        fresh = "ssh_extra_args" if options.has_option("control_path") else ""
        before = options.get_option(fresh) if fresh else ""
        if fresh:
            # A connection that others share may live on where a new one is closed. Of each -o ssh takes the first one,
            # which may be the user's, but of -S the last one, and that before any -o.
            options.set_option(fresh, f"{before or ''} -S none")
        try:
            while True:
                why = self._ask(command, anew=not fresh)
                if not why or time.monotonic() + _PAUSE >= until:
                    return why
                time.sleep(_PAUSE)
        finally:
            if fresh:
                options.set_option(fresh, before)

    def _ask(self, command: str, *, anew: bool = False) -> str:
        """Run a command on the host, `anew` over a connection that is made anew; empty, or why that did not work."""
        try:
            if anew:
                self._connection.reset()
            done = self._low_level_execute_command(command)
        # Not only AnsibleConnectionFailure: become has errors of its own.
        except AnsibleError as error:
            return f"no new connection: {error}"
        return "" if done["rc"] == 0 else (done["stdout"] + done["stderr"]).strip()

    def _aftermath(self, until: float) -> str:
        """What became of the host, as far as it can be reached."""
        while True:
            try:
                # A shared connection that the change has cut would not answer for as long as TCP tries.
                self._connection.reset()
                done = self._low_level_execute_command(_OUTCOME)
                if done["rc"] == 0:
                    return f"The host has {done['stdout'].strip()}"
            except AnsibleError:
                pass
            if time.monotonic() > until + _PATIENCE:
                break
            time.sleep(_PAUSE)
        return "It cannot be reached; it was to bring back what was before, see there: journalctl -u openagora-rollback"
