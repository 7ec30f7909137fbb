"""Routes of protocol `marks.PROTOCOL`, in any table; identity: (table, dst, metric).

A route of another protocol is never touched: if it stands where ours belongs, the failure
names it. A route that changes is replaced in one step, so that no packet finds none.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from plait.agent.programmers.base import Failure, Op, Verb
from plait.agent.programmers.comparing import left_over
from plait.agent.programmers.support import GONE, Indexes, Names, no_link, refused
from plait.kernel.netlink import Event, Rtnetlink
from plait.model import marks
from plait.model.hoststate import HostState, Route
from plait.wire import rtnetlink as rt


class Key(NamedTuple):
    """Identity of a route. `copy` counts further routes of one identity, which only somebody
    else can have made (`ip route append`); they are surplus."""

    table: int
    dst: str
    metric: int
    copy: int = 0


class Actual(msgspec.Struct, frozen=True):
    """A route of ours in the kernel. `strange`: of a kind that we never make."""

    route: Route
    index: int
    strange: bool = False
    info: rt.RouteInfo | None = None
    """The kernel's answer; None when we have just made it."""


class Routes:
    """Programmer of `HostState.routes`."""

    name = "routes"

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self.actual: dict[Key, Actual] = {}
        self._known: set[Route] = set()
        """Of what is there, what we could have made; of it `key_of` gives the identity."""
        self._odd: set[Key] = set()
        """The rest: further copies of a route, and kinds that we never make."""

    def observe(self) -> None:
        """Read the routes of our protocol, of both families and all tables."""
        names = Names(self._netlink)
        found: dict[Key, Actual] = {}
        for family in (rt.AF_INET, rt.AF_INET6):
            for info in self._netlink.routes(family, marks.PROTOCOL):
                key = Key(info.table, info.dst, info.metric)
                while key in found:
                    key = key._replace(copy=key.copy + 1)
                before = self.actual.get(key)
                if before is None or before.info is not info:
                    route = _observed(info, names)
                    if before is not None and before.route == route:
                        # The very object that is wanted: sets of thousands compare by identity.
                        route = before.route
                    before = Actual(route, info.index, info.kind == "other", info)
                found[key] = before
        if found != self.actual:
            self.actual = found
            self._index()

    def _index(self) -> None:
        self._odd = {key for key, have in self.actual.items() if have.strange or key.copy}
        self._known = {have.route for key, have in self.actual.items() if key not in self._odd}

    def _drop(self, key: Key) -> None:
        have = self.actual.pop(key, None)
        self._odd.discard(key)
        if have is not None:
            self._known.discard(have.route)

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Additions and changes, gateways' own routes first; then deletions."""
        new = desired.routes - self._known
        differing = {key_of(route): route for route in new}
        ops: list[Op] = []
        for key, want in sorted(differing.items(), key=lambda item: (bool(item[1].via), item[0])):
            have = self.actual.get(key)
            if have is None:
                ops.append(_op("add", key, want=want))
            elif have.strange or not _same(want, have.route):
                ops.append(_op("change", key, want=want, have=have.route))
        gone = left_over(self._known, desired.routes, len(new))
        surplus = {*map(key_of, gone), *self._odd} - differing.keys()
        ops += [_op("delete", k, have=self.actual[k].route) for k in sorted(surplus, reverse=True)]
        return tuple(ops)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """All in one batch; what a foreign route refuses is looked at once more."""
        indexes = Indexes(self._netlink)
        failures: list[Failure] = []
        todo: list[Op] = []
        packed: list[bytes] = []
        for op in ops:
            route = op.want or op.have
            if op.verb != "delete" and route.link and not indexes(route.link):
                failures.append(no_link(op, route.link))
                continue
            todo.append(op)
            packed.append(self._message(op, indexes))
        taken: list[Op] = []
        for op, problem in zip(todo, self._netlink.execute(packed), strict=True):
            if problem is None or (op.verb == "delete" and problem.code in GONE):
                self._done(op, indexes)
            elif op.verb == "add" and problem.code == errno.EEXIST:
                taken.append(op)
            else:
                failures.append(refused(op, problem))
        return (*failures, *self._contend(taken, indexes))

    def _message(self, op: Op, indexes: Indexes, *, replace: bool = False) -> bytes:
        if op.verb == "delete":
            have = self.actual.get(op.key)
            return rt.del_route(_info(op.have, have.index if have else 0))
        flags = rt.REPLACE if replace or op.verb == "change" else rt.ADD
        want: Route = op.want
        return rt.new_route(_info(want, indexes(want.link) if want.link else 0), flags)

    def _done(self, op: Op, indexes: Indexes) -> None:
        if op.verb == "delete":
            self._drop(op.key)
        else:
            self._drop(op.key)
            want = _normal(op.want)
            self.actual[op.key] = Actual(want, indexes(want.link) if want.link else 0)
            self._known.add(want)

    def _contend(self, ops: Sequence[Op], indexes: Indexes) -> list[Failure]:
        """A route of that identity is there: ours, made behind our back, or somebody else's."""
        failures: list[Failure] = []
        for family in {_family(op.key.dst) for op in ops}:
            there = {Key(r.table, r.dst, r.metric): r for r in self._netlink.routes(family)}
            for op in [op for op in ops if _family(op.key.dst) == family]:
                holder = there.get(op.key)
                if holder is not None and holder.protocol != marks.PROTOCOL:
                    failures.append(_in_the_way(op, holder, self._netlink))
                    continue
                problem = self._netlink.execute([self._message(op, indexes, replace=True)])[0]
                if problem is None:
                    self._done(op, indexes)
                else:
                    failures.append(refused(op, problem))
        return failures

    def check(self, desired: HostState, link: str) -> tuple[str, ...]:
        """See base.Checking; of the routes that lead to the endpoint's own addresses."""
        index = self._netlink.index(link)
        found = []
        for want in (route for route in desired.routes if route.link == link):
            have = self._netlink.route_to(want.dst.partition("/")[0])
            if have is None or (have.dst, have.index, have.protocol) != (
                want.dst,
                index,
                marks.PROTOCOL,
            ):
                found.append(_op("add", key_of(want), want=want).text)
        return tuple(sorted(found))

    def forget_link(self, link: str) -> None:
        """The link is gone, and the routes over it."""
        for key in [key for key, have in self.actual.items() if have.route.link == link]:
            self._drop(key)

    def notice(self, events: Sequence[Event]) -> bool:
        """True when an event contradicts `actual`: somebody else deleted one of ours."""
        for event in events:
            if event.kind == "lost":
                return True
            if event.kind != "route" or not isinstance(event.info, rt.RouteInfo):
                continue
            info = event.info
            have = self.actual.get(Key(info.table, info.dst, info.metric))
            # Only the very route: our own replacing of a route reports the old one's end.
            if have is not None and info.protocol == marks.PROTOCOL:
                gone = (info.via, info.index) == (have.route.via, have.index or info.index)
                if gone:
                    return True
        return False


def key_of(route: Route) -> Key:
    """Identity of a route; the IPv6 metric 1024 is what no metric means."""
    normal = _normal(route)
    return Key(normal.table, normal.dst, normal.metric)


def _normal(route: Route) -> Route:
    if ":" in route.dst and route.metric == rt.IP6_RT_PRIO_USER:
        return msgspec.structs.replace(route, metric=0)
    return route


def _same(want: Route, have: Route) -> bool:
    if not want.link:
        # The kernel fills in the link that leads to the gateway.
        have = msgspec.structs.replace(have, link="")
    return _normal(want) == have


def _family(dst: str) -> int:
    return rt.AF_INET6 if ":" in dst else rt.AF_INET


def _observed(info: rt.RouteInfo, names: Names) -> Route:
    # IPv6 shows a route that leads nowhere as one over lo.
    nowhere = info.kind in {"unreachable", "blackhole"}
    return Route(
        dst=info.dst,
        kind="unicast" if info.kind == "other" else info.kind,
        link="" if nowhere else names(info.index),
        via=info.via,
        onlink=info.onlink,
        table=info.table,
        metric=info.metric,
        src=info.src,
        mtu=info.mtu,
    )


def _info(route: Route, index: int) -> rt.RouteInfo:
    return rt.RouteInfo(
        dst=route.dst,
        kind=route.kind,
        index=index,
        via=route.via,
        onlink=route.onlink,
        table=route.table,
        metric=route.metric,
        src=route.src,
        mtu=route.mtu,
        protocol=marks.PROTOCOL,
    )


_VERBS = {"add": "add", "change": "replace", "delete": "del"}


def _op(verb: Verb, key: Key, *, want: Route | None = None, have: Route | None = None) -> Op:
    route = want or have
    assert route is not None
    text = f"{_ip(route.dst)} route {_VERBS[verb]} {spell(route)} proto {marks.PROTOCOL}"
    return Op(part="routes", verb=verb, key=key, want=want, have=have, text=text)


def _ip(dst: str) -> str:
    return "ip -6" if ":" in dst else "ip"


def spell(route: Route) -> str:
    """The route as `ip route` takes it."""
    words: list[str] = [route.kind] if route.kind != "unicast" else []
    words.append(route.dst)
    if route.via:
        crossing = ":" in route.via and ":" not in route.dst
        words += ["via", "inet6", route.via] if crossing else ["via", route.via]
    words += ["dev", route.link] if route.link else []
    words += ["onlink"] if route.onlink else []
    words += ["src", route.src] if route.src else []
    words += ["metric", str(route.metric)] if route.metric else []
    words += ["mtu", str(route.mtu)] if route.mtu else []
    words += ["table", str(route.table)] if route.table != 254 else []
    return " ".join(words)


def _in_the_way(op: Op, holder: rt.RouteInfo, netlink: Rtnetlink) -> Failure:
    route = spell(_observed(holder, Names(netlink)))
    text = f"a route that is not ours is in the way: {route} proto {holder.protocol}"
    return Failure(op=op, error=text, errno=errno.EEXIST)
