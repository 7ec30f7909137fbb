"""Endpoints' shapers: two token buckets, one for each direction.

Towards the endpoint a bucket is the root qdisc of the host side's veth. What the endpoint sends
cannot wait there, for a link queues only what leaves by it: a filter leads it, before anything
else sees it, through an IFB link of its own, whose root is the other bucket (decision 0011).

A bucket is ours by its handle, an IFB link by name and group, a filter by its priority. Another's
qdisc in the place of ours is never replaced: the kernel refuses, and we tell. An IFB link that
goes waits for `reap`, as the veths do.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from plait.agent.programmers.base import Failure, Op, verb_of
from plait.agent.programmers.support import GONE, Seen, Step, no_link, refused
from plait.kernel.netlink import Event, Rtnetlink
from plait.model import marks
from plait.model.hoststate import HostState, Shaper
from plait.wire import links as wl
from plait.wire import tc
from plait.wire.netlink import NetlinkError

SHAPER_LINK: Final = re.compile(r"pi[0-9a-f]{11}")
"""Names that `marks.shaper_ifname` gives."""
LATENCY: Final = 20
"""Part of a second of whose bytes a queue may be long: more is delay, less is loss."""


class Actual(msgspec.Struct, frozen=True):
    """What there is of a shaper."""

    to: tc.Bucket | None = None
    redirect: int = 0
    """Index of the link through which the endpoint's packets are led; 0: none; `tc.NOWHERE`: one
    that has gone."""
    ifb: int = 0
    """Index of the IFB link; 0: none."""
    up: bool = False
    addrgen_none: bool = False
    back: tc.Bucket | None = None
    """Bucket of the IFB link."""


NOTHING: Final = Actual()


class Shapers:
    """Programmer of `HostState.shapers`."""

    name = "shapers"

    def __init__(self, netlink: Rtnetlink, links: Callable[[], Mapping[str, Seen]]) -> None:
        """`links` are the host sides that stand, by name; one that is going is none of them,
        whatever is on it still."""
        self._netlink = netlink
        self._links = links
        self.actual: dict[str, Actual] = {}
        """By the host side's name."""
        self._seen = False

    def observe(self) -> None:
        """Read IFB links, qdiscs and filters; a host that shapes nothing has none to read."""
        if self._seen and not self.actual and not self._netlink.links("ifb"):
            return
        self._seen = True
        self.actual = self._read()

    def _read(self) -> dict[str, Actual]:
        found: dict[str, dict[str, Any]] = {}
        ifbs: dict[int, str] = {}
        for info in self._netlink.links("ifb"):
            if SHAPER_LINK.fullmatch(info.name) and info.group == marks.LINK_GROUP:
                name = ifbs[info.index] = _host_side(info.name)
                found[name] = {
                    "ifb": info.index,
                    "up": info.up,
                    "addrgen_none": info.addrgen_none,
                }
        names = {seen.index: name for name, seen in self._links().items()}
        for qdisc in self._netlink.qdiscs():
            ours = qdisc.handle == marks.QDISC_HANDLE and qdisc.parent == tc.ROOT
            if qdisc.index in ifbs:
                if ours:
                    found[ifbs[qdisc.index]]["back"] = qdisc.bucket
                continue
            name = names.get(qdisc.index, "")
            if not name:
                continue
            if ours:
                found.setdefault(name, {})["to"] = qdisc.bucket
            elif qdisc.kind == "clsact" and (target := self._redirect(qdisc.index)):
                found.setdefault(name, {})["redirect"] = target
        return {name: Actual(**have) for name, have in found.items()}

    def _redirect(self, index: int) -> int:
        return next(
            (
                rule.target
                for rule in self._netlink.filters(index, tc.INGRESS)
                if rule.priority == marks.FILTER_PRIORITY and rule.target
            ),
            0,
        )

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Deletions, then changes and additions."""
        ops = [
            Op(part=self.name, verb="delete", key=name, have=have, text=_text(name, Shaper(), have))
            for name, have in self.actual.items()
            if name not in desired.shapers
        ]
        for name, want in desired.shapers.items():
            have = self.actual.get(name, NOTHING)
            text = _text(name, want, have)
            if text:
                verb = verb_of(want, self.actual.get(name))
                ops.append(Op(part=self.name, verb=verb, key=name, want=want, have=have, text=text))
        return tuple(ops)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Each endpoint by itself."""
        return tuple(failure for op in ops if (failure := self._apply(op)) is not None)

    def _apply(self, op: Op) -> Failure | None:
        name: str = op.key
        want: Shaper = op.want or Shaper()
        have = self.actual.get(name, NOTHING)
        link = self._netlink.index(name)
        if not link and op.verb != "delete":
            return no_link(op, name)
        if want.from_rate and not have.ifb:
            born = _birth(name)
            problem = self._netlink.execute([born.message])[0]
            if problem is not None and problem.code == errno.EEXIST:
                # It waits to be reaped, or the reaper's thread took it away just now.
                self.reap()
                problem = self._netlink.execute([born.message])[0]
            if problem is not None:
                return refused(op, problem, born.text)
            ifb = self._netlink.index(marks.shaper_ifname(name))
            have = msgspec.structs.replace(have, ifb=ifb)
            self.actual[name] = have
        steps = _steps(name, want, have, link)
        results = self._netlink.execute([step.message for step in steps])
        for step, problem in zip(steps, results, strict=True):
            if problem is not None and not _expected(step, problem):
                self.observe()  # The others of the batch were carried out.
                return refused(op, problem, step.text)
        if have.redirect and not want.from_rate and link:
            self._leave_clsact(link)
        if op.verb == "delete":
            self.actual.pop(name, None)
        else:
            self.actual[name] = _as_wanted(want, have)
        return None

    def _leave_clsact(self, link: int) -> None:
        """Take the filters' qdisc away, if nobody else has a filter in it."""
        if not any(self._netlink.filters(link, parent) for parent in (tc.INGRESS, tc.EGRESS)):
            self._netlink.execute([tc.del_clsact(link)])

    def check(self, desired: HostState, link: str) -> tuple[str, ...]:
        """See base.Checking. A host that shapes one endpoint reads all of its qdiscs: the kernel
        shows them in no other way."""
        want = desired.shapers.get(link)
        if want is None:
            return ()
        return tuple(_text(link, want, self._read().get(link, NOTHING)).splitlines())

    def reap(self) -> int:
        """Delete the IFB links that wait for it; how many there were."""
        door = self._netlink.clone()
        try:
            found = door.links("ifb", marks.DOOM_GROUP)
            waiting = [info.index for info in found if SHAPER_LINK.fullmatch(info.name)]
            door.execute([wl.del_link(index) for index in waiting])
        finally:
            door.close()
        return len(waiting)

    def forget_link(self, link: str) -> None:
        """The link is gone, and its qdiscs; the IFB link is another. One that was lowered keeps
        them, and stands."""
        if link in self._links():
            return
        have = self.actual.pop(link, None)
        if have is not None and have.ifb:
            self.actual[link] = msgspec.structs.replace(have, to=None, redirect=0)

    def notice(self, events: Sequence[Event]) -> bool:
        """True when somebody else took an IFB link of ours away."""
        ours = {have.ifb for have in self.actual.values() if have.ifb}
        return any(
            event.kind == "lost"
            or (event.deleted and isinstance(event.info, wl.LinkInfo) and event.info.index in ours)
            for event in events
        )


def _host_side(ifb: str) -> str:
    return "pl" + ifb.removeprefix("pi")


def bucket(rate: int, burst: int) -> tc.Bucket | None:
    """Of bits and bits a second; None without a rate."""
    if not rate:
        return None
    size = rate // 8
    depth = min(burst // 8, tc.U32)
    return tc.Bucket(size, depth, min(depth + size // LATENCY, tc.U32))


def _as_wanted(want: Shaper, have: Actual) -> Actual:
    back = bucket(want.from_rate, want.from_burst)
    ifb = have.ifb if back else 0
    return Actual(
        to=bucket(want.to_rate, want.to_burst),
        redirect=ifb,
        ifb=ifb,
        up=bool(ifb),
        addrgen_none=bool(ifb),
        back=back,
    )


def _text(name: str, want: Shaper, have: Actual) -> str:
    """The commands that make what there is equal to what is wanted; empty when it is."""
    steps = _steps(name, want, have, 0)
    if want.from_rate and not have.ifb:
        steps = [_birth(name), *steps]
    return "\n".join(step.text for step in steps)


def _birth(name: str) -> Step:
    ifb = marks.shaper_ifname(name)
    text = f"ip link add {ifb} group {marks.LINK_GROUP} type ifb"
    return Step(text, wl.new_ifb(ifb, group=marks.LINK_GROUP))


def _steps(name: str, want: Shaper, have: Actual, link: int) -> list[Step]:
    """From what there is, with an IFB link where one is wanted, to what is wanted."""
    ifb = marks.shaper_ifname(name)
    pref = f"pref {marks.FILTER_PRIORITY}"
    steps = _settle(name, link, bucket(want.to_rate, want.to_burst), have.to)
    back = bucket(want.from_rate, want.from_burst)
    if back is None:
        if have.redirect:
            text = f"tc filter del dev {name} ingress {pref}"
            steps.append(Step(text, tc.del_filters(link, marks.FILTER_PRIORITY)))
        if have.ifb:
            # Nothing is led to it any more; to lower it here would make the caller wait.
            message = wl.set_link(have.ifb, group=marks.DOOM_GROUP)
            steps.append(Step(f"ip link del {ifb}", message))
        return steps
    if not have.addrgen_none:
        text = f"ip link set {ifb} addrgenmode none"
        steps.append(Step(text, wl.set_link(have.ifb, addrgen_none=True)))
    steps += _settle(ifb, have.ifb, back, have.back)
    if not have.up:
        steps.append(Step(f"ip link set {ifb} up", wl.set_link(have.ifb, up=True)))
    if not have.redirect or have.redirect != have.ifb:
        # Only now: until then what the endpoint sends goes on as before.
        if have.redirect:
            text = f"tc filter del dev {name} ingress {pref}"
            steps.append(Step(text, tc.del_filters(link, marks.FILTER_PRIORITY)))
        steps.append(Step(f"tc qdisc add dev {name} clsact", tc.new_clsact(link)))
        text = (
            f"tc filter add dev {name} ingress {pref} protocol all u32 match u32 0 0"
            f" action mirred egress redirect dev {ifb}"
        )
        steps.append(Step(text, tc.new_redirect(link, marks.FILTER_PRIORITY, have.ifb)))
    return steps


def _settle(link: str, index: int, want: tc.Bucket | None, have: tc.Bucket | None) -> list[Step]:
    """A link's root."""
    handle = f"handle {marks.QDISC_HANDLE >> 16:x}:"
    if want is None:
        if have is None:
            return []
        text = f"tc qdisc del dev {link} root {handle}"
        return [Step(text, tc.del_bucket(index, marks.QDISC_HANDLE))]
    if have is not None and want.like(have):
        return []
    verb = "add" if have is None else "replace"
    text = (
        f"tc qdisc {verb} dev {link} root {handle} tbf"
        f" rate {want.rate * 8}bit burst {want.burst}b limit {want.limit}b"
    )
    message = tc.new_bucket(index, marks.QDISC_HANDLE, want, change=have is not None)
    return [Step(text, message)]


def _expected(step: Step, problem: NetlinkError) -> bool:
    """A deletion that found nothing, or the filters' qdisc that was there already."""
    words = step.text.split()
    if "del" in words:
        return problem.code in GONE or problem.code == errno.EINVAL
    return problem.code == errno.EEXIST and words[-1] == "clsact"
