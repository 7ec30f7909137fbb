"""Reading what packets put into our sets, beside the socket that owns the table.

The kernel lists such a set in a time that grows with the square of its elements (65,536: 0.5 s), so
this is done in a thread, with a socket of its own.
"""

from __future__ import annotations

import errno
from typing import Final, Protocol

from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.model import marks
from plait.wire import nfnetlink as nl
from plait.wire import nft, nft_read
from plait.wire.nft_expr import NFPROTO_INET

_GET: Final = nl.SUBSYS_NFTABLES << 8 | nft.GETSETELEM


class ElementDoor(Protocol):
    """What reads a set; `NftElements` and `FakeNft` offer it."""

    def elements(self, name: str) -> dict[bytes, nft.Data]:
        """Elements of one of our sets that holds no ranges; empty when there is no such set. One
        that came or went meanwhile may be among them or not."""

    def close(self) -> None:
        """Release the socket."""


class NftElements:
    """The real door; of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._nl = NfnetlinkSocket()

    def elements(self, name: str) -> dict[bytes, nft.Data]:
        """See ElementDoor."""
        query = nft_read.elements_query(marks.NFT_TABLE, name)
        try:
            found = self._nl.dump(_GET, query, family=NFPROTO_INET, torn=True)
        except NetfilterError as error:
            if error.errno == errno.ENOENT:
                return {}
            raise
        return nft_read.element_map(found, interval=False)

    def close(self) -> None:
        """See ElementDoor."""
        self._nl.close()
