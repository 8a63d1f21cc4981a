# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live rules of every owner, read from the host and loaded into a private copy."""

from __future__ import annotations

import functools
import json
import re
import typing as t
from dataclasses import dataclass, replace

from .._backends.contract import MARK, BackendError, nft_items
from .._backends.iptables import chains_alone
from .._backends.nftables import kept_by_iptables, parse_listing
from .doubt import HIDDEN, PASSING, VARIANTS, in_nft, in_save_format

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .._backends.nftables import Table
    from .doubt import Doubt

__all__ = ["Piece", "Rules", "feed", "read_rules", "run", "settled"]

T = t.TypeVar("T")

# Of a message or a line, which may hold all elements of a set.
_LONGEST = 300
# What the kernel lists of legacy tables; looking at one that is not there would create it.
_LEGACY = {"iptables": "/proc/net/ip_tables_names", "ip6tables": "/proc/net/ip6_tables_names"}
_NFT_FAMILIES = ("inet", "ip", "ip6", "netdev")
_IP_FAMILIES = {"ip": ("ipv4", "iptables"), "ip6": ("ipv6", "ip6tables")}
_HANDLE = re.compile(r"^(.*) # handle (\d+)$", re.MULTILINE)
_EXTENSION = re.compile(r'\bxt (?:match|target) "?([\w-]+)"? ?')
_NO_LIBRARY = re.compile(r"^XT (?:match|target) (\S+) not found$", re.MULTILINE)
# Extensions that nft translates, when it has their libraries, to words that say the same.
_TRANSLATED = frozenset(
    (
        "addrtype",
        "comment",
        "conntrack",
        "icmp",
        "icmp6",
        "iprange",
        "multiport",
        "owner",
        "state",
        "tcp",
        "udp",
        "DNAT",
        "MASQUERADE",
        "REDIRECT",
        "REJECT",
        "SNAT",
    )
)
# The state of connection that nft leaves out where the rule asks for a translated one, too.
_HALF = re.compile(r"\bct status\b")
_COMMENT = re.compile(r' comment "[^"]*"$')
# A table that a program owns is as good without it in the copy.
_OWNED = re.compile(r"^\tflags (?=.*\b(?:owner|persist)\b)(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """Rules in the words of one command.

    `tool` is `nft`, `ipset`, or such as `iptables-nft`; `name` is the table of nft, `text` what the command reads.
    `more`: it comes to what is in the table, and does not replace it.
    """

    tool: str
    text: str
    name: str = ""
    more: bool = False

    @property
    def command(self) -> list[str]:
        """What reads the text, from standard input."""
        if self.tool == "nft":
            return ["nft", "-f", "-"]
        if self.tool == "ipset":
            return ["ipset", "restore"]
        return [f"{self.tool}-restore", *(["--noflush"] if self.more else [])]

    @property
    def is_iptables(self) -> bool:
        """Whether the text is in the save format of iptables."""
        return self.tool not in ("nft", "ipset")


def read_rules(host: Host) -> tuple[Piece, ...]:
    """All rules that are live on the host, in the order in which they can be loaded. Raises BackendError."""
    if not any(map(host.which, ("nft", "iptables-save", "iptables-nft-save", "iptables-legacy-save"))):
        raise BackendError(
            "neither nft nor iptables-save is installed on this host, so its rules cannot be read; install nftables "
            "or iptables"
        )
    pieces = []
    if host.which("ipset"):
        pieces.append(Piece("ipset", run(host, ["ipset", "save"])))
    kept: dict[str, list[str]] | None = None
    if host.which("nft"):
        native, kept = _nft_tables(host)
        pieces += native
    for _family, command in _IP_FAMILIES.values():
        pieces += _save_formats(host, command, None if kept is None else kept[command])
    return tuple(piece for piece in pieces if piece.text.strip())


def settled(read: t.Callable[[], T]) -> T:
    """What a reading of several commands gives; once more where it fails, as when a table goes meanwhile."""
    try:
        return read()
    except BackendError:
        return read()


def run(host: Host, argv: list[str]) -> str:
    """What a command prints. Raises BackendError when it fails."""
    outcome = host.run(argv)
    if outcome.code != 0:
        raise BackendError(f"{' '.join(argv)} failed: {outcome.err.strip()}")
    return outcome.out


def _nft_tables(host: Host) -> tuple[list[Piece], dict[str, list[str]]]:
    """The tables of nft, and by their commands the names of those that iptables keeps."""
    # Without the rules, of which there may be many.
    kinds = ("tables", "chains", "sets")
    items = [item for kind in kinds for item in nft_items(run(host, ["nft", "-j", "-t", "list", kind]))]
    pieces: list[Piece] = []
    kept: dict[str, list[str]] = {command: [] for _family, command in _IP_FAMILIES.values()}
    for table in parse_listing(json.dumps({"nftables": items})).values():
        if table.family in _IP_FAMILIES:
            family, command = _IP_FAMILIES[table.family]
            # An extension can stand in any of them.
            listing = run(host, ["nft", "-j", "list", "table", table.family, table.name])
            (whole,) = parse_listing(listing).values()
            if kept_by_iptables(host, whole):
                kept[command].append(table.name)
                continue
            pieces += _mixed(host, whole, listing, family, command)
        elif table.family in _NFT_FAMILIES:
            text = run(host, ["nft", "-s", "list", "table", table.family, table.name])
            pieces.append(Piece("nft", _OWNED.sub(_disowned, text), table.id))
    return pieces, kept


def _mixed(host: Host, table: Table, listing: str, family: str, command: str) -> t.Iterator[Piece]:
    """A table in which iptables may have rules, too: as nft lists it, and chains of ours as iptables does."""
    rules = [item["rule"] for item in nft_items(listing) if "rule" in item]
    extended = {str(rule["handle"]): rule["expr"] for rule in rules if any("xt" in part for part in rule["expr"])}
    argv = ["nft", "-s", *(["-a"] if extended else []), "list", "table", table.family, table.name]
    outcome = host.run(argv)
    if outcome.code != 0:
        raise BackendError(f"{' '.join(argv)} failed: {outcome.err.strip()}")
    ours = ""
    if table.name == "filter" and any(name.startswith(f"{MARK}-") for name in table.chains):
        ours = chains_alone(host, family)
    text = outcome.out
    if extended:
        missing = frozenset(_NO_LIBRARY.findall(outcome.err))
        text = _HANDLE.sub(functools.partial(_without_extensions, extended, missing), text)
    if ours:
        text = re.sub(rf"^(\tchain {MARK}-\S+ \{{\n)(?:\t\t.*\n)*", r"\1", text, flags=re.MULTILINE)
    yield Piece("nft", _OWNED.sub(_disowned, text), table.id)
    if ours:
        yield Piece(f"{command}-nft" if host.which(f"{command}-nft-restore") else command, ours, more=True)


def _without_extensions(extended: dict[str, list[t.Any]], missing: frozenset[str], line: re.Match[str]) -> str:
    """A line of a listing without its handle; a rule with extensions without them, and marked as one in doubt.

    nft lists what it cannot translate as `xt match NAME`, which cannot be loaded, or leaves it out without a word when
    it has no library for it (`missing`, which it told). Before 1.0 it has no names, and its translations are not sure.
    """
    text, handle = line.groups()
    if not text.startswith("\t\t") or handle not in extended:
        return text
    text = _COMMENT.sub("", text)
    names = [(statement["xt"] or {}).get("name", "") for statement in extended[handle] if "xt" in statement]
    told = _EXTENSION.findall(text)
    half = "conntrack" in names and _HALF.search(text)
    sure = frozenset() if half or "" in names else _TRANSLATED - missing
    doubtful = [name or "an extension" for name in names if name not in PASSING and (name in told or name not in sure)]
    doubtful = [name for name in dict.fromkeys(doubtful) if name != "comment"]
    if all(name in told or name in missing or name in PASSING or name in sure for name in names):
        text = _EXTENSION.sub("", text)
    else:
        # A translation that is not sure may say less than the rule, or something else.
        text = f"\t\tcounter{_verdict(extended[handle])}"
    text = text.rstrip()
    return f'{text} comment "{HIDDEN}{", ".join(doubtful)}"' if doubtful else text


def _verdict(rule: list[dict[str, t.Any]]) -> str:
    """How a rule ends, in nft's words, after a blank; empty where an extension ends it, or nothing does."""
    ((kind, value),) = rule[-1].items()
    if kind in ("jump", "goto"):
        return f" {kind} {value['target']}"
    return f" {kind}" if kind in ("accept", "drop", "return") else ""


def _disowned(flags: re.Match[str]) -> str:
    kept = [flag for flag in re.split(r"\s*,\s*", flags[1]) if flag not in ("owner", "persist")]
    return f"\tflags {', '.join(kept)}" if kept else ""


def _save_formats(host: Host, command: str, kept: list[str] | None) -> t.Iterator[Piece]:
    """What the nft and the legacy variant of a command hold, under whichever name the host has them.

    `kept` are the tables of the nft variant; None where nft is not there to tell.
    """
    default = ""
    if host.which(f"{command}-save"):
        default = "nft" if "nf_tables" in host.run([command, "--version"]).out else "legacy"
    legacy = bool((host.read(_LEGACY[command]) or "").strip())
    for variant, wanted in (("nft", True), ("legacy", legacy)):
        tool = next((name for name in (f"{command}-{variant}",) if host.which(f"{name}-save")), "")
        tool = tool or (command if default == variant else "")
        if wanted and tool:
            named = [[]] if kept is None or variant == "legacy" else [["-t", name] for name in kept]
            yield Piece(tool, "".join(run(host, [f"{tool}-save", *words]) for words in named))
        elif wanted and variant == "legacy":
            raise BackendError(
                f"{_LEGACY[command]} lists tables, and no command can read them; install {command}-legacy "
                "(package iptables)"
            )


class Rules:
    """The rules of a host, in the namespace that this process is in.

    `user`: whether it is known who sends; `steered`: whether a mark decides on the way. `beneath` are rules of which
    the copy has none, and what stands in for them at their worst. `doubts` are the rules whose verdict one packet
    cannot show.
    """

    def __init__(
        self,
        host: Host,
        pieces: tuple[Piece, ...],
        beneath: tuple[Piece | None, list[Doubt]],
        *,
        user: bool,
        steered: bool,
    ) -> None:
        self.doubts: list[Doubt] = []
        self._host = host
        self._pieces = pieces
        self._beneath, self._hidden = beneath
        self._user = user
        self._steered = steered

    @property
    def tools(self) -> tuple[str, ...]:
        """Whose rules there are."""
        return tuple(dict.fromkeys(piece.tool for piece in self._pieces))

    def load(self, variant: str) -> None:
        """Load the rules; of those in doubt this variant. Raises BackendError, which names table and line."""
        self.doubts = list(self._hidden)
        again = [piece for piece in self._pieces if piece.tool == "ipset"] if variant == VARIANTS[0] else []
        native = [piece for piece in self._pieces if piece.tool == "nft"]
        if native or self._beneath:
            feed(self._host, Piece("nft", "flush ruleset\n"))
        for piece in (*again, *native):
            feed(self._host, piece)
        if native:
            self._settle_doubts(variant)
        if self._beneath and variant == VARIANTS[0]:
            feed(self._host, self._beneath)
        sets = bool(self._host.which("ipset"))
        for piece in self._pieces:
            if piece.is_iptables:
                text, doubts = in_save_format(
                    piece.text, piece.tool, user=self._user, sets=sets, steered=self._steered, variant=variant
                )
                self.doubts += doubts
                feed(self._host, replace(piece, text=text))

    def _settle_doubts(self, variant: str) -> None:
        listing = nft_items(run(self._host, ["nft", "-j", "list", "ruleset"]))
        commands, doubts = in_nft(listing, user=self._user, steered=self._steered, variant=variant)
        texts = self.nft_texts() if doubts else {}
        self.doubts += [replace(doubt, rule=texts.get(doubt.rule, doubt.rule)) for doubt in doubts]
        if commands:
            outcome = self._host.run(["nft", "-j", "-f", "-"], stdin=json.dumps({"nftables": commands}))
            if outcome.code != 0:
                raise BackendError(f"a private copy of the live rules cannot be made: nft says {outcome.err.strip()}")

    def nft_texts(self) -> dict[str, str]:
        """What the rules of nft say, by table and handle (`inet filter 7`)."""
        texts = {}
        table = ""
        for line in run(self._host, ["nft", "-s", "-a", "list", "ruleset"]).splitlines():
            if line.startswith("table "):
                table = " ".join(line.split()[1:3])
            elif line.startswith("\t\t") and " # handle " in line:
                text, _hash, handle = line.strip().rpartition(" # handle ")
                texts[f"{table} {handle}"] = text.partition(f' comment "{HIDDEN}')[0]
        return texts


def feed(host: Host, piece: Piece) -> None:
    """Load rules as they are. Raises BackendError, which names table and line."""
    outcome = host.run(piece.command, stdin=piece.text)
    if outcome.code != 0:
        raise BackendError(_refusal(piece, outcome.err))


def _refusal(piece: Piece, message: str) -> str:
    found = re.search(r"(?:stdin:|line[: ]+)(\d+)", message)
    lines = piece.text.splitlines()
    number = int(found[1]) if found else 0
    where = (
        f"line {number}, {lines[number - 1].strip()[:_LONGEST]!r}" if 0 < number <= len(lines) else "no line is named"
    )
    what = (
        f"table {piece.name} of nft"
        if piece.tool == "nft"
        else f"what {piece.command[0].replace('restore', 'save')} prints"
    )
    says = " ".join(message.split())[:_LONGEST]
    return (
        f"a private copy of the live rules cannot be made: {what} does not load, {where}: {says}. "
        f"Write that rule another way, or update the package of {piece.command[0]}"
    )
