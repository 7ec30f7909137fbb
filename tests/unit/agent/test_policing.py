"""A whole agent with policies, over fake doors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until
from tests.unit.agent.test_service import running, settled

from plait.agent import fake
from plait.agent.agent import Agent
from plait.agent.programmers.filter_table import FilterTable
from plait.client.agent import AttachRequest, EndpointIdentity
from plait.client.base import WatchEvent
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    Group,
    Metadata,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    Policy,
    Workload,
)
from plait.model.policies import GroupSpec, Peer, PolicySpec, Port, Rule, Subject
from plait.model.ruleset import Ruleset
from plait.model.selectors import Selector


def labelled(**labels: str) -> Selector:
    return Selector(match_labels=labels)


def policy(name: str = "allow", *, app: str = "web", **spec: object) -> Policy:
    """One that lets the front's endpoints, and the group `known`, reach an app."""
    either = (
        Rule(peers=(Peer(endpoints=labelled(app="front")),)),
        Rule(peers=(Peer(group="known"),)),
    )
    ingress = spec.pop("ingress", either)
    return Policy(
        metadata=Metadata(name=name),
        spec=PolicySpec(subject=Subject(endpoints=labelled(app=app)), ingress=ingress, **spec),  # type: ignore[arg-type]
    )


def other(ident: str, address: str, **labels: str) -> Endpoint:
    """An endpoint of another node."""
    return Endpoint(
        metadata=Metadata(name=ident, namespace="default", labels=labels),
        spec=EndpointSpec(node="h2", network="plait", name=ident, addresses=(address,)),
    )


def attach(ident: str = "w1", **more: object) -> AttachRequest:
    request = {"id": ident, "network": "plait", "name": ident, "labels": {"app": "web"}} | more
    return AttachRequest(**request)  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    return fake.FakeHost(fake.server(), tmp_path)


def rules(agent: Agent) -> Ruleset:
    return agent.state.engine.ruleset()


def members(agent: Agent) -> set[str]:
    return {address for items in rules(agent).sets.values() for address in items}


def dispatched(host: fake.FakeHost) -> set[bytes]:
    """Addresses that the kernel leads to policies."""
    table = FilterTable(host.nft)
    table.observe()
    assert table.actual is not None
    return {key for name, held in table.actual.elements.items() if name[:2] == "pi" for key in held}


async def applied(host: fake.FakeHost, agent: Agent) -> None:
    await until(lambda: agent.state.in_force >= host.server.revision)


async def test_policies_stand_when_an_attach_returns_and_go_with_the_endpoint(
    host: fake.FakeHost,
) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        assert dispatched(host) == set()
        made = await agent.service.attach(attach())
        assert rules(agent).dispatch.keys() == set(made.addresses)
        assert len(dispatched(host)) == 2
        await agent.service.attach(attach("x1", labels={}))
        assert len(dispatched(host)) == 2, "nobody's policy"
        assert await agent.service.plan() == ""
        await agent.service.detach("w1")
        assert dispatched(host) == set()
        assert rules(agent).chains == {}


async def test_who_an_endpoint_is_decides_when_it_is_said(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach(identified=False))
        assert rules(agent).dispatch == {}
        who = EndpointIdentity(
            name="w", labels={"app": "web"}, namespace="default", workload=Workload()
        )
        await agent.service.identify("w1", who)
        assert len(dispatched(host)) == 2
        await agent.service.identify("w1", msgspec.structs.replace(who, labels={}))
        assert dispatched(host) == set()


async def test_what_others_are_reaches_the_rules(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        turns = agent.loop.turns
        host.server.put(other("f1", "10.9.1.7", app="front"))
        await applied(host, agent)
        assert members(agent) == {"10.9.1.7"}
        assert agent.loop.turns > turns
        host.server.put(other("f1", "10.9.1.7"))
        await applied(host, agent)
        assert members(agent) == set()
        known = GroupSpec(endpoints=labelled(app="known"))
        host.server.put(Group(metadata=Metadata(name="known"), spec=known))
        host.server.put(other("k1", "10.9.1.6", app="known"))
        await applied(host, agent)
        assert members(agent) == {"10.9.1.6"}
        host.server.put(policy(ingress=(Rule(peers=(Peer(namespaces=labelled(team="a")),)),)))
        host.server.put(other("f2", "10.9.1.8"))
        await applied(host, agent)
        assert members(agent) == set()
        host.server.put(Namespace(metadata=Metadata(name="default", labels={"team": "a"})))
        await applied(host, agent)
        own = {a for e in agent.service.present() for a in e.addresses}
        assert members(agent) == {"10.9.1.6", "10.9.1.7", "10.9.1.8"} | own


async def test_labels_of_nodes_count(host: fake.FakeHost) -> None:
    host.server.put(policy(ingress=(Rule(peers=(Peer(nodes=labelled(zone="a")),)),)))
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        spec = NodeSpec(addresses=("192.0.2.2/24",))
        host.server.put(Node(metadata=Metadata(name="h2", uid="uid-h2"), spec=spec))
        await applied(host, agent)
        assert members(agent) == set()
        host.server.put(
            Node(metadata=Metadata(name="h2", uid="uid-h2", labels={"zone": "a"}), spec=spec)
        )
        await applied(host, agent)
        assert members(agent) == {"192.0.2.2"}


async def test_a_restart_without_a_server_has_the_same_rules_and_writes_none(
    host: fake.FakeHost,
) -> None:
    host.server.put(policy())
    host.server.put(other("f1", "10.9.1.7", app="front"))
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        await applied(host, agent)
        before = rules(agent)
    held = dispatched(host)
    host.server.cut()
    async with running(host) as agent:
        after = rules(agent)
        assert (after.chains, after.classes, after.dispatch) == (
            before.chains,
            before.classes,
            before.dispatch,
        )
        assert members(agent) == {"10.9.1.7"}
        assert dispatched(host) == held
        assert await agent.service.plan() == ""
        assert agent.loop.repairs == {}


async def test_what_a_new_listing_lacks_is_gone(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        await applied(host, agent)
        kept = [obj for obj in agent.state.snapshot if not isinstance(obj, Policy)]
        later = agent.state.snapshot.revision + 1
        agent.sync.take(WatchEvent(type="begin", revision=later))
        for obj in kept:
            agent.sync.take(WatchEvent(type="put", revision=later, object=obj))
        assert rules(agent).dispatch, "half a listing took something away"
        agent.sync.take(WatchEvent(type="synced", revision=later))
        await agent.loop.settle()
        assert dispatched(host) == set()


async def test_events_that_change_no_rule_change_no_state(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        await applied(host, agent)
        want = agent.state.compute()
        host.server.put(other("x1", "10.9.1.9", app="nobody"))
        await applied(host, agent)
        assert agent.state.compute() is want
        host.server.put(other("f1", "10.9.1.7", app="front"))
        await applied(host, agent)
        now = agent.state.compute()
        assert now is not None
        assert want is not None
        assert now is not want
        assert now.filter is want.filter
        assert now.routes is want.routes


async def test_a_broken_policy_is_told_and_counted(host: fake.FakeHost) -> None:
    host.server.put(policy(ingress=(Rule(peers=(Peer(cidr="10.0.0.0/8", excepted=("x",)),)),)))
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        await applied(host, agent)
        (problem,) = [p for p in agent.service.problems() if p.startswith("policy allow: ")]
        assert problem
        text = agent._metrics().decode()
        for line in (
            "plait_policies 1",
            "plait_policies_broken 1",
            "plait_policy_classes 1",
            "plait_policy_addresses 2",
            "plait_policy_ended_flows_total 0",
        ):
            assert line in text.splitlines()


async def test_an_endpoint_whose_address_is_anothers_now_has_no_part(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        made = await agent.service.attach(attach())
        agent.state.fence(frozenset({"w1"}))
        await agent.loop.settle()
        assert dispatched(host) == set()
        agent.state.fence(frozenset())
        await agent.loop.settle()
        assert rules(agent).dispatch.keys() == set(made.addresses)


async def test_purging_leaves_nothing(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        assert await agent.purge() == ()
        assert host.nft.table() is None


async def test_who_may_be_led_to_a_resolver_of_its_own_choice(host: fake.FakeHost) -> None:
    def may_ask(agent: Agent, resolver: str, tcp: bool = False) -> bool:
        return agent.policing.may_ask(client, resolver, tcp)

    async with running(host) as agent:
        await settled(host, agent)
        answer = await agent.service.attach(attach())
        client = next(address for address in answer.addresses if ":" not in address)
        assert may_ask(agent, "192.0.2.53")
        only = Rule(peers=(Peer(cidr="192.0.2.53/32"),), ports=(Port(protocol="UDP", port=53),))
        host.server.put(policy(ingress=(), egress=(only,)))
        await applied(host, agent)
        assert may_ask(agent, "192.0.2.53")
        assert not may_ask(agent, "192.0.2.53", tcp=True)
        assert not may_ask(agent, "192.0.2.54")
        # DNS to the host itself is always open.
        assert may_ask(agent, host.facts.addresses[0].address.partition("/")[0])


async def test_networks_matter_to_policies(host: fake.FakeHost) -> None:
    host.server.put(policy(ingress=(Rule(peers=(Peer(network="blue"),)),)))
    blue = Network(metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.8.0.0/16",)))
    host.server.put(blue)
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
        made = await agent.service.attach(attach("b1", network="blue", labels={}))
        assert members(agent) == set(made.addresses)
