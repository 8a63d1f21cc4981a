# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The domain allowlist in the words of resolvers and proxies. Pure."""

from __future__ import annotations

import ipaddress
import re
import typing as t
import zlib

if t.TYPE_CHECKING:
    from .._model.domains import DomainSet

__all__ = ["FORMATS", "OTHERS", "REVERSE_ZONES", "local_domain", "render"]

# The reverse zones of private, link-local and unique local addresses (RFC 6303, sections 4.2, 4.5 and 4.6; RFC 1918).
REVERSE_ZONES = (
    "10.in-addr.arpa",
    *(f"{number}.172.in-addr.arpa" for number in range(16, 32)),
    "168.192.in-addr.arpa",
    "254.169.in-addr.arpa",
    "c.f.ip6.arpa",
    "d.f.ip6.arpa",
    *(f"{digit}.e.f.ip6.arpa" for digit in "89ab"),
)

# A local domain may be a single label (`lan`), which an allowlist must not hold, and Windows allows `_` in it.
_LOCAL_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?)*"
)

OTHERS = ("refuse", "nxdomain", "resolve")


def local_domain(text: str) -> str:
    """A domain of the site in the one form in which it is written. Raises ValueError for what is no domain."""
    domain = text.strip().strip(".").lower()
    if not _LOCAL_DOMAIN.fullmatch(domain):
        raise ValueError(f"{text!r} is not a domain; write corp.example or lan")
    return domain


def _bare(name: str) -> str:
    return name[1:] if name.startswith(".") else name


def _rpz(domains: DomainSet, local: t.Sequence[str], **_options: t.Any) -> t.Iterator[str]:
    """A response policy zone (draft-vixie-dnsop-dns-rpz) that denies all names but these with NXDOMAIN.

    A wildcard of DNS does not match below a name that the zone holds (RFC 4592, section 2.2.1): without records of
    their own, `notagora.io` would pass because `agora.io` makes `io` exist. So every name above one on the list is
    denied with all that is below it, and so is what is below an exact name. Where a suffix holds them they pass.
    """
    passed = {*(name for name in domains), *(f".{name}" for name in (*local, *REVERSE_ZONES, "localhost"))}
    verdicts = {"*": "."}
    for name in passed:
        bare = _bare(name)
        verdicts[f"*.{bare}"] = _verdict(bare, passed)
        above = bare.partition(".")[2]
        while above:
            verdicts[above] = verdicts[f"*.{above}"] = _verdict(above, passed)
            above = above.partition(".")[2]
    for name in passed:
        verdicts[_bare(name)] = "rpz-passthru."
        if name.startswith("."):
            verdicts[f"*.{_bare(name)}"] = "rpz-passthru."
    records = [f"{name} CNAME {verdict}" for name, verdict in sorted(verdicts.items(), key=_from_the_root)]
    # Another number for every other content, without a clock; a secondary server may have to fetch the zone anew.
    serial = zlib.crc32("\n".join(records).encode())
    yield "$TTL 300"
    yield f"@ SOA localhost. hostmaster.localhost. {serial} 3600 600 86400 300"
    yield "@ NS localhost."
    yield from records


def _verdict(name: str, passed: t.Collection[str]) -> str:
    """What becomes of a name that has no entry of its own, by the suffixes that hold it."""
    labels = name.split(".")
    held = any("." + ".".join(labels[start:]) in passed for start in range(len(labels)))
    return "rpz-passthru." if held else "."


def _from_the_root(record: tuple[str, str]) -> list[str]:
    return record[0].split(".")[::-1]


def _unbound(domains: DomainSet, local: t.Sequence[str], others: str, **_options: t.Any) -> t.Iterator[str]:
    """Lines for unbound's clause `server`. A transparent zone holds every name below it, exact names included."""
    yield "server:"
    if others != "resolve":
        yield f'  local-zone: "." {"refuse" if others == "refuse" else "always_nxdomain"}'
        yield from (f'  local-zone: "{_bare(name)}." transparent' for name in domains)
    for name in (*local, *REVERSE_ZONES):
        # The site's names and private addresses are signed by nobody.
        yield f'  local-zone: "{name}." transparent'
        yield f'  domain-insecure: "{name}."'


def _dnsmasq(domains: DomainSet, local: t.Sequence[str], others: str, upstreams: t.Sequence[str]) -> t.Iterator[str]:
    """Lines for dnsmasq. A name is asked from where its longest suffix says; without any there is none to ask."""
    for server in upstreams:
        if others == "resolve":
            yield f"server={server}"
        yield from (f"server=/{_bare(name)}/{server}" for name in (*domains, *local, *REVERSE_ZONES))
    if others == "nxdomain":
        yield "local=/#/"
    if others != "resolve":
        # Names below an exact one do not exist, unless they are the site's.
        exact = [name for name in domains if not name.startswith(".")]
        yield from (f"local=/*.{name}/" for name in exact if not f".{name}".endswith(tuple(f".{own}" for own in local)))


def _suffixes(domains: DomainSet, **_options: t.Any) -> t.Iterator[str]:
    """`.agora.io` for the name and all below it, as Squid's dstdomain reads it."""
    yield from domains


def _wildcards(domains: DomainSet, **_options: t.Any) -> t.Iterator[str]:
    """`agora.io` and `*.agora.io`, where a wildcard does not hold the name itself."""
    for name in domains:
        yield from (_bare(name), f"*{name}") if name.startswith(".") else (name,)


FORMATS: dict[str, t.Callable[..., t.Iterator[str]]] = {
    "rpz": _rpz,
    "unbound": _unbound,
    "dnsmasq": _dnsmasq,
    "suffixes": _suffixes,
    "wildcards": _wildcards,
}


def render(
    form: str,
    domains: DomainSet,
    *,
    others: str = "refuse",
    upstreams: t.Sequence[str] = (),
    local: t.Sequence[str] = (),
) -> str:
    """The list in one of FORMATS, a line each. `local` domains of the site are answered too, by a resolver.

    Raises ValueError for what is no domain among `local` or no address among `upstreams`, or none for dnsmasq, which
    has to know whom to ask.
    """
    local = list(dict.fromkeys(map(local_domain, local)))
    for server in upstreams:
        # Python takes any text behind a % for an IPv6 zone, line ends included.
        if "%" in str(ipaddress.ip_address(str(server))):
            raise ValueError(f"{server!r} has an IPv6 zone, which no configuration file takes safely")
    if form == "dnsmasq" and not upstreams:
        raise ValueError("upstreams is empty; dnsmasq has to know which servers to ask")
    return "".join(f"{line}\n" for line in FORMATS[form](domains, local=local, others=others, upstreams=upstreams))
