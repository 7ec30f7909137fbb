"""Routes about flows that nodes saw, and about the counts of rules."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.flows import CountList, FlowBatch, FlowQuery
from plait.server import http
from plait.server.authorize import refuse
from plait.server.route import Call

_flows: Final = msgspec.json.Decoder(FlowBatch)
FLOW_QUERY: Final = tuple(field.encode_name for field in msgspec.structs.fields(FlowQuery))
"""Words of a query for flows."""


async def report_flows(call: Call) -> web.Response:
    """A node tells what it saw: records in the order of its log, and counts that changed."""
    name = call.request.match_info["name"]
    if name != call.actor.name:
        raise refuse(call.actor, f"report flows of node {syntax.printable(name[:64])}")
    batch = await http.read(call.request, _flows, call.service.config)
    return http.answer(call.service.flows.take(name, batch))


async def list_flows(call: Call) -> web.Response:
    """Decisions about flows of the last hour, of all nodes; `wait` makes it a long poll."""
    query = http.Query(call.request, *FLOW_QUERY)
    try:
        asked = msgspec.convert(query.values, FlowQuery, strict=False)
    except msgspec.ValidationError as error:
        raise PlaitError("PLAIT-API-002", f"the query: {error}") from None
    return http.answer(await call.service.flows.page(asked))


async def list_counters(call: Call) -> web.Response:
    """How often each rule matched, of all nodes together."""
    http.Query(call.request)
    return http.answer(CountList(items=call.service.flows.counts()))
