# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iptables and ip6tables: a chain of ours for each hook, one jump to it, changed by iptables-restore.

Works with both variants of the commands (nf_tables and legacy), whichever the host has chosen.
"""

from __future__ import annotations

import contextlib
import json
import typing as t
from dataclasses import dataclass, field, replace

from .._model.lockdown import Lockdown, Passing
from .._model.ports import PortSet
from .._model.rules import FAMILIES, Passage, RuleSet, Side, normalise_networks
from . import boot
from .contract import (
    HOOKS,
    LOCKED,
    MARK,
    PATHS,
    Accept,
    BackendError,
    Command,
    Drop,
    Place,
    Step,
    Traffic,
    accepts,
    closes,
    crossings,
    direction_of,
    edits_of,
    is_ours,
    overridden,
    passage_of,
)
from .saveformat import HALVES, drops, gathered, leads, multiport, options_of, parse, ports_of

if t.TYPE_CHECKING:
    from .._model.messages import Notice
    from .contract import Crossing, Host

__all__ = ["Iptables"]

_BASE = {hook: hook.upper() for hook in HOOKS}
# The chain of hook forward leads to those of its paths what crosses the gateway.
_CHAIN = {name: f"{MARK}-{name.replace('_', '-')}" for name in (*PATHS, "forward")}
_COMMANDS = {"ipv4": "iptables", "ipv6": "ip6tables"}
_NFT_FAMILY = {"ipv4": "ip", "ipv6": "ip6"}
_ICMP = {"ipv4": "icmp", "ipv6": "ipv6-icmp"}
# Where the boot script keeps which base chains exist only because of us: iptables-nft cannot tell (the built-in chains
# of its save format are always listed), and `absent` has to take them away again.
_MADE = "# Base chains that these rules brought along:"
# Restores a transaction after the jumps to our chains that there are, however many, were deleted.
_LOADER = f"""\
saved=$("$0" -t filter) || exit
rules=$(
    read -r table
    echo "$table"
    printf '%s\\n' "$saved" | sed -n '/^-A {MARK}-/d; s/^-A \\(.* -[gj] {MARK}-[a-z-]*\\)$/-D \\1/p'
    cat
) && printf '%s\\n' "$rules" | "$@"
"""


@dataclass(frozen=True)
class Family:
    """The filter table of one address family."""

    family: str
    policies: dict[str, str]
    rules: dict[str, tuple[str, ...]]
    # Base chains that exist in the kernel. None where that cannot be changed (legacy tables come and stay whole).
    existing: frozenset[str] | None
    # By its full name, where it is not the one that the host's commands use.
    variant: str = ""

    @property
    def command(self) -> str:
        """`iptables` or `ip6tables`."""
        return f"{_COMMANDS[self.family]}{self.variant}"

    def ours(self) -> Ours:
        """What of ours stands in this table."""
        chains = {chain: specs for chain, specs in self.rules.items() if chain.startswith(f"{MARK}-")}
        jumps = sorted(
            Jump(chain, index, spec)
            for chain, specs in self.rules.items()
            if chain not in chains
            for index, spec in enumerate(specs)
            if leads(spec) in _CHAIN.values()
        )
        return Ours(chains, tuple(jumps))

    def drops(self, chain: str, *, stop: int | None = None) -> t.Iterator[Drop]:
        """The foreign rules in a chain, and in those it jumps to, that drop by protocol and port alone."""
        return drops(self.rules, chain, stop=stop)


@dataclass(frozen=True, order=True)
class Jump:
    """A rule in a base chain that leads to a chain of ours; `index` counts from 0."""

    base: str
    index: int
    spec: str


@dataclass(frozen=True)
class Ours:
    """Chains and jumps of ours in one table."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()

    def same(self, other: Ours) -> bool:
        """Whether both say the same, however the commands of this host print it."""
        return self.jumps == other.jumps and [
            (chain, [options_of(spec) for spec in specs]) for chain, specs in sorted(self.chains.items())
        ] == [(chain, [options_of(spec) for spec in specs]) for chain, specs in sorted(other.chains.items())]


@dataclass(frozen=True)
class State:
    """The filter tables of the host, and which base chains exist only because of us (`ipv4:OUTPUT`)."""

    families: tuple[Family, ...]
    made: frozenset[str]
    # Tables of the old kind beside those that the host's commands use.
    legacy: tuple[Family, ...] = ()
    # The commands that refuse to read the table, because nft made it.
    unreadable: tuple[str, ...] = ()
    # Whether IPv6 is on and there is no ip6tables for it.
    blind: bool = False


@dataclass(frozen=True)
class Desired:
    """What has to stand in each family's table."""

    ours: dict[str, Ours]
    accepts: dict[tuple[str, str], tuple[Accept, ...]]
    made: frozenset[str]
    locked: bool = False


def _specs(accept: Accept, family: str) -> t.Iterator[str]:
    """The rules for one accept; multiport: 15 slots, a range takes two (iptables-extensions(8))."""
    comment = f'-m comment --comment "{accept.comment}"'
    if accept.kind == "error":
        yield f"-p {_ICMP[family]} -m conntrack --ctstate RELATED {comment} -j ACCEPT"
        return
    far, near = ("-d", "-s") if (accept.direction == "egress") == (accept.kind == "open") else ("-s", "-d")
    ports, state = "--dports", ""
    if accept.kind == "reply":
        ports, state = "--sports", "-m conntrack --ctstate ESTABLISHED --ctdir REPLY "
    for network in _addresses(far, accept.networks):
        for target in _addresses(near, accept.passage.targets):
            for chunk in accept.ports.chunks():
                yield (
                    f"{network}{target}-p {accept.protocol} -m multiport {ports} {multiport(chunk)} "
                    f"{state}{comment} -j ACCEPT"
                )


def _addresses(option: str, networks: t.Iterable[str]) -> list[str]:
    parts = [part for network in networks for part in HALVES.get(network, (network,))]
    return [f"{option} {part} " for part in parts] or [""]


def _dispatch(pairs: t.Iterable[Crossing]) -> tuple[str, ...]:
    """The rules that lead what crosses the gateway, outwards and inwards, to the chains that accept."""
    return tuple(
        f"{_met(source, '-s', '-i')}{_met(target, '-d', '-o')}-m comment --comment {MARK} -j {_CHAIN[path]}"
        for inside, outside in pairs
        for path, source, target in (("forward_out", inside, outside), ("forward_in", outside, inside))
    )


def _besides(lockdown: Lockdown | None, path: str, family: str) -> tuple[str, ...]:
    """The rules for what lockdown lets pass on a path besides our accepts, which they follow."""
    passing = lockdown.passing(path) if lockdown else ()
    return tuple(spec for each in passing for spec in _passing(each, family))


def _rejects(lockdown: Lockdown | None, hook: str, family: str) -> tuple[str, ...]:
    """How a chain ends in lockdown."""
    if lockdown is None or hook == "input" or (hook == "forward" and not lockdown.forward):
        return ()
    comment = f'-m comment --comment "{LOCKED} log"'
    specs = [f'-m limit --limit 1/sec {comment} -j LOG --log-prefix "{MARK} "'] if lockdown.log else []
    how = {"ipv4": "icmp-admin-prohibited", "ipv6": "icmp6-adm-prohibited"}[family]
    comment = f'-m comment --comment "{LOCKED} reject"'
    specs += [f"-p tcp {comment} -j REJECT --reject-with tcp-reset", f"{comment} -j REJECT --reject-with {how}"]
    return tuple(specs)


def _passing(passing: Passing, family: str) -> t.Iterator[str]:
    """The rules for what lockdown lets pass, in one family; none where it is of the other."""
    if passing.family not in ("", family):
        return
    ending = f'-m comment --comment "{LOCKED} {passing.why}" -j ACCEPT'
    match = f"-o {passing.interface} " if passing.interface else ""
    if passing.state == "related":
        match += f"-p {_ICMP[family]} "
    if passing.protocol:
        match += f"-p {passing.protocol} "
    if passing.ack:
        match += "-m tcp --tcp-flags ACK ACK "
    if passing.sports:
        match += f"-m multiport --sports {multiport(passing.sports)} "
    if passing.state:
        match += f"-m conntrack --ctstate {passing.state.upper()} "
    if passing.reply:
        match += "--ctdir REPLY "
    if passing.uid >= 0:
        match += f"-m owner --uid-owner {passing.uid} "
    option = {"ipv4": "-m icmp --icmp-type", "ipv6": "-m icmp6 --icmpv6-type"}[family]
    types = [f"-p {_ICMP[family]} {option} {number} " for number in passing.types] or [""]
    chunks = [f"-m multiport --dports {multiport(chunk)} " for chunk in passing.dports.chunks()] or [""]
    for address in _addresses("-d", passing.networks):
        yield from (f"{address}{match}{kind}{ports}{ending}" for kind in types for ports in chunks)


def _allowed(spec: str) -> t.Iterator[Passing]:
    """What a rule of lockdown allows to some addresses, ports or users: the reverse of `_passing`, as far as needed."""
    options = options_of(spec)
    why = options.get("--comment", "").partition(f"{LOCKED} ")[2]
    if why in ("dns", "allow") and options.get("-j") == "ACCEPT":
        networks = normalise_networks([options["-d"]]) if "-d" in options else ()
        ports = ports_of(options["--dports"]) if "--dports" in options else PortSet()
        uid = int(options.get("--uid-owner", -1))
        yield Passing(why, protocol=options.get("-p", ""), dports=ports, networks=networks, uid=uid)


def _lock_lines(ours: Ours) -> str:
    """The rules of lockdown, a line each."""
    return "\n".join(f"{chain}: {spec}" for chain, specs in ours.chains.items() for spec in specs if LOCKED in spec)


def _met(side: Side | None, address: str, interface: str) -> str:
    return f"{address if side.kind == 'source' else interface} {side.name} " if side else ""


def _crossings_of(specs: t.Sequence[str]) -> list[Crossing]:
    """The pairs of sides that dispatching rules lead both ways: the reverse of `_dispatch`; none for other rules."""
    found = []
    for spec in specs:
        options = options_of(spec)
        inside, outside = (
            next((Side(kind, options[name]) for name, kind in names if name in options), None)
            for names in ((("-s", "source"), ("-i", "interface")), (("-d", "source"), ("-o", "interface")))
        )
        if inside and options.get("-j") == _CHAIN["forward_out"]:
            found.append((inside, outside))
    # In lockdown more follows.
    heads = [options_of(spec) for spec in specs[: 2 * len(found)]]
    return found if heads == [options_of(spec) for spec in _dispatch(found)] else []


def _accepts_of(specs: t.Iterable[str], path: str, family: str, passage: Passage) -> tuple[Accept, ...]:
    """The accepts that rules of ours come to: the reverse of `_specs`; rules that are not of its form are left out."""
    held: dict[tuple[str, str, str, str, str, str], PortSet] = {}
    found: list[Accept] = []
    far, near = ("-d", "-s") if direction_of(path, reply=False) == "egress" else ("-s", "-d")
    for spec in specs:
        options = options_of(spec)
        if options.get("--comment", "").startswith(LOCKED):
            continue
        sdk = options.get("--comment", "").partition(f"{MARK} ")[2]
        reply = options.get("--ctdir") == "REPLY"
        text = options.get("--sports" if reply else "--dports")
        accept = Accept("error")
        network, target = options.get(far, ""), options.get(near, "")
        if sdk and text:
            kind, direction = "reply" if reply else "open", direction_of(path, reply=reply)
            narrowed = replace(passage, targets=(target,) if target else ())
            networks = (network,) if network else ()
            accept = Accept(kind, direction, options.get("-p", ""), sdk, networks, ports_of(text), narrowed)
        if options not in map(options_of, _specs(accept, family)):
            continue
        if accept.kind == "error":
            found.append(accept)
        else:
            key = (accept.kind, accept.direction, accept.protocol, sdk, network, target)
            held[key] = held.get(key, PortSet()) | accept.ports
    return (*found, *gathered(held, passage))


def _transaction(before: Ours, after: Ours, *, sure: bool = True) -> str:
    """One iptables-restore input that turns the one into the other and leaves everything else alone.

    `sure`: the one is there; otherwise it may be that nothing of it came about, and `_LOADER` deletes the jumps.
    """
    gone = [chain for chain in before.chains if chain not in after.chains]
    # Makes a chain, or empties the one that is there.
    lines = ["*filter", *(f":{chain} - [0:0]" for chain in (*after.chains, *gone))]
    lines += [f"-A {chain} {spec}" for chain, specs in after.chains.items() for spec in specs]
    if before.jumps != after.jumps:
        lines += [f"-D {jump.base} {jump.spec}" for jump in before.jumps if sure]
        lines += [f"-I {jump.base} {jump.index + 1} {jump.spec}" for jump in after.jumps]
    lines += [f"-X {chain}" for chain in gone]
    return "\n".join([*lines, "COMMIT", ""])


def _refuse_foreign(family: Family) -> None:
    """A chain that has our name but nothing of ours in it belongs to somebody else."""
    ours = family.ours()
    led_to = {leads(jump.spec) for jump in ours.jumps if is_ours(options_of(jump.spec).get("--comment", ""))}
    for chain, specs in ours.chains.items():
        marked = any(is_ours(options_of(spec).get("--comment", "")) for spec in specs)
        # One that is empty may be what somebody has left of ours.
        if not marked and chain not in led_to and (specs or chain not in _CHAIN.values()):
            raise BackendError(
                f"{family.command}: chain {chain} in table filter carries a name of ours but holds no rule of ours; "
                f"rename or remove it ({family.command} -E {chain} NEW-NAME), then run again"
            )


def _read_family(host: Host, family: str, *, nft: bool, variant: str = "") -> Family | None:
    """The filter table; None where it is one of nft's own, which these commands cannot read."""
    command = f"{_COMMANDS[family]}{variant}"
    # Looking at a legacy table creates it, so one that the kernel does not list is not looked at.
    names = f"/proc/net/{'ip' if family == 'ipv4' else 'ip6'}_tables_names"
    text = ""
    if nft or "filter" in (host.read(names) or "").split():
        outcome = host.run([f"{command}-save", "-t", "filter"])
        if outcome.code != 0:
            raise BackendError(f"{command}-save -t filter failed: {outcome.err.strip() or outcome.out.strip()}")
        text = outcome.out
    if "is incompatible" in text:
        return None
    policies, rules = parse(text)
    read = Family(family, policies, rules, _existing(host, family, bool(text)) if nft else None, variant)
    _refuse_foreign(read)
    return read


def _read_beside(host: Host, family: str) -> Family | None:
    """The table of the old kind beside one of the new; None where one may not see whether there is any."""
    with contextlib.suppress(BackendError):
        return _read_family(host, family, nft=False, variant="-legacy")
    return None


def _existing(host: Host, family: str, saved: bool) -> frozenset[str]:
    """The base chains of table filter that exist in the kernel; without `nft`, all or none of them."""
    if not host.which("nft"):
        return frozenset(_BASE.values()) if saved else frozenset()
    outcome = host.run(["nft", "-j", "list", "chains", _NFT_FAMILY[family]])
    if outcome.code != 0:
        raise BackendError(f"nft -j list chains {_NFT_FAMILY[family]} failed: {outcome.err.strip()}")
    chains = [item["chain"] for item in json.loads(outcome.out)["nftables"] if "chain" in item]
    return frozenset(chain["name"] for chain in chains if chain["table"] == "filter" and "hook" in chain)


class Iptables:
    """The backend for hosts whose firewall is iptables."""

    name = "iptables"

    def available(self, host: Host) -> bool:
        """Whether iptables-save and iptables-restore are installed."""
        return bool(host.which("iptables-save") and host.which("iptables-restore"))

    def in_force(self, host: Host) -> str:
        """The first base chain that has a rule or a policy other than ACCEPT."""
        for family in self.read(host).families:
            for base in ("INPUT", "OUTPUT", "FORWARD"):
                if family.policies.get(base, "ACCEPT") != "ACCEPT":
                    return f"{family.command} chain {base} has policy {family.policies[base]}"
                if family.rules.get(base):
                    return f"{family.command} chain {base} has rules"
        return ""

    def read(self, host: Host) -> State:
        """The filter tables of both families; of IPv4 alone where IPv6 is switched off or has no ip6tables."""
        version = host.run(["iptables", "--version"])
        ipv6, able = host.exists("/proc/net/if_inet6"), bool(host.which("ip6tables-save"))
        families = ["ipv4", "ipv6"] if ipv6 and able else ["ipv4"]
        made: list[str] = []
        for line in (host.read(boot.SCRIPT_PATH) or "").splitlines():
            if line.startswith(_MADE):
                made = line[len(_MADE) :].split()
        nft = "nf_tables" in version.out
        beside = families if nft and host.which("iptables-legacy-save") else ()
        read = [_read_family(host, family, nft=nft) for family in families]
        old = [_read_beside(host, family) for family in beside]
        return State(
            families=tuple(family for family in read if family),
            made=frozenset(made),
            legacy=tuple(family for family in old if family),
            unreadable=tuple(_COMMANDS[name] for name, family in zip(families, read) if not family),
            blind=ipv6 and not able,
        )

    def render(self, rules: RuleSet, state: State) -> Desired:
        """The chains, and the jumps: an existing jump stays unless something before it closes a needed port."""
        if (rules.rules or rules.lockdown) and state.unreadable:
            raise BackendError(
                f"table filter of {', '.join(state.unreadable)} was made by nft, and iptables cannot read it; "
                "use backend: nftables"
            )
        if rules.lockdown and state.blind:
            raise BackendError(
                "IPv6 is on and there is no ip6tables: everything would leave by IPv6; install ip6tables, or use "
                "backend: nftables"
            )
        ours: dict[str, Ours] = {}
        wanted = _wanted(rules)
        made = set(state.made) if rules.rules or rules.lockdown else set()
        for family in state.families:
            chains: dict[str, tuple[str, ...]] = {}
            jumps: list[Jump] = []
            for hook, paths in HOOKS.items():
                rejects = _rejects(rules.lockdown, hook, family.family)
                if not (wanted[family.family, hook] or _besides(rules.lockdown, hook, family.family)):
                    continue
                for path in paths:
                    held = accepts(rules, path, (family.family,))
                    specs = [spec for accept in held for spec in _specs(accept, family.family)]
                    chains[_CHAIN[path]] = (*specs, *_besides(rules.lockdown, path, family.family))
                if hook == "forward":
                    leading = _dispatch(crossings((rule.passage for rule in rules), (family.family,)))
                    chains[_CHAIN[hook]] = (*leading, *_besides(rules.lockdown, hook, family.family))
                if rejects:
                    chains[_CHAIN[hook]] += rejects
                jumps.append(self._jump(family, hook, wanted[family.family, hook], first_of_all=bool(rejects)))
                if family.existing is not None and _BASE[hook] not in family.existing:
                    made.add(f"{family.family}:{_BASE[hook]}")
            ours[family.family] = Ours(chains, tuple(sorted(jumps)))
        return Desired(ours, wanted, frozenset(made), rules.lockdown is not None)

    def _jump(self, family: Family, hook: str, wanted: tuple[Accept, ...], *, first_of_all: bool) -> Jump:
        base = _BASE[hook]
        first = Jump(base, 0, f"-m comment --comment {MARK} -j {_CHAIN[hook]}")
        mine = [jump for jump in family.ours().jumps if jump.base == base]
        # What others accept before it would leave a host that is locked down.
        if first_of_all or len(mine) != 1 or options_of(mine[0].spec) != options_of(first.spec):
            return first
        before = family.drops(base, stop=mine[0].index)
        return first if any(closes(drop, wanted) for drop in before) else mine[0]

    def plan(self, state: State, desired: Desired) -> tuple[Step, ...]:
        """One iptables-restore for each family that differs, then the empty base chains that only we brought along."""
        steps = []
        for family in state.families:
            have, want = family.ours(), desired.ours[family.family]
            if not have.same(want):
                restore = (f"{family.command}-restore", "--noflush", "--wait", "10")
                loader = ("/bin/sh", "-c", _LOADER, f"{family.command}-save") if have.jumps != want.jumps else ()
                counts = ", ".join(f"{chain} ({len(specs)} rules)" for chain, specs in want.chains.items())
                places = ", ".join(jump.base for jump in want.jumps)
                what = f"{counts}, jumped to from {places}" if want.chains else "chains and jumps of ours go"
                do = (Command(restore, _transaction(have, want)),)
                locks = [_lock_lines(have), _lock_lines(want)]
                traffic = Traffic("may cut" if any(locks) else "closes" if have.chains else "opens", do)
                steps.append(
                    Step(
                        f"{family.command}: {what}",
                        traffic,
                        do=do,
                        undo=(
                            Command((*loader, *restore), _transaction(want, have, sure=False)),
                            *self._unmade(family, want),
                        ),
                        edits=edits_of(f"{family.command} lockdown", *locks),
                    )
                )
            if not want.chains:
                steps.extend(self._unmake(state, family))
        return tuple(steps)

    def _unmade(self, family: Family, want: Ours) -> tuple[Command, ...]:
        """Take away the base chains that a transaction brings along; that they are there by then is not certain."""
        table = f"{_NFT_FAMILY[family.family]} filter"
        made = sorted({jump.base for jump in want.jumps} - family.existing) if family.existing is not None else []
        lines = [f"{verb} chain {table} {chain}" for chain in made for verb in ("add", "delete")]
        whole = made and not family.existing and not family.rules.keys() - _BASE.values()
        lines += [f"delete table {table}"] if whole else []
        return (Command(("nft", "-f", "-"), "\n".join([f"add table {table}", *lines, ""])),) if made else ()

    def _unmake(self, state: State, family: Family) -> t.Iterator[Step]:
        """Take away base chains that came with our rules, if nobody uses them by now."""
        if family.existing is None:
            return
        foreign = {
            chain: [spec for spec in specs if leads(spec) not in _CHAIN.values()]
            for chain, specs in family.rules.items()
            if not chain.startswith(f"{MARK}-")
        }
        gone = sorted(
            chain
            for chain in family.existing
            if f"{family.family}:{chain}" in state.made and not foreign[chain] and family.policies[chain] == "ACCEPT"
        )
        if not gone:
            return
        table = f"{_NFT_FAMILY[family.family]} filter"
        lines = [f"delete chain {table} {chain}" for chain in gone]
        if family.existing <= set(gone) and not any(family.policies[chain] == "-" for chain in foreign):
            lines.append(f"delete table {table}")
        do = (Command(("nft", "-f", "-"), "\n".join([*lines, ""])),)
        what = f"{family.command}: empty base chains that came with ours go: {', '.join(gone)}"
        yield Step(what, Traffic("opens", do), do, undo=())

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """The same restore input, and the jumps where they are missing."""
        sections = [f"{_MADE} {' '.join(sorted(desired.made))}\n" if desired.made else "", _JUMP_FUNCTION]
        for family in state.families:
            ours = desired.ours[family.family]
            if not ours.chains:
                continue
            rules = _transaction(Ours(), Ours(ours.chains))
            sections.append(f"{family.command}-restore --noflush --wait 10 <<'RULES' || status=1\n{rules}RULES\n")
            sections += [f"jump {family.command} {jump.base} {options_of(jump.spec)['-j']}\n" for jump in ours.jumps]
        return boot.script("".join(sections)) if any(ours.chains for ours in desired.ours.values()) else None

    def places(self, state: State) -> tuple[Place, ...]:
        """The base chains of each family, with the accepts that a jump leads to and nothing before it closes."""
        chains = [family.rules.get(_CHAIN["forward"], ()) for family in state.families]
        passage = passage_of(pair for specs in chains for pair in _crossings_of(specs))
        places = []
        for family in state.families:
            ours = family.ours()
            for path, hook in ((path, hook) for hook, paths in HOOKS.items() for path in paths):
                found: tuple[Accept, ...] = ()
                for jump in ours.jumps:
                    options = options_of(jump.spec)
                    # A jump with a condition leads only some packets to our chain.
                    if jump.base == _BASE[hook] and options.keys() <= {"-j", "--comment"}:
                        drops = list(family.drops(jump.base, stop=jump.index))
                        held = self._held(ours, options["-j"], path, family.family, passage)
                        found += tuple(accept for accept in held if not any(closes(drop, (accept,)) for drop in drops))
                stops = family.policies.get(_BASE[hook], "ACCEPT") != "ACCEPT" or Drop() in family.drops(_BASE[hook])
                if found or stops:
                    places.append(Place(f"{family.command} {_BASE[hook]}", path, (family.family,), found))
        return tuple(places)

    def _held(self, ours: Ours, chain: str, path: str, family: str, passage: Passage) -> tuple[Accept, ...]:
        """What a chain that is jumped to accepts on a path; on a gateway it has to lead all that crosses there."""
        if path not in HOOKS["forward"]:
            return _accepts_of(ours.chains.get(chain, ()), path, family, Passage())
        led = _crossings_of(ours.chains.get(chain, ()))
        if chain != _CHAIN["forward"] or not led or led != crossings([passage], [family]):
            return ()
        return _accepts_of(ours.chains.get(_CHAIN[path], ()), path, family, passage)

    def lockdown(self, state: State, *, held: bool = False) -> Lockdown | None:
        """What our chains let pass; None where one does not reject the rest, or something may pass before it."""
        families = [family.ours() for family in state.families]
        specs = [spec for ours in families for spec in ours.chains.get(_CHAIN["output"], ())]
        ends = [spec for spec in specs if f'"{LOCKED} reject"' in spec and "-p" not in options_of(spec)]
        led = [
            jump
            for family in state.families
            for jump in family.ours().jumps
            if jump.base == _BASE["output"]
            and {leads(spec) for spec in family.rules[jump.base][: jump.index]} <= {"DROP", "REJECT"}
        ]
        if not families or len(ends) < len(families) or (len(led) < len(families) and not held):
            return None
        forward = any(LOCKED in spec for ours in families for spec in ours.chains.get(_CHAIN["forward"], ()))
        passing = [each for spec in specs for each in _allowed(spec)]
        return Lockdown.of(passing, forward=forward, log=any(f'"{LOCKED} log"' in spec for spec in specs))

    def effective(self, state: State, desired: Desired) -> str:
        """`nothing_to_open` where every base chain accepts and none drops a needed port."""
        held = desired.locked or any(_dropping(state.families, desired.accepts))
        return "in_force" if held else "nothing_to_open"

    def files(self, state: State) -> tuple[str, ...]:
        """None: its rules are in the kernel."""
        return ()

    def notices(self, state: State, desired: Desired) -> t.Iterator[Notice]:
        """The rules that deny what ours, which come first, allow."""
        for family in state.families:
            for hook, base in _BASE.items():
                wanted = desired.accepts[family.family, hook]
                yield from overridden(f"{family.command} chain {base}", family.drops(base), wanted)

    def in_the_way(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """The base chains that drop a needed port."""
        return tuple(_dropping(state.families, _wanted(rules)))

    def out_of_reach(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """Those of the old kind of tables, beside the kind that the host's commands use."""
        return tuple(_dropping(state.legacy, _wanted(rules)))


def _wanted(rules: RuleSet) -> dict[tuple[str, str], tuple[Accept, ...]]:
    """What has to be accepted for each family and hook."""
    return {
        (family, hook): tuple(accept for path in paths for accept in accepts(rules, path, (family,)))
        for family in FAMILIES
        for hook, paths in HOOKS.items()
    }


def _dropping(families: t.Iterable[Family], wanted: dict[tuple[str, str], tuple[Accept, ...]]) -> t.Iterator[str]:
    """The base chains that drop what is wanted."""
    for family in families:
        for hook, base in _BASE.items():
            needed = wanted[family.family, hook]
            if needed and family.policies.get(base, "ACCEPT") != "ACCEPT":
                yield f"{family.command} chain {base} (policy {family.policies[base]})"
            elif any(closes(drop, needed) for drop in family.drops(base)):
                yield f"{family.command} chain {base}"


_JUMP_FUNCTION = f"""\
jump() {{
    "$1" --wait 10 --check "$2" -m comment --comment {MARK} -j "$3" 2>/dev/null ||
        "$1" --wait 10 --insert "$2" 1 -m comment --comment {MARK} -j "$3" || status=1
}}
"""
