"""SCTP's handshake, as far as a probe needs it: INIT, INIT ACK and ABORT (RFC 9260).

Kernels without SCTP still carry its packets, so a probe over a raw socket shows what a rule does
to them. No IO.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

PROTOCOL: Final = 132
"""IP protocol number (IANA)."""
INIT: Final = 1
INIT_ACK: Final = 2
ABORT: Final = 6


class Packet(NamedTuple):
    """The parts of a packet that a probe looks at."""

    source: int
    destination: int
    tag: int
    """Verification tag of the common header."""
    chunk: int
    """Type of the first chunk."""
    initiate_tag: int
    """Of INIT and INIT ACK; 0 otherwise."""


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C: Final = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of the data (RFC 9260 appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _packet(source: int, destination: int, tag: int, chunk: bytes) -> bytes:
    head = struct.pack("!HHI", source, destination, tag)
    # The checksum counts itself as zero and is sent least significant byte first.
    checksum = struct.pack("<I", crc32c(head + bytes(4) + chunk))
    return head + checksum + chunk


def _init(kind: int, initiate_tag: int) -> bytes:
    # Receiver window, outbound and inbound streams, initial TSN; an INIT ACK of a real stack
    # carries a state cookie, which nobody here will echo.
    body = struct.pack("!IIHHI", initiate_tag, 65536, 1, 1, 1)
    if kind == INIT_ACK:
        body += struct.pack("!HH4s", 7, 8, b"none")
    return struct.pack("!BBH", kind, 0, 4 + len(body)) + body


def init(source: int, destination: int, initiate_tag: int) -> bytes:
    """An INIT packet; its verification tag is 0."""
    return _packet(source, destination, 0, _init(INIT, initiate_tag))


def init_ack(request: Packet, initiate_tag: int) -> bytes:
    """The answer of a listening port."""
    return _packet(
        request.destination, request.source, request.initiate_tag, _init(INIT_ACK, initiate_tag)
    )


def abort(request: Packet) -> bytes:
    """The answer of a closed port."""
    return _packet(
        request.destination,
        request.source,
        request.initiate_tag,
        struct.pack("!BBH", ABORT, 0, 4),
    )


def parse(data: bytes) -> Packet | None:
    """The packet without its IP header, or None if it is not one that we understand."""
    if len(data) < 16:
        return None
    source, destination, tag = struct.unpack_from("!HHI", data)
    if struct.pack("<I", crc32c(data[:8] + bytes(4) + data[12:])) != data[8:12]:
        return None
    kind, length = data[12], struct.unpack_from("!H", data, 14)[0]
    if kind not in (INIT, INIT_ACK, ABORT) or length < 4:
        return None
    if kind == ABORT:
        return Packet(source, destination, tag, kind, 0)
    if length < 20 or len(data) < 32:
        return None
    return Packet(source, destination, tag, kind, struct.unpack_from("!I", data, 16)[0])
