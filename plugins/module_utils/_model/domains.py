# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of domain names for the allowlist; a suffix `.agora.io` holds the name itself and every name below it."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

__all__ = ["DomainError", "DomainSet", "normalise"]

# Host names: RFC 1123, section 2.1 (letters, digits, hyphens, none at either end); lengths: RFC 1035, section 2.3.4.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_LABEL_LENGTH = 63
_NAME_LENGTH = 253


class DomainError(ValueError):
    """A text that is no domain name or suffix; the message quotes it and says what is wrong."""


def normalise(text: str) -> str:
    """A domain name in the one form in which it is held: lower case, without the root's dot.

    `.agora.io` and `*.agora.io` both become the suffix `.agora.io`. Blanks around the text are dropped.
    Raises DomainError for what is no host name of at least two labels, addresses and single labels (`.com`) included.
    """
    shown = repr(text)
    text = text.strip(" \t")
    if not text:
        raise DomainError("is empty; a domain is needed, as in qos.agoralab.co or .agora.io")
    if not text.isascii():
        raise DomainError(f"{shown} has characters beyond ASCII; write the name in its A-label form (xn--...)")
    text = text.lower()
    dot = "." if text.startswith((".", "*.")) else ""
    name = text[text.index(".") + 1 :] if dot else text
    if name.endswith("."):
        name = name[:-1]
    labels = name.split(".")
    for label in labels:
        if not label:
            raise DomainError(f"{shown} has an empty label (two dots in a row, or nothing but dots)")
        if len(label) > _LABEL_LENGTH:
            raise DomainError(f"{shown} has a label of {len(label)} characters; at most {_LABEL_LENGTH} are legal")
        if not _LABEL.fullmatch(label):
            raise DomainError(
                f"{shown}: {label!r} is not a label of a host name (letters, digits and, not at its ends, hyphens)"
            )
    if len(name) > _NAME_LENGTH:
        raise DomainError(f"{shown} has {len(name)} characters; at most {_NAME_LENGTH} are legal")
    if not labels[-1][0].isalpha():
        raise DomainError(f"{shown} looks like an address; a domain name ends in a label that begins with a letter")
    if len(labels) == 1:
        raise DomainError(f"{shown} is a single label, which would stand for far too much; at least two are needed")
    return dot + name


def _suffixes(name: str) -> t.Iterator[str]:
    """Every suffix that would cover a normalised name or suffix, itself included, the longest first."""
    rest = name.lstrip(".")
    while rest:
        yield "." + rest
        rest = rest.partition(".")[2]


def _minimal(names: t.Iterable[str]) -> tuple[str, ...]:
    given = set(names)
    return tuple(sorted(name for name in given if not any(s in given for s in _suffixes(name) if s != name)))


@dataclass(frozen=True, order=True)
class DomainSet:
    """Names and suffixes without those that another suffix covers, sorted as plain text (so suffixes come first).

    Names given to the constructor must have that form already (else DomainError); `of` takes any.
    """

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.names != _minimal(normalise(name) for name in self.names):
            raise DomainError(f"{self.names}: names must be normalised, minimal and sorted; DomainSet.of makes them so")

    @classmethod
    def of(cls, *names: str) -> DomainSet:
        """The smallest set that covers these names and suffixes. Raises DomainError."""
        return cls(_minimal(normalise(name) for name in names))

    def __or__(self, other: DomainSet) -> DomainSet:
        return DomainSet(_minimal(self.names + other.names))

    def covers(self, name: str) -> bool:
        """Whether a name is on the list; a suffix is when all of it is. Raises DomainError for what is neither."""
        name = normalise(name)
        return name in self.names or any(suffix in self.names for suffix in _suffixes(name))

    def __contains__(self, name: object) -> bool:
        """As `covers`, with False for what is no domain name."""
        try:
            return isinstance(name, str) and self.covers(name)
        except DomainError:
            return False

    def __iter__(self) -> t.Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __bool__(self) -> bool:
        return bool(self.names)
