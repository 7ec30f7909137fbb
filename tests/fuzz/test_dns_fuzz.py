"""Any bytes: a value or a WireError, never anything else, and quick agrees with careful."""

from __future__ import annotations

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.wire import dns as wire

QUERY = dns.message.make_query("web.default.plait.local", "A", use_edns=0).to_wire()


def _reply() -> bytes:
    text = """id 7
opcode QUERY
rcode NOERROR
flags QR RD RA
edns 0
;QUESTION
example.org. IN A
;ANSWER
example.org. 60 IN CNAME www.example.org.
www.example.org. 30 IN A 192.0.2.1
;AUTHORITY
example.org. 600 IN SOA ns.example.org. h.example.org. 1 2 3 4 15
"""
    return dns.message.from_text(text).to_wire()


@st.composite
def mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good message with some bytes changed, cut or doubled."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    start = draw(st.integers(0, len(data)))
    extra = draw(st.binary(max_size=20))
    return bytes(data[:start] + extra + data[start + draw(st.integers(0, 10)) :])


ANSWER = wire.Answer(wire.NOERROR, [[wire.address_record(b"\x0a\0\0\1", 1)]])


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=600), mangled(QUERY)))
def test_queries(data: bytes) -> None:
    query: wire.Query | None = None
    told: int | None = None
    try:
        query = wire.parse_query(data)
    except wire.WireError as error:
        told = error.rcode
    if told is not None:
        assert wire.error_reply(data, told)[:2] == data[:2]
    if query is not None:
        dns.message.from_wire(ANSWER.reply_to(query, query.udp_limit))
    if len(data) >= wire.HEADER_SIZE:
        end = wire.question_end(data)
        known = query is not None and data[12:end].lower() == query.key
        quick = wire.quick_reply(data, end, ANSWER)
        if known and quick is not None:
            assert query is not None
            assert quick == ANSWER.reply_to(query, query.udp_limit)


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=600), mangled(_reply())), st.integers(0, 100_000))
def test_answers_of_upstreams(data: bytes, age: int) -> None:
    query = wire.parse_query(dns.message.make_query("example.org", "A", use_edns=0).to_wire())
    try:
        response = wire.parse_response(data)
    except wire.WireError:
        return
    if response.key == query.key:
        relayed = wire.relay(response, query, age=age, limit=1232)
        assert len(relayed) <= 1232
        assert relayed[:2] == query.id.to_bytes(2, "big")
        again = wire.parse_response(relayed)
        assert again.key == query.key


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=600), mangled(_reply())), st.integers(0, 100_000))
def test_answers_that_are_passed_on_whole(data: bytes, age: int) -> None:
    wire.opaque_response(data)
    try:
        response = wire.parse_response(data, whole=True)
    except wire.WireError:
        return
    passed = wire.readdress(response, b"id", age=age)
    assert len(passed) == len(data)
    assert passed[:2] == b"id"
    assert wire.parse_response(passed, whole=True).key == response.key
