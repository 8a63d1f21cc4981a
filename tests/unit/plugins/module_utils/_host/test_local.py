# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import (
    Action,
    BackendError,
    Command,
    RemoveFile,
    Step,
    WriteFile,
)
from ansible_collections.openagora.firewall.plugins.module_utils._host import local
from ansible_collections.openagora.firewall.plugins.module_utils._host.local import (
    LocalHost,
    StepError,
    carry_out,
    lock,
)

HOST = LocalHost()


def step(what: str, *do: Action, undo: tuple[Action, ...] = ()) -> Step:
    return Step(what, None, do, undo)


def say(folder: Path, word: str) -> Command:
    """A command that leaves a word in the folder's diary."""
    return Command(("sh", "-c", 'echo "$1" >> "$2"', "sh", word, str(folder / "diary")))


FAIL = Command(("sh", "-c", "echo on stdout; echo 'it broke' >&2; exit 7"))


def diary(folder: Path) -> list[str]:
    path = folder / "diary"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


# Commands and files


def test_run_tells_how_a_command_ended() -> None:
    outcome = HOST.run(["sh", "-c", "cat; echo problem >&2; exit 3"], stdin="hello")
    assert (outcome.code, outcome.out, outcome.err) == (3, "hello", "problem\n")


def test_run_gives_no_input_unless_told() -> None:
    assert HOST.run(["cat"]).out == ""


def test_run_a_command_that_is_not_there() -> None:
    outcome = HOST.run(["no-such-command", "--version"])
    assert (outcome.code, outcome.err) == (127, "no-such-command: command not found")


def test_run_in_the_c_locale_with_the_folders_of_the_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/nowhere")
    host = LocalHost()
    assert host.run(["sh", "-c", 'echo "$LC_ALL $PATH"']).out.startswith("C /usr/local/sbin:")
    assert host.which("sh") in ("/usr/bin/sh", "/bin/sh")
    assert host.which("no-such-command") is None


def test_run_survives_bytes_that_are_no_text() -> None:
    assert HOST.run(["printf", r"\377"]).out == "\udcff"


def test_read_and_exists(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text \xff\n")
    (tmp_path / "link").symlink_to("nowhere")
    assert HOST.read(str(tmp_path / "file")) == "text \udcff\n"
    assert HOST.read(str(tmp_path / "none")) is None
    assert HOST.exists(str(tmp_path / "link"))
    assert not HOST.exists(str(tmp_path / "none"))


def test_line_ends_are_those_of_the_file(tmp_path: Path) -> None:
    """What is compared with the file again before it is replaced, and what edits leave alone, is the same text."""
    (tmp_path / "file").write_bytes(b"one\r\ntwo\n")
    assert HOST.read(str(tmp_path / "file")) == "one\r\ntwo\n"


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        HOST.read(str(tmp_path))


# Writing and removing


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_file_has_the_mode_it_was_asked_for(tmp_path: Path, mode: int, umask: int) -> None:
    path = tmp_path / "file"
    before = os.umask(umask)
    try:
        for text in ("one", "two"):
            carry_out(HOST, [step("write", WriteFile(str(path), text, mode))])
            assert path.read_text(encoding="utf-8") == text
            assert stat.S_IMODE(path.stat().st_mode) == mode
            path.chmod(0o640)
    finally:
        os.umask(before)


def test_a_file_is_replaced_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with path.open(encoding="utf-8") as reader:
        carry_out(HOST, [step("write", WriteFile(str(path), "new \udcff"))])
        assert reader.read() == "old"
    assert path.read_bytes() == b"new \xff"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_folders_are_made_and_go_again(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    one, two = (tmp_path / "etc" / "openagora" / "firewall" / name for name in ("one", "two"))
    carry_out(HOST, [step("write", WriteFile(str(one), "1"), WriteFile(str(two), "2"))])
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o755
    carry_out(HOST, [step("remove", RemoveFile(str(one)))])
    assert two.exists()
    carry_out(HOST, [step("remove", RemoveFile(str(two)))])
    assert list((tmp_path / "etc").iterdir()) == []
    assert (tmp_path / "etc").exists()


def test_a_folder_for_what_is_added_to_a_service_goes(tmp_path: Path) -> None:
    folder = tmp_path / "firewalld.service.d"
    ours, other = folder / "openagora.conf", folder / "site.conf"
    carry_out(HOST, [step("there", WriteFile(str(ours), ""), WriteFile(str(other), ""), RemoveFile(str(ours)))])
    assert list(folder.iterdir()) == [other]
    carry_out(HOST, [step("there", WriteFile(str(ours), ""), RemoveFile(str(other)), RemoveFile(str(ours)))])
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "systemd" / "system" / "openagora-firewall.service"
    carry_out(HOST, [step("there", WriteFile(str(path), "text")), step("and back", RemoveFile(str(path)))])
    assert path.parent.exists()
    ours = tmp_path / "openagora" / "firewall"
    ours.mkdir(parents=True)
    (tmp_path / "openagora" / "theirs").write_text("", encoding="utf-8")
    carry_out(HOST, [step("remove", RemoveFile(str(ours / "boot")))])
    assert not ours.exists()
    assert (tmp_path / "openagora" / "theirs").exists()


def test_removing_what_is_gone_is_no_failure(tmp_path: Path) -> None:
    carry_out(HOST, [step("remove", RemoveFile(str(tmp_path / "none" / "file")))])


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    old = tmp_path / "openagora" / "old"
    old.parent.mkdir()
    old.write_text("old", encoding="utf-8")
    new = tmp_path / "openagora" / "firewall" / "boot"

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device", "a file")

    monkeypatch.setattr(os, moment, full)
    for path in (old, new):
        with pytest.raises(StepError, match="write: No space left on device: a file; everything is as it was before"):
            carry_out(HOST, [step("write", WriteFile(str(path), "new"))])
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["openagora", "openagora/old"]
    assert old.read_text(encoding="utf-8") == "old"


def test_where_a_file_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StepError, match=f"write: Not a directory: {tmp_path}/file/below"):
        carry_out(HOST, [step("write", WriteFile(str(tmp_path / "file" / "below" / "it"), ""))])
    (tmp_path / "folder").mkdir()
    with pytest.raises(StepError, match=r"remove: Is a directory: .*folder"):
        carry_out(HOST, [step("remove", RemoveFile(str(tmp_path / "folder")))])


# The runner


def test_steps_and_actions_run_in_order(tmp_path: Path) -> None:
    steps = [
        step("one", say(tmp_path, "a"), say(tmp_path, "b"), undo=(say(tmp_path, "never"),)),
        step("two", say(tmp_path, "c")),
    ]
    carry_out(HOST, steps)
    assert diary(tmp_path) == ["a", "b", "c"]
    carry_out(HOST, [])


def test_a_failure_undoes_the_last_first(tmp_path: Path) -> None:
    steps = [
        step("one", say(tmp_path, "a"), undo=(say(tmp_path, "undo-a1"), say(tmp_path, "undo-a2"))),
        step("two", say(tmp_path, "b"), undo=(say(tmp_path, "undo-b"),)),
        step("three", say(tmp_path, "c"), FAIL, say(tmp_path, "never"), undo=(say(tmp_path, "undo-c"),)),
        step("four", say(tmp_path, "never"), undo=(say(tmp_path, "never"),)),
    ]
    with pytest.raises(StepError) as error:
        carry_out(HOST, steps)
    assert str(error.value) == "three: sh ended with code 7: it broke; everything is as it was before"
    assert diary(tmp_path) == ["a", "b", "c", "undo-c", "undo-b", "undo-a1", "undo-a2"]


def test_systemctl_may_have_done_its_work_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes links, and then asks systemd to load them."""
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "systemctl").chmod(0o755)
    host = LocalHost()
    monkeypatch.setitem(host._environment, "PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(StepError, match="everything is as it was before"):
        carry_out(host, [step("one", Command(("systemctl", "disable", "it")), undo=(say(tmp_path, "undo"),))])
    assert diary(tmp_path) == ["undo"]


def test_a_step_whose_first_action_failed_has_nothing_to_undo(tmp_path: Path) -> None:
    steps = [
        step("one", say(tmp_path, "a"), undo=(say(tmp_path, "undo-a"),)),
        step("two", FAIL, undo=(say(tmp_path, "never"),)),
    ]
    with pytest.raises(StepError, match="everything is as it was before"):
        carry_out(HOST, steps)
    assert diary(tmp_path) == ["a", "undo-a"]


def test_a_command_that_is_killed_may_have_done_a_part(tmp_path: Path) -> None:
    killed = Command(("sh", "-c", "kill -9 $$"))
    with pytest.raises(StepError, match="one: sh was killed by signal 9: no message; everything is as it was before"):
        carry_out(HOST, [step("one", killed, undo=(say(tmp_path, "undo-a"),))])
    assert diary(tmp_path) == ["undo-a"]
    with pytest.raises(StepError, match="one: sh was killed by signal 9: no message; undoing it failed too: sh ended"):
        carry_out(HOST, [step("one", killed, undo=(FAIL,))])


def test_what_cannot_be_undone_is_told_and_the_rest_is_undone(tmp_path: Path) -> None:
    steps = [
        step("one", say(tmp_path, "a"), undo=(FAIL, say(tmp_path, "undo-a"))),
        step("two", say(tmp_path, "b"), undo=(FAIL,)),
        step("three", Command(("sh", "-c", "echo only on stdout; exit 1"))),
    ]
    with pytest.raises(StepError) as error:
        carry_out(HOST, steps)
    assert str(error.value) == (
        "three: sh ended with code 1: only on stdout; "
        "undoing it failed too: sh ended with code 7: it broke; sh ended with code 7: it broke"
    )
    assert diary(tmp_path) == ["a", "b", "undo-a"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Command(("false",)), "false ended with code 1: no message"),
        (Command(("no-such-command",)), "no-such-command ended with code 127: no-such-command: command not found"),
        (Command(("/",)), "Permission denied: /"),
        (Command(("sh",), stdin="exit 5"), "sh ended with code 5: no message"),
    ],
)
def test_why_a_command_failed(command: Command, message: str) -> None:
    with pytest.raises(StepError) as error:
        carry_out(HOST, [step("try", command)])
    assert str(error.value) == f"try: {message}; everything is as it was before"


# The lock


@pytest.fixture
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lock"
    monkeypatch.setattr(local, "LOCK", str(path))
    monkeypatch.setattr(local, "_LOCK_SECONDS", 0.2)
    return path


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_keeps_a_second_process_out(lock_file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        message = rf"another run holds {lock_file} for over 0\.2 seconds; see who: fuser {lock_file}"
        with pytest.raises(StepError, match=message), lock():
            pytest.fail("the lock was not held")
    with lock():
        pass


def test_the_lock_is_waited_for(lock_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_LOCK_SECONDS", 30)
    order = []

    def other() -> None:
        with lock():
            order.append("second")

    with lock():
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_is_let_go_after_an_error(lock_file: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock():
        raise ZeroDivisionError
    with lock():
        assert stat.S_IMODE(lock_file.stat().st_mode) == 0o600
