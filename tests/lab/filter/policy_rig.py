"""One host of namespaces on which the kernel decides about packets, many in a second.

    left   endpoints of this host, senders          right  endpoints of this host, receivers
    out    the world, and endpoints of other hosts

Nobody answers: the addresses lead to the namespaces, but are not theirs. Frames are sent and heard
on the link layer; what the rules decided is read from what they log.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.lab.packets import ether, ip, kind_of
from tests.support.rulesets import LEFT, POOLS, REMOTE, RIGHT, WORLD

from plait.agent.programmers.domains import DomainSets
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.kernel import netns
from plait.kernel.conntrack import FakeConntrack
from plait.kernel.nflog import Nflog
from plait.kernel.nft import Nft
from plait.model import marks
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.model.ruleset import Ruleset
from plait.wire import nflog
from plait.wire.nft_expr import PROTOCOLS

SIDES: Final = {
    "left": LEFT,
    "right": RIGHT,
    "out": (*REMOTE, *WORLD),
}
OTHER_PROTOCOL: Final = 47
DEADLINE: Final = 30.0


class Sent(NamedTuple):
    """A packet."""

    src: str
    dst: str
    protocol: str
    sport: int = 0
    dport: int = 0
    icmp: tuple[int, int] = (0, 0)
    flags: int = 2
    """Of TCP; SYN."""

    @property
    def side(self) -> str:
        """The namespace that it comes from."""
        return next(name for name, addresses in SIDES.items() if self.src in addresses)

    def frame(self) -> bytes:
        """On the link layer."""
        protocol = PROTOCOLS.get(self.protocol, OTHER_PROTOCOL)
        return ether(kind_of(self.src), ip(self.src, self.dst, protocol, self._body()))

    @property
    def key(self) -> nflog.Transport:
        """By which it is known again."""
        return nflog.headers(self.frame()[14:])

    def _body(self) -> bytes:
        match self.protocol:
            case "tcp":
                return struct.pack(
                    "!HHIIBBHHH", self.sport, self.dport, 1, 0, 0x50, self.flags, 64, 0, 0
                )
            case "udp":
                return struct.pack("!HHHH", self.sport, self.dport, 8, 0)
            case "sctp":
                # INIT (RFC 9260 section 3.3.2).
                chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 7, 4096, 1, 1, 1)
                return struct.pack("!HHII", self.sport, self.dport, 0, 0) + chunk
            case "icmp" | "icmpv6":
                return struct.pack("!BBHHH", *self.icmp, 0, 7, 1)
            case _:
                return struct.pack("!HHI", 0, 0, 0)


class Rig:
    """See the module's docstring."""

    def __init__(self, stack: ExitStack) -> None:
        self.ns: dict[str, int] = {}
        for name in ("host", *SIDES):
            self.ns[name] = netns.create()
            stack.callback(os.close, self.ns[name])
        self._build()
        self.socks = {name: stack.enter_context(self._socket(name)) for name in SIDES}
        with netns.inside(self.ns["host"]):
            self.nft = Nft()
            self.log = Nflog(buffer=16 << 20)
        stack.callback(self.nft.close)
        stack.callback(self.log.close)
        self.table = FilterTable(self.nft)
        self.policy = FilterPolicy(self.table)
        self.domains = DomainSets(self.table, time.monotonic)
        self.programmers = (
            FilterBase(self.table),
            self.policy,
            FilterEndpoints(self.table, FakeConntrack()),
        )
        self.filter = Filter(
            networks={"a": FilterNetwork(pools=POOLS)},
            endpoints={
                f"pl{side}": FilterEndpoint(network="a", addresses=SIDES[side])
                for side in ("left", "right")
            },
            pools=POOLS,
            dns=False,
        )

    def _build(self) -> None:
        with netns.inside(self.ns["host"]):
            for key, value in {
                "ipv4/ip_forward": "1",
                "ipv4/conf/all/rp_filter": "0",
                "ipv4/conf/default/rp_filter": "0",
                "ipv6/conf/all/forwarding": "1",
                "ipv6/conf/default/accept_dad": "0",
            }.items():
                # A thread's own view: /proc/self would be the main thread's.
                Path(f"/proc/sys/net/{key}").write_text(value)
        links = {name: name if name == "out" else f"pl{name}" for name in SIDES}
        commands = ["link set lo up"]
        for name, link in links.items():
            group = 0 if name == "out" else marks.LINK_GROUP
            commands += [
                f"link add {link} group {group} address {marks.HOST_MAC} "
                f"type veth peer name eth0 netns {netns.fd_path(self.ns[name])}",
                f"link set {link} arp off up",
            ]
        self._ip("host", commands)
        for name in links:
            with netns.inside(self.ns[name]):
                # No chatter: no router is asked for.
                Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
            self._ip(name, ["link set eth0 arp off up"])
        commands = ["address add 192.0.2.1/32 dev out", "address add fd09::1/128 dev out nodad"]
        for name, link in links.items():
            commands += [f"route add {address} dev {link}" for address in SIDES[name]]
        self._ip("host", commands)
        with netns.inside(self.ns["host"]):
            # Nobody looks at the packets' sums here.
            Path("/proc/sys/net/netfilter/nf_conntrack_checksum").write_text("0")

    def _ip(self, name: str, commands: Sequence[str]) -> None:
        with netns.inside(self.ns[name]):
            subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)

    @contextmanager
    def _socket(self, name: str) -> Iterator[socket.socket]:
        sock = netns.ns_socket(self.ns[name], socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            with netns.inside(self.ns[name]):
                sock.bind(("eth0", 3))
            sock.setblocking(False)
            yield sock

    def apply(self, wanted: Ruleset) -> None:
        """Make the kernel equal to a ruleset."""
        state = HostState(filter=self.filter, policy=wanted)
        for programmer in self.programmers:
            programmer.observe()
            failures = programmer.apply(programmer.plan(state))
            assert failures == ()

    def send(self, packets: Iterable[Sent]) -> None:
        """Send packets; each has its `key`."""
        for packet in packets:
            self.socks[packet.side].send(packet.frame())

    def logged(self, count: int) -> dict[nflog.Transport, list[str]]:
        """Prefixes of what was logged, by packet and in order, once there are so many; fewer at
        the deadline."""
        found: dict[nflog.Transport, list[str]] = {}
        total, deadline = 0, time.monotonic() + DEADLINE
        while True:
            reading = self.log.read(4096)
            assert not reading.lost
            for packet in reading.packets:
                key = nflog.Transport(
                    packet.protocol, packet.src, packet.dst, packet.sport, packet.dport
                )
                found.setdefault(key, []).append(packet.prefix)
                total += 1
            if (total >= count and not reading.packets) or time.monotonic() > deadline:
                return found
            os.sched_yield()

    def heard(self) -> set[nflog.Transport]:
        """IP packets that came to some namespace since the last call."""
        found = set()
        for sock in self.socks.values():
            while True:
                try:
                    frame, whence = sock.recvfrom(2048)
                except BlockingIOError:
                    break
                if whence[2] != socket.PACKET_OUTGOING:
                    found.add(nflog.headers(frame[14:]))
        return found

    def counts(self) -> dict[str, int]:
        """Packets by counter."""
        return {name: count.packets for name, count in self.nft.counters().items()}


@contextmanager
def rig() -> Iterator[Rig]:
    """A rig that is taken down again."""
    with ExitStack() as stack:
        yield Rig(stack)
