"""Flows and counts through the real server: nodes tell, administrators and nodes ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from plait.model.errors import PlaitError
from plait.model.flowring import utc
from plait.model.flows import FlowBatch, FlowEnd, FlowQuery, FlowRecord, RuleCount

if TYPE_CHECKING:
    from tests.contract.conftest import Rig

WEB = FlowEnd(address="10.112.0.1", namespace="shop", name="web", id="e1", node="h1")
OUT = FlowEnd(address="192.0.2.1")


def record(rig: Rig, seq: int, **fields: object) -> FlowRecord:
    base = FlowRecord(
        seq=seq,
        time=utc(rig.time.now()),
        node="h1",
        decision="deny",
        direction="egress",
        protocol="tcp",
        src=WEB,
        dst=OUT,
        dst_port=443,
    )
    return msgspec.structs.replace(base, **fields)


def count(ident: str, packets: int) -> RuleCount:
    return RuleCount(
        id=ident, policy="p", index=0, direction="ingress", action="Deny", packets=packets, bytes=60
    )


async def test_everybody_s_flows_are_one_log(rig: Rig) -> None:
    server = await rig.serve()
    h1, h2, admin = (
        await rig.node(server, "h1"),
        await rig.node(server, "h2"),
        rig.admin(server),
    )
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 1), record(rig, 2)), lost=3))
    await h2.report_flows("h2", FlowBatch(items=(record(rig, 1, decision="accept"),)))
    page = await admin.flows(FlowQuery())
    assert [r.node for r in page.items] == ["h1", "h1", "h2"]
    assert page.lost == 3
    assert [r.node for r in (await h2.flows(FlowQuery(denied=True))).items] == ["h1", "h1"]
    assert (await admin.flows(FlowQuery(namespace="ops"))).items == ()
    # What is sent again, because nobody knew whether it had arrived, is there once.
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 2), record(rig, 3))))
    assert len((await admin.flows(FlowQuery(after=page.cursor))).items) == 1


async def test_a_log_that_started_anew_takes_no_continuation(rig: Rig) -> None:
    server = await rig.serve()
    h1, admin = await rig.node(server, "h1"), rig.admin(server)
    receipt = await h1.report_flows("h1", FlowBatch(items=(record(rig, 5),), log=1))
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 6),), log=1, to=receipt.log))
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 7),), log=1, to=receipt.log + 1))
    assert len((await admin.flows(FlowQuery())).items) == 2
    # An agent that starts may have lower numbers than before, if its clock was set back.
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 2),), log=2))
    assert len((await admin.flows(FlowQuery())).items) == 3


async def test_a_node_speaks_for_itself_only(rig: Rig) -> None:
    server = await rig.serve()
    h1 = await rig.node(server, "h1")
    with pytest.raises(PlaitError) as refused:
        await h1.report_flows("h2", FlowBatch())
    assert refused.value.code == "PLAIT-AUTH-006"
    with pytest.raises(PlaitError) as refused:
        await rig.admin(server).report_flows("h1", FlowBatch())
    assert refused.value.code == "PLAIT-AUTH-002"
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 1, node="h9"),)))
    (only,) = (await rig.admin(server).flows(FlowQuery())).items
    assert only.node == "h1"


async def test_a_question_may_wait(rig: Rig) -> None:
    server = await rig.serve()
    h1, admin = await rig.node(server, "h1"), rig.admin(server)
    start = await admin.flows(FlowQuery(latest=True))
    asked = asyncio.ensure_future(admin.flows(FlowQuery(after=start.cursor, wait=10)))
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 1),)))
    assert len((await asked).items) == 1
    # A server that stops does not leave anybody waiting.
    last = await admin.flows(FlowQuery(latest=True))
    asked = asyncio.ensure_future(admin.flows(FlowQuery(after=last.cursor, wait=10)))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await server.stop()
        await asyncio.gather(asked, return_exceptions=True)


async def test_the_last_hour_is_kept(rig: Rig) -> None:
    server = await rig.serve()
    h1, admin = await rig.node(server, "h1"), rig.admin(server)
    await h1.report_flows("h1", FlowBatch(items=(record(rig, 1),)))
    rig.time.ahead += 1800
    ahead = record(rig, 2, time=utc(rig.time.now() + 9999))
    await h1.report_flows("h1", FlowBatch(items=(ahead,)))
    assert len((await admin.flows(FlowQuery())).items) == 2
    assert len((await admin.flows(FlowQuery(within=60))).items) == 1
    rig.time.ahead += 1801
    assert len((await admin.flows(FlowQuery())).items) == 1
    rig.time.ahead += 1801
    assert (await admin.flows(FlowQuery())).items == ()


async def test_counts_are_added_up_over_the_nodes(rig: Rig) -> None:
    server = await rig.serve()
    h1, h2, admin = (
        await rig.node(server, "h1"),
        await rig.node(server, "h2"),
        rig.admin(server),
    )
    await h1.report_flows("h1", FlowBatch(counts=(count("r1", 5), count("r2", 1)), first=True))
    await h2.report_flows("h2", FlowBatch(counts=(count("r1", 7),), first=True))
    assert {c.id: c.packets for c in await admin.counters()} == {"r1": 12, "r2": 1}
    await h1.report_flows("h1", FlowBatch(counts=(count("r1", 6),)))
    assert {c.id: c.packets for c in await admin.counters()} == {"r1": 13, "r2": 1}
    await h1.report_flows("h1", FlowBatch(gone=("r2", "never-known")))
    assert {c.id: c.packets for c in await admin.counters()} == {"r1": 13}
    # An agent that starts anew says all that there is.
    await h1.report_flows("h1", FlowBatch(counts=(count("r1", 2),), first=True))
    assert {c.id: c.packets for c in await admin.counters()} == {"r1": 9}
    await admin.forget_node("h2", force=True)
    assert {c.id: c.packets for c in await admin.counters()} == {"r1": 2}


async def test_what_is_not_valid_is_refused(rig: Rig) -> None:
    server = await rig.serve()
    h1 = await rig.node(server, "h1")
    long = msgspec.structs.replace(WEB, name="w" * 300)
    naive = record(rig, 1).time.replace(tzinfo=None)
    for bad in (
        FlowBatch(items=(record(rig, 1, src=long),)),
        FlowBatch(items=(record(rig, 1, time=naive),)),
        FlowBatch(items=(record(rig, 1, dst_port=70000),)),
        FlowBatch(items=(record(rig, -1),)),
        FlowBatch(items=(record(rig, 1, decision="perhaps"),)),
        FlowBatch(lost=-1),
    ):
        with pytest.raises(PlaitError) as refused:
            await h1.report_flows("h1", bad)
        assert refused.value.code == "PLAIT-API-002"
    for query in (FlowQuery(wait=99), FlowQuery(limit=0), FlowQuery(within=-1)):
        with pytest.raises(PlaitError) as refused:
            await h1.flows(query)
        assert refused.value.code == "PLAIT-API-002"
    assert (await h1.flows(FlowQuery())).items == ()
