"""`plait status`: what is wrong, said once."""

from __future__ import annotations

from datetime import UTC, datetime

from plait.cli.picture import (
    MOST_PROBLEMS,
    balancing_troubles,
    node_troubles,
    setup_trouble,
    token_troubles,
)
from plait.client.agent import AgentStatus
from plait.model.objects import Metadata, Node, NodeStatus, Service
from plait.model.services import ServiceStatus
from plait.wire.api import Role, TokenInfo


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


DAY = 86400.0
NOW = 1_800_000_000.0


def token(
    ident: str,
    role: Role,
    ends: float,
    life: float,
    *,
    note: str = "kubernetes",
    in_use: bool = False,
) -> TokenInfo:
    """A token that ends in so many days, and was made for so many."""

    def text(days: float) -> str:
        return datetime.fromtimestamp(NOW + days * DAY, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    return TokenInfo(
        id=ident,
        role=role,
        created_at=text(ends - life),
        expires_at=text(ends),
        description=note,
        expired=ends <= 0,
        in_use=in_use,
    )


def test_tokens_that_somebody_will_miss_are_told_of_before_they_end() -> None:
    told = token_troubles(
        [
            token("soon", "connector", 29, 365),
            token("later", "connector", 31, 365, note="other"),
            token("ended", "join", -2, 365),
            token("brief", "join", 0.5, 1, note="a host"),
            token("laptop", "admin", 1, 1, note="laptop", in_use=True),
            token("by-hand", "connector", 0.9, 1, note="", in_use=True),
        ],
        NOW,
    )
    assert [trouble.text.partition(":")[0] for trouble in told] == [
        "the connector token soon (kubernetes) ends",
        "the join token ended (kubernetes) has ended",
        "the connector token by-hand ends",
    ]
    assert told[0].fix[1] == "plait token rm soon"


def test_a_token_with_a_successor_is_missed_by_nobody_but_its_user() -> None:
    new = token("new", "connector", 300, 365)
    assert not token_troubles([token("old", "connector", 5, 365), new], NOW)
    assert token_troubles([token("old", "connector", 5, 365, in_use=True), new], NOW)
