# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract asks of ufw beyond what it asks of every backend."""

from __future__ import annotations

import typing as t

from . import suite

if t.TYPE_CHECKING:
    from .lab import Target

__all__ = ["TestEdits", "TestErrors", "TestIdiom"]

WEB_TCP = "80,443,3433,5668:5669,5866:5890,6080,6443,8667,9667/tcp"
WEB_UDP = "3478,10000:65535/udp"
RECORDING_IN = "1080,4000:4030,8000,9700,25000,40000:41000/udp"


HOLD = "import fcntl, time; file = open('/run/ufw.lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); time.sleep(60)"


class TestErrors(suite.TestErrors):
    """One clear error, and nothing has changed."""

    def test_ufw_is_locked(self, target: Target) -> None:
        """Another ufw command is at work, as `ufw enable` is while it asks; a check needs no lock."""
        target.reset()
        target.run(f'systemd-run --quiet --collect --unit=holder python3 -c "{HOLD}"')
        try:
            # The lock is held: it cannot be had.
            target.run("until grep -q POSIX.*WRITE /proc/locks; do sleep 0.05; done")
            assert target.apply("web", check=True)["changed"] is True
            assert "holds /run/ufw.lock" in target.refused(sdks=["web"])
        finally:
            target.run("systemctl stop holder")
        assert target.apply("web")["changed"] is True


class TestEdits:
    """A file of ours edited by hand is shown, line by line, and put right."""

    def test_profile(self, target: Target) -> None:
        target.reset()
        target.apply("web")
        target.run("sed -i s/,443,/,444,/ /etc/ufw/applications.d/openagora")
        check = target.apply("web", "native", check=True)
        assert f"  -ports={WEB_TCP.replace(',443,', ',444,')}|" in check["diff"]["prepared"]
        assert target.apply("web", "native")["diff"] == check["diff"]
        assert WEB_TCP in target.run("ufw app info 'Agora Web'")
        target.run("sed -i 's/$/\\r/' /etc/ufw/applications.d/openagora")
        assert target.apply("web", "native")["changed"] is True
        assert target.run("tr -cd '\\r' </etc/ufw/applications.d/openagora") == ""


class TestIdiom:
    """What an operator sees who knows ufw."""

    def test_profiles(self, target: Target) -> None:
        target.reset()
        target.apply("web", "recording")
        told = " ".join(target.run("ufw app info 'Agora Web'").split())
        assert "Written by the Ansible collection openagora.firewall" in told
        assert f"Ports: {WEB_TCP} {WEB_UDP}" in told
        told = " ".join(target.run("ufw app info 'Agora Recording in'").split())
        assert told.endswith(f" {RECORDING_IN}")

    def test_status(self, target: Target) -> None:
        """Each rule once for each family, before those of others in its direction; `ufw status` names the profiles."""
        target.reset()
        target.apply("web", "recording")
        lines = [" ".join(line.split()) for line in target.run("ufw status verbose").splitlines()]
        for version in ("", " (v6)"):
            for ports in (WEB_TCP, WEB_UDP):
                rule = f"{ports} (Agora Web{version}) ALLOW OUT Anywhere{version}"
                assert lines.count(rule) == 1
                assert lines.index(rule) < lines.index(f"1080/tcp{version} DENY OUT Anywhere{version}")
            rule = f"{RECORDING_IN} (Agora Recording in{version}) ALLOW IN Anywhere{version}"
            assert lines.count(rule) == 1
        assert not [line for line in lines if "ALLOW FWD" in line and "Agora" in line]
        # One rule of ours goes by ufw's own command as any other.
        target.run("ufw delete allow out to any app 'Agora Web'")
        assert "Agora Web" not in target.run("ufw status verbose")
