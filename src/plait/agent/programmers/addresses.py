"""Addresses on links that belong to nobody's endpoint: the gateway and the resolver on `lo`.

Ours carry IFA_PROTO `marks.PROTOCOL`. A kernel before 5.18 keeps no such mark; there, and
where somebody has put them before us, the well-known addresses are ours by their value.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from plait.agent.programmers.base import Failure, Op
from plait.agent.programmers.support import GONE, Indexes, Names, has_own_programmer, no_link
from plait.agent.programmers.support import refused as refused_op
from plait.kernel.netlink import Event, Rtnetlink
from plait.model import marks
from plait.model.hoststate import Address, HostState
from plait.wire import rtnetlink as rt

WELL_KNOWN: Final = frozenset({f"{marks.GATEWAY4}/32", f"{marks.RESOLVER6}/128"})


class Addresses:
    """Programmer of `HostState.addresses`."""

    name = "addresses"

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self.actual: frozenset[Address] = frozenset()

    def observe(self) -> None:
        """Read our addresses of both families."""
        names = Names(self._netlink)
        found: set[Address] = set()
        for family in (rt.AF_INET, rt.AF_INET6):
            for info in self._netlink.addresses(family):
                if info.protocol != marks.PROTOCOL and info.address not in WELL_KNOWN:
                    continue
                link = names(info.index)
                if link and not has_own_programmer(link):
                    found.add(Address(link=link, address=info.address))
        self.actual = frozenset(found)

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Additions, then deletions."""
        add = sorted(desired.addresses - self.actual, key=_order)
        delete = sorted(self.actual - desired.addresses, key=_order)
        return tuple([_op("add", address) for address in add] + [_op("delete", a) for a in delete])

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """All in one batch."""
        indexes = Indexes(self._netlink)
        failures = [no_link(op, op.key.link) for op in ops if _lacks_link(op, indexes)]
        todo = [op for op in ops if not _lacks_link(op, indexes)]
        results = self._netlink.execute([_message(op, indexes(op.key.link)) for op in todo])
        actual = set(self.actual)
        for op, problem in zip(todo, results, strict=True):
            if op.verb == "delete" and (problem is None or problem.code in GONE):
                actual.discard(op.key)
            elif problem is None:
                actual.add(op.key)
            elif problem.code == errno.EEXIST:
                text = f"{op.key.address} is on {op.key.link} already, and not ours"
                failures.append(Failure(op=op, error=text, errno=problem.code))
            else:
                failures.append(refused_op(op, problem))
        self.actual = frozenset(actual)
        return tuple(failures)

    def forget_link(self, link: str) -> None:
        """The link is gone, and its addresses with it."""
        self.actual = frozenset(a for a in self.actual if a.link != link)

    def notice(self, events: Sequence[Event]) -> bool:
        """True when an event contradicts `actual`: somebody else deleted one of ours."""
        for event in events:
            if event.kind == "lost":
                return True
            if event.kind == "address" and isinstance(event.info, rt.AddressInfo):
                address = event.info.address
                link = self._netlink.name(event.info.index)
                if Address(link=link, address=address) in self.actual:
                    return True
        return False


def _order(address: Address) -> tuple[str, str]:
    return address.link, address.address


def _op(verb: str, address: Address) -> Op:
    text = f"ip address {'add' if verb == 'add' else 'del'} {address.address} dev {address.link}"
    if verb == "add":
        text += f" proto {marks.PROTOCOL}"
        return Op(part="addresses", verb="add", key=address, want=address, text=text)
    return Op(part="addresses", verb="delete", key=address, have=address, text=text)


def _lacks_link(op: Op, indexes: Indexes) -> bool:
    return op.verb == "add" and not indexes(op.key.link)


def _message(op: Op, index: int) -> bytes:
    if op.verb == "delete":
        return rt.del_address(index, op.key.address)
    return rt.new_address(index, op.key.address, marks.PROTOCOL)
