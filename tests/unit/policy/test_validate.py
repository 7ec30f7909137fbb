"""What policies and groups must satisfy, and what is stored of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plait.model.errors import PlaitError
from plait.model.policies import GroupSpec, PolicySpec
from plait.policy import validate

PEER: dict[str, Any] = {"endpoints": {"matchLabels": {"app": "web"}}}


def policy(**fields: Any) -> PolicySpec:
    return validate.policy(msgspec.convert(fields, type=PolicySpec), domain="plait.local")


def ingress(**rule: Any) -> dict[str, Any]:
    return {"ingress": [rule]}


def peer(**fields: Any) -> dict[str, Any]:
    return {"egress": [{"peers": [PEER, fields]}]}


def port(**fields: Any) -> dict[str, Any]:
    return ingress(ports=[{"protocol": "TCP"}, fields])


def selects(**fields: Any) -> dict[str, Any]:
    return {"subject": {"endpoints": fields}}


def requires(**fields: Any) -> dict[str, Any]:
    return selects(matchExpressions=[{"key": "app", **fields}])


R = "spec.ingress[0]"
P = "spec.egress[0].peers[1]"
Q = "spec.ingress[0].ports[1]"
S = "spec.subject.endpoints"

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"priority": -1}, "spec.priority", "0 to 1000"),
    ({"priority": 1001}, "spec.priority", "0 to 1000"),
    ({"tier": "admin", "isolate": []}, "spec.isolate", "does not isolate"),
    ({"tier": "baseline", "isolate": ["egress"]}, "spec.isolate", "does not isolate"),
    ({"isolate": ["egress", "egress"]}, "spec.isolate", "stands twice"),
    ({"description": "a\x1b[2Jb"}, "spec.description", "printed"),
    ({"description": "x" * 1025}, "spec.description", "1024"),
    ({"origin": {"kind": "X", "name": "No Good"}}, "spec.origin.name", "not a name"),
    ({"ingress": [{}] * 201}, "spec.ingress", "at most 200"),
    # Selectors
    (selects(matchLabels={"a b": "x"}), f"{S}.matchLabels", "label's key"),
    (selects(matchLabels={"a": "x y"}), f"{S}.matchLabels.a", "label's value"),
    (selects(matchLabels={"a": "x" * 64}), f"{S}.matchLabels.a", "label's value"),
    (requires(operator="In"), f"{S}.matchExpressions[0].values", "there are none"),
    (requires(operator="NotIn"), f"{S}.matchExpressions[0].values", "there are none"),
    (requires(operator="Exists", values=["x"]), f"{S}.matchExpressions[0].values", "no values"),
    (
        requires(operator="DoesNotExist", values=["x"]),
        f"{S}.matchExpressions[0].values",
        "no values",
    ),
    (
        requires(operator="In", values=["x", "-"]),
        f"{S}.matchExpressions[0].values[1]",
        "label's value",
    ),
    (
        selects(matchExpressions=[{"key": "/", "operator": "Exists"}]),
        f"{S}.matchExpressions[0].key",
        "label's key",
    ),
    ({"subject": {"namespaces": {"matchLabels": {"": ""}}}}, "spec.subject.namespaces", "key"),
    # Rules
    (ingress(name="a\nb"), f"{R}.name", "printed"),
    (ingress(name="x" * 101), f"{R}.name", "100"),
    (ingress(action="Accept", reject=True), f"{R}.reject", "cannot reject"),
    (ingress(action="Pass", reject=True), f"{R}.reject", "cannot reject"),
    (ingress(peers=[]), f"{R}.peers", "the list is empty"),
    (ingress(ports=[]), f"{R}.ports", "the list is empty"),
    (ingress(peers=[PEER] * 1001), f"{R}.peers", "at most 1000"),
    (ingress(ports=[{"protocol": "TCP"}] * 201), f"{R}.ports", "at most 200"),
    # Peers
    (peer(), P, "says nothing of who it is"),
    (peer(group="a", network="b"), P, "here are 2: group, network"),
    (peer(**PEER, cidr="10.0.0.0/8"), P, "here are 2: selectors, cidr"),
    (peer(nodes={}, domains=["a.b"]), P, "here are 2: nodes, domains"),
    (peer(**{"except": ["10.0.0.0/8"]}, group="a"), f"{P}.except", "only a peer with `cidr`"),
    (peer(group="No Good"), f"{P}.group", "DNS label"),
    (peer(network="a.b"), f"{P}.network", "DNS label"),
    (peer(service={"name": "a b", "namespace": "c"}), f"{P}.service.name", "DNS name"),
    (peer(service={"name": "a", "namespace": "c.d"}), f"{P}.service.namespace", "DNS label"),
    (peer(nodes={"matchLabels": {"-": ""}}), f"{P}.nodes.matchLabels", "label's key"),
    (peer(namespaces={"matchLabels": {"-": ""}}), f"{P}.namespaces.matchLabels", "label's key"),
    (peer(cidr="10.0.0.1/8"), f"{P}.cidr", "not a valid CIDR"),
    (peer(cidr="10.0.0.0/33"), f"{P}.cidr", "not a valid CIDR"),
    (peer(cidr="fe80::%eth0/64"), f"{P}.cidr", "not a valid CIDR"),
    (peer(cidr="all"), f"{P}.cidr", "not a valid CIDR"),
    (peer(cidr="10.0.0.0/8", **{"except": ["x"]}), f"{P}.except[0]", "not a valid CIDR"),
    (peer(cidr="10.0.0.0/8", **{"except": ["10.0.0.0/8"]}), f"{P}.except[0]", "not a part"),
    (peer(cidr="10.1.0.0/16", **{"except": ["10.0.0.0/8"]}), f"{P}.except[0]", "not a part"),
    (peer(cidr="10.0.0.0/8", **{"except": ["fd00::/64"]}), f"{P}.except[0]", "not a part"),
    # Domains
    (peer(domains=["a..b"]), f"{P}.domains[0]", "not a domain"),
    (peer(domains=["a.b", "*"]), f"{P}.domains[1]", "not a domain"),
    (peer(domains=["a.*.b"]), f"{P}.domains[0]", "not a domain"),
    (peer(domains=["*.*.b"]), f"{P}.domains[0]", "not a domain"),
    (peer(domains=["a b"]), f"{P}.domains[0]", "not a domain"),
    (peer(domains=["x" * 300]), f"{P}.domains[0]", "not a domain"),
    (peer(domains=["web.shop.plait.local"]), f"{P}.domains[0]", "a name of this network"),
    (peer(domains=["*.Plait.Local."]), f"{P}.domains[0]", "a name of this network"),
    (ingress(peers=[{"domains": ["a.b"]}]), f"{R}.peers[0].domains", "cannot name domains"),
    (
        {"egress": [{"action": "Deny", "peers": [{"domains": ["a.b"]}]}]},
        "spec.egress[0].peers[0].domains",
        "cannot name domains",
    ),
    (
        {"egress": [{"action": "Pass", "peers": [{"domains": ["a.b"]}]}]},
        "spec.egress[0].peers[0].domains",
        "cannot name domains",
    ),
    # Ports
    (port(), f"{Q}.protocol", "the protocol is missing"),
    (port(port=80), f"{Q}.protocol", "the protocol is missing"),
    (port(protocol="TCP", port=0), f"{Q}.port", "1 to 65535"),
    (port(protocol="TCP", port=65536), f"{Q}.port", "1 to 65535"),
    (port(protocol="TCP", port="80"), f"{Q}.port", "not a port's name"),
    (port(protocol="TCP", port=""), f"{Q}.port", "not a port's name"),
    (port(port="a--b"), f"{Q}.port", "not a port's name"),
    (port(port="Http"), f"{Q}.port", "not a port's name"),
    (port(protocol="TCP", endPort=80), f"{Q}.endPort", "begins at `port`"),
    (port(port="http", endPort=80), f"{Q}.endPort", "begins at `port`"),
    (port(protocol="TCP", port=80, endPort=79), f"{Q}.endPort", "80 to 65535"),
    (port(protocol="TCP", port=80, endPort=65536), f"{Q}.endPort", "80 to 65535"),
    (port(protocol="TCP", icmpType=8), f"{Q}.icmpType", "ICMP and ICMPv6 only"),
    (port(port="http", icmpCode=0), f"{Q}.icmpCode", "ICMP and ICMPv6 only"),
    (port(protocol="ICMP", port=80), f"{Q}.port", "no ports"),
    (port(protocol="ICMPv6", endPort=80), f"{Q}.endPort", "no ports"),
    (port(protocol="ICMP", icmpType=256), f"{Q}.icmpType", "0 to 255"),
    (port(protocol="ICMP", icmpType=3, icmpCode=-1), f"{Q}.icmpCode", "0 to 255"),
    (port(protocol="ICMP", icmpCode=1), f"{Q}.icmpCode", "with its type"),
]


@pytest.mark.parametrize(("fields", "where", "detail"), REFUSED)
def test_what_is_refused_says_where_and_why(
    fields: dict[str, Any], where: str, detail: str
) -> None:
    with pytest.raises(PlaitError) as caught:
        policy(**fields)
    assert caught.value.where.startswith(where), caught.value.render()
    assert detail in caught.value.detail, caught.value.render()
    assert caught.value.code in ("PLAIT-API-002", "PLAIT-NAME-001")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"priority": 0, "tier": "admin", "staged": True, "description": "two\n\tlines"},
        {"priority": 1000, "isolate": []},
        {"isolate": ["ingress", "egress"], "subject": {"namespaces": {}, "endpoints": {}}},
        {"origin": {"kind": "NetworkPolicy", "name": "a.b", "namespace": "x"}},
        requires(operator="In", values=["", "x"]),
        requires(operator="Exists"),
        ingress(),
        ingress(action="Deny", reject=True, name='no, `nobody`; "it\'s" $closed'),
        ingress(peers=[{"namespaces": {}}, {"endpoints": {}}, {"group": "g"}, {"nodes": {}}]),
        peer(service={"name": "my_db.x", "namespace": "shop"}),
        peer(namespaces={}, endpoints={}),
        peer(domains=["example.com", "*.example.com", "*.local"]),
        port(port="http"),
        port(protocol="SCTP", port="serve-80-sctp"),
        port(protocol="UDP", port=1, endPort=65535),
        port(protocol="TCP", port=80, endPort=80),
        port(protocol="ICMP"),
        port(protocol="ICMPv6", icmpType=128, icmpCode=0),
    ],
)
def test_what_is_taken_stays_as_it_is(fields: dict[str, Any]) -> None:
    assert policy(**fields) == msgspec.convert(fields, type=PolicySpec)


def test_addresses_and_domains_are_stored_in_one_form() -> None:
    exact = policy(
        egress=[
            {
                "peers": [
                    {"cidr": "FD00:0::/16", "except": ["fd00:1::5"]},
                    {"cidr": "192.0.2.1"},
                    {"domains": ["Example.COM.", "*.Example.com"]},
                ]
            }
        ]
    ).egress[0]
    assert exact.peers is not None
    assert [(p.cidr, p.excepted, p.domains) for p in exact.peers] == [
        ("fd00::/16", ("fd00:1::5/128",), ()),
        ("192.0.2.1/32", (), ()),
        ("", (), ("example.com", "*.example.com")),
    ]


@pytest.mark.parametrize(
    ("fields", "where", "detail"),
    [
        ({}, "spec", "neither selectors nor cidrs"),
        ({"endpoints": {}, "cidrs": ["10.0.0.0/8"]}, "spec.cidrs", "not both"),
        ({"namespaces": {}, "cidrs": ["10.0.0.0/8"]}, "spec.cidrs", "not both"),
        ({"cidrs": ["10.0.0.0/8", "10.0.0.1/8"]}, "spec.cidrs[1]", "not a valid CIDR"),
        ({"cidrs": ["::"] * 10_001}, "spec.cidrs", "at most 10000"),
        ({"endpoints": {"matchLabels": {"-": ""}}}, "spec.endpoints", "label's key"),
        ({"namespaces": {"matchLabels": {"-": ""}}}, "spec.namespaces", "label's key"),
    ],
)
def test_a_group_has_selectors_or_addresses(
    fields: dict[str, Any], where: str, detail: str
) -> None:
    with pytest.raises(PlaitError) as caught:
        validate.group(msgspec.convert(fields, type=GroupSpec))
    assert caught.value.where.startswith(where)
    assert detail in caught.value.detail


def test_addresses_of_a_group_are_stored_in_one_form() -> None:
    spec = validate.group(GroupSpec(cidrs=("10.0.0.1", "FD00::/8")))
    assert spec.cidrs == ("10.0.0.1/32", "fd00::/8")
