"""What an endpoint may try to get around policies: no policy, however open, lets it through."""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.lab.filter.test_policy_packets import A1, A2, DENY, HOST, both, rules

from plait.agent.programmers.ended import EndedFlows
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
