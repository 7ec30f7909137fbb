"""What is asked to learn what policies do: the ports that they name, and others for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from plait.model.policies import DIRECTIONS, Policy, Port
from plait.policy.asking import PortAsked

UNNAMED_PORTS: Final = range(49151, 0, -1)
"""Where a port is looked for that no policy names."""


def ports_asked(policies: Iterable[Policy], seen: Iterable[tuple[str, int]]) -> list[PortAsked]:
    """Ports that policies name, both ends of ranges, those seen, and others for the rest.

    `seen` holds protocols (`TCP`) and ports.
    """
    found: dict[PortAsked, None] = {}
    for policy in policies:
        for direction in DIRECTIONS:
            for rule in policy.spec.rules(direction):
                for port in rule.ports or ():
                    found.update(dict.fromkeys(asked_of(port)))
    for protocol, number in seen:
        if protocol in {"TCP", "UDP", "SCTP"}:
            found[PortAsked(f"{number}/{protocol.lower()}", protocol, number)] = None
    taken = {port.port for port in found}
    other = next(number for number in UNNAMED_PORTS if number not in taken)
    protocols = ["TCP", "UDP", *(["SCTP"] if any(p.protocol == "SCTP" for p in found) else [])]
    rest = [PortAsked(f"other {p.lower()}", p, other) for p in protocols]
    named = sorted(found, key=lambda p: (p.port, p.name, p.protocol, p.icmp_type))
    return [*named, *rest, PortAsked("icmp", "ICMP")]


def asked_of(port: Port) -> Iterator[PortAsked]:
    """What asks whether a rule's port is open: both ends of a range; all of a protocol: none."""
    protocol = port.protocol or ""
    suffix = f"/{protocol.lower()}" if protocol else ""
    if protocol.startswith("ICMP"):
        if port.icmp_type is not None:
            code = -1 if port.icmp_code is None else port.icmp_code
            text = f"icmp/{port.icmp_type}" + ("" if code < 0 else f"/{code}")
            yield PortAsked(text, "ICMP", 0, "", port.icmp_type, code)
    elif isinstance(port.port, str):
        yield PortAsked(f"{port.port}{suffix}", protocol, 0, port.port)
    elif port.port is not None:
        for number in dict.fromkeys((port.port, port.end_port or port.port)):
            yield PortAsked(f"{number}{suffix}", protocol, number)
