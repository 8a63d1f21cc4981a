# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run `ansible-test sanity` on this checkout; arguments are passed on (`--test validate-modules`).

ansible-test insists on a real folder called ansible_collections/openagora/firewall, so it gets a copy of the checkout.
It also gets a home of its own below .cache, which keeps the virtual environments of its tests for the next run.
"""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.python_requirements import get_venv_packages

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "sanity"
HOME = CACHE / "home"
COPY = CACHE / "ansible_collections" / "openagora" / "firewall"

# The oldest Python of a managed host, and the newest that every supported ansible-core knows.
PYTHONS = ("3.9", "3.13")

GET_PIP = '''\
"""Stands in for the get-pip script that ansible-test would download: the pip that Python brings does the same."""
import subprocess
import sys

names = [name for name in sys.argv[1:] if not name.startswith("--no-")]
for command in ["ensurepip"], ["pip", "--quiet", "install", *names]:
    subprocess.check_call([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
'''


def output(*command: str, env: dict[str, str] | None = None) -> str:
    """What a command prints, nothing if it fails."""
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env).stdout.strip()


def copy_checkout() -> None:
    """Copy what git tracks, or would track, to where ansible-test wants it."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = output("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        # The link collections/ansible_collections/openagora/firewall leads back to the checkout itself.
        if not name.startswith("collections/") and (ROOT / name).exists():
            target = COPY / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    # Without a repository of its own, the copy's files are those that the checkout's git ignores: all of them.
    subprocess.run(["git", "init", "--quiet", str(COPY)], check=True)


def make_home() -> None:
    """Give ansible-test's home the pip script it looks for and the pip settings of whoever runs this."""
    version = get_venv_packages(SimpleNamespace(version=f"{sys.version_info.major}.{sys.version_info.minor}"))["pip"]
    script = HOME / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP, encoding="utf-8")

    # ansible-test passes on neither PIP_* variables nor another home's pip.conf.
    settings = configparser.ConfigParser(interpolation=None)
    settings.add_section("global")
    for line in output(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, value = line.split("=", 1)
        settings["global"][key.rpartition(".")[2]] = " ".join(shlex.split(value))
    config = HOME / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    settings["global"]["quiet"] = "2"
    with config.open("w", encoding="utf-8") as stream:
        settings.write(stream)
    config.chmod(0o600)


def link_pythons() -> Path:
    """A folder of links to those of the wanted Pythons that the machine has; sees through pyenv's stand-ins."""
    folder = CACHE / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    managed = output("pyenv", "versions", "--bare") if shutil.which("pyenv") else ""
    env = {**os.environ, "PYENV_VERSION": ":".join(managed.split())} if managed else None
    for version in PYTHONS:
        name = f"python{version}"
        if shutil.which(name):
            found = output(name, "-c", "import ensurepip, sys; print(sys.executable)", env=env)
            if found:
                (folder / name).symlink_to(found)
    return folder


def main() -> int:
    """Prepare, then hand over to ansible-test."""
    copy_checkout()
    make_home()
    path = os.pathsep.join([str(link_pythons()), str(Path(sys.executable).parent), os.defpath])
    env = {**os.environ, "HOME": str(HOME), "PATH": path}
    command = ["ansible-test", "sanity", "--color", "no", "--requirements", *sys.argv[1:]]
    return subprocess.run(command, check=False, cwd=COPY, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
