"""What the connector to Kubernetes says of itself, on its own socket (`GET /status`)."""

from __future__ import annotations

import msgspec


class Followed(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One kind of Kubernetes."""

    kind: str
    resource: str
    """Where it is served, or empty."""
    phase: str
    synced: bool
    """All of it was heard once."""
    objects: int
    age: float
    """Seconds since the API server was last heard of."""
    error: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of it."""

    version: str
    identity: str
    leads: bool
    """It is the one that writes."""
    leader: str
    """Who writes, as last seen; empty when nobody does."""
    api_server: str
    connected: bool
    """Every kind that must be there is followed, without an error."""
    server_connected: bool
    """Plait's server is followed."""
    synced: bool
    """Everything was heard of both sides, and nothing is left to write."""
    age: float
    """Seconds since Kubernetes' API server was last heard of."""
    due: int
    """Objects that may have to be written."""
    written: int
    """Objects written to Plait's server since the start."""
    told: int
    """Patches written into Kubernetes since the start."""
    kinds: tuple[Followed, ...] = ()
    problem_count: int = 0
    problems: tuple[str, ...] = ()
    """The first of them: what did not come over, and what was refused."""

    @property
    def summary(self) -> str:
        """One line for people."""
        if not self.connected:
            link = "Kubernetes is not wholly followed"
        elif not self.server_connected:
            link = "Plait's server is out of reach"
        else:
            link = "connected"
        objects = sum(kind.objects for kind in self.kinds)
        several = "" if self.problem_count == 1 else "s"
        problems = f", {self.problem_count} problem{several}" if self.problem_count else ""
        return f"{link}, heard {self.age:.0f} s ago, {objects} objects{problems}"
