"""Names of an endpoint's ports: their written form, and what they must satisfy. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from plait.model import syntax
from plait.model.objects import NamedPort
from plait.model.syntax import invalid, shown

MAX_NAMED_PORTS: Final = 256
PROTOCOLS: Final[dict[str, Literal["tcp", "udp", "sctp"]]] = {
    "tcp": "tcp",
    "udp": "udp",
    "sctp": "sctp",
}


def parse(name: str, text: str, where: str) -> tuple[NamedPort, ...]:
    """Ports of one name: `80`, `80/tcp`, `53/tcp,53/udp`. PLAIT-API-002 for anything else."""
    syntax.port_name(name, where)
    found = []
    for part in text.split(","):
        number, slash, word = part.strip().partition("/")
        protocol = PROTOCOLS.get(word.lower() if slash else "tcp")
        good = number.isascii() and number.isdigit() and len(number) <= 5
        if protocol is None or not good or not 1 <= int(number) <= 65535:
            raise invalid(
                where,
                f"{shown(part.strip())} is not a port and its protocol",
                fix="write 80/tcp, 53/udp or 5060/sctp",
            )
        found.append(NamedPort(name=name, protocol=protocol, port=int(number)))
    return tuple(found)


def check(ports: Sequence[NamedPort], where: str) -> None:
    """A name means one port a protocol. PLAIT-API-002."""
    syntax.items(ports, where, MAX_NAMED_PORTS)
    seen: set[tuple[str, str]] = set()
    for i, port in enumerate(ports):
        at = f"{where}[{i}]"
        syntax.port_name(port.name, f"{at}.name")
        syntax.number(port.port, f"{at}.port", 1, 65535)
        if (port.name, port.protocol) in seen:
            raise invalid(f"{at}.name", f"{port.name} of {port.protocol} stands twice")
        seen.add((port.name, port.protocol))
