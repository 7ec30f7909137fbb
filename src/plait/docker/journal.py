"""What the plugin must still know after a restart, in one small file.

Docker does not tell a plugin again which networks there are, and a plugin must not ask Docker
inside a call. So the link from Docker's network id to the Plait Network is kept on disk, with
deletions that the server has not heard of and addresses that no endpoint uses yet.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Docker network of ours; its key is Docker's network id."""

    network: str = ""
    """Plait Network; empty until Docker has told the name."""
    uid: str = ""
    """The Plait Network's uid; empty until it is there."""
    namespace: str = ""
    """Namespace of its endpoints, unless their container says otherwise."""
    on_segment: bool = False
    """Docker's default IPAM chose the pool: addresses carry the pool's prefix length."""
    alias: bool = False
    """Another Docker name for a Plait Network; removing it leaves the Plait Network alone."""
    seen: bool = False
    """The Plait Network was there: when it is gone, it was deleted."""
    removing: bool = False
    """We remove it from this Docker; the Plait Network is not meant."""


class HeldAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address that dockerd asked for and has not used yet."""

    network: str
    address: str
    since: float
    """Unix time, seconds."""


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of the journal."""

    networks: dict[str, NetworkRecord] = {}
    deletions: dict[str, str] = {}
    """Plait Networks that the user removed here: name to uid."""
    held: tuple[HeldAddress, ...] = ()


class Journal:
    """The state in memory and on disk; each change replaces the file as a whole.

    The file is not synced: after a loss of power no container and no endpoint is left that it
    speaks of, and networks are found again in Docker's listing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = self._load()

    def _load(self) -> State:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Everything in it can be learnt again from Docker and from the agent.
            return State()

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    def write(self, state: State) -> None:
        """Replace the state, on disk first."""
        if state == self._state:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(state))
        fresh.replace(self._path)
        self._state = state
