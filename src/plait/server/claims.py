"""What a Service holds that no other may hold, as words that `State` finds their holders by. Pure.

A cluster address is one Service's alone. External and load-balancer addresses may be shared, as
long as each port of them is one Service's. A node port is one Service's, a protocol.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from math import gcd
from typing import Final

from plait.model.objects import Service

LACKING: Final = "lacking"
"""Claim of every Service that would take a load-balancer address if one came free."""
GUARDS: Final = 4096
"""Records among which claims are spread. Writes that claim the same meet in one and are tried one
after the other; those that claim something else meet seldom."""
MOST_TRIED: Final = 1 << 17
"""Numbers that are looked at before a range counts as used up."""


def cluster(text: str) -> str:
    """Claim of the Service whose cluster address it is."""
    return f"cluster {text}"


def outside(text: str) -> str:
    """Claim of every Service that has it as an external or load-balancer address."""
    return f"outside {text}"


def frontend(text: str, protocol: str, port: int) -> str:
    """Claim of a port of an external or load-balancer address."""
    return f"frontend {text} {protocol} {port}"


def node_port(protocol: str, port: int) -> str:
    """Claim of a port of every host."""
    return f"node {protocol} {port}"


def claims(service: Service) -> tuple[str, ...]:
    """All that a Service, as it is stored, holds."""
    return tuple(dict.fromkeys(_claims(service)))


def _claims(service: Service) -> Iterator[str]:
    spec = service.spec
    for text in spec.addresses:
        yield cluster(text)
    for text in (*spec.external_addresses, *spec.load_balancer_addresses):
        yield outside(text)
        for port in spec.ports:
            yield frontend(text, port.protocol, port.port)
    for port in spec.ports:
        if port.node_port:
            yield node_port(port.protocol, port.node_port)
    if spec.health_check_node_port:
        yield node_port("TCP", spec.health_check_node_port)
    if service.status.message:
        yield LACKING


def guards(held: Iterable[str]) -> tuple[str, ...]:
    """Records that every write of these claims touches, so that two servers, or two writes at
    once, cannot both find the same thing free."""
    return tuple(dict.fromkeys(_guard(claim) for claim in held if claim != LACKING))


def _guard(claim: str) -> str:
    """Of an address the same one, whatever it is for."""
    kind, _, rest = claim.partition(" ")
    subject = rest if kind == "node" else rest.partition(" ")[0]
    return f"/guards/services/{zlib.crc32(subject.encode()) % GUARDS:03x}"


def scattered(size: int, low: int, seed: str) -> Iterator[int]:
    """Numbers of `range(size)`, each once, in an order that the seed decides: those from `low` on
    first, for the low ones are what people choose by hand.

    Of a range that is nearly full, a free number is found after few looks.
    """
    return islice(_scattered(size, low, seed), MOST_TRIED)


def _scattered(size: int, low: int, seed: str) -> Iterator[int]:
    yield from (low + number for number in _walk(size - low, seed))
    yield from _walk(low, seed)


def _walk(size: int, seed: str) -> Iterator[int]:
    """Every number below `size`, by steps of one length around the ring."""
    if size < 1:
        return
    at = zlib.crc32(seed.encode()) % size
    step = zlib.crc32(seed.encode(), 1) % size or 1
    while gcd(step, size) > 1:
        step = step % size + 1
    for _ in range(size):
        yield at
        at = (at + step) % size


def static_part(size: int, share: int, most: int) -> int:
    """How many of the lowest numbers are taken last: at least 16, at most `most`, if there are
    more (Kubernetes' KEP 3070 and KEP 3668 divide addresses and node ports so)."""
    return min(max(16, size // share), most) if size > 16 else 0
