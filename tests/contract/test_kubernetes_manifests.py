"""`plait apply`, `get`, `delete` and `label` with Kubernetes' manifests, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from plait.__main__ import plait
from plait.cli import frame
from plait.client.api import ApiClient
from plait.model.objects import Group, Metadata, Namespace, Network, Policy
from plait.model.policies import GroupSpec, PolicySpec
from plait.model.selectors import NAMESPACE_NAME, Selector
from plait.server.server import Server

if TYPE_CHECKING:
    from tests.contract.conftest import Rig

pytestmark = pytest.mark.parametrize("rig", ["memory"], indirect=True)

MANIFESTS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop, labels: {made: here}}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: sql}]
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {team: red, kubernetes.io/metadata.name: shop}}
- apiVersion: policy.networking.k8s.io/v1alpha2
  kind: ClusterNetworkPolicy
  metadata: {name: base}
  spec:
    tier: Baseline
    priority: 10
    subject: {namespaces: {}}
    ingress: [{name: nobody, action: Deny, from: [{namespaces: {}}]}]
"""

Run = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
async def run(
    rig: Rig,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command line as an administrator elsewhere runs it: exit code, and what it said."""
    monkeypatch.setenv("PLAIT_SERVER", rig.url(server))
    monkeypatch.setenv("PLAIT_TOKEN", await rig.token(server, role="admin"))
    monkeypatch.setenv("PLAIT_CA_FILE", str(rig.authority.ca_file))

    async def command(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(frame.run, plait, list(words))
        told = capsys.readouterr()
        return code, told.out + told.err

    return command


@pytest.fixture
def manifests(tmp_path: Path) -> str:
    file = tmp_path / "all.yaml"
    file.write_text(MANIFESTS)
    return str(file)


async def test_manifests_are_applied_as_they_are_and_twice_is_once(
    run: Run, api: ApiClient, manifests: str
) -> None:
    code, told = await run("apply", "-f", manifests)
    assert code == 0, told
    assert "policy knp.shop.db created" in told
    assert "policy kcnp.base created" in told
    policy = await api.get(Policy, "knp.shop.db")
    assert policy.spec.subject.namespaces == Selector(match_labels={NAMESPACE_NAME: "shop"})
    assert (policy.spec.isolate, policy.metadata.labels) == (("ingress",), {"made": "here"})
    assert (await api.get(Namespace, "shop")).metadata.labels == {"team": "red"}

    code, told = await run("apply", "-f", manifests)
    assert code == 0
    assert told.count("unchanged") == 3, told
    assert (await api.get(Policy, "knp.shop.db")).metadata.revision == policy.metadata.revision


async def test_a_dry_run_shows_the_policies_and_stores_none(
    run: Run, api: ApiClient, manifests: str
) -> None:
    code, told = await run("apply", "-f", manifests, "--dry-run")
    assert code == 0, told
    shown = list(yaml.safe_load_all(told[told.index("apiVersion") :]))
    assert [document["metadata"]["name"] for document in shown] == ["knp.shop.db", "kcnp.base"]
    assert shown[0]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "sql"}]
    assert await api.list(Policy) == ()


async def test_policies_are_found_by_the_names_that_kubernetes_has_for_them(
    run: Run, manifests: str
) -> None:
    await run("apply", "-f", manifests)

    async def names(*words: str) -> Any:
        code, told = await run("get", *words, "--json")
        assert code == 0, told
        found = json.loads(told)
        return [item["metadata"]["name"] for item in found.get("items", [found])]

    assert await names("networkpolicy", "-n", "shop") == ["knp.shop.db"]
    assert await names("netpol") == []
    assert await names("netpol", "-A") == ["knp.shop.db"]
    assert await names("networkpolicies", "db", "-n", "shop") == ["knp.shop.db"]
    assert await names("cnp") == ["kcnp.base"]
    assert await names("cnp", "base") == ["kcnp.base"]
    assert await names("policies") == ["kcnp.base", "knp.shop.db"]
    code, told = await run("get", "policies")
    assert code == 0
    assert "endpoints app=db in namespace shop" in told
    code, told = await run("describe", "cnp", "base")
    assert (code, "kcnp.base" in told) == (0, True)
    code, told = await run("describe", "netpol", "db", "-n", "shop")
    assert (code, "NetworkPolicy shop/db" in told) == (0, True)
    assert "ingress 1 " in told, "rules are counted as flows and why count them"
    code, told = await run("get", "netpol")
    assert (code, "no networkpolicies in namespace default; -A lists" in told) == (0, True)
    code, told = await run("delete", "netpol", "db", "-n", "shop")
    assert (code, "policy knp.shop.db deleted" in told) == (0, True)


async def test_what_was_applied_is_deleted_by_the_same_file(
    run: Run, api: ApiClient, manifests: str
) -> None:
    await run("apply", "-f", manifests)
    code, told = await run("delete", "-f", manifests)
    assert code == 0, told
    assert await api.list(Policy) == ()


@pytest.mark.parametrize(
    ("old", "new", "where", "why"),
    [
        ("podSelector: {matchLabels: {app: db}}", "podSelecter: {}", 5, "spec.podSelecter"),
        ("port: sql", "port: 70000", 8, "spec.ingress[0].ports[0].port"),
        ("tier: Baseline", "tier: Middle", 20, "spec.tier"),
        ("kind: NetworkPolicy", "kind: Ingress", 2, "kind `Ingress` of networking.k8s.io/v1"),
    ],
)
async def test_a_refusal_names_file_line_and_field(
    run: Run, tmp_path: Path, old: str, new: str, where: int, why: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(MANIFESTS.replace(old, new, 1))
    code, told = await run("apply", "-f", str(file))
    assert code == 1
    assert "PLAIT-CLI-004" in told
    assert f"bad.yaml:{where}\n" in told
    assert why in told


async def test_ours_are_applied_twice_as_once_however_they_are_written(
    run: Run, api: ApiClient, tmp_path: Path
) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(
        """\
apiVersion: plait/v1
kind: Policy
metadata: {name: out}
spec:
  egress:
  - peers: [{domains: [Example.COM.]}, {cidr: FD00::/8}, {group: office}]
---
apiVersion: plait/v1
kind: Group
metadata: {name: office}
spec: {cidrs: [192.0.2.1]}
"""
    )
    assert (await run("apply", "-f", str(file)))[0] == 0
    assert (await api.get(Policy, "out")).status.message == ""
    code, told = await run("apply", "-f", str(file))
    assert (code, told.count("unchanged")) == (0, 2), told
    code, told = await run("describe", "group", "office")
    assert "Policies (1)" in told
    code, told = await run("delete", "group", "office")
    assert code == 1
    assert "policies use it: out" in told
    assert (await run("delete", "-f", str(file)))[0] == 0


async def test_labels_of_hosts_and_namespaces(run: Run, rig: Rig, server: Server) -> None:
    api = rig.admin(server)
    await rig.node(server, "h1")
    for words, said in (
        (("node", "label", "h1", "zone=b", "disk=ssd"), "node h1 labelled: disk=ssd, zone=b"),
        (("node", "label", "h1", "zone-", "--dry-run"), "would be labelled: disk=ssd"),
        (("node", "label", "h1", "zone=b"), "node h1 unchanged"),
        (("node", "label", "h1", "zone-"), "node h1 labelled: disk=ssd"),
        (("namespace", "label", "shop", "team=red"), "namespace shop labelled: team=red"),
        (("namespace", "label", "shop", "team-"), "namespace shop labelled: -"),
        (("namespace", "ls"), "shop"),
    ):
        code, told = await run(*words)
        assert code == 0, told
        assert said in told
    assert (await api.get(Namespace, "shop")).metadata.labels == {}
    code, told = await run("node", "label", "h2", "a=b")
    assert code == 1
    assert "no node `h2`" in told


async def test_a_policy_says_what_it_names_until_that_is_there(api: ApiClient) -> None:
    text = {"peers": [{"group": "office"}, {"network": "lab"}]}
    made = Policy(metadata=Metadata(name="p"), spec=spec(ingress=[text]))
    message = (await api.create(made)).status.message
    assert message.startswith("there is no group office:")
    await api.create(Group(metadata=Metadata(name="office"), spec=GroupSpec(cidrs=("10.0.0.1",))))
    assert (await api.get(Policy, "p")).status.message.startswith("there is no network lab")
    await api.create(Network(metadata=Metadata(name="lab")))
    assert (await api.get(Policy, "p")).status.message == ""
    await api.delete(Network, "lab")
    assert (await api.get(Policy, "p")).status.message.startswith("there is no network lab")


def spec(**fields: Any) -> PolicySpec:
    import msgspec

    return msgspec.convert(fields, type=PolicySpec)
