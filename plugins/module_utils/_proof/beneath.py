# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules beneath an interface: of a bridge, of the door of a device whose packets go on to another interface, of IPsec.

In the copy each interface has a cable of its own and nothing lies beneath it, so that none of these rules is met there.
"""

from __future__ import annotations

import re
import typing as t

from .._backends.contract import nft_items
from .doubt import Doubt
from .rulesets import Piece, run

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .network import Network

__all__ = ["read_beneath"]

_DOORS = re.compile(r"^\t\ttype filter hook (?:in|e)gress devices? (?:= )?(\{[^}]*\}|\S+)", re.MULTILINE)
_NAME = re.compile(r'[^\s{},"]+')
# What a table that only counts and lets through does not say.
_DECIDES = re.compile(r"\b(?:drop|reject|jump|goto|vmap|queue|fwd|dup)\b")

# Stops what crosses these interfaces.
_STOP = """
table inet openagora_beneath {{
    chain in {{ type filter hook prerouting priority -500; iifname {{ {0} }} drop; }}
    chain out {{ type filter hook postrouting priority 500; oifname {{ {0} }} drop; }}
}}
"""


def read_beneath(host: Host, network: Network, pieces: t.Sequence[Piece]) -> tuple[Piece | None, list[Doubt]]:
    """What stands in for the rules beneath interfaces at their worst, and these rules. Raises BackendError."""
    crossed: set[str] = set()
    doubts = []
    for name, text, bearers in (*_doors(network, pieces), *_bridges(host, network)):
        if bearers and _DECIDES.search(text):
            crossed |= bearers
            what = f"what lies beneath {', '.join(sorted(bearers))}"
            doubts.append(Doubt(f"nft {name}", "all rules of the table", what))
    policies = host.run(["ip", "xfrm", "policy"])
    if policies.code == 0 and policies.out.strip():
        crossed |= {link.name for link in network.links if link.name != "lo"}
        doubts.append(Doubt("IPsec", "all policies (ip xfrm policy)", "what IPsec does with a packet"))
    names = ", ".join(f'"{name}"' for name in sorted(crossed))
    return (Piece("nft", _STOP.format(names), "inet openagora_beneath") if crossed else None), doubts


def _doors(network: Network, pieces: t.Iterable[Piece]) -> t.Iterator[tuple[str, str, set[str]]]:
    for piece in pieces:
        if piece.tool == "nft":
            devices = {name for found in _DOORS.findall(piece.text) for name in _NAME.findall(found)}
            yield piece.name, piece.text, network.above(devices)


def _bridges(host: Host, network: Network) -> t.Iterator[tuple[str, str, set[str]]]:
    bridges = {link.name for link in network.links if link.kind == "bridge"}
    if bridges and host.which("nft"):
        for item in nft_items(run(host, ["nft", "-j", "list", "tables"])):
            table = item.get("table", {})
            if table.get("family") == "bridge":
                yield (
                    f"bridge {table['name']}",
                    run(host, ["nft", "-s", "list", "table", "bridge", table["name"]]),
                    bridges,
                )
