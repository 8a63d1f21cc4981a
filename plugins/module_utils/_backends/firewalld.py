# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""firewalld: a service for each SDK and direction, and policies of ours that allow them, as files of our own.

A host has `openagora-out` (HOST to ANY) and `openagora-in` (the active zones to HOST), a gateway `openagora-gw-out` and
`openagora-gw-in` between the zones of its two sides. Return traffic needs no rule: firewalld accepts what belongs to
established connections, and related ICMP errors, before it looks at zones and policies (0.9 at input and forward only,
because it has nothing at output that could drop but policies of the operator's own).

Policies and services come into being with a reload only; which services a policy allows can change without one. So the
services of all SDKs stand there from the first run on, those that were not asked for with the ports of the default
revision.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import typing as t
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from html import escape  # xml.sax.saxutils would load urllib, http and ssl in every run
from xml.etree import ElementTree

from .._catalog import CATALOG
from .._compile import Request, compile_request
from .._model.lockdown import Lockdown, Passing
from .._model.messages import Notice
from .._model.ports import PortSet
from .._model.rules import FAMILIES, Passage, RuleSet, Side, family_of, normalise_networks
from .contract import LOCKED, Accept, BackendError, Command, Place, RemoveFile, Step, Traffic, WriteFile, edits_of

if t.TYPE_CHECKING:
    from .contract import Action, Host

__all__ = ["Firewalld"]

_ETC = "/etc/firewalld"
_LIB = "/usr/lib/firewalld"
_CONF = f"{_ETC}/firewalld.conf"
_BUS = "org.fedoraproject.FirewallD1"
_OBJECT = "/org/fedoraproject/FirewallD1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_UNIT = "firewalld.service"
_WAIT_PATH = f"/etc/systemd/system/{_UNIT}.d/openagora.conf"

_PREFIX = "openagora-"
# What firewalld leaves of a file that it writes itself, as it does with a policy when a service that it names goes.
_BACKUP = ".xml.old"
_OURS = "Written by the Ansible collection openagora.firewall"
# firewalld has its name on the bus, and so has started, before its rules are there (measured with 0.9 and 1.3, not with
# 2.3); it answers after that. Of what it can be asked, properties are what needs no polkit.
_WAIT = f"""\
# {_OURS}; its next run puts right what is changed here.
# Lockdown is in force before the network is up: firewalld has started when its rules are there, not sooner.
[Service]
ExecStartPost=-/usr/bin/busctl --quiet --auto-start=no --timeout=60 call {_BUS} {_OBJECT} {_PROPERTIES} \
Get ss {_BUS} state
"""
_SERVICE = re.compile(r"openagora-(?P<sdk>[a-z][a-z0-9_]*)(?P<ingress>-in)?(?:-[0-9]+)?\Z")
# At most 18 characters: nftables' chains are named after policies.
_POLICY = re.compile(r"openagora-(?P<gateway>gw-)?(?P<way>out|in|lock)[0-9]*\Z")
_SIDES = re.compile(r"Inside: (.*)\. Outside: (.*)\. ")
_PRIORITY = -100
# Policies of lockdown come right after those that allow, and before all zones.
_LOCK_PRIORITY = _PRIORITY + 1
_ANYWHERE = "anywhere"
# Zones of firewalld's own that stand for: nothing comes in.
_SHUT = ("block", "drop")

# What is known of firewalld's rich rules: those that `Entry.rule` makes.
_RICH = re.compile(
    r'rule(?: family="(?P<family>ipv4|ipv6)")?'
    r'(?: source address="(?P<source>[^"]*)")?(?: destination address="(?P<destination>[^"]*)")?'
    r'(?: service name="(?P<service>[^"]*)"| (?P<what>(?:port|icmp-type|protocol) [^<>]*))? accept\Z'
)
_LOG = 'rule priority="32767" log prefix="openagora " level="info" limit value="1/s"'

# What firewalld calls the ICMP that lockdown lets pass; in IPv6 it is all of it where firewalld knows no MLD (1.3).
_ERRORS = ("destination-unreachable", "time-exceeded", "parameter-problem")
_NEIGHBOURS = ("router-solicitation", "router-advertisement", "neighbour-solicitation", "neighbour-advertisement")
_MLD = ("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report")

# Says what speaks against new files and a reload, in firewalld's own words and Python, and changes nothing: whether
# the configuration is valid with them (a private copy is checked), in what the running firewall differs from the
# files otherwise (`running`), and what comes of it when firewalld loads it, in a network of its own (`load`): its
# rules, and what a reload deletes that it has not made. Its input is
# {running, load, zones: {zone: interfaces}, files: {path below /etc/firewalld: text, or null when it goes}}.
_SCRIPT = r"""
import ctypes, json, os, re, select, shutil, signal, subprocess, sys, tempfile

def words(value):
    return " ".join(map(words, value)) if isinstance(value, (list, tuple)) else str(value)

def flat(value):
    if isinstance(value, (list, tuple)):
        return [words(item) for item in value]
    return [] if value in (False, "", None, {}) else [str(value)]

def managed():
    try:
        from firewall.core import fw_nm
        return set(fw_nm.nm_get_interfaces()) if fw_nm.nm_is_imported() else set()
    except Exception:
        return set()

def differences():
    direct = "the direct configuration"
    from firewall.client import FirewallClient
    from firewall.core.io.direct import Direct
    from firewall.core.io.firewalld_conf import firewalld_conf
    from firewall.core.io.ipset import ipset_reader
    from firewall.core.io.policy import policy_reader
    from firewall.core.io.service import service_reader
    from firewall.core.io.zone import zone_reader
    client = FirewallClient()
    client.setExceptionHandler(lambda error: (_ for _ in ()).throw(error))
    conf = firewalld_conf("/etc/firewalld/firewalld.conf")
    conf.read()
    # Who is told of a reload puts its interfaces back: NetworkManager, docker and libvirt. FlushAllOnReload=no keeps
    # all of them, and the direct rules.
    said = (conf.get("FlushAllOnReload"), client.config().get_property("FlushAllOnReload"))
    keeps = all(str(value).lower() == "no" for value in said)
    elsewhere = managed()
    for zone, bound in client.getActiveZones().items():
        if keeps or zone in ("docker", "libvirt", "libvirt-routed"):
            elsewhere.update(bound.get("interfaces", ()))

    def compare(name, live, stored):
        for key in sorted(set(live) | set(stored)):
            if key in ("version", "short", "description"):
                continue
            one, other = (set(flat(side.get(key))) for side in (live, stored))
            if key == "interfaces":
                one, other = one - elsewhere, other - elsewhere
            for verb, items in (("loses", one - other), ("gains", other - one)):
                if items and not (keeps and name == direct and verb == "loses"):
                    yield "{0} {1} {2} {3}".format(name, verb, key.replace("_", " "), ", ".join(sorted(items)))

    def each(kind, live, stored, settings, path):
        for name in sorted(set(live) | set(stored)):
            if name.startswith("openagora-"):
                continue
            if name not in stored:
                yield "{0} {1} is lost".format(kind, name)
            elif name not in live:
                yield "{0} {1} becomes active".format(kind, name)
            else:
                for line in compare("{0} {1}".format(kind, name), settings(name), path(name)):
                    yield line

    def ipset(kind, options, entries):
        # firewalld does not know what is in a set whose entries end by themselves.
        return {"type": kind, "options": sorted(options.items()), "entries": [] if "timeout" in options else entries}

    # What is stored is read from the files: firewalld's own copy of them does not always follow an edit by hand.
    def files(kind):
        found = {}
        for root in ("/usr/lib/firewalld", "/etc/firewalld"):
            folder = "{0}/{1}".format(root, kind)
            for file in os.listdir(folder) if os.path.isdir(folder) else ():
                if file.endswith(".xml"):
                    found[file[:-len(".xml")]] = folder
        return found

    def written(reader, held, name):
        settings = reader(name + ".xml", held[name]).export_config_dict()
        # How zones say it that have no target of their own.
        if settings.get("target") == "{chain}_{zone}":
            settings["target"] = "default"
        return settings

    def stored_ipset(name):
        found = ipset_reader(name + ".xml", ipsets[name])
        return ipset(found.type, found.options, found.entries)

    def live_ipset(name):
        found = client.getIPSetSettings(name)
        return ipset(found.getType(), found.getOptions(), found.getEntries())

    for key, live in (("DefaultZone", client.getDefaultZone()), ("LogDenied", client.getLogDenied())):
        yield from compare("firewalld.conf", {key: live}, {key: conf.get(key) or live})
    zones, policies, services, ipsets = map(files, ("zones", "policies", "services", "ipsets"))
    live_zones = {name: client.getZoneSettings(name).getSettingsDict() for name in client.getZones()}
    live_policies = {name: client.getPolicySettings(name).getSettingsDict() for name in client.getPolicies()}
    yield from each("zone", live_zones, zones, live_zones.get, lambda name: written(zone_reader, zones, name))
    yield from each("policy", live_policies, policies, live_policies.get,
                    lambda name: written(policy_reader, policies, name))
    # The package brings some 200 services, and asking for all takes long: what no zone and no policy names is not live.
    holders = [*live_zones.values(), *live_policies.values()]
    used = {name for held in holders for name in held.get("services", ())}
    rules = (rule for held in holders for key in ("rules_str", "rich_rules") for rule in held.get(key, ()))
    used.update(name for rule in rules for name in re.findall('service name="([^"]+)"', rule))
    yield from each("service", used & set(client.listServices()), used & set(services),
                    lambda name: client.getServiceSettings(name).getSettingsDict(),
                    lambda name: written(service_reader, services, name))
    yield from each("ipset", client.getIPSets(), ipsets, live_ipset, stored_ipset)
    path = "/etc/firewalld/direct.xml"
    stored = Direct(path)
    if os.path.exists(path):
        stored.read()
    kinds = ("chains", "rules", "passthroughs")
    live = (client.getAllChains(), client.getAllRules(), client.getAllPassthroughs())
    yield from compare(direct, dict(zip(kinds, live)), dict(zip(kinds, stored.export_config())))

def call(argv, text=""):
    try:
        done = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                universal_newlines=True)
    except FileNotFoundError:
        return 127, "", ""
    out, err = done.communicate(text)
    return done.returncode, out, err

def run(argv, text=""):
    code, out, _err = call(argv, text)
    return "" if code else out

TABLES = ("iptables", "ip6tables", "ebtables")
BASES = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "BROUTING")

def chains(text):
    # The chains of a listing in the format of iptables-save, and their rules, as (table, chain, rule); but not ours.
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith((":", "-A ")) and "openagora" not in line:
            words = line.lstrip(":").split()
            if line.startswith("-A "):
                yield table, words[1], line
            elif words[0] not in BASES:
                yield table, words[0], ""

def loaded():
    libc = ctypes.CDLL(None, use_errno=True)
    # Ends with its parent.
    libc.prctl(1, signal.SIGKILL)
    sets = run(["ipset", "save"])
    saved = {command: call([command + "-save"]) for command in TABLES}
    conf, text = os.path.join(copy, "firewalld.conf"), ""
    if os.path.exists(conf):
        with open(conf, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    iptables = bool(re.search("(?m)^FirewallBackend=iptables", text))
    if libc.unshare(0x40000000):
        why = "a private network cannot be made: " + os.strerror(ctypes.get_errno())
        return {"untried": why, "flushed": [] if iptables else [name for name in TABLES if saved[name][1]]}
    run(["ipset", "restore"], sets)
    if text:
        # A table with an owner nobody else may load.
        with open(conf, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(re.sub("(?m)^NftablesTableOwner=.*", "NftablesTableOwner=no", text))
    from firewall import config
    config.set_system_config_paths(copy)
    from firewall.core.fw import Firewall
    firewall = Firewall()
    try:
        firewall.start()
        marked = [command for command in TABLES if call([command, "-N", "openagora-try"])[0] == 0]
        firewall.reload()
    except (Exception, SystemExit) as error:
        return {"failed": " ".join(str(error).replace(copy, "/etc/firewalld").split()).rstrip(".")}
    for zone, interfaces in job["zones"].items():
        for interface in interfaces if zone in firewall.zone.get_zones() else ():
            firewall.zone.change_zone_of_interface(zone, interface)
    own = {command: run([command + "-save"]) for command in TABLES}
    flushed = [command for command in marked if ":openagora-try " not in own[command]]
    others = {}
    for command in flushed:
        code, out, err = saved[command]
        if code not in (0, 127):
            others.setdefault(command + "-save fails", []).append(" ".join(err.split()))
        made = set(chains(own[command]))
        for table, chain, rule in chains(out):
            if (table, chain, rule) not in made:
                held = others.setdefault("{0} -t {1}".format(command, table), [])
                held += [] if chain in held else [chain]
    tables = [line.split()[1:] for line in run(["nft", "list", "tables"]).splitlines()]
    texts = {" ".join(one): run(["nft", "-s", "list", "table"] + one) for one in tables if one[1:] == ["firewalld"]}
    if iptables:
        texts, flushed = {command: own[command] for command in ("iptables", "ip6tables")}, []
    return {"rules": texts, "flushed": flushed, "others": others}

def begin():
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, os.fdopen(reader)
    try:
        os.dup2(2, 1)
        try:
            answer = loaded()
        except Exception as error:
            answer = {"untried": repr(error)}
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)

def end(child, pipe):
    # It writes nothing until it has all.
    if not select.select([pipe], [], [], 60)[0]:
        os.kill(child, signal.SIGKILL)
        answer = '{"failed": "it has not loaded it within 60 seconds"}'
    else:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer or '{"failed": "it ends while it loads it"}')

job = json.load(sys.stdin)
folder = tempfile.mkdtemp(prefix="openagora-")
try:
    copy = os.path.join(folder, "firewalld")
    shutil.copytree("/etc/firewalld", copy)
    for path, text in job["files"].items():
        path = os.path.join(copy, path)
        if text is not None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
        elif os.path.exists(path):
            os.unlink(path)
    loading = begin() if job["load"] else None
    check = subprocess.Popen(["firewall-offline-cmd", "--system-config", copy, "--check-config"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    failed = None
    try:
        found = list(differences()) if job["running"] else []
    except Exception as error:
        found, failed = [], error
    said = check.communicate()[0].strip().replace(copy, "/etc/firewalld")
    came = end(*loading) if loading else {}
    # A file that cannot be read is what the check has to say.
    if failed and not check.returncode:
        raise failed
    print(json.dumps({"invalid": said if check.returncode else "", "differences": found, "loaded": came}))
finally:
    shutil.rmtree(folder)
"""

# What a service opens, by protocol.
Ports = dict[str, PortSet]


@dataclass(frozen=True)
class Zone:
    """What belongs to a zone by name."""

    interfaces: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Entry:
    """What a policy allows, from one network to one network (empty: anywhere).

    That is a service or, in lockdown, `what` a rich rule says in its place (empty too: all), in the address family
    `only` (empty: that of the networks, or both). One that allows nothing logs (`what` is _LOG).
    """

    service: str
    source: str = ""
    destination: str = ""
    what: str = ""
    only: str = ""

    @property
    def family(self) -> str:
        """The address family in which it counts, empty for both."""
        named = self.source or self.destination
        return family_of(named) if named else self.only

    @property
    def plain(self) -> bool:
        """Whether a policy names it without a rich rule."""
        return bool(self.service) and not self.family

    @property
    def _parts(self) -> list[str]:
        """What a rich rule consists of; the words are those of the file's elements."""
        parts = [f'source address="{self.source}"'] if self.source else []
        parts += [f'destination address="{self.destination}"'] if self.destination else []
        return parts + ([f'service name="{self.service}"'] if self.service else [self.what] if self.what else [])

    def rule(self) -> str:
        """The rich rule as firewalld writes it."""
        family = [f'family="{self.family}"'] if self.family else []
        return _LOG if self.what == _LOG else " ".join(["rule", *family, *self._parts, "accept"])

    def xml(self) -> str:
        """The element in the policy's file."""
        if self.plain:
            return f'  <service name="{self.service}"/>\n'
        if self.what == _LOG:
            log = '    <log prefix="openagora " level="info">\n      <limit value="1/s"/>\n    </log>'
            return f'  <rule priority="32767">\n{log}\n  </rule>\n'
        family = f' family="{self.family}"' if self.family else ""
        parts = "".join(f"    <{part}/>\n" for part in [*self._parts, "accept"])
        return f"  <rule{family}>\n{parts}  </rule>\n"


@dataclass(frozen=True)
class Policy:
    """One policy. `rest` names what it holds that policies of ours do not."""

    name: str
    description: str
    ingress: tuple[str, ...]
    egress: tuple[str, ...]
    entries: tuple[Entry, ...] = ()
    target: str = "CONTINUE"
    priority: int = _PRIORITY
    rest: tuple[str, ...] = ()

    @property
    def frame(self) -> Policy:
        """The policy without what can change at run time."""
        return replace(self, entries=())

    def meets(self, other: Policy) -> bool:
        """Whether some packets pass both policies; ANY is every zone and not the host itself."""
        return all(
            set(one) & set(two) or ("ANY" in one and set(two) - {"HOST"}) or ("ANY" in two and set(one) - {"HOST"})
            for one, two in ((self.ingress, other.ingress), (self.egress, other.egress))
        )

    def text(self) -> str:
        """The policy's file."""
        zones = [f'  <ingress-zone name="{escape(zone)}"/>\n' for zone in self.ingress]
        zones += [f'  <egress-zone name="{escape(zone)}"/>\n' for zone in self.egress]
        return (
            f'<?xml version="1.0" encoding="utf-8"?>\n<policy target="{self.target}" priority="{self.priority}">\n'
            f"  <short>Agora SDKs</short>\n  <description>{escape(self.description, quote=False)}</description>\n"
            f"{''.join(zones)}{''.join(entry.xml() for entry in self.entries)}</policy>\n"
        )


@dataclass(frozen=True)
class Config:
    """Policies and services of ours: as files say, as the running firewall has them, or as they have to be."""

    policies: dict[str, Policy]
    services: dict[str, Ports]


@dataclass(frozen=True)
class Examined:
    """What firewalld makes of files before they count: why they are invalid, and what else a reload changes.

    `rules` are those that it then has in the kernel, by table of nft (`inet firewalld`) or command of iptables; none
    where that was not asked, could not be tried, for the reason `untried`, or where it does not load them, for the
    reason `failed`. `flushed` are the commands (`iptables`)
    whose rules a reload deletes, and that can put them back as they were; `others`: those among them that are not
    firewalld's, as chains by table.
    """

    invalid: str = ""
    differences: tuple[str, ...] = ()
    untried: str = ""
    failed: str = ""
    rules: t.Mapping[str, str] = field(default_factory=dict)
    flushed: tuple[str, ...] = ()
    others: t.Mapping[str, t.Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Kernel:
    """What firewalld's rules in the kernel lead to our policies.

    `there`: it has its chains at all. `ways` are the pairs of interfaces (None: any) of which packets come to a policy;
    those of sources are not told. `named_only`: of a zone, policies see what the interfaces send that the zone names,
    and not what falls to the default zone because no zone names it (measured: so in 1.3, no more in 2.3). `letting` are
    zones that let all in.
    """

    there: bool
    ways: dict[str, tuple[tuple[str | None, str | None], ...]]
    named_only: bool
    letting: frozenset[str]

    def meets(self, policy: str, interfaces: t.Iterable[str]) -> bool:
        """Whether packets from each of these interfaces come to the policy; without any, whether any do."""
        ways = self.ways.get(policy, ())
        sources = [source for source, _target in ways]
        return bool(ways) and all(
            any(source is None or fnmatch(name, source.replace("+", "*")) for source in sources) for name in interfaces
        )


@dataclass(frozen=True)
class State:
    """What firewalld says about itself, the zones, and ours. `live` is None while firewalld does not run."""

    live: Config | None
    # Files with a name of ours, whoever wrote them.
    files: dict[str, str]
    # Its rules in the kernel; None while it does not run, or where no command lists them.
    kernel: Kernel | None
    # What firewalld has left of files of ours that it wrote itself.
    backups: dict[str, str]
    zones: dict[str, Zone]
    default: str
    # Whether systemd starts it.
    systemd: bool
    # Whether it has names for the ICMP of multicast listeners.
    knows_mld: bool
    # The host's interfaces: those that no zone names belong to the default zone.
    interfaces: tuple[str, ...]
    # Those by which the world comes in: of the default routes, or all where there are none.
    outer: tuple[str, ...]
    # Those that no zone names, where policies therefore miss what they send.
    unnamed: tuple[str, ...]
    # Whether this firewalld has policies, which came with version 0.9.
    capable: bool
    # Policies of others in the running firewall that come before ours and decide.
    ahead: tuple[Policy, ...]
    # What comes of these files (see `_examine`). It looks at the host, which takes half a second, so it is asked only
    # when something is to be written; it changes nothing.
    examine: t.Callable[..., Examined]

    def zone_of(self, interface: str) -> str:
        """The zone that an interface belongs to."""
        return next((name for name, zone in self.zones.items() if interface in zone.interfaces), self.default)

    @property
    def in_force(self) -> Config | None:
        """Ours as the kernel has it: `live` without the policies to which nothing comes from outside."""
        kernel = self.kernel
        if not self.live or not kernel:
            return self.live
        outer = [name for name in self.outer if self.zone_of(name) not in kernel.letting]
        met = {
            name: policy
            for name, policy in self.live.policies.items()
            if (kernel.meets(name, outer) or not outer if name == f"{_PREFIX}in" else kernel.meets(name, ()))
        }
        return replace(self.live, policies=met)

    def holds(self, zone: str) -> set[str]:
        """Interfaces and sources that belong to a zone, also because it is the default one."""
        found = {*self.zones[zone].interfaces, *self.zones[zone].sources}
        return found | {name for name in self.interfaces if self.zone_of(name) == zone}


@dataclass(frozen=True)
class Desired:
    """What has to be there, in files and in words, and whether that takes a reload, and what that deletes of others.

    `flushed` are the commands whose rules it deletes (see `Examined`).
    """

    files: dict[str, str]
    config: Config
    reload: bool
    flushed: tuple[str, ...] = ()


def _systemctl(host: Host) -> bool:
    # In the words of detect.py: it is asked once for a plan.
    return host.run(["systemctl", "is-active", "--quiet", _UNIT]).code == 0


def _argv(interface: str, member: str, *arguments: str) -> tuple[str, ...]:
    """A call over D-Bus: firewall-cmd does the same, and takes 40 times as long to start."""
    call = ("busctl", "--json=short", "--auto-start=no", "--timeout=120", "call", _BUS, _OBJECT)
    return (*call, f"{_BUS}{interface}", member, *arguments)


# Runs a reload that deletes the rules of some commands ($1), and puts them back.
_KEEPING = """\
commands=$1
shift
counters() { [ "$1" = ebtables ] || echo -c; }
for command in $commands; do
    text=$("$command-save" $(counters $command)) || exit 1
    eval "kept_$command=\\$text"
done
"$@"
code=$?
for command in $commands; do
    eval "text=\\$kept_$command"
    [ -z "$text" ] || printf '%s\\n' "$text" | "$command-restore" $(counters $command) || code=1
done
exit $code
"""


def _reload(flushed: tuple[str, ...]) -> tuple[str, ...]:
    keeping = ("/bin/sh", "-c", _KEEPING, "sh", " ".join(flushed)) if flushed else ()
    return (*keeping, *_argv("", "reload"))


def _ask(host: Host, interface: str, member: str, *arguments: str) -> t.Any:
    outcome = host.run(_argv(interface, member, *arguments))
    if outcome.code != 0:
        raise BackendError(f"firewalld does not answer to {member}: {outcome.err.strip() or outcome.out.strip()}")
    return json.loads(outcome.out)["data"][0]


def _xml(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314  # root's own files, and firewalld reads them no other way


def _zone_from_xml(text: str) -> Zone:
    """What a zone's file says; a source inside a rich rule is no child of the zone."""
    root = _xml(text)
    return Zone(
        tuple(found.get("name", "") for found in root.findall("interface")),
        tuple(found.get("address") or f"ipset:{found.get('ipset')}" for found in root.findall("source")),
    )


def _read_zones(host: Host) -> tuple[dict[str, Zone], str]:
    """Zones and the default zone as the files say."""
    listed = host.run(["find", f"{_LIB}/zones", f"{_ETC}/zones", "-maxdepth", "1", "-name", "*.xml"]).out.split("\n")
    zones: dict[str, Zone] = {}
    # What stands in /etc replaces what the package brings.
    for path in sorted(filter(None, listed), reverse=True):
        try:
            zones[path.rpartition("/")[2][: -len(".xml")]] = _zone_from_xml(host.read(path) or "")
        except ElementTree.ParseError as error:
            raise BackendError(f"{path} is not valid XML ({error}); put it right, then run again") from error
    found = re.search(r"^DefaultZone=(\S+)", host.read(_CONF) or "", re.MULTILINE)
    return zones, found[1] if found else "public"


# A rule of firewalld's filter chains that leads to a policy of ours, as nft lists it and as iptables-save does.
_WAY = re.compile(
    r"^(?:\t\t|-A \S*_POLICIES\S* )(?P<match>.*?)"
    r"(?:jump filter_|-j )(?:IN|OUT|FWD)_(?:policy_)?(?P<policy>openagora-\S+)$",
    re.MULTILINE,
)
_ENDS = {end: re.compile(rf'(?:{end}ifname (?:"([^"]+)"|{{ ([^}}]+) }})|-{end} (\S+))') for end in "io"}
# The end of what a zone has for what comes in.
_LETTING = re.compile(
    r"^\tchain filter_IN_(\S+) \{\n(?:\t\t.*\n)*?\t\t(?:counter )?accept\n\t\}|^-A IN_(\S+) -j ACCEPT$", re.MULTILINE
)


def _read_kernel(host: Host) -> Kernel | None:
    text = host.run(["nft", "-s", "-t", "list", "table", "inet", "firewalld"]).out
    # With FirewallBackend=iptables.
    text = text or host.run(["iptables-save", "-t", "filter"]).out
    found = re.search(r"^(?:\tchain filter_|:)INPUT_(ZONES|POLICIES)\b", text, re.MULTILINE)
    if not found and not host.which("nft"):
        return None
    ways: dict[str, list[tuple[str | None, str | None]]] = {}
    for rule in _WAY.finditer(text):
        sources, targets = (_ends(rule["match"], end) for end in "io")
        # What names no interface and matches all the same is from or to some addresses.
        if sources != [None] or targets != [None] or rule["match"].strip() in ("", "counter"):
            ways.setdefault(rule["policy"], []).extend((source, target) for source in sources for target in targets)
    return Kernel(
        there=bool(found),
        ways={name: tuple(held) for name, held in ways.items()},
        named_only=bool(found and found[1] == "ZONES"),
        letting=frozenset(one or other for one, other in _LETTING.findall(text)),
    )


def _unnamed(host: Host, kernel: Kernel | None, default: str, zones: dict[str, Zone]) -> t.Iterator[str]:
    """The interfaces that policies miss. What a bridge's port sends comes in by the bridge."""
    if kernel and kernel.named_only and default not in kernel.letting:
        patterns = [name.replace("+", "*") for zone in zones.values() for name in zone.interfaces]
        for name in _interfaces(host):
            named = any(fnmatch(name, pattern) for pattern in patterns)
            if not named and not host.exists(f"/sys/class/net/{name}/brport"):
                yield name


def _interfaces(host: Host) -> tuple[str, ...]:
    found = re.findall(r"^\s*([^\s:]+):", host.read("/proc/net/dev") or "", re.MULTILINE)
    return tuple(name for name in found if name != "lo")


def _ends(match: str, end: str) -> list[str | None]:
    """The interfaces that a rule names for one end of a way."""
    found = _ENDS[end].search(match)
    if not found:
        return [None]
    return [*re.findall(r'"([^"]+)"', found[2])] if found[2] else [found[1] or found[3]]


def _outer(host: Host) -> tuple[str, ...]:
    """The interfaces of the default routes (proc_net(5): route, ipv6_route), or all where there are none."""
    rows = [line.split() for line in (host.read("/proc/net/route") or "").splitlines()]
    found = {row[0] for row in rows if len(row) > 7 and row[1] == row[7] == "0" * 8}
    rows = [line.split() for line in (host.read("/proc/net/ipv6_route") or "").splitlines()]
    found |= {row[-1] for row in rows if len(row) > 9 and row[0] == "0" * 32 and row[1] == "00"}
    interfaces = _interfaces(host)
    return tuple(name for name in interfaces if name in found) or interfaces


def _ports(pairs: t.Iterable[tuple[str, str]]) -> Ports:
    """firewalld's pairs of port text and protocol; what is not of our kind counts as nothing."""
    found: Ports = {}
    for text, protocol in pairs:
        if re.match(r"[0-9]+(-[0-9]+)?\Z", text):
            found[protocol] = found.get(protocol, PortSet()) | PortSet.parse(text)
    return found


def _entry(rule: str) -> Entry | None:
    found = _RICH.match(rule)
    if rule == _LOG:
        return Entry("", what=_LOG)
    if not found:
        return None
    words = {key: value or "" for key, value in found.groupdict().items()}
    only = "" if words["source"] or words["destination"] else words["family"]
    return Entry(words["service"], words["source"], words["destination"], words["what"], only)


def _live_policy(name: str, settings: dict[str, t.Any]) -> Policy:
    values = {key: value["data"] for key, value in settings.items()}
    rules = values.get("rich_rules", [])
    entries = [_entry(rule) for rule in rules]
    known = ("short", "description", "target", "priority", "ingress_zones", "egress_zones", "services", "rich_rules")
    rest = [key for key, value in values.items() if value and key not in (*known, "version")]
    rest += [rule for rule, entry in zip(rules, entries) if entry is None]
    return Policy(
        name=name,
        description=values.get("description", ""),
        ingress=tuple(sorted(values.get("ingress_zones", []))),
        egress=tuple(sorted(values.get("egress_zones", []))),
        entries=tuple(sorted([*map(Entry, values.get("services", [])), *filter(None, entries)])),
        target=values.get("target", ""),
        priority=values.get("priority", 0),
        rest=tuple(sorted(rest)),
    )


def _live_ports(settings: dict[str, t.Any]) -> Ports:
    """The ports of a service; none when it also says something else, because then it is not as we wrote it."""
    values = {key: value["data"] for key, value in settings.items()}
    plain = all(key in ("version", "short", "description", "ports") or not value for key, value in values.items())
    return _ports(values.get("ports", [])) if plain else {}


def _read_live(host: Host, names: t.Iterable[str]) -> tuple[Config, tuple[Policy, ...]]:
    """Ours as the running firewall has it, and policies of others that close something before ours come.

    Services cannot be listed by prefix: they are asked for by name.
    """
    listed = _ask(host, ".policy", "getPolicies")
    found = [_live_policy(name, _ask(host, ".policy", "getPolicySettings", "s", name)) for name in sorted(listed)]
    policies = {policy.name: policy for policy in found if _POLICY.match(policy.name) and _OURS in policy.description}
    ahead = (policy for policy in found if policy.priority < _PRIORITY and policy.target != "CONTINUE")
    used = {entry.service for policy in policies.values() for entry in policy.entries if entry.service}
    services = {}
    for name in sorted({*names, *used}):
        outcome = host.run(_argv("", "getServiceSettings2", "s", name))
        if outcome.code == 0:
            services[name] = _live_ports(json.loads(outcome.out)["data"][0])
        elif "INVALID_SERVICE" not in outcome.err:
            raise BackendError(f"firewalld does not tell about service {name}: {outcome.err.strip()}")
    return Config(policies, services), tuple(ahead)


def _stored(files: dict[str, str]) -> Config:
    """Ours as the files say; a file that cannot be read opens nothing."""
    config = Config({}, {})
    for path, text in files.items():
        folder, name = path[: -len(".xml")].split("/")[-2:]
        try:
            root = _xml(text)
            priority = int(root.get("priority", "0"))
        except (ElementTree.ParseError, ValueError):
            continue
        if folder == "services":
            plain = all(child.tag in ("short", "description", "port") for child in root)
            pairs = ((port.get("port", ""), port.get("protocol", "")) for port in root.iter("port"))
            config.services[name] = _ports(pairs) if plain else {}
            continue
        entries = [Entry(child.get("name", "")) for child in root if child.tag == "service"]
        entries += filter(None, map(_stored_rule, root.iter("rule")))
        config.policies[name] = Policy(
            name=name,
            description=root.findtext("description", ""),
            ingress=tuple(sorted(child.get("name", "") for child in root.iter("ingress-zone"))),
            egress=tuple(sorted(child.get("name", "") for child in root.iter("egress-zone"))),
            entries=tuple(sorted(entries)),
            target=root.get("target", ""),
            priority=priority,
        )
    return config


def _stored_rule(rule: ElementTree.Element) -> Entry | None:
    """What a rich rule in a file allows: in the words of firewalld, as `_entry` takes them."""
    if rule.find("log") is not None:
        return Entry("", what=_LOG)
    attributes = [f'family="{rule.get("family")}"'] if rule.get("family") else []
    words = ["rule", *attributes]
    for child in rule:
        words.append(" ".join([child.tag, *(f'{name}="{value}"' for name, value in child.attrib.items())]))
    return _entry(" ".join(words))


def _as_allowed(path: str, before: str, after: str) -> str:
    """How a file of ours has to look, allowing what it allows now: a policy with another choice of SDKs is no edit."""
    policies, wanted = _stored({path: before}).policies, _stored({path: after}).policies
    texts = [
        replace(policy, entries=policies[name].entries).text() for name, policy in wanted.items() if name in policies
    ]
    return texts[0] if texts else after


def _python(host: Host) -> str:
    """firewalld is written in Python: the interpreter that runs it has its packages."""
    first = (host.read(host.which("firewall-offline-cmd") or "") or "").partition("\n")[0]
    words = first[2:].split() if first.startswith("#!") else []
    return words[0] if words else "/usr/bin/python3"


def _examine(
    host: Host,
    python: str,
    zones: dict[str, Zone],
    files: t.Mapping[str, str | None],
    *,
    running: bool = False,
    load: bool = False,
) -> Examined:
    """What comes of these files (None: gone); `running`: in the running firewalld; `load`: in the kernel."""
    below = {path[len(_ETC) + 1 :]: text for path, text in files.items() if path.startswith(f"{_ETC}/")}
    bound = {name: zone.interfaces for name, zone in zones.items() if zone.interfaces}
    job = {"running": running, "load": load, "zones": bound, "files": below}
    outcome = host.run([python, "-I", "-c", _SCRIPT], stdin=json.dumps(job))
    if outcome.code != 0:
        raise BackendError(f"firewalld's configuration cannot be checked: {outcome.err.strip()}")
    found = json.loads(outcome.out)
    came = found["loaded"]
    return Examined(
        invalid=found["invalid"],
        differences=tuple(found["differences"]),
        untried=came.get("untried", ""),
        failed=came.get("failed", ""),
        rules=came.get("rules", {}),
        flushed=tuple(came.get("flushed", ())),
        others=came.get("others", {}),
    )


# A chain of one of our policies as nft lists it, and the lines of iptables-save that say the same.
_NFT_CHAIN = re.compile(r"^\tchain (\S*_openagora-\S*) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)
_SAVED = re.compile(r"^(?::|-A )\S*_openagora-\S* .*\n", re.MULTILINE)


def _as_loaded(examined: Examined, *, reload: bool) -> tuple[Command, ...]:
    """What brings a private copy of the rules to those that firewalld makes: all of its own, or our policies alone."""
    if not examined.rules:
        raise BackendError(f"firewalld's rules cannot be tried: {examined.failed or examined.untried}")
    commands = []
    for name, text in examined.rules.items():
        if name in ("iptables", "ip6tables"):
            ours = "".join(["*filter\n", *_SAVED.findall(text.partition("*filter\n")[2]), "COMMIT\n"])
            commands.append(Command((f"{name}-restore", *([] if reload else ["--noflush"])), text if reload else ours))
            continue
        lines = [f"add table {name}\n", f"delete table {name}\n", text]
        if not reload:
            chains = _NFT_CHAIN.findall(text)
            lines = [f"flush chain {name} {chain}\n" for chain, _rules in chains]
            lines += [f"table {name} {{\nchain {chain} {{\n{rules}}}\n}}\n" for chain, rules in chains]
        commands.append(Command(("nft", "-f", "-"), "".join(lines)))
    return tuple(commands)


def _service_text(sdk: str, direction: str, ports: Ports) -> str:
    title = CATALOG[sdk].title if sdk in CATALOG else f"Agora {sdk}"
    if direction == "egress":
        what = f"Ports that {title} reaches at Agora (outgoing)"
    else:
        what = f"Ports on which {title} receives from Agora (incoming)"
    lines = "".join(
        f'  <port protocol="{protocol}" port="{text}"/>\n'
        for protocol in sorted(ports)
        for text in ports[protocol].texts()
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<service>\n'
        f"  <short>{escape(title, quote=False)}{', incoming' if direction == 'ingress' else ''}</short>\n"
        f"  <description>{escape(what, quote=False)}. {_OURS}.</description>\n{lines}</service>\n"
    )


# To what the ports of one service go: passage, networks, direction and SDK.
_Need = tuple[Passage, tuple[str, ...], str, str]


def _needs(rules: RuleSet) -> dict[_Need, Ports]:
    needs: dict[_Need, Ports] = {}
    for rule in rules:
        for sdk, ports in rule.needs:
            needs.setdefault((rule.passage, rule.networks, rule.direction, sdk), {})[rule.protocol] = ports
    return needs


@functools.lru_cache(maxsize=1)
def _standing() -> dict[_Need, Ports]:
    """What all SDKs need at the default revision with default options."""
    return _needs(compile_request(Request.of(sdks=list(CATALOG))).rules)


def _services(needs: dict[_Need, Ports]) -> tuple[dict[_Need, str], dict[str, Ports], dict[str, str]]:
    """The service of each need, and the ports and the file's text of each service.

    An SDK has one service in a direction; more, numbered (`openagora-web-2`), only where it needs other ports for
    other networks.
    """
    names: dict[_Need, str] = {}
    made: dict[tuple[str, str], list[Ports]] = {}
    for need in sorted(needs):
        known = made.setdefault(need[2:], [])
        if needs[need] not in known:
            known.append(needs[need])
        number = known.index(needs[need]) + 1
        suffix = "-in" if need[2] == "ingress" else ""
        names[need] = f"{_PREFIX}{need[3]}{suffix}{f'-{number}' if number > 1 else ''}"
    ports = {names[need]: needs[need] for need in needs}
    return names, ports, {name: _service_text(need[3], need[2], needs[need]) for need, name in names.items()}


def _meet(networks: tuple[str, ...], sources: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses that are in both, for rules; no networks are all addresses, and then one empty text."""
    if not networks or not sources:
        return networks or sources or ("",)
    found = []
    for one in map(ipaddress.ip_network, networks):
        for other in map(ipaddress.ip_network, sources):
            if one.version == other.version and one.overlaps(other):
                found.append(str(one if one.prefixlen >= other.prefixlen else other))
    return normalise_networks(found)


def _sources(sides: tuple[Side, ...]) -> tuple[str, ...]:
    return normalise_networks(side.name for side in sides if side.kind == "source")


def _side_zones(sides: tuple[Side, ...], state: State, which: str, problems: list[str]) -> tuple[str, ...]:
    """The zones of one side of a gateway; ANY for sources, which rich rules tell apart, and for anywhere."""
    if not sides:
        return ("ANY",)
    kinds = {side.kind for side in sides}
    if "source" in kinds:
        if len(kinds) > 1:
            problems.append(f"{which} names sources and {'/'.join(sorted(kinds - {'source'}))}s; name one kind only")
        return ("ANY",)
    whole = {side.name for side in sides if side.kind == "zone"}
    problems += [f"{which}: zone {name} is not one of {', '.join(state.zones)}" for name in whole - state.zones.keys()]
    interfaces = {side.name for side in sides if side.kind == "interface"}
    zones = {state.zone_of(name) for name in interfaces}
    for zone in sorted(zones - whole):
        strangers = state.holds(zone) - interfaces
        if strangers:
            problems.append(
                f"{which}: the zone of {', '.join(sorted(interfaces & state.holds(zone)))}, {zone}, also holds "
                f"{', '.join(sorted(strangers))}; name the zone if all of it is meant, or give the interface a zone of "
                "its own (firewall-cmd --permanent --zone=ZONE --change-interface=INTERFACE, the same without "
                "--permanent)"
            )
    return tuple(sorted(zones | whole))


def _missed(state: State, interfaces: t.Collection[str], what: str) -> t.Iterator[str]:
    """That policies of ours would not let anything in by these interfaces, and how they would."""
    if interfaces:
        zone = state.default
        commands = (f"firewall-cmd --permanent --zone={zone} --change-interface={name}" for name in interfaces)
        yield (
            f"{what} would stay closed on {', '.join(interfaces)}, which no zone names: for what falls to the default "
            f"zone, {zone}, this firewalld has no policies. Name it ({'; '.join(commands)}; also without --permanent), "
            "then run again"
        )


def _gateway(passage: Passage, number: int, state: State, problems: list[str]) -> tuple[Policy, Policy]:
    """The policies outwards and inwards of one way through a gateway, without what they allow."""
    inside = _side_zones(passage.inside, state, "inside", problems)
    outside = _side_zones(passage.outside, state, "outside", problems)
    both = (set(inside) & set(outside)) - {"ANY"}
    if both:
        problems.append(f"zone {', '.join(sorted(both))} is on both sides, inside and outside")
    crossed = {side.name for side in (*passage.inside, *passage.outside) if side.kind == "interface"}
    # What falls to the default zone alone comes to none of its policies.
    whole = state.default in (*inside, *outside) and not state.zones[state.default].interfaces
    problems += _missed(state, [name for name in state.unnamed if name in crossed or whole], "what crosses")
    names = (", ".join(map(str, sides)) or _ANYWHERE for sides in (passage.inside, passage.outside))
    sides = "Inside: {}. Outside: {}. ".format(*names)
    reach = f"Ports that Agora SDKs on machines behind this gateway reach at Agora. {sides}{_OURS}."
    receive = f"Ports on which Agora SDKs on machines behind this gateway receive from Agora. {sides}{_OURS}."
    end = str(number) if number > 1 else ""
    return (
        Policy(f"{_PREFIX}gw-out{end}", reach, inside, outside),
        Policy(f"{_PREFIX}gw-in{end}", receive, outside, inside),
    )


def _host(state: State) -> tuple[Policy, Policy]:
    """The two policies of a host that runs the SDKs, without what they allow."""
    active = {state.default, *(name for name, zone in state.zones.items() if zone.interfaces or zone.sources)}
    return (
        Policy(f"{_PREFIX}out", f"Ports that Agora SDKs on this host reach at Agora. {_OURS}.", ("HOST",), ("ANY",)),
        Policy(
            f"{_PREFIX}in",
            f"Ports on which Agora SDKs on this host receive from Agora. {_OURS}.",
            tuple(sorted(active - set(_SHUT))),
            ("HOST",),
        ),
    )


def _policies(names: dict[_Need, str], lockdown: Lockdown | None, state: State) -> dict[str, Policy]:
    """The policies that allow the services, and those of lockdown.

    Both ways stand there, so that either can change without a reload.
    """
    problems: list[str] = []
    here = [Passage()] if lockdown else []
    passages = sorted({*here, *(replace(need[0], targets=()) for need in names)})
    frames = {}
    for passage in passages:
        # A host, whose passage is empty, is sorted first.
        number = passages.index(passage) + (0 if passages[0] == Passage() else 1)
        frames[passage] = _gateway(passage, number, state, problems) if passage.inside else _host(state)
    entries: dict[str, set[Entry]] = {policy.name: set() for pair in frames.values() for policy in pair}
    for (passage, networks, direction, _sdk), service in names.items():
        policy = frames[replace(passage, targets=())][direction == "ingress"]
        if not policy.ingress:
            shut = ", ".join(sorted(set(_SHUT) & ({state.default} | state.zones.keys())))
            problems.append(
                f"{service} has to come in, but all active zones are firewalld's {shut}, which let nothing in; "
                "put the interface into another zone"
            )
            continue
        near, far = _meet(passage.targets, _sources(passage.inside)), _meet(networks, _sources(passage.outside))
        for one in near:
            for other in far:
                if not one or not other or family_of(one) == family_of(other):
                    ends = (other, one) if direction == "ingress" else (one, other)
                    entries[policy.name].add(Entry(service, *ends))
    if entries.get(f"{_PREFIX}in"):
        problems += _missed(state, [name for name in state.unnamed if name in state.outer], "ingress")
    if lockdown and lockdown.uids:
        problems.append(
            "no rule of firewalld can name a local user (user:NAME in lockdown_allow); name where that one sends"
        )
    if problems:
        raise BackendError("; ".join(dict.fromkeys(problems)))
    locks = []
    if lockdown:
        for passage, (out, _in) in frames.items():
            entries[out.name].update(_besides(lockdown, passage, knows_mld=state.knows_mld))
        log = (Entry("", what=_LOG),) if lockdown.log else ()
        for name, what, source in (("lock", "leaves this host", "HOST"), ("gw-lock", "passes this gateway", "ANY")):
            text = f"{LOCKED} nothing else {what}. {_OURS}."
            lock = Policy(f"{_PREFIX}{name}", text, (source,), ("ANY",), log, "REJECT", _LOCK_PRIORITY)
            locks += [lock] if source == "HOST" or lockdown.forward else []
    found = (policy for pair in frames.values() for policy in pair if policy.ingress)
    allowing = [replace(policy, entries=tuple(sorted(entries[policy.name]))) for policy in found]
    return {policy.name: policy for policy in (*allowing, *locks)}


def _besides(lockdown: Lockdown, passage: Passage, *, knows_mld: bool) -> t.Iterator[Entry]:
    """What lockdown lets pass besides the services, and firewalld does not let pass by itself."""
    near = _meet((), _sources(passage.inside))
    for passing in lockdown.passing("forward_out" if passage.inside else "output"):
        # No rule of firewalld looks at the flags of TCP, so `ack` is not to be had. The guard against lock-outs knows.
        if passing.state or passing.ack or passing.interface:
            continue
        whats = [f'port port="{text}" protocol="{passing.protocol}"' for text in passing.dports.texts()]
        if passing.types:
            names = _ERRORS if passing.family == "ipv4" else (*_ERRORS, "packet-too-big", *_NEIGHBOURS, *_MLD)
            whats = [f'icmp-type name="{name}"' for name in names]
            if passing.family == "ipv6" and not knows_mld:
                whats = ['protocol value="ipv6-icmp"']
        for source in near:
            for destination in _meet(passing.networks, _sources(passage.outside)):
                named = {family_of(network) for network in (source, destination) if network}
                if named | ({passing.family} - {""}) in ({"ipv4"}, {"ipv6"}, set()):
                    only = "" if named else passing.family
                    yield from (Entry("", source, destination, what, only) for what in whats or [""])


def _allowed(entry: Entry) -> t.Iterator[Passing]:
    """What an entry of lockdown allows to some addresses or ports: the reverse of `_besides`, as far as needed."""
    found = re.fullmatch(r'port port="([0-9-]+)" protocol="(tcp|udp)"', entry.what)
    networks = normalise_networks([entry.destination]) if entry.destination else ()
    ports = PortSet.parse(found[1]) if found else PortSet()
    if not entry.service and not entry.only and (found or not entry.what):
        # To some address and port at once go questions for names alone, to this port clocks.
        why = "dns" if found and networks else "ntp" if found and found.groups() == ("123", "udp") else "allow"
        yield Passing(why, protocol=found[2] if found else "", dports=ports, networks=networks)


def _passage(policy: Policy) -> Passage:
    """The sides that a policy's description tells."""
    found = _SIDES.search(policy.description)
    inside, outside = (
        tuple(Side(kind, name) for kind, _space, name in (word.partition(" ") for word in text.split(", ")) if name)
        for text in (found.groups() if found else ("", ""))
    )
    return Passage(inside, outside)


def _accepts_of(config: Config, *, gateway: bool) -> tuple[Accept, ...]:
    """What policies of ours let through, on the host or through the gateway: the reverse of `_policies`."""
    held: set[Accept] = set()
    for policy in config.policies.values():
        kind = _POLICY.match(policy.name)
        in_order = policy.target == "CONTINUE" and policy.ingress and policy.egress
        if not (kind and kind["way"] != "lock" and in_order and bool(kind["gateway"]) == gateway):
            continue
        direction = "egress" if kind["way"] == "out" else "ingress"
        passage = _passage(policy) if gateway else Passage()
        for service in {entry.service for entry in policy.entries}:
            name = _SERVICE.match(service)
            if not name or bool(name["ingress"]) != (direction == "ingress"):
                continue
            for family in FAMILIES:
                entries = [
                    entry for entry in policy.entries if entry.service == service and entry.family in ("", family)
                ]
                sources = normalise_networks({entry.source for entry in entries if entry.source})
                destinations = normalise_networks({entry.destination for entry in entries if entry.destination})
                near, far = (destinations, sources) if direction == "ingress" else (sources, destinations)
                outside = tuple(text for text in _sources(passage.outside) if family_of(text) == family)
                way = replace(passage, targets=near if direction == "ingress" else ())
                networks = () if far == outside else far
                for protocol, ports in config.services.get(service, {}).items() if entries else ():
                    held.add(Accept("open", direction, protocol, name["sdk"], networks, ports, way))
    return tuple(sorted(held))


def _locked(config: Config) -> str:
    """What lockdown says in these policies, a line each."""
    return "\n".join(
        [
            *(f"{name}: {e.rule()}" for name, held in config.policies.items() for e in held.entries if not e.service),
            *(f"{name}: {held.target}" for name, held in config.policies.items() if held.target == "REJECT"),
        ]
    )


def _set_settings(policy: Policy, entries: t.Iterable[Entry]) -> Command:
    """Let a policy of the running firewall allow exactly this."""
    plain = sorted(entry.service for entry in entries if entry.plain)
    rich = sorted(entry.rule() for entry in entries if not entry.plain)
    lists = ("services", "as", str(len(plain)), *plain, "rich_rules", "as", str(len(rich)), *rich)
    return Command(_argv(".policy", "setPolicySettings", "sa{sv}", policy.name, "2", *lists))


def _transition(policy: Policy, before: tuple[Entry, ...], after: tuple[Entry, ...]) -> tuple[Command, ...]:
    """firewalld takes away before it adds: what stays needed under another name must not be closed in between."""
    stages = [{*before, *after}, set(after)] if set(before) - set(after) and set(after) - set(before) else [set(after)]
    return tuple(_set_settings(policy, stage) for stage in stages)


class Firewalld:
    """firewalld from 0.9 on, which brought policies; running, or stopped with its files only."""

    name = "firewalld"

    def available(self, host: Host) -> bool:
        """Whether firewalld is installed."""
        return host.which("firewall-offline-cmd") is not None

    def in_force(self, host: Host) -> str:
        """That it runs."""
        return "firewalld is in force on this host" if _systemctl(host) else ""

    def read(self, host: Host) -> State:
        """Our files, and while firewalld runs its zones and ours in it. Raises BackendError in panic mode."""
        folders = (f"{_ETC}/services", f"{_ETC}/policies")
        listed = host.run(["find", *folders, "-maxdepth", "1", "-name", f"{_PREFIX}*.xml*"]).out.split("\n")
        texts = {path: host.read(path) or "" for path in sorted(listed) if path.endswith((".xml", _BACKUP))}
        files = {path: text for path, text in texts.items() if path.endswith(".xml")}
        wait = host.read(_WAIT_PATH)
        files.update({_WAIT_PATH: wait} if wait is not None else {})
        live = None
        capable = host.exists(f"{_LIB}/policies")
        ahead: tuple[Policy, ...] = ()
        if _systemctl(host):
            state = host.run(["busctl", "--auto-start=no", "get-property", _BUS, _OBJECT, _BUS, "state"])
            if state.out.strip() != 's "RUNNING"':
                said = state.err.strip() or state.out.strip()
                why = _examine(host, _python(host), {}, {}, load=True).failed
                said += f": it cannot load its configuration: {why}" if why else ""
                remedy = "that right, then" if why else "it right with"
                raise BackendError(
                    f"firewalld is not in running state ({said}); see journalctl -u firewalld, put {remedy} "
                    "firewall-cmd --reload or systemctl restart firewalld, then run again"
                )
            if _ask(host, "", "queryPanicMode"):
                raise BackendError("firewalld is in panic mode; end it (firewall-cmd --panic-off), then run again")
            default = _ask(host, "", "getDefaultZone")
            active = _ask(host, ".zone", "getActiveZones")
            zones = {
                name: Zone(*(tuple(active.get(name, {}).get(key, ())) for key in ("interfaces", "sources")))
                for name in sorted(_ask(host, ".zone", "getZones"))
            }
            names = (path[: -len(".xml")].rpartition("/")[2] for path in files if "/services/" in path)
            live, ahead = _read_live(host, names) if capable else (Config({}, {}), ())
        else:
            zones, default = _read_zones(host)
        kernel = _read_kernel(host) if live else None
        return State(
            live=live,
            files=files,
            kernel=kernel,
            backups={path: text for path, text in texts.items() if path.endswith(_BACKUP) and _OURS in text},
            zones=zones,
            default=default,
            interfaces=_interfaces(host),
            outer=_outer(host),
            unnamed=tuple(_unnamed(host, kernel, default, zones)),
            capable=capable,
            systemd=host.exists("/run/systemd/system"),
            knows_mld=host.exists(f"{_LIB}/icmptypes/{_MLD[0]}.xml"),
            ahead=ahead,
            examine=functools.partial(_examine, host, _python(host), zones),
        )

    def render(self, rules: RuleSet, state: State) -> Desired:
        """Files, policies and services. Raises BackendError where a name is taken or a reload would do harm."""
        wanted_here = bool(rules.rules or rules.lockdown)
        if wanted_here and not state.capable:
            raise BackendError(
                "this firewalld has no policies, which came with version 0.9; use a newer one, or another backend"
            )
        names, ports, texts = _services(_needs(rules))
        policies = _policies(names, rules.lockdown, state)
        files: dict[str, str] = {}
        if wanted_here:
            standing = _services(_standing())[2]
            files.update({f"{_ETC}/services/{name}.xml": text for name, text in {**standing, **texts}.items()})
            files.update({f"{_ETC}/policies/{name}.xml": policy.text() for name, policy in policies.items()})
            files.update({_WAIT_PATH: _WAIT} if rules.lockdown and state.systemd else {})
            for path, text in state.files.items():
                if _OURS not in text:
                    raise BackendError(
                        f"{path} carries a name of ours but was not written by this collection; rename it, reload "
                        "firewalld, then run again"
                    )
        mine = {path: text for path, text in state.files.items() if _OURS in text}
        reload = False
        if state.live:
            live = state.live
            frames, wanted = ({name: p.frame for name, p in found.items()} for found in (live.policies, policies))
            unlike = any(live.services.get(name) != need for name, need in ports.items())
            gone = not wanted_here and any(f"{_ETC}/services/{name}.xml" in mine for name in live.services)
            reload = frames != wanted or unlike or gone
        if state.kernel and not state.kernel.there and (wanted_here or reload):
            # A reload would not do: firewalld 1.3 gives up on what is gone, and leaves a host that drops everything.
            raise BackendError(
                "firewalld runs, and its rules are gone from the kernel (after nft flush ruleset, say), so nothing "
                "that it says is in force; systemctl restart firewalld, then run again"
            )
        found = Examined()
        if reload or mine != files:
            found = state.examine({**dict.fromkeys(mine), **files}, running=reload, load=reload)
            if found.invalid:
                raise BackendError(
                    f"firewalld refuses the configuration with our files in it: {found.invalid}; see "
                    "firewall-offline-cmd --check-config, put it right, then run again"
                )
            if found.failed:
                raise BackendError(
                    f"firewalld accepts the configuration and cannot load it: {found.failed}. A reload, which this "
                    "needs, would leave none of its rules in force; put that right, then run again"
                )
            if found.differences:
                raise BackendError(
                    "firewalld has to be reloaded for this, which would change more than ours: "
                    f"{'; '.join(found.differences)}. To keep what is in force: firewall-cmd --runtime-to-permanent. "
                    "To take what is written: firewall-cmd --reload. Then run again"
                )
            # What takes ours away has to work; it puts theirs back, where that can be done.
            if found.others and (wanted_here or not found.flushed):
                chains = "; ".join(f"{table}: {', '.join(held)}" for table, held in found.others.items())
                raise BackendError(
                    "firewalld has to be reloaded for this, and a reload of this firewalld deletes the rules of others "
                    f"in iptables: {chains}. Stop the programs that have put them there, take away what they leave "
                    "(firewall-cmd --reload does), run this again, then start them; to change the SDKs later takes no "
                    "reload"
                )
        return Desired(files, Config(policies, ports), reload, found.flushed)

    def plan(self, state: State, desired: Desired) -> tuple[Step, ...]:
        """One step: the files, and then a reload, or what the policies allow in the running firewall."""
        do: list[Action] = []
        undo: list[Action] = []
        paths = []
        edits: list[str] = []
        mine = {path: text for path, text in state.files.items() if _OURS in text}
        there = {**mine, **state.backups}
        for path in sorted({*there, *desired.files}):
            before, after = there.get(path), desired.files.get(path)
            if before != after:
                paths.append(path)
                do.append(RemoveFile(path) if after is None else WriteFile(path, after))
                undo.append(RemoveFile(path) if before is None else WriteFile(path, before))
                if before is not None and after is not None:
                    edits += edits_of(path, before, _as_allowed(path, before, after))
        how = []
        if _WAIT_PATH in paths and state.systemd:
            do.append(Command(("systemctl", "daemon-reload")))
            undo.append(do[-1])
        if desired.reload:
            reload = Command(_reload(desired.flushed))
            do.append(reload)
            undo.append(reload)
            how.append("reload")
        elif state.live:
            for name, policy in desired.config.policies.items():
                before_entries = state.live.policies[name].entries
                if before_entries != policy.entries:
                    do += _transition(policy, before_entries, policy.entries)
                    undo += _transition(policy, policy.entries, before_entries)
                    how.append(f"policy {name} at run time")
        if not do:
            return ()
        allowed = [entry for policy in desired.config.policies.values() for entry in policy.entries]
        used = sorted({entry.service for entry in allowed if entry.service})
        edits += edits_of("lockdown", _locked(_stored(mine)), _locked(desired.config))
        what = f"services {', '.join(used)}" if used else "our services and policies go"
        where = [*paths, *how]
        # Of a policy's file that cannot be removed, while those of its services go, firewalld leaves one.
        backups = (path.replace(".xml", _BACKUP) for path in paths if "/policies/" in path and path.endswith(".xml"))
        rollback = [*undo, *(RemoveFile(path) for path in backups if path not in there)]
        if state.live and not desired.reload:
            # Whatever has become of them, those too that did not have to change.
            rollback += [_set_settings(policy, policy.entries) for policy in state.live.policies.values()]
        what = f"firewalld: {what} (in {', '.join(where)})"
        traffic = self._traffic(state, desired) if how else None
        return (Step(what, traffic, tuple(do), tuple(undo), tuple(edits), tuple(rollback)),)

    def _traffic(self, state: State, desired: Desired) -> Traffic:
        """What a reload, or a change of our policies at run time, does to packets."""
        have = state.live.policies if state.live else {}
        policies = [*have.values(), *desired.config.policies.values()]
        locked = any(policy.target == "REJECT" for policy in policies)
        closes = any(policy.entries for policy in have.values())
        mine = [path for path, text in state.files.items() if _OURS in text]

        def trial() -> tuple[Command, ...]:
            files = {**dict.fromkeys(mine), **desired.files}
            return _as_loaded(state.examine(files, load=True), reload=desired.reload)

        return Traffic("may cut" if locked else "closes" if closes else "opens", trial)

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """None: firewalld loads its files before the network is up."""
        return None

    def places(self, state: State) -> tuple[Place, ...]:
        """The files and the running firewall, each for the host and for the gateway: what is open has to be in both.

        A place holds both ways, because firewalld lets return traffic through for all of its rules.
        """
        mine = {path: text for path, text in state.files.items() if _OURS in text}
        configs = [(f"the files in {_ETC}", _stored(mine))]
        configs += [("the running firewalld", state.in_force)] if state.in_force else []
        return tuple(
            Place(name, path, FAMILIES, _accepts_of(config, gateway=path != "output"))
            for name, config in configs
            for path in ("output", "forward_out")
        )

    def lockdown(self, state: State, *, held: bool = False) -> Lockdown | None:
        """What our policies let pass; None where none of them rejects the rest."""
        config = state.live or _stored({path: text for path, text in state.files.items() if _OURS in text})
        lock, out = (config.policies.get(f"{_PREFIX}{name}") for name in ("lock", "out"))
        if not lock or not out or (lock.target, lock.priority) != ("REJECT", _LOCK_PRIORITY):
            return None
        passing = [each for entry in out.entries for each in _allowed(entry)]
        forward = f"{_PREFIX}gw-lock" in config.policies
        return Lockdown.of(passing, forward=forward, log=any(entry.what == _LOG for entry in lock.entries))

    def effective(self, state: State, desired: Desired) -> str:
        """`stored` while firewalld does not run."""
        return "in_force" if state.live else "stored"

    def files(self, state: State) -> tuple[str, ...]:
        """Services and policies."""
        return (*(path for path, text in state.files.items() if _OURS in text), *state.backups)

    def in_the_way(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """The running firewalld, whose zones let nothing in and nothing through that no rule allows."""
        stops = any(rule.direction == "ingress" or rule.passage.inside for rule in rules)
        return (f"firewalld (zone {state.default})",) if state.live and stops else ()

    def out_of_reach(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """None that can be told: a foreign policy may come before ours on purpose."""
        return ()

    def notices(self, state: State, desired: Desired) -> t.Iterator[Notice]:
        """What keeps the rules from working."""
        if desired.files and not state.live:
            text = "firewalld does not run, the rules are stored but not in force; systemctl start firewalld"
            yield Notice("firewalld_inactive", _UNIT, text)
        used = [policy for policy in desired.config.policies.values() if policy.entries]
        for policy in state.ahead:
            if policy.target == "ACCEPT":
                if any(policy.meets(one) for one in desired.config.policies.values() if one.target == "REJECT"):
                    text = f"its priority is {policy.priority}, so what it accepts passes in spite of lockdown"
                    yield Notice("policy_ahead", f"firewalld policy {policy.name}", text)
            elif any(policy.meets(one) for one in used):
                text = (
                    f"its priority is {policy.priority}, so it comes before ours ({_PRIORITY}), and its target is "
                    f"{policy.target}: what it does not allow itself stays closed; allow the ports there, or give it "
                    f"a priority above {_PRIORITY}"
                )
                yield Notice("policy_ahead", f"firewalld policy {policy.name}", text)
        comes_in = desired.config.policies.get(f"{_PREFIX}in")
        missed = [name for name in state.unnamed if name not in state.outer]
        if comes_in and comes_in.entries and missed:
            text = (
                f"ports for ingress stay closed on {', '.join(missed)}, which no zone names; if they are to be open "
                f"there: firewall-cmd --zone={state.default} --change-interface=INTERFACE, also with --permanent"
            )
            yield Notice("unnamed_interfaces", f"firewalld zone {state.default}", text)
        shut = [name for name in _SHUT if name in state.zones and state.holds(name)]
        if comes_in and comes_in.entries and shut:
            text = f"ports for ingress stay closed in zone {', '.join(shut)}, which stands for letting nothing in"
            yield Notice("zones_stay_shut", ", ".join(shut), text)
