# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the allowlist costs a resolver: dnsmasq and unbound as they are, and with the configuration of the role.

All resolvers run side by side in a network namespace of their own and ask the same upstream, which answers every name.
A client keeps some queries under way, to one resolver after the other, in the opposite order every other round.
"cached" are the names of the allowlist again and again; "new" are names that nobody has asked for, so the upstream is
asked. Prints medians; judges nothing but that each query was answered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

import yaml
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._dns.wire import NOERROR, build, parse
from document import SDKS
from netns import NetnsHost

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "dns_allowlist"
UPSTREAM = ROOT / "tests" / "contract" / "instruments" / "upstream.py"
UPSTREAM_ADDRESS = "127.0.0.9"
DOMAINS = list(compile_request(Request.of(sdks=SDKS)).rules.domains)
EXTRA = [f".extra{number}.example.net" for number in range(10_000)]
SETS = ["4#inet#t#s4", "6#inet#t#s6"]
TABLE = """
table inet t {
    set s4 { type ipv4_addr; flags dynamic,timeout; timeout 1h; }
    set s6 { type ipv6_addr; flags dynamic,timeout; timeout 1h; }
}
"""
PLAIN = "as it is"

# What the resolvers need to run here, whatever they answer.
BASE = {
    "dnsmasq": "no-hosts\n",
    "unbound": 'server:\n  chroot: ""\n  directory: "/run"\n  username: ""\n  use-syslog: no\n  pidfile: ""\n',
}
COMMANDS = {
    "dnsmasq": ["dnsmasq", "--keep-in-foreground", "--pid-file=", "--conf-file={}"],
    "unbound": ["unbound", "-d", "-c", "{}"],
}


class Variant(t.NamedTuple):
    """A resolver with a configuration; `domains` is None for none of ours."""

    resolver: str
    name: str
    domains: list[str] | None
    sets: list[str]


VARIANTS = [
    Variant("dnsmasq", PLAIN, None, []),
    Variant("dnsmasq", "allowlist", DOMAINS, []),
    Variant("dnsmasq", "allowlist, sets", DOMAINS, SETS),
    Variant("dnsmasq", "10,000 more", DOMAINS + EXTRA, []),
    Variant("dnsmasq", "10,000 more, sets", DOMAINS + EXTRA, SETS),
    Variant("unbound", PLAIN, None, []),
    Variant("unbound", "allowlist", DOMAINS, []),
    Variant("unbound", "10,000 more", DOMAINS + EXTRA, []),
]


def configuration(variant: Variant, address: str) -> str:
    """The text of a configuration file: the role's own template, or what makes the resolver ask the upstream."""
    if variant.domains is None:
        if variant.resolver == "dnsmasq":
            return f"no-resolv\nbind-dynamic\nlisten-address={address}\nserver={UPSTREAM_ADDRESS}\n"
        server = f"server:\n  ip-freebind: yes\n  do-not-query-localhost: no\n  interface: {address}\n"
        return f'{server}forward-zone:\n  name: "."\n  forward-addr: {UPSTREAM_ADDRESS}\n'
    info = {
        "listen": [address],
        "upstreams": [UPSTREAM_ADDRESS],
        "clients": ["127.0.0.0/8"],
        "domains": variant.domains,
        "local_domains": [],
        "address_sets": variant.sets,
    }
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    variables.update(dns_allowlist_info=info, dns_allowlist_others="refuse")
    return render(ROLE / "templates" / f"{variant.resolver}.conf.j2", variables)


def render(template: Path, variables: dict[str, t.Any]) -> str:
    """A template as Ansible renders it."""
    words = ["localhost", "--inventory=localhost,", "--connection=local", "--module-name=ansible.builtin.debug"]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:
        json.dump(variables, file)
        file.flush()
        words += [
            f"--extra-vars=@{file.name}",
            f"--args=msg={{{{ lookup('ansible.builtin.template', '{template}') }}}}",
        ]
        settings = {**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        done = subprocess.run(["ansible", *words], cwd=ROOT, env=settings, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout.partition("=>")[2])["msg"])


def start(variant: Variant, path: str, address: str) -> tuple[subprocess.Popen[bytes], float]:
    """Start a resolver; returns it with the seconds until it answered."""
    began = time.monotonic()
    program = subprocess.Popen([word.format(path) for word in COMMANDS[variant.resolver]], stderr=subprocess.DEVNULL)
    query = build(1, "agora.io", "A")
    while time.monotonic() < began + 60:
        if program.poll() is not None:
            sys.exit(f"{variant.resolver} ({variant.name}) ended with {program.returncode}")
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            client.connect((address, 53))
            try:
                client.send(query)
                if parse(client.recv(4096)).code == NOERROR:
                    return program, time.monotonic() - began
            except OSError:
                # It does not listen yet.
                time.sleep(0.001)
    sys.exit(f"{variant.resolver} ({variant.name}) does not answer")


def processor_time(process: int) -> float:
    """The seconds that a process has run (proc_pid_schedstat(5))."""
    return int(Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def load(address: str, queries: t.Sequence[bytes], under_way: int) -> list[float]:
    """Send all queries, some under way at any time; returns the seconds that each took, and at last all together."""
    took = []
    sent = [0.0] * 65536
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((address, 53))
        began = time.perf_counter()
        for number, query in enumerate(queries[:under_way]):
            sent[number] = time.perf_counter()
            client.send(query)
        for following in range(under_way, len(queries) + under_way):
            answer = client.recv(4096)
            now = time.perf_counter()
            number = answer[0] << 8 | answer[1]
            if answer[3] & 15 != NOERROR or not answer[7]:
                sys.exit(f"{address}: an answer without address: {parse(answer)}")
            took.append(now - sent[number])
            if following < len(queries):
                sent[following] = time.perf_counter()
                client.send(queries[following])
        return [*took, time.perf_counter() - began]


def questions(kind: str, count: int, tag: str) -> list[bytes]:
    """Queries, numbered from 0; names that are new need a tag of their own."""
    cached = ["agora.io", "ap1.agora.io", "vocs.agora.io", "qos.agoralab.co", "qoslbs.agoralab.co"]
    names = (
        cached[number % len(cached)] if kind == "cached" else f"n{number}-{tag}.agora.io" for number in range(count)
    )
    return [build(number, name, "A") for number, name in enumerate(names)]


class Result(t.NamedTuple):
    """One run of queries: queries per second, median and 99th percentile in ms, microseconds of processor per query."""

    rate: float
    median: float
    high: float
    processor: float


def inside(runs: int, under_way: int, count: int) -> dict[str, t.Any]:
    """Measure, in the namespace."""
    counts = {"cached": count, "new": count // 4}
    arguments = [UPSTREAM_ADDRESS, "--ttl", "3600"]
    upstream = subprocess.Popen([sys.executable, str(UPSTREAM), *arguments], stdout=subprocess.PIPE)
    programs: list[subprocess.Popen[bytes]] = []
    try:
        (upstream.stdout or sys.stdin).readline()
        startup: list[list[float]] = [[] for _variant in VARIANTS]
        for run in range(runs):
            for number, variant in enumerate(VARIANTS):
                program, took = start(variant, f"/run/{number}.conf", f"127.0.1.{number}")
                startup[number].append(took)
                if run < runs - 1:
                    program.terminate()
                    program.wait()
                else:
                    programs.append(program)
        results: dict[str, list[list[Result]]] = {kind: [[] for _variant in VARIANTS] for kind in counts}
        for run in range(runs):
            order = list(range(len(VARIANTS)))
            for number in order if run % 2 == 0 else reversed(order):
                for kind, size in counts.items():
                    before = processor_time(programs[number].pid)
                    *took, total = load(f"127.0.1.{number}", questions(kind, size, f"{number}-{run}"), under_way)
                    spent = processor_time(programs[number].pid) - before
                    took.sort()
                    results[kind][number].append(
                        Result(
                            size / total,
                            statistics.median(took) * 1e3,
                            took[int(len(took) * 0.99)] * 1e3,
                            spent / size * 1e6,
                        )
                    )
        return {"startup": startup, **results}
    finally:
        for program in (*programs, upstream):
            program.kill()
            program.wait()


FORM = "{:8} {:18} {:7} {:>11} {:>6} {:>10} {:>8} {:>11} {:>10}"


def show(measured: dict[str, t.Any]) -> None:
    """Print the tables."""
    head = ["resolver", "configuration", "names", "queries/s", "ratio", "median ms", "99 % ms", "more by ms", "CPU us"]
    print(FORM.format(*head))
    for kind in ("cached", "new"):
        for number, variant in enumerate(VARIANTS):
            plain = next(index for index, other in enumerate(VARIANTS) if other.resolver == variant.resolver)
            mine = [Result(*values) for values in measured[kind][number]]
            base = [Result(*values) for values in measured[kind][plain]]
            print(
                FORM.format(
                    variant.resolver,
                    variant.name,
                    kind,
                    f"{statistics.median(one.rate for one in mine):,.0f}",
                    f"{statistics.median(one.rate / other.rate for one, other in zip(mine, base)):.2f}",
                    f"{statistics.median(one.median for one in mine):.2f}",
                    f"{statistics.median(one.high for one in mine):.2f}",
                    f"{statistics.median(one.high - other.high for one, other in zip(mine, base)):+.2f}",
                    f"{statistics.median(one.processor for one in mine):.0f}",
                )
            )
    print("Seconds from start to the first answer:")
    for variant, took in zip(VARIANTS, measured["startup"]):
        print(f"{variant.resolver:8} {variant.name:18} {statistics.median(took):.3f} ({min(took):.3f}-{max(took):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--under-way", type=int, default=16, help="queries under way at any time (default: 16)")
    parser.add_argument("--queries", type=int, default=60_000, help="cached names of one run (default: 60000)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs < 1 or options.under_way < 1 or not 4 * options.under_way <= options.queries <= 65536:
        parser.error("at least 1 run, 1 query under way and four times as many queries, at most 65536, are needed")
    if options.inside:
        print(json.dumps(inside(options.runs, options.under_way, options.queries)))
        return
    before = os.getloadavg()[0]
    with NetnsHost() as host:
        host.sh("ip link set lo up")
        host.nft(TABLE)
        for number, variant in enumerate(VARIANTS):
            host.put(f"/run/{number}.conf", BASE[variant.resolver] + configuration(variant, f"127.0.1.{number}"))
        done = host.run([sys.executable, str(Path(__file__).resolve()), "--inside", *sys.argv[1:]])
    if done.code:
        sys.exit(done.err or done.out)
    print(f"{options.runs} rounds, {options.under_way} queries under way, {options.queries} of cached names in a run")
    print(f"Linux {platform.release()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    show(json.loads(done.out))
    print(f"load average: {before:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
