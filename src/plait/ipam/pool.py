"""Geometry of a pool: how it is cut into blocks, and which of its addresses are never given out.

Addresses are integers here, for arithmetic; strings at the border. Everything is layer 3, so all
addresses of a block are usable: only the pool as a whole has a network and a broadcast address.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Final, Literal

import msgspec

Family = Literal[4, 6]
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

WIDTH: Final[dict[int, int]] = {4: 32, 6: 128}
"""Bits of an address."""
BLOCK_PREFIX: Final[dict[int, int]] = {4: 26, 6: 122}
"""Prefix length of a block where the pool is large enough: 64 addresses."""
MIN_BLOCK_BITS: Final = 4
"""A pool has at least 2**4 blocks (or blocks of one address), so that many nodes find one."""
SPREAD: Final = 1 << 16
"""Nodes begin their search within this many blocks, so that a huge pool fills from the bottom."""


def parse(address: str) -> tuple[Family, int]:
    """Family and value of an address; ValueError if it is none."""
    ip = ipaddress.ip_address(address)
    return (4 if ip.version == 4 else 6), int(ip)


def text(family: Family, value: int) -> str:
    """Canonical text of an address (RFC 5952 for IPv6)."""
    return str(ipaddress.IPv4Address(value) if family == 4 else ipaddress.IPv6Address(value))


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of a network."""

    network: str
    cidr: str
    family: Family
    first: int
    """The lowest address, which is the pool's network address."""
    last: int
    block_prefix: int
    special: frozenset[int]
    """Never given to an endpoint, not even on request: gateways, network and broadcast."""
    reserved: tuple[tuple[int, int], ...] = ()
    """Inclusive ranges that are given out on request only."""
    from_top: bool = False
    """Somebody else hands out the bottom of the pool: claim blocks from the top."""

    @classmethod
    def of(
        cls,
        network: str,
        cidr: str,
        *,
        gateways: Collection[str] = (),
        reserved: Collection[str] = (),
        from_top: bool = False,
    ) -> Pool:
        """The pool of a network's specification; gateways and ranges of the other family are
        passed over. Without a gateway in this pool its first host address is the gateway."""
        net = ipaddress.ip_network(cidr)
        family: Family = 4 if net.version == 4 else 6
        first, last = int(net.network_address), int(net.broadcast_address)
        special = {value for kind, value in map(parse, gateways) if kind == family}
        if net.num_addresses > 2:
            if not special:
                special.add(first + 1)
            # RFC 1122 section 3.2.1.3 for IPv4; RFC 4291 section 2.6.1 (subnet-router anycast).
            special.add(first)
            if family == 4:
                special.add(last)
        ranges = (ipaddress.ip_network(item, strict=False) for item in reserved)
        return cls(
            network=network,
            cidr=str(net),
            family=family,
            first=first,
            last=last,
            block_prefix=min(
                WIDTH[family], max(BLOCK_PREFIX[family], net.prefixlen + MIN_BLOCK_BITS)
            ),
            special=frozenset(special),
            reserved=tuple(
                (int(r.network_address), int(r.broadcast_address))
                for r in ranges
                if r.version == net.version
            ),
            from_top=from_top,
        )

    @property
    def block_size(self) -> int:
        """Addresses of a block."""
        return 1 << (WIDTH[self.family] - self.block_prefix)

    @property
    def block_count(self) -> int:
        """Blocks of the pool."""
        return (self.last - self.first + 1) // self.block_size

    @property
    def size(self) -> int:
        """Addresses of the pool that an endpoint may get without asking for a particular one."""
        return self.usable(self.first, self.last)

    def contains(self, value: int) -> bool:
        """The address lies in the pool."""
        return self.first <= value <= self.last

    def is_reserved(self, value: int) -> bool:
        """The address is given out on request only."""
        return any(low <= value <= high for low, high in self.reserved)

    def usable(self, low: int, high: int) -> int:
        """Addresses from `low` to `high` that may be given out unasked."""
        kept_back, end = 0, low - 1
        for start, stop in sorted(self.reserved):
            begin, finish = max(start, low, end + 1), min(stop, high)
            if begin <= finish:
                kept_back += finish - begin + 1
                end = finish
        alone = sum(low <= value <= high and not self.is_reserved(value) for value in self.special)
        return high - low + 1 - kept_back - alone

    def block_at(self, index: int) -> str:
        """CIDR of the block of this number, from 0 at the bottom."""
        return f"{text(self.family, self.first + index * self.block_size)}/{self.block_prefix}"

    def blocks_in(self, ranges: Collection[str]) -> Iterator[str]:
        """CIDRs of the blocks with a usable address in one of these CIDRs, which lie in the
        pool; from the bottom of each."""
        for cidr in ranges:
            _, first, last = bounds(cidr)
            size = self.block_size
            for index in range((first - self.first) // size, (last - self.first) // size + 1):
                low = self.first + index * size
                if self.usable(max(low, first), min(low + size - 1, last)):
                    yield self.block_at(index)

    def block_of(self, value: int) -> str:
        """CIDR of the block that holds an address of the pool."""
        return self.block_at((value - self.first) // self.block_size)


@lru_cache(maxsize=4096)
def bounds(cidr: str) -> tuple[Family, int, int]:
    """Family, first and last address of a CIDR."""
    net = ipaddress.ip_network(cidr)
    return (4 if net.version == 4 else 6), int(net.network_address), int(net.broadcast_address)


def candidates(pool: Pool, node: str) -> Iterator[str]:
    """Every block that a node may claim, in the order in which it should try.

    Nodes begin at different places (a hash of the name, Calico's way), so that they seldom race
    for one block. Blocks without a usable address are left out.
    """
    count = pool.block_count
    if pool.from_top:
        order: Iterator[int] = iter(range(count - 1, -1, -1))
    else:
        seed = int.from_bytes(hashlib.sha256(node.encode()).digest()[:4], "big")
        start = seed % min(count, SPREAD)
        order = ((start + step) % count for step in range(count))
    size = pool.block_size
    for index in order:
        low = pool.first + index * size
        if pool.usable(low, low + size - 1):
            yield pool.block_at(index)


def next_block(pool: Pool, taken: Collection[str], node: str) -> str | None:
    """The block to claim next, or None when every usable block is taken."""
    return next((cidr for cidr in candidates(pool, node) if cidr not in taken), None)
