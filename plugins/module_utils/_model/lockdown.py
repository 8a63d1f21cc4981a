# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lockdown: what may leave a host, or pass a gateway, besides the rules."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, replace

from .messages import Problem, RequestError
from .networks import FAMILIES, family_of, normalise_networks
from .ports import PortError, PortSet

__all__ = ["ESSENTIALS", "Lockdown", "Passing", "parse_lockdown"]

# What IP itself needs, by the names under which results tell it.
ESSENTIALS = ("established", "loopback", "dns", "dhcp", "ntp", "icmp")

# Errors; in IPv6 also MLD (130-132, 143: RFC 2710, RFC 3810), router and neighbour discovery (133-136: RFC 4861).
_ICMP_TYPES = {"ipv4": (3, 11, 12), "ipv6": (1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 143)}

# A name as useradd(8) takes it, or a number; nothing that a firewall's grammar could take for more than that.
_USER = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10})\Z")
_LAST_UID = 2**32 - 2


@dataclass(frozen=True, order=True)
class Passing:
    """Packets that lockdown lets pass; `why` is an essential, or `allow`. What is empty does not matter.

    `state` is of connection tracking, with `reply` in that direction alone; `ack`: of TCP all but what opens a
    connection; `family` is given where `networks`, `types` (of ICMP) or addresses need it.
    """

    why: str
    family: str = ""
    protocol: str = ""
    dports: PortSet = PortSet()
    sports: PortSet = PortSet()
    networks: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    uid: int = -1
    interface: str = ""
    state: str = ""
    reply: bool = False
    ack: bool = False


@dataclass(frozen=True, order=True)
class Lockdown:
    """Nothing leaves but the rules, the essentials and this: networks, ports by protocol, users by number.

    `resolvers` are the host's, as networks; `forward`: what the host forwards is locked too; `log`: what is rejected
    is logged, at a limited rate.
    """

    networks: tuple[str, ...] = ()
    tcp: PortSet = PortSet()
    udp: PortSet = PortSet()
    users: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    resolvers: tuple[str, ...] = ()
    forward: bool = False
    log: bool = False

    def passing(self, path: str) -> tuple[Passing, ...]:
        """What passes on a path besides the rules, the essentials first.

        Paths are `output`, and `input` for what comes back; on a gateway `forward` for all that it forwards, and
        `forward_out` for what crosses it outwards.
        """
        local = path == "output"
        established = Passing("established", state="established"), Passing("established", state="related")
        if path == "input":
            return (replace(established[0], reply=True),)
        if path == "forward":
            return established if self.forward else ()
        if not local and not (self.forward and path == "forward_out"):
            return ()
        # Connections older than the host's connection tracking are new to it: a session that makes this change is one.
        older = Passing("established", protocol="tcp", ack=True)
        found = [*established, older, Passing("loopback", interface="lo")] if local else []
        for family in FAMILIES:
            servers = tuple(network for network in self.resolvers if family_of(network) == family)
            if servers:
                port = PortSet.of(53)
                found += [Passing("dns", family, protocol, port, networks=servers) for protocol in ("udp", "tcp")]
        if local:
            for family, (client, server) in (("ipv4", (68, 67)), ("ipv6", (546, 547))):
                found.append(Passing("dhcp", family, "udp", PortSet.of(server), PortSet.of(client)))
        found.append(Passing("ntp", protocol="udp", dports=PortSet.of(123)))
        found += [Passing("icmp", family, types=types) for family, types in _ICMP_TYPES.items()]
        for family in FAMILIES:
            networks = tuple(network for network in self.networks if family_of(network) == family)
            found += [Passing("allow", family, networks=networks)] if networks else []
        found += [Passing("allow", protocol="tcp", dports=self.tcp)] if self.tcp else []
        found += [Passing("allow", protocol="udp", dports=self.udp)] if self.udp else []
        # Of a packet that is forwarded no local user is known.
        found += [Passing("allow", uid=uid) for uid in self.uids if local]
        return tuple(found)

    @classmethod
    def of(cls, passing: t.Iterable[Passing], *, forward: bool, log: bool) -> Lockdown:
        """The lockdown whose `passing` gives these, in any order."""
        found = list(passing)
        allowed = [each for each in found if each.why == "allow"]
        tcp, udp = (PortSet.union(each.dports for each in allowed if each.protocol == name) for name in ("tcp", "udp"))
        return cls(
            networks=normalise_networks(network for each in allowed for network in each.networks),
            tcp=tcp,
            udp=udp,
            uids=tuple(sorted({each.uid for each in allowed if each.uid >= 0})),
            resolvers=normalise_networks(network for each in found if each.why == "dns" for network in each.networks),
            forward=forward,
            log=log,
        )

    @property
    def allow(self) -> list[str]:
        """What is allowed besides the essentials, as `parse_lockdown` takes it; users by number where that is known."""
        ports = [f"{text}/{name}" for name, held in (("tcp", self.tcp), ("udp", self.udp)) for text in held.texts()]
        return [*self.networks, *ports, *(f"user:{user}" for user in self.uids or self.users)]

    def data(self) -> dict[str, t.Any]:
        """The form in which `of_data` takes it."""
        return {"allow": self.allow, "forward": self.forward, "log": self.log}

    @classmethod
    def of_data(cls, data: t.Mapping[str, t.Any]) -> Lockdown:
        """The lockdown of which `data` gave this; the resolvers are those that the host has then."""
        return parse_lockdown(data["allow"], forward=data["forward"], log=data["log"])


def parse_lockdown(texts: t.Iterable[t.Any], *, forward: bool, log: bool, where: str = "lockdown_allow") -> Lockdown:
    """What these texts allow: `192.0.2.0/24`, `5000-5010/tcp`, `user:backup`. Raises RequestError with all problems."""
    problems: list[Problem] = []
    networks: list[str] = []
    users: list[str] = []
    ports: dict[str, list[PortSet]] = {"tcp": [], "udp": []}
    for index, item in enumerate(texts):
        text = str(item).strip()
        port, _slash, protocol = text.rpartition("/")
        try:
            if text.startswith("user:"):
                if not _USER.match(text[5:]) or (text[5:].isdigit() and int(text[5:]) > _LAST_UID):
                    raise ValueError(f"{text[5:]!r} is no name of a user")
                users.append(text[5:])
            elif protocol in ports:
                ports[protocol].append(PortSet.parse(port))
            else:
                networks += normalise_networks([text])
        except PortError as error:
            problems.append(Problem(f"{where}[{index}]", str(error)))
        except ValueError as error:
            hint = "write an address or network (192.0.2.0/24), a port (5000-5010/tcp) or a user (user:backup)"
            problems.append(Problem(f"{where}[{index}]", f"{error}; {hint}"))
    if problems:
        raise RequestError(problems)
    return Lockdown(
        networks=normalise_networks(networks),
        tcp=PortSet.union(ports["tcp"]),
        udp=PortSet.union(ports["udp"]),
        users=tuple(sorted(set(users))),
        forward=forward,
        log=log,
    )
