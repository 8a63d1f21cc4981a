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
    require_root,
    tell,
)
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import StepError
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import (
    Notice,
    Problem,
    RequestError,
)
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
