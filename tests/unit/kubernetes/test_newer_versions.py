"""What API servers of 1.29 to 1.34 say and 1.20 does not: what changes behaviour counts, and what
means nothing to a network is passed over."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.kubernetes.conftest import Stage

from plait.kubernetes import kinds
from plait.model.objects import EndpointSlice, NamedPort, Node, Pod, Policy, Service

LABELS = {"kubernetes.io/service-name": "web"}


async def test_a_pod_with_sidecars_host_addresses_and_all_else_that_is_new(stage: Stage) -> None:
    sidecar = {
        "name": "proxy",
        "image": "envoy",
        "restartPolicy": "Always",
        "ports": [{"name": "admin", "containerPort": 15000, "protocol": "TCP"}],
        "startupProbe": {"httpGet": {"path": "/", "port": "admin", "scheme": "HTTP"}},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
    }
    once = {"name": "setup", "image": "i", "ports": [{"name": "admin", "containerPort": 1}]}
    stage.pod(
        "web-0",
        nodeName="n1",
        labels={"app": "web", "apps.kubernetes.io/pod-index": "0"},
        initContainers=[once, sidecar],
        containers=[{"name": "web", "image": "nginx", "ports": [{"containerPort": 80}]}],
        ephemeralContainers=[{"name": "debug", "targetContainerName": "web"}],
        schedulingGates=[{"name": "g"}],
        resourceClaims=[{"name": "gpu", "resourceClaimName": "g"}],
        resources={"limits": {"cpu": "1"}},
        hostUsers=False,
        hostnameOverride="other.example.com",
        status={
            "phase": "Running",
            "observedGeneration": 3,
            "resize": "InProgress",
            "hostIP": "192.0.2.1",
            "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
            "podIP": "fd00::9",
            "podIPs": [{"ip": "fd00::9"}, {"ip": "10.112.0.9"}],
            "conditions": [
                {"type": "PodReadyToStartContainers", "status": "True", "observedGeneration": 3},
                {"type": "Ready", "status": "True", "lastProbeTime": None},
            ],
            "initContainerStatuses": [{"name": "proxy", "started": True, "state": {"running": {}}}],
        },
    )
    stage.connect()
    spec = (await stage.comes(Pod, "web-0", "shop")).spec
    assert spec.addresses == ("fd00::9", "10.112.0.9")
    assert spec.named_ports == (NamedPort(name="admin", protocol="tcp", port=15000),)
    assert (spec.hostname, spec.ready, spec.host_network) == ("", True, False)


@pytest.mark.parametrize(
    ("word", "prefer"),
    [
        ("PreferClose", "site"),
        ("PreferSameZone", "site"),
        ("PreferSameNode", "node"),
        ("PreferSomethingNewer", ""),
    ],
)
async def test_where_a_service_prefers_its_flows_to_go(
    stage: Stage, word: str, prefer: str
) -> None:
    spec = {
        "ports": [{"port": 80, "appProtocol": "kubernetes.io/h2c"}],
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "trafficDistribution": word,
    }
    stage.put(kinds.SERVICES, "web", "shop", spec=spec)
    stage.connect()
    assert (await stage.comes(Service, "web", "shop")).spec.prefer == prefer


async def test_an_address_of_a_proxy_is_left_to_the_proxy(stage: Stage) -> None:
    """KEP-1860: with `ipMode: Proxy` flows must not be short-cut."""
    spec = {
        "type": "LoadBalancer",
        "ports": [{"port": 80, "nodePort": 30080}],
        "loadBalancerClass": "example.com/proxy",
    }

    def status(mode: str) -> dict[str, Any]:
        ingress = {"ip": "203.0.113.7", "ipMode": mode, "ports": [{"port": 80, "protocol": "TCP"}]}
        return {"loadBalancer": {"ingress": [ingress]}, "conditions": []}

    stage.put(kinds.SERVICES, "web", "shop", spec=spec, status=status("Proxy"))
    stage.connect()
    told = (await stage.comes(Service, "web", "shop")).spec
    assert (told.type, told.load_balancer_addresses) == ("NodePort", ())
    stage.put(kinds.SERVICES, "web", "shop", spec=spec, status=status("VIP"))
    await stage.comes(
        Service, "web", "shop", lambda s: s.spec.load_balancer_addresses == ("203.0.113.7",)
    )


async def test_hints_for_nodes_come_with_our_names_of_them(stage: Stage) -> None:
    await stage.agent("host-1", "192.0.2.1/24")
    internal = {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
        "runtimeHandlers": [{"name": "", "features": {"userNamespaces": True}}],
        "features": {"supplementalGroupsPolicy": True},
    }
    stage.put(kinds.NODES, "n1.example.com", spec={}, status=internal)
    endpoint = {
        "addresses": ["10.112.0.9"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "n1.example.com",
        "zone": "a",
        "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1.example.com"}]},
    }
    stage.put(
        kinds.ENDPOINT_SLICES,
        "web-x",
        "shop",
        metadata={"labels": LABELS},
        addressType="IPv4",
        ports=[{"name": "", "port": 80, "protocol": "TCP", "appProtocol": "http"}],
        endpoints=[endpoint],
    )
    stage.connect()
    await stage.comes(Node, "host-1")
    told = (
        await stage.comes(
            EndpointSlice, "web-x", "shop", lambda s: s and s.spec.endpoints[0].node == "host-1"
        )
    ).spec.endpoints[0]
    assert (told.for_nodes, told.for_sites, told.site) == (("host-1",), ("a",), "a")


async def test_a_service_has_as_many_ports_as_kubernetes_takes(stage: Stage) -> None:
    """A range of ports, as for RTP: Kubernetes has no bound but the size of the object."""
    ports = [{"name": f"p{n}", "port": 10000 + n, "protocol": "UDP"} for n in range(600)]
    stage.put(kinds.SERVICES, "web", "shop", spec={"ports": ports})
    stage.put(
        kinds.ENDPOINT_SLICES,
        "web-x",
        "shop",
        metadata={"labels": LABELS},
        addressType="IPv4",
        ports=ports,
        endpoints=[{"addresses": ["10.112.0.9"], "conditions": {"ready": True}}],
    )
    running = stage.connect()
    assert len((await stage.comes(Service, "web", "shop")).spec.ports) == 600
    assert len((await stage.comes(EndpointSlice, "web-x", "shop")).spec.ports) == 600
    assert not running.problems


async def test_a_policy_opens_a_range_of_ports(stage: Stage) -> None:
    spec = {
        "podSelector": {},
        "ingress": [{"ports": [{"protocol": "TCP", "port": 8000, "endPort": 8100}]}],
        "policyTypes": ["Ingress"],
    }
    stage.put(kinds.NETWORK_POLICIES, "range", "shop", spec=spec, status={"conditions": []})
    stage.connect()
    (rule,) = (await stage.comes(Policy, "knp.shop.range")).spec.ingress
    assert [(port.port, port.end_port) for port in rule.ports] == [(8000, 8100)]
