"""Manifests: objects out of text, and mistakes by file and line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.cli.manifests import MAX_NODES, objects
from plait.cli.reading import read_manifests, read_world
from plait.model.errors import PlaitError
from plait.model.objects import Endpoint, Network

GOOD = """\
apiVersion: plait/v1
kind: Network
metadata:
  name: web
  labels: {tier: "1"}
spec:
  pools: [10.1.0.0/20]
  internal: true
---
# nothing
---
apiVersion: plait/v1
kind: Endpoint
metadata: {name: e1}
spec: {node: a, network: web, ports: [{protocol: tcp, port: 80, hostPort: 8080}]}
"""


def refusal(text: str) -> PlaitError:
    with pytest.raises(PlaitError) as caught:
        objects(text, "f.yaml")
    assert caught.value.code == "PLAIT-CLI-004"
    return caught.value


def test_several_documents_become_objects() -> None:
    network, endpoint = objects(GOOD, "f.yaml")
    assert isinstance(network, Network)
    assert network.spec.pools == ("10.1.0.0/20",)
    assert isinstance(endpoint, Endpoint)
    assert endpoint.metadata.namespace == "default"
    assert endpoint.spec.ports[0].host_port == 8080


def test_json_is_yaml() -> None:
    text = '{"apiVersion":"plait/v1","kind":"Network","metadata":{"name":"x"},"spec":{}}'
    assert objects(text, "f.json")[0].metadata.name == "x"


@pytest.mark.parametrize(
    ("old", "new", "where", "fix"),
    [
        ("kind: Network", "kind: Netwrk", "f.yaml:2", "write `kind: Network`"),
        ("internal: true", "internl: true", "f.yaml:8", "write `internal`"),
        ("  name: web", "  nme: web\n  name: web", "f.yaml:4", "write `name`"),
        ("hostPort", "hostprt", "f.yaml:15", "write `hostPort`"),
        ("plait/v1\nkind: N", "v1\nkind: N", "f.yaml:1", "write `apiVersion: plait/v1`"),
    ],
)
def test_a_mistake_is_named_by_line_with_the_nearest_word(
    old: str, new: str, where: str, fix: str
) -> None:
    error = refusal(GOOD.replace(old, new, 1))
    assert (error.where, error.fix) == (where, (fix,))


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("a: b", "f.yaml:1", "`apiVersion` is missing"),
        ("- 1", "f.yaml:1", "must be a mapping"),
        ("a: [", "f.yaml:1", "expected"),
        (GOOD.replace("internal: true", "internal: maybe"), "f.yaml:8", "Expected `bool`"),
        (GOOD.replace("  name: web", "  name: 5"), "f.yaml:4", "Expected `str`"),
        (GOOD.replace("  name: web", "  name: web\n  name: x"), "f.yaml:5", "stands twice"),
        ("? [a]\n: b", "f.yaml:1", "a key must be a word"),
        ("[" * 10_000, "f.yaml", "nested too deep"),
        ("{a: " * 10_000, "f.yaml", "nested too deep"),
        ("a: !!python/object:os.system x", "f.yaml", "tag"),
        ("\x00", "f.yaml", "not allowed"),
    ],
)
def test_what_else_is_wrong(text: str, where: str, why: str) -> None:
    error = refusal(text)
    assert error.where.startswith(where)
    assert why in error.why


def test_aliases_count_each_time_they_are_used() -> None:
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert MAX_NODES < 10**8
    assert "too many" in refusal(bomb).why


@settings(max_examples=200)
@given(st.text(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"\n ab?%@`", max_size=60))
def test_any_text_is_objects_or_a_refusal(text: str) -> None:
    with contextlib.suppress(PlaitError):
        objects(text, "f.yaml")


def test_an_object_that_stands_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(GOOD)
    assert len(read_manifests([str(tmp_path / "a.yaml")])) == 2
    with pytest.raises(PlaitError, match="Network web stands twice") as caught:
        read_manifests([str(tmp_path)])
    assert caught.value.where == f"{tmp_path}/b.yaml:1"
    assert f"{tmp_path}/a.yaml:1" in caught.value.why


KUBERNETES = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop}
- kind: NetworkPolicy
  apiVersion: networking.k8s.io/v1
  metadata: {name: web, namespace: shop}
  spec:
    podSelector: {}
---
kind: NetworkPolicyList
apiVersion: networking.k8s.io/v1
items:
- metadata: {name: db, namespace: shop}
  spec: {policyTypes: [Egress]}
"""
PODS = """\
apiVersion: v1
kind: PodList
items:
- metadata: {name: a}
  status: {podIP: 10.0.0.1}
- metadata: {name: host}
  spec: {hostNetwork: true}
  status: {podIP: 192.0.2.1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
---
apiVersion: kyverno.io/v1
kind: Policy
metadata: {name: labels}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
"""


def test_kubernetes_kinds_stand_beside_ours_and_in_lists() -> None:
    found = objects(KUBERNETES + "---\n" + GOOD, "f.yaml")
    assert [(o.kind, o.metadata.name) for o in found] == [
        ("Namespace", "shop"),
        ("Policy", "knp.shop.web"),
        ("Policy", "knp.shop.db"),
        ("Network", "web"),
        ("Endpoint", "e1"),
    ]


def test_what_get_prints_can_be_applied() -> None:
    item = '{"apiVersion":"plait/v1","kind":"Network","metadata":{"name":"x"}}'
    text = f'{{"kind":"List","items":[{item}]}}'
    assert objects(text, "f.json")[0].metadata.name == "x"


@pytest.mark.parametrize(
    ("old", "new", "where", "why", "fix"),
    [
        ("podSelector", "podSelecter", "f.yaml:11", "no field", "write `podSelector`"),
        ("policyTypes: [Egress]", "policyTypes: [Both]", "f.yaml:17", "spec.policyTypes[0]", ""),
        (
            "networking.k8s.io/v1\n  metadata",
            "extensions/v1beta1\n  metadata",
            "f.yaml:8",
            "extensions",
            "write `apiVersion: networking.k8s.io/v1`",
        ),
        ("kind: Namespace", "kind: Pod", "f.yaml:5", "a Pod is read, but not stored", ""),
        ("name: shop}\n- kind", "name: No}\n- kind", "f.yaml:6", "metadata.name", ""),
    ],
)
def test_mistakes_in_kubernetes_manifests_are_named_by_line(
    old: str, new: str, where: str, why: str, fix: str
) -> None:
    assert old in KUBERNETES
    error = refusal(KUBERNETES.replace(old, new, 1))
    assert error.where == where
    assert why in error.why
    assert fix in (*error.fix, "")


def test_policies_of_ours_are_checked_where_their_lines_are_known() -> None:
    text = """\
apiVersion: plait/v1
kind: Policy
metadata: {name: p}
spec:
  ingress:
  - peers: [{cidr: 10.0.0.1/8}]
---
apiVersion: plait/v1
kind: Group
metadata: {name: g}
spec: {}
"""
    error = refusal(text)
    assert (error.where, error.fix) == ("f.yaml:6", ("use 10.0.0.0/8",))
    error = refusal(text.partition("---\n")[2])
    assert error.where == "f.yaml:4"
    assert "neither selectors nor cidrs" in error.why


def test_a_world_of_manifests_has_pods_and_passes_over_what_has_no_part(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(KUBERNETES + "---\n" + PODS)
    found = [(o.kind, o.metadata.name) for o in read_world([str(tmp_path)])]
    assert found == [
        ("Namespace", "shop"),
        ("Node", "n1"),
        ("Endpoint", "a"),
        ("Policy", "knp.shop.web"),
        ("Policy", "knp.shop.db"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n",
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n",
        "apiVersion: plait/v2\nkind: Policy\n",
        "apiVersion: plaid/v1\nkind: Policy\n",
        "apiVersion: v1\nkind: Group\n",
        "kind: Pod\n",
        "apiVersion: v1\n",
        "a: b\n",
        "- a\n",
    ],
)
def test_what_could_change_the_answer_is_not_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(PlaitError, match="PLAIT-CLI-004"):
        read_world([str(tmp_path)])


@pytest.mark.parametrize(
    ("kind", "spec", "fix"),
    [
        ("Policy", "{tier: aplication}", "write `application`"),
        ("Policy", "{ingress: [{action: deny}]}", "write `Deny`"),
        ("Policy", "{ingress: [{action: allow}]}", "values are Accept, Deny, Pass"),
    ],
)
def test_a_word_that_is_not_there_is_met_by_those_that_are(kind: str, spec: str, fix: str) -> None:
    text = f"apiVersion: plait/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    with pytest.raises(PlaitError) as caught:
        objects(text, "f.yaml")
    assert caught.value.where == "f.yaml:4"
    assert caught.value.fix == (fix,)


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(PlaitError) as caught:
        objects("apiVersion: plait/v1\nkind: Policy\nspec: {}\n", "f.yaml")
    assert caught.value.why == "`metadata` is missing in Policy"


def test_somebody_elses_kind_is_not_taken_for_one_of_ours() -> None:
    text = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n"
    with pytest.raises(PlaitError) as caught:
        objects(text, "f.yaml")
    assert caught.value.fix == ("write it as a ClusterNetworkPolicy",)
    with pytest.raises(PlaitError) as caught:
        objects("apiVersion: apps/v1\nkind: Deployment\n", "f.yaml")
    assert "take it out" in caught.value.fix[0]
