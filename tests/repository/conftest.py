# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the repository as a whole share: its files, and a way to run commands in it."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Repository:
    """The checkout that the tests run in."""

    root = ROOT
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))

    @property
    def files(self) -> list[Path]:
        """What git tracks or would track, relative to the root; links left out."""
        listed = self.run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
        names = sorted(filter(None, listed.split("\0")))
        return [Path(name) for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]

    def load(self, name: str | Path) -> object:
        """A YAML file as data."""
        return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))

    def run(self, *command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command; one that fails fails the test and shows what it said."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "ANSIBLE_NOCOLOR": "true", "PATH": path, **environment}
        done = subprocess.run(command, check=False, capture_output=True, cwd=cwd, env=env, text=True)
        if done.returncode:
            said = f"{done.stdout}\n{done.stderr}"
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{said}", pytrace=False)
        return done


@pytest.fixture
def sandboxes(repository: Repository) -> t.Iterator[Path]:
    """The directory of sandboxes for one test; those of a run that was interrupted are ended first."""
    directory = ROOT / ".cache" / "sandboxes"
    stop = ("python", "plugins/connection/sandbox.py", "stop")
    repository.run(*stop, OPENAGORA_SANDBOX_DIRECTORY=str(directory))
    yield directory
    repository.run(*stop, OPENAGORA_SANDBOX_DIRECTORY=str(directory))


@pytest.fixture(scope="session")
def repository() -> Repository:
    """The checkout that the tests run in."""
    return Repository()
