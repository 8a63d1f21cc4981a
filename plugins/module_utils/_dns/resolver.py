# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What resolves names on a host now, and what a resolver for the allowlist has to know there."""

from __future__ import annotations

import contextlib
import ipaddress
import posixpath
import re
import typing as t
from dataclasses import dataclass

from .._backends.contract import BackendError, from_json
from .._model.messages import Problem, RequestError
from .._model.rules import family_of, normalise_networks, overlap
from .formats import local_domain

if t.TYPE_CHECKING:
    from .._backends.contract import Host
    from .._model.rules import Passage, Side

__all__ = ["FILE", "OURS", "RESOLVERS", "Names", "Resolver", "Wish", "fulfil", "look"]

# Each resolver reads it among the files of its folder.
FILE = "openagora.conf"

# The first line of each file that the role writes has these words.
OURS = "Written by the Ansible collection openagora.firewall"

# What the host used before the role put its own resolver there; a copy, symbolic link or file as it was.
_MEMORY = "/var/lib/openagora/dns"
SAVED = f"{_MEMORY}/resolv.conf"
_RESOLV_CONF = "/etc/resolv.conf"
# What the role says to systemd-resolved, which lists it among the servers that it asks.
_RESOLVED_CONF = f"/etc/systemd/resolved.conf.d/{FILE}"
_PORT = 53

# Who may ask: private addresses. A resolver that answers the whole internet would be open to abuse.
_PRIVATE = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    *("::1/128", "fc00::/7", "fe80::/10"),
)

# Who may write /etc/resolv.conf while the role lets the host use its own resolver.
_MANAGERS = ("file", "resolved", "NetworkManager")

# Single labels that the root does not delegate, so that they can be a site's own (RFC 6762, appendix G; RFC 6761,
# section 6.2). As a search domain, or behind a host's name, any other would hold far too much.
_SITES = ("corp", "home", "internal", "intranet", "lan", "local", "localdomain", "private", "test")

# Where the domains of a country are given away below these, they are nobody's own (publicsuffix.org).
_PUBLIC = re.compile(r"(?:ac|co|com|edu|gov|net|org)\.[a-z]{2}")

# Where systemd-resolved answers programs of the host (systemd-resolved.service(8)).
_STUBS = ("127.0.0.53", "127.0.0.54")


@dataclass(frozen=True)
class Resolver:
    """A resolver that the role can set up: where its own files are, and what in them would undo the allowlist.

    With what `excludes` matches beside our settings it does not start, although its own test of files finds no fault.
    With what `renames` matches it runs as another user than its package's, who alone may ask others with `enforce`.
    """

    folders: tuple[str, ...]
    files: str
    answers_all: re.Pattern[str]
    renames: re.Pattern[str]
    excludes: re.Pattern[str] | None = None


RESOLVERS = {
    "dnsmasq": Resolver(
        folders=("/etc/dnsmasq.d",),
        files="/etc/dnsmasq.conf /etc/dnsmasq.d/*",
        # A server without a domain answers every name, so does one for `#` or `*`. `local` is another word for it.
        answers_all=re.compile(r"^\s*(?:server|local|address)\s*=\s*(?:[^/\s]|/(?:[^/\s]+/)*[#*]?/\S)"),
        renames=re.compile(r"^\s*user\s*=(?!\s*dnsmasq\s*(?:#.*)?$)"),
        excludes=re.compile(r"^\s*bind-interfaces\b"),
    ),
    "unbound": Resolver(
        # Debian and SUSE; Red Hat.
        folders=("/etc/unbound/unbound.conf.d", "/etc/unbound/conf.d"),
        files="/etc/unbound/unbound.conf /etc/unbound/unbound.conf.d/*.conf /etc/unbound/conf.d/*.conf",
        answers_all=re.compile(
            r"""^\s*(?:local-zone:\s*["']?\.["']?\s|(?:[a-z]+-zone:\s*)?name:\s*["']?\.["']?\s*(?:\#.*)?$)"""
        ),
        renames=re.compile(r"""^\s*username:(?!\s*["']?unbound["']?\s*(?:\#.*)?$)"""),
    ),
}


@dataclass(frozen=True)
class Names:
    """How a host resolves names: who writes /etc/resolv.conf; servers, search domains and options that it used before.

    `manager` is `file`, `resolved`, `NetworkManager`, or the name of one that the role cannot handle. `ours`: the role
    has put its own resolver there.
    """

    manager: str
    servers: tuple[str, ...]
    search: tuple[str, ...]
    options: tuple[str, ...] = ()
    ours: bool = False


@dataclass(frozen=True)
class Wish:
    """What is asked of the resolver, as it was written."""

    resolver: str
    upstreams: t.Sequence[str] = ()
    listen: t.Sequence[str] = ()
    clients: t.Sequence[str] = ()
    local_domains: t.Sequence[str] = ()
    others: str = "refuse"
    use_here: bool = False
    enforce: bool = False
    install: bool = True
    placement: t.Sequence[str] = ("host",)
    scope: str = "any"


def _words(text: str, keyword: str) -> t.Iterator[str]:
    for line in text.splitlines():
        words = re.split(r"[#;]", line)[0].split()
        if words[:1] == [keyword]:
            yield from words[1:]


def _manager(host: Host, text: str, target: str) -> str:
    """Who writes /etc/resolv.conf, by where it leads and what its writer says in it."""
    if target.startswith("/run/systemd/resolve/"):
        return "resolved" if target.endswith("/stub-resolv.conf") else "resolved (list of uplinks)"
    if target.startswith(("/run/NetworkManager/", "/var/run/NetworkManager/")) or "by NetworkManager" in text:
        return "NetworkManager"
    for name in ("resolvconf", "dhcpcd", "connman"):
        if f"/{name}/" in target or re.search(rf"^#.*\b{name}\b", text, re.MULTILINE):
            return name
    if target != _RESOLV_CONF:
        return target
    return "resolved" if "127.0.0.53" in _words(text, "nameserver") else "file"


def _domains(texts: t.Iterable[str]) -> t.Iterator[str]:
    """Those that are a site's; the name of a host may be `agora.io` or `site.co.uk`: `io` and `co.uk` are not."""
    for text in texts:
        with contextlib.suppress(ValueError):
            domain = local_domain(text)
            if domain in _SITES or ("." in domain and not _PUBLIC.fullmatch(domain)):
                yield domain


def look(host: Host) -> Names:
    """How the host resolves names, or did before the role changed that. Raises BackendError."""
    text = host.read(_RESOLV_CONF) or ""
    ours = OURS in text
    path = _RESOLV_CONF
    if ours:
        # A link may lead from /etc, wherever its copy is; no link, no output.
        path = posixpath.normpath(posixpath.join("/etc", host.run(["readlink", SAVED]).out.strip() or SAVED))
    target = host.run(["readlink", "--canonicalize", path]).out.strip().replace(SAVED, _RESOLV_CONF)
    before = (host.read(path) or "") if ours else text
    manager = _manager(host, before, target or _RESOLV_CONF)
    # The stub leads to these servers, so does what NetworkManager writes for others.
    behind = {
        "resolved": "/run/systemd/resolve/resolv.conf",
        "NetworkManager": "/run/NetworkManager/no-stub-resolv.conf",
    }
    full = (host.read(behind[manager]) if manager in behind else None) or before
    name = (host.read("/proc/sys/kernel/hostname") or "").strip().lower()
    search = [*_words(full, "search"), *_words(full, "domain")]
    own = [name.partition(".")[2]] if "." in name else []
    told = re.search(r"^DNS=(.*)", host.read(_RESOLVED_CONF) or "", re.MULTILINE)
    own_servers = told[1].split() if told else []
    return Names(
        manager,
        tuple(dict.fromkeys(server for server in _words(full, "nameserver") if server not in own_servers)),
        tuple(dict.fromkeys(_domains((*search, *own)))),
        tuple(_words(before, "options")),
        ours,
    )


def _addresses(texts: t.Iterable[str], where: str, problems: list[Problem]) -> list[str]:
    """Addresses in their one form; an IPv6 zone (%eth0) is kept out, as no configuration file takes it safely."""
    found = []
    for index, text in enumerate(texts):
        try:
            address = ipaddress.ip_address(str(text).strip())
        except ValueError:
            address = None
        if address is None or "%" in str(address) or address.is_unspecified or address.is_multicast:
            problems.append(
                Problem(f"{where}[{index}]", f"{text!r} is not the address of a host; write 192.0.2.53 or so")
            )
        else:
            found.append(str(address))
    return list(dict.fromkeys(found))


def _interfaces(host: Host) -> dict[str, list[tuple[str, int]]]:
    """The addresses of each interface with their prefix lengths. Raises BackendError."""
    outcome = host.run(["ip", "-json", "address", "show"])
    if outcome.code != 0:
        raise BackendError(f"ip address show failed: {outcome.err.strip()}; the package iproute2 has it")
    return {
        link["ifname"]: [
            (info["local"], info["prefixlen"]) for info in link["addr_info"] if info.get("scope") != "link"
        ]
        for link in from_json(outcome.out, "ip -json address show")
        if "ifname" in link
    }


def _listen(
    wish: Wish, passage: Passage, there: dict[str, list[tuple[str, int]]], problems: list[Problem]
) -> list[str]:
    """Where to answer: what is asked for, or the loopback of each family and the addresses towards those inside."""
    if wish.listen:
        return _addresses(wish.listen, "listen", problems)
    # What further ones are for, only who added them knows.
    loopback: dict[str, str] = {}
    for address, _length in there.get("lo", ()):
        if ipaddress.ip_address(address).is_loopback:
            loopback.setdefault(family_of(address), address)
    inside = []
    for side in passage.inside:
        if side.kind == "source" and ipaddress.ip_network(side.name).prefixlen == 0:
            text = f"{side} is everywhere, the side of the internet too; name the addresses to answer on"
            problems.append(Problem("listen", text))
        for name, addresses in there.items():
            for address, length in addresses:
                network = ipaddress.ip_interface(f"{address}/{length}").network
                near = side.kind == "source" and overlap(str(network), side.name)
                if (side.kind == "interface" and side.name == name) or near:
                    inside.append(address)
    if passage.inside and not inside:
        text = f"no address of this host is at {', '.join(map(str, passage.inside))}; name the addresses to answer on"
        problems.append(Problem("listen", text))
    return list(dict.fromkeys((*loopback.values(), *inside)))


def _present(host: Host) -> list[str]:
    """The resolvers that have a file of ours."""
    return [
        name
        for name, resolver in RESOLVERS.items()
        if any(OURS in (host.read(f"{folder}/{FILE}") or "") for folder in resolver.folders)
    ]


def _taken(host: Host, own_commands: t.Collection[str], listen: t.Sequence[str]) -> t.Iterator[Problem]:
    """Who else holds port 53 of these addresses. The kernel refuses a second one on the address or on any address."""
    outcome = host.run(["ss", "-Hlntup", f"sport = :{_PORT}"])
    if outcome.code != 0:
        raise BackendError(f"ss failed: {outcome.err.strip()}; the package iproute2 has it")
    holders: dict[str, set[str]] = {}
    for line in outcome.out.splitlines():
        protocol, _state, _received, _sent, local, _peer, *users = line.split(None, 6)
        address = re.sub(r"%[^\]:]*", "", local.rpartition(":")[0]).strip("[]")
        names = re.findall(r'"([^"]+)",pid=(\d+)', users[0] if users else "")
        for name, pid in names or [("a process of another namespace", "?")]:
            if not (name in own_commands and _serves(host, pid, name)) and any(_clash(address, own) for own in listen):
                holders.setdefault(f"{name} (process {pid})", set()).add(f"{local} {protocol}")
    for holder, places in sorted(holders.items()):
        text = f"port {_PORT} is taken: {holder} listens on {', '.join(sorted(places))}; stop it, or listen elsewhere"
        yield Problem("listen", text)


def _serves(host: Host, pid: str, name: str) -> bool:
    """Whether a process is of its package's service, and not what NetworkManager or libvirt starts by that name."""
    groups = host.read(f"/proc/{pid}/cgroup")
    return groups is None or f"/{name}.service" in groups


def _clash(held: str, own: str) -> bool:
    if held == "*":
        return True
    if family_of(held) != family_of(own):
        return False
    return ipaddress.ip_address(held).is_unspecified or ipaddress.ip_address(held) == ipaddress.ip_address(own)


def _undoing(host: Host, resolver: Resolver, wish: Wish) -> t.Iterator[Problem]:
    """What in the resolver's other files is about every name, so that the allowlist would be none, or excludes ours."""
    for path in host.run(["sh", "-c", f"ls -d {resolver.files}"]).out.splitlines():
        # A folder among them cannot be read.
        text = "" if host.run(["test", "-d", path]).code == 0 else host.read(path) or ""
        for number, line in enumerate(() if OURS in text else text.splitlines(), 1):
            if resolver.excludes and resolver.excludes.match(line):
                yield Problem(f"{path}:{number}", f"{line.strip()!r} excludes bind-dynamic, which is ours; take it out")
            if wish.enforce and "host" in wish.placement and resolver.renames.match(line):
                why = "is another user than the one whom enforce lets ask other servers; take it out"
                yield Problem(f"{path}:{number}", f"{line.strip()!r} {why}")
            if wish.others != "resolve" and resolver.answers_all.match(line):
                why = f"{line.strip()!r} is about every name and would undo the allowlist; take it out, or set others: "
                yield Problem(f"{path}:{number}", f"{why}resolve")


def _asked(wish: Wish, names: Names, listen: t.Sequence[str], problems: list[Problem]) -> list[str]:
    """The servers to ask: those that are named, or those that the host asked before."""
    upstreams = _addresses(wish.upstreams, "upstreams", problems)
    if not wish.upstreams:
        # Where the resolver is not ours, one on the loopback would be asked by itself.
        here = {*listen, *_STUBS}
        upstreams = [server for server in names.servers if "%" not in server and server not in here]
        if not upstreams:
            text = f"{_RESOLV_CONF} names no other server that could be asked; name the servers to ask"
            problems.append(Problem("upstreams", text))
    for server in sorted({*listen, *(_STUBS if wish.use_here else ())}.intersection(upstreams)):
        problems.append(Problem("upstreams", f"{server} would lead back to the resolver; name another server"))
    return upstreams


def _local_domains(wish: Wish, problems: list[Problem]) -> list[str]:
    domains = []
    for index, text in enumerate(wish.local_domains):
        try:
            domains.append(local_domain(str(text)))
        except ValueError as error:
            problems.append(Problem(f"local_domains[{index}]", str(error)))
    return domains


def _clients(
    wish: Wish, passage: Passage, there: t.Sequence[tuple[str, int]], problems: list[Problem]
) -> tuple[str, ...]:
    """Who may ask: those that are named, or those near the addresses to answer on; the host itself always."""
    sources = [side.name for side in passage.inside if side.kind == "source"]
    near = [str(ipaddress.ip_network(f"{address}/{length}", strict=False)) for address, length in there]
    own = [address for address, _length in there]
    try:
        return normalise_networks([*wish.clients, *own] if wish.clients else [*_PRIVATE, *sources, *near])
    except ValueError as error:
        problems.append(Problem("clients", f"{error}; a network is needed, such as 192.0.2.0/24"))
    return ()


def _at_odds(host: Host) -> t.Iterator[str]:
    """Why systemd-resolved would not ask the resolver, or ask others too (resolved.conf(5))."""
    path = ""
    for line in host.run(["systemd-analyze", "cat-config", "systemd/resolved.conf"]).out.splitlines():
        # A comment with a path heads each file. Each DNS= adds to those of other files.
        path = line[2:].strip() if line.startswith("# /") else path
        if re.match(r"DNS\s*=\s*\S", line) and not path.endswith(f"/{FILE}"):
            yield f"systemd-resolved would go on asking the DNS= of {path}; take it out, and name them in upstreams"
    for line in host.run(["resolvectl", "domain"]).out.splitlines():
        link, _colon, domains = line.partition(":")
        if link != "Global" and "~." in domains.split():
            yield f"systemd-resolved asks the servers of {link} for every name; take the domain ~. from it"
    for word, fits, why in (
        ("dnssec", "no", "DNSSEC={0}, and would be refused what it checks signatures with; set it to no"),
        (
            "dnsovertls",
            "no opportunistic",
            "DNSOverTLS={0}, which the resolver does not speak; set it to opportunistic",
        ),
    ):
        found = re.search(r"^Global:\s*(\S+)", host.run(["resolvectl", word]).out, re.MULTILINE)
        if found and found[1] not in fits.split():
            yield f"systemd-resolved has {why.format(found[1])} in /etc/systemd/resolved.conf"


def _installed(host: Host, resolver: str) -> bool:
    """Whether its service is there; the command alone comes with dnsmasq-base, which libvirt and others need.

    One that is masked until the next boot is not: an installation that broke off leaves it so, package or none, and
    `systemctl cat` has no fault to find with it.
    """
    service = f"{resolver}.service"
    masked = host.run(["systemctl", "is-enabled", service]).out.strip() == "masked-runtime"
    return not masked and host.run(["systemctl", "cat", service]).code == 0


def _in_the_way(host: Host, wish: Wish, passage: Passage, names: Names, listen: t.Sequence[str]) -> t.Iterator[Problem]:
    """What on the host, or in what is wished for together, stops the role."""
    if not wish.install and not _installed(host, wish.resolver):
        yield Problem("resolver", f"{wish.resolver} is not installed; install the package {wish.resolver}")
    for other in set(_present(host)) - {wish.resolver}:
        # The role keeps there whether it was enabled and active.
        if "active" in (host.read(f"{_MEMORY}/{other}") or "").split():
            text = f"{other} ran before this role and would hold the port again; undo the role, stop {other}, run anew"
            yield Problem("resolver", text)
    if host.exists("/sbin/resolvconf") and "resolvectl" not in host.run(["readlink", "-f", "/sbin/resolvconf"]).out:
        text = f"dnsmasq and unbound enter themselves in {_RESOLV_CONF} through it; remove the package resolvconf"
        yield Problem("/sbin/resolvconf", text)
    if wish.scope == "names" and "host" in wish.placement and not (wish.use_here or {*names.servers} & {*listen}):
        text = "names leaves this host without TCP, as it asks other servers than the one that fills the sets"
        yield Problem("scope", f"{text}; set use_here too")
    if wish.use_here:
        if names.manager not in _MANAGERS:
            text = (
                f"{_RESOLV_CONF} is written by {names.manager}, which is not handled; enter the resolver there by hand"
            )
            yield Problem("use_here", text)
        if names.manager == "resolved":
            yield from (Problem("use_here", text) for text in _at_odds(host))
        if not any(ipaddress.ip_address(address).is_loopback for address in listen):
            yield Problem("use_here", "the resolver does not listen on the loopback; add 127.0.0.1 to listen")
    if wish.enforce:
        if not host.which("nft"):
            yield Problem("enforce", "needs the command nft; install the package nftables")
        if "host" in wish.placement and not wish.use_here:
            yield Problem("enforce", "this host would resolve nothing, as it asks other servers; set use_here too")
        for side in passage.inside:
            if side.kind == "zone":
                yield Problem("enforce", f"{side}: nft knows no zones; name the interface or the source")


def _met(side: Side) -> str:
    """What comes from there, in the words of nft."""
    if side.kind == "interface":
        return f'iifname "{side.name}"'
    return f"{'ip6' if family_of(side.name) == 'ipv6' else 'ip'} saddr {side.name}"


def fulfil(host: Host, wish: Wish, passage: Passage) -> dict[str, t.Any]:
    """What the resolver's configuration takes, as data.

    Raises RequestError with every problem, BackendError when the host cannot be looked at.
    """
    problems: list[Problem] = []
    resolver = RESOLVERS[wish.resolver]
    names = look(host)
    there = _interfaces(host)
    listen = _listen(wish, passage, there, problems)
    near = [place for addresses in there.values() for place in addresses if place[0] in listen]
    upstreams = _asked(wish, names, listen, problems)
    local_domains = _local_domains(wish, problems)
    clients = _clients(wish, passage, near, problems)
    # One that the role has set up before goes when the other comes.
    problems += _taken(host, {wish.resolver, *_present(host)}, listen)
    problems += _in_the_way(host, wish, passage, names, listen)
    problems += _undoing(host, resolver, wish)
    if problems:
        raise RequestError(problems)
    return {
        "listen": listen,
        "upstreams": upstreams,
        "clients": list(clients),
        "local_domains": list(dict.fromkeys((*names.search, *local_domains))),
        "search": list(names.search),
        "options": list(names.options),
        "manager": names.manager,
        "inside": [_met(side) for side in passage.inside],
        "dhclient": host.exists("/etc/dhcp/dhclient-enter-hooks.d"),
        "installed": _installed(host, wish.resolver),
        "standing": _installed(host, wish.resolver) and wish.resolver in _present(host),
        "folder": next((folder for folder in resolver.folders if host.exists(folder)), resolver.folders[0]),
    }
