# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools
import typing as t
from contextlib import suppress

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._catalog import CATALOG
from ansible_collections.openagora.firewall.plugins.module_utils._catalog.editions import Edition, Listing
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Compiled, Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import changes
from document import COMBINATIONS, DOCUMENT, SDKS, egress, expand, ingress
from hypothesis import given
from hypothesis import strategies as st

DIRECTIONS = {
    ("egress", "tcp"): egress,
    ("egress", "udp"): egress,
    ("ingress", "tcp"): ingress,
    ("ingress", "udp"): ingress,
}

combinations = pytest.mark.parametrize("sdks", COMBINATIONS, ids="+".join)


def compiled(*sdks: str, **options: t.Any) -> Compiled:
    return compile_request(Request.of(sdks=sdks, **options))


def numbers(texts: list[str]) -> list[tuple[int, int]]:
    """The ranges that texts stand for, read without the collection's own parser."""
    return [(int(text.split("-")[0]), int(text.split("-")[-1])) for text in texts]


def test_there_are_31_combinations() -> None:
    assert len(set(COMBINATIONS)) == 31


@combinations
def test_rules_are_the_union_of_the_documents_lists(sdks: tuple[str, ...]) -> None:
    rules = {(rule["direction"], rule["protocol"]): rule for rule in compiled(*sdks).rules.data()}
    for (direction, protocol), listed in DIRECTIONS.items():
        wanted = {sdk: listed(sdk, protocol) for sdk in sdks if listed(sdk, protocol)}
        rule = rules.pop((direction, protocol), {"scope": "any", "ports": [], "sdks": {}})
        assert expand(numbers(rule["ports"])) == set().union(*wanted.values())
        assert {sdk: expand(numbers(texts)) for sdk, texts in rule["sdks"].items()} == wanted
        assert rule["scope"] == "any"
    assert not rules


@combinations
def test_ingress_comes_with_recording_only(sdks: tuple[str, ...]) -> None:
    incoming = [rule for rule in compiled(*sdks).rules if rule.direction == "ingress"]
    assert bool(incoming) == ("recording" in sdks)
    for rule in incoming:
        assert rule.protocol == "udp"
        assert [sdk for sdk, _ports in rule.needs] == ["recording"]


@combinations
def test_no_two_ranges_of_a_rule_overlap_or_touch(sdks: tuple[str, ...]) -> None:
    for rule in compiled(*sdks).rules.data():
        for texts in (rule["ports"], *rule["sdks"].values()):
            ranges = numbers(texts)
            assert all(low <= high for low, high in ranges)
            assert all(high + 1 < low for (_low, high), (low, _high) in zip(ranges, ranges[1:]))


@combinations
def test_the_allowlist_is_minimal(sdks: tuple[str, ...]) -> None:
    listed = {name for sdk in sdks for name in DOCUMENT[sdk]["domains"]}
    # Every list of the document has the suffix .agora.io, and no other one.
    wanted = {".agora.io"} | {name for name in listed if not name.endswith(".agora.io")}
    assert list(compiled(*sdks).rules.domains) == sorted(wanted)


@pytest.mark.parametrize("sdk", SDKS)
def test_by_sdk_is_what_the_document_says(sdk: str) -> None:
    (published,) = compiled(sdk).by_sdk.values()
    listed = DOCUMENT[sdk]
    for field in ("tcp", "udp", "udp_duplex"):
        assert expand(numbers(published[field])) == expand(listed[field])
    assert published["udp_downstream"] == (["40000-41000"] if sdk == "recording" else [])
    assert published["domains"] == listed["domains"]
    assert published["effective_from"] == ("2018-11-06" if sdk == "native" else "2018-11-01")
    assert published["source"].startswith("AgoraIO/Documentation, en/Agora Platform/firewall.md, ")


@combinations
def test_the_order_of_the_request_does_not_matter(sdks: tuple[str, ...]) -> None:
    first = compiled(*sdks)
    assert all(compiled(*order) == first for order in itertools.permutations(sdks))
    assert list(first.by_sdk) == [sdk for sdk in SDKS if sdk in sdks]


def test_names_are_stripped_lower_cased_and_taken_once() -> None:
    assert compiled(" Web ", "web", "NATIVE\n") == compiled("native", "web")


@pytest.mark.parametrize(("gone", "kept"), list(itertools.permutations(SDKS, 2)))
def test_what_another_sdk_needs_stays_when_one_goes(gone: str, kept: str) -> None:
    left = changes(compiled(gone, kept).rules, compiled(kept).rules)
    assert left
    assert all(change.after == ((kept,) if kept in change.before else ()) for change in left)
    closed = {
        (change.rule.direction, change.rule.protocol, port)
        for change in left
        if not change.after
        for port in range(change.low, change.high + 1)
    }
    assert closed == {
        (direction, protocol, port)
        for (direction, protocol), listed in DIRECTIONS.items()
        for port in listed(gone, protocol) - listed(kept, protocol)
    }


def test_the_first_revision_has_natives_old_list() -> None:
    old = compiled("native", revision="2018-11-01")
    assert old.revision == "2018-11-01"
    assert [rule.ports.texts() for rule in old.rules] == [
        ["1080", "8000"],
        ["1080", "4000-4030", "8000", "9700", "25000"],
    ]
    assert list(old.rules.domains) == [".agora.io"]


@pytest.mark.parametrize("revision", ["2018-11-06", "latest", "2018-12-24"])
def test_the_newest_editions_have_no_notice(revision: str) -> None:
    assert compiled(*SDKS, revision=revision).notices == ()


def test_superseded_editions_have_one_notice() -> None:
    (notice,) = compiled("native", "web", revision="2018-11-05").notices
    assert (notice.code, notice.where) == ("superseded", "revision")
    assert notice.message == (
        "superseded at revision 2018-11-05: native since 2018-11-06 (tcp +9700, 25000, 30000; udp +7000, 8913; "
        "domains +vocs1.agora.io, vocs2.agora.io, vocs3.agora.io, vocs4.agora.io, vocs5.agora.io, qoslbs.agoralab.co, "
        "qos.agoralab.co, ap1.agora.io, ap2.agora.io, ap3.agora.io, ap4.agora.io, ap5.agora.io "
        "-vocs.agora.io, qoslbs.agora.io, qos.agora.io). "
        "revision: latest takes the newest edition in the installed catalog"
    )


def edition(day: str, tcp: str) -> Edition:
    return Edition(day, source="", tcp=PortSet.parse(tcp), udp=PortSet(), domains=("agora.io",))


# What the catalog of a later day looks like: an SDK that came late, one that changed twice, two that are gone.
LATER = {
    "late": Listing("late", "Agora Late SDK", (edition("2019-05-24", "443"),)),
    "web": Listing("web", "Agora Web SDK", tuple(edition(f"20{year}-01-01", f"{year}") for year in (18, 20, 22))),
    "bare": Listing("bare", "Agora Bare SDK", (edition("2018-11-01", "80"),), withdrawn="2020-09-16"),
    "gone": Listing(
        "gone", "Agora Gone SDK", (edition("2018-11-01", "80"),), withdrawn="2020-09-16", instead="cloud proxy"
    ),
}


def test_a_withdrawn_list_is_named_as_long_as_it_holds() -> None:
    request = Request.of(sdks=["gone", "late", "web"], revision="2019-06-01", catalog=LATER)
    (notice,) = compile_request(request, LATER).notices
    assert notice.message == (
        "superseded at revision 2019-06-01: web since 2020-01-01 (tcp +22 -18); "
        "gone has no list since 2020-09-16 (cloud proxy). "
        "revision: latest takes the newest edition in the installed catalog"
    )


@pytest.mark.parametrize(
    ("sdk", "revision", "message"),
    [
        (
            "gone",
            "latest",
            "Agora Gone SDK had a list from 2018-11-01 until 2020-09-16, none on 2022-01-01; "
            "since then Agora offers cloud proxy",
        ),
        ("bare", "2020-09-16", "Agora Bare SDK had a list from 2018-11-01 until 2020-09-16, none on 2020-09-16"),
        ("late", "2019-05-23", "Agora Late SDK had a list from 2019-05-24, none on 2019-05-23"),
    ],
)
def test_an_sdk_without_a_list_at_the_revision(sdk: str, revision: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request.of(sdks=[sdk], revision=revision, catalog=LATER)
    assert [(problem.where, problem.message) for problem in caught.value.problems] == [("sdks[0]", message)]


@pytest.mark.parametrize(
    ("ranges", "texts"),
    [
        (["42000-43999"], ["1080", "4000-4030", "8000", "9700", "25000", "42000-43999"]),
        (["40000 ~ 41000"], ["1080", "4000-4030", "8000", "9700", "25000", "40000-41000"]),
        (
            ["50000-50010", "50011 to 50020; 60000"],
            ["1080", "4000-4030", "8000", "9700", "25000", "50000-50020", "60000"],
        ),
        (["1000-30000"], ["1000-30000"]),
    ],
)
def test_recording_port_ranges_are_ingress_only(ranges: list[str], texts: list[str]) -> None:
    result = compiled("recording", recording_port_ranges=ranges)
    (incoming,) = [rule for rule in result.rules if rule.direction == "ingress"]
    assert incoming.ports.texts() == texts
    default = compiled("recording")
    assert [rule for rule in result.rules if rule.direction == "egress"] == [
        rule for rule in default.rules if rule.direction == "egress"
    ]


def test_recording_port_ranges_mean_nothing_without_recording() -> None:
    assert compiled("web", recording_port_ranges=["42000-43999"]) == compiled("web")
    assert compiled("web", recording_port_ranges=[]) == compiled("web")


def test_extra_ports_are_egress_and_named_extra() -> None:
    rules = {
        (rule.direction, rule.protocol): rule
        for rule in compiled("web", extra_ports=["444/tcp", "5000-5010/UDP", "80, 444/tcp"]).rules
    }
    assert sorted(rules) == [("egress", "tcp"), ("egress", "udp")]
    assert dict(rules["egress", "tcp"].needs)["extra"] == PortSet.of(80, 444)
    assert dict(rules["egress", "udp"].needs)["extra"] == PortSet.of((5000, 5010))
    assert not PortSet.of(80, (443, 444)) - rules["egress", "tcp"].ports


def test_extra_domains_join_the_minimal_allowlist() -> None:
    result = compiled("web", extra_domains=["*.Example.com", "www.example.com", "x.agora.io"])
    assert list(result.rules.domains) == [".agora.io", ".example.com"]


def test_scope_names_never_reaches_udp() -> None:
    result = compiled("native", "recording", scope="names")
    assert {(rule.direction, rule.protocol, rule.scope) for rule in result.rules} == {
        ("egress", "tcp", "names"),
        ("egress", "udp", "any"),
        ("ingress", "udp", "any"),
    }
    domains = [".agora.io", "qos.agoralab.co", "qoslbs.agoralab.co"]
    assert [rule["domains"] for rule in result.rules.data() if rule["scope"] == "names"] == [domains]
    assert [notice.code for notice in result.notices] == ["udp_not_named"]


KNOWN = "Known: native, web, signaling, recording, gaming"
LEGAL = "a revision is 'latest' or a date from 2018-11-01 on, written YYYY-MM-DD"
PROTOCOL = "needs a protocol, as in 443/tcp or 5000-5010/udp"


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        (
            {"sdks": []},
            [
                (
                    "sdks",
                    "is empty or not set; name the SDKs in use. "
                    "With a list on 2018-11-06: native, web, signaling, recording, gaming",
                )
            ],
        ),
        ({"sdks": ["webb"]}, [("sdks[0]", f"'webb' is not an SDK; did you mean 'web'? {KNOWN}")]),
        ({"sdks": ["web", "Recordng"]}, [("sdks[1]", f"'recordng' is not an SDK; did you mean 'recording'? {KNOWN}")]),
        ({"sdks": ["zoom"]}, [("sdks[0]", f"'zoom' is not an SDK. {KNOWN}")]),
        ({"sdks": ["web,native"]}, [("sdks[0]", f"'web,native' is not an SDK; did you mean 'native'? {KNOWN}")]),
        ({"sdks": [" "]}, [("sdks[0]", f"is empty. {KNOWN}")]),
        (
            {"revision": "2018-10-31"},
            [("revision", f"'2018-10-31' lies before Agora's first list in the catalog; {LEGAL}")],
        ),
        ({"revision": "yesterday"}, [("revision", f"'yesterday' is not a date; {LEGAL}")]),
        ({"recording_port_ranges": ["0-5"]}, [("recording_port_ranges[0]", "'0-5': ports are 1-65535")]),
        (
            {"recording_port_ranges": ["40000-41000", "5-3"]},
            [("recording_port_ranges[1]", "'5-3': a range begins with its lower port, as in 3-5")],
        ),
        (
            {"sdks": ["recording"], "recording_port_ranges": []},
            [("recording_port_ranges", "is empty, but recording needs a range such as 40000-41000")],
        ),
        ({"extra_ports": ["443"]}, [("extra_ports[0]", f"'443' {PROTOCOL}")]),
        ({"extra_ports": ["443/sctp"]}, [("extra_ports[0]", f"'443/sctp' {PROTOCOL}")]),
        ({"extra_ports": ["tcp"]}, [("extra_ports[0]", f"'tcp' {PROTOCOL}")]),
        ({"extra_ports": ["65536/udp"]}, [("extra_ports[0]", "'65536': ports are 1-65535")]),
        (
            {"extra_ports": ["/tcp"]},
            [("extra_ports[0]", "is empty; a port or a range of ports is needed, as in 80, 5668-5669")],
        ),
        (
            {"extra_domains": ["agora.io", "a b.io"]},
            [
                (
                    "extra_domains[1]",
                    "'a b.io': 'a b' is not a label of a host name (letters, digits and, not at its ends, hyphens)",
                )
            ],
        ),
        ({"scope": "networks"}, [("scope", "'networks' is not one of any, names")]),
    ],
)
def test_a_bad_request_is_refused(options: dict, problems: list[tuple[str, str]]) -> None:
    with pytest.raises(RequestError) as caught:
        Request.of(**{"sdks": ["web"], **options})
    assert [(problem.where, problem.message) for problem in caught.value.problems] == problems


def test_all_problems_of_a_request_are_told_together() -> None:
    with pytest.raises(RequestError) as caught:
        Request.of(
            sdks=["webb", "native", ""],
            revision="2018-02-30",
            recording_port_ranges=["0"],
            scope="all",
            extra_ports=["1", "2/tcp", "0/udp"],
            extra_domains=["localhost"],
        )
    where = [problem.where for problem in caught.value.problems]
    assert sorted(where) == [
        "extra_domains[0]",
        "extra_ports[0]",
        "extra_ports[2]",
        "recording_port_ranges[0]",
        "revision",
        "scope",
        "sdks[0]",
        "sdks[2]",
    ]
    assert str(caught.value).startswith("8 problems: revision: '2018-02-30' is not in the calendar; ")
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)


TEXTS = st.lists(st.text(max_size=12), max_size=3)


@given(sdks=TEXTS, ranges=TEXTS, ports=TEXTS, domains=TEXTS, revision=st.text(max_size=12), scope=st.text(max_size=5))
def test_whatever_a_request_holds_the_answer_is_a_request_or_its_problems(
    sdks: list[str], ranges: list[str], ports: list[str], domains: list[str], revision: str, scope: str
) -> None:
    options = {"recording_port_ranges": ranges, "extra_ports": ports, "extra_domains": domains}
    with suppress(RequestError):
        Request.of(sdks=sdks, revision=revision, scope=scope, **options)


def test_the_catalog_is_only_read() -> None:
    before = {sdk: listing.editions for sdk, listing in CATALOG.items()}
    compiled(*SDKS)
    assert {sdk: listing.editions for sdk, listing in CATALOG.items()} == before
