"""The conntrack door: fake and real forget the same flows."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from plait.client.polling import poll
from plait.kernel import netns
from plait.kernel.conntrack import Called, Conntrack, FakeConntrack, FlowReaper, Led
from plait.wire.ctnetlink import Flow, Tuple

CLIENT, SERVER, WEB = "10.7.0.1", "10.7.0.2", "10.7.0.3"
CLIENT6, SERVER6 = "fd07::1", "fd07::2"
RULES = (
    b"table ip t {\n chain o { type nat hook output priority -100; policy accept;\n"
    b" ip daddr 10.7.0.2 udp dport 80 dnat to 10.7.0.3:8080\n }\n}\n"
    b"table inet u {\n chain o { type filter hook output priority 0; policy accept;\n"
    b" ct state new counter\n }\n}\n"
)
"""Conntrack works only where a rule asks for it."""

Door = Conntrack | FakeConntrack
Summary = set[tuple[str, str, int]]


def flow(src: str, dst: str, dport: int, *, via: str = "", port: int = 0, proto: int = 17) -> Flow:
    sport = 4000 + dport
    original = Tuple(src, dst, sport, dport)
    reply = Tuple(via or dst, src, port or dport, sport)
    return Flow(6 if ":" in src else 4, proto, original, reply, os.urandom(4))


def send(src: str, dst: str, dport: int) -> None:
    family = socket.AF_INET6 if ":" in src else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((src, 4000 + dport))
        sock.sendto(b"x", (dst, dport))


SENT = (
    (CLIENT, SERVER, 53),
    (CLIENT, SERVER, 80),
    (CLIENT, "10.7.0.9", 7),
    (CLIENT6, SERVER6, 53),
)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """A namespace with four UDP flows, the second of them translated to `WEB`."""
    if request.param == "fake":
        yield FakeConntrack(
            [
                flow(*SENT[0]),
                flow(*SENT[1], via=WEB, port=8080),
                flow(*SENT[2]),
                flow(*SENT[3]),
            ]
        )
        return
    fd = netns.create()
    with netns.inside(fd):
        batch = "link set lo up\n" + "".join(
            f"address add {a} dev lo{' nodad' if ':' in a else ''}\n"
            for a in (CLIENT, SERVER, WEB, "10.7.0.9", CLIENT6, SERVER6)
        )
        subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
        subprocess.run(["nft", "-f", "-"], input=RULES, check=True)
        real = Conntrack()
        try:
            # The kernel makes routes to new addresses beside its answer: packets may be lost.
            assert poll(lambda: _flows_stand(real), seconds=10), left(real)
        except BaseException:
            real.close()
            raise
    yield real
    real.close()
    os.close(fd)


def _flows_stand(real: Conntrack) -> bool:
    for packet in set(SENT) - left(real):
        send(*packet)
    return left(real) == set(SENT)


def left(door: Door) -> Summary:
    wanted = {packet[2] for packet in SENT}
    return {
        (f.original.src, f.original.dst, f.original.dport)
        for f in door.flows()
        if f.original.dport in wanted and f.original.sport == 4000 + f.original.dport
    }


def test_flows_are_listed_with_their_translation(door: Door) -> None:
    assert left(door) == set(SENT)
    (web,) = [f for f in door.flows() if f.original.dport == 80]
    assert web.original == Tuple(CLIENT, SERVER, 4080, 80)
    assert web.reply == Tuple(WEB, CLIENT, 8080, 4080)


@pytest.mark.parametrize(
    ("address", "gone"),
    [
        (SERVER, {SENT[0], SENT[1]}),
        (WEB, {SENT[1]}),
        (CLIENT, {SENT[0], SENT[1], SENT[2]}),
        (SERVER6, {SENT[3]}),
        ("10.7.0.99", set()),
    ],
)
def test_an_address_is_forgotten_on_every_side(door: Door, address: str, gone: Summary) -> None:
    assert door.forget_addresses([address]) >= len(gone)
    assert left(door) == set(SENT) - gone


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (SERVER, {SENT[0]}),
        (WEB, {SENT[1]}),
        (CLIENT, {SENT[0], SENT[1], SENT[2]}),
        (CLIENT6, {SENT[3]}),
        (SERVER6, {SENT[3]}),
        ("10.7.0.99", set()),
    ],
)
def test_flows_of_an_address_are_found_by_their_true_ends_and_ended(
    door: Door, address: str, found: Summary
) -> None:
    flows = door.flows_of([address, "fd07::99"])
    assert {(f.original.src, f.original.dst, f.original.dport) for f in flows} == found
    assert door.forget(flows) == len(found)
    assert door.forget(flows) == 0
    assert left(door) == set(SENT) - found


@pytest.mark.root
@pytest.mark.parametrize(
    ("server", "protocol", "kind"), [(SERVER, 1, 8), (SERVER6, 58, 128)], ids=["icmp", "icmpv6"]
)
def test_messages_have_a_type_and_a_code(server: str, protocol: int, kind: int) -> None:
    fd = netns.create()
    with netns.inside(fd):
        batch = "link set lo up\naddress add 10.7.0.2 dev lo\naddress add fd07::2 dev lo nodad\n"
        subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
        subprocess.run(["nft", "-f", "-"], input=RULES, check=True)
        door = Conntrack()
        subprocess.run(["ping", "-c1", "-W5", server], check=True, stdout=subprocess.DEVNULL)
    (echo,) = [f for f in door.flows_of([server]) if f.protocol == protocol]
    assert (echo.icmp_type, echo.icmp_code) == (kind, 0)
    door.close()
    os.close(fd)


def test_a_port_is_forgotten_whether_translated_or_missed(door: Door) -> None:
    door.forget_ports([("udp", 80), ("udp", 7), ("tcp", 53)])
    assert left(door) == {SENT[0], SENT[3]}


def test_a_tcp_flow_that_was_not_translated_is_not_ours() -> None:
    other = flow(CLIENT, "192.0.2.80", 80, proto=6)
    door = FakeConntrack([other, flow(CLIENT, SERVER, 80, via=WEB, proto=6)])
    assert door.forget_ports([("tcp", 80)]) == 1
    assert door.flows() == (other,)


@pytest.mark.parametrize(
    ("called", "led", "gone"),
    [
        # Led to a backend that it has, to one that it has not, and to none.
        ((17, SERVER, 80), Led(frozenset({(WEB, 8080)})), set()),
        ((17, SERVER, 80), Led(frozenset({(WEB, 8081)})), {SENT[1]}),
        ((17, SERVER, 53), Led(frozenset({(WEB, 53)})), {SENT[0]}),
        ((17, SERVER6, 53), Led(frozenset()), {SENT[3]}),
        # At a port of the host: what is another's translation is not ours.
        ((17, "0.0.0.0", 80), Led(frozenset()), set()),
        ((17, "0.0.0.0", 80), Led(frozenset(), frozenset({(WEB, 8080)})), {SENT[1]}),
        ((17, "0.0.0.0", 53), Led(frozenset({(WEB, 53)})), {SENT[0]}),
        ((17, "::", 53), Led(frozenset()), {SENT[3]}),
        ((6, SERVER, 80), Led(frozenset()), set()),
    ],
)
def test_flows_that_miss_their_services_backends_are_forgotten(
    door: Door, called: Called, led: Led, gone: Summary
) -> None:
    door.forget_services({called: led})
    assert left(door) == set(SENT) - gone


def test_the_reaper_knows_of_a_service_what_was_said_last() -> None:
    kept, ended = flow(*SENT[1], via=WEB, port=8080), flow(*SENT[1], via=WEB, port=8081)
    door = FakeConntrack([kept, ended])
    reaper = FlowReaper(door)
    one, two = (WEB, 8080), (WEB, 8081)
    called = (17, "0.0.0.0", 80)
    reaper.forget_services({called: Led(frozenset({two}), frozenset({one}))})
    reaper.forget_services({called: Led(frozenset({one}), frozenset({two}))})
    assert reaper.wait(5)
    reaper.close()
    assert ended not in door.flows()


def test_the_reaper_forgets_beside_the_caller(door: Door) -> None:
    reaper = FlowReaper(door)
    reaper.forget_addresses([WEB])
    reaper.forget_ports([("udp", 7)])
    assert reaper.wait(5)
    assert left(door) == {SENT[0], SENT[3]}
    assert reaper.forgotten >= 2
    assert reaper.error == ""
    reaper.forget_addresses([SERVER6])
    reaper.close()
    if isinstance(door, FakeConntrack):
        assert left(door) == {SENT[0]}


@pytest.mark.parametrize(
    "failure", [OSError(105, "No buffer space available"), KeyError("No buffer space")]
)
def test_the_reaper_survives_a_failure(failure: Exception) -> None:
    class Broken(FakeConntrack):
        def forget_addresses(self, addresses: object) -> int:
            raise failure

    reaper = FlowReaper(Broken())
    reaper.forget_addresses([WEB])
    assert reaper.wait(5)
    assert "No buffer space" in reaper.error
    reaper.forget_ports([("udp", 80)])
    assert reaper.wait(5)
    assert reaper.error == ""
    reaper.close()
