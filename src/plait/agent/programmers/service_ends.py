"""What ends with a backend: flows of UDP that it has, and clients that are to stay with it.

UDP has no end of its own, so a client that goes on sending would be led to the backend that went as
long as it does; so would one that began before there was a Service find none. Conntrack forgets
such flows, and the next packet is a first one. TCP ends by itself.

Rules remember the backend of a client (`affinity…`). Nobody but the kernel knows which clients
there are, and to list many takes it long, so they are looked for beside the loop. A flow that met
the rules before a change may be remembered an instant after it, so what was cleaned is looked at
once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog

from plait.agent.desired.filter_sets import AFFINITY
from plait.agent.desired.policy_sets import family_of, packed
from plait.agent.desired.service_fill import door_of, key_of
from plait.agent.programmers.aside import Aside
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel.conntrack import Called, FlowDoor, Led
from plait.kernel.nft_elements import ElementDoor
from plait.model.errors import PlaitError
from plait.model.service_table import BackendAddress, Entry, Frontend
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k

_UDP: Final = "udp"
SLICE: Final = 1000
"""Clients that are forgotten before others have their turn: 10 to 20 ms."""

log: Final = structlog.get_logger("plait.agent.service_ends")

Backends = frozenset[bytes]
"""Of a frontend, as `affinity…` has them."""


class Client(NamedTuple):
    """An element of `affinity…`."""

    frontend: Frontend
    set: nft.Set
    key: bytes


class ServiceEnds:
    """See the module's docstring."""

    def __init__(self, table: FilterTable, flows: FlowDoor, aside: Aside) -> None:
        self._table = table
        self._flows = flows
        self._aside = aside
        self._led: dict[Called, Led] = {}
        self._due: dict[Frontend, Backends] = {}
        """Frontends whose clients are to be looked at, to the backends that they have."""
        self._again: dict[Frontend, Backends] = {}
        """Those that are to be looked at once more."""
        self._sought: frozenset[Frontend] = frozenset()
        """Those whose clients are being looked at."""

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
            self._due[frontend] = self._again[frontend] = _keys(after)
        # Clients of a backend that came meanwhile may stay with it.
        if frontend in self._due or frontend in self._sought:
            self._due[frontend] = _keys(after)
        if frontend in self._again:
            self._again[frontend] = _keys(after)

    def end(self) -> None:
        """End what changed."""
        if self._led:
            self._flows.forget_services(self._led)
            self._led = {}
        self._look()

    def look_again(self) -> None:
        """A while later."""
        if self._again and self._table.actual is not None:
            self._due, self._again = {**self._due, **self._again}, {}
            self._look()

    def _look(self) -> None:
        if self._due and not self._sought:
            due, self._due = self._due, {}
            self._sought = frozenset(due)
            self._aside(partial(strayed, due), self._found)

    def _found(self, clients: Sequence[Client]) -> None:
        """Forget these clients, some at a time."""
        if self._table.actual is not None:
            # Of what changed since they were looked for, another look tells.
            self._forget([one for one in clients[:SLICE] if one.frontend not in self._due])
        rest = clients[SLICE:]
        if rest:
            self._aside(lambda _door: rest, self._found)
        else:
            self._sought = frozenset()
            self._look()

    def _forget(self, clients: Sequence[Client]) -> None:
        while clients:
            steps = [nft.DeleteElements(one.set, ((one.key, None),)) for one in clients]
            try:
                refused = self._table.commit(steps)
            except (PlaitError, OSError) as error:
                log.warning("clients cannot be forgotten", error=str(error))
                return
            # One that ended by itself meanwhile is refused, and the others with it.
            again = [one for at, one in enumerate(clients) if at not in refused]
            clients = again if refused and len(again) < len(clients) else ()


def strayed(allowed: Mapping[Frontend, Backends], door: ElementDoor) -> list[Client]:
    """Clients of these frontends that stay with none of these backends."""
    by_set: dict[str, tuple[nft.Set, int, dict[bytes, Frontend]]] = {}
    for frontend in allowed:
        family = family_of(frontend.address)
        declared = AFFINITY[door_of(frontend), family]
        width = k.ADDRESS[family].size
        by_set.setdefault(declared.name, (declared, width, {}))[2][key_of(frontend)] = frontend
    found = []
    for name, (declared, width, frontends) in by_set.items():
        try:
            held = door.elements(name)
        except (PlaitError, OSError) as error:
            log.warning("clients cannot be listed", error=str(error))
            continue
        found += [
            Client(whose, declared, key)
            for key, backend in held.items()
            if (whose := frontends.get(key[:-width])) and backend not in allowed[whose]
        ]
    return found


def backends_of(entry: Entry | None) -> frozenset[BackendAddress]:
    """All to which a frontend may lead."""
    if entry is None:
        return frozenset()
    outside = entry.outside.backends if entry.outside else ()
    return frozenset((*entry.inside.backends, *outside))


def _stays(entry: Entry) -> bool:
    return bool(entry.inside.affinity or (entry.outside and entry.outside.affinity))


def _keys(backends: Iterable[BackendAddress]) -> Backends:
    return frozenset(k.concat(packed(b.address), e.port(b.port)) for b in backends)
