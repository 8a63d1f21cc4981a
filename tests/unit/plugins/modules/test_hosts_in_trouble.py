# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules say on hosts that are not as anybody expects: one clear error, and nothing has changed."""

from __future__ import annotations

import json
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._host.rollback import FOLDER
from netns import IPTABLES, NFTABLES, NetnsHost

ROOT = Path(__file__).resolve().parents[4]

# A module, as Ansible starts it, in a process that may have so many files open (0: as many as here).
_MODULE = f"""
import importlib, json, resource, sys
sys.path.insert(0, {str(ROOT / "collections")!r})
from ansible.module_utils import basic
name, options, files = json.loads(sys.argv[1])
basic._ANSIBLE_ARGS = json.dumps({{"ANSIBLE_MODULE_ARGS": options}}).encode()
basic._ANSIBLE_PROFILE = "legacy"
module = importlib.import_module("ansible_collections.openagora.firewall.plugins.modules." + name)
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
module.main()
"""


def result(host: NetnsHost, module: str, *, files: int = 0, **options: t.Any) -> dict[str, t.Any]:
    """What a module returns that runs on the host."""
    done = host.run([sys.executable, "-c", _MODULE, json.dumps([module, options, files])])
    assert "Traceback" not in done.err + done.out
    found: dict[str, t.Any] = json.loads(done.out)
    return found


LOCK = "/run/openagora-firewall.lock, which keeps two runs apart, cannot be opened: "
WEB: dict[str, t.Any] = {"sdks": ["web"]}
OTHER = {"name": "other", "count": 2, "low": 42000, "high": 42100}


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("mount -t tmpfs -o nr_inodes=2 tmpfs /run; : >/run/file", "No space left on device"),
        ("mount -t tmpfs -o ro tmpfs /run", "Read-only file system"),
        ("mkdir /run/openagora-firewall.lock", "Is a directory"),
    ],
)
def test_a_lock_that_cannot_be_had(host: NetnsHost, trouble: str, says: str) -> None:
    NFTABLES.close(host)
    before = host.live()
    host.sh(trouble)
    for options in (WEB, {"state": "absent"}):
        assert result(host, "apply", **options)["msg"].startswith(f"{LOCK}{says}")
    assert host.live() == before


def test_a_full_disk_names_the_file(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.live()
    host.sh("mount -t tmpfs -o size=8k tmpfs /var/lib")
    said = result(host, "apply", **WEB, confirm_within=20)["msg"]
    assert said.startswith(f"the rollback cannot be armed: [Errno 28] No space left on device: '{FOLDER}/new/")
    host.sh("mkdir /etc/openagora; mount -t tmpfs -o size=4k tmpfs /etc/openagora; echo full >/etc/openagora/file")
    said = result(host, "apply", **WEB)["msg"]
    assert "No space left on device: /etc/openagora/firewall/boot; everything is as it was before" in said
    assert host.live() == before


@pytest.mark.parametrize("prints", ["", "hello", "[]", '{"nftables": 1}'])
def test_an_nft_that_prints_no_listing(host: NetnsHost, prints: str) -> None:
    NFTABLES.close(host)
    before = host.live()
    host.stand_in("nft", f"echo '{prints}'")
    calls: list[tuple[str, dict[str, t.Any]]] = [
        *(("apply", {**WEB, "backend": backend}) for backend in ("auto", "nftables", "iptables")),
        ("apply", {"state": "absent"}),
        ("applied_info", {}),
        ("proof", {}),
    ]
    for module, options in calls:
        assert "nft -j printed no" in result(host, module, **options)["msg"]
    host.sh("rm /usr/local/sbin/nft")
    assert host.live() == before


def test_a_host_without_proc(host: NetnsHost) -> None:
    NFTABLES.close(host)
    before = host.live()
    host.sh("mount -t tmpfs tmpfs /proc")
    for module, options, says in (
        ("apply", {**WEB, "confirm_within": 20}, "/proc/sys/kernel/random/boot_id"),
        ("proof", {}, "/proc/self/status"),
        ("recording_ports", {"count": 2}, "is /proc mounted?"),
    ):
        assert says in result(host, module, **options)["msg"]
    host.sh("umount /proc")
    assert host.live() == before


@pytest.mark.parametrize("files", [6, 8, 11, 14])
def test_few_files_that_may_be_open(host: NetnsHost, files: int) -> None:
    IPTABLES.close(host)
    before = host.listing()
    for module, options in (("proof", {}), ("apply", {**WEB, "confirm_within": 20}), ("recording_ports", {"count": 2})):
        found = result(host, module, files=files, **options)
        assert found.get("failed") is None or "Too many open files" in found["msg"]
        if module == "apply" and "failed" in found:
            assert host.listing() == before
    assert "Too many open files" in result(host, "proof", files=files)["msg"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"rules": [], "lockdown": null}', '{"version": 2, "former": {}}', '{"version": 1, "former": {}}', "x"],
)
def test_what_was_before_of_another_version(host: NetnsHost, text: str) -> None:
    NFTABLES.close(host)
    host.put(f"{FOLDER}/former.json", text)
    before = host.live()
    for options in ({}, {"backend": "nftables", "confirm_within": 20}):
        said = result(host, "apply", state="restored", **options)["msg"]
        assert said.startswith(f"{FOLDER}/former.json does not tell what was before the last confirmed change (")
    assert host.live() == before
    assert result(host, "apply", **WEB)["changed"]


@pytest.mark.parametrize("text", ["", "boot", "boot later 1", "boot 100 2", "boot 100 1 1"])
def test_a_change_that_waits_of_another_version(host: NetnsHost, text: str) -> None:
    NFTABLES.close(host)
    host.put(f"{FOLDER}/pending/until", text)
    before = host.live()
    for module, options in (("apply", WEB), ("apply", {"state": "absent"}), ("applied_info", {})):
        said = result(host, module, **options)["msg"]
        assert said.startswith(f"{FOLDER}/pending/until does not tell how long a change waits for its confirmation: ")
    assert host.live() == before


@pytest.mark.parametrize("plan", [1, "x", [1], {"name": "a"}, {"name": "a", "processes": 3}])
def test_a_plan_that_is_none(host: NetnsHost, plan: t.Any) -> None:
    found = result(host, "recording_ports", count=2, making={"a": plan, "b": None, "c": {}})
    assert [problem["where"] for problem in found["problems"]] == ["making.a"]


def test_a_plan_of_another_name(host: NetnsHost) -> None:
    plan = result(host, "recording_ports", count=2)["plan"]
    assert "failed" not in result(host, "recording_ports", **OTHER, making={"default": plan})
    found = result(host, "recording_ports", **OTHER, making={"third": plan})
    assert found["msg"].startswith("making.third: it is plan 'default'; give what this module returned as plan")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("interface", name) for name in ("a\0b", "a/b", "a b", "a" * 16)),
        *(("user", name) for name in ("a\0b", "9" * 5000, "nobody at all")),
    ],
)
def test_a_name_that_is_none(host: NetnsHost, option: str, value: str) -> None:
    found = result(host, "proof", **{option: value})
    assert [problem["where"] for problem in found["problems"]] == [option]
