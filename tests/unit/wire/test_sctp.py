"""SCTP's handshake packets, against published values and against themselves."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from plait.wire import sctp

ports = st.integers(1, 65535)
tags = st.integers(1, 2**32 - 1)


def test_crc32c_known_vectors() -> None:
    # RFC 3720 B.4 and the check value of the CRC catalogue.
    assert sctp.crc32c(b"123456789") == 0xE3069283
    assert sctp.crc32c(bytes(32)) == 0x8A9136AA
    assert sctp.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert sctp.crc32c(bytes(range(32))) == 0x46DD794E


def test_an_init_as_rfc_9260_lays_it_out() -> None:
    packet = sctp.init(40000, 80, 0x01020304)
    source, destination, tag = struct.unpack_from("!HHI", packet)
    kind, flags, length, initiate = struct.unpack_from("!BBHI", packet, 12)
    assert (source, destination, tag) == (40000, 80, 0)
    assert (kind, flags, length, initiate) == (1, 0, 20, 0x01020304)
    assert len(packet) == 12 + 20


@given(ports, ports, tags, tags)
def test_handshake(source: int, destination: int, ours: int, theirs: int) -> None:
    request = sctp.parse(sctp.init(source, destination, ours))
    assert request == sctp.Packet(source, destination, 0, sctp.INIT, ours)
    answer = sctp.parse(sctp.init_ack(request, theirs))
    assert answer == sctp.Packet(destination, source, ours, sctp.INIT_ACK, theirs)
    refusal = sctp.parse(sctp.abort(request))
    assert refusal == sctp.Packet(destination, source, ours, sctp.ABORT, 0)


@given(st.binary(max_size=80))
def test_junk_is_no_packet(data: bytes) -> None:
    assert sctp.parse(data) is None


@given(tags, st.data())
def test_a_flipped_bit_is_noticed(tag: int, data: st.DataObject) -> None:
    packet = bytearray(sctp.init(1, 2, tag))
    bit = data.draw(st.integers(0, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8
    assert sctp.parse(bytes(packet)) is None


def test_a_cut_packet_is_no_packet() -> None:
    packet = sctp.init(1, 2, 3)
    assert all(sctp.parse(packet[:size]) is None for size in range(len(packet)))
