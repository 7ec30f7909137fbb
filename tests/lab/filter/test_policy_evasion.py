"""What an endpoint may try to get around policies: no policy, however open, lets it through."""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

import pytest
from tests.lab import packets
from tests.lab.filter.conftest import until
from tests.lab.filter.test_policy_packets import A1, A2, B1, DENY, HOST, both, rules

from plait.agent.programmers.ended import EndedFlows
from plait.kernel import netns
from plait.model.marks import GATEWAY4, RESOLVER6
from plait.model.ruleset import ChainRule

pytestmark = pytest.mark.root

GATEWAY: Final = (GATEWAY4, RESOLVER6)
LATER: Final = 60.0
OPEN: Final = ChainRule(id="ropen", decision="accept", anyone=True)


@both
def test_no_policy_opens_the_tunnel_to_an_endpoint(world: Any, v: int) -> None:
    """Whatever comes out of the tunnel is believed to be from whom it says."""
    world.apply(policy=rules(OPEN, direction="egress", at=A1))
    port = world.filter.vxlan_port
    with world.socket("host", HOST[v], 7) as server:
        world.talk("a1", (HOST[v], 7), server)
    world.expect_drop("vxlan from endpoint", lambda: world.send("a1", (HOST[v], port)))
    world.expect_drop("vxlan from endpoint", lambda: world.send("a1", (GATEWAY[v], port)))


@both
def test_answers_do_not_begin_an_ended_flow_from_the_other_side(world: Any, v: int) -> None:
    """A receiver that sends on though nobody asks would make answers of all that is sent to it."""
    with world.socket("a1", A1[v], 7001) as client, world.socket("a2", A2[v], 7002) as server:
        client.sendto(b"question", (A2[v], 7002))
        peer = server.recvfrom(64)[1]
        server.sendto(b"answer", peer)
        client.recv(64)
        world.apply(policy=rules(DENY))
        found = world.flows.flows_of([A2[v]])
        doomed = [flow for flow in found if flow.reply.sport == 7002]
        EndedFlows(world.table).bar(doomed, LATER)
        assert world.flows.forget(doomed) == 1
        world.expect_drop("ended", lambda: server.sendto(b"more", peer))
        # All else that the receiver begins itself passes, and so does that one when it may again.
        world.talk("a2", (A1[v], 7001), client)
        world.apply()
        client.sendto(b"question", (A2[v], 7002))
        assert server.recv(64) == b"question"
        server.sendto(b"answer", peer)
        assert client.recv(64) == b"answer"


@both
def test_errors_are_told_by_those_whose_flow_it_is(world: Any, v: int) -> None:
    """Conntrack calls an ICMP error related whoever sends it: it must not cross what separates."""
    world.apply()
    with world.socket("a1", A1[v], 7004) as server, world.socket("a2", A2[v], 7003) as client:
        client.connect((A1[v], 7004))
        client.send(b"question")
        server.sendto(b"answer", server.recvfrom(64)[1])
        assert client.recv(64) == b"answer"
        forged = packets.unreachable(B1[v], packets.udp(A2[v], A1[v], 7004, "x", by=7003))
        world.expect_drop("error of others", lambda: transmit(world, "b1", forged))
        client.send(b"question")
        assert server.recv(64) == b"question"
    # The one whom it concerns is told: nobody listens there any more.
    with world.socket("a1", A1[v]) as client:
        client.connect((A2[v], 7003))
        client.send(b"x")
        gone = errno.ECONNREFUSED
        until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == gone, "told")


def transmit(world: Any, name: str, packet: bytes) -> None:
    """A packet out of an endpoint, as it is."""
    with netns.inside(world.ns["host"]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far:
        far.bind((f"pl{name}", 0))
        mac = far.getsockname()[4].hex(":")
    kind = packets.IPV6 if packet[0] >> 4 == 6 else packets.IPV4
    with netns.inside(world.ns[name]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(packets.ether(kind, packet, to=mac))
