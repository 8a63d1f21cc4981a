# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of role dns_allowlist on files: what it keeps of /etc/resolv.conf, gives back, and tries out."""

from __future__ import annotations

import re
import shlex
import subprocess
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.plugins.filter.core import to_bool
from ansible_collections.openagora.firewall.plugins.filter.allowlist import allowlist
from jinja2 import Environment, FileSystemLoader, Template
from jinja2.nativetypes import NativeEnvironment

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "dns_allowlist"
TASKS = ROLE / "tasks" / "main.yml"
VARS: dict[str, t.Any] = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
HEADER = VARS["dns_allowlist_header"]


def command(file: str, task: str, variables: t.Mapping[str, object] = VARS) -> str:
    """The shell command of a task."""
    waiting = yaml.safe_load((ROLE / "tasks" / f"{file}.yml").read_text())
    while waiting:
        found = waiting.pop()
        waiting += found.get("block", []) + found.get("rescue", [])
        if found["name"] == task:
            return Template(found["ansible.builtin.shell"]["cmd"]).render(**{**VARS, **variables})
    raise AssertionError(task)


def rendered(template: str, info: t.Mapping[str, object], **variables: object) -> str:
    """A file of the role, where dns_info has returned this."""
    templates = Environment(loader=FileSystemLoader(ROLE / "templates"), trim_blocks=True, autoescape=False)
    templates.filters["openagora.firewall.allowlist"] = allowlist
    templates.filters["regex_replace"] = lambda text, pattern, new: re.sub(pattern, new, text)
    return templates.get_template(f"{template}.j2").render(**{**VARS, **variables}, dns_allowlist_info=info)


class Site:
    """A folder with a resolv.conf and what the role keeps of it, and the role's two commands on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "resolv.conf"
        self.kept = folder / "kept" / "resolv.conf"
        self.kept.parent.mkdir()

    def run(self, file: str, task: str, before: str = "") -> int:
        """Run a task's command on this folder; `before` first, in a private mount namespace. Returns its code."""
        text = command(file, task).replace(VARS["dns_allowlist_memory"], str(self.kept.parent))
        text = text.replace("/etc/resolv.conf", str(self.conf))
        argv = ["unshare", "--mount", "sh", "-c", f'{before}\nexec sh -c "$0"', text]
        return subprocess.run(argv, check=False).returncode

    def keep(self) -> int:
        """What the role does before it writes its own."""
        return self.run("use_here", "Keep what was there")

    def give_back(self, before: str = "") -> int:
        """What it does when its own is no longer wanted."""
        return self.run("use_former", "Put /etc/resolv.conf back, unless somebody else has written it since", before)

    def replace(self) -> None:
        """Write ours."""
        self.conf.unlink()
        self.conf.write_text(f"# {HEADER}\nnameserver 127.0.0.1\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_cannot_be_given_back_is_kept(site: Site) -> None:
    """The disk may be full, or the file immutable; without the copy nobody would know the servers any more."""
    site.conf.write_text("nameserver 192.0.2.53\n")
    assert site.keep() == 0
    site.replace()
    assert site.give_back(f"mount --bind {site.conf} {site.conf}; mount -o remount,bind,ro {site.conf}") != 0
    assert site.kept.read_text() == "nameserver 192.0.2.53\n"
    assert site.give_back() == 0
    assert (site.conf.read_text(), site.kept.exists()) == ("nameserver 192.0.2.53\n", False)


def test_what_somebody_wrote_in_between_is_given_back(site: Site) -> None:
    """Not what was there before that."""
    site.conf.symlink_to("other")
    (site.folder / "other").write_text("nameserver 192.0.2.1\n")
    assert site.keep() == 0
    site.replace()
    assert site.keep() == 0
    assert site.kept.readlink() == Path("other")
    site.conf.write_text("nameserver 192.0.2.2\n")
    assert site.keep() == 0
    site.replace()
    assert site.give_back() == 0
    assert site.conf.read_text() == "nameserver 192.0.2.2\n"
    assert (site.folder / "other").read_text() == "nameserver 192.0.2.1\n"


def test_a_host_without_resolv_conf_gets_an_empty_one_back(site: Site) -> None:
    assert site.keep() == 0
    site.replace()
    assert site.give_back() == 0
    assert site.conf.read_text() == ""


BEGIN = "Begin, and look whether the last run came to its end"
BACK = "Go back to its former configuration"


def test_a_run_that_broke_off_is_told_and_gives_way_to_what_was_before_it(tmp_path: Path) -> None:
    """The one after it knows neither what was read of its files nor whether its configuration is any good."""
    memory, conf, log = tmp_path / "lib" / "dns", tmp_path / "openagora.conf", tmp_path / "log"

    def run(task: str, resolver: str = "dnsmasq") -> str:
        given = {"dns_allowlist_memory": memory, "dns_allowlist_file": conf, "dns_allowlist_resolver": resolver}
        text = command("main", task, given)
        stand_in = f'systemctl() {{ echo "$*" >>{log}; }}; '
        return subprocess.run(["sh", "-c", stand_in + text], check=True, capture_output=True, text=True).stdout

    conf.write_text("first")
    assert run(BEGIN) == ""
    assert run(BACK) == ""
    conf.write_text("second")
    assert run(BEGIN) == "broken off\n"
    conf.write_text("third")
    (memory / "unbound").touch()
    assert run(BACK, "unbound") == ""
    (memory / "unbound").unlink()
    assert "former" in run(BACK)
    assert (conf.read_text(), log.read_text()) == ("first", "restart dnsmasq\n")
    run("End")
    assert not memory.parent.exists()
    conf.unlink()
    assert run(BEGIN) == ""
    conf.write_text("new")
    (memory / "dnsmasq").write_text("disabled\ninactive\n")
    assert run(BACK) == ""
    assert conf.exists()
    (memory / "dnsmasq").write_text("enabled\nactive\n")
    assert "former" in run(BACK)
    assert not conf.exists()
    (memory / "dnsmasq").rename(memory / "resolv.conf")
    run("End")
    assert [path.name for path in memory.iterdir()] == ["resolv.conf"]


@pytest.mark.parametrize("others", [(), ("folder/file",), (".hidden", "README")], ids=["none", "folder", "hidden"])
def test_dnsmasq_tries_a_new_file_out_whatever_is_beside_it(tmp_path: Path, others: t.Sequence[str]) -> None:
    new, folder = tmp_path / "new", tmp_path / "dnsmasq.d"
    folder.mkdir()
    for other in others:
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_text("")
    text = VARS["dns_allowlist_resolvers"]["dnsmasq"]["validate"]
    argv = shlex.split(Template(text).render(dns_allowlist_info={"folder": folder}) % new)
    for content, code in (("no-resolv\n", 0), ("nonsense\n", 1)):
        new.write_text(content)
        assert subprocess.run(argv, check=False).returncode == code


@pytest.mark.parametrize("sets", [[], ["4#inet#filter#openagora_names_ipv4"]], ids=["none", "sets"])
def test_dnsmasq_forgets_soon_what_fills_sets(tmp_path: Path, sets: list[str]) -> None:
    """What it answers from its cache fills no set, so an address may have left it before the answer is forgotten."""
    info = {"domains": [".agora.io"], "listen": ["127.0.0.1"], "upstreams": ["192.0.2.53"], "address_sets": sets}
    text = rendered("dnsmasq.conf", {**info, "local_domains": []}, dns_allowlist_others="refuse")
    (tmp_path / "conf").write_text(text)
    assert subprocess.run(["dnsmasq", "--test", f"--conf-file={tmp_path}/conf"], check=False).returncode == 0
    assert ("max-cache-ttl=300\nmax-ttl=300\nnftset=/agora.io/" in text) == bool(sets)


@pytest.mark.parametrize(("text", "wanted"), [("true", True), ("no", False), ("false", False)])
@pytest.mark.parametrize("option", ["use_here", "enforce"])
def test_a_word_of_the_command_line_is_no_yes_by_itself(option: str, text: str, *, wanted: bool) -> None:
    """`-e dns_allowlist_enforce=false` is a text, which a condition takes for true; ansible-core 2.19 refuses it."""
    environment = Environment(autoescape=True)
    environment.filters["bool"] = to_bool
    values = {
        f"dns_allowlist_{option}": text,
        "dns_allowlist_wanted": "dnsmasq",
        "dns_allowlist_info": {"standing": True},
    }
    tasks = {task.get("ansible.builtin.include_tasks"): task for task in yaml.safe_load(TASKS.read_text())}
    undo = {"use_here": "use_former.yml", "enforce": "unenforce.yml"}[option]
    done = [environment.compile_expression(tasks[file]["when"])(**values) for file in (f"{option}.yml", undo)]
    assert done == [wanted, not wanted]


def test_systemd_resolved_asks_ours_for_the_domains_of_a_link_too() -> None:
    """Its servers, which it prefers for them, are out of reach with dns_allowlist_enforce (seen with 252)."""
    info = {"local_domains": ["corp.example", "lan"]}
    text = rendered("resolved.conf", info, dns_allowlist_loopback=["127.0.0.1"])
    assert text.splitlines()[-1] == "Domains=~. ~corp.example ~lan"


def test_files_go_whether_or_not_the_unit_is_there() -> None:
    """A run may break off between the two, forth or back."""
    tasks = yaml.safe_load((ROLE / "tasks" / "unenforce.yml").read_text())
    assert [task["name"] for task in tasks if "when" in task] == ["Unload them", "Let systemd forget the unit"]


@pytest.mark.parametrize("file", ["unenforce", "use_former", "unconfigure"])
@pytest.mark.parametrize(
    ("said", "changed"), [("skipped, since /etc/folder does not exist", False), ("", False), ("/etc/folder", True)]
)
def test_a_folder_that_is_not_there_is_no_change(file: str, said: str, *, changed: bool) -> None:
    """The module says so where `removes` is not met, and what it says is its stdout."""
    waiting, found = yaml.safe_load((ROLE / "tasks" / f"{file}.yml").read_text()), []
    while waiting:
        task = waiting.pop()
        waiting += task.get("block", [])
        found += [task["changed_when"]] if task.get("register") == "dns_allowlist_folder" else []
    environment = Environment(autoescape=True)
    environment.tests["match"] = lambda text, pattern: bool(re.match(pattern, text))
    (condition,) = found
    assert environment.compile_expression(condition)(dns_allowlist_folder={"stdout": said}) is changed


@pytest.mark.parametrize(("listing", "state"), [(0, "started"), (1, "restarted")])
def test_rules_that_somebody_has_flushed_are_loaded_again(listing: int, state: str) -> None:
    """`nft -f /etc/nftables.conf` takes them away, and systemd does not know."""
    task = yaml.safe_load((ROLE / "tasks" / "enforce.yml").read_text())[-1]["ansible.builtin.systemd_service"]
    environment = Environment(autoescape=True)
    environment.tests["changed"] = lambda result: result["changed"]
    done = {"changed": False}
    given = {"dns_allowlist_rules": done, "dns_allowlist_unit": done, "dns_allowlist_broken": False}
    text = environment.from_string(task["state"]).render(**given, dns_allowlist_loaded={"rc": listing})
    assert text.strip() == state


def inclusions(role: str) -> list[tuple[int, dict[str, t.Any]]]:
    """The tasks of open_agora that include a role, with their places: one that only looks, and one that does it."""
    (play,) = yaml.safe_load((ROOT / "playbooks" / "open_agora.yml").read_text())
    found = [(place, task) for place, task in enumerate(play["tasks"]) if "ansible.builtin.include_role" in task]
    return [item for item in found if item[1]["ansible.builtin.include_role"]["name"] == f"openagora.firewall.{role}"]


@pytest.mark.parametrize(
    ("given", "comes"),
    [
        ({}, False),
        ({"agora_dns": "none"}, True),
        ({"agora_state": "present"}, False),
        ({"agora_state": "absent"}, True),
    ],
)
def test_absent_takes_the_resolver_away_too(given: dict[str, str], *, comes: bool) -> None:
    """Whoever closes what open_agora has opened does not name the resolver again."""
    _look, (_place, task) = inclusions("dns_allowlist")
    assert Environment(autoescape=True).compile_expression(task["when"])(**given) is comes


def test_open_agora_looks_at_the_resolver_before_anything_changes() -> None:
    """A host with rules of scope names and no resolver to fill their sets is without TCP."""
    (place, task), _do = inclusions("dns_allowlist")
    _look, (changes, _task) = inclusions("open_ports")
    assert place < changes
    include = task["ansible.builtin.include_role"]
    assert (include["tasks_from"], include["apply"]) == ("look.yml", {"check_mode": True})
    (look,) = yaml.safe_load((ROLE / "tasks" / "look.yml").read_text())
    assert "openagora.firewall.dns_info" in look


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ({}, "127.0.0.1"),
        ({"dns_allowlist_listen": "192.0.2.1,192.0.2.2"}, "192.0.2.1"),
        ({"dns_allowlist_listen": ["192.0.2.2"]}, "192.0.2.2"),
    ],
)
def test_the_check_asks_where_the_resolver_listens(given: dict[str, object], server: str) -> None:
    """On the command line a list is a text."""
    (play,) = yaml.safe_load((ROOT / "playbooks" / "check_agora_names.yml").read_text())
    task = play["tasks"][0]
    environment = NativeEnvironment(autoescape=True)
    variables = {name: environment.from_string(text).render(**given) for name, text in task.get("vars", {}).items()}
    asked = environment.from_string(task["openagora.firewall.dns_check"]["server"]).render(**given, **variables)
    assert asked == server


def test_machines_told_by_an_address_of_one_family_are_stopped_in_that_alone() -> None:
    """And the result says so."""
    environment = NativeEnvironment()
    environment.filters["regex_replace"] = lambda text, pattern, new: re.sub(pattern, new, text)
    environment.tests["match"] = lambda text, pattern: re.match(pattern, text) is not None
    text = environment.from_string(VARS["dns_allowlist_half_named"])
    info = {"inside": ['iifname "eth1"', "ip saddr 10.0.0.0/8"]}
    assert text.render(dns_allowlist_info=info) == [
        "what machines send from addresses of the other family than ip saddr 10.0.0.0/8"
    ]
