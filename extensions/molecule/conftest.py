# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a scenario, as fixtures; what is tested is in tests/contract."""

from __future__ import annotations

import pathlib
import sys
import typing as t

import pytest
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests"))
from contract import pytest_terminal_summary
from contract.document import SDKS
from contract.lab import Machine, Target, inventory
from contract.profiles import PROFILES, Profile

__all__ = ["pytest_terminal_summary"]

LISTED = inventory()
LANE = "test_host_lane"
# What takes long and shows on any release runs on one of a scenario's two hosts, so that both lanes have their share.
ON_ONE_HOST = {
    # The backend contract.
    "TestChoices": "trixie",
    "TestDrift": "trixie",
    "TestEachSdk": "bookworm",
    "TestErrors": "bookworm",
    "TestGateway": "bookworm",
    "TestInstruments": "trixie",
    # DNS allowlists.
    "TestAbsent": "bookworm",
    "TestBadInput": "bookworm",
    "TestEnforce": "trixie",
    "TestOtherResolvers": "bookworm",
    "TestOthers": "bookworm",
    "TestPlaybook": "trixie",
    "TestUseHere": "trixie",
    "test_no_connection_fails_through_a_hundred_changes": "trixie",
    "test_a_change_that_breaks_resolving_gives_way": "bookworm",
}
# The modules that are for all hosts of their scenario.
EVERY_HOST = ("test_confirm", "test_contract", "test_dns", "test_recording")


def machine_variables(name: str) -> dict[str, object]:
    """A host's variables in the inventory."""
    variables: dict[str, object] = LISTED["_meta"]["hostvars"][name]
    return variables


def profile_of(name: str) -> Profile:
    """What is special to the backend of a host under test."""
    return PROFILES[str(machine_variables(name)["test_host_firewall"])]


class ByLane(LoadScopeScheduling):
    """The lanes run side by side; what is on one of them runs one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        hosts = LISTED["_meta"]["hostvars"].items()
        return next((str(variables[LANE]) for name, variables in hosts if f"[{name}" in nodeid), "")


def pytest_xdist_make_scheduler(config: pytest.Config, log: t.Any) -> ByLane:
    """Choose the scheduler."""
    return ByLane(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs on each host of the group that has the scenario's name, and with the profile of its firewall.

    A module test_BACKEND is for the hosts of that backend alone.
    """
    module = pathlib.Path(metafunc.module.__file__)
    hosts = [
        host
        for host in LISTED[module.parents[1].name]["hosts"]
        if module.stem in (*EVERY_HOST, f"test_{profile_of(host).name}")
    ]
    of_release = {
        release: [host for host in hosts if str(machine_variables(host)["test_host_image_tag"]).startswith(release)]
        for release in ("bookworm", "trixie")
    }
    if len({profile_of(host).name for host in hosts}) == 1 and all(of_release.values()):
        names = (metafunc.function.__name__, metafunc.cls.__name__ if metafunc.cls else "")
        hosts = next((of_release[ON_ONE_HOST[name]] for name in names if name in ON_ONE_HOST), hosts)
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", hosts, indirect=True, scope="session")
    if "breakage" in metafunc.fixturenames:
        breakages = profile_of(hosts[0]).breakages
        metafunc.parametrize("breakage", breakages, ids=[breakage.name for breakage in breakages])
    if "verb" in metafunc.fixturenames:
        metafunc.parametrize("verb", profile_of(hosts[0]).reloads)


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """A host under test."""
    name = request.param
    variables = machine_variables(name)
    far, inside = (
        Machine(name, machine_variables(name)) for name in (f"far{variables[LANE]}", f"inside{variables[LANE]}")
    )
    # Its kernel tells every sender about a closed port, not one in a second.
    far.run("sysctl -q net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
    return Target(name, variables, far=far, inside=inside, profile=profile_of(name))


@pytest.fixture
def far(target: Target) -> Machine:
    """The other side of the host under test."""
    return target.far


@pytest.fixture
def inside(target: Target) -> Machine:
    """The machine for which the host under test can be the gateway."""
    return target.inside


@pytest.fixture
def gateway(target: Target) -> Target:
    """A host under test that forwards between the other side and the machine inside, and lets nothing through."""
    target.reset()
    target.forward()
    return target


@pytest.fixture(scope="class")
def opened(target: Target) -> Target:
    """The host with everything open, made once for a class of tests that leave it so."""
    target.reset()
    target.apply(*SDKS)
    return target


@pytest.fixture
def legacy(target: Target) -> t.Iterator[Target]:
    """The host with iptables of the old kind; its tables go with a reboot."""
    target.reset("iptables-legacy")
    yield target
    target.reset("none")
    target.reboot()
