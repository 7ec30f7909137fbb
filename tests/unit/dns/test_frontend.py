from __future__ import annotations

import socket

import pytest

from plait.dns.asks import Verbatim
from plait.dns.frontend import HOST_CHECK_LIFETIME, MAX_HOST_CHECKS, Frontend, is_local_address
from plait.dns.resolver import Resolver
from plait.dns.stats import Stats
from plait.dns.upstream import Upstream
from plait.dns.zone import Zone
from plait.model.meta import Metadata
from plait.model.objects import Endpoint, EndpointSpec, EndpointStatus, Network, NetworkSpec
from plait.wire import dns

QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\5plait\5local\0\0\6\0\1"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("203.0.113.255", False),
    ],
)
def test_the_kernel_knows_its_own_addresses(address: str, local: bool) -> None:
    assert is_local_address(address) is local


def test_the_address_of_an_interface_is_local() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no IPv4 route, hence no address to look at")
        assert is_local_address(probe.getsockname()[0])


def test_who_the_host_is_is_asked_seldom_and_remembered_within_bounds() -> None:
    now = 0.0
    looked: list[str] = []

    def is_host(address: str) -> bool:
        looked.append(address)
        return address == "192.0.2.1"

    stats = Stats()
    resolver = Resolver(Zone(), lambda: ())
    upstream = Upstream(clock=lambda: now, stats=stats)
    frontend = Frontend(resolver, upstream, clock=lambda: now, stats=stats, is_host=is_host)

    def rcode(client: str) -> int:
        reply = frontend.handle(QUERY, client, ("169.254.1.1", 53), tcp=False)
        assert isinstance(reply, bytes)
        return reply[3] & 15

    for _ in range(3):
        assert rcode("192.0.2.1") == dns.NOERROR
        assert rcode("198.51.100.1") == dns.REFUSED
    assert looked == ["192.0.2.1", "198.51.100.1"]
    now += HOST_CHECK_LIFETIME
    assert rcode("192.0.2.1") == dns.NOERROR
    assert len(looked) == 3
    for i in range(3 * MAX_HOST_CHECKS):
        rcode(f"10.0.{i >> 8}.{i & 255}")
    assert len(frontend._checked) <= MAX_HOST_CHECKS


NOTIFY = b"\0\1\x20\0\0\1\0\0\0\0\0\0\7example\3org\0\0\6\0\1"


def endpoint(name: str, address: str) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=f"id-{name}", namespace="default"),
        spec=EndpointSpec(node="h", network="blue", name=name, addresses=(address,)),
        status=EndpointStatus(phase="ready"),
    )


CLIENT = endpoint("client", "10.0.0.9")
OUTSIDE = b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1"


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("message", [OUTSIDE, NOTIFY, OUTSIDE[:2] + b"\0" + OUTSIDE[3:]])
def test_a_policy_that_denies_a_resolver_is_obeyed_by_the_one_that_would_ask_it(
    message: bytes, tcp: bool
) -> None:
    asked: list[tuple[str, str, bool]] = []

    def may_ask(client: str, resolver: str, tcp: bool) -> bool:
        asked.append((client, resolver, tcp))
        return resolver == "203.0.113.1"

    zone, stats = Zone(), Stats()
    zone.put(CLIENT)
    zone.put_network(
        Network(metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.0.0.0/16",)))
    )
    frontend = Frontend(
        Resolver(zone, lambda: ()),
        Upstream(clock=lambda: 0.0, stats=stats),
        clock=lambda: 0.0,
        stats=stats,
        trusted=lambda: (("203.0.113.2", 53),),
        may_ask=may_ask,
    )

    def outcome(resolver: str) -> object:
        return frontend.handle(message, "10.0.0.9", (resolver, 53), tcp=tcp)

    assert isinstance(outcome("203.0.113.1"), Verbatim)
    refused = outcome("203.0.113.3")
    assert isinstance(refused, bytes)
    assert refused[3] & 15 == dns.REFUSED
    assert asked == [("10.0.0.9", f"203.0.113.{n}", tcp) for n in (1, 3)]
    # Whoever asks us is led to the host's own resolvers; so may be who asks them.
    assert isinstance(outcome("203.0.113.2"), Verbatim)
    assert len(asked) == 2


def test_who_was_attached_just_now_asks_and_is_found() -> None:
    zone, stats = Zone(), Stats()
    waiting = [CLIENT]

    def catch_up() -> None:
        while waiting:
            zone.put(waiting.pop())

    frontend = Frontend(
        Resolver(zone, lambda: ()),
        Upstream(clock=lambda: 0.0, stats=stats),
        clock=lambda: 0.0,
        stats=stats,
        catch_up=catch_up,
    )

    def rcode(query: bytes, client: str) -> int:
        reply = frontend.handle(query, client, ("169.254.1.1", 53), tcp=False)
        assert isinstance(reply, bytes)
        return reply[3] & 15

    assert rcode(QUERY, "10.0.0.9") == dns.NOERROR
    name = QUERY[:12] + b"\5other\7default" + QUERY[12:-4] + b"\0\1\0\1"
    assert rcode(name, "10.0.0.9") == dns.NXDOMAIN
    waiting.append(endpoint("other", "10.0.0.7"))
    assert rcode(name, "10.0.0.9") == dns.NOERROR
    assert rcode(QUERY, "10.0.0.8") == dns.REFUSED
