# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The quick start: `make open-agora` twice on a fresh throwaway host, `make sandbox-stop`."""

from __future__ import annotations

import re
import typing as t

if t.TYPE_CHECKING:
    from pathlib import Path

    from conftest import Repository


def test_the_quick_start(repository: Repository, sandboxes: Path) -> None:
    # With a directory of its own there is no sandbox yet, and others are left alone.
    directory = {"OPENAGORA_SANDBOX_DIRECTORY": str(sandboxes)}
    first = repository.run("make", "open-agora", **directory).stdout
    second = repository.run("make", "open-agora", **directory).stdout
    repository.run("make", "sandbox-stop", **directory)
    assert list(sandboxes.rglob("*.json")) == []

    assert re.search(r"^sandbox +: ok=\d+ +changed=1 .* failed=0 ", first, re.MULTILINE)
    assert re.search(r"^sandbox +: ok=\d+ +changed=0 .* failed=0 ", second, re.MULTILINE)
    assert "+ egress udp 3478 (web)" in first
    assert "nothing changed" in second
    for text in (first, second):
        # The last thing is the proof: needed, open, missing.
        assert re.search("- web +egress +udp +55537 +55537 +-", text)
        assert re.search("- recording +ingress +udp +1036 +1036 +-", text)
        assert "nothing else is open" in text
        assert "nothing on your machine has changed" in text
