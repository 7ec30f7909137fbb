"""Published ports (`-p`): what dockerd asks for, and the choice out of a range."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from plait.model.errors import PlaitError
from plait.model.objects import PublishedPort
from plait.wire.docker import PORT_MAP, PortBinding

Protocol = Literal["tcp", "udp", "sctp"]
PROTOCOLS: Final[dict[int, Protocol]] = {6: "tcp", 17: "udp", 132: "sctp"}
"""IANA protocol numbers that Docker publishes."""

Publish = Callable[[tuple[PublishedPort, ...]], Awaitable[tuple[PublishedPort, ...]]]


def bindings(options: dict[str, Any] | None) -> tuple[PortBinding, ...]:
    """The bindings among the options of an endpoint; PLAIT-DOCKER-001 when they are not valid."""
    try:
        found = msgspec.convert((options or {}).get(PORT_MAP) or [], tuple[PortBinding, ...])
    except msgspec.ValidationError as error:
        raise PlaitError("PLAIT-DOCKER-001", f"{PORT_MAP} is not valid: {error}") from error
    for binding in found:
        if binding.proto not in PROTOCOLS:
            raise PlaitError(
                "PLAIT-DOCKER-001",
                f"ports of IP protocol {binding.proto} cannot be published",
                why="Docker publishes tcp, udp and sctp",
            )
    return found


def candidates(binding: PortBinding) -> tuple[PublishedPort, ...]:
    """What would satisfy a binding, best first. A host port of 0 is for the agent to choose."""
    last = max(binding.host_port, binding.host_port_end)
    return tuple(
        PublishedPort(
            protocol=PROTOCOLS[binding.proto],
            port=binding.port,
            host_port=host_port,
            host_ip=binding.host_ip,
        )
        for host_port in range(binding.host_port, last + 1)
    )


async def publish(wanted: tuple[PortBinding, ...], act: Publish) -> tuple[PublishedPort, ...]:
    """Publish every binding, taking the first free port of each range.

    `act` replaces the whole set of ports, so it is called with what was settled so far and one
    candidate more. PLAIT-AGENT-007 when a port, or all of a range, is taken; then nothing stays
    published.
    """
    choices = [candidates(binding) for binding in wanted]
    try:
        settled = await act(tuple(c[0] for c in choices if len(c) == 1))
        for ranged in (c for c in choices if len(c) > 1):
            settled = await _first_free(settled, ranged, act)
    except BaseException:
        await act(())
        raise
    return settled


async def _first_free(
    settled: tuple[PublishedPort, ...], ranged: tuple[PublishedPort, ...], act: Publish
) -> tuple[PublishedPort, ...]:
    refused: PlaitError | None = None
    for candidate in ranged:
        if any(_same_host_port(candidate, other) for other in settled):
            continue
        try:
            return await act((*settled, candidate))
        except PlaitError as error:
            if error.code != "PLAIT-AGENT-007":
                raise
            refused = error
    raise PlaitError(
        "PLAIT-AGENT-007",
        f"every host port from {ranged[0].host_port} to {ranged[-1].host_port} is taken",
        why=refused.detail if refused else "other ports of the same container hold them",
    )


def _same_host_port(a: PublishedPort, b: PublishedPort) -> bool:
    same = (a.protocol, a.host_port) == (b.protocol, b.host_port)
    return same and (not a.host_ip or not b.host_ip or a.host_ip == b.host_ip)
