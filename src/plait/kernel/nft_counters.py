"""Reading the named counters of our table, beside the socket that owns it.

The agent's own socket belongs to its loop; this one may be used in a thread, for a dump of many
thousand counters takes a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from plait.kernel.nfnetlink import NfnetlinkSocket
from plait.model import marks
from plait.wire import nfnetlink as nl
from plait.wire import nft, nft_read
from plait.wire.nft_expr import NFPROTO_INET

_GET: Final = nl.SUBSYS_NFTABLES << 8 | nft.GETOBJ


class CounterDoor(Protocol):
    """What counts of rules are made of; `NftCounters` and `FakeNft` offer it."""

    def counters(self) -> Mapping[str, nft_read.Count]:
        """Packets and bytes by the counter's name; empty when there is no table."""

    def close(self) -> None:
        """Release the socket."""


class NftCounters:
    """The real door; of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._nl = NfnetlinkSocket()

    def counters(self) -> dict[str, nft_read.Count]:
        """See CounterDoor."""
        found = {}
        query = nft_read.counters_query(marks.NFT_TABLE)
        for msg in self._nl.dump(_GET, query, family=NFPROTO_INET):
            table, name, count = nft_read.counter_info(msg)
            if table == marks.NFT_TABLE:
                found[name] = count
        return found

    def close(self) -> None:
        """See CounterDoor."""
        self._nl.close()
