#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module apply: make a host's firewall hold exactly these rules."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: apply
short_description: Make a host's firewall hold exactly the rules that Agora SDKs need
version_added: 1.0.0
description:
  - Computes the rules for the given SDKs, reads what of this collection is live on the host, and changes the
    difference in one transaction. Both address families, and what brings the rules back at boot, come with it.
  - One call states the whole host. What a former call opened and this one does not name is closed.
  - Only objects whose names begin with C(openagora) are added, changed and removed, and with ufw application profiles
    C(Agora ...) and the rules that name them. Rules of others keep their text and their order; nothing is flushed.
  - The return traffic of what is opened passes too, recognised by connection tracking.
  - A step that fails is undone together with the steps before it.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.host
  - openagora.firewall.request
attributes:
  check_mode:
    support: full
    details: Returns the same result and diff as the real run, and writes nothing.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  rules:
    description:
      - Rules as RV(openagora.firewall.rules#module:rules) has them, perhaps edited, instead of the options that make
        them.
      - An entry without C(sdks) belongs to C(extra).
    type: list
    elements: dict
  state:
    description:
      - V(present) makes the host hold exactly the rules asked for.
      - V(absent) takes everything of this collection away, from all backends and from the boot sequence.
      - V(restored) makes the host hold again what it held before the last change that was confirmed, see
        O(confirm_within). It takes no other options but that one; done twice it is where it began.
    type: str
    choices: [present, absent, restored]
    default: present
  confirm_within:
    description:
      - Seconds within which a change has to be confirmed; 0 is never.
      - Before anything is changed the host sets a timer of its own, which undoes all of it. When the change is made,
        the controller opens a fresh connection (no multiplexed one), and only if that works takes the timer away.
        Otherwise the host brings back what was and the task fails. So it does when the controller dies, and at the next
        boot.
      - Over a connection that crosses no network, such as C(local) or that of a container, it is confirmed at once,
        with a notice.
      - While a change waits another one is refused. RV(openagora.firewall.applied_info#module:pending) tells.
    type: int
    default: 0
  backend:
    description:
      - The firewall to put the rules into. V(auto) takes the one that is in force, see RV(backend).
      - What former calls put into another backend is removed.
    type: str
    choices: [auto, firewalld, ufw, iptables, nftables]
    default: auto
  placement:
    description:
      - Where the SDKs run, V(host) for this host itself, V(gateway) for machines (or local containers) whose packets
        this host forwards. Both may be named.
      - On a gateway the same ports are opened for what is forwarded. Addresses are not translated; a notice tells when
        the host forwards no packets.
    type: list
    elements: str
    choices: [host, gateway]
    default: [host]
  inside:
    description:
      - Where the machines are that run the SDKs behind the gateway. Needed with O(placement=gateway).
      - Each entry is one of C(interface) (its name, such as C(docker0) for the containers of that bridge), C(source)
        (their network in CIDR notation) and C(zone) (firewalld only).
    type: list
    elements: dict
    default: []
  outside:
    description: To where those machines may send, in the form of O(inside). Empty is anywhere.
    type: list
    elements: dict
    default: []
  recording_targets:
    description:
      - Addresses or networks of the recording machines inside. Ingress through the gateway reaches these alone;
        without any there is none.
      - Where O(inside) names sources only, they have to be among those.
    type: list
    elements: str
    default: []
  ingress_from:
    description: The networks that may send to ports opened for ingress, in CIDR notation. Empty is anywhere.
    type: list
    elements: str
    default: []
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.rules
  - module: openagora.firewall.applied_info
"""

EXAMPLES = r"""
- name: This host runs the Web and the Native SDK
  openagora.firewall.apply:
    sdks: [web, native]
  become: true

- name: A recording host that takes streams from one network only
  openagora.firewall.apply:
    sdks: [recording]
    recording_port_ranges: ["42000-43999"]
    ingress_from: ["192.0.2.0/24", "2001:db8::/32"]
  become: true

- name: A gateway for the machines behind eth1, one of which records
  openagora.firewall.apply:
    sdks: [native, web, recording]
    placement: [gateway]
    inside: [{interface: eth1}]
    outside: [{interface: eth0}]
    recording_targets: [10.20.0.5]
  become: true

- name: The same, undone within a minute unless a fresh connection works
  openagora.firewall.apply:
    sdks: [web, native]
    confirm_within: 60
  become: true

- name: Go back to what was before that
  openagora.firewall.apply:
    state: restored
  become: true

- name: Everything of ours goes
  openagora.firewall.apply:
    state: absent
  become: true
"""

RETURN = r"""
backend:
  description: The firewall that holds the rules.
  returned: with O(state=present)
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: nftables
    reason:
      description: Why it is the one.
      type: str
      sample: nftables table inet filter chain output stops what is needed
confirmed:
  description: Whether a fresh connection has confirmed the change.
  returned: with O(confirm_within), when something changed
  type: bool
  sample: true
rules:
  description:
    - All rules that the host holds after this (in check mode would hold), in the form of
      RV(openagora.firewall.rules#module:rules).
    - Those of a gateway have C(placement=gateway), C(inside), C(outside) and C(recording_targets) besides.
  returned: success
  type: list
  elements: dict
  sample: [{direction: egress, protocol: udp, scope: any, ports: ["3478"], sdks: {web: ["3478"]}}]
added:
  description: Rule entries for the ports that are newly open.
  returned: success
  type: list
  elements: dict
  sample: [{direction: egress, protocol: udp, scope: any, ports: ["3478"], sdks: {web: ["3478"]}}]
removed:
  description: Rule entries for the ports that are no longer open.
  returned: success
  type: list
  elements: dict
  sample: []
diff:
  description: The plan for a person.
  returned: success
  type: dict
  contains:
    prepared:
      description: A line for each run of ports that changes, and for each step; empty when nothing changes.
      type: str
      sample: |
        + egress udp 3478 (web)
        * nftables: table inet filter: chains, sets and jumps of ours
effective:
  description:
    - V(in_force) when the host's firewall would stop the ports without these rules.
    - V(nothing_to_open) when none of its chains can drop them. Backend V(nftables) then adds nothing to the live
      firewall.
    - V(stored) when the firewall is not active. The rules come into force together with it.
  returned: with O(state=present)
  type: str
  sample: in_force
notices:
  description: What is worth knowing, each with C(code), C(where) and C(message). The same texts are shown as warnings.
  returned: success
  type: list
  elements: dict
  sample: []
problems:
  description: Everything that is wrong with the request, each with C(where) and C(message). Nothing was changed.
  returned: when the request is wrong
  type: list
  elements: dict
  sample: [{where: "sdks[0]", message: "'webb' is not an SDK; did you mean 'web'?"}]
"""

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._apply import OneLook, look, prepare
from ..module_utils._front import (
    REQUEST_OPTIONS,
    compile_options,
    errors_to_user,
    read_networks,
    read_passage,
    require_root,
    tell,
)
from ..module_utils._host.local import LocalHost, lock
from ..module_utils._host.rollback import change, finish, former
from ..module_utils._model.messages import Notice, Problem, RequestError
from ..module_utils._model.rules import Passage, RuleSet, newly_open, parse_rules


def wanted(params: dict[str, t.Any]) -> tuple[RuleSet | None, tuple[Notice, ...]]:
    """The rules that the options ask for (None: none of ours). Raises RequestError with the problems of all options."""
    problems: list[Problem] = []
    if params["confirm_within"] < 0:
        problems.append(Problem("confirm_within", f"{params['confirm_within']} is negative; seconds, or 0 for never"))
    if params["state"] != "present":
        if problems:
            raise RequestError(problems)
        return restored() if params["state"] == "restored" else (None, ())
    rules = RuleSet()
    notices: tuple[Notice, ...] = ()
    networks: tuple[str, ...] = ()
    passage = Passage()
    try:
        if params["rules"] is not None:
            rules = parse_rules(params["rules"])
        else:
            compiled = compile_options(params)
            rules, notices = compiled.rules, compiled.notices
    except RequestError as error:
        problems += error.problems
    try:
        networks = read_networks(params["ingress_from"], "ingress_from")
    except RequestError as error:
        problems += error.problems
    try:
        passage = read_passage(params)
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)
    if passage.inside and not passage.targets and any(rule.direction == "ingress" for rule in rules):
        text = "no machine inside is named, so no ingress for Recording passes the gateway; name theirs"
        notices = (*notices, Notice("no_recording_targets", "recording_targets", text))
    return rules.ingress_from(networks).placed(params["placement"], passage), notices


def restored() -> tuple[RuleSet | None, tuple[Notice, ...]]:
    """The rules that were there before the last confirmed change. Raises RequestError when none is known."""
    before = former()
    if before is None:
        text = "restored needs a change that was confirmed (confirm_within), and none is known on this host"
        raise RequestError([Problem("state", text)])
    return RuleSet.of_data(before) if before else None, ()


def main() -> None:
    """Plan, carry out unless in check mode, and return what the plan says."""
    module = AnsibleModule(
        argument_spec={
            **REQUEST_OPTIONS,
            "rules": {"type": "list", "elements": "dict"},
            "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
            "confirm_within": {"type": "int", "default": 0},
            "backend": {
                "type": "str",
                "choices": ["auto", "firewalld", "ufw", "iptables", "nftables"],
                "default": "auto",
            },
            "placement": {"type": "list", "elements": "str", "choices": ["host", "gateway"], "default": ["host"]},
            "inside": {"type": "list", "elements": "dict", "default": []},
            "outside": {"type": "list", "elements": "dict", "default": []},
            "recording_targets": {"type": "list", "elements": "str", "default": []},
            "ingress_from": {"type": "list", "elements": "str", "default": []},
        },
        mutually_exclusive=[("rules", option) for option in REQUEST_OPTIONS],
        required_if=[("state", "present", ("sdks", "rules"), True)],
        supports_check_mode=True,
    )
    with errors_to_user(module):
        rules, notices = wanted(module.params)
        require_root(module)
        confirm = ""
        with contextlib.nullcontext() if module.check_mode else lock():
            if not module.check_mode:
                finish()
            host = LocalHost()
            there = OneLook(host)
            prepared = prepare(there, rules, backend=module.params["backend"])
            if not module.check_mode:
                steps, seconds = prepared.plan.steps, module.params["confirm_within"]
                before = look(there).rules.data() if steps and seconds else None
                confirm = change(host, steps, seconds=seconds, former=before)
    plan = prepared.plan
    result = {
        "changed": bool(plan.steps),
        "rules": plan.after.data(),
        "added": newly_open(plan.before, plan.after),
        "removed": newly_open(plan.after, plan.before),
        "diff": {"prepared": plan.text()},
        "notices": tell(module, (*notices, *prepared.notices)),
    }
    if confirm:
        # For the action plugin, which runs it over a fresh connection.
        result.update(confirm=confirm)
    if rules is not None:
        result.update(backend={"name": prepared.backend, "reason": prepared.reason}, effective=prepared.effective)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
