"""Kubernetes' manifests of Services and EndpointSlices, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from plait.model.errors import PlaitError
from plait.model.selectors import Selector
from plait.model.services import (
    EndpointSliceSpec,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.services.kubernetes import SERVICE_NAME, to_object

WEB = {SERVICE_NAME: "web"}


def service(**spec: Any) -> ServiceSpec:
    meta = {"name": "web", "namespace": "shop"}
    made = to_object({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    assert isinstance(made.spec, ServiceSpec)
    return made.spec


def sliced(version: str = "v1", labels: Any = WEB, **fields: Any) -> EndpointSliceSpec:
    made = to_object(
        {
            "apiVersion": f"discovery.k8s.io/{version}",
            "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": labels},
            "addressType": "IPv4",
            **fields,
        }
    )
    assert isinstance(made.spec, EndpointSliceSpec)
    return made.spec


def endpoint(version: str = "v1", **fields: Any) -> SliceEndpoint:
    (found,) = sliced(version, endpoints=[{"addresses": ["10.0.0.1"], **fields}]).endpoints
    return found


def test_a_service_with_all_that_matters() -> None:
    spec = service(
        type="LoadBalancer",
        clusterIP="10.96.0.1",
        clusterIPs=["10.96.0.1", "fd96::1"],
        ipFamilies=["IPv4", "IPv6"],
        selector={"app": "web"},
        ports=[
            {"name": "a", "port": 80, "targetPort": "http", "nodePort": 30080},
            {"name": "b", "port": 81, "targetPort": "8080", "protocol": "UDP"},
        ],
        externalIPs=["192.0.2.1"],
        loadBalancerIP="203.0.113.1",
        loadBalancerSourceRanges=["192.0.2.0/24"],
        allocateLoadBalancerNodePorts=False,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}},
        internalTrafficPolicy="Local",
        externalTrafficPolicy="Local",
        healthCheckNodePort=31000,
        publishNotReadyAddresses=True,
        trafficDistribution="PreferClose",
    )
    assert spec == ServiceSpec(
        type="LoadBalancer",
        ports=(
            ServicePort(name="a", port=80, target_port="http", node_port=30080),
            ServicePort(name="b", port=81, target_port=8080, protocol="UDP"),
        ),
        selector=Selector(match_labels={"app": "web"}),
        addresses=("10.96.0.1", "fd96::1"),
        families=(4, 6),
        external_addresses=("192.0.2.1",),
        load_balancer_addresses=("203.0.113.1",),
        node_ports=False,
        affinity_seconds=5,
        internal_traffic="Local",
        external_traffic="Local",
        source_ranges=("192.0.2.0/24",),
        health_check_node_port=31000,
        prefer="site",
        publish_not_ready=True,
    )


def test_what_only_a_load_balancer_has_is_passed_over_elsewhere() -> None:
    spec = service(ports=[{"port": 80}], loadBalancerIP="203.0.113.1")
    assert spec == ServiceSpec(ports=(ServicePort(port=80),))
    spec = service(ports=[{"port": 80}], loadBalancerSourceRanges=["192.0.2.0/24"])
    assert spec == ServiceSpec(ports=(ServicePort(port=80),))


def test_headless_alias_and_affinity() -> None:
    assert service(clusterIP="None", clusterIPs=["None"]) == ServiceSpec(headless=True)
    alias = service(type="ExternalName", externalName="db.example.", ports=[{"port": 1}])
    assert alias == ServiceSpec(type="ExternalName", external_name="db.example")
    for config in (None, {}, {"clientIP": None}, {"clientIP": {"timeoutSeconds": None}}):
        spec = service(sessionAffinity="ClientIP", sessionAffinityConfig=config)
        assert spec.affinity_seconds == 10800
    assert service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}).affinity_seconds == 0


def test_a_slice_with_all_that_matters() -> None:
    found = sliced(
        ports=[{"name": "http", "port": 8080}, {"port": None}, {"port": 53, "protocol": "UDP"}],
        endpoints=[
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
                "hostname": "web-0",
                "nodeName": "h1",
                "zone": "a",
                "targetRef": {"kind": "Pod", "name": "web-0"},
                "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "h1"}]},
            }
        ],
    )
    assert found == EndpointSliceSpec(
        service="web",
        ports=(SlicePort(name="http", port=8080), SlicePort(port=53, protocol="UDP")),
        endpoints=(
            SliceEndpoint(
                addresses=("10.0.0.1",),
                hostname="web-0",
                pod="web-0",
                node="h1",
                site="a",
                ready=False,
                serving=True,
                terminating=True,
                for_nodes=("h1",),
                for_sites=("a",),
            ),
        ),
    )


def test_the_beta_says_nodes_and_zones_by_labels() -> None:
    topology = {"kubernetes.io/hostname": "h1", "topology.kubernetes.io/zone": "a"}
    found = endpoint("v1beta1", topology=topology)
    assert (found.node, found.site) == ("h1", "a")


@pytest.mark.parametrize(
    ("conditions", "ready", "serving"),
    [
        ({}, True, True),
        ({"ready": None, "serving": None}, True, True),
        ({"ready": False}, False, False),
        ({"ready": False, "serving": True}, False, True),
    ],
)
def test_what_is_not_said_of_an_endpoint(
    conditions: dict[str, bool | None], ready: bool, serving: bool
) -> None:
    found = endpoint(conditions=conditions, targetRef={"kind": "VirtualMachine", "name": "x"})
    assert (found.ready, found.serving, found.terminating) == (ready, serving, False)
    assert found.pod == ""


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"addressType": "FQDN"}, "addressType"), ({"labels": None}, "metadata.labels")],
)
def test_slices_that_mean_nothing_here_are_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(PlaitError) as refused:
        sliced(**fields)
    assert refused.value.where == where
