"""The filter's world with Services: backends here, on another host and outside, and callers.

`out` is another host of the network as well: an address of a's pool lives there (`REMOTE`).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import msgspec
import pytest
from tests.lab.filter.conftest import World

from plait.agent.programmers.services import FilterServices
from plait.model.entries import Entries
from plait.model.hoststate import HostState
from plait.model.members import Members
from plait.model.ruleset import Ruleset
from plait.model.service_table import BackendAddress, Choice, Entry, Frontend, ServiceTable

REMOTE: Final = ("10.1.0.50", "fd01::50")
"""Addresses of an endpoint of another host."""
SERVICE_POOLS: Final = ("10.96.0.0/16", "fd96::/96")
VIP: Final = ("10.96.0.10", "fd96::10")
FREE: Final = ("10.96.0.99", "fd96::99")
"""Of the pools, and of no Service."""
OWN: Final = ("192.0.2.1", "fd09::1")
ANY: Final = ("0.0.0.0", "::")
PATIENCE: Final = 5.0


def to(*backends: tuple[str, int], affinity: int = 0, unavailable: str = "reject") -> Choice:
    """A choice among these."""
    found = tuple(sorted(BackendAddress(*backend) for backend in backends))
    return Choice(found, affinity, unavailable)  # type: ignore[arg-type]


def entry(inside: Choice, outside: Choice | None = None, sources: Iterable[str] = ()) -> Entry:
    """An entry of some Service."""
    return Entry("s1", inside, outside, tuple(sources))


class Stage(World):
    """A world with a table of Services."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        base, policy, endpoints = self.programmers
        self.services = FilterServices(self.table, self.flows)
        self.programmers = (base, policy, self.services, endpoints)
        self.filter = msgspec.structs.replace(
            self.filter,
            service_pools=SERVICE_POOLS,
            own=OWN,
            vteps=("192.0.2.2", "fd09::2"),
        )
        self._frontends: Entries[Frontend, Entry] = Entries()
        self._addresses: Members[str] = Members()
        # The kernel sends one sender few errors a second.
        self.sysctl("host", ipv4__icmp_ratelimit="0", ipv6__icmp__ratelimit="0")
        self.ip(
            "host",
            f"route add {REMOTE[0]} via 192.0.2.2",
            f"-6 route add {REMOTE[1]} via fd09::2",
            *[
                f"{option}route add {pool} dev out src {own} metric 4096"
                for option, pool, own in zip(("", "-6 "), SERVICE_POOLS, OWN, strict=True)
            ],
        )
        self.ip(
            "out",
            f"address add {REMOTE[0]}/32 dev lo",
            f"address add {REMOTE[1]}/128 dev lo nodad",
        )

    def go(self, frontends: Mapping[Frontend, Entry], policy: Ruleset | None = None) -> None:
        """Make the kernel so."""
        for frontend in set(self._frontends) - frontends.keys():
            self._frontends.discard(frontend)
        for frontend, wish in frontends.items():
            self._frontends.set(frontend, wish)
        addresses = {f.address for f in frontends if f.address not in (*ANY, *OWN)}
        for address in set(self._addresses) ^ addresses:
            if not self._addresses.add(address):
                self._addresses.discard(address)
        table = ServiceTable(frontends=self._frontends, addresses=self._addresses)
        state = HostState(filter=self.filter, policy=policy or Ruleset(), services=table)
        for programmer in self.programmers:
            programmer.observe()
            assert programmer.apply(programmer.plan(state)) == ()

    @contextmanager
    def servers(self, kind: str, *at: tuple[str, str, int]) -> Iterator[dict[socket.socket, str]]:
        """Sockets that listen, each to the address that it has."""
        with ExitStack() as stack:
            yield {
                stack.enter_context(self.socket(name, address, port, kind)): address
                for name, address, port in at
            }

    def ask(
        self,
        name: str,
        called: tuple[str, int],
        servers: Mapping[socket.socket, str],
        *,
        client: socket.socket | None = None,
        src: str = "",
    ) -> tuple[str, str]:
        """One new flow, there and back: the backend that got it, and the sender that it saw."""
        kind = next(iter(servers)).type
        word = "tcp" if kind == socket.SOCK_STREAM else "udp"
        with ExitStack() as stack:
            wild = "::" if ":" in called[0] else "0.0.0.0"
            sock = client or stack.enter_context(self.socket(name, src or wild, kind=word))
            sock.connect(called) if word == "tcp" else sock.sendto(b"q", called)
            ready, _, _ = select.select(list(servers), [], [], PATIENCE)
            assert ready, "no backend heard of it"
            (server,) = ready
            if word == "tcp":
                peer, whence = server.accept()
                with peer:
                    peer.settimeout(PATIENCE)
                    sock.sendall(b"q")
                    assert peer.recv(1) == b"q"
                    peer.sendall(b"a")
                    assert sock.recv(1) == b"a"
            else:
                _, whence = server.recvfrom(64)
                server.sendto(b"a", whence)
                answer, sender = sock.recvfrom(64)
                assert (answer, sender[:2]) == (b"a", called)
            return servers[server], str(whence[0])

    def refused(
        self,
        name: str,
        called: tuple[str, int],
        kind: str = "tcp",
        client: socket.socket | None = None,
    ) -> None:
        """A flow is refused, at once and with an answer."""
        with ExitStack() as stack:
            wild = "::" if ":" in called[0] else "0.0.0.0"
            sock = client or stack.enter_context(self.socket(name, wild, kind=kind))
            with pytest.raises(ConnectionRefusedError):
                _call(sock, called)


def _call(sock: socket.socket, called: tuple[str, int]) -> None:
    sock.connect(called)
    # UDP hears of it when it sends; of what the host itself sends, in two ways.
    with suppress(PermissionError):
        sock.send(b"q")
    sock.recv(1)


@pytest.fixture(scope="module")
def built() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


@pytest.fixture
def stage(built: Stage) -> Iterator[Stage]:
    """The stage without Services, and without flows of the last test."""
    built.go({})
    for flow in built.flows.flows():
        built.flows.forget([flow])
    yield built
    assert built.listing() == built.foreign
