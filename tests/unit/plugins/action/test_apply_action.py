# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller does for module apply, on throwaway hosts."""

from __future__ import annotations

from netns import NFTABLES, NetnsHost, rule_set
from plays import call, fail, play


def test_a_change_over_no_network_is_confirmed_at_once_and_can_be_taken_back(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.listing()
    wish = {"sdks": ["native"], "confirm_within": 20}
    none, first, live, again, check, back, left, forth = play(
        host,
        [
            fail("apply", state="restored"),
            call("apply", **wish),
            call("applied_info"),
            call("apply", **wish),
            call("apply", check=True, state="absent", confirm_within=20),
            call("apply", state="restored", confirm_within=20),
            call("applied_info"),
            call("apply", state="restored"),
        ],
    )
    assert none["msg"].startswith("state: restored needs a change that was confirmed")
    assert first["confirmed"]
    assert first["rules"] == rule_set("native").data()
    assert "confirmed_locally" in [notice["code"] for notice in first["notices"]]
    assert any("crosses no network" in warning for warning in first["warnings"])
    assert "confirm" not in first
    assert "pending" not in live
    assert (again["changed"], "confirmed" in again) == (False, False)
    assert (check["changed"], "confirmed" in check) == (True, False)
    assert (back["confirmed"], left["rules"], left["files"]) == (True, [], [])
    assert forth["rules"] == rule_set("native").data()
    assert host.listing() != before
