# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module recording_ports answers: the plan, and what has to be on the host for it."""

from __future__ import annotations

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
    wish: Wish | None = None
    agora: tuple[tuple[str, PortSet], ...] = ()
    try:
        if params["state"] == "present" and params["count"] is not None:
            wish = read_wish(**{name: params[name] for name in ("name", "low", "high", "count", "layout")})
        else:
            problems += read_name(params["name"])
    except RequestError as error:
        problems += error.problems
    try:
        request = Request.of(sdks=params["sdks"], revision=params["revision"])
        agora = agora_ports(compile_request(request).by_sdk)
    except RequestError as error:
        problems += error.problems
    try:
        seen = look(params["name"], agora, root)
    except RequestError as error:
        raise RequestError([*problems, *error.problems]) from error
    if problems:
        raise RequestError(problems)
    planned = None
    if wish:
        planned = make_plan(wish, seen.view)
    elif params["state"] == "present":
        if not seen.view.previous:
            text = f"is missing, and no plan {params['name']} stands on this host; say how many processes there are"
            raise RequestError([Problem("count", text)])
        planned = standing(seen.view.previous, seen.view)
    return _result(seen, planned)


def _result(seen: Seen, planned: Planned | None) -> tuple[dict[str, t.Any], list[Notice]]:
    view = seen.view
    plan = planned.plan if planned else None
    plans = [*view.others, *([plan] if plan else [])]
    ranges, ports = PortSet(), PortSet()
    for one in plans:
        ranges |= one.range
        ports |= one.ports
    reservation = reserve(ranges, view.foreign, seen.settings)
    own = plan.range if plan else PortSet()
    checked = sizes(sum(len(one.pairs) for one in plans), seen.sizes, os.sysconf("SC_PAGE_SIZE"))
    notices = [*(planned.notices if planned else ()), *reservation.notices]
    notices += [
        Notice("small", size.name, f"is {size.value} and should be {size.needed} at least: {size.why}")
        for size in checked
        if not size.enough
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
            "at_boot": reservation.text == seen.setting,
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
