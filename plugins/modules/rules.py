#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module rules: from SDK names to the minimal rule set."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rules
short_description: Compute the firewall rules and domains that Agora SDKs need
version_added: 1.0.0
description:
  - Turns the names of Agora SDKs into the fewest firewall rules and domain names that cover what Agora's document
    lists for them. Changes nothing and looks at no host.
  - Every listed port is egress, because the lists name the ports of Agora's servers and the SDK dials out. Ingress is
    opened only for V(recording), for its duplex ports and its simplex downstream ports.
  - The lists are those of U(https://docs.agora.io/en/introduction/firewall) at the chosen revision.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
  - openagora.firewall.request
attributes:
  platform:
    support: full
    platforms: all
options:
  sdks:
    required: true
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.apply
  - module: openagora.firewall.catalog_info
"""

EXAMPLES = r"""
- name: What do the Web and the Native SDK need?
  openagora.firewall.rules:
    sdks: [web, native]
  delegate_to: localhost
  register: agora

- name: Show the domains for the team that runs the proxy
  ansible.builtin.debug:
    var: agora.domains

- name: A recording host that receives on a range of its own
  openagora.firewall.rules:
    sdks: [recording]
    recording_port_ranges: ["42000-43999"]
  delegate_to: localhost
"""

RETURN = r"""
revision:
  description: The date that was asked for, or that V(latest) stands for.
  returned: success
  type: str
  sample: "2018-11-06"
rules:
  description: The rules, at most one for each direction, protocol and scope. Module M(openagora.firewall.apply) takes
    them.
  returned: success
  type: list
  elements: dict
  contains:
    direction:
      description: V(egress) or V(ingress), seen from the machine that runs the SDK.
      type: str
      sample: egress
    protocol:
      description: V(tcp) or V(udp).
      type: str
      sample: tcp
    scope:
      description: Where the far end may be, V(any), V(names) or V(networks).
      type: str
      sample: any
    ports:
      description: All ports of the rule in the fewest ranges.
      type: list
      elements: str
      sample: ["80", "443", "5668-5669"]
    sdks:
      description: Which SDK needs which of the ports.
      type: dict
      sample: {web: ["80", "443", "5668-5669"]}
    domains:
      description: The allowlist that bounds the far end.
      returned: with scope V(names)
      type: list
      elements: str
      sample: [".agora.io"]
domains:
  description: The domain allowlist without names that a suffix covers, sorted. C(.agora.io) is the name and all below
    it.
  returned: success
  type: list
  elements: str
  sample: [".agora.io", "qos.agoralab.co", "qoslbs.agoralab.co"]
by_sdk:
  description: For each SDK what Agora published, not merged with other SDKs.
  returned: success
  type: dict
  sample:
    signaling:
      tcp: ["1080", "8001-8199"]
      udp: ["8180-8199"]
      udp_duplex: []
      udp_downstream: []
      domains: [".agora.io"]
      effective_from: "2018-11-01"
      source: "AgoraIO/Documentation, en/Agora Platform/firewall.md, cccb0d6af1e4"
notices:
  description: What is worth knowing about the request. The same texts are shown as warnings.
  returned: success
  type: list
  elements: dict
  contains:
    code:
      description: A word for programs.
      type: str
      sample: superseded
    where:
      description: The option, chain or file it is about.
      type: str
      sample: revision
    message:
      description: The text.
      type: str
problems:
  description: Everything that is wrong with the request, each with C(where) and C(message).
  returned: when the request is wrong
  type: list
  elements: dict
  sample: [{where: "sdks[0]", message: "'webb' is not an SDK; did you mean 'web'?"}]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._front import REQUEST_OPTIONS, compile_options, errors_to_user, tell


def main() -> None:
    """Compile the request and return it."""
    options = {**REQUEST_OPTIONS, "sdks": {**REQUEST_OPTIONS["sdks"], "required": True}}
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    with errors_to_user(module):
        compiled = compile_options(module.params)
    module.exit_json(
        changed=False,
        revision=compiled.revision,
        rules=compiled.rules.data(),
        domains=list(compiled.rules.domains),
        by_sdk=compiled.by_sdk,
        notices=tell(module, compiled.notices),
    )


if __name__ == "__main__":
    main()
