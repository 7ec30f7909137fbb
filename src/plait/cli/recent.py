"""The flows that hosts logged of late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from plait.model.flows import FlowPage, FlowQuery, FlowRecord


class Log(Protocol):
    """A server or an agent, as far as it is asked here."""

    async def flows(self, query: FlowQuery) -> FlowPage:
        """A piece of its log."""


async def recent_flows(
    log: Log, seconds: float, namespace: str = ""
) -> tuple[tuple[FlowRecord, ...], int]:
    """The records of the last so many seconds, and how many are missing among them.

    With a namespace, only those with an end in it: an hour of a busy network is tens of megabytes.
    """
    from plait.model.flows import FlowQuery

    page = await log.flows(FlowQuery(within=seconds, namespace=namespace))
    items, lost = list(page.items), page.lost
    while page.more:
        page = await log.flows(FlowQuery(within=seconds, namespace=namespace, after=page.cursor))
        items += page.items
        lost += page.lost
    return tuple(items), lost
