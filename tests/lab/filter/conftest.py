"""A host of network namespaces, with endpoints and an outside, and packets between them.

Everything is in this process: sockets are made inside the namespaces, so that a probe costs
microseconds. That a packet was dropped is read from the counter of the rule that drops it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import pytest

from plait.agent.programmers.base import Programmer
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.kernel import netns
from plait.kernel.conntrack import Conntrack
from plait.kernel.nft import Nft
from plait.model import marks
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.model.ruleset import Ruleset

DEADLINE: Final = 30.0
"""Seconds after which something that must happen counts as failed."""

NETWORKS: Final = {
    "net a": FilterNetwork(pools=("10.1.0.0/24", "fd01::/64")),
    'b"; flush ruleset\n': FilterNetwork(pools=("10.2.0.0/24", "fd02::/64")),
    "internal": FilterNetwork(pools=("10.3.0.0/24", "fd03::/64"), internal=True),
}
A, B, INTERNAL = NETWORKS
ENDPOINTS: Final = {
    "a1": (A, "10.1.0.1", "fd01::1"),
    "a2": (A, "10.1.0.2", "fd01::2"),
    "b1": (B, "10.2.0.1", "fd02::1"),
    "i1": (INTERNAL, "10.3.0.1", "fd03::1"),
    "i2": (INTERNAL, "10.3.0.2", "fd03::2"),
    "unknown": ("", "10.1.0.99", "fd01::99"),
}
OUTSIDE: Final = {
    "out": ("192.0.2.1/24", "fd09::1/64", "192.0.2.2", "fd09::2"),
    "far": ("198.51.100.1/24", "fd08::1/64", "198.51.100.2", "fd08::2"),
}
"""Host's addresses, then the neighbour's."""
PUBLIC: Final = ("9.9.9.9", "fd99::9")
"""Addresses of a public resolver, on `out`."""


NO_POLICIES: Final = Ruleset()


def programmers(table: FilterTable, flows: Conntrack) -> tuple[Programmer, ...]:
    """Those of the filter, in their order."""
    return FilterBase(table), FilterPolicy(table), FilterEndpoints(table, flows)


class World:
    """Namespaces by name: `host`, the endpoints, `out` and `far`."""

    def __init__(self, stack: ExitStack) -> None:
        self.ns: dict[str, int] = {}
        for name in ("host", *ENDPOINTS, *OUTSIDE):
            fd = netns.create()
            stack.callback(os.close, fd)
            self.ns[name] = fd
        self._build()
        with netns.inside(self.ns["host"]):
            self.foreign = self._foreign_table()
            self.nft = Nft()
            self.flows = Conntrack()
        # The one that a restarted agent opened, when there was one.
        stack.callback(lambda: self.nft.close())
        stack.callback(self.flows.close)
        self.table = FilterTable(self.nft)
        self.programmers = programmers(self.table, self.flows)
        self.filter = Filter(
            networks=NETWORKS,
            endpoints={
                f"pl{name}": FilterEndpoint(network=network, addresses=tuple(addresses))
                for name, (network, *addresses) in ENDPOINTS.items()
                if network
            },
            pools=tuple(p for n in NETWORKS.values() for p in n.pools),
            vteps=("192.0.2.2",),
        )

    def ip(self, name: str, *commands: str) -> None:
        """Run `ip` commands inside a namespace; those that begin with -6 come last."""
        plain = [c for c in commands if not c.startswith("-6 ")]
        six = [c.removeprefix("-6 ") for c in commands if c.startswith("-6 ")]
        with netns.inside(self.ns[name]):
            for options, batch in (([], plain), (["-6"], six)):
                if batch:
                    text = "\n".join(batch).encode()
                    subprocess.run(["ip", *options, "-batch", "-"], input=text, check=True)

    def sysctl(self, name: str, **values: str) -> None:
        """Write sysctls below `net/`; `__` stands for a slash."""
        with netns.inside(self.ns[name]):
            for key, value in values.items():
                path = "/proc/sys/net/" + key.replace("__", "/")
                # A thread's own view: /proc/self would be the main thread's.
                with open(path, "w") as file:  # noqa: PTH123
                    file.write(value)

    def _build(self) -> None:
        self.sysctl(
            "host",
            ipv4__ip_forward="1",
            ipv6__conf__all__forwarding="1",
            ipv6__conf__default__accept_dad="0",
            ipv4__conf__all__rp_filter="0",
            ipv4__conf__default__rp_filter="0",
        )
        self.ip(
            "host",
            "link set lo up",
            f"address add {marks.GATEWAY4}/32 dev lo",
            f"address add {marks.RESOLVER6}/128 dev lo nodad",
            f"rule add fwmark {marks.DNS_MARK}/{marks.DNS_MARK_MASK} lookup 112",
            f"-6 rule add fwmark {marks.DNS_MARK}/{marks.DNS_MARK_MASK} lookup 112",
            "route add local 0.0.0.0/0 dev lo table 112",
            "-6 route add local ::/0 dev lo table 112",
        )
        for name, (_, address4, address6) in ENDPOINTS.items():
            self._veth(name, f"pl{name}", f"group {marks.LINK_GROUP}")
            self.sysctl("host", **{f"ipv4__conf__pl{name}__route_localnet": "1"})
            self.ip(
                "host",
                f"address add fe80::1/64 dev pl{name} nodad",
                f"route add {address4}/32 dev pl{name}",
                f"-6 route add {address6}/128 dev pl{name}",
            )
            self.ip(
                name,
                f"address add {address4}/32 dev eth0",
                f"address add {address6}/128 dev eth0 nodad",
                f"route add default via {marks.GATEWAY4} dev eth0 onlink",
                "-6 route add default via fe80::1 dev eth0",
            )
        for name, (host4, host6, address4, address6) in OUTSIDE.items():
            self._veth(name, name, "")
            self.ip(
                "host",
                f"address add {host4} dev {name}",
                f"address add {host6} dev {name} nodad",
            )
            self.ip(
                name,
                f"address add {address4}/24 dev eth0",
                f"address add {address6}/64 dev eth0 nodad",
                f"route add default via {host4.split('/')[0]}",
                f"-6 route add default via {host6.split('/')[0]}",
            )
        self.ip(
            "out",
            f"address add {PUBLIC[0]}/32 dev lo",
            f"address add {PUBLIC[1]}/128 dev lo nodad",
        )
        self.ip("host", "route add 9.9.9.9 via 192.0.2.2", "-6 route add fd99::9 via fd09::2")

    def _veth(self, name: str, link: str, options: str) -> None:
        self.sysctl(name, ipv6__conf__default__accept_dad="0")
        path = netns.fd_path(self.ns[name])
        self.ip(
            "host",
            f"link add {link} {options} type veth peer name eth0 netns {path}",
            f"link set {link} up",
        )
        self.ip(name, "link set lo up", "link set eth0 up")

    def _foreign_table(self) -> bytes:
        text = (
            b"table ip somebody {\n set s {\n type ipv4_addr\n flags interval\n"
            b" elements = { 10.0.0.0/8 }\n }\n chain c {\n"
            b" type filter hook forward priority 0; policy accept;\n counter\n }\n}\n"
            b"table inet plait2 {\n chain egress {\n }\n}\n"
        )
        subprocess.run(["nft", "-f", "-"], input=text, check=True)
        return self.listing()

    def listing(self) -> bytes:
        """The foreign tables, without the values of counters."""
        with netns.inside(self.ns["host"]):
            return b"".join(
                subprocess.run(
                    ["nft", "-s", "list", "table", *t], check=True, capture_output=True
                ).stdout
                for t in (("ip", "somebody"), ("inet", "plait2"))
            )

    def apply(self, wanted: Filter | None = None, policy: Ruleset = NO_POLICIES) -> None:
        """Make the kernel equal to a filter, the fixture's own by default, and to policies."""
        state = HostState(filter=wanted or self.filter, policy=policy)
        for programmer in self.programmers:
            programmer.observe()
            assert programmer.apply(programmer.plan(state)) == ()

    def count(self, why: str) -> int:
        """Packets that met the rules with this reason."""
        return sum(r.packets for r in self.nft.rules() if r.comment.rsplit(" #", 1)[0] == why)

    def expect_drop(self, why: str, act: object) -> None:
        """`act()` makes a packet that the rule `why` drops."""
        before = self.count(why)
        act()  # type: ignore[operator]
        until(lambda: self.count(why) > before, f"no packet met the rule {why!r}")

    @contextmanager
    def loopback_leads_to_host(self, name: str, via: str) -> Iterator[None]:
        """Packets of a namespace to 127.0.0.1 go out on the wire."""
        self.sysctl(name, ipv4__conf__eth0__route_localnet="1")
        self.ip(name, "address del 127.0.0.1/8 dev lo")
        self.ip(name, f"route add 127.0.0.1 via {via} dev eth0 onlink")
        try:
            yield
        finally:
            self.ip(name, "route del 127.0.0.1", "address add 127.0.0.1/8 dev lo")

    def socket(self, name: str, address: str, port: int = 0, kind: str = "udp") -> socket.socket:
        """A socket inside a namespace, bound to an address; a TCP one listens."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        types = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
        sock = netns.ns_socket(self.ns[name], family, types[kind])
        sock.settimeout(DEADLINE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with netns.inside(self.ns[name]):
            sock.bind((address, port))
        if kind == "tcp" and port:
            sock.listen()
        return sock

    def send(self, name: str, to: tuple[str, int], *, src: str = "", data: bytes = b"x") -> None:
        """One UDP packet."""
        # The host's own send is refused at once when its output is dropped.
        with (
            self.socket(name, src or ("::" if ":" in to[0] else "0.0.0.0")) as sock,
            suppress(PermissionError),
        ):
            sock.sendto(data, to)

    def talk(self, name: str, to: tuple[str, int], server: socket.socket, *, src: str = "") -> str:
        """A UDP question and its answer; the source address that the server saw."""
        with self.socket(name, src or ("::" if ":" in to[0] else "0.0.0.0")) as sock:
            sock.sendto(b"question", to)
            data, peer = server.recvfrom(64)
            assert data == b"question"
            server.sendto(b"answer", peer)
            answer, whence = sock.recvfrom(64)
            assert answer == b"answer"
            assert whence[:2] == to
            return str(peer[0])

    def connect(self, name: str, to: tuple[str, int], server: socket.socket) -> str:
        """A TCP connection and a byte each way; the source address that the server saw."""
        with self.socket(name, "::" if ":" in to[0] else "0.0.0.0", kind="tcp") as sock:
            sock.connect(to)
            peer, whence = server.accept()
            with peer:
                peer.settimeout(DEADLINE)
                sock.sendall(b"q")
                assert peer.recv(1) == b"q"
                peer.sendall(b"a")
                assert sock.recv(1) == b"a"
            return str(whence[0])


def until(condition: object, failure: str) -> None:
    """Wait until a condition holds, or fail at the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, failure
        os.sched_yield()


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """The world with its own filter in force."""
    made.apply()
    yield made
    assert made.listing() == made.foreign
