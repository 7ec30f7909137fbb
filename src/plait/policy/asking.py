"""What people ask about: ports as they are typed, endpoints as they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint
from plait.policy.flows import Flow
from plait.policy.world import Party, World, endpoint_text

PROTOCOLS: Final = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}
ECHO: Final = {4: ("ICMP", 8), 6: ("ICMPv6", 128)}
"""Protocol and type of an echo request (RFC 792, RFC 4443)."""
EXAMPLES: Final = "80, 80/tcp, 53/udp, a port's name such as http, icmp or icmp/TYPE[/CODE]"


class PortAsked(NamedTuple):
    """A port, or a kind of ICMP message."""

    text: str
    """As people write it: `80/tcp`, `http`, `icmp`."""
    protocol: str = ""
    """`TCP`, `UDP`, `SCTP`, `ICMP`; empty: that of the named port."""
    port: int = 0
    name: str = ""
    """Of a port of the receiver."""
    icmp_type: int = -1
    """-1: an echo request."""
    icmp_code: int = -1

    def flows(self, world: World, src: Party, dst: Party) -> tuple[Flow, ...]:
        """The flows that it means between two parties; none if the receiver has no such port."""
        if self.protocol == "ICMP":
            protocol, echo = ECHO[6 if ":" in (dst.address or src.address) else 4]
            if self.icmp_type < 0:
                return (Flow(src, dst, protocol, 0, echo, 0),)
            return (Flow(src, dst, protocol, 0, self.icmp_type, max(self.icmp_code, 0)),)
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


def parse_port(text: str) -> PortAsked:
    """`PORT[/PROTOCOL]`, TCP unless it is said; PLAIT-CLI-001 says what may be written."""
    head, slash, tail = text.strip().partition("/")
    if head.lower() in {"icmp", "icmpv6"}:
        return _icmp(text, tail if slash else None)
    protocol = PROTOCOLS.get(tail.lower())
    if slash and protocol is None:
        raise _no_port(text)
    if head.isascii() and head.isdigit():
        if not 1 <= int(head) <= 65535:
            raise _no_port(text)
        protocol = protocol or "TCP"
        return PortAsked(f"{int(head)}/{protocol.lower()}", protocol, int(head))
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", head):
        raise _no_port(text)
    return PortAsked(head + (f"/{tail.lower()}" if slash else ""), protocol or "", 0, head)


def _icmp(text: str, rest: str | None) -> PortAsked:
    if rest is None:
        return PortAsked("icmp", "ICMP")
    words = rest.split("/")
    if len(words) > 2 or not all(w.isascii() and w.isdigit() and int(w) <= 255 for w in words):
        raise _no_port(text)
    code = int(words[1]) if len(words) == 2 else -1
    return PortAsked("icmp/" + rest, "ICMP", 0, "", int(words[0]), code)


def _no_port(text: str) -> PlaitError:
    return PlaitError("PLAIT-CLI-001", f"`{text}` is no port", why=f"write {EXAMPLES}")


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
