"""What the host's network looks like without us: read, never written.

Our endpoints' links, and what is on them, are left out: there may be thousands. One dump each of
links, addresses and routes (rtnetlink(7)), and resolv.conf. The agent decides from it which
interface carries the underlay, and tells the server which prefixes are in use.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

import msgspec

from plait.model.marks import DOOM_GROUP, LINK_GROUP, PROTOCOL
from plait.wire.netlink import (
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
    error,
    get_text,
    get_u8,
    get_u32,
    message,
    messages,
)

RTM_GETLINK: Final = 18
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
IFF_UP: Final = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_GROUP = 1, 3, 4, 27
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
IFA_F_UNUSABLE: Final = 0x01 | 0x08 | 0x20
"""Temporary, failed DAD, deprecated (linux/if_addr.h): no address to be reached by."""
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RTN_UNICAST: Final = 1
OURS: Final = frozenset((LINK_GROUP, DOOM_GROUP))
RTM_F_CLONED: Final = 0x200
SO_NETNS_COOKIE: Final = 71
"""asm-generic/socket.h, since 5.14: a number that no other namespace of this boot has had."""


class LinkFact(msgspec.Struct, frozen=True):
    """An interface."""

    index: int
    name: str
    mtu: int
    up: bool
    group: int


class AddressFact(msgspec.Struct, frozen=True):
    """An address of an interface, with prefix length."""

    link: str
    address: str
    usable: bool
    """Not temporary, deprecated or duplicate."""
    protocol: int
    """IFA_PROTO; 0 when the kernel does not say."""


class RouteFact(msgspec.Struct, frozen=True):
    """A unicast route of the main table."""

    dst: str
    """CIDR; `0.0.0.0/0` and `::/0` for default routes."""
    link: str
    via: str
    metric: int
    protocol: int


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    links: tuple[LinkFact, ...]
    addresses: tuple[AddressFact, ...]
    routes: tuple[RouteFact, ...]
    resolvers: tuple[str, ...] = ()
    accept_ra: dict[str, str] = {}
    """net/ipv6/conf/<link>/accept_ra of the links that are up."""


def read(resolv_conf: Path = Path("/etc/resolv.conf")) -> HostFacts:
    """The facts of the network namespace of the caller. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        links = tuple(link for link in _links(sock) if link.group not in OURS)
        names = {link.index: link.name for link in links}
        return HostFacts(
            links=links,
            addresses=tuple(_addresses(sock, names)),
            routes=tuple(_routes(sock, names)),
            resolvers=resolvers(resolv_conf),
            accept_ra={link.name: _accept_ra(link.name) for link in links if link.up},
        )


def boot_identity() -> str:
    """Changes when no endpoint can have survived: the kernel's boot id, and the cookie of this
    network namespace (a lab host is switched off and on without a new kernel)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            cookie = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]
        except OSError:
            cookie = Path("/proc/self/ns/net").stat().st_ino
    return f"{boot}/{cookie}"


def resolvers(resolv_conf: Path) -> tuple[str, ...]:
    """Name servers of a resolv.conf(5); none when there is no such file."""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    words = (line.split() for line in lines)
    return tuple(w[1] for w in words if len(w) > 1 and w[0] == "nameserver")


def _accept_ra(link: str) -> str:
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{link}/accept_ra").read_text().strip()
    except OSError:
        return ""


def _dump(sock: socket.socket, kind: int, payload: bytes) -> Iterator[bytes]:
    sock.send(message(kind, NLM_F_DUMP, payload))
    while True:
        for header, body in messages(sock.recv(1 << 17)):
            if header.type == NLMSG_DONE:
                return
            if header.type == NLMSG_ERROR:
                raise error(header, body) or OSError(os.strerror(5))
            yield body


def _links(sock: socket.socket) -> Iterator[LinkFact]:
    for body in _dump(sock, RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        index, flags = struct.unpack_from("=iI", body, 4)
        attrs = attributes(body, 16)
        yield LinkFact(
            index,
            get_text(attrs.get(IFLA_IFNAME)),
            get_u32(attrs.get(IFLA_MTU)),
            bool(flags & IFF_UP),
            get_u32(attrs.get(IFLA_GROUP)),
        )


def _addresses(sock: socket.socket, names: dict[int, str]) -> Iterator[AddressFact]:
    for body in _dump(sock, RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, length, flags, _, index = struct.unpack_from("=BBBBI", body)
        attrs = attributes(body, 8)
        raw = attrs.get(IFA_LOCAL) or attrs.get(IFA_ADDRESS)
        if raw is None or index not in names or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        flags = get_u32(attrs.get(IFA_FLAGS)) or flags
        # IFA_F_SECONDARY is IFA_F_TEMPORARY for IPv6; an IPv4 secondary is as good as any.
        unusable = IFA_F_UNUSABLE if family == socket.AF_INET6 else 0x20
        yield AddressFact(
            names[index],
            f"{_text(raw)}/{length}",
            not flags & unusable,
            get_u8(attrs.get(IFA_PROTO)),
        )


def _routes(sock: socket.socket, names: dict[int, str]) -> Iterator[RouteFact]:
    payload = struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 254, 0, 0, 0, 0)
    for body in _dump(sock, RTM_GETROUTE, payload):
        family, length, _, _, table, protocol, _, kind, flags = struct.unpack_from(
            "=BBBBBBBBI", body
        )
        if kind != RTN_UNICAST or flags & RTM_F_CLONED or protocol == PROTOCOL:
            continue
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        attrs = attributes(body, 12)
        link = get_u32(attrs.get(RTA_OIF))
        if (get_u32(attrs.get(RTA_TABLE)) or table) != 254 or (link and link not in names):
            continue
        raw = attrs.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
        via = attrs.get(RTA_GATEWAY)
        yield RouteFact(
            f"{_text(raw)}/{length}",
            names.get(link, ""),
            _text(via) if via else "",
            get_u32(attrs.get(RTA_PRIORITY)),
            protocol,
        )


def _text(raw: bytes) -> str:
    return str(IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw))
