# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built collection holds what it should, installs, and works without anything else of the checkout."""

from __future__ import annotations

import re
import shutil
import tarfile
import typing as t

import pytest

if t.TYPE_CHECKING:
    from pathlib import Path

    from conftest import Repository

SHIPPED = {"meta", "playbooks", "plugins", "roles"}
PROSE = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSES", "README.md", "REUSE.toml", "changelogs", "docs"}


@pytest.fixture(scope="module")
def archive(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, built from the checkout."""
    folder = tmp_path_factory.mktemp("built")
    repository.run("ansible-galaxy", "collection", "build", "--output-path", str(folder))
    galaxy = repository.galaxy
    return folder / f"{galaxy['namespace']}-{galaxy['name']}-{galaxy['version']}.tar.gz"


@pytest.fixture(scope="module")
def installed(repository: Repository, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed collection, with everything but its four folders deleted."""
    collections = tmp_path_factory.mktemp("installed")
    # From elsewhere: in the checkout the collection is there already, through the link in collections.
    repository.run(
        "ansible-galaxy", "collection", "install", "--offline", "--collections-path", str(collections), str(archive),
        cwd=collections,
    )  # fmt: skip
    folder = collections / "ansible_collections" / "openagora" / "firewall"
    for path in folder.iterdir():
        if path.name not in SHIPPED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def test_the_archive_holds_what_is_shipped(repository: Repository, archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = {name for name in tar.getnames() if not tar.getmember(name).isdir()}
    assert {name.split("/")[0] for name in names} - PROSE == SHIPPED | {"FILES.json", "MANIFEST.json"}
    ours = {str(path) for path in repository.files if path.parts[0] in SHIPPED}
    assert {name for name in names if name.split("/")[0] in SHIPPED} == ours
    assert archive.stat().st_size < 1_000_000


def test_the_installed_collection_opens_and_closes_a_host(
    repository: Repository, installed: Path, sandboxes: Path, tmp_path: Path
) -> None:
    def play(name: str, *arguments: str) -> tuple[int, str]:
        inventory = installed / "playbooks" / "inventory" / "sandbox.yml"
        done = repository.run(
            "ansible-playbook", f"--inventory={inventory}", *arguments, f"openagora.firewall.{name}", **environment
        )
        changed = re.search(r"sandbox +: ok=\d+ +changed=(\d+)", done.stdout)
        assert changed, done.stdout
        return int(changed[1]), done.stdout

    environment = {
        "ANSIBLE_COLLECTIONS_PATH": str(installed.parents[2]),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",  # no other collection: ansible-core alone has to do
        "OPENAGORA_SANDBOX_DIRECTORY": str(sandboxes),
        "cwd": tmp_path,
    }
    assert play("open_agora", "--check")[0] == 1
    assert play("open_agora")[0] == 1
    assert play("open_agora")[0] == 0
    assert play("close_agora")[0] == 1
    assert play("close_agora")[0] == 0
