#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module proof: which ports the live rules of a host really let through."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: proof
short_description: Prove which ports the live rules of a host let through
version_added: 1.0.0
description:
  - Copies the live rules of every owner (nftables, iptables-nft, iptables-legacy, ipsets), the interfaces, addresses,
    routes and settings of the host into a private network namespace, sends one packet there to each TCP and UDP port,
    and returns which of them the kernel let through.
  - No packet is sent on the real network, and no rule of the host is changed or even counted. Nothing is left behind,
    also when the module is killed.
  - A port is told by the number it was sent to, before any address translation. It is open when the packet is let
    through to wherever the rules send it, and an answer back to where it came from. Ingress to the host is open only
    where the packet reaches the very address and port to which it was sent, and ingress through a gateway only where
    it leaves the gateway. What a chain of NAT sends elsewhere does not arrive at who listens.
  - It proves what this host does. A firewall further along the path is not seen, nor is what filters beside
    the rules (XDP, traffic control, arptables, ebtables-legacy).
  - Programs on control groups (systemd's C(IPAddressDeny=), C(SocketBindDeny=), or made by hand) refuse packets and
    sockets of processes after all rules, and cannot be copied. Where the root of the hierarchy or a slice right below
    it (C(system.slice)) has one, what this host sends and receives is V(unknown) at best. One on a single unit changes
    no verdict, and stands in RV(not_modelled) with the unit's name.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
  - openagora.firewall.attributes.host
options:
  rules:
    description:
      - The rules that are needed, as RV(openagora.firewall.rules#module:rules) has them. With them the module also
        returns what is missing and what is open beyond.
      - O(placement), O(inside), O(outside), O(recording_targets) and O(ingress_from) mean the same as in
        M(openagora.firewall.apply) and should be the same.
    type: list
    elements: dict
  placement:
    description: What to prove, V(host) for packets that the host sends and receives itself, V(gateway) for those that
      it forwards.
    type: list
    elements: str
    choices: [host, gateway]
    default: [host]
  inside:
    description: Where the machines are that run the SDKs behind the gateway, each entry with one of C(interface),
      C(source) and C(zone). Needed with O(placement=gateway).
    type: list
    elements: dict
    default: []
  outside:
    description: To where those machines may send, in the form of O(inside). Empty is anywhere.
    type: list
    elements: dict
    default: []
  recording_targets:
    description: Addresses or networks of the recording machines inside, which ingress through the gateway reaches.
    type: list
    elements: str
    default: []
  ingress_from:
    description: The networks that may send to ports opened for ingress, in CIDR notation. Empty is anywhere.
    type: list
    elements: str
    default: []
  directions:
    description: The directions to prove.
    type: list
    elements: str
    choices: [egress, ingress]
    default: [egress, ingress]
  families:
    description: The address families to prove. One that is switched off on the host, or on an interface that
      O(inside), O(outside) or O(interface) names, is left out there, with a notice.
    type: list
    elements: str
    choices: [ipv4, ipv6]
    default: [ipv4, ipv6]
  far:
    description:
      - Addresses of the far end, at most one of each family. By default one of the public internet that no rule of the
        host names.
      - Rules of scope V(names) depend on it; without it they are V(unknown).
    type: list
    elements: str
    default: []
  near:
    description: Addresses of this host that packets come from and go to, at most one of each family. By default the
      one that the host uses towards the far end.
    type: list
    elements: str
    default: []
  interface:
    description: The interface through which packets of this host leave and arrive. By default the one on the route.
    type: str
  user:
    description: The user (name or number) that sends, for rules that look at it. Without it such rules make ports
      V(unknown).
    type: str
  fail_on:
    description: Fail when ports that O(rules) need are missing, or when ports are open beyond them.
    type: list
    elements: str
    choices: [missing, beyond]
    default: []
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.rules
  - module: openagora.firewall.apply
"""

EXAMPLES = r"""
- name: What do the Web and the Native SDK need?
  openagora.firewall.rules:
    sdks: [web, native]
  delegate_to: localhost
  register: agora

- name: Stop unless this host lets all of it through
  openagora.firewall.proof:
    rules: "{{ agora.rules }}"
    fail_on: [missing]
  become: true

- name: Which ports are open on this host at all?
  openagora.firewall.proof:
  become: true
  register: proof

- name: The same for what a gateway forwards
  openagora.firewall.proof:
    rules: "{{ agora.rules }}"
    placement: [gateway]
    inside: [{interface: eth1}]
    outside: [{interface: eth0}]
  become: true
"""

RETURN = r"""
open:
  description:
    - The open ports by family, direction and protocol. A family that is switched off is not there.
    - With both placements, those that are open at both.
  returned: success
  type: dict
  sample: {ipv4: {egress: {tcp: ["80", "443", "5668-5669"], udp: ["3478"]}, ingress: {tcp: [], udp: []}}}
unknown:
  description:
    - In the same form, the ports whose verdict hangs on something that one packet cannot show (rate and connection
      limits, marks, users) or that cannot be copied, see RV(not_modelled).
  returned: success
  type: dict
  sample: {ipv4: {egress: {tcp: [], udp: []}, ingress: {tcp: ["22"], udp: []}}}
missing:
  description: In the same form, the ports that the rules need and that are closed.
  returned: with O(rules)
  type: dict
  sample: {ipv4: {egress: {tcp: [], udp: ["3478"]}, ingress: {tcp: [], udp: []}}}
beyond:
  description: In the same form, the ports that the rules do not need and to which packets are let through, whether an
    answer comes back or not.
  returned: with O(rules)
  type: dict
  sample: {ipv4: {egress: {tcp: ["22"], udp: []}, ingress: {tcp: [], udp: []}}}
essentials:
  description:
    - The part of RV(beyond) that lockdown lets pass, see option C(mode) of M(openagora.firewall.apply), in the same
      form without empty entries, by what it is for. That is one of its essentials, or V(allow) for what its
      C(lockdown_allow) names. O(fail_on=beyond) does not count it.
    - What it lets pass only to some addresses, from some ports or for some users is no port that is open to all.
  returned: with O(rules)
  type: dict
  sample: {ntp: {ipv4: {egress: {udp: ["123"]}}}}
covered:
  description: Whether each SDK has all ports it needs, V(yes), V(no) or V(unknown).
  returned: with O(rules)
  type: dict
  sample: {native: "yes", web: "no"}
missing_by_sdk:
  description: The missing ports of each SDK that is not covered, in the form of RV(missing) without empty entries.
  returned: with O(rules)
  type: dict
  sample: {web: {ipv4: {egress: {udp: ["3478"]}}}}
table:
  description: The same for a person, a line for each SDK, direction and protocol; then what else is open.
  returned: with O(rules)
  type: list
  elements: str
  sample:
    - "SDK  direction  protocol  needed  open  missing"
    - "web  egress     tcp       33      33    -"
    - "web  egress     udp       55537   55536  3478"
dropped_by:
  description: What packets to missing ports fall to, as far as it can be told.
  returned: with O(rules)
  type: list
  elements: dict
  contains:
    placement:
      description: V(host) or V(gateway).
      type: str
      sample: host
    family:
      description: V(ipv4) or V(ipv6).
      type: str
      sample: ipv4
    direction:
      description: V(egress) or V(ingress).
      type: str
      sample: egress
    protocol:
      description: V(tcp) or V(udp).
      type: str
      sample: udp
    ports:
      description: The ports.
      type: list
      elements: str
      sample: ["3478"]
    cause:
      description:
        - V(drop) where a rule or policy drops or rejects the packet.
        - V(translation) where a rule of NAT sends it to another address or port, which opening ports does not mend.
        - V(answer) where the packet is let through, and a rule or policy drops what answers it.
        - V(unknown) where no rule tells.
      type: str
      sample: drop
    where:
      description: The table, the chain, and the rule or policy.
      type: str
      sample: "nft inet site output: udp dport 3478 drop"
not_modelled:
  description: What of the host's rules and network cannot be shown in a copy by one packet a port.
  returned: success
  type: list
  elements: dict
  contains:
    where:
      description: The table and the chain, the part of the network, C(control groups), or C(one control group).
      type: str
      sample: "nft inet filter input"
    rule:
      description: The rule, or the control group and the places of its programs.
      type: str
      sample: "tcp dport 22 limit rate 3/minute accept"
    what:
      description: What cannot be shown.
      type: str
      sample: "limit"
assumed:
  description: What was added to the copy so that packets find a way, such as a route that the host does not have.
  returned: success
  type: list
  elements: str
  sample: ["ipv6: no route leads to 2a01:5a01:1::1; sent through eth0"]
packets:
  description: How many packets were sent in the copy, answers aside.
  returned: success
  type: int
  sample: 524280
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 3.7
notices:
  description: What is worth knowing about the result. The same texts are shown as warnings.
  returned: success
  type: list
  elements: dict
  sample: [{code: udp_closed, where: web, message: "its TCP ports are open and its UDP ports are not"}]
problems:
  description: Everything that is wrong with the options, each with C(where) and C(message).
  returned: when the options are wrong
  type: list
  elements: dict
  sample: [{where: "far[0]", message: "'agora.io' is not an address"}]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._front import errors_to_user, require_root, tell
from ..module_utils._host.local import LocalHost
from ..module_utils._proof.prove import prove
from ..module_utils._proof.question import read_question


def main() -> None:
    """Prove, and fail if asked to."""
    module = AnsibleModule(
        argument_spec={
            "rules": {"type": "list", "elements": "dict"},
            "placement": {"type": "list", "elements": "str", "choices": ["host", "gateway"], "default": ["host"]},
            "inside": {"type": "list", "elements": "dict", "default": []},
            "outside": {"type": "list", "elements": "dict", "default": []},
            "recording_targets": {"type": "list", "elements": "str", "default": []},
            "ingress_from": {"type": "list", "elements": "str", "default": []},
            "directions": {
                "type": "list",
                "elements": "str",
                "choices": ["egress", "ingress"],
                "default": ["egress", "ingress"],
            },
            "families": {"type": "list", "elements": "str", "choices": ["ipv4", "ipv6"], "default": ["ipv4", "ipv6"]},
            "far": {"type": "list", "elements": "str", "default": []},
            "near": {"type": "list", "elements": "str", "default": []},
            "interface": {"type": "str"},
            "user": {"type": "str"},
            "fail_on": {"type": "list", "elements": "str", "choices": ["missing", "beyond"], "default": []},
        },
        supports_check_mode=True,
    )
    with errors_to_user(module):
        question = read_question(module.params)
        require_root(module)
        proof = prove(LocalHost(), question)
    result = {**proof.result, "notices": tell(module, proof.notices)}
    faults = proof.faults(module.params["fail_on"])
    if faults:
        module.fail_json(msg=faults, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
