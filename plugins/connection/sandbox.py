# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: sandbox
author: The openagora.firewall authors (@openagora)
short_description: Run tasks on a throwaway host made of Linux namespaces of the control node
version_added: 1.0.0
description:
  - Makes a throwaway host out of private network, mount, PID, UTS and IPC namespaces of the control node,
    and runs tasks on it as root. No container engine, image or daemon is needed.
  - The host sees the machine's files and cannot write them.
    Its C(/etc), C(/run), C(/var), C(/tmp), C(/root) and C(/dev) are its own, C(/media) and C(/mnt) are empty.
    Its processes, name, interfaces and firewall are its own too. Nothing that is done to them is seen on the machine.
  - Besides C(lo) it has the interface C(eth0) with 192.0.2.2/24 and 2001:db8::2/64,
    and default routes to 192.0.2.1 and 2001:db8::1. Those belong to a network namespace C(far) inside the sandbox
    (C(ip netns exec far ...) reaches it), so that packets can be sent through the firewall.
    No way leads from there to a real network.
  - The sandbox is created at the first connect and lives until it is stopped.
    Several can exist at once under different names.
requirements:
  - Linux 5.12 or newer
  - root, or a user who may create user namespaces
  - C(unshare), C(nsenter) and C(pivot_root) (package util-linux)
  - C(mount), C(hostname), C(ip) (package iproute2) and C(python3)
  - C(nft) (package nftables), or C(iptables-restore) and C(ip6tables-restore) (package iptables), as O(firewall) says
options:
  name:
    description:
      - Name of the sandbox, which is also its host name.
      - Up to 63 letters, digits, dots, hyphens and underscores, beginning with a letter or digit.
    type: str
    default: sandbox
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_sandbox_name
  firewall:
    description:
      - The firewall that a sandbox has from its creation on. It drops everything in both directions and both families,
        except loopback traffic and IPv6 neighbour discovery.
      - It is written to the files from which a Debian host loads it at boot,
        C(/etc/nftables.conf), or C(/etc/iptables/rules.v4) and C(/etc/iptables/rules.v6).
      - Asking for another firewall than the sandbox of this name was created with is an error.
    type: str
    default: nftables
    choices:
      nftables: A table C(inet filter) whose chains C(input), C(forward) and C(output) have the policy drop.
      iptables: The policy DROP in the chains C(INPUT), C(FORWARD) and C(OUTPUT) of iptables and ip6tables.
      none: No firewall.
    vars:
      - name: ansible_sandbox_firewall
    env:
      - name: OPENAGORA_SANDBOX_FIREWALL
    ini:
      - section: openagora_sandbox
        key: firewall
notes:
  - C(python plugins/connection/sandbox.py stop [NAME]) ends one sandbox or all of them and leaves nothing behind.
    C(python plugins/connection/sandbox.py list) shows which there are.
  - Set C(ansible_become) to V(false) and C(ansible_python_interpreter) to V(/usr/bin/python3) for such a host.
    Tasks run as root there already, and the machine's C(/root) and C(/tmp) with their interpreters are not to be seen.
  - No service manager runs in a sandbox. Services can be enabled and disabled, but not started.
  - For an ordinary user C(/etc) is a copy of what the user can read there,
    C(/var) holds empty directories and the package database, and root is the only user that files can be given to.
  - Which sandboxes there are is kept below C(/run/openagora-sandbox) for root,
    for others in C(openagora-sandbox) below E(XDG_RUNTIME_DIR) or C(/run/user/UID),
    and where neither exists in C(openagora-sandbox-UID) below the temporary directory.
    E(OPENAGORA_SANDBOX_DIRECTORY) can name another directory for sandboxes that are to be counted apart from those.
  - A sandbox keeps a playbook from changing the machine by accident.
    It is no prison for hostile code that runs as root.
"""

EXAMPLES = r"""
# In the inventory:
#
# throwaway:
#   ansible_connection: openagora.firewall.sandbox
#   ansible_python_interpreter: /usr/bin/python3
#   ansible_become: false

- name: Show the firewall that a throwaway host begins with
  hosts: throwaway
  gather_facts: false
  tasks:
    - name: List the rules
      ansible.builtin.command: nft list ruleset
      changed_when: false
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

# The machine's own tools only: what a user's PATH adds to them often lies in directories that the sandbox hides.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"HOME": "/root", "LANG": "C.UTF-8", "LOGNAME": "root", "PATH": PATH, "SHELL": "/bin/sh", "USER": "root"}
SECONDS_TO_BUILD = 60
SECONDS_TO_END = 10
STATE = "holder.json"  # in the directory of a sandbox

PACKAGES = {
    "hostname": "hostname",
    "ip": "iproute2",
    "ip6tables-restore": "iptables",
    "iptables-restore": "iptables",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "pivot_root": "util-linux",
    "python3": "python3",
    "unshare": "util-linux",
}
COMMANDS = ["hostname", "ip", "mount", "nsenter", "pivot_root", "python3", "unshare"]
FIREWALL_COMMANDS = {"nftables": ["nft"], "iptables": ["iptables-restore", "ip6tables-restore"], "none": []}

# Makes all mounts read-only in one go: mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, {attr_set: MOUNT_ATTR_RDONLY}).
# mount(8) can do that only since util-linux 2.39, and libc has a name for the system call only since glibc 2.36.
READ_ONLY = """
import ctypes, os, struct
libc, wanted = ctypes.CDLL(None, use_errno=True), struct.pack("4Q", 1, 0, 0, 0)
if libc.syscall(ctypes.c_long(442), -100, b"/", 0x8000, wanted, ctypes.c_size_t(len(wanted))):
    raise SystemExit("mount_setattr: " + os.strerror(ctypes.get_errno()) + " (it needs Linux 5.12 or newer)")
"""

# The scripts below are joined to the one that process 1 of the sandbox runs. $1 is the name, $2 READ_ONLY.
# They build a new root in /tmp and let go of the old one: a mount that the sandbox kept would stay busy on the machine.
BEGIN = r"""
set -eu
umask 022
read -r pid rest < /proc/self/stat  # the machine's /proc: the number by which the machine knows this process
python3 -I -c "$2"
mount -t tmpfs -o mode=0755 tmpfs /tmp
cd /tmp
mkdir dev etc media mnt proc root run sys tmp var
for path in /*; do
    name=${path#/}
    if [ -e "$name" ] || [ "$name" = lost+found ]; then continue; fi
    if [ -L "$path" ]; then
        cp -P "$path" "$name"
    elif [ -d "$path" ]; then
        mkdir "$name"
        mount --rbind "$path" "$name"
    fi
done
"""

TREES_OF_ROOT = r"""
mount -t tmpfs -o mode=0755 tmpfs mnt
for tree in etc var; do
    mkdir -p mnt/$tree/upper mnt/$tree/work
    mount -t overlay -o "lowerdir=/$tree,upperdir=/tmp/mnt/$tree/upper,workdir=/tmp/mnt/$tree/work" overlay $tree
done
umount -l mnt
"""

# In a user namespace an overlay cannot copy up the files of others, because their owners do not exist there.
TREES_OF_USER = r"""
mount -t tmpfs -o mode=0755 tmpfs etc
cp -dR --preserve=mode,timestamps,links /etc/. etc 2>/dev/null || :  # what the user cannot read is left out
chmod -R u+w etc
mount -t tmpfs -o mode=0755 tmpfs var
(cd /var && find . -maxdepth 2 -type d -exec sh -c 'cd /tmp/var && mkdir -p "$@"' sh {} +) 2>/dev/null || :
mkdir -p var/tmp
chmod 1777 var/tmp
ln -s /run var/run
ln -s /run/lock var/lock
if [ -d /var/lib/dpkg ]; then mount --rbind /var/lib/dpkg var/lib/dpkg; fi
"""

MIDDLE = r"""
mount -t tmpfs -o mode=0755,nosuid tmpfs dev
for node in full null random tty urandom zero; do
    : > dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,nosuid,noexec devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
mkdir -m 1777 run/lock
mount -t tmpfs -o mode=0700,nosuid,nodev tmpfs root
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -o remount,bind,ro,nosuid,nodev,noexec sys sys
mount --bind sys sys  # `ip netns` takes one off to mount its own, which a user namespace may only where one is left
mount -t proc -o nosuid,nodev,noexec proc proc

pivot_root . mnt
cd /
umount -l /mnt
mount -o remount,bind,ro / /
for path in /proc/sys /proc/sysrq-trigger; do  # they act on the machine's kernel, but for what is below /proc/sys/net
    [ -e $path ] || continue
    mount --bind $path $path
    mount -o remount,bind,ro,nosuid,nodev,noexec $path $path
done
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw,nosuid,nodev,noexec /proc/sys/net /proc/sys/net

hostname "$1"
rm -f /etc/hostname /etc/hosts
printf '%s\n' "$1" > /etc/hostname
printf '%s\n' '127.0.0.1 localhost' '::1 localhost' "192.0.2.2 $1" "2001:db8::2 $1" > /etc/hosts

ip netns add far
ip link set lo up
ip link add eth0 type veth peer name eth0 netns far
ip address add 192.0.2.2/24 dev eth0
ip -n far address add 192.0.2.1/24 dev eth0
if [ -e /proc/net/if_inet6 ]; then
    ip address add 2001:db8::2/64 dev eth0 nodad
    ip -n far address add 2001:db8::1/64 dev eth0 nodad
fi
ip -n far link set lo up
ip -n far link set eth0 up
ip link set eth0 up
ip route add default via 192.0.2.1
if [ -e /proc/net/if_inet6 ]; then ip route add default via 2001:db8::1; fi
"""

FIREWALLS = {
    "nftables": r"""
cat > /etc/nftables.conf <<'END'
#!/usr/sbin/nft -f

flush ruleset

table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }

    chain forward {
        type filter hook forward priority filter; policy drop;
    }

    chain output {
        type filter hook output priority filter; policy drop;
        oifname "lo" accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
END
nft -f /etc/nftables.conf
""",
    "iptables": r"""
mkdir -p /etc/iptables
cat > /etc/iptables/rules.v4 <<'END'
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A OUTPUT -o lo -j ACCEPT
COMMIT
END
cat > /etc/iptables/rules.v6 <<'END'
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-solicitation -j ACCEPT
-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-advertisement -j ACCEPT
-A OUTPUT -o lo -j ACCEPT
-A OUTPUT -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-solicitation -j ACCEPT
-A OUTPUT -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-advertisement -j ACCEPT
COMMIT
END
iptables-restore /etc/iptables/rules.v4
if [ -e /proc/net/if_inet6 ]; then ip6tables-restore /etc/iptables/rules.v6; fi
""",
    "none": "",
}

# The word that all is ready comes last. `wait` also collects the orphans that process 1 inherits.
END = r"""
export pid
exec sh -c 'echo "$pid"; exec > /dev/null 2>&1; while :; do sleep infinity & wait; done' openagora-sandbox "$1"
"""


class Holder(t.NamedTuple):
    """What is written down of a sandbox: its process 1 as the machine knows it, and the firewall it began with."""

    pid: int
    start: str
    firewall: str


def _start_of(pid: int) -> str | None:
    """When a process started, which tells it from a later one of the same number (proc(5)); None if it is dead."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _directory() -> str:
    """The directory that has a directory for each sandbox of this user."""
    if given := os.environ.get("OPENAGORA_SANDBOX_DIRECTORY"):
        return given
    uid = os.geteuid()
    # root's does not hang on a login: /run/user/0 goes away with the last one, and what was known about sandboxes too.
    for base in ["/run"] if uid == 0 else [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"]:
        if os.path.isdir(base) and os.stat(base).st_uid == uid and os.access(base, os.W_OK):
            return os.path.join(base, "openagora-sandbox")
    return os.path.join(tempfile.gettempdir(), f"openagora-sandbox-{uid}")


def _check_owner(directory: str) -> None:
    """Raise AnsibleConnectionFailure if others have a say in this directory; it may lie where all users can write."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise AnsibleConnectionFailure(
            f"{directory} has to be a directory of user {os.geteuid()} alone (mode 0700); remove what is there"
        )


def _names() -> list[str]:
    """The sandboxes that this user made and did not stop, dead ones among them."""
    try:
        _check_owner(_directory())
        return sorted(os.listdir(_directory()))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _locked(name: str) -> t.Iterator[str]:
    """Yield the directory of a sandbox while no other process has it. Directories that are empty then are removed."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise AnsibleConnectionFailure(
            f"sandbox {name!r}: not a name for one; up to 63 letters, digits, '.', '-' and '_' are, "
            "beginning with a letter or digit"
        )
    above = _directory()
    directory = os.path.join(above, name)
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(above, 0o700)
        try:
            _check_owner(above)
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed by the one before us
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:  # else it was removed while we waited
            break
        os.close(lock)
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):  # in use
            os.rmdir(directory)
            os.rmdir(above)
        os.close(lock)


def _read(directory: str) -> Holder | None:
    """The sandbox of this directory, if it is alive. What a dead one left is removed."""
    path = os.path.join(directory, STATE)
    try:
        with open(path, encoding="utf-8") as file:
            holder = Holder(**json.load(file))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        os.unlink(path)  # cut off while it was written
        return None
    if _start_of(holder.pid) == holder.start:
        return holder
    os.unlink(path)
    return None


def _advice(problem: str) -> str:
    """What to do when the namespaces cannot be made: empty unless the kernel refused them."""
    if not re.search("not permitted|[Pp]ermission denied|No space left|too revealing", problem):
        return ""
    if os.geteuid() == 0:
        return "; root lacks CAP_SYS_ADMIN or CAP_NET_ADMIN here: use a whole machine or a privileged container"
    for setting, forbids, allows in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
    ):
        with contextlib.suppress(OSError), open(f"/proc/sys/{setting.replace('.', '/')}", encoding="utf-8") as file:
            if file.read().strip() == forbids:
                return f"; ordinary users may not do that here: run as root, or let root 'sysctl -w {setting}={allows}'"
    return "; run as root if ordinary users may not do that here (in a container, under a security module)"


def _build(name: str, firewall: str) -> Holder:
    """Make the namespaces, furnish them, and leave process 1 of theirs behind to hold them."""
    missing = [command for command in COMMANDS + FIREWALL_COMMANDS[firewall] if not shutil.which(command, path=PATH)]
    if missing:
        packages = " ".join(sorted({PACKAGES[command] for command in missing}))
        raise AnsibleConnectionFailure(
            f"sandbox '{name}' cannot be made: {', '.join(missing)} not found in {PATH}; "
            f"install what is missing, on Debian with 'apt-get install {packages}'"
        )
    root = os.geteuid() == 0
    script = BEGIN + (TREES_OF_ROOT if root else TREES_OF_USER) + MIDDLE + FIREWALLS[firewall] + END
    argv = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid"]
    if not root:
        argv += ["--user", "--map-root-user"]
    # The first child of what unshare runs becomes process 1 of the sandbox; nobody has to stay and wait for it.
    argv += ["sh", "-c", 'sh -c "$@" &', "sh", script, "openagora-sandbox", name, READ_ONLY]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="replace",
        cwd="/",
        env=ENVIRONMENT,
    )
    try:
        pid, problem = process.communicate(timeout=SECONDS_TO_BUILD)
        start_of_holder = _start_of(int(pid)) if pid else None
        if start_of_holder:
            return Holder(int(pid), start_of_holder, firewall)
    except BaseException as e:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if not isinstance(e, subprocess.TimeoutExpired):
            raise
        problem = f"not ready after {SECONDS_TO_BUILD} seconds"
    raise AnsibleConnectionFailure(f"sandbox '{name}' cannot be made: {' '.join(problem.split())}{_advice(problem)}")


def start(name: str, firewall: str) -> Holder:
    """The sandbox of this name, made if there is none. Raises AnsibleConnectionFailure."""
    with _locked(name) as directory:
        holder = _read(directory)
        if not holder:
            holder = _build(name, firewall)
            with open(os.path.join(directory, STATE), "w", encoding="utf-8") as file:
                json.dump(holder._asdict(), file)
        elif holder.firewall != firewall:
            raise AnsibleConnectionFailure(
                f"sandbox '{name}' was created with firewall '{holder.firewall}', and '{firewall}' is asked for; "
                "stop it first, or use another name"
            )
    return holder


def find(name: str) -> Holder | None:
    """The sandbox of this name, if there is one that lives."""
    with _locked(name) as directory:
        return _read(directory)


def stop(name: str) -> bool:
    """End a sandbox with all that is in it; return whether there was one."""
    with _locked(name) as directory:
        holder = _read(directory)
        if not holder:
            return False
        process = os.pidfd_open(holder.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            # The kernel lets process 1 of a PID namespace go only after all others in it.
            if not select.select([process], [], [], SECONDS_TO_END)[0]:
                raise AnsibleError(
                    f"sandbox '{name}': process {holder.pid} was killed, and is there after {SECONDS_TO_END} seconds"
                )
        finally:
            os.close(process)
        os.unlink(os.path.join(directory, STATE))
    return True


class Connection(ConnectionBase):
    """Run commands on a throwaway host made of namespaces of this machine."""

    transport = "openagora.firewall.sandbox"
    has_pipelining = True

    _holder: Holder

    def _connect(self) -> Connection:
        if not self._connected:
            self._holder = start(self.get_option("name"), self.get_option("firewall"))
            Display().vvv(f"SANDBOX: held by process {self._holder.pid}", host=self.get_option("name"))
            self._connected = True
        return self

    def _run(
        self,
        *argv: str,
        in_data: bytes | None = None,
        stdin: int | t.IO[bytes] = subprocess.PIPE,
        stdout: int | t.IO[bytes] = subprocess.PIPE,
    ) -> tuple[int, bytes, bytes]:
        """Run a command in the sandbox; return its exit code, output and errors."""
        self._connect()
        nsenter = ["nsenter", "--target", str(self._holder.pid), "--mount", "--net", "--uts", "--ipc", "--pid"]
        if os.geteuid():
            nsenter += ["--user", "--preserve-credentials"]
        nsenter += ["--", *argv]
        with subprocess.Popen(nsenter, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
            out, err = process.communicate(in_data)
        if process.returncode and _start_of(self._holder.pid) != self._holder.start:
            self.close()
            raise AnsibleConnectionFailure(
                f"sandbox '{self.get_option('name')}' has ended, and what was done in it is gone; "
                "the next connect makes a new one"
            )
        return process.returncode, out, err

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        Display().vvv(f"EXEC {to_text(cmd)}", host=self.get_option("name"))
        return self._run("sh", "-c", 'cd && exec sh -c "$0"', cmd, in_data=in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        Display().vvv(f"PUT {in_path} TO {out_path}", host=self.get_option("name"))
        if not os.path.exists(to_bytes(in_path, errors="surrogate_or_strict")):
            raise AnsibleFileNotFound(file_name=in_path)
        with open(to_bytes(in_path, errors="surrogate_or_strict"), "rb") as file:
            rc, _out, err = self._run("sh", "-c", 'cat > "$0"', out_path, stdin=file)
        if rc:
            raise AnsibleError(f"sandbox '{self.get_option('name')}': cannot write {out_path}: {to_text(err).strip()}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        Display().vvv(f"FETCH {in_path} TO {out_path}", host=self.get_option("name"))
        with open(to_bytes(out_path, errors="surrogate_or_strict"), "wb") as file:
            rc, _out, err = self._run("sh", "-c", 'cat < "$0"', in_path, stdout=file)
        if rc:
            raise AnsibleError(f"sandbox '{self.get_option('name')}': cannot read {in_path}: {to_text(err).strip()}")

    def reset(self) -> None:
        """Connect anew at the next task; the sandbox stays."""
        self.close()

    def close(self) -> None:
        self._connected = False


def main() -> int:
    """End or list the sandboxes of this user."""
    parser = argparse.ArgumentParser(
        description="This user's throwaway hosts, made by the connection plugin 'sandbox'."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show which there are: name, process on this machine, firewall")
    commands.add_parser("stop", help="end one or all of them").add_argument("name", nargs="?", help="default: all")
    arguments = parser.parse_args()
    try:
        if arguments.command == "list":
            for name in _names():
                if holder := find(name):
                    print(name, holder.pid, holder.firewall, sep="\t")
        else:
            names = [arguments.name] if arguments.name else _names()
            stopped = [name for name in names if stop(name)]
            print(f"stopped: {', '.join(stopped)}" if stopped else "nothing to stop")
    except AnsibleError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
