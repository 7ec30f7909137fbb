"""nf_tables and nfnetlink codecs: sizes, texts, and answers of any shape."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.wire import ctnetlink, nft, nft_read
from plait.wire import nfnetlink as nl
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft_effects import RejectNoRoute
from plait.wire.nft_rewrite import DnatByMap, NoTrack, Snat, Tproxy

PORTS = nft.Set("ports", (k.PROTO, k.SERVICE), (k.IPV4, k.SERVICE))
POOLS = nft.Set("pools", (k.IPV6,), interval=True)


def answers(changes: list[nft.Change]) -> list[nl.Message]:
    """The requests of changes, as if the kernel had sent them."""
    requests = [request for change in changes for request in change.requests("t")]
    data = b"".join(
        nl.message(nl.SUBSYS_NFTABLES << 8 | kind, flags, i, body, family=family)
        for i, (kind, flags, family, body) in enumerate(requests)
    )
    return list(nl.messages(data))


def test_an_attribute_is_padded_and_its_length_is_not() -> None:
    assert nl.attr(7, b"abcde") == struct.pack("=HH", 9, 7) + b"abcde\0\0\0"
    assert (
        nl.nested(1, nl.u16(2, 0x1234)) == struct.pack("=HHHH", 12, 0x8001, 6, 2) + b"\x12\x34\0\0"
    )


def test_a_batch_has_its_frame_and_one_acknowledgement() -> None:
    framed = list(nl.messages(nl.batch([(0, 0, 1, b""), (3, 0, 1, b"")], 10, 10)))
    assert [m.kind for m in framed] == [nl.BATCH_BEGIN, 0xA00, 0xA03, nl.BATCH_END]
    assert [m.seq for m in framed] == [10, 11, 12, 13]
    assert [bool(m.flags & nl.F_ACK) for m in framed] == [False, False, True, False]


def test_a_refusal_carries_the_kernels_words() -> None:
    request = nl.message(0xA00, 0, 5, b"")
    text = nl.attr(1, b"no such chain\0")
    body = struct.pack("=i", -2) + request[:16] + text
    header = struct.pack("=IHHII", 16 + len(body), nl.NLMSG_ERROR, 0x300, 5, 0)
    (msg,) = nl.messages(header + body)
    assert nl.reply(msg) == nl.Reply(5, 2, "no such chain")


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (e.Match(e.IIFGROUP, e.host32(112)), "iifgroup 112"),
        (e.Match(e.DADDR[6], ipaddress.ip_address("::1").packed, "!="), "ip6 daddr != ::1"),
        (e.InPrefix(e.SADDR[4], "10.0.0.0/8"), "ip saddr 10.0.0.0/8"),
        (e.Masked(e.CT_STATE, 6), "ct state established,related"),
        (e.Masked(e.CT_STATUS, 0x20), "ct status dnat"),
        (e.Masked(e.MARK, 0xF0, 0x70), "meta mark & 0x000000f0 == 0x00000070"),
        (e.InSet((e.IIFNAME, e.SADDR[4]), "s", negate=True), "iifname . ip saddr != @s"),
        (e.Vmap((e.IIFNAME,), "m"), "iifname vmap @m"),
        (DnatByMap(4, (e.L4PROTO, e.DPORT), "m"), "dnat ip to meta l4proto . th dport map @m"),
        (Snat("fd00::1"), "snat ip6 to fd00::1"),
        (NoTrack(), "notrack"),
        (RejectNoRoute(), "reject with icmpx no-route"),
        (Tproxy("169.254.1.1", 53), "tproxy ip to 169.254.1.1:53"),
        (e.goto("c"), "goto c"),
        (e.jump("c"), "jump c"),
        (e.RETURN, "return"),
        (e.Match(e.VXLAN_VNI, b"\0\x70\x6c"), "@th,96,24 28780"),
        (e.Match(e.DADDR_TYPE, e.host32(2)), "fib daddr type local"),
        (e.Match(e.L4PROTO, b"\x99"), "meta l4proto 153"),
    ],
)
def test_statements_print_as_nft_writes_them(statement: e.Statement, text: str) -> None:
    assert statement.text() == text
    assert len(statement.pack()) % 4 == 0


def test_a_concatenation_pads_each_part() -> None:
    key = k.concat(e.byte(6), e.port(80))
    assert key == b"\x06\0\0\0\0\x50\0\0"
    assert PORTS.key_size == 8
    data = k.concat(b"\x0a\0\0\x01", e.port(8080))
    assert PORTS.show(key, data) == "tcp . 80 : 10.0.0.1 . 8080"
    assert PORTS.declaration() == "type inet_proto . inet_service : ipv4_addr . inet_service"


def test_a_rule_is_known_by_its_reason_and_its_digest() -> None:
    one = nft.Rule("why", (e.Counter(), e.DROP))
    other = nft.Rule("why", (e.Counter(), e.ACCEPT))
    assert one.comment.startswith("why #")
    assert one.comment == nft.Rule("why", (e.Counter(), e.DROP)).comment
    assert one.comment != other.comment


def test_objects_read_back_as_they_were_sent() -> None:
    hook = nft.Hook("filter", "input", 1, -300)
    chain = nft.Chain("c", (nft.Rule("r", (e.Counter(), e.goto("d"))),), hook)
    made, rule, declared = answers([nft.AddChain(chain), nft.AddRules(chain), nft.AddSet(PORTS)])
    assert nft_read.chain_info(made) == ("t", nft_read.ChainInfo("c", (1, -300, "filter")))
    table, found = nft_read.rule_info(rule)
    assert (table, found.chain, found.comment) == ("t", "c", chain.rules[0].comment)
    assert nft_read.set_info(declared) == ("t", nft_read.describe(PORTS))


keys = st.tuples(st.sampled_from([6, 17]), st.integers(0, 0xFFFF))


@given(st.dictionaries(keys, st.integers(0, 0xFFFF), max_size=50))
def test_elements_read_back_as_they_were_sent(ports: dict[tuple[int, int], int]) -> None:
    elements = {
        k.concat(e.byte(proto), e.port(port)): k.concat(b"\x0a\0\0\1", e.port(to))
        for (proto, port), to in ports.items()
    }
    change = nft.AddElements(PORTS, tuple(elements.items()))
    assert nft_read.element_map(answers([change]), interval=False) == elements


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ((k.IPV4,), ()),
        ((k.PROTO,), ()),
        ((k.IFNAME, k.IPV6), ()),
        ((k.IPV4,), (k.SERVICE,)),
        ((k.SERVICE,), (k.NUMBER,)),
        (
            (k.IPV6, k.PROTO, k.SERVICE, k.NUMBER),
            (k.IPV6, k.SERVICE),
        ),
    ],
)
def test_elements_of_all_widths(key: tuple[k.Type, ...], value: tuple[k.Type, ...]) -> None:
    held = nft.Set("held", key, value)
    width = nft.Set("values", value).key_size if value else 0
    keys = [bytes((n,)) * held.key_size for n in range(1, 9)]
    elements: dict[bytes, nft.Data] = {
        k: bytes((n + 128,)) * width if width else None for n, k in enumerate(keys)
    }
    for made in (elements, dict.fromkeys(keys)):
        change = nft.DeleteElements(held, tuple(made.items()))
        assert nft_read.element_map(answers([change]), interval=False) == made


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 128)).map(
            lambda x: str(ipaddress.IPv6Network((x[0] << 120, x[1]), strict=False))
        )
    )
)
def test_ranges_read_back_as_they_were_sent(cidrs: list[str]) -> None:
    nets = [ipaddress.IPv6Network(c) for c in cidrs]
    apart = {str(n) for n in nets if not any(o != n and o.supernet_of(n) for o in nets)}
    # As in a verdict map: each range has its own value.
    wanted: dict[bytes, nft.Data] = {k.cidr_range(c): e.goto(f"c-{c}") for c in apart}
    change = nft.AddElements(POOLS, tuple(wanted.items()))
    assert nft_read.element_map(answers([change]), interval=True) == wanted


def test_many_elements_are_split_into_messages_that_fit() -> None:
    elements = tuple((k.concat(e.byte(6), e.port(i)), bytes(8)) for i in range(5000))
    sent = answers([nft.AddElements(PORTS, elements)])
    assert len(sent) > 1
    assert all(len(m.body) <= nl.MAX_ATTR for m in sent)
    assert len(nft_read.element_map(sent, interval=False)) == 5000


@given(st.binary(max_size=200))
def test_no_answer_makes_the_framing_fail(data: bytes) -> None:
    for msg in nl.messages(data):
        list(nl.each(msg.body))


def test_only_our_table_is_ours() -> None:
    ours, other = answers([nft.AddTable(), nft.DeleteSet("plait")])
    assert nft_read.names_table(ours, "t")
    assert nft_read.names_table(other, "t")
    assert not nft_read.names_table(ours, "plait")
    assert not nft_read.names_table(ours._replace(family=2), "t")
    assert not nft_read.names_table(ours._replace(kind=1 << 8), "t")


def test_a_flow_of_another_family_is_none() -> None:
    msg = nl.Message(ctnetlink.CT_NEW, 0, 0, 0, 7, memoryview(b""))
    assert ctnetlink.flow(msg) is None
