"""Netlink bytes: golden messages, and parsers that read what the packers write."""

import errno
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.wire import links as wl
from plait.wire import netlink as nl
from plait.wire import rtnetlink as rt

VETH = wl.new_veth(
    "pl1",
    mac="ee:ee:ee:ee:ee:ee",
    mtu=1450,
    group=112,
    peer_name="eth0",
    peer_mac="02:00:00:00:00:01",
    peer_netns=9,
)
ROUTE = rt.RouteInfo(
    "10.9.0.0/26", index=7, via="fe80::5", onlink=True, mtu=1400, table=300, protocol=112
)
RULE = rt.RuleInfo(rt.AF_INET, 112, 112, 0x700000, 0xF00000, 112)

# Each line of hex is one header or attribute; accepted by Linux 6.18 in this very form.
GOLDEN = {
    "a veth whose peer is born elsewhere": (
        VETH,
        "9c000000100005060000000000000000 00000000000000000000000000000000"
        "08000300706c3100 08000400aa050000 0a000100eeeeeeeeeeee0000 08001b0070000000"
        "58001200"
        "0900010076657468000000004800020044000100 00000000000000000000000000000000"
        "09000300657468300000 0000 08000400aa050000 0a0001000200000000010000"
        "08001b0000000000 08001c0009000000",
    ),
    "a link goes up": (
        wl.set_link(7, up=True),
        "20000000130005000000000000000000 00000000070000000100000001000000",
    ),
    "no link-local address": (
        wl.set_link(7, addrgen_none=True),
        "30000000130005000000000000000000 00000000070000000000000000000000"
        "10001a80 0c000a80 0500080001000000",
    ),
    "a group is deleted": (
        wl.del_group(112),
        "28000000110005000000000000000000 00000000000000000000000000000000 08001b0070000000",
    ),
    "an IPv6 address, permanent, without DAD": (
        rt.new_address(7, "fd00::1/128", 112),
        "48000000140005060000000000000000 0a80820007000000"
        "14000200fd000000000000000000000000000001 14000100fd000000000000000000000000000001"
        "05000b0070000000",
    ),
    "an IPv4 route by an IPv6 gateway": (
        rt.new_route(ROUTE),
        "58000000180005060000000000000000 021a0000fc70000104000000"
        "080001000a090000 08000f002c010000 160012000a00fe8000000000000000000000000000050000"
        "0800040007000000 0c000880 0800020078050000",
    ),
    "a rule by mark": (
        rt.new_rule(RULE),
        "44000000200005060000000000000000 020000007000000100000000"
        "0800060070000000 08000f0070000000 08000a0000007000 080010000000f000 0500150070000000",
    ),
    "a forwarding entry": (
        rt.new_fdb(7, "02:00:00:00:00:07", "192.0.2.7"),
        "300000001c0005050000000000000000 0700000007000000c0000200"
        "08000100c0000207 0a0002000200000000070000",
    ),
}


@pytest.mark.skipif(sys.byteorder != "little", reason="netlink speaks the host's byte order")
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    packed, golden = GOLDEN[name]
    assert packed.hex() == golden.replace(" ", "")


def only(packed: bytes) -> tuple[nl.Header, bytes]:
    [found] = nl.messages(packed)
    return found


@given(st.integers(1, 0x3FFF), st.binary(max_size=300))
def test_an_attribute_is_read_back_and_padded(kind: int, value: bytes) -> None:
    packed = nl.attribute(kind, value)
    assert len(packed) % 4 == 0
    assert nl.attributes(packed + nl.u8(7, 7)) == {kind: value, 7: b"\7"} or kind == 7


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_failure(garbage: bytes) -> None:
    nl.attributes(garbage)
    for header, payload in nl.messages(garbage):
        assert len(payload) + nl.HEADER_LENGTH <= len(garbage)
        assert header.type >= 0


def test_several_messages_in_one_datagram() -> None:
    packed = nl.message(1, 0, b"abc") + nl.message(2, nl.NLM_F_ACK, b"")
    found = [(header.type, header.flags, payload) for header, payload in nl.messages(packed)]
    assert found == [(1, nl.NLM_F_REQUEST, b"abc"), (2, nl.NLM_F_REQUEST | nl.NLM_F_ACK, b"")]


def answer(code: int, flags: int, rest: bytes) -> nl.NetlinkError | None:
    payload = struct.pack("=i", -code) + rest
    return nl.error(nl.Header(nl.NLMSG_ERROR, flags, 1, 0), payload)


def test_an_acknowledgement_is_no_error() -> None:
    assert answer(0, nl.NLM_F_CAPPED, bytes(16)) is None


def test_an_error_carries_the_kernels_own_words() -> None:
    words = nl.text(nl.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    capped = answer(errno.ENETUNREACH, nl.NLM_F_CAPPED | nl.NLM_F_ACK_TLVS, bytes(16) + words)
    assert str(capped) == "Nexthop has invalid gateway (ENETUNREACH)"
    request = nl.message(1, 0, b"12345")
    whole = answer(errno.ENETUNREACH, nl.NLM_F_ACK_TLVS, request + words)
    assert whole is not None
    assert whole.message == "Nexthop has invalid gateway"
    bare = answer(errno.EEXIST, 0, bytes(16))
    assert bare is not None
    assert (bare.code, bare.message, str(bare)) == (errno.EEXIST, "", "File exists (EEXIST)")


KINDS = st.sampled_from(["unicast", "local", "blackhole", "unreachable"])
CIDRS = st.sampled_from(["0.0.0.0/0", "10.9.0.0/26", "::/0", "fd00::1/128"])


@given(
    st.builds(
        rt.RouteInfo,
        dst=CIDRS,
        kind=KINDS,
        index=st.integers(0, 2**31 - 1),
        via=st.sampled_from(["", "fe80::1"]),
        onlink=st.booleans(),
        table=st.integers(1, 2**32 - 1),
        metric=st.integers(0, 2**32 - 1).filter(lambda metric: metric != 1024),
        mtu=st.integers(0, 65535),
        protocol=st.integers(1, 255),
    )
)
def test_a_route_is_read_back(route: rt.RouteInfo) -> None:
    header, payload = only(rt.new_route(route))
    assert header.type == rt.RTM_NEWROUTE
    assert rt.parse_route(payload) == route


def test_ipv6_metric_1024_is_no_metric() -> None:
    _, payload = only(rt.new_route(rt.RouteInfo("fd00::/64", metric=1024)))
    found = rt.parse_route(payload)
    assert found is not None
    assert found.metric == 0


def test_a_route_we_never_make_is_strange() -> None:
    _, payload = only(rt.new_route(rt.RouteInfo("10.0.0.0/8", index=1)))
    several = rt.parse_route(payload + nl.attribute(rt.RTA_MULTIPATH, b""))
    assert several is not None
    assert several.kind == "other"
    assert rt.parse_route(bytes([28]) + payload[1:]) is None


@given(st.sampled_from(["169.254.1.1/32", "fe80::1/64", "fd00::53/128"]), st.integers(0, 255))
def test_an_address_is_read_back(address: str, protocol: int) -> None:
    _, payload = only(rt.new_address(7, address, protocol))
    found = rt.parse_address(payload)
    assert (found.index, found.address, found.protocol) == (7, address, protocol)


def test_rules_and_neighbours_are_read_back() -> None:
    assert rt.parse_rule(only(rt.new_rule(RULE))[1]) == RULE
    entry = rt.parse_neighbour(only(rt.new_neighbour(7, "fe80::1", "02:00:00:00:00:07"))[1])
    assert entry == rt.NeighbourInfo(10, 7, "fe80::1", "02:00:00:00:00:07", rt.NUD_PERMANENT)
    assert entry.permanent


def test_links_are_read_back() -> None:
    link = wl.parse_link(only(VETH)[1])
    assert (link.name, link.mac, link.mtu, link.group) == ("pl1", "ee:ee:ee:ee:ee:ee", 1450, 112)
    assert link.kind == "veth"
    for local in ("192.0.2.1", "2001:db8::1"):
        made = wl.new_vxlan("vx", mac="02:00:00:00:00:01", mtu=9, vni=5, port=4789, local=local)
        assert wl.parse_link(only(made)[1]).vxlan == wl.VxlanInfo(5, 4789, local, learning=False)


def test_counters_are_found_wherever_they_are() -> None:
    head = only(wl.set_link(7, mtu=1500))[1]
    counted = nl.attribute(wl.IFLA_STATS64, bytes(200)) + nl.attribute(wl.IFLA_STATS, bytes(96))
    tail = nl.u32(wl.IFLA_GROUP, 112)
    begin, end = wl.counters(head + counted + tail)
    assert (begin, end) == (len(head), len(head) + len(counted))
    begin, end = wl.counters(head + tail)
    assert (head + tail)[:begin] + (head + tail)[end:] == head + tail
