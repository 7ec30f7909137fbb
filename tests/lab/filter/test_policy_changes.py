"""What is denied before a change of policies and after it is denied at every moment of it."""

from __future__ import annotations

import select
import threading

import pytest
from tests.lab.filter.conftest import World

from plait.model.ruleset import Classes, PolicyClass, Ruleset, Tier

pytestmark = pytest.mark.root

SENDER, RECEIVER = ("10.1.0.1", "fd01::1"), ("10.1.0.2", "fd01::2")
CHANGES = 150


def isolated(name: str, address: str) -> Ruleset:
    """Nobody may send to an address; of a class of that name."""
    closed = PolicyClass(direction="ingress", tiers=(Tier(chains=(), deny=f"i{name}"),))
    return Ruleset(classes={name: closed}, dispatch={address: Classes("", name)})


@pytest.mark.parametrize("v", [0, 1], ids=["v4", "v6"])
def test_no_packet_passes_while_a_class_takes_the_place_of_another(world: World, v: int) -> None:
    states = [isolated(f"k{number}", RECEIVER[v]) for number in range(3)]
    world.apply(policy=states[0])
    stop, sent = threading.Event(), 0
    with (
        world.socket("a2", RECEIVER[v], 7) as server,
        world.socket("a1", SENDER[v]) as client,
    ):

        def flood() -> None:
            nonlocal sent
            while not stop.is_set():
                client.sendto(b"x", (RECEIVER[v], 7))
                sent += 1

        sender = threading.Thread(target=flood)
        sender.start()
        for number in range(CHANGES):
            world.apply(policy=states[number % len(states)])
        stop.set()
        sender.join()
        heard, _, _ = select.select([server], [], [], 0.2)
    assert sent
    assert not heard
