# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module recording_ports answers, and that it tells all problems of a request at once."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._recording.answer import answer
from ansible_collections.openagora.firewall.plugins.module_utils._recording.host import FOLDER
from ansible_collections.openagora.firewall.plugins.module_utils._recording.kernel import FILE, KEY, Size
from ansible_collections.openagora.firewall.plugins.module_utils._recording.plan import View, Wish, make_plan

GOOD: dict[str, t.Any] = {
    "name": "default",
    "count": 2,
    "low": 20000,
    "high": 20999,
    "layout": "shared",
    "sdks": ["recording"],
    "revision": "2018-11-06",
    "state": "present",
    "making": {},
}


def put(root: Path, path: str, text: str) -> None:
    """Write a file of the host."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("options", "wheres"),
    [
        ({"sdks": ["webb"], "count": 300}, ["sdks[0]", "count"]),
        ({"count": 0, "low": 20900, "high": 21900}, ["count", "low"]),
        ({"count": 0, "low": 20900, "high": 21900, "sdks": ["webb"]}, ["count", "sdks[0]", "low"]),
        ({"count": 0, "low": 21900, "high": 20900}, ["low", "count"]),
        ({"count": None, "sdks": ["webb"]}, ["sdks[0]", "count"]),
    ],
)
def test_all_problems_are_told_at_once(tmp_path: Path, options: dict[str, t.Any], wheres: list[str]) -> None:
    other = make_plan(Wish("night", 21000, 21999, 1, "shared"), View()).plan
    put(tmp_path, f"{FOLDER}/night.json", json.dumps(other.data()))
    with pytest.raises(RequestError) as error:
        answer({**GOOD, **options}, str(tmp_path))
    assert [problem.where for problem in error.value.problems] == wheres


def test_a_plan_that_nothing_would_open_is_told(tmp_path: Path) -> None:
    codes = [notice.code for notice in answer({**GOOD, "sdks": ["web"]}, str(tmp_path))[1]]
    assert "not_opened" in codes
    codes = [notice.code for notice in answer({**GOOD, "sdks": ["web", "recording"]}, str(tmp_path))[1]]
    assert "not_opened" not in codes


def test_what_is_overridden_at_boot_is_not_reserved_there(tmp_path: Path) -> None:
    put(tmp_path, FILE, answer(GOOD, str(tmp_path))[0]["reservation"]["text"])
    assert answer(GOOD, str(tmp_path))[0]["reservation"]["at_boot"]
    put(tmp_path, "/etc/sysctl.d/zz.conf", f"{KEY} = 1234\n")
    found, notices = answer(GOOD, str(tmp_path))
    put(tmp_path, FILE, found["reservation"]["text"])
    assert not answer(GOOD, str(tmp_path))[0]["reservation"]["at_boot"]
    assert [notice.where for notice in notices if notice.code == "overridden"] == ["/etc/sysctl.d/zz.conf"]


def test_plans_that_the_play_makes_count_in_place_of_those_in_files(tmp_path: Path) -> None:
    here = make_plan(Wish("here", 21000, 21999, 1, "shared"), View()).plan.data()
    coming = make_plan(Wish("coming", 22000, 22999, 1, "shared"), View()).plan.data()
    put(tmp_path, f"{FOLDER}/here.json", json.dumps(here))
    assert answer(GOOD, str(tmp_path))[0]["host_ranges"] == ["20000-21999"]
    making = {"coming": coming, "here": {}}
    assert answer({**GOOD, "making": making}, str(tmp_path))[0]["host_ranges"] == ["20000-20999", "22000-22999"]


def test_without_a_plan_nothing_is_to_be_reserved_at_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any size too small."""
    monkeypatch.setattr(f"{answer.__module__}.sizes", lambda *_: (Size("net.core.rmem_default", 1, 2, "why"),))
    put(tmp_path, "/etc/sysctl.d/zz.conf", f"{KEY} = 1234\n")
    found, notices = answer({**GOOD, "state": "absent"}, str(tmp_path))
    assert (found["reservation"]["at_boot"], notices) == (True, [])
    assert [notice.code for notice in answer(GOOD, str(tmp_path))[1]] == ["overridden", "small"]
