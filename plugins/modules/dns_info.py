#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module dns_info: what a resolver for the allowlist has to know on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dns_info
short_description: Look how a host resolves names, and what a resolver for the allowlist takes there
version_added: 1.0.0
description:
  - Computes the domain allowlist of the SDKs and looks at the host, who writes C(/etc/resolv.conf), which servers it
    asks, who holds port 53. Changes nothing. Role P(openagora.firewall.dns_allowlist#role) configures the resolver with
    the result.
  - Everything that would stop the role is one error with all problems.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
  - openagora.firewall.attributes.host
  - openagora.firewall.request
options:
  sdks:
    required: true
  resolver:
    description: The resolver to set up.
    type: str
    choices: [dnsmasq, unbound]
    required: true
  others:
    description: What happens to names that are not on the list. V(resolve) answers them too.
    type: str
    choices: [refuse, nxdomain, resolve]
    default: refuse
  upstreams:
    description: Addresses of the servers to ask. Without any, those that the host used before.
    type: list
    elements: str
    default: []
  listen:
    description:
      - Addresses to answer on. Without any, the first loopback address of each family and the host's addresses towards
        O(inside).
    type: list
    elements: str
    default: []
  clients:
    description:
      - Networks (CIDR) that may ask V(unbound). Without any, private addresses and the networks of O(listen).
      - V(dnsmasq) has no such list; whom it answers is up to O(listen) and the firewall.
    type: list
    elements: str
    default: []
  local_domains:
    description: Domains of the site that stay resolvable, besides those in C(/etc/resolv.conf) and the host's own.
    type: list
    elements: str
    default: []
  use_here:
    description: Whether the host itself is to use the resolver.
    type: bool
    default: false
  enforce:
    description: Whether other servers are to be out of reach.
    type: bool
    default: false
  install:
    description: Whether the resolver's package may be installed.
    type: bool
    default: true
  placement:
    description: As in M(openagora.firewall.apply).
    type: list
    elements: str
    choices: [host, gateway]
    default: [host]
  inside:
    description: As in M(openagora.firewall.apply).
    type: list
    elements: dict
    default: []
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.rules
"""

EXAMPLES = r"""
- name: What would a resolver for the Web SDK need here?
  openagora.firewall.dns_info:
    sdks: [web]
    resolver: dnsmasq
  become: true
  register: agora
"""

RETURN = r"""
domains:
  description: The allowlist, as in RV(openagora.firewall.rules#module:domains).
  returned: success
  type: list
  elements: str
  sample: [".agora.io", "qos.agoralab.co"]
upstreams:
  description: The servers to ask.
  returned: success
  type: list
  elements: str
  sample: ["192.0.2.53"]
listen:
  description: The addresses to answer on.
  returned: success
  type: list
  elements: str
  sample: ["127.0.0.1", "::1"]
clients:
  description: The networks that may ask.
  returned: success
  type: list
  elements: str
  sample: ["127.0.0.0/8", "192.168.0.0/16"]
local_domains:
  description: The domains of the site, asked from the same servers whatever the allowlist holds.
  returned: success
  type: list
  elements: str
  sample: ["corp.example"]
search:
  description: The host's own search domains.
  returned: success
  type: list
  elements: str
  sample: ["corp.example"]
options:
  description: The host's own options in C(/etc/resolv.conf).
  returned: success
  type: list
  elements: str
  sample: ["edns0"]
manager:
  description: Who writes C(/etc/resolv.conf), such as V(file) (nobody), V(resolved) or V(NetworkManager).
  returned: success
  type: str
  sample: file
inside:
  description: Where the machines inside are, in the words of nft.
  returned: success
  type: list
  elements: str
  sample: ['iifname "eth1"']
address_sets:
  description: With O(scope=names), the firewall's sets that the answers are put in, as in
    RV(openagora.firewall.applied_info#module:address_sets).
  returned: success
  type: list
  elements: str
  sample: []
dhclient:
  description: Whether dhclient runs hooks here before it writes C(/etc/resolv.conf).
  returned: success
  type: bool
  sample: false
folder:
  description: Where the resolver looks for further configuration files.
  returned: success
  type: str
  sample: /etc/dnsmasq.d
installed:
  description: Whether the resolver is installed.
  returned: success
  type: bool
  sample: true
standing:
  description: Whether it is the one that the role has set up before.
  returned: success
  type: bool
  sample: false
notices:
  description: What is worth knowing, each with C(code), C(where) and C(message). The same texts are shown as warnings.
  returned: success
  type: list
  elements: dict
  sample: []
problems:
  description: Everything that is wrong with the request or in the way on the host, each with C(where) and C(message).
  returned: when the role could not do it
  type: list
  elements: dict
  sample: [{where: "upstreams[0]", message: "'dns' is not the address of a host; write 192.0.2.53 or so"}]
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._apply import look
from ..module_utils._compile import Compiled
from ..module_utils._dns.resolver import RESOLVERS, Wish, fulfil
from ..module_utils._front import REQUEST_OPTIONS, compile_options, errors_to_user, read_passage, require_root, tell
from ..module_utils._host.local import LocalHost
from ..module_utils._model.messages import Problem, RequestError
from ..module_utils._model.rules import Passage


def answer(params: dict[str, t.Any], *, check_mode: bool) -> tuple[Compiled, dict[str, t.Any]]:
    """The allowlist and what the resolver takes. Raises RequestError with the problems of all options.

    In check mode the rules that would be there by now are not.
    """
    problems: list[Problem] = []
    compiled = None
    passage = Passage()
    found: dict[str, t.Any] = {}
    try:
        compiled = compile_options(params)
    except RequestError as error:
        problems += error.problems
    try:
        passage = read_passage({**params, "outside": [], "recording_targets": []})
    except RequestError as error:
        problems += error.problems
    if params["scope"] == "names" and params["resolver"] != "dnsmasq":
        problems.append(Problem("scope", "names needs resolver dnsmasq, which alone fills the firewall's address sets"))
    host = LocalHost()
    sets: tuple[str, ...] = ()
    if params["scope"] == "names":
        live = look(host)
        sets = live.address_sets
        # Where nothing of the firewall stands in the way there are no sets, but a file for the next boot.
        if not (live.files or check_mode):
            text = "names needs address sets of the firewall to fill; apply the rules of scope names first"
            problems.append(Problem("scope", f"{text} (role open_ports)"))
    try:
        found = fulfil(host, Wish(**{name: params[name] for name in (*WISHES, "scope")}), passage)
    except RequestError as error:
        problems += error.problems
    if problems or compiled is None:
        raise RequestError(problems)
    return compiled, {**found, "address_sets": list(sets)}


WISHES: dict[str, dict[str, t.Any]] = {
    "resolver": {"type": "str", "choices": list(RESOLVERS), "required": True},
    "upstreams": {"type": "list", "elements": "str", "default": []},
    "listen": {"type": "list", "elements": "str", "default": []},
    "clients": {"type": "list", "elements": "str", "default": []},
    "local_domains": {"type": "list", "elements": "str", "default": []},
    "others": {"type": "str", "choices": ["refuse", "nxdomain", "resolve"], "default": "refuse"},
    "use_here": {"type": "bool", "default": False},
    "enforce": {"type": "bool", "default": False},
    "install": {"type": "bool", "default": True},
    "placement": {"type": "list", "elements": "str", "choices": ["host", "gateway"], "default": ["host"]},
}


def main() -> None:
    """Look and return what was found."""
    options = {
        **REQUEST_OPTIONS,
        **WISHES,
        "sdks": {**REQUEST_OPTIONS["sdks"], "required": True},
        "inside": {"type": "list", "elements": "dict", "default": []},
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    require_root(module)
    with errors_to_user(module):
        compiled, found = answer(module.params, check_mode=module.check_mode)
    module.exit_json(
        changed=False, domains=list(compiled.rules.domains), notices=tell(module, compiled.notices), **found
    )


if __name__ == "__main__":
    main()
