"""Claiming, lending and returning blocks: the part of IPAM that talks to the server.

A claim is a create of one key, so the store decides who wins a race. Only a block's owner
answers for its addresses; a block that nobody owns is only a list of single addresses lent out.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec
import structlog

from plait.agent import ledger as record
from plait.agent.addresses import AddressBook, Holder
from plait.agent.block_writes import AWAY, BlockWrites, with_loan, without_loan
from plait.agent.desired.inputs import host_cidr
from plait.agent.records import Records
from plait.agent.snapshot import Snapshot
from plait.client.base import Api
from plait.ipam.allocate import Missing, Space, exhausted, find_free, surplus, wants_block
from plait.ipam.pool import Family, bounds, next_block, text
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, Loan, block_name

ATTEMPTS: Final = 64
"""Races lost in a row before a claim gives up."""
LOANS: Final = 8
"""Addresses of a range that others are asked for, one after the other."""
REFUSED_LOAN: Final = ("PLAIT-IPAM-010", "PLAIT-IPAM-015")
LOAN_WAIT: Final = 4.0
"""Seconds to wait for a block's owner; below dockerd's and the CNI's patience."""
FULL: Final = 0.75
"""Share of a pool's blocks beyond which nobody claims ahead of need."""
SCARCE: Final = 0.9
"""Share beyond which every empty block goes back, a node's last one, too: others need it."""

log: Final = structlog.get_logger("plait.agent.blocks")


class Blocks:
    """This node's dealings with AddressBlocks."""

    def __init__(
        self,
        api: Api,
        snapshot: Snapshot,
        records: Records,
        book: AddressBook,
        *,
        node: str,
        changed: Callable[[str, bool], None],
        clock: Callable[[], float],
        loan_wait: float = LOAN_WAIT,
    ) -> None:
        """`changed` is told the network whose blocks are other than before, and whether by
        somebody else's doing."""
        self._writes = BlockWrites(api, snapshot, records, node=node, changed=changed)
        self._snapshot = snapshot
        self._records = records
        self._book = book
        self._node = node
        self._changed = changed
        self._clock = clock
        self._loan_wait = loan_wait
        self._locks: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asking: set[tuple[str, str]] = set()
        self._lost_blocks: set[tuple[str, str]] = set()
        self._cidrs: dict[tuple[str, str], str] = {}

    # On demand: an endpoint waits.

    async def obtain(self, network: str, missing: Missing) -> None:
        """Get hold of what an allocation lacks.

        Raises PLAIT-IPAM-012 (the pool is used up), 013 (the server is away), 010 or 015 (a
        requested address cannot be had).
        """
        # None of them is used before all are there, and what nobody uses is given back.
        asked = {(network, address) for address in missing.addresses} - self._asking
        self._asking |= asked
        try:
            for family in missing.families:
                async with self._locks[network, family]:
                    space = self._space(network, family)
                    if find_free(space, self._clock()) is None:
                        await self._claim(space)
            for address in missing.addresses:
                async with self._locks[network, bounds(address)[0]]:
                    await self._obtain_address(network, address)
            for family in sorted({bounds(cidr)[0] for cidr in missing.ranges}):
                ranges = tuple(cidr for cidr in missing.ranges if bounds(cidr)[0] == family)
                async with self._locks[network, family]:
                    space = self._space(network, family)
                    if find_free(space, self._clock(), ranges) is None:
                        await self._obtain_within(space, ranges, asked)
        finally:
            self._asking -= asked

    def _space(self, network: str, family: Family) -> Space:
        return next(s for s in self._book.spaces(network) if s.pool.family == family)

    async def _claim(self, space: Space) -> None:
        """Claim the next block of a pool."""
        pool = space.pool
        taken = {block.spec.cidr for block in self._snapshot.blocks_of(pool.network)}
        for _ in range(ATTEMPTS):
            cidr = next_block(pool, taken, self._node)
            if cidr is None:
                if await self._adopt(space):
                    return
                raise exhausted(space, len(taken), self._used_everywhere(pool.network, pool.family))
            if await self._writes.create(pool.network, cidr, owner=self._node):
                return
            taken.add(cidr)
        raise PlaitError(
            "PLAIT-IPAM-012",
            f"no block of {pool.cidr} could be claimed",
            where=f"network/{pool.network}",
            why=f"{ATTEMPTS} claims in a row were lost to other nodes",
            fix=("try again",),
        )

    async def _adopt(self, space: Space) -> bool:
        """Become the owner of a block of which only single addresses are lent out."""
        for block in self._snapshot.blocks_of(space.pool.network):
            if block.spec.node or bounds(block.spec.cidr)[0] != space.pool.family:
                continue
            spec = msgspec.structs.replace(block.spec, node=self._node)
            if await self._writes.update(block, spec):
                return True
        return False

    def _used_everywhere(self, network: str, family: int) -> int:
        return sum(
            endpoint.spec.network == network
            and any((":" in a) == (family == 6) for a in endpoint.spec.addresses)
            for endpoint in self._snapshot.endpoints.values()
        )

    async def _obtain_address(self, network: str, address: str) -> None:
        external = self._snapshot.networks[network].spec.external_ipam
        for _ in range(ATTEMPTS):
            holder = self._book.who_owns(network, address)
            if holder.node == self._node:
                if self._is_returning(network, holder, address):
                    raise _not_lent(network, address, "it is being given back just now")
                return
            if holder.loan:
                raise _in_use(network, address, f"node {holder.node} has it on loan")
            block = self._snapshot.blocks.get(block_name(network, holder.cidr))
            if block is None:
                if external:
                    done = await self._writes.create(network, holder.cidr, owner=self._node)
                else:
                    done = await self._writes.create(
                        network, holder.cidr, loans=(self._loan(address, "granted"),)
                    )
            elif not block.spec.node:
                spec = block.spec
                if external:
                    spec = msgspec.structs.replace(spec, node=self._node)
                else:
                    spec = with_loan(spec, self._loan(address, "granted"))
                done = await self._writes.update(block, spec)
            else:
                done = await self._borrow(block, address, holder)
            if done:
                return
        raise _not_lent(network, address, "other nodes were quicker, again and again")

    async def _borrow(self, block: AddressBlock, address: str, holder: Holder) -> bool:
        """Ask the block's owner for one address and wait for the answer."""
        network, name = block.spec.network, block.metadata.name
        if not await self._writes.update(
            block, with_loan(block.spec, self._loan(address, "requested"))
        ):
            return False
        deadline = self._clock() + self._loan_wait
        while True:
            loan = self._my_loan(name, address)
            if loan is not None and loan.state == "granted":
                self._writes.keep(network, host_cidr(address))
                return True
            if loan is not None and loan.state == "refused":
                await self._withdraw(name, address)
                raise _in_use(network, address, f"node {holder.node}: {loan.reason}")
            if self._clock() >= deadline:
                await self._withdraw(name, address)
                raise _not_lent(
                    network,
                    address,
                    f"node {holder.node} owns the block {block.spec.cidr} and did not "
                    f"answer within {self._loan_wait:g} s",
                )
            await asyncio.sleep(0.02)

    async def _obtain_within(
        self, space: Space, ranges: tuple[str, ...], asked: set[tuple[str, str]]
    ) -> None:
        """An address of one of the ranges: a block that nobody has, or else one on loan."""
        network, family = space.pool.network, space.pool.family
        taken = {block.spec.cidr for block in self._snapshot.blocks_of(network)}
        for cidr in islice(space.pool.blocks_in(ranges), ATTEMPTS):
            if cidr not in taken and await self._writes.create(network, cidr, owner=self._node):
                return
        users = {
            address
            for endpoint in self._snapshot.endpoints.values()
            if endpoint.spec.network == network
            for address in endpoint.spec.addresses
        }
        last: PlaitError | None = None
        for value in islice(self._of_others(space, ranges, users), LOANS):
            address = text(family, value)
            self._asking.add((network, address))
            asked.add((network, address))
            try:
                await self._obtain_address(network, address)
            except PlaitError as error:
                if error.code not in REFUSED_LOAN:
                    raise
                last = error
            else:
                return
        raise PlaitError(
            "PLAIT-IPAM-012",
            f"no address of {', '.join(ranges)} is free in network {network!r}",
            where=f"network/{network}",
            why=last.why if last is not None else "all of them are in use, resting or reserved",
            fix=(f"plait ps --network {network}   # who has them", "ask for a wider range"),
        )

    def _of_others(self, space: Space, ranges: tuple[str, ...], users: set[str]) -> Iterator[int]:
        """Addresses in blocks of other nodes of which nothing says that they are in use."""
        network, family = space.pool.network, space.pool.family
        for block in self._snapshot.blocks_of(network):
            spec = block.spec
            if bounds(spec.cidr)[0] != family or spec.node == self._node:
                continue
            lent = {loan.address for loan in spec.loans}
            _, low, high = bounds(spec.cidr)
            for cidr in ranges:
                _, first, last = bounds(cidr)
                for value in range(max(low, first), min(high, last) + 1):
                    if value not in space.pool.special and not {text(family, value)} & (
                        users | lent
                    ):
                        yield value

    def _my_loan(self, name: str, address: str) -> Loan | None:
        block = self._snapshot.blocks.get(name)
        loans = block.spec.loans if block is not None else ()
        return next((n for n in loans if n.address == address and n.node == self._node), None)

    async def _withdraw(self, name: str, address: str) -> None:
        for _ in range(ATTEMPTS):
            block = self._snapshot.blocks.get(name)
            if block is None or await self._writes.update(
                block, without_loan(block.spec, address, self._node)
            ):
                return

    def _loan(self, address: str, state: str) -> Loan:
        return Loan(address=address, node=self._node, state=state)  # type: ignore[arg-type]

    # In the background.

    async def reconcile(self) -> None:
        """Answer, return, take back and claim ahead, each as far as it is due."""
        for block in tuple(self._snapshot.blocks.values()):
            if block.spec.node == self._node:
                await self._answer(block)
            await self._return_loans(block)
        self._end_loans()
        await self._reclaim()
        first: PlaitError | None = None
        for network, cidr in tuple(self._records.ledger.returning):
            try:
                await self._finish_return(network, cidr)
            except PlaitError as error:
                if error.code in (AWAY, "PLAIT-IPAM-013"):
                    raise
                first = first or error
        for network, family in [(s.pool.network, s.pool.family) for s in self._book.all()]:
            if network not in self._snapshot.networks:
                continue  # It went while another's turn was waited for.
            try:
                await self._keep_reserve(network, family)
            except PlaitError as error:
                if error.code in (AWAY, "PLAIT-IPAM-013"):
                    raise
                first = first or error  # One network must not block the others.
        if first is not None:
            raise first

    async def _answer(self, block: AddressBlock) -> None:
        """Grant or refuse the loans that others ask for in a block of ours."""
        spec = block.spec
        if all(loan.state != "requested" for loan in spec.loans):
            return
        granted = {loan.address for loan in spec.loans if loan.state == "granted"}
        loans: list[Loan] = []
        for loan in spec.loans:
            if loan.state == "requested":
                refusal = ""
                known = (spec.network, loan.address) in self._records.ledger.lent
                if loan.address in granted or not known:
                    refusal = self._book.lend(spec.network, loan.address)
                if not refusal:
                    granted.add(loan.address)
                    # Before the server has it: a crash in between must not give it to two.
                    self._records.write(record.lent(spec.network, loan.address, 0), durable=True)
                loan = msgspec.structs.replace(
                    loan, state="refused" if refusal else "granted", reason=refusal
                )
            loans.append(loan)
        await self._writes.update(block, msgspec.structs.replace(spec, loans=tuple(loans)))

    def _end_loans(self) -> None:
        """Take back addresses that their borrowers have returned."""
        for network, address in tuple(self._records.ledger.lent):
            holder = self._book.who_owns(network, address)
            block = self._snapshot.blocks.get(block_name(network, holder.cidr))
            still = block is not None and any(
                loan.address == address and loan.state != "refused" for loan in block.spec.loans
            )
            if not still and self._snapshot.live:
                self._records.write(record.returned(network, address))
                self._changed(network, False)

    async def _return_loans(self, block: AddressBlock) -> None:
        """Give back what we borrowed and use no more."""
        network = block.spec.network
        busy = self._book.resting_loans() | self._asking
        for loan in block.spec.loans:
            key = (network, loan.address)
            if loan.node != self._node or key in busy:
                continue
            if self._book.holder_of(network, loan.address) is not None:
                continue
            self._writes.begin_return(network, host_cidr(loan.address))
            spec = without_loan(block.spec, loan.address, self._node)
            if not spec.node and not spec.loans:
                await self._writes.delete(block)
            else:
                await self._writes.update(block, spec)
            return  # Our copy of the block is old now; the next reconciliation goes on.

    async def _reclaim(self) -> None:
        """Claim again the blocks of our endpoints that the server does not know to be ours."""
        for network, cidr in tuple(self._lost_blocks):
            log.warning("claiming a block of ours again", network=network, block=cidr)
            block = self._snapshot.blocks.get(block_name(network, cidr))
            if block is None:
                await self._writes.create(network, cidr, owner=self._node)
            elif not block.spec.node:
                await self._writes.update(
                    block, msgspec.structs.replace(block.spec, node=self._node)
                )
            # Only now: a claim that did not get through is still due. One that was lost to
            # another node has begun a new survey.
            self._lost_blocks.discard((network, cidr))

    async def _keep_reserve(self, network: str, family: Family) -> None:
        """Claim ahead of need, so that attaching works while the server is away; return what is
        more than enough."""
        space = self._space(network, family)
        pool = space.pool
        blocks = self._snapshot.blocks_of(network)
        taken = {b.spec.cidr for b in blocks if bounds(b.spec.cidr)[0] == family}
        spare = surplus(space, scarce=len(taken) >= pool.block_count * SCARCE)
        if spare is not None:
            # Nothing is awaited between the look and the note that nobody may use it.
            await self._give_back(network, spare)
            return
        if pool.block_size == 1 or not wants_block(space):
            return
        if len(taken) >= pool.block_count * FULL:
            return
        async with self._locks[network, family]:
            space = self._space(network, family)
            cidr = next_block(pool, taken, self._node)
            if cidr is not None and wants_block(space):
                await self._writes.create(pool.network, cidr, owner=self._node)

    async def _give_back(self, network: str, cidr: str) -> None:
        block = self._snapshot.blocks.get(block_name(network, cidr))
        if block is None or block.spec.loans:
            return
        self._writes.begin_return(network, cidr)
        await self._finish_return(network, cidr)

    async def _finish_return(self, network: str, cidr: str) -> None:
        """Delete a block of ours until the server says that it is gone."""
        block = self._snapshot.blocks.get(block_name(network, cidr))
        if block is None or block.spec.node != self._node:
            return
        if block.spec.loans:
            # Asked for since, so its revision is another: no deletion under way can succeed.
            self._writes.keep(network, cidr)
            return
        await self._writes.delete(block)

    def _is_returning(self, network: str, holder: Holder, address: str) -> bool:
        cidr = host_cidr(address) if holder.loan else holder.cidr
        return (network, cidr) in self._records.ledger.returning

    def returned(self) -> frozenset[tuple[str, str]]:
        """Blocks (network, CIDR) on their way back that the snapshot does not give us any more.

        When a snapshot that says so is on disk, `forget_returned` may drop the notes of them.
        """
        return frozenset(
            (network, cidr)
            for network, cidr in self._records.ledger.returning
            if not self._given(network, cidr)
        )

    def _given(self, network: str, cidr: str) -> bool:
        known = network in self._snapshot.networks
        spaces = self._book.spaces(network) if known else ()
        return any(cidr == block.cidr for space in spaces for block in space.blocks)

    def forget_returned(self, blocks: frozenset[tuple[str, str]]) -> None:
        """Drop the notes of blocks that have gone back for good, but for those we own again."""
        for network, cidr in blocks.intersection(self._records.ledger.returning):
            if not self._given(network, cidr):
                self._records.forget(record.kept(network, cidr))

    def survey(self) -> frozenset[str]:
        """Compare our endpoints' addresses with the blocks; due when somebody else changed one.

        Returns the endpoints whose address belongs to another node by now: they must be silent
        (P2). Blocks of ours that the server does not know are claimed again by `reconcile`.
        """
        if not self._snapshot.live:
            return frozenset()
        blocks = {
            (block.spec.network, block.spec.cidr): block for block in self._snapshot.blocks.values()
        }
        fenced: set[str] = set()
        self._lost_blocks.clear()
        used: dict[tuple[str, str], str] = {}
        for ident, endpoint in self._records.ledger.endpoints.items():
            network = endpoint.request.network
            if network not in self._snapshot.networks:
                continue
            for address in endpoint.addresses:
                key = (network, address)
                cidr = used[key] = self._cidrs.get(key) or self._book.block_of(network, address)
                block = blocks.get((network, cidr))
                holder = _user(block, address) if block is not None else ""
                if not holder and cidr:
                    self._lost_blocks.add((network, cidr))
                elif holder not in ("", self._node):
                    fenced.add(ident)
        self._cidrs = used
        return frozenset(fenced)


def _user(block: AddressBlock, address: str) -> str:
    """Node that may use an address of a block; empty when nobody."""
    for loan in block.spec.loans:
        if loan.address == address and loan.state == "granted":
            return loan.node
    return block.spec.node


def _in_use(network: str, address: str, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-IPAM-010",
        f"{address} is in use",
        where=f"network/{network}",
        why=why,
        fix=("plait ps", "choose another address, or none"),
    )


def _not_lent(network: str, address: str, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-IPAM-015",
        f"{address} cannot be had",
        where=f"network/{network}",
        why=why,
        fix=("plait peers   # is the owner up?", "choose another address, or none"),
    )
