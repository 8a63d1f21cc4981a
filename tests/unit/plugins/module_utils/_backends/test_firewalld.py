# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewalld backend's decisions, on a host that is files and the answers of firewalld 1.3.3 over D-Bus.

What firewalld makes of the files, and packets, are the scenario's subject.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends import firewalld
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import (
    BackendError,
    Command,
    Outcome,
    Step,
    WriteFile,
    live_rules,
)
from ansible_collections.openagora.firewall.plugins.module_utils._backends.firewalld import Config, Firewalld, Policy
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._model.lockdown import parse_lockdown
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, RuleSet, Side, parse_rules
from netns import NetnsHost

if t.TYPE_CHECKING:
    from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Action

GOLDEN = Path(__file__).parent / "firewalld" / "golden"
FIREWALLD = Firewalld()
NETWORKS = ["192.0.2.0/24", "198.51.100.1/32", "2001:db8::/32"]
LAN, WAN = Side("interface", "eth1"), Side("interface", "eth0")
TARGETS = ("10.0.0.7/32", "fd00::7/128")
# What firewalld would have in the kernel, in short.
TABLE = "inet firewalld"
LISTED = """table inet firewalld {
\tchain filter_IN_public_allow {
\t\ttcp dport 22 accept
\t}

\tchain filter_OUT_policy_openagora-out_allow {
\t\ttcp dport 443 accept
\t}
}
"""
THROUGH = Passage((LAN,), (WAN,), TARGETS)
BY_SOURCE = Passage(
    (Side("source", "10.0.0.0/8"), Side("source", "fd00::/8")), (Side("source", "192.0.2.0/25"),), TARGETS
)


def rules_of(*sdks: str, networks: t.Sequence[str] = (), passage: Passage | None = None, **options: t.Any) -> RuleSet:
    rules = compile_request(Request.of(sdks=list(sdks), **options)).rules.ingress_from(networks)
    return rules if passage is None else rules.placed(["host", "gateway"], passage)


class FakeHost:
    """Files, and a firewalld that loads them at a reload and takes policy settings at run time."""

    def __init__(self) -> None:
        self.files = {"/proc/net/dev": "    lo: 0\n  eth0: 0\n  eth1: 0\n", "/usr/lib/firewalld/policies": ""}
        self.files["/etc/firewalld/zones/lan.xml"] = '<zone><interface name="eth1"/></zone>'
        self.files["/etc/firewalld/zones/drop.xml"] = '<zone><rule><source address="10.9.9.9"/><drop/></rule></zone>'
        self.files["/usr/lib/firewalld/zones/public.xml"] = "<zone/>"
        self.running = True
        self.answers: dict[str, t.Any] = {
            "queryPanicMode": False,
            "getDefaultZone": "public",
            "getActiveZones": {
                "lan": {"interfaces": ["eth1"]},
                "public": {"interfaces": ["eth0"]},
                "drop": {"sources": ["10.9.0.0/16"]},
            },
            "getZones": ["drop", "lan", "public"],
        }
        self.state = 's "RUNNING"'
        # What it says of files before they count.
        self.examined: dict[str, t.Any] = {"invalid": "", "differences": [], "loaded": {"rules": {TABLE: LISTED}}}
        self.asked: list[dict[str, t.Any]] = []
        self.live = Config({}, {})
        # Whether its rules are in the kernel, and policies there for what no zone names (as in 2.3).
        self.kernel = True
        self.newer = False
        # A zone that lets everything in, and whether there are commands that list the kernel's rules.
        self.letting = ""
        self.commands = True
        self.foreign = [Policy("allow-host-ipv6", "", ("ANY",), ("HOST",), priority=-15000)]

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if self.commands or name != "nft" else None

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def run(self, argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        if argv[:2] == ("/bin/sh", "-c"):
            # What puts back the rules of others after a reload.
            argv = argv[5:]
        if argv[0] == "systemctl":
            return Outcome(0 if self.running else 3, "", "")
        if argv[0] == "find":
            tops = tuple(f"{word}/" for word in argv[1:] if word.startswith("/"))
            prefix = argv[-1].partition("*")[0]
            found = [path for path in self.files if path.startswith(tops) and path.split("/")[-1].startswith(prefix)]
            return Outcome(0, "".join(f"{path}\n" for path in found), "")
        if argv[0] == "nft":
            return Outcome(0, self.listing(), "") if self.kernel else Outcome(1, "", "No such file or directory")
        if argv[0] == "iptables-save":
            return Outcome(0, "", "")
        if argv[0] != "busctl":
            self.asked.append(json.loads(stdin or ""))
            self.python = argv[0]
            answer = self.examined if self.asked[-1]["load"] else {**self.examined, "loaded": {}}
            return Outcome(0, json.dumps(answer), "")
        if "get-property" in argv:
            return Outcome(0, f"{self.state}\n", "")
        member, *arguments = argv[argv.index("call") + 4 :]
        if member == "getServiceSettings2" and arguments[1] not in self.live.services:
            return Outcome(1, "", f"Call failed: INVALID_SERVICE: {arguments[1]}")
        return Outcome(0, json.dumps({"data": [self.answer(member, arguments)]}), "")

    def listing(self) -> str:
        """What leads to our policies in the kernel."""
        active = self.answers["getActiveZones"]
        lines = ["table inet firewalld {", f"\tchain filter_INPUT_{'POLICIES' if self.newer else 'ZONES'} {{"]
        for policy in self.live.policies.values():
            ends = []
            for end, zones in (("iifname", policy.ingress), ("oifname", policy.egress)):
                names = [name for zone in zones for name in active.get(zone, {}).get("interfaces", ())]
                found = [f'{end} "{name}" ' for name in names]
                catches = {"ANY", "HOST"} | ({self.answers["getDefaultZone"]} if self.newer else set())
                ends.append([*found, ""] if catches & set(zones) else found)
            verb = "IN" if policy.egress == ("HOST",) else "OUT" if policy.ingress == ("HOST",) else "FWD"
            ways = (f"\t\t{one}{other}jump filter_{verb}_policy_{policy.name}" for one in ends[0] for other in ends[1])
            lines += ways
        lines += ["\t}", f"\tchain filter_IN_{self.letting} {{", "\t\taccept"] if self.letting else []
        return "\n".join([*lines, "\t}", "}", ""])

    def answer(self, member: str, arguments: list[str]) -> t.Any:
        if member == "reload":
            self.live = firewalld._stored(self.ours())
        elif member == "getPolicies":
            return [*(policy.name for policy in self.foreign), *self.live.policies]
        elif member == "getPolicySettings":
            policy = {**{policy.name: policy for policy in self.foreign}, **self.live.policies}[arguments[1]]
            values = {
                "description": policy.description,
                "target": policy.target,
                "priority": policy.priority,
                "masquerade": False,
                "ingress_zones": list(policy.ingress),
                "egress_zones": list(policy.egress),
                "services": [entry.service for entry in policy.entries if entry.plain],
                "rich_rules": [entry.rule() for entry in policy.entries if not entry.plain],
                **{key: [["1", "tcp"]] for key in policy.rest},
            }
            return {key: {"data": value} for key, value in values.items()}
        elif member == "getServiceSettings2":
            ports = self.live.services[arguments[1]]
            return {"ports": {"data": [[text, name] for name in ports for text in ports[name].texts()]}}
        elif member == "setPolicySettings":
            name, rest = arguments[1], arguments[3:]
            count = int(rest[2])
            entries = [*map(firewalld.Entry, rest[3 : 3 + count]), *map(firewalld._entry, rest[6 + count :])]
            policy = replace(self.live.policies[name], entries=tuple(sorted(entry for entry in entries if entry)))
            self.live.policies[name] = policy
        return self.answers.get(member)

    def ours(self) -> dict[str, str]:
        return {path: text for path, text in self.files.items() if "/openagora-" in path and path.endswith(".xml")}

    def act(self, action: Action) -> None:
        if isinstance(action, Command):
            assert self.run(action.argv).code == 0
        elif isinstance(action, WriteFile):
            self.files[action.path] = action.text
        else:
            self.files.pop(action.path, None)

    def carry_out(self, steps: t.Iterable[Step], way: str = "do") -> None:
        for action in (action for step in steps for action in getattr(step, way)):
            self.act(action)

    def plan(self, rules: RuleSet) -> tuple[Step, ...]:
        state = FIREWALLD.read(self)
        return FIREWALLD.plan(state, FIREWALLD.render(rules, state))

    def apply(self, rules: RuleSet) -> str:
        """Carry out the plan; the members that it called over D-Bus."""
        steps = self.plan(rules)
        self.carry_out(steps)
        return " ".join(action.argv[8] for step in steps for action in step.do if isinstance(action, Command))

    def rules(self) -> RuleSet:
        return live_rules(FIREWALLD.places(FIREWALLD.read(self)))


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


REQUESTS = [
    rules_of("web"),
    rules_of("web", "recording", networks=NETWORKS),
    rules_of("web", "recording", passage=THROUGH),
    rules_of("recording", networks=NETWORKS, passage=THROUGH),
    rules_of("recording", passage=BY_SOURCE),
    rules_of("web", passage=replace(THROUGH, inside=(Side("zone", "lan"),), outside=(), targets=())),
    parse_rules(
        [
            {"direction": "egress", "protocol": "tcp", "scope": "any", "ports": ["80"], "sdks": {"rtm_native": ["80"]}},
            {
                "direction": "egress",
                "protocol": "tcp",
                "scope": "networks",
                "networks": ["192.0.2.0/24"],
                "ports": ["81"],
                "sdks": {"rtm_native": ["81"]},
            },
        ]
    ),
]


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("rules", REQUESTS)
def test_applied_is_live_and_nothing_is_left_to_do(host: FakeHost, rules: RuleSet, running: bool) -> None:
    host.running = running
    before = dict(host.files)
    steps = host.plan(rules)
    host.carry_out(steps)
    assert host.rules().rules == replace(rules).in_families(("ipv4", "ipv6")).rules
    assert not host.plan(rules)
    host.carry_out(reversed(steps), "undo")
    assert host.files == before
    assert host.live == Config({}, {})
    host.apply(rules)
    host.apply(RuleSet())
    assert host.files == before
    assert host.live == Config({}, {})
    assert not host.plan(RuleSet())


@pytest.mark.parametrize(
    "name", ["services/openagora-recording-in", "policies/openagora-in", "policies/openagora-gw-in"]
)
def test_files(host: FakeHost, name: str) -> None:
    host.apply(rules_of("web", "recording", networks=NETWORKS, passage=THROUGH))
    expected = (GOLDEN / f"{name.split('/')[1]}.xml").read_text(encoding="utf-8")
    assert host.files[f"/etc/firewalld/{name}.xml"] == expected


def test_what_firewalld_leaves_of_files_of_ours(host: FakeHost) -> None:
    """It goes with the next run, its text comes back with an undo, and that of others stays."""
    before = dict(host.files)
    host.apply(rules_of("web"))
    policy = "/etc/firewalld/policies/openagora-out.xml"
    host.files[f"{policy}.old"] = host.files[policy]
    before["/etc/firewalld/policies/openagora-own.xml.old"] = "<policy/>"
    host.files.update(before)
    for rules in (rules_of("web"), rules_of("web", "native"), RuleSet()):
        there = dict(host.files)
        steps = host.plan(rules)
        host.carry_out(steps)
        assert f"{policy}.old" not in host.files
        assert not host.plan(rules)
        host.carry_out(steps, "undo")
        assert host.files == there
    assert f"{policy}.old" in FIREWALLD.files(FIREWALLD.read(host))
    host.apply(RuleSet())
    assert host.files == before


def test_names_are_short_enough(host: FakeHost) -> None:
    host.apply(rules_of("web", "recording", passage=THROUGH))
    assert sorted(host.live.policies) == ["openagora-gw-in", "openagora-gw-out", "openagora-in", "openagora-out"]
    assert all(len(name) <= 18 for name in host.live.policies)


def test_only_ports_and_zones_take_a_reload(host: FakeHost) -> None:
    assert host.apply(rules_of("web")) == "reload"
    assert host.apply(rules_of("native", "recording")) == " ".join(["setPolicySettings"] * 3)
    assert host.apply(rules_of("recording", networks=NETWORKS)) == " ".join(["setPolicySettings"] * 3)
    assert host.apply(rules_of("recording", recording_port_ranges=["50000-50100"])) == "reload"
    host.answers["getActiveZones"]["dmz"] = {"interfaces": ["eth2"]}
    host.answers["getZones"].append("dmz")
    assert host.apply(rules_of("recording", recording_port_ranges=["50000-50100"])) == "reload"
    assert host.live.policies["openagora-in"].ingress == ("dmz", "lan", "public")


def test_what_stays_is_not_closed_in_between(host: FakeHost) -> None:
    host.apply(rules_of("web"))
    calls = [action for step in host.plan(rules_of("native")) for action in step.do if isinstance(action, Command)]
    assert [[word for word in call.argv if word.startswith("openagora-")] for call in calls] == [
        ["openagora-out", "openagora-native", "openagora-web"],
        ["openagora-out", "openagora-native"],
    ]


def test_the_check_sees_the_files_and_goes_before_them(host: FakeHost) -> None:
    host.examined["differences"] = ["zone public loses ports 7 tcp"]
    with pytest.raises(BackendError, match=r"zone public loses ports 7 tcp\. .*--runtime-to-permanent.*--reload"):
        host.plan(rules_of("web"))
    assert host.asked[0]["running"] is True
    assert "services/openagora-web.xml" in host.asked[0]["files"]
    host.examined.update(invalid="INVALID_ZONE: x", differences=[])
    with pytest.raises(BackendError, match="INVALID_ZONE: x"):
        host.plan(rules_of("web"))
    assert not host.ours()
    host.examined["invalid"] = ""
    host.apply(rules_of("web"))
    host.asked.clear()
    host.plan(rules_of("web"))
    assert not host.asked


def test_what_a_step_does_to_traffic(host: FakeHost) -> None:
    """firewalld makes its rules itself: what they come to is asked of it, and in a private copy done with nft."""

    def traffic(rules: RuleSet) -> tuple[str, str]:
        host.asked.clear()
        ((_what, found),) = [(step.what, step.traffic) for step in host.plan(rules)]
        assert found
        assert callable(found.trial)
        (command,) = found.trial()
        assert [(asked["running"], asked["load"]) for asked in host.asked][-1] == (False, True)
        assert command.argv == ("nft", "-f", "-")
        return found.effect, command.stdin or ""

    locked = replace(rules_of("web"), lockdown=parse_lockdown([], forward=False, log=False))
    whole = f"add table {TABLE}\ndelete table {TABLE}\n{LISTED}"
    assert traffic(rules_of("web")) == ("opens", whole)
    assert host.asked[-1]["zones"] == {"lan": ["eth1"], "public": ["eth0"]}
    host.apply(rules_of("web"))
    effect, text = traffic(rules_of("native"))
    assert effect == "closes"
    # At run time our policies change, and nothing else: what others have only set there is not in the files.
    chain = "filter_OUT_policy_openagora-out_allow"
    held = f"chain {chain} {{\n\t\ttcp dport 443 accept\n}}"
    assert text == f"flush chain {TABLE} {chain}\ntable {TABLE} {{\n{held}\n}}\n"
    assert traffic(RuleSet()) == ("closes", whole)
    assert traffic(locked) == ("may cut", whole)
    host.apply(locked)
    assert traffic(rules_of("web"))[0] == "may cut"
    host.examined["loaded"] = {"rules": {"iptables": "*nat\nCOMMIT\n*filter\n:IN_openagora-in - [0:0]\nCOMMIT\n"}}
    ((_what, found),) = [(step.what, step.traffic) for step in host.plan(rules_of("web"))]
    assert found
    assert callable(found.trial)
    assert [command.argv for command in found.trial()] == [("iptables-restore",)]
    for came in ({"untried": "no namespaces"}, {"failed": "COMMAND_FAILED"}):
        host.examined["loaded"] = came
        with pytest.raises(BackendError, match=f"cannot be tried: {next(iter(came.values()))}"):
            found.trial()
    # Stored only: no rule changes.
    host.running = False
    assert [step.traffic for step in host.plan(rules_of("native"))] == [None]


BANS = {"iptables -t filter": ["f2b", "INPUT"], "ip6tables -t nat": ["PREROUTING"]}


def test_a_reload_that_deletes_what_others_have_in_iptables(host: FakeHost) -> None:
    """Refused; a change of SDKs takes none, and what takes ours away puts theirs back in the same step."""
    loaded = host.examined["loaded"]
    loaded.update(flushed=["iptables", "ip6tables"], others=BANS)
    named = r"iptables -t filter: f2b, INPUT; ip6tables -t nat: PREROUTING\. Stop the programs"
    with pytest.raises(BackendError, match=named):
        host.plan(rules_of("web"))
    assert host.asked[-1]["load"]
    assert not host.ours()
    loaded["others"] = {}
    (step,) = host.plan(rules_of("recording"))
    host.carry_out([step])
    loaded["others"] = BANS
    host.asked.clear()
    host.carry_out(host.plan(rules_of("web", "recording")))
    assert [asked["load"] for asked in host.asked] == [False]
    # Ports of a service, a mode.
    with pytest.raises(BackendError, match=named):
        host.plan(rules_of("web", "recording", recording_port_ranges=["50000-50100"]))
    with pytest.raises(BackendError, match=named):
        host.plan(replace(rules_of("web"), lockdown=parse_lockdown([], forward=False, log=False)))
    (gone,) = host.plan(RuleSet())
    keeping = ("/bin/sh", "-c", firewalld._KEEPING, "sh", "iptables ip6tables", *firewalld._argv("", "reload"))
    for actions in (step.do, step.undo, step.rollback, gone.do, gone.undo):
        assert [action.argv for action in actions if isinstance(action, Command)] == [keeping]
    host.carry_out([gone])
    assert not host.live.policies
    # One that keeps what is not its own.
    loaded.update(flushed=[], others={})
    (step,) = host.plan(rules_of("web"))
    assert [action.argv for action in step.do if isinstance(action, Command)] == [firewalld._argv("", "reload")]


def test_where_they_cannot_be_put_back_nothing_is_taken_away(host: FakeHost) -> None:
    """With FirewallBackend=iptables they stand among firewalld's own."""
    host.apply(rules_of("web"))
    host.examined["loaded"].update(flushed=[], others=BANS)
    with pytest.raises(BackendError, match=r"iptables -t filter: f2b, INPUT"):
        host.plan(RuleSet())


@pytest.mark.parametrize("rules", [rules_of("web", "recording"), RuleSet()], ids=["more", "absent"])
def test_what_cannot_be_loaded_is_not_reloaded(host: FakeHost, rules: RuleSet) -> None:
    """Nor is a reload advised; a change at run time goes on."""
    host.apply(rules_of("web"))
    loaded = host.examined["loaded"]
    host.examined.update(loaded={"failed": "COMMAND_FAILED: Direct: no such match"}, differences=["zone public loses"])
    ports = {"recording_port_ranges": ["50000-50100"]} if rules.rules else {}
    with pytest.raises(BackendError, match=r"cannot load it: COMMAND_FAILED: Direct: no such match\. ") as error:
        host.plan(rules_of("web", "recording", **ports) if ports else rules)
    assert "--reload" not in str(error.value)
    assert [(asked["running"], asked["load"]) for asked in host.asked][-1] == (True, True)
    host.examined["differences"] = []
    host.apply(rules_of("native"))
    # Where it has been reloaded all the same, this is why it does not run.
    host.state = 's "FAILED"'
    with pytest.raises(
        BackendError, match=r"FAILED\": it cannot load .*no such match\); .* put that right, then firewall"
    ):
        host.plan(rules_of("web"))
    host.examined["loaded"] = loaded
    with pytest.raises(BackendError, match="put it right with firewall-cmd --reload"):
        host.plan(rules_of("web"))


# What the script finds in place of firewalld: its settings, and what it does when it starts and is loaded anew.
STAND_IN = """
import os, re, subprocess, sys, time
from firewall import config
sh = lambda script: subprocess.run(["sh", "-ec", script], check=True)
class Zones:
    def get_zones(self):
        return ["public"]
    def change_zone_of_interface(self, zone, interface):
        sh("nft add rule inet firewalld input iifname " + interface + " accept")
class Firewall:
    zone = Zones()
    def start(self):
        assert "NftablesTableOwner=no" in open(config.path + "/firewalld.conf").read()
        assert os.path.exists(config.path + "/services/openagora-web.xml")
        sh("nft add table inet firewalld; nft 'add chain inet firewalld input { type filter hook input priority 0; }'")
        sh("! command -v ipset || ipset list theirs; iptables -A INPUT -p tcp --dport 99 -j DROP")
    def reload(self):
        RELOAD
"""
FLUSHES = 'sh("for i in iptables ip6tables; do $i -F; $i -X; done; iptables -A INPUT -p tcp --dport 99 -j DROP")'
LOADED = {
    "rules": {
        "inet firewalld": "table inet firewalld {\n\tchain input {\n\t\ttype filter hook input priority filter; "
        'policy accept;\n\t\tiifname "eth0" accept\n\t}\n}\n'
    }
}
OTHERS = {"iptables -t filter": ["f2b", "INPUT"], "iptables -t nat": ["PREROUTING"], "ip6tables -t filter": ["OUTPUT"]}


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("reload", "came"),
    [
        ("pass", {**LOADED, "flushed": [], "others": {}}),
        (FLUSHES, {**LOADED, "flushed": ["iptables", "ip6tables"], "others": OTHERS}),
        (
            'raise ValueError("in " + config.path + "/x.xml:\\n it is no match.")',
            {"failed": "in /etc/firewalld/x.xml: it is no match"},
        ),
        ("sys.exit(254)", {"failed": "254"}),
        ("os._exit(1)", {"failed": "it ends while it loads it"}),
        ("time.sleep(600)", {"failed": "it has not loaded it within 60 seconds"}),
    ],
    ids=["spares", "flushes", "fails", "exits", "ends", "hangs"],
)
def test_the_trial_in_a_network_of_its_own(reload: str, came: dict[str, t.Any]) -> None:
    """What it makes of files, and what of others it deletes; of the host nothing changes."""
    with NetnsHost() as host:
        host.put("/etc/firewalld/firewalld.conf", "NftablesTableOwner=yes\n")
        host.put("/run/lib/firewall/__init__.py", "")
        host.put(
            "/run/lib/firewall/config.py", "path = ''\ndef set_system_config_paths(to):\n    global path; path = to\n"
        )
        host.put("/run/lib/firewall/core/__init__.py", "")
        host.put("/run/lib/firewall/core/fw.py", STAND_IN.replace("RELOAD", reload))
        host.stand_in("firewall-offline-cmd", "exit 0")
        host.sh("! command -v ipset || ipset create theirs hash:ip")
        host.sh(
            "iptables -N f2b; iptables -A f2b -s 203.0.113.9 -j DROP; iptables -I INPUT 1 -j f2b;"
            "iptables -N openagora-x; iptables -A INPUT -p tcp --dport 99 -j DROP;"
            "iptables -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT; ip6tables -A OUTPUT -d 2001:db8::9 -j REJECT"
        )
        before = host.listing(), sorted(Path(host.path("/tmp")).glob("openagora-*"))
        job = {"running": False, "load": True, "zones": {"public": ["eth0"], "gone": ["eth1"]}}
        files = {"services/openagora-web.xml": "<service/>"}
        script = firewalld._SCRIPT.replace("[], 60)", "[], 3)")
        argv = ["env", "PYTHONPATH=/run/lib", "PYTHONDONTWRITEBYTECODE=1", "python3", "-c", script]
        done = host.run(argv, stdin=json.dumps({**job, "files": files}))
        assert done.code == 0, done.err
        assert json.loads(done.out) == {"invalid": "", "differences": [], "loaded": came}
        assert (host.listing(), sorted(Path(host.path("/tmp")).glob("openagora-*"))) == before


FLUSH = "for command in iptables ip6tables ebtables; do $command -F; $command -X; done; iptables -t nat -F; exit 3"


@pytest.mark.kernel
def test_what_a_reload_deletes_is_put_back() -> None:
    """By packets counted and in order, whether the reload fails or not; none of it when it cannot be read."""
    with NetnsHost() as host:
        host.sh(
            "iptables -N f2b; iptables -A f2b -s 203.0.113.9 -j DROP; iptables -I INPUT 1 -j f2b;"
            "iptables -P FORWARD DROP; iptables -A OUTPUT -d 203.0.113.8 -j REJECT;"
            "iptables -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT;"
            "ip6tables -A INPUT -s 2001:db8::9 -c 7 700 -j DROP; ebtables -A FORWARD -s 02:00:00:00:00:01 -j DROP"
        )
        save = "for command in iptables ip6tables; do $command-save -c; done | grep -v ^#; ebtables-save | grep -v ^#"
        before = host.sh(save)
        reload = ("sh", "-c", FLUSH)
        names = "iptables ip6tables ebtables"
        done = host.run(["/bin/sh", "-c", firewalld._KEEPING, "sh", names, *reload])
        assert (done.code, done.err) == (3, "")
        assert host.sh(save) == before
        host.stand_in("ip6tables-save", "echo cannot be read >&2; exit 1")
        done = host.run(["/bin/sh", "-c", firewalld._KEEPING, "sh", names, *reload])
        assert (done.code, done.err) == (1, "cannot be read\n")
        Path(host.path("/usr/local/sbin/ip6tables-save")).unlink()
        assert host.sh(save) == before


def test_what_was_edited_is_told(host: FakeHost) -> None:
    """Line by line; neither a first run nor another choice of SDKs is an edit."""

    def edits(*sdks: str) -> list[str]:
        return [line for step in host.plan(rules_of(*sdks)) for line in step.edits]

    assert not edits("web", "recording")
    host.apply(rules_of("web", "recording"))
    assert not edits("native")
    service, policy = "/etc/firewalld/services/openagora-web.xml", "/etc/firewalld/policies/openagora-out.xml"
    host.files[service] = host.files[service].replace('port="443"', 'port="444"')
    host.files[policy] = host.files[policy].replace("ANY", "lan")
    assert edits("web", "native") == [
        f"{policy}:",
        '-  <egress-zone name="lan"/>',
        '+  <egress-zone name="ANY"/>',
        f"{service}:",
        '-  <port protocol="tcp" port="444"/>',
        '+  <port protocol="tcp" port="443"/>',
    ]


@pytest.mark.parametrize(
    ("path", "old", "new", "calls"),
    [
        ("services/openagora-web.xml", '"443"', '"444"', ""),
        ("services/openagora-web.xml", "<service>", "<serv", ""),
        ("policies/openagora-out.xml", "CONTINUE", "DROP", ""),
        ("policies/openagora-out.xml", "-100", "high", ""),
    ],
)
def test_files_edited(host: FakeHost, path: str, old: str, new: str, calls: str) -> None:
    rules = rules_of("web")
    host.apply(rules)
    path = f"/etc/firewalld/{path}"
    right = host.files[path]
    for reloaded in (False, True):
        host.files[path] = right.replace(old, new)
        if reloaded:
            host.answer("reload", [])
        assert host.rules().rules != rules.rules
        assert host.apply(rules) == ("reload" if reloaded else calls)
        assert host.files[path] == right
        assert host.rules().rules == rules.rules


@pytest.mark.parametrize(
    ("change", "calls"),
    [({"entries": ()}, "setPolicySettings"), ({"rest": ("ports",)}, "reload"), ({"priority": 7}, "reload")],
)
def test_policy_changed_at_run_time(host: FakeHost, change: dict[str, t.Any], calls: str) -> None:
    rules = rules_of("web")
    host.apply(rules)
    host.live.policies["openagora-out"] = replace(host.live.policies["openagora-out"], **change)
    assert host.apply(rules) == calls
    assert not host.plan(rules)


def test_shut_zones_stay_shut(host: FakeHost) -> None:
    host.apply(rules_of("recording"))
    assert host.live.policies["openagora-in"].ingress == ("lan", "public")
    state = FIREWALLD.read(host)
    codes = [notice.code for notice in FIREWALLD.notices(state, FIREWALLD.render(rules_of("recording"), state))]
    assert codes == ["zones_stay_shut"]
    host.answers.update(getDefaultZone="drop", getActiveZones={})
    with pytest.raises(BackendError, match="all active zones are firewalld's drop"):
        host.plan(rules_of("recording"))
    assert host.plan(rules_of("web"))


UNNAMED = (
    r"ingress would stay closed on eth0, which no zone names: .* default zone, public, .*"
    r"firewall-cmd --permanent --zone=public --change-interface=eth0; also without --permanent"
)


def test_ingress_by_an_interface_that_no_zone_names(host: FakeHost) -> None:
    """It has no policies there before firewalld 2: refused beforehand, and what is there is not told as open."""
    host.apply(rules_of("web", "recording"))
    directions = {rule.direction for rule in host.rules()}
    assert directions == {"egress", "ingress"}
    host.answers["getActiveZones"].pop("public")
    # Of what firewalld says of itself nothing has changed, nor of the files.
    assert {rule.direction for rule in host.rules()} == {"egress"}
    for rules in (rules_of("recording"), rules_of("web", "recording", networks=NETWORKS)):
        with pytest.raises(BackendError, match=UNNAMED):
            host.plan(rules)
    # What needs no ingress goes on, and so does what takes all away.
    assert host.plan(rules_of("web"))
    assert host.plan(RuleSet())
    host.newer = True
    assert {rule.direction for rule in host.rules()} == {"egress", "ingress"}
    assert not host.plan(rules_of("web", "recording"))


def routes(*names: str) -> str:
    """What the kernel tells of routes: to a network by all interfaces, and the default ones by these."""
    rows = [f"{name}\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0" for name in ("eth0", "eth1", "wg0")]
    rows += [f"{name}\t00000000\tFE0200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0" for name in names]
    return "\n".join(["Iface\tDestination\tGateway", *rows, ""])


def test_only_the_ways_from_the_world_matter(host: FakeHost) -> None:
    """An interface without a default route, as a tunnel's, is told; a port of a bridge is none."""
    host.files["/proc/net/dev"] += "  wg0: 0\n  veth1: 0\n"
    host.files["/sys/class/net/veth1/brport"] = ""
    with pytest.raises(BackendError, match="closed on wg0, which"):
        host.plan(rules_of("recording"))
    for path, text in (
        ("/proc/net/route", routes("eth0")),
        ("/proc/net/ipv6_route", f"{'0' * 32} 00 {'0' * 32} 00 fe80 00000400 1 0 00000003     eth0\n"),
    ):
        host.files[path] = text
        state = FIREWALLD.read(host)
        notices = list(FIREWALLD.notices(state, FIREWALLD.render(rules_of("recording"), state)))
        assert [notice.code for notice in notices if "wg0" in notice.message] == ["unnamed_interfaces"]
        assert not [notice for notice in notices if "veth1" in notice.message]
        notices = list(FIREWALLD.notices(state, FIREWALLD.render(rules_of("web"), state)))
        assert not [notice for notice in notices if "wg0" in notice.message]
        del host.files[path]
    host.files["/proc/net/route"] = routes("eth0", "wg0")
    with pytest.raises(BackendError, match="closed on wg0, which"):
        host.plan(rules_of("recording"))
    # A zone may name all of a kind.
    host.answers["getActiveZones"]["lan"]["interfaces"].append("wg+")
    assert host.plan(rules_of("recording"))


def test_a_gateway_between_interfaces_that_no_zone_names(host: FakeHost) -> None:
    host.answers["getActiveZones"].pop("public")
    for outside in (WAN, Side("zone", "public")):
        with pytest.raises(BackendError, match="what crosses would stay closed on eth0, which no zone names"):
            host.plan(rules_of("web", passage=replace(THROUGH, outside=(outside,))))


def test_the_default_zone_may_let_all_in(host: FakeHost) -> None:
    host.answers["getActiveZones"].pop("public")
    host.letting = "public"
    host.apply(rules_of("recording"))
    assert {rule.direction for rule in host.rules()} == {"egress", "ingress"}


def test_rules_that_somebody_has_flushed(host: FakeHost) -> None:
    """Nothing is in force then, and a reload fails (1.3), which would leave all closed."""
    host.kernel = False
    for rules in (rules_of("web"), rules_of("recording")):
        with pytest.raises(BackendError, match=r"gone from the kernel .*systemctl restart firewalld"):
            host.plan(rules)
    assert not host.plan(RuleSet())
    host.kernel = True
    host.apply(rules_of("web"))
    host.kernel = False
    assert not host.rules().rules
    with pytest.raises(BackendError, match="gone from the kernel"):
        host.plan(RuleSet())


def test_where_nothing_lists_the_kernels_rules(host: FakeHost) -> None:
    """firewalld comes with a library for it, and not always with the command: its own word has to do."""
    host.kernel, host.commands = False, False
    host.apply(rules_of("recording"))
    assert {rule.direction for rule in host.rules()} == {"egress", "ingress"}


SAVED = r"""*filter
:INPUT_ZONES - [0:0]
:IN_openagora-in - [0:0]
-A INPUT_POLICIES_pre -i eth1 -j IN_openagora-in
-A INPUT_POLICIES_pre -s 10.9.0.0/16 -j IN_openagora-in
-A FORWARD_POLICIES_pre -i eth0 -o eth1 -j FWD_openagora-gw-in
-A OUTPUT_POLICIES_pre -j OUT_openagora-out
-A IN_openagora-in -j IN_openagora-in_pre
-A IN_trusted -j ACCEPT
COMMIT
"""
NFT = """table inet firewalld {
\tchain filter_INPUT_ZONES {
\t\tgoto filter_IN_public
\t}
\tchain filter_INPUT_POLICIES_pre {
\t\tcounter jump filter_IN_policy_allow-host-ipv6
\t\tiifname { "eth1", "eth2" } jump filter_IN_policy_openagora-in
\t\tip saddr 10.9.0.0/16 jump filter_IN_policy_openagora-in
\t\tiifname "eth0" oifname "eth1" jump filter_FWD_policy_openagora-gw-in
\t\tcounter jump filter_OUT_policy_openagora-out
\t}
\tchain nat_OUTPUT_POLICIES_pre {
\t\tjump nat_OUT_policy_openagora-lock
\t}
\tchain filter_IN_trusted {
\t\tjump filter_IN_trusted_pre
\t\taccept
\t}
\tchain filter_IN_public {
\t\tjump filter_IN_public_pre
\t\treject with icmpx admin-prohibited
\t}
}
"""


@pytest.mark.parametrize("listed", [NFT, SAVED], ids=["nft", "iptables"])
def test_what_the_kernel_has(host: FakeHost, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """The words are those of nft 1.0.6 and of iptables-save, as firewalld 1.3.3 has its rules in both."""

    def run(argv: t.Sequence[str], *, stdin: str | None = None) -> Outcome:
        return Outcome(0, listed, "") if (argv[0] == "nft") == (listed is NFT) else Outcome(1, "", "")

    monkeypatch.setattr(host, "run", run)
    kernel = firewalld._read_kernel(host)
    assert kernel
    names = {source for source, _target in kernel.ways["openagora-in"]}
    assert names == ({"eth1", "eth2"} if listed is NFT else {"eth1"})
    assert kernel.ways["openagora-gw-in"] == (("eth0", "eth1"),)
    assert kernel.ways["openagora-out"] == ((None, None),)
    assert "openagora-lock" not in kernel.ways
    assert (kernel.there, kernel.named_only, set(kernel.letting)) == (True, True, {"trusted"})


@pytest.mark.parametrize(
    ("passage", "message"),
    [
        (Passage((Side("zone", "nowhere"),)), r"inside: zone nowhere is not one of drop, lan, public"),
        (Passage((LAN, Side("source", "10.0.0.0/8"))), r"inside names sources and interfaces; name one kind only"),
        (Passage((LAN,), (Side("zone", "lan"),)), r"zone lan is on both sides"),
        (Passage((WAN,)), r"inside: the zone of eth0, public, also holds 192\.0\.2\.0/24, eth3"),
    ],
)
def test_sides_that_cannot_be(host: FakeHost, passage: Passage, message: str) -> None:
    host.files["/proc/net/dev"] += "  eth3: 0\n"
    host.answers["getActiveZones"]["public"] = {"sources": ["192.0.2.0/24"]}
    with pytest.raises(BackendError, match=message):
        host.plan(rules_of("web", passage=passage))


def test_targets_that_are_not_inside_get_nothing(host: FakeHost) -> None:
    host.apply(rules_of("recording", passage=replace(BY_SOURCE, targets=("172.16.0.1/32",))))
    assert not host.live.policies["openagora-gw-in"].entries
    assert host.live.policies["openagora-gw-out"].entries


def test_foreign_names(host: FakeHost) -> None:
    host.files["/etc/firewalld/services/openagora-web.xml"] = "<service/>"
    with pytest.raises(BackendError, match=r"services/openagora-web\.xml carries a name of ours"):
        host.plan(rules_of("native"))
    assert not host.plan(RuleSet())


def test_firewalld_that_cannot_be_used(host: FakeHost) -> None:
    host.answers["queryPanicMode"] = True
    with pytest.raises(BackendError, match="--panic-off"):
        host.plan(rules_of("web"))
    host.state = 's "FAILED"'
    with pytest.raises(BackendError, match=re.escape('not in running state (s "FAILED")')):
        host.plan(rules_of("web"))


@pytest.mark.parametrize("running", [True, False])
def test_firewalld_without_policies(host: FakeHost, running: bool) -> None:
    """Only what would have to be put there is an error, not that an old firewalld is installed beside another."""
    host.running = running
    del host.files["/usr/lib/firewalld/policies"]
    with pytest.raises(BackendError, match=r"version 0\.9"):
        host.plan(rules_of("recording"))
    assert not host.plan(RuleSet())
    assert not host.rules().rules
    assert bool(FIREWALLD.in_the_way(FIREWALLD.read(host), rules_of("recording"))) == running


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Policy("site", "", ("HOST",), ("ANY",), target="DROP", priority=-200), True),
        (Policy("site", "", ("HOST",), ("public",), target="REJECT", priority=-101), True),
        (Policy("site", "", ("HOST",), ("ANY",), target="DROP", priority=-99), False),
        (Policy("site", "", ("HOST",), ("ANY",), target="CONTINUE", priority=-200), False),
        # What comes in, of which these SDKs need nothing, and what goes through.
        (Policy("site", "", ("ANY",), ("HOST",), target="DROP", priority=-200), False),
        (Policy("site", "", ("lan",), ("ANY",), target="DROP", priority=-200), False),
    ],
)
def test_policies_that_come_before_ours(host: FakeHost, policy: Policy, told: bool) -> None:
    host.foreign.append(policy)
    state = FIREWALLD.read(host)
    notices = list(FIREWALLD.notices(state, FIREWALLD.render(rules_of("web"), state)))
    assert [notice.where for notice in notices] == (["firewalld policy site"] if told else [])


@pytest.mark.parametrize(
    ("first", "python"),
    [
        # Debian 13; Fedora and Red Hat; Red Hat 8; SUSE 15.
        ("#! /usr/bin/python3", "/usr/bin/python3"),
        ("#!/usr/bin/python3 -sP", "/usr/bin/python3"),
        ("#!/usr/libexec/platform-python -s", "/usr/libexec/platform-python"),
        ("#!/usr/bin/python3.6 -s", "/usr/bin/python3.6"),
    ],
)
def test_firewalld_is_asked_in_its_own_python(host: FakeHost, first: str, python: str) -> None:
    host.files["/usr/bin/firewall-offline-cmd"] = f"{first}\n#\nimport sys\n"
    host.apply(rules_of("web"))
    assert host.python == python


def test_lockdown_is_there_before_the_network(host: FakeHost) -> None:
    """Where systemd starts firewalld, which it takes for started too soon; a file of ours, and gone with lockdown."""
    path = "/etc/systemd/system/firewalld.service.d/openagora.conf"
    locked = replace(rules_of("web"), lockdown=parse_lockdown([], forward=False, log=False))
    host.plan(locked)
    assert not [step for step in host.plan(locked) if path in step.what]
    host.files["/run/systemd/system"] = ""
    before = dict(host.files)
    steps = host.plan(locked)
    host.carry_out(steps)
    assert path in FIREWALLD.files(FIREWALLD.read(host))
    assert re.search(rf"^ExecStartPost=-.* Get ss {firewalld._BUS} state$", host.files[path], re.MULTILINE)
    # In the private copy that is checked is only what is firewalld's.
    assert not [name for asked in host.asked for name in asked["files"] if "openagora.conf" in name]
    assert not host.plan(locked)
    for way in ("do", "undo"):
        words = [action.argv for action in getattr(steps[0], way) if isinstance(action, Command)]
        assert words[0] == ("systemctl", "daemon-reload")
    host.files[path] += "# edited\n"
    assert f"{path}:" in host.plan(locked)[0].edits
    host.carry_out(host.plan(rules_of("web")))
    assert path not in host.files
    host.carry_out(steps)
    host.carry_out(steps, "undo")
    assert host.files == before


def test_stopped(host: FakeHost) -> None:
    host.running = False
    state = FIREWALLD.read(host)
    assert (state.zone_of("eth1"), state.zone_of("eth0")) == ("lan", "public")
    assert not state.holds("drop")
    desired = FIREWALLD.render(rules_of("web"), state)
    assert FIREWALLD.effective(state, desired) == "stored"
    assert [notice.code for notice in FIREWALLD.notices(state, desired)] == ["firewalld_inactive"]
    assert not [action for step in FIREWALLD.plan(state, desired) for action in step.do if isinstance(action, Command)]
