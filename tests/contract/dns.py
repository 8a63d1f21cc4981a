# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role dns_allowlist promises, with either resolver: answers from a real server, asked for over real networks."""

from __future__ import annotations

import json
import re
import typing as t

import pytest

from . import document
from .lab import ROOT, Running, changes, tool
from .sampling import walk

if t.TYPE_CHECKING:
    from .lab import Machine, Run, Target

__all__ = [
    "TestAbsent",
    "TestAllowlist",
    "TestBadInput",
    "TestEnforce",
    "TestGateway",
    "TestOtherResolvers",
    "TestOthers",
    "TestPlaybook",
    "TestUseHere",
    "lists",
    "named",
    "resolving",
    "site",
]

ALL = {"agora_sdks": list(document.SDKS)}
LISTED = sorted({name for domains in document.DOMAINS.values() for name in domains})
# What the list names, and for a suffix a name far below it.
NAMES = [name.lstrip(".") for name in LISTED] + [f"x.y.z{name}" for name in LISTED if name.startswith(".")]
SIBLINGS = [
    *("agora.io.evil.example", "notagora.io", "xagora.io", "io", "agoralab.co", "xqos.agoralab.co"),
    *("evil.example", "target.cdn.example", "agora.com"),
]
BELOW_EXACT = "x.qos.agoralab.co"
LOOPBACK = ("127.0.0.1", "::1")


def ask(machine: Machine, server: str, *names: str, tcp: bool = False, wait: float = 3) -> dict[str, t.Any]:
    """What a server answers: for each name its code and addresses."""
    words = (*(["--tcp"] if tcp else []), "--wait", str(wait))
    answers: dict[str, t.Any] = machine.instrument("resolve", server, *names, *words)
    return answers


def set_up(target: Target, *flags: str, **variables: t.Any) -> Run:
    """Run the role, alone."""
    return target.role("dns_allowlist", *flags, **{**ALL, "agora_dns": target.resolver, **variables})


def services(target: Target) -> str:
    """The services that the role may touch."""
    return target.attempt("systemctl is-active dnsmasq unbound; systemctl is-enabled dnsmasq unbound").stdout


@pytest.fixture(scope="class")
def site(target: Target) -> Target:
    """The host with a site's name server, and no resolver of its own."""
    target.reset_site()
    return target


@pytest.fixture(scope="class")
def resolving(site: Target) -> Target:
    """The host with the role's resolver."""
    assert set_up(site).failed == ""
    return site


class TestAllowlist:
    @pytest.mark.parametrize("server", LOOPBACK)
    @pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
    def test_every_name_of_every_sdk_is_answered(self, resolving: Target, server: str, tcp: bool) -> None:
        wanted = [f"{name}/{kind}" for name in NAMES for kind in ("A", "AAAA")]
        answers = ask(resolving, server, *wanted, tcp=tcp)
        assert answers == ask(resolving.far, resolving.far.addresses[0], *wanted)
        assert all(addresses for _code, addresses in answers.values())

    @pytest.mark.parametrize("server", LOOPBACK)
    @pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
    def test_no_other_name_is(self, resolving: Target, server: str, tcp: bool) -> None:
        answers = ask(resolving, server, *SIBLINGS, *(f"{name}/AAAA" for name in SIBLINGS), tcp=tcp)
        assert {tuple(map(str, answer)) for answer in answers.values()} == {("REFUSED", "[]")}

    def test_an_exact_name_is_exact_where_the_resolver_can(self, resolving: Target) -> None:
        code = {"dnsmasq": "NXDOMAIN", "unbound": "NOERROR"}[resolving.resolver]
        assert ask(resolving, "127.0.0.1", BELOW_EXACT)[BELOW_EXACT][0] == code

    @pytest.mark.parametrize("kind", ["A", "AAAA"])
    def test_an_alias_into_another_zone_is_followed(self, resolving: Target, kind: str) -> None:
        """Its target is refused to those who ask for that, but for what dnsmasq remembers of the answer for a while."""
        alias, target = f"alias.agora.io/{kind}", f"target.cdn.example/{kind}"
        upstream = ask(resolving.far, resolving.far.addresses[0], target)[target]
        assert ask(resolving, "127.0.0.1", target)[target] == ["REFUSED", []]
        assert ask(resolving, "127.0.0.1", alias)[alias] == upstream
        if resolving.resolver == "unbound":
            assert ask(resolving, "127.0.0.1", target)[target] == ["REFUSED", []]

    def test_what_no_datagram_holds_comes_over_tcp(self, resolving: Target) -> None:
        assert ask(resolving, "127.0.0.1", "big.agora.io")["big.agora.io"][0] == "TRUNCATED"
        code, addresses = ask(resolving, "127.0.0.1", "big.agora.io", tcp=True)["big.agora.io"]
        assert (code, len(addresses)) == ("NOERROR", 100)

    def test_a_name_that_does_not_exist_is_no_failure(self, resolving: Target) -> None:
        assert ask(resolving, "127.0.0.1", "missing.agora.io")["missing.agora.io"] == ["NXDOMAIN", []]

    def test_local_names_are_known(self, resolving: Target) -> None:
        """The site's search domain, private reverse lookups, and the host itself."""
        names = ["localhost", "printer.corp.example", "1.2.0.10.in-addr.arpa/PTR", "1.168.192.in-addr.arpa/PTR"]
        assert {answer[0] for answer in ask(resolving, "127.0.0.1", *names).values()} == {"NOERROR"}

    def test_a_second_run_changes_nothing(self, resolving: Target) -> None:
        before = resolving.state()
        assert set_up(resolving).changed == []
        assert set_up(resolving, "--check").changed == []
        assert not changes(before, resolving.state())

    def test_another_choice_of_sdks_takes_names_away(self, resolving: Target) -> None:
        assert set_up(resolving, agora_sdks=["web"]).changed
        assert ask(resolving, "127.0.0.1", "qos.agoralab.co")["qos.agoralab.co"][0] == "REFUSED"
        assert ask(resolving, "127.0.0.1", "ap1.agora.io")["ap1.agora.io"][0] == "NOERROR"
        assert set_up(resolving).changed

    def test_it_is_there_after_a_reboot(self, resolving: Target) -> None:
        resolving.reboot()
        assert ask(resolving, "127.0.0.1", "agora.io", "evil.example") == {
            "agora.io": ask(resolving.far, resolving.far.addresses[0], "agora.io")["agora.io"],
            "evil.example": ["REFUSED", []],
        }


class TestOthers:
    @pytest.mark.parametrize(("others", "code"), [("nxdomain", "NXDOMAIN"), ("resolve", "NOERROR")])
    def test_other_names(self, site: Target, others: str, code: str) -> None:
        assert set_up(site, dns_allowlist_others=others).failed == ""
        answers = ask(site, "127.0.0.1", "evil.example", "agora.io", "localhost")
        assert {name: answer[0] for name, answer in answers.items()} == {
            "evil.example": code,
            "agora.io": "NOERROR",
            "localhost": "NOERROR",
        }

    def test_further_names_and_domains_of_the_site(self, site: Target) -> None:
        further = {"dns_allowlist_extra_domains": [".example.net"], "dns_allowlist_local_domains": ["lan"]}
        assert set_up(site, **further).failed == ""
        answers = ask(site, "127.0.0.1", "a.example.net", "nas.lan", "evil.example")
        assert [answer[0] for answer in answers.values()] == ["NOERROR", "NOERROR", "REFUSED"]


class TestAbsent:
    def test_check_mode_tells_and_writes_nothing(self, site: Target) -> None:
        before = site.state()
        assert set_up(site, "--check").changed
        assert not changes(before, site.state())

    def test_absent_gives_back_what_was(self, site: Target) -> None:
        before, ran = site.state(), services(site)
        assert set_up(site, dns_allowlist_use_here=True).changed
        assert services(site) != ran
        assert set_up(site, agora_state="absent").changed
        assert not changes(before, site.state())
        assert services(site) == ran
        assert set_up(site, agora_state="absent").changed == []

    def test_one_resolver_takes_the_place_of_the_other(self, site: Target) -> None:
        other = {"dnsmasq": "unbound", "unbound": "dnsmasq"}[site.resolver]
        # It is installed now, which stays.
        assert set_up(site, agora_dns=other).failed == ""
        assert set_up(site, agora_state="absent").failed == ""
        before, ran = site.state(), services(site)
        assert set_up(site, agora_dns=other, dns_allowlist_use_here=True).failed == ""
        assert set_up(site, dns_allowlist_use_here=True).failed == ""
        assert "REFUSED" in ask(site, "127.0.0.1", "evil.example")["evil.example"]
        assert set_up(site, dns_allowlist_use_here=True).changed == []
        assert set_up(site, agora_state="absent").changed
        assert not changes(before, site.state())
        assert services(site) == ran

    def test_a_resolver_that_ran_before_runs_afterwards(self, site: Target) -> None:
        """With its own settings, which were kept."""
        unit = site.resolver
        site.run(f"systemctl enable --now {unit}")
        before = site.state()
        assert set_up(site).failed == ""
        assert set_up(site, agora_state="absent").failed == ""
        assert not changes(before, site.state())
        assert services(site).count("\nactive") + services(site).startswith("active") == 1
        site.run(f"systemctl disable --now {unit}")


class TestUseHere:
    def test_programs_of_the_host_ask_it(self, site: Target) -> None:
        assert set_up(site, dns_allowlist_use_here=True).failed == ""
        wanted = ask(site.far, site.far.addresses[0], "agora.io")["agora.io"][1]
        assert site.run("getent ahostsv4 agora.io").split()[0] in wanted
        assert site.attempt("getent hosts evil.example.").returncode != 0
        assert site.run("getent hosts printer").split()[1] == "printer.corp.example"
        assert set_up(site, dns_allowlist_use_here=True).changed == []

    def test_it_is_given_back_when_it_is_not_wanted_any_more(self, site: Target) -> None:
        assert set_up(site, dns_allowlist_use_here=True).failed == ""
        assert set_up(site).failed == ""
        assert site.far.addresses[0] in site.run("cat /etc/resolv.conf")
        assert "REFUSED" in ask(site, "127.0.0.1", "evil.example")["evil.example"]

    def test_what_somebody_wrote_since_stays(self, site: Target) -> None:
        assert set_up(site, dns_allowlist_use_here=True).failed == ""
        site.run("echo nameserver 192.0.2.53 >/etc/resolv.conf")
        assert set_up(site, agora_state="absent").failed == ""
        assert site.run("cat /etc/resolv.conf") == "nameserver 192.0.2.53\n"
        site.reset_site()

    def test_a_writer_that_is_not_known_is_refused(self, site: Target) -> None:
        site.run("(echo '# Generated by dhcpcd'; cat /etc/resolv.conf) >/tmp/before; cat /tmp/before >/etc/resolv.conf")
        before = site.state()
        message = set_up(site, dns_allowlist_use_here=True).failed
        assert "dhcpcd" in message
        assert not changes(before, site.state())
        site.reset_site()


class TestManagers:
    """What does not depend on the resolver, and is tried with one of them."""

    MANAGERS: t.ClassVar = {
        "systemd-resolved": (
            # systemd-resolved cannot tell its name on the bus before that has read who it is.
            "apt-get install -qqy --no-install-recommends systemd-resolved && systemctl restart systemd-resolved",
            "resolvectl dns eth0 {0} {1} && resolvectl domain eth0 corp.example",
            "umount /etc/resolv.conf; ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
        ),
        "network-manager": (
            # Nothing but names is its business here.
            "mkdir -p /etc/NetworkManager/conf.d",
            r"printf '[keyfile]\nunmanaged-devices=*\n[global-dns]\nsearches=corp.example\n"
            r"[global-dns-domain-*]\nservers={0},{1}\n' >/etc/NetworkManager/conf.d/site.conf",
            "apt-get install -qqy --no-install-recommends network-manager",
            # It puts a file of its own there, which it cannot where one is mounted, be it in its namespace alone.
            "umount /etc/resolv.conf; systemctl restart NetworkManager",
            # It reads them again once it has started.
            "timeout 10 sh -c 'until systemctl reload NetworkManager && grep -q Generated /etc/resolv.conf;"
            " do sleep 0.2; done'",
        ),
    }

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("manager", MANAGERS)
    def test_whoever_writes_resolv_conf_is_handled(self, site: Target, manager: str) -> None:
        site.reset_site()
        wanted = ask(site.far, site.far.addresses[0], "agora.io")["agora.io"][1]
        try:
            for command in ("apt-get update -qq", *self.MANAGERS[manager]):
                site.run(f"export DEBIAN_FRONTEND=noninteractive; {command.format(*site.far.addresses)}")
            before = site.state()
            for changes_something in (True, False):
                run = set_up(site, dns_allowlist_use_here=True)
                assert (run.failed, bool(run.changed)) == ("", changes_something)
            for command in ("", "systemctl restart {}"):
                site.run(command.format(manager.replace("network-manager", "NetworkManager")))
                assert site.run("getent ahostsv4 agora.io").split()[0] in wanted
                assert site.attempt("getent hosts evil.example.").returncode != 0
                assert site.run("getent hosts printer").split()[1] == "printer.corp.example"
            assert set_up(site, agora_state="absent").failed == ""
            assert not changes(before, site.state())
            assert site.run("getent hosts evil.example.")
        finally:
            # Where it was a link, the next one is a file.
            site.attempt("rm /etc/resolv.conf")
            site.run(f"DEBIAN_FRONTEND=noninteractive apt-get purge -qqy {manager}; rm -rf /etc/NetworkManager")
            site.reset_site()

    def test_a_change_that_breaks_resolving_gives_way(self, site: Target) -> None:
        wish = {"agora_sdks": ["web"], "dns_allowlist_use_here": True}
        assert set_up(site, **wish).failed == ""
        assert "Its former configuration is back" in set_up(site, **wish, dns_allowlist_upstreams=["192.0.2.1"]).failed
        assert site.run("getent hosts agora.io")
        assert set_up(site, **wish).failed == ""
        assert set_up(site, **wish).changed == []

    def test_a_run_that_broke_off_is_made_good(self, site: Target) -> None:
        """Before the resolver had read what was written for it."""
        wish = {"agora_sdks": ["web"], "dns_allowlist_use_here": True}
        assert set_up(site, **wish).failed == ""
        conf = site.run("ls /etc/dnsmasq.d/openagora.conf /etc/unbound/unbound.conf.d/openagora.conf || true").strip()
        site.run(f"cp {conf} /run/conf && sed -i /agora.io/d {conf} && systemctl restart {site.resolver}")
        site.run(f"cp /run/conf {conf} && touch /var/lib/openagora/dns/running")
        assert ask(site, "127.0.0.1", "agora.io")["agora.io"][0] == "REFUSED"
        assert set_up(site, **wish).failed == ""
        assert ask(site, "127.0.0.1", "agora.io")["agora.io"][0] == "NOERROR"


class TestBadInput:
    HOSTILE: t.ClassVar = [
        *(
            "a b.example",
            'a".example',
            "a'.example",
            "a.example\nserver=192.0.2.1",
            "a.example#",
            "a/b.example",
            "a;b.example",
        ),
        *("-a.example", "a..example", "a" * 64 + ".example", "b." * 126 + "example", ".com", "com", "192.0.2.1", "*"),
    ]

    def test_all_problems_are_told_and_nothing_changes(self, site: Target) -> None:
        before = site.state()
        message = set_up(
            site,
            agora_sdks=["web", "webb"],
            dns_allowlist_extra_domains=self.HOSTILE,
            dns_allowlist_upstreams=["dns.example", "192.0.2.1\nserver=192.0.2.2", "192.0.2.1#53", "fe80::1%eth0"],
            dns_allowlist_listen=["any", "0.0.0.0"],
            dns_allowlist_clients=["192.0.2.0/24 allow", "192.0.2.1/24"],
            dns_allowlist_local_domains=['lan"', "a b", "lan\naddress=/#/192.0.2.1"],
        ).failed
        for index in range(len(self.HOSTILE)):
            assert f"extra_domains[{index}]" in message
        for where in (
            "sdks[1]",
            "upstreams[0]",
            "upstreams[1]",
            "upstreams[2]",
            "upstreams[3]",
            "listen[0]",
            "listen[1]",
        ):
            assert where in message
        for where in ("clients", "local_domains[0]", "local_domains[1]", "local_domains[2]"):
            assert where in message
        assert not changes(before, site.state())

    def test_who_holds_the_port_is_told(self, site: Target) -> None:
        command = "python3 /opt/instruments/upstream.py 127.0.0.1"
        site.run(f"systemd-run --quiet --unit=holder --collect --service-type=notify {command}")
        before = site.state()
        try:
            message = set_up(site).failed
        finally:
            site.run("systemctl stop holder")
        assert "port 53 is taken: python3 (process " in message
        assert not changes(before, site.state())

    def test_settings_that_would_undo_the_allowlist_are_told(self, site: Target) -> None:
        path, text = {
            "dnsmasq": ("/etc/dnsmasq.d/site.conf", "server=192.0.2.1"),
            "unbound": (
                "/etc/unbound/unbound.conf.d/site.conf",
                'forward-zone:\n  name: "."\n  forward-addr: 192.0.2.1',
            ),
        }[site.resolver]
        site.run(f"printf '%s\\n' '{text}' >{path}")
        before = site.state()
        try:
            message = set_up(site).failed
            assert path in message
            assert not changes(before, site.state())
        finally:
            site.run(f"rm {path}")

    def test_settings_of_others_that_are_wrong_stop_it(self, site: Target) -> None:
        """All files together are tried out before ours takes its place."""
        path = {"dnsmasq": "/etc/dnsmasq.d/site.conf", "unbound": "/etc/unbound/unbound.conf.d/site.conf"}[
            site.resolver
        ]
        site.run(f"echo nonsense >{path}")
        try:
            assert set_up(site).failed
            assert "openagora" not in site.run("ls /etc/dnsmasq.d /etc/unbound/unbound.conf.d 2>/dev/null || true")
        finally:
            site.run(f"rm {path}")
            site.reset_site()


@pytest.fixture(scope="class")
def lists(site: Target, tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The host with the files that the playbook wrote."""
    folder = tmp_path_factory.mktemp("lists")
    # The names of the others lie below theirs; each SDK more is five files more.
    options = {
        "agora_sdks": ["native", "web"],
        "agora_lists_folder": str(folder),
        "agora_lists_by_sdk": "true",
        "agora_lists_upstreams": [site.far.addresses[0]],
        "agora_lists_local_domains": ["corp.example"],
    }
    words = ("--extra-vars", json.dumps(options), "openagora.firewall.agora_lists")
    done = tool("ansible-playbook", "--inventory=localhost,", *words)
    assert done.returncode == 0, done.stdout
    site.run("mkdir -p /run/lists")
    for path in folder.iterdir():
        site.run(f"cat >/run/lists/{path.name} <<'END'\n{path.read_text(encoding='utf-8')}END")
    return site


class TestOtherResolvers:
    """What playbook agora_lists writes for resolvers that others run."""

    BIND: t.ClassVar = """
        options {{
            directory "/run/lists"; pid-file none; session-keyfile none;
            listen-on {{ 127.0.0.9; }}; listen-on-v6 {{ none; }};
            forwarders {{ {0}; }}; forward only; dnssec-validation no;
            response-policy {{ zone "agora.rpz"; }};
        }};
        zone "agora.rpz" {{ type primary; file "agora.rpz"; }};
        """
    UNBOUND: t.ClassVar = """
        server:
            interface: 127.0.0.9
            username: ""
            chroot: ""
            pidfile: ""
            module-config: "iterator"
            include: "/run/lists/agora.unbound"
        forward-zone:
            name: "."
            forward-addr: {0}
        """
    DNSMASQ: t.ClassVar = (
        "listen-address=127.0.0.9\nbind-interfaces\nno-resolv\nconf-file=/run/lists/agora.dnsmasq\n# {0}"
    )

    def answers(self, lists: Target, configuration: str, command: str) -> dict[str, str]:
        """What a resolver with this configuration answers: the code for each name."""
        lists.run(f"cat >/run/lists/conf <<'END'\n{configuration.format(lists.far.addresses[0])}\nEND")
        # BIND listens on addresses that an interface has.
        lists.run("ip address replace 127.0.0.9/8 dev lo")
        lists.run(f"systemd-run --quiet --unit=other --collect {command}")
        try:
            lists.run("timeout 10 sh -c 'until ss -Hlnu | grep -q 127.0.0.9:53; do sleep 0.1; done'")
            names = [
                *NAMES,
                *SIBLINGS,
                "alias.agora.io",
                BELOW_EXACT,
                "printer.corp.example",
                "1.2.0.10.in-addr.arpa/PTR",
            ]
            return {name: answer[0] for name, answer in ask(lists, "127.0.0.9", *names).items()}
        finally:
            lists.run("systemctl stop other; ip address delete 127.0.0.9/8 dev lo")

    def expected(self, others: str, below_exact: str) -> dict[str, str]:
        """What the list says about the same names."""
        answered = [*NAMES, "alias.agora.io", "printer.corp.example", "1.2.0.10.in-addr.arpa/PTR"]
        return dict.fromkeys(answered, "NOERROR") | dict.fromkeys(SIBLINGS, others) | {BELOW_EXACT: below_exact}

    def test_there_is_a_list_for_each_sdk_too(self, lists: Target) -> None:
        assert lists.run("cat /run/lists/agora.suffixes").split() == [
            ".agora.io",
            "qos.agoralab.co",
            "qoslbs.agoralab.co",
        ]
        assert lists.run("cat /run/lists/agora-web.wildcards").split() == ["agora.io", "*.agora.io"]

    def test_bind_takes_the_policy_zone(self, lists: Target) -> None:
        lists.run("named-checkzone agora.rpz /run/lists/agora.rpz")
        answers = self.answers(lists, self.BIND, "named -f -c /run/lists/conf")
        assert answers == self.expected("NXDOMAIN", "NXDOMAIN")

    def test_the_resolver_takes_its_include(self, lists: Target) -> None:
        # unbound answers names below an exact one.
        conf, command, below_exact = {
            "dnsmasq": (self.DNSMASQ, "dnsmasq --keep-in-foreground --conf-file=/run/lists/conf", "NXDOMAIN"),
            "unbound": (self.UNBOUND, "unbound -d -c /run/lists/conf", "NOERROR"),
        }[lists.resolver]
        assert self.answers(lists, conf, command) == self.expected("REFUSED", below_exact)


GATEWAY = {"agora_placement": ["gateway"], "agora_inside": [{"interface": "eth1"}]}


class TestGateway:
    def test_machines_inside_are_answered(self, site: Target, inside: Machine) -> None:
        assert set_up(site, **GATEWAY).failed == ""
        site.forward()
        for address in site.plugs["inside"]:
            for tcp in (False, True):
                answers = ask(inside, address, "agora.io", "x.agora.io/AAAA", "evil.example", tcp=tcp)
                assert [answer[0] for answer in answers.values()] == ["NOERROR", "NOERROR", "REFUSED"]
        # Not on the side of the internet.
        assert ask(site.far, site.plugs["outside"][0], "agora.io", wait=1)["agora.io"][0] in ("silence", "closed")


class TestEnforce:
    def test_machines_inside_reach_no_other_server(self, site: Target, inside: Machine) -> None:
        site.run("nft add rule inet filter forward accept")
        site.forward()
        servers = site.far.addresses
        assert [
            ask(inside, server, "evil.example", tcp=tcp)["evil.example"][0] for server in servers for tcp in (0, 1)
        ] == ["NOERROR"] * 4
        assert set_up(site, **GATEWAY, dns_allowlist_enforce=True).failed == ""
        for server in servers:
            for tcp in (False, True):
                assert ask(inside, server, "evil.example", tcp=tcp, wait=1)["evil.example"][0] == "closed"
        for address in site.plugs["inside"]:
            assert ask(inside, address, "agora.io")["agora.io"][0] == "NOERROR"
        assert set_up(site, **GATEWAY, dns_allowlist_enforce=True).changed == []

    def test_so_it_is_after_a_reboot_and_a_reload(self, site: Target, inside: Machine) -> None:
        for command in ("systemctl reload nftables", "systemctl restart nftables", ""):
            site.run(command) if command else site.reboot()
            site.run("nft add rule inet filter forward accept")
            site.forward()
            assert ask(inside, site.far.addresses[0], "evil.example", wait=1)["evil.example"][0] == "closed"

    def test_users_of_the_host_reach_none_either(self, site: Target) -> None:
        site.reset_site()
        assert set_up(site, dns_allowlist_use_here=True, dns_allowlist_enforce=True).failed == ""
        for server in site.far.addresses:
            for tcp in (False, True):
                assert ask(site, server, "agora.io", tcp=tcp, wait=1)["agora.io"][0] == "closed"
        assert ask(site, "127.0.0.1", "agora.io")["agora.io"][0] == "NOERROR"

    def test_absent_lets_them_again(self, site: Target) -> None:
        assert set_up(site, agora_state="absent").failed == ""
        assert ask(site, site.far.addresses[0], "agora.io")["agora.io"][0] == "NOERROR"
        assert "openagora" not in site.run("nft list ruleset; ls /etc/systemd/system /etc")

    def test_a_host_that_asks_others_would_resolve_nothing(self, site: Target) -> None:
        assert "use_here" in set_up(site, dns_allowlist_enforce=True).failed


class TestPlaybook:
    def test_ports_and_names_in_one_run(self, site: Target) -> None:
        run = site.playbook("openagora.firewall.open_agora", **ALL, agora_dns=site.resolver)
        assert run.failed == ""
        assert ask(site, "127.0.0.1", "agora.io", "evil.example")["agora.io"][0] == "NOERROR"
        egress = site.measure(directions=["egress"]).egress
        assert egress["tcp4"] == document.egress(document.SDKS)["tcp"] | {53}
        assert site.playbook("openagora.firewall.open_agora", **ALL, agora_dns=site.resolver).changed == []

    def test_closing_takes_both_away(self, site: Target) -> None:
        run = site.playbook("openagora.firewall.close_agora")
        assert run.failed == ""
        assert ask(site, "127.0.0.1", "agora.io")["agora.io"][0] == "closed"
        assert json.dumps(site.state()).count("openagora") == 0


NAMED = {
    **GATEWAY,
    "agora_outside": [{"interface": "eth0"}],
    "agora_sdks": ["web"],
    "agora_scope": "names",
    "agora_dns": "dnsmasq",
}
EDGE = "edge.agora.io"
FILLED = "nft list set inet filter openagora_names_ipv4 | grep -q expires"


def nameless(target: Target) -> list[str]:
    """Addresses on the other side that have no name."""
    return [re.sub(r"\d+$", "99", address) for address in target.far.addresses]


def reached(machine: Machine, *addresses: str, port: int = 443) -> list[bool]:
    """Whether a connection to each address comes about."""
    text = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
    return [machine.attempt(f"python3 -c '{text}' {address} {port}").returncode == 0 for address in addresses]


@pytest.fixture(scope="class")
def named(site: Target) -> t.Iterator[Target]:
    """The gateway, with servers on the other side: the one whose name is known, and one that has none."""
    site.forward()
    for address, length, gateway in zip(nameless(site), (24, 64), site.plugs["inside"]):
        site.far.run(f"ip address replace {address}/{length} dev eth0 nodad")
        site.inside.run(f"ip route replace {address} via {gateway}")
    known = ",".join(site.far.addresses)
    upstream = Running(site.far, "upstream", (*site.far.addresses, f"--address={EDGE}={known}"))
    with upstream, Running(site.far, "caller", ("serve", "443")):
        yield site
    for address in nameless(site):
        site.far.run(f"ip address flush dev eth0 to {address}")
        site.inside.run(f"ip route del {address}")
    # As it was when the host was made.
    Running(site.far, "upstream", site.far.addresses).__enter__()


class TestNames:
    """Rules of scope names, on a gateway: a server by its name, and not by an address that nobody has named."""

    def test_what_would_close_tcp_is_told(self, named: Target) -> None:
        """Sets that are not there yet, and a host that asks somebody else."""
        assert "apply the rules of scope names first" in named.role("dns_allowlist", **NAMED).failed
        assert "set use_here too" in named.role("dns_allowlist", **{**NAMED, "agora_placement": ["host"]}).failed

    def test_ports_and_names_in_one_run(self, named: Target) -> None:
        run = named.playbook("openagora.firewall.open_agora", **NAMED)
        assert run.failed == ""
        assert named.playbook("openagora.firewall.open_agora", **NAMED).changed == []

    def test_the_example_of_the_readme_works(self, named: Target) -> None:
        """With both roles in one play, and other servers kept out of reach."""
        text = (ROOT / "roles" / "dns_allowlist" / "README.md").read_text(encoding="utf-8")
        play = text.partition("```yaml\n")[2].partition("```")[0].replace("hosts: gateways", f"hosts: {named.name}")
        assert named.playbook("/dev/stdin", stdin=play).failed == ""
        assert "openagora_dns" in named.run("nft list tables")
        assert named.playbook("openagora.firewall.open_agora", **NAMED).failed == ""
        assert "openagora_dns" not in named.run("nft list tables")

    def test_an_address_is_reached_once_its_name_was_answered(self, named: Target, inside: Machine) -> None:
        known = named.far.addresses
        assert reached(inside, *known) == [False, False]
        for kind in ("A", "AAAA"):
            assert ask(inside, named.plugs["inside"][0], f"{EDGE}/{kind}")[f"{EDGE}/{kind}"][0] == "NOERROR"
        assert reached(inside, *known, *nameless(named)) == [True, True, False, False]
        assert reached(inside, known[0], port=22) == [False]

    def test_a_resolver_that_ends_comes_again(self, named: Target) -> None:
        named.run("systemctl kill --signal=SEGV dnsmasq")
        restarted = "systemctl show --value --property=NRestarts dnsmasq"
        named.wait(f"until [ $({restarted}) -gt 0 ] && systemctl -q is-active dnsmasq; do sleep 0.1; done", "restart")
        assert ask(named, "127.0.0.1", EDGE)[EDGE][0] == "NOERROR"

    def test_where_else_somebody_went_is_told(self, named: Target, inside: Machine) -> None:
        reached(inside, *nameless(named))
        told = named.module("applied_info")["unnamed"]
        assert [item for item in told if item["address"] in nameless(named)] == [
            {"address": address, "port": 443} for address in nameless(named)
        ]

    def test_no_connection_fails_through_many_changes(self, named: Target, inside: Machine) -> None:
        options = {"scope": "names", "placement": ["gateway"]}
        sides = {"inside": GATEWAY["agora_inside"], "outside": NAMED["agora_outside"]}
        caller = Running(inside, "caller", ("call", "443", "/tmp/calls", EDGE, "--server", named.plugs["inside"][0]))
        with caller:
            results = named.apply_each(walk(named.name, "web"), **options, **sides)
            named.run("systemctl reload dnsmasq")
            for _question in range(20):
                assert ask(inside, named.plugs["inside"][0], EDGE)[EDGE][0] == "NOERROR"
        assert {result["changed"] for result in results} == {True}
        calls = json.loads(inside.run("cat /tmp/calls"))
        assert calls["total"] > 100
        assert calls["failures"] == []

    @pytest.mark.parametrize("action", ["reload", "restart"])
    def test_what_names_have_outlives_a_reload_of_the_firewall(
        self, named: Target, inside: Machine, action: str
    ) -> None:
        ask(inside, named.plugs["inside"][0], EDGE)
        # Nobody asks again. Ours is loaded after the firewall, and waits for that.
        named.run(f"systemctl {action} nftables; timeout 5 sh -c 'until {FILLED}; do sleep 0.1; done'")
        assert reached(inside, named.far.addresses[0]) == [True]

    def test_an_emptied_set_is_filled_by_the_next_question(self, named: Target, inside: Machine) -> None:
        """Although dnsmasq has answered it before: it forgets when the sets are made anew."""
        ask(inside, named.plugs["inside"][0], EDGE)
        named.run("nft flush set inet filter openagora_names_ipv4; systemctl reload openagora-firewall")
        assert reached(inside, named.far.addresses[0]) == [False]
        ask(inside, named.plugs["inside"][0], EDGE)
        assert reached(inside, named.far.addresses[0]) == [True]
