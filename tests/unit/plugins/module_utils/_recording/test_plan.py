# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The port plan: who gets which ports, what moves and what does not, and what is refused with which advice."""

from __future__ import annotations

import contextlib
import json
import re
import typing as t
from dataclasses import replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._recording.plan import (
    WIDTH,
    Bound,
    Plan,
    PlanError,
    Planned,
    View,
    Wish,
    agora_ports,
    make_plan,
    read_wish,
    standing,
)
from document import SDKS
from hypothesis import given
from hypothesis import strategies as st

PER_PROCESS = Wish("default", 40000, 41000, 3, "per_process")
SHARED = replace(PER_PROCESS, layout="shared")
PAIRS = ((40000, 40007), (40008, 40015), (40016, 40023))
RESERVED = View(reserved=PortSet.of((40000, 41000)))


def stranger(*ports: int) -> tuple[Bound, ...]:
    """Ports that a program holds which is no recorder."""
    return tuple(Bound(port, "openvpn", 812) for port in ports)


def refusal(wish: Wish, view: View) -> dict[str, str]:
    """What speaks against a plan, by option."""
    with pytest.raises(RequestError) as error:
        make_plan(wish, view)
    return {problem.where: problem.message for problem in error.value.problems}


def again(wish: Wish, before: Planned, view: View = RESERVED) -> Planned:
    """A plan where another one of its name stands."""
    return make_plan(wish, replace(view, previous=before.plan))


def test_a_free_host_gets_the_lowest_pairs() -> None:
    planned = make_plan(PER_PROCESS, RESERVED)
    assert planned.plan.pairs == PAIRS
    assert (planned.capacity, planned.conflicts, planned.advice, planned.notices) == (125, (), (40000, 41000), ())
    assert planned.plan.ports == PortSet.of((40000, 40023))


def test_shared_is_the_range_for_everyone() -> None:
    planned = make_plan(replace(SHARED, count=250), RESERVED)
    assert set(planned.plan.pairs) == {(40000, 41000)}
    assert planned.capacity == len(planned.plan.pairs) == 250


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            replace(SHARED, count=251),
            "251 processes need 1004 ports (4 each, and 8 at least); 40000-41000 has 1001, and 250 fit; "
            "40000-41003 would do",
        ),
        (
            replace(PER_PROCESS, count=126),
            "126 processes need 1008 ports (8 each, and 8 at least); 40000-41000 has 1001, and 125 fit; "
            "40000-41007 would do",
        ),
        (
            replace(SHARED, high=40006, count=1),
            "1 process needs 8 ports (4 each, and 8 at least); 40000-40006 has 7, and 0 fit; 40000-40007 would do",
        ),
    ],
)
def test_a_range_that_is_too_narrow_says_how_many_fit_and_what_would_do(wish: Wish, message: str) -> None:
    assert refusal(wish, RESERVED) == {"count": message}


def test_more_than_all_ports_fit_nowhere() -> None:
    assert refusal(replace(SHARED, count=20000), RESERVED)["count"].endswith("; no range of this host would do")


def test_strangers_stop_a_shared_range_and_are_named() -> None:
    view = replace(RESERVED, bound=stranger(40500, 40501))
    message = (
        "UDP 40500-40501 is held by openvpn (process 812); stop that first, or take another range than 40000-41000: "
        "39499-40499 would do"
    )
    assert refusal(SHARED, view) == {"low": message}
    # Outside of it they do not matter.
    assert make_plan(SHARED, replace(RESERVED, bound=stranger(39999, 41001))).conflicts == ()


def test_many_strangers_are_one_problem_that_names_some() -> None:
    held = tuple(Bound(port, "openvpn", port) for port in range(40100, 40200, 2))
    (message,) = refusal(SHARED, replace(RESERVED, bound=held)).values()
    assert "40100 is held by openvpn (process 40100), 40102 is held by" in message
    assert " and 47 more; stop that first" in message
    ports = refusal(SHARED, replace(RESERVED, bound=stranger(*range(40100, 40200, 2))))["low"]
    assert ports.startswith("UDP 40100, 40102, 40104 and 47 more is held by openvpn (process 812); ")
    assert len(refusal(replace(PER_PROCESS, count=125), replace(RESERVED, bound=held))["count"]) < 300


def test_recorders_of_the_plan_that_have_to_stop_are_told_as_such() -> None:
    held = tuple(Bound(40000 + n, "recorder", n, (40000, 41000), "default", n) for n in range(1, 251))
    before = make_plan(replace(SHARED, count=250), RESERVED).plan
    view = replace(RESERVED, previous=before, bound=held)
    assert refusal(replace(SHARED, low=40001, high=41001, count=250), view) == {
        "low": "UDP 40001-40250 is held by recorders of this plan that were told 40000-41000; stop that first, or take "
        "another range than 40001-41001: 40251-41251 would do"
    }


def test_pairs_are_laid_out_beside_strangers() -> None:
    planned = make_plan(PER_PROCESS, replace(RESERVED, bound=stranger(40003, 40012)))
    assert planned.plan.pairs == ((40004, 40011), (40013, 40020), (40021, 40028))
    assert [conflict.data() for conflict in planned.conflicts] == [
        {"kind": "held", "ports": ["40003", "40012"], "holder": "openvpn (process 812)"}
    ]
    assert planned.advice == (40013, 41013)


def test_a_stranger_moves_the_pair_that_it_stands_in_and_no_other() -> None:
    before = make_plan(PER_PROCESS, RESERVED)
    after = again(PER_PROCESS, before, replace(RESERVED, bound=stranger(40010)))
    assert after.plan.pairs == (PAIRS[0], (40024, 40031), PAIRS[2])
    (notice,) = after.notices
    message = "other ports than before for process 2 from 40008-40015 to 40024-40031; restart those that run"
    assert (notice.code, notice.message) == ("moved", message)
    # When it is gone again, nothing moves back.
    assert again(PER_PROCESS, after).plan == after.plan


def test_processes_come_and_go_and_the_others_keep_their_pairs() -> None:
    three = make_plan(PER_PROCESS, replace(RESERVED, bound=stranger(40010)))
    five = again(replace(PER_PROCESS, count=5), three)
    assert five.plan.pairs[:3] == three.plan.pairs
    assert len(PortSet.of(*five.plan.pairs)) == 5 * WIDTH
    assert again(replace(PER_PROCESS, count=2), five).plan.pairs == three.plan.pairs[:2]
    assert five.notices == ()


def running(planned: Planned) -> tuple[Bound, ...]:
    """A port of each recorder of a plan, told as its file of the environment says."""
    name, pairs = planned.plan.name, planned.plan.pairs
    return tuple(recorder(low + 1, low, high, name, number) for number, (low, high) in enumerate(pairs, start=1))


def test_recorders_that_run_keep_their_pairs_when_the_plan_was_smaller_or_gone_for_a_time() -> None:
    five = make_plan(replace(PER_PROCESS, count=5), replace(RESERVED, bound=stranger(40010)))
    view = replace(RESERVED, bound=running(five))
    three = again(PER_PROCESS, five, view)
    for back in (again(replace(PER_PROCESS, count=5), three, view), make_plan(replace(PER_PROCESS, count=5), view)):
        assert (back.plan.pairs, back.conflicts, back.notices) == (five.plan.pairs, (), ())
    # What the plan has given a process since counts more than what the process was told.
    moved = again(PER_PROCESS, five, replace(view, bound=(*view.bound, *stranger(40002))))
    assert again(PER_PROCESS, moved, view).plan == moved.plan


def test_recorders_that_run_and_cannot_keep_their_pairs_are_told() -> None:
    shared = make_plan(SHARED, RESERVED)
    (notice,) = make_plan(replace(PER_PROCESS, count=1), replace(RESERVED, bound=running(shared)[:1])).notices
    assert notice.message.startswith("other ports than before for process 1 from 40000-41000 to 40002-40009; ")


def test_a_pair_that_the_range_no_longer_holds_moves() -> None:
    before = make_plan(PER_PROCESS, RESERVED)
    assert again(replace(PER_PROCESS, low=40008), before).plan.pairs == ((40024, 40031), *PAIRS[1:])


def test_pairs_that_overlap_in_a_file_are_set_apart() -> None:
    before = make_plan(PER_PROCESS, RESERVED)
    edited = replace(before.plan, pairs=(PAIRS[0], (40004, 40011), PAIRS[2]))
    after = make_plan(PER_PROCESS, replace(RESERVED, previous=edited))
    assert after.plan.pairs == PAIRS


def recorder(port: int, low: int, high: int, plan: str = "", process: int = 0) -> Bound:
    """A port of a process that was told a range."""
    return Bound(port, "recorder", 4711, (low, high), plan, process)


OWN = {
    "told its pair": recorder(40009, 40008, 40015),
    "told plan and number": recorder(40009, 40008, 40015, "default", 2),
}
OTHERS = {
    "told nothing": Bound(40009, "recorder", 4711),
    "told the whole range": recorder(40009, 40000, 41000),
    "of another plan": recorder(40009, 40008, 40015, "other", 2),
    "of another process": recorder(40009, 40008, 40015, "default", 3),
}


@pytest.mark.parametrize("bound", OWN.values(), ids=OWN)
def test_the_recorders_of_the_plan_are_no_conflict(bound: Bound) -> None:
    before = make_plan(PER_PROCESS, RESERVED)
    after = again(PER_PROCESS, before, replace(RESERVED, bound=(bound,)))
    assert (after.plan, after.conflicts) == (before.plan, ())


@pytest.mark.parametrize("bound", OTHERS.values(), ids=OTHERS)
def test_all_others_are(bound: Bound) -> None:
    before = make_plan(PER_PROCESS, RESERVED)
    after = again(PER_PROCESS, before, replace(RESERVED, bound=(bound,)))
    assert after.plan.pairs == (PAIRS[0], (40024, 40031), PAIRS[2])
    assert [conflict.ports for conflict in after.conflicts] == [PortSet.of(40009)]


def test_in_a_shared_range_everyone_who_keeps_to_it_is_a_recorder_of_the_plan() -> None:
    own = (recorder(40900, 40000, 41000), recorder(40009, 40008, 40015, "default", 2))
    assert make_plan(SHARED, replace(RESERVED, bound=own)).conflicts == ()
    wide = recorder(40900, 39000, 41000)
    assert (
        "a recorder that was told 39000-41000; stop that first"
        in refusal(SHARED, replace(RESERVED, bound=(wide,)))["low"]
    )


def test_two_plans_never_overlap() -> None:
    other = make_plan(replace(PER_PROCESS, name="other", low=40500, high=40999), RESERVED).plan
    view = replace(RESERVED, others=(other,))
    for wish in (SHARED, PER_PROCESS):
        assert refusal(wish, view) == {"low": "40000-41000 overlaps 40500-40999 of plan other; 39499-40499 would do"}


def test_ports_of_other_sdks_are_left_out() -> None:
    view = replace(RESERVED, agora=(("native", PortSet.of((4000, 4030), 7000)),))
    planned = make_plan(replace(PER_PROCESS, low=4020, high=4100), view)
    assert planned.plan.pairs[0] == (4031, 4038)
    message = "4000-5000 holds 4000-4030, which native needs; 4031-5031 would do"
    assert refusal(replace(SHARED, low=4000, high=5000), view) == {"low": message}


def test_which_ports_of_other_sdks() -> None:
    """Not Web's 10000-65535, which holds what Agora recommends on the same page."""
    compiled = compile_request(Request.of(sdks=SDKS))
    found = {sdk: str(ports) for sdk, ports in agora_ports(compiled.by_sdk)}
    assert found == {
        "native": "1080, 4000-4030, 7000, 8000, 8913, 9700, 25000",
        "web": "3478",
        "signaling": "8180-8199",
        "recording": "1080, 4000-4030, 8000, 9700, 25000",
        "gaming": "1080, 4000-4030, 8000, 9700, 25000",
    }


def test_what_the_kernel_may_hand_out_is_told_until_it_is_reserved() -> None:
    (notice,) = make_plan(SHARED, View(reserved=PortSet.of((40000, 40499)))).notices
    assert notice.message.startswith("40500-41000 lies in the kernel's ephemeral range 32768-60999")
    assert make_plan(replace(SHARED, low=20000, high=21000), View()).notices == ()


def test_what_others_had_reserved_before_is_remembered() -> None:
    first = make_plan(SHARED, View(reserved=PortSet.of(40500, 50000))).plan
    assert first.reserved_before == PortSet.of(40500)
    # By then all of it is reserved, and the plan tells what of it is not its own.
    now = View(previous=first, reserved=PortSet.of((40000, 41000), 50000))
    assert make_plan(replace(SHARED, count=4), now).plan.reserved_before == PortSet.of(40500)
    assert now.foreign == PortSet.of(40500, 50000)


def test_what_a_run_that_ended_early_has_not_given_back_is_not_taken_for_that_of_others() -> None:
    """The plan had another range before, and what is reserved is still that of then."""
    plan = make_plan(SHARED, View()).plan
    now = View(previous=plan, reserved=PortSet.of((30000, 30999), 50000), noted=PortSet.of((30000, 30999)))
    assert now.foreign == PortSet.of(50000)


def test_a_plan_as_it_stands_is_shown_with_what_speaks_against_it() -> None:
    plan = make_plan(PER_PROCESS, RESERVED).plan
    shown = standing(plan, replace(RESERVED, previous=plan, bound=stranger(40010)))
    assert shown.plan == plan
    assert [conflict.ports for conflict in shown.conflicts] == [PortSet.of(40010)]


GOOD: dict[str, t.Any] = {"name": "default", "low": None, "high": None, "count": 1, "layout": "shared"}
WRONG: list[tuple[dict[str, t.Any], dict[str, str]]] = [
    ({"count": 0}, {"count": "is 0; say how many"}),
    ({"count": 10**10}, {"count": "is 10000000000, and a host has 65535 ports"}),
    ({"low": 42000}, {"high": "is missing beside low, 42000"}),
    ({"high": 42000}, {"low": "is missing beside high, 42000"}),
    ({"low": 41000, "high": 40000}, {"low": "41000 is above high, 40000"}),
    ({"low": 1023, "high": 2000}, {"low": "1023 is below 1024"}),
    ({"low": 65000, "high": 65536}, {"high": "65536 is above 65535"}),
    ({"name": "../x"}, {"name": "'../x' is no name"}),
    ({"layout": "each"}, {"layout": "'each' is not one of shared, per_process"}),
    (
        {"name": "", "low": 0, "high": 70000, "count": -1},
        {"name": "'' is no name", "low": "0 is below", "high": "70000 is above", "count": "is -1"},
    ),
]


@pytest.mark.parametrize(("options", "expected"), WRONG)
def test_wrong_requests_are_told_all_at_once(options: dict[str, t.Any], expected: dict[str, str]) -> None:
    with pytest.raises(RequestError) as error:
        read_wish(**{**GOOD, **options})
    found = {problem.where: problem.message for problem in error.value.problems}
    assert found.keys() == expected.keys()
    assert [where for where, text in expected.items() if not found[where].startswith(text)] == []


def test_without_a_range_it_is_the_recommended_one() -> None:
    assert read_wish(**GOOD) == Wish("default", 40000, 41000, 1, "shared")


def test_what_is_written_is_read_back() -> None:
    plan = make_plan(PER_PROCESS, View(reserved=PortSet.of(40500))).plan
    assert Plan.of(json.loads(json.dumps(plan.data()))) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"processes": []},
        {"processes": [{"process": 2, "low": 40000, "high": 40007}]},
        {"processes": [{"process": 1, "low": 39999, "high": 40007}]},
        {"processes": [{"process": 1, "low": "40000", "high": 40007}]},
        {"layout": "each"},
        {"low": "x"},
        {"high": 70000},
        {"reserved_before": ["x"]},
        {"reserved_before": [1]},
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, t.Any]) -> None:
    data = make_plan(PER_PROCESS, RESERVED).plan.data()
    for wrong in ({**data, **change}, [], None):
        with pytest.raises(PlanError):
            Plan.of(wrong)


@given(st.sets(st.integers(39990, 40120)), st.sets(st.integers(39990, 40120)), st.integers(1, 20), st.integers(1, 20))
def test_whatever_happens_pairs_are_disjoint_and_move_only_for_a_reason(
    first: set[int], second: set[int], before: int, after: int
) -> None:
    wish = Wish("default", 40000, 40100, before, "per_process")
    view = View(bound=stranger(*first))
    plans: list[Planned] = []
    with contextlib.suppress(RequestError):  # too many
        plans.append(make_plan(wish, view))
        plans.append(again(replace(wish, count=after), plans[0], replace(view, bound=stranger(*second))))
    for planned, held in zip(plans, (first, second)):
        ports = planned.plan.ports
        assert len(ports) == WIDTH * len(planned.plan.pairs)
        assert not ports - PortSet.of((40000, 40100))
        assert not ports & PortSet.of(*held)
        assert len(planned.plan.pairs) <= planned.capacity
        # The same request once more changes nothing.
        assert again(replace(wish, count=len(planned.plan.pairs)), planned, View(bound=stranger(*held))) == replace(
            planned, notices=tuple(notice for notice in planned.notices if notice.code != "moved")
        )
    for old, new in zip(*(planned.plan.pairs for planned in plans)) if len(plans) == 2 else ():
        assert old == new or PortSet.of(old) & PortSet.of(*second)


@given(
    st.sampled_from(["shared", "per_process"]),
    st.sampled_from([7, 31, 63, 100]),
    st.integers(1, 6),
    st.booleans(),
    st.sets(st.integers(39960, 40160), max_size=4),
    st.integers(-40, 40),
    st.integers(1, 16),
)
def test_what_is_said_to_do_does(
    layout: str, more: int, before: int, runs: bool, held: set[int], further: int, after: int
) -> None:
    wish = Wish("default", 40000, 40000 + more, before, layout)
    try:
        planned = make_plan(wish, replace(RESERVED, bound=stranger(*held)))
    except RequestError:
        return
    # By then the strangers are gone.
    view = replace(RESERVED, previous=planned.plan, bound=running(planned) if runs else ())
    other = replace(wish, low=wish.low + further, high=wish.high + further, count=after)
    with contextlib.suppress(RequestError):
        make_plan(other, view)
        return
    message = next(iter(refusal(other, view).values()))
    advice = re.search(r"(\d+)-(\d+) would do$", message)
    assert advice, message
    assert make_plan(replace(other, low=int(advice[1]), high=int(advice[2])), view).conflicts == ()
