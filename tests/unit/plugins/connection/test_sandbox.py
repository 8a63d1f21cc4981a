# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection plugin on real namespaces: as an ordinary user, and where root runs the tests as root too."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.playbook.play_context import PlayContext
from ansible_collections.openagora.firewall.plugins.connection import sandbox

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[4]
PLUGIN = ROOT / "plugins" / "connection" / "sandbox.py"
ORDINARY_USER = 47011  # needs no account
CALLERS = ["root", "ordinary"] if os.geteuid() == 0 else ["ordinary"]
NAME = f"test-{os.getpid()}"
OTHER = f"{NAME}-other"
DIRECTORY = "OPENAGORA_SANDBOX_DIRECTORY"
Call = t.Callable[..., t.Any]
Result = tuple[int, bytes, bytes]


class Sandbox(sandbox.Connection):
    """The connection with its options given by hand; in the playbook test they come from Ansible."""

    def __init__(self, name: str, firewall: str = "nftables") -> None:
        super().__init__(PlayContext(), "/dev/null")
        self._given = {"name": name, "firewall": firewall}

    def get_option(self, option: str, hostvars: dict[str, t.Any] | None = None) -> t.Any:
        return self._given[option]


def execute(command: str, name: str = NAME, in_data: bytes | None = None) -> Result:
    return Sandbox(name).exec_command(command, in_data=in_data)


def run(command: str, name: str = NAME, firewall: str = "nftables") -> str:
    """What a command in a sandbox prints; it has to succeed."""
    rc, out, err = Sandbox(name, firewall).exec_command(command)
    assert rc == 0, err
    return out.decode().strip()


def become_ordinary() -> None:
    os.environ[DIRECTORY] += "-ordinary"
    os.setgroups([])
    os.setgid(ORDINARY_USER)
    os.setuid(ORDINARY_USER)


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> t.Iterator[str]:
    """Where these tests have their sandboxes, apart from those that the same user has otherwise."""
    directory = os.path.join(tempfile.gettempdir(), f"openagora-{NAME}")
    monkeypatch.setenv(DIRECTORY, directory)
    yield directory
    assert not os.path.exists(directory)
    assert not os.path.exists(f"{directory}-ordinary")


@pytest.fixture(params=CALLERS)
def call(request: pytest.FixtureRequest, directory: str) -> t.Iterator[Call]:
    """Calls a function as root or as an ordinary user, and ends that user's sandboxes afterwards."""
    # Forked, because an ordinary user need not be able to read the files of this interpreter.
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("fork"),
        initializer=become_ordinary if request.param == "ordinary" and os.geteuid() == 0 else None,
    ) as pool:

        def call_as_user(function: Call, *args: t.Any) -> t.Any:
            return pool.submit(function, *args).result()

        yield call_as_user
        call_as_user(sandbox.stop, NAME)
        call_as_user(sandbox.stop, OTHER)


@pytest.fixture
def ended(directory: str) -> t.Iterator[None]:
    """Ends the sandboxes of the user who runs the tests."""
    yield
    sandbox.stop(NAME)
    sandbox.stop(OTHER)


def machine() -> dict[str, str]:
    """What the sandbox test would change here if it were not a host of its own."""
    listing = subprocess.run(
        ["/usr/sbin/nft", "-s", "list", "table", "inet", "filter"], capture_output=True, text=True, check=False
    )
    files = ["/etc/hosts", "/etc/hostname", "/etc/passwd", "/etc/nftables.conf", "/etc/openagora-test", "/var/lib/one"]
    return {
        "name": socket.gethostname(),
        "rules": listing.stdout,
        "reserved": Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text(encoding="ascii"),
        **{file: Path(file).read_text(encoding="utf-8") for file in files if os.path.exists(file)},
    }


def members(name: str) -> dict[str, set[str]]:
    """The processes that carry the name of a sandbox, and their namespaces."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or of another user
            if f"\0{name}\0".encode() in (path / "cmdline").read_bytes():
                found[path.name] = {os.readlink(path / "ns" / kind) for kind in ("net", "mnt", "pid", "uts", "ipc")}
    return found


@contextlib.contextmanager
def namespaces_of(name: str) -> t.Iterator[t.Callable[[], bool]]:
    """Yield a function that tells whether a process still lives in one of the namespaces of a sandbox."""
    with contextlib.ExitStack() as stack:
        pid, own = members(name).popitem()
        for kind in ("net", "mnt", "pid", "uts", "ipc"):  # while they are open, no other namespace gets their numbers
            stack.enter_context(open(f"/proc/{pid}/ns/{kind}", "rb"))

        def inhabited() -> bool:
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    links = {os.readlink(link) for link in (process / "ns").iterdir()}
                    # A zombie is gone; when the machine's process 1 strikes it off the list is not ours to say.
                    if links & own and ") Z " not in (process / "stat").read_text(encoding="utf-8"):
                        return True
            return False

        assert inhabited()
        yield inhabited


def test_two_hosts_of_their_own(call: Call) -> None:
    before = machine()
    change = (
        "nft add table inet {0} && echo {0} > /etc/openagora-test && echo {0} >> /etc/passwd && touch /var/lib/{0} "
        "&& sysctl -qw net.ipv4.ip_local_reserved_ports=40000-41000 && id -u && hostname && pwd"
    )
    assert call(run, change.format("one")).split() == ["0", NAME, "/root"]
    assert call(run, change.format("two"), OTHER).split() == ["0", OTHER, "/root"]
    look = (
        "cat /etc/openagora-test; tail -n1 /etc/passwd; nft list tables; cd /var/lib; ls -d one two 2>/dev/null; true"
    )
    assert call(run, look).splitlines() == ["one", "one", "table inet filter", "table inet one", "one"]
    assert call(run, look, OTHER).splitlines() == ["two", "two", "table inet filter", "table inet two", "two"]
    assert machine() == before


def test_the_machine_is_out_of_reach(call: Call) -> None:
    assert call(run, "cat /proc/1/cmdline | tr '\\0' ' '").endswith(f"openagora-sandbox {NAME}")
    assert call(run, "ls /sys/class/net").split() == ["eth0", "lo"]
    assert call(run, "ls -A /root; ls -A /mnt; ls -A /media; ls -A /dev/shm") == ""
    own = ["dev/shm", "root", "run", "tmp", "var/tmp"]
    assert call(run, f"cd /; for d in {' '.join(own)}; do echo $d > $d/x && cat $d/x; done").split() == own
    with tempfile.NamedTemporaryFile() as file:
        assert call(execute, f"ls {file.name}")[0]
    write_what_it_is = "f=/proc/sys/vm/overcommit_memory; v=$(cat $f); echo $v > $f"
    for attempt in ("touch /x", "touch /usr/x", "touch /home/x", write_what_it_is):
        rc, _out, err = call(execute, attempt)
        assert rc, attempt
        assert b"Read-only file system" in err or b"ermission denied" in err, attempt


# Both ends in one process: a socket stays in the network namespace in which it was made.
# One datagram each way and no answer to it, so that each direction is judged alone.
PROBE = """
import ctypes, json, os, select, socket
def enter(path):
    with open(path) as namespace:
        assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
def udp(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
def listen(name, address):
    server = udp(address)
    server.bind((address, 7000))
    servers[server] = name
def send(address):
    try:
        udp(address).sendto(b"x", (address, 7000))
    except PermissionError:
        pass
servers, arrived = {}, []
home, far, loopback = ("192.0.2.2", "2001:db8::2"), ("192.0.2.1", "2001:db8::1"), ("127.0.0.1", "::1")
for name, address in zip(("in 4", "in 6", "lo 4", "lo 6"), home + loopback):
    listen(name, address)
enter("/run/netns/far")
for name, address in zip(("out 4", "out 6"), far):
    listen(name, address)
for address in home:
    send(address)
enter("/proc/1/ns/net")
for address in far + loopback:
    send(address)
while servers:
    ready = select.select(list(servers), [], [], 0.4)[0]
    if not ready:
        break
    arrived += [servers.pop(server) for server in ready]
print(json.dumps(sorted(arrived)))
"""
LOOPBACK = ["lo 4", "lo 6"]
EVERYTHING = ["in 4", "in 6", *LOOPBACK, "out 4", "out 6"]
OPEN = {
    "nftables": "for c in input output; do nft insert rule inet filter $c udp dport 7000 accept; done",
    "iptables": (
        "for t in iptables ip6tables; do for c in INPUT OUTPUT; do $t -I $c -p udp --dport 7000 -j ACCEPT; done; done"
    ),
}


@pytest.mark.parametrize("firewall", ["nftables", "iptables", "none"])
def test_its_firewall_drops_everything_until_it_is_opened(call: Call, firewall: str) -> None:
    probe = f"python3 -c {shlex.quote(PROBE)}"
    if firewall in OPEN:
        assert json.loads(call(run, probe, NAME, firewall)) == LOOPBACK
        call(run, OPEN[firewall], NAME, firewall)
    assert json.loads(call(run, probe, NAME, firewall)) == EVERYTHING


@pytest.mark.parametrize(
    ("firewall", "listing", "expected"),
    [
        ("nftables", "nft list ruleset", ["hook input priority filter; policy drop;", "hook output priority filter;"]),
        ("iptables", "iptables-save; ip6tables-save", [":INPUT DROP", ":OUTPUT DROP"]),
        ("none", "nft list ruleset", []),
    ],
)
def test_its_firewall_is_the_one_asked_for(ended: None, firewall: str, listing: str, expected: list[str]) -> None:
    text = run(listing, NAME, firewall)
    assert all(part in text for part in expected)
    assert bool(text) == bool(expected)
    others = [other for other in ("nftables", "iptables", "none") if other != firewall]
    with pytest.raises(AnsibleConnectionFailure, match=f"created with firewall '{firewall}', and '{others[0]}' is ask"):
        run("true", NAME, others[0])


def test_commands(ended: None) -> None:
    data = bytes(range(256)) * 1000
    assert execute("cat; echo oops >&2; exit 7", in_data=data) == (7, data, b"oops\n")
    assert execute("cat") == (0, b"", b"")
    environment = dict(line.split("=", 1) for line in run("env").splitlines())
    assert environment["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert environment["HOME"] == "/root"


def exchange_files(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        here, back, there = (
            f"{directory}/it's here",
            f"{directory}/and back",
            "/root/a \"name\" with $HOME and 'quotes'",
        )
        content = os.urandom(300_000)
        Path(here).write_bytes(content)
        connection = Sandbox(name)
        connection.put_file(here, there)
        connection.fetch_file(there, back)
        assert Path(back).read_bytes() == content
        connection.put_file("/dev/null", there)
        connection.fetch_file(there, back)
        assert Path(back).read_bytes() == b""
        with pytest.raises(AnsibleFileNotFound, match="missing"):
            connection.put_file(f"{directory}/missing", there)
        with pytest.raises(AnsibleError, match=r"cannot write /usr/x: .*Read-only"):
            connection.put_file(here, "/usr/x")
        with pytest.raises(AnsibleError, match=r"cannot read /missing: .*No such file"):
            connection.fetch_file("/missing", back)


def test_files(call: Call) -> None:
    call(exchange_files, NAME)


def test_stop_leaves_nothing(call: Call) -> None:
    assert call(
        run, "(setsid sleep 1000 > /dev/null 2>&1 &); mount -t tmpfs tmpfs /srv && ip netns add more && hostname"
    )
    directory = call(sandbox._directory)
    assert os.listdir(f"{directory}/{NAME}") == [sandbox.STATE]
    with namespaces_of(NAME) as inhabited:
        assert call(sandbox.stop, NAME)
        assert not inhabited()
    assert not members(NAME)
    assert not os.path.exists(directory)
    assert not call(sandbox.stop, NAME)


def test_orphans_are_collected(ended: None) -> None:
    run("(sleep 0.1 &) > /dev/null 2>&1; (true &)")
    time.sleep(0.2)
    assert "Z" not in run("cat /proc/[0-9]*/stat | sed 's/.*) //' | cut -c1")


def test_a_killed_holder_takes_all_along_and_is_replaced(ended: None) -> None:
    connection = Sandbox(NAME)
    connection.exec_command("touch /etc/old; (setsid sleep 1000 > /dev/null 2>&1 &)")
    holder = sandbox.find(NAME)
    assert holder
    with namespaces_of(NAME) as inhabited:
        os.kill(holder.pid, signal.SIGKILL)
        end = time.monotonic() + 5
        while inhabited() and time.monotonic() < end:
            time.sleep(0.01)
        assert not inhabited()
    with pytest.raises(AnsibleConnectionFailure, match=f"'{NAME}' has ended, and what was done in it is gone"):
        connection.exec_command("true")
    assert connection.exec_command("test -e /etc/old")[0] == 1


@pytest.mark.parametrize("state", ['{{"pid": {pid}, "start": "1", "firewall": "none"}}', '{{"pid": {pid}', "{{}}"])
def test_stale_state_is_replaced(ended: None, state: str) -> None:
    def write(pid: int) -> None:
        with sandbox._locked(NAME) as directory:
            Path(directory, sandbox.STATE).write_text(state.format(pid=pid), encoding="utf-8")

    with subprocess.Popen(["sleep", "60"]) as stranger:  # has the number of a holder that died
        write(stranger.pid)
        assert not sandbox.stop(NAME)
        assert stranger.poll() is None
        write(stranger.pid)
        assert run("hostname") == NAME
        stranger.kill()


def start_when_all_are_ready(ready: t.Any, pids: t.Any) -> None:
    ready.wait()
    pids.put(sandbox.start(NAME, "nftables").pid)


def test_connects_at_once_make_one(ended: None) -> None:
    fork = multiprocessing.get_context("fork")
    ready, pids = fork.Barrier(8), fork.SimpleQueue()
    workers = [fork.Process(target=start_when_all_are_ready, args=(ready, pids)) for _number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({pids.get() for _worker in workers}) == 1
    assert len(members(NAME)) == 1


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-a", ".a", "a b", "a\n", "x" * 64])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="not a name for one; up to 63 letters"):
        sandbox.start(name, "none")


def test_missing_commands_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for command in ("hostname", "mount", "nsenter", "pivot_root", "python3", "unshare"):
        (tmp_path / command).symlink_to("/bin/true")
    monkeypatch.setattr(sandbox, "PATH", str(tmp_path))
    with pytest.raises(AnsibleConnectionFailure, match=r"ip, nft not found in .*'apt-get install iproute2 nftables'"):
        sandbox.start(NAME, "nftables")
    with pytest.raises(AnsibleConnectionFailure, match=r"restore not found in .*'apt-get install iproute2 iptables'"):
        sandbox.start(NAME, "iptables")


def test_missing_rights_are_explained() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'collections')!r})\n" + (
        "from ansible_collections.openagora.firewall.plugins.connection import sandbox\n"
        f"try: sandbox.start({NAME!r}, 'none')\n"
        "except sandbox.AnsibleConnectionFailure as e: print(e)"
    )
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code]
    if os.geteuid():
        powerless = ["unshare", "--user", "--map-root-user", *powerless]
    message = subprocess.run(powerless, capture_output=True, text=True, check=True).stdout
    assert f"sandbox '{NAME}' cannot be made: unshare: unshare failed: Operation not permitted" in message
    assert "root lacks CAP_SYS_ADMIN" in message


def where(runtime_directory: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(DIRECTORY)
        patch.setenv("XDG_RUNTIME_DIR", runtime_directory)
        return sandbox._directory()


def where_a_user_has_it() -> None:
    uid = os.geteuid()
    with tempfile.TemporaryDirectory() as own:
        assert where(own) == (f"{own}/openagora-sandbox" if uid else "/run/openagora-sandbox")
    if uid and not os.path.exists(f"/run/user/{uid}"):
        assert where("/run") == f"{tempfile.gettempdir()}/openagora-sandbox-{uid}"  # /run is root's


def test_where_it_is_written_down(call: Call) -> None:
    call(where_a_user_has_it)


def test_a_directory_of_another_user_is_refused(call: Call) -> None:
    directory = call(sandbox._directory)
    os.symlink("/", directory)
    try:
        with pytest.raises(AnsibleConnectionFailure, match=f"{directory} has to be a directory of user"):
            call(run, "true")
        with pytest.raises(AnsibleConnectionFailure, match=f"{directory} has to be a directory of user"):
            call(sandbox._names)
    finally:
        os.unlink(directory)


def test_a_failure_while_it_is_built_leaves_nothing(ended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sandbox.FIREWALLS, "none", "sleep 1000 & nft add table nonsense filter\n")
    with pytest.raises(AnsibleConnectionFailure, match=f"'{NAME}' cannot be made: Error: .*nonsense"):
        sandbox.start(NAME, "none")
    monkeypatch.setitem(sandbox.FIREWALLS, "none", "sleep 1000\n")
    monkeypatch.setattr(sandbox, "SECONDS_TO_BUILD", 0.5)
    with pytest.raises(AnsibleConnectionFailure, match=r"not ready after 0\.5 seconds"):
        sandbox.start(NAME, "none")
    time.sleep(0.1)
    assert not members(NAME)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PLUGIN), *arguments], capture_output=True, text=True, check=False)


def test_command_line(ended: None) -> None:
    pid = sandbox.start(NAME, "nftables").pid
    other = sandbox.start(OTHER, "none").pid
    listed = cli("list")
    assert (listed.returncode, listed.stdout) == (0, f"{NAME}\t{pid}\tnftables\n{OTHER}\t{other}\tnone\n")
    assert cli("stop", NAME).stdout == f"stopped: {NAME}\n"
    assert cli("stop").stdout == f"stopped: {OTHER}\n"
    nothing = cli("stop")
    assert (nothing.returncode, nothing.stdout) == (0, "nothing to stop\n")
    refused = cli("stop", "../x")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "not a name" in refused.stderr


PLAYBOOK = """
- hosts: all
  become: true
  gather_facts: false
  tasks:
    - ansible.builtin.setup: {gather_subset: [min, network]}
    - ansible.builtin.service_facts:
    - ansible.builtin.copy: {content: "hello", dest: "/etc/openagora test", mode: "0600"}
    - ansible.builtin.template: {src: "{{ playbook_dir }}/t.j2", dest: /var/lib/t, mode: "0644"}
    - ansible.builtin.command: cat /etc/hostname
      changed_when: false
    - ansible.builtin.fetch: {src: /var/lib/t, dest: "{{ playbook_dir }}/fetched", flat: true}
"""


def test_playbooks(ended: None, tmp_path: Path) -> None:
    variables = {
        "ansible_connection": "openagora.firewall.sandbox",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": False,
        "ansible_sandbox_firewall": "none",
    }
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {NAME: variables}}}), encoding="utf-8")
    (tmp_path / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    (tmp_path / "t.j2").write_text("{{ ansible_facts.hostname }} {{ ansible_facts.default_ipv4.address }}")
    for pipelining, arguments, changed in (("0", [], 3), ("1", ["--check"], 0)):
        environment = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "ANSIBLE_PIPELINING": pipelining}
        result = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "play.yml", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"changed={changed} " in result.stdout
    assert (tmp_path / "fetched").read_text(encoding="utf-8") == f"{NAME} 192.0.2.2"
    holder = sandbox.find(NAME)
    assert holder
    assert holder.firewall == "none"
