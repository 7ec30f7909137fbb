"""What an answer says of a name's addresses (RFC 1035): the names on the way, the addresses.

Names are expanded here, unlike in `dns`: a compression pointer must lead backwards, and a name
has a bounded length, so no message can make the reader loop. What cannot be read ends the
reading; what was read before it stands (a message that was cut is no other).
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

from plait.wire.dns import AAAA, CNAME, HEADER_SIZE, IN, MAX_NAME, MAX_TTL, A

MAX_ALIASES: Final = 16
"""CNAME records that are followed from the question on."""
_RR: Final = struct.Struct("!HHIH")
_KIND: Final = 0xF8
"""QR and opcode, in the third byte of a header (RFC 1035 section 4.1.1)."""
_ANSWER: Final = 0x80
"""To a standard query. What a server says of a NOTIFY or an UPDATE may be the client's own words
(RFC 2136 section 3.8)."""
_SIZES: Final = {A: 4, AAAA: 16}

Name = tuple[bytes, ...]
"""Labels in lower case, without the root."""


class Answered(NamedTuple):
    """A name's addresses."""

    names: tuple[Name, ...]
    """The question's name, then what it is an alias of, in order."""
    addresses: tuple[tuple[str, int], ...]
    """Canonical address of either family, and its time to live in seconds."""


class _Malformed(Exception):
    """The rest of the message cannot be read."""


def answered(message: bytes) -> Answered | None:
    """Addresses that the answer gives to the name asked for; None when it gives none."""
    if len(message) < HEADER_SIZE or message[2] & _KIND != _ANSWER:
        return None
    questions, answers = struct.unpack_from("!HH", message, 4)
    if questions != 1:
        return None
    aliases: dict[Name, Name] = {}
    found: dict[Name, list[tuple[str, int]]] = {}
    try:
        question, at = _name(message, HEADER_SIZE)
        at += 4
        for _ in range(answers):
            at = _record(message, at, aliases, found)
    except _Malformed:
        if at == HEADER_SIZE:
            return None
    names = [question]
    while (alias := aliases.get(names[-1])) is not None and alias not in names:
        if len(names) > MAX_ALIASES:
            return None
        names.append(alias)
    addresses = found.get(names[-1])
    return Answered(tuple(names), tuple(addresses)) if addresses else None


def _record(
    message: bytes,
    at: int,
    aliases: dict[Name, Name],
    found: dict[Name, list[tuple[str, int]]],
) -> int:
    owner, at = _name(message, at)
    if at + _RR.size > len(message):
        raise _Malformed
    kind, rclass, ttl, size = _RR.unpack_from(message, at)
    at += _RR.size
    end: int = at + size
    if end > len(message):
        raise _Malformed
    if rclass == IN and kind == CNAME:
        aliases.setdefault(owner, _name(message, at)[0])
    elif rclass == IN and _SIZES.get(kind) == size:
        address = str(ipaddress.ip_address(message[at:end]))
        # RFC 2181 section 8: a larger one is to be taken for 0.
        found.setdefault(owner, []).append((address, ttl if ttl <= MAX_TTL else 0))
    return end


def _name(message: bytes, at: int) -> tuple[Name, int]:
    """The name at an offset, and the offset behind it."""
    labels: list[bytes] = []
    behind = 0
    limit = at
    total = 0
    while True:
        if at >= len(message):
            raise _Malformed
        size = message[at]
        if size >= 0xC0:
            if at + 2 > len(message):
                raise _Malformed
            behind = behind or at + 2
            at = (size & 0x3F) << 8 | message[at + 1]
            # Each pointer leads before all that was read: there is no way round.
            if not HEADER_SIZE <= at < limit:
                raise _Malformed
            limit = at
            continue
        if size > 63:
            raise _Malformed
        if size == 0:
            return tuple(labels), behind or at + 1
        total += size + 1
        if total >= MAX_NAME or at + 1 + size > len(message):
            raise _Malformed
        labels.append(message[at + 1 : at + 1 + size].lower())
        at += 1 + size
