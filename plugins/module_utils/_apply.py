# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a rule set to one plan for the whole host: the chosen backend, the boot sequence, and the other backends."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import typing as t
from dataclasses import dataclass, replace

from ._backends import boot
from ._backends.contract import BackendError, Plan, Step, live_rules
from ._backends.detect import BACKENDS, choose
from ._backends.iptables import NFT_CHAINS
from ._backends.nftables import Nftables, address_sets, unnamed
from ._dns.resolver import look as names_of
from ._model.messages import Notice
from ._model.ports import PortSet
from ._model.rules import FAMILIES, RuleSet, family_of, normalise_networks

if t.TYPE_CHECKING:
    from ._backends.contract import Backend, Host, Outcome, Place
    from ._model.rules import Rule

__all__ = ["Live", "OneLook", "Prepared", "look", "prepare"]

_FORWARDING = {"ipv4": "net/ipv4/ip_forward", "ipv6": "net/ipv6/conf/all/forwarding"}


@dataclass(frozen=True)
class Prepared:
    """What would be done to a host, and by which backend (empty when everything of ours goes)."""

    plan: Plan
    backend: str = ""
    reason: str = ""
    effective: str = ""
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Live:
    """What of ours is live on a host: the rules in force, and those `held`, be it by a firewall that is not."""

    backends: tuple[str, ...]
    rules: RuleSet
    files: tuple[str, ...]
    address_sets: tuple[str, ...] = ()
    unnamed: tuple[tuple[str, int], ...] = ()
    held: RuleSet = RuleSet()


class OneLook:
    """A host asked each question once: a whole plan comes from one look, and no command runs twice for it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answers: dict[tuple[str, ...], Outcome] = {}
        self.which, self.read, self.exists = host.which, host.read, host.exists

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        """The outcome of the first time that this command ran."""
        key = (*argv, stdin or "")
        if key not in self._answers:
            self._answers[key] = self._host.run(argv, stdin=stdin)
        return self._answers[key]


def _others(host: Host, chosen: str) -> list[tuple[Backend[t.Any, t.Any], t.Any]]:
    """Every backend of the host but the chosen one, with its state."""
    installed = [backend for name, backend in BACKENDS.items() if name != chosen and backend.available(host)]
    return [(backend, backend.read(host)) for backend in installed]


def _gone(others: t.Iterable[tuple[Backend[t.Any, t.Any], t.Any]]) -> tuple[list[Step], RuleSet]:
    """The steps that take ours away from these backends, and the rules that go with them."""
    steps: list[Step] = []
    rules: list[RuleSet] = []
    for backend, state in others:
        steps += backend.plan(state, backend.render(RuleSet(), state))
        rules.append(live_rules(backend.places(state)))
    return steps, RuleSet.of(rule for held in rules for rule in held)


def _left_over(places: t.Iterable[Place], after: RuleSet) -> t.Iterator[Rule]:
    """What is no longer needed and still accepted somewhere, if only in one family or chain."""
    needed = {rule.key: dict(rule.needs) for rule in after}
    for rule in (rule for place in places for rule in place.rules()):
        kept = needed.get(rule.key, {})
        yield replace(rule, needs=tuple((sdk, ports - kept.get(sdk, PortSet())) for sdk, ports in rule.needs))


def _refuse_names(rules: RuleSet, name: str) -> None:
    if name != "nftables" and any(rule.scope == "names" for rule in rules):
        raise BackendError(
            f"backend {name} cannot hold rules of scope names: it has no address sets that a resolver may fill and a "
            "change of rules leaves alone; use backend nftables, or scope any"
        )


def _refuse_sides(host: Host, rules: RuleSet, name: str) -> None:
    """All sides of a gateway that this host or backend does not know, in one error."""
    there = re.findall(r"^\s*([^\s:]+):", host.read("/proc/net/dev") or "", re.MULTILINE)
    problems = []
    for side in sorted({side for rule in rules for side in (*rule.passage.inside, *rule.passage.outside)}):
        if side.kind == "zone" and name != "firewalld":
            problems.append(f"{side}: backend {name} has no zones; name the interface or the source")
        elif side.kind == "interface" and side.name not in there:
            problems.append(f"{side}: not on this host, which has {', '.join(there)}")
    if problems:
        raise BackendError(f"inside and outside of the gateway: {'; '.join(problems)}")


def _refuse_lockdown(host: Host, rules: RuleSet, name: str) -> None:
    if rules.lockdown and name == "firewalld":
        version = host.run(["firewall-offline-cmd", "--version"]).out.strip()
        if version.startswith("0."):
            raise BackendError(
                f"firewalld {version} would reject the answers of connections that are there, SSH among them; lockdown "
                "needs version 1.0, or another backend"
            )


def _locked(host: Host, rules: RuleSet) -> RuleSet:
    """With lockdown's resolvers and users as this host has them. Raises BackendError with all unknown users."""
    if not rules.lockdown:
        return rules
    # A number needs no name on the host: processes of containers have such.
    uids = {
        user: user if user.isdigit() else host.run(["id", "-u", "--", user]).out.strip()
        for user in rules.lockdown.users
    }
    unknown = [user for user, uid in uids.items() if not uid.isdigit()]
    if unknown:
        raise BackendError(f"lockdown_allow: no such user on this host: {', '.join(unknown)}; create it, or drop it")
    servers = []
    for text in names_of(host).servers:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text.partition("%")[0])
            # Packets to a mapped address are of IPv4.
            address = getattr(address, "ipv4_mapped", None) or address
            servers += [] if address.is_loopback or address.is_unspecified else [str(address)]
    lockdown = replace(
        rules.lockdown, resolvers=normalise_networks(servers), uids=tuple(sorted({int(uid) for uid in uids.values()}))
    )
    return replace(rules, lockdown=lockdown)


def _lockdown_notices(host: Host, rules: RuleSet) -> t.Iterator[Notice]:
    """Where lockdown leaves the far end open, whom it leaves open, and where it leaves the host no resolver."""
    if not rules.lockdown:
        return
    for rule in rules:
        if rule.scope == "any" and rule.direction == "egress":
            text = f"egress {rule.protocol} {rule.ports} may go to any address"
            yield Notice("unbounded", "lockdown", text)
    for network in rules.lockdown.networks:
        if network.endswith("/0"):
            text = f"{network} is every address of {family_of(network)}, so that lockdown rejects nothing of it"
            yield Notice("unbounded", "lockdown_allow", text)
    forwarded = [family for family in FAMILIES if _forwards(host, family) == "1"]
    if forwarded and not rules.lockdown.forward:
        text = (
            f"this host forwards {' and '.join(forwarded)} packets, and lockdown with placement host is about its own "
            "alone: containers and machines behind it reach everything; add placement gateway with inside"
        )
        yield Notice("forwarded_open", "lockdown", text)
    if not rules.lockdown.resolvers:
        text = "no resolver beyond this host is known; one that asks others needs lockdown_allow (user:NAME)"
        yield Notice("no_resolver", "/etc/resolv.conf", text)


def _lifted(rules: RuleSet, backends: t.Iterable[tuple[Backend[t.Any, t.Any], t.Any]]) -> t.Iterator[Notice]:
    """A lockdown that is there and that the request does not name."""
    if not rules.lockdown and any(backend.lockdown(state, held=True) for backend, state in backends):
        text = "lockdown ends: what it rejected is left to the host's own firewall; to keep it, set mode to lockdown"
        yield Notice("lockdown_lifted", "mode", text)


def _forwards(host: Host, family: str) -> str:
    """The kernel's setting: 1, 0, or empty without the family."""
    return (host.read(f"/proc/sys/{_FORWARDING[family]}") or "").strip()


def _forwarding(host: Host, rules: RuleSet) -> t.Iterator[Notice]:
    """Each family of a gateway for which the host forwards no packets."""
    through = {family for rule in rules if rule.passage.inside for family in rule.families}
    for family, path in _FORWARDING.items():
        if family in through and _forwards(host, family) == "0":
            name = path.replace("/", ".")
            text = f"this host forwards no {family} packets; set {name} to 1 (sysctl, and a file in /etc/sysctl.d)"
            yield Notice("not_forwarding", name, text)


def _hindrances(
    rules: RuleSet, chosen: str, backends: t.Iterable[tuple[Backend[t.Any, t.Any], t.Any]]
) -> t.Iterator[Notice]:
    """What drops the packets all the same: an accept in one firewall does not beat a drop in another one."""
    for backend, state in backends:
        chains = list(backend.out_of_reach(state, rules))
        # ufw's rules are rules of iptables.
        if {backend.name, chosen} not in ({chosen}, {"ufw", "iptables"}):
            chains += backend.in_the_way(state, rules)
        if chosen == "iptables":
            # Ours come first in them.
            chains = [chain for chain in chains if chain not in NFT_CHAINS]
        for chain in chains:
            text = (
                f"drops packets that rules of ours in backend {chosen} accept, and the drop counts; open the ports "
                "there by hand, or take the chain away"
            )
            yield Notice("dropped_elsewhere", chain, text)


def prepare(host: Host, rules: RuleSet | None, *, backend: str) -> Prepared:
    """The plan that makes the host hold exactly these rules, or none of ours (None). Raises BackendError."""
    host = OneLook(host)
    booting = boot.read(host)
    if rules is None:
        steps, before = _gone(_others(host, ""))
        return Prepared(Plan((*steps, *boot.plan(booting, None)), before, RuleSet()))
    chosen, reason = choose(host, backend, rules)
    _refuse_lockdown(host, rules, chosen.name)
    _refuse_names(rules, chosen.name)
    rules = _locked(host, rules)
    _refuse_sides(host, rules, chosen.name)
    state = chosen.read(host)
    desired = chosen.render(rules, state)
    script = chosen.boot_script(state, desired)
    others = _others(host, chosen.name)
    gone, before = _gone(others)
    effective = chosen.effective(state, desired)
    hindrances = _hindrances(rules, chosen.name, [(chosen, state), *others])
    places = chosen.places(state)
    after = rules.in_families({family for place in places for family in place.families} or FAMILIES)
    # Where nothing stands in the way the ports are open already.
    unhindered = [rule for rule in after if not any(place.concerns(rule) for place in places)]
    todo = (*chosen.plan(state, desired), *boot.plan(booting, script), *gone)
    held = RuleSet.of([*live_rules(places), *unhindered, *before, *_left_over(places, after)])
    return Prepared(
        # Rules can be told in more than one way; where there is nothing to do they are those that are wanted.
        plan=Plan(steps=todo, before=held if todo else after, after=after),
        backend=chosen.name,
        reason=reason,
        effective=effective,
        notices=(
            *boot.notices(booting, script),
            *_lockdown_notices(host, rules),
            *_lifted(rules, [(chosen, state), *others]),
            *_forwarding(host, rules),
            *chosen.notices(state, desired),
            *hindrances,
        ),
    )


def look(host: Host) -> Live:
    """What of ours is live, read from the host's firewalls and files. Raises BackendError."""
    host = OneLook(host)
    places = {}
    names = []
    rules: list[Rule] = []
    files: list[str] = []
    named: dict[str, t.Any] = {}
    lockdown = kept_lockdown = None
    for backend, state in _others(host, ""):
        if isinstance(backend, Nftables):
            named = {"address_sets": address_sets(state), "unnamed": unnamed(state)}
        lockdown = lockdown or backend.lockdown(state)
        kept_lockdown = kept_lockdown or backend.lockdown(state, held=True)
        held = backend.places(state)
        rules += live_rules(held)
        files += backend.files(state)
        if any(place.accepts for place in held):
            names.append(backend.name)
        # One that is installed, not in force and without rules of ours stops nothing.
        elif not backend.in_force(host):
            continue
        places[backend.name] = held
    # ufw's rules are rules of iptables.
    deciding = [
        place for name, held in places.items() if (name, "ufw" in names) != ("iptables", True) for place in held
    ]
    live = replace(live_rules(deciding), lockdown=lockdown)
    kept = replace(RuleSet.of(rules), lockdown=kept_lockdown)
    return Live(tuple(names), live, (*files, *boot.read(host).files), held=kept, **named)
