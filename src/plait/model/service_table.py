"""The services' part of the waist: on this host, which address leads to which backends.

    frontends: (address, protocol, port) -> Entry
    Entry:     what senders inside and outside of our network get
    Choice:    backends, one of which is taken at random for each new flow

Inside is who sends from an address of our pools, or is this host itself. `plait.services.engine`
makes it; the agent's programmer makes the kernel do the same. No name of a user is in it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from plait.model.entries import Entries
from plait.model.members import Members
from plait.model.waist import Part


class Frontend(NamedTuple):
    """Where a Service is called."""

    address: str
    """Canonical; `0.0.0.0` and `::` are the addresses of the host itself (node ports)."""
    protocol: Literal["tcp", "udp", "sctp"]
    port: int


class BackendAddress(NamedTuple):
    """Where a flow is led to; of the frontend's family."""

    address: str
    port: int


class Choice(NamedTuple):
    """What a new flow gets."""

    backends: tuple[BackendAddress, ...]
    """Sorted, each once."""
    affinity: int = 0
    """Seconds that a client stays with its backend after its last new flow; 0: none."""
    unavailable: Literal["reject", "drop"] = "reject"
    """What becomes of it when there are no backends."""


class Entry(NamedTuple):
    """A frontend."""

    service: str
    """Opaque id, at most 16 of a-z and 0-9, the same for all frontends of a Service."""
    inside: Choice
    outside: Choice | None = None
    """None: as inside."""
    sources: tuple[str, ...] = ()
    """`first-last` of the frontend's family, canonical, disjoint, sorted: who may call it, this
    host always; empty: everybody."""


class ServiceTable(Part, frozen=True, kw_only=True):
    """See the module's docstring."""

    serial: int = 0
    """Grows with every change."""
    frontends: Entries[Frontend, Entry] = msgspec.field(default_factory=Entries)
    addresses: Members[str] = msgspec.field(default_factory=Members)
    """Cluster and load-balancer addresses: they are nobody else's, so what is sent to one of them
    and is no frontend is refused at once."""


NOTHING: Final = ServiceTable()
"""Of a host that knows no Service; nobody changes it."""
