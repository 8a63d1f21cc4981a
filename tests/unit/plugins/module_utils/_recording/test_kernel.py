# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is reserved beside what others reserve, now and at boot, and the sizes that are checked."""

from __future__ import annotations

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._recording.kernel import KEY, noted, reserve, sizes
from ansible_collections.openagora.firewall.plugins.module_utils._recording.plan import Plan, View

PLAN = Plan("default", 40000, 41000, "shared", ((40000, 41000),), reserved_before=PortSet.of(40500))
OTHER = Plan("night", 42000, 42999, "shared", ((42000, 42999),))
NONE = PortSet()


def line(text: str) -> str:
    """What a file of ours sets."""
    return text.rpartition(f"{KEY} = ")[2].strip()


def test_live_is_what_others_have_and_ours() -> None:
    assert reserve([PLAN], View(reserved=PortSet.of(40500, 50000)), ()).live == PortSet.of((40000, 41000), 50000)
    assert reserve([], View(reserved=PortSet.of(40500)), ()).live == PortSet.of(40500)


def test_what_others_reserve_at_boot_stays_although_it_was_ours_before() -> None:
    """They have set it live, too, where it was reserved already; a port that they have not is left alone."""
    view = View(previous=PLAN, reserved=PortSet.of((40000, 41000)))
    assert reserve([], view, (("/etc/sysctl.d/50-x.conf", f"{KEY} = 40100,30000"),)).live == PortSet.of(40100, 40500)


def test_the_file_tells_what_of_it_is_ours_alone() -> None:
    text = reserve([PLAN, OTHER], View(), (("/etc/sysctl.d/50-x.conf", f"{KEY} = 40500,50000"),)).text
    assert noted(text) == PortSet.of((40000, 40499), (40501, 41000), (42000, 42999))
    assert noted("") == noted("# Reserved for recording alone: everything\n") == NONE


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY} = 8080,9148\n",
        f"# {KEY} = 1\n  -{KEY}=8080,9148",
        "net/ipv4/ip_local_reserved_ports=9148,8080\nother = 1\n",
        f"{KEY} = 1\n{KEY} = 8080,9148\n",
        f"{KEY} = 8080,9148,\n",
        f"{KEY} = 0,8080,9148\n",
    ],
)
def test_at_boot_it_is_what_the_files_of_others_say_and_ours(text: str) -> None:
    reservation = reserve(
        [PLAN], View(), (("/usr/lib/sysctl.d/10-x.conf", f"{KEY}=7"), ("/etc/sysctl.d/50-x.conf", text))
    )
    assert line(reservation.text) == "8080,9148,40000-41000"
    assert reservation.notices == ()


@pytest.mark.parametrize(
    ("text", "codes"),
    [(f"{KEY} =\n", []), ("other = 1", []), (f"{KEY} = 8080,nonsense", ["unread"]), (f"{KEY} = 70000", ["unread"])],
)
def test_a_file_that_reserves_nothing_adds_nothing(text: str, codes: list[str]) -> None:
    reservation = reserve([PLAN], View(), (("/etc/sysctl.d/50-x.conf", text),))
    assert line(reservation.text) == "40000-41000"
    assert [notice.code for notice in reservation.notices] == codes


def test_without_a_plan_there_is_no_file() -> None:
    reservation = reserve([], View(), (("/etc/sysctl.d/a.conf", f"{KEY} = x"), ("/etc/sysctl.d/zz.conf", f"{KEY} = 1")))
    assert (reservation.text, reservation.notices) == ("", ())


def test_a_file_that_is_read_after_ours_is_told() -> None:
    others = (("/run/sysctl.d/zy.conf", f"{KEY} = 1"), ("/run/sysctl.d/zz.conf", f"{KEY} = 1"))
    reservation = reserve([PLAN], View(), others)
    (notice,) = reservation.notices
    assert (notice.code, notice.where, reservation.overridden) == ("overridden", "/run/sysctl.d/zz.conf", True)


def test_a_file_that_is_read_after_ours_and_has_what_it_has_is_none_to_tell() -> None:
    others = (("/run/sysctl.d/zy.conf", f"{KEY} = 1"), ("/run/sysctl.d/zz.conf", f"{KEY} = 30000-50000"))
    reservation = reserve([PLAN], View(), others)
    assert (reservation.notices, reservation.overridden) == ((), False)


VALUES = {
    "net.core.rmem_default": [212992],
    "net.ipv4.udp_mem": [52000, 70000, 104000],
    "net.netfilter.nf_conntrack_count": [100],
    "net.netfilter.nf_conntrack_max": [2100],
}


def test_sizes_are_checked_for_the_number_of_processes() -> None:
    found = {size.name: (size.needed, size.enough) for size in sizes(250, VALUES, 4096)}
    assert found == {
        "net.core.rmem_default": (200000, True),
        "net.ipv4.udp_mem": (52000, True),
        "net.netfilter.nf_conntrack_max": (2100, True),
    }
    assert [size.name for size in sizes(251, VALUES, 4096) if not size.enough] == [
        "net.ipv4.udp_mem",
        "net.netfilter.nf_conntrack_max",
    ]
    assert not sizes(1, {**VALUES, "net.core.rmem_default": [100000]}, 4096)[0].enough


def test_a_host_without_a_limit_has_enough() -> None:
    """It does not track connections, or shows its limits to the first network namespace alone."""
    assert all(size.enough for size in sizes(250, {name: [] for name in VALUES}, 4096))
