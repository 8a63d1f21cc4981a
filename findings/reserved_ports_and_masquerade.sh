#!/bin/sh
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Linux: net.ipv4.ip_local_reserved_ports keeps ports from bind(0) and connect() alone. Masquerading on the same host
# uses reserved ports all the same, as it keeps the source port of the machine behind it. A program of the host that
# relies on the reservation then shares its port with a flow that only connection tracking knows of; ss and
# /proc/net/udp show nothing of it.
#
# Seen on kernel 6.18, with nft 1.0.6 (Debian 12). Run as root; it needs iproute2, and uses network namespaces of its own.
set -eu

folder=$(mktemp -d)
names="machine router world"
clean() {
	for name in $names; do ip netns delete "finding-$name" 2>/dev/null || true; done
	rm -rf "$folder"
}
trap clean EXIT
cd "$folder"
chmod 755 "$folder"
apt-get download -qq -o APT::Sandbox::User=root nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libxtables12=1.8.9-2 \
	libjansson4 libgmp10 libedit2 libbsd0 libmd0 libmnl0
for package in ./*.deb; do dpkg-deb --extract "$package" root; done
libraries=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")

for name in $names; do
	ip netns add "finding-$name"
	ip -n "finding-$name" link set lo up
done
ip -n finding-router link add inside type veth peer name eth0 netns finding-machine
ip -n finding-router link add outside type veth peer name eth0 netns finding-world
ip -n finding-router address add 10.0.0.1/24 dev inside
ip -n finding-router address add 192.0.2.1/24 dev outside
ip -n finding-machine address add 10.0.0.2/24 dev eth0
ip -n finding-world address add 192.0.2.2/24 dev eth0
ip -n finding-router link set inside up
ip -n finding-router link set outside up
ip -n finding-machine link set eth0 up
ip -n finding-world link set eth0 up
ip -n finding-machine route add default via 10.0.0.1
ip netns exec finding-router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward
	echo 40000-41000 >/proc/sys/net/ipv4/ip_local_reserved_ports'
LD_LIBRARY_PATH=$libraries ip netns exec finding-router "$folder/root/usr/sbin/nft" -f - <<'END'
table ip nat { chain postrouting { type nat hook postrouting priority srcnat; oifname "outside" masquerade; }; }
END

cat >world.pl <<'END'
use IO::Socket::INET;
my $socket = IO::Socket::INET->new(Proto => "udp", LocalAddr => "192.0.2.2", LocalPort => 9) or die;
$SIG{ALRM} = sub { exit };
$| = 1;
print "ready\n";
alarm 5;
while ($socket->recv(my $text, 9)) { print $socket->peerport, "\n"; }
END
cat >machine.pl <<'END'
use IO::Socket::INET;
for my $port (40000, 40005, 41000) {
	IO::Socket::INET->new(Proto => "udp", LocalPort => $port, PeerAddr => "192.0.2.2", PeerPort => 9)->send("x") or die;
}
END
ip netns exec finding-world perl world.pl >seen &
until grep -q ready seen 2>/dev/null; do sleep 0.1; done
ip netns exec finding-machine perl machine.pl
wait

uname -r
ip netns exec finding-router sh -c 'echo "reserved on the router: $(cat /proc/sys/net/ipv4/ip_local_reserved_ports)"'
echo "source ports that the world has seen: $(sed 1d seen | sort -n | tr '\n' ' ')"
[ "$(sed 1d seen | sort -n | tr '\n' ' ')" = "40000 40005 41000 " ]
echo "as found: masquerading uses reserved ports"
