# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._catalog import CATALOG, DEFAULT_REVISION
from ansible_collections.openagora.firewall.plugins.module_utils._catalog.editions import Edition, in_force
from ansible_collections.openagora.firewall.plugins.module_utils._model.domains import normalise
from ansible_collections.openagora.firewall.plugins.module_utils._model.ports import PortSet
from document import DOCUMENT, SDKS, expand

EDITIONS = [(sdk, edition) for sdk, listing in CATALOG.items() for edition in listing.editions]


def published(sdk: str, revision: str) -> Edition:
    edition = in_force(CATALOG[sdk], revision)
    assert edition is not None
    return edition


def test_the_sdks_stand_in_the_documents_order() -> None:
    assert tuple(CATALOG) == SDKS
    assert all(listing.sdk == sdk for sdk, listing in CATALOG.items())
    assert [listing.title for listing in CATALOG.values()] == [
        "Agora Native SDK",
        "Agora Web SDK",
        "Agora Signaling SDK",
        "Agora Recording SDK",
        "Agora Gaming SDK",
    ]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("field", ["tcp", "udp", "udp_duplex"])
def test_the_default_revision_has_the_documents_ports(sdk: str, field: str) -> None:
    ports: PortSet = getattr(published(sdk, DEFAULT_REVISION), field)
    assert set(ports) == expand(DOCUMENT[sdk][field])


@pytest.mark.parametrize("sdk", SDKS)
def test_the_default_revision_has_the_documents_domains_in_its_order(sdk: str) -> None:
    assert list(published(sdk, DEFAULT_REVISION).domains) == DOCUMENT[sdk]["domains"]


@pytest.mark.parametrize("sdk", SDKS)
def test_only_recording_has_ports_that_receive(sdk: str) -> None:
    edition = published(sdk, DEFAULT_REVISION)
    assert edition.udp_downstream is DOCUMENT[sdk]["udp_downstream"]
    assert bool(edition.udp_duplex) is (sdk == "recording")


def test_the_first_document_gave_native_what_gaming_kept() -> None:
    native, gaming = published("native", "2018-11-01"), published("gaming", "2018-11-01")
    assert (native.tcp, native.udp, native.domains) == (gaming.tcp, gaming.udp, gaming.domains)


@pytest.mark.parametrize(
    ("sdk", "dates"),
    [
        ("native", ["2018-11-01", "2018-11-06"]),
        ("web", ["2018-11-01"]),
        ("signaling", ["2018-11-01"]),
        ("recording", ["2018-11-01"]),
        ("gaming", ["2018-11-01"]),
    ],
)
def test_dates(sdk: str, dates: list[str]) -> None:
    assert [edition.effective_from for edition in CATALOG[sdk].editions] == dates


@pytest.mark.parametrize("sdk", SDKS)
def test_editions_ascend(sdk: str) -> None:
    dates = [edition.effective_from for edition in CATALOG[sdk].editions]
    assert dates == sorted(set(dates))


@pytest.mark.parametrize(("sdk", "edition"), EDITIONS)
def test_an_edition_names_repository_path_and_commit(sdk: str, edition: Edition) -> None:
    repository, path, commit = edition.source.split(", ")
    assert repository == "AgoraIO/Documentation"
    assert path == "en/Agora Platform/firewall.md"
    assert commit == {"2018-11-01": "cccb0d6af1e4", "2018-11-06": "8f0b9588a9d3"}[edition.effective_from]


@pytest.mark.parametrize(("sdk", "edition"), EDITIONS)
def test_published_domains_can_be_read(sdk: str, edition: Edition) -> None:
    assert edition.domains
    assert [normalise(name) for name in edition.domains] == list(edition.domains)
