"""The manifests of `deploy/kubernetes`: filled in, applied, deleted."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.kinds import PODS, Resource
from plait.model.errors import PlaitError

Part = Literal["base", "agents", "cleanup"]
Manifest = dict[str, Any]

NAMESPACE: Final = "plait-system"
PLACES: Final = (
    Path(__file__).with_name("deploy"),
    Path(__file__).parents[3] / "deploy/kubernetes",
)
"""Where a wheel and a checkout have them."""
CONFIG: Final = "plait"
CONNECTOR_TOKEN: Final = "plait-connector"  # noqa: S105 - a name
AGENT_TOKEN: Final = "plait-agent"  # noqa: S105 - a name
STAMP: Final = "plait/settings"
"""Annotation of pods: a hash of what they are told, so that they are replaced when it changes."""
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CARRIED: Final = "/opt/plait/bin"
"""Where an image that carries Plait puts it on nodes."""
GONE: Final = "PLAIT-KUBE-005"

_RBAC: Final = "rbac.authorization.k8s.io"
RESOURCES: Final[dict[tuple[str, str], Resource]] = {
    (resource.group_version, kind): resource
    for kind, resource in (
        ("Namespace", Resource("", "v1", "namespaces", namespaced=False)),
        ("ServiceAccount", Resource("", "v1", "serviceaccounts")),
        ("ConfigMap", Resource("", "v1", "configmaps")),
        ("Secret", Resource("", "v1", "secrets")),
        ("ClusterRole", Resource(_RBAC, "v1", "clusterroles", namespaced=False)),
        ("ClusterRoleBinding", Resource(_RBAC, "v1", "clusterrolebindings", namespaced=False)),
        ("Role", Resource(_RBAC, "v1", "roles")),
        ("RoleBinding", Resource(_RBAC, "v1", "rolebindings")),
        ("Deployment", Resource("apps", "v1", "deployments")),
        ("DaemonSet", Resource("apps", "v1", "daemonsets")),
    )
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What overlays fill in."""

    address: str
    """`HOST[:PORT]` of Plait's server, as nodes reach it."""
    api_host: str
    """The API server as nodes reach it without Services, and as its certificate says."""
    api_port: str
    network: str
    path: str = f"{CARRIED}:{SYSTEM_PATH}"
    """Where nodes look for `plait`."""
    connector_token: str = ""
    agent_token: str = ""
    """Invites nodes; empty: agents are not pods."""
    image: str = ""
    """Empty: the one of the manifests."""


def load(part: Part) -> list[Manifest]:
    """The objects of a part, in the order in which they are applied."""
    folder = next((place / part for place in PLACES if (place / part).is_dir()), None)
    if folder is None:
        raise PlaitError(
            "PLAIT-CLI-002",
            "this installation of Plait has no manifests",
            where=str(PLACES[0]),
            fix=("kubectl apply -k deploy/kubernetes/overlays/hosts   # in a checkout",),
        )
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    texts = ((folder / name).read_text() for name in listed)
    return [each for text in texts for each in yaml.safe_load_all(text)]


def filled(settings: Settings) -> list[Manifest]:
    """Everything to apply: the connector, its settings, and the agents if they are pods."""
    objects = load("base")
    at = 1 + next(i for i, each in enumerate(objects) if each["kind"] == "Namespace")
    objects[at:at] = _settings(settings)
    if settings.agent_token:
        objects += load("agents")
    stamp = hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:16]
    return [with_image(each, settings.image, stamp) for each in objects]


def with_image(manifest: Manifest, image: str, stamp: str = "") -> Manifest:
    """A workload with this image for all its containers, if one is said; others as they are."""
    template = (manifest.get("spec") or {}).get("template")
    if template is None:
        return manifest
    made = copy.deepcopy(manifest)
    template = made["spec"]["template"]
    if stamp:
        template["metadata"]["annotations"] = {STAMP: stamp}
    for containers in ("initContainers", "containers"):
        for container in template["spec"].get(containers) or ():
            container["image"] = image or container["image"]
    return made


def _settings(settings: Settings) -> Iterator[Manifest]:
    yield _object(
        "ConfigMap",
        CONFIG,
        data={
            "PLAIT_ADDRESS": settings.address,
            "PLAIT_NETWORK": settings.network,
            "KUBERNETES_SERVICE_HOST": settings.api_host,
            "KUBERNETES_SERVICE_PORT": settings.api_port,
            "PATH": settings.path,
        },
    )
    yield _object("Secret", CONNECTOR_TOKEN, stringData={"token": settings.connector_token})
    if settings.agent_token:
        yield _object("Secret", AGENT_TOKEN, stringData={"token": settings.agent_token})


def settings_shells() -> list[Manifest]:
    """The objects that an overlay makes of its settings, without their content."""
    return [_object("ConfigMap", CONFIG), _object("Secret", CONNECTOR_TOKEN), agents_token()]


def agents_token() -> Manifest:
    """The Secret that is there where agents are pods, without its content."""
    return _object("Secret", AGENT_TOKEN)


def _object(kind: str, name: str, **content: Any) -> Manifest:
    labels = {"app.kubernetes.io/part-of": "plait"}
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": meta, **content}


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """As `kubectl apply -f` reads them."""

    # Copies: what stands in several places is written several times, and not as an anchor.
    plain = [json.loads(json.dumps(manifest)) for manifest in manifests]
    return yaml.safe_dump_all(plain, sort_keys=False)


def resource_of(manifest: Manifest) -> Resource:
    """Where an object is served."""
    return RESOURCES[manifest["apiVersion"], manifest["kind"]]


def shown(manifest: Manifest) -> str:
    """An object as kubectl names it."""
    return f"{manifest['kind'].lower()}/{manifest['metadata']['name']}"


async def apply(api: KubernetesApi, manifest: Manifest) -> None:
    """Create or change an object (server-side apply)."""
    meta = manifest["metadata"]
    await api.patch(
        resource_of(manifest),
        manifest,
        meta["name"],
        meta.get("namespace", ""),
        patch="apply",
        force=True,
    )


async def delete(api: KubernetesApi, manifest: Manifest) -> bool:
    """Delete an object; False if it was not there."""
    meta = manifest["metadata"]
    try:
        await api.delete(resource_of(manifest), meta["name"], meta.get("namespace", ""))
    except PlaitError as error:
        if error.code != GONE:
            raise
        return False
    return True


async def status(api: KubernetesApi, manifest: Manifest) -> dict[str, Any] | None:
    """The status of an object; None where there is none."""
    meta = manifest["metadata"]
    try:
        found = await api.get(
            resource_of(manifest), dict[str, Any], meta["name"], meta.get("namespace", "")
        )
    except PlaitError as error:
        if error.code != GONE:
            raise
        return None
    return found.get("status") or {}


async def pods(api: KubernetesApi, workload: Manifest) -> int:
    """How many pods of a workload are there, those that end included."""
    chosen = workload["spec"]["selector"]["matchLabels"]
    query = {"labelSelector": ",".join(f"{key}={value}" for key, value in chosen.items())}
    path = PODS.resources[0].path(namespace=workload["metadata"]["namespace"])
    found = await api.read(path, dict[str, Any], query)
    return len(found["items"])
