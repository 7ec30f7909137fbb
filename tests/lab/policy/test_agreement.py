"""Random networks and policies: evaluator, compiled rules and kernel say the same of every pair.

Each example is the next scene on one stage, so what is tried is a change from a random network to
another; the kernel must not care how it came to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.lab.policy.ground import OPEN, SHUT, TOLD, Outcomes, Probe
from tests.lab.policy.stage import Pod, Scene, Stage, network, staged
from tests.support import policies as drawn

from plait.lab.lab import Lab
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Endpoint, Group, Namespace, Node, Policy
from plait.policy import validate
from plait.policy.engine import Engine
from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flow import Flow
from plait.policy.walk import Packet, Walker
from plait.policy.world import World

pytestmark = pytest.mark.root

HOSTS: Final = ("h1", "h2", "h3")
LISTEN: Final = ("80/tcp", "81/tcp", "443/tcp", "80/udp", "81/udp", "80/sctp")
NOBODY_LISTENS: Final = 9
"""TCP port of hosts."""


class Drawn(msgspec.Struct, frozen=True):
    """A network that was drawn."""

    endpoints: tuple[Endpoint, ...]
    namespaces: dict[str, dict[str, str]]
    nodes: dict[str, dict[str, str]]
    rules: tuple[AnyObject, ...]
    """Policies and groups that the API takes."""

    def scene(self) -> Scene:
        return Scene(
            pods=tuple(map(pod, self.endpoints)),
            namespaces=self.namespaces,
            objects=self.rules,
            nodes=self.nodes,
        )


def pod(endpoint: Endpoint) -> Pod:
    meta, spec = endpoint.metadata, endpoint.spec
    return Pod(
        ident=meta.name,
        namespace=meta.namespace,
        name=spec.name,
        aliases=spec.aliases,
        host=spec.node,
        labels=meta.labels,
        addresses=spec.addresses,
        listen=LISTEN,
        named_ports=spec.named_ports,
        network=spec.network,
    )


def taken(obj: AnyObject) -> AnyObject | None:
    """As the API stores it; None if it refuses it."""
    try:
        if isinstance(obj, Policy):
            return msgspec.structs.replace(obj, spec=validate.policy(obj.spec))
        if isinstance(obj, Group):
            return msgspec.structs.replace(obj, spec=validate.group(obj.spec))
    except PlaitError:
        return None
    return obj


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    endpoints: list[Endpoint] = [
        draw(drawn.endpoints(slot, node=HOSTS[slot % len(HOSTS)])) for slot in drawn.SLOTS
    ]
    namespaces: list[Namespace] = [draw(drawn.namespaces(name)) for name in drawn.NAMESPACES]
    nodes: list[Node] = [draw(drawn.nodes(name)) for name in drawn.NODES]
    # A policy may name a group of this scene that the next one lacks, which the API would refuse.
    rules = [draw(drawn.groups(name)) for name in drawn.GROUPS]
    names = draw(st.lists(st.sampled_from(drawn.POLICIES), unique=True, min_size=1))
    rules += [draw(drawn.policies(name)) for name in names]
    return Drawn(
        endpoints=tuple(endpoints),
        namespaces={n.metadata.name: n.metadata.labels for n in namespaces},
        nodes={n.metadata.name: n.metadata.labels for n in nodes},
        rules=tuple(obj for rule in rules if (obj := taken(rule)) is not None),
    )


class Judges:
    """Evaluator and compiled rules."""

    def __init__(self, found: Drawn, nodes: tuple[Node, ...]) -> None:
        objects: list[AnyObject] = [
            drawn.NETWORK_OBJECT,
            *(
                msgspec.structs.replace(
                    node,
                    metadata=msgspec.structs.replace(
                        node.metadata, labels=found.nodes.get(node.metadata.name, {})
                    ),
                )
                for node in nodes
            ),
            *(
                Namespace(metadata=drawn.Metadata(name=name, labels=labels))
                for name, labels in found.namespaces.items()
            ),
            *found.endpoints,
            *found.rules,
        ]
        self.world = World.of(objects)
        self._walkers = {host: Walker(self._engine(host, objects).ruleset()) for host in HOSTS}

    @staticmethod
    def _engine(host: str, objects: list[AnyObject]) -> Engine:
        engine = Engine(host)
        for obj in objects:
            engine.put(obj)
            if isinstance(obj, Endpoint) and obj.spec.node == host:
                engine.set_local(obj.metadata.name, drawn.local(obj))
        return engine

    def verdict(self, src: str, dst: str, protocol: str, port: int) -> Verdict:
        flow = Flow(self.world.party(src), self.world.party(dst), protocol.upper(), port)
        return evaluate(self.world, flow, in_domain=lambda _patterns, _address: False)

    def expected(self, src: Endpoint, dst: Endpoint, ip: str, protocol: str, port: int) -> Outcomes:
        """What a probe between two endpoints must see; the compiled rules have to agree."""
        own = next(a for a in src.spec.addresses if (":" in a) == (":" in ip))
        verdict = self.verdict(own, ip, protocol, port)
        walked = (
            self._walkers[src.spec.node].walk(Packet("egress", own, ip, protocol, port)),
            self._walkers[dst.spec.node].walk(Packet("ingress", own, ip, protocol, port)),
        )
        said = (verdict.egress.allowed, verdict.ingress.allowed)
        assert tuple(outcome.accepted for outcome in walked) == said, verdict
        if verdict.allowed:
            return OPEN
        return refusal(verdict, protocol)


def refusal(verdict: Verdict, protocol: str) -> Outcomes:
    """How a sender learns that it is refused, if at all: the kernel limits how many ICMP errors it
    sends (icmp(7), icmp_ratelimit), TCP resets it does not."""
    side = verdict.ingress if verdict.egress.allowed else verdict.egress
    if not side.reject:
        return SHUT
    return TOLD if protocol == "tcp" else TOLD | SHUT


def probes(found: Drawn, judges: Judges, hosts: Mapping[str, str]) -> dict[Probe, Outcomes]:
    """Every pair of endpoints by every port, and every host from every endpoint."""
    expected = {}
    for src in found.endpoints:
        name = src.metadata.name
        for dst in found.endpoints:
            for ip in dst.spec.addresses if dst is not src else ():
                for text in LISTEN:
                    port, _, protocol = text.partition("/")
                    probe = Probe(name, ip, int(port), protocol)
                    expected[probe] = judges.expected(src, dst, ip, protocol, int(port))
        for ip in hosts:
            own = next(a for a in src.spec.addresses if (":" in a) == (":" in ip))
            verdict = judges.verdict(own, ip, "tcp", NOBODY_LISTENS)
            outcome = TOLD if verdict.allowed else refusal(verdict, "tcp")
            expected[Probe(name, ip, NOBODY_LISTENS, "tcp")] = outcome
    return expected


@pytest.fixture(scope="module")
def stage(policy_lab: Lab) -> Iterator[Stage]:
    with staged(policy_lab, network(drawn.NETWORK, *drawn.POOLS)) as made:
        yield made


def agree(stage: Stage, found: Drawn) -> None:
    stage.show(found.scene())
    nodes = stage.nodes()
    hosts = {
        address.partition("/")[0]: node.metadata.name
        for node in nodes
        for address in node.spec.addresses
    }
    judges = Judges(found, nodes)
    wrong = stage.wrong(probes(found, judges, hosts))
    assert not wrong, f"{len(wrong)} differ: " + "; ".join(map(str, wrong[:8])) + f"\n{found.rules}"


LAX: Final = settings(
    database=None,
    phases=[Phase.generate],  # to shrink takes minutes on a kernel; the walk's test does it
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@given(found=networks())
@settings(LAX, max_examples=12)
def test_the_kernel_agrees(stage: Stage, found: Drawn) -> None:
    agree(stage, found)


@pytest.mark.slow
@given(found=networks())
@settings(LAX, max_examples=200)
def test_the_kernel_agrees_at_length(stage: Stage, found: Drawn) -> None:
    agree(stage, found)
