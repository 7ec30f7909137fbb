"""Flows as they were logged, as questions to a world."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from plait.model.flows import FlowRecord
from plait.policy.flow import Flow
from plait.policy.world import World

PROTOCOLS: Final = {"icmpv6": "ICMPv6"}


def flow_of(world: World, record: FlowRecord) -> Flow:
    """The flow of a record, between those who have its addresses in this world."""
    return Flow(
        world.party(record.src.address),
        world.party(record.dst.address),
        protocol_of(record),
        record.dst_port,
        record.icmp_type,
        record.icmp_code,
    )


def protocol_of(record: FlowRecord) -> str:
    """Its protocol as policies write it."""
    return PROTOCOLS.get(record.protocol, record.protocol.upper())


def ports_of(records: Iterable[FlowRecord]) -> list[tuple[str, int]]:
    """Protocols and destination ports, each once."""
    return list(dict.fromkeys((protocol_of(r), r.dst_port) for r in records if r.dst_port))


def once(records: Iterable[FlowRecord]) -> list[FlowRecord]:
    """One record of each flow: both ends tell of it, and who is denied tries again."""
    found: dict[tuple[str, str, str, int, int, int], FlowRecord] = {}
    for r in records:
        key = (r.src.address, r.dst.address, r.protocol, r.src_port, r.dst_port, r.icmp_type)
        found.setdefault(key, r)
    return list(found.values())
