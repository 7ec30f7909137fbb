"""Permanent neighbours and forwarding entries of the tunnels.

The tunnels are ours, so every permanent entry on them is: what is not wanted there goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from plait.agent.programmers.base import Failure, Op, verb_of
from plait.agent.programmers.support import GONE, Indexes, no_link, refused
from plait.kernel.netlink import Event, Rtnetlink
from plait.model import marks
from plait.model.hoststate import FdbEntry, HostState, Neighbour
from plait.wire import rtnetlink as rt

TUNNELS: Final = (marks.VXLAN_LINK,)
"""Links whose entries are looked at."""
_NO_MAC: Final = "00:00:00:00:00:00"
"""Forwarding entry for unknown destinations; we have none, and it is never a peer's."""


class Neighbours:
    """Programmer of `HostState.neighbours`; identity: (link, address)."""

    name = "neighbours"

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self.actual: dict[tuple[str, str], Neighbour] = {}

    def observe(self) -> None:
        """Read the permanent entries of the tunnels."""
        found: dict[tuple[str, str], Neighbour] = {}
        for link in TUNNELS:
            index = self._netlink.index(link)
            for family in (rt.AF_INET, rt.AF_INET6) if index else ():
                for info in self._netlink.neighbours(family, index):
                    if info.permanent:
                        entry = Neighbour(link=link, address=info.address, mac=info.mac)
                        found[link, info.address] = entry
        self.actual = found

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Additions and changes, then deletions."""
        wanted = {(entry.link, entry.address): entry for entry in desired.neighbours}
        ops: list[Op] = []
        for key, want in sorted(wanted.items()):
            have = self.actual.get(key)
            if have != want:
                text = (
                    f"ip neighbour {'change' if have else 'add'} {want.address} "
                    f"lladdr {want.mac} dev {want.link} nud permanent"
                )
                verb = verb_of(want, have)
                ops.append(Op(part=self.name, verb=verb, key=key, want=want, have=have, text=text))
        for key in sorted(self.actual.keys() - wanted.keys()):
            text = f"ip neighbour del {key[1]} dev {key[0]}"
            have = self.actual[key]
            ops.append(Op(part=self.name, verb="delete", key=key, have=have, text=text))
        return tuple(ops)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """All in one batch."""
        indexes = Indexes(self._netlink)
        todo = [op for op in ops if indexes(op.key[0])]
        failures = [no_link(op, op.key[0]) for op in ops if not indexes(op.key[0]) and op.want]
        packed = [
            rt.new_neighbour(indexes(op.key[0]), op.want.address, op.want.mac, marks.PROTOCOL)
            if op.want
            else rt.del_neighbour(indexes(op.key[0]), op.key[1])
            for op in todo
        ]
        for op, problem in zip(todo, self._netlink.execute(packed), strict=True):
            if problem is not None and (op.want or problem.code not in GONE):
                failures.append(refused(op, problem))
            elif op.want:
                self.actual[op.key] = op.want
            else:
                self.actual.pop(op.key, None)
        return tuple(failures)

    def forget_link(self, link: str) -> None:
        """The link is gone, and its entries with it."""
        self.actual = {key: have for key, have in self.actual.items() if key[0] != link}

    def notice(self, events: Sequence[Event]) -> bool:
        """True when an event contradicts `actual`: somebody else deleted one of ours."""
        addresses = {address for _, address in self.actual}
        return any(
            event.kind == "lost"
            or (
                isinstance(event.info, rt.NeighbourInfo)
                and event.info.family != rt.AF_BRIDGE
                and event.info.address in addresses
            )
            for event in events
        )


class Fdb:
    """Programmer of `HostState.fdb`; identity: (link, mac)."""

    name = "fdb"

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self.actual: dict[tuple[str, str], frozenset[str]] = {}
        """Far ends by identity: somebody may have appended a second one."""

    def observe(self) -> None:
        """Read the forwarding entries of the tunnels."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for link in TUNNELS:
            index = self._netlink.index(link)
            for info in self._netlink.neighbours(rt.AF_BRIDGE, index) if index else ():
                if info.mac != _NO_MAC and info.permanent:
                    key = (link, info.mac)
                    found[key] = found.get(key, frozenset()) | {info.address}
        self.actual = found

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Deletions of surplus far ends first, for a replacement needs a single one."""
        wanted = {(entry.link, entry.mac): entry for entry in desired.fdb}
        deletes: list[Op] = []
        puts: list[Op] = []
        for key in sorted(wanted.keys() | self.actual.keys()):
            want = wanted.get(key)
            have = self.actual.get(key, frozenset())
            if want and len(have) == 1 and want.dst not in have:
                puts.append(_fdb_op("change", want))
                continue
            deletes += [
                _fdb_op("delete", FdbEntry(link=key[0], mac=key[1], dst=dst))
                for dst in sorted(have)
                if want is None or dst != want.dst
            ]
            if want and want.dst not in have:
                puts.append(_fdb_op("add", want))
        return (*deletes, *puts)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """All in one batch."""
        indexes = Indexes(self._netlink)
        todo = [op for op in ops if indexes(op.key[0])]
        failures = [no_link(op, op.key[0]) for op in ops if not indexes(op.key[0]) and op.want]
        packed = [
            rt.new_fdb(indexes(op.want.link), op.want.mac, op.want.dst)
            if op.want
            else rt.del_fdb(indexes(op.have.link), op.have.mac, op.have.dst)
            for op in todo
        ]
        for op, problem in zip(todo, self._netlink.execute(packed), strict=True):
            if problem is not None and (op.want or problem.code not in GONE):
                failures.append(refused(op, problem))
            elif op.want:
                self.actual[op.key] = frozenset({op.want.dst})
            else:
                left = self.actual.get(op.key, frozenset()) - {op.have.dst}
                self.actual.pop(op.key, None)
                if left:
                    self.actual[op.key] = left
        return tuple(failures)

    def forget_link(self, link: str) -> None:
        """The link is gone, and its entries with it."""
        self.actual = {key: have for key, have in self.actual.items() if key[0] != link}

    def notice(self, events: Sequence[Event]) -> bool:
        """True when an event contradicts `actual`: somebody else deleted one of ours."""
        macs = {mac: dsts for (_, mac), dsts in self.actual.items()}
        return any(
            event.kind == "lost"
            or (
                isinstance(event.info, rt.NeighbourInfo)
                and event.info.family == rt.AF_BRIDGE
                and event.info.address in macs.get(event.info.mac, ())
            )
            for event in events
        )


def _fdb_op(verb: str, entry: FdbEntry) -> Op:
    words = f"{entry.mac} dev {entry.link} dst {entry.dst} self"
    key = (entry.link, entry.mac)
    if verb == "delete":
        text = f"bridge fdb del {words}"
        return Op(part="fdb", verb="delete", key=key, have=entry, text=text)
    text = f"bridge fdb {'add' if verb == 'add' else 'replace'} {words} permanent"
    if verb == "add":
        return Op(part="fdb", verb="add", key=key, want=entry, text=text)
    return Op(part="fdb", verb="change", key=key, want=entry, text=text)
