"""One write of an AddressBlock each, and what follows from its answer.

What the server granted us is ours at a new revision; what we give back is used no more before
the server is told, and that is in the journal first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from plait.agent import ledger as record
from plait.agent.desired.inputs import host_cidr
from plait.agent.failpoints import failpoint
from plait.agent.records import Records
from plait.agent.snapshot import Snapshot
from plait.client.base import Api
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, AddressBlockSpec, Loan, Metadata, block_name

LOST_RACE: Final = ("PLAIT-API-005", "PLAIT-API-006", "PLAIT-API-004")
"""Somebody was quicker: look again, then try again."""
AWAY: Final = "PLAIT-API-012"


class BlockWrites:
    """See the module's docstring. A write returns False when somebody was quicker; the snapshot
    has then been brought up to date."""

    def __init__(
        self,
        api: Api,
        snapshot: Snapshot,
        records: Records,
        *,
        node: str,
        changed: Callable[[str, bool], None],
    ) -> None:
        """`changed` is told the network whose blocks are other than before, and whether by
        somebody else's doing."""
        self.api = api
        self._snapshot = snapshot
        self._records = records
        self._node = node
        self._changed = changed

    async def create(
        self, network: str, cidr: str, *, owner: str = "", loans: tuple[Loan, ...] = ()
    ) -> bool:
        """Claim a block, or ask for a loan in one that nobody has."""
        block = AddressBlock(
            metadata=Metadata(name=block_name(network, cidr)),
            spec=AddressBlockSpec(network=network, cidr=cidr, node=owner, loans=loans),
        )
        try:
            stored = await self.api.create(block)
        except PlaitError as error:
            await self._lost(block, error)
            return False
        failpoint("claim.created")
        self._granted(stored)
        return True

    async def update(self, block: AddressBlock, spec: AddressBlockSpec) -> bool:
        """Change a block that is there."""
        try:
            stored = await self.api.update(msgspec.structs.replace(block, spec=spec))
        except PlaitError as error:
            await self._lost(block, error)
            return False
        self._granted(stored)
        return True

    async def delete(self, block: AddressBlock) -> bool:
        """Give a block back."""
        revision = block.metadata.revision
        try:
            await self.api.delete(AddressBlock, block.metadata.name, revision=revision)
        except PlaitError as error:
            await self._lost(block, error)
            return False
        self._snapshot.delete(block, revision, answer=True)
        self._changed(block.spec.network, False)
        return True

    async def _lost(self, block: AddressBlock, error: PlaitError) -> None:
        """Learn what is there instead; raises if the refusal was another one."""
        if error.code == AWAY:
            raise PlaitError(
                "PLAIT-IPAM-013",
                f"no block of network {block.spec.network!r} can be claimed now",
                where=f"network/{block.spec.network}",
                why=f"the blocks of this node are used up, and the server is away: {error.detail}",
                fix=("plait status", "try again when the server is back"),
            ) from error
        if error.code not in LOST_RACE:
            raise error
        try:
            self._learn(await self.api.get(AddressBlock, block.metadata.name), foreign=True)
        except PlaitError as again:
            if again.code != "PLAIT-API-004":
                raise
            gone = self._snapshot.delete(block, block.metadata.revision, answer=True)
            self._changed(block.spec.network, gone is not None)

    def _granted(self, block: AddressBlock) -> None:
        """A write of ours succeeded: what it gives us is ours at a new revision."""
        self._learn(block)
        spec = block.spec
        if spec.node == self._node:
            self.keep(spec.network, spec.cidr)
        for loan in spec.loans:
            if loan.node == self._node and loan.state == "granted":
                self.keep(spec.network, host_cidr(loan.address))

    def _learn(self, block: AddressBlock, *, foreign: bool = False) -> None:
        learnt = self._snapshot.put(block, answer=True) is not block
        self._changed(block.spec.network, foreign and learnt)

    def begin_return(self, network: str, cidr: str) -> None:
        """Use a block, or an address on loan, no more: the server may hear of its return and we
        not of its answer, and then it is somebody else's."""
        if (network, cidr) not in self._records.ledger.returning:
            self._records.write(record.returning(network, cidr), durable=True)
            self._changed(network, False)

    def keep(self, network: str, cidr: str) -> None:
        """The block, or the address on loan, is ours to use again."""
        if (network, cidr) in self._records.ledger.returning:
            self._records.forget(record.kept(network, cidr))
            self._changed(network, False)


def with_loan(spec: AddressBlockSpec, loan: Loan) -> AddressBlockSpec:
    """The block's specification with this loan in the place of one like it."""
    kept = without_loan(spec, loan.address, loan.node).loans
    return msgspec.structs.replace(spec, loans=(*kept, loan))


def without_loan(spec: AddressBlockSpec, address: str, node: str = "") -> AddressBlockSpec:
    """The block's specification without loans of this address (to this node only, if one is
    given)."""
    return msgspec.structs.replace(
        spec,
        loans=tuple(
            loan for loan in spec.loans if loan.address != address or (node and loan.node != node)
        ),
    )
