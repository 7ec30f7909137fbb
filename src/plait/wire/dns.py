"""DNS messages (RFC 1035, EDNS0 of RFC 6891): queries in, replies out, foreign answers checked.

Nothing here follows a compression pointer: a name is skipped, never expanded, so that no message
can make the parser loop. Any bytes at all give a value or a `WireError`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
OPT: Final = 41
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255
IN: Final = 1

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16

HEADER_SIZE: Final = 12
UDP_PLAIN: Final = 512
"""Largest UDP reply to a client without EDNS (RFC 1035 section 4.2.1)."""
UDP_EDNS: Final = 1232
"""Largest UDP reply at all, whatever the client offers: it fits IPv6's smallest MTU."""
TCP_MAX: Final = 65535
MAX_NAME: Final = 255
MAX_TTL: Final = 0x7FFF_FFFF

EDE_PROHIBITED: Final = 18
"""Extended DNS Error "Prohibited" (RFC 8914 section 4.19)."""

_QR, _AA, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_OPCODE = 0x7800
_DO = 0x8000
_HEADER = struct.Struct("!6H")
_RR = struct.Struct("!HHIH")
_OPT_RR = struct.Struct("!BHHBBHH")
_QUESTION_POINTER = b"\xc0\x0c"
_ONE_QUESTION = b"\0\1\0\0\0\0"
_EDE_OPTION = 15


class WireError(ValueError):
    """A message that is not answered with data.

    `rcode` is what the sender may be told; None when the message is not even a query with a
    header, and silence is the only safe answer.
    """

    def __init__(self, rcode: int | None, detail: str) -> None:
        super().__init__(detail)
        self.rcode = rcode


class Edns(NamedTuple):
    """What the client's OPT record says."""

    size: int
    """UDP payload that it takes, in bytes, at least 512."""
    do: bool
    """It wants DNSSEC records; copied into the reply (RFC 3225)."""


class Query(NamedTuple):
    """A well-formed query with one question."""

    id: int
    flags: int
    question: bytes
    """As sent: name, type and class; the case of the letters is the client's (0x20)."""
    key: bytes
    """The question in lower case."""
    labels: tuple[bytes, ...]
    """The name in lower case, without the root."""
    qtype: int
    qclass: int
    edns: Edns | None

    @property
    def recursion_desired(self) -> bool:
        """Set by stub resolvers, clear in the questions of iterative ones."""
        return bool(self.flags & _RD)

    @property
    def udp_limit(self) -> int:
        """Bytes that a UDP reply may have."""
        return UDP_PLAIN if self.edns is None else min(self.edns.size, UDP_EDNS)


class Response(NamedTuple):
    """An upstream's answer, and where its times to live stand."""

    id: int
    rcode: int
    truncated: bool
    key: bytes
    """The question in lower case."""
    message: bytes
    ttls: tuple[int, ...]
    """Offsets into `message`."""
    ttl: int
    """Seconds for which it may be kept; 0: not at all."""


# Names


def encode_name(labels: Sequence[bytes]) -> bytes:
    """Wire form of a name; WireError if a label or the whole is too long or empty."""
    if any(not 0 < len(label) < 64 for label in labels):
        raise WireError(None, "a label has 1 to 63 bytes")
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(name) > MAX_NAME:
        raise WireError(None, "a name has at most 255 bytes")
    return name


def _question_labels(data: bytes) -> tuple[tuple[bytes, ...], int]:
    """Labels in lower case, and the offset behind the name."""
    labels: list[bytes] = []
    at = HEADER_SIZE
    while at < len(data):
        size = data[at]
        if size == 0:
            return tuple(labels), at + 1
        if size > 63:
            raise WireError(FORMERR, "the question's name is compressed")
        labels.append(data[at + 1 : at + 1 + size].lower())
        at += size + 1
        if at - HEADER_SIZE >= MAX_NAME:
            raise WireError(FORMERR, "the question's name is longer than 255 bytes")
    raise WireError(FORMERR, "the question ends too early")


def _skip_name(data: bytes, at: int) -> int:
    start = at
    while at < len(data) and at - start < MAX_NAME:
        size = data[at]
        if size == 0:
            return at + 1
        if size >= 0xC0:
            return at + 2
        if size > 63:
            break
        at += size + 1
    raise WireError(FORMERR, "a name is malformed")


class _Record(NamedTuple):
    start: int
    type: int
    rclass: int
    ttl: int
    ttl_at: int
    data_at: int
    end: int


def _record(data: bytes, start: int) -> _Record:
    at = _skip_name(data, start)
    if at + _RR.size > len(data):
        raise WireError(FORMERR, "a record ends too early")
    rtype, rclass, ttl, size = _RR.unpack_from(data, at)
    data_at = at + _RR.size
    if data_at + size > len(data):
        raise WireError(FORMERR, "a record's data ends too early")
    return _Record(start, rtype, rclass, ttl, at + 4, data_at, data_at + size)


# Queries


def parse_query(data: bytes) -> Query:
    """Read a query; WireError says what to answer instead of data."""
    if len(data) < HEADER_SIZE:
        raise WireError(None, "shorter than a header")
    ident, flags, qd, an, ns, ar = _HEADER.unpack_from(data)
    if flags & _QR:
        raise WireError(None, "not a query")
    if flags & _OPCODE:
        raise WireError(NOTIMP, "only standard queries are answered")
    if qd != 1:
        raise WireError(FORMERR, "not exactly one question")
    labels, at = _question_labels(data)
    if at + 4 > len(data):
        raise WireError(FORMERR, "the question ends too early")
    qtype, qclass = struct.unpack_from("!HH", data, at)
    at += 4
    question = data[HEADER_SIZE:at]
    edns: Edns | None = None
    for index in range(an + ns + ar):
        record = _record(data, at)
        if record.type == OPT and index >= an + ns:
            if edns is not None or record.data_at - record.start != _OPT_RR.size:
                raise WireError(FORMERR, "more than one OPT record, or a named one")
            if record.ttl >> 16 & 0xFF:
                raise WireError(BADVERS, "only EDNS version 0 is spoken")
            edns = Edns(max(record.rclass, UDP_PLAIN), bool(record.ttl & _DO))
        at = record.end
    if at != len(data):
        raise WireError(FORMERR, "bytes follow the message")
    return Query(ident, flags, question, question.lower(), labels, qtype, qclass, edns)


def error_reply(data: bytes, rcode: int) -> bytes:
    """A reply without any section, to a message that has at least a header."""
    ident, flags = struct.unpack_from("!HH", data)
    flags = _QR | flags & (_OPCODE | _RD) | _RA | rcode & 0xF
    if rcode < 16:
        return _HEADER.pack(ident, flags, 0, 0, 0, 0)
    return _HEADER.pack(ident, flags, 0, 0, 0, 1) + opt_record(extended=rcode >> 4)


def opt_record(*, do: bool = False, extended: int = 0, options: bytes = b"") -> bytes:
    """Our OPT record; `extended` holds the upper bits of the rcode."""
    flags = _DO if do else 0
    return _OPT_RR.pack(0, OPT, UDP_EDNS, extended, 0, flags, len(options)) + options


def extended_error(code: int, text: str) -> bytes:
    """An EDNS option that explains a refusal to people (RFC 8914)."""
    payload = struct.pack("!H", code) + text.encode()
    return struct.pack("!HH", _EDE_OPTION, len(payload)) + payload


# Replies of our own


class Data(NamedTuple):
    """A record without its owner."""

    type: int
    packed: bytes


def address_data(packed: bytes) -> Data:
    """A or AAAA, by the length of the address."""
    return Data(A if len(packed) == 4 else AAAA, packed)


def srv_data(priority: int, weight: int, port: int, target: bytes) -> Data:
    """Where a service is called; the target, in wire form, is not compressed (RFC 2782)."""
    return Data(SRV, struct.pack("!3H", priority, weight, port) + target)


def text_data(text: bytes) -> Data:
    """TXT of one string of at most 255 bytes."""
    return Data(TXT, bytes((len(text),)) + text)


def record(data: Data, ttl: int, *, owner: int = HEADER_SIZE) -> bytes:
    """A record of the name that stands at an offset of the message, below 16384: the question's
    unless told otherwise."""
    head = struct.pack("!H", 0xC000 | owner) + _RR.pack(data.type, IN, ttl, len(data.packed))
    return head + data.packed


def address_record(packed: bytes, ttl: int) -> bytes:
    """A or AAAA of the question's name."""
    return record(address_data(packed), ttl)


ALIAS_HEAD: Final = 2 + _RR.size
"""Bytes of a CNAME record, made by `record`, before its target."""


def soa_record(
    owner: bytes, primary: bytes, mailbox: bytes, serial: int, ttl: int, *, minimum: int
) -> bytes:
    """SOA with names in wire form; an empty owner means the question's name.

    `minimum` is how long, in seconds, a negative answer may be kept (RFC 2308).
    """
    data = primary + mailbox + struct.pack("!5I", serial & 0xFFFF_FFFF, 3600, 600, 86400, minimum)
    return (owner or _QUESTION_POINTER) + _RR.pack(SOA, IN, ttl, len(data)) + data


_PLAIN_OPT: Final = (opt_record(), opt_record(do=True))


class Answer:
    """A reply that is packed once and sent many times: all but id, question and OPT.

    With several `rotations` of the answer section each reply takes the next one.
    """

    __slots__ = ("_cuts", "_heads", "_options", "_rotations", "_turn", "authority", "rcode")

    def __init__(
        self,
        rcode: int,
        rotations: Sequence[Sequence[bytes]] = (),
        *,
        authority: bytes = b"",
        authoritative: bool = True,
        options: bytes = b"",
    ) -> None:
        """`rotations` hold the same records in different orders, of the same sizes."""
        first = rotations[0] if rotations else ()
        self.rcode = rcode
        self.authority = authority
        self._options = options
        self._rotations = tuple(b"".join(rotation) + authority for rotation in rotations) or (
            authority,
        )
        self._turn = 0
        self._cuts = [0]
        for record in first:
            self._cuts.append(self._cuts[-1] + len(record))
        flags = _QR | _RA | rcode | (_AA if authoritative else 0)
        counts = (1, len(first), 1 if authority else 0)
        self._heads = tuple(
            struct.pack("!5H", flags | rd, *counts, additional)
            for rd in (0, _RD)
            for additional in (0, 1)
        )

    def reply(self, ident: bytes, rd: bool, question: bytes, opt: bytes, limit: int) -> bytes:
        """The message; cut with TC set when it would be longer than `limit` bytes.

        A cut reply keeps as many records as fit: old stub resolvers use them and never retry
        over TCP.
        """
        turn = self._turn
        rotations = self._rotations
        self._turn = turn + 1 if turn + 1 < len(rotations) else 0
        head = self._heads[(2 if rd else 0) + (1 if opt else 0)]
        message = ident + head + question + rotations[turn] + opt
        if len(message) <= limit:
            return message
        room = limit - HEADER_SIZE - len(question) - len(opt)
        kept = max(i for i, cut in enumerate(self._cuts) if cut <= max(room, 0))
        flags, qd = struct.unpack_from("!HH", head)
        head = struct.pack("!5H", flags | _TC, qd, kept, 0, 1 if opt else 0)
        return ident + head + question + rotations[turn][: self._cuts[kept]] + opt

    def reply_to(self, query: Query, limit: int) -> bytes:
        """The message for a parsed query."""
        opt = b""
        if query.edns is not None:
            opt = opt_record(do=query.edns.do, options=self._options)
        ident = query.id.to_bytes(2, "big")
        return self.reply(ident, query.recursion_desired, query.question, opt, limit)


def question_end(data: bytes) -> int:
    """Offset behind the question of an ordinary query, found without walking its labels.

    The first zero byte ends the name unless a label holds one; then the bytes before it are no
    complete name and match no known question.
    """
    return data.find(0, HEADER_SIZE) + 5


def quick_reply(data: bytes, end: int, answer: Answer) -> bytes | None:
    """UDP reply to a query that is known by its question; None if it needs `parse_query`."""
    # Of the first flags, recursion desired alone: a query of a stub resolver.
    if data[2] != 1 or data[4:10] != _ONE_QUESTION or data[10]:
        return None
    size = len(data)
    if data[11] == 0:
        if size != end:
            return None
        return answer.reply(data[:2], True, data[12:end], b"", UDP_PLAIN)
    # OPT: root name, type 41, payload size, extended rcode, version, flags, length, options.
    if (
        data[11] != 1
        or size < end + 11
        or data[end : end + 3] != b"\0\0\x29"
        or data[end + 6]
        or end + 11 + (data[end + 9] << 8 | data[end + 10]) != size
    ):
        return None
    offered = data[end + 3] << 8 | data[end + 4]
    limit = UDP_EDNS if offered >= UDP_EDNS else max(offered, UDP_PLAIN)
    opt = _PLAIN_OPT[data[end + 7] >> 7]
    return answer.reply(data[:2], True, data[12:end], opt, limit)


# Upstream


def cache_flags(query: Query) -> int:
    """The bits of a query that may change an upstream's answer: AD, CD and DO."""
    return query.flags & (_AD | _CD) | (_DO if query.edns and query.edns.do else 0)


def upstream_query(query: Query, ident: int, *, edns: bool = True) -> bytes:
    """The same question under another id; the client's own EDNS options stay behind."""
    flags = _RD | query.flags & (_AD | _CD)
    opt = b""
    if edns:
        opt = opt_record(do=query.edns is not None and query.edns.do)
    return _HEADER.pack(ident, flags, 1, 0, 0, 1 if edns else 0) + query.question + opt


def parse_response(data: bytes, *, whole: bool = False) -> Response:
    """Read an upstream's answer; WireError if anything of it is malformed.

    Its message is without the OPT record, which is a matter between two neighbours (RFC 6891
    section 6.1.1), or, with `whole`, as it came.
    """
    if len(data) < HEADER_SIZE:
        raise WireError(None, "shorter than a header")
    ident, flags, qd, an, ns, ar = _HEADER.unpack_from(data)
    if not flags & _QR or flags & _OPCODE or qd != 1:
        raise WireError(None, "not the answer to a query")
    _, at = _question_labels(data)
    if at + 4 > len(data):
        raise WireError(None, "the question ends too early")
    at += 4
    key = data[HEADER_SIZE:at].lower()
    ttls: list[int] = []
    keep = MAX_TTL
    negative = 0
    kept_additional = ar
    end = 0
    extended = 0
    for index in range(an + ns + ar):
        record = _record(data, at)
        at = record.end
        if record.type == OPT and index >= an + ns:
            extended = record.ttl >> 24
            if whole:
                continue
            # What follows is optional: cutting here leaves every pointer before it valid.
            end, kept_additional = record.start, index - an - ns
            break
        ttl = record.ttl if record.ttl <= MAX_TTL else 0  # RFC 2181 section 8
        ttls.append(record.ttl_at)
        keep = min(keep, ttl)
        if record.type == SOA and an <= index < an + ns and record.end - record.data_at >= 22:
            minimum = struct.unpack_from("!I", data, record.end - 4)[0]
            negative = min(ttl, minimum, MAX_TTL)
    rcode = extended << 4 | flags & 0xF
    if rcode == NXDOMAIN or (rcode == NOERROR and not an):
        keep = min(keep, negative)
    elif rcode != NOERROR:
        keep = 0
    if whole:
        return Response(ident, rcode, bool(flags & _TC), key, data, tuple(ttls), keep)
    head = _HEADER.pack(ident, flags, 1, an, ns, kept_additional)
    message = head + data[HEADER_SIZE : end or at]
    return Response(ident, rcode, bool(flags & _TC), key, message, tuple(ttls), keep)


def opaque_response(data: bytes) -> Response | None:
    """A response that is not looked into, such as that to an UPDATE; None if it is none."""
    if len(data) < HEADER_SIZE or not data[2] & 0x80:
        return None
    ident, flags = struct.unpack_from("!HH", data)
    return Response(ident, flags & 0xF, bool(flags & _TC), b"", data, (), 0)


def _age(message: bytearray, response: Response, age: int) -> None:
    for at in response.ttls:
        ttl = struct.unpack_from("!I", message, at)[0]
        struct.pack_into("!I", message, at, max(ttl - age, 0) if ttl <= MAX_TTL else 0)


def readdress(response: Response, ident: bytes, *, age: int) -> bytes:
    """A whole answer under the client's id, `age` seconds older and not otherwise touched."""
    message = bytearray(response.message)
    message[:2] = ident
    _age(message, response, age)
    return bytes(message)


def relay(response: Response, query: Query, *, age: int, limit: int) -> bytes:
    """An upstream's answer as the client gets it: its id, its letters, `age` seconds older."""
    message = bytearray(response.message)
    flags = struct.unpack_from("!H", message, 2)[0]
    flags = flags & ~(_RD | _AA) | query.flags & _RD | _RA
    struct.pack_into("!HH", message, 0, query.id, flags)
    message[HEADER_SIZE : HEADER_SIZE + len(query.question)] = query.question
    opt = opt_record(do=query.edns.do) if query.edns is not None else b""
    if len(message) + len(opt) > limit:
        struct.pack_into("!5H", message, 2, flags | _TC, 1, 0, 0, 1 if opt else 0)
        return bytes(message[: HEADER_SIZE + len(query.question)]) + opt
    _age(message, response, age)
    if opt:
        additional = struct.unpack_from("!H", message, 10)[0]
        struct.pack_into("!H", message, 10, additional + 1)
    return bytes(message) + opt
