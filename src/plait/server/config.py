"""Settings of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Where it listens, who it is, and its limits. Times are seconds, sizes bytes."""

    listen: tuple[tuple[str, int], ...] = (("0.0.0.0", 6440),)
    """(address, port) over TLS; port 0 is chosen by the kernel. Empty: no TCP."""
    unix_socket: Path | None = Path("/run/plait/server.sock")
    """Mode 0600; its peers of `allowed_uids` are administrators."""
    allowed_uids: frozenset[int] = frozenset({0})
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """DNS names and addresses in the server's certificate, and accepted in Host headers."""
    max_body: int = 1 << 20
    max_batch: int = 1000
    max_pending: int = 256
    """Requests under way at once, watches and health checks not counted."""
    max_watchers: int = 20_000
    max_strangers: int = 512
    """Connections that have shown no credential yet."""
    max_page: int = 1000
    """Objects in one page of a list."""
    bookmark_every: float = 5.0
    idle_timeout: float = 30.0
    """A connection that has no complete request header after this time is closed."""
    body_timeout: float = 20.0
    handshake_timeout: float = 10.0
    snapshot_timeout: float = 60.0
    """A watcher that has not read its snapshot by then is cut."""
    renew_check: float = 3600.0
    """How often the server looks whether its own certificate is due."""
    shutdown_timeout: float = 2.0
