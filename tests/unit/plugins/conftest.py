# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway hosts as fixtures, see `netns`."""

from __future__ import annotations

import typing as t

import pytest
from netns import FIREWALLS, Firewall, NetnsHost


@pytest.fixture
def host() -> t.Iterator[NetnsHost]:
    """A host without any firewall."""
    with NetnsHost() as host:
        yield host


@pytest.fixture(params=FIREWALLS, ids=lambda firewall: firewall.name)
def firewall(request: pytest.FixtureRequest) -> Firewall:
    """Each kind of firewall in turn."""
    return request.param


@pytest.fixture
def closed(host: NetnsHost, firewall: Firewall) -> NetnsHost:
    """A host whose firewall drops everything in both directions."""
    firewall.close(host)
    return host
