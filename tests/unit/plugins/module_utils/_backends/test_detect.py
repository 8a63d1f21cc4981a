# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.openagora.firewall.plugins.module_utils._apply import prepare
from ansible_collections.openagora.firewall.plugins.module_utils._backends.contract import BackendError
from ansible_collections.openagora.firewall.plugins.module_utils._backends.detect import choose
from netns import IPTABLES, LEGACY, NFTABLES, NetnsHost, rule_set

IPTABLES_COMMANDS = {"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"}
NFT_IN_FORCE = "nftables table inet filter chain input stops what is needed"
IPTABLES_IN_FORCE = "iptables chain OUTPUT (policy DROP) stops what is needed"
NOTHING_IN_FORCE = "nothing is in force; the first firewall that is installed"


@pytest.mark.parametrize(
    ("closed", "hidden", "name", "reason"),
    [
        ([], set(), "nftables", NOTHING_IN_FORCE),
        ([], IPTABLES_COMMANDS, "nftables", NOTHING_IN_FORCE),
        ([], {"nft"}, "iptables", NOTHING_IN_FORCE),
        ([NFTABLES], set(), "nftables", NFT_IN_FORCE),
        ([IPTABLES], set(), "iptables", IPTABLES_IN_FORCE),
        ([LEGACY], set(), "iptables", IPTABLES_IN_FORCE),
        ([IPTABLES, NFTABLES], set(), "nftables", NFT_IN_FORCE),
        ([LEGACY, NFTABLES], set(), "nftables", NFT_IN_FORCE),
        ([IPTABLES, NFTABLES], {"nft"}, "iptables", IPTABLES_IN_FORCE),
        # A firewall without its commands cannot be changed.
        ([NFTABLES], {"nft"}, "iptables", NOTHING_IN_FORCE),
    ],
    ids=[
        "virgin",
        "virgin-without-iptables",
        "virgin-without-nft",
        "nftables",
        "iptables",
        "iptables-legacy",
        "iptables-and-nftables",
        "iptables-legacy-and-nftables",
        "iptables-without-nft",
        "nftables-without-nft",
    ],
)
def test_auto(host: NetnsHost, closed: list, hidden: set[str], name: str, reason: str) -> None:
    for firewall in closed:
        firewall.close(host)
    host.hidden |= hidden
    backend, why = choose(host, "auto", rule_set("web"))
    assert (backend.name, why) == (name, reason)


# What libvirt and others have beside the host's own firewall; nothing of it stops what the host itself sends or gets.
BESIDE = """
table ip libvirt { chain forward { type filter hook forward priority 0; oifname "virbr0" counter reject; }; }
table inet guard { chain output { type filter hook output priority 0; tcp dport 25 drop; }; }
"""


def test_auto_takes_the_firewall_that_stops_what_is_needed(host: NetnsHost) -> None:
    IPTABLES.close(host)
    host.nft(BESIDE)
    backend, why = choose(host, "auto", rule_set("web"))
    assert (backend.name, why) == ("iptables", IPTABLES_IN_FORCE)
    host.apply(rule_set("web"))
    assert prepare(host, rule_set("web"), backend="auto").backend == "iptables"


@pytest.mark.parametrize("name", ["iptables", "nftables"])
def test_asked_for(host: NetnsHost, name: str) -> None:
    NFTABLES.close(host)
    host.systemd(active="firewalld.service")
    backend, why = choose(host, name, rule_set("web"))
    assert (backend.name, why) == (name, "asked for")


RED_HAT = 'ID="rhel"\nID_LIKE="fedora"\n'
ROCKY = 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n'
SUSE = 'NAME="openSUSE Leap"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n'


@pytest.mark.parametrize(
    ("release", "name", "package"),
    [
        ("ID=debian\n", "iptables", "iptables"),
        ("ID=ubuntu\nID_LIKE=debian\n", "ufw", "ufw"),
        (SUSE, "iptables", "iptables"),
        (SUSE, "firewalld", "firewalld"),
        (RED_HAT, "iptables", "iptables-nft"),
        (ROCKY, "ufw", "ufw, from EPEL except on Fedora"),
        ("ID=fedora\n", "iptables", "iptables-nft"),
    ],
)
def test_packages_have_the_names_of_the_distribution(host: NetnsHost, release: str, name: str, package: str) -> None:
    host.put("/etc/os-release", release)
    host.hidden |= {"nft", "ufw", "firewall-offline-cmd", *IPTABLES_COMMANDS}
    for asked_for, text in ((name, f"Install it (package {package})"), ("auto", package)):
        with pytest.raises(BackendError) as error:
            choose(host, asked_for, rule_set("web"))
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("name", "hidden", "installed"),
    [
        ("nftables", {"nft"}, "iptables"),
        ("iptables", {"iptables-save"}, "nftables"),
        ("iptables", {"iptables-restore"}, "nftables"),
        ("iptables", {"iptables-save", "nft"}, "none"),
    ],
)
def test_asked_for_and_not_installed(host: NetnsHost, name: str, hidden: set[str], installed: str) -> None:
    host.hidden |= hidden
    with pytest.raises(BackendError) as error:
        choose(host, name, rule_set("web"))
    assert str(error.value) == (
        f"backend {name} is not installed on this host; installed: {installed}. Install it (package {name}), or use "
        "backend: auto"
    )


def test_none_installed(host: NetnsHost) -> None:
    host.hidden |= {"nft", *IPTABLES_COMMANDS}
    with pytest.raises(BackendError) as error:
        choose(host, "auto", rule_set("web"))
    assert str(error.value) == (
        "no firewall was found on this host; looked for firewall-offline-cmd, ufw, nft, iptables-save and "
        "iptables-restore. Install one of these packages: firewalld; ufw; nftables; iptables"
    )


UFW_CHAINS = "*filter\n:ufw-user-input -\n:ufw-user-output -\n:ufw-user-forward -\nCOMMIT\n"
UFW_IN_FORCE = "ufw is active (ENABLED=yes in /etc/ufw/ufw.conf, its chains are live)"


@pytest.mark.parametrize("configured", ["ENABLED=yes\n", 'LOGLEVEL=low\nENABLED="yes"\n', "ENABLED='yes'"])
def test_ufw_is_in_force(host: NetnsHost, configured: str) -> None:
    host.put("/etc/ufw/ufw.conf", configured)
    host.stand_in("ufw", "exit 1")
    host.sh("iptables-restore --noflush", stdin=UFW_CHAINS)
    NFTABLES.close(host)
    backend, why = choose(host, "auto", rule_set("web"))
    assert (backend.name, why) == ("ufw", UFW_IN_FORCE)
    assert choose(host, "nftables", rule_set("web"))[1] == "asked for"


@pytest.mark.parametrize(
    ("configured", "chains"), [("ENABLED=no\n", True), ("#ENABLED=yes\n", True), ("", True), ("ENABLED=yes\n", False)]
)
def test_ufw_is_not_in_force(host: NetnsHost, configured: str, chains: bool) -> None:
    host.put("/etc/ufw/ufw.conf", configured)
    host.stand_in("ufw", "exit 1")
    if chains:
        host.sh("iptables-restore --noflush", stdin=UFW_CHAINS)
    NFTABLES.close(host)
    assert choose(host, "auto", rule_set("web"))[0].name == "nftables"


def test_the_rest_of_a_removed_ufw(host: NetnsHost) -> None:
    host.put("/etc/ufw/ufw.conf", "ENABLED=yes\n")
    host.sh("iptables-restore --noflush", stdin=UFW_CHAINS)
    host.hidden.add("ufw")
    assert choose(host, "auto", rule_set("web"))[0].name == "nftables"


@pytest.mark.parametrize("ufw", [True, False])
def test_firewalld_is_in_force(host: NetnsHost, ufw: bool) -> None:
    host.systemd(active="firewalld.service")
    host.stand_in("firewall-offline-cmd", "exit 1")
    host.put("/etc/ufw/ufw.conf", f"ENABLED={'yes' if ufw else 'no'}\n")
    host.sh("iptables-restore --noflush", stdin=UFW_CHAINS)
    backend, why = choose(host, "auto", rule_set("web"))
    assert (backend.name, why) == ("firewalld", "firewalld is in force on this host")


def test_firewalld_is_not_in_force(host: NetnsHost) -> None:
    host.systemd(active="another.service")
    host.stand_in("firewall-offline-cmd", "exit 1")
    host.put("/usr/lib/firewalld/policies/.keep", "")
    assert choose(host, "auto", rule_set("web"))[0].name == "nftables"
