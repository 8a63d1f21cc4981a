# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract asks of firewalld beyond, or in other words than, what it asks of every backend."""

from __future__ import annotations

import json
import shlex
import typing as t

import pytest

from . import suite
from .confirm import SSH
from .faults import FILES, Trial
from .lab import Running, changes

if t.TYPE_CHECKING:
    from .lab import Target

__all__ = ["TestEdits", "TestErrors", "TestFaults", "TestIdiom", "TestReload", "TestStopped", "TestUnnamed"]

# What others have in iptables: bans, and docker's published ports.
OTHERS = (
    "for i in iptables ip6tables; do $i -N f2b-sshd; $i -A f2b-sshd -p tcp --dport 2222 -j DROP;"
    " $i -I INPUT -j f2b-sshd; $i -t nat -N DOCKER; $i -t nat -A PREROUTING -p tcp --dport 8080 -j DOCKER; done"
)
THEIRS = "for i in iptables ip6tables; do $i-save | grep -v '^[#:]'; done"

# What takes a reload when other SDKs are there: other ports of a service.
MOVED: dict[str, t.Any] = {"sdks": ["recording"], "recording_port_ranges": ["50000-50100"]}

ONCE = "[ -e /run/once ] || { touch /run/once; echo refused >&2; exit 1; }"


class TestErrors(suite.TestErrors):
    """One clear error, and nothing has changed."""

    @pytest.mark.parametrize("when", ["*reload*", "*setPolicySettings*openagora-out*"])
    def test_a_failure_half_way(self, target: Target, when: str) -> None:
        """What was done before the action that fails is undone, by the same ways."""
        target.reset()
        if when != "*reload*":
            target.apply("web", "recording")
        with target.commands_that(ONCE, "busctl", when=when):
            message = target.refused(sdks=["native"])
        target.run("rm /run/once")
        assert "refused" in message
        assert target.apply("native")["changed"] is True
        target.assert_open("native")

    def test_what_a_reload_would_lose_and_activate(self, target: Target) -> None:
        """It is named with both ways to settle it; a change of the SDKs alone takes no reload and goes through."""
        target.reset()
        target.run(
            "firewall-cmd --zone=outside --add-port=7/tcp; firewall-cmd --permanent --zone=inside --add-port=8/tcp"
        )
        message = target.refused(sdks=["web"])
        for word in ("zone outside loses ports 7 tcp", "zone inside gains ports 8 tcp", "--runtime-to-permanent"):
            assert word in message
        target.run("firewall-cmd --reload")
        target.apply("web")
        target.run("firewall-cmd --zone=outside --add-rich-rule='rule family=ipv4 source address=203.0.113.7 drop'")
        target.apply("native", "recording")
        assert "203.0.113.7" in target.run("firewall-cmd --zone=outside --list-rich-rules")
        target.assert_open("native", "recording")
        assert "203.0.113.7" in target.refused(sdks=["recording"], recording_port_ranges=["50000-50100"])

    def test_what_a_reload_would_take_from_files_edited_by_hand(self, target: Target) -> None:
        """Another default zone or another port of a service in use could shut the operator out.

        firewalld's own copy of the files does not always follow such an edit.
        """
        target.reset()
        target.run("firewall-cmd --permanent --zone=outside --add-service=ssh && firewall-cmd --reload")
        target.run("sed -i s/^DefaultZone=.*/DefaultZone=drop/ /etc/firewalld/firewalld.conf")
        target.run("sed s/22/2222/ /usr/lib/firewalld/services/ssh.xml >/etc/firewalld/services/ssh.xml")
        port = '<port port="8888" protocol="tcp"/></zone>'
        target.run(f"sed -i 's#</zone>#{port}#' /etc/firewalld/zones/inside.xml")
        try:
            message = target.refused(sdks=["web"])
        finally:
            target.run("sed -i s/^DefaultZone=.*/DefaultZone=public/ /etc/firewalld/firewalld.conf")
            target.run("rm /etc/firewalld/services/ssh.xml")
        for word in ("DefaultZone drop", "service ssh gains ports 2222 tcp", "zone inside gains ports 8888 tcp"):
            assert word in message

    def test_panic(self, target: Target) -> None:
        target.reset()
        target.run("firewall-cmd --panic-on")
        try:
            assert "--panic-off" in target.refused(sdks=["web"])
        finally:
            target.run("firewall-cmd --panic-off")

    def test_a_broken_file_of_others(self, target: Target) -> None:
        """The configuration is checked with our files in it before they count."""
        target.reset()
        target.run("echo '<zone><nonsense/></zone>' >/etc/firewalld/zones/broken.xml")
        assert "firewall-offline-cmd --check-config" in target.refused(sdks=["web"])

    def test_a_configuration_that_cannot_be_loaded(self, target: Target) -> None:
        """firewalld finds nothing wrong with it, and would be left without its rules: nor is a reload advised."""
        target.reset()
        target.apply("web")
        rule = '<rule ipv="ipv4" table="filter" chain="INPUT" priority="0">-m nosuch -j DROP</rule>'
        target.run(f"echo '<direct>{rule}</direct>' >/etc/firewalld/direct.xml")
        try:
            target.run("firewall-offline-cmd --check-config")
            for options in (MOVED, {"state": "absent"}):
                message = target.refused(**options)
                assert "cannot load it" in message
                assert "nosuch" in message
                assert "--reload" not in message
            target.apply("native")
            target.assert_open("native")
        finally:
            target.run("rm /etc/firewalld/direct.xml")


class TestEdits:
    """A file of ours edited by hand is shown, line by line, and put right."""

    def test_service_and_policy(self, target: Target) -> None:
        target.reset()
        target.apply("web")
        target.run("sed -i s/443/444/ /etc/firewalld/services/openagora-web.xml")
        target.run("sed -i s/CONTINUE/DROP/ /etc/firewalld/policies/openagora-out.xml")
        check = target.apply("web", "native", check=True)
        for line in ('port="444"', 'target="DROP"'):
            assert [told for told in check["diff"]["prepared"].splitlines() if told.startswith("  -") and line in told]
        assert target.apply("web", "native")["diff"] == check["diff"]
        assert target.apply("web", "native")["changed"] is False

    def test_a_service_that_somebody_removes(self, target: Target) -> None:
        """firewalld takes it out of our policy's file then, and leaves what that was."""
        target.reset()
        before = target.state()
        target.apply("web")
        whole = target.state()
        target.run("rm /etc/firewalld/services/openagora-web.xml")
        left = "/etc/firewalld/policies/openagora-out.xml.old"
        target.run(f"timeout 10 sh -c 'until [ -e {left} ]; do sleep 0.1; done'")
        assert target.apply("web")["changed"] is True
        assert not changes(whole, target.state())
        target.run(f"cp {left[: -len('.old')]} {left}")
        target.apply(state="absent")
        assert not changes(before, target.state())


class TestReload:
    """What a reload of firewalld takes from others, and what it does not."""

    def test_interfaces_that_come_back(self, target: Target) -> None:
        """docker and libvirt are told of a reload and put their bridges back; nobody does that for other interfaces."""
        target.reset()
        target.run("ip link add docker9 type bridge; firewall-cmd --permanent --new-zone=docker; firewall-cmd --reload")
        try:
            target.run("firewall-cmd --zone=docker --add-interface=docker9")
            assert target.apply("web", check=True)["changed"] is True
            target.run("firewall-cmd --zone=home --change-interface=docker9")
            assert "zone home loses interfaces docker9" in target.refused(sdks=["web"])
        finally:
            target.run("ip link delete docker9")

    def test_rules_of_others_in_iptables(self, target: Target) -> None:
        """A firewalld that deletes them is not reloaded beside them; what takes ours away puts them back."""
        target.reset()
        target.apply("web", check=True)
        target.run(OTHERS)
        theirs = target.run(THEIRS)
        spares = target.name.endswith("trixie")
        try:
            if not spares:
                for message in (target.refused(sdks=["web"]), target.module("apply", "--check", sdks=["web"])["msg"]):
                    for word in ("iptables -t filter: f2b-sshd, INPUT", "ip6tables -t nat: DOCKER, PREROUTING"):
                        assert word in message
                target.run("firewall-cmd --reload")
                assert "f2b-sshd" not in target.run(THEIRS)
                target.apply("web")
                target.run(OTHERS)
            target.apply("web")
            target.apply("native")
            if not spares:
                assert "f2b-sshd" in target.refused(**MOVED)
            # Undone, and then done.
            with target.commands_that(ONCE, "busctl", when="*reload*"):
                assert "refused" in target.refused(state="absent")
            target.run("rm /run/once")
            assert target.run(THEIRS) == theirs
            target.apply(state="absent")
            assert target.run(THEIRS) == theirs
        finally:
            target.run("for i in iptables ip6tables; do for t in filter nat; do $i -t $t -F; $i -t $t -X; done; done")


class TestUnnamed:
    """A host whose interface no zone names: what it sends falls to the default zone."""

    def test_ingress_is_open_or_refused(self, target: Target) -> None:
        """Until version 1.3 policies do not count there: refused beforehand, until a zone names the interface."""
        target.reset()
        target.run("firewall-cmd -q --permanent --zone=outside --remove-interface=eth0")
        target.run("firewall-cmd -q --set-default-zone=outside; firewall-cmd -q --reload")
        try:
            assert "eth0" not in target.run("firewall-cmd --get-active-zones")
            named = "firewall-cmd --permanent --zone=outside --change-interface=eth0"
            older = not target.name.endswith("trixie")
            if older:
                assert named in target.refused(sdks=["web", "recording"])
                assert named in target.module("apply", "--check", sdks=["web", "recording"])["msg"]
                # What needs no ingress goes on.
                target.apply("web")
                target.assert_open("web")
                target.run(f"{named} && {named.replace(' --permanent', '')}")
            target.apply("web", "recording")
            target.assert_open("web", "recording")
            assert target.apply("web", "recording")["changed"] is False
            if older:
                # What is in force the kernel says, not what firewalld was told.
                target.run("firewall-cmd -q --zone=outside --remove-interface=eth0")
                held = target.module("applied_info")["rules"]
                assert {rule["direction"] for rule in held} == {"egress"}
                assert not any(target.measure(directions=["ingress"]).ingress.values())
        finally:
            target.run("firewall-cmd -q --set-default-zone=public")


class TestStopped:
    """firewalld is there and does not run: the rules are stored."""

    def test_stored(self, target: Target) -> None:
        target.reset()
        target.run("systemctl stop firewalld")
        before = target.state()
        result = target.apply("web", "recording", backend="firewalld")
        assert result["effective"] == "stored"
        assert target.apply("web", "recording", backend="firewalld")["changed"] is False
        assert target.attempt("systemctl is-active firewalld").stdout.strip() == "inactive"
        target.run("systemctl start firewalld")
        target.run(target.profile.ready)
        target.assert_open("web", "recording")
        assert target.apply("web", "recording")["changed"] is False
        target.run("systemctl stop firewalld")
        target.apply(state="absent")
        assert not changes(before, target.state())


class Managed:
    """The host to which faults happen."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def run(self, argv: t.Sequence[str]) -> object:
        return self.target.attempt(shlex.join(argv))

    def sh(self, script: str) -> str:
        return self.target.run(script)

    def path(self, path: str) -> str:
        return self.target.path(path)

    def stand_in(self, name: str, script: str) -> None:
        path = f"/usr/local/sbin/{name}"
        self.target.run(f"printf '%s\\n' {shlex.quote('#!/bin/sh')} {shlex.quote(script)} >{path}; chmod 755 {path}")

    def live(self) -> str:
        return self.target.run("nft -s list ruleset")

    def objects(self) -> list[str]:
        state = self.target.state()
        # What is there while a change waits.
        state["/etc"] = {path: text for path, text in state["/etc"].items() if "openagora-rollback" not in path}
        # In which order firewalld's policies have their services depends on what they had before.
        return sorted(f"{part}: {line}" for part, lines in state.items() for line in _lines(lines))


def _lines(part: t.Any) -> list[str]:
    return [f"{path} {text}" for path, text in sorted(part.items())] if isinstance(part, dict) else part


class TestFaults:
    """Faults at every step of a change, and in what systemd and D-Bus are asked to do: a half of them on each host.

    For other backends a unit test does this.
    """

    def test_no_fault_leaves_half_a_change(
        self, target: Target, record_property: t.Callable[[str, object], None]
    ) -> None:
        target.reset()
        target.run(SSH["firewalld"][0])
        before = target.state()
        commands = ("busctl", "systemctl", "systemd-run")
        # Reloads follow each other closely, and packets are lost meanwhile.
        words = ("call", "22", "/tmp/calls", *target.plugs["outside"], "--patience", "15")
        called = Running(target, "caller", ("serve", "22")), Running(target.far, "caller", words)
        try:
            with called[0], called[1], target.changes() as change:
                share = slice(target.name.endswith("trixie"), None, 2)
                trial = Trial(Managed(target), "firewalld", commands, change, late=True, share=share, name=target.name)
                faults = trial.go_round()
        finally:
            target.run(f"cd /usr/local/sbin; /bin/rm -rf {' '.join((*commands, *FILES))} /run/faults")
        record_property("measured", f"{target.name}: {faults}")
        target.apply(state="absent")
        assert not changes(before, target.state())
        calls = json.loads(target.far.run("cat /tmp/calls"))
        assert calls["total"] > 5000
        assert calls["failures"] == []


class TestIdiom:
    """What an operator sees who knows firewalld."""

    def test_services_and_policies(self, target: Target) -> None:
        target.reset()
        target.apply("web", "recording")
        told = target.run("firewall-cmd --permanent --info-service=openagora-recording-in --verbose")
        assert "Ansible collection openagora.firewall" in told
        assert "40000-41000/udp" in told
        told = target.run("firewall-cmd --info-policy=openagora-out")
        assert "priority: -100" in told
        assert "services: openagora-recording openagora-web" in told
        target.run("firewall-cmd --check-config")

    def test_a_change_of_sdks_is_what_a_reload_would_load(self, target: Target) -> None:
        target.reset()
        target.apply("web", "recording")
        target.apply("native", "web")
        before = target.state()
        target.run("firewall-cmd --reload")
        assert not [line for line in changes(before, target.state()) if "openagora" in line]
        target.assert_open("native", "web")
