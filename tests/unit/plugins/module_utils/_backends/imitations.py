# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that are texts: the four firewalls, imitated as far as the backends' plans go, and what each lets pass.

What they let pass is told from the rules alone, by readers of their own: a mistake that a backend makes both when it
writes and when it reads is seen here. That the imitations behave as the firewalls do is what the tests on throwaway
hosts and the scenarios show.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import re
import shlex
import typing as t
from collections import defaultdict
from xml.etree import ElementTree

import test_firewalld
import test_ufw
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Command, Outcome
from ansible_collections.openagora.firewall.plugins.module_utils._backends.firewalld import Firewalld
from ansible_collections.openagora.firewall.plugins.module_utils._backends.iptables import Iptables
from ansible_collections.openagora.firewall.plugins.module_utils._backends.nftables import Nftables
from ansible_collections.openagora.firewall.plugins.module_utils._backends.ufw import Ufw

if t.TYPE_CHECKING:
    from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Action, Step
    from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import RuleSet

__all__ = ["FAMILIES", "INSIDE", "KINDS", "OUTSIDE", "Imitation", "Opened", "planned"]

FAMILIES = ("ipv4", "ipv6")
# The interfaces of a gateway.
INSIDE, OUTSIDE = "eth1", "eth0"

# The ports of a place (host, gateway), direction, protocol, family, network (empty: any) and target (likewise).
Key = tuple[str, str, str, str, str, str]
Opened = dict[Key, set[int]]
Chains = dict[str, list[str]]


def ports_of(text: str) -> set[int]:
    """The ports of a list, whose ranges have a colon or a hyphen."""
    ends = (re.split("[:-]", part) for part in text.replace(" ", "").split(","))
    return {port for pair in ends for port in range(int(pair[0]), int(pair[-1]) + 1)}


class Imitation(t.Protocol):
    """A host with one firewall."""

    backend: t.Any

    def act(self, action: Action) -> None:
        """Do an action of a step."""

    def opened(self) -> Opened:
        """The ports to which new connections pass by rules of ours."""

    def closing(self) -> bool:
        """Whether everything else that leaves is rejected, in both families, after all that passes."""

    def everything(self) -> object:
        """All that a plan could change."""


class Texts:
    """Files, and commands that are there."""

    backend: t.Any

    def __init__(self, files: dict[str, str], *commands: str) -> None:
        self.files = {"/proc/net/if_inet6": "", **files}
        self.commands = commands

    def which(self, name: str) -> str | None:
        return f"/usr/sbin/{name}" if name in self.commands else None

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files


class Filter:
    """The filter table of one family, as iptables-save shows it and iptables-restore changes it."""

    def __init__(self, text: str) -> None:
        self.policies: dict[str, str] = {}
        self.chains: Chains = {}
        self.restore(text)

    def restore(self, text: str) -> None:
        """Do what a transaction says, or nothing of it."""
        policies, chains = dict(self.policies), copy.deepcopy(self.chains)
        lines = text.splitlines()
        assert "COMMIT" in lines
        for line in lines:
            verb, *rest = line.split(None, 2)
            if line.startswith(":"):
                chains[verb[1:]] = [] if rest[0] == "-" else chains.get(verb[1:], [])
                policies[verb[1:]] = rest[0]
            elif verb == "-A":
                chains[rest[0]].append(rest[1])
            elif verb == "-I":
                number, spec = rest[1].split(None, 1)
                assert 1 <= int(number) <= len(chains[rest[0]]) + 1
                chains[rest[0]].insert(int(number) - 1, spec)
            elif verb == "-D":
                (found,) = [spec for spec in chains[rest[0]] if _words(spec) == _words(rest[1])][:1]
                chains[rest[0]].remove(found)
            elif verb == "-F":
                chains[rest[0]].clear()
            elif verb == "-X":
                assert not chains.pop(rest[0])
                del policies[rest[0]]
            else:
                assert verb.startswith(("*filter", "COMMIT", "#"))
        self.policies, self.chains = policies, chains

    def save(self) -> str:
        """The whole table."""
        heads = [f":{chain} {policy} [0:0]" for chain, policy in self.policies.items()]
        return "\n".join(["*filter", *heads, *self.rules(), "COMMIT", ""])

    def rules(self) -> list[str]:
        """All rules."""
        return [f"-A {chain} {spec}" for chain, specs in self.chains.items() for spec in specs]


def _words(spec: str) -> list[str]:
    return sorted(shlex.split(spec.replace("'", "")))


def _options(spec: str) -> dict[str, str]:
    """The options of a rule, each with the word after it."""
    words = shlex.split(spec)
    pairs = zip(words, [*words[1:], ""])
    return {word: "" if value.startswith("-") else value for word, value in pairs if word.startswith("-")}


def _passes(opened: Opened, place: str, direction: str, family: str, spec: str) -> None:
    """Note what a rule accepts: new connections alone."""
    options = _options(spec)
    ports = options.get("--dports") or options.get("--dport")
    if options.get("-j") != "ACCEPT" or not ports or "--ctstate" in options or "lockdown" in spec:
        return
    far, near = ("-d", "-s") if direction == "egress" else ("-s", "-d")
    # A single address may stand without its length.
    network, target = (str(ipaddress.ip_network(options[name])) if name in options else "" for name in (far, near))
    opened[place, direction, options["-p"], family, network, target] |= ports_of(ports)


class Tables:
    """A filter table for each family."""

    COMMANDS: t.ClassVar = {"iptables": "ipv4", "ip6tables": "ipv6"}
    tables: dict[str, Filter]

    def table(self, command: str) -> Filter:
        return self.tables[self.COMMANDS[command.partition("-")[0]]]


class IptablesHost(Texts, Tables):
    """A host with the old kind of tables, whose policies drop everything."""

    backend = Iptables()
    CLOSED = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\nCOMMIT\n"

    def __init__(self) -> None:
        names = {f"/proc/net/{name}_tables_names": "filter\n" for name in ("ip", "ip6")}
        commands = [f"{command}{verb}" for command in self.COMMANDS for verb in ("", "-save", "-restore")]
        super().__init__(names, *commands)
        self.tables = {family: Filter(self.CLOSED) for family in FAMILIES}

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        if argv == ["iptables", "--version"]:
            return Outcome(0, "iptables v1.8.9 (legacy)\n", "")
        assert argv[0].endswith("-save")
        return Outcome(0, self.table(argv[0]).save(), "")

    def act(self, action: Action) -> None:
        assert isinstance(action, Command)
        assert action.stdin
        table = self.table(action.argv[-4])
        if action.argv[0] == "/bin/sh":
            # What it deletes before it restores: the jumps to ours in chains of others.
            for chain, specs in table.chains.items():
                if not chain.startswith("openagora-"):
                    specs[:] = [spec for spec in specs if "-j openagora-" not in spec]
        table.restore(action.stdin)

    def opened(self) -> Opened:
        opened: Opened = defaultdict(set)
        through = {
            ("-i", INSIDE, "-o", OUTSIDE): ("openagora-forward-out", "egress"),
            ("-i", OUTSIDE, "-o", INSIDE): ("openagora-forward-in", "ingress"),
        }
        for family, table in self.tables.items():
            for base, direction in (("OUTPUT", "egress"), ("INPUT", "ingress")):
                for spec in self._led(table, base):
                    _passes(opened, "host", direction, family, spec)
            for lead in self._led(table, "FORWARD"):
                chain, direction = through.get(tuple(lead.split()[:4]), ("", ""))  # type: ignore[call-overload]  # a tuple of any length
                assert not chain or f"-j {chain}" in lead
                for spec in table.chains[chain] if chain else ():
                    _passes(opened, "gateway", direction, family, spec)
        return dict(opened)

    def _led(self, table: Filter, base: str) -> list[str]:
        """The rules to which a base chain leads first of all, without a condition."""
        chain = f"openagora-{base.lower()}"
        led = table.chains[base][:1] == [f"-m comment --comment openagora -j {chain}"]
        return table.chains[chain] if led else []

    def closing(self) -> bool:
        return all(
            re.search("-j REJECT", (self._led(table, "OUTPUT") or [""])[-1])
            and not _options(self._led(table, "OUTPUT")[-1]).keys() & {"-p", "-d", "-s", "-o"}
            for table in self.tables.values()
        )

    def everything(self) -> object:
        return {family: (table.policies, table.chains) for family, table in copy.deepcopy(self.tables).items()}


class UfwHost(Texts, Tables):
    """A host with an active ufw: its files, and the live chains of the same moment."""

    backend = Ufw()
    PREFIXES: t.ClassVar = {"ipv4": ("ufw", "user.rules", "live4"), "ipv6": ("ufw6", "user6.rules", "live6")}

    def __init__(self) -> None:
        super().__init__(dict(test_ufw.CONFIGURATION), "ufw")
        self.tables = {family: Filter(test_ufw.before(live)) for family, (_p, _f, live) in self.PREFIXES.items()}

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        if argv[0] == "grep":
            return Outcome(1, "", "")
        return Outcome(0, self.table(argv[0]).save(), "")

    def act(self, action: Action) -> None:
        assert isinstance(action, Command)
        job = json.loads(action.stdin or "")
        for file in job["files"]:
            assert self.files.get(file["path"]) == file["before"]
            self.files.pop(file["path"], None)
            if file["after"] is not None:
                self.files[file["path"]] = file["after"]
        for restore in job["restores"]:
            self.table(restore["command"]).restore(restore["do"])

    def opened(self) -> Opened:
        live: Opened = defaultdict(set)
        stored: Opened = defaultdict(set)
        for family, (prefix, file, _live) in self.PREFIXES.items():
            lines = self.files[f"/etc/ufw/{file}"].splitlines()
            for rules, opened in ((self.tables[family].rules(), live), (lines, stored)):
                for chain, spec in (line.split(None, 2)[1:] for line in rules if "dapp_Agora" in line):
                    self._note(opened, family, chain.removeprefix(f"{prefix}-user-"), spec)
        assert live == stored
        self._profiles(live)
        return dict(live)

    def _note(self, opened: Opened, family: str, hook: str, spec: str) -> None:
        options = _options(spec)
        sides = (options.pop("-i", ""), options.pop("-o", ""))
        place = "gateway" if hook == "forward" else "host"
        direction = {"output": "egress", "input": "ingress"}.get(hook) or (
            "egress" if sides[0] == INSIDE else "ingress"
        )
        assert sides in ({("", "")} if place == "host" else {(INSIDE, OUTSIDE), (OUTSIDE, INSIDE)})
        _passes(opened, place, direction, family, spec)

    def _profiles(self, opened: Opened) -> None:
        """The profiles say the same as the rules that name them."""
        told: dict[tuple[str, str], set[int]] = defaultdict(set)
        text = self.files.get("/etc/ufw/applications.d/openagora", "")
        for name, value in re.findall(r"^\[(.*)\]\n(?:title|description)=.*\n.*\nports=(.*)$", text, re.MULTILINE):
            for group in value.split("|"):
                ports, protocol = group.split("/")
                told["ingress" if name.endswith(" in") else "egress", protocol] |= ports_of(ports)
        held: dict[tuple[str, str], set[int]] = defaultdict(set)
        for (_place, direction, protocol, *_rest), ports_held in opened.items():
            held[direction, protocol] |= ports_held
        assert told == held

    def closing(self) -> bool:
        return all(
            self._last(self.tables[family], prefix) == "-j REJECT" for family, (prefix, *_rest) in self.PREFIXES.items()
        )

    def _last(self, table: Filter, prefix: str) -> str:
        """The last of our rules, which come first."""
        specs = table.chains[f"{prefix}-user-output"]
        return next((spec for spec in specs if not _options(spec).keys() - {"-j"}), "")

    def everything(self) -> object:
        tables = {family: (table.policies, table.chains) for family, table in copy.deepcopy(self.tables).items()}
        return tables, dict(self.files)


class FirewalldHost(test_firewalld.FakeHost):
    """The running firewalld of that test."""

    backend = Firewalld()
    WAYS: t.ClassVar = {
        (("HOST",), ("ANY",)): ("host", "egress"),
        (("lan", "public"), ("HOST",)): ("host", "ingress"),
        (("lan",), ("public",)): ("gateway", "egress"),
        (("public",), ("lan",)): ("gateway", "ingress"),
    }

    def __init__(self) -> None:
        super().__init__()
        # The files of the last reload.
        self.loaded: dict[str, str] = {}

    def answer(self, member: str, arguments: list[str]) -> t.Any:
        if member == "reload":
            self.loaded = dict(self.files)
        return super().answer(member, arguments)

    def opened(self) -> Opened:
        opened: Opened = defaultdict(set)
        for policy in self.live.policies.values():
            if policy.target != "CONTINUE":
                continue
            place, direction = self.WAYS[policy.ingress, policy.egress]
            for entry in (entry for entry in policy.entries if entry.service):
                far, near = (entry.destination, entry.source)[:: 1 if direction == "egress" else -1]
                for family in FAMILIES if not entry.family else (entry.family,):
                    root = ElementTree.fromstring(self.loaded[f"/etc/firewalld/services/{entry.service}.xml"])
                    for port in root.iter("port"):
                        key = (place, direction, port.get("protocol", ""), family, far, near)
                        opened[key] |= ports_of(port.get("port", ""))
        return dict(opened)

    def closing(self) -> bool:
        found = [policy for policy in self.live.policies.values() if policy.target == "REJECT"]
        ways = [(policy.ingress, policy.egress) for policy in found]
        after = all(policy.priority > self.live.policies["openagora-out"].priority for policy in found)
        return after and (("HOST",), ("ANY",)) in ways

    def everything(self) -> object:
        return dict(self.files), copy.deepcopy(self.live)


class NftablesHost(Texts):
    """A host whose one table drops everything. Its rules are what nft's JSON says of the words that it is given."""

    backend = Nftables()
    HOOKS: t.ClassVar = ("input", "output", "forward")

    def __init__(self) -> None:
        super().__init__({}, "nft")
        self.handle = 0
        # The rules of each chain, and the elements of each set, by table; a rule is its handle and its words.
        self.chains: dict[str, dict[str, list[tuple[int, str]]]] = {"inet filter": {hook: [] for hook in self.HOOKS}}
        self.sets: dict[str, dict[str, tuple[str, str]]] = {"inet filter": {}}

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        lock = "inet openagora"
        if list(argv[-4:]) == ["list", "table", *lock.split()]:
            if lock not in self.chains:
                return Outcome(1, "", "No such file or directory")
            if "-j" in argv:
                return Outcome(0, json.dumps({"nftables": self._listed(lock)}), "")
            return Outcome(0, self._text(lock), "")
        assert list(argv) == ["nft", "-j", "list", "ruleset"]
        listed = [item for table in self.chains for item in self._listed(table)]
        return Outcome(0, json.dumps({"nftables": listed}), "")

    def _listed(self, table: str) -> list[dict[str, t.Any]]:
        family, name = table.split()
        items: list[dict[str, t.Any]] = [{"table": {"family": family, "name": name}}]
        for set_name, (shape, elements) in self.sets[table].items():
            held = {"family": family, "table": name, "name": set_name, "type": "inet_service", "flags": ["interval"]}
            assert shape == "type inet_service; flags interval;"
            items.append({"set": {**held, "elem": [_right(part) for part in elements.split(", ") if part]}})
        for chain in self.chains[table]:
            base = {"type": "filter", "hook": chain, "policy": "drop" if name == "filter" else "accept"}
            held = {"family": family, "table": name, "name": chain}
            items.append({"chain": {**held, **(base if chain in self.HOOKS else {})}})
        for chain, rules in self.chains[table].items():
            for handle, words in rules:
                expression, comment = _expression(words)
                held = {"family": family, "table": name, "chain": chain, "handle": handle, "comment": comment}
                items.append({"rule": {**held, "expr": expression}})
        return items

    def _text(self, table: str) -> str:
        """The table as `nft list` prints it, and as `nft -f` takes it."""
        lines = [f"table {table} {{"]
        for chain, rules in self.chains[table].items():
            lines += [f"\tchain {chain} {{", f"\t\ttype filter hook {chain} priority 10; policy accept;"]
            lines += [*(f"\t\t{words}" for _handle, words in rules), "\t}"]
        return "\n".join([*lines, "}", ""])

    def act(self, action: Action) -> None:
        assert isinstance(action, Command)
        if action.argv[0] == "/bin/sh":
            _shell, _option, _script, _name, *places = action.argv
            for place in places:
                family, table, chain = place.split()
                rules = self.chains[f"{family} {table}"][chain]
                rules[:] = [rule for rule in rules if not rule[1].startswith("jump openagora_")]
        else:
            assert action.argv[0] == "nft"
        chains, sets = copy.deepcopy(self.chains), copy.deepcopy(self.sets)
        try:
            self._load(action.argv[1] if action.stdin is None else action.stdin)
        except BaseException:
            self.chains, self.sets = chains, sets
            raise

    def _load(self, text: str) -> None:
        table = chain = ""
        for line in map(str.strip, text.splitlines()):
            opening = re.fullmatch(r"(table|chain) (.*) \{", line)
            if opening and opening[1] == "table":
                table = opening[2]
                self.chains.setdefault(table, {})
                self.sets.setdefault(table, {})
            elif opening:
                chain = opening[2]
                self.chains[table].setdefault(chain, [])
            elif table and line == "}":
                table, chain = (table, "") if chain else ("", "")
            elif chain:
                if not line.startswith("type filter"):
                    self._rule("add", table, chain, line)
            elif line:
                verb, kind, family, name, *rest = line.split(None, 4)
                self._line(verb, kind, f"{family} {name}", rest[0] if rest else "")

    def _line(self, verb: str, kind: str, table: str, rest: str) -> None:
        name, _space, words = rest.partition(" ")
        if kind == "table":
            if verb == "add":
                self.chains.setdefault(table, {})
                self.sets.setdefault(table, {})
            elif verb == "delete":
                del self.chains[table], self.sets[table]
            else:
                for rules in self.chains[table].values():
                    rules.clear()
        elif kind == "set":
            held = self.sets[table]
            if verb == "add":
                held.setdefault(name, (words.strip("{ }") + ";" * (not words.strip("{ }").endswith(";")), ""))
            elif verb == "flush":
                held[name] = (held[name][0], "")
            else:
                # nft deletes no set that a rule names.
                assert not [1 for rules in self.chains[table].values() for rule in rules if f"@{name} " in rule[1]]
                del held[name]
        elif kind == "element":
            shape, before = self.sets[table][name]
            self.sets[table][name] = (shape, ", ".join(filter(None, [before, words.strip("{ }")])))
        elif kind == "chain":
            if verb == "add":
                self.chains[table].setdefault(name, [])
            elif verb == "flush":
                self.chains[table][name].clear()
            else:
                assert not self.chains[table][name]
                # nft deletes no chain to which a rule leads.
                leading = [
                    rule for rules in self.chains[table].values() for rule in rules if f"jump {name} " in rule[1]
                ]
                assert not leading
                del self.chains[table][name]
        else:
            assert kind == "rule"
            self._rule(verb, table, name, words)

    def _rule(self, verb: str, table: str, chain: str, words: str) -> None:
        rules = self.chains[table][chain]
        if verb == "delete":
            (found,) = [rule for rule in rules if f"handle {rule[0]}" == words]
            rules.remove(found)
            return
        self.handle += 1
        index = re.match(r"index (\d+) (.*)", words)
        place = int(index[1]) + 1 if index else len(rules) if verb == "add" else 0
        for name in re.findall(r"@(\S+)", words):
            assert name in self.sets[table]
        rules.insert(place, (self.handle, index[2] if index else words))

    def opened(self) -> Opened:
        opened: Opened = defaultdict(set)
        through = {
            f'iifname "{INSIDE}" oifname "{OUTSIDE}" jump openagora_forward_out comment "openagora"': "egress",
            f'iifname "{OUTSIDE}" oifname "{INSIDE}" jump openagora_forward_in comment "openagora"': "ingress",
        }
        for hook, direction in (("output", "egress"), ("input", "ingress")):
            for words in self._led(hook):
                self._note(opened, "host", direction, words)
        for lead in self._led("forward"):
            path = "out" if through[lead] == "egress" else "in"
            for _handle, words in self.chains["inet filter"][f"openagora_forward_{path}"]:
                self._note(opened, "gateway", through[lead], words)
        return dict(opened)

    def _led(self, hook: str) -> list[str]:
        """The rules to which a base chain leads first of all, without a condition."""
        held = self.chains["inet filter"]
        led = [rule[1] for rule in held[hook]][:1] == [f'jump openagora_{hook} comment "openagora"']
        return [rule[1] for rule in held[f"openagora_{hook}"]] if led else []

    def _note(self, opened: Opened, place: str, direction: str, words: str) -> None:
        far, near = ("daddr", "saddr") if direction == "egress" else ("saddr", "daddr")
        found = re.fullmatch(
            rf"(?:(?P<family>ip6?) {far} {{ (?P<far>[^}}]*) }} )?(?:(?P<of>ip6?) {near} {{ (?P<near>[^}}]*) }} )?"
            r'(?P<protocol>tcp|udp) dport @(?P<set>\S+) accept comment "openagora [a-z]+"',
            words,
        )
        if not found:
            assert "ct state" in words or "lockdown" in words
            return
        ports = ports_of(self.sets["inet filter"][found["set"]][1])
        word = found["family"] or found["of"]
        for family in FAMILIES if not word else ({"ip": "ipv4", "ip6": "ipv6"}[word],):
            for network in (found["far"] or "").split(", "):
                for target in (found["near"] or "").split(", "):
                    opened[place, direction, found["protocol"], family, network, target] |= ports

    def closing(self) -> bool:
        rules = self.chains.get("inet openagora", {}).get("output") or [(0, "")]
        return rules[-1][1].startswith("counter reject with icmpx")

    def everything(self) -> object:
        chains = {
            table: {chain: [words for _handle, words in rules] for chain, rules in held.items()}
            for table, held in self.chains.items()
        }
        return chains, copy.deepcopy(self.sets)


def _right(text: str) -> t.Any:
    """The right side of a match, or an element of a set, as nft's JSON has it."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d+-\d+", text):
        return {"range": [int(end) for end in text.split("-")]}
    if "/" in text:
        address, length = text.split("/")
        return {"prefix": {"addr": address, "len": int(length)}}
    return text.strip('"')


def _expression(words: str) -> tuple[list[dict[str, t.Any]], str]:
    """A rule as nft's JSON has it, and its comment: for the words that are ours."""
    statements: list[dict[str, t.Any]] = []
    comment, rest = "", words
    value = r'(\{ [^}]* \}|"[^"]*"|\S+)'
    while rest:
        found = re.match(rf"(ip6?|tcp|udp|icmp|icmpv6|ct|meta) (\w+) {value} ?|([io]ifname) {value} ?", rest)
        if found:
            kind, name, text = (found[1], found[2], found[3]) if found[1] else ("meta", found[4], found[5])
            listed = text.startswith("{")
            right = {"set": [_right(part) for part in text.strip("{ }").split(", ")]} if listed else _right(text)
            of = "payload" if kind not in ("ct", "meta") else kind
            left = {of: {"protocol": kind, "field": name} if of == "payload" else {"key": name}}
            operator = "in" if kind == "ct" or name == "flags" else "=="
            statements.append({"match": {"op": operator, "left": left, "right": right}})
        elif found := re.match(r'(accept|counter) ?|jump (\S+) ?|comment "([^"]*)" ?', rest):
            if found[1]:
                statements.append({found[1]: None})
            elif found[2]:
                statements.append({"jump": {"target": found[2]}})
            else:
                comment = found[3]
        elif found := re.match(r'limit rate (\d+)/(\S+) ?|log prefix "([^"]*)" ?|reject with (\S+) (\S+) ?', rest):
            if found[1]:
                statements.append({"limit": {"rate": int(found[1]), "per": found[2]}})
            elif found[4]:
                how = {} if found[5] == "reset" else {"expr": found[5]}
                statements.append({"reject": {"type": "tcp reset" if not how else found[4], **how}})
            else:
                statements.append({"log": {"prefix": found[3]}})
        assert found, rest
        rest = rest[found.end() :]
    return statements, comment


KINDS: dict[str, type[Imitation]] = {
    "iptables": IptablesHost,
    "nftables": NftablesHost,
    "ufw": UfwHost,
    "firewalld": FirewalldHost,
}


def planned(host: Imitation, rules: RuleSet) -> tuple[Step, ...]:
    """The plan of the host's backend."""
    state = host.backend.read(host)
    steps: tuple[Step, ...] = host.backend.plan(state, host.backend.render(rules, state))
    return steps
