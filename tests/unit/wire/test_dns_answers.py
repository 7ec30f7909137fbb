"""Addresses out of answers: aliases, both families, compression, and messages that lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.wire.dns_answers import Answered, answered

A, NS, CNAME, AAAA = 1, 2, 5, 28
V4, V6 = b"\xc0\x00\x02\x07", bytes.fromhex("20010db8000000000000000000000007")


def name(text: str) -> bytes:
    return b"".join(bytes((len(p),)) + p.encode() for p in text.split(".") if p) + b"\0"


def record(owner: bytes, kind: int, data: bytes, *, ttl: int = 60, rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, rclass, ttl, len(data)) + data


def message(question: str, *records: bytes, kind: int = A, questions: int = 1) -> bytes:
    head = struct.pack("!6H", 7, 0x8180, questions, len(records), 0, 0)
    return head + name(question) + struct.pack("!HH", kind, 1) + b"".join(records)


def labels(text: str) -> tuple[bytes, ...]:
    return tuple(part.encode() for part in text.split("."))


HERE = b"\xc0\x0c"
"""Pointer to the question's name."""


def test_addresses_of_both_families_with_their_times() -> None:
    found = answered(
        message("Example.COM", record(HERE, A, V4, ttl=5), record(HERE, AAAA, V6, ttl=0x8000_0000))
    )
    assert found == Answered((labels("example.com"),), (("192.0.2.7", 5), ("2001:db8::7", 0)))


def test_aliases_are_followed_in_whatever_order_they_come() -> None:
    found = answered(
        message(
            "www.example.com",
            record(name("edge.cdn.net"), A, V4, ttl=9),
            record(name("x.cdn.net"), CNAME, name("edge.cdn.net")),
            record(HERE, CNAME, name("X.cdn.net")),
            record(name("stray.net"), A, b"\x01\x02\x03\x04"),
        )
    )
    assert found == Answered(
        (labels("www.example.com"), labels("x.cdn.net"), labels("edge.cdn.net")),
        (("192.0.2.7", 9),),
    )


def test_a_pointer_into_an_earlier_name_is_followed() -> None:
    # "w" and a pointer to "example.com" inside the question's name.
    target = b"\x01w\xc0\x10"
    found = answered(message("www.example.com", record(HERE, CNAME, target), record(target, A, V4)))
    assert found is not None
    assert found.names[1] == labels("w.example.com")
    assert found.addresses == (("192.0.2.7", 60),)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(12),
        message("a.b"),
        message("a.b", record(HERE, NS, name("ns.a.b"))),
        message("a.b", record(name("c.d"), A, V4)),
        message("a.b", record(HERE, A, V4[:3])),
        message("a.b", record(HERE, A, V4, rclass=3)),
        message("a.b", record(HERE, A, V4), questions=2),
        message("a.b", record(b"\xc0\xff", A, V4)),
        message("a.b", record(b"\xc0\x15", A, V4)),
        message("a.b", record(HERE, CNAME, HERE)),
        message("a.b", record(b"\x40", A, V4)),
    ],
)
def test_what_gives_no_address_opens_nothing(data: bytes) -> None:
    assert answered(data) is None


def test_a_ring_or_a_long_row_of_aliases_ends() -> None:
    ring = [record(name("a"), CNAME, name("b")), record(name("b"), CNAME, name("a"))]
    assert answered(message("a", *ring, record(name("c"), A, V4))) is None
    row = [record(name(f"n{i}"), CNAME, name(f"n{i + 1}")) for i in range(40)]
    assert answered(message("n0", *row, record(name("n40"), A, V4))) is None


def test_what_was_read_before_a_cut_stands() -> None:
    whole = message("a.b", record(HERE, A, V4), record(HERE, A, b"\x01\x02\x03\x04"))
    found = answered(whole[:-3])
    assert found is not None
    assert found.addresses == (("192.0.2.7", 60),)


@given(st.binary(max_size=200))
def test_any_bytes_end(data: bytes) -> None:
    answered(data)
    answered(message("a.b", record(HERE, A, V4), data))


@pytest.mark.parametrize("flags", [0x01, 0xA0, 0xA8])
def test_what_is_no_answer_to_a_query_says_nothing(flags: int) -> None:
    """A query; the responses to a NOTIFY and an UPDATE, in which a server may repeat what the
    client said."""
    said = bytearray(message("www.example.com", record(HERE, A, V4)))
    assert answered(bytes(said)) is not None
    said[2] = flags
    assert answered(bytes(said)) is None
