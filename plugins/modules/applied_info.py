#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module applied_info: what of ours is live on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: applied_info
short_description: Tell what of this collection is live on a host
version_added: 1.0.0
description:
  - Reads the live firewall and the files on disk, and returns the rules that module M(openagora.firewall.apply) has
    put there and that are in force. A port counts when every chain that it has to pass lets it pass.
  - The boot unit puts the rules back after a restart and after the firewall's own loader was restarted or reloaded.
    It does not see what somebody loads over them by hand, such as C(nft -f) on a file that begins with C(flush
    ruleset). This module then shows that the rules are gone.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
  - openagora.firewall.attributes.host
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.apply
"""

EXAMPLES = r"""
- name: What of ours is live?
  openagora.firewall.applied_info:
  become: true
  register: agora

- name: Stop when nothing is open
  ansible.builtin.assert:
    that: agora.rules | length > 0
"""

RETURN = r"""
backends:
  description: The firewalls that hold rules of ours.
  returned: success
  type: list
  elements: str
  sample: [nftables]
rules:
  description:
    - The rules of ours in force, in the form of RV(openagora.firewall.rules#module:rules).
    - Those of scope V(names) have empty C(domains), since the firewall holds addresses alone.
    - Those of a gateway have C(placement=gateway), C(inside), C(outside) and C(recording_targets) besides, as in
      M(openagora.firewall.apply).
  returned: success
  type: list
  elements: dict
  sample: [{direction: egress, protocol: udp, scope: any, ports: ["3478"], sdks: {web: ["3478"]}}]
mode:
  description: V(lockdown) when nothing else leaves the host, V(open) when that is left to its own firewall.
  returned: success
  type: str
  sample: open
lockdown_allow:
  description:
    - What else may leave, as option C(lockdown_allow) of M(openagora.firewall.apply) takes it, with users by number.
  returned: with RV(mode=lockdown)
  type: list
  elements: str
  sample: ["192.0.2.0/24", "5000-5010/tcp", "user:34"]
pending:
  description:
    - The change that waits for its confirmation, see option C(confirm_within) of M(openagora.firewall.apply). It has
      C(seconds_left), after which it is undone.
  returned: while one waits
  type: dict
  sample: {seconds_left: 42.5}
files:
  description: The files of ours on the host.
  returned: success
  type: list
  elements: str
  sample: [/etc/openagora/firewall/boot, /etc/systemd/system/openagora-firewall.service]
address_sets:
  description: The address sets of rules of scope V(names), as option C(nftset) of C(dnsmasq) takes them.
  returned: success
  type: list
  elements: str
  sample: ["4#inet#filter#openagora_names_ipv4", "6#inet#filter#openagora_names_ipv6"]
unnamed:
  description:
    - Where somebody went within the last day, on a TCP port of a rule of scope V(names), although no answer of the
      resolver had named the address. Each has C(address) and C(port).
    - The kernel remembers them, 4096 for each address family. Only backend V(nftables) does.
  returned: success
  type: list
  elements: dict
  sample: [{address: 203.0.113.7, port: 443}]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._apply import look
from ..module_utils._front import errors_to_user, require_root
from ..module_utils._host.local import LocalHost
from ..module_utils._host.rollback import pending


def main() -> None:
    """Look and return what was found."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    require_root(module)
    with errors_to_user(module):
        live = look(LocalHost())
        waiting = pending()
    module.exit_json(
        changed=False,
        backends=list(live.backends),
        rules=live.rules.data(),
        mode="lockdown" if live.rules.lockdown else "open",
        files=list(live.files),
        address_sets=list(live.address_sets),
        unnamed=[{"address": address, "port": port} for address, port in live.unnamed],
        **({"lockdown_allow": live.rules.lockdown.allow} if live.rules.lockdown else {}),
        **({"pending": {"seconds_left": round(waiting.left, 1)}} if waiting else {}),
    )


if __name__ == "__main__":
    main()
