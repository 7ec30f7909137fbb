"""Headers of logged packets: both families, extension headers, fragments, and what is cut off."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.wire.nflog import Transport, headers

SRC4, DST4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
SRC6, DST6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"
PORTS = struct.pack(">HH", 40000, 443)


def ipv4(protocol: int, payload: bytes, *, options: bytes = b"", offset: int = 0) -> bytes:
    head = 20 + len(options)
    return (
        struct.pack(
            ">BBHHHBBH", 0x40 | head // 4, 0, head + len(payload), 0, offset, 64, protocol, 0
        )
        + SRC4
        + DST4
        + options
        + payload
    )


def ipv6(following: int, payload: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + SRC6 + DST6 + payload


def extension(following: int, eights: int = 0) -> bytes:
    return bytes((following, eights)) + bytes(6 + 8 * eights)


@pytest.mark.parametrize("protocol", [6, 17, 132])
def test_ports(protocol: int) -> None:
    assert headers(ipv4(protocol, PORTS + bytes(16))) == Transport(protocol, SRC4, DST4, 40000, 443)
    assert headers(ipv6(protocol, PORTS)) == Transport(protocol, SRC6, DST6, 40000, 443)


def test_icmp_gives_type_and_code() -> None:
    assert headers(ipv4(1, b"\x03\x0d" + bytes(6))) == Transport(1, SRC4, DST4, 3, 13)
    assert headers(ipv6(58, b"\x80\x00" + bytes(6))) == Transport(58, SRC6, DST6, 128, 0)


def test_ipv4_options_are_skipped() -> None:
    assert headers(ipv4(6, PORTS, options=bytes(8)))[3:] == (40000, 443)


@pytest.mark.parametrize(
    "chain",
    [
        extension(6),
        extension(60) + extension(43, 2) + extension(6, 1),
        extension(51) + bytes((6, 4)) + bytes(22),
        extension(44) + bytes((6, 0, 0, 1)) + bytes(4),
    ],
    ids=["one", "several", "authentication", "first-fragment"],
)
def test_ipv6_extension_headers_are_skipped(chain: bytes) -> None:
    assert headers(ipv6(0, chain + PORTS)) == Transport(6, SRC6, DST6, 40000, 443)


def test_a_later_fragment_has_no_ports() -> None:
    assert headers(ipv4(17, PORTS, offset=185)) == Transport(17, SRC4, DST4)
    later = bytes((17, 0)) + struct.pack(">HI", 1480, 7)
    assert headers(ipv6(44, later + PORTS)) == Transport(17, SRC6, DST6)


def test_another_protocol_has_no_ports() -> None:
    assert headers(ipv4(47, bytes(8))) == Transport(47, SRC4, DST4)


@pytest.mark.parametrize("whole", [ipv4(6, PORTS), ipv6(0, extension(6) + PORTS)])
def test_what_is_cut_off_is_missing_and_no_error(whole: bytes) -> None:
    for length in range(len(whole)):
        assert headers(whole[:length])[3:] == (0, 0)


@given(st.binary(max_size=120))
def test_any_bytes_have_some_meaning(data: bytes) -> None:
    found = headers(data)
    assert len(found.src) == len(found.dst)
    assert 0 <= found.sport < 1 << 16
    assert 0 <= found.dport < 1 << 16
