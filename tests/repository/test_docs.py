# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-doc shows of modules, other plugins and roles is complete."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
import yaml

if t.TYPE_CHECKING:
    from conftest import Repository

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = "openagora.firewall"


def names(pattern: str) -> list[str]:
    """The full names of the plugins or roles whose files match."""
    return sorted(f"{COLLECTION}.{path.stem}" for path in ROOT.glob(pattern))


SUBJECTS = [
    *(("module", name) for name in names("plugins/modules/[!_]*.py")),
    *(("connection", name) for name in names("plugins/connection/[!_]*.py")),
    *(("filter", name) for name in names("plugins/filter/[!_]*.py")),
    *(("role", name) for name in names("roles/*")),
]
MODULES = [name for kind, name in SUBJECTS if kind == "module"]


@pytest.fixture(scope="session")
def documents(repository: Repository) -> dict[tuple[str, str], dict[str, t.Any]]:
    """What ansible-doc knows, as data, by kind and name."""
    found: dict[tuple[str, str], dict[str, t.Any]] = {}
    for kind in dict(SUBJECTS):
        wanted = [name for one, name in SUBJECTS if one == kind]
        text = repository.run("ansible-doc", "--json", "--type", kind, *wanted).stdout
        found.update({(kind, name): document for name, document in json.loads(text).items()})
    return found


@pytest.fixture
def document(documents: dict[tuple[str, str], dict[str, t.Any]], request: pytest.FixtureRequest) -> dict[str, t.Any]:
    """The document of the subject that the test is run for."""
    return documents[request.param]


def blank(texts: object) -> bool:
    """Whether a description says nothing."""
    lines = texts if isinstance(texts, list) else [texts]
    return not lines or not all(isinstance(line, str) and line.strip() for line in lines)


def incomplete(fields: dict[str, dict[str, t.Any]], nested: str, path: str = "") -> t.Iterator[str]:
    """The options or return values without a description or type, those inside others included."""
    for name, field in fields.items():
        if blank(field.get("description")):
            yield f"{path}{name} has no description"
        if "type" not in field:
            yield f"{path}{name} has no type"
        if field.get("type") == "list" and "elements" not in field:
            yield f"{path}{name} does not say what it is a list of"
        yield from incomplete(field.get(nested) or {}, nested, f"{path}{name}.")


def test_every_kind_is_there() -> None:
    assert {kind for kind, _name in SUBJECTS} == {"module", "connection", "filter", "role"}


@pytest.mark.parametrize(("kind", "name"), SUBJECTS)
def test_ansible_doc_shows_a_page(repository: Repository, kind: str, name: str) -> None:
    page = repository.run("ansible-doc", "--type", kind, name).stdout
    assert name in page
    assert len(page.splitlines()) > 20


@pytest.mark.parametrize("document", [subject for subject in SUBJECTS if subject[0] != "role"], indirect=True)
def test_plugins_are_documented(document: dict[str, t.Any]) -> None:
    doc = document["doc"]
    assert not blank(doc["short_description"])
    assert not blank(doc["description"])
    assert doc["author"]
    assert doc["version_added"]
    assert list(incomplete(doc.get("options", {}), "suboptions")) == []


@pytest.mark.parametrize("document", [("module", name) for name in MODULES], indirect=True)
def test_modules_say_what_they_support_and_return(document: dict[str, t.Any]) -> None:
    assert set(document["doc"]["attributes"]) >= {"check_mode", "diff_mode", "idempotent", "platform"}
    for name, attribute in document["doc"]["attributes"].items():
        assert not blank(attribute["description"]), name
        assert attribute.get("support") or attribute.get("platforms"), name
    assert document["return"]
    assert list(incomplete(document["return"], "contains")) == []
    assert [name for name, value in document["return"].items() if blank(value.get("returned"))] == []
    assert [
        name for name, value in document["return"].items() if "sample" not in value and "contains" not in value
    ] == []


@pytest.mark.parametrize("document", [subject for subject in SUBJECTS if subject[0] == "role"], indirect=True)
def test_roles_are_documented(document: dict[str, t.Any]) -> None:
    main = document["entry_points"]["main"]
    assert not blank(main["short_description"])
    assert not blank(main["description"])
    assert list(incomplete(main["options"], "options")) == []


def tasks_in(items: list[dict[str, t.Any]]) -> t.Iterator[dict[str, t.Any]]:
    """The tasks of an example, which is a list of tasks or of plays."""
    for item in items:
        inner = [item[key] for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always") if key in item]
        if inner or "hosts" in item:
            for part in inner:
                yield from tasks_in(part)
        else:
            yield item


@pytest.mark.parametrize("name", MODULES)
def test_examples_use_options_that_exist(documents: dict[tuple[str, str], dict[str, t.Any]], name: str) -> None:
    tasks = list(tasks_in(yaml.safe_load(documents["module", name]["examples"])))
    assert any(name in task for task in tasks), "no example uses the module itself"
    for task in tasks:
        assert task.get("name"), f"a task without a name: {task}"
        for module in set(task) & set(MODULES):
            known = documents["module", module]["doc"].get("options", {})
            assert [option for option in task[module] or {} if option not in known] == []


@pytest.mark.parametrize(("kind", "name"), SUBJECTS)
def test_what_is_referred_to_exists(documents: dict[tuple[str, str], dict[str, t.Any]], kind: str, name: str) -> None:
    """M(openagora.firewall.x) and seealso lead to modules of this collection that are there."""
    text = json.dumps(documents[kind, name], ensure_ascii=False)
    mentioned = set(re.findall(r'M\((openagora\.firewall\.\w+)\)|"module": "(openagora\.firewall\.\w+)"', text))
    assert {one or other for one, other in mentioned} <= set(MODULES)
