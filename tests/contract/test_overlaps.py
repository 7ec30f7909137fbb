"""Address space that hosts use for something else: at joining, and afterwards. Real server."""

from __future__ import annotations

import pytest

from plait.cli import trust
from plait.client.api import ApiClient
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Network, NetworkSpec, Node, NodeSpec, NodeStatus
from plait.server.server import Server
from plait.wire.api import PoolUse

from .conftest import POOLS, Rig


def node(name: str, *prefixes: str) -> Node:
    return Node(
        metadata=Metadata(name=name),
        spec=NodeSpec(addresses=("192.0.2.1/24",)),
        status=NodeStatus(prefixes=prefixes),
    )


def network(name: str, *pools: str, external: bool = False) -> Network:
    return Network(
        metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, external_ipam=external)
    )


async def test_a_joiner_learns_the_pools_and_uses_up_no_token(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await api.create(network("office", "172.20.0.0/16", external=True))
    token = await rig.token(server, single_use=True)
    for _ in range(2):
        found = await trust.pools_of(rig.url(server), token)
        assert [use.cidr for use in found if not use.network] == list(POOLS)
        assert PoolUse(cidr="172.20.0.0/16", network="office", external_ipam=True) in found
    other = token[:-3] + "xyz"
    with pytest.raises(PlaitError) as caught:
        await trust.pools_of(rig.url(server), other)
    assert caught.value.code == "PLAIT-AUTH-003"


async def test_a_network_says_which_hosts_came_to_use_its_pool(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await api.create(network("office", "10.40.0.0/16"))
    await api.create(network("other", "10.50.0.0/16"))

    async def message(name: str = "office") -> str:
        return (await api.get(Network, name)).status.message

    h1 = await rig.node(server, "h1")
    h2 = await rig.node(server, "h2")
    assert await message() == ""
    await h1.update(node("h1", "0.0.0.0/1", "10.40.7.0/24"))
    assert await message() == "overlaps other networks: node h1 uses 10.40.7.0/24"
    await h2.update(node("h2", "10.0.0.0/8"))
    assert await message() == (
        "overlaps other networks: node h1 uses 10.40.7.0/24, node h2 uses 10.0.0.0/8"
    )
    assert await message("other") == "overlaps other networks: node h2 uses 10.0.0.0/8"
    before = (await api.get(Network, "office")).metadata.revision
    await h2.update(node("h2", "10.0.0.0/8"))
    assert (await api.get(Network, "office")).metadata.revision == before
    await h2.update(node("h2"))
    assert await message("other") == ""
    # What a forgotten node said goes with the next word of any other.
    await api.forget_node("h1", force=True)
    await h2.update(node("h2", "198.51.100.0/24"))
    assert await message() == ""
