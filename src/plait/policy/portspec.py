"""Ports as a command line names them: `80/tcp`, `8000-8080/udp`, `http`, `icmp/8`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from plait.model.errors import PlaitError
from plait.model.policies import Port, Protocol

PROTOCOLS: Final[dict[str, Protocol]] = {
    "tcp": "TCP",
    "udp": "UDP",
    "sctp": "SCTP",
    "icmp": "ICMP",
    "icmpv6": "ICMPv6",
}
_NUMBERS: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_ICMP: Final = re.compile(r"(icmp|icmpv6)(?:/(\d{1,3})(?:/(\d{1,3}))?)?", re.ASCII)


def parse_port(text: str) -> Port:
    """The port that a text names.

    `80` is TCP, as in Kubernetes; `http` is the destination's port of that name in whatever
    protocol; `tcp` is all of TCP; `icmp/8` and `icmp/3/1` are a type, and a type with a code.
    PLAIT-CLI-001 for anything else.
    """
    word = text.strip().lower()
    if found := _ICMP.fullmatch(word):
        kind, code = (None if part is None else int(part) for part in found.group(2, 3))
        if max(kind or 0, code or 0) > 255:
            raise _unclear(text, "types and codes are numbers from 0 to 255")
        return Port(protocol=PROTOCOLS[found[1]], icmp_type=kind, icmp_code=code)
    if word in PROTOCOLS:
        return Port(protocol=PROTOCOLS[word])
    value, slash, name = word.partition("/")
    if slash and name not in {"tcp", "udp", "sctp"}:
        raise _unclear(text, f"`{name}` is no protocol with ports")
    protocol = PROTOCOLS[name] if slash else None
    if found := _NUMBERS.fullmatch(value):
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= 65535:
            raise _unclear(text, "ports go from 1 to 65535, the smaller first")
        end = last if last > first else None
        return Port(protocol=protocol or "TCP", port=first, end_port=end)
    if _NAME.fullmatch(value):
        return Port(protocol=protocol, port=value)
    raise _unclear(text, f"`{value}` is neither a number nor a name")


def parse_ports(texts: Iterable[str]) -> tuple[Port, ...]:
    """The ports of a rule, each once; `icmp` alone is ICMP of both families, as in a question."""
    found = map(parse_port, (word for text in texts for word in _both_families(text)))
    return tuple(dict.fromkeys(found))


def _both_families(text: str) -> tuple[str, ...]:
    return ("icmp", "icmpv6") if text.strip().lower() == "icmp" else (text,)


def _unclear(text: str, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-CLI-001",
        f"`{text}` is no port",
        why=f"{why}; write 80/tcp, 8000-8080/udp, http/tcp, http, tcp or icmp/8",
    )
