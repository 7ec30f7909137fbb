"""Netlink framing: message headers, attributes, acknowledgements (linux/netlink.h).

Sans-IO. A message is built whole, with sequence number 0; the socket door numbers it. Netlink
speaks the host's byte order, and every message and attribute is padded to four bytes.
"""

from __future__ import annotations

import errno as errnos
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_CAPPED: Final = 0x100
NLM_F_ACK_TLVS: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

NLMSG_ERROR: Final = 0x2
NLMSG_DONE: Final = 0x3
NLMSG_OVERRUN: Final = 0x4
NLMSGERR_ATTR_MSG: Final = 1
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF

HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port id."""
HEADER_LENGTH: Final = HEADER.size
SEQUENCE_OFFSET: Final = 8
ATTRIBUTE: Final = struct.Struct("=HH")
"""struct nlattr: length with header, type."""
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_S32: Final = struct.Struct("=i")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class Header(NamedTuple):
    """struct nlmsghdr without its length."""

    type: int
    flags: int
    sequence: int
    port: int


class NetlinkError(OSError):
    """A request that the kernel refused: its errno and, where given, its own words (extack)."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(code, message or os.strerror(code))
        self.message = message
        """The kernel's extended acknowledgement; empty when it gave none."""

    @property
    def code(self) -> int:
        """The errno, positive."""
        return int(self.errno or 0)

    def __str__(self) -> str:
        name = errnos.errorcode.get(self.code, str(self.code))
        return f"{self.strerror} ({name})"


def message(kind: int, flags: int, payload: bytes) -> bytes:
    """A request of the given type; NLM_F_REQUEST is implied, the sequence number is 0."""
    length = HEADER_LENGTH + len(payload)
    header = HEADER.pack(length, kind, flags | NLM_F_REQUEST, 0, 0)
    return header + payload + _PADDING[length & 3]


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute (struct nlattr), padded; the padding is not counted in its length."""
    length = 4 + len(value)
    return ATTRIBUTE.pack(length, kind) + value + _PADDING[length & 3]


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attribute(kind, bytes((value,)))


def u16(kind: int, value: int) -> bytes:
    """An attribute of two bytes, host order."""
    return attribute(kind, _U16.pack(value))


def u16_network(kind: int, value: int) -> bytes:
    """An attribute of two bytes, network order (ports)."""
    return attribute(kind, value.to_bytes(2, "big"))


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes, host order."""
    return attribute(kind, _U32.pack(value))


def s32(kind: int, value: int) -> bytes:
    """An attribute of four bytes, host order, signed (descriptors)."""
    return attribute(kind, _S32.pack(value))


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def nest(kind: int, value: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, value)


def messages(buffer: bytes) -> Iterator[tuple[Header, bytes]]:
    """Header and payload of each message of a datagram. A malformed rest is ignored: the kernel
    is the only sender, and a datagram cut short is noticed by its receiver (MSG_TRUNC)."""
    offset, end = 0, len(buffer)
    while offset + HEADER_LENGTH <= end:
        length, kind, flags, sequence, port = HEADER.unpack_from(buffer, offset)
        if length < HEADER_LENGTH or offset + length > end:
            return
        header = Header(kind, flags, sequence, port)
        yield header, buffer[offset + HEADER_LENGTH : offset + length]
        offset += (length + 3) & ~3


def attributes(buffer: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes from `offset` on, by type without flags; the last of a type wins."""
    found: dict[int, bytes] = {}
    end = len(buffer)
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(buffer, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & NLA_TYPE_MASK] = buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def get_u8(value: bytes | None) -> int:
    """Value of a one-byte attribute; 0 when absent."""
    return value[0] if value else 0


def get_u16(value: bytes | None) -> int:
    """Value of a two-byte attribute, host order; 0 when absent."""
    return int(_U16.unpack_from(value)[0]) if value and len(value) >= 2 else 0


def get_u32(value: bytes | None) -> int:
    """Value of a four-byte attribute; 0 when absent."""
    return int(_U32.unpack_from(value)[0]) if value and len(value) >= 4 else 0


def get_s32(value: bytes | None) -> int:
    """Value of a signed four-byte attribute; 0 when absent."""
    return int(_S32.unpack_from(value)[0]) if value and len(value) >= 4 else 0


def get_text(value: bytes | None) -> str:
    """Value of a string attribute; empty when absent."""
    return value.rstrip(b"\0").decode(errors="replace") if value else ""


def error(header: Header, payload: bytes) -> NetlinkError | None:
    """What an NLMSG_ERROR says: None for an acknowledgement.

    The payload is a negative errno, then the request (its header only when NLM_F_CAPPED), then
    with NLM_F_ACK_TLVS the attributes of the extended acknowledgement.
    """
    code = -_S32.unpack_from(payload)[0]
    if code == 0:
        return None
    words = ""
    if header.flags & NLM_F_ACK_TLVS:
        request = HEADER_LENGTH
        if not header.flags & NLM_F_CAPPED:
            request = (_U32.unpack_from(payload, 4)[0] + 3) & ~3
        words = get_text(attributes(payload, 4 + request).get(NLMSGERR_ATTR_MSG))
    return NetlinkError(code, words)
