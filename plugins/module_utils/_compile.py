# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a request ("these SDKs, at this revision") and the catalog to the minimal rule set. Pure."""

from __future__ import annotations

import difflib
import typing as t
from dataclasses import dataclass, field

from ._catalog import CATALOG, DEFAULT_REVISION
from ._catalog.editions import RevisionError, difference, in_force, parse_revision, successors
from ._model.domains import DomainError, DomainSet, normalise
from ._model.messages import Notice, Problem, RequestError
from ._model.ports import PortError, PortSet
from ._model.rules import Rule, RuleSet

if t.TYPE_CHECKING:
    from ._catalog.editions import Edition, Listing

__all__ = ["DEFAULT_RECORDING_PORT_RANGES", "EXTRA", "Compiled", "Request", "compile_request"]

# The range that Agora recommends for recording processes (Firewall Requirements, 2018-11-06, Recording SDK).
DEFAULT_RECORDING_PORT_RANGES = ("40000-41000",)

# The provenance of ports that the request adds itself.
EXTRA = "extra"


@dataclass(frozen=True)
class Request:
    """A valid request: what is wanted, in the model's types."""

    sdks: tuple[str, ...]
    revision: str = DEFAULT_REVISION
    recording_ports: PortSet = field(default_factory=PortSet)
    scope: str = "any"
    extra_ports: tuple[tuple[str, PortSet], ...] = ()
    extra_domains: DomainSet = field(default_factory=DomainSet)

    @classmethod
    def of(
        cls,
        *,
        sdks: t.Sequence[str],
        revision: str = DEFAULT_REVISION,
        recording_port_ranges: t.Sequence[str] = DEFAULT_RECORDING_PORT_RANGES,
        scope: str = "any",
        extra_ports: t.Sequence[str] = (),
        extra_domains: t.Sequence[str] = (),
        catalog: t.Mapping[str, Listing] = CATALOG,
    ) -> Request:
        """Read the options of a request. Raises RequestError with every problem and its position."""
        problems: list[Problem] = []
        day = DEFAULT_REVISION
        try:
            day = parse_revision(revision, catalog)
        except RevisionError as error:
            problems.append(Problem("revision", str(error)))
        request = cls(
            sdks=_read_sdks(sdks, day, catalog, problems),
            revision=day,
            recording_ports=_read_recording_ports(recording_port_ranges, problems),
            scope=scope,
            extra_ports=_read_extra_ports(extra_ports, problems),
            extra_domains=_read_extra_domains(extra_domains, problems),
        )
        if "recording" in request.sdks and not recording_port_ranges:
            problems.append(
                Problem("recording_port_ranges", "is empty, but recording needs a range such as 40000-41000")
            )
        if scope not in ("any", "names"):
            problems.append(Problem("scope", f"{scope!r} is not one of any, names"))
        if problems:
            raise RequestError(problems)
        return request


@dataclass(frozen=True)
class Compiled:
    """What a request comes to."""

    revision: str
    rules: RuleSet
    by_sdk: dict[str, dict[str, t.Any]]
    notices: tuple[Notice, ...]


def _listed(day: str, catalog: t.Mapping[str, Listing]) -> str:
    return ", ".join(sdk for sdk, listing in catalog.items() if in_force(listing, day))


def _no_list(listing: Listing, day: str) -> str:
    first = listing.editions[0].effective_from
    until = f" until {listing.withdrawn}" if listing.withdrawn else ""
    instead = f"; since then Agora offers {listing.instead}" if listing.withdrawn and listing.instead else ""
    return f"{listing.title} had a list from {first}{until}, none on {day}{instead}"


def _read_sdks(
    names: t.Sequence[str], day: str, catalog: t.Mapping[str, Listing], problems: list[Problem]
) -> tuple[str, ...]:
    known = ", ".join(catalog)
    if not names:
        problems.append(
            Problem("sdks", f"is empty or not set; name the SDKs in use. With a list on {day}: {_listed(day, catalog)}")
        )
    sdks = []
    for index, name in enumerate(names):
        sdk = str(name).strip().lower()
        where = f"sdks[{index}]"
        if not sdk:
            problems.append(Problem(where, f"is empty. Known: {known}"))
        elif sdk not in catalog:
            near = difflib.get_close_matches(sdk, catalog, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            problems.append(Problem(where, f"{sdk!r} is not an SDK{hint} Known: {known}"))
        elif in_force(catalog[sdk], day) is None:
            problems.append(Problem(where, _no_list(catalog[sdk], day)))
        else:
            sdks.append(sdk)
    return tuple(sdk for sdk in catalog if sdk in sdks)


def _read_recording_ports(texts: t.Sequence[str], problems: list[Problem]) -> PortSet:
    found = []
    for index, text in enumerate(texts):
        try:
            found.append(PortSet.parse(text))
        except PortError as error:
            problems.append(Problem(f"recording_port_ranges[{index}]", str(error)))
    return PortSet.union(found)


def _read_extra_ports(texts: t.Sequence[str], problems: list[Problem]) -> tuple[tuple[str, PortSet], ...]:
    extra = []
    for index, text in enumerate(texts):
        where = f"extra_ports[{index}]"
        ports, slash, protocol = text.strip().lower().rpartition("/")
        if not slash or protocol not in ("tcp", "udp"):
            problems.append(Problem(where, f"{text!r} needs a protocol, as in 443/tcp or 5000-5010/udp"))
            continue
        try:
            extra.append((protocol, PortSet.parse(ports)))
        except PortError as error:
            problems.append(Problem(where, str(error)))
    return tuple(extra)


def _read_extra_domains(texts: t.Sequence[str], problems: list[Problem]) -> DomainSet:
    names = []
    for index, text in enumerate(texts):
        try:
            names.append(normalise(text))
        except DomainError as error:
            problems.append(Problem(f"extra_domains[{index}]", str(error)))
    return DomainSet.of(*names)


def _rules_of(sdk: str, edition: Edition, request: Request) -> t.Iterator[Rule]:
    """The rules of one SDK.

    Every listed port is egress: the list names the ports of Agora's servers, and the SDK dials out. Only Recording's
    duplex ports are ingress too, and its simplex downstream ports ingress alone.
    """
    yield Rule("egress", "tcp", needs=((sdk, edition.tcp),))
    yield Rule("egress", "udp", needs=((sdk, edition.udp | edition.udp_duplex),))
    downstream = request.recording_ports if edition.udp_downstream else PortSet()
    yield Rule("ingress", "udp", needs=((sdk, edition.udp_duplex | downstream),))


def _published(edition: Edition, request: Request) -> dict[str, t.Any]:
    return {
        "tcp": edition.tcp.texts(),
        "udp": edition.udp.texts(),
        "udp_duplex": edition.udp_duplex.texts(),
        "udp_downstream": request.recording_ports.texts() if edition.udp_downstream else [],
        "domains": list(edition.domains),
        "effective_from": edition.effective_from,
        "source": edition.source,
    }


def _superseded(request: Request, catalog: t.Mapping[str, Listing]) -> t.Iterator[Notice]:
    """One notice for all SDKs of the request whose list Agora has changed or withdrawn since."""
    texts = []
    for sdk in request.sdks:
        listing = catalog[sdk]
        edition = in_force(listing, request.revision)
        later = successors(listing, edition) if edition else ()
        if listing.withdrawn:
            instead = f" ({listing.instead})" if listing.instead else ""
            texts.append(f"{sdk} has no list since {listing.withdrawn}{instead}")
        elif edition and later:
            texts.append(f"{sdk} since {later[0].effective_from} ({difference(edition, later[-1])})")
    if texts:
        message = (
            f"superseded at revision {request.revision}: {'; '.join(texts)}. "
            "revision: latest takes the newest edition in the installed catalog"
        )
        yield Notice("superseded", "revision", message)


def compile_request(request: Request, catalog: t.Mapping[str, Listing] = CATALOG) -> Compiled:
    """The rule set of a request: the union over its SDKs, ports and domains in the fewest entries."""
    editions = {
        sdk: edition for sdk in request.sdks for edition in [in_force(catalog[sdk], request.revision)] if edition
    }
    rules = [rule for sdk, edition in editions.items() for rule in _rules_of(sdk, edition, request)]
    rules += [Rule("egress", protocol, needs=((EXTRA, ports),)) for protocol, ports in request.extra_ports]
    domains = DomainSet.of(*(name for edition in editions.values() for name in edition.domains), *request.extra_domains)
    notices = list(_superseded(request, catalog))
    if request.scope == "names":
        # UDP media goes to bare addresses that never had a name: a rule that follows names would cut it.
        rules = [
            Rule(rule.direction, rule.protocol, "names", domains=domains, needs=rule.needs)
            if rule.protocol == "tcp"
            else rule
            for rule in rules
        ]
        notices.append(
            Notice("udp_not_named", "scope", "UDP rules stay open to any address: Agora's media servers have no names")
        )
    return Compiled(
        revision=request.revision,
        rules=RuleSet.of(rules, domains=domains),
        by_sdk={sdk: _published(edition, request) for sdk, edition in editions.items()},
        notices=tuple(notices),
    )
