"""Kubernetes' policies as ours: every clause of the two specifications, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.support.oracle import ORACLE, needs_oracle

from plait.model.errors import PlaitError
from plait.model.policies import Origin, Peer, Policy, Port, Rule, Subject
from plait.model.selectors import NAMESPACE_NAME, Requirement, Selector
from plait.policy import validate
from plait.policy.kubernetes import policy_name, to_policy

HERE = Selector(match_labels={NAMESPACE_NAME: "shop"})
WEB = {"matchLabels": {"app": "web"}}
IS_WEB = Selector(match_labels={"app": "web"})
ALL = Selector()


def np(metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop", **(metadata or {})},
        "spec": spec,
    }


def cnp(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "base"},
        "spec": {"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}, **spec},
    }


def rule(**fields: Any) -> Rule:
    """The rule that an ingress rule of a NetworkPolicy becomes."""
    return to_policy(np(podSelector={}, ingress=[fields])).spec.ingress[0]


def crule(direction: str = "egress", **fields: Any) -> Rule:
    """The rule that a rule of a ClusterNetworkPolicy becomes."""
    side = "to" if direction == "egress" else "from"
    given = {"action": "Accept", side: [{"namespaces": {}}], **fields}
    spec = to_policy(cnp(**{direction: [given]})).spec
    return spec.rules(direction)[0]  # type: ignore[arg-type]


# NetworkPolicy


def test_a_network_policy_is_a_policy_of_the_application_tier() -> None:
    policy = to_policy(np({"labels": {"a": "b"}, "uid": "x"}, podSelector=WEB))
    assert (policy.metadata.name, policy.metadata.labels) == ("knp.shop.db", {"a": "b"})
    assert (policy.metadata.uid, policy.metadata.revision) == ("", 0)
    assert policy.spec.tier == "application"
    assert policy.spec.subject == Subject(namespaces=HERE, endpoints=IS_WEB)
    assert policy.spec.origin == Origin(kind="NetworkPolicy", name="db", namespace="shop")


@pytest.mark.parametrize("spec", [{}, {"podSelector": {}}, {"podSelector": None}])
def test_no_selector_selects_every_pod_of_the_namespace(spec: dict[str, Any]) -> None:
    assert to_policy(np(**spec)).spec.subject == Subject(namespaces=HERE, endpoints=ALL)


def test_a_file_without_spec_and_namespace() -> None:
    policy = to_policy(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"}}
    )
    assert policy.metadata.name == "knp.default.x"
    assert policy.spec.isolate == ("ingress",)


@pytest.mark.parametrize(
    ("spec", "isolate"),
    [
        ({}, ("ingress",)),
        ({"policyTypes": []}, ("ingress",)),
        ({"policyTypes": None, "egress": []}, ("ingress",)),
        ({"egress": [{}]}, ("ingress", "egress")),
        ({"ingress": [{}]}, ("ingress",)),
        ({"policyTypes": ["Egress"]}, ("egress",)),
        ({"policyTypes": ["Egress", "Ingress"]}, ("ingress", "egress")),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, ("ingress",)),
    ],
)
def test_types_default_to_ingress_and_to_egress_if_it_has_rules(
    spec: dict[str, Any], isolate: tuple[str, ...]
) -> None:
    found = to_policy(np(**spec)).spec
    assert found.isolate == isolate


def test_rules_of_a_direction_that_is_no_type_count_for_nothing() -> None:
    found = to_policy(np(policyTypes=["Ingress"], ingress=[{}], egress=[{}])).spec
    assert (found.ingress, found.egress) == ((Rule(),), ())
    found = to_policy(np(policyTypes=["Egress"], ingress=[{}], egress=[{}])).spec
    assert (found.ingress, found.egress) == ((), (Rule(),))


@pytest.mark.parametrize("side", [{}, {"from": [], "ports": []}, {"from": None, "ports": None}])
def test_empty_lists_mean_anyone_and_every_port(side: dict[str, Any]) -> None:
    assert rule(**side) == Rule()


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ({"podSelector": WEB}, Peer(namespaces=HERE, endpoints=IS_WEB)),
        ({"podSelector": {}}, Peer(namespaces=HERE, endpoints=ALL)),
        ({"namespaceSelector": {}}, Peer(namespaces=ALL)),
        ({"namespaceSelector": WEB, "podSelector": None}, Peer(namespaces=IS_WEB)),
        ({"namespaceSelector": WEB, "podSelector": {}}, Peer(namespaces=IS_WEB, endpoints=ALL)),
        (
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.3.4/32"]}},
            Peer(cidr="10.0.0.0/8", excepted=("10.1.0.0/16", "10.2.3.4/32")),
        ),
        ({"ipBlock": {"cidr": "10.0.0.9/8"}}, Peer(cidr="10.0.0.0/8")),
        ({"ipBlock": {"cidr": "FD00::/16", "except": None}}, Peer(cidr="fd00::/16")),
    ],
)
def test_peers(peer: dict[str, Any], expected: Peer) -> None:
    assert rule(**{"from": [peer]}).peers == (expected,)


def test_two_items_stay_two_and_keep_their_own_exceptions() -> None:
    peers = rule(
        **{
            "from": [
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                {"ipBlock": {"cidr": "10.1.0.0/16"}},
            ]
        }
    ).peers
    assert peers == (
        Peer(cidr="10.0.0.0/8", excepted=("10.1.0.0/16",)),
        Peer(cidr="10.1.0.0/16"),
    )


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, Port(protocol="TCP", port=80)),
        ({}, Port(protocol="TCP")),
        ({"protocol": None, "port": None, "endPort": None}, Port(protocol="TCP")),
        ({"protocol": "SCTP"}, Port(protocol="SCTP")),
        ({"protocol": "UDP", "port": "dns"}, Port(protocol="UDP", port="dns")),
        ({"port": 80, "endPort": 80}, Port(protocol="TCP", port=80, end_port=80)),
        ({"port": 1, "endPort": 65535}, Port(protocol="TCP", port=1, end_port=65535)),
    ],
)
def test_ports(port: dict[str, Any], expected: Port) -> None:
    assert rule(ports=[port]).ports == (expected,)


def test_selectors_keep_their_requirements() -> None:
    given = {
        "matchLabels": {"a": "1"},
        "matchExpressions": [
            {"key": "b", "operator": "NotIn", "values": ["x", ""]},
            {"key": "c", "operator": "DoesNotExist"},
            {"key": "d", "operator": "Exists", "values": []},
        ],
    }
    assert to_policy(np(podSelector=given)).spec.subject.endpoints == Selector(
        match_labels={"a": "1"},
        match_expressions=(
            Requirement(key="b", operator="NotIn", values=("x", "")),
            Requirement(key="c", operator="DoesNotExist"),
            Requirement(key="d", operator="Exists"),
        ),
    )


def test_the_manifest_that_kubectl_remembers_is_no_annotation_of_ours() -> None:
    remembered = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 20_000, "a": "b"}
    assert to_policy(np({"annotations": remembered})).metadata.annotations == {"a": "b"}


def test_names_are_those_of_the_object_or_end_in_a_hash() -> None:
    assert policy_name("NetworkPolicy", "a.b", "x") == "knp.x.a.b"
    assert policy_name("ClusterNetworkPolicy", "a") == "kcnp.a"
    long = [policy_name("NetworkPolicy", "n" * 252 + end, "shop") for end in "ab"]
    assert all(len(name) == 253 and name.startswith("knp.shop.nnn") for name in long)
    assert long[0] != long[1]
    assert len(policy_name("NetworkPolicy", "n" * 240, "shop")) == 249


I0 = "spec.ingress[0]"
PEER = f"{I0}.from[0]"
PORT = f"{I0}.ports[0]"


def _from(**peer: Any) -> dict[str, Any]:
    return np(ingress=[{"from": [peer]}])


def _port(**port: Any) -> dict[str, Any]:
    return np(ingress=[{"ports": [port]}])


def _selects(**requirement: Any) -> dict[str, Any]:
    return np(podSelector={"matchExpressions": [requirement]})


def _egress(**fields: Any) -> dict[str, Any]:
    return cnp(egress=[{"action": "Accept", "to": [{"namespaces": {}}], **fields}])


def _to(**peer: Any) -> dict[str, Any]:
    return _egress(to=[peer])


def _protocol(**protocol: Any) -> dict[str, Any]:
    return _egress(protocols=[protocol])


E0 = "spec.egress[0]"
TO = f"{E0}.to[0]"
PROTOCOL = f"{E0}.protocols[0]"
TCP = f"{PROTOCOL}.tcp.destinationPort"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**np(), "kind": "NetworkPolicyX"}, "kind"),
    ({**np(), "apiVersion": "networking.k8s.io/v1beta1"}, "kind"),
    ({**cnp(), "apiVersion": "policy.networking.k8s.io/v1alpha1"}, "kind"),
    ({**np(), "specs": {}}, "specs"),
    (np({"name": ""}), "metadata.name"),
    (np({"name": "No Good"}), "metadata.name"),
    (np({"namespace": "a.b"}), "metadata.namespace"),
    (np({"labels": {"a": 1}}), "metadata.labels.a"),
    (np({"labels": {"a": "b c"}}), "metadata.labels.a"),
    ({**np(), "spec": []}, "spec"),
    (np(podselector={}), "spec.podselector"),
    (np(podSelector=[]), "spec.podSelector"),
    (np(podSelector={"matchLabel": {}}), "spec.podSelector.matchLabel"),
    (np(podSelector={"matchLabels": {"a": 1}}), "spec.podSelector.matchLabels.a"),
    (np(podSelector={"matchLabels": {"a": "b c"}}), "spec.podSelector.matchLabels.a"),
    (np(podSelector={"matchLabels": {"-": "b"}}), "spec.podSelector.matchLabels"),
    (_selects(key="a", operator="Is"), "spec.podSelector.matchExpressions[0].operator"),
    (_selects(operator="Exists"), "spec.podSelector.matchExpressions[0].key"),
    (_selects(key="a", operator="In"), "spec.podSelector.matchExpressions[0].values"),
    (
        _selects(key="a", operator="Exists", values=["b"]),
        "spec.podSelector.matchExpressions[0].values",
    ),
    (np(policyTypes=["ingress"]), "spec.policyTypes[0]"),
    (np(policyTypes="Ingress"), "spec.policyTypes"),
    (np(policyTypes=["Ingress"] * 3), "spec.policyTypes"),
    (np(ingress={}), "spec.ingress"),
    (np(ingress=[[]]), I0),
    (np(ingress=[{"to": []}]), f"{I0}.to"),
    (np(egress=[{"from": []}]), f"{E0}.from"),
    (_from(), PEER),
    (_from(podSelector=None), PEER),
    (_from(services={}), f"{PEER}.services"),
    (_from(ipBlock={"cidr": "10.0.0.0/8"}, podSelector={}), PEER),
    (_from(ipBlock={}), f"{PEER}.ipBlock.cidr"),
    (_from(ipBlock={"cidr": "10.0.0.1"}), f"{PEER}.ipBlock.cidr"),
    (_from(ipBlock={"cidr": "010.0.0.0/8"}), f"{PEER}.ipBlock.cidr"),
    (_from(ipBlock={"cidr": "10.0.0.0/255.0.0.0"}), f"{PEER}.ipBlock.cidr"),
    (_from(ipBlock={"cidr": "fe80::1%a/64"}), f"{PEER}.ipBlock.cidr"),
    (_from(ipBlock={"cidr": "10.0.0.0/8", "excepts": []}), f"{PEER}.ipBlock.excepts"),
    (_from(ipBlock={"cidr": "10.0.0.0/8", "except": ["x"]}), f"{PEER}.ipBlock.except[0]"),
    (
        _from(ipBlock={"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.0.0.0/8"]}),
        f"{PEER}.ipBlock.except[1]",
    ),
    (
        _from(ipBlock={"cidr": "10.0.0.0/8", "except": ["192.0.2.0/24"]}),
        f"{PEER}.ipBlock.except[0]",
    ),
    (_port(protocol="tcp"), f"{PORT}.protocol"),
    (_port(protocol="ICMP"), f"{PORT}.protocol"),
    (_port(port=0), f"{PORT}.port"),
    (_port(port=True), f"{PORT}.port"),
    (_port(port=80.5), f"{PORT}.port"),
    (_port(port="80"), f"{PORT}.port"),
    (_port(port="Http"), f"{PORT}.port"),
    (_port(port="a-name-of-16-chr"), f"{PORT}.port"),
    (_port(endPort=80), f"{PORT}.endPort"),
    (_port(port="http", endPort=80), f"{PORT}.endPort"),
    (_port(port=80, endPort=79), f"{PORT}.endPort"),
    (_port(port=80, endPort=65536), f"{PORT}.endPort"),
    (_port(name="http"), f"{PORT}.name"),
    (cnp(tier="admin"), "spec.tier"),
    (cnp(tier=None), "spec.tier"),
    (cnp(priority=None), "spec.priority"),
    (cnp(priority=1001), "spec.priority"),
    (cnp(priority=-1), "spec.priority"),
    (cnp(priority="7"), "spec.priority"),
    (cnp(subject=None), "spec.subject"),
    (cnp(subject={}), "spec.subject"),
    (cnp(subject={"namespaces": {}, "pods": {"podSelector": {}}}), "spec.subject"),
    (cnp(subject={"pods": {}}), "spec.subject.pods.podSelector"),
    (cnp(subject={"nodes": {}}), "spec.subject.nodes"),
    (cnp(policyTypes=[]), "spec.policyTypes"),
    (cnp(egress=[{"action": "Accept", "to": [{"namespaces": {}}]}] * 26), "spec.egress"),
    (_egress(action="Allow"), f"{E0}.action"),
    (_egress(action=None), f"{E0}.action"),
    (_egress(name="x" * 101), f"{E0}.name"),
    (_egress(to=[]), f"{E0}.to"),
    (_egress(to=None), f"{E0}.to"),
    (_egress(to=[{"namespaces": {}}] * 26), f"{E0}.to"),
    (_egress(ports=[]), f"{E0}.ports"),
    (_to(), TO),
    (_to(services={}), f"{TO}.services"),
    (_to(namespaces={}, nodes={}), TO),
    (_to(pods={"namespaceSelector": {}}), f"{TO}.pods.podSelector"),
    (_to(networks=[]), f"{TO}.networks"),
    (_to(networks=["10.0.0.0"]), f"{TO}.networks[0]"),
    (_to(networks=["10.0.0.0/8", "10.0.0.0/8"]), f"{TO}.networks"),
    (_to(networks=[f"10.0.{i}.0/24" for i in range(26)]), f"{TO}.networks"),
    (_to(domainNames=["com"]), f"{TO}.domainNames[0]"),
    (_to(domainNames=["*.com"]), f"{TO}.domainNames[0]"),
    (_to(domainNames=["a.*.com"]), f"{TO}.domainNames[0]"),
    (_to(domainNames=["a.b", "A.b."]), f"{TO}.domainNames"),
    (_egress(action="Deny", to=[{"domainNames": ["a.b"]}]), f"{E0}.to"),
    (_egress(action="Pass", to=[{"domainNames": ["a.b"]}]), f"{E0}.to"),
    (cnp(ingress=[{"action": "Deny", "from": [{"networks": ["::/0"]}]}]), "spec.ingress[0].from"),
    (cnp(ingress=[{"action": "Deny", "from": [{"nodes": {}}]}]), "spec.ingress[0].from"),
    (_egress(protocols=[]), f"{E0}.protocols"),
    (_protocol(), PROTOCOL),
    (_protocol(icmp={}), f"{PROTOCOL}.icmp"),
    (_protocol(tcp={}), f"{PROTOCOL}.tcp"),
    (_protocol(tcp={"destinationPort": {}}), TCP),
    (_protocol(tcp={"destinationPort": {"number": 0}}), f"{TCP}.number"),
    (_protocol(tcp={"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}}), TCP),
    (_protocol(tcp={"destinationPort": {"range": {"start": 2, "end": 2}}}), f"{TCP}.range"),
    (_protocol(tcp={"destinationPort": {"range": {"start": 2}}}), f"{TCP}.range.end"),
    (_protocol(destinationNamedPort="80"), f"{PROTOCOL}.destinationNamedPort"),
    (_protocol(destinationNamedPort=""), f"{PROTOCOL}.destinationNamedPort"),
    (
        _egress(to=[{"networks": ["::/0"]}], protocols=[{"destinationNamedPort": "http"}]),
        f"{E0}.protocols",
    ),
    (
        _egress(to=[{"nodes": {}}], protocols=[{"destinationNamedPort": "http"}]),
        f"{E0}.protocols",
    ),
]


@pytest.mark.parametrize(("manifest", "where"), REFUSED)
def test_what_an_api_server_refuses_is_refused_by_its_path(
    manifest: dict[str, Any], where: str
) -> None:
    with pytest.raises(PlaitError) as caught:
        to_policy(manifest)
    assert caught.value.where == where or caught.value.where.startswith(f"{where}["), (
        caught.value.render()
    )
    assert caught.value.code in ("PLAIT-API-002", "PLAIT-NAME-001")


# ClusterNetworkPolicy


def test_a_cluster_network_policy_is_of_the_tier_that_it_names() -> None:
    policy = to_policy(cnp())
    assert policy.metadata.name == "kcnp.base"
    assert (policy.spec.tier, policy.spec.priority, policy.spec.isolate) == ("admin", 7, None)
    assert not policy.spec.isolates("ingress")
    assert policy.spec.origin == Origin(kind="ClusterNetworkPolicy", name="base")
    assert to_policy(cnp(tier="Baseline", priority=0)).spec.tier == "baseline"


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"namespaces": {}}, Subject(namespaces=ALL)),
        ({"namespaces": WEB, "pods": None}, Subject(namespaces=IS_WEB)),
        ({"pods": {"podSelector": WEB}}, Subject(namespaces=ALL, endpoints=IS_WEB)),
        (
            {"pods": {"namespaceSelector": WEB, "podSelector": {}}},
            Subject(namespaces=IS_WEB, endpoints=ALL),
        ),
    ],
)
def test_subjects(subject: dict[str, Any], expected: Subject) -> None:
    assert to_policy(cnp(subject=subject)).spec.subject == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ({"namespaces": {}}, (Peer(namespaces=ALL),)),
        ({"pods": {"podSelector": {}}}, (Peer(namespaces=ALL, endpoints=ALL),)),
        (
            {"pods": {"namespaceSelector": WEB, "podSelector": WEB}},
            (Peer(namespaces=IS_WEB, endpoints=IS_WEB),),
        ),
        ({"nodes": {}}, (Peer(nodes=ALL),)),
        ({"nodes": WEB}, (Peer(nodes=IS_WEB),)),
        ({"networks": ["10.0.0.0/8", "::/0"]}, (Peer(cidr="10.0.0.0/8"), Peer(cidr="::/0"))),
        (
            {"domainNames": ["Kubernetes.io.", "*.x.io"]},
            (Peer(domains=("kubernetes.io", "*.x.io")),),
        ),
    ],
)
def test_peers_of_a_cluster(peer: dict[str, Any], expected: tuple[Peer, ...]) -> None:
    assert crule(to=[peer]).peers == expected


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({"tcp": {"destinationPort": {"number": 80}}}, Port(protocol="TCP", port=80)),
        (
            {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
            Port(protocol="UDP", port=1, end_port=9),
        ),
        ({"sctp": {"destinationPort": {"number": 9}}}, Port(protocol="SCTP", port=9)),
        ({"destinationNamedPort": "http"}, Port(port="http")),
    ],
)
def test_protocols(protocol: dict[str, Any], expected: Port) -> None:
    assert crule(protocols=[protocol]).ports == (expected,)
    assert crule("ingress", protocols=[protocol]).ports == (expected,)


def test_rules_keep_action_name_and_order() -> None:
    given = [
        {"action": action, "name": f"to {action}", "from": [{"namespaces": {}}]}
        for action in ("Deny", "Pass", "Accept")
    ]
    rules = to_policy(cnp(ingress=given)).spec.ingress
    assert [(r.action, r.name, r.ports) for r in rules] == [
        ("Deny", "to Deny", None),
        ("Pass", "to Pass", None),
        ("Accept", "to Accept", None),
    ]


# What a newer version may have


NEW: list[dict[str, Any]] = [
    {"to": [{"services": {}}]},
    {"to": [{}]},
    {"to": [{"namespaces": {}}, {"services": {}}]},
    {"protocols": [{"http": {}}]},
    {"protocols": [{"tcp": {"sourcePort": {}}}]},
    {"schedule": "at night"},
]


@pytest.mark.parametrize("fields", NEW)
def test_a_cluster_rule_that_is_not_understood_fails_closed(fields: dict[str, Any]) -> None:
    found = {}
    for action in ("Accept", "Deny", "Pass"):
        given = {"action": action, "name": "n", "to": [{"namespaces": {}}], **fields}
        found[action] = to_policy(cnp(egress=[given]), strict=False).spec.egress
    denied = (Rule(action="Deny", name="n"),)
    assert found == {"Accept": (), "Deny": denied, "Pass": denied}


@pytest.mark.parametrize(
    "fields", [{"from": [{"services": {}}, {"podSelector": {}}]}, {"from": [{}]}, {"when": "now"}]
)
def test_a_rule_that_is_not_understood_accepts_nothing(fields: dict[str, Any]) -> None:
    spec = to_policy(np(ingress=[fields, {}], newer=1), strict=False).spec
    assert (spec.isolate, spec.ingress) == (("ingress",), (Rule(),))


# All of the oracle


def manifests() -> Iterator[dict[str, Any]]:
    for family in (4, 6):
        for line in (ORACLE / f"networkpolicy_v{family}.jsonl").read_text().splitlines():
            for step in json.loads(line)["steps"]:
                for change in step["changes"] or ():
                    if change.get("policy"):
                        yield {**{k: np()[k] for k in ("apiVersion", "kind")}, **change["policy"]}
    for path in sorted((ORACLE / "clusternetworkpolicy").glob("[0-9]*-CNP*.yaml")):
        test = yaml.load(path.read_text(), yaml.CSafeLoader)
        yield from test["initial_policies"]
        for sub in test["subtests"]:
            yield from (e["update_cnp"] for e in sub["events"] if "update_cnp" in e)


@needs_oracle
def test_every_policy_of_the_oracle_is_taken_and_valid() -> None:
    count = 0
    for manifest in manifests():
        policy: Policy = to_policy(manifest)
        assert validate.policy(policy.spec) == policy.spec
        count += 1
    assert count > 500
