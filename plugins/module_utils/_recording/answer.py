# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module recording_ports answers: the plan, and what has to be on the host for it."""

from __future__ import annotations

import contextlib
import os
import typing as t

from .._compile import Request, compile_request
from .._model.messages import Notice, Problem, RequestError
from .._model.ports import PortSet
from .host import look
from .kernel import FILE, HEADER, reserve, sizes
from .plan import Planned, agora_ports, make_plan, read_name, read_wish, standing

if t.TYPE_CHECKING:
    from .host import Seen
    from .plan import View, Wish

__all__ = ["answer"]


def answer(params: t.Mapping[str, t.Any], root: str = "") -> tuple[dict[str, t.Any], list[Notice]]:
    """Plan as the options of the module say. Raises RequestError with the problems of all options.

    `root` is where the host's /etc is, for tests.
    """
    problems: list[Problem] = []
    notices: list[Notice] = []
    wish: Wish | None = None
    agora: tuple[tuple[str, PortSet], ...] = ()
    options = {name: params[name] for name in ("name", "low", "high", "count", "layout")}
    try:
        if params["state"] == "present" and params["count"] is not None:
            wish = read_wish(**options)
        else:
            problems += read_name(params["name"])
    except RequestError as error:
        problems += error.problems
        # What is in the way in a range does not hang on how many processes there are.
        with contextlib.suppress(RequestError):
            wish = read_wish(**{**options, "count": 1})
    try:
        request = Request.of(sdks=params["sdks"], revision=params["revision"])
        by_sdk = compile_request(request).by_sdk
        agora = agora_ports(by_sdk)
        if wish and "recording" not in by_sdk:
            text = f"recording is not among {', '.join(by_sdk)}, so that nothing opens the ports of the plan; add it"
            notices.append(Notice("not_opened", "sdks", text))
    except RequestError as error:
        problems += error.problems
    try:
        seen = look(params["name"], agora, root, making=params["making"])
    except RequestError as error:
        raise RequestError([*problems, *error.problems]) from error
    planned = None
    try:
        if wish:
            planned = make_plan(wish, seen.view)
        elif params["state"] == "present" and params["count"] is None:
            planned = _standing(params["name"], seen.view)
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)
    result, more = _result(seen, planned)
    return result, [*notices, *more]


def _standing(name: str, view: View) -> Planned:
    """The plan of this name as it stands. Raises RequestError without one."""
    if view.previous:
        return standing(view.previous, view)
    others = ", ".join(plan.name for plan in view.others)
    text = f"is missing, and no plan {name} stands on this host"
    text += f", but {others}; name one of them (in playbooks recording_host_name), or" if others else ";"
    raise RequestError([Problem("count", f"{text} run role recording_host, or say how many processes there are")])


def _result(seen: Seen, planned: Planned | None) -> tuple[dict[str, t.Any], list[Notice]]:
    view = seen.view
    plan = planned.plan if planned else None
    plans = [*view.others, *([plan] if plan else [])]
    ports = PortSet()
    for one in plans:
        ports |= one.ports
    reservation = reserve(plans, view, seen.settings)
    own = plan.range if plan else PortSet()
    checked = sizes(sum(len(one.pairs) for one in plans), seen.sizes, os.sysconf("SC_PAGE_SIZE"))
    notices = [*(planned.notices if planned else ()), *reservation.notices]
    notices += [
        Notice("small", size.name, f"is {size.value} and should be {size.needed} at least: {size.why}")
        for size in checked
        if plans and not size.enough
    ]
    low, high = view.ephemeral
    wanted = {
        f"{name}.env": HEADER + "".join(f"{variable}={value}\n" for variable, value in values.items())
        for name, values in (plan.environments() if plan else {}).items()
    }
    result = {
        "processes": plan.data()["processes"] if plan else [],
        "ranges": plan.ports.texts() if plan else [],
        "host_ranges": ports.texts(),
        "range": str(own),
        "layout": plan.layout if plan else "",
        "capacity": planned.capacity if planned else 0,
        "conflicts": [conflict.data() for conflict in planned.conflicts] if planned else [],
        "advice": str(PortSet.of(planned.advice)) if planned and planned.advice else "",
        "bound": _holders(planned, view) if planned else [],
        "ephemeral": f"{low}-{high}",
        "reserved": view.reserved.texts(),
        "unreserved": ((own & PortSet.of((low, high))) - view.reserved).texts(),
        "reservation": {
            "live": ",".join(reservation.live.texts()),
            "in_force": reservation.live == view.reserved,
            "at_boot": reservation.text == seen.setting and not reservation.overridden,
            "path": FILE,
            "text": reservation.text,
        },
        "environment": {
            "write": [
                {"name": name, "text": text} for name, text in wanted.items() if seen.environments.get(name) != text
            ],
            "remove": sorted(seen.environments.keys() - wanted.keys()),
        },
        "sizes": [size.data() for size in checked],
        "plans": list(seen.plans),
        "emptied": [] if plan else list(seen.emptied),
    }
    return {**result, **({"plan": plan.data()} if plan else {})}, notices


def _holders(planned: Planned, view: View) -> list[dict[str, t.Any]]:
    """Who holds which ports of the plan's processes."""
    strangers = PortSet()
    for conflict in planned.conflicts:
        strangers |= conflict.ports
    held: dict[tuple[str, int, bool], PortSet] = {}
    for bound in view.bound:
        if bound.port in planned.plan.ports:
            key = (bound.holder, bound.process, bound.port not in strangers)
            held[key] = held.get(key, PortSet()) | PortSet.of(bound.port)
    return [
        {"ports": ports.texts(), "holder": holder, "process": process, "own": own}
        for (holder, process, own), ports in sorted(held.items(), key=lambda item: item[1])
    ]
