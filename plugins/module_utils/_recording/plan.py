# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The port plan of a recording host: which UDP ports each recording process may use. Pure.

What Agora's pages say of the Recording SDK's options lowUdpPort and highUdpPort is the source of all numbers here:
"Firewall Requirements" (AgoraIO/Documentation, en/Agora Platform/firewall.md) for four ports a process, one process a
channel, and 40000-41000 or larger; the API reference, the headers and the page of the command line for the width.
"""

from __future__ import annotations

import itertools
import re
import typing as t
from dataclasses import dataclass, field, replace

from .._model.messages import Notice, Problem, RequestError
from .._model.ports import HIGHEST, PortError, PortSet

__all__ = [
    "DEFAULT_RANGE",
    "LAYOUTS",
    "PORTS_PER_PROCESS",
    "UNRESERVED",
    "WIDTH",
    "Bound",
    "Conflict",
    "Plan",
    "PlanError",
    "Planned",
    "View",
    "Wish",
    "agora_ports",
    "make_plan",
    "read_name",
    "read_wish",
    "standing",
]

Pair = tuple[int, int]

LAYOUTS = ("shared", "per_process")

# "Firewall Requirements": four simplex downstream ports for each recording process, none shared with any other.
PORTS_PER_PROCESS = 4

# The pages ask for high - low of at least 4, at least 6, and more than 6: 8 ports satisfy all of them.
WIDTH = 8

# The range that "Firewall Requirements" recommends.
DEFAULT_RANGE = (40000, 41000)

# Ports below belong to the system's own services; only root binds them (ip(7)).
_FIRST = 1024

# So many of what is in the way are named in a message.
_FEW = 3

# The notice that the kernel may hand ports of the range to any program.
UNRESERVED = "ephemeral"

# A name is part of file names and of the names of systemd's units.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class PlanError(ValueError):
    """A file that should hold a plan holds none; the message says why."""


@dataclass(frozen=True, order=True)
class Bound:
    """A UDP port that is bound on the host, and by whom (`pid` 0: not to be found out).

    A process that was told a lowUdpPort and a highUdpPort (`told`) is a recorder; `plan` and `process` are what it was
    told besides ("" and 0: nothing).
    """

    port: int
    program: str
    pid: int = 0
    told: Pair | None = None
    plan: str = ""
    process: int = 0

    @property
    def holder(self) -> str:
        """Who it is, for people."""
        who = f"{self.program} (process {self.pid})" if self.pid else self.program
        return f"{who}, a recorder that was told {_text(self.told)}" if self.told else who

    def belongs(self, pair: Pair, plan: str, process: int = 0) -> bool:
        """Whether it is a recorder that keeps to the pair, and not one of another plan or process."""
        return (
            self.told is not None
            and pair[0] <= self.told[0]
            and self.told[1] <= pair[1]
            and self.plan in ("", plan)
            and (not process or self.process in (0, process))
        )


@dataclass(frozen=True, order=True)
class Conflict:
    """Ports of the range that are not free: `kind` is held (a stranger has them), agora (an SDK's list) or plan."""

    kind: str
    ports: PortSet
    holder: str

    def data(self) -> dict[str, t.Any]:
        """The form in which the module returns it."""
        return {"kind": self.kind, "ports": self.ports.texts(), "holder": self.holder}


@dataclass(frozen=True)
class Plan:
    """A plan as it stands on a host: the range it owns, and the pair of each process, the first one's first.

    `reserved_before` is what others had reserved of the range before the plan did, and keep when it goes.
    """

    name: str
    low: int
    high: int
    layout: str
    pairs: tuple[Pair, ...]
    reserved_before: PortSet = field(default_factory=PortSet)

    @property
    def range(self) -> PortSet:
        """What the plan owns."""
        return PortSet.of((self.low, self.high))

    @property
    def ports(self) -> PortSet:
        """What its processes may use, and a firewall has to let in."""
        return PortSet.of(*self.pairs)

    @property
    def reserves(self) -> PortSet:
        """What nobody but the plan has reserved."""
        return self.range - self.reserved_before

    def data(self) -> dict[str, t.Any]:
        """The form of its file, and of the module's result."""
        return {
            "name": self.name,
            "low": self.low,
            "high": self.high,
            "layout": self.layout,
            "processes": [
                {"process": number, "low": low, "high": high} for number, (low, high) in enumerate(self.pairs, start=1)
            ],
            "reserved_before": self.reserved_before.texts(),
        }

    @classmethod
    def of(cls, data: t.Any) -> Plan:
        """Read what `data` gave. Raises PlanError."""
        try:
            processes = [(item["process"], item["low"], item["high"]) for item in data["processes"]]
            plan = cls(
                name=data["name"],
                low=data["low"],
                high=data["high"],
                layout=data["layout"],
                pairs=tuple((low, high) for _number, low, high in processes),
                reserved_before=PortSet.of(*(pair for text in data["reserved_before"] for pair in _ranges(text))),
            )
            if [number for number, _low, _high in processes] != list(range(1, len(processes) + 1)):
                raise PlanError("its processes are not numbered from 1 on")
            if plan.layout not in LAYOUTS or not plan.pairs or plan.ports - plan.range:
                raise PlanError("its processes are not within its range")
        except (AttributeError, KeyError, TypeError, PortError) as error:
            raise PlanError(f"it is no plan: {type(error).__name__}: {error}") from error
        return plan

    def environments(self) -> dict[str, dict[str, str]]:
        """The environment of each process, by the name of its file without the ending."""
        return {
            f"{self.name}-{number}": {
                "AGORA_RECORDING_PLAN": self.name,
                "AGORA_RECORDING_PROCESS": str(number),
                "AGORA_LOW_UDP_PORT": str(low),
                "AGORA_HIGH_UDP_PORT": str(high),
            }
            for number, (low, high) in enumerate(self.pairs, start=1)
        }


@dataclass(frozen=True)
class Wish:
    """A valid request for a plan."""

    name: str
    low: int
    high: int
    count: int
    layout: str


@dataclass(frozen=True)
class View:
    """What of the host bears on a plan.

    `previous` is the plan of the same name as it stands, `others` are the other ones. `agora` is what each SDK of the
    host needs. `ephemeral` is the range out of which the kernel hands out ports, `reserved` what it leaves out, and
    `noted` what of that was ours when a run last came to its end.
    """

    bound: tuple[Bound, ...] = ()
    previous: Plan | None = None
    others: tuple[Plan, ...] = ()
    agora: tuple[tuple[str, PortSet], ...] = ()
    ephemeral: Pair = (32768, 60999)
    reserved: PortSet = field(default_factory=PortSet)
    noted: PortSet = field(default_factory=PortSet)

    @property
    def foreign(self) -> PortSet:
        """What others have reserved."""
        ours = self.noted
        for plan in (*self.others, *([self.previous] if self.previous else [])):
            ours |= plan.reserves
        return self.reserved - ours


@dataclass(frozen=True)
class Planned:
    """A plan, and what is worth knowing about it.

    `capacity` is how many processes the range holds as the host is, `advice` the nearest range of that size without any
    conflict (None: there is none).
    """

    plan: Plan
    capacity: int
    conflicts: tuple[Conflict, ...]
    advice: Pair | None
    notices: tuple[Notice, ...]


def _text(pair: Pair | None) -> str:
    return f"{pair[0]}-{pair[1]}" if pair else ""


def _some(texts: t.Sequence[str]) -> str:
    """The first of many texts, and how many more there are."""
    more = [f"{len(texts) - _FEW} more"] if len(texts) > _FEW + 1 else list(texts[_FEW:])
    return " and ".join(part for part in (", ".join(texts[:_FEW]), *more) if part)


def _ranges(text: str) -> tuple[Pair, ...]:
    return PortSet.parse(text).ranges


def read_wish(*, name: str, low: int | None, high: int | None, count: int, layout: str) -> Wish:
    """Read the options; without low and high it is the recommended range. Raises RequestError with all problems."""
    problems = list(read_name(name))
    shown = f"such as {_text(DEFAULT_RANGE)}"
    for option, value, other in (("low", low, high), ("high", high, low)):
        if value is None and other is not None:
            text = f"is missing beside {'high' if option == 'low' else 'low'}, {other}; give both, {shown}, or none"
            problems.append(Problem(option, text))
        if value is not None and value < _FIRST:
            text = f"{value} is below {_FIRST}: those ports are for the system's own services; take a range {shown}"
            problems.append(Problem(option, text))
        if value is not None and value > HIGHEST:
            problems.append(Problem(option, f"{value} is above {HIGHEST}, the highest port; take a range {shown}"))
    if low is not None and high is not None and low > high:
        problems.append(Problem("low", f"{low} is above high, {high}; a range begins with its lower port"))
    if count < 1:
        problems.append(Problem("count", f"is {count}; say how many recording processes there are, at least 1"))
    if count > HIGHEST:
        problems.append(Problem("count", f"is {count}, and a host has {HIGHEST} ports; take fewer, on more hosts"))
    if layout not in LAYOUTS:
        problems.append(Problem("layout", f"{layout!r} is not one of {', '.join(LAYOUTS)}"))
    if problems:
        raise RequestError(problems)
    default_low, default_high = DEFAULT_RANGE
    return Wish(name, low or default_low, high or default_high, count, layout)


def agora_ports(by_sdk: t.Mapping[str, t.Mapping[str, t.Any]]) -> tuple[tuple[str, PortSet], ...]:
    """The UDP ports that a plan leaves to the SDKs of the host, from what Agora published for each (`by_sdk`).

    The lists do not always say whose side a port is on: 4000-4030 is local in one edition (57e34fb33641). A range that
    holds the very ports that Agora recommends for recording (Web's 10000-65535) can only mean Agora's side.
    """
    recommended = PortSet.of(DEFAULT_RANGE)
    found = []
    for sdk, published in by_sdk.items():
        listed = PortSet.of(*(pair for text in published["udp"] + published["udp_duplex"] for pair in _ranges(text)))
        found.append((sdk, PortSet.of(*(pair for pair in listed.ranges if not PortSet.of(pair) & recommended))))
    return tuple(found)


def read_name(name: str) -> t.Iterator[Problem]:
    """What is wrong with the name of a plan."""
    if not _NAME.fullmatch(name):
        text = f"{name!r} is no name for a plan; it has a-z, 0-9, _ and -, begins with a letter or digit, up to 64"
        yield Problem("name", text)


def _conflicts(name: str, layout: str, asked: Pair, pairs: t.Sequence[Pair], view: View) -> tuple[Conflict, ...]:
    """What in the range is not free for the plan's processes, which have these pairs."""
    within = PortSet.of(asked)
    found: dict[tuple[str, str], PortSet] = {}
    for plan in view.others:
        found["plan", f"plan {plan.name}"] = plan.range & within
    for sdk, ports in view.agora:
        found["agora", sdk] = ports & within
    for bound in view.bound:
        if bound.port in within and not _is_own(bound, name, layout, asked, pairs):
            # There may be hundreds of its own, whose range is what matters.
            own = f"recorders of this plan that were told {_text(bound.told)}" if bound.told else ""
            key = ("held", own if own and bound.plan == name else bound.holder)
            found[key] = found.get(key, PortSet()) | PortSet.of(bound.port)
    return tuple(sorted(Conflict(kind, ports, holder) for (kind, holder), ports in found.items() if ports))


def _is_own(bound: Bound, name: str, layout: str, asked: Pair, pairs: t.Sequence[Pair]) -> bool:
    """Whether a port is held by a recorder of the plan: one that was told a pair of it, or less."""
    if layout == "shared":
        return bound.belongs(asked, name)
    return any(bound.belongs(pair, name, number) for number, pair in enumerate(pairs, start=1))


def make_plan(wish: Wish, view: View) -> Planned:
    """Plan, or say all that speaks against it (RequestError).

    Shared: every process may use the whole range, which nobody else may hold a port of. Per process: the pairs that the
    plan had are kept where they can be; the others get the lowest free ports.
    """
    asked = (wish.low, wish.high)
    pairs, capacity, conflicts = _lay_out(wish, view)
    advice = asked if not conflicts and wish.count <= capacity else _advise(wish, view, conflicts)
    problems = list(_against(wish, conflicts, capacity, advice))
    if problems:
        raise RequestError(problems)
    plan = Plan(wish.name, *asked, wish.layout, pairs, view.foreign & PortSet.of(asked))
    return Planned(plan, capacity, conflicts, advice, tuple(_notices(plan, view)))


def standing(plan: Plan, view: View) -> Planned:
    """A plan as it stands, whatever speaks against it by now."""
    asked = (plan.low, plan.high)
    wish = Wish(plan.name, *asked, len(plan.pairs), plan.layout)
    capacity = _lay_out(wish, view)[1]
    conflicts = _conflicts(plan.name, plan.layout, asked, plan.pairs, view)
    advice = _advise(wish, view, conflicts) if conflicts else asked
    return Planned(plan, capacity, conflicts, advice, tuple(_notices(plan, view)))


def _lay_out(wish: Wish, view: View) -> tuple[tuple[Pair, ...], int, tuple[Conflict, ...]]:
    """A pair for each process (none for those that do not fit), how many fit, and what is not free."""
    asked = (wish.low, wish.high)
    numbers = range(1, wish.count + 1)
    kept = _kept(wish, view) if wish.layout == "per_process" else {}
    found = _conflicts(wish.name, wish.layout, asked, [kept.get(number, (0, 0)) for number in numbers], view)
    if wish.layout == "shared":
        width = wish.high - wish.low + 1
        return (asked,) * wish.count, width // PORTS_PER_PROCESS if width >= WIDTH else 0, found
    taken = PortSet.of(*kept.values())
    for conflict in found:
        taken |= conflict.ports
    windows = list(_windows(PortSet.of(asked) - taken))
    free = iter(windows)
    pairs = [kept.get(number) or next(free, None) for number in numbers]
    return tuple(pair for pair in pairs if pair), len(kept) + len(windows), found


def _former(name: str, view: View) -> dict[int, Pair]:
    """The pair of each process: in the plan as it stands, else what a recorder of it that runs was told.

    The plan may have been smaller for a time, or gone.
    """
    pairs = {bound.process: bound.told for bound in view.bound if bound.told and bound.plan == name}
    return {**pairs, **dict(enumerate(view.previous.pairs if view.previous else (), start=1))}


def _kept(wish: Wish, view: View) -> dict[int, Pair]:
    """The former pairs that nothing speaks against, by process."""
    kept: dict[int, Pair] = {}
    blocked = _fixed(view)
    for number, pair in sorted(_former(wish.name, view).items()):
        ports = PortSet.of(pair)
        strangers = any(bound.port in ports and not bound.belongs(pair, wish.name, number) for bound in view.bound)
        fits = 1 <= number <= wish.count and len(ports) == WIDTH and not ports - PortSet.of((wish.low, wish.high))
        if fits and not (ports & blocked or strangers):
            kept[number] = pair
            blocked |= ports
    return kept


def _fixed(view: View) -> PortSet:
    """What SDKs and other plans need."""
    fixed = PortSet()
    for ports in (*(ports for _sdk, ports in view.agora), *(plan.range for plan in view.others)):
        fixed |= ports
    return fixed


def _windows(free: PortSet) -> t.Iterator[Pair]:
    """The pairs that fit into free ports, the lowest first."""
    for low, high in free.ranges:
        for start in range(low, high - WIDTH + 2, WIDTH):
            yield start, start + WIDTH - 1


def _needed(wish: Wish) -> int:
    """How many ports the processes take."""
    if wish.layout == "per_process":
        return wish.count * WIDTH
    return max(wish.count * PORTS_PER_PROCESS, WIDTH)


def _advise(wish: Wish, view: View, conflicts: t.Sequence[Conflict]) -> Pair | None:
    """The free range that would do, nearest to the asked one: of the same size if there is one."""
    # Within the asked range the plan's own recorders are no conflict; within another one they may be.
    asked = PortSet.of((wish.low, wish.high))
    bound = PortSet.of(*(bound.port for bound in view.bound))
    taken = _fixed(view) | (bound - asked)
    for conflict in conflicts:
        taken |= conflict.ports
    free = [piece for ports in (taken, taken | bound) for piece in (PortSet.of((_FIRST, HIGHEST)) - ports).ranges]
    needed = _needed(wish)
    size = max(needed, wish.high - wish.low + 1)
    # A pair that is kept may leave a gap, which is narrower than a pair.
    for wanted in (size, needed, size + wish.count * (WIDTH - 1)):
        starts = {min(max(low, wish.low), high - wanted + 1) for low, high in free if high - low + 1 >= wanted}
        for start in sorted(starts, key=lambda start: (abs(start - wish.low), start)):
            found = replace(wish, low=start, high=start + wanted - 1)
            _pairs, capacity, against = _lay_out(found, view)
            if not against and wish.count <= capacity:
                return found.low, found.high
    return None


def _against(wish: Wish, conflicts: t.Sequence[Conflict], capacity: int, advice: Pair | None) -> t.Iterator[Problem]:
    """What speaks against the plan."""
    asked = _text((wish.low, wish.high))
    instead = f"{_text(advice)} would do" if advice else "no range of this host would do"
    for kind, found in itertools.groupby(conflicts, key=lambda conflict: conflict.kind):
        parts = [(_some(conflict.ports.texts()), conflict.holder) for conflict in found]
        if kind == "plan":
            text = _some([f"{ports} of {holder}" for ports, holder in parts])
            yield Problem("low", f"{asked} overlaps {text}; {instead}")
        elif wish.layout == "shared" and kind == "agora":
            text = _some([f"{ports}, which {holder} needs" for ports, holder in parts])
            yield Problem("low", f"{asked} holds {text}; {instead}")
        elif wish.layout == "shared":
            text = _some([f"{ports} is held by {holder}" for ports, holder in parts])
            yield Problem("low", f"UDP {text}; stop that first, or take another range than {asked}: {instead}")
    if wish.count > capacity:
        each = WIDTH if wish.layout == "per_process" else PORTS_PER_PROCESS
        size = wish.high - wish.low + 1
        away = [f"{_some(one.ports.texts())} ({one.holder})" for one in conflicts if wish.layout == "per_process"]
        need = "1 process needs" if wish.count == 1 else f"{wish.count} processes need"
        without = f", not counting {_some(away)}" if away else ""
        text = (
            f"{need} {_needed(wish)} ports ({each} each, and {WIDTH} at least); {asked} has {size}{without}, and "
            f"{capacity} {'fits' if capacity == 1 else 'fit'}; {instead}"
        )
        yield Problem("count", text)


def _notices(plan: Plan, view: View) -> t.Iterator[Notice]:
    low, high = view.ephemeral
    exposed = (plan.range & PortSet.of((low, high))) - view.reserved
    if exposed:
        message = (
            f"{exposed} lies in the kernel's ephemeral range {low}-{high} and is not reserved: any program may be "
            "given one of these ports; role recording_host reserves them (net.ipv4.ip_local_reserved_ports)"
        )
        yield Notice(UNRESERVED, "net.ipv4.ip_local_port_range", message)
    former = _former(plan.name, view)
    moved = [
        f"{number} from {_text(former[number])} to {_text(now)}"
        for number, now in enumerate(plan.pairs, start=1)
        if former.get(number, now) != now
    ]
    if moved:
        message = f"other ports than before for process {', '.join(moved)}; restart those that run"
        yield Notice("moved", f"plan {plan.name}", message)
