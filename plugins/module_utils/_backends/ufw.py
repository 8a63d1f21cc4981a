# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ufw: application profiles in a file of ours, and rules that name them, as `ufw prepend allow ... app` would set up.

ufw keeps its rules as text in user.rules and user6.rules and, while it is active, as rules in its user chains. Both
are changed in one process that holds ufw's own lock, and in both only what names our profiles: texts, order and
counters of foreign rules stay, and unsaved edits of before.rules do not become live.

Rules of lockdown have no ports that a profile could name. They are known by ufw's comments, which stand in its files
alone; in the live chains they are the first ones that say the same.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing as t
from dataclasses import dataclass, replace

from .._catalog import CATALOG
from .._model.lockdown import Lockdown, Passing
from .._model.messages import Notice
from .._model.ports import PortSet
from .._model.rules import Passage, Side
from .contract import (
    HOOKS,
    LOCKED,
    Accept,
    BackendError,
    Command,
    Place,
    RemoveFile,
    Step,
    Traffic,
    WriteFile,
    closes,
    crossings,
    edits_of,
    overridden,
    passage_of,
)
from .saveformat import HALVES, drops, gathered, multiport, options_of, parse, ports_of

if t.TYPE_CHECKING:
    from .._model.rules import RuleSet
    from .contract import Action, Crossing, Host

__all__ = ["Ufw"]

_FOLDER = "/etc/ufw/applications.d"
_PROFILES = f"{_FOLDER}/openagora"
_CONF = "/etc/ufw/ufw.conf"
_DEFAULTS = "/etc/default/ufw"
# Where the user's rules are: ufw's own place, and that of Red Hat's family.
_FOLDERS = ("/etc/ufw", "/var/lib/ufw")
_FILES = {"ipv4": "user.rules", "ipv6": "user6.rules"}
_COMMANDS = {"ipv4": "iptables", "ipv6": "ip6tables"}
_PREFIX = {"ipv4": "ufw", "ipv6": "ufw6"}
_ANY = PortSet()
_ANYWHERE = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}

_OURS = "Written by the Ansible collection openagora.firewall"
_HEADER = f"# {_OURS}; its next run puts right what is changed here.\n"
_MARKER = "### RULES ###\n"
_TUPLE = "### tuple ### "
# ufw skips a profile with a longer value (ufw/applications.py).
_VALUE = 1024

_NAME = re.compile(r"Agora (?P<sdk>[A-Z][A-Za-z0-9 ]*?)(?:-[0-9]+)?(?P<ingress> in)?\Z")
_RULE = re.compile(r"-A (ufw6?-user-(?:input|output|forward|logging-[a-z]+)) (.*)")

# Does a whole change under ufw's lock, or nothing of it. Its input is {files: [{path, before, after}], restores:
# [{command, do, undo}]}; a text that is null is a file that is not there.
_SCRIPT = r"""
import errno, fcntl, json, os, signal, subprocess, sys, time

def read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None

def write(path, text):
    path = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".openagora")
    if text is None:
        for one in (temporary, path):
            try:
                os.unlink(one)
            except FileNotFoundError:
                pass
        return
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(handle, 0o644)
            if os.path.exists(path):
                old = os.stat(path)
                os.fchown(handle, old.st_uid, old.st_gid)
                os.fchmod(handle, old.st_mode & 0o7777)
                try:
                    os.setxattr(temporary, "security.selinux", os.getxattr(path, "security.selinux"))
                except OSError:
                    pass
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

def restore(command, text, undo=None, undos=None):
    done = subprocess.run([command, "--noflush", "--wait", "10"], input=text, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", errors="surrogateescape")
    if done.returncode <= 0 and undos is not None:
        # One that is killed may have done its work.
        undos.append((restore, command, undo))
    if done.returncode != 0:
        raise RuntimeError("{0} ended with code {1}: {2}".format(command, done.returncode, done.stderr.strip()))

def change(files, restores):
    for file in files:
        # What is undone may have come about in part.
        if read(file["path"]) not in (file["before"], file["after"]):
            raise RuntimeError("{0} was changed by somebody else meanwhile; run again".format(file["path"]))
    undos = []
    try:
        for file in files:
            write(file["path"], file["after"])
            undos.append((write, file["path"], file["before"]))
        for item in restores:
            restore(item["command"], item["do"], item["undo"], undos)
    except BaseException as error:
        left = []
        for function, place, text in reversed(undos):
            try:
                function(place, text)
            except (OSError, RuntimeError) as problem:
                left.append(str(problem))
        if left:
            # Who asked tells by this that it is half done.
            print("{0}; undoing it: {1}".format(error, "; ".join(left)), file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        raise

def main():
    job = json.load(sys.stdin)
    with open("/run/ufw.lock", "w") as lock:
        deadline = time.monotonic() + 10
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > deadline:
                    raise RuntimeError("another ufw command holds /run/ufw.lock for over 10 seconds; "
                                       "see who: fuser /run/ufw.lock, then run again")
                time.sleep(0.05)
        change(job["files"], job["restores"])

try:
    main()
except (OSError, RuntimeError) as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True)
class Table:
    """ufw's rules of one address family in one place: `live` in the kernel, or in a file with its path and text."""

    family: str
    policies: dict[str, str]
    rules: dict[str, tuple[str, ...]]
    path: str = ""
    text: str = ""
    # The rules of lockdown that ufw's file of this family has: hook, what for, and the rule.
    locks: tuple[tuple[str, str, str], ...] = ()

    @property
    def live(self) -> bool:
        """Whether these rules are the kernel's."""
        return not self.path

    @property
    def name(self) -> str:
        """How to call it to a person."""
        return f"the live chains of {_COMMANDS[self.family]}" if self.live else self.path

    def chain(self, hook: str) -> str:
        """The chain that holds the user's rules of a hook."""
        return f"{_PREFIX[self.family]}-user-{hook}"


@dataclass(frozen=True)
class State:
    """What ufw says about itself, its rules, and our profiles."""

    enabled: bool
    active: bool
    ipv6: bool
    tables: tuple[Table, ...]
    profiles: str | None
    # Names like ours that files of others define, and those files.
    foreign: dict[str, str]
    python: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """One application profile: what one SDK needs in one direction."""

    name: str
    sdk: str
    direction: str
    ports: tuple[tuple[str, PortSet], ...]

    def groups(self) -> t.Iterator[tuple[str, PortSet]]:
        """The profile's groups: up to 15 slots of one protocol each, a range takes two (multiport)."""
        for protocol, ports in self.ports:
            for chunk in ports.chunks():
                yield protocol, chunk

    def value(self) -> str:
        """The groups as ufw writes them."""
        return "|".join(f"{multiport(ports)}/{protocol}" for protocol, ports in self.groups())

    def text(self) -> str:
        """The profile as it stands in the file."""
        title = CATALOG[self.sdk].title if self.sdk in CATALOG else f"Agora {self.sdk}"
        does = "reaches at Agora (outgoing)" if self.direction == "egress" else "receives from Agora (incoming)"
        return (
            f"\n[{self.name}]\n"
            f"title={title}{', incoming' if self.direction == 'ingress' else ''}\n"
            f"description=Ports that {title} {does}. {_OURS}.\n"
            f"ports={self.value()}\n"
        )


class Way(t.NamedTuple):
    """The packets that a rule is about: the interfaces they pass, where they come from and go to (empty: any)."""

    hook: str
    came: str = ""
    left: str = ""
    source: str = ""
    target: str = ""


@dataclass(frozen=True)
class Entry:
    """One rule that names a profile: one of its groups, for one way."""

    profile: Profile
    protocol: str
    ports: PortSet
    way: Way

    @property
    def accept(self) -> Accept:
        """The same in the words of all backends."""
        return Accept("open", self.profile.direction, self.protocol, self.profile.sdk, ports=self.ports)

    def spec(self) -> str:
        """The rule as ufw gives it to iptables (UFWRule.format_rule), the quotes in its comment included."""
        comment = f"-m comment --comment 'dapp_{_escaped(self.profile.name)}'"
        return f"{_matches(self.way, self.protocol, self.ports)} -j ACCEPT {comment}"

    def block(self, table: Table) -> str:
        """The rule as it stands in ufw's file."""
        fields, passes = _fields(table.family, "allow", self.way, self.protocol, self.ports)
        return (
            f"\n{_TUPLE}{fields} {_escaped(self.profile.name)} - {passes}\n"
            f"-A {table.chain(self.way.hook)} {self.spec()}\n"
        )


@dataclass(frozen=True)
class Lock:
    """One rule of lockdown, which allows (`allow`) or ends it all (`reject`); `why` is what it is for."""

    why: str
    action: str
    way: Way
    protocol: str = "any"
    ports: PortSet = PortSet()
    sports: PortSet = PortSet()

    def spec(self) -> str:
        """The rule as ufw gives it to iptables (UFWRule.format_rule)."""
        matches = _matches(self.way, self.protocol, self.ports, self.sports)
        return f"{matches} -j {'ACCEPT' if self.action == 'allow' else 'REJECT'}".strip()

    def block(self, table: Table) -> str:
        """The rule as it stands in ufw's file."""
        fields, passes = _fields(table.family, self.action, self.way, self.protocol, self.ports, self.sports)
        comment = f"{LOCKED} {self.why}".encode().hex()
        return f"\n{_TUPLE}{fields} {passes} comment={comment}\n-A {table.chain(self.way.hook)} {self.spec()}\n"


@dataclass(frozen=True)
class Desired:
    """The profile file, the rules that name its profiles in each address family, in order, and those of lockdown."""

    profiles: str | None
    entries: dict[str, tuple[Entry, ...]]
    locks: dict[str, tuple[Lock, ...]]
    lockdown: bool = False


def _matches(way: Way, protocol: str, ports: PortSet, sports: PortSet = _ANY) -> str:
    """What a rule looks at, as ufw gives it to iptables; ranges and lists only for destination ports."""
    interfaces = [f"{option} {name}" for option, name in (("-i", way.came), ("-o", way.left)) if name]
    named = [f"-p {protocol}"] if protocol != "any" else []
    target, source = (
        [f"{option} {_short(network)}"] if network else []
        for option, network in (("-d", way.target), ("-s", way.source))
    )
    text = multiport(ports)
    matched = [*target, f"--dport {text}"] if text.isdigit() else [f"-m multiport --dports {text}", *target]
    came = [f"--sport {multiport(sports)}"] if sports else []
    return " ".join([*interfaces, *named, *(matched if ports else target), *source, *came])


def _fields(
    family: str, action: str, way: Way, protocol: str, ports: PortSet, sports: PortSet = _ANY
) -> tuple[str, str]:
    """How ufw's file begins to tell a rule, and the word in it for where packets pass."""
    passes = {"output": "out", "input": "in"}.get(way.hook, "")
    if way.hook == "forward":
        action = f"route:{action}"
        passes = "!".join(f"{verb}_{name}" for verb, name in (("in", way.came), ("out", way.left)) if name) or "in"
    target, source = (_short(network) if network else _ANYWHERE[family] for network in (way.target, way.source))
    near, far = (multiport(held) or "any" for held in (ports, sports))
    return " ".join([action, protocol, near, target, far, source]), passes


def _short(network: str) -> str:
    """A network as ufw writes it: a single address without its prefix."""
    whole = ipaddress.ip_network(network)
    return str(whole.network_address) if whole.num_addresses == 1 else network


def _network(text: str) -> str:
    """A network as rules of ours name it: always with its prefix; empty for any."""
    return str(ipaddress.ip_network(text, strict=False)) if text else ""


def _escaped(name: str) -> str:
    return name.replace(" ", "%20")


def _applications(comment: str) -> set[str]:
    """The profiles that a rule of ufw's names in its comment (`'dapp_Agora%20Web,sapp_...'`)."""
    parts = (part.partition("app_") for part in comment.strip("'").split(","))
    return {name.replace("%20", " ") for before, found, name in parts if found and before in ("d", "s")}


def _same(spec: str) -> tuple[tuple[str, str], ...]:
    """What a rule says, whatever the order of its options and the notation of its addresses."""
    options = dict(options_of(spec))
    for name in ("-s", "-d"):
        if name in options:
            options[name] = _network(options[name])
    # The quotes that ufw writes around a comment come with it into the kernel.
    if "--comment" in options:
        options["--comment"] = options["--comment"].strip("'")
    if options.get("--reject-with", "").endswith("-port-unreachable"):
        # What a rule without it does, as iptables-save says.
        del options["--reject-with"]
    return tuple(sorted(options.items()))


def _is_ours(names: t.Iterable[str], foreign: t.Container[str]) -> bool:
    return any(_NAME.match(name) and name not in foreign for name in names)


def _ours(table: Table, hook: str, foreign: t.Container[str]) -> list[tuple[int, str]]:
    """The rules in a user chain that name our profiles, with their place from 0."""
    specs = enumerate(table.rules.get(table.chain(hook), ()))
    return [
        (index, spec)
        for index, spec in specs
        if "Agora%20" in spec and _is_ours(_applications(options_of(spec).get("--comment", "")), foreign)
    ]


def _all_ours(table: Table, hook: str, foreign: t.Container[str]) -> list[tuple[int, str]]:
    """The same, with those of lockdown."""
    found = dict(_ours(table, hook, foreign))
    rules = table.rules.get(table.chain(hook), ())
    said = [_same(spec) for spec in rules]
    for where, _why, spec in table.locks if any(where == hook for where, _why, _spec in table.locks) else ():
        alike = [index for index, words in enumerate(said) if words == _same(spec) and index not in found]
        if where == hook and alike:
            found[alike[0]] = rules[alike[0]]
    return sorted(found.items())


def _why(fields: str) -> str:
    """What a rule of lockdown is for, by its comment in ufw's file; empty for any other."""
    comment = fields.partition(" comment=")[2].strip()
    text = bytes.fromhex(comment).decode(errors="replace") if re.fullmatch(r"(?:[0-9a-f]{2})+", comment) else ""
    return text[len(LOCKED) + 1 :] if text.startswith(f"{LOCKED} ") else ""


def _locks_in(text: str) -> t.Iterator[tuple[str, str, str]]:
    """The rules of lockdown in a file of ufw's."""
    why = ""
    for line in text.splitlines():
        rule = _RULE.match(line)
        if line.startswith(_TUPLE):
            why = _why(line)
        elif rule and why:
            yield rule[1].rpartition("-")[2], why, rule[2]


def _split(text: str, foreign: t.Container[str]) -> tuple[str, str, str]:
    """A file of ufw's without our rules: what comes before the first of them, our rules, what comes after it."""
    rest: list[str] = []
    ours: list[str] = []
    mine, place = False, 0
    for line in text.splitlines(keepends=True):
        if line.startswith(_TUPLE):
            fields = line[len(_TUPLE) :].partition(" comment=")[0].split()
            names = [name.replace("%20", " ") for name in fields[6:8]] if len(fields) > 7 else []
            mine = _is_ours(names, foreign) or bool(_why(line))
        elif not _RULE.match(line):
            mine = False
        # A rule of ours whose tuple somebody took away goes, too.
        orphan = "Agora%20" in line and _is_ours(_applications(options_of(line).get("--comment", "")), foreign)
        if not (mine or orphan):
            rest.append(line)
            continue
        if rest and rest[-1] == "\n" and (line.startswith(_TUPLE) or not mine):
            blank = rest.pop()
            place = place if ours else len(rest)
            ours.append(blank)
        place = place if ours else len(rest)
        ours.append(line)
    return "".join(rest[:place]), "".join(ours), "".join(rest[place:])


def _read_file(host: Host, family: str) -> Table | None:
    paths = [f"{folder}/{_FILES[family]}" for folder in _FOLDERS]
    found = next((path for path in paths if host.exists(path)), "")
    text = host.read(found) if found else None
    return None if text is None else Table(family, *parse(text), found, text, tuple(_locks_in(text)))


def _read_live(host: Host, family: str) -> Table | None:
    """The kernel's rules; None where ufw's chains are not there. An active ufw has the table: looking creates none."""
    command = f"{_COMMANDS[family]}-save"
    outcome = host.run([command, "-t", "filter"])
    if outcome.code != 0:
        raise BackendError(f"{command} -t filter failed: {outcome.err.strip() or outcome.out.strip()}")
    table = Table(family, *parse(outcome.out))
    return table if all(table.chain(hook) in table.rules for hook in HOOKS) else None


def _read_foreign(host: Host) -> dict[str, str]:
    """The profiles named like ours that files of others define, and those files."""
    # ufw passes over hidden files (ufw/applications.py); one of ours may be left by a run that was killed.
    outcome = host.run(["grep", "-rHs", "--exclude=.*", "^[[]Agora ", _FOLDER])
    foreign = {}
    for line in outcome.out.splitlines():
        path, _colon, section = line.partition(":")
        name = section.strip()[1:].partition("]")[0]
        if path != _PROFILES and _NAME.match(name):
            foreign[name] = path
    return foreign


def _says_yes(text: str | None, key: str) -> bool:
    return bool(re.search(rf"^\s*{key}\s*=\s*[\"']?yes\b", text or "", re.MULTILINE | re.IGNORECASE))


def _profile_name(sdk: str, direction: str, number: int) -> str:
    words = " ".join(word.capitalize() for word in sdk.split("_"))
    return f"Agora {words}{f'-{number}' if number > 1 else ''}{' in' if direction == 'ingress' else ''}"


def _parts(tcp: PortSet, udp: PortSet) -> t.Iterator[tuple[tuple[str, PortSet], ...]]:
    """Both protocols' ports in as few profiles as ufw's longest value allows."""
    part: dict[str, PortSet] = {}
    for protocol, ports in (("tcp", tcp), ("udp", udp)):
        for chunk in ports.chunks():
            more = {**part, protocol: part.get(protocol, PortSet()) | chunk}
            if len(Profile("", "", "", tuple(more.items())).value()) > _VALUE:
                yield tuple(part.items())
                more = {protocol: chunk}
            part = more
    if part:
        yield tuple(part.items())


def _profiles(rules: RuleSet) -> dict[tuple[Passage, tuple[str, ...], str, str], tuple[Profile, ...]]:
    """For a way through, the networks of rules, a direction and an SDK: its profiles.

    An SDK has one in a direction. Only where it needs other ports for other networks, or more than one profile holds,
    there are more, numbered (`Agora Web-2`).
    """
    needs: dict[tuple[Passage, tuple[str, ...], str, str], dict[str, PortSet]] = {}
    for rule in rules:
        for sdk, ports in rule.needs:
            needs.setdefault((rule.passage, rule.networks, rule.direction, sdk), {})[rule.protocol] = ports
    made: dict[tuple[str, str], dict[tuple[tuple[str, PortSet], ...], Profile]] = {}
    found = {}
    for key, needed in sorted(needs.items(), key=lambda item: item[0]):
        _passage, _networks, direction, sdk = key
        known = made.setdefault((direction, sdk), {})
        parts = tuple(_parts(needed.get("tcp", PortSet()), needed.get("udp", PortSet())))
        for part in parts:
            if part not in known:
                known[part] = Profile(_profile_name(sdk, direction, len(known) + 1), sdk, direction, part)
        found[key] = tuple(known[part] for part in parts)
    return found


def _ways(direction: str, networks: t.Iterable[str], passage: Passage, family: str) -> t.Iterator[Way]:
    """The ways of one rule: on a gateway, one for each pair of sides, as narrow as the rule and both sides say."""
    # ufw takes a network that is everything for `anywhere`; its halves keep `networks` apart from `any`.
    for far in [half for network in networks for half in HALVES.get(network, (network,))] or [""]:
        if not passage.inside:
            yield Way("output", target=far) if direction == "egress" else Way("input", source=far)
            continue
        for near in passage.targets or [""]:
            for sides in passage.crossings(family):
                ends = [_end(side, network) for side, network in zip(sides, (near, far))]
                (came, source), (left, target) = ends if direction == "egress" else ends[::-1]
                if source is not None and target is not None:
                    yield Way("forward", came, left, source, target)


def _end(side: Side | None, network: str) -> tuple[str, str | None]:
    """The interface and the addresses of those of a network that are on a side; None: there are none."""
    if side is None or side.kind != "source":
        return side.name if side else "", network
    for inner, outer in ((network or side.name, side.name), (side.name, network)):
        if _within(inner, outer):
            return "", "" if inner in HALVES else inner
    return "", None


def _within(inner: str, outer: str) -> bool:
    one, other = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
    return one.version == other.version and one.subnet_of(t.cast("t.Any", other))


def _locks(rules: RuleSet, family: str) -> t.Iterator[Lock]:
    """The rules of lockdown. What ufw's own before.rules let pass needs none: established, the loopback, ICMP."""
    lockdown = rules.lockdown
    if lockdown is None:
        return
    if lockdown.uids or lockdown.log:
        problems = ["no rule of ufw can name a local user (user:NAME)"] * bool(lockdown.uids)
        problems += ["lockdown_log is not there: ufw logs for a rule in chains that other rules share"] * lockdown.log
        raise BackendError(f"ufw: {'; '.join(problems)}; do without, or use backend iptables on a host without ufw")
    for passing in lockdown.passing("output"):
        yield from _lock(passing, family, None, None, "output")
    yield Lock("reject", "reject", Way("output"))
    if not lockdown.forward:
        return
    for near, far in crossings((rule.passage for rule in rules), (family,)):
        for passing in lockdown.passing("forward_out"):
            yield from _lock(passing, family, near, far, "forward")
    yield Lock("reject", "reject", Way("forward"))


def _lock(passing: Passing, family: str, near: Side | None, far: Side | None, hook: str) -> t.Iterator[Lock]:
    if passing.why in ("established", "loopback", "icmp") or passing.family not in ("", family):
        return
    came, source = _end(near, "")
    for network in [half for whole in passing.networks for half in HALVES.get(whole, (whole,))] or [""]:
        left, target = _end(far, network)
        if source is None or target is None:
            continue
        for ports in passing.dports.chunks() or (PortSet(),):
            way = Way(hook, came, left, source, target)
            yield Lock(passing.why, "allow", way, passing.protocol or "any", ports, passing.sports)


def _allowed(why: str, spec: str) -> t.Iterator[Passing]:
    """What a rule of lockdown allows to some addresses or ports: the reverse of `_lock`, as far as needed."""
    options = options_of(spec)
    text = options.get("--dport") or options.get("--dports")
    if why in ("dns", "allow"):
        networks = (_network(options["-d"]),) if "-d" in options else ()
        ports = ports_of(text) if text else PortSet()
        yield Passing(why, protocol=options.get("-p", ""), dports=ports, networks=networks)


# By direction, protocol, SDK and way.
Held = dict[tuple[str, str, str, Way], PortSet]


def _held(table: Table, foreign: t.Container[str]) -> Held:
    """The ports that our rules open, where nothing before them closes the port: the reverse of `Entry.spec`."""
    held: Held = {}
    for hook in HOOKS:
        for index, spec in _ours(table, hook, foreign):
            options = options_of(spec)
            name = _NAME.match(next(iter(_applications(options.get("--comment", "")))))
            text = options.get("--dport") or options.get("--dports")
            plain = options.keys() <= {"-p", "--dport", "--dports", "-s", "-d", "-i", "-o", "--comment", "-j"}
            if not (name and text and plain and options.get("-p") and options.get("-j") == "ACCEPT"):
                continue
            direction = "ingress" if name["ingress"] else "egress"
            sdk = name["sdk"].lower().replace(" ", "_")
            accept = Accept("open", direction, options["-p"], sdk, ports=ports_of(text))
            if not any(closes(drop, (accept,)) for drop in drops(table.rules, table.chain(hook), stop=index)):
                ends = (_network(options.get(option, "")) for option in ("-s", "-d"))
                way = Way(hook, options.get("-i", ""), options.get("-o", ""), *ends)
                key = (direction, accept.protocol, sdk, way)
                held[key] = held.get(key, PortSet()) | accept.ports
    return held


def _passage(held: t.Iterable[tuple[Table, Held]]) -> Passage:
    """The sides of the gateway, as the rules for egress tell them."""
    pairs: set[Crossing] = set()
    for table, keys in held:
        for direction, _protocol, _sdk, way in keys:
            if direction == "egress" and way.hook == "forward":
                inside = _side(way.came, way.source) or Side("source", _ANYWHERE[table.family])
                pairs.add((inside, _side(way.left, way.target)))
    # What lies within another far end is the network of a rule.
    far_ends = {outside for _inside, outside in pairs}
    return passage_of(pair for pair in pairs if not any(_narrower(pair[1], other) for other in far_ends))


def _side(interface: str, network: str) -> Side | None:
    return Side("interface", interface) if interface else Side("source", network) if network else None


def _narrower(side: Side | None, other: Side | None) -> bool:
    if side is None or side == other or side.kind != "source":
        return False
    return other is None or (other.kind == "source" and _within(side.name, other.name))


def _accepts_of(held: Held, family: str, passage: Passage) -> t.Iterator[Accept]:
    """The accepts that rules of ours come to, on the host or through the passage; each on all its ways."""
    sides = {side.name for side in passage.outside}
    found = {}
    for direction, protocol, sdk, way in held:
        if (way.hook == "forward") != bool(passage.inside):
            continue
        far, near = (way.target, way.source) if direction == "egress" else (way.source, way.target)
        network = "" if far in sides else far
        target = near if way.hook == "forward" and direction == "ingress" else ""
        through = replace(passage, targets=(target,) if target else ())
        ways = _ways(direction, [network] if network else [], through, family)
        each = [held.get((direction, protocol, sdk, one), PortSet()) for one in ways]
        common = each[0] if each else PortSet()
        for ports in each[1:]:
            common &= ports
        if common:
            found["open", direction, protocol, sdk, network, target] = common
    return gathered(found, passage)


def _hindered(table: Table, entries: t.Iterable[Entry], foreign: t.Container[str]) -> bool:
    """Whether a foreign rule before one of ours closes a port that ours is to open."""
    entries = tuple(entries)
    for hook in HOOKS:
        ours = _ours(table, hook, foreign)
        wanted = [entry.accept for entry in entries if entry.way.hook == hook]
        if ours and any(closes(drop, wanted) for drop in drops(table.rules, table.chain(hook), stop=ours[-1][0])):
            return True
    return False


def _new_text(table: Table, entries: tuple[Entry, ...], locks: tuple[Lock, ...], foreign: t.Container[str]) -> str:
    """The file with exactly these rules of ours, first where they have to be placed, and always in lockdown."""
    text = table.text
    before, ours, after = _split(text, foreign)
    wanted = "".join([*(entry.block(table) for entry in entries), *(lock.block(table) for lock in locks)])
    if ours == wanted and not locks and not _hindered(table, entries, foreign):
        return text
    kept = before + wanted + after
    there = replace(table, rules=parse(kept)[1], text=kept)
    if not wanted or (ours and not locks and not _hindered(there, entries, foreign)):
        return kept
    head, marker, tail = (before + after).partition(_MARKER)
    if not marker:
        raise BackendError(
            f"{table.name} has no line {_MARKER.strip()!r}, so ufw did not write it; put it right (ufw reset makes it "
            "anew and loses every rule), then run again"
        )
    return head + marker + wanted + tail


def _transaction(
    table: Table, entries: tuple[Entry, ...], locks: tuple[Lock, ...], foreign: t.Container[str]
) -> dict[str, str]:
    """Inputs of iptables-restore that change our rules in the user chains; none where they are as they should be.

    Only our rules are named in `do`: foreign ones are neither replaced nor moved, and keep their counters. `before` and
    `after` make all of ufw's user rules what they were and are to be, whatever was done of it.
    """
    do: list[str] = []
    after = dict(table.rules)
    hindered = _hindered(table, entries, foreign)
    for hook in HOOKS:
        chain = table.chain(hook)
        ours = _all_ours(table, hook, foreign)
        wanted = [entry.spec() for entry in entries if entry.way.hook == hook]
        wanted += [lock.spec() for lock in locks if lock.way.hook == hook]
        # In lockdown nothing may come before ours, as it could let something out.
        locked = any(lock.way.hook == hook for lock in locks)
        placed = not hindered and (not locked or [index for index, _spec in ours] == [*range(len(ours))])
        if placed and [_same(spec) for _index, spec in ours] == [_same(spec) for spec in wanted]:
            continue
        do += [f"-D {chain} {spec}" for _index, spec in ours]
        first = ours[0][0] if ours and not hindered and not locked else 0
        do += [f"-I {chain} {number} {spec}" for number, spec in enumerate(wanted, first + 1)]
        others = [spec for index, spec in enumerate(table.rules.get(chain, ())) if (index, spec) not in ours]
        after[chain] = (*others[:first], *wanted, *others[first:])
    return {"do": _filter(do), "before": _whole(table, table.rules), "after": _whole(table, after)} if do else {}


def _filter(lines: t.Iterable[str]) -> str:
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def _whole(table: Table, rules: t.Mapping[str, tuple[str, ...]]) -> str:
    """The input of iptables-restore that makes these all of ufw's user rules."""
    chains = {chain: rules.get(chain, ()) for chain in map(table.chain, HOOKS)}
    lines = [[f"-F {chain}", *(f"-A {chain} {spec}" for spec in specs)] for chain, specs in chains.items()]
    return _filter(line for held in lines for line in held)


def _edits(state: State, wanted: str) -> tuple[str, ...]:
    """What is put right in the profile file. Profiles that come and go with their rules are no edits."""
    found = [spec for table in state.tables for hook in HOOKS for _index, spec in _ours(table, hook, state.foreign)]
    used = {name for spec in found for name in _applications(options_of(spec).get("--comment", ""))}
    before, after = (
        {part[1:].partition("]")[0]: f"{part.strip()}\n" for part in re.split(r"^(?=\[)", text, flags=re.MULTILINE)[1:]}
        for text in (state.profiles or "", wanted)
    )
    kept = [
        name
        for name in sorted({*before, *after})
        if (name in before) == (name in after) or (name in after) == (name in used)
    ]
    return edits_of(_PROFILES, *("".join(parts.get(name, "") for name in kept) for parts in (before, after)))


def _rollback(files: t.Iterable[t.Mapping[str, t.Any]], state: State) -> tuple[Action, ...]:
    """What brings the files and the whole of ufw's live user chains back, whatever of the step was done."""
    actions: list[Action] = []
    for file in files:
        path, before = file["path"], file["before"]
        actions.append(RemoveFile(path) if before is None else WriteFile(path, before))
    for table in (table for table in state.tables if table.live):
        restore = (f"{_COMMANDS[table.family]}-restore", "--noflush", "--wait", "10")
        actions.append(Command(restore, _whole(table, table.rules)))
    return tuple(actions)


class Ufw:
    """The backend for hosts whose firewall is ufw."""

    name = "ufw"

    def available(self, host: Host) -> bool:
        """Whether ufw is installed."""
        return bool(host.which("ufw"))

    def in_force(self, host: Host) -> str:
        """ufw is enabled, and its chains are live."""
        if _says_yes(host.read(_CONF), "ENABLED") and _read_live(host, "ipv4"):
            return f"ufw is active (ENABLED=yes in {_CONF}, its chains are live)"
        return ""

    def read(self, host: Host) -> State:
        """ufw's files, the live chains when it is active, and the profiles of ours and those named like ours."""
        profiles = host.read(_PROFILES)
        if profiles is not None and _OURS not in profiles:
            raise BackendError(f"{_PROFILES} was not written by this collection; move it away, then run again")
        foreign = _read_foreign(host)
        for name, path in foreign.items():
            if f"\n[{name}]\n" in (profiles or ""):
                raise BackendError(
                    f"profile [{name}] stands in {path} and in {_PROFILES}, and ufw takes the last one that it finds; "
                    f"rename the one in {path}, then run again"
                )
        ipv6 = _says_yes(host.read(_DEFAULTS), "IPV6") and host.exists("/proc/net/if_inet6")
        enabled = _says_yes(host.read(_CONF), "ENABLED")
        tables = [_read_file(host, family) for family in _FILES]
        live: list[Table | None] = []
        if enabled:
            live = [_read_live(host, family) for family in (_FILES if ipv6 else ("ipv4",))]
        # ufw is written in Python: the interpreter that runs it is there.
        first = (host.read(host.which("ufw") or "") or "").partition("\n")[0]
        locks = {table.family: table.locks for table in tables if table}
        live = [table and replace(table, locks=locks.get(table.family, ())) for table in live]
        return State(
            enabled=enabled,
            active=bool(live) and None not in live,
            ipv6=ipv6,
            tables=tuple(table for table in (*tables, *live) if table),
            profiles=profiles,
            foreign=foreign,
            python=tuple(first[2:].split()) if first.startswith("#!") else ("/usr/bin/python3",),
        )

    def render(self, rules: RuleSet, state: State) -> Desired:
        """The profile file and the rules. Raises BackendError where a name is taken or a file of ufw's is missing."""
        families = ("ipv4", "ipv6") if state.ipv6 else ("ipv4",)
        profiles = _profiles(rules.in_families(families))
        texts = {}
        for profile in (profile for found in profiles.values() for profile in found):
            if profile.name in state.foreign:
                raise BackendError(
                    f"profile [{profile.name}] in {state.foreign[profile.name]} carries a name of ours; rename it, "
                    "then run again"
                )
            texts[profile.name] = profile.text()
        files = {table.family for table in state.tables if not table.live}
        entries: dict[str, tuple[Entry, ...]] = {"ipv4": (), "ipv6": ()}
        for family in families if texts or rules.lockdown else ():
            if family not in files:
                raise BackendError(
                    f"{'/'.join((_FOLDERS[0], _FILES[family]))} is not there, nor in {_FOLDERS[1]}; reinstall ufw, or "
                    "put the file back, then run again"
                )
            placed = {(rule.passage, rule.networks) for rule in rules.in_families((family,))}
            wanted = (
                Entry(profile, protocol, ports, way)
                for (passage, networks, direction, _sdk), found in profiles.items()
                if (passage, networks) in placed
                for way in _ways(direction, networks, passage, family)
                for profile in found
                for protocol, ports in profile.groups()
            )
            # Sides and networks may overlap, and ufw takes no rule twice.
            entries[family] = tuple(dict.fromkeys(wanted))
        text = _HEADER + "".join(texts[name] for name in sorted(texts)) if texts else None
        locks = {family: tuple(_locks(rules, family)) if family in families else () for family in entries}
        return Desired(text, entries, locks, rules.lockdown is not None)

    def plan(self, state: State, desired: Desired) -> tuple[Step, ...]:
        """One step: the profile file, ufw's files and its live chains, all or nothing."""
        files = [{"path": _PROFILES, "before": state.profiles, "after": desired.profiles}]
        restores, undos = [], []
        for table in state.tables:
            entries, locks = desired.entries[table.family], desired.locks[table.family]
            if not table.live:
                after = _new_text(table, entries, locks, state.foreign)
                files.append({"path": table.path, "before": table.text, "after": after})
                continue
            texts = _transaction(table, entries, locks, state.foreign)
            if texts:
                command = f"{_COMMANDS[table.family]}-restore"
                restores.append({"command": command, "do": texts["do"], "undo": texts["before"]})
                undos.append({"command": command, "do": texts["before"], "undo": texts["after"]})
        files = [file for file in files if file["before"] != file["after"]]
        if not files and not restores:
            return ()
        back = {
            "files": [{**file, "before": file["after"], "after": file["before"]} for file in files],
            "restores": undos,
        }
        places = [str(file["path"]) for file in files]
        places += [f"the live rules ({restore['command']})" for restore in restores]
        counts = [f"{len(entries)} {family}" for family, entries in desired.entries.items() if entries]
        names = re.findall(r"^\[(.*)\]$", desired.profiles or "", re.MULTILINE)
        what = f"profiles {', '.join(names)}; rules: {', '.join(counts)}" if names else "our profiles and rules go"
        argv = (*state.python, "-I", "-S", "-c", _SCRIPT)
        jobs = (json.dumps(job) for job in ({"files": files, "restores": restores}, back))
        do, undo = ((Command(argv, job),) for job in jobs)
        edits = [*_edits(state, desired.profiles or "")]
        for table in (table for table in state.tables if not table.live):
            have = (f"{why}: {hook}: {spec}" for hook, why, spec in table.locks)
            want = (f"{lock.why}: {lock.way.hook}: {lock.spec()}" for lock in desired.locks[table.family])
            edits += edits_of(f"{table.path}, lockdown", "\n".join(have), "\n".join(want))
        live = tuple(Command((item["command"], "--noflush", "--wait", "10"), item["do"]) for item in restores)
        ours = any(_all_ours(table, hook, state.foreign) for table in state.tables if table.live for hook in HOOKS)
        locked = desired.lockdown or any(table.locks for table in state.tables)
        traffic = Traffic("may cut" if locked else "closes" if ours else "opens", live) if live else None
        where = ", ".join(places)
        return (Step(f"ufw: {what} (in {where})", traffic, do, undo, tuple(edits), _rollback(files, state)),)

    def boot_script(self, state: State, desired: Desired) -> str | None:
        """None: ufw.service loads ufw's files before the network is up."""
        return None

    def places(self, state: State) -> tuple[Place, ...]:
        """Each file of ufw's and the live chains of its family: what is open has to stand in both.

        A place holds both directions, because ufw's before.rules let return traffic in, out and through for all rules.
        """
        tables = [table for table in state.tables if state.ipv6 or table.family == "ipv4"]
        held = [_held(table, state.foreign) for table in tables]
        through = _passage(zip(tables, held))
        return tuple(
            Place(table.name, path, (table.family,), tuple(_accepts_of(rules, table.family, passage)))
            for table, rules in zip(tables, held)
            for path, passage in (("output", Passage()), ("forward_out", through))
        )

    def lockdown(self, state: State, *, held: bool = False) -> Lockdown | None:
        """What the live rules let pass; None where one family's do not reject the rest."""
        live = [table for table in state.tables if table.live]
        for table in live:
            found = [_same(spec) for _index, spec in _all_ours(table, "output", state.foreign)]
            if _same("-j REJECT") not in found:
                return None
        locks = [lock for table in live for lock in table.locks]
        passing = [each for hook, why, spec in locks if hook == "output" for each in _allowed(why, spec)]
        forward = any(hook == "forward" for hook, _why, _spec in locks)
        return Lockdown.of(passing, forward=forward, log=False) if locks else None

    def effective(self, state: State, desired: Desired) -> str:
        """`stored` while ufw is not active; `nothing_to_open` where its policies and rules stop no needed port."""
        if not state.active:
            return "stored"
        if desired.lockdown:
            return "in_force"
        for table in state.tables:
            for entry in desired.entries[table.family] if table.live else ():
                policy = table.policies.get(entry.way.hook.upper(), "ACCEPT")
                hindering = drops(table.rules, table.chain(entry.way.hook))
                if policy != "ACCEPT" or any(closes(drop, (entry.accept,)) for drop in hindering):
                    return "in_force"
        return "nothing_to_open"

    def files(self, state: State) -> tuple[str, ...]:
        """The profiles."""
        return (_PROFILES,) if state.profiles is not None else ()

    def in_the_way(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """None but those of iptables, whose rules ufw's are."""
        return ()

    def out_of_reach(self, state: State, rules: RuleSet) -> tuple[str, ...]:
        """None: ufw has no rules that it cannot change."""
        return ()

    def notices(self, state: State, desired: Desired) -> t.Iterator[Notice]:
        """What keeps the rules from working, and what they override."""
        if not any(desired.entries.values()):
            return
        if not state.active:
            why = "its chains are not live: systemctl start ufw" if state.enabled else "enable it: ufw enable"
            yield Notice("ufw_inactive", _CONF, f"ufw is not active, the rules are stored but not in force; {why}")
        for table in state.tables:
            entries = desired.entries[table.family]
            if not entries:
                continue
            if table.live:
                placed = {"forward" if entry.way.hook == "forward" else "host" for entry in entries}
                answers = {"host": ("output", "input"), "forward": ("forward",)}
                yield from _no_return(table, [hook for place in sorted(placed) for hook in answers[place]])
            else:
                for hook in HOOKS:
                    wanted = [entry.accept for entry in entries if entry.way.hook == hook]
                    denied = drops(table.rules, table.chain(hook))
                    yield from overridden(f"{table.name}, chain {table.chain(hook)}", denied, wanted)


def _no_return(table: Table, hooks: t.Iterable[str]) -> t.Iterator[Notice]:
    """ufw has no words for return traffic in a rule; its before.rules accept it, unless somebody took that out."""
    for hook in hooks:
        chain = f"{_PREFIX[table.family]}-before-{hook}"
        held = (options_of(spec) for spec in table.rules.get(chain, ()))
        if not any("ESTABLISHED" in options.get("--ctstate", "") and options.get("-j") == "ACCEPT" for options in held):
            file = f"/etc/ufw/{'before' if table.family == 'ipv4' else 'before6'}.rules"
            text = (
                f"chain {chain} accepts no established connections, so answers may be dropped; put back ufw's own line "
                f"(-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT) in {file}"
            )
            yield Notice("ufw_no_return", file, text)
