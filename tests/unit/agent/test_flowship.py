"""Telling the server: batches, what is sent again, what is lost, and who an address is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from plait.agent.flowship import AGAIN, BATCH, Shipper
from plait.agent.rulecounts import RuleCounts
from plait.agent.whois import Whois
from plait.client.agent import AttachRequest, LocalEndpoint
from plait.client.base import WatchEvent
from plait.client.flowtail import FlowTail
from plait.model.errors import PlaitError
from plait.model.flowring import FlowRing, utc
from plait.model.flows import FlowBatch, FlowEnd, FlowQuery, FlowReceipt, FlowRecord
from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
)
from plait.policy.compile import Meaning
from plait.wire.nft_read import Count

NOW = 1_000_000.0


def record(port: int) -> FlowRecord:
    end = FlowEnd(address="10.0.0.1")
    return FlowRecord(
        time=utc(NOW),
        node="h1",
        decision="deny",
        direction="egress",
        protocol="tcp",
        src=end,
        dst=end,
        dst_port=port,
    )


def new_tail(capacity: int = 5000) -> FlowTail:
    return FlowTail(FlowRing(capacity=capacity, wall=lambda: NOW), wall=lambda: NOW)


class Counters:
    """The kernel's counters."""

    def __init__(self) -> None:
        self.values: dict[str, Count] = {}

    def counters(self) -> Mapping[str, Count]:
        return dict(self.values)

    def close(self) -> None:
        pass


MEANINGS = {
    "r1": Meaning(direction="ingress", action="Deny", staged=False, policy="guard", index=0),
    "i1": Meaning(direction="egress", action="Deny", staged=False, isolating=("a", "b")),
}


class Server:
    """Takes batches, or refuses them."""

    def __init__(self) -> None:
        self.log = 7
        self.batches: list[FlowBatch] = []
        self.refuse = ""
        self.most = BATCH

    async def take(self, batch: FlowBatch) -> FlowReceipt:
        if self.refuse:
            raise PlaitError(self.refuse, "no")
        if len(batch.items) > self.most:
            raise PlaitError("PLAIT-API-007", "a body has at most so many bytes")
        if batch.to in (0, self.log):
            self.batches.append(batch)
        return FlowReceipt(log=self.log)

    @property
    def ports(self) -> list[int]:
        return [r.dst_port for batch in self.batches for r in batch.items]


class Rig:
    def __init__(self, capacity: int = 5000) -> None:
        self.tail = new_tail(capacity)
        self.counters = Counters()
        self.counts = RuleCounts(self.counters, MEANINGS.get)
        self.server = Server()
        self.shipper = Shipper(self.tail, self.counts, self.server.take)

    async def ship(self) -> None:
        while await self.shipper.round(wait=0):
            pass


async def test_every_record_is_sent_once_and_in_order() -> None:
    rig = Rig()
    rig.tail.extend([record(port) for port in range(2 * BATCH + 7)])
    await rig.ship()
    rig.tail.extend([record(9)], lost=3)
    await rig.ship()
    assert rig.server.ports == [*range(2 * BATCH + 7), 9]
    assert [batch.first for batch in rig.server.batches] == [True, False, False, False]
    assert sum(batch.lost for batch in rig.server.batches) == 3
    assert max(len(batch.items) for batch in rig.server.batches) == BATCH


async def test_while_the_server_is_away_the_log_keeps_what_fits() -> None:
    rig = Rig(capacity=10)
    rig.tail.extend([record(0)])
    await rig.ship()
    rig.server.refuse = "PLAIT-API-012"
    for port in range(1, 31):
        rig.tail.extend([record(port)])
    with pytest.raises(PlaitError):
        await rig.shipper.round(wait=0)
    rig.server.refuse = ""
    await rig.ship()
    assert rig.server.ports == [0, *range(21, 31)]
    assert sum(batch.lost for batch in rig.server.batches) == 20


async def test_a_batch_that_is_never_taken_does_not_hold_up_the_others() -> None:
    rig = Rig()
    rig.tail.extend([record(1), record(2)])
    rig.server.refuse = "PLAIT-API-002"
    await rig.ship()
    rig.server.refuse = ""
    rig.tail.extend([record(3)])
    await rig.ship()
    assert rig.server.ports == [3]
    assert rig.server.batches[0].lost == 2


async def test_a_server_that_started_is_told_again_what_is_still_known() -> None:
    rig = Rig()
    rig.counters.values = {"r1": Count(5, 300)}
    await rig.counts.refresh()
    rig.tail.extend([record(port) for port in range(AGAIN + 10)])
    await rig.ship()
    rig.server.log = 8
    rig.server.batches = []
    rig.tail.extend([record(9999)])
    await rig.ship()
    assert rig.server.ports == [*range(11, AGAIN + 10), 9999]
    assert rig.server.batches[0].first
    assert [count.packets for count in rig.server.batches[0].counts] == [5]


async def test_a_batch_that_is_too_large_is_sent_in_pieces() -> None:
    rig = Rig()
    rig.server.most = 30
    rig.tail.extend([record(port) for port in range(100)])
    await rig.ship()
    assert rig.server.ports == list(range(100))
    rig.server.most = 0
    rig.tail.extend([record(1)])
    await rig.ship()
    rig.server.most = BATCH
    rig.tail.extend([record(2)])
    await rig.ship()
    assert rig.server.ports == [*range(100), 2]
    assert rig.server.batches[-1].lost == 1


async def test_counts_are_named_and_sent_when_they_change() -> None:
    rig = Rig()
    rig.counters.values = {"r1": Count(5, 300), "i1": Count(1, 60), "stranger": Count(9, 9)}
    await rig.counts.refresh()
    await rig.ship()
    (batch,) = rig.server.batches
    assert [(c.policy, c.index, c.isolating, c.packets) for c in batch.counts] == [
        ("a", -1, ("a", "b"), 1),
        ("guard", 0, (), 5),
    ]
    rig.counters.values["r1"] = Count(6, 360)
    await rig.counts.refresh()
    await rig.ship()
    assert [(c.id, c.packets) for c in rig.server.batches[1].counts] == [("r1", 6)]
    del rig.counters.values["i1"]
    await rig.counts.refresh()
    await rig.ship()
    assert [batch.gone for batch in rig.server.batches] == [(), (), ("i1",)]
    await rig.counts.refresh()
    assert not await rig.shipper.round(wait=0)


async def test_counts_become_metrics() -> None:
    rig = Rig()
    rig.counters.values = {"r1": Count(5, 300)}
    await rig.counts.refresh()
    packets = next(m for m in rig.counts.metrics() if m.name == "plait_policy_packets_total")
    assert packets.value == 5
    assert dict(packets.labels) == {
        "policy": "guard",
        "rule": "1",
        "direction": "ingress",
        "decision": "deny",
    }


# Waiting for a record


async def test_a_question_waits_for_the_first_record() -> None:
    tail = new_tail()
    asked = asyncio.ensure_future(tail.page(FlowQuery(wait=10)))
    await asyncio.sleep(0)
    tail.extend([record(1)])
    assert [r.dst_port for r in (await asked).items] == [1]


async def test_a_record_that_is_not_wanted_ends_no_waiting() -> None:
    tail = new_tail()
    asked = asyncio.ensure_future(tail.page(FlowQuery(wait=10, namespace="shop")))
    await asyncio.sleep(0)
    tail.extend([record(1)])
    await asyncio.sleep(0)
    assert not asked.done()
    tail.close()
    page = await asked
    assert (page.items, page.cursor) == ((), tail.ring.cursor)


async def test_a_wait_ends_by_itself() -> None:
    tail = new_tail()
    assert (await tail.page(FlowQuery(wait=0.01))).items == ()


async def test_the_latest_is_a_place_to_begin() -> None:
    tail = new_tail()
    tail.extend([record(1)])
    page = await tail.page(FlowQuery(latest=True))
    assert page.items == ()
    tail.extend([record(2)])
    assert [r.dst_port for r in (await tail.page(FlowQuery(after=page.cursor))).items] == [2]


# Whose an address is


def put(obj: AnyObject) -> WatchEvent:
    return WatchEvent(type="put", revision=1, object=obj)


def endpoint(name: str, address: str, node: str = "h2") -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=f"id-{name}", namespace="shop"),
        spec=EndpointSpec(node=node, network="plait", name=name, addresses=(address,)),
    )


def test_addresses_have_the_names_of_their_holders() -> None:
    local: list[LocalEndpoint] = []
    whois = Whois("h1", lambda: local)
    whois.begin([endpoint("old", "10.0.0.9")])
    assert whois.end("10.0.0.9").text == "shop/old"
    node = Node(metadata=Metadata(name="h1"), spec=NodeSpec(addresses=("192.0.2.1/24",)))
    network = Network(metadata=Metadata(name="n"), spec=NetworkSpec(gateways=("10.0.0.254",)))
    for event in (
        WatchEvent(type="begin", revision=1),
        put(endpoint("web", "10.0.0.1")),
        put(node),
        put(network),
        WatchEvent(type="synced", revision=1),
    ):
        whois.observe(event)
    assert whois.end("10.0.0.1").text == "shop/web"
    assert whois.end("192.0.2.1").text == "host h1"
    assert whois.end("169.254.1.1").text == "host h1"
    assert whois.end("10.0.0.254").text == "host h1"
    assert whois.end("10.0.0.9").text == "10.0.0.9"
    # The address passes on before its former holder is gone.
    whois.observe(put(endpoint("next", "10.0.0.1")))
    whois.observe(WatchEvent(type="delete", revision=2, object=endpoint("web", "10.0.0.1")))
    assert whois.end("10.0.0.1").text == "shop/next"


def test_endpoints_of_this_host_are_known_at_once_and_by_their_interface() -> None:
    local: list[LocalEndpoint] = []
    whois = Whois("h1", lambda: local)
    assert whois.end("10.0.0.1").text == "10.0.0.1"
    request = AttachRequest(id="e1", network="plait", namespace="shop", name="web")
    local.append(
        LocalEndpoint(request=request, addresses=("10.0.0.1",), mac="", interface="pl0123456789a")
    )
    whois.changed()
    assert whois.end("10.0.0.1").text == "shop/web"
    behind = whois.behind("pl0123456789a")
    assert behind is not None
    assert behind.id == "e1"
    assert whois.behind("eth0") is None
