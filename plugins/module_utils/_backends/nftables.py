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

from .._model.ports import HIGHEST, LOWEST, PortSet
from .._model.rules import FAMILIES, Passage, RuleSet, Side, family_of, normalise_networks
from . import boot
from .contract import (
    HOOKS,
    MARK,
    PATHS,
    Accept,
    BackendError,
    Command,
    Drop,
    Place,
    Step,
    accepts,
    closes,
    crossings,
    direction_of,
    is_ours,
    overridden,
    passage_of,
)

if t.TYPE_CHECKING:
    from .._model.messages import Notice
    from .contract import Crossing, Host

__all__ = ["Nftables", "address_sets", "kept_by_iptables", "parse_listing", "unnamed"]

# The chain of hook forward leads to those of its paths what crosses the gateway.
_CHAIN = {name: f"{MARK}_{name}" for name in (*PATHS, "forward")}
_FAMILIES = {"inet": FAMILIES, "ip": ("ipv4",), "ip6": ("ipv6",)}

# iptables-nft keeps its rules in tables of these names and base chains of these names; nft must not touch them.
_IPTABLES_TABLES = ("filter", "nat", "mangle", "raw", "security")
_IPTABLES_CHAINS = ("INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING")

# Takes back: replaces our jumps in the chains that are named as arguments ("inet filter output") by what standard input
# says, in one transaction. A rule can be deleted only by its handle, which is not known before it has been added.
_LOADER = f"""\
{{
    for place; do
        nft -a list chain $place | sed -n \\
            's/^[[:space:]]*jump {MARK}_[a-z]* comment "{MARK}" # handle \\([0-9]*\\)$/\\1/p' |
            sed "s/^/delete rule $place handle /"
    done
    cat
}} | nft -f -"""

_ADDRESSES = {"ipv4": "ip", "ipv6": "ip6"}

_SET_NAME = re.compile(rf"{MARK}_[a-z][a-z0-9_]*_(egress|ingress)_(tcp|udp)(_[0-9]+|_names)?\Z")

# dnsmasq puts what it answers into the first two, and an element that is used lives on. The others remember where else
# somebody went. Never with `interval`, which would join addresses to ranges.
_NAMES, _UNNAMED = f"{MARK}_names", f"{MARK}_unnamed"
_ADDRESS_SETS = {
    f"{base}_{family}": (f"{kind}{key}", seconds, size)
    for family, kind in (("ipv4", "ipv4_addr"), ("ipv6", "ipv6_addr"))
    for base, key, seconds, size in ((_NAMES, "", 3600, 65535), (_UNNAMED, " . inet_service", 86400, 4096))
}

# What dnsmasq remembers never comes into a set again: it has to forget, where it runs.
_FORGET = "systemctl kill --signal=HUP dnsmasq.service 2>/dev/null || true"

Expression = list[dict[str, t.Any]]


@dataclass(frozen=True)
class Chain:
    """A chain as `nft -j` lists it; `hook` and `policy` are empty unless it is a base filter chain."""

    name: str
    hook: str = ""
    policy: str = ""
    rules: tuple[Expression, ...] = ()
    comments: tuple[str, ...] = ()
    handles: tuple[int, ...] = ()


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

    def jumps(self, base: Chain) -> list[Jump]:
        """The jumps to ours in a chain of others."""
        found = []
        for index, (rule, comment, handle) in enumerate(zip(base.rules, base.comments, base.handles)):
            target = _jump_target(rule)
            if target:
                plain = rule == [{"jump": {"target": target}}] and comment == MARK
                text = _jump(target) if plain else self._listed(base, index)
                found.append(Jump(base.name, index, target, text, handle))
        return found

    @property
    def foreign(self) -> list[Chain]:
        """The chains of others."""
        return [chain for chain in self.chains.values() if not chain.name.startswith(f"{MARK}_")]

    def ours(self) -> Ours:
        """What of ours stands in this table."""
        chains: dict[str, tuple[str, ...]] = {}
        for chain in self.chains.values():
            if chain.name.startswith(f"{MARK}_"):
                texts = [self._text(chain, index) for index in range(len(chain.rules))]
                chains[chain.name] = tuple(texts)
        sets = {name: self.port_set(name) for name in sorted(self.sets) if _SET_NAME.match(name)}
        jumps = sorted(jump for chain in self.foreign for jump in self.jumps(chain))
        return Ours(chains, sets, tuple(jumps), tuple(name for name in _ADDRESS_SETS if name in self.sets))

    def _text(self, chain: Chain, index: int) -> str:
        """Our own words for a rule of ours; for one changed by hand those of `nft list`."""
        return _words(chain.rules[index], chain.comments[index], chain.name) or self._listed(chain, index)

    def _listed(self, chain: Chain, index: int) -> str:
        texts = self.texts.get(chain.name)
        return texts[index] if texts else ""

    def drops(self, chain: Chain, *, stop: int | None = None) -> t.Iterator[Drop]:
        """The foreign rules in a chain, and in those it leads to, that drop by protocol and port alone."""
        for rule in chain.rules[:stop]:
            for drop, target in _leads(rule, self.sets):
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
    """A rule in a chain of others that leads to one of ours; `index` counts from 0, `text` is the rule."""

    base: str
    index: int
    target: str
    text: str
    handle: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Ours:
    """Chains, sets and jumps of ours in one table. What is in the sets of addresses is the resolver's."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, PortSet] = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()
    address_sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """The live tables that are nobody else's, and those that the host's own loader will put there at boot.

    `owned` are those that only the program which made them may change.
    """

    tables: dict[str, Table]
    boot_tables: dict[str, Table] = field(default_factory=dict)
    owned: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Desired:
    """What has to stand in each table, live and at boot."""

    ours: dict[str, Ours]
    boot: dict[str, Ours]
    accepts: tuple[Accept, ...]


def _value(element: t.Any) -> t.Any:
    """An element without the comment, counter or timeout that it may carry."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _elements(elements: t.Iterable[t.Any]) -> PortSet:
    ranges: list[tuple[int, int]] = []
    for element in map(_value, elements):
        if isinstance(element, dict) and "range" in element:
            low, high = element["range"]
        elif isinstance(element, dict) and "prefix" in element:
            low = element["prefix"]["addr"]
            high = low + (1 << (16 - element["prefix"]["len"])) - 1
        else:
            low = high = element
        # Port 0 is legal in a set of nft, but no port that a rule set can hold.
        if int(high):
            ranges.append((max(int(low), LOWEST), int(high)))
    return PortSet.of(*ranges)


def _jump(target: str) -> str:
    return f'jump {target} comment "{MARK}"'


def _jump_target(rule: Expression) -> str:
    """The chain of ours to which a rule jumps, empty when it does not."""
    verdicts = (value for statement in rule for kind, value in statement.items() if kind in ("jump", "goto"))
    return next((value["target"] for value in verdicts if value["target"] in _CHAIN.values()), "")


def _as_list(value: t.Any) -> list[t.Any]:
    return value if isinstance(value, list) else [value]


def _leads(rule: Expression, sets: t.Mapping[str, t.Any]) -> t.Iterator[tuple[Drop, str]]:
    """Where a rule leads (`drop`, or a chain) what it matches by protocol and ports alone, verdict maps included."""
    drop = Drop()
    for statement in rule:
        ((kind, value),) = statement.items()
        if kind == "match":
            inner = _match_as_drop(value, sets)
            narrowed = drop.narrowed(inner) if inner else None
            if not narrowed:
                return
            drop = narrowed
        elif kind in ("limit", "quota", "ct count", "xt"):
            return
        elif kind == "vmap":
            for key, verdict in _members(value["data"], sets):
                inner = _key_as_drop(value["key"], _value(key), sets)
                narrowed = drop.narrowed(inner) if inner else None
                if narrowed:
                    yield from ((narrowed, target) for target in _target(verdict))
        else:
            yield from ((drop, target) for target in _target(statement))


def _target(verdict: dict[str, t.Any]) -> t.Iterator[str]:
    ((kind, value),) = verdict.items()
    if kind in ("drop", "reject"):
        yield "drop"
    elif kind in ("jump", "goto"):
        yield value["target"]


def _members(value: t.Any, sets: t.Mapping[str, t.Any]) -> list[t.Any]:
    """What the right side of a match, or the data of a verdict map, consists of."""
    if isinstance(value, str) and value.startswith("@"):
        return _as_list(sets.get(value[1:], {}).get("elem", []))
    if isinstance(value, dict):
        return _as_list(value.get("set", value.get("|", value)))
    return _as_list(value)


def _key_as_drop(key: dict[str, t.Any], value: t.Any, sets: t.Mapping[str, t.Any]) -> Drop | None:
    """What an element of a verdict map matches; a concatenation matches by all its parts."""
    if value == "*":
        return Drop()
    drop: Drop | None = Drop()
    for left, right in zip(key["concat"], value["concat"]) if "concat" in key else [(key, value)]:
        inner = _match_as_drop({"op": "==", "left": left, "right": right}, sets)
        drop = drop.narrowed(inner) if drop and inner else None
    return drop


def _ports_where(operator: str, values: list[t.Any]) -> PortSet:
    if operator in ("==", "in"):
        return _elements(values)
    if operator == "!=":
        return PortSet.of((LOWEST, HIGHEST)) - _elements(values)
    (port,) = values
    bounds = {"<": (0, port - 1), "<=": (0, port), ">": (port + 1, HIGHEST), ">=": (port, HIGHEST)}
    low, high = bounds[operator]
    return _elements([{"range": (low, high)}]) if low <= high else PortSet()


def _match_as_drop(match: dict[str, t.Any], sets: t.Mapping[str, t.Any]) -> Drop | None:
    """What a match leaves to drop; None when it looks at something else than protocol and ports."""
    left, operator, equal = match["left"], match["op"], match["op"] in ("==", "in")
    if not isinstance(left, dict):
        return None
    payload, meta = left.get("payload", {}), left.get("meta", {}).get("key", "")
    values = _members(match["right"], sets)
    if payload.get("field") in ("dport", "sport"):
        protocol = payload["protocol"] if payload["protocol"] in ("tcp", "udp") else None
        ports = _ports_where(operator, values)
        return Drop(protocol, ports) if payload["field"] == "dport" else Drop(protocol, None, ports)
    if meta == "l4proto" or payload.get("field") in ("protocol", "nexthdr"):
        named = {name for name, number in (("tcp", 6), ("udp", 17)) if name in values or number in values}
        met = named if equal else {"tcp", "udp"} - named
        return Drop(met.pop() if len(met) == 1 else None) if met else None
    if left.get("ct", {}).get("key") == "state":
        return Drop() if equal == ("new" in values) else None
    if meta in ("iif", "oif", "iifname", "oifname"):
        return Drop() if equal != (values == ["lo"]) else None
    if meta == "nfproto" and equal:
        return Drop()
    return None


def _set_names(rules: RuleSet) -> dict[tuple[t.Any, ...], str]:
    """The set that holds the ports of each SDK, direction, protocol, list of networks and scope (names or not)."""
    owners: dict[str, list[tuple[str, ...]]] = {}
    names: dict[tuple[t.Any, ...], str] = {}
    for rule in sorted(rules, key=lambda rule: rule.networks):
        for sdk, _ports in rule.needs:
            name = f"{MARK}_{sdk}_{rule.direction}_{rule.protocol}"
            if rule.scope == "names":
                names[sdk, rule.direction, rule.protocol, (), True] = f"{name}_names"
                continue
            networks = owners.setdefault(name, [])
            if rule.networks not in networks:
                networks.append(rule.networks)
            index = networks.index(rule.networks)
            key = (sdk, rule.direction, rule.protocol, rule.networks, False)
            names[key] = f"{name}_{index}" if index else name
    return names


def _rule(accept: Accept, set_name: str) -> str:
    """A rule of ours as nft reads it."""
    comment = f'accept comment "{accept.comment}"'
    word = _ADDRESSES.get(accept.names, "")
    if accept.kind == "error":
        # The words that nft knows without /etc/protocols.
        return f"meta l4proto {{ icmp, icmpv6 }} ct state related {comment}"
    if accept.kind == "note":
        key = f"{word} daddr . {accept.protocol} dport"
        noted = f'update @{_UNNAMED}_{accept.names} {{ {key} }} comment "{accept.comment}"'
        return f"meta nfproto {accept.names} {accept.protocol} dport @{set_name} {noted}"
    if accept.kind == "kept":
        return f"ct state established ct direction original {accept.protocol} dport @{set_name} {comment}"
    far, near = ("daddr", "saddr") if (accept.direction == "egress") == (accept.kind == "open") else ("saddr", "daddr")
    address = ""
    if word:
        address = f"{word} {far} @{_NAMES}_{accept.names} "
        comment = f"update @{_NAMES}_{accept.names} {{ {word} {far} }} {comment}"
    for side, networks in ((far, accept.networks), (near, accept.passage.targets)):
        if networks:
            address += f"{_ADDRESSES[family_of(networks[0])]} {side} {{ {', '.join(networks)} }} "
    if accept.kind == "open":
        return f"{address}{accept.protocol} dport @{set_name} {comment}"
    return f"{address}ct state established ct direction reply {accept.protocol} sport @{set_name} {comment}"


def _dispatch(pairs: t.Iterable[Crossing]) -> tuple[str, ...]:
    """The rules that lead what crosses the gateway, outwards and inwards, to the chains that accept."""
    return tuple(
        _lead(path, source, target)
        for inside, outside in pairs
        for path, source, target in (("forward_out", inside, outside), ("forward_in", outside, inside))
    )


def _lead(path: str, source: Side | None, target: Side | None) -> str:
    return f"{_met(source, 'saddr', 'iifname')}{_met(target, 'daddr', 'oifname')}{_jump(_CHAIN[path])}"


def _met(side: Side | None, address: str, interface: str) -> str:
    if side is None:
        return ""
    if side.kind == "source":
        return f"{_ADDRESSES[side.families[0]]} {address} {side.name} "
    return f'{interface} "{side.name}" '


def _crossing_of(rule: Expression, comment: str) -> tuple[str, Side | None, Side | None] | None:
    """The path to which a dispatching rule leads, and from which side to which; None for any other rule."""
    seen = _seen(rule)
    target = seen.pop("jump", None) or {}
    path = next((path for path in HOOKS["forward"] if _CHAIN[path] == target.get("target")), "")
    source, far = (_side_of(seen, *names) for names in (("saddr", "iifname"), ("daddr", "oifname")))
    return (path, source, far) if path and comment == MARK and not seen else None


def _side_of(seen: dict[str, t.Any], address: str, interface: str) -> Side | None:
    """The side that a rule matches, taken out of what it looks at."""
    for key in (f"ip {address}", f"ip6 {address}"):
        if key in seen:
            return Side("source", *_networks(seen.pop(key)))
    return Side("interface", seen.pop(f"meta {interface}")) if f"meta {interface}" in seen else None


def _words(rule: Expression, comment: str, chain: str) -> str:
    """A rule of a chain of ours in our own words, empty when it is none of ours."""
    if chain == _CHAIN["forward"]:
        crossing = _crossing_of(rule, comment)
        return _lead(*crossing) if crossing else ""
    found = _accept_of(rule, comment, chain)
    return _rule(*found) if found else ""


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


def _seen(rule: Expression) -> dict[str, t.Any]:
    """What a rule looks at (`tcp dport`, `ct state`, ...) and does, each with its value."""
    seen: dict[str, t.Any] = {}
    for statement in rule:
        if "match" in statement and statement["match"]["op"] in ("==", "in"):
            left, right = statement["match"]["left"], statement["match"]["right"]
            kind, inner = next(iter(left.items())) if isinstance(left, dict) else ("", {})
            words = inner if isinstance(inner, dict) else {}
            name = (words.get("protocol"), words.get("field")) if kind == "payload" else (kind, words.get("key"))
            seen[" ".join(map(str, name))] = right
        else:
            kind, value = next(iter(statement.items()))
            seen[kind] = value
    return seen


def _accept_of(rule: Expression, comment: str, chain: str) -> tuple[Accept, str] | None:
    """The accept that a rule of ours says, without its ports, and the set that holds them; None for any other rule."""
    path = next((path for path in PATHS if _CHAIN[path] == chain), "")
    seen = _seen(rule)
    updates = seen.pop("set", None)
    if not path or not is_ours(comment):
        return None
    sdk = comment[len(MARK) + 1 :]
    if seen.pop("accept", "") is not None:
        return _note_of(seen, updates, sdk, path)
    states = seen.pop("ct state", None)
    if comment == MARK:
        icmp = seen.pop("meta l4proto", {})
        right = states == "related" or states == ["related"]
        # By which name or number nft lists a protocol depends on its version and on /etc/protocols.
        protocols = {"1": "icmp", "58": "icmpv6", "ipv6-icmp": "icmpv6"}
        members = map(str, icmp.get("set", ()) if isinstance(icmp, dict) else ())
        known = sorted(protocols.get(member, member) for member in members) == ["icmp", "icmpv6"]
        return (Accept("error"), "") if right and known and not seen else None
    way = seen.pop("ct direction", "") if states in ("established", ["established"]) else ""
    if bool(states) != (way in ("reply", "original")):
        return None
    reply = way == "reply"
    far, near = ("daddr", "saddr") if direction_of(path, reply=False) == "egress" else ("saddr", "daddr")
    names = "any" if way else _answered(seen, updates, far)
    if updates and names not in FAMILIES:
        return None
    named = {
        side: _networks(seen.pop(key)) for side in (far, near) for key in (f"ip {side}", f"ip6 {side}") if key in seen
    }
    port = "sport" if reply else "dport"
    protocol = next((protocol for protocol in ("tcp", "udp") if f"{protocol} {port}" in seen), "")
    set_name = str(seen.pop(f"{protocol} {port}", ""))
    if seen or not set_name.startswith(f"@{MARK}_") or (near in named and path not in HOOKS["forward"]):
        return None
    if not set_name.endswith("_names"):
        # Our words for one of these are those of another rule.
        names = "" if names == "any" else names
        if names or way == "original":
            return None
    elif not names:
        return None
    accept = Accept(
        kind="reply" if reply else "kept" if way else "open",
        direction=direction_of(path, reply=reply),
        protocol=protocol,
        sdk=sdk,
        networks=named.get(far, ()),
        passage=Passage(targets=named.get(near, ())),
        names=names,
    )
    return accept, set_name[1:]


def _answered(seen: dict[str, t.Any], updates: t.Any, far: str) -> str:
    """The family whose answered addresses a rule matches and keeps alive, taken out of what it looks at."""
    for family, word in _ADDRESSES.items():
        name = f"@{_NAMES}_{family}"
        kept = {"op": "update", "elem": {"payload": {"protocol": word, "field": far}}, "set": name}
        if seen.get(f"{word} {far}") == name and updates == kept:
            del seen[f"{word} {far}"]
            return family
    return ""


def _note_of(seen: dict[str, t.Any], updates: t.Any, sdk: str, path: str) -> tuple[Accept, str] | None:
    """As `_accept_of`, for a rule that accepts nothing but remembers where somebody went."""
    for family, word in _ADDRESSES.items():
        fields = [(word, "daddr"), ("tcp", "dport")]
        key = {"concat": [{"payload": {"protocol": protocol, "field": name}} for protocol, name in fields]}
        set_name = str(seen.get("tcp dport", ""))
        # nft leaves the family out where the rest of the rule says it.
        plain = not seen.keys() - {"tcp dport", "meta nfproto"} and seen.get("meta nfproto", family) == family
        ours = set_name.startswith(f"@{MARK}_") and set_name.endswith("_names")
        if plain and ours and updates == {"op": "update", "elem": key, "set": f"@{_UNNAMED}_{family}"}:
            return Accept("note", direction_of(path, reply=False), "tcp", sdk, names=family), set_name[1:]
    return None


def _moved(have: Ours, want: Ours) -> list[str]:
    """The base chains in which jumps change."""
    return sorted({jump.base for jump in set(have.jumps) ^ set(want.jumps)})


def _transaction(table: str, have: Ours, want: Ours) -> str:
    """The nft commands that turn the one into the other, but for jumps that do not come first.

    Jumps that change are already deleted.
    """
    lines = []
    for name in want.address_sets:
        if name not in have.address_sets:
            kind, seconds, size = _ADDRESS_SETS[name]
            shape = f"type {kind}; size {size}; flags dynamic,timeout; timeout {seconds}s;"
            lines.append(f"add set {table} {name} {{ {shape} }}")
    for name, ports in want.sets.items():
        if have.sets.get(name) != ports:
            lines += [f"add set {table} {name} {{ type inet_service; flags interval; }}", f"flush set {table} {name}"]
            lines += [f"add element {table} {name} {{ {ports} }}"] if ports else []
    for name, rules in want.chains.items():
        if have.chains.get(name) != rules:
            lines += [f"add chain {table} {name}", f"flush chain {table} {name}"]
            lines += [f"add rule {table} {name} {rule}" for rule in rules]
    lines += [
        f"insert rule {table} {jump.base} {jump.text}"
        for jump in want.jumps
        if jump.base in _moved(have, want) and not jump.index
    ]
    gone = [name for name in have.chains if name not in want.chains]
    lines += [f"flush chain {table} {name}" for name in gone] + [f"delete chain {table} {name}" for name in gone]
    lines += [f"delete set {table} {name}" for name in have.sets if name not in want.sets]
    lines += [f"delete set {table} {name}" for name in have.address_sets if name not in want.address_sets]
    return "\n".join([*lines, ""])


def parse_listing(listing: str) -> dict[str, Table]:
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
            base = value.get("type") in ("filter", "route")
            hook, policy = (value.get("hook", ""), value.get("policy", "accept")) if base else ("", "")
            holder.chains[value["name"]] = Chain(value["name"], hook, policy)
        elif kind in ("set", "map"):
            holder.sets[value["name"]] = value
        elif kind == "rule":
            chain = holder.chains[value["chain"]]
            holder.chains[chain.name] = replace(
                chain,
                rules=(*chain.rules, value["expr"]),
                comments=(*chain.comments, value.get("comment", "")),
                handles=(*chain.handles, value["handle"]),
            )
    return tables


def _native(table: Table) -> bool:
    """Whether the table is of a family that has IP packets, in use, and neither firewalld's nor one of our own."""
    named = table.name == "firewalld" or table.name.startswith(f"{MARK}_")
    return table.family in _FAMILIES and not named and "dormant" not in table.flags


def kept_by_iptables(host: Host, table: Table) -> bool:
    """Whether iptables-nft keeps its rules in the table: it bears a name of those, and iptables can read it."""
    bases = [chain.name for chain in table.chains.values() if chain.hook]
    if (
        table.family == "inet"
        or table.name not in _IPTABLES_TABLES
        or table.sets
        or not all(name in _IPTABLES_CHAINS for name in bases)
    ):
        return False
    command = f"{'ip6' if table.family == 'ip6' else 'ip'}tables-nft-save"
    return bool(host.which(command)) and "is incompatible" not in host.run([command, "-t", table.name]).out


def _refuse_foreign(table: Table) -> None:
    """A chain that has our name but nothing of ours in it, or a set of another kind, belongs to somebody else."""
    led_to = {jump.target for chain in table.foreign for jump in table.jumps(chain) if jump.text == _jump(jump.target)}
    for name, chain in table.chains.items():
        marked = any(map(is_ours, chain.comments))
        if not name.startswith(f"{MARK}_") or (marked and not chain.hook):
            continue
        # One that is empty may be what somebody has left of ours.
        if chain.hook or (name not in led_to and (chain.rules or name not in _CHAIN.values())):
            raise BackendError(
                f"nftables: chain {name} in table {table.id} carries a name of ours but holds no rule of ours; "
                f"rename it (nft rename chain {table.id} {name} NEW-NAME) or delete it, then run again"
            )
    for name, value in table.sets.items():
        flags = _as_list(value.get("flags", []))
        kind = (value.get("type"), "map" in value, tuple(flags), "timeout" in value)
        ours: t.Any = _SET_NAME.match(name) and kind == ("inet_service", False, ("interval",), False)
        if name in _ADDRESS_SETS:
            key, seconds, _size = _ADDRESS_SETS[name]
            shape = (" . ".join(_as_list(value.get("type"))), value.get("timeout"), "interval" in flags)
            ours = "map" not in value and shape == (key, seconds, False)
        if name.startswith(f"{MARK}_") and not ours:
            raise BackendError(
                f"nftables: set {name} in table {table.id} carries a name of ours but is no set of ours; "
                "delete or rename it, then run again"
            )


def address_sets(state: State) -> tuple[str, ...]:
    """The sets for what the resolver answers, as dnsmasq's option nftset takes them."""
    return tuple(
        f"{family[-1]}#{table.family}#{table.name}#{_NAMES}_{family}"
        for table in state.tables.values()
        for family in FAMILIES
        if f"{_NAMES}_{family}" in table.sets
    )


def unnamed(state: State) -> tuple[tuple[str, int], ...]:
    """The addresses and TCP ports that somebody went to although no answer of the resolver named them."""
    found = {
        (str(key["concat"][0]), int(key["concat"][1]))
        for table in state.tables.values()
        for family in FAMILIES
        for key in map(_value, table.sets.get(f"{_UNNAMED}_{family}", {}).get("elem", ()))
    }
    return tuple(sorted(found))


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
        owned = {key: tables.pop(key) for key, table in list(tables.items()) if "owner" in table.flags}
        for key, table in tables.items():
            _refuse_foreign(table)
            tables[key] = replace(table, texts=self._texts(host, table))
        return State(tables, self._boot_tables(host), owned)

    def _tables(self, host: Host, argv: list[str]) -> dict[str, Table]:
        outcome = host.run(argv)
        if outcome.code != 0:
            raise BackendError(f"{' '.join(argv)} failed: {outcome.err.strip()}")
        tables = parse_listing(outcome.out)
        for key, table in tables.items():
            if table.flags:
                # nft 1.0.6 shows that there are flags, with nonsense for which ones.
                listing = host.run(["nft", "-s", "list", "table", table.family, table.name]).out
                flags = re.search(r"^\tflags (.+)", listing, re.MULTILINE)
                tables[key] = replace(table, flags=tuple(flags[1].split(",")) if flags else ())
        return {key: table for key, table in tables.items() if _native(table) and not kept_by_iptables(host, table)}

    def _texts(self, host: Host, table: Table) -> dict[str, tuple[str, ...]]:
        """The rules of chains with ours as nft prints them, asked for only where somebody has changed ours by hand."""
        texts: dict[str, tuple[str, ...]] = {}
        for name, chain in table.chains.items():
            if name.startswith(f"{MARK}_"):
                known = all(_words(rule, comment, name) for rule, comment in zip(chain.rules, chain.comments))
            else:
                known = all(jump.text for jump in table.jumps(chain))
            if not known:
                listing = host.run(["nft", "-s", "list", "chain", table.family, table.name, name]).out
                lines = [line.strip() for line in listing.splitlines() if line.startswith("\t\t")]
                # What a base chain is stands before its rules.
                texts[name] = tuple(lines[len(lines) - len(chain.rules) :])
        return texts

    def _boot_tables(self, host: Host) -> dict[str, Table]:
        """What nftables.service will load: its own command, carried out in a private network namespace."""
        if not (host.exists("/run/systemd/system") and host.which("systemctl") and host.which("unshare")):
            return {}
        outcome = host.run(["systemctl", "show", "--property=UnitFileState,ExecStart", "nftables.service"])
        # Debian and Red Hat give a file (-f); SUSE gives nft's own words, which nft joins again: flush ruleset; include
        # "/etc/nftables/rules/main.nft".
        command = re.search(r"argv\[\]=(\S*nft .*?) ; ignore_errors=", outcome.out)
        if "UnitFileState=enabled" not in outcome.out or not command:
            return {}
        both = ["sh", "-c", '"$@" && exec nft -j list ruleset', "sh", *command.group(1).split()]
        outcome = host.run(["unshare", "--net", *both])
        # A configuration that names interfaces of the host does not load there; then the live tables have to do.
        if outcome.code != 0:
            return {}
        tables = parse_listing(outcome.out)
        return {key: table for key, table in tables.items() if _native(table) and not kept_by_iptables(host, table)}

    def render(self, rules: RuleSet, state: State) -> Desired:
        """Chains, sets and jumps for every table with a base chain that can drop what is needed."""
        live = {key: self._in_table(rules, table) for key, table in state.tables.items()}
        at_boot = {key: self._in_table(rules, table) for key, table in {**state.tables, **state.boot_tables}.items()}
        wanted = tuple(accept for path in PATHS for accept in accepts(rules, path, FAMILIES))
        return Desired(live, {key: ours for key, ours in at_boot.items() if ours.chains}, wanted)

    def _in_table(self, rules: RuleSet, table: Table) -> Ours:
        chains: dict[str, tuple[str, ...]] = {}
        sets: dict[str, PortSet] = {}
        jumps: list[Jump] = []
        names = _set_names(rules)
        for hook, paths in HOOKS.items():
            found = {path: accepts(rules, path, _FAMILIES[table.family]) for path in paths}
            wanted = tuple(accept for held in found.values() for accept in held)
            bases = [base for base in table.bases(hook) if wanted and table.decides(base, wanted)]
            if not bases:
                continue
            for path, held in found.items():
                lines = []
                for accept in held:
                    key = (accept.sdk, accept.direction, accept.protocol, accept.networks, bool(accept.names))
                    name = names.get(key, "")
                    lines.append(_rule(accept, name))
                    if name:
                        sets[name] = accept.ports
                chains[_CHAIN[path]] = tuple(lines)
            if hook == "forward":
                chains[_CHAIN[hook]] = _dispatch(crossings((rule.passage for rule in rules), _FAMILIES[table.family]))
            jumps += [self._jump(table, base, hook, wanted) for base in bases]
        named = [f"{base}_{family}" for base in (_NAMES, _UNNAMED) for family in _FAMILIES[table.family]]
        used = [name for name in named if any(f"@{name} " in line for lines in chains.values() for line in lines)]
        return Ours(chains, sets, tuple(sorted(jumps)), tuple(name for name in _ADDRESS_SETS if name in used))

    def _jump(self, table: Table, base: Chain, hook: str, wanted: tuple[Accept, ...]) -> Jump:
        """An existing jump stays unless something before it closes a needed port."""
        mine = table.jumps(base)
        first = Jump(base.name, 0, _CHAIN[hook], _jump(_CHAIN[hook]))
        if len(mine) != 1 or mine[0].text != first.text:
            return first
        before = table.drops(base, stop=mine[0].index)
        return first if any(closes(drop, wanted) for drop in before) else mine[0]

    def plan(self, state: State, desired: Desired) -> tuple[Step, ...]:
        """One transaction for all tables."""
        forth, back, names, late = [], [], [], []
        forget = Command(("/bin/sh", "-c", _FORGET))
        made, lost = False, False
        places: list[str] = []
        for key, want in desired.ours.items():
            have = state.tables[key].ours()
            if have == want:
                continue
            names.append(key)
            made |= bool(set(want.address_sets) - set(have.address_sets))
            lost |= bool(set(have.address_sets) - set(want.address_sets))
            moved = _moved(have, want)
            forth += [
                f"delete rule {key} {jump.base} handle {jump.handle}\n" for jump in have.jumps if jump.base in moved
            ]
            forth.append(_transaction(key, have, want))
            back.append(_transaction(key, want, have))
            # An index is looked up in what is live before a transaction, so these come after it, one by one.
            late += [
                f"add rule {key} {jump.base} index {jump.index - 1} {jump.text}"
                for jump in have.jumps
                if jump.base in moved and jump.index
            ]
            places += [f"{key} {base}" for base in moved]
        if not names:
            return ()
        gone = not any(desired.ours[name].chains for name in names)
        what = "chains and sets of ours go" if gone else "chains, sets and jumps of ours"
        do = Command(("nft", "-f", "-"), "".join(forth))
        undo = [Command(("/bin/sh", "-c", _LOADER, "sh", *places), "".join(back))]
        undo += [Command(("nft", line)) for line in late]
        # A set that is made anew, forth or back, is empty, and dnsmasq fills it only with what it asks anew.
        forth_then, back_then = [forget] * made, [forget] * lost
        return (Step(f"nftables: table {', table '.join(names)}: {what}", (do, *forth_then), (*undo, *back_then)),)

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """For each table one transaction, so that a table that is gone by then keeps no other one from its rules."""
        if not desired.boot:
            return None
        sections = [_LOAD_FUNCTION]
        for key, ours in desired.boot.items():
            places = " ".join(f"'{key} {jump.base}' {jump.target}" for jump in ours.jumps)
            rules = _transaction(key, Ours(), replace(ours, jumps=()))
            sections.append(f"load '{key}' {places} <<'RULES'\n{rules}RULES\n")
        named = [(key, name) for key, ours in desired.boot.items() for name in ours.address_sets]
        keep = "; ".join(f"nft list set {key} {name}" for key, name in named if name.startswith(_NAMES))
        if keep:
            sections.append(f"{_FORGET}\n")
        return boot.script("".join(sections), keep)

    def places(self, state: State) -> tuple[Place, ...]:
        """Each base chain with a jump to ours, with the accepts it leads to and nothing before it closes."""
        passage = passage_of(pair for table in state.tables.values() for pair in self._crossings(table))
        places = []
        for key, table in state.tables.items():
            for path, hook in ((path, hook) for hook, paths in HOOKS.items() for path in paths):
                for base in table.bases(hook):
                    held: list[Accept] = []
                    for jump in table.jumps(base):
                        drops = list(table.drops(base, stop=jump.index))
                        # A jump with a condition leads only some packets to our chain.
                        found = self._held(table, jump.target, path, passage) if jump.text == _jump(jump.target) else ()
                        held += [accept for accept in found if not any(closes(drop, (accept,)) for drop in drops)]
                    if held or base.policy == "drop" or Drop() in table.drops(base):
                        places.append(Place(f"{key} {base.name}", path, _FAMILIES[table.family], tuple(held)))
        return tuple(places)

    def _held(self, table: Table, target: str, path: str, passage: Passage) -> t.Iterator[Accept]:
        """What a chain that is jumped to accepts on a path; on a gateway it has to lead all that crosses there."""
        if path in HOOKS["forward"]:
            led = self._crossings(table)
            if target != _CHAIN["forward"] or not led or led != crossings([passage], _FAMILIES[table.family]):
                return
            target = _CHAIN[path]
        chain = table.chains.get(target, Chain(target))
        for rule, comment in zip(chain.rules, chain.comments):
            found = _accept_of(rule, comment, target)
            if found:
                accept, name = found
                through = replace(passage, targets=accept.passage.targets) if path in HOOKS["forward"] else Passage()
                yield replace(accept, ports=table.port_set(name) if name else PortSet(), passage=through)

    def _crossings(self, table: Table) -> list[Crossing]:
        """The pairs of sides that our chain leads both ways: the reverse of `_dispatch`; none for other rules."""
        chain = table.chains.get(_CHAIN["forward"], Chain(""))
        rules = [_crossing_of(rule, comment) for rule, comment in zip(chain.rules, chain.comments)]
        pairs = [(inside, outside) for path, inside, outside in filter(None, rules) if path == "forward_out" and inside]
        words = tuple(_lead(*rule) if rule else "" for rule in rules)
        return pairs if words == _dispatch(pairs) else []

    def effective(self, state: State, desired: Desired) -> str:
        """`nothing_to_open` where no base chain can drop."""
        return "in_force" if any(ours.chains for ours in desired.ours.values()) else "nothing_to_open"

    def files(self, state: State) -> tuple[str, ...]:
        """None: its rules are in the kernel."""
        return ()

    def notices(self, state: State, desired: Desired) -> t.Iterator[Notice]:
        """The rules that deny what ours, which come first, allow."""
        for key, ours in desired.ours.items():
            table = state.tables[key]
            for base in (table.chains[jump.base] for jump in ours.jumps):
                yield from overridden(f"nftables table {key} chain {base.name}", table.drops(base), desired.accepts)

    def in_the_way(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """The base chains that can drop what is needed."""
        return tuple(self._deciding(state.tables, rules))

    def out_of_reach(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """Those in tables that only the program which made them may change (flag owner)."""
        return tuple(f"{chain}, which another program owns" for chain in self._deciding(state.owned, rules))

    def _deciding(self, tables: dict[str, Table], rules: RuleSet) -> t.Iterator[str]:
        for key, table in tables.items():
            for jump in self._in_table(rules, table).jumps:
                yield f"nftables table {key} chain {jump.base}"


# A jump that is there stays where it is: others may have come before it since, and innocently so.
_LOAD_FUNCTION = f"""\
load() {{
    nft list table $1 >/dev/null 2>&1 || {{ echo "table $1 is not there, nothing to open in it"; return; }}
    shift
    {{
        cat
        while [ $# -gt 0 ]; do
            nft list chain $1 | grep -q '^[[:space:]]*jump '"$2"' comment "{MARK}"$' ||
                echo "insert rule $1 jump $2 comment \\"{MARK}\\""
            shift 2
        done
    }} | nft -f - || status=1
}}
"""
