# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend shares: the view of a host, reversible steps, and rules as the accepts a firewall holds."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from .._model.ports import PortSet
from .._model.rules import Rule, RuleSet, changes

__all__ = [
    "HOOKS",
    "KINDS",
    "MARK",
    "Accept",
    "Action",
    "Backend",
    "BackendError",
    "Command",
    "Drop",
    "Host",
    "Outcome",
    "Place",
    "Plan",
    "RemoveFile",
    "Step",
    "WriteFile",
    "accepts",
    "closes",
    "live_rules",
]

S = t.TypeVar("S")
D = t.TypeVar("D")

# Every object of ours has a name that begins with this, every rule of ours a comment that begins with it.
MARK = "openagora"

# In the order in which they are rendered.
KINDS = ("open", "reply", "error")

# The hooks of placement `host`: what the SDK sends passes output, what it receives passes input.
HOOKS = ("output", "input")


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
class Step:
    """One reversible change: `undo` brings back what was before `do`, also when `do` was carried out half."""

    what: str
    do: tuple[Action, ...]
    undo: tuple[Action, ...]


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
        lines += [f"* {step.what}" for step in self.steps]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, order=True)
class Accept:
    """One accept of ours, in words that every firewall has.

    `kind`: `open` matches the destination port; `reply` matches the source port of packets that connection tracking
    knows as the reply direction of an established connection; `error` matches ICMP errors related to a connection.
    """

    kind: str
    direction: str = ""
    protocol: str = ""
    sdk: str = ""
    networks: tuple[str, ...] = ()
    ports: PortSet = PortSet()

    @property
    def comment(self) -> str:
        """The text by which a person, and `read`, tell whose accept this is."""
        return f"{MARK} {self.sdk}" if self.sdk else MARK


def accepts(rules: RuleSet, hook: str, families: t.Collection[str]) -> tuple[Accept, ...]:
    """What has to be accepted at a hook of a host that runs the SDKs, in the order in which it is rendered.

    What is opened in one direction needs its return traffic in the other one, also on a host that has no rule for
    established connections; connection tracking decides, because a source port alone proves nothing.
    """
    outgoing = "egress" if hook == "output" else "ingress"
    rules = rules.in_families(families)
    found = [
        Accept(
            kind="open" if rule.direction == outgoing else "reply",
            direction=rule.direction,
            protocol=rule.protocol,
            sdk=sdk,
            networks=rule.networks,
            ports=ports,
        )
        for rule in rules
        for sdk, ports in rule.needs
    ]
    # Errors about what this side sends come in at input. Errors that this side sends about ingress leave at output.
    if found and (hook == "input" or any(rule.direction == "ingress" for rule in rules)):
        found.append(Accept(kind="error"))
    return tuple(sorted(found, key=lambda accept: (KINDS.index(accept.kind), accept)))


@dataclass(frozen=True)
class Place:
    """Where accepts of ours stand or have to stand: one hook, for some address families.

    `accepts` is what packets meet there now: empty when nothing leads to our chain.
    """

    name: str
    hook: str
    families: tuple[str, ...]
    accepts: tuple[Accept, ...] = ()


def live_rules(places: t.Sequence[Place]) -> RuleSet:
    """The rules that the accepts at these places come to: a port counts when every place it must pass lets it pass."""
    held: dict[tuple[t.Any, ...], Rule] = {}
    for place in places:
        for accept in place.accepts:
            if accept.kind != "error":
                scope = "networks" if accept.networks else "any"
                rule = Rule(accept.direction, accept.protocol, scope, accept.networks)
                held[rule.key] = rule
    rules = []
    for rule in held.values():
        through = []
        for place in places:
            if set(place.families) & set(rule.families):
                needs: dict[str, PortSet] = {}
                for accept in place.accepts:
                    if (accept.direction, accept.protocol, accept.networks) == (
                        rule.direction,
                        rule.protocol,
                        rule.networks,
                    ):
                        needs[accept.sdk] = needs.get(accept.sdk, PortSet()) | accept.ports
                through.append(needs)
        sdks = set.intersection(*(set(needs) for needs in through))
        common = {sdk: through[0][sdk] for sdk in sdks}
        for needs in through[1:]:
            common = {sdk: ports & needs[sdk] for sdk, ports in common.items()}
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


def closes(drop: Drop, wanted: t.Iterable[Accept]) -> bool:
    """Whether the rule closes a port that one of the accepts needs."""
    for accept in wanted:
        if accept.kind == "error" or drop.protocol not in (None, accept.protocol):
            continue
        ours, other = (drop.dports, drop.sports) if accept.kind == "open" else (drop.sports, drop.dports)
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

    def effective(self, state: S, desired: D) -> str:
        """`in_force`, or `nothing_to_open` where no rule of the host stands in the way."""
