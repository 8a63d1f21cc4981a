# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The allowlist in other formats: what the texts say, and what stops hostile ones."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.openagora.firewall.plugins.filter.allowlist import allowlist
from ansible_collections.openagora.firewall.plugins.module_utils._dns.formats import FORMATS, REVERSE_ZONES

DOMAINS = [".agora.io", "qos.agoralab.co", "ap1.agora.io"]


def lines(form: str, **options: object) -> list[str]:
    """The lines of a format, without those about the site's own names."""
    text = allowlist(DOMAINS, form, **options)
    return [line for line in text.splitlines() if not any(zone in line for zone in (*REVERSE_ZONES, "arpa"))]


def test_plain_lists() -> None:
    assert lines("suffixes") == [".agora.io", "qos.agoralab.co"]
    assert lines("wildcards") == ["agora.io", "*.agora.io", "qos.agoralab.co"]


def test_the_policy_zone_denies_what_a_wildcard_would_not_reach() -> None:
    """`io` exists because `agora.io` does, so `*` says nothing about other names below it."""
    verdicts = dict(line.split(" CNAME ") for line in lines("rpz") if "CNAME" in line)
    assert verdicts == {
        **dict.fromkeys(["agora.io", "*.agora.io", "qos.agoralab.co", "localhost", "*.localhost"], "rpz-passthru."),
        **dict.fromkeys(["*", "io", "*.io", "co", "*.co", "agoralab.co", "*.agoralab.co", "*.qos.agoralab.co"], "."),
    }


def test_a_name_within_a_suffix_takes_nothing_from_it() -> None:
    """Between `corp.example` and `a.b.corp.example` is a name that the zone then holds: it has to pass as before."""
    text = allowlist([".io.example", "x.y.corp.example"], "rpz", local_domains=["corp.example", "a.b.io.example"])
    verdicts = dict(line.split(" CNAME ") for line in text.splitlines() if line.partition(" ")[0].endswith("example"))
    assert verdicts.pop("example") == verdicts.pop("*.example") == "."
    names = ["io", "b.io", "a.b.io", "corp", "y.corp", "x.y.corp"]
    assert verdicts == {f"{star}{name}.example": "rpz-passthru." for name in names for star in ("", "*.")}


def test_the_serial_follows_the_content_alone() -> None:
    first, again, other = (allowlist(domains, "rpz").splitlines()[1] for domains in (DOMAINS, DOMAINS[::-1], [".a.io"]))
    assert first == again != other


@pytest.mark.parametrize(
    ("others", "zone"),
    [("refuse", ['  local-zone: "." refuse']), ("nxdomain", ['  local-zone: "." always_nxdomain'])],
)
def test_unbound(others: str, zone: list[str]) -> None:
    transparent = [f'  local-zone: "{name}." transparent' for name in ("agora.io", "qos.agoralab.co", "lan")]
    wanted = ["server:", *zone, *transparent, '  domain-insecure: "lan."']
    assert lines("unbound", others=others, local_domains=["lan"]) == wanted


def test_dnsmasq() -> None:
    servers = ["192.0.2.53", "2001:db8::53"]
    asked = [f"server=/{name}/{server}" for server in servers for name in ("agora.io", "qos.agoralab.co", "lan")]
    options = {"upstreams": servers, "local_domains": ["lan"]}
    assert lines("dnsmasq", **options) == [*asked, "local=/*.qos.agoralab.co/"]
    assert lines("dnsmasq", others="nxdomain", **options) == [*asked, "local=/#/", "local=/*.qos.agoralab.co/"]
    everything = [[f"server={server}", *asked[start : start + 3]] for server, start in zip(servers, (0, 3))]
    assert lines("dnsmasq", others="resolve", **options) == [*everything[0], *everything[1]]


@pytest.mark.parametrize("form", ["rpz", "unbound", "dnsmasq"])
@pytest.mark.parametrize("domain", ["my_corp.lan", "_sites.corp.example", "Corp.Example.", " lan ", "corp.1"])
def test_a_domain_of_the_site_is_written_in_one_form(form: str, domain: str) -> None:
    """What dns_info takes the filter takes too, and a dot at the end becomes no empty label."""
    wanted = lines(form, upstreams=["192.0.2.53"], local_domains=[domain.strip().strip(".").lower()])
    assert lines(form, upstreams=["192.0.2.53"], local_domains=[domain]) == wanted


def test_an_exact_name_of_the_site_hides_no_name_below_it() -> None:
    names = ["app.corp.example", "app.xcorp.example"]
    text = allowlist(names, "dnsmasq", upstreams=["192.0.2.53"], local_domains=["corp.example"])
    assert [line for line in text.splitlines() if line.startswith("local")] == ["local=/*.app.xcorp.example/"]


def test_without_a_filter_unbound_has_no_zone_for_the_list() -> None:
    assert lines("unbound", others="resolve") == ["server:"]


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_texts_are_refused_all_in_one_error(form: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        allowlist(
            ["a b.io", 'a".io', "a.io\nserver=/#/192.0.2.1", ".io", "a" * 64 + ".io"], form, local_domains=["l;n"]
        )
    for where in ("domains[0]", "domains[1]", "domains[2]", "domains[3]", "domains[4]", "local_domains[0]"):
        assert where in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((".agora.io",), {}, "a list of domains is needed, not '.agora.io'"),
        ((DOMAINS,), {"local_domains": "lan"}, "a list of local_domains is needed, not 'lan'"),
        ((DOMAINS, "dnsmasq"), {"upstreams": "192.0.2.53"}, "a list of upstreams is needed"),
        ((DOMAINS, "bind"), {}, "form: 'bind' is not one of rpz, unbound, dnsmasq, suffixes, wildcards"),
        ((DOMAINS, "unbound"), {"others": "drop"}, "others: 'drop' is not one of refuse, nxdomain, resolve"),
        ((DOMAINS, "dnsmasq"), {}, "upstreams is empty"),
        ((DOMAINS, "dnsmasq"), {"upstreams": ["192.0.2.1\nserver=192.0.2.2"]}, "does not appear to be an IPv4 or IPv6"),
        ((DOMAINS, "dnsmasq"), {"upstreams": ["fe80::1%x\nserver=192.0.2.2"]}, "has an IPv6 zone"),
    ],
)
def test_other_mistakes(arguments: tuple[object, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        allowlist(*arguments, **options)
