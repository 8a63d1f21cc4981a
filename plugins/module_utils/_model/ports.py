# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of ports, held as the fewest ranges, with exact algebra over 1-65535."""

from __future__ import annotations

import itertools
import re
import typing as t
from bisect import bisect_right
from dataclasses import dataclass

__all__ = ["HIGHEST", "LOWEST", "PortError", "PortSet"]

LOWEST = 1
HIGHEST = 65535

# Agora's pages write lists and ranges in ASCII, in full-width forms (U+FF01 to U+FF5E mirror ASCII) and with dashes.
_PLAIN = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-"),
    ord("\u301c"): "~",  # wave dash
    ord("\u3001"): ",",  # ideographic comma
}
# The other patterns take time by the square of the blanks in a row.
_MORE_BLANKS = re.compile(r"(?<=\s)\s+")
_BETWEEN_ITEMS = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
# A leading zero is refused because iptables would read 010 as 8.
_ITEM = re.compile(r"(0|[1-9][0-9]*)(?:(?:\s*[-~]\s*|\s+to\s+)(0|[1-9][0-9]*))?", re.IGNORECASE)


class PortError(ValueError):
    """A port, or a range of ports, that cannot be; the message names it and says what is legal."""


def _number(digits: str) -> int:
    # int() refuses very long texts with an error of its own.
    return int(digits) if len(digits) <= 5 else HIGHEST + 1


def _check(low: int, high: int, shown: object) -> None:
    if not (LOWEST <= low <= HIGHEST and LOWEST <= high <= HIGHEST):
        raise PortError(f"{shown}: ports are {LOWEST}-{HIGHEST}")
    if low > high:
        raise PortError(f"{shown}: a range begins with its lower port, as in {high}-{low}")


def _merge(ranges: t.Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


@dataclass(frozen=True, order=True)
class PortSet:
    """A set of ports as sorted, disjoint, non-adjacent ranges; equal sets are equal objects.

    Sets are ordered by their ranges. Ranges given to the constructor must have that form already (else PortError);
    `of` and `parse` take any.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for low, high in self.ranges:
            _check(low, high, f"{low}-{high}")
        if self.ranges != _merge(self.ranges):
            raise PortError(f"{self.ranges}: ranges must be sorted and apart from each other; PortSet.of makes them so")

    @classmethod
    def of(cls, *items: int | tuple[int, int]) -> PortSet:
        """The set of these ports and `(low, high)` ranges, in any order, overlapping or not. Raises PortError."""
        ranges = [(item, item) if isinstance(item, int) else item for item in items]
        for low, high in ranges:
            _check(low, high, low if low == high else f"{low}-{high}")
        return cls(_merge(ranges))

    @classmethod
    def union(cls, sets: t.Iterable[PortSet]) -> PortSet:
        """The ports of all these sets."""
        return cls(_merge(pair for ports in sets for pair in ports.ranges))

    @classmethod
    def parse(cls, text: str) -> PortSet:
        """Read a list in any notation that Agora uses: `80, 443；5866-5890 and 10000 ~ 65535`.

        Items stand between commas, semicolons (full-width ones too) or "and"; a range has a dash, a tilde or "to".
        Raises PortError, which names the item and, in a list, its position.
        """
        plain = _MORE_BLANKS.sub("", text.strip()).translate(_PLAIN)
        if not plain:
            raise PortError("is empty; a port or a range of ports is needed, as in 80, 5668-5669")
        items = _BETWEEN_ITEMS.split(plain)
        ranges = []
        for position, item in enumerate(items, start=1):
            shown = repr(item) if len(items) == 1 else f"item {position}, {item!r}"
            match = _ITEM.fullmatch(item)
            if not match:
                raise PortError(f"{shown} is not a port or a range of ports such as 5668-5669")
            low = _number(match[1])
            high = _number(match[2]) if match[2] else low
            _check(low, high, shown)
            ranges.append((low, high))
        return cls.of(*ranges)

    def __or__(self, other: PortSet) -> PortSet:
        return PortSet.union((self, other))

    def __and__(self, other: PortSet) -> PortSet:
        return self - (self - other)

    def __sub__(self, other: PortSet) -> PortSet:
        left = []
        cuts = iter((*other.ranges, (HIGHEST + 1, HIGHEST + 1)))
        cut_low, cut_high = next(cuts)
        for low, high in self.ranges:
            while cut_high < low:
                cut_low, cut_high = next(cuts)
            while cut_low <= high:
                if low < cut_low:
                    left.append((low, cut_low - 1))
                low = cut_high + 1
                if low > high:
                    break
                cut_low, cut_high = next(cuts)
            if low <= high:
                left.append((low, high))
        return PortSet(tuple(left))

    def __contains__(self, port: object) -> bool:
        if not isinstance(port, int):
            return False
        index = bisect_right(self.ranges, (port, HIGHEST)) - 1
        return index >= 0 and port <= self.ranges[index][1]

    def __iter__(self) -> t.Iterator[int]:
        return itertools.chain.from_iterable(range(low, high + 1) for low, high in self.ranges)

    def __len__(self) -> int:
        """How many ports, not how many ranges."""
        return sum(high - low + 1 for low, high in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def texts(self) -> list[str]:
        """The ranges as texts: `["80", "5668-5669"]`."""
        return [str(low) if low == high else f"{low}-{high}" for low, high in self.ranges]

    def __str__(self) -> str:
        return ", ".join(self.texts())

    def chunks(self, slots: int = 15) -> tuple[PortSet, ...]:
        """The set in the fewest parts that fit a match with so many slots (at least 2).

        multiport has 15 slots, a range takes two of them; iptables-extensions(8).
        """
        if slots < 2:
            raise ValueError(f"{slots} slots cannot hold a range, which takes two")
        singles = [piece for piece in self.ranges if piece[0] == piece[1]]
        ranges = [piece for piece in self.ranges if piece[0] != piece[1]]
        parts = []
        while ranges or singles:
            # What takes two slots goes first; single ports fill what is left over.
            part, ranges = ranges[: slots // 2], ranges[slots // 2 :]
            room = slots - 2 * len(part)
            part, singles = part + singles[:room], singles[room:]
            parts.append(PortSet.of(*part))
        return tuple(sorted(parts))
