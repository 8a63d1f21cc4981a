# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract asks of firewalld beyond, or in other words than, what it asks of every backend."""

from __future__ import annotations

import typing as t

import pytest

from . import suite
from .lab import changes

if t.TYPE_CHECKING:
    from .lab import Target

__all__ = ["TestEdits", "TestErrors", "TestIdiom", "TestReload", "TestStopped"]

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
        target.assert_open("web", "recording")
        assert target.apply("web", "recording")["changed"] is False
        target.run("systemctl stop firewalld")
        target.apply(state="absent")
        assert not changes(before, target.state())


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
