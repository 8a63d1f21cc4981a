# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules whose verdict one packet a port cannot show, and what stands in for them in the copy.

The copy is tried twice. First each such rule does the worst that it can for a packet which the rest of its matches
meet, then the best: one that drops matches or does not, one that accepts does not or does, and one that leads
elsewhere drops or accepts. What the rules really do lies between the two: a port that is open both times is open, one
that is closed both times is closed, and one that differs is unknown. Nothing here touches the host.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from .._backends.saveformat import appended, leads, options_of

__all__ = ["HIDDEN", "PASSING", "VARIANTS", "Doubt", "Known", "in_nft", "in_save_format"]

# What rules in doubt do.
VARIANTS = ("worst", "best")

# The comment of a rule of nft that had extensions of iptables begins with this; what follows names them.
HIDDEN = "openagora extensions: "
# What is in doubt for a reason that a person would ask for; the rest is named by itself.
_SET_ELSEWHERE = "a mark that no rule of this host sets"
_WHO_SENDS = "who sends the packet; choose with option user"

# iptables-extensions(8): matches that say the same of every packet of the kind that the proof sends.
_SHOWN = frozenset(
    (
        "addrtype",
        "ah",
        "comment",
        "conntrack",
        "dccp",
        "devgroup",
        "dscp",
        "dst",
        "ecn",
        "esp",
        "eui64",
        "frag",
        "hbh",
        "helper",
        "hl",
        "icmp",
        "icmp6",
        "icmpv6",
        "iprange",
        "ipv6header",
        "ipv6-icmp",
        "mh",
        "multiport",
        "pkttype",
        "policy",
        "realm",
        "rpfilter",
        "rt",
        "sctp",
        "set",
        "state",
        "tcp",
        "tcpmss",
        "tos",
        "ttl",
        "udp",
        "udplite",
    )
)
# The words of `-m owner ! --uid-owner 0`; what it says of groups is in doubt.
_ONE_OPTION = 5
_MARKS = frozenset(("mark", "connmark"))
# Targets after which the packet goes on as it was, as far as this host's rules are concerned.
PASSING = frozenset(
    (
        "LOG",
        "NFLOG",
        "ULOG",
        "AUDIT",
        "TRACE",
        "MARK",
        "CONNMARK",
        "CLASSIFY",
        "CT",
        "NOTRACK",
        "DSCP",
        "TOS",
        "TTL",
        "HL",
        "TCPMSS",
        "TCPOPTSTRIP",
        "CHECKSUM",
        "SECMARK",
        "CONNSECMARK",
        "ECN",
        "IDLETIMER",
        "LED",
    )
)
# Those that would make one packet of the proof decide about the next, or double it.
_LEFT_OUT = frozenset(("SET", "TEE", "RATEEST"))
_DECIDING = frozenset(("ACCEPT", "DROP", "REJECT", "RETURN", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"))

_SEGMENT = re.compile(r'"(?:[^"\\]|\\.)*"(?!\S)|\S+')

# nft(8): what rules look at that says the same of every packet of the proof.
_META = frozenset(
    (
        "iif",
        "iifname",
        "oif",
        "oifname",
        "iifgroup",
        "oifgroup",
        "ibrname",
        "obrname",
        "l4proto",
        "nfproto",
        "protocol",
        "pkttype",
        "nftrace",
        "secpath",
        "ipsec",
    )
)
_CT = frozenset(
    (
        "state",
        "direction",
        "status",
        "l3proto",
        "protocol",
        "saddr",
        "daddr",
        "proto-src",
        "proto-dst",
        "zone",
        "helper",
    )
)
_CERTAIN = frozenset(
    ("payload", "fib", "exthdr", "tcp option", "ip option", "sctp chunk", "dccp option", "rt", "ipsec")
)
_LIMITS = frozenset(("limit", "quota", "ct count"))
_VERDICTS = frozenset(("accept", "drop", "reject", "jump", "goto", "return", "dnat", "snat", "masquerade", "redirect"))
# Statements that decide by something outside of the rules: a program, a socket, an extension of iptables.
_OUTSIDE = frozenset(("queue", "synproxy", "tproxy", "xt", "fwd"))

Statement = dict[str, t.Any]


@dataclass(frozen=True)
class Known:
    """What the proof knows of a packet beside its headers: whether rules set its mark, and who sends it.

    `limited`: the sets (`@name`) of nft whose elements have limits of their own.
    """

    marks: bool = False
    user: bool = False
    sets: bool = True
    limited: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Doubt:
    """A rule in doubt: where it stands, what it says, and what one packet cannot show of it.

    `translates`: whether it decides about an address, a port or the way, so that either variant may be the worse.
    """

    where: str
    rule: str
    what: str
    translates: bool = False

    def data(self) -> dict[str, str]:
        """The form in which the module returns it."""
        return {"where": self.where, "rule": self.rule, "what": self.what}


def _stand_in(verdict: str, variant: str) -> str:
    """What a rule with this verdict (empty: neither drop nor accept) does in a variant; empty: it does not match."""
    extreme = "drop" if variant == VARIANTS[0] else "accept"
    return extreme if verdict in ("", extreme) else ""


# The save format of iptables


def in_save_format(
    text: str, tool: str, *, user: bool, sets: bool, steered: bool = False, variant: str
) -> tuple[str, list[Doubt]]:
    """The rules as they are loaded for a variant, and those of them that are in doubt.

    `steered`: whether a mark decides on the way, so that a rule that sets one is in doubt, too.
    """
    lines = text.splitlines()
    known = Known(_sets_marks(lines), user, sets)
    doubts: list[Doubt] = []
    loaded = []
    table = ""
    harmless: frozenset[str] = frozenset()
    chains = frozenset(line[1:].split()[0] for line in lines if line.startswith(":"))
    for number, line in enumerate(lines):
        if line.startswith("*"):
            table = line[1:].strip()
            harmless = _harmless(lines[number:])
        if not line.startswith("-A "):
            loaded.append(line)
            continue
        chain, spec = appended(line)
        matches, target = _segments(spec)
        certain, reasons = _sort_out(matches, known)
        verdict = leads(spec)
        own = verdict in PASSING or verdict in _DECIDING or not verdict or verdict in chains
        if verdict in _LEFT_OUT:
            continue
        if not own:
            reasons.append(verdict)
        if not reasons:
            loaded.append(line)
            continue
        # Where a chain that was gone to ends, its caller does not go on.
        returns = verdict in harmless and "-g" not in options_of(spec)
        steers = steered and verdict in ("MARK", "CONNMARK")
        if chain in harmless or (own and not steers and (verdict in PASSING or not verdict or returns)):
            continue
        what = ", ".join(dict.fromkeys(reasons))
        doubts.append(Doubt(f"{tool} {table} {chain}", spec, what, translates=table == "nat" or steers))
        stand_in = _stand_in({"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop"}.get(verdict, ""), variant)
        if table == "nat" or steers:
            # iptables refuses to drop there; then the rule counts as one that does not match, or as one that does.
            stand_in = "" if variant == VARIANTS[0] else "accept"
        if stand_in:
            jump = target if (table == "nat" and own) or steers else f"-j {stand_in.upper()}"
            loaded.append(" ".join(["-A", chain, *certain, jump]))
    return "\n".join([*loaded, ""]), doubts


def _segments(spec: str) -> tuple[list[list[str]], str]:
    """The matches of a rule, each with its words (those before the first -m one by one), and its target."""
    words = _SEGMENT.findall(spec)
    end = next((index for index, word in enumerate(words) if word in ("-j", "-g")), len(words))
    segments: list[list[str]] = [[]]
    for word in words[:end]:
        if word == "-m":
            segments.append([])
        segments[-1].append(word)
    return segments, " ".join(words[end:])


def _sort_out(segments: list[list[str]], known: Known) -> tuple[list[str], list[str]]:
    """The matches that a packet shows, and the names of those that it does not."""
    certain, reasons = list(segments[0]), []
    for words in segments[1:]:
        name = words[1]
        if (
            (name in _SHOWN and (name != "set" or known.sets))
            or (name in _MARKS and known.marks)
            or (name == "owner" and known.user and "--uid-owner" in words and len(words) <= _ONE_OPTION)
            or (name == "recent" and "--set" in words)
        ):
            certain += words
        elif name in _MARKS:
            reasons.append(_SET_ELSEWHERE)
        elif name == "owner":
            reasons.append(_WHO_SENDS)
        else:
            reasons.append(name)
    return certain, reasons


def _sets_marks(lines: t.Iterable[str]) -> bool:
    """Whether rules that are not in doubt themselves set marks."""
    specs = [appended(line)[1] for line in lines if line.startswith("-A ")]
    setting = [_segments(spec)[0] for spec in specs if leads(spec) in ("MARK", "CONNMARK")]
    return bool(setting) and not any(_sort_out(matches, Known(marks=True))[1] for matches in setting)


def _harmless(lines: list[str]) -> frozenset[str]:
    """The chains of a table, given by its lines, in which nothing is decided: those that only log."""
    rules: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("COMMIT"):
            break
        if line.startswith(":") and line.split()[1] == "-":
            rules.setdefault(line[1:].split()[0], [])
        elif line.startswith("-A "):
            chain, spec = appended(line)
            if chain in rules:
                rules[chain].append(spec)
    found: set[str] = set()
    while True:
        more = {
            chain
            for chain, specs in rules.items()
            if chain not in found
            and all(
                "-g" not in options_of(spec) and (leads(spec) in ("", "RETURN", "LOG", "NFLOG") or leads(spec) in found)
                for spec in specs
            )
        }
        if not more:
            return frozenset(found)
        found |= more


# nft


def in_nft(
    listing: t.Sequence[dict[str, t.Any]], *, user: bool, steered: bool, variant: str
) -> tuple[list[dict[str, t.Any]], list[Doubt]]:
    """The commands of libnftables-json(5) that put a variant into the place of rules in doubt, and those rules.

    `listing` is what `nft -j list ruleset` has under `nftables`. What adds to sets, or sends packets twice, goes too.
    """
    rules = [item["rule"] for item in listing if "rule" in item]
    known = Known(_nft_sets_marks(rules), user, limited=_limited(listing))
    harmless = _nft_harmless(listing)
    commands: list[dict[str, t.Any]] = []
    doubts: list[Doubt] = []
    for rule in rules:
        expression = rule["expr"]
        kept = [statement for statement in expression if not _left_out(statement)]
        reasons = list(dict.fromkeys(reason for statement in expression for reason in _reasons(statement, known)))
        verdicts = [kind for statement in expression for kind in statement if kind in _VERDICTS | _OUTSIDE | {"vmap"}]
        hidden = rule.get("comment", "").partition(HIDDEN)[2]
        if hidden:
            reasons.append(hidden)
            verdicts.append("xt")
        target = next((statement["jump"]["target"] for statement in expression if "jump" in statement), None)
        place = {key: rule[key] for key in ("family", "table", "chain", "handle")}
        decides = (
            verdicts and not {(rule["family"], rule["table"], name) for name in (rule["chain"], target)} & harmless
        )
        marks = [statement for statement in expression if steered and _marks(statement)]
        if reasons and (decides or marks):
            certain = [statement for statement in kept if "match" in statement and not any(_reasons(statement, known))]
            verdict = {("accept",): "accept", ("drop",): "drop", ("reject",): "drop"}.get(tuple(verdicts), "")
            stand_in = _stand_in(verdict, variant) if verdicts else ""
            if stand_in or (marks and not verdicts and variant != VARIANTS[0]):
                ends: list[Statement] = [{stand_in: None}] if stand_in else []
                commands.append({"replace": {"rule": {**place, "expr": [*certain, *marks, *ends]}}})
            else:
                commands.append({"delete": {"rule": place}})
            where = f"nft {rule['family']} {rule['table']} {rule['chain']}"
            doubts.append(
                Doubt(where, f"{rule['family']} {rule['table']} {rule['handle']}", ", ".join(reasons), bool(marks))
            )
        elif len(kept) < len(expression):
            commands.append({"replace": {"rule": {**place, "expr": kept or [{"counter": None}]}}})
    return commands, doubts


def _limited(listing: t.Iterable[dict[str, t.Any]]) -> frozenset[str]:
    """The sets and maps that hold limits, by their names in any table."""
    held = (value for item in listing for kind, value in item.items() if kind in ("set", "map"))
    return frozenset(
        f"@{value['name']}" for value in held if _LIMITS & set(_words((value.get("stmt"), value.get("elem"))))
    )


def _words(value: t.Any) -> t.Iterator[str]:
    """The keys of an object and of all that it holds."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _words(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _words(inner)


def _nft_sets_marks(rules: t.Iterable[dict[str, t.Any]]) -> bool:
    """Whether rules that are not in doubt themselves set marks."""
    setting = [rule["expr"] for rule in rules if any(map(_marks, rule["expr"]))]
    known = Known(marks=True)
    return bool(setting) and not any(
        True for expression in setting for statement in expression for _reason in _reasons(statement, known)
    )


def _marks(statement: Statement) -> bool:
    key = statement.get("mangle", {}).get("key", {})
    return isinstance(key, dict) and any(key.get(kind, {}).get("key") == "mark" for kind in ("meta", "ct"))


def _left_out(statement: Statement) -> bool:
    return "set" in statement or "meter" in statement or "dup" in statement


def _reasons(statement: t.Any, known: Known) -> t.Iterator[str]:
    """What of a statement one packet cannot show."""
    if not isinstance(statement, dict):
        return
    ((kind, value),) = statement.items()
    if kind in _LIMITS or kind in _OUTSIDE:
        yield kind
    elif kind in ("set", "meter"):
        inner = value.get("stmt", [])
        for item in inner if isinstance(inner, list) else [inner]:
            yield from _reasons(item, known)
    elif kind == "match":
        yield from _in_expression(value["left"], known)
        yield from _in_expression(value["right"], known)
    elif kind in ("vmap", "mangle", "dnat", "snat", "redirect", "masquerade") and isinstance(value, dict):
        for name, part in value.items():
            if not (kind == "mangle" and name == "key"):
                yield from _in_expression(part, known)


def _in_expression(value: t.Any, known: Known) -> t.Iterator[str]:
    """What of an expression one packet cannot show."""
    if isinstance(value, str) and value in known.limited:
        yield "a limit of an element of the set"
    if isinstance(value, list):
        for item in value:
            yield from _in_expression(item, known)
        return
    if not isinstance(value, dict):
        return
    for kind, inner in value.items():
        if kind in ("meta", "ct") and isinstance(inner, dict):
            key = inner.get("key", "")
            if key == "mark":
                if not known.marks:
                    yield _SET_ELSEWHERE
            elif key == "skuid":
                if not known.user:
                    yield _WHO_SENDS
            elif key.split()[-1] not in (_META if kind == "meta" else _CT):
                yield f"{kind} {key}"
        elif kind == "payload" and isinstance(inner, dict):
            if inner.get("protocol") == "ether":
                yield "the hardware address of the far end"
            elif inner.get("field") == "length" or inner.get("base") == "ih":
                yield "what the packet carries"
        elif kind in ("numgen", "socket", "osf", "jhash", "symhash"):
            yield kind
        elif kind not in _CERTAIN:
            yield from _in_expression(inner, known)


def _nft_harmless(listing: t.Sequence[dict[str, t.Any]]) -> frozenset[tuple[str, str, str]]:
    """The chains in which nothing is decided: those that only log."""
    chains: dict[tuple[str, str, str], list[list[Statement]]] = {}
    for item in listing:
        if "chain" in item and "hook" not in item["chain"]:
            chains[item["chain"]["family"], item["chain"]["table"], item["chain"]["name"]] = []
        elif "rule" in item:
            rule = item["rule"]
            held = chains.get((rule["family"], rule["table"], rule["chain"]))
            if held is not None:
                held.append(rule["expr"])
    quiet = frozenset(("match", "log", "counter", "limit", "return", "comment"))
    return frozenset(
        key
        for key, expressions in chains.items()
        if all(kind in quiet for expression in expressions for statement in expression for kind in statement)
    )
