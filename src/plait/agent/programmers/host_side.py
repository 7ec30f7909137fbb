"""The host side of an endpoint as a value, and the steps from what is to what is wanted.

Pure: `plait.agent.programmers.links` observes and acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from plait.agent.programmers import inside
from plait.agent.programmers.support import Step, settle
from plait.model import marks
from plait.model.hoststate import Link, Peer
from plait.wire import links as wl
from plait.wire import rtnetlink as rt

SYSCTLS: Final = (("ipv6/conf/{name}/accept_ra", "0"),)
"""Of every host side, unless the link says otherwise: no container advertises routes to us."""


class Actual(msgspec.Struct, frozen=True):
    """A host side as it was last seen or made."""

    index: int
    endpoint: str
    """Out of the alias; empty when there is none of ours."""
    up: bool
    group: int
    mtu: int
    mac: str
    addrgen_none: bool
    addresses: frozenset[str]
    surplus: frozenset[str] = frozenset()
    """Addresses that the kernel or we put there; others are a person's."""
    info: wl.LinkInfo | None = None
    """The kernel's answer; None when we have just made it."""

    @property
    def half_made(self) -> bool:
        """A crash came between its first and its last send."""
        return not self.endpoint and not self.up

    def sysctl(self, key: str) -> str | None:
        """Value of a setting below `net/`; None: unknown, taken to be as wanted."""
        return self.info.sysctl(key) if self.info is not None else None


def observed(
    info: wl.LinkInfo, addresses: Sequence[rt.AddressInfo], before: Actual | None
) -> Actual:
    """Out of a dump; `before` itself when nothing has changed since."""
    present = frozenset([found.address for found in addresses])
    if before is not None and before.info is info and before.addresses == present:
        return before
    alias = info.alias
    return Actual(
        index=info.index,
        endpoint=alias.removeprefix(marks.ALIAS_PREFIX)
        if alias.startswith(marks.ALIAS_PREFIX)
        else "",
        up=info.up,
        group=info.group,
        mtu=info.mtu,
        mac=info.mac,
        addrgen_none=info.addrgen_none,
        addresses=present,
        surplus=frozenset(
            found.address
            for found in addresses
            if found.protocol in {marks.PROTOCOL, rt.IFAPROT_KERNEL_LL}
        ),
        info=info,
    )


def new_born(index: int, want: Link) -> Actual:
    """As the first send leaves it."""
    nothing: frozenset[str] = frozenset()
    return Actual(
        index, "", False, marks.LINK_GROUP, want.mtu, marks.HOST_MAC, False, nothing, nothing
    )


def as_wanted(index: int, want: Link) -> Actual:
    """As the last send leaves it."""
    return Actual(
        index=index,
        endpoint=want.endpoint,
        up=True,
        group=marks.LINK_GROUP,
        mtu=want.mtu,
        mac=marks.HOST_MAC,
        addrgen_none=True,
        addresses=frozenset(want.addresses),
        surplus=frozenset(want.addresses),
    )


def same_place(made: Peer, want: Peer) -> bool:
    """Both peers are the same interface: its name, MAC and namespace cannot be changed."""
    if (made.name, made.mac, bool(made.netns)) != (want.name, want.mac, bool(want.netns)):
        return False
    if made.netns_inode and want.netns_inode:
        return made.netns_inode == want.netns_inode
    return made.netns == want.netns


def peer_change(made: Link | None, want: Link) -> str:
    """What differs inside, for a person; with nothing known of the inside, the MTU."""
    if made is None:
        return "mtu"
    before, after = msgspec.structs.asdict(made.peer), msgspec.structs.asdict(want.peer)
    changed = [field for field in after if before[field] != after[field]]
    return ", ".join(changed if made.mtu == want.mtu else ["mtu", *changed])


def pair(name: str, want: Link, netns_fd: int) -> Step:
    """Both ends in one message; -1: the peer stays in the host's namespace."""
    peer = want.peer
    at = f" netns {peer.netns}" if peer.netns else f" group {marks.LINK_GROUP}"
    text = (
        f"ip link add {name} mtu {want.mtu} group {marks.LINK_GROUP} address {marks.HOST_MAC} "
        f"type veth peer name {peer.name} address {peer.mac} mtu {want.mtu}{at}"
    )
    message = wl.new_veth(
        name,
        mac=marks.HOST_MAC,
        mtu=want.mtu,
        group=marks.LINK_GROUP,
        peer_name=peer.name,
        peer_mac=peer.mac,
        # In another namespace the group would mean whatever it means there.
        peer_group=0 if peer.netns else marks.LINK_GROUP,
        peer_netns=netns_fd,
    )
    return Step(text, message)


def birth(name: str, want: Link) -> list[Step]:
    """All steps that make an endpoint, as they print."""
    bare = new_born(0, want)
    settings = [
        Step(f"sysctl -w net/{key}={value}", b"") for key, value in all_settings(name, want)
    ]
    within = inside.steps(want.peer) if want.peer.netns else []
    return [pair(name, want, -1), *settings, *within, *host_steps(name, want, bare)]


def host_steps(name: str, want: Link, have: Actual) -> list[Step]:
    """What is to be done to a host side. The alias, which says that the inside is whole, comes
    while the link is still down: on one that is up, the kernel goes through all IPv6 routes."""
    at, index = f"ip link set {name}", have.index
    steps: list[Step] = []
    if have.group != marks.LINK_GROUP:
        text = f"{at} group {marks.LINK_GROUP}"
        steps.append(Step(text, wl.set_link(index, group=marks.LINK_GROUP)))
    if have.mtu != want.mtu:
        steps.append(Step(f"{at} mtu {want.mtu}", wl.set_link(index, mtu=want.mtu)))
    if have.mac != marks.HOST_MAC:
        message = wl.set_link(index, mac=marks.HOST_MAC)
        steps.append(Step(f"{at} address {marks.HOST_MAC}", message))
    if have.endpoint != want.endpoint:
        alias = marks.ALIAS_PREFIX + want.endpoint
        steps.append(Step(f"{at} alias {alias}", wl.set_link(index, alias=alias)))
    return steps + settle(name, want.addresses, have)


def all_settings(name: str, want: Link) -> list[tuple[str, str]]:
    """Settings of a link, by key below `net/`; the link's own win over the common ones."""
    merged: Mapping[str, str] = {**dict(SYSCTLS), **dict(want.sysctls)}
    return [(key.replace("{name}", name), value) for key, value in merged.items()]


def settings(name: str, want: Link, have: Actual) -> list[tuple[str, str]]:
    """Settings that differ, as far as the kernel's dump shows them."""
    return [
        (key, value)
        for key, value in all_settings(name, want)
        if have.sysctl(key) not in {None, value}
    ]
