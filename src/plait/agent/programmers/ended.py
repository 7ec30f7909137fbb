"""Answers in UDP flows that policies ended, dropped by the kernel for a time.

UDP has no beginning that a rule could ask for, so an answer to a flow that is forgotten is a flow
of its own, the other way round. TCP is told by its flags (`policy_base.pickup`), SCTP by
conntrack, which knows no association that does not begin with INIT.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import structlog

from plait.agent.desired.filter_sets import ENDED, FAMILIES
from plait.agent.programmers.filter_table import FilterTable
from plait.model.errors import PlaitError
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.ctnetlink import Flow, Tuple

_log = structlog.get_logger("plait.agent.ended")


class EndedFlows:
    """See the module's docstring."""

    def __init__(self, table: FilterTable) -> None:
        self._table = table

    def bar(self, flows: Iterable[Flow], seconds: float) -> None:
        """Drop answers in those of the flows that are of UDP for so long. What the kernel refuses
        is logged: the flows are ended nonetheless."""
        keys: dict[int, set[bytes]] = {family: set() for family in FAMILIES}
        for flow in flows:
            if flow.protocol == e.PROTOCOLS["udp"]:
                keys[flow.family].add(_key(flow.reply))
        changes = [
            nft.AddTimed(
                ENDED[f], tuple((key, None) for key in sorted(keys[f])), int(seconds * 1000)
            )
            for f in FAMILIES
            if keys[f]
        ]
        try:
            refused = self._table.commit(changes)
        except (PlaitError, OSError) as error:
            _log.warning("answers cannot be barred", error=str(error))
        else:
            for why in refused.values():
                _log.warning("answers cannot be barred", error=why.text)


def _key(answer: Tuple) -> bytes:
    sender, receiver = ipaddress.ip_address(answer.src), ipaddress.ip_address(answer.dst)
    return k.concat(sender.packed, e.port(answer.sport), receiver.packed, e.port(answer.dport))
