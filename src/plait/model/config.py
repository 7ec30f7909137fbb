"""What `plait up` and `plait join` decide once and the daemons read at each start."""

from __future__ import annotations

from typing import Final

import msgspec

from plait.model.objects import ClusterSpec

DEFAULT_PORT: Final = 6440
"""TCP port of the server."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a server. `cluster` is used when the store is empty, and never after."""

    port: int = DEFAULT_PORT
    addresses: tuple[str, ...] = ()
    """Addresses by which agents reach this server: names of its certificate."""
    names: tuple[str, ...] = ()
    """Host names by which agents reach this server."""
    cluster: ClusterSpec = ClusterSpec()


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an agent."""

    node: str
    server: str
    """URL, `https://host:port`."""
    address: str = ""
    """Underlay address, if the user chose it: with or without prefix length."""
    interface: str = ""
    """Underlay interface, if the user chose it."""
    site: str = ""
    """Informative name of the place."""
