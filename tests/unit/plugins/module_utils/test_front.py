# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import typing as t

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._front import (
    REQUEST_OPTIONS,
    compile_options,
    errors_to_user,
    read_networks,
    read_passage,
    require_root,
    tell,
)
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import (
    Notice,
    Problem,
    RequestError,
)
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, Side
from netns import rule_set

DEFAULTS = {name: option.get("default") for name, option in REQUEST_OPTIONS.items()}


class FailedError(Exception):
    """What AnsibleModule does instead is to leave the process."""


class Module:
    """The two calls of AnsibleModule through which a user learns something."""

    def __init__(self) -> None:
        self.failure: dict[str, t.Any] = {}
        self.warnings: list[str] = []

    def fail_json(self, **result: t.Any) -> t.NoReturn:
        self.failure = result
        raise FailedError

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            RequestError([Problem("sdks[0]", "is wrong"), Problem("revision", "too")]),
            {
                "msg": str(RequestError([Problem("sdks[0]", "is wrong"), Problem("revision", "too")])),
                "problems": [
                    {"where": "sdks[0]", "message": "is wrong"},
                    {"where": "revision", "message": "too"},
                ],
            },
        ),
        (BackendError("no firewall"), {"msg": "no firewall"}),
        (StepError("a step failed"), {"msg": "a step failed"}),
    ],
)
def test_errors_to_user(error: Exception, failure: dict[str, t.Any]) -> None:
    module: t.Any = Module()
    with pytest.raises(FailedError), errors_to_user(module):
        raise error
    assert module.failure == failure


def test_errors_of_the_program_stay_what_they_are() -> None:
    module: t.Any = Module()
    with pytest.raises(KeyError), errors_to_user(module):
        raise KeyError


def test_options_are_compiled() -> None:
    assert compile_options({**DEFAULTS, "sdks": ["web"]}).rules == rule_set("web")
    options = {**DEFAULTS, "sdks": ["recording"], "recording_port_ranges": ["42000-43999"], "extra_ports": ["9/tcp"]}
    wanted = rule_set("recording", recording_port_ranges=["42000-43999"], extra_ports=["9/tcp"])
    assert compile_options(options).rules == wanted


@pytest.mark.parametrize("sdks", [None, []])
def test_no_sdks_are_a_problem(sdks: list[str] | None) -> None:
    with pytest.raises(RequestError, match="sdks"):
        compile_options({**DEFAULTS, "sdks": sdks})


@pytest.mark.parametrize(
    ("texts", "networks"),
    [
        ([], ()),
        (["192.0.2.1"], ("192.0.2.1/32",)),
        ([" 192.0.2.0/24 ", "2001:DB8::/32"], ("192.0.2.0/24", "2001:db8::/32")),
        (["2001:db8::1", "192.0.2.0/25", "192.0.2.128/25"], ("192.0.2.0/24", "2001:db8::1/128")),
        (["10.0.0.0/8", "10.1.2.3"], ("10.0.0.0/8",)),
        (["0.0.0.0/0", "::/0"], ("0.0.0.0/0", "::/0")),
    ],
)
def test_read_networks(texts: list[str], networks: tuple[str, ...]) -> None:
    assert read_networks(texts, "ingress_from") == networks


def test_all_bad_networks_are_named() -> None:
    texts = ["192.0.2.0/24", "192.0.2.1/24", "", "example.com", "10.0.0.0/33", "1.2.3", "2001:db8::/32; reboot"]
    with pytest.raises(RequestError) as error:
        read_networks(texts, "ingress_from")
    assert [problem.where for problem in error.value.problems] == [f"ingress_from[{index}]" for index in range(1, 7)]
    for problem in error.value.problems:
        assert problem.message.endswith("a network is needed, such as 192.0.2.0/24 or 2001:db8::/32")
    assert error.value.problems[0].message.startswith("192.0.2.1/24 has host bits set")


def test_networks_that_map_ipv4_into_ipv6_are_refused() -> None:
    """No packet of IPv6 has such an address."""
    with pytest.raises(RequestError) as error:
        read_networks(["::ffff:192.0.2.0/120", "::ffff:0:0/96", "::ffff:10.0.0.1", "::/0"], "ingress_from")
    assert [str(problem).partition(", whose")[0] for problem in error.value.problems] == [
        "ingress_from[0]: '::ffff:192.0.2.0/120' maps IPv4",
        "ingress_from[1]: '::ffff:0:0/96' maps IPv4",
        "ingress_from[2]: '::ffff:10.0.0.1' maps IPv4",
    ]
    assert "write 192.0.2.0/24" in error.value.problems[0].message


def test_an_error_is_as_long_as_somebody_reads() -> None:
    error = RequestError(Problem(f"sdks[{number}]", f"{'x' * 100_000} is not an SDK") for number in range(10_000))
    assert len(str(error)) < 100_000
    assert str(error).startswith("10000 problems: sdks[0]: xxx")
    assert "[... 99214 characters ...]" in str(error)
    assert str(error).endswith(" is not an SDK; and 9900 more")
    assert str(RequestError(error.problems)) == str(error)
    assert [problem["where"] for problem in error.data()] == [f"sdks[{number}]" for number in range(100)]


@pytest.mark.parametrize("uid", [0, 1000])
def test_require_root(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    module: t.Any = Module()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if uid:
        with pytest.raises(FailedError):
            require_root(module)
        assert "set become: true" in module.failure["msg"]
    else:
        require_root(module)


def test_tell() -> None:
    module: t.Any = Module()
    told = tell(module, [Notice("superseded", "revision", "is old"), Notice("not_at_boot", "/etc/x", "run it")])
    assert told == [
        {"code": "superseded", "where": "revision", "message": "is old"},
        {"code": "not_at_boot", "where": "/etc/x", "message": "run it"},
    ]
    assert module.warnings == ["revision: is old", "/etc/x: run it"]


HOST: dict[str, t.Any] = {"placement": ["host"], "inside": [], "outside": [], "recording_targets": []}
GATEWAY = {**HOST, "placement": ["gateway"], "inside": [{"interface": "eth1"}]}


@pytest.mark.parametrize(
    ("params", "passage"),
    [
        (HOST, Passage()),
        (GATEWAY, Passage((Side("interface", "eth1"),))),
        (
            {
                **GATEWAY,
                "placement": ["host", "gateway"],
                "inside": [{"source": "10.1.0.0/16"}, {"interface": "br-1.2", "zone": None}, {"source": "10.1.0.0/16"}],
                "outside": [{"zone": "public"}, {"source": "2001:db8::1"}],
                "recording_targets": ["10.0.0.5", "fd01::/64", "10.0.0.4"],
            },
            Passage(
                (Side("interface", "br-1.2"), Side("source", "10.1.0.0/16")),
                (Side("source", "2001:db8::1/128"), Side("zone", "public")),
                ("10.0.0.4/31", "fd01::/64"),
            ),
        ),
        (
            {**GATEWAY, "inside": [{"source": "10.0.0.0/8"}], "outside": [{"source": "0.0.0.0/0"}]},
            Passage((Side("source", "10.0.0.0/8"),), (Side("source", "0.0.0.0/0"),)),
        ),
    ],
)
def test_read_passage(params: dict[str, t.Any], passage: Passage) -> None:
    assert read_passage(params) == passage


@pytest.mark.parametrize(
    ("params", "problems"),
    [
        ({**HOST, "placement": []}, ["placement: is empty; host, gateway, or both"]),
        ({**GATEWAY, "inside": []}, ["inside: is needed with placement gateway"]),
        (
            {**HOST, "inside": [{"interface": "eth1"}], "recording_targets": ["10.0.0.5"]},
            ["inside: goes with placement gateway only", "recording_targets: goes with placement gateway only"],
        ),
        ({**GATEWAY, "outside": [{"interface": "eth1"}]}, ["outside: interface eth1 is inside too"]),
        ({**GATEWAY, "inside": [{"interface": "lo"}]}, ["inside[0]: interface lo is this host itself"]),
        (
            {**GATEWAY, "inside": [{"source": "10.0.0.0/8"}], "outside": [{"source": "10.1.0.0/16"}]},
            ["outside: source 10.1.0.0/16 has addresses of source 10.0.0.0/8, which is inside"],
        ),
        (
            {
                **GATEWAY,
                "inside": [{"source": "10.0.0.0/24"}, {"source": "10.2.0.9"}],
                "recording_targets": ["10.0.0.5", "10.1.0.5", "10.2.0.0/16", "fd01::5"],
            },
            [
                "recording_targets: 10.1.0.5/32 is not inside (10.0.0.0/24, 10.2.0.9/32), so nothing would reach it",
                "recording_targets: fd01::5/128 is not inside",
            ],
        ),
        (
            {
                **GATEWAY,
                "inside": [{}, {"interface": "eth1", "zone": "home"}, {"port": 1}, {"source": "10.0.0.1/8"}],
                "outside": [{"interface": "eth+"}, {"interface": 'a"b'}, {"interface": "a" * 16}, {"zone": "a b"}],
                "recording_targets": ["there"],
            },
            [
                "inside[0]: one of interface, zone, source is needed, not {}",
                "inside[1]: one of interface, zone, source is needed",
                "inside[2]: one of interface, zone, source is needed, not {'port': 1}",
                "inside[3]: 10.0.0.1/8 has host bits set",
                "outside[0]: 'eth+' is not the name of one interface",
                "outside[1]: 'a\"b' is not the name of one interface",
                "outside[2]: 'aaaaaaaaaaaaaaaa' is not the name of one interface",
                "outside[3]: 'a b' is not the name of one zone",
                "recording_targets[0]: 'there' does not appear to be an IPv4 or IPv6 network",
            ],
        ),
    ],
)
def test_read_passage_lists_every_problem(params: dict[str, t.Any], problems: list[str]) -> None:
    with pytest.raises(RequestError) as raised:
        read_passage(params)
    found = [f"{problem.where}: {problem.message}" for problem in raised.value.problems]
    assert len(found) == len(problems)
    for text, expected in zip(found, problems):
        assert text.startswith(expected)
