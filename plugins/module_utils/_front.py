# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: the options of a request, reading them, and how notices and errors reach the user."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ._backends.contract import BackendError
from ._catalog import DEFAULT_REVISION
from ._compile import DEFAULT_RECORDING_PORT_RANGES, Compiled, Request, compile_request
from ._host.local import StepError
from ._model.messages import Problem, RequestError
from ._model.rules import normalise_networks

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ._model.messages import Notice

__all__ = ["REQUEST_OPTIONS", "compile_options", "errors_to_user", "read_networks", "require_root", "tell"]

# Documented in the fragment `request`.
REQUEST_OPTIONS: dict[str, dict[str, t.Any]] = {
    "sdks": {"type": "list", "elements": "str"},
    "revision": {"type": "str", "default": DEFAULT_REVISION},
    "recording_port_ranges": {"type": "list", "elements": "str", "default": list(DEFAULT_RECORDING_PORT_RANGES)},
    "scope": {"type": "str", "choices": ["any", "names"], "default": "any"},
    "extra_ports": {"type": "list", "elements": "str", "default": []},
    "extra_domains": {"type": "list", "elements": "str", "default": []},
}


@contextlib.contextmanager
def errors_to_user(module: AnsibleModule) -> t.Iterator[None]:
    """Turn what the core raises into the module's failure; the one place where that happens."""
    try:
        yield
    except RequestError as error:
        problems = [{"where": problem.where, "message": problem.message} for problem in error.problems]
        module.fail_json(msg=str(error), problems=problems)
    except (BackendError, StepError) as error:
        module.fail_json(msg=str(error))


def compile_options(params: t.Mapping[str, t.Any]) -> Compiled:
    """Compile the request options of a module. Raises RequestError."""
    options = {name: params[name] for name in REQUEST_OPTIONS}
    return compile_request(Request.of(**{**options, "sdks": options["sdks"] or []}))


def read_networks(texts: t.Iterable[str], where: str) -> tuple[str, ...]:
    """Networks in CIDR notation, the fewest that say the same. Raises RequestError with every bad one."""
    problems = []
    networks: list[str] = []
    for index, text in enumerate(texts):
        try:
            networks += normalise_networks([text])
        except ValueError as error:
            problems.append(
                Problem(f"{where}[{index}]", f"{error}; a network is needed, such as 192.0.2.0/24 or 2001:db8::/32")
            )
    if problems:
        raise RequestError(problems)
    return normalise_networks(networks)


def require_root(module: AnsibleModule) -> None:
    """Fail unless the module runs as root."""
    if os.geteuid() != 0:
        module.fail_json(
            msg="reading and changing a firewall needs root on the managed host; set become: true for this task"
        )


def tell(module: AnsibleModule, notices: t.Iterable[Notice]) -> list[dict[str, str]]:
    """Show notices as Ansible warnings; returns them as data."""
    told = [notice.data() for notice in notices]
    for notice in told:
        module.warn(f"{notice['where']}: {notice['message']}")
    return told
