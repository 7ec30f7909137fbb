"""What ends with a backend: flows of UDP that it has, and clients that are to stay with it.

UDP has no end of its own, so a client that goes on sending would be led to the backend that went as
long as it does; so would one that began before there was a Service find none. Conntrack forgets
such flows, and the next packet is a first one. TCP ends by itself.

Rules remember the backend of a client (`affinity…`); a flow that met the rules before a change may
do so an instant after it, so what was cleaned is looked at once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from plait.agent.desired.filter_sets import AFFINITY, Door
from plait.agent.desired.policy_sets import Family, family_of, packed
from plait.agent.desired.service_fill import door_of, key_of
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel.conntrack import Called, FlowDoor, Led
from plait.model.service_table import BackendAddress, Entry, Frontend
from plait.wire import nft
from plait.wire import nft_expr as e

_UDP: Final = "udp"


class ServiceEnds:
    """See the module's docstring."""

    def __init__(self, table: FilterTable, flows: FlowDoor) -> None:
        self._table = table
        self._flows = flows
        self._led: dict[Called, Led] = {}
        self._stay: dict[Frontend, frozenset[bytes]] = {}
        """Frontends that lost backends, to those that they have."""
        self._again: dict[Frontend, frozenset[bytes]] = {}

    def expect(self, entries: Mapping[Frontend, Entry]) -> None:
        """It is not known which backends went before these frontends were so."""
        for frontend, entry in entries.items():
            if _stays(entry):
                self._again[frontend] = _keys(backends_of(entry))

    def changed(self, frontend: Frontend, have: Entry | None, want: Entry | None) -> None:
        """The kernel has another entry of a frontend; `have` is None also where it is not known
        what it had."""
        before, after = backends_of(have), backends_of(want)
        gone = before - after
        if frontend.protocol == _UDP and (gone or not before):
            called = (e.PROTOCOLS[_UDP], frontend.address, frontend.port)
            self._led[called] = Led(after, gone)
        if have is not None and gone and _stays(have):
            self._stay[frontend] = _keys(after)

    def end(self) -> None:
        """End what changed."""
        if self._led:
            self._flows.forget_services(self._led)
            self._led = {}
        if self._stay:
            self._clean(self._stay)
            self._again |= self._stay
            self._stay = {}

    def look_again(self) -> None:
        """A while later."""
        if self._again and self._table.actual is not None:
            self._clean(self._again)
            self._again = {}

    def _clean(self, allowed: Mapping[Frontend, frozenset[bytes]]) -> None:
        by_map: dict[tuple[Door, Family], dict[bytes, frozenset[bytes]]] = {}
        for frontend, backends in allowed.items():
            of = by_map.setdefault((door_of(frontend), family_of(frontend.address)), {})
            of[key_of(frontend)] = backends
        for (door, family), wanted in by_map.items():
            declared, width = AFFINITY[door, family], nft.ADDRESS[family].size
            stale = [
                key
                for key, data in self._table.door.elements(declared.name).items()
                if (called := key[:-width]) in wanted and data not in wanted[called]
            ]
            while stale:
                refused = self._table.commit(
                    [nft.DeleteElements(declared, ((key, None),)) for key in stale]
                )
                # One that ended by itself meanwhile is refused, and the others with it.
                again = [key for at, key in enumerate(stale) if at not in refused]
                stale = again if refused and len(again) < len(stale) else []


def backends_of(entry: Entry | None) -> frozenset[BackendAddress]:
    """All to which a frontend may lead."""
    if entry is None:
        return frozenset()
    outside = entry.outside.backends if entry.outside else ()
    return frozenset((*entry.inside.backends, *outside))


def _stays(entry: Entry) -> bool:
    return bool(entry.inside.affinity or (entry.outside and entry.outside.affinity))


def _keys(backends: Iterable[BackendAddress]) -> frozenset[bytes]:
    return frozenset(nft.concat(packed(b.address), e.port(b.port)) for b in backends)
