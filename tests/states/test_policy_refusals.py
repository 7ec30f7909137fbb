"""Whatever the kernel refuses, and however often the ruleset changes meanwhile: when it refuses no
more, what is there is what a fresh host has."""

from __future__ import annotations

import errno
import random

import msgspec
import pytest
from tests.support.nft_hosts import FILTER, Host, names
from tests.support.rulesets import Draw

from plait.kernel.fake_nft import FakeNft
from plait.model.hoststate import HostState
from plait.model.ruleset import Ruleset

STEPS = 12
REFUSED = (
    "p-s-s0-4",
    "p-s-s1-6",
    "p-n-n0-4",
    "p-d-d0-4",
    "pc-c0i",
    "pc-c1e",
    "pk-k0i",
    "pt-k1e-0",
    "pi4",
    "pe6",
    "peers4",
)


@pytest.mark.parametrize("seed", range(4))
def test_refusals_leave_no_trace(seed: int) -> None:
    pick, draw = random.Random(seed), Draw(seed)
    door = FakeNft()
    host = Host(door)
    host.go(Ruleset())
    states = [draw.ruleset() for _ in range(3)]
    refused = 0
    for step in range(STEPS):
        door.forgive()
        wanted = pick.choice(states)
        for members in wanted.sets.values():
            change = pick.choice((members.add, members.discard))
            change(f"10.1.7.{pick.randrange(9)}")
        again = msgspec.structs.replace(wanted, serial=step)
        constants = [name for name in door.kernel.tables["plait"].sets if name.startswith("p-v")]
        bad = pick.sample([*REFUSED, *constants], pick.randint(0, 3))
        door.fail(errno.ENOMEM, names(*bad), times=200)
        if pick.random() < 0.2:
            host.table.observe(force=True)
        ops = host.policy.plan(HostState(filter=FILTER, policy=again))
        # Some wait for their turn, as the loop has it.
        due = [op for op in ops if pick.random() < 0.9]
        refused += len(host.policy.apply(due))
        assert host.table.actual == door.read()
    assert refused > 0
    door.forgive()
    for wanted in states:
        state = HostState(filter=FILTER, policy=wanted)
        while ops := host.policy.plan(state):
            assert host.policy.apply(ops) == ()
        host.check(wanted)
