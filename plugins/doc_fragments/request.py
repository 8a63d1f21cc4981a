# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say what is wanted, shared by modules rules and apply."""

from __future__ import annotations


class ModuleDocFragment:
    """The request options."""

    DOCUMENTATION = r"""
options:
  sdks:
    description:
      - The Agora SDKs in use. Blanks around a name and upper case are ignored; an empty list and unknown names are
        errors.
      - Names are V(native), V(web), V(signaling), V(recording), V(gaming).
    type: list
    elements: str
  revision:
    description:
      - A date (C(YYYY-MM-DD)). For each SDK, the list that Agora had published by that day counts.
      - V(latest) stands for the newest list in the installed collection; no clock is read.
      - The default is the date of the document that this collection implements, the last one in which all five SDKs
        stand side by side.
    type: str
    default: "2018-11-06"
  recording_port_ranges:
    description:
      - The UDP ports on which the host's recording processes receive (C(lowUdpPort) to C(highUdpPort) of Agora's
        Recording SDK).
      - Opened for ingress, and only when O(sdks) holds V(recording). Agora recommends V(40000-41000) or larger.
    type: list
    elements: str
    default: ["40000-41000"]
  scope:
    description:
      - To which addresses the egress rules lead. V(any) is every address.
      - V(names) is the addresses that the resolver gave out for the allowlisted domains, for TCP. UDP rules stay open
        to any address, because Agora's media servers have no names.
    type: str
    choices: [any, names]
    default: any
  extra_ports:
    description: Further egress ports, each with its protocol, such as V(443/tcp) or V(5000-5010/udp). They appear as
      SDK V(extra).
    type: list
    elements: str
    default: []
  extra_domains:
    description:
      - Further domains for the allowlist.
      - V(.example.com) is the name and everything below it, V(example.com) the name alone.
    type: list
    elements: str
    default: []
"""
