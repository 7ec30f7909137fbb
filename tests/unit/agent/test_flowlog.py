"""The flow log: folding, names and reasons, the ring, and what a reader is told is missing."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agent.flowfold import SENDER_FLOWS, SERVICE_FLOWS, Folding
from plait.agent.flowlog import BUDGET, FlowLog, FlowReader
from plait.kernel.nflog import FakeNflog, Reading
from plait.model.flowring import SCAN, FlowRing, utc
from plait.model.flows import CROWDED, FlowEnd, FlowFilter, FlowPage, FlowRecord
from plait.policy.compile import Meaning
from plait.wire.nflog import Packet

WEB, DB, OUT = "10.0.0.1", "10.0.0.2", "192.0.2.9"
ENDS = {
    WEB: FlowEnd(address=WEB, namespace="shop", name="web", id="e1", node="h1"),
    DB: FlowEnd(address=DB, namespace="shop", name="db", id="e2", node="h2"),
}
MEANINGS = {
    "r1": Meaning(
        direction="ingress", action="Deny", staged=False, policy="guard", index=1, name="no front"
    ),
    "r2": Meaning(direction="egress", action="Accept", staged=False, policy="open", index=0),
    "i1": Meaning(direction="ingress", action="Deny", staged=False, isolating=("a", "b")),
}


def packet(
    prefix: str = "r1.id",
    src: str = WEB,
    dst: str = DB,
    *,
    sport: int = 40000,
    dport: int = 5432,
    protocol: int = 6,
    indev: int = 0,
) -> Packet:
    family = socket.AF_INET6 if ":" in src else socket.AF_INET
    ends = (socket.inet_pton(family, src), socket.inet_pton(family, dst))
    return Packet(prefix, 0, 2, indev, 0, 0.0, protocol, *ends, sport, dport)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def flow_log(clock: Clock, *, capacity: int = 1000) -> FlowLog:
    return FlowLog(
        "h2",
        who=lambda address: ENDS.get(address) or FlowEnd(address=address),
        behind=lambda index: ENDS[WEB] if index == 7 else None,
        meaning=MEANINGS.get,
        wall=clock,
        capacity=capacity,
    )


def all_of(log: FlowLog) -> tuple[FlowRecord, ...]:
    return log.tail.ring.page().items


def only(log: FlowLog, **fields: object) -> FlowRecord:
    log.take([packet(**fields)])  # type: ignore[arg-type]
    (record,) = all_of(log)
    return record


def test_a_record_names_both_ends_and_the_rule() -> None:
    record = only(flow_log(Clock()))
    assert record.node == "h2"
    assert (record.decision, record.direction, record.protocol) == ("deny", "ingress", "tcp")
    assert (record.src.text, record.dst.text) == ("shop/web", "shop/db")
    assert (record.src_port, record.dst_port) == (40000, 5432)
    assert (record.policy, record.rule, record.index) == ("guard", "no front", 1)
    assert record.time == utc(1_000_000)
    assert record.count == 1


def test_an_isolation_names_the_policies_that_close() -> None:
    record = only(flow_log(Clock()), prefix="i1.id")
    assert (record.policy, record.isolating, record.index) == ("a", ("a", "b"), -1)
    assert "isolated" in record.reason


@pytest.mark.parametrize(
    ("prefix", "decision", "words"),
    [
        ("none.ea", "accept", "no policy"),
        ("network.ed", "deny", "another network"),
        ("host.ed", "deny", "hosts"),
        ("pickup.id", "deny", "middle of a TCP connection"),
        ("guard.es", "staged", "no known endpoint"),
    ],
)
def test_a_fixed_word_becomes_a_reason(prefix: str, decision: str, words: str) -> None:
    record = only(flow_log(Clock()), prefix=prefix)
    assert record.decision == decision
    assert words in record.reason
    assert record.policy == ""


def test_a_lie_about_the_source_is_told_of_who_told_it() -> None:
    record = only(flow_log(Clock()), prefix="source.ed", src=OUT, indev=7)
    assert record.src.address == OUT
    assert record.src.text == "shop/web"


def test_icmp_has_type_and_code_instead_of_ports() -> None:
    record = only(flow_log(Clock()), protocol=1, sport=8, dport=0)
    assert (record.icmp_type, record.icmp_code) == (8, 0)
    assert (record.src_port, record.dst_port, record.protocol) == (0, 0, "icmp")


def test_what_others_log_to_our_group_is_passed_over() -> None:
    log = flow_log(Clock())
    log.take([packet("IN=eth0 "), packet("r1.xx"), packet("")])
    assert all_of(log) == ()


def test_the_chatter_of_a_link_is_no_flow_but_a_router_advertisement_is() -> None:
    log = flow_log(Clock())
    for kind in (143, 133, 135, 134):
        log.take([packet("source.ed", "fe80::1", "ff02::1", protocol=58, sport=kind, dport=0)])
    assert [r.icmp_type for r in all_of(log)] == [134]


def test_a_rule_that_is_gone_leaves_its_id() -> None:
    record = only(flow_log(Clock()), prefix="rdeadbeef012.id")
    assert (record.policy, record.reason, record.id) == ("", "", "rdeadbeef012")


def test_a_flow_that_goes_on_has_one_record_and_a_count_a_window() -> None:
    log = flow_log(Clock())
    log.take([packet()] * 5)
    assert [r.count for r in all_of(log)] == [1]
    log.take([packet()] * 5)
    log.turn()
    assert [r.count for r in all_of(log)] == [1, 9]
    # In the next window it is known still.
    log.take([packet()] * 3)
    log.turn()
    assert [r.count for r in all_of(log)] == [1, 9, 3]
    # After one without a packet it is not, and its next packet is told at once.
    log.turn()
    log.take([packet()])
    assert [r.count for r in all_of(log)] == [1, 9, 3, 1]


def test_many_flows_to_one_port_are_told_together() -> None:
    log = flow_log(Clock())
    log.take([packet(sport=port) for port in range(1000, 2000)])
    assert len(all_of(log)) == SERVICE_FLOWS
    log.turn()
    last = all_of(log)[-1]
    assert (last.count, last.reason) == (1000 - SERVICE_FLOWS, CROWDED)


def test_a_scan_does_not_crowd_out_others() -> None:
    log = flow_log(Clock())
    log.take([packet(dport=port) for port in range(1, 5001)])
    log.take([packet(src=DB, dst=WEB)])
    assert len(all_of(log)) == SENDER_FLOWS + 1
    assert all_of(log)[-1].src.text == "shop/db"
    log.turn()
    assert all_of(log)[-1].count == 5000 - SENDER_FLOWS


def test_spoofed_sources_of_one_endpoint_are_one_sender() -> None:
    log = flow_log(Clock())
    log.take([packet("source.ed", f"203.0.113.{n}", indev=7) for n in range(256)])
    log.turn()
    assert len(all_of(log)) == SENDER_FLOWS + 1
    assert sum(r.count for r in all_of(log)) == 256


flows = st.builds(
    packet,
    st.sampled_from(["r1.id", "r2.ea", "none.ea", "source.ed"]),
    st.sampled_from([WEB, DB]),
    st.sampled_from([OUT, DB]),
    sport=st.integers(1, 40),
    dport=st.integers(1, 40),
)


@given(st.lists(st.lists(flows, max_size=80), max_size=5))
def test_every_packet_is_counted_once(windows: list[list[Packet]]) -> None:
    folding = Folding()
    for packets in windows:
        first = sum(folding.sift(p) for p in packets)
        assert first + sum(folded.packets for folded in folding.turn()) == len(packets)


# The ring


def record(number: int, at: float = 0.0, decision: str = "deny") -> FlowRecord:
    return FlowRecord(
        time=utc(at),
        node="h1",
        decision=decision,  # type: ignore[arg-type]
        direction="ingress",
        protocol="tcp",
        src=ENDS[WEB],
        dst=FlowEnd(address=OUT),
        dst_port=number,
    )


def ports(page: FlowPage) -> list[int]:
    return [found.dst_port for found in page.items]


def test_a_reader_goes_on_where_it_was() -> None:
    ring = FlowRing(capacity=10, wall=Clock())
    for number in range(1, 6):
        ring.add(record(number))
    page = ring.page(limit=3)
    assert (ports(page), page.more) == ([1, 2, 3], True)
    page = ring.page(after=page.cursor, limit=3)
    assert (ports(page), page.more) == ([4, 5], False)
    page = ring.page(after=page.cursor)
    assert (ports(page), page.more, page.lost) == ([], False, 0)
    ring.add(record(6))
    assert ports(ring.page(after=page.cursor)) == [6]


def test_who_is_too_slow_is_told_how_many_are_missing() -> None:
    clock = Clock()
    ring = FlowRing(capacity=3, wall=clock)
    ring.add(record(1, clock.now))
    cursor = ring.page().cursor
    for number in range(2, 8):
        ring.add(record(number, clock.now))
    page = ring.page(after=cursor)
    assert (ports(page), page.lost) == ([5, 6, 7], 3)
    assert ring.page().lost == 4
    assert ring.page(since=clock.now - 60).lost == 4
    assert ring.page(since=clock.now + 1).lost == 0


def test_a_loss_is_told_once_to_each_reader_at_its_place() -> None:
    ring = FlowRing(capacity=10, wall=Clock())
    ring.add(record(1))
    ring.lose(40)
    page = ring.page()
    assert (ports(page), page.lost) == ([1], 40)
    ring.add(record(2))
    page = ring.page(after=page.cursor)
    assert (ports(page), page.lost) == ([2], 0)
    ring.lose(2)
    assert ring.page(after=page.cursor).lost == 2
    assert ring.lost == 42


def test_what_is_older_than_the_horizon_goes_and_is_not_missed() -> None:
    clock = Clock()
    ring = FlowRing(capacity=10, wall=clock, horizon=60)
    ring.add(record(1, clock.now))
    clock.now += 50
    ring.add(record(2, clock.now))
    clock.now += 20
    ring.expire()
    page = ring.page()
    assert (ports(page), page.lost) == ([2], 0)


def test_a_cursor_of_a_former_ring_sees_all_of_the_new_one() -> None:
    clock = Clock()
    former = FlowRing(capacity=10, wall=clock)
    for number in range(8):
        former.add(record(number))
    clock.now += 1
    ring = FlowRing(capacity=10, wall=clock)
    ring.add(record(9))
    page = ring.page(after=former.cursor)
    assert (ports(page), page.lost) == ([9], 0)


def test_a_question_costs_a_bounded_look() -> None:
    ring = FlowRing(capacity=3 * SCAN, wall=Clock())
    for number in range(2 * SCAN):
        ring.add(record(number % 100, decision="accept"))
    ring.add(record(7))
    denied = FlowFilter(denied=True)
    page = ring.page(only=denied)
    assert (ports(page), page.more) == ([], True)
    page = ring.page(only=denied, after=ring.page(only=denied, after=page.cursor).cursor)
    assert (ports(page), page.more) == ([7], False)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (FlowFilter(), True),
        (FlowFilter(namespace="shop"), True),
        (FlowFilter(namespace="ops"), False),
        (FlowFilter(endpoint="web"), True),
        (FlowFilter(endpoint="shop/web"), True),
        (FlowFilter(endpoint="ops/web"), False),
        (FlowFilter(endpoint="e1"), True),
        (FlowFilter(endpoint=OUT), True),
        (FlowFilter(endpoint="h1"), False),
        (FlowFilter(endpoint="web", namespace="shop"), True),
        (FlowFilter(endpoint=OUT, namespace="shop"), False),
        (FlowFilter(denied=True), True),
    ],
)
def test_who_is_asked_for(query: FlowFilter, found: bool) -> None:
    assert query.matches(record(1)) is found


# The reader


async def test_a_reading_takes_no_more_than_its_budget_and_goes_on_after_a_pause() -> None:
    limits: list[int] = []

    class Door(FakeNflog):
        def read(self, limit: int) -> Reading:
            limits.append(limit)
            return super().read(limit)

    door = Door(room=10 * BUDGET)
    log = flow_log(Clock())
    for _ in range(2 * BUDGET + 1):
        door.log(packet())
    reading = asyncio.create_task(FlowReader(door, log).run())
    async with asyncio.timeout(10):
        while log.packets < 2 * BUDGET + 1:
            await asyncio.sleep(0.01)
    assert limits == [BUDGET] * 3
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(door.fileno())
