#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module dns_check: which names a resolver answers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dns_check
short_description: Ask a resolver for every allowlisted name and for others
version_added: 1.0.0
description:
  - Asks a resolver, from the managed host, for every name that Agora published for the SDKs, merged and unmerged, and
    for names that are not on the list. For a suffix it asks for the name itself and for a made-up one below it.
  - Asks for A and AAAA records, over UDP and TCP. Changes nothing. Needs no privileges.
  - V(answered) is a name with an answer, and one of which the resolver's upstream says that it does not exist, which
    shows in the SOA record of its zone (RFC 2308). A made-up name usually does not exist.
  - V(refused) is the code REFUSED, V(nxdomain) the code NXDOMAIN without an upstream's SOA record. Both are the
    resolver's own no.
  - V(upstream_unreachable) is the code SERVFAIL, or any other, a REFUSED that names a network error (RFC 8914), as
    dnsmasq sends it when it has no route to its upstream, and silence when the resolver answers something else over
    the same transport. dnsmasq stays silent when its upstream does; unbound does so for a while, and sends SERVFAIL
    then.
  - V(no_resolver) is silence about everything, even about C(version.bind) of class CHAOS, which a resolver answers or
    refuses without asking anybody.
  - The questions ask for signatures too (DNSSEC), because dnsmasq passes those on to its upstream. From its cache it
    would answer while the upstream is gone, and now and then without the SOA record.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
  - openagora.firewall.request
attributes:
  platform:
    support: full
    platforms: posix
options:
  sdks:
    required: true
  server:
    description: Address of the resolver.
    type: str
    default: 127.0.0.1
  port:
    description: Port of the resolver.
    type: int
    default: 53
  transport:
    description: How to ask.
    type: list
    elements: str
    choices: [udp, tcp]
    default: [udp, tcp]
  others:
    description:
      - Names that are not on the allowlist.
      - Without any, V(example.com), V(agora.io.example.com), V(notagora.io) and V(xagora.io), as far as
        O(extra_domains) and O(local_domains) do not hold them.
    type: list
    elements: str
  local_domains:
    description: Domains of the site, which the resolver answers too. They are not asked for.
    type: list
    elements: str
    default: []
  expect_others:
    description:
      - What should become of O(others), as in role P(openagora.firewall.dns_allowlist#role). With V(refuse) and
        V(nxdomain) those that are answered are RV(beyond); a no of the other kind is a notice.
      - With V(resolve) those that are not answered are RV(missing).
    type: str
    choices: [refuse, nxdomain, resolve]
    default: refuse
  timeout:
    description:
      - Seconds that one question may take, at most 60. Over UDP it is repeated after half of them, over TCP once when
        the resolver ends the connection.
      - Sixteen questions are asked at a time, so a resolver without upstream takes as long for each sixteen. With
        O(scope=names) one at a time over TCP, because dnsmasq 2.90 ends when several of its processes fill sets.
    type: float
    default: 2
  fail_on:
    description:
      - What makes the task fail. V(missing) are names that are RV(missing), V(beyond) those that are RV(beyond).
      - V(denied) are those that are missing by the resolver's own doing, and all that are missing when none is
        answered. That the servers of one name are out of order is a notice then.
      - Without any, only wrong options do.
    type: list
    elements: str
    choices: [missing, denied, beyond]
    default: []
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.rules
"""

EXAMPLES = r"""
- name: Does this host's resolver answer what the SDKs need, and nothing else?
  openagora.firewall.dns_check:
    sdks: [web, native]
    fail_on: [missing, beyond]

- name: Ask the gateway's resolver, over IPv6
  openagora.firewall.dns_check:
    sdks: [web]
    server: "2001:db8::53"
  register: agora

- name: Show what became of each name
  ansible.builtin.debug:
    var: agora.table
"""

RETURN = r"""
answers:
  description: What became of each question.
  returned: unless an option is wrong
  type: list
  elements: dict
  contains:
    name:
      description: The name that was asked for.
      type: str
      sample: ap1.agora.io
    type:
      description: V(A) or V(AAAA).
      type: str
      sample: A
    transport:
      description: V(udp) or V(tcp).
      type: str
      sample: udp
    verdict:
      description: V(answered), V(refused), V(nxdomain), V(upstream_unreachable) or V(no_resolver).
      type: str
      sample: answered
    addresses:
      description: The addresses in the answer, those of an alias included.
      type: list
      elements: str
      sample: ["192.0.2.1"]
    sdks:
      description: The SDKs for which the name, or the suffix that it stands for, was published. V(extra) stands for
        O(extra_domains); none, for O(others).
      type: list
      elements: str
      sample: [native]
missing:
  description: The names that should be answered, and were not in each type over each transport.
  returned: unless an option is wrong
  type: list
  elements: str
  sample: []
beyond:
  description: The names that should not be answered, and were.
  returned: unless an option is wrong
  type: list
  elements: str
  sample: []
table:
  description: The same for a person, a line for each name.
  returned: unless an option is wrong
  type: list
  elements: str
  sample:
    - "name          SDK     verdict"
    - "ap1.agora.io  native  answered"
    - "example.com   -       refused"
seconds:
  description: How long it took.
  returned: unless an option is wrong
  type: float
  sample: 0.04
notices:
  description: What is worth knowing, each with C(code), C(where) and C(message). The same texts are shown as warnings.
  returned: unless an option is wrong
  type: list
  elements: dict
  sample: []
problems:
  description: Everything that is wrong with the request, each with C(where) and C(message).
  returned: when an option is wrong
  type: list
  elements: dict
  sample: [{where: "server", message: "'dns' is not an address; write 192.0.2.53 or so"}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._compile import Compiled
from ..module_utils._dns.check import Question, check, read_question
from ..module_utils._front import REQUEST_OPTIONS, compile_options, errors_to_user, tell
from ..module_utils._model.messages import Problem, RequestError


def read(params: dict[str, t.Any]) -> tuple[Compiled, Question]:
    """The request and what to ask. Raises RequestError with the problems of all options."""
    problems: list[Problem] = []
    compiled = question = None
    try:
        compiled = compile_options(params)
    except RequestError as error:
        problems += error.problems
    try:
        question = read_question(params, compiled)
    except RequestError as error:
        problems += error.problems
    if compiled is None or question is None:
        raise RequestError(problems)
    return compiled, question


def main() -> None:
    """Ask, and fail if asked to."""
    module = AnsibleModule(
        argument_spec={
            **REQUEST_OPTIONS,
            "sdks": {**REQUEST_OPTIONS["sdks"], "required": True},
            "server": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 53},
            "transport": {"type": "list", "elements": "str", "choices": ["udp", "tcp"], "default": ["udp", "tcp"]},
            "others": {"type": "list", "elements": "str"},
            "local_domains": {"type": "list", "elements": "str", "default": []},
            "expect_others": {"type": "str", "choices": ["refuse", "nxdomain", "resolve"], "default": "refuse"},
            "timeout": {"type": "float", "default": 2},
            "fail_on": {"type": "list", "elements": "str", "choices": ["missing", "denied", "beyond"], "default": []},
        },
        supports_check_mode=True,
    )
    with errors_to_user(module):
        compiled, question = read(module.params)
        done = check(question)
    result = {**done.result, "notices": tell(module, (*compiled.notices, *done.notices))}
    faults = done.faults(module.params["fail_on"])
    if faults:
        module.fail_json(msg=faults, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
