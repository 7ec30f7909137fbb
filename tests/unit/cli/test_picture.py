"""`plait status`: what is wrong, said once."""

from __future__ import annotations

from plait.cli.picture import MOST_PROBLEMS, balancing_troubles, node_troubles, setup_trouble
from plait.client.agent import AgentStatus
from plait.model.objects import Metadata, Node, NodeStatus, Service
from plait.model.services import ServiceStatus


def node(name: str, *conditions: str, ready: bool = True, silent: bool = False) -> Node:
    status = NodeStatus(ready=ready, conditions=conditions, silent=silent)
    return Node(metadata=Metadata(name=name), status=status)


def status(name: str, *problems: str) -> AgentStatus:
    return AgentStatus(
        node=name,
        version="1",
        ready=True,
        server="",
        server_connected=True,
        revision=1,
        endpoints=0,
        networks=0,
        docker=False,
        repairs=0,
        problems=problems,
    )


def test_this_hosts_problems_are_its_agents_to_tell() -> None:
    nodes = (node("h1", "one", "two"), node("h2", "one"), node("h3", ready=False))
    assert [t.text for t in node_troubles(nodes, status("h1", "one"))] == [
        "node h1: two",
        "node h2: one",
        "node h3 is not ready",
    ]
    (lost,) = node_troubles([node("h4", silent=True)], None)
    assert lost.text == "node h4 is silent"
    assert [t.text for t in node_troubles(nodes[:1], None)] == ["node h1: one", "node h1: two"]


def test_an_interrupted_up_is_to_be_run_again() -> None:
    (trouble,) = setup_trouble({"server": "up", "agent": "-"})
    assert trouble.fix == ("plait up",)
    assert setup_trouble({"server": "up", "agent": "down"}) == []
    assert setup_trouble({"server": "-", "agent": "up"}) == []


def test_of_services_that_lack_something_some_are_named() -> None:
    def lacking(name: str, message: str = "no pool") -> Service:
        meta = Metadata(name=name, namespace="shop")
        return Service(metadata=meta, status=ServiceStatus(message=message))

    (one,) = balancing_troubles([lacking("web"), lacking("db", "")])
    assert one.text == "service shop/web: no pool"
    assert one.fix == ("plait service show web -n shop",)
    many = balancing_troubles([lacking(f"s{number}") for number in range(MOST_PROBLEMS + 3)])
    assert len(many) == MOST_PROBLEMS + 1
    assert many[-1].text == "3 more Services lack something"
