# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is rendered, word for word, and each of it read by the program that it is for.

After a change that is meant, `OPENAGORA_GOLDEN=write pytest tests/unit -k golden` writes the files anew.
"""

from __future__ import annotations

import os
import re
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.boot import (
    SCRIPT_PATH,
    UNIT_PATH,
    Boot,
    plan,
)
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import Command, WriteFile
from ansible_collections.openagora.firewall.plugins.module_utils._model.rules import Passage, Side
from netns import IPTABLES, NFTABLES, Firewall, NetnsHost, rule_set

GOLDEN = Path(__file__).parent / "golden"
# The folders in it are those of backends whose own tests compare them.
FILES = sorted(path for path in GOLDEN.iterdir() if path.is_file())

REQUESTS = {
    "all": rule_set(),
    "networks": rule_set("recording", ingress_from=["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]),
    "gateway": rule_set("recording", "web").placed(
        ["gateway"],
        Passage(
            inside=(Side("interface", "in0"), Side("source", "fd01::/16")),
            outside=(Side("interface", "out0"),),
            targets=("10.0.0.5/32", "fd01::5/128"),
        ),
    ),
}
UNITS = {
    "unit-alone": Boot(systemd=True, script=None, unit=None),
    "unit-early": Boot(
        systemd=True, script=None, unit=None, loaders=("netfilter-persistent.service", "nftables.service")
    ),
    "unit-late": Boot(systemd=True, script=None, unit=None, loaders=("nftables.service",), early=False),
}


def compare(name: str, text: str) -> None:
    """Compare with a golden file."""
    path = GOLDEN / name
    if os.environ.get("OPENAGORA_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def written(steps: t.Iterable[t.Any], path: str) -> str:
    """The text that a plan writes to a path."""
    (text,) = [
        action.text for step in steps for action in step.do if isinstance(action, WriteFile) and action.path == path
    ]
    return text


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("backend", [NFTABLES, IPTABLES], ids=lambda firewall: firewall.name)
def test_golden_rules(host: NetnsHost, backend: Firewall, name: str) -> None:
    backend.close(host)
    steps = prepare(host, REQUESTS[name], backend=backend.backend).plan.steps
    for step in steps:
        for action in step.do:
            if isinstance(action, Command):
                command = "nft" if backend is NFTABLES else action.argv[0].partition("-")[0]
                assert action.stdin
                compare(f"{name}.{command}", action.stdin)
    compare(f"{name}.{backend.name}-boot", written(steps, SCRIPT_PATH))


@pytest.mark.parametrize("name", UNITS)
def test_golden_units(name: str) -> None:
    compare(f"{name}.service", written(plan(UNITS[name], "a script"), UNIT_PATH))


def test_no_golden_file_is_left_over() -> None:
    rules = {f"{name}.{kind}" for name in REQUESTS for kind in ("nft", "iptables", "ip6tables")}
    boot = {f"{name}.{backend.name}-boot" for name in REQUESTS for backend in (NFTABLES, IPTABLES)}
    assert {path.name for path in FILES} == rules | boot | {f"{name}.service" for name in UNITS}


READERS = {
    "nft": "nft --check --file -",
    "iptables": "iptables-restore --test --noflush",
    "ip6tables": "ip6tables-restore --test --noflush",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_golden_files_are_read_by_what_they_are_for(host: NetnsHost, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    NFTABLES.close(host)
    IPTABLES.close(host)
    kind = path.name.partition(".")[2]
    if kind in READERS:
        before = host.listing()
        host.sh(READERS[kind], stdin=text)
        assert host.listing() == before
        # The reader is one that can refuse.
        broken = text.replace("openagora", "\n#;", 1)
        assert host.run(READERS[kind].split(), stdin=broken).code != 0
    elif kind == "service":
        check_unit(text)
        if shutil.which("systemd-analyze"):
            host.put(f"/run/verify/{path.name}", text)
            done = host.run(["systemd-analyze", "verify", "--man=no", f"/run/verify/{path.name}"])
            assert (done.code, done.err) == (0, "")
    else:
        host.put(SCRIPT_PATH, text)
        host.sh(f"sh -n {SCRIPT_PATH}")
        assert host.boot() == ""


DIRECTIVES = {
    "Unit": [
        "Description",
        "ConditionPathExists",
        "DefaultDependencies",
        "After",
        "Before",
        "Wants",
        "Conflicts",
        "StartLimitIntervalSec",
        "PartOf",
        "ReloadPropagatedFrom",
    ],
    "Service": ["Type", "RemainAfterExit", "ExecStart", "ExecReload"],
    "Install": ["WantedBy"],
}


def check_unit(text: str) -> None:
    """Each directive in its section and once, and no order that is a cycle."""
    section, values = "", {}
    for line in text.splitlines():
        heading = re.fullmatch(r"\[(\w+)\]", line)
        if heading:
            section = heading[1]
        elif line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator
            assert name in DIRECTIVES[section]
            assert name not in values
            assert all(re.fullmatch(r"[\w./-]+", word) for word in value.split()) or name == "Description"
            values[name] = value.split()
    assert section == "Install"
    assert not set(values["After"]) & set(values["Before"])
    assert values["ExecStart"] == values["ExecReload"] == ["/bin/sh", SCRIPT_PATH]
    early = "sysinit.target" in values["Before"]
    assert ("sysinit.target" if early else "multi-user.target") in values["WantedBy"]
    assert values.get("PartOf", []) == values.get("ReloadPropagatedFrom", []) == values["WantedBy"][1:]
    assert values["After"] == ["local-fs.target", *values.get("PartOf", [])]
