from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest

from plait.dns.asks import Ask, Verbatim
from plait.wire import dns as wire

SERVERS = (("9.9.9.9", 53),)


def query(name: str = "example.org", **options: object) -> bytes:
    return dns.message.make_query(name, "A", **options).to_wire()  # type: ignore[arg-type]


def verbatim(data: bytes) -> Verbatim:
    return Verbatim(SERVERS, data, wire.parse_query(data), "10.0.0.1")


def ask(data: bytes) -> Ask:
    return Ask(SERVERS, wire.parse_query(data), "10.0.0.1", 512)


def reply(sent: bytes) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(sent))
    message.flags |= dns.flags.AA
    message.answer.append(dns.rrset.from_text(message.question[0].name, 60, "IN", "A", "192.0.2.1"))
    message.use_edns(0, options=[dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"kept")])
    return message.to_wire()


def test_a_verbatim_message_changes_its_id_alone_both_ways() -> None:
    data = query(use_edns=0, options=[dns.edns.CookieOption(b"12345678", b"")])
    question = verbatim(data)
    sent = question.pack(0x1234)
    assert sent == b"\x12\x34" + data[2:]
    answer = reply(sent)
    response = question.believed(answer, 0x1234)
    assert response is not None
    assert question.render(response, 0) == data[:2] + answer[2:]
    older = dns.message.from_wire(question.render(response, 25))
    assert older.answer[0].ttl == 35
    assert older.options[0].to_wire() == b"kept"


@pytest.mark.parametrize("kind", [verbatim, ask])
def test_what_is_not_the_answer_is_not_believed(kind: type[Ask]) -> None:
    question = kind(query())  # type: ignore[call-arg,arg-type]
    good = reply(question.pack(7))
    assert question.believed(good, 7) is not None
    stranger = reply(kind(query("evil.example")).pack(7))  # type: ignore[call-arg,arg-type]
    for bad in (b"", good[:-1], b"\0\x08" + good[2:], question.pack(7), stranger):
        assert question.believed(bad, 7) is None


def test_what_is_no_query_is_believed_by_its_id() -> None:
    update = b"\xab\xcd\x28\0" + bytes(8)
    question = Verbatim(SERVERS, update, None, "10.0.0.1")
    assert not question.cacheable
    assert question.believed(b"\0\x07\xa8\x05" + bytes(8), 8) is None
    assert question.believed(b"\0\x07\x28\0" + bytes(8), 7) is None
    assert question.believed(b"\0\x07\xa8", 7) is None
    response = question.believed(b"\0\x07\xa8\x05" + bytes(8), 7)
    assert response is not None
    assert (response.rcode, response.ttl) == (wire.REFUSED, 0)
    assert question.render(response, 0) == b"\xab\xcd\xa8\x05" + bytes(8)


def test_only_equal_questions_to_equal_servers_share_an_answer() -> None:
    one, same = query(id=1), query(id=2)
    assert verbatim(one).key == verbatim(same).key
    assert ask(one).key == ask(query("EXAMPLE.org")).key
    others = [query("EXAMPLE.org"), query(use_edns=0), query(flags=0)]
    assert len({verbatim(data).key for data in (one, *others)}) == 4
    assert verbatim(one).key != Verbatim((("1.1.1.1", 53),), one, None, "").key
    assert ask(one).key != ask(query(want_dnssec=True)).key


def test_answers_to_iterative_questions_are_not_kept() -> None:
    assert verbatim(query()).cacheable
    assert not verbatim(query(flags=0)).cacheable


@pytest.mark.parametrize("kind", [verbatim, ask])
def test_failure_is_servfail_to_the_right_question(kind: type[Ask]) -> None:
    data = query(id=99)
    failed = dns.message.from_wire(kind(data).failure())  # type: ignore[call-arg,arg-type]
    assert (failed.id, failed.rcode()) == (99, wire.SERVFAIL)
