"""Blocks and loans on their way back: whatever gets lost or comes between, P2 holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import Agent
from plait.agent.journal import SLACK, Journal
from plait.client.agent import AttachRequest
from plait.client.fake_api import FakeApi, FakeServer
from plait.ipam.allocate import Block, Space, surplus
from plait.ipam.pool import Pool, parse
from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    Loan,
    Metadata,
    Network,
    NetworkSpec,
    Object,
    block_name,
)

T = TypeVar("T", bound=Object)

POOL = "10.9.0.0/20"


class Wire(FakeApi):
    """A connection that can hold writes back, or lose the answers to them."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        """A write waits at the gate."""
        self.lose_answers = False

    async def _pass(self) -> None:
        self.waiting.set()
        await self.gate.wait()

    def _answer(self) -> None:
        if self.lose_answers:
            raise PlaitError("PLAIT-API-012", "the answer was lost")

    async def update(self, obj: T, *, dry_run: bool = False) -> T:
        await self._pass()
        stored = await super().update(obj, dry_run=dry_run)
        self._answer()
        return stored

    async def delete(
        self,
        kind: type[Object],
        name: str,
        namespace: str = "",
        *,
        revision: int = 0,
        dry_run: bool = False,
    ) -> None:
        await self._pass()
        await super().delete(kind, name, namespace, revision=revision, dry_run=dry_run)
        self._answer()


def request(ident: str, network: str = "plait", *addresses: str) -> AttachRequest:
    return AttachRequest(id=ident, network=network, name="web", addresses=addresses)


def own_block(host: fake.FakeHost, cidr: str, network: str = "plait") -> AddressBlock:
    spec = AddressBlockSpec(network=network, cidr=cidr, node=host.name)
    stored = host.server.put(
        AddressBlock(metadata=Metadata(name=block_name(network, cidr)), spec=spec)
    )
    assert isinstance(stored, AddressBlock)
    return stored


@contextlib.asynccontextmanager
async def alone(host: fake.FakeHost) -> AsyncIterator[tuple[Agent, Wire]]:
    """An agent whose blocks are reconciled when the test says so."""
    agent = host.agent()
    wire = Wire(host.server)
    agent.blocks._writes.api = wire
    await agent.start()
    try:
        async with asyncio.timeout(5):
            await agent.sync.first_listing.wait()
            writer = next(t for t in agent._tasks if t.get_name() == "agent: journal -> server")
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        yield agent, wire
    finally:
        wire.gate.set()
        await agent.stop()


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    other = Network(metadata=Metadata(name="b"), spec=NetworkSpec(pools=("10.8.0.0/20",)))
    return fake.FakeHost(fake.server(other, pools=(POOL,)), tmp_path)


async def test_no_block_goes_back_under_an_endpoint_that_came_meanwhile(
    host: fake.FakeHost,
) -> None:
    for network, pool in (("plait", "10.9"), ("b", "10.8")):
        for part in ("1.0", "2.0"):
            own_block(host, f"{pool}.{part}/26", network)
    async with alone(host) as (agent, wire):
        wire.gate.clear()
        wire.waiting.clear()
        tidying = asyncio.create_task(agent.blocks.reconcile())
        await wire.waiting.wait()
        # The first network's spare block is on its way; now both blocks of the other get users.
        busy = (
            "b" if any(n == "plait" for n, _ in agent.state.records.ledger.returning) else "plait"
        )
        first = "10.8" if busy == "b" else "10.9"
        for part in ("1", "2"):
            await agent.service.attach(request(f"e{part}", busy, f"{first}.{part}.7"))
        wire.gate.set()
        await tidying
        for part in ("1", "2"):
            assert f"/addressblocks/{block_name(busy, f'{first}.{part}.0/26')}" in (
                host.server.objects
            )


async def test_a_block_whose_return_was_not_answered_is_used_no_more(host: fake.FakeHost) -> None:
    blocks = {own_block(host, cidr).spec.cidr for cidr in ("10.9.1.0/26", "10.9.2.0/26")}
    async with alone(host) as (agent, wire):
        wire.lose_answers = True
        with pytest.raises(PlaitError):
            await agent.blocks.reconcile()
        left = {o.spec.cidr for o in host.server.objects.values() if isinstance(o, AddressBlock)}
        (gone,) = blocks - left
        await agent._save(force=True)
        inside = gone.replace(".0/26", ".9")
        with pytest.raises(PlaitError) as refused:
            await agent.service.attach(request("e1", "plait", inside))
        assert refused.value.code == "PLAIT-IPAM-015"
        given = await agent.service.attach(request("e2"))
        assert given.addresses[0].rpartition(".")[0] != gone.rpartition(".")[0]
    # After a restart, too, however old the copy of the snapshot is.
    host.server.cut()
    agent = host.agent()
    await agent.start()
    try:
        with pytest.raises(PlaitError):
            await agent.service.attach(request("e1", "plait", inside))
        given = await agent.service.attach(request("e3"))
        assert given.addresses[0].rpartition(".")[0] != gone.rpartition(".")[0]
    finally:
        await agent.stop()


async def test_a_return_that_was_not_answered_is_settled_later(host: fake.FakeHost) -> None:
    for cidr in ("10.9.1.0/26", "10.9.2.0/26"):
        own_block(host, cidr)
    async with alone(host) as (agent, wire):
        wire.lose_answers = True
        with pytest.raises(PlaitError):
            await agent.blocks.reconcile()
        ((network, gone),) = agent.state.records.ledger.returning
        wire.lose_answers = False
        await agent.blocks.reconcile()
        await agent._save(force=True)
        assert not agent.state.records.ledger.returning
        # Claimed anew, it is as good as any other.
        await agent.service.attach(request("e1", network, gone.replace(".0/26", ".9")))
        assert any(
            isinstance(o, AddressBlock) and o.spec.cidr == gone
            for o in host.server.objects.values()
        )


async def test_a_block_in_which_somebody_asked_for_a_loan_stays(host: fake.FakeHost) -> None:
    for cidr in ("10.9.1.0/26", "10.9.2.0/26"):
        own_block(host, cidr)
    async with alone(host) as (agent, wire):
        wire.gate.clear()
        wire.waiting.clear()
        tidying = asyncio.create_task(agent.blocks.reconcile())
        await wire.waiting.wait()
        ((_, cidr),) = agent.state.records.ledger.returning
        name = block_name("plait", cidr)
        block = host.server.objects[f"/addressblocks/{name}"]
        assert isinstance(block, AddressBlock)
        loan = Loan(address=cidr.replace(".0/26", ".9"), node="h2")
        host.server.put(
            msgspec.structs.replace(block, spec=msgspec.structs.replace(block.spec, loans=(loan,)))
        )
        wire.gate.set()
        await tidying
        await agent.blocks.reconcile()
        assert not agent.state.records.ledger.returning
        after = host.server.objects[f"/addressblocks/{name}"]
        assert isinstance(after, AddressBlock)
        assert [n.state for n in after.spec.loans] == ["granted"]


async def test_two_who_ask_for_loans_at_once_are_both_answered(host: fake.FakeHost) -> None:
    """The second one is heard of by the refusal of our answer to the first, before the watch."""
    stored = own_block(host, "10.9.1.0/26")

    def ask(*nodes: str) -> None:
        asked = tuple(Loan(address=f"10.9.1.1{n[1:]}", node=n) for n in nodes)
        spec = msgspec.structs.replace(stored.spec, loans=asked)
        host.server.put(msgspec.structs.replace(stored, spec=spec))

    def states() -> list[str]:
        block = host.server.objects[stored.key]
        assert isinstance(block, AddressBlock)
        return [loan.state for loan in block.spec.loans]

    async with alone(host) as (agent, _):
        ask("h2")
        await until(lambda: agent.state.snapshot.blocks[stored.metadata.name].spec.loans)
        watch = next(t for t in agent._tasks if t.get_name() == "agent: server -> snapshot")
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        ask("h2", "h3")
        agent.sync._kick.clear()
        await agent.blocks.reconcile()
        assert agent.sync._kick.is_set(), states()
        await agent.blocks.reconcile()
        assert states() == ["granted", "granted"]


async def test_a_loan_on_its_way_back_is_not_given_out(host: fake.FakeHost) -> None:
    loan = Loan(address="10.9.3.9", node=host.name, state="granted")
    spec = AddressBlockSpec(network="plait", cidr="10.9.3.0/26", node="h2", loans=(loan,))
    host.server.put(
        AddressBlock(metadata=Metadata(name=block_name("plait", "10.9.3.0/26")), spec=spec)
    )
    async with alone(host) as (agent, wire):
        wire.gate.clear()
        wire.waiting.clear()
        returning = asyncio.create_task(agent.blocks.reconcile())
        await wire.waiting.wait()
        with pytest.raises(PlaitError) as refused:
            await agent.service.attach(request("e1", "plait", "10.9.3.9"))
        assert refused.value.code == "PLAIT-IPAM-015"
        wire.gate.set()
        await returning
        block = host.server.objects[f"/addressblocks/{block_name('plait', '10.9.3.0/26')}"]
        assert isinstance(block, AddressBlock)
        assert not block.spec.loans


async def test_a_loan_is_kept_while_its_attach_waits_for_another(tmp_path: Path) -> None:
    """An IPv4 address is there, the IPv6 address of the same request is still asked for."""
    host = fake.FakeHost(fake.server(), tmp_path)
    spec = AddressBlockSpec(network="plait", cidr="fd09::500/122", node="h2")
    name = block_name("plait", spec.cidr)
    host.server.put(AddressBlock(metadata=Metadata(name=name), spec=spec))
    async with alone(host) as (agent, wire):
        wire.gate.clear()
        wire.waiting.clear()
        attaching = asyncio.create_task(
            agent.service.attach(request("e1", "plait", "10.9.3.9", "fd09::507"))
        )
        await wire.waiting.wait()
        mine = Loan(address="10.9.3.9", node=host.name, state="granted")
        lent = agent.state.snapshot.blocks[block_name("plait", "10.9.3.0/26")]
        assert lent.spec.loans == (mine,)
        tidying = asyncio.create_task(agent.blocks.reconcile())
        await asyncio.sleep(0)
        assert ("plait", "10.9.3.9/32") not in agent.state.records.ledger.returning
        wire.gate.set()
        loan = Loan(address="fd09::507", node=host.name, state="granted")
        host.server.put(
            AddressBlock(
                metadata=Metadata(name=name), spec=msgspec.structs.replace(spec, loans=(loan,))
            )
        )
        async with asyncio.timeout(5):
            assert (await attaching).addresses == ("10.9.3.9", "fd09::507")
            await tidying


async def test_a_network_that_became_quiet_gives_its_spare_block_back(host: fake.FakeHost) -> None:
    for cidr in ("10.9.1.0/26", "10.9.2.0/26"):
        own_block(host, cidr)
    async with alone(host) as (agent, _):
        for number, cidr in enumerate(("10.9.1.7", "10.9.2.7")):
            await agent.service.attach(request(f"e{number}", "plait", cidr))
        for number in range(2):
            await agent.service.detach(f"e{number}")
        await agent.blocks.reconcile()
        assert len(agent.state.snapshot.blocks_of("plait")) == 2, "addresses rest still"
        host.clock.advance(61)
        agent._housekeeping()
        await agent.blocks.reconcile()
        assert len(agent.state.snapshot.blocks_of("plait")) == 1


def test_a_journal_that_cannot_be_compacted_keeps_what_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", lambda: ())
    journal.open()
    (tmp_path / "journal.new").mkdir()
    journal.append(*[{"t": "x"}] * (SLACK + 1))
    journal.append({"t": "last"}, durable=True)
    journal.close()
    assert len(Journal(tmp_path / "journal", lambda: ()).open()) == SLACK + 2


def test_where_blocks_are_scarce_the_last_empty_one_goes_back() -> None:
    pool = Pool.of("n", POOL)
    space = Space(pool=pool, blocks=(Block("10.9.1.0/26"),))
    assert surplus(space) is None
    assert surplus(space, scarce=True) == "10.9.1.0/26"
    busy = msgspec.structs.replace(space, used={parse("10.9.1.9")[1]: "e"})
    assert surplus(busy, scarce=True) is None


async def test_an_idle_node_makes_room_for_the_node_that_comes_last(tmp_path: Path) -> None:
    shared = fake.server(pools=("10.9.0.0/24",))
    first, last = fake.FakeHost(shared, tmp_path), fake.FakeHost(shared, tmp_path, 2)
    own_block(first, "10.9.0.0/28")
    for number in range(1, 16):
        cidr = f"10.9.0.{16 * number}/28"
        spec = AddressBlockSpec(network="plait", cidr=cidr, node="busy")
        shared.put(AddressBlock(metadata=Metadata(name=block_name("plait", cidr)), spec=spec))
    async with alone(first) as (idle, _), alone(last) as (late, _):
        with pytest.raises(PlaitError) as refused:
            await late.service.attach(request("e1"))
        assert refused.value.code == "PLAIT-IPAM-012"
        await idle.blocks.reconcile()
        async with asyncio.timeout(5):
            while len(late.state.snapshot.blocks) > 15:
                await asyncio.sleep(0.01)
        given = await late.service.attach(request("e1"))
        assert given.addresses == ("10.9.0.2",)
