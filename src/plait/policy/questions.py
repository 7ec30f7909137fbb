"""What a world is asked: which ports, between whom, and what endpoints are called in an answer.

Ports come from whoever asks (`parse_asked`) or from the policies (`ports_asked`): the ports that
they name, and one that they do not name for all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint
from plait.model.policies import DIRECTIONS, Policy, Port
from plait.policy import portspec
from plait.policy.flow import Flow
from plait.policy.world import Party, World, endpoint_text

ECHO: Final = {4: ("ICMP", 8), 6: ("ICMPv6", 128)}
"""Protocol and type of an echo request (RFC 792, RFC 4443)."""
OUTSIDE: Final = ("203.0.113.1", "2001:db8::1")
"""Addresses that stand for the rest of the world (RFC 5737, RFC 3849)."""
UNNAMED_PORTS: Final = range(49151, 0, -1)
"""Where a port is looked for that no policy names."""


class PortAsked(NamedTuple):
    """A port, or a kind of ICMP message."""

    text: str
    """As people write it: `80/tcp`, `http`, `icmp`."""
    protocol: str = ""
    """`TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`; empty: that of the named port."""
    port: int = 0
    name: str = ""
    """Of a port of the receiver."""
    icmp_type: int = -1
    """-1: an echo request."""
    icmp_code: int = -1

    def flows(self, world: World, src: Party, dst: Party) -> tuple[Flow, ...]:
        """The flows that it means between two parties.

        None if the receiver has no such port, or the message is one of the other family.
        """
        if self.protocol in {"ICMP", "ICMPv6"}:
            return self._message(src, dst)
        if not self.name:
            return (Flow(src, dst, self.protocol, self.port),)
        return tuple(
            Flow(src, dst, protocol, port)
            for protocol, port in sorted(
                {
                    (named.protocol.upper(), named.port)
                    for endpoint in world.at.get(dst.address, ())
                    for named in endpoint.spec.named_ports
                    if named.name == self.name and self.protocol in ("", named.protocol.upper())
                }
            )
        )

    def _message(self, src: Party, dst: Party) -> tuple[Flow, ...]:
        protocol, echo = ECHO[6 if ":" in (dst.address or src.address) else 4]
        if self.icmp_type < 0:
            # An echo request is one in either family.
            return (Flow(src, dst, protocol, 0, echo, 0),)
        if self.protocol != protocol:
            return ()
        return (Flow(src, dst, protocol, 0, self.icmp_type, max(self.icmp_code, 0)),)


def parse_asked(text: str) -> PortAsked:
    """One port, TCP unless it is said; PLAIT-CLI-001 says what may be written."""
    said = portspec.parse_port(text)
    protocol = said.protocol or ""
    suffix = f"/{protocol.lower()}" if protocol else ""
    if protocol in {"ICMP", "ICMPv6"}:
        return PortAsked(
            text.strip().lower(),
            protocol,
            icmp_type=-1 if said.icmp_type is None else said.icmp_type,
            icmp_code=-1 if said.icmp_code is None else said.icmp_code,
        )
    if isinstance(said.port, str):
        return PortAsked(f"{said.port}{suffix}", protocol, name=said.port)
    if said.port is None or said.end_port is not None:
        raise PlaitError(
            "PLAIT-CLI-001",
            f"`{text}` is not one port",
            fix=("write 80/tcp, 53/udp, a port's name such as http, icmp or icmp/TYPE[/CODE]",),
        )
    return PortAsked(f"{said.port}{suffix}", protocol, said.port)


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


def endpoint_names(endpoints: Iterable[Endpoint]) -> dict[tuple[str, str], str]:
    """What each endpoint is called, by namespace and id: `shop/web`, with the address after an
    `@` where several have the name, so that every name finds one endpoint again."""
    every = list(endpoints)
    seen: dict[str, int] = {}
    for endpoint in every:
        text = endpoint_text(endpoint)
        seen[text] = seen.get(text, 0) + 1
    return {
        (e.metadata.namespace, e.metadata.name): _called(e, seen[endpoint_text(e)] > 1)
        for e in every
    }


def _called(endpoint: Endpoint, shared: bool) -> str:
    text = endpoint_text(endpoint)
    if not shared:
        return text
    if endpoint.spec.addresses:
        return f"{text}@{endpoint.spec.addresses[0]}"
    return f"{endpoint.metadata.namespace}/{endpoint.metadata.name}"


def pairs(world: World, src: Endpoint, dst: Endpoint) -> Iterator[tuple[Party, Party]]:
    """The parties of two endpoints, one pair for each family that both have."""
    for one in world.parties(src):
        for other in world.parties(dst):
            if (":" in one.address) == (":" in other.address):
                yield one, other
