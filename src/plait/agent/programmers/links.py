"""Endpoints' veth pairs: the host side, and at birth the container side.

Three sends make an endpoint: the pair (down, in `marks.LINK_GROUP`, so that the base rules drop
what they do not know), the container side in its namespace, then the host side, whose alias says
that the inside is whole. A host side of ours that is down and has no alias was left half-made by a
crash and is made anew. A deletion takes the link down and puts it into `marks.DOOM_GROUP`; `reap`
then deletes all of them for the price of one.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Sequence

from plait.agent.programmers import host_side, inside
from plait.agent.programmers.base import Failure, Op
from plait.agent.programmers.comparing import left_over, other_objects
from plait.agent.programmers.host_side import Actual, birth, host_steps, settings
from plait.agent.programmers.support import (
    HOST_LINK,
    ForgetLink,
    Step,
    refused,
    run,
)
from plait.kernel.netlink import Event, Namespace, Rtnetlink
from plait.kernel.netns import NamespaceGone
from plait.kernel.sysctl import Sysctl
from plait.model import marks
from plait.model.hoststate import HostState, Link
from plait.wire import links as wl
from plait.wire import rtnetlink as rt
from plait.wire.netlink import NetlinkError


class Links:
    """Programmer of `HostState.links`."""

    name = "links"

    def __init__(self, netlink: Rtnetlink, sysctl: Sysctl, forget: Iterable[ForgetLink] = ()):
        self._netlink = netlink
        self._sysctl = sysctl
        self._forget = tuple(forget)
        self._reaping = threading.Lock()
        self.actual: dict[str, Actual] = {}
        self.made: dict[str, Link] = {}
        """Links as this process made them: their inside cannot be seen from here."""
        self.doomed = 0
        """Links that wait to be reaped, about."""
        self._settled: dict[str, Link] = {}
        """Links that were found to be as wanted, for a comparison costs 10 µs."""

    def observe(self) -> None:
        """Read the host sides; the namespaces behind them are not entered."""
        ours: list[wl.LinkInfo] = []
        doomed = 0
        for info in self._netlink.links("veth"):
            if not HOST_LINK.fullmatch(info.name):
                continue
            if info.group == marks.DOOM_GROUP:
                doomed += 1
            elif info.group == marks.LINK_GROUP or info.alias.startswith(marks.ALIAS_PREFIX):
                ours.append(info)
        addresses: dict[int, list[rt.AddressInfo]] = {info.index: [] for info in ours}
        for family in (rt.AF_INET, rt.AF_INET6):
            for address in self._netlink.addresses(family):
                if address.index in addresses:
                    addresses[address.index].append(address)
        before = self.actual
        self.actual = {
            info.name: host_side.observed(info, addresses[info.index], before.get(info.name))
            for info in ours
        }
        self.made = {name: link for name, link in self.made.items() if name in self.actual}
        now, then = self.actual.get, before.get
        self._settled = {n: link for n, link in self._settled.items() if now(n) is then(n)}
        self.doomed = doomed

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Deletions, then changes and additions."""
        ops: list[Op] = []
        new = 0
        for name in other_objects(self._settled, desired.links):
            want, have = desired.links[name], self.actual.get(name)
            if have is None:
                new += 1
                text = "\n".join(step.text for step in birth(name, want))
                ops.append(Op(part=self.name, verb="add", key=name, want=want, text=text))
                continue
            text = self._difference(name, want, have)
            if not text:
                self._settled[name] = want
            else:
                op = Op(part=self.name, verb="change", key=name, want=want, have=have, text=text)
                ops.append(op)
        gone = sorted(left_over(self.actual.keys(), desired.links.keys(), new))
        return (*map(self._deletion, gone), *ops)

    def _deletion(self, name: str) -> Op:
        have, text = self.actual[name], f"ip link del {name}"
        return Op(part=self.name, verb="delete", key=name, have=have, text=text)

    def _difference(self, name: str, want: Link, have: Actual) -> str:
        """The commands that make a link as it is wanted; empty when it is."""
        if self._is_another(name, want, have):
            return "\n".join([f"ip link del {name}", *(s.text for s in birth(name, want))])
        texts = [step.text for step in host_steps(name, want, have)]
        texts += [f"sysctl -w net/{key}={value}" for key, value in settings(name, want, have)]
        if self._inside_differs(name, want, have):
            what = host_side.peer_change(self.made.get(name), want)
            texts.append(f"nsenter --net={want.peer.netns} ip … # {what}")
        return "\n".join(texts)

    def _inside_differs(self, name: str, want: Link, have: Actual) -> bool:
        """As far as it is ours and known: after a restart, the MTU tells of the inside's."""
        made = self.made.get(name)
        if not want.peer.netns:
            return False
        if made is None:
            return have.mtu != want.mtu
        return (made.peer, made.mtu) != (want.peer, want.mtu)

    def _is_another(self, name: str, want: Link, have: Actual) -> bool:
        """What is there cannot become what is wanted."""
        if have.half_made or (have.endpoint and have.endpoint != want.endpoint):
            return True
        made = self.made.get(name)
        return made is not None and not host_side.same_place(made.peer, want.peer)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Deletions in one batch, each other endpoint by itself."""
        failures = list(self._doom([op for op in ops if op.verb == "delete"]))
        for op in ops:
            if op.verb == "delete":
                continue
            failure = self._change(op) if op.key in self.actual else self._make(op)
            if failure is not None:
                failures.append(failure)
        return tuple(failures)

    # Making

    def _make(self, op: Op) -> Failure | None:
        """All or nothing: what is refused half-way leaves no link."""
        name: str = op.key
        want: Link = op.want
        try:
            if not want.peer.netns:
                return self._make_in(op, name, want, None)
            with self._netlink.open(want.peer.netns, want.peer.netns_inode) as namespace:
                if namespace.is_own:
                    text = f"{want.peer.netns} is the host's own namespace"
                    return Failure(op=op, error=text, errno=errno.EINVAL)
                return self._make_in(op, name, want, namespace)
        except NamespaceGone as problem:
            return Failure(op=op, error=str(problem), errno=errno.ENOENT, gone=True)
        except OSError as problem:
            self._undo(name)
            return refused(op, problem)

    def _make_in(
        self, op: Op, name: str, want: Link, namespace: Namespace | None
    ) -> Failure | None:
        born = host_side.pair(name, want, namespace.fd if namespace else -1)
        problem = self._netlink.execute([born.message])[0]
        if problem is not None and problem.code == errno.EEXIST:
            self._free(name)
            problem = self._netlink.execute([born.message])[0]
        if problem is not None:
            return self._not_born(op, name, want, namespace, problem)
        try:
            index = self._netlink.index(name)
            for key, value in host_side.all_settings(name, want):
                self._set(key, value)
            failed = self._inside(want, namespace) if namespace else None
            if failed is None:
                steps = host_steps(name, want, host_side.new_born(index, want))
                failed = run(self._netlink, self._sysctl, name, steps)
        except BaseException:
            self._undo(name)
            raise
        if failed is not None:
            self._undo(name)
            step, refusal = failed
            # Without its number: what exists already is a route or an address, not the name.
            return Failure(op=op, error=refused(op, refusal, step.text).error)
        self.actual[name] = host_side.as_wanted(index, want)
        self.made[name] = want
        self._settled.pop(name, None)
        return None

    def _free(self, name: str) -> None:
        """Delete a link of ours that held the name and waited to be reaped: it alone, for the
        caller is the loop and the others can go on waiting. Where there is none, one of those
        others may hold the peer's name, or the reaper's thread was faster than us."""
        index = self._netlink.index(name)
        found = self._netlink.link(index) if index else None
        if found is not None and found.kind == "veth" and found.group == marks.DOOM_GROUP:
            self._netlink.execute([wl.del_link(index)])
        else:
            self.reap()

    def _inside(self, want: Link, namespace: Namespace) -> tuple[Step, NetlinkError] | None:
        netlink, peer = namespace.netlink, want.peer
        steps = inside.steps(peer, netlink.index(peer.name), netlink.index("lo"))
        return run(netlink, namespace.sysctl, peer.name, steps)

    def _not_born(
        self, op: Op, name: str, want: Link, namespace: Namespace | None, problem: OSError
    ) -> Failure:
        if problem.errno != errno.EEXIST:
            pair = host_side.pair(name, want, namespace.fd if namespace else -1)
            return refused(op, problem, pair.text)
        if self._netlink.index(name):
            text = f"the host has a link {name} that is not ours"
        else:
            where = want.peer.netns if namespace else "the host's namespace"
            text = f"an interface {want.peer.name} exists in {where} already"
        return Failure(op=op, error=text, errno=errno.EEXIST)

    def _undo(self, name: str) -> None:
        """Delete what was made, at once: its peer's name must not stay taken."""
        index = self._netlink.index(name)
        if index:
            self._netlink.execute([wl.del_link(index)])

    def _set(self, key: str, value: str) -> None:
        try:
            self._sysctl.write(f"net/{key}", value)
        except FileNotFoundError:
            if not key.startswith("ipv6/"):
                raise
            # A kernel without IPv6 has nothing to be kept from.

    # Changing

    def _change(self, op: Op) -> Failure | None:
        name: str = op.key
        want: Link = op.want
        have = self.actual[name]
        self._settled.pop(name, None)
        if self._is_another(name, want, have):
            self._delete_now(name)
            return self._make(op)
        try:
            steps = host_steps(name, want, have)
            failed = run(self._netlink, self._sysctl, name, steps)
            if failed is not None:
                return refused(op, failed[1], failed[0].text)
            for key, value in settings(name, want, have):
                self._set(key, value)
            if self._inside_differs(name, want, have):
                failure = self._mend(op, want)
                if failure is not None:
                    return failure
                self.made[name] = want
        except OSError as problem:
            return refused(op, problem)
        if not have.up:
            # The routes over it went when it went down.
            self._forgotten(name)
        self.actual[name] = host_side.as_wanted(have.index, want)
        return None

    def _mend(self, op: Op, want: Link) -> Failure | None:
        try:
            with self._netlink.open(want.peer.netns, want.peer.netns_inode) as namespace:
                steps = inside.missing(namespace.netlink, want.peer, want.mtu)
                if steps is None:
                    text = f"there is no {want.peer.name} in {want.peer.netns} any more"
                    return Failure(op=op, error=text, errno=errno.ENODEV)
                failed = run(namespace.netlink, namespace.sysctl, want.peer.name, steps)
        except NamespaceGone as problem:
            return Failure(op=op, error=str(problem), errno=errno.ENOENT, gone=True)
        return refused(op, failed[1], failed[0].text) if failed is not None else None

    def check(self, desired: HostState, link: str) -> tuple[str, ...]:
        """See base.Checking. Enters the namespace, which a resync never does."""
        want = desired.links.get(link)
        if want is None:
            return ()
        index = self._netlink.index(link)
        info = self._netlink.link(index) if index else None
        if info is None:
            return (host_side.pair(link, want, -1).text,)
        families = (rt.AF_INET, rt.AF_INET6)
        addresses = [a for family in families for a in self._netlink.addresses(family, index)]
        found = self._difference(link, want, host_side.observed(info, addresses, None))
        inner: tuple[str, ...] = ()
        if want.peer.netns:
            try:
                inner = self.check_inside(want)
            except NamespaceGone as problem:
                inner = (f"# {problem}",)
        return (*found.splitlines(), *inner)

    def check_inside(self, want: Link) -> tuple[str, ...]:
        """Commands that would put the inside of an endpoint right; empty when it is.

        Enters the namespace, so it is for a person's question, not for every resync. Raises
        NamespaceGone.
        """
        with self._netlink.open(want.peer.netns, want.peer.netns_inode) as namespace:
            steps = inside.missing(namespace.netlink, want.peer, want.mtu)
        if steps is None:
            return (f"# there is no {want.peer.name} in {want.peer.netns}",)
        return tuple(step.text for step in steps)

    # Deleting

    def _doom(self, ops: Sequence[Op]) -> Iterable[Failure]:
        todo = [op for op in ops if op.key in self.actual]
        packed: list[bytes] = []
        for op in todo:
            index = self.actual[op.key].index
            # Down before it leaves the group whose unknown members are dropped.
            packed += [wl.set_link(index, up=False), wl.set_link(index, group=marks.DOOM_GROUP)]
        results = self._netlink.execute(packed)
        for position, op in enumerate(todo):
            problem = results[2 * position] or results[2 * position + 1]
            if problem is not None and problem.code != errno.ENODEV:
                yield refused(op, problem)
                continue
            self.doomed += problem is None
            self._gone(op.key)

    def _gone(self, name: str) -> None:
        self.actual.pop(name, None)
        self.made.pop(name, None)
        self._settled.pop(name, None)
        self._forgotten(name)

    def _forgotten(self, name: str) -> None:
        for forget in self._forget:
            forget(name)

    def _delete_now(self, name: str) -> None:
        self._netlink.execute([wl.del_link(self.actual[name].index)])
        self._gone(name)

    def reap(self) -> int:
        """Delete the links that wait for it; how many there were.

        Takes about 20 ms and 1 ms a link, in the kernel: the loop calls it from a thread, with as
        many waiting as possible. It uses a socket of its own.
        """
        with self._reaping:
            door = self._netlink.clone()
            try:
                waiting = door.links("veth", marks.DOOM_GROUP)
                ours = [found for found in waiting if HOST_LINK.fullmatch(found.name)]
                if ours and len(ours) == len(waiting):
                    door.execute([wl.del_group(marks.DOOM_GROUP)])
                else:
                    # Somebody else uses the number of our group.
                    door.execute([wl.del_link(found.index) for found in ours])
            finally:
                door.close()
            # More may have been doomed meanwhile, by the loop's thread.
            self.doomed = max(0, self.doomed - len(ours))
            return len(ours)

    def notice(self, events: Sequence[Event]) -> bool:
        """True when the last event of a link contradicts `actual`: somebody else changed it."""
        last: dict[int, Event] = {}
        for event in events:
            if event.kind == "lost":
                return True
            if isinstance(event.info, wl.LinkInfo):
                last[event.info.index] = event
            elif isinstance(event.info, rt.AddressInfo) and self._holds(event.info):
                return True
        return any(
            self._contradicts(event.deleted, event.info)
            for event in last.values()
            if isinstance(event.info, wl.LinkInfo)
        )

    def _holds(self, address: rt.AddressInfo) -> bool:
        name = self._netlink.name(address.index)
        have = self.actual.get(name)
        return have is not None and address.address in have.addresses

    def _contradicts(self, deleted: bool, info: wl.LinkInfo) -> bool:
        have = self.actual.get(info.name)
        if have is None or have.index != info.index:
            return False
        now = (info.up, info.group, info.mtu, info.mac)
        return deleted or now != (have.up, have.group, have.mtu, have.mac)
