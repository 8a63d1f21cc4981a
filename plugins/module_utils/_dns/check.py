# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a resolver for the names of the allowlist and for others, and say of each what became of it."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import struct
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .._model.domains import DomainError, DomainSet, normalise
from .._model.messages import Notice, Problem, RequestError
from .formats import local_domain
from .wire import CHAOS, INTERNET, NOERROR, NXDOMAIN, REFUSED, Answer, build, parse

if t.TYPE_CHECKING:
    from .._compile import Compiled

__all__ = ["OTHERS", "Check", "Question", "check", "read_question"]

# What must not be answered: somebody else's name, and names that a filter takes for Agora's when it compares texts.
OTHERS = ("example.com", "agora.io.example.com", "notagora.io", "xagora.io")

_KINDS = ("A", "AAAA")
# dnsmasq has 20 processes for TCP and refuses what is new while 150 queries wait for its upstream.
_AT_ONCE = 16
# Of an extended error (RFC 8914): what goes with REFUSED when dnsmasq cannot send to its upstream.
_NETWORK_ERROR = 23
# The primary server in the zones that unbound itself has for names such as those below `test`.
_BUILT_IN = "localhost"

# A name below a suffix, made up for one check, begins with it.
_MADE_UP = "openagora-"

_UPSTREAM = "upstream_unreachable"
_ADVICE = {
    "refused": "the resolver refuses this: let it answer (role dns_allowlist, same sdks and revision)",
    "nxdomain": "the resolver denies this: let it answer (role dns_allowlist, same sdks and revision)",
    _UPSTREAM: "the resolver gets no answer itself: check its upstream servers and the way there",
    "no_resolver": "nothing answers there: check server, port, the resolver's service and the firewall",
}


@dataclass(frozen=True)
class Question:
    """What is asked of whom: `names` with the SDKs that published each (none: another name), `timeout` in seconds."""

    names: tuple[tuple[str, tuple[str, ...]], ...]
    server: str
    port: int
    transports: tuple[str, ...]
    expect_others: str
    timeout: float
    tcp_at_once: int = 1


@dataclass(frozen=True)
class Check:
    """What came out, as data, and what is worth knowing."""

    result: dict[str, t.Any]
    notices: tuple[Notice, ...]

    def faults(self, fail_on: t.Collection[str]) -> str:
        """What is wrong and what to do about it; empty if nothing is that counts."""
        texts = []
        verdicts: dict[str, list[str]] = {}
        answered = {a["name"] for a in self.result["answers"] if a["sdks"] and a["verdict"] == "answered"}
        for answer in self.result["answers"]:
            missing = answer["name"] in self.result["missing"] and answer["verdict"] != "answered"
            if missing and ("missing" in fail_on or ("denied" in fail_on and _denied(answer, answered))):
                verdicts.setdefault(answer["verdict"], []).append(answer["name"])
        for verdict, names in verdicts.items():
            texts.append(f"not answered: {', '.join(dict.fromkeys(names))}; {_ADVICE[verdict]}")
        if "beyond" in fail_on and self.result["beyond"]:
            beyond = ", ".join(self.result["beyond"])
            texts.append(f"answered though not allowlisted: {beyond}; look for another server in its configuration")
        return ". ".join(texts)


def _denied(answer: t.Mapping[str, t.Any], answered: t.Collection[str]) -> bool:
    """Whether a missing name is the resolver's own doing, by those of the allowlist that it does answer."""
    name = answer["name"]
    if answer["verdict"] == _UPSTREAM:
        # Where the resolver reaches others' servers, only those of the missing names can be at fault.
        return not answered
    # A name that was made up does not exist, and not every server says with that who says so.
    made_up = name.startswith(_MADE_UP) and name.partition(".")[2] in answered
    return not (answer["verdict"] == "nxdomain" and made_up)


def _published(compiled: Compiled, below: str) -> t.Iterator[tuple[str, str]]:
    """Each name to ask for with an SDK that published it; for a suffix the name itself and one below."""
    listed = [(name, sdk) for sdk, published in compiled.by_sdk.items() for name in published["domains"]]
    own = {name for name, _sdk in listed}
    listed += [(name, "extra") for name in compiled.rules.domains if name not in own]
    for name, sdk in listed:
        if name.startswith("."):
            yield name[1:], sdk
            yield below + name, sdk
        else:
            yield name, sdk


def read_question(params: t.Mapping[str, t.Any], compiled: Compiled | None) -> Question:
    """What the options of the module ask for. Raises RequestError with every problem.

    Without `compiled`, for a request that is wrong itself, the other options are read all the same.
    """
    problems = []
    # New each time, so that no cache knows it.
    below = f"{_MADE_UP}{secrets.token_hex(4)}"
    names: dict[str, tuple[str, ...]] = {}
    allowlist = compiled.rules.domains if compiled else DomainSet()
    local = []
    for index, text in enumerate(params["local_domains"]):
        try:
            local.append(f".{local_domain(text)}")
        except ValueError as error:
            problems.append(Problem(f"local_domains[{index}]", str(error)))
    for name, sdk in _published(compiled, below) if compiled else ():
        names[name] = tuple(dict.fromkeys((*names.get(name, ()), sdk)))
    for index, text in enumerate(OTHERS if params["others"] is None else params["others"]):
        where = f"others[{index}]"
        try:
            name = normalise(text)
        except DomainError as error:
            problems.append(Problem(where, str(error)))
            continue
        if name.startswith("."):
            problems.append(Problem(where, f"{text!r} is a suffix, which cannot be asked for; write a name below it"))
        elif params["others"] is None and f".{name}".endswith(tuple(local)):
            continue
        elif name not in allowlist:
            names[name] = ()
        elif params["others"] is not None:
            problems.append(Problem(where, f"{text!r} is on the allowlist; leave it out"))
    try:
        ipaddress.ip_address(params["server"])
    except ValueError:
        problems.append(Problem("server", f"{params['server']!r} is not an address; write 192.0.2.53 or so"))
    if not 0 < params["port"] < 65536:
        problems.append(Problem("port", f"{params['port']} is not a port; 1 to 65535"))
    if not params["transport"]:
        problems.append(Problem("transport", "is empty; udp, tcp, or both"))
    if not 0 < params["timeout"] <= 60:
        problems.append(Problem("timeout", f"{params['timeout']} is out of range; more than 0, at most 60 seconds"))
    if problems:
        raise RequestError(problems)
    return Question(
        tuple(sorted(names.items(), key=lambda item: (not item[1], item[0]))),
        params["server"],
        params["port"],
        tuple(dict.fromkeys(params["transport"])),
        params["expect_others"],
        params["timeout"],
        # dnsmasq 2.90 ends when several of its processes for TCP fill sets of nftables at the same time.
        1 if params["scope"] == "names" else _AT_ONCE,
    )


def _receive(connection: socket.socket, number: int, deadline: float, transport: str) -> Answer | None:
    """The answer with this number; None when the peer has no more. Raises OSError, TimeoutError among them."""
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        connection.settimeout(left)
        got = connection.recv(65535)
        if transport == "tcp":
            if not got:
                return None
            data += got
            if len(data) < 2 or len(data) < 2 + struct.unpack_from("!H", data)[0]:
                continue
            got = data[2:]
        with contextlib.suppress(ValueError):
            answer = parse(got)
            if answer.number == number:
                return answer
        if transport == "tcp":
            return None


def _ask(question: Question, transport: str, name: str, kind: str, klass: int = INTERNET) -> Answer | None:
    """Ask, and ask again: a datagram may be lost, and a resolver may end a connection. None without an answer."""
    number = secrets.randbelow(65536)
    # For one who wants signatures dnsmasq asks its upstream. Its cache may hold that a name does not exist without the
    # SOA record that tells who said so.
    query = build(number, name, kind, klass=klass, dnssec=True)
    end = time.monotonic() + question.timeout
    answer = _try(question, transport, query, number, end)
    if answer is None and transport == "tcp" and time.monotonic() < end:
        answer = _try(question, transport, query, number, end)
    return answer


def _try(question: Question, transport: str, query: bytes, number: int, end: float) -> Answer | None:
    """Ask once over TCP, over UDP again after half the time."""
    tcp = transport == "tcp"
    family, way, _protocol, _canonical, address = socket.getaddrinfo(
        question.server,
        question.port,
        type=socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM,
        flags=socket.AI_NUMERICHOST,
    )[0]
    tries = 1 if tcp else 2
    try:
        with socket.socket(family, way) as connection:
            connection.settimeout(question.timeout)
            connection.connect(address)
            for left in range(tries, 0, -1):
                connection.send(struct.pack("!H", len(query)) + query if tcp else query)
                with contextlib.suppress(socket.timeout):
                    return _receive(connection, number, end - (left - 1) * question.timeout / tries, transport)
    except OSError:
        # Nothing listens there, or there is no way to it.
        return None
    return None


def _verdict(answer: Answer | None, *, listens: bool) -> str:
    """What an answer, or none, says about the name."""
    if answer is None:
        return _UPSTREAM if listens else "no_resolver"
    if answer.code == NOERROR:
        return "answered"
    if answer.code == NXDOMAIN:
        return "nxdomain" if answer.authority in (None, _BUILT_IN) else "answered"
    if answer.code == REFUSED and _NETWORK_ERROR not in answer.errors:
        return "refused"
    return _UPSTREAM


def _table(answers: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """A line for each name; where its questions did not fare alike, which of them had which verdict."""
    names: dict[str, list[t.Mapping[str, t.Any]]] = {}
    for answer in answers:
        names.setdefault(answer["name"], []).append(answer)
    rows = [("name", "SDK", "verdict")]
    for name, asked in names.items():
        verdicts: dict[str, list[str]] = {}
        for answer in asked:
            verdicts.setdefault(answer["verdict"], []).append(f"{answer['type']} {answer['transport']}")
        text = "; ".join(f"{verdict} ({', '.join(which)})" for verdict, which in verdicts.items())
        rows.append((name, ",".join(asked[0]["sdks"]) or "-", text if len(verdicts) > 1 else next(iter(verdicts))))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def check(question: Question) -> Check:
    """Ask everything, some questions at a time, and judge the answers."""
    started = time.monotonic()
    asked = [
        (name, sdks, kind, transport)
        for name, sdks in question.names
        for kind in _KINDS
        for transport in question.transports
    ]
    listens = set()
    found: dict[tuple[str, str, str], Answer | None] = {}
    for transport in question.transports:
        todo = [(name, kind) for name, _sdks, kind, way in asked if way == transport]
        with ThreadPoolExecutor(question.tcp_at_once if transport == "tcp" else _AT_ONCE) as pool:
            # A resolver answers this itself, or refuses it itself, whatever it may resolve and its upstream does.
            own = pool.submit(_ask, question, transport, "version.bind", "TXT", CHAOS)
            answered_now = pool.map(lambda item, way=transport: _ask(question, way, *item), todo)
            found.update(((name, kind, transport), answer) for (name, kind), answer in zip(todo, answered_now))
        if own.result():
            listens.add(transport)
    got = [found[name, kind, transport] for name, _sdks, kind, transport in asked]
    listens |= {transport for (_name, _sdks, _kind, transport), answer in zip(asked, got) if answer}
    answers: list[dict[str, t.Any]] = [
        {
            "name": name,
            "type": kind,
            "transport": transport,
            "verdict": _verdict(answer, listens=transport in listens),
            "addresses": sorted(record.value for record in answer.records if record.kind == kind) if answer else [],
            "sdks": list(sdks),
        }
        for (name, sdks, kind, transport), answer in zip(asked, got)
    ]
    others = {name for name, sdks in question.names if not sdks}
    wanted = {name for name, _sdks in question.names} - (others if question.expect_others != "resolve" else set())
    answered = {answer["name"] for answer in answers if answer["verdict"] == "answered"}
    missing = {answer["name"] for answer in answers if answer["verdict"] != "answered"} & wanted
    result = {
        "answers": answers,
        "missing": sorted(missing),
        "beyond": sorted(answered - wanted),
        "table": _table(answers),
        "seconds": round(time.monotonic() - started, 3),
    }
    return Check(result, (*_unreached(answers, wanted), *_otherwise(question, answers, others)))


def _unreached(answers: t.Iterable[t.Mapping[str, t.Any]], wanted: t.Collection[str]) -> t.Iterator[Notice]:
    """Names that the resolver would answer if it had an answer itself."""
    names = dict.fromkeys(a["name"] for a in answers if a["name"] in wanted and a["verdict"] == _UPSTREAM)
    if names:
        yield Notice("upstream_unreachable", "server", f"not answered: {', '.join(names)}; {_ADVICE[_UPSTREAM]}")


def _otherwise(
    question: Question, answers: t.Iterable[t.Mapping[str, t.Any]], others: t.Collection[str]
) -> t.Iterator[Notice]:
    """Names that are not answered, as they should, but not in the way that is expected."""
    ways = {"refuse": "refused", "nxdomain": "nxdomain"}
    if question.expect_others in ways:
        (other_way,) = (way for option, way in ways.items() if option != question.expect_others)
        names = {answer["name"] for answer in answers if answer["verdict"] == other_way} & set(others)
        if names:
            text = f"{', '.join(sorted(names))}: {other_way}, where {ways[question.expect_others]} is expected"
            yield Notice("denied_otherwise", "expect_others", text)
