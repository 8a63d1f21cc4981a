# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's interfaces, addresses, routes, policy rules and settings, and a copy of them in a private namespace."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import struct
import typing as t
from dataclasses import dataclass

from .._backends.contract import BackendError
from .._model.ports import HIGHEST, LOWEST, PortSet
from .linux import new_network
from .netlink import Attribute, Netlink, pack, unpack
from .packets import NUMBERS

__all__ = [
    "ETHERTYPES",
    "HARDWARE",
    "TICK",
    "TICK_TYPE",
    "VERSIONS",
    "Copy",
    "Network",
    "Way",
    "buffered",
    "packet_socket",
    "read_network",
    "read_setting",
]

VERSIONS = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

# The hardware address of every interface of the copy.
# More than the kernel allows by default (net.core.rmem_max), which then gives as much as it does.
_RECEIVE_BUFFER = 1 << 20

HARDWARE = b"\x02\0\0\0\0\x01"
# Carries the packets by which the sender knows that those before them have come to their end.
TICK = "openagora-tick"
# For local experiments: IEEE Std 802.
TICK_TYPE = 0x88B5
ETHERTYPES = {"ipv4": 0x0800, "ipv6": 0x86DD}

_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_CREATE, _EXCL = 0x400, 0x200

_LINK = struct.Struct("=BxHiII")
_UP, _NOARP, _MULTICAST = 0x1, 0x80, 0x1000
_ADDRESS, _IFNAME, _LINK_BELOW, _MASTER, _LINKINFO, _GROUP = 1, 3, 5, 10, 18, 27
# Kinds of interfaces whose packets pass another one's door; that which a veth names is the other end of its cable.
_STANDING = frozenset(("ipvlan", "macsec", "macvlan", "vlan"))
_NET_NS_FD = 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1

_IFADDR = struct.Struct("=BBBBi")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_NODAD = 0x02
# Flags that say how far detecting duplicates has come.
_IN_PROGRESS = 0x08 | 0x20 | 0x40

_RTA_DST, _RTA_IIF, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_MULTIPATH = 1, 3, 4, 5, 7, 9
_RTA_CACHEINFO, _RTA_EXPIRES, _RTA_UID, _RTA_NH_ID = 12, 23, 25, 30
_FRA_FWMARK, _FRA_UID_RANGE, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 10, 20, 22, 23, 24
_TABLE_MAIN = 254
_UNICAST, _LOCAL, _BLACKHOLE_TO_THROW = 1, 2, (6, 7, 8, 9)
_BY_KERNEL = 2
_CLONED, _ONLINK = 0x200, 0x4
_ALL = struct.pack("=HH", LOWEST, HIGHEST)
_ROUTE_HEAD = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")

# Settings that decide whether a packet passes: of the namespace, and of each interface.
_SETTINGS = (
    "ipv4/ip_forward",
    "ipv4/ip_nonlocal_bind",
    "ipv4/fwmark_reflect",
    "ipv6/ip_nonlocal_bind",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "netfilter/nf_conntrack_tcp_loose",
)
_OF_INTERFACE = {
    "ipv4": ("rp_filter", "accept_local", "route_localnet", "src_valid_mark", "forwarding"),
    "ipv6": ("disable_ipv6", "forwarding"),
}
_IPV6_ON = re.compile(r"ipv6/conf/(?!(?:default|lo)/)[^/]+/disable_ipv6$")
# The copy gets the addresses and routes of the host and makes none of its own.
_QUIET = {"accept_dad": "0", "accept_ra": "0", "addr_gen_mode": "1", "router_solicitations": "0"}


@dataclass(frozen=True)
class Link:
    """An interface of the host; `below` is the index of the device that it stands on, `master` that of its bearer.

    Of a VLAN the first is known, of the port of a bridge the second; 0 is none.
    """

    index: int
    name: str
    up: bool
    group: int
    kind: str = ""
    below: int = 0
    master: int = 0


@dataclass(frozen=True)
class Network:
    """What the kernel says about the host's network; addresses, routes and rules as the bodies of messages."""

    links: tuple[Link, ...]
    addresses: tuple[bytes, ...]
    routes: tuple[bytes, ...]
    rules: tuple[bytes, ...]
    settings: tuple[tuple[str, str], ...]

    @property
    def families(self) -> tuple[str, ...]:
        """The address families that are switched on."""
        # Writing `all` writes the others, which count, and may be written after it.
        on = any(_IPV6_ON.match(name) and value == "0" for name, value in self.settings)
        return ("ipv4", "ipv6") if on else ("ipv4",)

    def lacks(self, family: str, interface: str) -> bool:
        """Whether a family is switched off on an interface."""
        return family == "ipv6" and dict(self.settings).get(f"ipv6/conf/{interface}/disable_ipv6") == "1"

    @property
    def routes_by_mark(self) -> bool:
        """Whether policy rules look at marks."""
        return any(_FRA_FWMARK in dict(unpack(body[12:])) for body in self.rules)  # behind struct fib_rule_hdr

    def above(self, names: t.Collection[str]) -> set[str]:
        """The interfaces whose packets pass these devices, too."""
        found: set[int] = set()
        more = {link.index for link in self.links if link.name in names}
        while more:
            on_them = {link.index for link in self.links if link.below in more}
            more = (on_them | {link.master for link in self.links if link.index in more and link.master}) - found
            found |= more
        return {link.name for link in self.links if link.index in found}


@dataclass(frozen=True)
class Way:
    """Where packets to an address go: the interface, and the address of the host that they come from."""

    interface: str
    near: str


def _link(body: bytes) -> Link:
    _family, _kind, index, flags, _change = _LINK.unpack_from(body)
    found = dict(unpack(body[_LINK.size :]))
    (group,) = struct.unpack("=I", found.get(_GROUP, bytes(4)))
    kind = dict(unpack(found.get(_LINKINFO, b""))).get(_INFO_KIND, b"").rstrip(b"\0").decode()
    below, master = (struct.unpack("=I", found.get(name, bytes(4)))[0] for name in (_LINK_BELOW, _MASTER))
    return Link(
        index,
        found[_IFNAME].rstrip(b"\0").decode(errors="surrogateescape"),
        bool(flags & _UP),
        group,
        kind,
        below if kind in _STANDING else 0,
        master,
    )


def _read_settings() -> t.Iterator[tuple[str, str]]:
    names = list(_SETTINGS)
    for family, settings in _OF_INTERFACE.items():
        with contextlib.suppress(FileNotFoundError):
            # `all` first: writing it may write the others.
            folders = sorted(os.listdir(f"/proc/sys/net/{family}/conf"), key=lambda name: (name != "all", name))
            names += [f"{family}/conf/{folder}/{setting}" for folder in folders for setting in settings]
    for name in names:
        value = read_setting(name)
        if value:
            yield name, value


def read_setting(name: str) -> str:
    """A setting of the namespace, empty when it is not there."""
    with contextlib.suppress(OSError), open(f"/proc/sys/net/{name}", encoding="ascii") as file:
        return file.read().strip()
    return ""


def read_network() -> Network:
    """The network of the namespace that this process is in."""
    kernel = Netlink()
    links = map(_link, kernel.dump(_GETLINK, bytes(_LINK.size)))
    addresses, routes, rules = (tuple(kernel.dump(kind, bytes(16))) for kind in (_GETADDR, _GETROUTE, _GETRULE))
    return Network(tuple(links), addresses, routes, rules, tuple(_read_settings()))


class Copy:
    """A copy of a host's network in the namespace that this process is in, which has to be new and empty.

    Every interface is one end of a cable; the other end, of the same name, is in a second namespace, the wire. `notes`
    says what could not be copied, `assumed` what was added so that packets find a way.
    """

    def __init__(self, network: Network) -> None:
        self.wire = Wire()
        new_network()
        self.notes: list[str] = []
        self.assumed: list[str] = []
        self.network = network
        self._kernel = Netlink()
        self._up: set[str] = {"lo"}
        _quieten()
        self._flags("lo", _UP)
        for link in network.links:
            if link.name != "lo" and not self._index(link.name):
                self.add_cable(link.name, up=link.up, group=link.group)
        self.add_cable(TICK)
        for name, value in network.settings:
            # Some cannot be written outside of the first namespace, and are the same in all.
            if read_setting(name) != value:
                _write_setting(name, value)
        indexes = {link.index: self._index(link.name) for link in network.links}
        for body in network.addresses:
            self._replay("address", _NEWADDR, _address(body, indexes))
        self._copy_rules(network.rules)
        for body in network.routes:
            self._replay("route", _NEWROUTE, _route(body, indexes))

    def _replay(self, what: str, kind: int, body: bytes | None) -> None:
        if body is None:
            return
        try:
            self._kernel.ask(kind, body, _CREATE | _EXCL)
        except OSError as error:
            if error.errno != errno.EEXIST:
                self.notes.append(f"{what}: {error.strerror}")

    def _copy_rules(self, rules: t.Iterable[bytes]) -> None:
        for body in self._kernel.dump(_GETRULE, bytes(12)):
            with contextlib.suppress(OSError):
                self._kernel.ask(_DELRULE, body)
        for body in rules:
            if body[0] in VERSIONS.values():
                self._replay("policy rule", _NEWRULE, body)

    def unsure(self, family: str, protocol: str, *, user: bool) -> PortSet:
        """The ports whose packets from the host a policy rule may lead elsewhere than here.

        The kernel routes a raw packet before it looks at its ports; `user` is whether it is known who sends.
        """
        found = PortSet()
        for body in self.network.rules:
            attributes = dict(unpack(body[12:]))  # behind struct fib_rule_hdr
            number = attributes.get(_FRA_IP_PROTO, b"")
            apart = {_FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE} & set(attributes)
            if body[0] != VERSIONS[family] or not (apart or (_FRA_UID_RANGE in attributes and not user)):
                continue
            if number in (b"", bytes((NUMBERS[protocol],))):
                low, high = struct.unpack("=HH", attributes.get(_FRA_DPORT_RANGE, _ALL))
                found |= PortSet.of((max(low, LOWEST), high))
        return found

    def _index(self, name: str) -> int:
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return 0

    def add_cable(self, name: str, *, up: bool = True, group: int = 0) -> None:
        """Make an interface and its end in the wire."""
        peer = _link_body(0, 0, 0) + pack(
            [(_IFNAME, _text(name)), (_NET_NS_FD, struct.pack("=I", self.wire.namespace))]
        )
        info = [(_INFO_KIND, b"veth"), (_INFO_DATA, pack([(_VETH_PEER, peer)]))]
        named: list[Attribute] = [
            (_IFNAME, _text(name)),
            (_ADDRESS, HARDWARE),
            (_GROUP, struct.pack("=I", group)),
            (_LINKINFO, pack(info)),
        ]
        try:
            self._kernel.ask(_NEWLINK, _link_body(0, 0, 0) + pack(named), _CREATE | _EXCL)
        except OSError as error:
            raise BackendError(
                f"interface {name} cannot be made in a private copy: {error.strerror}; the kernel needs veth "
                "(modprobe veth), and the process CAP_NET_ADMIN"
            ) from error
        self.wire.bring_up(name)
        self._flags(name, _NOARP | (_UP if up else 0))
        if up:
            self._up.add(name)

    def _flags(self, name: str, flags: int) -> None:
        """Set flags of an interface; none sends multicast, which would be packets that nobody asked for."""
        self._kernel.ask(_NEWLINK, _link_body(self._index(name), flags, flags | _MULTICAST))

    # Ways

    def _way(self, family: str, far: str, user: int | None) -> Way | None:
        """Where the host's own packets to an address go; None when there is no route.

        Raises OSError when a route says that packets are not to go there (blackhole, unreachable, prohibit).
        """
        attributes: list[Attribute] = [(_RTA_DST, _packed(far))]
        if user is not None:
            attributes.append((_RTA_UID, struct.pack("=I", user)))
        body = _ROUTE_HEAD.pack(VERSIONS[family], len(_packed(far)) * 8, 0, 0, 0, 0, 0, 0, 0)
        try:
            reply = self._kernel.ask(_GETROUTE, body + pack(attributes))
        except OSError as error:
            if error.errno != errno.ENETUNREACH:
                raise
            return None
        found = dict(unpack(reply[12:]))  # behind struct rtmsg
        name = socket.if_indextoname(struct.unpack("=i", found[_RTA_OIF])[0])
        near = found.get(_RTA_PREFSRC)
        return Way(name, str(ipaddress.ip_address(near)) if near else self._near(family, name))

    def own(self, family: str) -> dict[str, list[t.Any]]:
        """The addresses of each interface, with their networks (`ipaddress.ip_interface`); link-local ones aside."""
        found: dict[str, list[t.Any]] = {}
        for body in self._kernel.dump(_GETADDR, _IFADDR.pack(VERSIONS[family], 0, 0, 0, 0)):
            attributes = dict(unpack(body[8:]))
            raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
            held = ipaddress.ip_interface((ipaddress.ip_address(raw), body[1]))
            if not held.ip.is_link_local:
                name = socket.if_indextoname(struct.unpack_from("=i", body, 4)[0])
                found.setdefault(name, []).append(held)
        return found

    def lead(self, family: str, far: str, interface: str = "", *, user: int | None = None, avoid: str = "") -> Way:
        """The way to an address, through an interface if one is named; made, and told of, when the host has none.

        Raises BackendError when the host has no such interface.
        """
        if interface and not self._index(interface):
            there = ", ".join(link.name for link in self.network.links)
            raise BackendError(f"interface {interface}: not on this host, which has {there}")
        try:
            way = self._way(family, far, user)
        except OSError:
            # The host's own will, which is not changed; the packets are sent and will not arrive.
            name = interface or self._any_interface(family, avoid)
            return Way(name, self._near(family, name))
        if way and way.interface != avoid and interface in ("", way.interface):
            return way
        name = interface or self._any_interface(family, avoid)
        if name not in self._up:
            self._flags(name, _UP)
            self._up.add(name)
            self.assumed.append(f"{family}: interface {name} is down; taken as up")
        near = self._near(family, name)
        attributes = [(_RTA_DST, _packed(far)), (_RTA_OIF, struct.pack("=i", self._index(name)))]
        body = _ROUTE_HEAD.pack(VERSIONS[family], len(_packed(far)) * 8, 0, 0, _TABLE_MAIN, 4, 0, _UNICAST, 0)
        self._replay("route", _NEWROUTE, body + pack(attributes))
        through = f" through {interface}" if interface else ""
        self.assumed.append(f"{family}: no route leads to {far}{through}; sent through {name}")
        return Way(name, near)

    def neighbour(self, family: str, network: str) -> str:
        """An address in a network that is not the host's own."""
        own = {held.ip for held_there in self.own(family).values() for held in held_there}
        held = ipaddress.ip_network(network)
        # The first one is the network's name, unless there is no other.
        first = min(1, held.num_addresses - 1)
        candidates = (held[number] for number in range(first, min(held.num_addresses, first + len(own) + 1)))
        return str(next((address for address in candidates if address not in own), held[first]))

    def neighbour_on(self, family: str, interface: str) -> str:
        """An address of another machine behind an interface."""
        for held in self.own(family).get(interface, []):
            if held.network.num_addresses > 2:
                return self.neighbour(family, str(held.network))
        return "10.255.254.2" if family == "ipv4" else "fd00:fffe::2"

    def _near(self, family: str, interface: str) -> str:
        """An address of the host, on this interface if it has one; one is added where the host has none."""
        own = self.own(family)
        for held in (*own.get(interface, []), *(held for name in own if name != "lo" for held in own[name])):
            return str(held.ip)
        # lo's own will not do: it is never seen on a wire.
        near = "10.255.255.254" if family == "ipv4" else "fd00:ffff::fffe"
        raw = _packed(near)
        body = _IFADDR.pack(VERSIONS[family], len(raw) * 8, _NODAD, 0, self._index(interface))
        self._replay("address", _NEWADDR, body + pack([(_IFA_LOCAL, raw), (_IFA_ADDRESS, raw)]))
        self.assumed.append(f"{family}: the host has no address; {near} taken as that of {interface}")
        return near

    def _any_interface(self, family: str, avoid: str) -> str:
        """The interface that looks most like the one to the outside."""
        own = self.own(family)
        names = [link.name for link in self.network.links if link.name not in ("lo", avoid)]
        if not names:
            name = "openagora0"
            if not self._index(name):
                self.add_cable(name)
                self.assumed.append(f"the host has no interface but lo; {name} taken as one")
            return name
        return min(names, key=lambda name: (name not in own, name not in self._up))


class Wire:
    """The namespace at the other end of the cables, which this process is in when this is made.

    `arrivals` receive what comes out of the host, by family; `injector` sends what goes in; `tick` is
    the one for ticks.
    """

    def __init__(self) -> None:
        _quieten(disable="1")
        self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._kernel = Netlink()
        self.arrivals = {family: packet_socket(socket.SOCK_DGRAM, kind) for family, kind in ETHERTYPES.items()}
        self.injector = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.tick = packet_socket(socket.SOCK_DGRAM, TICK_TYPE)

    def bring_up(self, name: str) -> None:
        """Raise the end of a cable."""
        body = _link_body(0, _UP | _NOARP, _UP | _NOARP) + pack([(_IFNAME, _text(name))])
        self._kernel.ask(_NEWLINK, body)


def buffered(made: socket.socket) -> socket.socket:
    """The socket, as one that holds as much as may be and never waits."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    made.setblocking(False)
    return made


def packet_socket(kind: int, protocol: int) -> socket.socket:
    """A socket of packet(7) for one protocol in the namespace that this process is in."""
    return buffered(socket.socket(socket.AF_PACKET, kind, socket.htons(protocol)))


def _quieten(disable: str = "") -> None:
    """Keep IPv6 from sending anything of its own accord; `disable` switches it off."""
    for folder in ("all", "default"):
        for name, value in {**_QUIET, **({"disable_ipv6": disable} if disable else {})}.items():
            _write_setting(f"ipv6/conf/{folder}/{name}", value)


def _write_setting(name: str, value: str) -> None:
    # A setting that is not there belongs to an interface or a module that is not there.
    with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
        file.write(value)


def _address(body: bytes, indexes: t.Mapping[int, int]) -> bytes:
    """An address of the host as the copy is to have it."""
    family, length, flags, scope, index = _IFADDR.unpack_from(body)
    attributes = [(kind, value) for kind, value in unpack(body[8:]) if kind not in (_IFA_CACHEINFO, _IFA_FLAGS)]
    (whole,) = struct.unpack("=I", dict(unpack(body[8:])).get(_IFA_FLAGS, struct.pack("=I", flags)))
    whole = (whole & ~_IN_PROGRESS) | _NODAD
    attributes.append((_IFA_FLAGS, struct.pack("=I", whole)))
    return _IFADDR.pack(family, length, whole & 0xFF, scope, indexes.get(index, 0)) + pack(attributes)


def _route(body: bytes, indexes: t.Mapping[int, int]) -> bytes | None:
    """A route of the host as the copy is to have it; None for one that comes with the addresses."""
    family, *middle, protocol, scope, kind, flags = _ROUTE_HEAD.unpack_from(body)
    own = kind == _LOCAL and protocol != _BY_KERNEL
    if family not in VERSIONS.values() or flags & _CLONED or not (own or kind in (_UNICAST, *_BLACKHOLE_TO_THROW)):
        return None
    attributes = []
    for name, value in unpack(body[_ROUTE_HEAD.size :]):
        if name in (_RTA_OIF, _RTA_IIF):
            value = struct.pack("=i", indexes.get(struct.unpack("=i", value)[0], 0))
        elif name == _RTA_MULTIPATH:
            value = _next_hops(value, indexes)
        if name not in (_RTA_CACHEINFO, _RTA_EXPIRES, _RTA_NH_ID):
            attributes.append((name, value))
    # On-link: then it does not matter in which order routes come.
    flags = _ONLINK if _RTA_GATEWAY in dict(attributes) else 0
    return _ROUTE_HEAD.pack(family, *middle, protocol, scope, kind, flags) + pack(attributes)


def _next_hops(data: bytes, indexes: t.Mapping[int, int]) -> bytes:
    """The parts of a route with several ways, see rtnetlink(7)."""
    parts = b""
    while len(data) >= _NEXT_HOP.size:
        length, _flags, hops, index = _NEXT_HOP.unpack_from(data)
        attributes = data[_NEXT_HOP.size : length]
        flags = _ONLINK if _RTA_GATEWAY in dict(unpack(attributes)) else 0
        parts += _NEXT_HOP.pack(length, flags, hops, indexes.get(index, 0)) + attributes
        data = data[length + -length % 4 :]
    return parts


def _text(name: str) -> bytes:
    return name.encode(errors="surrogateescape") + b"\0"


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _link_body(index: int, flags: int, change: int) -> bytes:
    return _LINK.pack(0, 0, index, flags, change)
