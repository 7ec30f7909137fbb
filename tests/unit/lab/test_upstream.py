"""The lab's upstream resolver, asked and understood by our own resolver's codec."""

import pytest

from plait.lab import upstream
from plait.wire import dns


def ask(name: str, qtype: int) -> dns.Response:
    question = dns.encode_name([label.encode() for label in name.split(".")])
    header = bytes.fromhex("1234 0100 0001 0000 0000 0000")
    reply = upstream.reply(header + question + qtype.to_bytes(2, "big") + b"\0\1")
    assert reply is not None
    return dns.parse_response(reply)


@pytest.mark.parametrize(("qtype", "answers"), [(dns.A, 1), (dns.AAAA, 1), (dns.PTR, 0)])
def test_the_one_name(qtype: int, answers: int) -> None:
    response = ask("outside.lab.test", qtype)
    assert response.rcode == dns.NOERROR
    assert int.from_bytes(response.message[6:8], "big") == answers


def test_any_other_name_does_not_exist_and_the_question_comes_back() -> None:
    response = ask("b2", dns.A)
    assert response.rcode == dns.NXDOMAIN
    assert response.message[4:6] == b"\0\1"


def test_junk_gets_no_answer() -> None:
    assert upstream.reply(b"x") is None
