"""The oracle: Kubernetes' own answers to who reaches whom, as data.

`cases(family)` gives the 230 cases of NetworkPolicy, step by step; `conformance()` the 24 tests
of ClusterNetworkPolicy. Both are told as manifests and pods, for the kernel, and as objects, for
whatever works on objects. See the README beside the data.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import yaml

from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    NamedPort,
    Namespace,
    Node,
    NodeSpec,
)
from plait.model.policies import Peer, Policy, PolicySpec, Rule
from plait.model.selectors import Selector
from plait.policy.kubernetes import to_policy

ORACLE = Path(os.environ.get("PLAIT_ORACLE", Path(__file__).parents[3] / "shared/oracle"))
needs_oracle = pytest.mark.skipif(
    not (ORACLE / "README.md").exists(), reason=f"there is no oracle data at {ORACLE}"
)
NETWORK = "oracle"
"""Network of all pods."""
NODE = "node-1"
"""Node of the pods of the NetworkPolicy cases, which do not depend on it."""

Family = Literal[4, 6]
Manifest = dict[str, Any]


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that is to be there."""

    namespace: str
    name: str
    ip: str
    labels: dict[str, str]
    ports: tuple[NamedPort, ...] = ()
    """What it serves, by name; unnamed ones are in `listens`."""
    listens: tuple[tuple[str, int], ...] = ()
    """Protocols (lower case) and ports that it serves."""
    node: str = NODE
    other: str = ""
    """Its address of the other family, where it has both."""

    @property
    def key(self) -> str:
        """`x/a`."""
        return f"{self.namespace}/{self.name}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that it has, IPv4 before IPv6."""
        return (self.ip, self.other) if self.other else (self.ip,)

    def speaking_to(self, address: str) -> str:
        """Its own address of the family of that one."""
        return next(own for own in self.addresses if (":" in own) == (":" in address))

    def endpoint(self) -> Endpoint:
        """As an object."""
        return Endpoint(
            metadata=Metadata(name=self.name, namespace=self.namespace, labels=self.labels),
            spec=EndpointSpec(
                node=self.node,
                network=NETWORK,
                name=self.name,
                addresses=self.addresses,
                named_ports=self.ports,
            ),
        )


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, and what must become of it."""

    src: str
    dst: str
    """Key of a pod."""
    protocol: str
    """Upper case."""
    port: int
    allowed: bool
    address: str = ""
    """Of the receiver; of pods on the host's network it is the node's."""
    egress: bool | None = None
    """What the sender's policies say of it, where that is known."""
    ingress: bool | None = None

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst} {self.port}/{self.protocol.lower()}"


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is there at one moment, and probes of it."""

    name: str
    namespaces: dict[str, dict[str, str]]
    """Labels by name."""
    pods: dict[str, Pod]
    """By key."""
    policies: dict[str, Manifest]
    """Manifests of Kubernetes, by kind, namespace and name."""
    probes: tuple[Probe, ...]
    """Without those of a pod to itself, which are undefined."""
    nodes: dict[str, Node] = {}
    own: tuple[Policy, ...] = ()
    """Policies of ours that make the default what Kubernetes has."""

    def objects(self) -> list[AnyObject]:
        """As objects of ours."""
        return [
            *(
                Namespace(metadata=Metadata(name=name, labels=labels))
                for name, labels in self.namespaces.items()
            ),
            *self.nodes.values(),
            *(pod.endpoint() for pod in self.pods.values()),
            *map(to_policy, self.policies.values()),
            *self.own,
        ]


# NetworkPolicy


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One of the 230."""

    id: int
    description: str
    tags: tuple[str, ...]
    family: Family
    data: dict[str, Any]

    @property
    def uses_end_port(self) -> bool:
        """It has ranges of ports, which Kubernetes has since 1.21."""
        return "endPort" in json.dumps(self.data["steps"])

    def scenes(self) -> Iterator[Scene]:
        """Its steps, in order; each holds whatever is there after its changes."""
        state = _fixture(self.family)
        for number, step in enumerate(self.data["steps"], 1):
            for change in step["changes"] or ():
                _CHANGES[change["op"]](state, change)
            yield Scene(
                name=f"{self.id}.{number} {self.description}",
                namespaces=dict(state.namespaces),
                pods=dict(state.pods),
                policies=dict(state.policies),
                probes=tuple(_probes(step)),
            )


@functools.cache
def cases(family: Family) -> tuple[Case, ...]:
    """All cases of a family; none where the data is absent."""
    path = ORACLE / f"networkpolicy_v{family}.jsonl"
    if not path.exists():
        return ()
    rows = map(json.loads, path.read_text().splitlines())
    return tuple(
        Case(
            id=row["id"],
            description=row["description"],
            tags=tuple(row["tags"]),
            family=family,
            data=row,
        )
        for row in rows
    )


def pairs() -> tuple[tuple[Case, Case], ...]:
    """Every case, in both families."""
    return tuple(zip(cases(4), cases(6), strict=True))


def dual_scenes(four: Case, six: Case) -> Iterator[Scene]:
    """The steps of a case between pods that have the addresses of both families.

    Where the policies name no addresses, both families are asked of one and the same scene. Every
    probe says its receiver's address.
    """
    for by_four, by_six in zip(four.scenes(), six.scenes(), strict=True):
        pods = {
            key: msgspec.structs.replace(pod, other=by_six.pods[key].ip)
            for key, pod in by_four.pods.items()
        }
        both = (by_four, by_six)
        same = by_four.policies == by_six.policies
        for scene, asked in [(by_four, both)] if same else [(each, (each,)) for each in both]:
            probes = tuple(
                msgspec.structs.replace(probe, address=each.pods[probe.dst].ip)
                for each in asked
                for probe in each.probes
            )
            yield msgspec.structs.replace(scene, pods=pods, probes=probes)


class _State(msgspec.Struct):
    namespaces: dict[str, dict[str, str]]
    pods: dict[str, Pod]
    policies: dict[str, Manifest]
    serve: tuple[NamedPort, ...]


@functools.cache
def _fixture_data(family: Family) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((ORACLE / f"fixture_v{family}.yaml").read_text())
    return found


def _fixture(family: Family) -> _State:
    data = _fixture_data(family)
    serve = tuple(
        NamedPort(name=c["PortName"], protocol=c["Protocol"].lower(), port=c["Port"])
        for c in data["containers_each_pod"]
    )
    state = _State(dict(data["namespaces"]), {}, {}, serve)
    for pod in data["pods"]:
        _create_pod(state, pod)
    return state


def _create_pod(state: _State, change: Mapping[str, Any]) -> None:
    pod = Pod(
        namespace=change["namespace"],
        name=change["name"],
        ip=change["ip"],
        labels=change["labels"],
        ports=state.serve,
        listens=tuple((p.protocol, p.port) for p in state.serve),
    )
    state.pods[pod.key] = pod


def _delete_pod(state: _State, change: Mapping[str, Any]) -> None:
    del state.pods[f"{change['namespace']}/{change['name']}"]


def _set_pod_labels(state: _State, change: Mapping[str, Any]) -> None:
    key = f"{change['namespace']}/{change['name']}"
    state.pods[key] = msgspec.structs.replace(state.pods[key], labels=change["labels"])


def _set_namespace(state: _State, change: Mapping[str, Any]) -> None:
    state.namespaces[change["name"]] = change["labels"]


def _delete_namespace(state: _State, change: Mapping[str, Any]) -> None:
    name = change["name"]
    del state.namespaces[name]
    state.pods = {k: p for k, p in state.pods.items() if p.namespace != name}
    state.policies = {
        k: m for k, m in state.policies.items() if m["metadata"].get("namespace") != name
    }


def _put_policy(state: _State, change: Mapping[str, Any]) -> None:
    # Some are told without what they are.
    manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        **change["policy"],
    }
    state.policies[manifest_key(manifest)] = manifest


def _delete_policy(state: _State, change: Mapping[str, Any]) -> None:
    del state.policies[f"NetworkPolicy/{change['namespace']}/{change['name']}"]


_CHANGES = {
    "create_policy": _put_policy,
    "update_policy": _put_policy,
    "delete_policy": _delete_policy,
    "create_pod": _create_pod,
    "delete_pod": _delete_pod,
    "set_pod_labels": _set_pod_labels,
    "create_namespace": _set_namespace,
    "delete_namespace": _delete_namespace,
    "set_namespace_labels": _set_namespace,
}


def manifest_key(manifest: Manifest) -> str:
    """`NetworkPolicy/x/base`."""
    meta = manifest["metadata"]
    return f"{manifest['kind']}/{meta.get('namespace', '')}/{meta['name']}"


def _probes(step: Mapping[str, Any]) -> Iterator[Probe]:
    order = step["order"]
    for table in step["expected"]:
        for i, src in enumerate(order):
            for j, dst in enumerate(order):
                if i != j:
                    yield Probe(
                        src=src,
                        dst=dst,
                        protocol=table["protocol"],
                        port=table["port"],
                        allowed=table["combined"][i][j] == ".",
                        egress=table["egress"][i][j] == ".",
                        ingress=table["ingress"][i][j] == ".",
                    )


# ClusterNetworkPolicy

OPEN_HOSTS = Policy(
    metadata=Metadata(name="open-hosts"),
    spec=PolicySpec(
        tier="baseline",
        priority=1000,
        egress=(Rule(peers=(Peer(nodes=Selector()),)),),
        description="Kubernetes lets a pod reach its own host; Plait does when a policy says so.",
    ),
)
"""The tests of node peers pass on to a default that is open, which ours is not."""


class Conformance(msgspec.Struct, frozen=True, kw_only=True):
    """One of the 24 tests of ClusterNetworkPolicy."""

    name: str
    data: dict[str, Any]

    def scenes(self) -> Iterator[Scene]:
        """One for each change, with the probes that follow it up to the next."""
        fixture = _conformance_fixture()
        namespaces = dict(fixture.namespaces)
        policies = {manifest_key(m): m for m in self.data["initial_policies"]}
        for number, subtest in enumerate(self.data["subtests"], 1):
            probes: list[Probe] = []
            scene = 0
            for event in (*subtest["events"], None):
                if event is not None and "poke" in event:
                    probes.append(_poke(event["poke"]))
                    continue
                if probes:
                    scene += 1
                    yield msgspec.structs.replace(
                        fixture,
                        name=f"{self.name}.{number}.{scene}",
                        namespaces=dict(namespaces),
                        policies=dict(policies),
                        probes=tuple(probes),
                        own=(OPEN_HOSTS,) if "Node" in self.name else (),
                    )
                    probes = []
                if event is not None:
                    _happen(event, namespaces, policies)


def _happen(
    event: Mapping[str, Any], namespaces: dict[str, dict[str, str]], policies: dict[str, Manifest]
) -> None:
    ((kind, what),) = event.items()
    if kind == "update_cnp":
        policies[manifest_key(what)] = what
    elif kind == "set_namespace_labels":
        namespaces[what["name"]] = {
            **what["labels"],
            "kubernetes.io/metadata.name": what["name"],
        }
    elif kind == "delete_networkpolicy":
        del policies[f"NetworkPolicy/{what}"]
    else:
        raise AssertionError(f"an event of an unknown kind: {kind}")


def _poke(poke: Mapping[str, Any]) -> Probe:
    return Probe(
        src=poke["from"],
        dst=poke["to"],
        address=poke["to_ip"],
        protocol=poke["protocol"].upper(),
        port=poke["port"],
        allowed=poke["connect"],
    )


@functools.cache
def conformance() -> tuple[Conformance, ...]:
    """All tests, by name; none where the data is absent."""
    found = []
    for path in sorted((ORACLE / "clusternetworkpolicy").glob("*.yaml")):
        data = yaml.safe_load(path.read_text())
        if "short_name" in data:
            found.append(Conformance(name=data["short_name"], data=data))
    return tuple(found)


@functools.cache
def _conformance_fixture() -> Scene:
    data = yaml.safe_load((ORACLE / "clusternetworkpolicy/00-fixture.yaml").read_text())
    addresses = sorted({pod["node_ip"] for pod in data["pods"]})
    names = {address: f"node-{i}" for i, address in enumerate(addresses, 1)}
    nodes = {
        name: Node(
            metadata=Metadata(name=name, labels={"kubernetes.io/os": "linux"}),
            spec=NodeSpec(addresses=(f"{address}/24",)),
        )
        for address, name in names.items()
    }
    pods = [
        Pod(
            namespace=pod["namespace"],
            name=pod["name"],
            ip=pod["ip"],
            labels=pod["labels"],
            ports=tuple(
                NamedPort(
                    name=port["name"],
                    protocol=port["protocol"].lower(),
                    port=port["containerPort"],
                )
                for container in pod["containers"]
                for port in container.get("ports", ())
            ),
            listens=tuple(_listens(pod["containers"])),
            node=names[pod["node_ip"]],
        )
        for pod in data["pods"]
        if not pod["hostNetwork"]
    ]
    return Scene(
        name="",
        namespaces={name: made["metadata"]["labels"] for name, made in data["namespaces"].items()},
        pods={pod.key: pod for pod in pods},
        policies={},
        probes=(),
        nodes=nodes,
    )


def _listens(containers: list[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """What the commands of `agnhost` listen on."""
    for container in containers:
        words = container.get("command", "").split()
        for env in container.get("env", ()):
            if env["name"].startswith("SERVE_SCTP_PORT_"):
                yield "sctp", int(env["name"].rpartition("_")[2])
        if "serve-hostname" in words:
            protocol = "udp" if "--udp" in words else "tcp"
            yield protocol, int(words[words.index("--port") + 1])
        if "netexec" in words:
            yield "tcp", int(words[words.index("--http-port") + 1])
            yield "udp", int(words[words.index("--udp-port") + 1])
