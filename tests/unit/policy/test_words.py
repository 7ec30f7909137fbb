"""Policies in words."""

from __future__ import annotations

import pytest

from plait.model.meta import Metadata
from plait.model.policies import Origin, Peer, Policy, PolicySpec, Port, Rule, ServiceRef, Subject
from plait.model.selectors import NAMESPACE_NAME, Requirement, Selector
from plait.policy import words

SHOP = Selector(match_labels={NAMESPACE_NAME: "shop"})
WEB = Selector(match_expressions=(Requirement(key="name.plait/web", operator="Exists"),))


def selector(key: str, operator: str, *values: str) -> Selector:
    made = Requirement(key=key, operator=operator, values=values)  # type: ignore[arg-type]
    return Selector(match_expressions=(made,))


@pytest.mark.parametrize(
    ("namespaces", "endpoints", "text"),
    [
        (None, None, "all endpoints in every namespace"),
        (Selector(), Selector(), "all endpoints in every namespace"),
        (SHOP, WEB, "web in namespace shop"),
        (
            selector(NAMESPACE_NAME, "In", "a", "b"),
            Selector(match_labels={"app": "web", "tier": "x"}),
            "endpoints app=web, tier=x in namespaces a and b",
        ),
        (
            Selector(match_labels={"env": "prod"}),
            selector("app", "In", "a", "b"),
            "endpoints app in (a,b) in namespaces env=prod",
        ),
        (None, selector("app", "NotIn", "a"), "endpoints app!=a in every namespace"),
        (None, selector("app", "NotIn", "a", "b"), "endpoints app not in (a,b) in every namespace"),
        (None, selector("debug", "DoesNotExist"), "endpoints !debug in every namespace"),
        (
            None,
            Selector(match_labels={"plait/network": "db", "app": "x"}),
            "endpoints app=x on network db in every namespace",
        ),
        (
            SHOP,
            Selector(match_labels={"app": "x"}, match_expressions=WEB.match_expressions),
            "endpoints web app=x in namespace shop",
        ),
    ],
)
def test_subjects(namespaces: Selector | None, endpoints: Selector | None, text: str) -> None:
    assert words.subject_words(Subject(namespaces=namespaces, endpoints=endpoints)) == text


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (Peer(group="office"), "group office"),
        (Peer(network="db"), "network db"),
        (Peer(cidr="10.0.0.0/8"), "10.0.0.0/8"),
        (
            Peer(cidr="10.0.0.0/8", excepted=("10.1.0.0/16", "10.2.0.0/16")),
            "10.0.0.0/8 but 10.1.0.0/16 and 10.2.0.0/16",
        ),
        (Peer(nodes=Selector()), "every host"),
        (Peer(nodes=Selector(match_labels={"zone": "a"})), "hosts zone=a"),
        (Peer(service=ServiceRef(name="web", namespace="shop")), "service shop/web"),
        (Peer(domains=("a.org", "*.b.org")), "a.org and *.b.org"),
        (Peer(namespaces=SHOP), "all endpoints in namespace shop"),
    ],
)
def test_peers(peer: Peer, text: str) -> None:
    assert words.peer_words(peer) == text


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (Port(protocol="TCP", port=80), "80/tcp"),
        (Port(protocol="UDP", port=80, end_port=90), "80-90/udp"),
        (Port(protocol="SCTP"), "all of sctp"),
        (Port(port="http"), "port http"),
        (Port(protocol="TCP", port="http"), "http/tcp"),
        (Port(protocol="ICMP"), "icmp"),
        (Port(protocol="ICMPv6", icmp_type=1, icmp_code=4), "icmpv6 type 1 code 4"),
    ],
)
def test_ports(port: Port, text: str) -> None:
    assert words.port_words(port) == text


def test_a_policy_as_a_whole() -> None:
    spec = PolicySpec(
        subject=Subject(namespaces=SHOP, endpoints=WEB),
        ingress=(
            Rule(
                name="door", ports=(Port(protocol="TCP", port=80), Port(protocol="TCP", port=443))
            ),
            Rule(action="Deny", peers=(Peer(group="a"), Peer(group="b")), reject=True),
        ),
        egress=(Rule(action="Pass"),),
    )
    assert words.policy_words(Policy(metadata=Metadata(name="p"), spec=spec)) == [
        "web in namespace shop:",
        "  ingress: door: Accept from anyone on 80/tcp and 443/tcp",
        "  ingress: Deny from group a or group b on any port (with an answer)",
        "  ingress: nothing else, but what other policies accept",
        "  egress: Pass to anyone on any port",
    ]
    assert words.isolation_words(Policy(metadata=Metadata(name="p"), spec=spec)) == "ingress"


def test_origins() -> None:
    assert words.origin_words(Origin(kind="NetworkPolicy", name="w", namespace="s")) == (
        "NetworkPolicy s/w"
    )
    assert words.origin_words(Origin(kind="ClusterNetworkPolicy", name="w")) == (
        "ClusterNetworkPolicy w"
    )
