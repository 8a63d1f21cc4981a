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

# Connections that cross no network, by the last part of their names.
_LOCAL = (
    *("buildah", "chroot", "docker", "docker_api", "funcd", "incus", "iocage", "jail", "kubectl", "libvirt_lxc"),
    *("local", "lxc", "lxd", "nsenter", "oc", "podman", "podman_unshare", "qubes", "sandbox", "zone"),
)
# How long the host may take, after its time is up, to bring back what was.
_PATIENCE = 15
_PAUSE = 1
_OUTCOME = "cat /var/lib/openagora/firewall/outcome"


class ActionModule(ActionBase):
    """Runs the module, and confirms what it changed."""

    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """The module's result, with `confirmed` when a change had to be."""
        result: dict[str, t.Any] = super().run(tmp, task_vars)
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
            result.setdefault("warnings", []).append(f"confirm_within: {text}")
        else:
            why = self._confirm(command, until)
        result["confirmed"] = not why
        if why:
            result.update(failed=True, msg=f"the change was not confirmed: {why}. {self._aftermath(until)}")
        return result

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
