"""Policies of a whole agent over the real kernel: flows of real sockets in containers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.test_agent_kernel import build_agent, request
from tests.lab.test_agent_kernel import container as container
from tests.lab.test_agent_kernel import host as host
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import Agent
from plait.agent.desired import filter_sets
from plait.client.fake_api import FakeServer
from plait.kernel import netns
from plait.model import flows
from plait.model.objects import Metadata, Policy
from plait.model.policies import Peer, PolicySpec, Port, Rule, Subject
from plait.model.selectors import Selector
from plait.model.traces import Trace, TraceQuery
from plait.wire import nft

pytestmark = pytest.mark.root

WEB = Selector(match_labels={"app": "web"})
PORT = 7000
OPEN = 10.0
"""Seconds in which what may pass must have arrived."""
CLOSED = 0.5
"""Seconds after which a packet that did not arrive counts as dropped."""


def policy(name: str, **spec: object) -> Policy:
    return Policy(
        metadata=Metadata(name=name),
        spec=PolicySpec(subject=Subject(endpoints=WEB), **spec),  # type: ignore[arg-type]
    )


ISOLATED = policy("isolated", isolate=("ingress",))
DENIES_TCP = policy(
    "denies-tcp",
    tier="admin",
    ingress=(Rule(action="Deny", ports=(Port(protocol="TCP", port=PORT),)),),
)


class Sides:
    """A client's and a server's namespace, attached, with sockets in them."""

    def __init__(self, agent: Agent, server: FakeServer, client: int, served: int) -> None:
        self.agent = agent
        self.server = server
        self.client = client
        self.served = served
        self.address = ""
        self.sockets: list[socket.socket] = []

    def socket(self, ns: int, kind: socket.SocketKind, *, bound: int = 0) -> socket.socket:
        with netns.inside(ns):
            made = socket.socket(socket.AF_INET, kind)
        self.sockets.append(made)
        made.settimeout(OPEN)
        if bound:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("", bound))
        return made

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a TCP connection from the client to the server."""
        listener = self.socket(self.served, socket.SOCK_STREAM, bound=PORT)
        listener.listen()
        near = self.socket(self.client, socket.SOCK_STREAM)
        near.connect((self.address, PORT))
        far, _ = listener.accept()
        far.settimeout(OPEN)
        self.sockets.append(far)
        listener.close()
        return near, far

    def address_of(self, ident: str) -> str:
        """The IPv4 address of an endpoint."""
        (found,) = [e for e in self.agent.service.present() if e.request.id == ident]
        return next(address for address in found.addresses if ":" not in address)

    async def applied(self) -> None:
        revision = self.server.revision
        await until(lambda: self.agent.state.in_force >= revision)


@pytest.fixture
async def sides(host: None, tmp_path: Path, container: Callable[[], int]) -> AsyncIterator[Sides]:
    server = fake.server()
    agent = build_agent(server, tmp_path)
    await agent.start()
    await until(lambda: len(agent.state.snapshot.blocks) == 2)
    made = Sides(agent, server, container(), container())
    await agent.service.attach(request("client", made.client))
    served = await agent.service.attach(request("web", made.served, labels={"app": "web"}))
    made.address = next(a for a in served.addresses if ":" not in a)
    yield made
    for one in made.sockets:
        one.close()
    await made.agent.purge()
    await made.agent.stop()


def passes(near: socket.socket, far: socket.socket) -> bool:
    """A byte gets from one end to the other."""
    near.send(b"x")
    return far.recv(1) == b"x"


def dropped(near: socket.socket, far: socket.socket) -> bool:
    """A byte does not get from one end to the other."""
    near.send(b"x")
    return nothing_at(far)


def nothing_at(far: socket.socket) -> bool:
    """Nothing arrives."""
    far.settimeout(CLOSED)
    try:
        far.recv(1)
    except TimeoutError:
        return True
    finally:
        far.settimeout(OPEN)
    return False


async def test_a_policy_ends_the_connection_that_it_denies_and_others_go_on(sides: Sides) -> None:
    near, far = sides.connected()
    udp = sides.socket(sides.served, socket.SOCK_DGRAM, bound=PORT)
    asking = sides.socket(sides.client, socket.SOCK_DGRAM)
    asking.connect((sides.address, PORT))
    assert passes(near, far)
    assert passes(asking, udp)
    sides.server.put(DENIES_TCP)
    await sides.applied()
    await until(lambda: sides.agent.policing.ender.ended > 0)
    assert dropped(near, far)
    assert passes(asking, udp)
    # Allowed again, the connection that was ended does not come back by itself: TCP begins anew.
    sides.server.remove(DENIES_TCP.key)
    await sides.applied()
    again, there = sides.connected()
    assert passes(again, there)


async def test_a_udp_flow_ends_though_both_sides_go_on_sending(sides: Sides) -> None:
    answering = sides.socket(sides.served, socket.SOCK_DGRAM, bound=PORT)
    asking = sides.socket(sides.client, socket.SOCK_DGRAM)
    asking.bind(("", 7001))
    client = sides.address_of("client")
    asking.sendto(b"x", (sides.address, PORT))
    assert answering.recv(1) == b"x"
    sides.server.put(ISOLATED)
    await sides.applied()
    await until(lambda: sides.agent.policing.ender.ended > 0)
    asking.sendto(b"x", (sides.address, PORT))
    assert nothing_at(answering)
    # More answers do not begin it anew from the other side.
    await until(lambda: sides.agent.policing.ender.idle)
    answering.sendto(b"y", (client, 7001))
    assert nothing_at(asking)
    # What the isolated endpoint begins itself is accepted, and answered.
    beginning = sides.socket(sides.served, socket.SOCK_DGRAM, bound=7002)
    beginning.sendto(b"z", (client, 7001))
    data, peer = asking.recvfrom(1)
    assert data == b"z"
    asking.sendto(b"x", peer)
    assert beginning.recv(1) == b"x"


async def test_rules_outlive_the_agent_and_come_back_from_the_disk(
    sides: Sides, tmp_path: Path
) -> None:
    near, far = sides.connected()
    allow = policy(
        "allow",
        ingress=(
            Rule(
                peers=(Peer(endpoints=Selector(match_labels={"name.plait/client": ""})),),
                ports=(Port(protocol="TCP", port=PORT),),
            ),
        ),
    )
    sides.server.put(allow)
    await sides.applied()
    assert passes(near, far)
    asking = sides.socket(sides.client, socket.SOCK_DGRAM)
    asking.connect((sides.address, PORT))
    answering = sides.socket(sides.served, socket.SOCK_DGRAM, bound=PORT)
    assert dropped(asking, answering)
    first = sides.agent
    rules = first.state.engine.ruleset()
    await first.stop()
    for step in first._doors.purge[1:]:
        step()  # Close the doors; leave the table.
    assert passes(near, far)
    assert dropped(asking, answering), "a stopped agent opened something"
    sides.server.cut()
    sides.agent = second = build_agent(sides.server, tmp_path)
    await second.start()
    assert second.state.engine.ruleset().chains == rules.chains
    assert await second.service.plan() == ""
    assert passes(near, far)
    assert dropped(asking, answering)


async def test_the_kernel_says_itself_what_it_would_do(sides: Sides) -> None:
    service = sides.agent.service
    client = sides.address_of("client")

    async def asked(src: str, dst: str, port: int = PORT, protocol: str = "tcp") -> Trace:
        query = TraceQuery(src=src, dst=dst, protocol=protocol, port=port)  # type: ignore[arg-type]
        return await service.trace(query)

    async def verdicts(*query: Any) -> dict[str, bool]:
        return {side.direction: side.allowed for side in (await asked(*query)).sides}

    assert await verdicts(client, sides.address) == {"egress": True, "ingress": True}
    allow = Rule(name="by name", ports=(Port(protocol="TCP", port=PORT), Port(protocol="UDP")))
    deny = Rule(action="Deny", peers=(Peer(cidr="198.51.100.0/24"),), reject=True)
    sides.server.put(policy("allow", ingress=(allow,), egress=(deny,)))
    await sides.applied()
    found = await asked(client, sides.address)
    assert [(s.policy, s.rule, s.rule_name) for s in found.sides] == [
        ("", -1, ""),
        ("allow", 0, "by name"),
    ]
    assert all(side.agrees for side in found.sides)
    (_, ingress) = (await asked(client, sides.address, PORT + 1)).sides
    assert not ingress.allowed
    assert (ingress.policy, ingress.rule, ingress.reason) == ("allow", -1, flows.ISOLATED)
    assert ingress.agrees
    assert await verdicts(client, sides.address, 9, "udp") == {"egress": True, "ingress": True}
    assert await verdicts(client, sides.address, 0, "icmp") == {"egress": True, "ingress": False}
    (egress,) = (await asked(sides.address, "198.51.100.7", 443)).sides
    assert (egress.allowed, egress.reject, egress.policy) == (False, True, "allow")
    assert await verdicts(sides.address, "203.0.113.7", 443) == {"egress": True}
    assert await verdicts("203.0.113.7", sides.address) == {"ingress": False}, "not published"
    # The host reaches its endpoints, endpoints not the host, but names are answered.
    assert await verdicts("192.0.2.1", sides.address, 22) == {"ingress": True}
    assert await verdicts(sides.address, "192.0.2.1", 22) == {"egress": False}
    assert await verdicts(sides.address, "203.0.113.53", 53, "udp") == {"egress": True}
    assert (await asked("10.9.7.7", "10.9.7.8")).sides == ()


async def test_where_kernel_and_model_differ_it_is_said(sides: Sides) -> None:
    query = TraceQuery(src=sides.address_of("client"), dst=sides.address, protocol="tcp", port=PORT)
    sides.server.put(ISOLATED)
    await sides.applied()
    (_, ingress) = (await sides.agent.service.trace(query)).sides
    assert (ingress.allowed, ingress.agrees) == (False, True)
    # Nobody but the agent can change its table while it lives; so it is its own socket that errs.
    table = sides.agent.loop._programmers[0].table  # type: ignore[attr-defined]
    key = socket.inet_aton(sides.address)
    lost = nft.DeleteElements(filter_sets.POLICY["ingress", 4], ((key, None),))
    assert table.door.commit([lost]) == {}
    (_, ingress) = (await sides.agent.service.trace(query)).sides
    assert (ingress.allowed, ingress.agrees) == (True, False)
    assert ingress.expected == f"denies: {flows.ISOLATED} (isolated)"


async def test_a_name_is_open_before_its_answer_is_given(sides: Sides) -> None:
    outside = "203.0.113.9"
    opened = Policy(
        metadata=Metadata(name="names"),
        spec=PolicySpec(
            subject=Subject(endpoints=Selector(match_labels={"name.plait/client": ""})),
            egress=(Rule(peers=(Peer(domains=("*.example.com",)),)),),
        ),
    )
    sides.server.put(opened)
    await sides.applied()
    domains = sides.agent.policing.domains
    (ident,) = sides.agent.state.engine.ruleset().domains
    assert domains.elements == 0
    domains.answered(answer("www.example.com", outside, ttl=30), 0)
    assert sides.agent._doors.policy.domains.live(ident).keys() == {outside}
    # A name that leads to the network itself opens nothing.
    domains.answered(answer("evil.example.com", sides.address, ttl=30), 0)
    assert domains.elements == 1


def answer(name: str, address: str, *, ttl: int) -> bytes:
    labels = b"".join(bytes((len(p),)) + p.encode() for p in name.split(".")) + b"\0"
    head = bytes.fromhex("000181800001000100000000")
    record = b"\xc0\x0c\0\1\0\1" + ttl.to_bytes(4, "big") + b"\0\4" + socket.inet_aton(address)
    return head + labels + b"\0\1\0\1" + record
