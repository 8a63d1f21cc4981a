# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: the options of a request, reading them, and how notices and errors reach the user."""

from __future__ import annotations

import contextlib
import os
import re
import typing as t

from ._backends.contract import BackendError
from ._catalog import DEFAULT_REVISION
from ._compile import DEFAULT_RECORDING_PORT_RANGES, Compiled, Request, compile_request
from ._host.local import StepError
from ._model.messages import Problem, RequestError
from ._model.rules import SIDES, Passage, Side, normalise_networks, overlap

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ._model.messages import Notice

__all__ = [
    "REQUEST_OPTIONS",
    "compile_options",
    "errors_to_user",
    "read_networks",
    "read_passage",
    "require_root",
    "tell",
]

# Linux takes more for a name of an interface; what iptables and nft would take for a pattern or a quote is left out.
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}\Z")
_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_/-]*\Z")

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
        module.fail_json(msg=str(error), problems=error.data())
    except (BackendError, StepError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        # Of what nobody expects of a host: no /proc, too few files that may be open, no memory.
        module.fail_json(msg=f"this host refuses what is needed: {error}; put that right on it, and run this again")


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


def read_passage(params: t.Mapping[str, t.Any]) -> Passage:
    """The way through the gateway, empty without one. Raises RequestError with every problem."""
    gateway = "gateway" in params["placement"]
    problems = []
    if not params["placement"]:
        problems.append(Problem("placement", "is empty; host, gateway, or both"))
    if gateway and not params["inside"]:
        text = "is needed with placement gateway: where the machines are that run the SDKs, such as {interface: eth1}"
        problems.append(Problem("inside", text))
    for name in ("inside", "outside", "recording_targets"):
        if params[name] and not gateway:
            problems.append(Problem(name, f"goes with placement gateway only; placement is {params['placement']}"))
    sides: dict[str, list[Side]] = {}
    for name in ("inside", "outside"):
        sides[name] = []
        for index, item in enumerate(params[name]):
            try:
                sides[name] += _sides(item)
            except ValueError as error:
                problems.append(Problem(f"{name}[{index}]", str(error)))
    for side in sides["outside"]:
        for other in (other for other in sides["inside"] if _meet(side, other)):
            text = f"{side} is inside too" if side == other else f"{side} has addresses of {other}, which is inside"
            problems.append(Problem("outside", text))
    targets: tuple[str, ...] = ()
    try:
        targets = read_networks(params["recording_targets"], "recording_targets")
    except RequestError as error:
        problems += error.problems
    sources = [side.name for side in sides["inside"] if side.kind == "source"]
    if sources and len(sources) == len(sides["inside"]):
        for target in targets:
            if not any(overlap(target, source) for source in sources):
                text = f"{target} is not inside ({', '.join(sources)}), so nothing would reach it; add it to inside"
                problems.append(Problem("recording_targets", text))
    if problems:
        raise RequestError(problems)
    inside, outside = (tuple(sorted(set(sides[name]))) for name in ("inside", "outside"))
    return Passage(inside, outside, targets)


def _meet(outside: Side, inside: Side) -> bool:
    """Whether machines are on both sides; everywhere is no side, and may hold the other one."""
    if {outside.kind, inside.kind} != {"source"}:
        return outside == inside
    return not outside.name.endswith("/0") and overlap(outside.name, inside.name)


def _sides(item: t.Mapping[str, t.Any]) -> list[Side]:
    """One entry of inside or outside. Raises ValueError."""
    named = [(kind, str(item[kind])) for kind in SIDES if item.get(kind) is not None]
    if len(named) != 1 or len(item.keys() - set(SIDES)):
        raise ValueError(f"one of {', '.join(SIDES)} is needed, not {dict(item)!r}")
    ((kind, name),) = named
    if (kind, name) == ("interface", "lo"):
        raise ValueError("interface lo is this host itself; name the interface at which the machines are")
    if kind == "source":
        return [Side(kind, network) for network in normalise_networks([name])]
    if not (_INTERFACE if kind == "interface" else _ZONE).match(name):
        raise ValueError(f"{name!r} is not the name of one {kind}")
    return [Side(kind, name)]


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
