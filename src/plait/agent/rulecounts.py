"""How often each rule matched on this host: the kernel's counters, with the rules' names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

from plait.agent.loop import Offload
from plait.agent.metrics import Metric, counter
from plait.kernel.nft_counters import CounterDoor
from plait.model.flows import REASONS, RuleCount
from plait.policy.compile import Meaning
from plait.wire.nft_read import Count

EVERY: Final = 5.0
"""Seconds between two readings of all counters."""


class RuleCounts:
    """Reads the counters, off the loop, now and then and when somebody asks."""

    def __init__(
        self,
        door: CounterDoor,
        meaning: Callable[[str], Meaning | None],
        *,
        offload: Offload = asyncio.to_thread,
    ) -> None:
        self._door = door
        self._meaning = meaning
        self._offload = offload
        self._reading = asyncio.Lock()
        self.items: tuple[RuleCount, ...] = ()
        """As of the last reading, by policy, direction and place."""

    async def refresh(self) -> tuple[RuleCount, ...]:
        """Read all counters now. Raises OSError when the kernel refuses."""
        # One at a time: the socket's answers belong to one question.
        async with self._reading:
            found = cast("Mapping[str, Count]", await self._offload(self._door.counters))
        counts = [
            _count(ident, meaning, count.packets, count.bytes)
            for ident, count in found.items()
            if (meaning := self._known(ident)) is not None
        ]
        self.items = tuple(sorted(counts, key=_order))
        return self.items

    def _known(self, ident: str) -> Meaning | None:
        found = self._meaning(ident)
        if found is None and ident in REASONS:
            return Meaning(direction="egress", action="Deny", staged=False)
        return found

    def metrics(self) -> Iterator[Metric]:
        """See `agent.metrics`; as of the last reading."""
        for item in self.items:
            labels = {
                "policy": item.policy,
                "rule": item.rule or (str(item.index + 1) if item.index >= 0 else "isolation"),
                "direction": item.direction,
                "decision": "staged" if item.staged else item.action.lower(),
            }
            yield counter("plait_policy_packets", item.packets, **labels)
            yield counter("plait_policy_bytes", item.bytes, **labels)


def _count(ident: str, meaning: Meaning, packets: int, size: int) -> RuleCount:
    return RuleCount(
        id=ident,
        policy=meaning.policy or next(iter(meaning.isolating), ""),
        isolating=meaning.isolating,
        rule=meaning.name,
        index=meaning.index,
        direction=meaning.direction,
        action=meaning.action,
        staged=meaning.staged,
        packets=packets,
        bytes=size,
    )


def _order(count: RuleCount) -> tuple[object, ...]:
    return (count.policy, count.direction, count.index, count.id)
