#!/usr/bin/python
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module recording_ports: which UDP ports each recording process of a host gets."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: recording_ports
short_description: Plan the UDP ports of a host's recording processes
version_added: 1.0.0
description:
  - Gives each process of Agora's On-premise Recording SDK on a host its C(lowUdpPort) and C(highUdpPort), and looks at
    what on the host bears on them. Changes nothing. Role P(openagora.firewall.recording_host#role) puts the plan into
    force.
  - There is one recording process for each channel, and each needs four UDP ports that no other process holds, those
    of the system included. Agora recommends the range V(40000-41000) or a larger one for all of them together
    ("Firewall Requirements", C(en/Agora Platform/firewall.md) of AgoraIO/Documentation, all editions since
    2018-11-01). It has 1001 ports, four each for 250 processes.
  - C(highUdpPort) minus C(lowUdpPort) has to be at least 4 (API reference until 2019, C(en/Recording/recording_cpp.md)
    there), at least 6 (C(IAgoraRecordingEngine.h) of the SDK, and the Chinese page of the command line), or more than 6
    (the English one since 2019-07-24, C(en/Recording/recording_cmd_cpp.md)). 7, which is 8 ports, satisfies all of
    them, and is what O(layout=per_process) gives a process. So V(40000-41000) holds 125 pairs.
  - V(40000-41000) lies within V(32768-60999), out of which Linux by default hands ports to programs that do not choose
    one (C(net.ipv4.ip_local_port_range), Documentation/networking/ip-sysctl.rst). A notice says so as long as the
    range is not in C(net.ipv4.ip_local_reserved_ports), which the kernel leaves out there, for UDP and TCP of both
    families.
  - Ports are taken that any socket of the host is bound to, on whatever address, in the network namespace that the
    module runs in. Ports of containers with a network of their own are not seen, unless a program on the host
    (docker-proxy) holds them too.
  - The plan's own recorders are no conflict. A process is a recorder when it was told a range, by C(--lowUdpPort) and
    C(--highUdpPort) on its command line, or else by C(AGORA_LOW_UDP_PORT) and C(AGORA_HIGH_UDP_PORT) in its
    environment, which the role's files set. It is the plan's own when that range lies within the range of the plan
    (O(layout=shared)) or within the pair of one process (V(per_process)), unless C(AGORA_RECORDING_PLAN) or
    C(AGORA_RECORDING_PROCESS) in its environment name another one. A recorder that was told nothing takes random
    ports, and is a stranger. A socket that several processes hold is that of the recorder among them.
  - The same request on the same host gives the same plan. Processes keep their pairs when others are added or removed,
    and when a stranger turns up elsewhere. The pair of a process is the one that the plan of that name on the host has
    for it (C(/etc/openagora/recording/NAME.json)). A process that is not in it, or whose plan is gone, has the pair
    that a recorder of it was told which still runs, if C(AGORA_RECORDING_PLAN) and C(AGORA_RECORDING_PROCESS) in its
    environment name the process; else it is a new one.
  - A pair moves only when the range no longer holds it, or the layout is another one, or something else holds a port of
    it, be that a stranger, another plan or the list of an SDK. A notice says so.
extends_documentation_fragment:
  - openagora.firewall.attributes
  - openagora.firewall.attributes.looks
  - openagora.firewall.attributes.host
options:
  name:
    description: Name of the plan. A host can have several, whose ranges may not overlap.
    type: str
    default: default
  count:
    description:
      - How many recording processes there are, as many as channels are recorded at a time.
      - Without it, the plan of this name is looked at as it stands on the host, whatever speaks against it by now.
        O(low), O(high) and O(layout) mean nothing then.
    type: int
  low:
    description: The lowest port of the range, V(40000) when neither O(low) nor O(high) is set. V(1024) at least; those
      below are for the system's own services.
    type: int
  high:
    description: The highest port of the range, V(41000) when neither O(low) nor O(high) is set.
    type: int
  layout:
    description:
      - With V(shared) all processes get the whole range, and the SDK finds four free ports in it for each. A stranger
        in the range is an error.
      - With V(per_process) each process gets 8 ports of its own, beside those that strangers hold.
    type: str
    choices: [shared, per_process]
    default: shared
  sdks:
    description:
      - The Agora SDKs in use on the host. The UDP ports of their lists, such as 4000-4030, are not given to processes.
        A notice says so where V(recording) is not among them, because nothing opens the ports of the plan then.
      - A listed range that holds 40000-41000, as 10000-65535 of V(web), does not count. It names the ports of Agora's
        servers.
    type: list
    elements: str
    default: [recording]
  revision:
    description: The day whose lists count, or V(latest), as in M(openagora.firewall.rules).
    type: str
    default: "2018-11-06"
  state:
    description: V(absent) returns what is left to reserve and to open without the plan.
    type: str
    choices: [present, absent]
    default: present
  reserving:
    description: That RV(reservation) is put into force next, as role P(openagora.firewall.recording_host#role) does. No
      notice says then that the range is not reserved, except in check mode.
    type: bool
    default: false
  making:
    description: Plans that stand on the host once the play is through, by name, each as RV(plan) has it; an empty one
      will be gone. Check mode needs them, which leaves no files.
    type: dict
    default: {}
author:
  - The openagora.firewall authors (@openagora)
seealso:
  - module: openagora.firewall.apply
  - name: Reserved ports
    description: ip_local_port_range and ip_local_reserved_ports.
    link: https://docs.kernel.org/networking/ip-sysctl.html
"""

EXAMPLES = r"""
- name: Would 250 recording processes fit on this host?
  openagora.firewall.recording_ports:
    count: 250
  become: true

- name: A pair of ports of its own for each of 40 processes
  openagora.firewall.recording_ports:
    low: 42000
    high: 42999
    count: 40
    layout: per_process
  become: true
  register: recording

- name: What goes with the first one's command
  ansible.builtin.debug:
    msg: "--lowUdpPort {{ recording.processes[0].low }} --highUdpPort {{ recording.processes[0].high }}"

- name: Who holds the ports of the plan as it stands?
  openagora.firewall.recording_ports:
  become: true
"""

RETURN = r"""
processes:
  description: The pair of each process.
  returned: success
  type: list
  elements: dict
  contains:
    process:
      description: The number of the process, from 1 on.
      type: int
      sample: 1
    low:
      description: Its C(lowUdpPort).
      type: int
      sample: 42000
    high:
      description: Its C(highUdpPort).
      type: int
      sample: 42007
ranges:
  description: The ports of the processes, what a firewall has to let in for the plan.
  returned: success
  type: list
  elements: str
  sample: ["42000-42319"]
host_ranges:
  description: The same for all plans of the host together, with this one in place of its former self.
  returned: success
  type: list
  elements: str
  sample: ["42000-42319"]
range:
  description: The range that the plan owns, empty with O(state=absent).
  returned: success
  type: str
  sample: 42000-42999
layout:
  description: The layout of the plan.
  returned: success
  type: str
  sample: per_process
capacity:
  description:
    - How many processes the range holds, as the host is.
    - With V(shared) it is a quarter of the range's ports; with V(per_process) the pairs that are kept, and those of 8
      ports that fit beside them and beside what is in RV(conflicts).
  returned: success
  type: int
  sample: 125
conflicts:
  description: What in the range is not free.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(held) by a stranger, V(agora) where an SDK needs the ports, V(plan) where another plan owns them.
      type: str
      sample: held
    ports:
      description: The ports.
      type: list
      elements: str
      sample: ["42010"]
    holder:
      description: Who it is.
      type: str
      sample: openvpn (process 812)
advice:
  description: The nearest range of that size without any conflict, the asked one itself if it has none, empty if there
    is none on this host. On failure the message has it.
  returned: success
  type: str
  sample: 42011-43010
bound:
  description: Who holds which ports of the plan's processes now.
  returned: success
  type: list
  elements: dict
  contains:
    ports:
      description: The ports.
      type: list
      elements: str
      sample: ["42000-42003"]
    holder:
      description: Who it is.
      type: str
      sample: recorder (process 4711), a recorder that was told 42000-42007
    process:
      description: The number of the process of the plan, V(0) if it did not tell.
      type: int
      sample: 1
    own:
      description: Whether it is a recorder of the plan, and no stranger.
      type: bool
      sample: true
ephemeral:
  description: The range out of which the kernel hands out ports.
  returned: success
  type: str
  sample: 32768-60999
reserved:
  description: The ports that the kernel leaves out there now.
  returned: success
  type: list
  elements: str
  sample: ["42000-42999"]
unreserved:
  description: The ports of the range that the kernel may hand to any program.
  returned: success
  type: list
  elements: str
  sample: []
reservation:
  description: What reserves the ranges of all plans on the host besides what others reserve.
  returned: success
  type: dict
  contains:
    live:
      description: The value for C(net.ipv4.ip_local_reserved_ports).
      type: str
      sample: 42000-42999,50000
    in_force:
      description: Whether the kernel has it.
      type: bool
      sample: true
    at_boot:
      description: Whether RV(reservation.path) says what it is to say, and no file that is read later takes it back.
      type: bool
      sample: true
    path:
      description: The file that sets it at boot.
      type: str
      sample: /etc/sysctl.d/openagora-recording.conf
    text:
      description: What the file is to say; empty where there is to be none.
      type: str
      sample: "# Reserved for recording alone: 42000-42999\nnet.ipv4.ip_local_reserved_ports = 42000-42999,50000\n"
plan:
  description: What the plan's file is to hold. C(reserved_before) is what others had reserved of its range.
  returned: success, unless O(state=absent)
  type: dict
  sample:
    name: default
    low: 42000
    high: 42007
    layout: per_process
    processes: [{process: 1, low: 42000, high: 42007}]
    reserved_before: []
environment:
  description: The environment files of the plan's processes.
  returned: success
  type: dict
  contains:
    write:
      description: Those that are missing or differ, each with C(name) and C(text).
      type: list
      elements: dict
      sample: [{name: default-1.env, text: "AGORA_RECORDING_PLAN=default\n..."}]
    remove:
      description: Names of those that are of no process any more.
      type: list
      elements: str
      sample: []
plans:
  description: The names of all plans that stand on the host, also of those that only environment files are left of.
  returned: success
  type: list
  elements: str
  sample: [default]
emptied:
  description: The folders that hold nothing once the plan is gone, the inner one first. Empty while it is to stay.
  returned: success
  type: list
  elements: str
  sample: []
sizes:
  description: Limits of the kernel that so many UDP streams come near. Agora publishes no numbers; RV(sizes[].why) has
    what they are reckoned from.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The sysctl.
      type: str
      sample: net.netfilter.nf_conntrack_max
    value:
      description: What it is, null where the host has none.
      type: int
      sample: 262144
    needed:
      description: What it should be at least.
      type: int
      sample: 320
    enough:
      description: Whether it will do.
      type: bool
      sample: true
    why:
      description: What the number is reckoned from.
      type: str
      sample: "connections that the firewall tracks: 0 now, and 160 ports twice, because a stream that ended is
        remembered while the next one runs"
notices:
  description: What is worth knowing, each with C(code), C(where) and C(message). The same texts are shown as warnings.
  returned: success
  type: list
  elements: dict
  sample: []
problems:
  description: Everything that is wrong with the request or in the way on the host, each with C(where) and C(message).
  returned: when there is no such plan
  type: list
  elements: dict
  sample:
    - where: count
      message: 300 processes need 1200 ports (4 each, and 8 at least); 40000-41000 has 1001, and 250 fit;
        40000-41199 would do
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._catalog import DEFAULT_REVISION
from ..module_utils._front import errors_to_user, require_root, tell
from ..module_utils._recording.answer import answer
from ..module_utils._recording.plan import LAYOUTS, UNRESERVED


def main() -> None:
    """Plan, and return what was found."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "default"},
            "count": {"type": "int"},
            "low": {"type": "int"},
            "high": {"type": "int"},
            "layout": {"type": "str", "choices": list(LAYOUTS), "default": "shared"},
            "sdks": {"type": "list", "elements": "str", "default": ["recording"]},
            "revision": {"type": "str", "default": DEFAULT_REVISION},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "reserving": {"type": "bool", "default": False},
            "making": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    require_root(module)
    with errors_to_user(module):
        found, notices = answer(module.params)
    if module.params["reserving"] and not module.check_mode:
        notices = [notice for notice in notices if notice.code != UNRESERVED]
    module.exit_json(changed=False, notices=tell(module, notices), **found)


if __name__ == "__main__":
    main()
