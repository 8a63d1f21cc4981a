# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a proof, and reading it from the options of the module."""

from __future__ import annotations

import contextlib
import ipaddress
import pwd
import re
import typing as t
from dataclasses import dataclass, replace

from .._backends.contract import BackendError
from .._front import read_networks, read_passage
from .._model.messages import Problem, RequestError
from .._model.ports import HIGHEST, LOWEST, PortSet
from .._model.rules import DIRECTIONS, FAMILIES, Passage, RuleSet, Side, family_of, parse_rules

if t.TYPE_CHECKING:
    from .._backends.contract import Host

__all__ = ["ALL_PORTS", "Question", "read_question", "without_zones"]

ALL_PORTS = PortSet.of((LOWEST, HIGHEST))

# The number after it, (uid_t) -1, stands for none.
_HIGHEST_USER = (1 << 32) - 2

# What the kernel takes (dev_valid_name), which is more than rules may name.
_INTERFACE = re.compile(r"[^\s/\0]{1,15}")

T = t.TypeVar("T")

# How a network begins; sources of a zone can be hardware addresses and ipsets as well.
_ADDRESS = frozenset("0123456789abcdefABCDEF:")


@dataclass(frozen=True)
class Question:
    """What is to be proved.

    `rules` are those that are needed, with their way through the gateway (None: not given); `far` and `near` hold at
    most one address of each family; `user` is the number of the one who sends.
    """

    placements: tuple[str, ...] = ("host",)
    directions: tuple[str, ...] = DIRECTIONS
    families: tuple[str, ...] = FAMILIES
    passage: Passage = Passage()
    rules: RuleSet | None = None
    far: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    interface: str = ""
    user: int | None = None
    ports: PortSet = ALL_PORTS

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The interfaces that are named: those of the sides of the gateway, and that of the host itself."""
        named = [self.interface] if "host" in self.placements and self.interface else []
        if "gateway" in self.placements:
            sides = (*self.passage.inside, *self.passage.outside)
            named += [side.name for side in sides if side.kind == "interface"]
        return tuple(dict.fromkeys(named))


def read_question(params: t.Mapping[str, t.Any]) -> Question:
    """The question that the options of the module ask. Raises RequestError with the problems of all of them."""
    problems: list[Problem] = []

    def read(function: t.Callable[..., T], *arguments: t.Any, otherwise: T) -> T:
        try:
            return function(*arguments)
        except RequestError as error:
            problems.extend(error.problems)
            return otherwise

    nothing: tuple[str, ...] = ()
    rules: RuleSet | None = None
    if params["rules"] is not None:
        rules = read(parse_rules, params["rules"], otherwise=RuleSet())
    networks = read(read_networks, params["ingress_from"], "ingress_from", otherwise=nothing)
    passage = read(read_passage, params, otherwise=Passage())
    far, near = (read(_addresses, params[name], name, otherwise=nothing) for name in ("far", "near"))
    user = read(_user, params["user"], otherwise=None)
    if not _INTERFACE.fullmatch(params["interface"] or "lo"):
        text = f"{params['interface']!r} is not the name of an interface, which has at most 15 letters and no blanks"
        problems.append(Problem("interface", text))
    for name in ("directions", "families"):
        if not params[name]:
            problems.append(Problem(name, "is empty; leave it out for all"))
    if params["fail_on"] and rules is None:
        problems.append(Problem("fail_on", "goes with rules only: nothing is missing or beyond without them"))
    if problems:
        raise RequestError(problems)
    placements = tuple(dict.fromkeys(params["placement"]))
    return Question(
        placements=placements,
        directions=tuple(dict.fromkeys(params["directions"])),
        families=tuple(dict.fromkeys(params["families"])),
        passage=passage,
        rules=None if rules is None else rules.ingress_from(networks).placed(placements, passage),
        far=far,
        near=near,
        interface=params["interface"] or "",
        user=user,
    )


def without_zones(host: Host, passage: Passage) -> Passage:
    """The passage with the interfaces and sources of firewalld's zones in place of these. Raises BackendError."""
    inside, outside = (
        tuple(sorted({found for side in sides for found in _behind(host, side)}))
        for sides in (passage.inside, passage.outside)
    )
    return replace(passage, inside=inside, outside=outside)


def _behind(host: Host, side: Side) -> list[Side]:
    if side.kind != "zone":
        return [side]
    found = []
    for kind, question in (("interface", "--list-interfaces"), ("source", "--list-sources")):
        outcome = host.run(["firewall-cmd", f"--zone={side.name}", question])
        if outcome.code != 0:
            raise BackendError(f"{side}: firewall-cmd says {outcome.err.strip()}; name an interface or a source")
        found += [Side(kind, name) for name in outcome.out.split() if kind == "interface" or name[0] in _ADDRESS]
    if not found:
        raise BackendError(f"{side}: it has neither interfaces nor sources; name an interface or a source")
    return found


def _addresses(texts: t.Iterable[str], where: str) -> tuple[str, ...]:
    problems = []
    found: dict[str, str] = {}
    for index, text in enumerate(texts):
        try:
            # The zone of an address is an interface, which has an option of its own.
            address = str(ipaddress.ip_address(text.strip().replace("%", "/")))
        except ValueError:
            problems.append(
                Problem(f"{where}[{index}]", f"{text!r} is not an address such as 192.0.2.1 or 2001:db8::1")
            )
            continue
        if found.setdefault(family_of(address), address) != address:
            problems.append(Problem(f"{where}[{index}]", f"one address of each family is enough, {text} is a second"))
    if problems:
        raise RequestError(problems)
    return tuple(found.values())


def _user(name: str | None) -> int | None:
    if name is None:
        return None
    number = int(name) if re.fullmatch(r"[0-9]{1,10}", name) else -1
    # A name with a zero byte, or one that the locale cannot hold, is a ValueError.
    with contextlib.suppress(KeyError, ValueError):
        number = number if number >= 0 else pwd.getpwnam(name).pw_uid
    if not 0 <= number <= _HIGHEST_USER:
        text = f"{name!r} is not a user of this host; a name or a number up to {_HIGHEST_USER} is needed"
        raise RequestError([Problem("user", text)])
    return number
