"""Real clients, real TPROXY: a container asks the resolver it was given and gets our answer.

    client 10.112.0.5 ── host (our resolver, nft) ── outside 9.9.9.9, 2620:fe::9 (a foreign one)

The foreign resolver answers every name with the address of whoever asked, so an answer tells
whether a question was forwarded by the host or left alone.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from plait.model import marks

pytestmark = pytest.mark.root

CLIENT4, CLIENT6 = "10.112.0.5", "fd70:1::5"
HOST4, HOST6 = "198.51.100.1", "2001:db8::1"
QUAD9, QUAD9_6 = "9.9.9.9", "2620:fe::9"
PROCESS = Path(__file__).with_name("dns_process.py")

RULES = f"""
table inet dnstest {{
  chain prerouting {{
    type filter hook prerouting priority mangle;
    iifname "c" meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport 53 \\
      tproxy ip to {marks.GATEWAY4}:53 meta mark set {marks.DNS_MARK} accept
    iifname "c" meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport 53 \\
      tproxy ip6 to [{marks.RESOLVER6}]:53 meta mark set {marks.DNS_MARK} accept
  }}
}}
"""


class World:
    """The three namespaces."""

    def __init__(self, tag: str) -> None:
        self.client, self.host, self.outside = (f"pltdns{tag}{who}" for who in "cho")

    def run(self, where: str, *argv: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", where, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def dig(self, *args: str) -> list[str]:
        return self.run(self.client, "dig", "+tries=1", "+time=5", "+short", *args).splitlines()

    @contextmanager
    def process(self, where: str, *args: str) -> Iterator[None]:
        argv = ["ip", "netns", "exec", where, sys.executable, str(PROCESS), *args]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield
            finally:
                process.kill()

    def resolver(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(self.process(self.host, "resolver"))
        return stack


def _build(world: World) -> None:
    for name in (world.client, world.host, world.outside):
        world.run(name, "ip", "link", "set", "lo", "up")
    for end, name in (("c", world.client), ("o", world.outside)):
        add = ("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
        world.run(world.host, "ip", *add)
        world.run(world.host, "ip", "link", "set", end, "up")
        world.run(name, "ip", "link", "set", "eth0", "up")
    plan = [
        (world.client, "eth0", "10.112.0.5/24", "fd70:1::5/64"),
        (world.host, "c", "10.112.0.1/24", "fd70:1::1/64"),
        (world.host, "o", f"{HOST4}/24", f"{HOST6}/64"),
        (world.outside, "eth0", "198.51.100.2/24", "2001:db8::2/64"),
        (world.outside, "lo", f"{QUAD9}/32", f"{QUAD9_6}/128"),
        (world.host, "lo", f"{marks.GATEWAY4}/32", f"{marks.RESOLVER6}/128"),
    ]
    for name, link, four, six in plan:
        world.run(name, "ip", "address", "add", four, "dev", link)
        world.run(name, "ip", "address", "add", six, "dev", link, "nodad")
    routes = [
        (world.client, "10.112.0.1", "fd70:1::1"),
        (world.host, "198.51.100.2", "2001:db8::2"),
        (world.outside, HOST4, HOST6),
    ]
    for name, four, six in routes:
        world.run(name, "ip", "route", "add", "default", "via", four)
        world.run(name, "ip", "-6", "route", "add", "default", "via", six)
    forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    world.run(world.host, "sysctl", "-qw", *forwarding)
    mark, table = f"{marks.DNS_MARK}/{marks.DNS_MARK_MASK}", str(marks.DNS_ROUTE_TABLE)
    for family in ("-4", "-6"):
        world.run(world.host, "ip", family, "rule", "add", "fwmark", mark, "lookup", table)
        local = ("route", "add", "local", "default", "dev", "lo", "table", table)
        world.run(world.host, "ip", family, *local)
    world.run(world.host, "nft", "-f", "-", stdin=RULES)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(f"{os.getpid()}{secrets.token_hex(2)}")
    with ExitStack() as stack:
        for name in (world.client, world.host, world.outside):
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
            # Seen as /etc/resolv.conf by what `ip netns exec` runs.
            etc = Path("/etc/netns") / name
            had_parent = etc.parent.exists()
            etc.mkdir(parents=True)
            if not had_parent:
                stack.callback(etc.parent.rmdir)
            stack.callback(etc.rmdir)
            conf = etc / "resolv.conf"
            conf.write_text(f"nameserver {QUAD9}\noptions timeout:3 attempts:1\n")
            stack.callback(conf.unlink)
        _build(world)
        stack.enter_context(world.process(world.outside, "foreign", QUAD9, QUAD9_6))
        yield world


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[World]:
    with world.resolver():
        yield world


def test_before_and_after_us_packets_pass_untouched(world: World) -> None:
    ask = ("web.default.plait.local", f"@{QUAD9}")
    ask6 = ("web.default.plait.local", "AAAA", f"@{QUAD9_6}")
    with world.resolver():
        assert world.dig(*ask) == ["10.112.0.6"]
    assert world.dig(*ask) == [CLIENT4]
    assert world.dig(*ask, "+tcp") == [CLIENT4]
    assert world.dig(*ask6) == [CLIENT6]
    assert world.dig(*ask6, "+tcp") == [CLIENT6]


@pytest.mark.parametrize("server", [QUAD9, QUAD9_6, marks.GATEWAY4, marks.RESOLVER6, "192.0.2.200"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_our_names_are_answered_whomever_the_client_asks(
    served: World, server: str, transport: str
) -> None:
    # dig believes only replies that come from the address it asked.
    ask = (f"@{server}", transport, "+noedns")
    assert served.dig("web.default.plait.local", *ask) == ["10.112.0.6"]
    assert served.dig("web", "AAAA", *ask) == ["fd70:1::6"]
    assert served.dig("-x", "10.112.0.6", f"@{server}", transport) == ["web.default.plait.local."]


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_other_names_are_forwarded_to_the_resolver_that_was_asked(
    served: World, transport: str
) -> None:
    assert served.dig("example.org", f"@{QUAD9}", transport) == [HOST4]
    assert served.dig("example.org", "AAAA", f"@{QUAD9_6}", transport) == [HOST6]
    # The host's own resolv.conf names the foreign resolver too.
    assert served.dig("example.net", f"@{marks.GATEWAY4}", transport) == [HOST4]


def test_what_the_client_says_to_its_resolver_passes_as_it_is(served: World) -> None:
    iterative = served.run(served.client, "dig", f"@{QUAD9}", "example.com", "+norecurse")
    assert "flags: qr aa;" in iterative
    assert "(good)" in iterative, "the resolver's half of the cookie came back"
    # A top-level domain that is called as an endpoint is.
    served.run(served.client, "dig", f"@{QUAD9}", "web", "NS", "+norecurse")
    assert served.dig("web", f"@{QUAD9}", "+norecurse") == [HOST4]

    transfer = served.dig("example.org", "AXFR", f"@{QUAD9}")
    assert transfer == [". . 1 2 3 4 5", HOST4, ". . 1 2 3 4 5"]
    update = "server {}\nzone example.org\nupdate add x.example.org 60 A 192.0.2.1\nsend\n"
    for how in ([], ["-v"]):
        served.run(served.client, "nsupdate", *how, stdin=update.format(QUAD9))


def test_names_of_other_networks_do_not_exist(served: World) -> None:
    out = served.run(served.client, "dig", "other.default.plait.local", f"@{QUAD9}")
    assert "NXDOMAIN" in out
    assert "SOA" in out


def test_glibc_finds_short_and_full_names_of_both_families(served: World) -> None:
    for name in ("web", "web.default", "web.default.plait.local"):
        out = served.run(served.client, "getent", "ahosts", name)
        assert {line.split()[0] for line in out.splitlines()} == {"10.112.0.6", "fd70:1::6"}
    out = served.run(served.client, "getent", "hosts", "10.112.0.6")
    assert out.split() == ["10.112.0.6", "web.default.plait.local"]


def test_the_host_itself_sees_all_by_full_name(served: World) -> None:
    ask = ("dig", "+short", "+tries=1", f"@{marks.GATEWAY4}")
    assert served.run(served.host, *ask, "other.default.plait.local") == "10.113.0.6\n"
    ask6 = ("dig", "+short", "+tries=1", "+tcp", f"@{marks.RESOLVER6}")
    assert served.run(served.host, *ask6, "other.default.plait.local") == "10.113.0.6\n"


def test_who_is_no_endpoint_is_refused(served: World) -> None:
    out = served.run(
        served.outside, "dig", "+tries=1", f"@{marks.GATEWAY4}", "web.default.plait.local"
    )
    assert "REFUSED" in out
    assert "not an endpoint of this host" in out


# Services, by Kubernetes' schema


KUBELET = f"""nameserver {marks.GATEWAY4}
search shop.svc.cluster.local svc.cluster.local cluster.local
options ndots:5 timeout:3 attempts:1
"""


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_services_have_kubernetes_names(served: World, transport: str) -> None:
    ask = (f"@{marks.GATEWAY4}", transport)
    front, db = "front.shop.svc.cluster.local", "db.shop.svc.cluster.local"
    assert served.dig(front, *ask) == ["10.96.0.10"]
    assert served.dig(front, "AAAA", *ask) == ["fd70:96::10"]
    assert served.dig(f"_http._tcp.{front}", "SRV", *ask) == [f"0 100 80 {front}."]
    assert served.dig("-x", "10.96.0.10", *ask) == [f"{front}."]
    assert sorted(served.dig(db, *ask)) == ["10.112.9.1", "10.112.9.2"]
    assert served.dig(f"db-2.{db}", *ask) == ["10.112.9.2"]
    srv = [f"0 50 8080 db-{i}.{db}." for i in (1, 2)]
    assert sorted(served.dig(f"_http._tcp.{db}", "SRV", *ask)) == srv
    assert served.dig("-x", "10.112.9.1", *ask) == [f"db-1.{db}."]
    assert served.dig("10-112-9-1.shop.pod.cluster.local", *ask) == ["10.112.9.1"]
    assert served.dig("dns-version.cluster.local", "TXT", *ask) == ['"1.1.0"']
    out = served.run(served.client, "dig", f"nothing.{db}", *ask)
    assert "NXDOMAIN" in out
    assert "SOA" in out
    refused = served.run(served.client, "dig", "cluster.local", "AXFR", *ask[:1])
    assert "Transfer failed." in refused


def test_a_crowd_is_whole_although_it_fits_no_datagram(served: World) -> None:
    name = "crowd.shop.svc.cluster.local"
    cut = served.run(served.client, "dig", f"@{QUAD9}", name, "+ignore")
    assert "flags: qr aa tc rd" in cut
    assert len(set(served.dig(name, f"@{QUAD9}"))) == 500
    found = served.run(served.client, "getent", "ahostsv4", name).splitlines()
    assert len({line.split()[0] for line in found}) == 500


def test_an_alias_comes_with_the_addresses_of_what_it_stands_for(served: World) -> None:
    name = "outside.shop.svc.cluster.local"
    assert served.dig(name, f"@{QUAD9}") == ["www.example.org.", HOST4]
    assert served.dig(name, f"@{marks.GATEWAY4}", "+tcp") == ["www.example.org.", HOST4]
    assert served.dig(name, "CNAME", f"@{marks.GATEWAY4}") == ["www.example.org."]
    assert served.run(served.client, "getent", "ahostsv4", name).split()[0] == HOST4


def test_glibc_finds_what_a_pod_asks_for(served: World) -> None:
    conf = Path("/etc/netns") / served.client / "resolv.conf"
    before = conf.read_text()
    conf.write_text(KUBELET)
    try:
        for name in ("front", "front.shop", "front.shop.svc", "front.shop.svc.cluster.local."):
            out = served.run(served.client, "getent", "ahosts", name)
            assert {line.split()[0] for line in out.splitlines()} == {"10.96.0.10", "fd70:96::10"}
        assert served.run(served.client, "getent", "hosts", "db-1.db").split()[0] == "10.112.9.1"
        # Five names that are not there come before the one that is.
        out = served.run(served.client, "getent", "ahostsv4", "www.example.com")
        assert out.split()[0] == HOST4
    finally:
        conf.write_text(before)
