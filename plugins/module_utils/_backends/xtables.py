# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rules of a table iptables-nft did not make: of those its commands print a part, refuse the table, or end.

Known by what `nft -j` lists: iptables-nft 1.8.7 to 1.8.13 writes a few matches in nft's own words and the rest as
extensions (`xt`, which nft before 1.0 lists without a name). Nothing here touches the host.
"""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
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


def foreign(chains: t.Iterable[Chain]) -> dict[str, set[int]]:
    """The rules that iptables did not make, by their place from 0, for each of the chains that has any."""
    found = {}
    for chain in chains:
        places = {index for index, rule in enumerate(chain.rules) if not made_by_iptables(rule)}
        if places:
            found[chain.name] = places
    return found


def made_by_iptables(rule: Expression) -> bool:
    """Whether iptables-nft can have made a rule: every part of it is one that it writes."""
    return all(_made(*next(iter(statement.items()))) for statement in rule)


def _made(kind: str, value: t.Any) -> bool:
    if kind == "match":
        return _match(value["op"], value["left"], value["right"])
    if kind in ("jump", "goto"):
        return True
    if kind == "counter":
        return isinstance(value, dict)
    if kind == "limit":
        return isinstance(value, dict) and value.keys() <= _LIMIT and value.get("per") in _PERIODS
    if kind == "log":
        # -j NFLOG; -j LOG is an extension.
        return isinstance(value, dict) and "group" in value and value.keys() <= _NFLOG
    if kind == "mangle":
        # -j TRACE
        return bool(value == {"key": {"meta": {"key": "nftrace"}}, "value": 1})
    return kind in _VERDICTS or kind == "xt"


def _match(operator: str, left: t.Any, right: t.Any) -> bool:
    mask = None
    if isinstance(left, dict) and "&" in left:
        left, mask = left["&"]
    if not isinstance(left, dict):
        return False
    payload = left.get("payload", {})
    named = f"{payload.get('protocol')} {payload.get('field')}" if payload else left.get("meta", {}).get("key", "")
    if named in ("tcp sport", "tcp dport", "udp sport", "udp dport"):
        return mask is None and operator in _PORTS and (_number(right) or _numbers(right))
    if named == "tcp flags":
        # No flag at all of some is one comparison.
        return (mask is not None and operator in _EQUAL and _flags(right)) or (operator == "!" and _flags(right))
    if operator not in _EQUAL:
        return False
    if named in ("iifname", "oifname"):
        return mask is None and isinstance(right, str) and not right.startswith("@")
    if named in ("l4proto", "ip protocol"):
        return mask is None and (_number(right) or (isinstance(right, str) and not right.startswith("@")))
    if named in ("ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr"):
        return _address(right)
    if named == "ip frag-off":
        return mask == _FRAGMENT and right == 0
    return named == "mark" and _number(right) and (mask is None or _number(mask))


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
