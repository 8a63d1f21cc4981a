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

from .._model.lockdown import Lockdown, Passing
from .._model.ports import HIGHEST, LOWEST, PortSet
from .._model.rules import FAMILIES, Passage, RuleSet, Side, family_of, normalise_networks
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

if t.TYPE_CHECKING:
    from .._model.messages import Notice
    from .._model.rules import Rule
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
rules=$(
    for place; do
        chain=$(nft -a list chain $place) || exit
        printf '%s\\n' "$chain" | sed -n \\
            's/^[[:space:]]*jump {MARK}_[a-z]* comment "{MARK}" # handle \\([0-9]*\\)$/\\1/p' |
            sed "s/^/delete rule $place handle /"
    done
    cat
) && printf '%s\\n' "$rules" | nft -f -
"""

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
_FORGETTING = Command(("/bin/sh", "-c", _FORGET))

# Lockdown: base chains of our own. They come after the host's, which have their say as ever; a reject here is final.
_LOCK, _LOCK_PRIORITY = f"inet {MARK}", 10

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
class Lock:
    """The live table of lockdown, as `nft list` prints it, and its chains in our own words.

    `sound`: they are base chains at the hooks that they are named after, in a table without flags.
    """

    table: Table
    listed: str
    chains: dict[str, tuple[str, ...]]
    sound: bool


@dataclass(frozen=True)
class State:
    """The live tables that are nobody else's, and those that the host's own loader will put there at boot.

    `owned` are those that only the program which made them may change.
    """

    tables: dict[str, Table]
    boot_tables: dict[str, Table] = field(default_factory=dict)
    owned: dict[str, Table] = field(default_factory=dict)
    lock: Lock | None = None

    @property
    def filled(self) -> tuple[Table, ...]:
        """The tables that can have sets of addresses."""
        return (*self.tables.values(), *([self.lock.table] if self.lock else ()))


@dataclass(frozen=True)
class Desired:
    """What has to stand in each table, live and at boot."""

    ours: dict[str, Ours]
    boot: dict[str, Ours]
    accepts: tuple[Accept, ...]
    # The chains of lockdown's table, none in mode open.
    lock: dict[str, tuple[str, ...]] = field(default_factory=dict)


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
    if comment.startswith(LOCKED):
        told = _told(rule, comment)
        # What is in braces there no rule of ours has.
        return "" if '{"' in told else told
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
    if not path or not is_ours(comment) or comment.startswith(LOCKED):
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


def _port_set(table: str, name: str) -> str:
    return f"add set {table} {name} {{ type inet_service; flags interval; }}"


def _address_set(table: str, name: str) -> str:
    kind, seconds, size = _ADDRESS_SETS[name]
    return f"add set {table} {name} {{ type {kind}; size {size}; flags dynamic,timeout; timeout {seconds}s; }}"


def _used(names: t.Iterable[str], chains: t.Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Those of these sets of addresses that a rule of these chains looks at, in the order in which they are made."""
    lines = [line for held in chains.values() for line in held]
    named = [name for name in names if any(f"@{name} " in line for line in lines)]
    return tuple(name for name in _ADDRESS_SETS if name in named)


def _moved(have: Ours, want: Ours) -> list[str]:
    """The base chains in which jumps change."""
    return sorted({jump.base for jump in set(have.jumps) ^ set(want.jumps)})


def _transaction(table: str, have: Ours, want: Ours, *, sure: bool = True) -> str:
    """The nft commands that turn the one into the other, but for jumps that do not come first.

    Jumps that change are already deleted. `sure`: the one is there; otherwise it may be that nothing of it came about.
    """
    gone = [name for name in have.chains if name not in want.chains]
    gone_sets = [name for name in have.sets if name not in want.sets]
    gone_addresses = [name for name in have.address_sets if name not in want.address_sets]
    lines = []
    if not sure:
        # What is not there cannot be deleted.
        lines += [f"add chain {table} {name}" for name in gone] + [_port_set(table, name) for name in gone_sets]
        lines += [_address_set(table, name) for name in gone_addresses]
    lines += [_address_set(table, name) for name in want.address_sets if name not in have.address_sets]
    for name, ports in want.sets.items():
        if have.sets.get(name) != ports:
            lines += [_port_set(table, name), f"flush set {table} {name}"]
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
    lines += [f"flush chain {table} {name}" for name in gone] + [f"delete chain {table} {name}" for name in gone]
    lines += [f"delete set {table} {name}" for name in (*gone_sets, *gone_addresses)]
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
    named = table.name in ("firewalld", MARK) or table.name.startswith(f"{MARK}_")
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
        for table in state.filled
        for family in FAMILIES
        if f"{_NAMES}_{family}" in table.sets
    )


def unnamed(state: State) -> tuple[tuple[str, int], ...]:
    """The addresses and TCP ports that somebody went to although no answer of the resolver named them."""
    found = {
        (str(key["concat"][0]), int(key["concat"][1]))
        for table in state.filled
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
        return State(tables, self._boot_tables(host), owned, _read_lock(host))

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
        return Desired(live, {key: ours for key, ours in at_boot.items() if ours.chains}, wanted, _lock(rules))

    def _in_table(self, rules: RuleSet, table: Table) -> Ours:
        chains: dict[str, tuple[str, ...]] = {}
        sets: dict[str, PortSet] = {}
        jumps: list[Jump] = []
        names = _set_names(rules)
        for hook, paths in HOOKS.items():
            found = {path: accepts(rules, path, _FAMILIES[table.family]) for path in paths}
            wanted = tuple(accept for held in found.values() for accept in held)
            besides = {path: _besides(rules.lockdown, path, _FAMILIES[table.family]) for path in (*paths, hook)}
            needed = wanted or besides[hook]
            bases = [base for base in table.bases(hook) if needed and table.decides(base, wanted)]
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
                chains[_CHAIN[path]] = (*lines, *besides[path])
            if hook == "forward":
                leading = _dispatch(crossings((rule.passage for rule in rules), _FAMILIES[table.family]))
                chains[_CHAIN[hook]] = (*leading, *besides[hook])
            jumps += [self._jump(table, base, hook, wanted) for base in bases]
        named = [f"{base}_{family}" for base in (_NAMES, _UNNAMED) for family in _FAMILIES[table.family]]
        return Ours(chains, sets, tuple(sorted(jumps)), _used(named, chains))

    def _jump(self, table: Table, base: Chain, hook: str, wanted: tuple[Accept, ...]) -> Jump:
        """An existing jump stays unless something before it closes a needed port."""
        mine = table.jumps(base)
        first = Jump(base.name, 0, _CHAIN[hook], _jump(_CHAIN[hook]))
        if len(mine) != 1 or mine[0].text != first.text:
            return first
        before = table.drops(base, stop=mine[0].index)
        return first if any(closes(drop, wanted) for drop in before) else mine[0]

    def plan(self, state: State, desired: Desired) -> tuple[Step, ...]:
        """One transaction for all tables, and one for lockdown: opened before it is locked, unlocked before closed."""
        locking = _lock_step(state, desired)
        opening = self._opening(state, desired)
        return (*opening, *locking) if desired.lock else (*locking, *opening)

    def _opening(self, state: State, desired: Desired) -> tuple[Step, ...]:
        forth, back, names, late = [], [], [], []
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
            back.append(_transaction(key, want, have, sure=False))
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
        forth_then, back_then = [_FORGETTING] * made, [_FORGETTING] * lost
        closes = any(state.tables[name].ours().chains for name in names)
        traffic = Traffic("closes" if closes else "opens", (do,))
        where = ", table ".join(names)
        return (Step(f"nftables: table {where}: {what}", traffic, (do, *forth_then), (*undo, *back_then)),)

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """For each table one transaction, so that a table that is gone by then keeps no other one from its rules."""
        if not (desired.boot or desired.lock):
            return None
        lock = "".join(_lock_text(desired.lock))
        sections = [f"nft -f - <<'RULES' || status=1\n{lock}RULES\n"] if lock else []
        sections += [_LOAD_FUNCTION] if desired.boot else []
        for key, ours in desired.boot.items():
            places = " ".join(f"'{key} {jump.base}' {jump.target}" for jump in ours.jumps)
            rules = _transaction(key, Ours(), replace(ours, jumps=()))
            sections.append(f"load '{key}' {places} <<'RULES'\n{rules}RULES\n")
        named = [(key, name) for key, ours in desired.boot.items() for name in ours.address_sets]
        named += [(_LOCK, name) for name in _used(_ADDRESS_SETS, desired.lock)]
        keep = "; ".join(f"nft list set {key} {name}" for key, name in named if name.startswith(_NAMES))
        if keep:
            sections.append(f"{_FORGET}\n")
        return boot.script("".join(sections), keep)

    def places(self, state: State) -> tuple[Place, ...]:
        """Lockdown's chain; each base chain with a jump to ours, with the accepts it leads to that nothing closes."""
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
        if self.lockdown(state) and state.lock:
            for hook, lines in state.lock.chains.items():
                for path in HOOKS[hook]:
                    let = tuple(dict.fromkeys(_let(lines, path)))
                    places.append(Place(f"{_LOCK} {hook}", path, FAMILIES, let, answers=True))
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
        pairs_of = [pair for pair in zip(chain.rules, chain.comments) if not pair[1].startswith(LOCKED)]
        rules = [_crossing_of(rule, comment) for rule, comment in pairs_of]
        pairs = [(inside, outside) for path, inside, outside in filter(None, rules) if path == "forward_out" and inside]
        words = tuple(_lead(*rule) if rule else "" for rule in rules)
        return pairs if words == _dispatch(pairs) else []

    def lockdown(self, state: State, *, held: bool = False) -> Lockdown | None:
        """What the live table lets pass; None where it does not reject the rest."""
        chains = state.lock.chains if state.lock and (state.lock.sound or held) else {}
        lines = chains.get("output", ())
        if not any(f'reject with icmpx admin-prohibited comment "{LOCKED} reject"' in line for line in lines):
            return None
        passing = [each for line in lines for each in _allowed(line)]
        log = any(f'comment "{LOCKED} log"' in line for line in lines)
        return Lockdown.of(passing, forward="forward" in chains, log=log)

    def effective(self, state: State, desired: Desired) -> str:
        """`nothing_to_open` where no base chain can drop."""
        held = desired.lock or any(ours.chains for ours in desired.ours.values())
        return "in_force" if held else "nothing_to_open"

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


def _lock(rules: RuleSet) -> dict[str, tuple[str, ...]]:
    """The chains of lockdown's table: what is allowed, then the reject, which is final whatever other tables say."""
    lockdown = rules.lockdown
    if lockdown is None:
        return {}
    chains: dict[str, tuple[str, ...]] = {}
    for hook in ("output", "forward") if lockdown.forward else ("output",):
        lines = [*_besides(lockdown, hook, FAMILIES)]
        lines += [line for rule in rules for line in _locked_rule(rule, hook)]
        if hook == "forward":
            for pair in crossings((rule.passage for rule in rules), FAMILIES):
                sides = _lock_sides(*pair)
                lines += [f"{sides}{line}" for line in _besides(lockdown, "forward_out", _families_of(pair))]
        log = [f'limit rate 1/second log prefix "{MARK} " comment "{LOCKED} log"'] if lockdown.log else []
        ends = [("meta l4proto { tcp } ", "tcp reset"), ("", "icmpx admin-prohibited")]
        rejects = [f'{match}counter reject with {how} comment "{LOCKED} reject"' for match, how in ends]
        chains[hook] = (*lines, *log, *rejects)
    return chains


def _besides(lockdown: Lockdown | None, path: str, families: t.Collection[str]) -> tuple[str, ...]:
    """The rules for what lockdown lets pass on a path besides our accepts."""
    passing = lockdown.passing(path) if lockdown else ()
    return tuple(_passing(each) for each in passing if each.family in ("", *families))


def _passing(passing: Passing) -> str:
    parts = []
    if passing.interface:
        parts.append(f'oifname "{passing.interface}"')
    if passing.state == "related":
        parts.append("meta l4proto { icmp, icmpv6 }")
    if passing.state:
        parts.append(f"ct state {{ {passing.state} }}")
    if passing.reply:
        parts.append("ct direction { reply }")
    if passing.ack:
        parts.append("tcp flags ack")
    if passing.networks:
        parts.append(f"{_ADDRESSES[passing.family]} daddr {{ {_plain(passing.networks)} }}")
    elif passing.family and not passing.types:
        parts.append(f"meta nfproto {{ {passing.family} }}")
    if passing.types:
        protocol = {"ipv4": "icmp", "ipv6": "icmpv6"}[passing.family]
        parts.append(f"{protocol} type {{ {', '.join(map(str, passing.types))} }}")
    for field_name, ports in (("sport", passing.sports), ("dport", passing.dports)):
        if ports:
            parts.append(f"{passing.protocol} {field_name} {{ {', '.join(ports.texts())} }}")
    if passing.uid >= 0:
        parts.append(f"meta skuid {{ {passing.uid} }}")
    return f'{" ".join(parts)} accept comment "{LOCKED} {passing.why}"'


_ALLOWS = re.compile(
    r"(?:meta nfproto \{ ipv[46] \} )?"
    r"(?:ip6? daddr \{ (?P<networks>[^}]*) \} ?)?"
    r"(?:(?P<protocol>tcp|udp) dport \{ (?P<ports>[^}]*) \} ?)?"
    r"(?:meta skuid \{ (?P<uid>[0-9]+) \} ?)?"
    rf'accept comment "{LOCKED} (?P<why>dns|allow)"'
)


def _allowed(line: str) -> t.Iterator[Passing]:
    """What a rule of lockdown allows to some addresses, ports or users: the reverse of `_passing`, as far as needed."""
    found = _ALLOWS.fullmatch(line)
    if found:
        networks = normalise_networks(found["networks"].split(", ")) if found["networks"] else ()
        ports = PortSet.parse(found["ports"]) if found["ports"] else PortSet()
        uid = int(found["uid"]) if found["uid"] else -1
        yield Passing(found["why"], protocol=found["protocol"] or "", dports=ports, networks=networks, uid=uid)


def _plain(networks: t.Iterable[str]) -> str:
    """Networks as nft prints them: an address alone without its prefix."""
    return ", ".join(network.removesuffix("/128" if ":" in network else "/32") for network in networks)


def _locked_rule(rule: Rule, hook: str) -> t.Iterator[str]:
    """The rules of lockdown that accept what a rule allows; replies are those of established connections."""
    through = bool(rule.passage.inside)
    if through != (hook == "forward") or (not through and rule.direction == "ingress"):
        return
    out = rule.direction == "egress"
    far, near = ("daddr", "saddr") if out else ("saddr", "daddr")
    address = "".join(
        f"{_ADDRESSES[family_of(networks[0])]} {side} {{ {_plain(networks)} }} "
        for side, networks in ((far, rule.networks), (near, rule.passage.targets))
        if networks
    )
    for pair in crossings([rule.passage], rule.families) if through else [None]:
        sides = _lock_sides(*(pair if out else pair[::-1])) if pair else ""
        for sdk, ports in rule.needs:
            match = f"{rule.protocol} dport {{ {', '.join(ports.texts())} }}"
            comment = f'comment "{MARK} {sdk}"'
            if rule.scope != "names":
                yield f"{sides}{address}{match} accept {comment}"
                continue
            for family, word in _ADDRESSES.items():
                answered = f"{word} daddr @{_NAMES}_{family} {match} update @{_NAMES}_{family} {{ {word} daddr }}"
                yield f"{sides}{answered} accept {comment}"
            for family, word in _ADDRESSES.items():
                noted = f"update @{_UNNAMED}_{family} {{ {word} daddr . {rule.protocol} dport }}"
                yield f"meta nfproto {{ {family} }} {sides}{match} {noted} {comment}"


_LETS = {
    far: re.compile(
        rf"(?:ip6? {far} (?:\{{ (?P<networks>[^}}]*) \}}|@{_NAMES}_(?P<names>ipv[46])) )?"
        rf"(?:ip6? {near} \{{ (?P<targets>[^}}]*) \}} )?"
        r"(?P<protocol>tcp|udp) dport \{ (?P<ports>[^}]*) \} "
        rf'(?:update @\S+ \{{ ip6? daddr \}} )?accept comment "{MARK} (?P<sdk>[a-z][a-z0-9_]*)"'
    )
    for far, near in (("daddr", "saddr"), ("saddr", "daddr"))
}
# One rule for each pair of sides has these words.
_CROSSING = re.compile(
    r'(?:iifname "([^"]*)" |ip6? saddr \{ (\S+) \} )?'
    r'(?:oifname "([^"]*)" |ip6? daddr \{ (\S+) \} )?'
    rf'udp dport \{{ 123 \}} accept comment "{LOCKED} ntp"'
)


def _let(lines: t.Sequence[str], path: str) -> t.Iterator[Accept]:
    """What lockdown's rules let pass for SDKs on a path, between all sides there: the reverse of `_locked_rule`."""
    crossing = filter(None, map(_CROSSING.fullmatch, lines)) if path in HOOKS["forward"] else ()
    ends = ((_end(found[1], found[2]), _end(found[3], found[4])) for found in crossing)
    passage = passage_of((inside, outside) for inside, outside in ends if inside)
    direction = direction_of(path, reply=False)
    out = direction == "egress"

    def between(families: t.Iterable[str]) -> list[str]:
        pairs = crossings([passage], families)
        return [_lock_sides(*(pair if out else pair[::-1])) for pair in pairs] or [""]

    for line in lines:
        for sides in between(FAMILIES):
            rest = line[len(sides) :]
            found = _LETS["daddr" if out else "saddr"].fullmatch(rest) if line.startswith(sides) else None
            if not found:
                continue
            named = (found["networks"], found["targets"])
            networks, targets = (normalise_networks(text.split(", ") if text else ()) for text in named)
            families = {family_of(network) for network in (*networks, *targets)} or FAMILIES
            if all(f"{each}{rest}" in lines for each in between(families)):
                through = replace(passage, targets=targets)
                ports, names = PortSet.parse(found["ports"]), found["names"] or ""
                yield Accept("open", direction, found["protocol"], found["sdk"], networks, ports, through, names)


def _end(interface: str | None, network: str | None) -> Side | None:
    if interface:
        return Side("interface", interface)
    return Side("source", *normalise_networks([network])) if network else None


def _lock_sides(source: Side | None, target: Side | None) -> str:
    """What a rule of lockdown looks at to tell from where to where a packet crosses."""
    words = []
    for side, address, interface in ((source, "saddr", "iifname"), (target, "daddr", "oifname")):
        if side is not None and side.kind == "source":
            words.append(f"{_ADDRESSES[side.families[0]]} {address} {{ {_plain([side.name])} }} ")
        else:
            words.append(_met(side, address, interface))
    return "".join(words)


def _families_of(pair: Crossing) -> tuple[str, ...]:
    return tuple(family for family in FAMILIES if all(side is None or family in side.families for side in pair))


def _lock_text(chains: dict[str, tuple[str, ...]]) -> t.Iterator[str]:
    """The nft commands, a line each, that bring the table to these chains. What is in its sets stays; none: nothing."""
    if not chains:
        return
    # Of a chain that is not wanted any more only the rules go, and it accepts.
    yield from (f"add table {_LOCK}\n", f"flush table {_LOCK}\n")
    yield from (f"{_address_set(_LOCK, name)}\n" for name in _used(_ADDRESS_SETS, chains))
    for hook, rules in chains.items():
        shape = f"type filter hook {hook} priority {_LOCK_PRIORITY}; policy accept;"
        yield f"add chain {_LOCK} {hook} {{ {shape} }}\n"
        yield from (f"add rule {_LOCK} {hook} {rule}\n" for rule in rules)


def _lock_step(state: State, desired: Desired) -> tuple[Step, ...]:
    """The step to lockdown's chains, in one transaction."""
    have, wanted = state.lock, desired.lock
    sets = _used(_ADDRESS_SETS, wanted)
    kept = have is not None and have.sound and set(have.table.sets) == set(sets) and set(have.chains) == set(wanted)
    # An empty table is not wanted either.
    kept = kept and bool(wanted)
    if have.chains == wanted and kept if have else not wanted:
        return ()
    gone = f"add table {_LOCK}\ndelete table {_LOCK}\n"
    locks = Command(("nft", "-f", "-"), ("" if kept else gone) + "".join(_lock_text(wanted)))
    do = [locks]
    undo = [Command(("nft", "-f", "-"), gone + (have.listed if have else ""))]
    # A set that is made anew is empty, and dnsmasq fills it only with what it asks anew.
    do += [_FORGETTING] * bool(sets and not kept)
    undo += [_FORGETTING] * bool(have and have.table.sets)
    shown = [
        "\n".join(f"{hook}: {rule}" for hook in found for rule in found[hook])
        for found in (have.chains if have else {}, wanted)
    ]
    what = "nothing else leaves" if wanted else "lockdown ends"
    traffic = Traffic("may cut", (locks,))
    edits = edits_of(f"table {_LOCK}", *shown)
    return (Step(f"nftables: table {_LOCK}: {what}", traffic, tuple(do), tuple(undo), edits),)


def _read_lock(host: Host) -> Lock | None:
    """Lockdown's table. Raises BackendError when one of that name is foreign."""
    # Numbers, because names depend on the version and on /etc/protocols.
    listed = host.run(["nft", "-n", "list", "table", *_LOCK.split()])
    if listed.code != 0:
        return None
    table = parse_listing(host.run(["nft", "-n", "-j", "list", "table", *_LOCK.split()]).out)[_LOCK]
    marked = any(is_ours(comment) for chain in table.chains.values() for comment in chain.comments)
    # Somebody may have emptied ours.
    emptied = set(table.chains) <= set(HOOKS) and set(table.sets) <= set(_ADDRESS_SETS)
    if not marked and (not emptied or any(chain.rules for chain in table.chains.values())):
        raise BackendError(
            f"nftables: table {_LOCK} carries a name of ours but holds no rule of ours; rename or delete it, then run "
            "again"
        )
    _refuse_foreign(table)
    chains = {chain.name: tuple(map(_told, chain.rules, chain.comments)) for chain in table.chains.values()}
    # With a flag (dormant, ...) the table may not count.
    sound = not re.search(r"^\tflags ", listed.out, re.MULTILINE) and all(
        f"type filter hook {chain.name} priority {_LOCK_PRIORITY}; policy accept;" in listed.out
        for chain in table.chains.values()
    )
    return Lock(table, listed.out, chains, sound)


# What nft says, with a number or with a name, for a word of ours; types of ICMP are numbers here.
_WORDS: dict[str, dict[t.Any, t.Any]] = {
    "meta nfproto": {2: "ipv4", 10: "ipv6"},
    "meta l4proto": {1: "icmp", 6: "tcp", 58: "icmpv6", "ipv6-icmp": "icmpv6"},
    "ct state": {2: "established", 4: "related"},
    "ct direction": {1: "reply"},
    "icmp type": {"destination-unreachable": 3, "time-exceeded": 11, "parameter-problem": 12},
    "icmpv6 type": {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "mld-listener-query": 130,
        "mld-listener-report": 131,
        "mld-listener-done": 132,
        "mld-listener-reduction": 132,
        "nd-router-solicit": 133,
        "nd-router-advert": 134,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
        "mld2-listener-report": 143,
    },
}


def _told(rule: Expression, comment: str) -> str:
    """A rule of lockdown in the words of `_passing` and its like, whatever words nft has for it."""
    parts = []
    for statement in rule:
        ((kind, value),) = statement.items()
        if kind == "match" and value["op"] in ("==", "in"):
            ((source, inner),) = value["left"].items() if isinstance(value["left"], dict) else (("", {}),)
            words = inner if isinstance(inner, dict) else {}
            name = f"{words.get('protocol', source)} {words.get('field', words.get('key'))}"
            right = value["right"]
            items = right["set"] if isinstance(right, dict) and "set" in right else _as_list(right)
            if name in ("meta oifname", "meta iifname"):
                parts.append(f'{name[5:]} "{right}"')
                continue
            if name == "tcp flags" and value["op"] == "in" and right in ("ack", 16):
                # Whatever other flags there are; other words mean this one alone.
                parts.append("tcp flags ack")
                continue
            if isinstance(right, str) and right.startswith("@"):
                parts.append(f"{name} {right}")
                continue
            if name.endswith(("saddr", "daddr")):
                texts = [_plain(_networks(right))]
            elif name.endswith(("sport", "dport")):
                texts = _elements(items).texts()
            else:
                texts = [str(_WORDS.get(name, {}).get(item, item)) for item in items]
            parts.append(f"{name} {{ {', '.join(texts)} }}")
        elif kind == "counter":
            parts.append("counter")
        elif kind == "limit":
            parts.append(f"limit rate {value.get('rate')}/{value.get('per')}")
        elif kind == "log":
            parts.append(f'log prefix "{value.get("prefix")}"' if value and len(value) == 1 else json.dumps(statement))
        elif kind == "reject" and value:
            how = "admin-prohibited" if value.get("expr") in (3, "admin-prohibited") else value.get("expr", "")
            parts.append(f"reject with {value['type']} {how}".rstrip())
        elif kind == "set":
            keys = [value["elem"]] if "payload" in value["elem"] else value["elem"].get("concat", ())
            fields = [f"{key['payload']['protocol']} {key['payload']['field']}" for key in keys if "payload" in key]
            parts.append(f"{value['op']} {value['set']} {{ {' . '.join(fields)} }}")
            # nft leaves the family out where the rest of the rule says it.
            named = [family for family, word in _ADDRESSES.items() if fields[1:] and fields[0] == f"{word} daddr"]
            parts[:0] = [f"meta nfproto {{ {family} }}" for family in named if not parts[0].startswith("meta nfproto")]
        elif kind == "accept":
            parts.append("accept")
        else:
            parts.append(json.dumps(statement))
    return f'{" ".join(parts)} comment "{comment}"'


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
