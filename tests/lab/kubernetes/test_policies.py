"""NetworkPolicies applied with kubectl take effect, and the kubelet's probes go on."""

from __future__ import annotations

import pytest
from tests.lab.kubernetes.stage import DENY_ALL, PORT, Pod, Stage, authority, deployment, policy

pytestmark = pytest.mark.root

TO_DNS = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}


@pytest.fixture
def trio(stage: Stage) -> Stage:
    """A server, a friend and a stranger, on three nodes, who reach each other."""
    stage.deploy(
        *(
            deployment(name, pod={"nodeName": node})
            for name, node in (("web", "h1"), ("friend", "h2"), ("stranger", "h3"))
        )
    )
    assert reached(stage, "friend")
    assert reached(stage, "stranger")
    return stage


def reached(stage: Stage, client: str) -> bool:
    """Both families of the server answer the client; never one of them alone for long."""
    web, name = stage.pod("web"), stage.pod(client).name
    got = [stage.ask(name, authority(address, PORT)).server for address in web.addresses]
    return got == [web.name] * 2


def cut_off(stage: Stage, client: str) -> bool:
    web, name = stage.pod("web"), stage.pod(client).name
    return not any(stage.ask(name, authority(a, PORT)).server for a in web.addresses)


def probed(stage: Stage, pod: Pod) -> int:
    """Connections over TCP that came into the pod until now; nobody but the kubelet asks it."""
    said = stage.inside(pod, "cat", "/proc/net/snmp")
    names, values = (line.split() for line in said.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])


def test_isolation_takes_effect_and_ends(trio: Stage) -> None:
    trio.apply(policy("alone", "web", policyTypes=["Ingress"]))
    for client in ("friend", "stranger"):
        trio.until(f"{client} is kept out", lambda client=client: cut_off(trio, client))
    trio.kubectl("delete", "networkpolicy", "alone")
    for client in ("friend", "stranger"):
        trio.until(f"{client} is let in", lambda client=client: reached(trio, client))


def test_labels_decide_who_is_let_in(trio: Stage) -> None:
    peer = {"podSelector": {"matchLabels": {"app": "friend"}}}
    trio.apply(policy("friends", "web", ingress=[{"from": [peer], "ports": [{"port": "http"}]}]))
    trio.until("the stranger is kept out", lambda: cut_off(trio, "stranger"))
    assert reached(trio, "friend")
    trio.kubectl("label", "pod", trio.pod("stranger").name, "role=late")
    late = {"podSelector": {"matchLabels": {"role": "late"}}}
    trio.apply(
        policy("friends", "web", ingress=[{"from": [peer, late], "ports": [{"port": "http"}]}])
    )
    trio.until("the stranger is let in", lambda: reached(trio, "stranger"))


def test_namespaces_are_selected_by_their_labels(trio: Stage) -> None:
    trio.kubectl("label", "namespace", trio.namespace, "team=shop")
    peer = {"namespaceSelector": {"matchLabels": {"team": "shop"}}}
    trio.apply(policy("team", "web", ingress=[{"from": [peer]}]))
    trio.until("own namespace is let in", lambda: reached(trio, "friend"))
    trio.kubectl("label", "namespace", trio.namespace, "team-")
    trio.until("no longer", lambda: cut_off(trio, "friend"))


def test_what_leaves_is_ruled_too(trio: Stage) -> None:
    peer = {"podSelector": {"matchLabels": {"app": "friend"}}}
    trio.apply(policy("tied", "stranger", policyTypes=["Egress"], egress=[TO_DNS, {"to": [peer]}]))
    trio.until("the stranger cannot leave", lambda: cut_off(trio, "stranger"))
    assert reached(trio, "friend")
    friend, stranger = trio.pod("friend"), trio.pod("stranger")
    for address in friend.addresses:
        assert trio.ask(stranger.name, authority(address, PORT)).server == friend.name


def test_probes_of_the_kubelet_go_on_under_deny_all(stage: Stage) -> None:
    """Readiness and liveness over TCP and HTTP, of pods that began before the policy and after."""
    # A probe that is kept out fails at its timeout; one of a busy machine ends before.
    probe = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5}
    probes = {
        "readinessProbe": {"httpGet": {"path": "/cgi-bin/who", "port": PORT}, **probe},
        "livenessProbe": {"tcpSocket": {"port": PORT}, **probe},
    }
    stage.deploy(deployment("before", 3, spread=True, container=probes), deployment("client"))
    client = stage.pod("client").name
    stage.apply(DENY_ALL)
    target = stage.pods("before")[0]
    where = authority(target.addresses[0], PORT)
    stage.until("nobody gets in", lambda: not stage.ask(client, where).server)
    asked = {pod.name: probed(stage, pod) for pod in stage.pods("before")}
    stage.deploy(deployment("after", 3, spread=True, container=probes))
    for pod in stage.pods("before"):
        stage.until(
            f"{pod.name} is probed again and again",
            lambda pod=pod: probed(stage, pod) >= asked[pod.name] + 4,
        )
    for app in ("before", "after"):
        assert [(pod.ready, pod.restarts) for pod in stage.pods(app)] == [(True, 0)] * 3
    assert not stage.ask(client, where).server
