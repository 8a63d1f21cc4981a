#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module catalog_info: what Agora published, as data."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: catalog_info
short_description: Return Agora's published firewall lists as data
version_added: 1.0.0
description:
  - Returns the SDKs of the installed catalog with every edition of their lists, and, between two revisions, what
    changed.
  - Changes nothing and looks at no host.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
attributes:
  platform:
    support: full
    platforms: all
options:
  since:
    description: A revision (a date, or V(latest)). RV(differences) tells what changed from it to O(revision).
    type: str
  revision:
    description: The revision up to which RV(differences) looks.
    type: str
    default: latest
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.rules
"""

EXAMPLES = r"""
- name: Which SDKs are there, and what did Agora list for them when?
  openagora.firewall.catalog_info:
  delegate_to: localhost
  register: catalog

- name: What changed between two revisions?
  openagora.firewall.catalog_info:
    since: "2018-11-01"
    revision: "2018-11-06"
  delegate_to: localhost
"""

RETURN = r"""
latest:
  description: The date of the newest edition in the catalog.
  returned: success
  type: str
  sample: "2018-11-06"
sdks:
  description: For each SDK its title and its editions, the oldest first.
  returned: success
  type: dict
  sample:
    signaling:
      title: Agora Signaling SDK
      withdrawn: null
      instead: ""
      editions:
        - effective_from: "2018-11-01"
          source: "AgoraIO/Documentation, en/Agora Platform/firewall.md, cccb0d6af1e4"
          tcp: ["1080", "8001-8199"]
          udp: ["8180-8199"]
          udp_duplex: []
          udp_downstream: false
          domains: [".agora.io"]
          notes: []
differences:
  description: For each SDK whose list differs between O(since) and O(revision), what changed.
  returned: with O(since)
  type: dict
  sample:
    native:
      tcp_added: ["9700", "25000", "30000"]
      tcp_removed: []
      udp_added: ["7000", "8913"]
      udp_removed: []
      domains_added: ["vocs1.agora.io", "qos.agoralab.co"]
      domains_removed: ["vocs.agora.io"]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._catalog import CATALOG
from ..module_utils._catalog.editions import catalog_data, differences, latest_revision
from ..module_utils._front import errors_to_user


def main() -> None:
    """Return the catalog, and the differences if two revisions are named."""
    options = {"since": {"type": "str"}, "revision": {"type": "str", "default": "latest"}}
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    result = {"latest": latest_revision(CATALOG), "sdks": catalog_data(CATALOG)}
    since = module.params["since"]
    with errors_to_user(module):
        # A revision has to be one, whether or not something is compared with it.
        found = differences(CATALOG, "latest" if since is None else since, module.params["revision"])
    if since is not None:
        result["differences"] = {sdk: change.data() for sdk, change in found.items()}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
