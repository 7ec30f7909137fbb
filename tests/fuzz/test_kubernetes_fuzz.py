"""Whatever a manifest of Kubernetes' holds, it is a valid policy or a refusal that can be shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.test_api_fuzz import JSON, NASTY, check_problem, mutated, spots

from plait.model.errors import PlaitError
from plait.model.objects import Policy
from plait.model.policies import PolicySpec
from plait.policy import validate
from plait.policy.kubernetes import to_object

SELECTOR = {
    "matchLabels": {"app": "web"},
    "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}],
}
SEEDS: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}},
        "spec": {
            "podSelector": SELECTOR,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": SELECTOR, "namespaceSelector": SELECTOR},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}],
                }
            ],
            "egress": [{"to": [{"namespaceSelector": {}}]}],
        },
    },
    {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "base", "annotations": {"a": "b"}},
        "spec": {
            "tier": "Admin",
            "priority": 7,
            "subject": {"pods": {"podSelector": SELECTOR, "namespaceSelector": SELECTOR}},
            "ingress": [
                {
                    "action": "Pass",
                    "name": "x",
                    "from": [{"pods": {"podSelector": SELECTOR}}],
                    "protocols": [{"destinationNamedPort": "http"}],
                }
            ],
            "egress": [
                {
                    "action": "Accept",
                    "to": [
                        {"networks": ["10.0.0.0/8"]},
                        {"domainNames": ["*.example.com"]},
                        {"nodes": SELECTOR},
                    ],
                    "protocols": [
                        {"tcp": {"destinationPort": {"range": {"start": 1, "end": 9}}}},
                        {"udp": {"destinationPort": {"number": 53}}},
                    ],
                }
            ],
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "labels": {"c": "d"}},
        "spec": {
            "nodeName": "n",
            "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
    },
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"a": "b"}}},
)
SPOTS = [(i, spot) for i, seed in enumerate(SEEDS) for spot in spots(seed) if spot]


def taken(manifest: Any) -> None:
    for strict in (True, False):
        try:
            made = to_object(manifest, strict=strict)
        except PlaitError as error:
            check_problem(error)
            continue
        if isinstance(made, Policy) and small(made.spec):
            assert validate.policy(made.spec) == made.spec


def small(spec: PolicySpec) -> bool:
    """Within the server's limits of length: NetworkPolicy has none."""
    rules = (*spec.ingress, *spec.egress)
    return len(rules) <= validate.MAX_RULES and all(
        len(rule.peers or ()) <= validate.MAX_PEERS and len(rule.ports or ()) <= validate.MAX_PORTS
        for rule in rules
    )


@pytest.mark.parametrize("value", range(len(NASTY)))
def test_no_value_in_no_place_is_a_surprise(value: int) -> None:
    for number, spot in SPOTS:
        taken(mutated(SEEDS[number], spot, NASTY[value]))


@given(st.sampled_from(SPOTS), JSON)
def test_no_tree_in_no_place_is_a_surprise(spot: tuple[int, tuple[Any, ...]], tree: Any) -> None:
    taken(mutated(SEEDS[spot[0]], spot[1], tree))
