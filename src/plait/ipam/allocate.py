"""Giving out addresses: `allocate(spaces, request, now) -> (spaces', outcome)`.

A node allocates inside its own blocks without asking anyone (P2 holds because a block has one
owner). The functions change nothing: they return the new state, and the caller keeps it once its
journal has it. Dual-stack requests get every family or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from plait.ipam.pool import Family, Pool, bounds, parse, text
from plait.model.errors import PlaitError

HELD: Final = "held"
"""Owner of an address that waits for the attach that will use it."""
COOL_DOWN: Final = 60.0
"""Seconds for which a released address rests, so that caches and flows forget its last user."""


class Block(msgspec.Struct, frozen=True):
    """A range that this node may allocate from."""

    cidr: str
    loan: bool = False
    """One address of somebody else's block: given out only to whom asks for that address."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """A node's share of one pool. Times are seconds of the caller's monotonic clock."""

    pool: Pool
    blocks: tuple[Block, ...] = ()
    used: Mapping[int, str] = {}
    """Address to owner: an endpoint id or `HELD`."""
    resting: Mapping[int, float] = {}
    """Address to the time at which it may be given out again."""
    lent: frozenset[int] = frozenset()
    """Addresses of our blocks that another node uses."""
    closing: frozenset[str] = frozenset()
    """Blocks on their way back: nothing is allocated from them."""
    cursor: int = -1
    """The last address given out: the search goes on behind it, to spread reuse."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint needs: an address of each space, of which some may be named."""

    owner: str
    wanted: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    """CIDRs; a family that has some gets an address out of one of them."""


class Granted(msgspec.Struct, frozen=True):
    """Addresses, one a space, in the order of the spaces."""

    addresses: tuple[str, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What must be obtained before the request can be granted; nothing was allocated."""

    families: tuple[Family, ...] = ()
    """Families in which our blocks are used up: claim another one."""
    addresses: tuple[str, ...] = ()
    """Requested addresses outside our blocks: claim or borrow them."""
    ranges: tuple[str, ...] = ()
    """CIDRs in which our blocks have no free address: claim or borrow one in any of them."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Use of this node's blocks of one pool."""

    size: int
    used: int
    resting: int
    lent: int

    @property
    def free(self) -> int:
        """Addresses that could be given out now."""
        return self.size - self.used - self.resting - self.lent


def allocate(
    spaces: tuple[Space, ...], request: Request, now: float
) -> tuple[tuple[Space, ...], Granted | Missing]:
    """Give the request an address of every space, or say what is missing and change nothing.

    Raises PlaitError: PLAIT-IPAM-010 for a requested address that is in use, 011 for one, or for
    a range, outside the pools, 014 for a gateway, network or broadcast address.
    """
    wanted: dict[Family, int] = {}
    for address in request.wanted:
        family, asked = parse(address)
        if not any(s.pool.family == family and s.pool.contains(asked) for s in spaces):
            raise _outside(address, spaces)
        if wanted.setdefault(family, asked) != asked:
            raise PlaitError(
                "PLAIT-IPAM-011", f"two IPv{family} addresses were requested for one endpoint"
            )
    within = _by_family(request.ranges, spaces)
    for family, asked in wanted.items():
        if family in within and not any(_inside(cidr, asked) for cidr in within[family]):
            raise PlaitError(
                "PLAIT-IPAM-011",
                f"{text(family, asked)} is outside the ranges that were requested",
                why=f"they are {', '.join(within[family])}",
            )
    after: list[Space] = []
    addresses: list[str] = []
    families: list[Family] = []
    elsewhere: list[str] = []
    ranges: list[str] = []
    for space in spaces:
        value = wanted.get(space.pool.family)
        if value is None:
            some = within.get(space.pool.family, ())
            value = find_free(space, now, some)
            if value is None and some:
                ranges += some
                continue
            if value is None:
                families.append(space.pool.family)
                continue
        elif not _check_requested(space, value, request.owner):
            elsewhere.append(text(space.pool.family, value))
            continue
        after.append(take(space, value, request.owner))
        addresses.append(text(space.pool.family, value))
    if families or elsewhere or ranges:
        return spaces, Missing(
            families=tuple(families), addresses=tuple(elsewhere), ranges=tuple(ranges)
        )
    return tuple(after), Granted(tuple(addresses))


def _by_family(ranges: tuple[str, ...], spaces: tuple[Space, ...]) -> dict[Family, tuple[str, ...]]:
    """The ranges that have a space, by family."""
    found: dict[Family, tuple[str, ...]] = {}
    for cidr in ranges:
        family, low, high = bounds(cidr)
        space = next((s for s in spaces if s.pool.family == family), None)
        if space is None:
            continue  # The network, or the request, is not of this family.
        if not (space.pool.contains(low) and space.pool.contains(high)):
            raise _outside(cidr, spaces)
        found[family] = (*found.get(family, ()), cidr)
    return found


def _inside(cidr: str, value: int) -> bool:
    _, low, high = bounds(cidr)
    return low <= value <= high


def _check_requested(space: Space, value: int, owner: str) -> bool:
    """The address may be taken now; False when it lies in no block of ours."""
    address = text(space.pool.family, value)
    if value in space.pool.special:
        raise PlaitError(
            "PLAIT-IPAM-014",
            f"{address} is the gateway, network or broadcast address of {space.pool.cidr}",
            where=f"network/{space.pool.network}",
            fix=("choose another address of the pool",),
        )
    holder = space.used.get(value)
    # A hold is taken over by the attach that it is for, not by another hold.
    may_be = (None,) if owner == HELD else (None, HELD, owner)
    if holder not in may_be or value in space.lent:
        by = f"endpoint {holder}" if holder else "an endpoint of another node"
        by = "an endpoint that is being made" if holder == HELD else by
        raise PlaitError(
            "PLAIT-IPAM-010",
            f"{address} is in use",
            where=f"network/{space.pool.network}",
            why=f"{by} holds it",
            fix=("plait ps", "choose another address, or none"),
        )
    return any(
        _inside(block.cidr, value) for block in space.blocks if block.cidr not in space.closing
    )


def find_free(space: Space, now: float, ranges: tuple[str, ...] = ()) -> int | None:
    """The next address that may be given out unasked, round robin behind the last one; with
    ranges the lowest one of them, for who names a range names it for its addresses."""
    if ranges:
        return _find_within(space, now, ranges)
    blocks = [b for b in space.blocks if not b.loan and b.cidr not in space.closing]
    # Begin in the block that holds the cursor; visit it once more at the end for its lower part.
    at = next((i for i, b in enumerate(blocks) if _inside(b.cidr, space.cursor)), None)
    if at is not None:
        blocks = [*blocks[at:], *blocks[:at], blocks[at]]
    for index, block in enumerate(blocks):
        _, low, high = bounds(block.cidr)
        if index == 0 and at is not None:
            low = space.cursor + 1
        for value in range(low, high + 1):
            if _is_free(space, value, now) and not space.pool.is_reserved(value):
                return value
    return None


def _find_within(space: Space, now: float, ranges: tuple[str, ...]) -> int | None:
    for cidr in ranges:
        _, first, last = bounds(cidr)
        for block in sorted(space.blocks, key=lambda block: (block.loan, bounds(block.cidr)[1])):
            if block.cidr in space.closing:
                continue
            _, low, high = bounds(block.cidr)
            for value in range(max(low, first), min(high, last) + 1):
                if _is_free(space, value, now):
                    return value
    return None


def _is_free(space: Space, value: int, now: float) -> bool:
    if value in space.used or value in space.lent or value in space.pool.special:
        return False
    return space.resting.get(value, now) <= now


def take(space: Space, value: int, owner: str) -> Space:
    """The address belongs to `owner`; it rests no longer."""
    resting = space.resting
    if value in resting:
        resting = {k: v for k, v in resting.items() if k != value}
    return msgspec.structs.replace(
        space, used={**space.used, value: owner}, resting=resting, cursor=value
    )


def give_back(space: Space, value: int, until: float) -> Space:
    """The address is free again from `until` on; no error if it was not used."""
    if value not in space.used:
        return space
    used = {k: v for k, v in space.used.items() if k != value}
    return msgspec.structs.replace(space, used=used, resting={**space.resting, value: until})


def rested(space: Space, now: float) -> Space:
    """Forget the addresses that have rested enough."""
    if not any(until <= now for until in space.resting.values()):
        return space
    resting = {k: v for k, v in space.resting.items() if v > now}
    return msgspec.structs.replace(space, resting=resting)


def lend(space: Space, value: int) -> Space | str:
    """Lend the address to another node, or the reason why not."""
    if value in space.lent:
        return "another node has it already"
    if value in space.used:
        return "an endpoint of the block's owner uses it"
    if value in space.pool.special:
        return "it is the gateway, network or broadcast address of the pool"
    return msgspec.structs.replace(space, lent=space.lent | {value})


def usage(space: Space, cidr: str | None = None) -> Usage:
    """Use of one block, or of all blocks that are neither loans nor on their way back."""
    own = [b.cidr for b in space.blocks if not b.loan and b.cidr not in space.closing]
    cidrs = own if cidr is None else [cidr]
    ranges = [bounds(c)[1:] for c in cidrs]
    return Usage(
        size=sum(space.pool.usable(low, high) for low, high in ranges),
        used=_count(space.used, ranges),
        resting=_count(space.resting, ranges),
        lent=_count(space.lent, ranges),
    )


def _count(values: Mapping[int, object] | frozenset[int], ranges: list[tuple[int, int]]) -> int:
    """How many lie in the ranges, which never overlap.

    Asked for every block at every attach: it costs the smaller of the two sides.
    """
    total = 0
    for low, high in ranges:
        if high - low < len(values):
            total += sum(map(values.__contains__, range(low, high + 1)))
        else:
            total += sum(low <= value <= high for value in values)
    return total


def _has_any(values: Mapping[int, object], low: int, high: int) -> bool:
    """Whether some lie in the range: of a block that is in use, the first addresses tell."""
    if high - low < len(values):
        return any(map(values.__contains__, range(low, high + 1)))
    return any(low <= value <= high for value in values)


def wants_block(space: Space) -> bool:
    """Another block should be claimed ahead of need: there is none, or three quarters are gone."""
    have = usage(space)
    return _low(have, have.size)


def _low(have: Usage, size: int) -> bool:
    return size == 0 or (have.used + have.resting + have.lent) * 4 >= size * 3


def surplus(space: Space, *, scarce: bool = False) -> str | None:
    """An empty block that can go back, if the others keep a whole block's room without it.

    What `wants_block` would claim again at once is no surplus; the two would take turns for ever.
    Where blocks are `scarce` any empty one can go: a node that needs one claims one again.
    """
    own = [b.cidr for b in space.blocks if not b.loan and b.cidr not in space.closing]
    if len(own) < 2 and not scarce:
        return None
    have = usage(space)
    for cidr in reversed(own):
        if _has_any(space.used, *bounds(cidr)[1:]):
            continue
        block = usage(space, cidr)
        room = have.free - block.free >= max(space.pool.block_size, 1)
        enough = scarce or (room and not _low(have, have.size - block.size))
        if block.free == block.size and enough:
            return cidr
    return None


def exhausted(space: Space, taken_blocks: int, network_used: int) -> PlaitError:
    """The refusal when no address is free and no block can be claimed (P9)."""
    pool = space.pool
    have = usage(space)
    why = (
        f"{network_used} of {pool.size} addresses are in use in the whole network, "
        f"{have.resting} rest on this node after their release, and all "
        f"{pool.block_count} blocks are claimed or unusable ({taken_blocks} claimed)"
    )
    return PlaitError(
        "PLAIT-IPAM-012",
        f"the pool {pool.cidr} of network {pool.network!r} has no free address",
        where=f"network/{pool.network}",
        why=why,
        fix=(
            f"plait ps --network {pool.network}   # detach what is not needed",
            "plait network create NAME --pool CIDR   # a network with a larger pool",
        ),
    )


def _outside(address: str, spaces: tuple[Space, ...]) -> PlaitError:
    network = spaces[0].pool.network if spaces else "?"
    pools = " and ".join(s.pool.cidr for s in spaces) or "none"
    return PlaitError(
        "PLAIT-IPAM-011",
        f"{address} is outside the pools of network {network!r}",
        where=f"network/{network}",
        why=f"its pools are {pools}",
        fix=("choose an address of the pool, or none",),
    )
