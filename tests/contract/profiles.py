# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special to one backend: how its host's firewall is broken, reloaded and looked into by hand."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

__all__ = ["PROFILES", "Breakage", "Profile"]


class Breakage(t.NamedTuple):
    """Something done by hand that closes a port which the SDKs need; `families` are those in which it does."""

    name: str
    command: str
    protocol: str
    port: int
    families: str = "46"


@dataclass(frozen=True)
class Profile:
    """One backend. Its name is also that of its hosts' own firewall, and of its group in the inventory."""

    name: str
    # Another backend that its hosts have, and commands without which that one is not there.
    other: str
    other_commands: str
    # What loads the host's own firewall at boot, and the verbs by which an operator makes it do so again.
    loader: str
    reloads: tuple[str, ...]
    # Lists the rules that are in force, ours among them.
    show: str
    breakages: tuple[Breakage, ...]
    # A foreign rule that is put before ours, closes no needed port, and has to stay where it is; how to see it there.
    innocent: str
    first_rule: str
    # A foreign object that carries a name of ours; that name.
    foreign: str
    foreign_name: str
    # What `show` shows of a rule of ours for Web.
    mark: str = "openagora web"
    # Whether a unit of ours brings the rules back at boot, or the host's own firewall does.
    boot_unit: bool = True
    # Ends when the loader has loaded its rules, where systemd believes that sooner.
    ready: str = ""
    # A command of the last change, and the arguments with which it does that.
    last_command: str = "systemctl"
    last_arguments: str = "*enable*openagora*"


DELETE_WEB = "{0} -S openagora-output | sed -n '/ 80,443,/s/^-A/{0} -D/p' | sh"

IPTABLES = Profile(
    name="iptables",
    other="nftables",
    other_commands="/usr/sbin/nft",
    loader="netfilter-persistent.service",
    reloads=("restart",),
    show="iptables-save; ip6tables-save",
    breakages=(
        Breakage("ports deleted", DELETE_WEB.format("iptables"), "tcp", 443, families="4"),
        Breakage("IPv6 ports deleted", DELETE_WEB.format("ip6tables"), "tcp", 443, families="6"),
        Breakage("chain flushed", "for i in iptables ip6tables; do $i -F openagora-output; done", "tcp", 443),
        Breakage("jump deleted", "ip6tables -D OUTPUT 1", "udp", 3478, families="6"),
        Breakage(
            "chain gone",
            "for i in iptables ip6tables; do $i -D OUTPUT 1; $i -F openagora-output; $i -X openagora-output; done",
            "udp",
            10000,
        ),
        Breakage("drop before ours", "iptables -I OUTPUT -p tcp --dport 443 -j DROP", "tcp", 443, families="4"),
        Breakage(
            "drop in our chain",
            "ip6tables -I openagora-output -p udp --dport 4000:4010 -j DROP",
            "udp",
            4005,
            families="6",
        ),
    ),
    innocent="iptables -I OUTPUT 1 -d 203.0.113.5/32 -p tcp -m tcp --dport 443 -j REJECT",
    first_rule="iptables -S OUTPUT 1 | grep -c 203.0.113.5",
    foreign="iptables -N openagora-output && iptables -A openagora-output -p tcp --dport 1 -j ACCEPT",
    foreign_name="openagora-output",
)

DELETE_JUMP = (
    "nft -a list chain inet filter output | sed -n 's/.*jump openagora_output.* handle //p'"
    " | xargs nft delete rule inet filter output handle"
)

NFTABLES = Profile(
    name="nftables",
    other="iptables",
    other_commands="/usr/sbin/iptables* /usr/sbin/ip6tables*",
    loader="nftables.service",
    reloads=("restart", "reload"),
    show="nft list ruleset",
    breakages=(
        Breakage("port deleted", "nft delete element inet filter openagora_web_egress_tcp '{ 443 }'", "tcp", 443),
        Breakage("set flushed", "nft flush set inet filter openagora_signaling_egress_udp", "udp", 8180),
        Breakage("chain flushed", "nft flush chain inet filter openagora_output", "tcp", 443),
        Breakage("jump deleted", DELETE_JUMP, "udp", 3478),
        Breakage(
            "chain gone",
            f"{DELETE_JUMP}; nft delete chain inet filter openagora_output",
            "udp",
            10000,
        ),
        Breakage("drop before ours", "nft insert rule inet filter output tcp dport 443 drop", "tcp", 443),
        Breakage(
            "drop in our chain", "nft insert rule inet filter openagora_output udp dport 4000-4010 drop", "udp", 4005
        ),
        Breakage(
            "IPv6 drop before ours",
            "nft insert rule inet filter output meta nfproto ipv6 tcp dport 443 drop",
            "tcp",
            443,
            families="6",
        ),
    ),
    innocent="nft insert rule inet filter output ip daddr 203.0.113.5 tcp dport 443 reject",
    first_rule="nft list chain inet filter output | grep -A 1 policy | grep -c 203.0.113.5",
    foreign="nft 'add chain inet filter openagora_output; add rule inet filter openagora_output tcp dport 1 accept'",
    foreign_name="openagora_output",
)

DELETE_LIVE = "{0} -D {1} $(($({0} -S {1} | grep -n ' 80,443,' | cut -d: -f1) - 1))"

UFW = Profile(
    name="ufw",
    other="nftables",
    other_commands="/usr/sbin/nft",
    loader="ufw.service",
    reloads=("restart",),
    show="iptables-save; ip6tables-save",
    breakages=(
        Breakage("ports deleted", DELETE_LIVE.format("iptables", "ufw-user-output"), "tcp", 443, families="4"),
        Breakage("IPv6 ports deleted", DELETE_LIVE.format("ip6tables", "ufw6-user-output"), "tcp", 443, families="6"),
        Breakage("chain flushed", "iptables -F ufw-user-output; ip6tables -F ufw6-user-output", "tcp", 443),
        Breakage("rule deleted", 'ufw delete allow out to any app "Agora Web"', "tcp", 443),
        Breakage(
            "profile edited",
            "sed -i s/80,443,/80,/ /etc/ufw/applications.d/openagora; ufw app update 'Agora Web'",
            "tcp",
            443,
        ),
        Breakage(
            "profiles gone",
            'ufw delete allow out to any app "Agora Web"; rm /etc/ufw/applications.d/openagora',
            "tcp",
            443,
        ),
        Breakage("deny before ours", "ufw prepend deny out 443/tcp", "tcp", 443),
        Breakage(
            "drop before ours",
            "ip6tables -I ufw6-user-output -p udp --dport 4000:4010 -j DROP",
            "udp",
            4005,
            families="6",
        ),
    ),
    innocent="iptables -I ufw-user-output 1 -d 203.0.113.5/32 -p tcp -m tcp --dport 443 -j REJECT",
    first_rule="iptables -S ufw-user-output 1 | grep -c 203.0.113.5",
    foreign="printf '[Agora Web]\\ntitle=Ours\\ndescription=Theirs\\nports=9/tcp\\n' >/etc/ufw/applications.d/site",
    foreign_name="Agora Web",
    mark="dapp_Agora%20Web",
    boot_unit=False,
    last_command="ip6tables-restore",
    last_arguments="*--wait*",
)

FIREWALLD = Profile(
    name="firewalld",
    # Before Debian 13 it has its name on the bus, and so has started, before it has loaded them; it answers after that.
    ready="firewall-cmd --get-default-zone",
    other="nftables",
    other_commands="/usr/sbin/nft",
    loader="firewalld.service",
    reloads=("restart", "reload"),
    show="nft list ruleset",
    breakages=(
        Breakage(
            "service taken out at run time",
            "firewall-cmd --policy=openagora-out --remove-service=openagora-web",
            "tcp",
            443,
        ),
        Breakage(
            "service edited",
            'sed -i \'s/"443"/"444"/\' /etc/firewalld/services/openagora-web.xml; firewall-cmd --reload',
            "tcp",
            443,
        ),
        Breakage("policy gone", "rm /etc/firewalld/policies/openagora-out.xml; firewall-cmd --reload", "udp", 3478),
        Breakage(
            "policy moved behind others",
            'sed -i \'s/"-100"/"200"/\' /etc/firewalld/policies/openagora-out.xml; firewall-cmd --reload',
            "udp",
            3478,
        ),
        Breakage(
            "drop in our policy",
            "firewall-cmd --policy=openagora-out --add-rich-rule='rule port port=4000-4010 protocol=udp drop'",
            "udp",
            4005,
        ),
        Breakage(
            "IPv6 drop in our policy",
            "firewall-cmd --policy=openagora-out --add-rich-rule='rule family=ipv6 port port=443 protocol=tcp drop'",
            "tcp",
            443,
            families="6",
        ),
    ),
    innocent=(
        "firewall-cmd --policy=early"
        " --add-rich-rule='rule family=ipv4 destination address=203.0.113.5 port port=443 protocol=tcp reject'"
    ),
    first_rule="nft list chain inet firewalld filter_OUT_policy_early_deny | grep -c 203.0.113.5",
    foreign="firewall-cmd --permanent --new-service=openagora-web",
    foreign_name="openagora-web",
    mark="openagora-out",
    boot_unit=False,
    last_command="busctl",
    last_arguments="*reload*",
)

PROFILES = {profile.name: profile for profile in (FIREWALLD, UFW, NFTABLES, IPTABLES)}
