"""What an object of Kubernetes becomes, field by field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.kubernetes import kinds, objects
from plait.kubernetes.hosts import Hosts
from plait.kubernetes.policies import cluster_network_policy, network_policy
from plait.kubernetes.replica import Change
from plait.kubernetes.services import endpoint_slice, service
from plait.kubernetes.translate import (
    ROWS,
    Row,
    Surroundings,
    Translated,
    target_key,
    translate,
)
from plait.kubernetes.wanted import Wanted
from plait.model.objects import Metadata, NamedPort, Node, NodeSpec
from plait.model.services import ServicePort, ServiceSpec, SliceEndpoint, SlicePort

AROUND = Surroundings("plait", "plait.local", lambda name: {"k1": "p1"}.get(name, name))
ROW_OF = {row.source.name: row for row in ROWS}


def read(kind: type[Any], **fields: Any) -> Any:
    meta = {"name": "x", "namespace": "shop", "uid": "u1", **fields.pop("metadata", {})}
    return msgspec.convert({"metadata": meta, **fields}, kind)


def made(kind: str, **fields: Any) -> Any:
    row = ROW_OF[kind]
    result, problem = translate(row, read(row.source.type, **fields), AROUND)
    assert not problem
    return result


# Nodes


@pytest.mark.parametrize(
    ("fields", "leaving"),
    [
        ({}, False),
        ({"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}}, False),
        (
            {
                "spec": {
                    "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
                }
            },
            True,
        ),
        ({"metadata": {"deletionTimestamp": "2026-11-23T00:00:00Z"}}, True),
    ],
)
def test_a_node_that_is_about_to_go_says_so(fields: dict[str, Any], leaving: bool) -> None:
    found = msgspec.convert(fields, objects.Node)
    labels = {**found.metadata.labels, "zone": "a"}
    meta = msgspec.structs.replace(found.metadata, name="k1", labels=labels)
    made, _ = translate(ROW_OF["Node"], msgspec.structs.replace(found, metadata=meta), AROUND)
    assert made is not None
    assert made.metadata.labels == {"zone": "a", **({"plait/leaving": ""} if leaving else {})}


# Pods


def test_a_pod_with_all_that_matters() -> None:
    ports = [
        {"name": "http", "containerPort": 80},
        {"containerPort": 81},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "odd", "containerPort": 9, "protocol": "QUIC"},
    ]
    pod = made(
        "Pod",
        metadata={"labels": {"app": "web"}},
        spec={
            "nodeName": "k1",
            "hostname": "web-0",
            "subdomain": "web",
            "containers": [{"ports": ports}, {"ports": [{"name": "http", "containerPort": 8080}]}],
            "initContainers": [
                {"ports": [{"name": "init", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]},
            ],
        },
        status={
            "phase": "Running",
            "podIP": "10.112.0.9",
            "podIPs": [{"ip": "10.112.0.9"}, {"ip": "fd00::9"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    )
    assert pod.metadata.labels == {"app": "web"}
    assert pod.spec.uid == "u1"
    assert pod.spec.node == "p1"
    assert (pod.spec.hostname, pod.spec.subdomain) == ("web-0", "web")
    assert pod.spec.named_ports == (
        NamedPort(name="http", protocol="tcp", port=80),
        NamedPort(name="dns", protocol="udp", port=53),
        NamedPort(name="side", protocol="tcp", port=2),
    )
    assert pod.spec.addresses == ("10.112.0.9", "fd00::9")
    assert (pod.spec.ready, pod.spec.finished, pod.spec.host_network) == (True, False, False)
    assert not pod.spec.terminating


def test_a_pod_that_was_deleted_terminates_and_says_itself_whether_it_answers() -> None:
    pod = made(
        "Pod",
        metadata={"deletionTimestamp": "2026-11-23T00:00:00Z"},
        status={"conditions": [{"type": "Ready", "status": "True"}]},
    )
    assert (pod.spec.ready, pod.spec.terminating) == (True, True)


@pytest.mark.parametrize(
    ("phase", "finished"),
    [("Pending", False), ("Running", False), ("Succeeded", True), ("Failed", True), ("", False)],
)
def test_a_pod_that_ended_is_finished(phase: str, finished: bool) -> None:
    assert made("Pod", status={"phase": phase}).spec.finished is finished


def test_a_static_pod_has_the_uid_that_its_runtime_knows() -> None:
    mirror = {"annotations": {"kubernetes.io/config.mirror": "static-uid"}}
    assert made("Pod", metadata=mirror).spec.uid == "static-uid"


# Services


def spec_of(**fields: Any) -> ServiceSpec:
    status = fields.pop("status", {})
    labels = {"labels": fields.pop("labels", {})}
    read_in = read(objects.Service, metadata=labels, spec=fields, status=status)
    found = service(read_in, "plait", ("198.51.100.0/28", "fd00:1b::/64"))
    assert found is not None
    return found.spec


def test_a_service_with_all_that_matters() -> None:
    spec = spec_of(
        type="LoadBalancer",
        clusterIP="10.96.0.1",
        clusterIPs=["10.96.0.1", "FD00::0:1"],
        ipFamilies=["IPv4", "IPv6"],
        ports=[
            {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
        ],
        externalIPs=["192.0.2.9"],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        internalTrafficPolicy="Local",
        externalTrafficPolicy="Local",
        healthCheckNodePort=31000,
        loadBalancerSourceRanges=["192.0.2.1/24", " 192.0.2.0/24 "],
        loadBalancerIP="198.51.100.1",
        allocateLoadBalancerNodePorts=False,
        publishNotReadyAddresses=True,
        trafficDistribution="PreferSameNode",
        selector={"app": "web"},
    )
    assert spec.type == "LoadBalancer"
    assert spec.selector is None
    assert spec.addresses == ("10.96.0.1", "fd00::1")
    assert spec.families == (4, 6)
    assert spec.ports == (
        ServicePort(name="http", port=80, target_port="http", node_port=30080),
        ServicePort(name="dns", port=53, protocol="UDP", target_port=5353),
    )
    assert spec.external_addresses == ("192.0.2.9",)
    assert spec.load_balancer_addresses == ("198.51.100.1",)
    assert spec.affinity_seconds == 60
    assert (spec.internal_traffic, spec.external_traffic) == ("Local", "Local")
    assert spec.health_check_node_port == 31000
    assert spec.source_ranges == ("192.0.2.0/24",)
    assert not spec.node_ports
    assert spec.publish_not_ready
    assert spec.prefer == "node"


def test_headless_affinity_and_alias() -> None:
    assert spec_of(clusterIP="None").headless
    assert spec_of(clusterIP="None").addresses == ()
    assert spec_of(clusterIP="10.96.0.1", sessionAffinity="ClientIP").affinity_seconds == 10800
    assert spec_of(clusterIP="10.96.0.1", trafficDistribution="PreferClose").prefer == "site"
    # Kubernetes 1.20 says no families. Another Service of the same name may have another one.
    assert spec_of(clusterIP="FD00::1").families == (6,)
    assert spec_of(clusterIP="None").families == ()
    alias = spec_of(type="ExternalName", externalName="db.example.", ports=[{"port": 1}])
    assert (alias.type, alias.external_name, alias.ports) == ("ExternalName", "db.example", ())


PROXY = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}}
VIP = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}
NODE_PORT = [{"port": 80, "nodePort": 30080}]


@pytest.mark.parametrize(
    ("fields", "kind", "addresses"),
    [
        ({}, "LoadBalancer", ()),
        ({"status": VIP}, "LoadBalancer", ("192.0.2.1",)),
        ({"status": PROXY, "ports": NODE_PORT}, "NodePort", ()),
        ({"status": PROXY, "ports": [{"port": 80}]}, "ClusterIP", ()),
        ({"loadBalancerClass": "c.example/lb", "ports": NODE_PORT}, "NodePort", ()),
        ({"loadBalancerClass": "c.example/lb", "status": VIP}, "LoadBalancer", ("192.0.2.1",)),
        ({"loadBalancerClass": "plait.dev/load-balancer"}, "LoadBalancer", ()),
        ({"loadBalancerIP": "198.51.100.3"}, "LoadBalancer", ("198.51.100.3",)),
        # Anybody may write it: an address that Plait does not give is none of theirs to take.
        ({"loadBalancerIP": "8.8.8.8"}, "LoadBalancer", ()),
        ({"loadBalancerIP": "nonsense"}, "LoadBalancer", ()),
        ({"loadBalancerIP": "8.8.8.8", "status": VIP}, "LoadBalancer", ("192.0.2.1",)),
    ],
)
def test_who_balances_decides_what_is_left_for_us(
    fields: dict[str, Any], kind: str, addresses: tuple[str, ...]
) -> None:
    spec = spec_of(type="LoadBalancer", clusterIP="10.96.0.1", **fields)
    assert (spec.type, spec.load_balancer_addresses) == (kind, addresses)


@pytest.mark.parametrize("listed", [[], [{"hostname": "lb.example"}], [{"ip": "203.0.113.1"}]])
def test_a_balancer_outside_can_ask_whether_a_node_has_backends(listed: list[Any]) -> None:
    spec = spec_of(
        type="LoadBalancer",
        clusterIP="10.96.0.1",
        loadBalancerClass="c.example/lb",
        externalTrafficPolicy="Local",
        healthCheckNodePort=31000,
        ports=NODE_PORT,
        status={"loadBalancer": {"ingress": listed}},
    )
    assert spec.health_check_node_port == 31000


@pytest.mark.parametrize(
    ("label", "address", "ours"),
    [
        ("service.kubernetes.io/service-proxy-name", "10.96.0.1", False),
        ("service.kubernetes.io/headless", "10.96.0.1", False),
        ("service.kubernetes.io/headless", "None", True),
    ],
)
def test_services_that_kube_proxy_leaves_to_others(label: str, address: str, ours: bool) -> None:
    found = read(objects.Service, metadata={"labels": {label: ""}}, spec={"clusterIP": address})
    assert (service(found, "plait") is not None) is ours


def test_what_cannot_be_read_is_a_problem_and_not_the_end() -> None:
    found = read(objects.Service, spec={"clusterIP": "10.96.0.1", "externalIPs": ["nonsense"]})
    made, problem = translate(ROW_OF["Service"], found, AROUND)
    assert made is None
    assert problem.startswith("spec.externalIPs")


def test_a_slice_with_all_that_matters() -> None:
    found = read(
        objects.EndpointSlice,
        metadata={"labels": {objects.SERVICE_NAME_LABEL: "web", "other": "x"}},
        addressType="IPv4",
        ports=[{"name": "http", "port": 8080}, {"name": "all", "port": None}],
        endpoints=[
            {
                "addresses": ["10.112.0.9"],
                "hostname": "web-0",
                "nodeName": "k1",
                "zone": "z1",
                "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "shop"},
                "conditions": {"ready": False, "serving": True, "terminating": True},
                "hints": {"forZones": [{"name": "z2"}], "forNodes": [{"name": "k1"}]},
            },
            {"addresses": ["10.112.0.10"], "conditions": {"ready": None}},
        ],
    )
    made = endpoint_slice(found, AROUND.host)
    assert made is not None
    assert made.metadata.labels == {}
    assert made.spec.service == "web"
    assert made.spec.ports == (SlicePort(name="http", port=8080),)
    assert made.spec.endpoints == (
        SliceEndpoint(
            addresses=("10.112.0.9",),
            hostname="web-0",
            pod="web-0",
            node="p1",
            site="z1",
            ready=False,
            serving=True,
            terminating=True,
            for_nodes=("p1",),
            for_sites=("z2",),
        ),
        SliceEndpoint(addresses=("10.112.0.10",)),
    )


@pytest.mark.parametrize(
    ("labels", "kind"), [({}, "IPv4"), ({objects.SERVICE_NAME_LABEL: "web"}, "FQDN")]
)
def test_slices_that_are_nobodys_or_of_names(labels: dict[str, str], kind: str) -> None:
    found = read(objects.EndpointSlice, metadata={"labels": labels}, addressType=kind)
    assert endpoint_slice(found, AROUND.host) is None


# Policies


def test_a_policy_of_a_newer_version_fails_closed_rule_by_rule() -> None:
    newer = {"from": [{"planetSelector": {}}]}
    spec = {"podSelector": {}, "ingress": [newer, {}], "policyTypes": ["Ingress"]}
    policy, problem = network_policy(read(objects.NetworkPolicy, spec=spec), "plait.local")
    assert policy is not None
    assert not problem
    assert len(policy.spec.ingress) == 1


@pytest.mark.parametrize(
    ("spec", "selects", "closes"),
    [
        (
            {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"ports": [{"port": 0}]}]},
            {"a": "b"},
            ("ingress", "egress"),
        ),
        (
            {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 0}]}]},
            {},
            ("egress",),
        ),
        (
            {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Sideways"]},
            {"a": "b"},
            ("ingress", "egress"),
        ),
        (
            {"podSelector": {"matchLabels": {"-": ""}}, "policyTypes": ["Ingress"]},
            {},
            ("ingress", "egress"),
        ),
    ],
)
def test_a_policy_that_cannot_be_read_closes_what_it_selects(
    spec: dict[str, Any], selects: dict[str, str], closes: tuple[str, ...]
) -> None:
    policy, problem = network_policy(read(objects.NetworkPolicy, spec=spec), "plait.local")
    assert problem
    assert policy is not None
    assert policy.spec.isolate == closes
    assert (policy.spec.ingress, policy.spec.egress) == ((), ())
    endpoints = policy.spec.subject.endpoints
    assert (endpoints.match_labels if endpoints else {}) == selects


@pytest.mark.parametrize(
    ("spec", "tier", "denies"),
    [
        ({"tier": "Baseline", "priority": 5000, "ingress": [{}]}, "admin", ("ingress",)),
        ({"tier": "Sideways", "priority": 5}, "admin", ("ingress", "egress")),
        ({"tier": "Baseline", "priority": 5, "egress": [{"action": "Maybe"}]}, "baseline", None),
    ],
)
def test_a_cluster_policy_that_cannot_be_read_denies_to_its_subject(
    spec: dict[str, Any], tier: str, denies: tuple[str, ...] | None
) -> None:
    whole = {"subject": {"namespaces": {"matchLabels": {"a": "b"}}}, **spec}
    found = read(objects.ClusterNetworkPolicy, metadata={"namespace": ""}, spec=whole)
    policy, problem = cluster_network_policy(found, "plait.local")
    assert "denies everything" in problem
    assert policy is not None
    assert policy.spec.tier == tier
    for direction in denies or ("egress",):
        (rule,) = policy.spec.rules(direction)  # type: ignore[arg-type]
        assert (rule.action, rule.peers) == ("Deny", None)


def test_a_cluster_policy_for_nobody_knows_whom_has_no_effect_and_is_told() -> None:
    spec = {"tier": "Admin", "priority": 1, "subject": {"planets": {}}}
    policy, problem = cluster_network_policy(read(objects.ClusterNetworkPolicy, spec=spec), "")
    assert policy is None
    assert "no effect" in problem


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["podSelector", "from", "to", "ports", "port", "ipBlock", "cidr", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(["NetworkPolicy", "ClusterNetworkPolicy"]),
    st.dictionaries(
        st.sampled_from(
            ["podSelector", "policyTypes", "ingress", "egress", "tier", "priority", "subject"]
        ),
        junk,
    ),
)
def test_no_policy_whatever_stands_in_it_ends_the_connector(kind: str, spec: Any) -> None:
    row = ROW_OF[kind]
    policy, problem = translate(row, read(row.source.type, spec=spec), AROUND)
    assert policy is not None or problem


# Keys and nodes


def test_every_kind_has_its_key() -> None:
    keys = [target_key(row, "shop", "x", AROUND) for row in ROWS]
    assert keys == [
        "/namespaces/x",
        "/nodes/x",
        "/policies/knp.shop.x",
        "/policies/kcnp.shop.x",
        "/services/shop/x",
        "/endpointslices/shop/x",
        "/pods/shop/x",
    ]
    assert len(ROWS) == len({row.source.name for row in ROWS})
    assert kinds.NODES.name == "Node"


def their(*addresses: str) -> objects.Node:
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return msgspec.convert({"status": {"addresses": listed}}, objects.Node)


def our(*addresses: str) -> Node:
    return Node(metadata=Metadata(name="x"), spec=NodeSpec(addresses=addresses))


def test_nodes_pair_by_name_before_they_pair_by_address() -> None:
    hosts = Hosts()
    hosts.put_ours("h1", our("192.0.2.1/24"))
    hosts.put_ours("h2", our("192.0.2.2/24"))
    # By its name it went before.
    assert not hosts.put_theirs("h1", their("192.0.2.2"))
    assert hosts.pairs == {"h1": "h1"}
    assert hosts.put_theirs("k2", their("2001:db8::2", "192.0.2.2")) == {"k2"}
    assert hosts.pairs == {"h1": "h1", "k2": "h2"}
    assert (hosts.ours("k2"), hosts.theirs("h2")) == ("h2", "k2")
    assert (hosts.ours("k3"), hosts.theirs("h3")) == ("k3", "")
    assert not hosts.put_theirs("k3", their("192.0.2.2"))
    assert hosts.put_theirs("k2", None) == {"k2", "k3"}
    assert hosts.pairs == {"h1": "h1", "k3": "h2"}
    assert hosts.put_ours("h2", None) == {"k3"}
    assert not hosts.put_ours("h1", our("192.0.2.1/24"))


def test_a_node_that_joins_has_only_what_names_it_translated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = Wanted(network="plait", domain="plait.local")
    for number, name in enumerate(("k1", "k2", "k3"), 1):
        meta = objects.Metadata(name=name)
        node = msgspec.structs.replace(their(f"192.0.2.{number}"), metadata=meta)
        wanted.take("Node", [Change(("", name), None, node)])
        pod = read(objects.Pod, metadata={"name": name}, spec={"nodeName": name})
        wanted.take("Pod", [Change(("shop", name), None, pod)])
        hints = {"forNodes": [{"name": name}]}
        endpoint = {"addresses": ["10.0.0.1"], "nodeName": "k3", "hints": hints}
        label = {"kubernetes.io/service-name": "web"}
        found = read(
            objects.EndpointSlice,
            metadata={"name": name, "labels": label},
            addressType="IPv4",
            endpoints=[endpoint],
        )
        wanted.take("EndpointSlice", [Change(("shop", name), None, found)])
    again: list[str] = []

    def count(row: Row, found: Any, around: Surroundings) -> Translated:
        again.append(f"{row.source.name} {found.metadata.name}")
        return translate(row, found, around)

    monkeypatch.setattr("plait.kubernetes.wanted.translate", count)
    assert not wanted.take_host("k1", our("192.0.2.1/24"))
    assert again == []
    assert wanted.take_host("p2", our("192.0.2.2/24")) == {
        "/nodes/k2",
        "/nodes/p2",
        "/pods/shop/k2",
        "/endpointslices/shop/k2",
    }
    assert again == ["Node k2", "EndpointSlice k2", "Pod k2"]
