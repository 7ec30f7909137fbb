"""What people ask about: ports as they are typed, endpoints as they are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint
from plait.policy import portspec
from plait.policy.flows import Flow
from plait.policy.world import Party, World, endpoint_text

ECHO: Final = {4: ("ICMP", 8), 6: ("ICMPv6", 128)}
"""Protocol and type of an echo request (RFC 792, RFC 4443)."""


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


def parse_port(text: str) -> PortAsked:
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


def names(endpoints: Iterable[Endpoint]) -> dict[tuple[str, str], str]:
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
