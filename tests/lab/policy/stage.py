"""A lab whose pods, namespaces and policies are whatever a test says, and who reaches whom in it.

The whole scene is given each time; the stage makes the difference through the real API and the
agents' sockets, and waits until the kernel of every host follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec
from tests.lab.census import status, verbs
from tests.lab.conftest import eventually
from tests.lab.policy.ground import Ground, unrevised

from plait.client.agent import AttachRequest, EndpointIdentity
from plait.client.agent_socket import run as at_once
from plait.client.base import BatchOp
from plait.lab import workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    Endpoint,
    Metadata,
    NamedPort,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    Object,
    Workload,
)
from plait.model.selectors import NAMESPACE_NAME

IN_USE, STALE = "PLAIT-API-011", "PLAIT-API-006"


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that should be there."""

    namespace: str
    name: str
    host: str
    labels: dict[str, str]
    addresses: tuple[str, ...]
    listen: tuple[str, ...] = ()
    """`80/tcp`."""
    named_ports: tuple[NamedPort, ...] = ()
    network: str = "plait"
    aliases: tuple[str, ...] = ()
    ident: str = ""
    """Set where name and namespace are to change and the workload is to stay."""

    @property
    def key(self) -> str:
        """How probes name it."""
        return self.ident or f"{self.namespace}/{self.name}"

    @property
    def body(self) -> Pod:
        """What cannot be changed without making it anew."""
        return msgspec.structs.replace(
            self, labels={}, namespace="", name="", aliases=(), named_ports=()
        )


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that should be there."""

    pods: tuple[Pod, ...] = ()
    namespaces: dict[str, dict[str, str]] = {}
    """Labels by name."""
    objects: tuple[AnyObject, ...] = ()
    """Policies, groups."""
    nodes: dict[str, dict[str, str]] | None = None
    """Labels of hosts by name; None: as they are."""


def network(name: str, *pools: str) -> Network:
    """A network of fixed pools, in which every address is given on request."""
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools))


def key_of(obj: Object) -> str:
    """EndpointIdentity of an object on the stage; groups sort before policies."""
    return f"{type(obj).__name__} {obj.metadata.name}"


class Stage(Ground):
    """See the module's docstring."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._pods: dict[str, Pod] = {}
        self._begun: dict[str, WorkloadState] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._objects: dict[str, AnyObject] = {}

    def close(self) -> None:
        """Take everything away, and let go."""
        try:
            self.show(Scene())
        finally:
            super().close()

    # Making it so.

    def nodes(self) -> tuple[Node, ...]:
        """The hosts, as the server knows them."""
        return self._loop.run(self._api.list(Node))

    def label_nodes(self, nodes: Mapping[str, dict[str, str]]) -> None:
        """Label hosts; their agents write these objects too, so a write may come too late."""

        def labelled(host: str, labels: dict[str, str]) -> bool:
            node = self._loop.run(self._api.get(Node, host))
            if node.metadata.labels == labels:
                return True
            metadata = msgspec.structs.replace(node.metadata, labels=labels)
            try:
                self._loop.run(self._api.update(msgspec.structs.replace(node, metadata=metadata)))
            except PlaitError as error:
                if error.code != STALE:
                    raise
                return False
            return True

        for host, labels in nodes.items():
            eventually(f"{host} has labels", partial(labelled, host, labels))

    def show(self, scene: Scene) -> None:
        """Make it so; when this returns, every host's kernel follows."""
        wanted = {pod.key: pod for pod in scene.pods}
        for key in [k for k, pod in self._pods.items() if k not in wanted
                    or wanted[k].body != pod.body]:  # fmt: skip
            self._remove(key)
        self.write(*self._changes(scene))
        self.label_nodes(scene.nodes or {})
        empty = self._namespaces.keys() - scene.namespaces.keys()
        self._namespaces = dict(scene.namespaces)
        self._objects = {key_of(obj): obj for obj in scene.objects}
        touched = [pod for pod in scene.pods if self._pods.get(pod.key) != pod]
        for pod in touched:
            self._make(pod)
        if touched:
            unknown: list[str] = []
            eventually("the server knows", lambda: self._known(touched, unknown), unknown)
        for name in empty:
            eventually(f"{name} is empty", partial(self._unmake, name))
        self.enforced()

    def _changes(self, scene: Scene) -> Iterator[BatchOp]:
        for name, labels in scene.namespaces.items():
            if self._namespaces.get(name) != labels:
                # Every namespace has this one by itself.
                own = {key: value for key, value in labels.items() if key != NAMESPACE_NAME}
                made = Namespace(metadata=Metadata(name=name, labels=own))
                yield BatchOp(verb="update", object=made)
        objects = {key_of(obj): obj for obj in scene.objects}
        # A group goes after the policies that name it.
        for key, obj in sorted(self._objects.items(), reverse=True):
            if key not in objects:
                yield BatchOp(verb="delete", object=unrevised(obj))
        for key, obj in objects.items():
            if self._objects.get(key) != obj:
                yield BatchOp(verb="update", object=obj)

    def _unmake(self, namespace: str) -> bool:
        """Delete a namespace; not as long as the server knows of an endpoint in it."""
        try:
            self.delete(Namespace(metadata=Metadata(name=namespace)))
        except PlaitError as error:
            if error.code != IN_USE:
                raise
            return False
        return True

    @contextmanager
    def beginning(self, pod: Pod) -> Iterator[WorkloadState]:
        """The workload of a pod that a later `show` attaches, already running; its end is that of
        the pod, or of the block if no scene has had it."""
        load = self._start(pod)
        self._begun[pod.key] = load
        try:
            yield load
        finally:
            if self._begun.pop(pod.key, None) is not None:
                workloads.kill(load)

    def _start(self, pod: Pod) -> WorkloadState:
        # Its name may be given to another while it runs; its process is called by what stays.
        return workloads.start(self.lab, pod.host, pod.ident or pod.name, pod.listen, pod.namespace)

    def _remove(self, key: str) -> None:
        load = self._loads.pop(key)
        del self._pods[key]
        at_once(verbs(self.lab, load.host).detach(load.endpoint))
        workloads.kill(load)

    def _make(self, pod: Pod) -> None:
        """Attach it, or say who it is now."""
        agent = verbs(self.lab, pod.host)
        load = self._loads.get(pod.key)
        if load is not None:
            at_once(
                agent.identify(
                    load.endpoint,
                    EndpointIdentity(
                        name=pod.name,
                        aliases=pod.aliases,
                        labels=pod.labels,
                        namespace=pod.namespace,
                        workload=Workload(runtime="lab"),
                        named_ports=pod.named_ports,
                    ),
                )
            )
            self._pods[pod.key] = pod
            return
        load = self._begun.pop(pod.key, None) or self._start(pod)
        ident = f"stage-{pod.key.replace('/', '-')}"
        try:
            made = at_once(
                agent.attach(
                    AttachRequest(
                        id=ident,
                        network=pod.network,
                        namespace=pod.namespace,
                        name=pod.name,
                        aliases=pod.aliases,
                        labels=pod.labels,
                        addresses=pod.addresses,
                        netns=f"/proc/{load.inner_pid}/ns/net",
                        workload=Workload(runtime="lab"),
                        named_ports=pod.named_ports,
                    )
                )
            )
        except BaseException:
            workloads.kill(load)
            raise
        self._pods[pod.key] = pod
        self._loads[pod.key] = msgspec.structs.replace(
            load, endpoint=ident, addresses=made.addresses, network=pod.network
        )

    def _known(self, pods: Sequence[Pod], unknown: list[str]) -> bool:
        stored = {
            (meta.name, meta.namespace): (meta.labels, spec.name, spec.aliases, spec.named_ports)
            for endpoint in self._loop.run(self._api.list(Endpoint))
            for meta, spec in ((endpoint.metadata, endpoint.spec),)
        }
        unknown.clear()
        for pod in pods:
            found = stored.get((self._loads[pod.key].endpoint, pod.namespace))
            if found != (pod.labels, pod.name, pod.aliases, pod.named_ports):
                said = status(self.lab, pod.host)
                unknown.append(f"{pod}: {found}; {said.problems if said else pod.host}")
        return not unknown

    # Looking at it.

    @property
    def pods(self) -> Mapping[str, Pod]:
        """Pods that run, by key."""
        return self._pods


@contextmanager
def staged(lab: Lab, *networks: Network) -> Iterator[Stage]:
    """A stage with these networks, gone with the block."""
    stage = Stage(lab)
    try:
        stage.put(*networks)
        yield stage
    finally:
        stage.close()
