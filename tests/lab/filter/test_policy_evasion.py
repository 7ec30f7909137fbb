"""What an endpoint may try to get around policies: no policy, however open, lets it through."""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.lab.filter.test_policy_packets import A1, HOST, both, rules

from plait.model.marks import GATEWAY4, RESOLVER6
from plait.model.ruleset import ChainRule

pytestmark = pytest.mark.root

GATEWAY: Final = (GATEWAY4, RESOLVER6)
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
