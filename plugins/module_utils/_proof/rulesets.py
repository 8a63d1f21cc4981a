# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live rules of every owner, read from the host and loaded into a private copy."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from .._backends.contract import BackendError
from .._backends.nftables import kept_by_iptables, parse_listing

if t.TYPE_CHECKING:
    from .._backends.contract import Host

__all__ = ["Piece", "load", "read_rules"]

# What the kernel lists of legacy tables; looking at one that is not there would create it.
_LEGACY = {"iptables": "/proc/net/ip_tables_names", "ip6tables": "/proc/net/ip6_tables_names"}
_NFT_FAMILIES = ("inet", "ip", "ip6", "netdev")
# A table that a program owns is as good without it in the copy.
_OWNED = re.compile(r"^\tflags (?=.*\b(?:owner|persist)\b)(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """Rules in the words of one command: `tool` is `nft`, `ipset`, or that which belongs to a pair of iptables commands.

    `name` is the table of nft, `text` what the command reads.
    """

    tool: str
    text: str
    name: str = ""

    @property
    def command(self) -> list[str]:
        """What reads the text, from standard input."""
        if self.tool == "nft":
            return ["nft", "-f", "-"]
        if self.tool == "ipset":
            return ["ipset", "restore"]
        return [f"{self.tool}-restore"]

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
        pieces.append(Piece("ipset", _run(host, ["ipset", "save"])))
    if host.which("nft"):
        pieces += _nft_tables(host)
    for command in ("iptables", "ip6tables"):
        pieces += _save_formats(host, command)
    return tuple(piece for piece in pieces if piece.text.strip())


def _run(host: Host, argv: list[str]) -> str:
    outcome = host.run(argv)
    if outcome.code != 0:
        raise BackendError(f"{' '.join(argv)} failed: {outcome.err.strip()}")
    return outcome.out


def _nft_tables(host: Host) -> t.Iterator[Piece]:
    tables = parse_listing(_run(host, ["nft", "-j", "-t", "list", "ruleset"]))
    for table in tables.values():
        if table.family in _NFT_FAMILIES and not kept_by_iptables(host, table):
            text = _run(host, ["nft", "-s", "list", "table", table.family, table.name])
            yield Piece("nft", _OWNED.sub(_disowned, text), table.id)


def _disowned(flags: re.Match[str]) -> str:
    kept = [flag for flag in re.split(r"\s*,\s*", flags[1]) if flag not in ("owner", "persist")]
    return f"\tflags {', '.join(kept)}" if kept else ""


def _save_formats(host: Host, command: str) -> t.Iterator[Piece]:
    """What the nft and the legacy variant of a command hold, under whichever name the host has them."""
    default = ""
    if host.which(f"{command}-save"):
        default = "nft" if "nf_tables" in host.run([command, "--version"]).out else "legacy"
    legacy = bool((host.read(_LEGACY[command]) or "").strip())
    for variant, wanted in (("nft", True), ("legacy", legacy)):
        tool = next((name for name in (f"{command}-{variant}",) if host.which(f"{name}-save")), "")
        tool = tool or (command if default == variant else "")
        if wanted and tool:
            yield Piece(tool, _run(host, [f"{tool}-save"]))
        elif wanted and variant == "legacy":
            raise BackendError(
                f"{_LEGACY[command]} lists tables, and no command can read them; install {command}-legacy "
                "(package iptables)"
            )


def load(host: Host, pieces: t.Iterable[Piece]) -> None:
    """Load rules into the namespace that this process is in. Raises BackendError, which names the table and the line."""
    for piece in pieces:
        outcome = host.run(piece.command, stdin=piece.text)
        if outcome.code != 0:
            raise BackendError(_refusal(piece, outcome.err))


def _refusal(piece: Piece, message: str) -> str:
    found = re.search(r"(?:stdin:|line[: ]+)(\d+)", message)
    lines = piece.text.splitlines()
    number = int(found[1]) if found else 0
    where = f"line {number}, {lines[number - 1].strip()!r}" if 0 < number <= len(lines) else "no line is named"
    what = (
        f"table {piece.name} of nft"
        if piece.tool == "nft"
        else f"what {piece.command[0].replace('restore', 'save')} prints"
    )
    says = " ".join(message.split())
    return (
        f"a private copy of the live rules cannot be made: {what} does not load, {where}: {says}. "
        f"Write that rule another way, or update the package of {piece.command[0]}"
    )
