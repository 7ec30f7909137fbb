"""Addresses of domains in the kernel: opened for a time, before the answer that names them.

The kernel removes each by itself when its time is over, so nothing is swept here and nothing is
lost when the agent restarts. Policies declare the sets (`agent.programmers.policy`).
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from plait.agent.desired.filter_sets import FAMILIES
from plait.agent.desired.policy_sets import Family, domain_set, keys_by_family
from plait.agent.programmers.filter_table import FilterTable
from plait.wire import nft

_SURELY: Final = 1.0
"""Seconds that an element must have left to be deleted with certainty."""


class DomainSets:
    """See the module's docstring."""

    def __init__(self, table: FilterTable, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._table = table
        self._clock = clock
        self._ends: dict[str, dict[bytes, float]] = {}
        """Sets to their elements, and when these end."""
        self._reading = -1

    def open(self, ident: str, addresses: Iterable[str], seconds: float) -> bool:
        """Open canonical addresses of a domain set of the ruleset for so long.

        What is open for longer stays so. Returns once the kernel has them; False when it has no
        such set (yet), or refuses. Raises PlaitError when another process owns our table.
        """
        done = True
        for family, keys in keys_by_family(addresses).items():
            if keys:
                done = self._open(domain_set(ident, family), keys, seconds) and done
        return done

    def _open(self, declared: nft.Set, keys: set[bytes], seconds: float) -> bool:
        now = self._clock()
        ends = self._known(declared, now)
        due = sorted(key for key in keys if ends.get(key, 0.0) < now + seconds)
        if not due:
            return True
        # Before kernel 6.12 an element that is there keeps its end, unless it goes and comes back.
        again = tuple((key, None) for key in due if ends.get(key, 0.0) > now + _SURELY)
        wanted = nft.AddTimed(declared, tuple((key, None) for key in due), int(seconds * 1000))
        refused = self._table.commit(
            [nft.DeleteElements(declared, again), wanted] if again else [wanted]
        )
        if again and any(why.errno == errno.ENOENT for why in refused.values()):
            refused = self._table.commit([wanted])
        if refused:
            self._ends.pop(declared.name, None)
            return False
        ends.update(dict.fromkeys(due, now + seconds))
        return True

    def _known(self, declared: nft.Set, now: float) -> dict[bytes, float]:
        """What is open; asked of the kernel when that was read anew, and remembered."""
        if self._reading != self._table.readings:
            self._reading = self._table.readings
            self._ends.clear()
        ends = self._ends.get(declared.name)
        if ends is None:
            left = self._table.door.live(declared.name)
            ends = self._ends[declared.name] = {k: now + ms / 1000 for k, ms in left.items()}
        for key in [key for key, end in ends.items() if end <= now]:
            del ends[key]
        return ends

    def live(self, ident: str) -> dict[str, float]:
        """Addresses that are open, as the kernel has them, and the seconds that each has left."""
        found: dict[str, float] = {}
        for family in FAMILIES:
            for key, left in self._table.door.live(_name(ident, family)).items():
                found[str(ipaddress.ip_address(key))] = left / 1000
        return found


def _name(ident: str, family: Family) -> str:
    return domain_set(ident, family).name
