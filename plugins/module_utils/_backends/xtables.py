# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rules of a table iptables-nft did not make: of those its commands print a part, refuse the table, or end.

Known by what `nft -j` lists: iptables-nft 1.8.7 to 1.8.13 writes a few matches in nft's own words and the rest as
extensions (`xt`, which nft before 1.0 lists without a name).
"""

from __future__ import annotations

import re
import typing as t

if t.TYPE_CHECKING:
    from .contract import Host
    from .nftables import Chain

__all__ = ["Expression", "foreign", "made_by_iptables"]

Expression = list[dict[str, t.Any]]

_VERDICTS = frozenset(("accept", "drop", "return"))
_EQUAL = frozenset(("==", "!="))
# A range of ports that begins at 0 is one comparison.
_PORTS = frozenset((*_EQUAL, "<=", ">="))
_LIMIT = frozenset(("rate", "burst", "per"))
_PERIODS = frozenset(("second", "minute", "hour", "day"))
_NFLOG = frozenset(("group", "prefix", "snaplen", "queue-threshold"))
_FRAGMENT = 8191
# Since when ports, flags, marks and groups of logs are no extensions; what is older prints a rule without them.
_SINCE = (1, 8, 8)


def foreign(host: Host, chains: t.Iterable[Chain]) -> dict[str, set[int]]:
    """The rules that the host's iptables did not make, by their place from 0, for each of the chains that has any."""
    found = {}
    version = re.search(r" v(\d+)\.(\d+)\.(\d+)", host.run(["iptables", "--version"]).out)
    ports = not version or tuple(map(int, version.groups())) >= _SINCE
    for chain in chains:
        places = {index for index, rule in enumerate(chain.rules) if not made_by_iptables(rule, ports=ports)}
        if places:
            found[chain.name] = places
    return found


def made_by_iptables(rule: Expression, *, ports: bool = True) -> bool:
    """Whether iptables-nft can have made a rule: every part of it is one that it writes, and it looks at nothing twice.

    `ports`: whether it is new enough to write ports, flags and marks in nft's own words.
    """
    seen = [_looks_at(statement["match"]["left"])[0] for statement in rule if "match" in statement]
    return len(seen) == len(set(seen)) and all(_made(*next(iter(part.items())), ports=ports) for part in rule)


def _made(kind: str, value: t.Any, *, ports: bool) -> bool:
    if kind == "match":
        return _match(value["op"], *_looks_at(value["left"]), value["right"], ports=ports)
    if kind in ("jump", "goto"):
        return True
    if kind == "counter":
        return isinstance(value, dict)
    if kind == "limit":
        return isinstance(value, dict) and value.keys() <= _LIMIT and value.get("per") in _PERIODS
    if kind == "log":
        # -j NFLOG; -j LOG is an extension.
        return ports and isinstance(value, dict) and "group" in value and value.keys() <= _NFLOG
    if kind == "mangle":
        # -j TRACE
        return bool(value == {"key": {"meta": {"key": "nftrace"}}, "value": 1})
    return kind in _VERDICTS or kind == "xt"


def _looks_at(left: t.Any) -> tuple[str, t.Any]:
    """What a match looks at (`tcp dport`, `iifname`, ...; empty for what iptables has no word for), and its mask."""
    mask = None
    if isinstance(left, dict) and "&" in left:
        left, mask = left["&"]
    if not isinstance(left, dict):
        return "", mask
    payload = left.get("payload", {})
    named = f"{payload.get('protocol')} {payload.get('field')}" if payload else left.get("meta", {}).get("key", "")
    return ("l4proto" if named == "ip protocol" else named), mask


def _match(operator: str, named: str, mask: t.Any, right: t.Any, *, ports: bool) -> bool:
    if named.startswith(("tcp ", "udp ")) or named == "mark":
        return ports and _match_natively(operator, named, mask, right)
    if operator not in _EQUAL:
        return False
    if named in ("iifname", "oifname"):
        return mask is None and isinstance(right, str) and not right.startswith("@")
    if named == "l4proto":
        return mask is None and (_number(right) or (isinstance(right, str) and not right.startswith("@")))
    if named in ("ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr"):
        return _address(right)
    return named == "ip frag-off" and mask == _FRAGMENT and bool(right == 0)


def _match_natively(operator: str, named: str, mask: t.Any, right: t.Any) -> bool:
    if named in ("tcp sport", "tcp dport", "udp sport", "udp dport"):
        return mask is None and operator in _PORTS and (_number(right) or _numbers(right))
    if named == "tcp flags":
        # No flag at all of some is one comparison.
        return (mask is not None and operator in _EQUAL and _flags(right)) or (operator == "!" and _flags(right))
    return named == "mark" and operator in _EQUAL and _number(right) and (mask is None or _number(mask))


def _number(value: t.Any) -> bool:
    return isinstance(value, int)


def _numbers(value: t.Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"range"}


def _address(value: t.Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == {"prefix"}
    return isinstance(value, str) and not value.startswith("@")


def _flags(value: t.Any) -> bool:
    names = value["|"] if isinstance(value, dict) and value.keys() == {"|"} else value
    return _number(names) or all(isinstance(name, str) and not name.startswith("@") for name in _as_list(names))


def _as_list(value: t.Any) -> list[t.Any]:
    return value if isinstance(value, list) else [value]
