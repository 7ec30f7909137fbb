"""What several verbs refuse, in the same words."""

from __future__ import annotations

from plait.client.agent import AttachRequest
from plait.model.errors import PlaitError


def not_ready() -> PlaitError:
    """PLAIT-AGENT-008: nothing is known of the network."""
    return PlaitError(
        "PLAIT-AGENT-008",
        "the agent has not yet heard from the server, and has no copy of an earlier time",
        fix=("plait status", "try again when the server is reachable"),
    )


def no_network(name: str) -> PlaitError:
    """PLAIT-NET-006."""
    return PlaitError(
        "PLAIT-NET-006",
        f"there is no network {name!r}",
        fix=("plait network ls", f"plait network create {name}"),
    )


def no_endpoint(ident: str) -> PlaitError:
    """PLAIT-AGENT-003."""
    return PlaitError(
        "PLAIT-AGENT-003",
        f"there is no endpoint {ident} on this host",
        where=f"endpoint/{ident}",
        fix=("plait ps",),
    )


def no_namespace(request: AttachRequest, why: str) -> PlaitError:
    """PLAIT-AGENT-004."""
    return PlaitError(
        "PLAIT-AGENT-004",
        f"there is no network namespace at {request.netns}",
        where=f"endpoint/{request.id}",
        why=why,
        fix=("ip netns list", "check that the process or container still runs"),
    )


def name_taken(request: AttachRequest, why: str) -> PlaitError:
    """PLAIT-AGENT-005."""
    return PlaitError(
        "PLAIT-AGENT-005",
        f"{request.netns} has an interface {request.ifname} already",
        where=f"endpoint/{request.id}",
        why=why,
        fix=("plait attach … --ifname eth1   # another name",),
    )


def forgotten(node: str, enrol: str) -> PlaitError:
    """PLAIT-AUTH-007: addresses of ours may have been given to others. `enrol` is the command
    that makes this node known again."""
    return PlaitError(
        "PLAIT-AUTH-007",
        "the server has forgotten this node",
        where=f"node/{node}",
        why="its addresses may have been given to others",
        fix=(enrol, "plait down --purge"),
    )


def no_address(network: str, rounds: int) -> PlaitError:
    """PLAIT-IPAM-012: others were quicker, `rounds` times."""
    return PlaitError(
        "PLAIT-IPAM-012",
        f"network {network!r} gave no address",
        where=f"network/{network}",
        why=f"{rounds} blocks in a row were used up by others before this request",
        fix=("try again",),
    )
