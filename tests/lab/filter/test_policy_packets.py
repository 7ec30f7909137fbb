"""What policies let pass and what they end, shown by real connections.

SCTP, which not every kernel has sockets for, is in `test_policy_walk`, as are all the ways in
which a rule matches.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from tests.lab.filter.conftest import until

from plait.kernel import netns
from plait.kernel.nflog import Nflog
from plait.model.hoststate import PortMap
from plait.model.members import Members
from plait.model.policies import Direction
from plait.model.ruleset import (
    ChainRule,
    Classes,
    PolicyChain,
    PolicyClass,
    PortMatch,
    Ruleset,
    Tier,
)

pytestmark = pytest.mark.root

A1 = ("10.1.0.1", "fd01::1")
A2 = ("10.1.0.2", "fd01::2")
B1 = ("10.2.0.1", "fd02::1")
I1 = ("10.3.0.1", "fd03::1")
OUT = ("192.0.2.2", "fd09::2")
HOST = ("192.0.2.1", "fd09::1")
both = pytest.mark.parametrize("v", [0, 1], ids=["v4", "v6"])


def rules(
    *wanted: ChainRule,
    direction: Direction = "ingress",
    at: tuple[str, ...] = A2,
    deny: str = "",
    guard: bool = False,
    **fields: Any,
) -> Ruleset:
    """One policy for the endpoint with these addresses."""
    of = Classes("k1", "") if direction == "egress" else Classes("", "k1")
    tier = Tier(chains=("c1",), deny=deny)
    return Ruleset(
        chains={"c1": PolicyChain(direction=direction, rules=wanted)},
        classes={"k1": PolicyClass(direction=direction, tiers=(tier,), guard=guard)},
        dispatch=dict.fromkeys(at, of),
        **fields,
    )


def accept(port: int, protocol: Any = "tcp", **fields: Any) -> ChainRule:
    fields.setdefault("anyone", True)
    ports = (PortMatch(protocol=protocol, first=port, last=port),)
    return ChainRule(id=f"r{protocol}{port}", decision="accept", ports=ports, **fields)


DENY = ChainRule(id="rdeny", decision="deny", anyone=True)
REJECT = ChainRule(id="rreject", decision="deny", anyone=True, reject=True)


def counted(world: Any, ident: str) -> int:
    counts = world.nft.counters()
    return counts[ident].packets if ident in counts else 0


def expect_count(world: Any, ident: str, act: Callable[[], object]) -> None:
    """`act()` makes a packet that this rule decides about."""
    before = counted(world, ident)
    act()
    until(lambda: counted(world, ident) > before, ident)


def knock(world: Any, name: str, to: tuple[str, int]) -> None:
    """The first packet of a TCP connection."""
    with world.socket(name, "::" if ":" in to[0] else "0.0.0.0", kind="tcp") as sock:
        sock.setblocking(False)
        sock.connect_ex(to)


@both
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_is_accepted_passes_and_the_rest_is_denied(world: Any, v: int, kind: str) -> None:
    front = Members({A1[v]})
    world.apply(
        policy=rules(accept(80, kind, anyone=False, peers="s1"), deny="i1", sets={"s1": front})
    )
    with world.socket("a2", A2[v], 80, kind) as server:
        talk = world.talk if kind == "udp" else world.connect
        talk("a1", (A2[v], 80), server)
    assert counted(world, f"r{kind}80") > 0
    expect_count(world, "i1", lambda: world.send("a1", (A2[v], 81)))
    expect_count(world, "i1", lambda: knock(world, "a1", (A2[v], 81)))
    # Whoever leaves the set is denied from the next flow on.
    front.discard(A1[v])
    changed = rules(accept(80, kind, anyone=False, peers="s1"), deny="i1", sets={"s1": front})
    world.apply(policy=changed)
    send = world.send if kind == "udp" else lambda *args: knock(world, *args)
    expect_count(world, "i1", lambda: send("a1", (A2[v], 80)))


@both
def test_the_sender_is_ruled_as_well(world: Any, v: int) -> None:
    world.apply(policy=rules(accept(80), DENY, direction="egress", at=A1))
    with world.socket("out", OUT[v], 80, "tcp") as server:
        world.connect("a1", (OUT[v], 80), server)
    with world.socket("a2", A2[v], 80, "tcp") as server:
        world.connect("a1", (A2[v], 80), server)
        # Others have no policies.
        world.connect("a2", (A2[v], 80), server)
    expect_count(world, "rdeny", lambda: knock(world, "a1", (OUT[v], 81)))
    expect_count(world, "rdeny", lambda: world.send("a1", (A2[v], 7)))


@both
def test_who_is_rejected_is_told_at_once(world: Any, v: int) -> None:
    world.apply(policy=rules(REJECT))
    with world.socket("a1", A1[v], kind="tcp") as client:
        assert client.connect_ex((A2[v], 80)) == errno.ECONNREFUSED
    # RFC 1812 section 5.2.7.1, RFC 4443 section 3.1: administratively prohibited.
    told = (errno.EHOSTUNREACH, errno.EACCES)[v]
    with world.socket("a1", A1[v]) as client:
        client.connect((A2[v], 80))
        client.send(b"x")
        until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == told, "told")
    assert counted(world, "rreject") >= 2


@both
def test_the_host_reaches_its_endpoints_whatever_policies_say(world: Any, v: int) -> None:
    world.apply(policy=rules(DENY))
    with world.socket("a2", A2[v], 7) as server:
        world.talk("host", (A2[v], 7), server)


@both
def test_what_a_policy_accepts_is_open_on_the_host_and_no_more(world: Any, v: int) -> None:
    with world.socket("host", HOST[v], 7) as server:
        world.apply(policy=rules(accept(7, "udp"), direction="egress", at=A1))
        world.talk("a1", (HOST[v], 7), server)
        world.expect_drop("to host", lambda: world.send("a1", (HOST[v], 8)))
        world.expect_drop("to host", lambda: world.send("a2", (HOST[v], 7)))
    # A policy that denies all leaves the host's resolver open.
    world.apply(policy=rules(DENY, direction="egress", at=A1))
    expect_count(world, "rdeny", lambda: world.send("a1", (HOST[v], 7)))
    with world.socket("host", HOST[v], 53) as server:
        world.talk("a1", (HOST[v], 53), server)


@both
def test_a_published_port_obeys_the_policies_of_its_endpoint(world: Any, v: int) -> None:
    port = PortMap(
        family=(4, 6)[v], protocol="tcp", host_ip="", host_port=8080, address=A2[v], port=80
    )
    published = msgspec.structs.replace(world.filter, ports=frozenset({port}))
    only_out = rules(accept(80, anyone=False, ranges=(f"{OUT[v]}-{OUT[v]}",)), deny="i1")
    world.apply(published, only_out)
    with world.socket("a2", A2[v], 80, "tcp") as server:
        world.connect("out", (HOST[v], 8080), server)
        expect_count(world, "i1", lambda: knock(world, "a1", (HOST[v], 8080)))
        # The sender's policies see the endpoint, not the port of the host.
        denied = ChainRule(id="r9", decision="deny", peers="s1")
        world.apply(
            published,
            rules(denied, direction="egress", at=A1, sets={"s1": Members({A2[v]})}),
        )
        expect_count(world, "r9", lambda: knock(world, "a1", (HOST[v], 8080)))


@both
def test_what_is_established_goes_on_and_what_is_ended_is_not_picked_up(world: Any, v: int) -> None:
    world.apply(policy=rules(accept(80)))
    with (
        world.socket("a2", A2[v], 80, "tcp") as server,
        world.socket("a1", A1[v], kind="tcp") as client,
    ):
        client.connect((A2[v], 80))
        peer, _ = server.accept()
        with peer:
            world.apply(policy=rules(DENY))
            client.send(b"x")
            assert peer.recv(1) == b"x"
            # Its flow is ended, and then it is accepted again: it stays ended.
            world.flows.forget_addresses({A2[v]})
            world.apply(policy=rules(accept(80)))
            world.expect_drop("pick-up", lambda: client.send(b"y"))
            peer.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.recv(1)


@both
def test_an_address_that_nobody_has_is_guarded_against(world: Any, v: int) -> None:
    denied = ChainRule(id="r9", decision="deny", peers="s1")
    guarded = rules(
        denied, guard=True, sets={"s1": Members({B1[v]})}, known=Members({*A1, *A2, *B1})
    )
    world.apply(policy=guarded)
    with world.socket("a2", A2[v], 7) as server:
        world.talk("a1", (A2[v], 7), server)
        guarded = msgspec.structs.replace(guarded, known=Members({*A2, *B1}), serial=1)
        world.apply(policy=guarded)
        world.expect_drop("unknown endpoint", lambda: world.send("a1", (A2[v], 7)))


def test_a_counter_goes_on_when_its_chain_is_rewritten(world: Any) -> None:
    world.apply(policy=rules(DENY))
    expect_count(world, "rdeny", lambda: world.send("a1", (A2[0], 7)))
    before = counted(world, "rdeny")
    world.apply(policy=rules(accept(80), DENY))
    assert counted(world, "rdeny") >= before
    expect_count(world, "rdeny", lambda: world.send("a1", (A2[0], 7)))
    world.apply()
    assert counted(world, "rdeny") == 0
    assert world.nft.counters() == {}


def test_a_staged_rule_counts_and_lets_pass(world: Any) -> None:
    staged = msgspec.structs.replace(DENY, staged=True)
    world.apply(policy=rules(staged))
    with world.socket("a2", A2[0], 7) as server:
        expect_count(world, "rdeny", lambda: world.talk("a1", (A2[0], 7), server))


@contextmanager
def listening(world: Any) -> Iterator[Callable[[str, Callable[[], object]], None]]:
    """Waits for a record with a prefix that an act causes."""
    with netns.inside(world.ns["host"]):
        log = Nflog()

    def expect(prefix: str, act: Callable[[], object]) -> None:
        log.read(4096)
        act()
        found: list[str] = []

        def came() -> bool:
            select.select([log.fileno()], [], [], 0.05)
            found.extend(packet.prefix for packet in log.read(4096).packets)
            return prefix in found

        until(came, f"{prefix} is not among {found}")

    try:
        yield expect
    finally:
        log.close()


@both
def test_records_say_who_decided(world: Any, v: int) -> None:
    world.apply(policy=rules(accept(80), deny="i1"))
    with listening(world) as expect, world.socket("a1", A1[v], 7) as server:
        expect("rtcp80.ia", lambda: knock(world, "a1", (A2[v], 80)))
        expect("i1.id", lambda: world.send("a1", (A2[v], 7)))
        expect("none.ea", lambda: world.send("a1", (A2[v], 80)))
        expect("none.ia", lambda: world.talk("a2", (A1[v], 7), server))
        expect("network.ed", lambda: world.send("a1", (B1[v], 7)))
        expect("network.id", lambda: world.send("far", (A1[v], 7)))
        expect("internal.ed", lambda: world.send("i1", (OUT[v], 7)))
        expect("host.ed", lambda: world.send("a1", (HOST[v], 7)))
        expect("source.ed", lambda: world.send("unknown", (OUT[v], 7)))
        expect("pickup.id", lambda: stray(world, v))


def stray(world: Any, v: int) -> None:
    """An acknowledgement of nothing."""
    family = (socket.AF_INET, socket.AF_INET6)[v]
    body = struct.pack("!HHIIBBHHH", 1, 80, 1, 1, 0x50, 0x10, 64, 0, 0)
    source, target = (ipaddress.ip_address(x).packed for x in (A1[v], A2[v]))
    pseudo = source + target + struct.pack("!II", len(body), 6)
    total = sum(struct.unpack(f"!{len(pseudo + body) // 2}H", pseudo + body))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    body = body[:16] + struct.pack("!H", checksum) + body[18:]
    with netns.ns_socket(world.ns["a1"], family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.sendto(body, (A2[v], 0))


def test_a_packet_meets_the_rules_before_a_change_or_after_it(world: Any) -> None:
    """Port 7 is accepted by all rulesets, port 8 by none, and a change never shows between."""
    changes = (
        rules(accept(7, "udp"), deny="i1"),
        rules(accept(9, "udp"), accept(7, "udp"), DENY),
        rules(accept(7, "udp", anyone=False, peers="s1"), deny="i2", sets={"s1": Members({A1[0]})}),
        msgspec.structs.replace(
            rules(accept(7, "udp"), deny="i3"), dispatch={A2[0]: Classes("", "k1")}
        ),
    )
    world.apply(policy=changes[-1])
    stop, lost = threading.Event(), []
    server, forbidden = world.socket("a2", A2[0], 7), world.socket("a2", A2[0], 8)
    forbidden.setblocking(False)
    rounds = 0

    def run() -> None:
        nonlocal rounds
        while not stop.is_set() and not lost:
            try:
                world.send("a1", (A2[0], 8))
                world.talk("a1", (A2[0], 7), server)
            except TimeoutError:
                lost.append(rounds)
            rounds += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for i in range(60):
            world.apply(policy=changes[i % len(changes)])
            os.sched_yield()
    finally:
        stop.set()
        thread.join()
    with server, forbidden, pytest.raises(BlockingIOError):
        forbidden.recv(64)
    assert lost == []
    assert rounds > 0
