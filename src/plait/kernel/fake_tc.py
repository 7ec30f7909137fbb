"""Traffic control of the fake kernel: qdiscs and filters as far as shapers need them."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Final

import msgspec

from plait.kernel.fake_tables import FakeSpace, refuse
from plait.wire import netlink as nl
from plait.wire import tc

_TCMSG: Final = struct.Struct("=BxxxiIII")
KINDS: Final = frozenset(("tbf", "clsact"))
"""What this kernel knows."""


def _new_qdisc(space: FakeSpace, flags: int, payload: bytes) -> None:
    made = tc.parse_qdisc(payload)
    if made is None or made.kind not in KINDS:
        refuse(errno.ENOENT, "Specified qdisc kind is unknown")
    space.link(made.index)
    key = (made.index, made.parent)
    there = space.qdiscs.get(key)
    if there is not None and flags & nl.NLM_F_EXCL:
        refuse(errno.EEXIST, "Exclusivity flag on, cannot modify")
    space.qdiscs[key] = made


def _del_qdisc(space: FakeSpace, _: int, payload: bytes) -> None:
    _, index, handle, parent, _ = _TCMSG.unpack_from(payload)
    space.link(index)
    there = space.qdiscs.get((index, parent))
    if there is None:
        # The root has the kernel's own qdisc, which is not to be deleted.
        refuse(errno.ENOENT if parent == tc.ROOT else errno.EINVAL)
    if there.handle != handle:
        refuse(errno.EINVAL, "Invalid handle")
    del space.qdiscs[index, parent]
    if parent == tc.CLSACT:
        space.filters = [f for f in space.filters if f.index != index]


def _new_filter(space: FakeSpace, _: int, payload: bytes) -> None:
    made = tc.parse_filter(payload)
    space.link(made.index)
    if (made.index, tc.CLSACT) not in space.qdiscs:
        refuse(errno.EINVAL, "Parent Qdisc doesn't exists")
    if made.target not in space.links:
        refuse(errno.EINVAL)
    space.filters.append(msgspec.structs.replace(made))


def _del_filter(space: FakeSpace, _: int, payload: bytes) -> None:
    _, index, _, parent, info = _TCMSG.unpack_from(payload)
    space.link(index)
    gone = [
        f for f in space.filters if (f.index, f.parent, f.priority) == (index, parent, info >> 16)
    ]
    if not gone:
        refuse(errno.ENOENT)
    space.filters = [f for f in space.filters if f not in gone]


HANDLERS: Final[dict[int, Callable[[FakeSpace, int, bytes], None]]] = {
    tc.RTM_NEWQDISC: _new_qdisc,
    tc.RTM_DELQDISC: _del_qdisc,
    tc.RTM_NEWTFILTER: _new_filter,
    tc.RTM_DELTFILTER: _del_filter,
}
