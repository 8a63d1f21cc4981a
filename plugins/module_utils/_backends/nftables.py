# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nftables: chains and sets of ours inside each table that decides, one jump from its base chain, one `nft -f`.

An accept in one base chain does not beat a drop in another one on the same hook, and a jump cannot cross tables: so
ours stands in every table whose base chain can drop what is needed.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing as t
from dataclasses import dataclass, field, replace

from .._model.ports import PortSet
from .._model.rules import RuleSet, family_of, normalise_networks
from . import boot
from .contract import HOOKS, MARK, Accept, BackendError, Command, Drop, Place, Step, accepts, closes

if t.TYPE_CHECKING:
    from .contract import Host

__all__ = ["Nftables"]

_CHAIN = {hook: f"{MARK}_{hook}" for hook in HOOKS}
_FAMILIES = {"inet": ("ipv4", "ipv6"), "ip": ("ipv4",), "ip6": ("ipv6",)}
_JUMP = 'comment "openagora"'

# iptables-nft keeps its rules in tables of these names and base chains of these names; nft must not touch them.
_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")
_IPTABLES_CHAINS = ("INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING")

# Replaces jumps in the base chains that are named as arguments ("inet filter output") by what standard input says,
# in one transaction. A rule can be deleted only by its handle, which is not known before it has been added.
_LOADER = f"""\
{{
    for place; do
        nft -a list chain $place | sed -n "s|^.*jump {MARK}_.*# handle \\([0-9]*\\)\\$|delete rule $place handle \\1|p"
    done
    cat
}} | nft -f -"""

Expression = list[dict[str, t.Any]]


@dataclass(frozen=True)
class Chain:
    """A chain as `nft -j` lists it; `hook` and `policy` are empty unless it is a base filter chain."""

    name: str
    hook: str = ""
    policy: str = ""
    rules: tuple[Expression, ...] = ()
    comments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with its chains and sets, and the texts of our chains' rules as `nft list` prints them."""

    family: str
    name: str
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, t.Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`inet filter`."""
        return f"{self.family} {self.name}"

    def bases(self, hook: str) -> list[Chain]:
        """The base filter chains of a hook."""
        return [chain for chain in self.chains.values() if chain.hook == hook]

    def port_set(self, name: str) -> PortSet:
        """The ports in a set of ours."""
        return _elements(self.sets.get(name, {}).get("elem", ()))

    def jumps(self, base: Chain) -> list[tuple[int, str]]:
        """Where in a base chain a jump to ours stands (from 0), and to which chain."""
        targets = ((index, _verdict(rule, "jump")) for index, rule in enumerate(base.rules))
        return [(index, target) for index, target in targets if target.startswith(f"{MARK}_")]

    def ours(self) -> Ours:
        """What of ours stands in this table."""
        chains: dict[str, tuple[str, ...]] = {}
        for chain in self.chains.values():
            if chain.name.startswith(f"{MARK}_"):
                texts = [self._text(chain, index) for index in range(len(chain.rules))]
                chains[chain.name] = tuple(texts)
        sets = {name: self.port_set(name) for name in sorted(self.sets) if name.startswith(f"{MARK}_")}
        jumps = sorted(
            Jump(base.name, *jump) for base in self.chains.values() if base.hook for jump in self.jumps(base)
        )
        return Ours(chains, sets, tuple(jumps))

    def _text(self, chain: Chain, index: int) -> str:
        """Our own words for a rule of ours; for one changed by hand those of `nft list`."""
        found = _accept_of(chain.rules[index], chain.comments[index], chain.name)
        if found:
            return _rule(*found)
        return self.texts.get(chain.name, ())[index] if self.texts else ""

    def drops(self, chain: Chain, *, stop: int | None = None) -> t.Iterator[Drop]:
        """The foreign rules in a chain, and in those it leads to, that drop by protocol and port alone."""
        for rule in chain.rules[:stop]:
            drop = _as_drop(rule)
            if drop is None:
                continue
            for target in _targets(rule, self.sets):
                if target == "drop":
                    yield drop
                elif target in self.chains and not target.startswith(f"{MARK}_"):
                    for inner in self.drops(self.chains[target]):
                        narrowed = drop.narrowed(inner)
                        if narrowed:
                            yield narrowed

    def decides(self, base: Chain, wanted: t.Sequence[Accept]) -> bool:
        """Whether the base chain can drop what is needed."""
        return base.policy == "drop" or any(closes(drop, wanted) for drop in self.drops(base))


@dataclass(frozen=True, order=True)
class Jump:
    """A rule in a base chain that leads to a chain of ours; `index` counts from 0."""

    base: str
    index: int
    target: str


@dataclass(frozen=True)
class Ours:
    """Chains, sets and jumps of ours in one table."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, PortSet] = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()


@dataclass(frozen=True)
class State:
    """The live tables that are nobody else's, and those that the host's own loader will put there at boot."""

    tables: dict[str, Table]
    boot_tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Desired:
    """What has to stand in each table, live and at boot."""

    ours: dict[str, Ours]
    boot: dict[str, Ours]


def _elements(elements: t.Iterable[t.Any]) -> PortSet:
    ranges: list[tuple[int, int]] = []
    for element in elements:
        if isinstance(element, dict) and "elem" in element:
            element = element["elem"]["val"]
        if isinstance(element, dict) and "range" in element:
            low, high = element["range"]
        elif isinstance(element, dict) and "prefix" in element:
            low = element["prefix"]["addr"]
            high = low + (1 << (16 - element["prefix"]["len"])) - 1
        else:
            low = high = element
        # Port 0 is legal in a set of nft, but no port that a rule set can hold.
        ranges.append((max(int(low), 1), int(high)))
    return PortSet.of(*ranges)


def _verdict(rule: Expression, kind: str) -> str:
    for statement in rule:
        if kind in statement:
            return str((statement[kind] or {}).get("target", kind))
    return ""


def _targets(value: t.Any, sets: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    """Everything that a statement can lead to, verdict maps included: names of chains, and `drop`."""
    if isinstance(value, list):
        for item in value:
            yield from _targets(item, sets)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ("drop", "reject"):
                yield "drop"
            elif key in ("jump", "goto") and isinstance(inner, dict):
                yield str(inner.get("target"))
            else:
                yield from _targets(inner, sets)
    elif isinstance(value, str) and value.startswith("@"):
        yield from _targets(sets.get(value[1:], {}).get("elem", []), sets)


def _as_list(value: t.Any) -> list[t.Any]:
    return value if isinstance(value, list) else [value]


def _as_drop(rule: Expression) -> Drop | None:
    """What the rule's matches leave to drop; None when it looks at more than protocol and ports."""
    drop: Drop | None = Drop()
    for statement in rule:
        if "match" in statement and drop is not None:
            inner = _match_as_drop(statement["match"])
            drop = drop.narrowed(inner) if inner else None
        elif "limit" in statement or "quota" in statement or "ct count" in statement:
            return None
    return drop


def _match_as_drop(match: dict[str, t.Any]) -> Drop | None:
    left, right, equal = match["left"], match["right"], match["op"] in ("==", "in")
    if not isinstance(left, dict):
        return None
    payload, meta = left.get("payload", {}), left.get("meta", {}).get("key", "")
    values = right["set"] if isinstance(right, dict) and "set" in right else _as_list(right)
    if payload.get("field") in ("dport", "sport") and equal and not isinstance(right, str):
        protocol = payload["protocol"] if payload["protocol"] in ("tcp", "udp") else None
        ports = _elements(values)
        return Drop(protocol, ports) if payload["field"] == "dport" else Drop(protocol, None, ports)
    if (meta == "l4proto" or payload.get("field") in ("protocol", "nexthdr")) and equal:
        protocols = [value for value in values if value in ("tcp", "udp", 6, 17)]
        if len(values) == 1 and protocols:
            return Drop("tcp" if protocols[0] in ("tcp", 6) else "udp")
        return Drop() if protocols else None
    if left.get("ct", {}).get("key") == "state" and equal:
        return Drop() if "new" in values else None
    if meta in ("iif", "oif", "iifname", "oifname"):
        return Drop() if equal != (values == ["lo"]) else None
    if meta == "nfproto" and equal:
        return Drop()
    return None


def _set_names(wanted: t.Iterable[Accept]) -> dict[Accept, str]:
    """The set that holds each accept's ports: one for each SDK, direction and protocol, and list of networks if any."""
    owners: dict[str, list[tuple[str, ...]]] = {}
    names = {}
    for accept in sorted(wanted, key=lambda accept: accept.networks):
        if accept.kind != "error":
            name = f"{MARK}_{accept.sdk}_{accept.direction}_{accept.protocol}"
            networks = owners.setdefault(name, [])
            if accept.networks not in networks:
                networks.append(accept.networks)
            index = networks.index(accept.networks)
            names[accept] = f"{name}_{index}" if index else name
    return names


def _rule(accept: Accept, set_name: str) -> str:
    """A rule of ours as nft reads it."""
    comment = f'accept comment "{accept.comment}"'
    if accept.kind == "error":
        return f"meta l4proto {{ icmp, ipv6-icmp }} ct state related {comment}"
    address = ""
    if accept.networks:
        far = "daddr" if (accept.direction == "egress") == (accept.kind == "open") else "saddr"
        family = "ip6" if family_of(accept.networks[0]) == "ipv6" else "ip"
        address = f"{family} {far} {{ {', '.join(accept.networks)} }} "
    if accept.kind == "open":
        return f"{address}{accept.protocol} dport @{set_name} {comment}"
    return f"{address}ct state established ct direction reply {accept.protocol} sport @{set_name} {comment}"


def _networks(right: t.Any) -> tuple[str, ...]:
    items = right["set"] if isinstance(right, dict) and "set" in right else [right]
    texts: list[str] = []
    for item in items:
        if isinstance(item, dict) and "prefix" in item:
            texts.append(f"{item['prefix']['addr']}/{item['prefix']['len']}")
        elif isinstance(item, dict) and "range" in item:
            # nft joins neighbouring networks of an anonymous set.
            first, last = (ipaddress.ip_address(text) for text in item["range"])
            texts += [str(network) for network in ipaddress.summarize_address_range(first, last)]
        else:
            texts.append(str(item))
    return normalise_networks(texts)


def _accept_of(rule: Expression, comment: str, chain: str) -> tuple[Accept, str] | None:
    """The accept that a rule of ours says, without its ports, and the set that holds them; None for any other rule."""
    seen: dict[str, t.Any] = {}
    for statement in rule:
        if "match" in statement and statement["match"]["op"] in ("==", "in"):
            left, right = statement["match"]["left"], statement["match"]["right"]
            kind, inner = next(iter(left.items())) if isinstance(left, dict) else ("", {})
            if kind == "payload":
                seen[f"{inner['protocol']} {inner['field']}"] = right
            else:
                seen[f"{kind} {inner.get('key')}"] = right
        else:
            seen[next(iter(statement))] = None
    if seen.pop("accept", "") is not None or not (comment == MARK or comment.startswith(f"{MARK} ")):
        return None
    states = seen.pop("ct state", None)
    if comment == MARK:
        icmp = seen.pop("meta l4proto", {})
        right = states == "related" or states == ["related"]
        known = isinstance(icmp, dict) and sorted(icmp.get("set", ())) in (["icmp", "ipv6-icmp"], ["icmp", "icmpv6"])
        return (Accept("error"), "") if right and known and not seen else None
    reply = states in ("established", ["established"]) and seen.pop("ct direction", "") == "reply"
    if bool(states) != reply:
        return None
    direction = "egress" if (chain == _CHAIN["output"]) != reply else "ingress"
    far = "daddr" if chain == _CHAIN["output"] else "saddr"
    networks: tuple[str, ...] = ()
    for family in ("ip", "ip6"):
        if f"{family} {far}" in seen:
            networks = _networks(seen.pop(f"{family} {far}"))
    port = "sport" if reply else "dport"
    protocol = next((protocol for protocol in ("tcp", "udp") if f"{protocol} {port}" in seen), "")
    named = str(seen.pop(f"{protocol} {port}", ""))
    if seen or not named.startswith(f"@{MARK}_"):
        return None
    return Accept("reply" if reply else "open", direction, protocol, comment[len(MARK) + 1 :], networks), named[1:]


def _transaction(table: str, have: Ours, want: Ours) -> str:
    """The nft commands that turn the one into the other; jumps that change are already deleted (see `_LOADER`)."""
    lines = []
    for name, ports in want.sets.items():
        if have.sets.get(name) != ports:
            lines += [f"add set {table} {name} {{ type inet_service; flags interval; }}", f"flush set {table} {name}"]
            lines += [f"add element {table} {name} {{ {ports} }}"] if ports else []
    for name, rules in want.chains.items():
        if have.chains.get(name) != rules:
            lines += [f"add chain {table} {name}", f"flush chain {table} {name}"]
            lines += [f"add rule {table} {name} {rule}" for rule in rules]
    if have.jumps != want.jumps:
        for jump in want.jumps:
            command = f"insert rule {table} {jump.base}" + (f" index {jump.index}" if jump.index else "")
            lines.append(f"{command} jump {jump.target} {_JUMP}")
    gone = [name for name in have.chains if name not in want.chains]
    lines += [f"flush chain {table} {name}" for name in gone] + [f"delete chain {table} {name}" for name in gone]
    lines += [f"delete set {table} {name}" for name in have.sets if name not in want.sets]
    return "\n".join([*lines, ""])


def _parse(listing: str) -> dict[str, Table]:
    """The tables of `nft -j list ruleset`."""
    tables: dict[str, Table] = {}
    for item in json.loads(listing)["nftables"]:
        kind, value = next(iter(item.items()))
        if kind == "table":
            table = Table(value["family"], value["name"], flags=tuple(_as_list(value.get("flags") or [])))
            tables[table.id] = table
            continue
        holder = tables.get(f"{value.get('family')} {value.get('table')}")
        if holder is None:
            continue
        if kind == "chain":
            base = value.get("type") == "filter"
            hook, policy = (value.get("hook", ""), value.get("policy", "accept")) if base else ("", "")
            holder.chains[value["name"]] = Chain(value["name"], hook, policy)
        elif kind in ("set", "map"):
            holder.sets[value["name"]] = value
        elif kind == "rule":
            chain = holder.chains[value["chain"]]
            rules, comments = (*chain.rules, value["expr"]), (*chain.comments, value.get("comment", ""))
            holder.chains[chain.name] = replace(chain, rules=rules, comments=comments)
    return tables


def _native(table: Table, iptables: bool) -> bool:
    """Whether the table is one to put rules into: of a family that has IP packets, and nobody else's."""
    if table.family not in _FAMILIES or table.name == "firewalld" or "dormant" in table.flags:
        return False
    bases = [chain.name for chain in table.chains.values() if chain.hook]
    by_iptables = (
        table.family != "inet" and table.name in _IPTABLES_TABLES and all(name in _IPTABLES_CHAINS for name in bases)
    )
    return not (iptables and by_iptables and not table.sets)


def _refuse_foreign(table: Table) -> None:
    """A chain that has our name but nothing of ours in it, or a set of another kind, belongs to somebody else."""
    led_to = {target for chain in table.chains.values() if chain.hook for _index, target in table.jumps(chain)}
    for name, chain in table.chains.items():
        marked = any(comment.startswith(MARK) for comment in chain.comments)
        if name.startswith(f"{MARK}_") and (chain.hook or (chain.rules and not marked and name not in led_to)):
            raise BackendError(
                f"nftables: chain {name} in table {table.id} carries a name of ours but holds no rule of ours; "
                f"rename it (nft rename chain {table.id} {name} NEW-NAME) or delete it, then run again"
            )
    for name, value in table.sets.items():
        if name.startswith(f"{MARK}_") and (value.get("type") != "inet_service" or "map" in value):
            raise BackendError(
                f"nftables: set {name} in table {table.id} carries a name of ours but is no set of ports; "
                "delete or rename it, then run again"
            )


class Nftables:
    """The backend for hosts whose firewall is nftables."""

    name = "nftables"

    def available(self, host: Host) -> bool:
        """Whether nft is installed."""
        return bool(host.which("nft"))

    def in_force(self, host: Host) -> str:
        """The first base chain that can drop, in a table that belongs neither to iptables-nft nor to firewalld."""
        for table in self._tables(host, ["nft", "-j", "list", "ruleset"]).values():
            for chain in table.chains.values():
                if chain.hook and (chain.policy == "drop" or any(table.drops(chain))):
                    return f"table {table.id} decides at hook {chain.hook} (chain {chain.name})"
        return ""

    def read(self, host: Host) -> State:
        """The tables in the kernel, and those of the configuration that nftables.service loads at boot."""
        tables = self._tables(host, ["nft", "-j", "list", "ruleset"])
        for key, table in tables.items():
            _refuse_foreign(table)
            tables[key] = replace(table, texts=self._texts(host, table))
        return State(tables, self._boot_tables(host))

    def _tables(self, host: Host, argv: list[str]) -> dict[str, Table]:
        outcome = host.run(argv)
        if outcome.code != 0:
            raise BackendError(f"{' '.join(argv)} failed: {outcome.err.strip()}")
        iptables = bool(host.which("iptables-save"))
        return {key: table for key, table in _parse(outcome.out).items() if _native(table, iptables)}

    def _texts(self, host: Host, table: Table) -> dict[str, tuple[str, ...]]:
        """The rules of our chains as nft prints them, asked for only where somebody has changed them by hand."""
        texts: dict[str, tuple[str, ...]] = {}
        for name, chain in table.chains.items():
            known = all(_accept_of(rule, comment, name) for rule, comment in zip(chain.rules, chain.comments))
            if name.startswith(f"{MARK}_") and not known:
                listing = host.run(["nft", "-s", "list", "chain", table.family, table.name, name]).out
                texts[name] = tuple(line.strip() for line in listing.splitlines() if line.startswith("\t\t"))
        return texts

    def _boot_tables(self, host: Host) -> dict[str, Table]:
        """What nftables.service will load: its own command, carried out in a private network namespace."""
        if not (host.exists("/run/systemd/system") and host.which("systemctl") and host.which("unshare")):
            return {}
        outcome = host.run(["systemctl", "show", "--property=UnitFileState,ExecStart", "nftables.service"])
        command = re.search(r"argv\[\]=(\S*nft (?:[^;]*)) ;", outcome.out)
        if "UnitFileState=enabled" not in outcome.out or not command:
            return {}
        both = ["sh", "-c", '"$@" && exec nft -j list ruleset', "sh", *command.group(1).split()]
        outcome = host.run(["unshare", "--net", *both])
        # A configuration that names interfaces of the host does not load there; then the live tables have to do.
        if outcome.code != 0:
            return {}
        iptables = bool(host.which("iptables-save"))
        return {key: table for key, table in _parse(outcome.out).items() if _native(table, iptables)}

    def render(self, rules: RuleSet, state: State) -> Desired:
        """Chains, sets and jumps for every table with a base chain that can drop what is needed."""
        live = {key: self._in_table(rules, table) for key, table in state.tables.items()}
        at_boot = {key: self._in_table(rules, table) for key, table in {**state.tables, **state.boot_tables}.items()}
        return Desired(live, {key: ours for key, ours in at_boot.items() if ours.chains})

    def _in_table(self, rules: RuleSet, table: Table) -> Ours:
        chains: dict[str, tuple[str, ...]] = {}
        sets: dict[str, PortSet] = {}
        jumps: list[Jump] = []
        for hook in HOOKS:
            wanted = accepts(rules, hook, _FAMILIES[table.family])
            bases = [base for base in table.bases(hook) if wanted and table.decides(base, wanted)]
            if not bases:
                continue
            names = _set_names(wanted)
            chains[_CHAIN[hook]] = tuple(_rule(accept, names.get(accept, "")) for accept in wanted)
            sets.update({name: accept.ports for accept, name in names.items()})
            jumps += [self._jump(table, base, hook, wanted) for base in bases]
        return Ours(chains, sets, tuple(sorted(jumps)))

    def _jump(self, table: Table, base: Chain, hook: str, wanted: tuple[Accept, ...]) -> Jump:
        """An existing jump stays unless something before it closes a needed port."""
        mine = table.jumps(base)
        first = Jump(base.name, 0, _CHAIN[hook])
        if len(mine) != 1 or mine[0][1] != first.target:
            return first
        before = table.drops(base, stop=mine[0][0])
        return first if any(closes(drop, wanted) for drop in before) else Jump(base.name, *mine[0])

    def plan(self, state: State, desired: Desired) -> tuple[Step, ...]:
        """One transaction for all tables."""
        forth, back, names, late = [], [], [], []
        forth_places: list[str] = []
        for key, want in desired.ours.items():
            have = state.tables[key].ours()
            if have == want:
                continue
            names.append(key)
            forth.append(_transaction(key, have, want))
            first = tuple(jump for jump in have.jumps if not jump.index)
            back.append(_transaction(key, want, replace(have, jumps=first)))
            late += [
                f"insert rule {key} {jump.base} index {jump.index} jump {jump.target} {_JUMP}"
                for jump in have.jumps
                if jump.index
            ]
            if have.jumps != want.jumps:
                forth_places += sorted({f"{key} {jump.base}" for jump in (*have.jumps, *want.jumps)})
        if not names:
            return ()
        loader = ("/bin/sh", "-c", _LOADER, "sh", *forth_places)
        gone = not any(desired.ours[name].chains for name in names)
        what = "chains and sets of ours go" if gone else "chains, sets and jumps of ours"
        undo = [Command(loader, "".join(back)), *(Command(("nft", line)) for line in late)]
        return (
            Step(f"nftables: table {', table '.join(names)}: {what}", (Command(loader, "".join(forth)),), tuple(undo)),
        )

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """For each table one transaction, so that a table that is gone by then keeps no other one from its rules."""
        if not desired.boot:
            return None
        sections = [_LOAD_FUNCTION]
        for key, ours in desired.boot.items():
            first = replace(ours, jumps=tuple(replace(jump, index=0) for jump in ours.jumps))
            places = " ".join(f"'{key} {jump.base}'" for jump in ours.jumps)
            sections.append(f"load '{key}' {places} <<'RULES'\n{_transaction(key, Ours(), first)}RULES\n")
        return boot.script("".join(sections))

    def places(self, state: State) -> tuple[Place, ...]:
        """Each base chain with a jump to ours, with the accepts it leads to and nothing before it closes."""
        places = []
        for key, table in state.tables.items():
            for hook in HOOKS:
                for base in table.bases(hook):
                    held: list[Accept] = []
                    for index, target in table.jumps(base):
                        drops = list(table.drops(base, stop=index))
                        held += [
                            a for a in self._accepts(table, target) if not any(closes(drop, (a,)) for drop in drops)
                        ]
                    if held or base.policy == "drop":
                        places.append(Place(f"{key} {base.name}", hook, _FAMILIES[table.family], tuple(held)))
        return tuple(places)

    def _accepts(self, table: Table, target: str) -> t.Iterator[Accept]:
        chain = table.chains[target]
        for rule, comment in zip(chain.rules, chain.comments):
            found = _accept_of(rule, comment, target)
            if found:
                yield replace(found[0], ports=table.port_set(found[1]) if found[1] else PortSet())

    def effective(self, state: State, desired: Desired) -> str:
        """`nothing_to_open` where no base chain can drop."""
        return "in_force" if any(ours.chains for ours in desired.ours.values()) else "nothing_to_open"


_LOAD_FUNCTION = f"""\
load() {{
    nft list table $1 >/dev/null 2>&1 || {{ echo "table $1 is not there, nothing to open in it"; return; }}
    shift
    {_LOADER.replace(chr(10), chr(10) + "    ")} || status=1
}}
"""
