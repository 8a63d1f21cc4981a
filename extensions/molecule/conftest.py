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
from contract import pytest_report_header, pytest_terminal_summary
from contract.document import SDKS
from contract.lab import Machine, Target
from contract.profiles import PROFILES
from contract.sampling import SOAK, sample
from contract.suite import EVERYWHERE
from tools import hosts

__all__ = ["pytest_report_header", "pytest_terminal_summary"]

# What takes long and shows on any release runs on one of a scenario's two hosts, so that both lanes have their share.
ON_ONE_HOST = {
    # The backend contract.
    "TestChoices": "trixie",
    "TestDrift": "trixie",
    "TestEachSdk": "bookworm",
    "TestErrors": "bookworm",
    "TestGateway": "bookworm",
    "TestInstruments": "trixie",
    # Recording hosts.
    "TestCheck": "trixie",
    "TestPlans": "bookworm",
    "test_a_reboot_changes_nothing": "trixie",
    "test_absent_gives_everything_back": "bookworm",
    "test_nobody_else_is_given_a_port": "trixie",
    "test_open_is_what_is_planned_and_nothing_else": "bookworm",
    "test_the_playbook_that_opens_closes_no_plan_but_takes_all_away": "trixie",
    # DNS allowlists.
    "TestAbsent": "bookworm",
    "TestBadInput": "bookworm",
    "TestEnforce": "trixie",
    "TestOtherResolvers": "bookworm",
    "TestOthers": "bookworm",
    "TestPlaybook": "trixie",
    "TestUseHere": "trixie",
    "test_no_connection_fails_through_many_changes": "trixie",
    "test_a_change_that_breaks_resolving_gives_way": "bookworm",
}
# The same where all firewalls are in one scenario: with one of those in each lane, drawn by the seed of the run. On the
# oldest release that goes for all that every backend has to pass.
OLDEST = "bullseye"
ON_ONE_IN_EACH_LANE = {
    *ON_ONE_HOST,
    "TestConfirmed",
    "test_a_controller_that_dies",
    "test_a_reboot",
    "test_so_it_does_when_there_was_something_of_ours_before",
    "test_the_proof_names_the_essentials",
}
# Where what does not depend on the backend is tried.
ONCE = "nftables"
# The modules that are for all hosts of their scenario.
EVERY_HOST = ("test_confirm", "test_contract", "test_dns", "test_recording")


class ByLane(LoadScopeScheduling):
    """The lanes run side by side; what is on one of them runs one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        scenario = pathlib.Path(nodeid.partition("::")[0]).parts[-3]
        found = (target for target in hosts.targets(scenario) if f"[{target.name}" in nodeid)
        return next((str(target.container.lane) for target in found), "")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known that leave tests out."""
    config.addinivalue_line("markers", f"once(*others): what is tried with {ONCE} and others alone")
    config.addinivalue_line(
        "markers", "sampled(count): so many of its cases on each host, drawn by the seed of the run"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another scenario tries, and all cases of a test but a sample; nothing in `make soak`."""
    cases: dict[str, list[pytest.Item]] = {}
    left: list[pytest.Item] = []
    for item in items:
        target = item.callspec.params["target"]
        cases.setdefault(f"{item.path} {item.originalname} {target.name}", []).append(item)
        scenario = item.path.parents[1].name
        tested = hosts.targets(scenario)
        kind = item.cls.__name__ if item.cls else ""
        kinds = {kind, item.originalname} & ON_ONE_IN_EACH_LANE
        if scenario == OLDEST and item.cls in EVERYWHERE:
            kinds = {kind}
        if kinds and len({other.firewall for other in tested}) > 1:
            lane = target.container.lane
            others = [other for other in tested if other.container.lane == lane]
            if target not in sample(f"{sorted(kinds)} {lane}", others, 1):
                left.append(item)
    for name, same in cases.items():
        sampled = same[0].get_closest_marker("sampled")
        once = same[0].get_closest_marker("once")
        if once and not SOAK and same[0].path.parents[1].name not in (ONCE, *once.args):
            left += same
        elif sampled:
            kept = sample(name, same, *sampled.args)
            left += [item for item in same if item not in kept]
    items[:] = [item for item in items if item not in left]
    # One may be left out for both reasons.
    config.hook.pytest_deselected(items=list(dict.fromkeys(left)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: t.Any) -> ByLane:
    """Choose the scheduler."""
    return ByLane(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs on each host of the group that has the scenario's name, and with the profile of its firewall.

    A module test_BACKEND is for the hosts of that backend alone.
    """
    module = pathlib.Path(metafunc.module.__file__)
    chosen = [
        target
        for target in hosts.targets(module.parents[1].name)
        if module.stem in (*EVERY_HOST, f"test_{target.firewall}")
    ]
    of_release = {
        release: [target for target in chosen if target.container.image.startswith(release)]
        for release in ("bookworm", "trixie")
    }
    if len({target.firewall for target in chosen}) == 1 and all(of_release.values()):
        names = (metafunc.function.__name__, metafunc.cls.__name__ if metafunc.cls else "")
        chosen = next((of_release[ON_ONE_HOST[name]] for name in names if name in ON_ONE_HOST), chosen)
    profile = PROFILES[chosen[0].firewall]
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", chosen, ids=lambda target: target.name, indirect=True, scope="session")
    if "breakage" in metafunc.fixturenames:
        metafunc.parametrize("breakage", profile.breakages, ids=[breakage.name for breakage in profile.breakages])
    if "verb" in metafunc.fixturenames:
        metafunc.parametrize("verb", profile.reloads)


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """A host under test."""
    chosen: hosts.Target = request.param
    target = Target(chosen, PROFILES[chosen.firewall])
    # Its kernel tells every sender about a closed port, not one in a second.
    target.far.run("sysctl -q net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
    return target


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
