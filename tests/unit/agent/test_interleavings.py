"""Verbs whose world changes while they wait: another verb, the kernel or the server is first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until
from tests.unit.agent.test_service import request, running, settled

from plait.agent import fake
from plait.client.agent import EndpointIdentity
from plait.client.base import WatchEvent
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, PublishedPort, Workload


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    return fake.FakeHost(fake.server(), tmp_path)


def netns(host: fake.FakeHost, path: Path) -> str:
    """A namespace behind a path; its inode is that of the file, as the agent sees it."""
    path.touch()
    host.kernel.add_netns(str(path)).inode = path.stat().st_ino
    return str(path)


async def test_only_the_life_whose_namespace_vanished_is_detached(
    host: fake.FakeHost, tmp_path: Path
) -> None:
    """The same id was attached elsewhere before the detach had its turn."""
    async with running(host) as agent:
        await settled(host, agent)
        old, new = (netns(host, tmp_path / name) for name in ("old", "new"))
        await agent.service.attach(request(netns=old))
        identify = asyncio.create_task(
            agent.service.identify(
                "e1", EndpointIdentity(name="db", namespace="default", workload=Workload())
            )
        )
        await asyncio.sleep(0)
        again = asyncio.create_task(agent.service.attach(request(netns=new)))
        await asyncio.sleep(0)
        # The turn that the first of them waits for finds it.
        agent.service.vanished("e1")
        await asyncio.gather(identify, again)
        await agent.service.drain()
        (left,) = await agent.service.endpoints()
        assert left.request.netns == new


async def test_a_new_namespace_may_have_the_inode_of_one_that_has_gone(
    host: fake.FakeHost, tmp_path: Path
) -> None:
    """The kernel gives the lowest free one, and the former endpoint is not detached yet."""
    async with running(host) as agent:
        await settled(host, agent)
        old, new = tmp_path / "old", tmp_path / "new"
        await agent.service.attach(request("e1", netns=netns(host, old)))
        inode = old.stat().st_ino
        old.rename(new)
        host.kernel.del_netns(str(old))
        host.kernel.add_netns(str(new)).inode = inode
        await agent.service.attach(request("e2", netns=str(new)))
        agent.loop.resync()
        await agent.service.drain()
        assert [e.request.id for e in await agent.service.endpoints()] == ["e2"]
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request("e3", netns=str(new)))
        assert caught.value.code == "PLAIT-AGENT-005"


async def test_an_address_that_is_held_stays_so_when_its_attach_fails(host: fake.FakeHost) -> None:
    """Who holds it gives it back, or tries again."""

    def ports(number: int) -> tuple[PublishedPort, ...]:
        return (PublishedPort(protocol="tcp", port=80, host_port=number, host_ip="127.0.0.1"),)

    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request("e1", ports=ports(0)))
        (first,) = await agent.service.endpoints()
        held = await agent.service.reserve("plait", 4)
        asked = {"addresses": (held.address,), "ports": ports(first.request.ports[0].host_port)}
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request("e2", **asked))
        assert caught.value.code == "PLAIT-AGENT-007"
        with pytest.raises(PlaitError):
            await agent.service.reserve("plait", 4, held.address)
        await agent.service.attach(request("e2", addresses=(held.address,)))


async def test_one_of_two_who_ask_for_an_address_elsewhere_holds_it(host: fake.FakeHost) -> None:
    """Both wait for a loan; it is granted to this node once."""
    async with running(host) as agent:
        await settled(host, agent)
        asked = [agent.service.reserve("plait", 4, "10.9.77.7") for _ in range(2)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        refused = [error.code for error in found if isinstance(error, PlaitError)]
        assert refused == ["PLAIT-IPAM-010"]


async def test_an_attach_whose_network_goes_meanwhile_leaves_no_trace(
    host: fake.FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        turn = agent.loop.settle

        async def late() -> None:
            monkeypatch.undo()
            await turn()
            network = agent.state.snapshot.networks["plait"]
            gone = WatchEvent(type="delete", object=network, revision=network.metadata.revision)
            agent.sync.take(gone)

        monkeypatch.setattr(agent.loop, "settle", late)
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request())
        assert caught.value.code == "PLAIT-NET-006"
        assert await agent.service.endpoints() == ()


async def test_an_id_that_was_silenced_is_heard_in_its_next_life(host: fake.FakeHost) -> None:
    """Its former address is another node's; the one that it gets now is ours."""
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request())
        for block in [o for o in host.server.objects.values() if isinstance(o, AddressBlock)]:
            spec = msgspec.structs.replace(block.spec, node="other")
            host.server.put(msgspec.structs.replace(block, spec=spec))
        await until(lambda: agent.state.fenced == {"e1"})
        await agent.service.detach("e1")
        await agent.service.attach(request())
        want = agent.state.compute()
        assert want is not None
        assert len(want.filter.endpoints) == 1
