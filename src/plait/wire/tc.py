"""rtnetlink messages of traffic control: token buckets, and filters that lead to another link.

linux/pkt_sched.h, linux/pkt_cls.h, net/sched/sch_tbf.c. A qdisc is found by its link, its place
(the root, or `clsact` before and behind the stack) and its handle.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from plait.wire import netlink as nl
from plait.wire.rtnetlink import ADD, REPLACE

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

ROOT: Final = 0xFFFF_FFFF
CLSACT: Final = 0xFFFF_FFF1
"""Parent of a clsact qdisc; its handle is always ffff:."""
CLSACT_HANDLE: Final = 0xFFFF_0000
INGRESS: Final = 0xFFFF_FFF2
"""Parent of the filters on what a link receives, before anything else sees it."""
EGRESS: Final = 0xFFFF_FFF3
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS: Final = 2
TC_U32_TERMINAL: Final = 1
TC_ACT_STOLEN: Final = 4
TCA_EGRESS_REDIR: Final = 1
TC_LINKLAYER_ETHERNET: Final = 1
ETH_P_ALL: Final = 3
TICK: Final = 64
"""Nanoseconds: the unit of tc_tbf_qopt.buffer (PSCHED_SHIFT, net/pkt_sched.h)."""
U32: Final = (1 << 32) - 1

_TCMSG: Final = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, ifindex, handle, parent, info."""
_RATE: Final = struct.Struct("=BBHhHI")
"""struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, bytes a second."""
_TBF: Final = struct.Struct("=III")
"""The rest of struct tc_tbf_qopt: limit, buffer, mtu."""
_SEL: Final = struct.Struct("=BBBxHHhHIIIii")
"""struct tc_u32_sel with one key: all zero, so that everything matches."""
_MIRRED: Final = struct.Struct("=IIiiiiI")
"""struct tc_mirred: index, capab, action, refcnt, bindcnt, what to do, ifindex."""
NOWHERE: Final = -1
"""Where a filter leads whose link has gone (net/sched/act_mirred.c, mirred_device_event)."""


class Bucket(msgspec.Struct, frozen=True):
    """A token bucket."""

    rate: int
    """Bytes a second."""
    burst: int
    """Bytes that may pass at once after a pause; below 2^32."""
    limit: int
    """Bytes that may wait; below 2^32."""

    def like(self, other: Bucket) -> bool:
        """Equal as far as the kernel tells: it keeps the burst as a time, in whole ticks."""
        slack = self.burst // 100 + 2 * self.rate * TICK // 1_000_000_000 + 1
        near = abs(self.burst - other.burst) <= slack
        return near and (self.rate, self.limit) == (other.rate, other.limit)


class QdiscInfo(msgspec.Struct, frozen=True):
    """A qdisc that somebody put there: the kernel's own have no handle and are not shown."""

    index: int
    kind: str
    handle: int
    parent: int
    bucket: Bucket | None = None
    """Of a `tbf`."""


class FilterInfo(msgspec.Struct, frozen=True):
    """A filter of a link."""

    index: int
    parent: int
    priority: int
    kind: str
    target: int = 0
    """Index of the link to which it leads packets; 0 when it does something else, `NOWHERE` when
    that link has gone: the kernel keeps the filter, and drops them."""


def _message(
    kind: int, flags: int, place: tuple[int, int, int], info: int = 0, rest: bytes = b""
) -> bytes:
    index, handle, parent = place
    return nl.message(kind, flags, _TCMSG.pack(0, index, handle, parent, info) + rest)


def new_bucket(index: int, handle: int, bucket: Bucket, *, change: bool = False) -> bytes:
    """`tc qdisc add dev INDEX root handle HANDLE tbf rate … burst … limit …`.

    EEXIST when another qdisc is there that is not the kernel's own; with `change` the one of
    this handle is changed in place, and what waits in it goes on waiting.
    """
    rate = _RATE.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(bucket.rate, U32))
    options = nl.attribute(TCA_TBF_PARMS, rate + bytes(_RATE.size) + _TBF.pack(bucket.limit, 0, 0))
    options += nl.u32(TCA_TBF_BURST, bucket.burst)
    if bucket.rate > U32:
        options += nl.attribute(TCA_TBF_RATE64, struct.pack("=Q", bucket.rate))
    rest = nl.text(TCA_KIND, "tbf") + nl.nest(TCA_OPTIONS, options)
    flags = REPLACE if change else ADD
    return _message(RTM_NEWQDISC, flags, (index, handle, ROOT), rest=rest)


def del_bucket(index: int, handle: int) -> bytes:
    """`tc qdisc del dev INDEX root handle HANDLE`: that very one."""
    return _message(RTM_DELQDISC, nl.NLM_F_ACK, (index, handle, ROOT))


def new_clsact(index: int) -> bytes:
    """`tc qdisc add dev INDEX clsact`; EEXIST when it, or an ingress qdisc, is there."""
    rest = nl.text(TCA_KIND, "clsact")
    return _message(RTM_NEWQDISC, ADD, (index, CLSACT_HANDLE, CLSACT), rest=rest)


def del_clsact(index: int) -> bytes:
    """`tc qdisc del dev INDEX clsact`, with all filters in it."""
    return _message(RTM_DELQDISC, nl.NLM_F_ACK, (index, CLSACT_HANDLE, CLSACT))


def new_redirect(index: int, priority: int, target: int) -> bytes:
    """`tc filter add dev INDEX ingress pref PRIORITY protocol all u32 match u32 0 0 action mirred
    egress redirect dev TARGET`: whatever the link receives goes through the target first."""
    mirred = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = nl.text(TCA_ACT_KIND, "mirred")
    action += nl.nest(TCA_ACT_OPTIONS, nl.attribute(TCA_MIRRED_PARMS, mirred))
    options = nl.attribute(TCA_U32_SEL, _SEL.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    options += nl.nest(TCA_U32_ACT, nl.nest(1, action))
    rest = nl.text(TCA_KIND, "u32") + nl.nest(TCA_OPTIONS, options)
    return _message(RTM_NEWTFILTER, ADD, (index, 0, INGRESS), _info(priority), rest)


def del_filters(index: int, priority: int) -> bytes:
    """`tc filter del dev INDEX ingress pref PRIORITY`: all of this priority."""
    return _message(RTM_DELTFILTER, nl.NLM_F_ACK, (index, 0, INGRESS), _info(priority))


def _info(priority: int) -> int:
    """tcm_info of a filter: its priority, and the protocol in network order."""
    return priority << 16 | int.from_bytes(ETH_P_ALL.to_bytes(2, "big"), "little")


def dump_qdiscs() -> bytes:
    """All qdiscs of all links."""
    return _message(RTM_GETQDISC, nl.NLM_F_DUMP, (0, 0, 0))


def dump_filters(index: int, parent: int) -> bytes:
    """Filters of a link, `INGRESS` or `EGRESS`."""
    return _message(RTM_GETTFILTER, nl.NLM_F_DUMP, (index, 0, parent))


def parse_qdisc(payload: bytes) -> QdiscInfo | None:
    """One RTM_NEWQDISC; None for one that the kernel put there itself."""
    _, index, handle, parent, _ = _TCMSG.unpack_from(payload)
    if not handle:
        return None
    found = nl.attributes(payload, _TCMSG.size)
    kind = nl.get_text(found.get(TCA_KIND))
    bucket = _parse_bucket(found.get(TCA_OPTIONS, b"")) if kind == "tbf" else None
    return QdiscInfo(index, kind, handle, parent, bucket)


def _parse_bucket(options: bytes) -> Bucket | None:
    found = nl.attributes(options)
    parms = found.get(TCA_TBF_PARMS, b"")
    if len(parms) < 2 * _RATE.size + _TBF.size:
        return None
    rate = _RATE.unpack_from(parms)[5]
    if TCA_TBF_RATE64 in found:
        rate = struct.unpack("=Q", found[TCA_TBF_RATE64])[0]
    limit, ticks, _ = _TBF.unpack_from(parms, 2 * _RATE.size)
    # A request says the burst in bytes, an answer as the time in which the rate brings it.
    burst = (
        nl.get_u32(found[TCA_TBF_BURST])
        if TCA_TBF_BURST in found
        else ticks * TICK * rate // 1_000_000_000
    )
    return Bucket(rate, burst, limit)


def parse_filter(payload: bytes) -> FilterInfo:
    """One RTM_NEWTFILTER; also as a request says it."""
    _, index, _, parent, info = _TCMSG.unpack_from(payload)
    found = nl.attributes(payload, _TCMSG.size)
    options = nl.attributes(found.get(TCA_OPTIONS, b""))
    action = nl.attributes(nl.attributes(options.get(TCA_U32_ACT, b"")).get(1, b""))
    target = 0
    if nl.get_text(action.get(TCA_ACT_KIND)) == "mirred":
        parms = nl.attributes(action.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")
        if len(parms) >= _MIRRED.size and _MIRRED.unpack_from(parms)[5] == TCA_EGRESS_REDIR:
            target = _MIRRED.unpack_from(parms)[6] or NOWHERE
    return FilterInfo(index, parent, info >> 16, nl.get_text(found.get(TCA_KIND)), target)
