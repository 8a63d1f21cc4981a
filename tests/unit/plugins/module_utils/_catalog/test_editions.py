# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime
import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._catalog import CATALOG
from ansible_collections.openagora.firewall.plugins.module_utils._catalog.editions import (
    Edition,
    Listing,
    RevisionError,
    catalog_data,
    difference,
    differences,
    in_force,
    latest_revision,
    parse_revision,
    successors,
)
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from hypothesis import given
from hypothesis import strategies as st


def edition(day: str, tcp: str = "80", **fields: object) -> Edition:
    return Edition(effective_from=day, source="", tcp=PortSet.parse(tcp), **{"udp": PortSet(), **fields})


FIRST, SECOND, THIRD = edition("2019-01-10"), edition("2019-03-01"), edition("2020-02-29")
LIVING = Listing(sdk="living", title="Living", editions=(FIRST, SECOND, THIRD))
WITHDRAWN = Listing(sdk="gone", title="Gone", editions=(FIRST, SECOND), withdrawn="2019-09-16", instead="cloud proxy")


@pytest.mark.parametrize(
    ("listing", "day", "expected"),
    [
        (LIVING, "2019-01-09", None),
        (LIVING, "2019-01-10", FIRST),
        (LIVING, "2019-02-28", FIRST),
        (LIVING, "2019-03-01", SECOND),
        (LIVING, "2020-02-28", SECOND),
        (LIVING, "2020-02-29", THIRD),
        (LIVING, "9999-12-31", THIRD),
        (WITHDRAWN, "2019-01-09", None),
        (WITHDRAWN, "2019-09-15", SECOND),
        (WITHDRAWN, "2019-09-16", None),
        (WITHDRAWN, "2030-01-01", None),
    ],
)
def test_in_force(listing: Listing, day: str, expected: Edition | None) -> None:
    assert in_force(listing, day) is expected


@pytest.mark.parametrize(
    ("current", "later"),
    [(FIRST, (SECOND, THIRD)), (SECOND, (THIRD,)), (THIRD, ())],
)
def test_successors(current: Edition, later: tuple[Edition, ...]) -> None:
    assert successors(LIVING, current) == later


def test_latest_is_the_newest_edition_of_any_sdk() -> None:
    assert latest_revision({"gone": WITHDRAWN, "living": LIVING}) == "2020-02-29"
    assert latest_revision(CATALOG) == "2018-11-06"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2018-11-01", "2018-11-01"),
        ("2018-11-06", "2018-11-06"),
        (" 2018-11-06 ", "2018-11-06"),
        ("2020-02-29", "2020-02-29"),
        ("2099-12-31", "2099-12-31"),
        ("latest", "2018-11-06"),
    ],
)
def test_parse_revision(text: str, day: str) -> None:
    assert parse_revision(text, CATALOG) == day


LEGAL = "a revision is 'latest' or a date from 2018-11-01 on, written YYYY-MM-DD"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' is not a date; {LEGAL}"),
        ("newest", f"'newest' is not a date; {LEGAL}"),
        ("2018", f"'2018' is not a date; {LEGAL}"),
        ("20181106", f"'20181106' is not a date; {LEGAL}"),
        ("2018-11-6", f"'2018-11-6' is not a date; {LEGAL}"),
        ("06.11.2018", f"'06.11.2018' is not a date; {LEGAL}"),
        ("2018-11-06T09:47:26", f"'2018-11-06T09:47:26' is not a date; {LEGAL}"),
        ("2018-W45-2", f"'2018-W45-2' is not a date; {LEGAL}"),
        ("２０１８-11-06", f"'２０１８-11-06' is not a date; {LEGAL}"),
        ("2018-11-31", f"'2018-11-31' is not in the calendar; {LEGAL}"),
        ("2019-02-29", f"'2019-02-29' is not in the calendar; {LEGAL}"),
        ("2018-13-01", f"'2018-13-01' is not in the calendar; {LEGAL}"),
        ("0000-00-00", f"'0000-00-00' is not in the calendar; {LEGAL}"),
        ("2018-10-31", f"'2018-10-31' lies before Agora's first list in the catalog; {LEGAL}"),
        ("0001-01-01", f"'0001-01-01' lies before Agora's first list in the catalog; {LEGAL}"),
    ],
)
def test_parse_revision_refuses(text: str, message: str) -> None:
    with pytest.raises(RevisionError) as caught:
        parse_revision(text, CATALOG)
    assert str(caught.value) == message


@given(st.dates(min_value=datetime.date(2018, 11, 1)))
def test_every_day_from_the_first_list_on_is_a_revision(day: datetime.date) -> None:
    assert parse_revision(day.isoformat(), CATALOG) == day.isoformat()


def test_difference_of_natives_two_editions() -> None:
    change = difference(*CATALOG["native"].editions)
    assert change.tcp_added == PortSet.of(9700, 25000, 30000)
    assert change.udp_added == PortSet.of(7000, 8913)
    assert not change.tcp_removed
    assert not change.udp_removed
    assert change.domains_removed == ("vocs.agora.io", "qoslbs.agora.io", "qos.agora.io")
    assert str(change) == (
        "tcp +9700, 25000, 30000; udp +7000, 8913; domains +vocs1.agora.io, vocs2.agora.io, vocs3.agora.io, "
        "vocs4.agora.io, vocs5.agora.io, qoslbs.agoralab.co, qos.agoralab.co, ap1.agora.io, ap2.agora.io, "
        "ap3.agora.io, ap4.agora.io, ap5.agora.io -vocs.agora.io, qoslbs.agora.io, qos.agora.io"
    )


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (edition("2019-01-01"), edition("2019-02-01"), "same ports and domains"),
        (edition("2019-01-01", "80-90"), edition("2019-02-01", "85-95"), "tcp +91-95 -80-84"),
        (edition("2019-01-01", "80-90"), edition("2019-02-01", "80"), "tcp -81-90"),
        (
            edition("2019-01-01", udp=PortSet.of(5), udp_duplex=PortSet.of(7)),
            edition("2019-02-01", udp=PortSet.of(9), udp_duplex=PortSet.of(5)),
            "udp +9 -7",
        ),
        (
            edition("2025-09-11", domains=("*.ap.sd-rtn.com",)),
            edition("2025-09-15", domains=(".ap.sd-rtn.com", "qos.agoralab.co")),
            "domains +qos.agoralab.co",
        ),
    ],
)
def test_difference_in_one_line(old: Edition, new: Edition, text: str) -> None:
    assert str(difference(old, new)) == text


def test_difference_mirrored() -> None:
    first, second = CATALOG["native"].editions
    there, back = difference(first, second), difference(second, first)
    assert (there.tcp_added, there.udp_added, there.domains_added) == (
        back.tcp_removed,
        back.udp_removed,
        back.domains_removed,
    )
    assert (there.tcp_removed, there.udp_removed, there.domains_removed) == (
        back.tcp_added,
        back.udp_added,
        back.domains_added,
    )


BOTH = {"gone": WITHDRAWN, "living": Listing("living", "Living", (edition("2019-01-10"), edition("2020-01-01", "443")))}


@pytest.mark.parametrize(
    ("since", "revision", "texts"),
    [
        ("2019-01-10", "2019-02-01", {}),
        ("2019-02-01", "2019-09-15", {}),
        ("2019-02-01", "2019-09-16", {"gone": "tcp -80"}),
        ("2019-09-16", "2019-02-01", {"gone": "tcp +80"}),
        ("2019-02-01", "latest", {"gone": "tcp -80", "living": "tcp +443 -80"}),
    ],
)
def test_differences(since: str, revision: str, texts: dict[str, str]) -> None:
    assert {sdk: str(change) for sdk, change in differences(BOTH, since, revision).items()} == texts


def test_differences_tell_both_bad_revisions() -> None:
    with pytest.raises(RequestError) as caught:
        differences(CATALOG, "2018-10-31", "soon")
    assert [str(problem) for problem in caught.value.problems] == [
        f"since: '2018-10-31' lies before Agora's first list in the catalog; {LEGAL}",
        f"revision: 'soon' is not a date; {LEGAL}",
    ]


def test_difference_as_data() -> None:
    assert difference(*CATALOG["native"].editions).data() == {
        "tcp_added": ["9700", "25000", "30000"],
        "tcp_removed": [],
        "udp_added": ["7000", "8913"],
        "udp_removed": [],
        "domains_added": list(CATALOG["native"].editions[1].domains[1:]),
        "domains_removed": ["vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"],
    }


def test_the_catalog_as_data() -> None:
    data = catalog_data({"gone": WITHDRAWN, "recording": CATALOG["recording"]})
    assert json.loads(json.dumps(data)) == data
    assert list(data) == ["gone", "recording"]
    assert [edition["effective_from"] for edition in data["gone"].pop("editions")] == ["2019-01-10", "2019-03-01"]
    assert data["gone"] == {"title": "Gone", "withdrawn": "2019-09-16", "instead": "cloud proxy"}
    (recorded,) = data["recording"]["editions"]
    notes = recorded.pop("notes")
    assert len(notes) == 2
    assert recorded == {
        "effective_from": "2018-11-01",
        "source": "AgoraIO/Documentation, en/Agora Platform/firewall.md, cccb0d6af1e4",
        "tcp": ["1080", "8000"],
        "udp": [],
        "udp_duplex": ["1080", "4000-4030", "8000", "9700", "25000"],
        "udp_downstream": True,
        "domains": [".agora.io", "vocs.agora.io", "qoslbs.agora.io", "qos.agora.io"],
    }


@pytest.mark.parametrize("thing", [FIRST, LIVING, difference(FIRST, SECOND)], ids=lambda thing: type(thing).__name__)
def test_the_catalogs_things_are_values(thing: object) -> None:
    assert hash(thing) == hash(replace(thing))
    with pytest.raises(FrozenInstanceError):
        setattr(thing, fields(thing)[0].name, "")
