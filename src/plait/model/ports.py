"""Ports of endpoints: those that the host publishes, and those that have a name."""

from __future__ import annotations

from typing import Literal

from plait.model.meta import Base


class PublishedPort(Base, frozen=True, kw_only=True):
    """A port of the host that leads to a port of the endpoint."""

    protocol: Literal["tcp", "udp", "sctp"]
    port: int
    """Port of the endpoint, 1 to 65535."""
    host_port: int
    host_ip: str = ""
    """Empty: every local address of both families."""


class NamedPort(Base, frozen=True, kw_only=True):
    """A port of the endpoint that policies may call by name."""

    name: str
    """IANA service name form (RFC 6335 section 5.1): at most 15 of a-z, 0-9 and `-`; Kubernetes'
    longer names are taken too."""
    protocol: Literal["tcp", "udp", "sctp"]
    port: int
    """1 to 65535."""
