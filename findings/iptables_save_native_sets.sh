#!/bin/sh
# Copyright (c) 2026, The openagora.firewall authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# iptables-nft 1.8.9 and nft 1.0.6 (Debian 12): in a table that both write to, iptables-save prints a rule of nft's with
# an anonymous set without that set, as a rule that matches more, and ends with code 0 and no word on standard error.
#
#   nft:           tcp dport { 22, 8022 } accept
#   iptables-save: -A OUTPUT -p tcp -j ACCEPT
#
# Where it cannot print a rule at all it says so ("Table `filter' is incompatible, use 'nft' tool."), so that one takes
# the absence of that line for a true listing. A rule with one port is printed whole. What iptables-restore-translate
# writes has such sets wherever multiport was.
#
# Run as root on Debian 12. It changes nothing outside of a temporary folder and a network namespace of its own.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download -qq -o APT::Sandbox::User=root iptables=1.8.9-2 libxtables12=1.8.9-2 libip4tc2=1.8.9-2 libip6tc2=1.8.9-2 libnftnl11=1.2.4-2 \
	nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libjansson4 libgmp10 libedit2 libbsd0 libmd0 libmnl0 \
	libnetfilter-conntrack3 libnfnetlink0
for package in ./*.deb; do dpkg-deb --extract "$package" root; done
libraries=$(dirname "$(find "$folder/root" -name 'libxtables.so.12' | head -n 1)")
extensions=$(dirname "$(find "$folder/root" -name 'libxt_tcp.so' | head -n 1)")

cat >inside <<'END'
set -eu
iptables-nft --version
nft --version
iptables-nft -P OUTPUT DROP
nft 'add rule ip filter OUTPUT tcp dport { 22, 8022 } accept'
nft 'add rule ip filter OUTPUT tcp dport 25 accept'
nft list chain ip filter OUTPUT
code=0
iptables-nft-save -t filter >saved 2>errors || code=$?
grep '^-A' saved
echo "code $code, $(wc -c <errors) bytes of errors"
[ "$code" = 0 ] && [ ! -s errors ]
grep -qx -- '-A OUTPUT -p tcp -j ACCEPT' saved
grep -qx -- '-A OUTPUT -p tcp -m tcp --dport 25 -j ACCEPT' saved
END
PATH=$folder/root/usr/sbin:$folder/root/sbin:$PATH LD_LIBRARY_PATH=$libraries:$folder/root/usr/lib XTABLES_LIBDIR=$extensions \
	unshare --net sh inside
echo "as found: the set of ports is gone from what iptables-save prints"
