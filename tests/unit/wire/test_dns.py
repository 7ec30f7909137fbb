"""The codec against dnspython, an implementation of others."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from plait.wire import dns as wire

SOA = wire.soa_record(b"", b"\x02ns\0", b"\x0ahostmaster\0", 7, 1, minimum=1)


def addresses(count: int, ttl: int = 1) -> list[bytes]:
    return [wire.address_record(bytes((10, 0, i >> 8, i & 255)), ttl) for i in range(count)]


def test_a_query_is_read_with_its_letters_kept_and_lowered() -> None:
    query = wire.parse_query(dns.message.make_query("wEb.Default.plait.local", "AAAA").to_wire())
    assert query.labels == (b"web", b"default", b"plait", b"local")
    assert query.question.startswith(b"\x03wEb\x07Default")
    assert query.key == query.question.lower()
    assert (query.qtype, query.qclass, query.edns) == (wire.AAAA, wire.IN, None)
    assert query.udp_limit == 512


@pytest.mark.parametrize(("offered", "limit"), [(100, 512), (512, 512), (900, 900), (4096, 1232)])
def test_edns_offers_a_size_that_is_bounded_both_ways(offered: int, limit: int) -> None:
    message = dns.message.make_query("web", "A", use_edns=0, payload=offered, want_dnssec=True)
    query = wire.parse_query(message.to_wire())
    assert query.edns is not None
    assert query.edns.do
    assert query.udp_limit == limit


def _edns_of_version_1() -> bytes:
    return dns.message.make_query("web", "A", use_edns=1).to_wire()


def _two_questions() -> bytes:
    data = bytearray(dns.message.make_query("web", "A").to_wire())
    data[5] = 2
    return bytes(data)


PLAIN = dns.message.make_query("web", "A").to_wire()


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None),
        (PLAIN[:11], None),
        (PLAIN[:2] + b"\x81" + PLAIN[3:], None),
        (PLAIN[:2] + b"\x29" + PLAIN[3:], wire.NOTIMP),
        (_two_questions(), wire.FORMERR),
        (PLAIN[:-1], wire.FORMERR),
        (PLAIN + b"x", wire.FORMERR),
        (PLAIN[:12] + b"\xc0\x0c\0\1\0\1", wire.FORMERR),
        (PLAIN[:12] + b"\x3f" + b"a" * 63, wire.FORMERR),
        (PLAIN[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", wire.FORMERR),
        (PLAIN[:11] + b"\1" + PLAIN[12:], wire.FORMERR),
        (PLAIN[:11] + b"\2" + PLAIN[12:] + wire.opt_record() * 2, wire.FORMERR),
        (PLAIN[:11] + b"\1" + PLAIN[12:] + b"\1a" + wire.opt_record(), wire.FORMERR),
        (_edns_of_version_1(), wire.BADVERS),
    ],
)
def test_what_is_no_proper_query_says_what_to_answer(data: bytes, rcode: int | None) -> None:
    with pytest.raises(wire.WireError) as error:
        wire.parse_query(data)
    assert error.value.rcode == rcode
    if rcode is not None:
        reply = dns.message.from_wire(wire.error_reply(data, rcode))
        assert reply.rcode() == rcode
        assert reply.id == dns.message.from_wire(PLAIN).id or data != PLAIN


def test_an_answer_holds_what_dnspython_reads_back() -> None:
    message = dns.message.make_query("Web.default.plait.local", "A", use_edns=0, want_dnssec=True)
    query = wire.parse_query(message.to_wire())
    data = wire.Answer(wire.NOERROR, [addresses(2)]).reply_to(query, 1232)
    reply = dns.message.from_wire(data)
    assert message.is_response(reply)
    assert [r.to_text() for r in reply.answer[0]] == ["10.0.0.0", "10.0.0.1"]
    assert reply.answer[0].ttl == 1
    assert reply.answer[0].name == dns.name.from_text("Web.default.plait.local")
    flags = dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert (reply.flags, reply.edns, reply.payload) == (flags, 0, 1232)
    assert reply.ednsflags & dns.flags.DO


def test_ptr_soa_and_errors_explained() -> None:
    query = wire.parse_query(dns.message.make_query("1.0.0.10.in-addr.arpa", "PTR").to_wire())
    target = wire.encode_name((b"web", b"default", b"plait", b"local"))
    pointer = wire.Answer(wire.NOERROR, [[wire.record(wire.Data(wire.PTR, target), 1)]]).reply_to(
        query, 512
    )
    assert dns.message.from_wire(pointer).answer[0][0].to_text() == "web.default.plait.local."

    negative = dns.message.from_wire(wire.Answer(wire.NXDOMAIN, authority=SOA).reply_to(query, 512))
    assert negative.rcode() == dns.rcode.NXDOMAIN
    assert negative.authority[0][0].to_text() == "ns. hostmaster. 7 3600 600 86400 1"
    assert negative.authority[0].name == negative.question[0].name

    query = wire.parse_query(dns.message.make_query("x", "A", use_edns=0).to_wire())
    option = wire.extended_error(wire.EDE_PROHIBITED, "not yours")
    refusal = wire.Answer(wire.REFUSED, authoritative=False, options=option).reply_to(query, 512)
    explained = dns.message.from_wire(refusal).options[0]
    assert isinstance(explained, dns.edns.EDEOption)
    assert (explained.code, explained.text) == (18, "not yours")


def test_rotations_take_turns() -> None:
    query = wire.parse_query(PLAIN)
    one, two = addresses(2)
    answer = wire.Answer(wire.NOERROR, [[one, two], [two, one]])
    first = [
        dns.message.from_wire(answer.reply_to(query, 512)).answer[0][0].to_text() for _ in range(4)
    ]
    assert first == ["10.0.0.0", "10.0.0.1", "10.0.0.0", "10.0.0.1"]


@pytest.mark.parametrize("limit", [512, 700, 1232])
def test_a_long_answer_is_cut_at_a_record_and_says_so(limit: int) -> None:
    query = wire.parse_query(dns.message.make_query("web", "A", use_edns=0).to_wire())
    answer = wire.Answer(wire.NOERROR, [addresses(200)], authority=SOA)
    data = answer.reply_to(query, limit)
    reply = dns.message.from_wire(data)
    assert limit - 16 < len(data) <= limit
    assert reply.flags & dns.flags.TC
    assert 0 < len(reply.answer[0]) < 200
    assert not reply.authority
    assert reply.edns == 0
    whole = dns.message.from_wire(answer.reply_to(query, 65535))
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 200


@pytest.mark.parametrize("edns", [None, 0])
@pytest.mark.parametrize("rd", [True, False])
def test_the_quick_reply_equals_the_careful_one(edns: int | None, rd: bool) -> None:
    for count in (0, 3, 60):
        for dnssec in (False, True):
            message = dns.message.make_query("WEB.x", "A", use_edns=edns if not dnssec else 0)
            message.want_dnssec(dnssec and edns is not None)
            if not rd:
                message.flags &= ~dns.flags.RD
            data = message.to_wire()
            query = wire.parse_query(data)
            answer = wire.Answer(wire.NOERROR, [addresses(count)] if count else ())
            end = wire.question_end(data)
            assert data[12:end] == query.question
            careful = answer.reply_to(query, query.udp_limit)
            # What desires no recursion is no stub's question, and is looked at closely.
            assert wire.quick_reply(data, end, answer) == (careful if rd else None)


@pytest.mark.parametrize(
    "data",
    [
        _two_questions(),
        _edns_of_version_1(),
        PLAIN + b"x",
        PLAIN[:2] + b"\x29" + PLAIN[3:],
        PLAIN[:11] + b"\1" + PLAIN[12:] + wire.opt_record()[:-1] + b"\5",
    ],
)
def test_the_quick_reply_leaves_what_is_odd_to_the_parser(data: bytes) -> None:
    answer = wire.Answer(wire.NOERROR, [addresses(1)])
    assert wire.quick_reply(data, wire.question_end(data), answer) is None


def _upstream_reply(query: wire.Query, *, edns: bool = True) -> dns.message.Message:
    message = dns.message.from_wire(wire.upstream_query(query, 99))
    reply = dns.message.make_response(message)
    if not edns:
        reply.use_edns(False)
    return reply


def test_an_upstream_answer_is_relayed_older_and_with_the_clients_letters() -> None:
    client = dns.message.make_query("eXample.ORG", "A", use_edns=0)
    query = wire.parse_query(client.to_wire())
    reply = _upstream_reply(query)
    reply.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "CNAME", "www.example.org."))
    reply.answer.append(dns.rrset.from_text("www.example.org.", 30, "IN", "A", "192.0.2.1"))
    response = wire.parse_response(reply.to_wire())
    assert (response.id, response.rcode, response.ttl, response.key) == (99, 0, 30, query.key)

    relayed = dns.message.from_wire(wire.relay(response, query, age=20, limit=1232))
    assert client.is_response(relayed)
    assert [r.ttl for r in relayed.answer] == [40, 10]
    assert str(relayed.question[0].name) == "eXample.ORG."
    assert relayed.edns == 0

    plain = wire.parse_query(dns.message.make_query("example.org", "A").to_wire())
    assert dns.message.from_wire(wire.relay(response, plain, age=0, limit=512)).edns == -1
    cut = dns.message.from_wire(wire.relay(response, query, age=0, limit=60))
    assert cut.flags & dns.flags.TC
    assert not cut.answer


def test_negative_answers_live_as_long_as_the_soa_says() -> None:
    query = wire.parse_query(dns.message.make_query("nope.example.org", "A").to_wire())
    reply = _upstream_reply(query)
    reply.set_rcode(dns.rcode.NXDOMAIN)
    assert wire.parse_response(reply.to_wire()).ttl == 0
    soa = "ns.example.org. h.example.org. 1 2 3 4 15"
    reply.authority.append(dns.rrset.from_text("example.org.", 600, "IN", "SOA", soa))
    assert wire.parse_response(reply.to_wire()).ttl == 15
    reply.set_rcode(dns.rcode.SERVFAIL)
    assert wire.parse_response(reply.to_wire()).ttl == 0


def test_records_behind_the_opt_record_are_cut_with_it() -> None:
    query = wire.parse_query(dns.message.make_query("a.example", "A").to_wire())
    reply = _upstream_reply(query, edns=False)
    reply.answer.append(dns.rrset.from_text("a.example.", 5, "IN", "A", "192.0.2.1"))
    data = bytearray(reply.to_wire())
    data[11] = 2
    response = wire.parse_response(bytes(data) + wire.opt_record() + addresses(1)[0])
    relayed = dns.message.from_wire(wire.relay(response, query, age=0, limit=512))
    assert len(relayed.answer) == 1
    assert not relayed.additional


@pytest.mark.parametrize("labels", [(b"",), (b"a" * 64,), (b"a" * 63,) * 4])
def test_names_have_limits(labels: tuple[bytes, ...]) -> None:
    with pytest.raises(wire.WireError):
        wire.encode_name(labels)


def test_numbers_of_the_types_are_those_of_iana() -> None:
    for name in ("A", "NS", "SOA", "PTR", "AAAA", "OPT", "ANY"):
        assert getattr(wire, name) == dns.rdatatype.from_text(name)
