"""A real cluster whose namespaces, pods and policies are whatever a scene of the oracle says.

The whole scene is given each time; the stage makes the difference through Kubernetes' API alone,
and waits until the kernel of every host follows. Pods are real ones. Their only container is a
program of this machine, seen through a mount of the node's own file system: it serves TCP, UDP and
SCTP, and sends probes out.

Addresses are given by Plait, so a pod's own stands for the one that it has in the oracle, in
policies and in probes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from tests.lab.census import inside
from tests.lab.conftest import eventually
from tests.lab.kubernetes.stage import IMAGE, PATIENCE
from tests.lab.policy import ground
from tests.lab.policy.ground import Ground, Probe
from tests.lab.policy.oracle_play import listening
from tests.support import oracle_manifests
from tests.support.connected import unwritten
from tests.support.oracle import Manifest, Pod, Scene

from plait.kernel import netns
from plait.kubernetes import kinds, kubeconfig
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.decoding import ObjectDecoder
from plait.kubernetes.kinds import Kind
from plait.lab import hosts, workloads
from plait.lab.daemons import FIRST
from plait.lab.kubernetes import layout
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import Order
from plait.model.errors import PlaitError
from plait.model.objects import Endpoint, Namespace, Policy

T = TypeVar("T")

NOT_FOUND, FORBIDDEN = "PLAIT-KUBE-005", "PLAIT-KUBE-004"
NAMESPACES, PODS = kinds.NAMESPACES.resources[0], kinds.PODS.resources[0]
POLICIES: dict[str, Kind[Any]] = {
    kind.name: kind for kind in (kinds.NETWORK_POLICIES, kinds.CLUSTER_NETWORK_POLICIES)
}
EMPTY = Scene(name="", namespaces={}, pods={}, policies={}, probes=())
HOST = "/host"
"""Where the node's file system is in a container."""
SERVE = """
import asyncio, os, pathlib, sys
from plait.lab import workload
name, control, *ports = sys.argv[1:]
pathlib.Path(control).parent.mkdir(exist_ok=True)
asyncio.run(workload.run(name, control, ports, os.memfd_create("ready")))
"""
"""A workload whose network namespace is there already; nobody waits for it to be ready."""


def program(source: str, *argv: str) -> dict[str, Any]:
    """Fields of a container that runs Python source with this machine's modules."""
    return {
        "image": IMAGE,
        "command": ["chroot", HOST, hosts.PYTHON, "-P", "-c", source, *argv],
        "volumeMounts": [{"name": "host", "mountPath": HOST}],
    }


SPEC = {
    "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    "terminationGracePeriodSeconds": 1,
    "enableServiceLinks": False,
    "automountServiceAccountToken": False,
}
"""Of every pod of these."""


class ClusterStage(Ground):
    """See the module's docstring. `host_of` says on which node a pod stands; `fixed` has addresses
    of the oracle that are not those of pods, and what they are here; `beside` are pods that are not
    in the scenes."""

    def __init__(
        self,
        lab: Lab,
        host_of: Callable[[Pod], str],
        *,
        fixed: Mapping[str, str] | None = None,
        beside: Iterable[Manifest] = (),
    ) -> None:
        super().__init__(lab)
        self._host_of = host_of
        self._fixed = dict(fixed or {})
        self._beside = tuple(beside)
        self._scene = EMPTY
        self._places: dict[str, dict[str, str]] = {}
        """By pod: its addresses by those of the oracle."""
        self._policies: dict[str, Manifest] = {}
        """As written, by key."""
        # The API server listens in its host alone: the loop's thread goes there while it runs.
        self._netns = netns.open_netns(netns.pid_path(lab.host(FIRST).pid))
        self._kube = KubernetesApi(kubeconfig.load(inside(lab, FIRST, layout.ADMIN)))

    def close(self) -> None:
        """Take everything away, and let go. Namespaces take their time to go."""
        before, self._scene = self._scene, EMPTY
        try:
            self._remove_policies()
            self._write_own(before)
            for name in before.namespaces:
                self._delete(NAMESPACES, name)
        finally:
            self._act(self._kube.close())
            super().close()
            os.close(self._netns)

    def _act(self, work: Coroutine[Any, Any, T]) -> T:
        with netns.inside(self._netns):
            return self._loop.run(work)

    # Making it so.

    def show(self, scene: Scene) -> None:
        """Make it so; when this returns, every host's kernel follows."""
        before, self._scene = self._scene, scene
        self._remove_pods([pod for key, pod in before.pods.items() if _anew(pod, scene.pods, key)])
        self._remove_namespaces(before.namespaces.keys() - scene.namespaces.keys())
        self._remove_policies()
        for name, labels in scene.namespaces.items():
            if before.namespaces.get(name) != labels:
                self._put_namespace(name, labels, new=name not in before.namespaces)
        self._put_pods(before)
        self._put_policies()
        self._write_own(before)
        self._followed(before.namespaces.keys() | scene.namespaces.keys())

    def _write_own(self, before: Scene) -> None:
        """What Kubernetes has no word for."""
        own = self._scene.own
        self.delete(*(policy for policy in before.own if policy not in own))
        self.put(*(policy for policy in own if policy not in before.own))

    def _remove_namespaces(self, names: Collection[str]) -> None:
        """Kubernetes removes with them the policies that are in them. So it does with pods; but it
        looks only a quarter of a minute later whether they are gone."""
        for name in names:
            self._delete(NAMESPACES, name)
        for name in names:
            eventually(f"{name} goes", lambda name=name: self._is_gone(name), seconds=PATIENCE)
        self._policies = {
            key: each
            for key, each in self._policies.items()
            if each["metadata"].get("namespace") not in names
        }

    def _put_namespace(self, name: str, labels: Mapping[str, str], *, new: bool) -> None:
        if not new:
            self._label(NAMESPACES, labels, name)
            return
        self._act(self._kube.create(NAMESPACES, oracle_manifests.namespace(name, labels)))
        for manifest in self._beside:
            if manifest["metadata"]["namespace"] == name:
                self._create_pod(manifest)

    def _label(self, resource: kinds.Resource, labels: Mapping[str, str], *name: str) -> None:
        body = [{"op": "add", "path": "/metadata/labels", "value": dict(labels)}]
        self._act(self._kube.patch(resource, body, *name, patch="json"))

    def _delete(self, resource: kinds.Resource, *name: str) -> None:
        """Also what a scene that failed halfway never had."""
        try:
            self._act(self._kube.delete(resource, *name))
        except PlaitError as error:
            if error.code != NOT_FOUND:
                raise

    def _is_gone(self, name: str, namespace: str = "") -> bool:
        resource = PODS if namespace else NAMESPACES
        try:
            self._act(self._kube.get(resource, dict[str, Any], name, namespace))
        except PlaitError as error:
            if error.code != NOT_FOUND:
                raise
            return True
        return False

    # Pods

    def _remove_pods(self, pods: list[Pod]) -> None:
        there = [pod for pod in pods if pod.key in self._loads]
        for pod in there:
            self._delete(PODS, pod.name, pod.namespace)
            del self._loads[pod.key]
            self._places.pop(pod.key, None)
        for pod in there:
            eventually(
                f"{pod.key} goes",
                lambda pod=pod: self._is_gone(pod.name, pod.namespace),
                seconds=PATIENCE,
            )

    def _put_pods(self, before: Scene) -> None:
        """Create pods, or label them; when this returns, those that are new serve."""
        new = {}
        for key, pod in self._scene.pods.items():
            if key not in self._loads:
                new[key] = pod
                load = WorkloadState(
                    name=pod.name,
                    namespace=pod.namespace,
                    host=self._host_of(pod),
                    pid=0,
                    start=0,
                    inner_pid=0,
                )
                words = (pod.name, workloads.control(load), *listening(pod))
                container = program(SERVE, *words)
                self._create_pod(oracle_manifests.pod(pod, load.host, container, **SPEC))
                self._loads[key] = load
            elif pod.labels != before.pods[key].labels:
                self._label(PODS, pod.labels, pod.name, pod.namespace)
        if new:
            eventually("pods are ready", lambda: self._are_ready(new), seconds=PATIENCE)
            for key, pod in new.items():
                eventually(
                    f"{key} serves", lambda key=key, pod=pod: self._serves(key, pod), seconds=30
                )

    def _create_pod(self, manifest: Manifest) -> None:
        """Create it, as soon as there is the account as which it runs."""

        def created() -> bool:
            try:
                self._act(self._kube.create(PODS, manifest, manifest["metadata"]["namespace"]))
            except PlaitError as error:
                if error.code != FORBIDDEN:
                    raise
                return False
            return True

        eventually(f"{manifest['metadata']['name']} is taken", created, seconds=PATIENCE)

    def _are_ready(self, pods: Mapping[str, Pod]) -> bool:
        """So are these, with all their addresses, and those beside."""
        found = {"/".join(pod.metadata.key): pod for pod in self._list(kinds.PODS) if pod.ready}
        for key, pod in pods.items():
            addresses = found[key].addresses if key in found else ()
            theirs = {_is_v6(address): address for address in addresses}
            self._places[key] = {
                address: theirs[_is_v6(address)]
                for address in pod.addresses
                if _is_v6(address) in theirs
            }
        beside = {
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in self._beside
        }
        return beside <= found.keys() and all(
            len(self._places[key]) == len(pod.addresses) for key, pod in pods.items()
        )

    def _serves(self, key: str, pod: Pod) -> bool:
        protocol, port = pod.listens[0]
        order = Order(ip="127.0.0.1", port=port, proto=protocol)
        try:
            (result,) = workloads.probe(self.lab, self._loads[key], [order])
        except OSError:
            return False
        return result.result == "connected"

    # Policies

    @property
    def _here(self) -> dict[str, str]:
        """Addresses by those of the oracle."""
        pods = {there: here for places in self._places.values() for there, here in places.items()}
        return self._fixed | pods

    def _remove_policies(self) -> None:
        for key in self._policies.keys() - self._scene.policies.keys():
            manifest = self._policies.pop(key)
            meta = manifest["metadata"]
            resource = POLICIES[manifest["kind"]].resources[0]
            self._delete(resource, meta["name"], meta.get("namespace", ""))

    def _put_policies(self) -> None:
        here = self._here
        for key, policy in self._scene.policies.items():
            manifest = oracle_manifests.relocated(policy, here)
            before = self._policies.get(key)
            meta, namespace = manifest["metadata"], manifest["metadata"].get("namespace", "")
            resource = POLICIES[manifest["kind"]].resources[0]
            if before is None:
                self._act(self._kube.create(resource, manifest, namespace))
            elif before["spec"] != manifest["spec"]:
                body = [{"op": "replace", "path": "/spec", "value": manifest["spec"]}]
                name = meta["name"]
                self._act(self._kube.patch(resource, body, name, namespace, patch="json"))
            self._policies[key] = manifest

    # Waiting for it.

    def _followed(self, namespaces: Collection[str]) -> None:
        """Wait until Plait's server has all that Kubernetes says, and every kernel follows it."""
        left: list[str] = []
        eventually("all comes over", lambda: not self._left(namespaces, left), left, seconds=30)
        self.enforced()

    def _left(self, namespaces: Collection[str], left: list[str]) -> list[str]:
        """What the connector has not written, and pods of which the agents say something else, or
        which they have not let go."""
        there = {kind.name: self._list(kind) for kind in (kinds.NAMESPACES, *POLICIES.values())}
        ours = [obj for kind in (Namespace, Policy) for obj in self._loop.run(self._api.list(kind))]
        left[:] = unwritten(there, ours)
        known = {
            f"{meta.namespace}/{spec.name}": (meta.labels, set(spec.named_ports))
            for endpoint in self._loop.run(self._api.list(Endpoint))
            for meta, spec in ((endpoint.metadata, endpoint.spec),)
        }
        pods = self._scene.pods
        left += [k for k, pod in pods.items() if known.get(k) != (pod.labels, set(pod.ports))]
        left += [k for k in known.keys() - pods.keys() if k.partition("/")[0] in namespaces]
        return left

    def _list(self, kind: Kind[Any]) -> list[Any]:
        """All that the API server has of a kind; none where it does not serve it."""
        path = kind.resources[0].path()
        try:
            data = self._act(self._kube.read_bytes(path))
        except PlaitError as error:
            if error.code != NOT_FOUND or not kind.optional:
                raise
            return []
        page = ObjectDecoder(kind.type).page(data)
        assert not page.bad, page.bad
        return page.objects

    # Looking at it.

    def ask(self, probes: Iterable[Probe], timeout: float = ground.PATIENCE) -> dict[Probe, str]:
        """What came of each probe, to whoever stands for its address."""
        here = self._here
        sent = {probe._replace(ip=here[probe.ip]): probe for probe in probes}
        return {sent[probe]: result for probe, result in super().ask(sent, timeout).items()}


def _is_v6(address: str) -> bool:
    return ":" in address


def _anew(pod: Pod, wanted: Mapping[str, Pod], key: str) -> bool:
    """It is not wanted, or only as another."""
    other = wanted.get(key)
    return other is None or msgspec.structs.replace(other, labels=pod.labels) != pod


@contextmanager
def staged(lab: Lab, host_of: Callable[[Pod], str], **more: Any) -> Iterator[ClusterStage]:
    """A stage that is gone with the block."""
    stage = ClusterStage(lab, host_of, **more)
    try:
        yield stage
    finally:
        stage.close()
