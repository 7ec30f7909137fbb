"""VXLAN devices without learning (RFC 7348); identity: the name.

What the kernel cannot change on a living device (VNI, port, local address, learning) has it made
anew; the routes, neighbours and forwarding entries over it are then forgotten, so that their
programmers add them again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

import msgspec

from plait.agent.programmers.base import Failure, Op
from plait.agent.programmers.support import (
    TUNNEL_PREFIX,
    ForgetLink,
    Step,
    refused,
    run,
    settle,
)
from plait.kernel.netlink import Event, Rtnetlink
from plait.kernel.sysctl import Sysctl
from plait.model import marks
from plait.model.hoststate import HostState, Vxlan
from plait.wire import links as wl
from plait.wire import rtnetlink as rt


class Actual(msgspec.Struct, frozen=True):
    """A device as it was last seen or made."""

    index: int
    up: bool
    mtu: int
    mac: str
    addrgen_none: bool
    device: wl.VxlanInfo
    addresses: frozenset[str]
    surplus: frozenset[str] = frozenset()
    """Addresses that the kernel or we put there."""


class Tunnels:
    """Programmer of `HostState.tunnels`."""

    name = "tunnels"

    def __init__(
        self,
        netlink: Rtnetlink,
        forget: Iterable[ForgetLink] = (),
        sysctl: Sysctl | None = None,
    ) -> None:
        """Without `sysctl`, IPv6 that the host has turned off stays off on tunnels too."""
        self._netlink = netlink
        self._sysctl = sysctl
        self._forget = tuple(forget)
        self.actual: dict[str, Actual] = {}

    def observe(self) -> None:
        """Read the devices of our name, and their addresses."""
        ours = [
            info for info in self._netlink.links("vxlan") if info.name.startswith(TUNNEL_PREFIX)
        ]
        self.actual = {
            info.name: _observed(
                info,
                [
                    address
                    for family in (rt.AF_INET, rt.AF_INET6)
                    for address in self._netlink.addresses(family, info.index)
                ],
            )
            for info in ours
        }

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Additions and changes, then deletions."""
        ops: list[Op] = []
        for name, want in desired.tunnels.items():
            have = self.actual.get(name)
            if have is None:
                text = "\n".join(step.text for step in _birth(name, want))
                ops.append(Op(part=self.name, verb="add", key=name, want=want, text=text))
                continue
            steps = _steps(name, want, have)
            if _is_another(want, have):
                steps = [Step(f"ip link del {name}", b""), *_birth(name, want)]
            if steps:
                text = "\n".join(step.text for step in steps)
                op = Op(part=self.name, verb="change", key=name, want=want, have=have, text=text)
                ops.append(op)
        for name in self.actual.keys() - desired.tunnels.keys():
            have = self.actual[name]
            text = f"ip link del {name}"
            ops.append(Op(part=self.name, verb="delete", key=name, have=have, text=text))
        return tuple(ops)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """One device after the other: there are few."""
        failures = []
        for op in ops:
            failure = self._apply(op)
            if failure is not None:
                failures.append(failure)
        return tuple(failures)

    def _apply(self, op: Op) -> Failure | None:
        have = self.actual.get(op.key)
        if have is not None and (op.want is None or _is_another(op.want, have)):
            problem = self._netlink.execute([wl.del_link(have.index)])[0]
            if problem is not None and problem.code != errno.ENODEV:
                return refused(op, problem)
            self._gone(op.key)
            have = None
        if op.want is None:
            return None
        return self._make(op) if have is None else self._change(op, have)

    def _make(self, op: Op) -> Failure | None:
        name: str = op.key
        want: Vxlan = op.want
        born = _device_step(name, want)
        problem = self._netlink.execute([born.message])[0]
        if problem is not None and problem.code == errno.EEXIST:
            text = f"the host has a link {name} that is not ours, or a VXLAN {want.vni}"
            return Failure(op=op, error=f"{text} on port {want.port}", errno=errno.EEXIST)
        if problem is not None:
            return refused(op, problem, born.text)
        index = self._netlink.index(name)
        steps = _steps(name, want, _bare(index, want))
        failed = run(self._netlink, self._sysctl, name, steps)
        if failed is not None:
            self._netlink.execute([wl.del_link(index)])
            return refused(op, failed[1], failed[0].text)
        self.actual[name] = _as_wanted(index, want)
        return None

    def _change(self, op: Op, have: Actual) -> Failure | None:
        steps = _steps(op.key, op.want, have)
        failed = run(self._netlink, self._sysctl, op.key, steps)
        if failed is not None:
            return refused(op, failed[1], failed[0].text)
        if not have.up:
            # What led over it went when it went down.
            for forget in self._forget:
                forget(op.key)
        self.actual[op.key] = _as_wanted(have.index, op.want)
        return None

    def _gone(self, name: str) -> None:
        self.actual.pop(name, None)
        for forget in self._forget:
            forget(name)

    def notice(self, events: Sequence[Event]) -> bool:
        """True when the last event of a device contradicts `actual`."""
        last: dict[int, Event] = {}
        for event in events:
            if event.kind == "lost":
                return True
            if isinstance(event.info, wl.LinkInfo):
                last[event.info.index] = event
            elif isinstance(event.info, rt.AddressInfo):
                for have in self.actual.values():
                    if have.index == event.info.index and event.info.address in have.addresses:
                        return True
        return any(self._contradicts(event) for event in last.values())

    def _contradicts(self, event: Event) -> bool:
        info = event.info
        assert isinstance(info, wl.LinkInfo)
        have = self.actual.get(info.name)
        if have is None or have.index != info.index:
            return False
        return event.deleted or (info.up, info.mtu, info.mac) != (have.up, have.mtu, have.mac)


def _observed(info: wl.LinkInfo, addresses: Sequence[rt.AddressInfo]) -> Actual:
    marked = {marks.PROTOCOL, rt.IFAPROT_KERNEL_LL}
    return Actual(
        index=info.index,
        up=info.up,
        mtu=info.mtu,
        mac=info.mac,
        addrgen_none=info.addrgen_none,
        device=info.vxlan or wl.VxlanInfo(0, 0, "", learning=True),
        addresses=frozenset(found.address for found in addresses),
        surplus=frozenset(found.address for found in addresses if found.protocol in marked),
    )


def _device(want: Vxlan) -> wl.VxlanInfo:
    return wl.VxlanInfo(vni=want.vni, port=want.port, local=want.local, learning=False)


def _bare(index: int, want: Vxlan) -> Actual:
    """A device that has just been born."""
    return Actual(index, False, want.mtu, want.mac, False, _device(want), frozenset())


def _as_wanted(index: int, want: Vxlan) -> Actual:
    addresses = frozenset(want.addresses)
    return Actual(index, True, want.mtu, want.mac, True, _device(want), addresses, addresses)


def _is_another(want: Vxlan, have: Actual) -> bool:
    return have.device != _device(want)


def _device_step(name: str, want: Vxlan) -> Step:
    text = (
        f"ip link add {name} mtu {want.mtu} address {want.mac} type vxlan id {want.vni} "
        f"local {want.local} dstport {want.port} nolearning"
    )
    message = wl.new_vxlan(
        name, mac=want.mac, mtu=want.mtu, vni=want.vni, port=want.port, local=want.local
    )
    return Step(text, message)


def _birth(name: str, want: Vxlan) -> list[Step]:
    return [_device_step(name, want), *_steps(name, want, _bare(0, want))]


def _steps(name: str, want: Vxlan, have: Actual) -> list[Step]:
    """What is to be done to a living device."""
    at, index = f"ip link set {name}", have.index
    steps: list[Step] = []
    if have.mac != want.mac:
        steps.append(Step(f"{at} address {want.mac}", wl.set_link(index, mac=want.mac)))
    if have.mtu != want.mtu:
        steps.append(Step(f"{at} mtu {want.mtu}", wl.set_link(index, mtu=want.mtu)))
    steps += settle(name, want.addresses, have)
    return steps
