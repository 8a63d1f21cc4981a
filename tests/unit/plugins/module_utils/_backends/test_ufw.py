# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ufw backend on a host of namespaces with ufw's files and live chains as ufw 0.36.2 wrote them.

`ufw/golden` was recorded on Debian 12: foreign-user*.rules before the backend's first run; the rest after it had
applied `REQUEST` and ufw itself had written its files anew.
"""

from __future__ import annotations

import re
import sys
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import (
    BackendError,
    Command,
    Step,
    live_rules,
)
from ansible_collections.openagora.firewall.plugins.module_utils._backends.ufw import Ufw, _profile_name, _split
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import (
    Passage,
    RuleSet,
    Side,
    parse_rules,
)
from netns import NetnsHost
from sessions import MANAGEMENT, PORT, other_machine

RECORDED = Path(__file__).parent / "ufw" / "golden"
FILES = ("user.rules", "user6.rules")
PROFILES = "/etc/ufw/applications.d/openagora"
UFW = Ufw()


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def rules_of(*sdks: str, ingress_from: t.Sequence[str] = ()) -> RuleSet:
    return compile_request(Request.of(sdks=list(sdks))).rules.ingress_from(ingress_from)


REQUEST = rules_of("web", "recording", ingress_from=["192.0.2.0/24", "198.51.100.1/32", "2001:db8::/32"])


@pytest.fixture
def host() -> t.Iterator[NetnsHost]:
    with NetnsHost() as made:
        furnish(made)
        yield made


# The files of an active ufw.
CONFIGURATION = {
    "/etc/ufw/ufw.conf": "ENABLED=yes\nLOGLEVEL=low\n",
    "/etc/default/ufw": 'IPV6=yes\nDEFAULT_OUTPUT_POLICY="DROP"\n',
    "/etc/ufw/applications.d/ufw-webserver": "[WWW]\ntitle=Web\ndescription=Web\nports=80/tcp\n",
    **{f"/etc/ufw/{name}": recorded(f"foreign-{name}") for name in FILES},
}


def before(name: str) -> str:
    """The chains of the same moment: what is live after the request, less our rules."""
    return re.sub(r"^-A .*dapp_Agora.*\n", "", recorded(name), flags=re.MULTILINE)


def furnish(made: NetnsHost) -> None:
    """The files and the chains of a host with an active ufw."""
    # The machine that runs the tests may have a ufw of its own, or none.
    made.put("/usr/local/sbin/ufw", f"#!{sys.executable}\n", mode=0o755)
    for path, text in CONFIGURATION.items():
        made.put(path, text, mode=0o640 if path.endswith(".rules") else 0o644)
    made.sh("iptables-restore --noflush", stdin=before("live4"))
    made.sh("ip6tables-restore --noflush", stdin=before("live6"))


def steps(host: NetnsHost, rules: RuleSet) -> tuple[Step, ...]:
    state = UFW.read(host)
    return UFW.plan(state, UFW.render(rules, state))


def apply(host: NetnsHost, rules: RuleSet) -> bool:
    planned = steps(host, rules)
    host.carry_out(planned)
    return bool(planned)


def everything(host: NetnsHost) -> str:
    """The kernel's rules, and ufw's files with their modes."""
    show = "while read -r path; do ls -ldn --time-style=+ $path; cat $path; done"
    return host.sh(f"nft -s list ruleset; find /etc/ufw /etc/default/ufw -type f | sort | {show}")


def live(host: NetnsHost) -> RuleSet:
    return live_rules(UFW.places(UFW.read(host)))


def test_files_are_those_that_ufw_writes(host: NetnsHost) -> None:
    assert apply(host, REQUEST)
    for name in FILES:
        assert host.read(f"/etc/ufw/{name}") == recorded(name)
    assert host.read(PROFILES) == recorded("profiles")
    mode = Path(host.path("/etc/ufw/user.rules")).stat().st_mode & 0o777
    assert mode == 0o640


def test_live_chains_are_those_that_ufw_makes(host: NetnsHost) -> None:
    apply(host, REQUEST)
    for command, name in (("iptables-save", "live4"), ("ip6tables-save", "live6")):
        mine = [
            line for line in host.sh(f"{command} -t filter").splitlines() if "ufw" in line and line.startswith("-A")
        ]
        assert mine == [line for line in recorded(name).splitlines() if line.startswith("-A") and "ufw" in line]


@pytest.mark.parametrize(
    "rules",
    [
        REQUEST,
        rules_of("web", "native", "signaling", "recording", "gaming"),
        rules_of("recording", ingress_from=["0.0.0.0/0", "::/0"]),
        rules_of("recording", ingress_from=["192.0.2.0/24"]),
        parse_rules(
            [
                {"direction": "egress", "protocol": "tcp", "ports": [str(port) for port in range(1, 1201, 2)]},
                {"direction": "egress", "protocol": "udp", "ports": ["7"], "sdks": {"a_2": ["7"], "a": ["7"]}},
                {
                    "direction": "egress",
                    "protocol": "udp",
                    "scope": "networks",
                    "networks": ["192.0.2.0/24"],
                    "ports": ["9"],
                    "sdks": {"a": ["9"]},
                },
            ]
        ),
    ],
    ids=["both", "all", "everywhere", "ipv4", "many"],
)
def test_applied_is_read_back_and_leaves_nothing_to_do_and_goes_without_a_trace(
    host: NetnsHost, rules: RuleSet
) -> None:
    before = everything(host)
    assert steps(host, rules)
    assert everything(host) == before
    assert apply(host, rules)
    assert list(live(host)) == list(rules)
    assert not steps(host, rules)
    assert apply(host, RuleSet())
    assert everything(host) == before


def test_a_value_longer_than_ufw_takes_is_split_into_numbered_profiles(host: NetnsHost) -> None:
    apply(host, parse_rules([{"direction": "egress", "protocol": "tcp", "ports": [str(p) for p in range(1, 1201, 2)]}]))
    text = host.read(PROFILES) or ""
    assert "[Agora Extra-2]" in text
    assert max(len(line) for line in text.splitlines()) <= 1024 + len("ports=")


PASSAGE = Passage(
    inside=(Side("interface", "in0"), Side("source", "10.1.0.0/16")),
    outside=(Side("interface", "out0"),),
    targets=("10.1.0.5/32", "fd01::/64"),
)
# `ufw route allow` of ufw 0.36.2 wrote these lines of user.rules and user6.rules, for profiles with the same ports.
ROUTES = {
    "user.rules": [
        "route:allow udp 3478,10000:65535 0.0.0.0/0 any 0.0.0.0/0 Agora%20Web - in_in0!out_out0",
        "-A ufw-user-forward -i in0 -o out0 -p udp -m multiport --dports 3478,10000:65535 -j ACCEPT "
        "-m comment --comment 'dapp_Agora%20Web'",
        "route:allow udp 3478,10000:65535 0.0.0.0/0 any 10.1.0.0/16 Agora%20Web - out_out0",
        "-A ufw-user-forward -o out0 -p udp -m multiport --dports 3478,10000:65535 -s 10.1.0.0/16 -j ACCEPT "
        "-m comment --comment 'dapp_Agora%20Web'",
        "route:allow udp 1080,4000:4030,8000,9700,25000,40000:41000 10.1.0.5 any 198.51.100.0/24 "
        "Agora%20Recording%20in - in_out0!out_in0",
    ],
    "user6.rules": [
        "route:allow udp 1080,4000:4030,8000,9700,25000,40000:41000 fd01::/64 any 2001:db8::/32 "
        "Agora%20Recording%20in - in_out0!out_in0",
        "-A ufw6-user-forward -i out0 -o in0 -p udp -m multiport --dports "
        "1080,4000:4030,8000,9700,25000,40000:41000 -d fd01::/64 -s 2001:db8::/32 -j ACCEPT "
        "-m comment --comment 'dapp_Agora%20Recording%20in'",
    ],
}


def test_a_gateway_has_the_route_rules_that_ufw_writes(host: NetnsHost) -> None:
    rules = rules_of("web", "recording", ingress_from=["198.51.100.0/24", "2001:db8::/32"])
    apply(host, rules.placed(["gateway"], PASSAGE))
    for name, lines in ROUTES.items():
        written = [line.replace("### tuple ### ", "") for line in (host.read(f"/etc/ufw/{name}") or "").splitlines()]
        assert not [line for line in lines if line not in written]
        assert not [line for line in written if "Agora" in line and "route:" not in line and "user-forward" not in line]


@pytest.mark.parametrize("placements", [["gateway"], ["host", "gateway"]], ids="+".join)
@pytest.mark.parametrize(
    "passage",
    [
        PASSAGE,
        Passage(inside=(Side("source", "10.1.0.0/16"),)),
        Passage(inside=(Side("interface", "in0"),), targets=("10.1.0.5/32",)),
        Passage(
            inside=(Side("interface", "in0"),), outside=(Side("source", "198.51.0.0/16"),), targets=("10.1.0.0/16",)
        ),
        Passage(inside=(Side("source", "10.1.0.0/16"),), targets=("10.1.0.5/32", "10.1.0.7/32")),
    ],
)
@pytest.mark.parametrize("ingress_from", [[], ["198.51.100.0/24", "2001:db8::/32"]], ids=["any", "networks"])
def test_gateway_round_trip(host: NetnsHost, passage: Passage, placements: list[str], ingress_from: list[str]) -> None:
    rules = rules_of("web", "recording", ingress_from=ingress_from).placed(placements, passage)
    before = everything(host)
    assert apply(host, rules)
    assert list(live(host)) == list(rules)
    assert not steps(host, rules)
    # One way less is no way through.
    host.sh("iptables -D ufw-user-forward 1")
    assert list(live(host)) != list(rules)
    assert apply(host, rules)
    assert apply(host, RuleSet())
    assert everything(host) == before


BREAK = {
    "live rule deleted": "iptables -D ufw-user-output 1",
    "live chain flushed": "ip6tables -F ufw6-user-input",
    "live deny before ours": "iptables -I ufw-user-output 1 -p udp -j DROP",
    "live rule in another chain": "iptables -A ufw-user-forward -m comment --comment dapp_Agora%20Web -j ACCEPT",
    "line of the file deleted": "sed -i '/tuple.*tcp.*Agora/,+1d' /etc/ufw/user.rules",
    "tuple of the file deleted": "sed -i '/tuple.*tcp.*Agora/d' /etc/ufw/user6.rules",
    "port of the file edited": "sed -i '/Agora/s/3478/3479/' /etc/ufw/user.rules",
    "deny before ours in the file": (
        "sed -i 's/^### RULES ###$/&\\n\\n### tuple ### deny tcp 443 0.0.0.0\\/0 any 0.0.0.0\\/0 out\\n"
        "-A ufw-user-output -p tcp --dport 443 -j DROP/' /etc/ufw/user.rules"
    ),
    "profile edited": f"sed -i s/3478/3479/ {PROFILES}",
    "profiles deleted": f"rm {PROFILES}",
}


@pytest.mark.parametrize("script", BREAK.values(), ids=BREAK.keys())
def test_drift_is_repaired(host: NetnsHost, script: str) -> None:
    apply(host, REQUEST)
    host.sh(script)
    assert apply(host, REQUEST)
    assert not steps(host, REQUEST)
    assert list(live(host)) == list(REQUEST)
    apply(host, RuleSet())
    assert "Agora" not in everything(host)


WEB_PORTS = "ports=80,443,3433,5668:5669,5866:5890,6080,6443,8667,9667/tcp|3478,10000:65535/udp"


@pytest.mark.parametrize(
    ("script", "edits"),
    [
        (f"sed -i s/,443,/,444,/ {PROFILES}", [f"-{WEB_PORTS.replace(',443,', ',444,')}", f"+{WEB_PORTS}"]),
        (f"printf '\\n[Mine]\\nports=1/tcp\\n' >>{PROFILES}", ["-[Mine]", "-ports=1/tcp"]),
        (f"sed -i '/^.Agora Web]/,/^$/d' {PROFILES}", ["+[Agora Web]", f"+{WEB_PORTS}"]),
        ("iptables -D ufw-user-output 1", []),
    ],
)
def test_what_was_edited_is_told(host: NetnsHost, script: str, edits: list[str]) -> None:
    """Line by line; neither a first run nor another choice of SDKs is an edit."""

    def told(rules: RuleSet) -> list[str]:
        return [line for step in steps(host, rules) for line in step.edits]

    assert not told(REQUEST)
    apply(host, REQUEST)
    for rules in (rules_of("native"), rules_of("web", "recording", "native"), RuleSet()):
        assert not told(rules)
    host.sh(script)
    first, *lines = told(REQUEST) or [""]
    assert first == (f"{PROFILES}:" if edits else "")
    assert [line for line in lines if line[1:] and not line.startswith(("+title", "+description"))] == edits


@pytest.mark.parametrize(
    "script",
    [
        "iptables -I ufw-user-output 1 -d 198.51.100.7 -j DROP",
        "iptables -I ufw-user-output 1 -p tcp --dport 25 -j DROP",
        "ip6tables -A ufw6-user-input -j DROP",
        "sed -i s/LOGLEVEL=low/LOGLEVEL=off/ /etc/ufw/ufw.conf",
    ],
)
def test_what_closes_no_port_is_no_drift(host: NetnsHost, script: str) -> None:
    apply(host, REQUEST)
    host.sh(script)
    assert not steps(host, REQUEST)


DENY = "### tuple ### deny udp 25000 0.0.0.0\\/0 any 0.0.0.0\\/0 in\\n-A ufw-user-input -p udp --dport 25000 -j DROP"


def test_what_comes_new_is_placed_before_a_deny_that_stands_before_ours(host: NetnsHost) -> None:
    apply(host, rules_of("web"))
    host.sh(f"sed -i 's/^### RULES ###$/&\\n\\n{DENY}/' /etc/ufw/user.rules")
    host.sh("iptables -I ufw-user-input 1 -p udp --dport 25000 -j DROP")
    assert not steps(host, rules_of("web"))
    apply(host, REQUEST)
    assert not steps(host, REQUEST)
    assert list(live(host)) == list(REQUEST)


def test_a_harmless_rule_before_ours_stays_there(host: NetnsHost) -> None:
    apply(host, rules_of("web"))
    deny = "### tuple ### deny tcp 25 0.0.0.0\\/0 any 0.0.0.0\\/0 out"
    host.sh(f"sed -i 's/^### RULES ###$/&\\n\\n{deny}/' /etc/ufw/user.rules")
    host.sh("iptables -I ufw-user-output 1 -p tcp --dport 25 -j DROP")
    apply(host, REQUEST)
    assert "--dport 25 " in host.sh("iptables -S ufw-user-output 1")
    assert "tuple ### deny tcp 25 " in (host.read("/etc/ufw/user.rules") or "").partition("Agora")[0]


@pytest.mark.parametrize("wanted", [rules_of("web"), rules_of("native"), RuleSet()], ids=["web", "native", "none"])
def test_a_later_failure_is_undone(host: NetnsHost, wanted: RuleSet) -> None:
    apply(host, REQUEST)
    host.sh("iptables -I ufw-user-output 2 -d 198.51.100.9 -j DROP; ip6tables -D ufw6-user-output 2")
    before = everything(host)
    failing = Step("boom", None, (Command(("true",)), Command(("false",))), ())
    with pytest.raises(StepError, match="everything is as it was before"):
        host.carry_out([*steps(host, wanted), failing])
    assert everything(host) == before


def test_a_failure_within_changes_nothing(host: NetnsHost) -> None:
    before = everything(host)
    planned = steps(host, REQUEST)
    host.stand_in("ip6tables-restore", "echo refused >&2; exit 3")
    with pytest.raises(StepError, match="ip6tables-restore ended with code 3: refused; everything is as it was before"):
        host.carry_out(planned)
    assert everything(host) == before


# Ends ufw's process when it has written so many files.
ENDS = """
import os
replace, left = os.replace, {files}
def replace_and_end(*paths):
    global left
    replace(*paths)
    left -= 1
    left or os.kill(os.getpid(), 9)
os.replace = replace_and_end
"""


@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_run_that_is_killed_is_undone(host: NetnsHost, files: int) -> None:
    """Also without a timer that would do it."""
    before = everything(host)
    first = f'rm /run/first; exec {sys.executable} -I -S -c "{ENDS.format(files=files)}\n$4"'
    host.put("/run/first", "")
    host.stand_in("ufw-python", f'[ ! -e /run/first ] || {{ {first}; }}; exec {sys.executable} "$@"')
    state = replace(UFW.read(host), python=("ufw-python",))
    with pytest.raises(StepError, match="was killed by signal 9: no message; everything is as it was before"):
        host.carry_out(UFW.plan(state, UFW.render(REQUEST, state)))
    assert everything(host) == before


def test_a_restore_that_is_killed_and_cannot_be_undone_is_half_a_change(host: NetnsHost) -> None:
    """Then nobody says that everything is as it was."""
    planned = steps(host, REQUEST)
    killed = '[ -e /run/killed ] && exit 4; touch /run/killed; iptables-restore-nft "$@"; kill -9 $$'
    host.stand_in("iptables-restore", killed)
    with pytest.raises(StepError, match="undoing it failed too"):
        host.carry_out(planned)


def test_what_a_run_that_was_killed_leaves_is_in_nobodys_way(host: NetnsHost) -> None:
    before = everything(host)
    host.put("/etc/ufw/applications.d/.openagora.openagora", "[Agora Web]\ntitle=a\ndescription=b\nports=9/tcp\n")
    assert apply(host, REQUEST)
    assert apply(host, RuleSet())
    assert everything(host) == before


def test_a_file_changed_meanwhile_is_not_overwritten(host: NetnsHost) -> None:
    planned = steps(host, REQUEST)
    host.sh("echo '# later' >> /etc/ufw/user6.rules")
    before = everything(host)
    with pytest.raises(StepError, match=r"/etc/ufw/user6\.rules was changed by somebody else meanwhile; run again"):
        host.carry_out(planned)
    assert everything(host) == before


def test_a_lock_that_stays_held_is_an_error(host: NetnsHost) -> None:
    planned = steps(host, REQUEST)
    before = everything(host)
    code = (
        "import fcntl, time; file = open('/run/ufw.lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "open('/run/held', 'w'); time.sleep(11)"
    )
    host.sh(f'{sys.executable} -c "{code}" >/dev/null 2>&1 & while ! [ -e /run/held ]; do sleep 0.05; done')
    with pytest.raises(StepError, match=r"another ufw command holds /run/ufw\.lock for over 10 seconds"):
        host.carry_out(planned)
    assert everything(host) == before
    # It is let go a moment later, and that is waited for.
    host.carry_out(planned)
    assert not steps(host, REQUEST)


def test_inactive_rules_are_stored(host: NetnsHost) -> None:
    host.put("/etc/ufw/ufw.conf", "ENABLED=no\n")
    kernel = host.sh("iptables-save -t filter | grep -v '^[#:]'")
    assert UFW.in_force(host) == ""
    apply(host, REQUEST)
    state = UFW.read(host)
    desired = UFW.render(REQUEST, state)
    assert UFW.effective(state, desired) == "stored"
    assert [notice.code for notice in UFW.notices(state, desired)][:1] == ["ufw_inactive"]
    assert host.sh("iptables-save -t filter | grep -v '^[#:]'") == kernel
    assert not steps(host, REQUEST)


def test_where_nothing_is_to_do_nothing_comes_or_goes(host: NetnsHost) -> None:
    """A rule of ufw's to a network is that of a rule for that network, and of a gateway whose outside it is."""
    rule = {
        "direction": "egress",
        "protocol": "tcp",
        "ports": ["80"],
        "scope": "networks",
        "networks": ["192.0.2.0/24"],
    }
    rules = parse_rules([rule]).placed(["gateway"], Passage((Side("interface", "in0"),)))
    for changes in (True, False):
        planned = prepare(host, rules, backend="ufw").plan
        assert (bool(planned.steps), planned.before != planned.after) == (changes, changes)
        host.carry_out(planned.steps)


def test_red_hat_keeps_the_rules_in_var(host: NetnsHost) -> None:
    host.sh("mkdir -p /run/ufw /var/lib/ufw && mount --bind /run/ufw /var/lib/ufw && mv /etc/ufw/user*.rules /run/ufw")
    before = everything(host)
    assert apply(host, REQUEST)
    for name in FILES:
        assert host.read(f"/run/ufw/{name}") == recorded(name)
    assert list(live(host)) == list(REQUEST)
    assert apply(host, RuleSet())
    assert everything(host) == before


def test_ipv6_switched_off(host: NetnsHost) -> None:
    apply(host, REQUEST)
    host.put("/etc/default/ufw", "IPV6=no\n")
    assert apply(host, REQUEST)
    assert host.read("/etc/ufw/user6.rules") == recorded("foreign-user6.rules")
    assert not steps(host, REQUEST)
    assert list(live(host)) == list(REQUEST.in_families(("ipv4",)))


def test_effect_and_notices(host: NetnsHost) -> None:
    state = UFW.read(host)
    desired = UFW.render(rules_of("recording"), state)
    assert UFW.in_force(host)
    assert UFW.effective(state, desired) == "in_force"
    notices = list(UFW.notices(state, desired))
    assert [notice.code for notice in notices] == ["deny_overridden", "deny_overridden"]
    assert "denies tcp to 1080" in notices[0].message
    host.sh("iptables -D ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    state = UFW.read(host)
    assert [n.where for n in UFW.notices(state, desired) if n.code == "ufw_no_return"] == ["/etc/ufw/before.rules"]


def test_a_profile_of_others_with_a_name_of_ours(host: NetnsHost) -> None:
    host.put("/etc/ufw/applications.d/site", "[Agora Web]\ntitle=a\ndescription=b\nports=9/tcp\n")
    with pytest.raises(BackendError, match=r"profile \[Agora Web\] in /etc/ufw/applications.d/site carries a name"):
        steps(host, REQUEST)
    assert apply(host, rules_of("gaming"))
    host.put(PROFILES, f"{host.read(PROFILES)}\n[Agora Web]\n")
    with pytest.raises(BackendError, match="ufw takes the last one"):
        UFW.read(host)


def test_a_profile_file_of_others_in_our_place(host: NetnsHost) -> None:
    host.put(PROFILES, "[Agora Web]\n")
    with pytest.raises(BackendError, match="was not written by this collection"):
        UFW.read(host)


@pytest.mark.parametrize("damage", ["rm /etc/ufw/user.rules", "sed -i /RULES/d /etc/ufw/user.rules"])
def test_files_that_ufw_did_not_write(host: NetnsHost, damage: str) -> None:
    host.sh(damage)
    with pytest.raises(BackendError, match=r"/etc/ufw/user\.rules"):
        steps(host, REQUEST)
    assert not steps(host, RuleSet())


@pytest.mark.parametrize(
    ("sdk", "direction", "number", "name"),
    [
        ("web", "egress", 1, "Agora Web"),
        ("recording", "ingress", 1, "Agora Recording in"),
        ("rtm_native", "egress", 2, "Agora Rtm Native-2"),
        ("a_in", "ingress", 3, "Agora A In-3 in"),
    ],
)
def test_names(sdk: str, direction: str, number: int, name: str) -> None:
    assert _profile_name(sdk, direction, number) == name


def test_split_leaves_foreign_texts() -> None:
    before, ours, after = _split(recorded("user.rules"), {})
    assert before + after == recorded("foreign-user.rules")
    assert ours.count("### tuple ###") == 6
    assert _split(recorded("user.rules"), {"Agora Web": "x"})[1].count("### tuple ###") == 4


def test_what_cuts_the_connection_through_which_it_is_made_is_refused(host: NetnsHost) -> None:
    apply(host, parse_rules([*REQUEST.data(), MANAGEMENT]))
    before = everything(host)
    with other_machine(host) as machine:
        for rules in (REQUEST, None):
            assert f"would not after: - ingress tcp {PORT} (extra)." in machine.refusal(rules)
        assert everything(host) == before
        host.sh(f"iptables -A ufw-user-input -p tcp --dport {PORT} -j ACCEPT")
        for rules in (REQUEST, None):
            assert machine.refusal(rules) == ""
