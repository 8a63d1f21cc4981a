# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules and rule sets: which ports are open in which direction, to whom, and which SDK needs each of them."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace

from .domains import DomainSet
from .lockdown import Lockdown
from .messages import Problem, RequestError
from .networks import FAMILIES, family_of, normalise_networks, overlap
from .ports import PortError, PortSet

__all__ = [
    "DIRECTIONS",
    "FAMILIES",
    "PROTOCOLS",
    "SCOPES",
    "SIDES",
    "Change",
    "Passage",
    "Rule",
    "RuleSet",
    "Side",
    "changes",
    "family_of",
    "newly_open",
    "normalise_networks",
    "overlap",
    "parse_rules",
]

DIRECTIONS = ("egress", "ingress")
PROTOCOLS = ("tcp", "udp")
SCOPES = ("any", "names", "networks")
# By what machines on one side of a gateway are told; a zone is one of firewalld's.
SIDES = ("interface", "zone", "source")

_SDK_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


@dataclass(frozen=True, order=True)
class Side:
    """Machines on one side of a gateway: those behind an interface or zone, or those with addresses of a network."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def families(self) -> tuple[str, ...]:
        """The address families that such machines speak."""
        return (family_of(self.name),) if self.kind == "source" else FAMILIES


@dataclass(frozen=True, order=True)
class Passage:
    """The way through a gateway, from the machines inside that run the SDKs to those outside.

    Without `inside` it is no gateway: the host itself runs the SDKs. Without `outside` it is anybody. `targets` are the
    networks inside that ingress may reach (one address family a rule).
    """

    inside: tuple[Side, ...] = ()
    outside: tuple[Side, ...] = ()
    targets: tuple[str, ...] = ()

    def __str__(self) -> str:
        inside, outside = (", ".join(map(str, sides)) for sides in (self.inside, self.outside))
        return f"{inside} to {outside or 'anywhere'}"

    def crosses(self, family: str) -> bool:
        """Whether packets of a family cross at all."""
        return all(any(family in side.families for side in sides) for sides in (self.inside, self.outside) if sides)

    def crossings(self, family: str) -> tuple[tuple[Side, Side | None], ...]:
        """The pairs of a side inside and one outside (None: anywhere) between which packets of a family cross."""
        inside, outside = ([side for side in sides if family in side.families] for sides in (self.inside, self.outside))
        return tuple((near, far) for near in inside for far in (outside if self.outside else [None]))


@dataclass(frozen=True, order=True)
class Rule:
    """Ports that are open in one direction for one protocol, and which SDK needs which of them.

    `networks` is filled with scope `networks` only (one address family a rule), `domains` with scope `names` only.
    `needs` maps SDK to ports, sorted, without empty sets. `passage` is the way through, on a gateway.
    """

    direction: str
    protocol: str
    scope: str = "any"
    networks: tuple[str, ...] = ()
    domains: DomainSet = field(default_factory=DomainSet)
    needs: tuple[tuple[str, PortSet], ...] = ()
    passage: Passage = Passage()

    @property
    def ports(self) -> PortSet:
        """All ports of the rule: the union over the SDKs, in the fewest ranges."""
        return PortSet.union(ports for _sdk, ports in self.needs)

    @property
    def key(self) -> tuple[str, str, str, tuple[str, ...], Passage]:
        """What makes two rules one: direction, protocol, scope, networks and the way through a gateway."""
        return (self.direction, self.protocol, self.scope, self.networks, self.passage)

    @property
    def families(self) -> tuple[str, ...]:
        """The address families in which the rule can match."""
        named = {family_of(network) for network in (*self.networks, *self.passage.targets)}
        crossed = {family for family in FAMILIES if not self.passage.inside or self.passage.crosses(family)}
        return tuple(family for family in FAMILIES if family in crossed and named <= {family})

    def data(self) -> dict[str, t.Any]:
        """The form in which modules return and take it."""
        data: dict[str, t.Any] = {
            "direction": self.direction,
            "protocol": self.protocol,
            "scope": self.scope,
            "ports": self.ports.texts(),
            "sdks": {sdk: ports.texts() for sdk, ports in self.needs},
        }
        if self.scope == "networks":
            data["networks"] = list(self.networks)
        if self.scope == "names":
            data["domains"] = list(self.domains)
        if self.passage.inside:
            data["placement"] = "gateway"
            data["inside"], data["outside"] = (
                [{side.kind: side.name} for side in sides] for sides in (self.passage.inside, self.passage.outside)
            )
        if self.passage.targets:
            data["recording_targets"] = list(self.passage.targets)
        return data


def _concise(rule: Rule) -> Rule:
    """The rule without sides of its passage that are of other families than its own."""
    inside, outside = (
        tuple(side for side in sides if set(side.families) & set(rule.families))
        for sides in (rule.passage.inside, rule.passage.outside)
    )
    return replace(rule, passage=replace(rule.passage, inside=inside, outside=outside))


def _united(rules: t.Sequence[Rule]) -> Rule:
    """One rule for several of the same key."""
    held: dict[str, list[PortSet]] = {}
    for rule in rules:
        for sdk, ports in rule.needs:
            held.setdefault(sdk, []).append(ports)
    needs = tuple((sdk, ports) for sdk, found in sorted(held.items()) if (ports := PortSet.union(found)))
    names = [name for rule in rules for name in rule.domains]
    return replace(rules[0], domains=DomainSet.of(*names), needs=needs)


def _split_by_family(rule: Rule) -> t.Iterator[Rule]:
    named = rule.networks, rule.passage.targets
    needed = rule.scope == "networks", bool(rule.passage.targets)
    if not any(needed):
        yield rule
        return
    for family in FAMILIES:
        networks, targets = (tuple(text for text in texts if family_of(text) == family) for texts in named)
        if (bool(networks), bool(targets)) == needed:
            yield replace(rule, networks=networks, passage=replace(rule.passage, targets=targets))


def _range(text: str) -> tuple[int, int]:
    """The range that a set of one range gives as its text."""
    low, _dash, high = text.partition("-")
    return int(low), int(high or low)


@dataclass(frozen=True, order=True)
class RuleSet:
    """All rules of a request, at most one for each key, and the domain allowlist."""

    rules: tuple[Rule, ...] = ()
    domains: DomainSet = field(default_factory=DomainSet)
    # None: what is not among the rules is left to the host's own firewall.
    lockdown: Lockdown | None = None

    @classmethod
    def of(cls, rules: t.Iterable[Rule], *, domains: DomainSet | None = None) -> RuleSet:
        """Merge rules of the same key, drop those without ports or packets, sort; one family in a rule's networks."""
        merged: dict[tuple[t.Any, ...], list[Rule]] = {}
        for rule in (_concise(part) for whole in rules for part in _split_by_family(whole) if part.families):
            merged.setdefault(rule.key, []).append(rule)
        built = (_united(same) for same in merged.values())
        return cls(rules=tuple(sorted(rule for rule in built if rule.needs)), domains=domains or DomainSet())

    def __iter__(self) -> t.Iterator[Rule]:
        return iter(self.rules)

    def ingress_from(self, networks: t.Iterable[str]) -> RuleSet:
        """The same rules, with ingress narrowed from anywhere to these networks (none: unchanged)."""
        networks = tuple(networks)
        if not networks:
            return self
        narrowed = (
            replace(rule, scope="networks", networks=networks)
            if rule.direction == "ingress" and rule.scope == "any"
            else rule
            for rule in self.rules
        )
        return RuleSet.of(narrowed, domains=self.domains)

    def placed(self, placements: t.Collection[str], passage: Passage) -> RuleSet:
        """The same rules where the SDKs run: on the `host`, inside a `gateway` (ingress reaches its targets only)."""
        rules = list(self.rules) if "host" in placements else []
        for rule in self.rules if "gateway" in placements else ():
            targets = passage.targets if rule.direction == "ingress" else ()
            if targets or rule.direction == "egress":
                rules.append(replace(rule, passage=replace(passage, targets=targets)))
        return RuleSet.of(rules, domains=self.domains)

    def in_families(self, families: t.Collection[str]) -> RuleSet:
        """The rules that can match in one of these address families."""
        rules = tuple(rule for rule in self.rules if any(family in families for family in rule.families))
        return replace(self, rules=rules)

    def data(self) -> list[dict[str, t.Any]]:
        """The rules in the form in which modules return and take them."""
        return [rule.data() for rule in self.rules]

    def kept(self) -> dict[str, t.Any]:
        """The whole rule set, as JSON can hold it."""
        return {"rules": self.data(), "lockdown": self.lockdown.data() if self.lockdown else None}

    @classmethod
    def of_kept(cls, kept: t.Mapping[str, t.Any]) -> RuleSet | None:
        """The rule set of which `kept` gave this, None when nothing is in it; `parse_rules` is for others' data."""
        rules = []
        for item in kept["rules"]:
            inside, outside = (
                tuple(Side(kind, name) for side in item.get(sides, ()) for kind, name in side.items())
                for sides in ("inside", "outside")
            )
            needs = {sdk: PortSet.of(*map(_range, texts)) for sdk, texts in item["sdks"].items()}
            rules.append(
                Rule(
                    direction=item["direction"],
                    protocol=item["protocol"],
                    scope=item["scope"],
                    networks=tuple(item.get("networks", ())),
                    domains=DomainSet.of(*item.get("domains", ())),
                    needs=tuple(sorted(needs.items())),
                    passage=Passage(inside, outside, tuple(item.get("recording_targets", ()))),
                )
            )
        built = cls.of(rules, domains=DomainSet.of(*(name for rule in rules for name in rule.domains)))
        lockdown = Lockdown.of_data(kept["lockdown"]) if kept["lockdown"] else None
        return replace(built, lockdown=lockdown) if rules or lockdown else None


@dataclass(frozen=True, order=True)
class Change:
    """What happens to neighbouring ports that the same SDKs needed before and need after."""

    rule: Rule
    low: int
    high: int
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        """`+ egress udp 3478 (web)`; `-` closes, `~` keeps the port open for other SDKs than before."""
        if not self.before:
            sign, sdks = "+", ", ".join(self.after)
        elif not self.after:
            sign, sdks = "-", ", ".join(self.before)
        else:
            sign, sdks = "~", f"{', '.join(self.before)} -> {', '.join(self.after)}"
        ports = str(self.low) if self.low == self.high else f"{self.low}-{self.high}"
        where = ""
        if self.rule.scope == "networks":
            where = (" to " if self.rule.direction == "egress" else " from ") + ", ".join(self.rule.networks)
        elif self.rule.scope == "names":
            where = " to allowlisted names"
        if self.rule.passage.inside:
            where += f" through the gateway, {self.rule.passage}"
        if self.rule.passage.targets:
            where += f", only to {', '.join(self.rule.passage.targets)}"
        return f"{sign} {self.rule.direction} {self.rule.protocol} {ports} ({sdks}){where}"


def changes(before: RuleSet, after: RuleSet) -> list[Change]:
    """All ports whose SDKs differ between two rule sets, as the longest runs of ports that change alike."""
    old = {rule.key: rule for rule in before}
    new = {rule.key: rule for rule in after}
    found: list[Change] = []
    for key in sorted(old.keys() | new.keys()):
        rule = new.get(key) or old[key]
        sides = [dict(old[key].needs) if key in old else {}, dict(new[key].needs) if key in new else {}]
        edges = sorted(
            {
                edge
                for needs in sides
                for ports in needs.values()
                for low, high in ports.ranges
                for edge in (low, high + 1)
            }
        )
        # At every edge an SDK begins or ends, so no two neighbouring runs change alike.
        for low, following in zip(edges, edges[1:]):
            was, will = (tuple(sorted(sdk for sdk, ports in needs.items() if low in ports)) for needs in sides)
            if was != will:
                found.append(Change(rule=rule, low=low, high=following - 1, before=was, after=will))
    return found


def newly_open(before: RuleSet, after: RuleSet) -> list[dict[str, t.Any]]:
    """Rule entries for the ports that are open in `after` and not in `before` (swap the two for what is closed)."""
    old = {rule.key: rule.ports for rule in before}
    entries = []
    for rule in after:
        fresh = rule.ports - old.get(rule.key, PortSet())
        if fresh:
            needs = ((sdk, ports & fresh) for sdk, ports in rule.needs)
            entries.append(replace(rule, needs=tuple((sdk, ports) for sdk, ports in needs if ports)).data())
    return entries


def _parse_ports(texts: t.Any, where: str, problems: list[Problem]) -> PortSet:
    if not isinstance(texts, list) or not texts:
        problems.append(Problem(where, f"a list of port texts is needed (such as ['80', '5668-5669']), not {texts!r}"))
        return PortSet()
    found = []
    for index, text in enumerate(texts):
        try:
            found.append(PortSet.parse(str(text)))
        except PortError as error:
            problems.append(Problem(f"{where}[{index}]", str(error)))
    return PortSet.union(found)


def _parse_each(
    item: dict[str, t.Any], key: str, read: t.Callable[[str], t.Iterable[str]], where: str, problems: list[Problem]
) -> list[str]:
    texts = item.get(key) or []
    if not isinstance(texts, list):
        problems.append(Problem(f"{where}.{key}", f"a list is needed, not {texts!r}"))
        return []
    found: list[str] = []
    for index, text in enumerate(texts):
        try:
            found += read(str(text))
        except ValueError as error:
            problems.append(Problem(f"{where}.{key}[{index}]", str(error)))
    return found


def _parse_rule(item: t.Any, where: str, problems: list[Problem]) -> Rule | None:
    known = ("direction", "protocol", "scope", "ports", "sdks", "networks", "domains")
    if not isinstance(item, dict):
        problems.append(Problem(where, f"a rule is a dictionary as module rules returns it, not {item!r}"))
        return None
    count = len(problems)
    for key in sorted(item.keys() - set(known)):
        problems.append(Problem(f"{where}.{key}", f"is not a key of a rule; known: {', '.join(known)}"))
    scope = item.get("scope", "any")
    for key, value, legal in (
        ("direction", item.get("direction"), DIRECTIONS),
        ("protocol", item.get("protocol"), PROTOCOLS),
        ("scope", scope, SCOPES),
    ):
        if value not in legal:
            problems.append(Problem(f"{where}.{key}", f"{value!r} is not one of {', '.join(legal)}"))
    ports = _parse_ports(item.get("ports"), f"{where}.ports", problems)
    needs: dict[str, PortSet] = {}
    sdks = item.get("sdks", {"extra": item.get("ports")})
    if not isinstance(sdks, dict):
        problems.append(Problem(f"{where}.sdks", f"a dictionary of SDK name to ports is needed, not {sdks!r}"))
        sdks = {}
    for sdk, texts in sdks.items():
        if not isinstance(sdk, str) or not _SDK_NAME.match(sdk):
            problems.append(
                Problem(f"{where}.sdks", f"{sdk!r}: a name is lower-case letters, digits and _, at most 32")
            )
        needs[str(sdk)] = _parse_ports(texts, f"{where}.sdks.{sdk}", problems) if "sdks" in item else ports
    union = PortSet.union(needs.values())
    if len(problems) == count and union != ports:
        only = f"only in ports: {ports - union or 'none'}; only in sdks: {union - ports or 'none'}"
        problems.append(Problem(f"{where}.ports", f"ports and sdks must name the same ports; {only}"))
    networks = _parse_each(item, "networks", lambda text: normalise_networks([text]), where, problems)
    domains = _parse_each(item, "domains", DomainSet.of, where, problems)
    for key, owner in (("networks", "networks"), ("domains", "names")):
        if scope == owner and not item.get(key):
            problems.append(Problem(f"{where}.{key}", f"is needed with scope {owner}"))
        elif item.get(key) and scope != owner:
            problems.append(Problem(f"{where}.{key}", f"goes with scope {owner} only; the scope is {scope}"))
    if len(problems) > count:
        return None
    return Rule(
        direction=item["direction"],
        protocol=item["protocol"],
        scope=scope,
        networks=normalise_networks(networks),
        domains=DomainSet.of(*domains),
        needs=tuple(sorted(needs.items())),
    )


def parse_rules(items: t.Any, *, where: str = "rules") -> RuleSet:
    """A rule set from what module `rules` returned, perhaps edited.

    An entry without `sdks` belongs to `extra`. Raises RequestError with all problems and their positions.
    """
    problems: list[Problem] = []
    rules = [_parse_rule(item, f"{where}[{index}]", problems) for index, item in enumerate(items)]
    if not rules:
        problems.append(Problem(where, "is empty; use state: absent to close everything of ours"))
    if problems:
        raise RequestError(problems)
    parsed = RuleSet.of(rule for rule in rules if rule is not None)
    names = (name for rule in parsed for name in rule.domains)
    return replace(parsed, domains=DomainSet.of(*names))
