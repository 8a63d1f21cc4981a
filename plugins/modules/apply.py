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
      - V(restored) makes the host hold again, in the same firewall, what it held before the last change that was
        confirmed, see O(confirm_within). It takes no other options but that one, O(lockout_guard) and O(backend); done
        twice with O(confirm_within) it is where it began.
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
  lockout_guard:
    description:
      - Whether a plan is refused, in check mode too, that would cut the connection through which it is made. The error
        names the connection and what closes it; nothing is changed.
      - The connection is that of the first parent of the module that has one which came from outside (with ssh, that of
        sshd), or the one that C(SSH_CONNECTION) names. There is none to watch with C(local), containers and
        C(ansible-pull).
      - A plan that closes a port of such a connection, or rejects anything, is tried in a private copy of the live
        rules. It is refused when a new connection with the same ends comes about there before the plan and not after
        it. That takes about 0.2 seconds (with firewalld, which makes its rules there itself, 0.6), and the capabilities
        that module M(openagora.firewall.proof) needs. Where it cannot be tried it is refused, too.
      - A reload of firewalld that would activate what is written and was never loaded is refused in any case. So is one
        that fails in a private copy, and one that would delete the rules of others in iptables (firewalld 1.3 and older
        does that, and newer ones with direct rules). O(state=absent) and the undo of a change put these back in the
        same step.
    type: bool
    default: true
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
  mode:
    description:
      - V(open) adds what the SDKs need to what the host's own firewall lets pass.
      - V(lockdown) lets nothing leave the host (and with O(placement=gateway) nothing pass it) but the egress rules,
        O(lockdown_allow) and the essentials C(established) (connections that are there, and ICMP errors about them),
        C(loopback), C(dns) (port 53 of the host's resolvers), C(dhcp), C(ntp) and C(icmp) (what IP itself needs).
        The rest is rejected, and counted where the backend counts (V(firewalld) does not). What is let pass here comes
        before the rules of others, and so beats theirs.
      - With V(ufw), what its F(before.rules) let pass does so still, pings over IPv6 among it. Where firewalld has no
        names for what multicast listeners send (1.3), all ICMPv6 passes with V(firewalld).
      - Connections that connection tracking does not know (a rule of the host says C(notrack)) are part of
        C(established) over TCP, but with V(firewalld) their answers are rejected, because none of its rules can tell
        them from what the host begins. O(lockout_guard) refuses that for the connection through which it is made.
      - Rules of scope C(names) need backend V(nftables), as ever. Backend V(firewalld) needs version 1.0, or rejects
        the answers of connections that are there.
      - What programs of root send past the kernel's IP stack (packet sockets) no rule sees, nor what a host with
        bridges only switches.
      - Rules that may go to any address are told in RV(notices), with code C(unbounded).
    type: str
    choices: [open, lockdown]
    default: open
  lockdown_allow:
    description:
      - What else may leave with O(mode=lockdown), each an address or network (C(192.0.2.0/24)), a port (C(123/udp),
        C(5000-5010/tcp)) or a local user (C(user:backup)).
      - Users count for what the host itself sends, not for what it forwards; one by number (C(user:100033)) needs no
        name on the host. Backends V(firewalld) and V(ufw) cannot tell users apart and refuse them.
      - The host's resolvers are those of its F(/etc/resolv.conf), or those behind C(systemd-resolved) and behind the
        resolver of role P(openagora.firewall.dns_allowlist#role), as they are at the run; where a lease brings others,
        run it again. Other servers, which C(dns_allowlist_upstreams) or a resolver of your own asks, are to be named
        here.
    type: list
    elements: str
    default: []
  lockdown_log:
    description: Whether what O(mode=lockdown) rejects is logged by the kernel, one packet a second. Backend V(ufw)
      refuses it.
    type: bool
    default: false
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

- name: Nothing else leaves this kiosk
  openagora.firewall.apply:
    sdks: [web]
    mode: lockdown
    lockdown_allow: [192.0.2.0/24, 5000-5010/tcp, "user:backup"]
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
from dataclasses import replace

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
from ..module_utils._lockout import refuse_lockout
from ..module_utils._model.lockdown import parse_lockdown
from ..module_utils._model.messages import Notice, Problem, RequestError
from ..module_utils._model.rules import Passage, RuleSet, newly_open, parse_rules

if t.TYPE_CHECKING:
    from ..module_utils._apply import Live


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
    lockdown = None
    gateway = "gateway" in params["placement"]
    try:
        lockdown = parse_lockdown(params["lockdown_allow"], forward=gateway, log=params["lockdown_log"])
    except RequestError as error:
        problems += error.problems
    if params["mode"] == "open":
        given = [option for option in ("lockdown_allow", "lockdown_log") if params[option]]
        problems += [Problem(option, "goes with mode: lockdown only; the mode is open") for option in given]
        lockdown = None
    if problems:
        raise RequestError(problems)
    if passage.inside and not passage.targets and any(rule.direction == "ingress" for rule in rules):
        text = "no machine inside is named, so no ingress for Recording passes the gateway; name theirs"
        notices = (*notices, Notice("no_recording_targets", "recording_targets", text))
    return replace(rules.ingress_from(networks).placed(params["placement"], passage), lockdown=lockdown), notices


def kept(live: Live) -> dict[str, t.Any]:
    """What `restored` needs: the rules, and the firewall that holds them."""
    return {**live.held.kept(), "backend": live.backends[0] if len(live.backends) == 1 else "auto"}


def restored() -> tuple[RuleSet | None, tuple[Notice, ...]]:
    """The rules that were there before the last confirmed change. Raises RequestError when none is known."""
    before = former()
    if before is None:
        text = "restored needs a change that was confirmed (confirm_within), and none is known on this host"
        raise RequestError([Problem("state", text)])
    return RuleSet.of_kept(before), ()


def main() -> None:
    """Plan, carry out unless in check mode, and return what the plan says."""
    module = AnsibleModule(
        argument_spec={
            **REQUEST_OPTIONS,
            "rules": {"type": "list", "elements": "dict"},
            "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
            "confirm_within": {"type": "int", "default": 0},
            "lockout_guard": {"type": "bool", "default": True},
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
            "mode": {"type": "str", "choices": ["open", "lockdown"], "default": "open"},
            "lockdown_allow": {"type": "list", "elements": "str", "default": []},
            "lockdown_log": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("rules", option) for option in REQUEST_OPTIONS],
        required_if=[("state", "present", ("sdks", "rules"), True)],
        supports_check_mode=True,
    )
    with errors_to_user(module):
        backend = module.params["backend"]
        if module.params["state"] == "restored":
            # What that is nobody else may read.
            require_root(module)
            backend = (former() or {}).get("backend", backend) if backend == "auto" else backend
        rules, notices = wanted(module.params)
        require_root(module)
        confirm = ""
        with contextlib.nullcontext() if module.check_mode else lock():
            finish(check=module.check_mode)
            host = LocalHost()
            there = OneLook(host)
            prepared = prepare(there, rules, backend=backend)
            if module.params["lockout_guard"]:
                refuse_lockout(host, rules, prepared)
            if not module.check_mode:
                steps, seconds = prepared.plan.steps, module.params["confirm_within"]
                before = kept(look(there)) if steps and seconds else None
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
