# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract asks of ufw."""

from __future__ import annotations

import typing as t

from .suite import *

if t.TYPE_CHECKING:
    from .lab import Target

WEB_TCP = "80,443,3433,5668:5669,5866:5890,6080,6443,8667,9667/tcp"
WEB_UDP = "3478,10000:65535/udp"
RECORDING_IN = "1080,4000:4030,8000,9700,25000,40000:41000/udp"


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
