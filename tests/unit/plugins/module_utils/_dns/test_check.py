# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What dns_check says of real resolvers, whose upstream answers, is silent, or cannot be reached."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._dns.check import OTHERS, Check, read_question
from ansible_collections.openagora.firewall.plugins.module_utils._dns.wire import build
from ansible_collections.openagora.firewall.plugins.module_utils._model.messages import RequestError
from document import DOCUMENT, SDKS
from netns import NetnsHost

ROOT = Path(__file__).resolve().parents[5]
UPSTREAM = ROOT / "tests" / "contract" / "instruments" / "upstream.py"
DEFAULTS: dict[str, t.Any] = {
    "server": "127.0.0.1",
    "port": 53,
    "transport": ["udp", "tcp"],
    "others": None,
    "local_domains": [],
    "expect_others": "refuse",
    "timeout": 2.0,
    "scope": "any",
}

# Asks in the host's namespaces and prints what came out.
CHECK = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "collections")!r})
from ansible_collections.openagora.firewall.plugins.module_utils._compile import Request, compile_request
from ansible_collections.openagora.firewall.plugins.module_utils._dns.check import check, read_question
request, options = json.loads(sys.argv[1])
done = check(read_question(options, compile_request(Request.of(**request))))
print(json.dumps([done.result, [notice.code for notice in done.notices]]))
"""

DNSMASQ = """
no-resolv
no-hosts
bind-interfaces
listen-address=127.0.0.1
listen-address=::1
server=/agora.io/127.0.0.9
server=/qoslbs.agoralab.co/127.0.0.9
server=/qos.agoralab.co/127.0.0.9
server=/*.qos.agoralab.co/
"""
UNBOUND = """
server:
  chroot: ""
  directory: "/run"
  username: ""
  use-syslog: no
  pidfile: ""
  module-config: "iterator"
  do-not-query-localhost: no
  interface: 127.0.0.1
  interface: ::1
  local-zone: "." {others}
  local-zone: "agora.io." transparent
  local-zone: "qos.agoralab.co." transparent
  local-zone: "qoslbs.agoralab.co." transparent
forward-zone:
  name: "."
  forward-addr: 127.0.0.9
"""
RESOLVERS = {
    "dnsmasq": {"refuse": DNSMASQ, "nxdomain": f"{DNSMASQ}local=/#/\n", "resolve": f"{DNSMASQ}server=127.0.0.9\n"},
    "unbound": {
        "refuse": UNBOUND.format(others="refuse"),
        "nxdomain": UNBOUND.format(others="always_nxdomain"),
        "resolve": UNBOUND.format(others="transparent"),
    },
}


class Site:
    """A host on which an upstream and a resolver can run."""

    def __init__(self, host: NetnsHost) -> None:
        self.host = host
        self.running: list[subprocess.Popen[str]] = []
        host.sh("ip link set lo up")

    def start(self, argv: t.Sequence[str], address: str) -> subprocess.Popen[str]:
        """Start a server, and wait until it listens on an address."""
        program = self.host.start(argv)
        self.running.append(program)
        deadline = time.monotonic() + 10
        while f" {address}:53 " not in self.host.sh("ss -Hlnt"):
            assert program.poll() is None, f"{argv} ended"
            assert time.monotonic() < deadline, f"{argv} does not listen on {address}"
        return program

    def upstream(self, *arguments: str) -> subprocess.Popen[str]:
        """The server that the resolvers ask."""
        listen = ["127.0.0.9", "--log", "/run/asked", *arguments]
        return self.start([sys.executable, str(UPSTREAM), *listen], "127.0.0.9")

    def resolver(self, name: str, others: str = "refuse") -> None:
        """A resolver that answers the allowlist of all SDKs."""
        self.host.put(f"/run/{name}.conf", RESOLVERS[name][others])
        command = {
            "dnsmasq": ["dnsmasq", "--keep-in-foreground", "--conf-file=/run/dnsmasq.conf", "--pid-file="],
            "unbound": ["unbound", "-d", "-c", "/run/unbound.conf"],
        }[name]
        self.start(command, "127.0.0.1")

    def check(self, *, request: t.Mapping[str, t.Any] | None = None, **options: t.Any) -> Check:
        """Ask, and return what the module would."""
        given = [{"sdks": list(SDKS), **(request or {})}, {**DEFAULTS, **options}]
        done = self.host.run([sys.executable, "-c", CHECK, json.dumps(given)])
        assert done.code == 0, done.err
        result, self.notices = json.loads(done.out)
        return Check(result, ())


@pytest.fixture
def site(host: NetnsHost) -> t.Iterator[Site]:
    """A host whose servers end with the test."""
    site = Site(host)
    yield site
    for program in site.running:
        program.kill()
        program.communicate()


def verdicts(done: Check, **wanted: str) -> dict[str, set[str]]:
    """The verdicts on each name, of the answers that have these values."""
    found: dict[str, set[str]] = {}
    for answer in done.result["answers"]:
        if all(answer[key] == value for key, value in wanted.items()):
            found.setdefault(answer["name"], set()).add(answer["verdict"])
    return found


@pytest.mark.parametrize("others", ["refuse", "nxdomain"])
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_filter_that_does_its_work(site: Site, resolver: str, others: str) -> None:
    site.upstream()
    site.resolver(resolver, others)
    done = site.check(expect_others=others)
    denied = {"refuse": "refused", "nxdomain": "nxdomain"}[others]
    found = verdicts(done)
    assert (done.result["missing"], done.result["beyond"], done.faults(["missing", "beyond"])) == ([], [], "")
    assert {name: found.pop(name) for name in OTHERS} == {name: {denied} for name in OTHERS}
    assert set().union(*found.values()) == {"answered"}
    published = {name.lstrip(".") for listed in DOCUMENT.values() for name in listed["domains"]}
    assert published < set(found)
    (below,) = set(found) - published
    assert below.startswith("openagora-")
    assert below.endswith(".agora.io")
    assert {(answer["type"], answer["transport"]) for answer in done.result["answers"] if answer["name"] == below} == {
        (kind, transport) for kind in ("A", "AAAA") for transport in ("udp", "tcp")
    }
    assert site.notices == []


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_the_answer_names_the_addresses_and_who_needs_the_name(site: Site, resolver: str) -> None:
    given = ["ap1.agora.io=192.0.2.1,192.0.2.2", "agora.io=192.0.2.3,2001:db8::3"]
    site.upstream(*(word for text in given for word in ("--address", text)))
    site.resolver(resolver)
    done = site.check(request={"sdks": ["native", "web"]}, server="::1", transport=["tcp"])
    rows = {(answer["name"], answer["type"]): answer for answer in done.result["answers"]}
    assert rows["ap1.agora.io", "A"]["addresses"] == ["192.0.2.1", "192.0.2.2"]
    assert (rows["ap1.agora.io", "AAAA"]["addresses"], rows["ap1.agora.io", "AAAA"]["verdict"]) == ([], "answered")
    assert rows["ap1.agora.io", "A"]["sdks"] == ["native"]
    assert rows["agora.io", "A"]["addresses"] == ["192.0.2.3"]
    assert rows["agora.io", "AAAA"]["addresses"] == ["2001:db8::3"]
    assert rows["agora.io", "A"]["sdks"] == ["native", "web"]
    assert done.result["table"][0].split() == ["name", "SDK", "verdict"]
    assert "agora.io native,web answered" in {" ".join(line.split()) for line in done.result["table"]}
    assert "notagora.io - refused" in {" ".join(line.split()) for line in done.result["table"]}


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_what_the_upstream_says_does_not_exist_is_answered(site: Site, resolver: str) -> None:
    site.upstream("--missing", "missing.example.net")
    site.resolver(resolver, "resolve")
    # Twice: the second time from the cache.
    for _time in range(2):
        done = site.check(request={"sdks": ["web"], "extra_domains": ["missing.example.net"]}, expect_others="resolve")
        assert verdicts(done)["missing.example.net"] == {"answered"}
    assert "udp A missing.example.net" in Path(site.host.path("/run/asked")).read_text(encoding="utf-8")


def test_a_zone_that_unbound_makes_up_is_no_word_of_the_upstream(site: Site) -> None:
    site.upstream()
    site.resolver("unbound", "resolve")
    assert verdicts(site.check(others=["evil.test"]))["evil.test"] == {"nxdomain"}


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_another_name_that_is_answered_is_beyond(site: Site, resolver: str) -> None:
    site.upstream()
    site.resolver(resolver, "resolve")
    done = site.check()
    assert done.result["beyond"] == sorted(OTHERS)
    assert done.faults(["missing"]) == ""
    assert "answered though not allowlisted: agora.io.example.com, " in done.faults(["beyond"])
    assert site.check(expect_others="resolve").result["beyond"] == []


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_name_that_the_filter_forgot_is_missing(site: Site, resolver: str) -> None:
    site.upstream()
    site.resolver(resolver)
    done = site.check(request={"extra_domains": ["forgotten.example.net"]}, expect_others="nxdomain")
    assert done.result["missing"] == ["forgotten.example.net"]
    assert done.faults(["missing"]).startswith("not answered: forgotten.example.net; the resolver refuses this: ")
    assert site.notices == ["denied_otherwise"]


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_name_whose_servers_fail_is_not_denied(site: Site, resolver: str) -> None:
    site.upstream("--broken", "qos.agoralab.co")
    site.resolver(resolver)
    done = site.check(timeout=0.5)
    assert done.result["missing"] == ["qos.agoralab.co"]
    assert done.faults(["missing"]).startswith("not answered: qos.agoralab.co; the resolver gets no answer itself: ")
    assert done.faults(["denied", "beyond"]) == ""
    assert site.notices == ["upstream_unreachable"]
    done = site.check(request={"extra_domains": ["forgotten.example.net"]}, timeout=0.5)
    assert done.faults(["denied"]).startswith("not answered: forgotten.example.net; the resolver refuses this: ")


@pytest.mark.parametrize(("above", "denied"), [("answered", False), ("nxdomain", True)])
def test_a_server_that_does_not_say_who_said_so_is_no_denial(above: str, *, denied: bool) -> None:
    """That the name below a suffix does not exist, when the suffix itself is answered."""
    verdict_of = {"agora.io": above, "openagora-0a1b2c3d.agora.io": "nxdomain"}
    answers = [{"name": name, "verdict": verdict, "sdks": ["web"]} for name, verdict in verdict_of.items()]
    missing = [name for name, verdict in verdict_of.items() if verdict != "answered"]
    done = Check({"answers": answers, "missing": missing, "beyond": []}, ())
    assert bool(done.faults(["denied"])) is denied
    assert "openagora-" in done.faults(["missing"])


@pytest.mark.parametrize("others", ["refuse", "nxdomain", "resolve"])
@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("trouble", ["silent", "closed", "no route"])
def test_an_upstream_that_is_out_of_reach_is_told_apart(site: Site, resolver: str, others: str, trouble: str) -> None:
    if trouble == "silent":
        site.host.nft("table inet t {\nchain c {\ntype filter hook input priority 0;\nip daddr 127.0.0.9 drop\n}\n}\n")
    elif trouble == "no route":
        site.host.sh("ip route add unreachable 127.0.0.9; ip route del table local local 127.0.0.0/8")
        site.host.sh("ip rule add pref 1 to 127.0.0.9 unreachable")
    site.resolver(resolver, others)
    done = site.check(request={"sdks": ["web"]}, timeout=0.5, expect_others=others)
    found = verdicts(done)
    denied = {"refuse": "refused", "nxdomain": "nxdomain", "resolve": "upstream_unreachable"}[others]
    assert {name: found.pop(name) for name in OTHERS} == {name: {denied} for name in OTHERS}
    assert set().union(*found.values()) == {"upstream_unreachable"}
    assert "the resolver gets no answer itself" in done.faults(["missing"])
    assert done.faults(["denied"]) == done.faults(["missing"])
    assert done.result["beyond"] == []


def test_what_dnsmasq_remembers_hides_no_upstream_that_is_gone(site: Site) -> None:
    upstream = site.upstream("--ttl", "3600")
    site.resolver("dnsmasq")
    assert verdicts(site.check(request={"sdks": ["web"]}))["agora.io"] == {"answered"}
    upstream.kill()
    upstream.wait()
    assert site.host.sh("dig @127.0.0.1 +short agora.io").startswith("198.1")
    assert verdicts(site.check(request={"sdks": ["web"]}, timeout=0.5))["agora.io"] == {"upstream_unreachable"}


@pytest.mark.parametrize("drop", [False, True])
def test_a_resolver_that_is_not_there_is_told_apart(site: Site, *, drop: bool) -> None:
    if drop:
        site.host.nft("table inet t {\nchain c {\ntype filter hook input priority 0;\nth dport 53 drop\n}\n}\n")
    done = site.check(request={"sdks": ["web"]}, timeout=0.1)
    assert set().union(*verdicts(done).values()) == {"no_resolver"}
    assert "nothing answers there: " in done.faults(["missing"])


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_the_transports_are_told_apart(site: Site, resolver: str) -> None:
    site.upstream()
    site.resolver(resolver)
    site.host.nft("table inet t {\nchain c {\ntype filter hook input priority 0;\ntcp dport 53 reject\n}\n}\n")
    done = site.check(request={"sdks": ["web"]})
    assert verdicts(done, transport="udp")["agora.io"] == {"answered"}
    assert verdicts(done, transport="tcp")["agora.io"] == {"no_resolver"}
    assert done.result["missing"][0] == "agora.io"
    lines = {" ".join(line.split()) for line in done.result["table"]}
    assert "agora.io web answered (A udp, AAAA udp); no_resolver (A tcp, AAAA tcp)" in lines


def test_a_datagram_that_is_lost_is_sent_again(site: Site) -> None:
    site.upstream()
    site.resolver("dnsmasq")
    # The first from each port.
    lost = "udp dport 53 ip daddr 127.0.0.1 udp sport != @seen add @seen { udp sport } counter drop"
    site.host.nft(
        "table inet t {\nset seen { type inet_service; size 65535; flags dynamic; }\n"
        f"chain c {{\ntype filter hook input priority 0;\n{lost}\n}}\n}}\n"
    )
    done = site.check(request={"sdks": ["web"]}, transport=["udp"], timeout=1.0)
    assert done.result["missing"] == []
    assert set().union(*verdicts(done).values()) == {"answered", "refused"}
    assert "packets 0" not in site.host.sh("nft list chain inet t c")


def test_a_connection_that_is_ended_is_made_again(site: Site) -> None:
    """dnsmasq 2.90 ends some now and then when it fills sets and is asked much over TCP."""
    site.upstream()
    site.resolver("dnsmasq")
    ended = (
        "tcp dport 53 ip daddr 127.0.0.1 ct state new limit rate 1/hour burst 1 packets counter reject with tcp reset"
    )
    site.host.nft(f"table inet t {{\nchain c {{\ntype filter hook input priority 0;\n{ended}\n}}\n}}\n")
    # One question alone, so that the connection which is ended is its own.
    asked = 'Question((), "127.0.0.1", 53, ("tcp",), "refuse", 2.0), "tcp", "agora.io", "A"'
    script = CHECK.partition("request, options")[0].replace("check, read", "Question, _ask, read")
    site.host.put("/run/ask.py", f"{script}\nprint(_ask({asked}).code)")
    assert site.host.sh(f"{sys.executable} {site.host.path('/run/ask.py')}") == "0\n"
    assert "packets 1 " in site.host.sh("nft list chain inet t c")


def test_all_problems_are_one_error() -> None:
    compiled = compile_request(Request.of(sdks=["web"]))
    wrong = {
        "others": ["a b.test", ".example.com", "ap1.agora.io"],
        "local_domains": ["a b"],
        "server": "dns.example.com",
        "port": 0,
        "transport": [],
        "timeout": 0.0,
    }
    with pytest.raises(RequestError) as caught:
        read_question({**DEFAULTS, **wrong}, compiled)
    places = [problem.where for problem in caught.value.problems]
    assert places == [
        "local_domains[0]",
        "others[0]",
        "others[1]",
        "others[2]",
        "server",
        "port",
        "transport",
        "timeout",
    ]


def test_a_usual_other_name_that_the_user_allows_is_not_asked_for_as_another() -> None:
    question = read_question(DEFAULTS, compile_request(Request.of(sdks=["web"], extra_domains=[".example.com"])))
    names = dict(question.names)
    assert names["example.com"] == ("extra",)
    assert "agora.io.example.com" not in names
    assert names["xagora.io"] == ()


@pytest.mark.parametrize(("domain", "others"), [("example.com", ["notagora.io", "xagora.io"]), ("io", ["example.com"])])
def test_a_usual_other_name_of_the_site_is_not_asked_for_as_another(domain: str, others: list[str]) -> None:
    """A host of domain example.com answers it."""
    compiled = compile_request(Request.of(sdks=["web"]))
    question = read_question({**DEFAULTS, "local_domains": [domain]}, compiled)
    asked = [name for name, sdks in question.names if not sdks and name != "agora.io.example.com"]
    assert asked == others


# The upstream itself


def test_the_upstream_answers_as_its_help_says(site: Site) -> None:
    site.upstream()
    dig = "dig @127.0.0.9 +tries=1 +short"
    assert site.host.sh(f"{dig} alias.agora.io").splitlines()[0] == "target.cdn.example."
    assert len(site.host.sh(f"{dig} big.agora.io AAAA").splitlines()) == 100
    assert "flags: qr aa tc rd ra" in site.host.sh("dig @127.0.0.9 +ignore big.agora.io")
    missing = site.host.sh("dig @127.0.0.9 x.missing.agora.io")
    assert "status: NXDOMAIN" in missing
    assert "SOA\tns.agora.io." in missing
    assert site.host.sh(f"{dig} -x 10.1.2.3").strip() == "3-2-1-10-in-addr.corp.example."
    for name in ("agora.io", "a.b.c.agora.io", "qos.agoralab.co", "agoraio.cn", "evil.test", "corp.example"):
        assert site.host.sh(f"{dig} {name} A").startswith("198.1")
        assert site.host.sh(f"{dig} {name} AAAA").startswith("2001:db8:")
    asked = Path(site.host.path("/run/asked")).read_text(encoding="utf-8").splitlines()
    assert asked[0] == "udp A alias.agora.io"
    assert "tcp AAAA big.agora.io" in asked


def test_the_upstream_survives_what_is_no_query(site: Site) -> None:
    upstream = site.upstream()
    code = "import socket, sys; u = socket.socket(type=socket.SOCK_DGRAM); u.connect(('127.0.0.9', 53)); "
    for data in (b"", b"x", build(1, "agora.io", "A")[:20], b"\xff" * 40):
        site.host.sh(f'{sys.executable} -c "{code} u.send(bytes.fromhex(sys.argv[1]))" "{data.hex()}"')
    assert site.host.sh("dig @127.0.0.9 +tries=1 +short agora.io").startswith("198.1")
    assert upstream.poll() is None
