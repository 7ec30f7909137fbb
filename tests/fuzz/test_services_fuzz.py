"""Whatever a manifest of a Service holds, it is an object or a refusal that can be shown, and no
object stops the engine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.test_api_fuzz import JSON, NASTY, mutated, spots

from plait.model.errors import PlaitError
from plait.model.objects import EndpointSlice, Service
from plait.services.engine import Engine
from plait.services.kubernetes import to_object

SEEDS: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.1", "fd96::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080, "protocol": "TCP"}],
            "externalIPs": ["192.0.2.1"],
            "loadBalancerIP": "203.0.113.1",
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000,
            "trafficDistribution": "PreferClose",
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"port": 8080, "name": "", "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": ["10.1.0.1"],
                "conditions": {"ready": True, "serving": None},
                "nodeName": "h1",
                "targetRef": {"kind": "Pod", "name": "web-0"},
                "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "h1"}]},
            }
        ],
    },
)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed["kind"])
@given(st.data())
def test_a_manifest_is_an_object_or_a_refusal(seed: dict[str, Any], data: st.DataObject) -> None:
    spot = data.draw(st.sampled_from(spots(seed)[1:]))
    manifest = mutated(seed, spot, data.draw(st.one_of(JSON, st.sampled_from(NASTY))))
    try:
        found = to_object(manifest)
    except (PlaitError, msgspec.ValidationError):
        return
    assert isinstance(found, Service | EndpointSlice)
    engine = Engine("h1")
    for other in SEEDS:
        engine.put(to_object(other))
    engine.put(found)
    for entry in dict(engine.table().frontends.items()).values():
        for choice in (entry.inside, entry.outside or entry.inside):
            assert all(0 < backend.port < 65536 for backend in choice.backends)
    engine.delete(found)
    engine.table()
