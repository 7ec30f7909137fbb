"""Names outside that policies open: their addresses are let pass before the client knows them.

The resolver tells every answer that it is about to give and trusts. Where a policy names the
question, or a name that it is an alias of, the addresses go into the policy's set in the kernel
and stay there for their time to live; the kernel ends them by itself, also while no agent runs.
Flows that began meanwhile go on.

Answers of the last time are remembered, so that a policy that comes after its clients have
resolved a name, or that is edited, opens what these clients know.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import structlog

from plait.model.errors import PlaitError
from plait.wire.dns_answers import Name, answered

FLOOR: Final = 5.0
"""Seconds for which an address is open at least: a client needs a moment from the answer to its
first packet, and a time to live of 0 is a common one."""
CEILING: Final = 86_400.0
"""Seconds for which it is open at most; nobody keeps an answer for longer without asking."""
SLACK: Final = 0.5
"""Seconds that an address may be closed too early rather than be written again: an answer that
is repeated from the cache has the same end, but for rounding."""
REMEMBERED: Final = 16_384
"""Answers, and addresses of a set, that are remembered; the oldest go first. So many addresses of
a set are open at a time: who owns a name can make up more than a host has memory for."""

log: Final = structlog.get_logger("plait.agent.domains")


class DomainDoor(Protocol):
    """The sets of names in the kernel (`agent.programmers.domains`)."""

    def open(self, ident: str, addresses: Iterable[str], seconds: float) -> bool:
        """Let addresses pass for so long; True once the kernel has them, False when it has no
        such set (yet)."""

    def live(self, ident: str) -> dict[str, float]:
        """Addresses that are open, and the seconds that each has left."""


class Patterns:
    """Finds the sets that a name belongs to, however many there are."""

    def __init__(self, domains: Mapping[str, Iterable[str]]) -> None:
        """`domains` as in `Ruleset.domains`."""
        self._exact: dict[Name, list[str]] = {}
        self._below: dict[Name, list[str]] = {}
        for ident, patterns in domains.items():
            for pattern in patterns:
                labels = tuple(pattern.rstrip(".").lower().encode().split(b"."))
                if labels[0] == b"*":
                    self._below.setdefault(labels[1:], []).append(ident)
                else:
                    self._exact.setdefault(labels, []).append(ident)

    def sets(self, names: Iterable[Name]) -> frozenset[str]:
        """Sets of which a pattern matches one of the names."""
        found: set[str] = set()
        for name in names:
            found.update(self._exact.get(name, ()))
            for start in range(1, len(name)):
                found.update(self._below.get(name[start:], ()))
        return frozenset(found)


class Domains:
    """See the module's docstring."""

    def __init__(
        self,
        door: DomainDoor,
        *,
        clock: Callable[[], float],
        refused: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        """`clock` is monotonic; `refused` says of addresses that no name may open: who owns a
        name outside says which addresses it has, and must not say ours."""
        self._door = door
        self._clock = clock
        self._refused = refused
        self._wanted: Mapping[str, tuple[str, ...]] = {}
        self._patterns = Patterns({})
        self._recent: OrderedDict[tuple[Name, str], tuple[tuple[Name, ...], float]] = OrderedDict()
        """Question and address to the names on the way and the end of the address."""
        self._held: dict[str, OrderedDict[str, float]] = {}
        """Set to the addresses that it has or had, and their ends."""
        self.error = ""
        """Why the kernel could not be told of the last answer; empty when it was."""

    def follow(self, wanted: Mapping[str, tuple[str, ...]], unsure: bool) -> None:
        """These are the sets of the ruleset now; `unsure`: what they hold is to be looked at."""
        if wanted is self._wanted and not unsure:
            return
        fresh = {ident for ident in wanted if unsure or ident not in self._wanted}
        self._held = {ident: self._held.get(ident, OrderedDict()) for ident in wanted}
        self._wanted, self._patterns = wanted, Patterns(wanted)
        if not fresh:
            return
        now = self._clock()
        for ident in fresh:
            held = self._held[ident]
            for address in held:
                held[address] = now
            for address, left in self._live(ident).items():
                self._hold(ident, address, now + left)
        for (_, address), (names, end) in self._recent.items():
            for ident in self._patterns.sets(names) & fresh:
                if end > now + SLACK:
                    self._open(ident, (address,), end - now)
                else:
                    self._hold(ident, address, end)

    def answered(self, message: bytes, age: int) -> None:
        """An answer is about to be given that was kept for `age` seconds."""
        if age and not self._wanted:
            return
        found = answered(message)
        if found is None:
            return
        now = self._clock()
        times: dict[float, list[str]] = {}
        for address, ttl in found.addresses:
            if not self._refused(address):
                seconds = min(max(ttl - age, FLOOR), CEILING)
                times.setdefault(seconds, []).append(address)
                self._remember(found.names, address, now + seconds)
        for ident in self._patterns.sets(found.names):
            for seconds, addresses in times.items():
                self._open(ident, addresses, seconds)

    def holds(self, ident: str, address: str) -> bool:
        """Whether a set has the address, or had it: what began then goes on."""
        return address in self._held.get(ident, ())

    def opens(self, ident: str, address: str) -> bool:
        """Whether a set has the address now, so that a flow may begin."""
        held = self._held.get(ident)
        return held is not None and held.get(address, 0.0) > self._clock()

    @property
    def elements(self) -> int:
        """Addresses that are open."""
        now = self._clock()
        return sum(end > now for held in self._held.values() for end in held.values())

    def _open(self, ident: str, addresses: Iterable[str], seconds: float) -> None:
        end = self._clock() + seconds
        held = self._held[ident]
        due = [address for address in addresses if held.get(address, 0.0) < end - SLACK]
        due = self._with_room(held, due)
        if not due:
            return
        try:
            done = self._door.open(ident, due, seconds)
        except (OSError, PlaitError) as error:
            if self.error != str(error):
                log.error("the addresses of a name cannot be opened", error=str(error))
            self.error = str(error)
            return
        if done:
            self.error = ""
            for address in due:
                self._hold(ident, address, end)

    def _with_room(self, held: OrderedDict[str, float], due: list[str]) -> list[str]:
        """Those for which a set has room, when what is over is forgotten as far as needed."""
        surplus = len(held) + sum(address not in held for address in due) - REMEMBERED
        if surplus <= 0:
            return due
        now = self._clock()
        for address in [address for address, end in held.items() if end <= now][:surplus]:
            if address not in due:
                del held[address]
        room = max(REMEMBERED - len(held), 0)
        fresh = [address for address in due if address not in held]
        if len(fresh) <= room:
            return due
        self.error = f"{REMEMBERED} addresses are open for the same names; more are refused"
        return [address for address in due if address in held] + fresh[:room]

    def _live(self, ident: str) -> dict[str, float]:
        try:
            return self._door.live(ident)
        except (OSError, PlaitError) as error:
            self.error = str(error)
            return {}

    def _hold(self, ident: str, address: str, end: float) -> None:
        held = self._held[ident]
        held[address] = max(end, held.pop(address, end))
        if len(held) > REMEMBERED:
            held.popitem(last=False)

    def _remember(self, names: tuple[Name, ...], address: str, end: float) -> None:
        key = (names[0], address)
        former = self._recent.pop(key, None)
        self._recent[key] = (names, end if former is None else max(end, former[1]))
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
