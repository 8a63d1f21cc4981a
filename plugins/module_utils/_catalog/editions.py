# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Agora published for one SDK from one date on; which of it is in force on a day, and what changed."""

from __future__ import annotations

import datetime
import re
import typing as t
from dataclasses import dataclass

from .._model.domains import normalise
from .._model.messages import Problem, RequestError
from .._model.ports import PortSet

__all__ = [
    "Difference",
    "Edition",
    "Listing",
    "RevisionError",
    "catalog_data",
    "difference",
    "differences",
    "in_force",
    "latest_revision",
    "parse_revision",
    "successors",
]

_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class RevisionError(ValueError):
    """A text that selects no revision of the catalog; the message quotes it and says what is legal."""


@dataclass(frozen=True)
class Edition:
    """One SDK's list as Agora published it from `effective_from` (an ISO date) on.

    `udp_duplex` holds the ports that need both directions, `udp` the other listed ones. With `udp_downstream` the SDK
    also takes simplex downstream ports: the list does not number them, the request does.
    `domains` are as published, in the document's order. `source` is repository, path and commit.
    """

    effective_from: str
    source: str
    tcp: PortSet
    udp: PortSet
    udp_duplex: PortSet = PortSet()
    udp_downstream: bool = False
    domains: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """All editions of one SDK, the oldest first.

    `withdrawn` is the date from which Agora publishes no list, `instead` what it offers since.
    """

    sdk: str
    title: str
    editions: tuple[Edition, ...]
    withdrawn: str | None = None
    instead: str = ""


@dataclass(frozen=True)
class Difference:
    """What one edition has and another has not; UDP ports include the duplex ones."""

    tcp_added: PortSet
    tcp_removed: PortSet
    udp_added: PortSet
    udp_removed: PortSet
    domains_added: tuple[str, ...]
    domains_removed: tuple[str, ...]

    def data(self) -> dict[str, list[str]]:
        """The form in which modules return it."""
        return {
            "tcp_added": self.tcp_added.texts(),
            "tcp_removed": self.tcp_removed.texts(),
            "udp_added": self.udp_added.texts(),
            "udp_removed": self.udp_removed.texts(),
            "domains_added": list(self.domains_added),
            "domains_removed": list(self.domains_removed),
        }

    def __str__(self) -> str:
        """One line: `tcp +9700, 25000; udp -4000-4030; domains +ap1.agora.io -vocs.agora.io`."""
        parts = []
        for what, added, removed in (
            ("tcp", str(self.tcp_added), str(self.tcp_removed)),
            ("udp", str(self.udp_added), str(self.udp_removed)),
            ("domains", ", ".join(self.domains_added), ", ".join(self.domains_removed)),
        ):
            signed = [sign + texts for sign, texts in (("+", added), ("-", removed)) if texts]
            if signed:
                parts.append(" ".join([what, *signed]))
        return "; ".join(parts) or "same ports and domains"


def in_force(listing: Listing, revision: str) -> Edition | None:
    """The edition in force on a day (an ISO date); None before the first one and from the withdrawal on."""
    if listing.withdrawn and revision >= listing.withdrawn:
        return None
    published = [edition for edition in listing.editions if edition.effective_from <= revision]
    return published[-1] if published else None


def successors(listing: Listing, edition: Edition) -> tuple[Edition, ...]:
    """The editions that came after this one, the oldest first."""
    return tuple(later for later in listing.editions if later.effective_from > edition.effective_from)


def _dates(catalog: t.Mapping[str, Listing]) -> list[str]:
    return [edition.effective_from for listing in catalog.values() for edition in listing.editions]


def latest_revision(catalog: t.Mapping[str, Listing]) -> str:
    """The date of the catalog's newest edition; no clock is read."""
    return max(_dates(catalog))


def parse_revision(text: str, catalog: t.Mapping[str, Listing]) -> str:
    """The ISO date that a revision stands for: itself, or the newest edition's for `latest`. Raises RevisionError."""
    text = text.strip()
    if text == "latest":
        return latest_revision(catalog)
    first = min(_dates(catalog))
    legal = f"a revision is 'latest' or a date from {first} on, written YYYY-MM-DD"
    if not _ISO_DATE.fullmatch(text):
        raise RevisionError(f"{text!r} is not a date; {legal}")
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise RevisionError(f"{text!r} is not in the calendar; {legal}") from None
    if text < first:
        raise RevisionError(f"{text!r} lies before Agora's first list in the catalog; {legal}")
    return text


def difference(old: Edition, new: Edition) -> Difference:
    """What the new edition adds and removes; a mere change of notation (`*.agora.io`, `.agora.io`) is none."""
    old_udp, new_udp = old.udp | old.udp_duplex, new.udp | new.udp_duplex
    old_domains, new_domains = [[normalise(name) for name in edition.domains] for edition in (old, new)]
    return Difference(
        tcp_added=new.tcp - old.tcp,
        tcp_removed=old.tcp - new.tcp,
        udp_added=new_udp - old_udp,
        udp_removed=old_udp - new_udp,
        domains_added=tuple(name for name in new_domains if name not in old_domains),
        domains_removed=tuple(name for name in old_domains if name not in new_domains),
    )


def differences(catalog: t.Mapping[str, Listing], since: str, until: str) -> dict[str, Difference]:
    """What changed for each SDK between two revisions; SDKs without a change are left out.

    An SDK without a list at one of them counts as having an empty one there. Raises RequestError.
    """
    days = []
    problems = []
    for where, text in (("since", since), ("revision", until)):
        try:
            days.append(parse_revision(text, catalog))
        except RevisionError as error:
            problems.append(Problem(where, str(error)))
    if problems:
        raise RequestError(problems)
    empty = Edition("", "", PortSet(), PortSet())
    found = {}
    for sdk, listing in catalog.items():
        old, new = (in_force(listing, day) or empty for day in days)
        change = difference(old, new)
        if any(change.data().values()):
            found[sdk] = change
    return found


def catalog_data(catalog: t.Mapping[str, Listing]) -> dict[str, dict[str, t.Any]]:
    """The whole catalog in the form in which module `catalog_info` returns it."""
    return {
        sdk: {
            "title": listing.title,
            "withdrawn": listing.withdrawn,
            "instead": listing.instead,
            "editions": [
                {
                    "effective_from": edition.effective_from,
                    "source": edition.source,
                    "tcp": edition.tcp.texts(),
                    "udp": edition.udp.texts(),
                    "udp_duplex": edition.udp_duplex.texts(),
                    "udp_downstream": edition.udp_downstream,
                    "domains": list(edition.domains),
                    "notes": list(edition.notes),
                }
                for edition in listing.editions
            ],
        }
        for sdk, listing in catalog.items()
    }
