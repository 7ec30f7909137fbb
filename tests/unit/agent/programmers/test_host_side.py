"""The steps that make the host side of an endpoint."""

from __future__ import annotations

from plait.agent.programmers.host_side import host_steps, new_born
from plait.model.hoststate import Link, Peer


def test_the_alias_is_set_while_the_link_is_down() -> None:
    """On a link that is up it makes the kernel go through all IPv6 routes of the host."""
    want = Link(endpoint="web", mtu=1500, peer=Peer(name="eth0", mac=""), addresses=("fe80::1/64",))
    texts = [step.text for step in host_steps("pl1", want, new_born(7, want))]
    assert texts.index("ip link set pl1 alias plait:web") < texts.index("ip link set pl1 up")
