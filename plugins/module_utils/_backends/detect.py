# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which firewall is in force on a host."""

from __future__ import annotations

import re
import typing as t

from .contract import BackendError
from .firewalld import Firewalld
from .iptables import Iptables
from .nftables import Nftables
from .ufw import Ufw

if t.TYPE_CHECKING:
    from .._model.rules import RuleSet
    from .contract import Backend, Host

__all__ = ["BACKENDS", "choose"]

# In the order in which they are looked for: what is in force through nftables is not seen by iptables' commands, and
# ufw's rules are rules of iptables.
BACKENDS: dict[str, Backend[t.Any, t.Any]] = {
    backend.name: backend for backend in (Firewalld(), Ufw(), Nftables(), Iptables())
}

# What an operator installs to have a backend's commands.
_PACKAGES = {name: name for name in BACKENDS}
_RED_HAT = {**_PACKAGES, "ufw": "ufw, from EPEL except on Fedora", "iptables": "iptables-nft"}

# Those that own every rule of the host when they are active.
_MANAGERS = ("firewalld", "ufw")


def _packages(host: Host) -> dict[str, str]:
    """The packages as the host's distribution names them (os-release(5))."""
    said = re.findall(r"^ID(?:_LIKE)?=(.*)", host.read("/etc/os-release") or "", re.MULTILINE)
    return _RED_HAT if {"rhel", "fedora"} & set(re.findall(r"[a-z]+", " ".join(said))) else _PACKAGES


def choose(host: Host, name: str, rules: RuleSet) -> tuple[Backend[t.Any, t.Any], str]:
    """The backend of this name, or with `auto` that of the firewall which stops what these rules are to let pass.

    With why it is the one. Raises BackendError.
    """
    installed = {key: backend for key, backend in BACKENDS.items() if backend.available(host)}
    if name != "auto":
        if name not in installed:
            found = ", ".join(installed) or "none"
            raise BackendError(
                f"backend {name} is not installed on this host; installed: {found}. Install it (package "
                f"{_packages(host)[name]}), or use backend: auto"
            )
        return installed[name], "asked for"
    for backend in (installed[key] for key in _MANAGERS if key in installed):
        reason = backend.in_force(host)
        if reason:
            return backend, reason
    others = [backend for key, backend in installed.items() if key not in _MANAGERS]
    for backend in others:
        chains = backend.in_the_way(backend.read(host), rules)
        if chains:
            return backend, f"{chains[0]} stops what is needed"
    for backend in others:
        reason = backend.in_force(host)
        if reason:
            return backend, reason
    for backend in (*others, *installed.values()):
        return backend, "nothing is in force; the first firewall that is installed"
    raise BackendError(
        "no firewall was found on this host; looked for firewall-offline-cmd, ufw, nft, iptables-save and "
        f"iptables-restore. Install one of these packages: {'; '.join(_packages(host).values())}"
    )
