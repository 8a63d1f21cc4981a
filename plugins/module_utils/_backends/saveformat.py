# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules in the save format of iptables, which ufw's are, too: what they say, and what of them drops."""

from __future__ import annotations

import functools
import re
import typing as t
from dataclasses import replace

from .._model.ports import HIGHEST, LOWEST, PortSet
from .._model.rules import Passage, normalise_networks
from .contract import MARK, Accept, Drop

__all__ = [
    "HALVES",
    "Options",
    "appended",
    "drops",
    "gathered",
    "leads",
    "multiport",
    "options_of",
    "parse",
    "ports_of",
]

# The save format leaves out a network that is everything; its halves keep `networks` apart from `any`.
HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}

Options = dict[str, str]

# The save format quotes texts and nothing else; names of chains, sets and interfaces may hold quotes of their own.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(?!\S)|(\S+)')


@functools.cache
def options_of(spec: str) -> Options:
    """A rule's options and their values, whatever the order and the match modules named; a negated one ends in `!`."""
    options: Options = {}
    name, negated = "", ""
    for match in _TOKEN.finditer(spec):
        quoted, word = match.groups()
        if word == "!" and name != "--comment":
            negated = "!"
        elif word and word.startswith("-") and name != "--comment":
            name, negated = word + negated, ""
            options[name] = ""
        else:
            value = word or re.sub(r"\\(.)", r"\1", quoted)
            options[name] = f"{options.get(name, '')} {value}".strip()
            name = "" if name == "--comment" else name
    options.pop("-m", None)
    return options


def leads(spec: str) -> str:
    """Where a rule leads: the chain, or the verdict; empty when it goes on."""
    options = options_of(spec)
    return options.get("-j") or options.get("-g") or ""


def ports_of(text: str, *, negated: bool = False) -> PortSet:
    pairs = (part.split(":") for part in text.split(","))
    # Port 0 is legal in a rule, but no port that a rule set can hold.
    ports = PortSet.of(*((max(int(pair[0]), LOWEST), int(pair[-1])) for pair in pairs if int(pair[-1])))
    return PortSet.of((LOWEST, HIGHEST)) - ports if negated else ports


def multiport(ports: PortSet) -> str:
    return ",".join(text.replace("-", ":") for text in ports.texts())


def appended(line: str) -> tuple[str, str]:
    """The chain and the words of a rule in a line that begins with `-A`; one that only counts has none."""
    _append, chain, *spec = line.split(None, 2)
    return chain, "".join(spec)


def parse(text: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The policies and the rules of each chain in what iptables-save prints of one table."""
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            policies[chain] = policy
            rules.setdefault(chain, [])
        elif line.startswith("-A "):
            chain, spec = appended(line)
            rules.setdefault(chain, []).append(spec)
    return policies, {chain: tuple(specs) for chain, specs in rules.items()}


def drops(rules: t.Mapping[str, tuple[str, ...]], chain: str, *, stop: int | None = None) -> t.Iterator[Drop]:
    """The foreign rules in a chain, and in those it jumps to, that drop by protocol and port alone."""
    for spec in rules.get(chain, ())[:stop]:
        target, drop = leads(spec), _as_drop(options_of(spec))
        if drop is None or target.startswith(f"{MARK}-"):
            continue
        if target in ("DROP", "REJECT"):
            yield drop
        elif target in rules:
            for inner in drops(rules, target):
                narrowed = drop.narrowed(inner)
                if narrowed:
                    yield narrowed


def _as_drop(options: Options) -> Drop | None:
    """What a dropping rule with these options closes; None when it looks at more than protocol and ports."""
    protocol: str | None = None
    dports: PortSet | None = None
    sports: PortSet | None = None
    for name, value in options.items():
        if name == "-p" and value in ("tcp", "udp"):
            protocol = value
        elif name == "-p!" and value in ("tcp", "udp"):
            protocol = "udp" if value == "tcp" else "tcp"
        elif name.rstrip("!") in ("--dport", "--dports"):
            dports = ports_of(value, negated=name.endswith("!"))
        elif name.rstrip("!") in ("--sport", "--sports"):
            sports = ports_of(value, negated=name.endswith("!"))
        elif not (
            name in ("-p!", "-j", "-g", "--comment", "--reject-with")
            or (name in ("--ctstate", "--state") and "NEW" in value)
            or (name in ("--ctstate!", "--state!") and "NEW" not in value)
            or (name in ("-i", "-o") and value != "lo")
            or (name in ("-i!", "-o!") and value == "lo")
        ):
            return None
    return Drop(protocol, dports, sports)


def gathered(held: t.Mapping[tuple[str, str, str, str, str, str], PortSet], passage: Passage) -> t.Iterator[Accept]:
    """The accepts that rules come to: ports by kind, direction, protocol, SDK, network and target (empty: any)."""
    by_target = _grouped((*words, target, ports, network) for (*words, network, target), ports in held.items())
    whole = _grouped((*words, ports, networks, target) for (*words, target, ports), networks in by_target)
    for (kind, direction, protocol, sdk, ports, networks), targets in whole:
        yield Accept(kind, direction, protocol, sdk, networks, ports, replace(passage, targets=targets))


def _grouped(items: t.Iterable[tuple[t.Any, ...]]) -> t.Iterator[tuple[tuple[t.Any, ...], tuple[str, ...]]]:
    """Items that differ in their last part alone, which is a network or empty for any address."""
    groups: dict[tuple[t.Any, ...], list[str]] = {}
    for *key, network in items:
        groups.setdefault((*key, bool(network)), []).append(network)
    for (*key, narrowed), networks in groups.items():
        yield tuple(key), normalise_networks(networks) if narrowed else ()
