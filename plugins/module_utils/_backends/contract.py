# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend shares: the view of a host, reversible steps, and rules as the accepts a firewall holds."""

from __future__ import annotations

import difflib
import typing as t
from dataclasses import dataclass, replace

from .._model.messages import Notice
from .._model.ports import PortSet
from .._model.rules import FAMILIES, Passage, Rule, RuleSet, Side, changes

if t.TYPE_CHECKING:
    from .._model.lockdown import Lockdown

__all__ = [
    "HOOKS",
    "KINDS",
    "LOCKED",
    "MARK",
    "PATHS",
    "Accept",
    "Action",
    "Backend",
    "BackendError",
    "Command",
    "Crossing",
    "Drop",
    "Host",
    "Outcome",
    "Place",
    "Plan",
    "RemoveFile",
    "Step",
    "Traffic",
    "WriteFile",
    "accepts",
    "closes",
    "crossings",
    "direction_of",
    "edits_of",
    "is_ours",
    "live_rules",
    "overridden",
    "passage_of",
]

# A side inside, and one outside (None: anywhere).
Crossing = tuple[Side, t.Optional[Side]]

S = t.TypeVar("S")
D = t.TypeVar("D")

# Every object of ours has a name that begins with this, every rule of ours a comment that begins with it.
MARK = "openagora"

# So begins the comment of a rule of lockdown; after it stands the essential, or `allow`. No SDK has a name like it.
LOCKED = f"{MARK} lockdown:"

# In the order in which they are rendered.
KINDS = ("open", "kept", "reply", "error", "note")

# What an SDK on the host sends passes output, what it receives passes input; both pass forward on a gateway.
HOOKS = {"output": ("output",), "input": ("input",), "forward": ("forward_out", "forward_in")}
PATHS = tuple(path for paths in HOOKS.values() for path in paths)
_OUTWARD = ("output", "forward_out")


class BackendError(Exception):
    """The host's firewall cannot be read or changed as asked; the message names the thing and what to do."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


class Host(t.Protocol):
    """The host as backends see it: commands that change nothing, and files."""

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        """Run a command in the C locale; a command that is not there ends with code 127."""

    def which(self, name: str) -> str | None:
        """The path of a command, None when it is not installed."""

    def read(self, path: str) -> str | None:
        """A file's text, None when it is not there."""

    def exists(self, path: str) -> bool:
        """Whether anything is at the path."""


@dataclass(frozen=True)
class Command:
    """Run a command; it fails when its exit code is not 0."""

    argv: tuple[str, ...]
    stdin: str | None = None


@dataclass(frozen=True)
class WriteFile:
    """Put a text at a path, whole or not at all."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class RemoveFile:
    """Remove a file, and the folders of ours that it leaves empty."""

    path: str


Action = t.Union[Command, WriteFile, RemoveFile]


@dataclass(frozen=True)
class Traffic:
    """What a step does to packets.

    `effect`: it `opens` and stops nothing; it `closes` what rules of ours let pass, or puts that elsewhere; or it
    `may cut` what no rule of ours let pass, or lets such pass no more.
    `trial` are the commands that do the same to the rules in a private copy, in a plan that was made in that copy; of a
    firewall that cannot be asked in there it gives those for any copy, or raises BackendError.
    """

    effect: t.Literal["opens", "closes", "may cut"]
    trial: tuple[Command, ...] | t.Callable[[], tuple[Command, ...]]


@dataclass(frozen=True)
class Step:
    """One reversible change: `undo` brings back what was before `do`, also when `do` was carried out half.

    `traffic` is stated for every step: None only where it changes no rule in the kernel that other steps do not.
    `edits` are lines for a person: what is put right in files of ours beside what the rules say (see `edits_of`).
    `rollback` does what `undo` does when nobody knows how much of an action was carried out; none where `undo` does.
    """

    what: str
    traffic: Traffic | None
    do: tuple[Action, ...]
    undo: tuple[Action, ...]
    edits: tuple[str, ...] = ()
    rollback: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Ordered steps from what of ours is live to what is wanted, and what they mean in rules."""

    steps: tuple[Step, ...]
    before: RuleSet
    after: RuleSet

    def text(self) -> str:
        """The plan for a person: a line for each run of ports that changes and each step. Empty without steps."""
        if not self.steps:
            return ""
        lines = [str(change) for change in changes(self.before, self.after)]
        for step in self.steps:
            lines += [f"* {step.what}", *(f"  {line}" for line in step.edits)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, order=True)
class Accept:
    """One accept of ours, in words that every firewall has.

    `kind`: `open` matches the destination port; `reply` matches the source port of packets that connection tracking
    knows as the reply direction of an established connection; `error` matches ICMP errors related to a connection.
    Of a rule of scope names, `open` matches the addresses of one family that the resolver has answered, `kept` the
    further packets of a connection that was let through, and `note` accepts nothing but remembers other addresses.
    `names` is that family, or `any` where the address does not matter.
    """

    kind: str
    direction: str = ""
    protocol: str = ""
    sdk: str = ""
    networks: tuple[str, ...] = ()
    ports: PortSet = PortSet()
    passage: Passage = Passage()
    names: str = ""

    @property
    def comment(self) -> str:
        """The text by which a person, and `read`, tell whose accept this is."""
        return f"{MARK} {self.sdk}" if self.sdk else MARK


def edits_of(path: str, before: str, after: str) -> tuple[str, ...]:
    """The lines that go from and come into a file of ours, below its path; empty when the texts are the same."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    differing = tuple(line for line in lines if not line.startswith(("---", "+++", "@@")))
    return (f"{path}:", *differing) if differing else ()


def is_ours(comment: str) -> bool:
    """Whether a rule's comment is one of those that `Accept.comment` gives."""
    return comment == MARK or comment.startswith(f"{MARK} ")


def direction_of(path: str, *, reply: bool) -> str:
    """Of what direction the packets are that pass here: those that an SDK's connection begins with, or its replies."""
    return "egress" if (path in _OUTWARD) != reply else "ingress"


def accepts(rules: RuleSet, path: str, families: t.Collection[str]) -> tuple[Accept, ...]:
    """What has to be accepted on a path, in the order in which it is rendered.

    What is opened in one direction needs its return traffic in the other one, also on a host that has no rule for
    established connections; connection tracking decides, because a source port alone proves nothing.
    """
    placed = [rule for rule in rules.in_families(families) if _passes(rule.passage, path)]
    found = [
        Accept(
            kind=kind,
            direction=rule.direction,
            protocol=rule.protocol,
            sdk=sdk,
            networks=rule.networks,
            ports=ports,
            passage=rule.passage,
            names=names,
        )
        for rule in placed
        for kind, names in _kinds(rule, path, families)
        for sdk, ports in rule.needs
    ]
    # Errors about what this side sends come back inwards. Those that it sends about ingress leave outwards.
    if found and (path not in _OUTWARD or any(rule.direction == "ingress" for rule in placed)):
        found.append(Accept(kind="error"))
    return tuple(sorted(found, key=lambda accept: (KINDS.index(accept.kind), accept)))


def _kinds(rule: Rule, path: str, families: t.Collection[str]) -> list[tuple[str, str]]:
    """The kinds of accept that a rule needs on a path, and whose names (see `Accept`) they are about."""
    opens, named = rule.direction == direction_of(path, reply=False), rule.scope == "names"
    if not (opens and named):
        return [("open" if opens else "reply", "any" if named else "")]
    both = [family for family in rule.families if family in families]
    return [*(("open", family) for family in both), ("kept", "any"), *(("note", family) for family in both)]


def _passes(passage: Passage, path: str) -> bool:
    """Whether packets of a host (no passage) or of this way through a gateway come along here."""
    return bool(passage.inside) == (path in HOOKS["forward"])


def crossings(passages: t.Iterable[Passage], families: t.Iterable[str]) -> list[Crossing]:
    """All pairs of a side inside and one outside between which packets of these families cross, in order."""
    pairs = {pair for passage in passages for family in families for pair in passage.crossings(family)}
    return sorted(pairs, key=str)


def passage_of(pairs: t.Iterable[Crossing]) -> Passage:
    """The two sides of the gateway that these pairs come from."""
    pairs = list(pairs)
    inside, outside = {pair[0] for pair in pairs}, {pair[1] for pair in pairs if pair[1]}
    return Passage(tuple(sorted(inside)), tuple(sorted(outside)))


@dataclass(frozen=True)
class Place:
    """Where accepts of ours stand or have to stand: one path, for some address families.

    `accepts` is what packets meet there now: empty when nothing leads to our chain. `answers`: what belongs to a
    connection passes anyway, so only rules whose connections begin here count.
    """

    name: str
    path: str
    families: tuple[str, ...]
    accepts: tuple[Accept, ...] = ()
    answers: bool = False

    def rules(self) -> t.Iterator[Rule]:
        """What is accepted here, whether or not other places let it pass."""
        for accept in self.accepts:
            if accept.kind in ("open", "reply"):
                scope = "names" if accept.names else "networks" if accept.networks else "any"
                needs = ((accept.sdk, accept.ports),)
                rule = Rule(
                    accept.direction, accept.protocol, scope, accept.networks, needs=needs, passage=accept.passage
                )
                families = [family for family in rule.families if family in self.families]
                twins = [replace(accept, names=family) for family in families] if accept.names in FAMILIES else []
                if all(twin in self.accepts for twin in twins):
                    yield rule

    def concerns(self, rule: Rule) -> bool:
        """Whether packets of this rule come along here."""
        if self.answers and rule.direction != direction_of(self.path, reply=False):
            return False
        return _passes(rule.passage, self.path) and bool(set(self.families) & set(rule.families))


def live_rules(places: t.Sequence[Place]) -> RuleSet:
    """The rules that the accepts at these places come to: a port counts when every place it must pass lets it pass."""
    held = [(place, {rule.key: dict(rule.needs) for rule in RuleSet.of(place.rules())}) for place in places]
    rules = []
    for rule in RuleSet.of(rule for place in places for rule in place.rules()):
        common = dict(rule.needs)
        for place, needs in held:
            if place.concerns(rule):
                here = needs.get(rule.key, {})
                common = {sdk: ports & here[sdk] for sdk, ports in common.items() if sdk in here}
        rules.append(replace(rule, needs=tuple(common.items())))
    return RuleSet.of(rules)


@dataclass(frozen=True)
class Drop:
    """A foreign rule that drops or rejects, as far as it can be told by protocol and port.

    None stands for any. A rule that also looks at something else (addresses, sets, marks, ...) is not held here:
    it cuts off certain peers, which is its author's wish, and closes no port.
    """

    protocol: str | None = None
    dports: PortSet | None = None
    sports: PortSet | None = None

    def narrowed(self, inner: Drop) -> Drop | None:
        """What both match: a drop in a chain that a rule of the first kind leads to. None when nothing is left."""
        if self.protocol and inner.protocol and self.protocol != inner.protocol:
            return None
        sides = []
        for outer_ports, inner_ports in ((self.dports, inner.dports), (self.sports, inner.sports)):
            both = (
                inner_ports
                if outer_ports is None
                else outer_ports & inner_ports
                if inner_ports is not None
                else outer_ports
            )
            if both is not None and not both:
                return None
            sides.append(both)
        return Drop(self.protocol or inner.protocol, *sides)


def overridden(where: str, drops: t.Iterable[Drop], wanted: t.Collection[Accept]) -> t.Iterator[Notice]:
    """Each rule of others that denies a port by name which ours, standing first, opens."""
    for drop in drops:
        if (drop.dports or drop.sports) and closes(drop, wanted):
            ports = f"to {drop.dports}" if drop.dports else f"from {drop.sports}"
            text = f"a rule here denies {drop.protocol or 'tcp and udp'} {ports}, and ours comes before it"
            yield Notice("deny_overridden", where, f"{text}; take it away if that is meant, or do without the SDK")


def closes(drop: Drop, wanted: t.Iterable[Accept]) -> bool:
    """Whether the rule closes a port that one of the accepts needs."""
    for accept in wanted:
        if accept.kind in ("error", "note") or drop.protocol not in (None, accept.protocol):
            continue
        ours, other = (drop.sports, drop.dports) if accept.kind == "reply" else (drop.dports, drop.sports)
        if other is None and (ours is None or ours & accept.ports):
            return True
    return False


class Backend(t.Protocol[S, D]):
    """One firewall. `read` and the two questions before it look at the host; everything after them is pure."""

    name: str

    def available(self, host: Host) -> bool:
        """Whether the host has this firewall's commands."""

    def in_force(self, host: Host) -> str:
        """What shows that this firewall decides about packets on the host; empty when it does not."""

    def read(self, host: Host) -> S:
        """What of ours is live, with what is needed to place more. Raises BackendError."""

    def render(self, rules: RuleSet, state: S) -> D:
        """What has to be there for these rules (none: nothing of ours). Raises BackendError."""

    def plan(self, state: S, desired: D) -> tuple[Step, ...]:
        """The reversible steps from the one to the other."""

    def boot_script(self, state: S, desired: D) -> str | None:
        """A shell script that brings the rules back at boot, harmless when they are there; None when not needed."""

    def places(self, state: S) -> tuple[Place, ...]:
        """Every place at which packets meet accepts of ours, or would have to."""

    def lockdown(self, state: S, *, held: bool = False) -> Lockdown | None:
        """The lockdown of ours that is live, None in mode open; `held`: also one that others let something past."""

    def effective(self, state: S, desired: D) -> str:
        """`in_force`, or `nothing_to_open` where no rule of the host stands in the way."""

    def files(self, state: S) -> tuple[str, ...]:
        """The files of ours that the host has for this firewall, those of the boot sequence aside."""

    def notices(self, state: S, desired: D) -> t.Iterable[Notice]:
        """What keeps the rules from working in this firewall, and which of others they override."""

    def in_the_way(self, state: S, rules: RuleSet) -> tuple[str, ...]:
        """The chains of this firewall that stop what is needed unless ours stands in them."""

    def out_of_reach(self, state: S, rules: RuleSet) -> tuple[str, ...]:
        """The chains that stop what is needed and into which this backend can put nothing."""
