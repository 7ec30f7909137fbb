"""nfnetlink_log: binding to a log group, and the packets that rules log to it.

Source: linux/netfilter/nfnetlink_log.h. The kernel gathers packets into one datagram until
`THRESHOLD` of them or `TIMEOUT` have come, and numbers them, so that lost ones show as a gap.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from plait.wire.nfnetlink import Message, attr, each, u8, u16, u32

SUBSYS_ULOG: Final = 4
PACKET: Final = SUBSYS_ULOG << 8 | 0
"""NFULNL_MSG_PACKET."""
CONFIG: Final = SUBSYS_ULOG << 8 | 1
"""NFULNL_MSG_CONFIG; the group stands in nfgenmsg.res_id."""

COPY: Final = 96
"""Bytes of each packet that are copied: room for IPv6, some extension headers, and ports."""
BUFFER: Final = 1 << 15
"""Bytes that the kernel gathers into one datagram at most (NFULA_CFG_NLBUFSIZ)."""
THRESHOLD: Final = 100
"""Packets that the kernel gathers into one datagram at most (NFULA_CFG_QTHRESH)."""
TIMEOUT: Final = 10
"""Hundredths of a second for which the first packet of a datagram waits for others."""

_CFG_CMD, _CFG_MODE, _CFG_NLBUFSIZ, _CFG_TIMEOUT, _CFG_QTHRESH, _CFG_FLAGS = 1, 2, 3, 4, 5, 6
_CMD_BIND: Final = 1
_COPY_PACKET: Final = 2
_FLAG_SEQ: Final = 1
_MODE: Final = struct.Struct(">IBx")
"""struct nfulnl_msg_config_mode: bytes to copy, copy mode."""

_PACKET_HDR, _TIMESTAMP, _INDEV, _OUTDEV, _PAYLOAD, _PREFIX, _SEQ = 1, 3, 4, 5, 9, 10, 12
_SECONDS: Final = struct.Struct(">QQ")
_PORTS: Final = struct.Struct(">HH")
_U32: Final = struct.Struct(">I")

TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
_WITH_PORTS: Final = frozenset((TCP, UDP, SCTP, 33, 136))
"""Protocols whose header begins with two ports; DCCP and UDP-Lite too."""
_EXTENSIONS: Final = frozenset((0, 43, 60, 135, 139, 140))
"""IPv6 headers of the form next, length in eights less one (RFC 6564)."""
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51


class Packet(NamedTuple):
    """A packet that a rule logged."""

    prefix: str
    """Of the rule."""
    sequence: int
    """Number of the packet in this binding of the group, from 0; 32 bits."""
    hook: int
    """NF_INET_*."""
    indev: int
    """Interface index, 0 where there is none."""
    outdev: int
    seconds: float
    """Unix time at which the packet came; 0.0 where the kernel does not say."""
    protocol: int
    """Of the transport header (IANA protocol numbers); 0 when the packet is no IP."""
    src: bytes
    """4 or 16 bytes; empty when the packet is no IP."""
    dst: bytes
    sport: int
    """Source port, or the type of an ICMP message; 0 where there is none, or in a fragment that
    is not the first."""
    dport: int
    """Destination port, or the code of an ICMP message."""


def bind() -> bytes:
    """Attributes of the request that binds the sender's socket to a group.

    The kernel refuses with EPERM when another socket has it.
    """
    return u8(_CFG_CMD, _CMD_BIND)


def settings() -> bytes:
    """Attributes of the request that says how packets are to come."""
    return (
        attr(_CFG_MODE, _MODE.pack(COPY, _COPY_PACKET))
        + u32(_CFG_NLBUFSIZ, BUFFER)
        + u32(_CFG_QTHRESH, THRESHOLD)
        + u32(_CFG_TIMEOUT, TIMEOUT)
        + u16(_CFG_FLAGS, _FLAG_SEQ)
    )


def packet(msg: Message) -> Packet:
    """Of an NFULNL_MSG_PACKET. What the kernel left out, or cut short, is 0 or empty."""
    prefix, sequence, hook, indev, outdev, seconds = "", 0, 0, 0, 0, 0.0
    transport: Transport = _UNKNOWN
    for kind, value in each(msg.body):
        if kind == _PAYLOAD:
            transport = headers(bytes(value))
        elif kind == _PREFIX:
            prefix = bytes(value).rstrip(b"\0").decode("ascii", "replace")
        elif kind == _SEQ:
            (sequence,) = _U32.unpack(value)
        elif kind == _INDEV:
            (indev,) = _U32.unpack(value)
        elif kind == _OUTDEV:
            (outdev,) = _U32.unpack(value)
        elif kind == _PACKET_HDR:
            hook = value[2]
        elif kind == _TIMESTAMP:
            whole, micro = _SECONDS.unpack(value)
            seconds = whole + micro / 1e6
    return Packet(prefix, sequence, hook, indev, outdev, seconds, *transport)


class Transport(NamedTuple):
    """What the headers of a packet say; see `Packet`."""

    protocol: int
    src: bytes
    dst: bytes
    sport: int = 0
    dport: int = 0


_UNKNOWN: Final = Transport(0, b"", b"")


def headers(data: bytes) -> Transport:
    """Network and transport header at the start of a packet (RFC 791, RFC 8200)."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        found = Transport(data[9], data[12:16], data[16:20])
        later = (data[6] & 0x1F) | data[7]
        return found if later else _ports(found, data, (data[0] & 0x0F) * 4)
    if version == 6 and len(data) >= 40:
        return _headers6(data)
    return _UNKNOWN


def _headers6(data: bytes) -> Transport:
    kind, offset = data[6], 40
    src, dst = data[8:24], data[24:40]
    while offset + 8 <= len(data):
        if kind in _EXTENSIONS:
            length = (data[offset + 1] + 1) * 8
        elif kind == _AUTHENTICATION:
            length = (data[offset + 1] + 2) * 4
        elif kind == _FRAGMENT:
            if int.from_bytes(data[offset + 2 : offset + 4], "big") & 0xFFF8:
                return Transport(data[offset], src, dst)
            length = 8
        else:
            break
        kind, offset = data[offset], offset + length
    return _ports(Transport(kind, src, dst), data, offset)


def _ports(found: Transport, data: bytes, offset: int) -> Transport:
    protocol, src, dst, _, _ = found
    if protocol in _WITH_PORTS and offset + 4 <= len(data):
        return Transport(protocol, src, dst, *_PORTS.unpack_from(data, offset))
    if protocol in (ICMP, ICMPV6) and offset + 2 <= len(data):
        return Transport(protocol, src, dst, data[offset], data[offset + 1])
    return found


def packets(messages: Iterator[Message]) -> Iterator[Packet]:
    """The packets among the messages of a datagram."""
    return (packet(msg) for msg in messages if msg.kind == PACKET)
