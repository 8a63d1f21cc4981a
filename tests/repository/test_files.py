# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every file has its header, and what stands in two places agrees."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import yaml

if t.TYPE_CHECKING:
    from conftest import Repository

HEADER = Path(__file__).read_text(encoding="utf-8").splitlines()[:3]
CHANGES = Path("changelogs/changelog.yaml")


def version_of(text: str) -> tuple[int, ...]:
    """A version as numbers, to compare."""
    return tuple(int(part) for part in text.split("."))


def documentation_of(path: Path) -> dict[str, t.Any]:
    """The DOCUMENTATION of a plugin or of a fragment."""
    found = re.search(r'DOCUMENTATION = r?"""\n(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(found[1]) if found else {}


def test_every_file_begins_with_the_header(repository: Repository) -> None:
    wrong: list[str] = []
    for path in repository.files:
        if path.parts[0] == "LICENSES" or path.suffix in (".md", ".json") or "golden" in path.parts or path == CHANGES:
            continue  # REUSE.toml speaks for these
        lines = (repository.root / path).read_text(encoding="utf-8").splitlines()
        while lines and lines[0].startswith(("#!", "---", "<?xml", "<!--", "{#")):
            lines = lines[1:]
        # The comments of XML have no sign for each line.
        plain = [line.removeprefix("# ") for line in HEADER] if path.suffix == ".xml" else HEADER
        if lines and lines[:3] != plain:
            wrong.append(str(path))
    assert wrong == []


def test_the_version_stands_in_galaxy_yml_alone(repository: Repository) -> None:
    version = repository.galaxy["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    elsewhere = []
    for path in repository.files:
        if path.parts[0] in ("changelogs", "CHANGELOG.md", "galaxy.yml"):
            continue
        for line in (repository.root / path).read_text(encoding="utf-8").splitlines():
            if re.search(rf"(?<![\d.]){re.escape(version)}(?![\d.])", line) and "version_added" not in line:
                elsewhere.append(f"{path}: {line.strip()}")
    assert elsewhere == []


def test_nothing_was_added_in_a_later_version_than_this(repository: Repository) -> None:
    version = version_of(repository.galaxy["version"])
    later = []
    for path in repository.files:
        if path.parts[0] in ("plugins", "roles"):
            text = (repository.root / path).read_text(encoding="utf-8")
            added = re.findall(r"version_added: [\"']?([\d.]+)", text)
            later += [f"{path}: {one}" for one in added if version_of(one) > version]
    assert later == []


def test_the_action_group_is_the_modules_that_take_the_request_options(repository: Repository) -> None:
    taking = [
        path.stem
        for path in sorted((repository.root / "plugins" / "modules").glob("*.py"))
        if "openagora.firewall.request" in documentation_of(path).get("extends_documentation_fragment", [])
    ]
    assert taking
    assert sorted(repository.load("meta/runtime.yml")["action_groups"]["request"]) == taking


def test_the_checkout_is_a_collections_path(repository: Repository) -> None:
    galaxy = repository.galaxy
    link = repository.root / "collections" / "ansible_collections" / galaxy["namespace"] / galaxy["name"]
    assert link.is_symlink()
    assert link.resolve() == repository.root
