# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the tables of the READMEs and of CONTRIBUTING from the catalog, the roles, the Makefile and the scenarios.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. NAME is `sdks` (what each SDK needs), `variables`
(the agora_* variables that the roles read), `stages` (what `make test` does) or the name of a role (its variables).
"""

from __future__ import annotations

import ast
import re
import sys
import typing as t
from pathlib import Path

import hosts
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.openagora.firewall.plugins.module_utils import _compile  # noqa: E402 # needs the path above
from ansible_collections.openagora.firewall.plugins.module_utils._catalog import CATALOG  # noqa: E402 # needs it too

Options = dict[str, dict[str, t.Any]]


def table(*rows: t.Sequence[str]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *body))


def code(value: object) -> str:
    """A value as it is typed in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"`{text}`"


def markup(text: str | list[str]) -> str:
    """A description of an argument spec in Markdown: O(), V(), C() and the like become code, B() and I() emphasis."""
    joined = " ".join(text) if isinstance(text, list) else text
    joined = re.sub(r"\b(?:O|V|C|E|RV|M|P)\(((?:[^()\\]|\\.)*)\)", r"`\1`", joined)
    joined = re.sub(r"\b[BI]\(([^()]*)\)", r"*\1*", joined)
    return re.sub(r"\bU\(([^()]*)\)", r"<\1>", joined)


def options_of(role: Path) -> Options:
    """The options of a role by name."""
    spec = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    return spec["argument_specs"]["main"]["options"]


def defaults_of(role: Path) -> dict[str, t.Any]:
    """The defaults of a role by name."""
    return yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8"))


def sdks() -> str:
    """What each SDK needs at the default revision, computed as the modules compute it."""
    rows = [["SDK", "TCP out", "UDP out", "UDP in", "domains", "list of"]]
    for sdk in CATALOG:
        compiled = _compile.compile_request(_compile.Request.of(sdks=[sdk]))
        ports = {(rule.direction, rule.protocol): str(rule.ports) for rule in compiled.rules}
        rows.append(
            [
                f"`{sdk}`",
                ports.get(("egress", "tcp"), ""),
                ports.get(("egress", "udp"), ""),
                ports.get(("ingress", "udp"), ""),
                ", ".join(f"`{name}`" for name in compiled.rules.domains),
                compiled.by_sdk[sdk]["effective_from"],
            ]
        )
    return table(*rows)


def role_variables(role: Path) -> str:
    """The variables of a role."""
    rows = [["variable", "type", "default", "what it says"]]
    for name, option in options_of(role).items():
        kind = f"list of {option['elements']}" if option["type"] == "list" else option["type"]
        default = code(option["default"]) if "default" in option else ""
        rows.append([f"`{name}`", kind, default, markup(option["description"])])
    return table(*rows)


def shared_variables() -> str:
    """The agora_* variables: what they say, and which role variables' defaults read them."""
    rows: dict[str, list[str]] = {}
    # What most people use comes first, and says what a variable is that others read too.
    for role in sorted(roles(), key=lambda role: role.name != "open_ports"):
        options = options_of(role)
        for name, default in defaults_of(role).items():
            for shared in dict.fromkeys(re.findall(r"\bagora_\w+", str(default))):
                says = markup(options[name]["description"]).replace(f" Reads `{shared}`.", "")
                value = code(options[name]["default"]) if "default" in options[name] else ""
                rows.setdefault(shared, [f"`{shared}`", value, says, ""])[3] += f", `{name}`"
    return table(["variable", "default", "what it says", "read by"], *([*row[:3], row[3][2:]] for row in rows.values()))


def roles() -> list[Path]:
    """The folders of the roles."""
    return sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


def stages() -> str:
    """What `make test` does, in its order, and what each stage proves, on which hosts."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    says = dict(re.findall(r"^([\w-]+):.*?## (.*)$", makefile, re.MULTILINE))
    listed = re.search(r"^STAGES := (.*)$", makefile, re.MULTILINE)
    names = listed[1].partition("$")[0].split() if listed else []
    rows = [["stage", "what it proves", "hosts"], *([f"`{name}`", says[name], ""] for name in names)]
    for scenario, targets in hosts.SCENARIOS.items():
        tests = sorted((ROOT / "extensions" / "molecule" / scenario / "tests").glob("test_*.py"))
        # Modules that say the same of several firewalls are one sentence.
        proved: dict[str, list[str]] = {}
        for path in tests:
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            firewall = path.stem.removeprefix("test_")
            proved.setdefault(text.partition("\n")[0].replace(firewall, "{}"), []).append(firewall)
        proves = " ".join(text.replace("{}", ", ".join(firewalls)) for text, firewalls in proved.items())
        images = dict.fromkeys(target.container.image for target in targets)
        rows.append([f"`scenario-{scenario}`", proves, ", ".join(f"`{image}`" for image in images)])
    return table(*rows)


def render(text: str) -> str:
    """A README with its tables as they have to be."""
    tables = {"sdks": sdks, "variables": shared_variables, "stages": stages}
    tables.update({role.name: lambda role=role: role_variables(role) for role in roles()})

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables[found[2]]()}\n{found[3]}"

    return re.sub(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", fill, text, flags=re.DOTALL)


def readmes() -> list[Path]:
    """The files that may hold tables."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(role / "README.md" for role in roles())]


def main() -> None:
    """Write what has changed."""
    for path in readmes():
        old = path.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
