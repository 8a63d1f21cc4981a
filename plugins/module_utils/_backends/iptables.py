# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iptables and ip6tables: a chain of ours for each hook, one jump to it, changed by iptables-restore.

Works with both variants of the commands (nf_tables and legacy), whichever the host has chosen.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field

from .._model.ports import HIGHEST, LOWEST, PortSet
from .._model.rules import RuleSet, normalise_networks
from . import boot
from .contract import HOOKS, MARK, Accept, BackendError, Command, Drop, Place, Step, accepts, closes

if t.TYPE_CHECKING:
    from .contract import Host

__all__ = ["Iptables"]

_BASE = {"output": "OUTPUT", "input": "INPUT"}
_CHAIN = {hook: f"{MARK}-{hook}" for hook in HOOKS}
_COMMANDS = {"ipv4": "iptables", "ipv6": "ip6tables"}
_NFT_FAMILY = {"ipv4": "ip", "ipv6": "ip6"}
_ICMP = {"ipv4": "icmp", "ipv6": "ipv6-icmp"}
# The save format leaves out a network that is everything; its halves keep `networks` apart from `any`.
_HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}

# Where the boot script keeps which base chains exist only because of us: iptables-nft cannot tell (the built-in chains
# of its save format are always listed), and `absent` has to take them away again.
_MADE = "# Base chains that these rules brought along:"

Options = dict[str, str]

# The save format quotes texts and nothing else; names of chains, sets and interfaces may hold quotes of their own.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(?!\S)|(\S+)')


def _options(spec: str) -> Options:
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


def _ports(text: str, *, negated: bool = False) -> PortSet:
    pairs = (part.split(":") for part in text.split(","))
    # Port 0 is legal in a rule, but no port that a rule set can hold.
    ports = PortSet.of(*((max(int(pair[0]), LOWEST), int(pair[-1])) for pair in pairs if int(pair[-1])))
    return PortSet.of((LOWEST, HIGHEST)) - ports if negated else ports


def _multiport(ports: PortSet) -> str:
    return ",".join(text.replace("-", ":") for text in ports.texts())


@dataclass(frozen=True)
class Family:
    """The filter table of one address family."""

    family: str
    policies: dict[str, str]
    rules: dict[str, tuple[str, ...]]
    # Base chains that exist in the kernel. None where that cannot be changed (legacy tables come and stay whole).
    existing: frozenset[str] | None

    @property
    def command(self) -> str:
        """`iptables` or `ip6tables`."""
        return _COMMANDS[self.family]

    def ours(self) -> Ours:
        """What of ours stands in this table."""
        chains = {chain: specs for chain, specs in self.rules.items() if chain.startswith(f"{MARK}-")}
        jumps = sorted(
            Jump(chain, index, spec)
            for chain, specs in self.rules.items()
            if chain not in chains
            for index, spec in enumerate(specs)
            if _options(spec).get("-j", "").startswith(f"{MARK}-")
        )
        return Ours(chains, tuple(jumps))

    def drops(self, chain: str, *, stop: int | None = None) -> t.Iterator[Drop]:
        """The foreign rules in a chain, and in those it jumps to, that drop by protocol and port alone."""
        for spec in self.rules.get(chain, ())[:stop]:
            options = _options(spec)
            target = options.get("-j") or options.get("-g") or ""
            drop = _as_drop(options)
            if drop is None or target.startswith(f"{MARK}-"):
                continue
            if target in ("DROP", "REJECT"):
                yield drop
            elif target in self.rules:
                for inner in self.drops(target):
                    narrowed = drop.narrowed(inner)
                    if narrowed:
                        yield narrowed


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
            (chain, [_options(spec) for spec in specs]) for chain, specs in sorted(self.chains.items())
        ] == [(chain, [_options(spec) for spec in specs]) for chain, specs in sorted(other.chains.items())]


@dataclass(frozen=True)
class State:
    """The filter tables of the host, and which base chains exist only because of us (`ipv4:OUTPUT`)."""

    families: tuple[Family, ...]
    made: frozenset[str]


@dataclass(frozen=True)
class Desired:
    """What has to stand in each family's table."""

    ours: dict[str, Ours]
    accepts: dict[tuple[str, str], tuple[Accept, ...]]
    made: frozenset[str]


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
            dports = _ports(value, negated=name.endswith("!"))
        elif name.rstrip("!") in ("--sport", "--sports"):
            sports = _ports(value, negated=name.endswith("!"))
        elif not (
            name in ("-p!", "-j", "-g", "--comment", "--reject-with")
            or (name in ("--ctstate", "--state") and "NEW" in value)
            or (name in ("--ctstate!", "--state!") and "NEW" not in value)
            or (name in ("-i", "-o") and value != "lo")
            or (name in ("-i!", "-o!") and value == "lo")
        ):
            return None
    return Drop(protocol, dports, sports)


def _specs(accept: Accept, family: str) -> t.Iterator[str]:
    """The rules for one accept; multiport: 15 slots, a range takes two (iptables-extensions(8))."""
    comment = f'-m comment --comment "{accept.comment}"'
    if accept.kind == "error":
        yield f"-p {_ICMP[family]} -m conntrack --ctstate RELATED {comment} -j ACCEPT"
        return
    far = "-d" if (accept.direction == "egress") == (accept.kind == "open") else "-s"
    ports, state = "--dports", ""
    if accept.kind == "reply":
        ports, state = "--sports", "-m conntrack --ctstate ESTABLISHED --ctdir REPLY "
    networks = [part for network in accept.networks for part in _HALVES.get(network, (network,))]
    for address in [f"{far} {network} " for network in networks] or [""]:
        for chunk in accept.ports.chunks():
            yield f"{address}-p {accept.protocol} -m multiport {ports} {_multiport(chunk)} {state}{comment} -j ACCEPT"


def _accepts_of(specs: t.Iterable[str], hook: str, family: str) -> tuple[Accept, ...]:
    """The accepts that rules of ours come to: the reverse of `_specs`; rules that are not of its form are left out."""
    held: dict[tuple[str, str, str, str, str], PortSet] = {}
    found: list[Accept] = []
    for spec in specs:
        options = _options(spec)
        sdk = options.get("--comment", "").partition(f"{MARK} ")[2]
        reply = options.get("--ctdir") == "REPLY"
        text = options.get("--sports" if reply else "--dports")
        accept = Accept("error")
        network = options.get("-d" if hook == "output" else "-s", "")
        if sdk and text:
            kind, direction = "reply" if reply else "open", "egress" if (hook == "output") != reply else "ingress"
            names = (network,) if network else ()
            accept = Accept(kind, direction, options.get("-p", ""), sdk, names, _ports(text))
        if options not in map(_options, _specs(accept, family)):
            continue
        if accept.kind == "error":
            found.append(accept)
        else:
            key = (accept.kind, accept.direction, accept.protocol, sdk, network)
            held[key] = held.get(key, PortSet()) | accept.ports
    groups: dict[tuple[str, str, str, str, bool, PortSet], list[str]] = {}
    for (kind, direction, protocol, sdk, network), ports in held.items():
        groups.setdefault((kind, direction, protocol, sdk, bool(network), ports), []).append(network)
    for (kind, direction, protocol, sdk, narrowed, ports), texts in groups.items():
        networks = normalise_networks(texts) if narrowed else ()
        found.append(Accept(kind, direction, protocol, sdk, networks, ports))
    return tuple(found)


def _transaction(before: Ours, after: Ours) -> str:
    """One iptables-restore input that turns the one into the other and leaves everything else alone."""
    lines = ["*filter", *(f":{chain} - [0:0]" for chain in after.chains)]
    lines += [f"-A {chain} {spec}" for chain, specs in after.chains.items() for spec in specs]
    if before.jumps != after.jumps:
        lines += [f"-D {jump.base} {jump.spec}" for jump in before.jumps]
        lines += [f"-I {jump.base} {jump.index + 1} {jump.spec}" for jump in after.jumps]
    gone = [chain for chain in before.chains if chain not in after.chains]
    lines += [f"-F {chain}" for chain in gone] + [f"-X {chain}" for chain in gone]
    return "\n".join([*lines, "COMMIT", ""])


def _refuse_foreign(family: Family) -> None:
    """A chain that has our name but nothing of ours in it belongs to somebody else."""
    ours = family.ours()
    led_to = {_options(jump.spec).get("-j") for jump in ours.jumps if f"--comment {MARK}" in jump.spec}
    for chain, specs in ours.chains.items():
        marked = any(_options(spec).get("--comment", "").startswith(MARK) for spec in specs)
        if specs and not marked and chain not in led_to:
            raise BackendError(
                f"{family.command}: chain {chain} in table filter carries a name of ours but holds no rule of ours; "
                f"rename or remove it ({family.command} -E {chain} NEW-NAME), then run again"
            )


def _read_family(host: Host, family: str, nft: bool) -> Family:
    command = _COMMANDS[family]
    # Looking at a legacy table creates it, so one that the kernel does not list is not looked at.
    names = f"/proc/net/{'ip' if family == 'ipv4' else 'ip6'}_tables_names"
    text = ""
    if nft or "filter" in (host.read(names) or "").split():
        outcome = host.run([f"{command}-save", "-t", "filter"])
        if outcome.code != 0:
            raise BackendError(f"{command}-save -t filter failed: {outcome.err.strip() or outcome.out.strip()}")
        text = outcome.out
    policies: dict[str, str] = {}
    rules: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            policies[chain] = policy
            rules.setdefault(chain, ())
        elif line.startswith("-A "):
            _append, chain, spec = line.split(None, 2)
            rules[chain] = (*rules.get(chain, ()), spec)
    read = Family(family, policies, rules, _existing(host, family, bool(text)) if nft else None)
    _refuse_foreign(read)
    return read


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
        families = ["ipv4"]
        if host.exists("/proc/net/if_inet6") and host.which("ip6tables-save"):
            families.append("ipv6")
        made: list[str] = []
        for line in (host.read(boot.SCRIPT_PATH) or "").splitlines():
            if line.startswith(_MADE):
                made = line[len(_MADE) :].split()
        nft = "nf_tables" in version.out
        return State(tuple(_read_family(host, family, nft) for family in families), frozenset(made))

    def render(self, rules: RuleSet, state: State) -> Desired:
        """The chains, and the jumps: an existing jump stays unless something before it closes a needed port."""
        ours: dict[str, Ours] = {}
        wanted: dict[tuple[str, str], tuple[Accept, ...]] = {}
        made = set(state.made) if rules.rules else set()
        for family in state.families:
            chains: dict[str, tuple[str, ...]] = {}
            jumps: list[Jump] = []
            for hook in HOOKS:
                wanted[family.family, hook] = accepts(rules, hook, (family.family,))
                if not wanted[family.family, hook]:
                    continue
                specs = (spec for accept in wanted[family.family, hook] for spec in _specs(accept, family.family))
                chains[_CHAIN[hook]] = tuple(specs)
                jumps.append(self._jump(family, hook, wanted[family.family, hook]))
                if family.existing is not None and _BASE[hook] not in family.existing:
                    made.add(f"{family.family}:{_BASE[hook]}")
            ours[family.family] = Ours(chains, tuple(sorted(jumps)))
        return Desired(ours, wanted, frozenset(made))

    def _jump(self, family: Family, hook: str, wanted: tuple[Accept, ...]) -> Jump:
        base = _BASE[hook]
        first = Jump(base, 0, f"-m comment --comment {MARK} -j {_CHAIN[hook]}")
        mine = [jump for jump in family.ours().jumps if jump.base == base]
        if len(mine) != 1 or _options(mine[0].spec) != _options(first.spec):
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
                counts = ", ".join(f"{chain} ({len(specs)} rules)" for chain, specs in want.chains.items())
                places = ", ".join(jump.base for jump in want.jumps)
                what = f"{counts}, jumped to from {places}" if want.chains else "chains and jumps of ours go"
                steps.append(
                    Step(
                        f"{family.command}: {what}",
                        do=(Command(restore, _transaction(have, want)),),
                        undo=(Command(restore, _transaction(want, have)),),
                    )
                )
            if not want.chains:
                steps.extend(self._unmake(state, family))
        return tuple(steps)

    def _unmake(self, state: State, family: Family) -> t.Iterator[Step]:
        """Take away base chains that came with our rules, if nobody uses them by now."""
        if family.existing is None:
            return
        foreign = {
            chain: [spec for spec in specs if not _options(spec).get("-j", "").startswith(f"{MARK}-")]
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
        yield Step(
            f"{family.command}: empty base chains that came with ours go: {', '.join(gone)}",
            do=(Command(("nft", "-f", "-"), "\n".join([*lines, ""])),),
            undo=(),
        )

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """The same restore input, and the jumps where they are missing."""
        sections = [f"{_MADE} {' '.join(sorted(desired.made))}\n" if desired.made else "", _JUMP_FUNCTION]
        for family in state.families:
            ours = desired.ours[family.family]
            if not ours.chains:
                continue
            rules = _transaction(Ours(), Ours(ours.chains))
            sections.append(f"{family.command}-restore --noflush --wait 10 <<'RULES' || status=1\n{rules}RULES\n")
            sections += [f"jump {family.command} {jump.base} {_options(jump.spec)['-j']}\n" for jump in ours.jumps]
        return boot.script("".join(sections)) if any(ours.chains for ours in desired.ours.values()) else None

    def places(self, state: State) -> tuple[Place, ...]:
        """INPUT and OUTPUT of each family, with the accepts that a jump leads to and nothing before it closes."""
        places = []
        for family in state.families:
            ours = family.ours()
            for hook in HOOKS:
                found: tuple[Accept, ...] = ()
                for jump in ours.jumps:
                    options = _options(jump.spec)
                    chain = options["-j"]
                    # A jump with a condition leads only some packets to our chain.
                    if jump.base == _BASE[hook] and chain in ours.chains and options.keys() <= {"-j", "--comment"}:
                        drops = list(family.drops(jump.base, stop=jump.index))
                        held = _accepts_of(ours.chains[chain], hook, family.family)
                        found += tuple(accept for accept in held if not any(closes(drop, (accept,)) for drop in drops))
                places.append(Place(f"{family.command} {_BASE[hook]}", hook, (family.family,), found))
        return tuple(places)

    def effective(self, state: State, desired: Desired) -> str:
        """`nothing_to_open` where every base chain accepts and none drops a needed port."""
        for family in state.families:
            for hook in HOOKS:
                wanted = desired.accepts[family.family, hook]
                if family.policies.get(_BASE[hook], "ACCEPT") != "ACCEPT":
                    return "in_force"
                if any(closes(drop, wanted) for drop in family.drops(_BASE[hook])):
                    return "in_force"
        return "nothing_to_open"


_JUMP_FUNCTION = f"""\
jump() {{
    "$1" --wait 10 --check "$2" -m comment --comment {MARK} -j "$3" 2>/dev/null ||
        "$1" --wait 10 --insert "$2" 1 -m comment --comment {MARK} -j "$3" || status=1
}}
"""
