"""From rates and bursts as they were asked for to those that the kernel is given."""

from __future__ import annotations

import pytest

from plait.agent.desired.shapers import FLOOR, LARGEST, LEAST, burst
from plait.agent.programmers.shapers import bucket
from plait.agent.state import attachment
from plait.client.agent import AttachRequest, Bandwidth, LocalEndpoint
from plait.model.hoststate import Shaper

KBIT, MBIT, GBIT = 10**3, 10**6, 10**9


@pytest.mark.parametrize(
    ("rate", "said", "given"),
    [
        (0, 0, 0),
        (10 * MBIT, 0, LEAST),
        (GBIT, 0, 10 * MBIT),
        (10 * MBIT, 8 * MBIT, 8 * MBIT),
        (10 * MBIT, 1, FLOOR),
        # Nobody chose these.
        (10 * MBIT, (1 << 32) - 1, LEAST),
        (10 * MBIT, (1 << 31) - 1, LEAST),
        # The kernel could not keep them.
        (KBIT, 0, FLOOR),
        (10 * KBIT, GBIT, 600 * KBIT),
        ((1 << 64) - 1, (1 << 64) - 1, LARGEST),
    ],
)
def test_bursts(rate: int, said: int, given: int) -> None:
    assert burst(rate, said) == given


@pytest.mark.parametrize("rate", [KBIT, 33 * KBIT, MBIT, GBIT, 1 << 40, (1 << 64) - 1])
def test_the_kernel_can_keep_every_bucket(rate: int) -> None:
    made = bucket(rate, burst(rate, 0))
    assert made is not None
    assert made.burst * 10**9 // made.rate // 64 < 1 << 32
    assert 16384 <= made.burst <= made.limit < 1 << 32


def test_directions_are_those_of_the_workload() -> None:
    asked = Bandwidth(ingress_rate=MBIT, ingress_burst=5, egress_rate=2 * MBIT, egress_burst=6)
    request = AttachRequest(id="e1", network="plait", bandwidth=asked)
    made = LocalEndpoint(request=request, addresses=(), mac="", interface="pl1")
    want = Shaper(to_rate=MBIT, to_burst=5, from_rate=2 * MBIT, from_burst=6)
    assert attachment(made).shaper == want
