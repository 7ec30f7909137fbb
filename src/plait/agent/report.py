"""What the agent tells people: how the other nodes are reached. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from plait.agent.desired.inputs import Host, View, bare, host_cidr
from plait.agent.desired.paths import endpoint_mtu, path, peers
from plait.client.agent import LocalEndpoint, PeerStatus
from plait.model.objects import Endpoint

MESSAGE: Final = 1024
"""Characters of a message that the server takes."""


def one_line(words: str, limit: int = MESSAGE) -> str:
    """Words as the server takes them in a status: one line of printable text, not endless."""
    line = "".join(c if c.isprintable() else " " for c in words)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def words(endpoint: LocalEndpoint) -> tuple[str, ...]:
    """What the kernel's objects of an endpoint are called."""
    own = endpoint.addresses
    return (endpoint.interface, *own, *map(host_cidr, own))


def peer_statuses(view: View, host: Host, endpoints: Iterable[Endpoint]) -> tuple[PeerStatus, ...]:
    """One line a peer. Where the families take different ways, the line is the IPv4 one's."""
    mtu = endpoint_mtu(view, host)
    blocks = Counter(block.spec.node for block in view.blocks.values())
    users = Counter(endpoint.spec.node for endpoint in endpoints)
    result: list[PeerStatus] = []
    for peer in peers(view, host):
        ways = {family: path(view, host, peer, family) for family in (4, 6)}
        way = ways[4] if ways[4].encap != "unreachable" else ways[6]
        reasons = [ways[4].reason]
        if ways[6].encap != way.encap:
            reasons.append(f"IPv6 by {ways[6].encap}: {ways[6].reason}".rstrip(": "))
        if not peer.is_ready:
            how = "was not heard of for a while" if peer.status.silent else "is not ready"
            reasons.append(f"its agent {how}")
        name = peer.metadata.name
        result.append(
            PeerStatus(
                node=name,
                address=bare(peer.spec.addresses[0]) if peer.spec.addresses else "",
                encap=way.encap,
                mtu=mtu,
                blocks=blocks[name],
                endpoints=users[name],
                ready=peer.is_ready and way.encap != "unreachable",
                reason="; ".join(reason for reason in reasons if reason),
            )
        )
    return tuple(result)
