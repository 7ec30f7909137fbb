"""Services between the snapshot and the desired state: what is recomputed, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.agent.desired import Input, Underlay
from plait.agent.snapshot import Snapshot
from plait.agent.state import Identity, State
from plait.agent.sync import touched
from plait.client.agent import AttachRequest, LocalEndpoint
from plait.model.hoststate import HostState
from plait.model.objects import (
    LEAVING_LABEL,
    Condition,
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Node,
    NodeStatus,
    Pod,
    Service,
    Workload,
)
from plait.model.pods import PodSpec
from plait.model.selectors import Selector
from plait.model.service_table import BackendAddress, Frontend, ServiceTable
from plait.model.services import (
    EndpointSliceSpec,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

WEB = Frontend("10.96.0.1", "tcp", 80)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> State:
    made = State(
        Identity(name="h1", uid="u"),
        tmp_path / "journal",
        clock=clock,
        wall=clock,
        cool_down=60.0,
    )
    made.underlay = Underlay(interface="eth0", addresses=("192.0.2.1/24",))
    made.open("boot")
    made.snapshot.begin()
    made.snapshot.synced(1)
    return made


def service(revision: int, selector: Selector | None = None) -> Service:
    return Service(
        metadata=Metadata(name="web", namespace="shop", revision=revision),
        spec=ServiceSpec(
            addresses=(WEB.address,), ports=(ServicePort(port=80),), selector=selector
        ),
    )


def backends(table: ServiceTable) -> tuple[BackendAddress, ...]:
    entry = table.frontends.get(WEB)
    assert entry is not None
    return entry.inside.backends


def slices(revision: int, *addresses: str) -> EndpointSlice:
    return EndpointSlice(
        metadata=Metadata(name="web-1", namespace="shop", revision=revision),
        spec=EndpointSliceSpec(
            service="web",
            ports=(SlicePort(port=8080),),
            endpoints=tuple(SliceEndpoint(addresses=(address,)) for address in addresses),
        ),
    )


def test_a_change_of_services_leaves_all_else_alone(state: State) -> None:
    state.snapshot.put(service(2))
    state.snapshot.put(slices(3, "10.1.0.1"))
    before = state.compute()
    assert before is not None
    assert len(before.services.frontends) == 1
    assert state.compute() is before
    state.snapshot.put(slices(4, "10.1.0.1", "10.1.0.2"))
    state.mark(("policy", "services"))
    after = state.compute()
    assert after is not None
    assert after.services is not before.services
    assert after.services.serial > before.services.serial
    assert after.links is before.links
    assert after.filter is before.filter
    assert after.policy is before.policy


def test_backends_of_this_host_are_those_that_are_identified(state: State) -> None:
    state.snapshot.put(service(2, Selector(match_labels={"app": "web"})))

    def put(identified: bool) -> None:
        state.put(
            LocalEndpoint(
                request=AttachRequest(
                    id="e1",
                    namespace="shop",
                    name="web",
                    labels={"app": "web"},
                    network=ServiceSpec().network,
                    identified=identified,
                ),
                interface="pl0",
                addresses=("10.1.0.9",),
                mac="02:00:00:00:00:01",
            )
        )

    def backends() -> tuple[BackendAddress, ...]:
        entry = state.view().services.frontends.get(WEB)
        assert entry is not None
        return entry.inside.backends

    put(identified=False)
    assert backends() == ()
    put(identified=True)
    assert backends() == (BackendAddress("10.1.0.9", 80),)
    state.fence(frozenset(("e1",)))
    assert backends() == ()
    state.fence(frozenset())
    assert len(backends()) == 1
    state.remove("e1")
    assert backends() == ()


def test_a_host_that_is_about_to_go_is_not_eligible(state: State) -> None:
    def node(revision: int, **labels: str) -> Node:
        return Node(metadata=Metadata(name="h1", labels=labels, revision=revision))

    assert state.eligible
    state.snapshot.put(node(2, **{LEAVING_LABEL: ""}))
    assert not state.eligible
    state.snapshot.put(node(3))
    assert state.eligible
    state.forgotten = True
    assert not state.eligible


def test_the_kernel_is_behind_since_the_first_change_that_it_lacks(
    state: State, clock: Clock
) -> None:
    told: list[float | None] = [state.behind]
    state.bring()
    told.append(state.behind)
    state.mark(("services",))
    clock.now += 3
    state.mark(("services",))
    clock.now += 4
    told.append(state.behind)
    state.bring()
    told.append(state.behind)
    assert told == [None, 0.0, 7.0, 0.0]


def pod(revision: int, node: str, **spec: object) -> Pod:
    return Pod(
        metadata=Metadata(name="web-0", namespace="shop", revision=revision, labels={"a": "b"}),
        spec=PodSpec(**{"uid": "u1", "node": node, "addresses": ("10.1.0.9",), **spec}),  # type: ignore[arg-type]
    )


def test_of_pods_of_other_nodes_is_kept_what_services_need() -> None:
    snapshot = Snapshot(node="h1")
    snapshot.begin()
    snapshot.put(pod(1, "h2"))
    assert not snapshot.pods
    snapshot.put(pod(2, ""))
    assert len(snapshot.pods) == 1
    snapshot.synced(2)
    snapshot.put(pod(3, "h1"))
    assert len(snapshot.pods) == 1
    snapshot.put(pod(4, "h2"))
    assert not snapshot.pods
    assert snapshot.revision == 4
    (kept,) = snapshot
    assert kept == Pod(
        metadata=Metadata(name="web-0", namespace="shop", revision=4),
        spec=PodSpec(uid="u1", node="h2"),
    )
    again = pod(4, "h2")
    assert snapshot.put(again) is again
    assert snapshot.delete(pod(4, "h2"), 5) == kept
    assert not len(snapshot)


def test_a_pod_elsewhere_that_is_on_its_way_out_gets_no_flows(state: State) -> None:
    state.snapshot.put(service(2, Selector(match_labels={"app": "web"})))
    state.snapshot.put(
        Endpoint(
            metadata=Metadata(name="e2", namespace="shop", labels={"app": "web"}, revision=3),
            spec=EndpointSpec(
                node="h2",
                network=ServiceSpec().network,
                addresses=("10.1.0.9",),
                workload=Workload(pod="u1"),
            ),
            status=EndpointStatus(phase="ready"),
        )
    )

    def backends(told: Pod) -> int:
        inputs: set[Input] = set()
        former = state.snapshot.put(told)
        touched(told, former, inputs, set())
        assert inputs == {"services"}
        state.mark(inputs)
        entry = state.view().services.frontends.get(WEB)
        assert entry is not None
        return len(entry.inside.backends)

    assert backends(pod(4, "h2", ready=True)) == 1
    assert backends(pod(5, "h2", ready=False)) == 0
    assert backends(pod(6, "h2", ready=True)) == 1
    assert backends(pod(7, "h2", ready=False, terminating=True)) == 0


def test_how_a_container_elsewhere_is_matters_to_services_only(state: State) -> None:
    def told(revision: int, condition: Condition) -> Endpoint:
        return Endpoint(
            metadata=Metadata(
                name="e2", namespace="shop", labels={"app": "web"}, revision=revision
            ),
            spec=EndpointSpec(node="h2", network=ServiceSpec().network, addresses=("10.1.0.9",)),
            status=EndpointStatus(phase="ready", condition=condition),
        )

    state.snapshot.put(service(2, Selector(match_labels={"app": "web"})))
    former = told(3, "")
    state.snapshot.put(former)
    before = state.compute()
    inputs: set[Input] = set()
    touched(told(4, "unhealthy"), former, inputs, set())
    assert inputs == {"services"}
    state.snapshot.put(told(4, "unhealthy"))
    state.mark(inputs)
    after = state.compute()
    assert before is not None
    assert after is not None
    assert after.policy is before.policy
    assert state.balancer.backends("shop", "web")[0].condition == "unhealthy"
    assert not backends(after.services)


def test_how_a_container_here_is_changes_no_rule_of_its_own(state: State) -> None:
    def is_now(condition: Condition) -> HostState:
        state.put(
            LocalEndpoint(
                request=AttachRequest(
                    id="e1",
                    network=ServiceSpec().network,
                    namespace="shop",
                    labels={"app": "web"},
                    condition=condition,
                ),
                addresses=("10.1.0.5",),
                mac="02:00:00:00:00:01",
                interface="pl1",
                phase="ready",
            )
        )
        want = state.compute()
        assert want is not None
        return want

    state.snapshot.put(service(2, Selector(match_labels={"app": "web"})))
    before = is_now("")
    assert backends(before.services)
    after = is_now("paused")
    assert not backends(after.services)
    assert after.policy is before.policy
    assert (after.filter, after.links) == (before.filter, before.links)
    assert backends(is_now("").services)
    state.remove("e1")
    assert not state.balancer.backends("shop", "web")


def test_what_services_do_not_need_of_a_pod_changes_nothing() -> None:
    inputs: set[Input] = set()
    touched(pod(2, "h2", addresses=()), pod(1, "h2"), inputs, set())
    assert not inputs


def test_a_heartbeat_changes_nothing_and_silence_does() -> None:
    def node(**status: object) -> Node:
        return Node(metadata=Metadata(name="h2"), status=NodeStatus(**status))  # type: ignore[arg-type]

    inputs: set[Input] = set()
    touched(node(last_seen="2026-01-01T00:00:20Z"), node(), inputs, set())
    assert not inputs
    touched(node(silent=True), node(), inputs, set())
    assert "services" in inputs
