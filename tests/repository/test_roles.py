# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's argument spec, its defaults and the READMEs name the same things."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
import readme
from ansible_collections.openagora.firewall.plugins.action import apply

if t.TYPE_CHECKING:
    from conftest import Repository

ROLES = readme.roles()


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Path:
    """Each role in turn."""
    return request.param


def test_there_are_roles() -> None:
    assert ROLES


def test_the_argument_spec_and_the_defaults_name_the_same_variables(role: Path) -> None:
    optional = {name for name, option in readme.options_of(role).items() if not option.get("required")}
    assert optional == set(readme.defaults_of(role))


def test_variables_carry_the_name_of_the_role(role: Path) -> None:
    assert [name for name in readme.options_of(role) if not name.startswith(f"{role.name}_")] == []


def test_every_variable_is_described(role: Path) -> None:
    options = readme.options_of(role)
    assert [name for name, option in options.items() if not option.get("description")] == []
    assert [name for name, option in options.items() if not option.get("type")] == []
    assert [name for name, option in options.items() if option["type"] == "list" and "elements" not in option] == []


def values_of(repository: Repository, role: Path, *arguments: str) -> dict[str, t.Any]:
    """What the role's defaults come to when these arguments stand on Ansible's command line."""
    wanted = ", ".join(f"{name!r}: {name}" for name in readme.defaults_of(role))
    done = repository.run(
        "ansible", "localhost", "--inventory=localhost,", f"--extra-vars=@{role / 'defaults' / 'main.yml'}", *arguments,
        "--module-name=ansible.builtin.debug", f"--args=msg={{{{ {{{wanted}}} }}}}",
        ANSIBLE_CALLBACK_RESULT_FORMAT="json",
    )  # fmt: skip
    return json.loads(done.stdout.partition("=>")[2])["msg"]


def test_the_documented_defaults_are_the_real_ones(repository: Repository, role: Path) -> None:
    options = readme.options_of(role)
    assert values_of(repository, role) == {name: option["default"] for name, option in options.items()}


def test_shared_variables_work_from_the_command_line(repository: Repository, role: Path) -> None:
    """Everything is text there: lists have commas. Other texts stay, for the argument spec to convert or refuse."""
    defaults = {name: re.findall(r"\bagora_\w+", str(value)) for name, value in readme.defaults_of(role).items()}
    shared = {name: found[0] for name, found in defaults.items() if found}
    assert shared
    options = readme.options_of(role)
    given = {name: "1,2" if options[name]["type"] == "list" else "1" for name in shared}
    values = values_of(repository, role, *(f"--extra-vars={shared[name]}={text}" for name, text in given.items()))
    assert {name: values[name] for name in shared} == {
        name: ["1", "2"] if options[name]["type"] == "list" else "1" for name in shared
    }


def test_every_readme_has_its_tables() -> None:
    found = {
        path: set(re.findall(r"<!-- begin (\w+) -->", path.read_text(encoding="utf-8"))) for path in readme.readmes()
    }
    wanted = {"README.md": {"sdks", "variables"}, "CONTRIBUTING.md": {"stages"}}
    for path, tables in found.items():
        name = str(path.relative_to(readme.ROOT))
        assert tables == wanted.get(name, {path.parent.name}), path


@pytest.mark.parametrize("path", readme.readmes(), ids=lambda path: str(path.relative_to(readme.ROOT)))
def test_the_tables_are_what_the_code_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == readme.render(text), "run `make readme`"


def test_the_variables_that_are_shared_are_those_that_the_action_plugin_knows() -> None:
    """With another list it would call a right name a wrong one, or let a slip pass."""
    files = [*readme.ROOT.glob("roles/*/*/*.yml"), *readme.ROOT.glob("playbooks/**/*.yml")]
    used = {name for file in files for name in re.findall(r"\bagora_[a-z_]+", file.read_text(encoding="utf-8"))}
    assert used == apply.VARIABLES
