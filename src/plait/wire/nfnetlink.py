"""nfnetlink framing: attributes, messages, batches and replies (linux/netfilter/nfnetlink.h).

Integers in netfilter attributes are big-endian; headers are in host order. nf_tables and
ctnetlink both speak it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

NETLINK_NETFILTER: Final = 12
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

F_REQUEST: Final = 0x001
F_ACK: Final = 0x004
F_DUMP_INTR: Final = 0x010
"""Set by the kernel when what is dumped changed meanwhile: the dump must be repeated."""
F_DUMP: Final = 0x300
F_EXCL: Final = 0x200
F_CREATE: Final = 0x400
F_APPEND: Final = 0x800

SUBSYS_CTNETLINK: Final = 1
SUBSYS_NFTABLES: Final = 10
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11

_HEADER: Final = struct.Struct("=IHHII")
_GENERIC: Final = struct.Struct(">BBH")
_ATTR: Final = struct.Struct("=HH")
_ERRNO: Final = struct.Struct("=i")
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_CAPPED: Final = 0x100
_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1

MAX_ATTR: Final = 0xFFFF
"""Bytes of the longest attribute, header included."""


Request = tuple[int, int, int, bytes]
"""(message type, flags, family, attributes) of one message of a batch."""


class Message(NamedTuple):
    """One netlink message as received."""

    kind: int
    """Subsystem << 8 | message type, or an NLMSG_* control type."""
    flags: int
    seq: int
    port: int
    """Of the sender; in a notification, of the process that made the change."""
    family: int
    body: memoryview
    """Attributes, or what follows the header of a control message."""


class Reply(NamedTuple):
    """An acknowledgement (`errno` 0) or a refusal."""

    seq: int
    errno: int
    text: str
    """The kernel's extended text, often empty."""


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(payload)
    return _ATTR.pack(length, kind) + payload + bytes(-length & 3)


def nested(kind: int, *attrs: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | _NESTED, b"".join(attrs))


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attr(kind, value.to_bytes(1, "big"))


def u16(kind: int, value: int) -> bytes:
    """A big-endian 16-bit attribute."""
    return attr(kind, value.to_bytes(2, "big"))


def u32(kind: int, value: int) -> bytes:
    """A big-endian 32-bit attribute."""
    return attr(kind, value.to_bytes(4, "big"))


def s32(kind: int, value: int) -> bytes:
    """A big-endian signed 32-bit attribute (hook priorities)."""
    return attr(kind, value.to_bytes(4, "big", signed=True))


def string(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attr(kind, value.encode() + b"\0")


def message(
    kind: int, flags: int, seq: int, body: bytes, *, family: int = 0, res: int = 0
) -> bytes:
    """A request. `res` is nfgenmsg.res_id: the subsystem in a batch's first and last message."""
    length = 20 + len(body)
    return (
        _HEADER.pack(length, kind, flags | F_REQUEST, seq, 0) + _GENERIC.pack(family, 0, res) + body
    )


def batch(requests: Sequence[Request], seq: int, subsystem: int) -> bytes:
    """Requests as one transaction.

    Request i gets sequence number `seq + 1 + i`. Only the last asks for an acknowledgement:
    kernels before 6.10 do not acknowledge a batch's end, and one answer is enough, because a
    refused request is reported in any case.
    """
    parts = [message(BATCH_BEGIN, 0, seq, b"", res=subsystem)]
    last = len(requests) - 1
    for i, (kind, flags, family, body) in enumerate(requests):
        ack = F_ACK if i == last else 0
        parts.append(message(subsystem << 8 | kind, flags | ack, seq + 1 + i, body, family=family))
    parts.append(message(BATCH_END, 0, seq + 2 + last, b"", res=subsystem))
    return b"".join(parts)


def messages(data: bytes) -> Iterator[Message]:
    """Messages of a datagram; a truncated tail ends the iteration."""
    view = memoryview(data)
    offset = 0
    while offset + 16 <= len(view):
        length, kind, flags, seq, port = _HEADER.unpack_from(view, offset)
        if length < 16 or offset + length > len(view):
            return
        if kind > NLMSG_DONE and length >= 20:
            yield Message(
                kind, flags, seq, port, view[offset + 16], view[offset + 20 : offset + length]
            )
        else:
            yield Message(kind, flags, seq, port, 0, view[offset + 16 : offset + length])
        offset += (length + 3) & ~3


def reply(msg: Message) -> Reply:
    """Read an NLMSG_ERROR."""
    errno = -_ERRNO.unpack_from(msg.body)[0]
    text = ""
    if msg.flags & _ACK_TLVS:
        # The refused request follows the errno: whole, or its header only when capped.
        skip = 20 if msg.flags & _CAPPED or not errno else 4 + _HEADER.unpack_from(msg.body, 4)[0]
        raw = attributes(msg.body[(skip + 3) & ~3 :]).get(_NLMSGERR_ATTR_MSG)
        text = bytes(raw).rstrip(b"\0").decode(errors="replace") if raw is not None else ""
    return Reply(msg.seq, errno, text)


def each(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(kind, payload) of each attribute; a truncated tail ends the iteration."""
    offset, size = 0, len(view)
    while offset + 4 <= size:
        length, kind = _ATTR.unpack_from(view, offset)
        if length < 4 or offset + length > size:
            return
        yield kind & _TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(view: memoryview) -> dict[int, memoryview]:
    """Attributes by kind; of a repeated kind, the last."""
    return dict(each(view))


def integer(view: memoryview) -> int:
    """A big-endian unsigned integer."""
    return int.from_bytes(view, "big")


def text(view: memoryview) -> str:
    """A string up to its NUL; what is not UTF-8 is replaced."""
    return bytes(view).split(b"\0", 1)[0].decode(errors="replace")
