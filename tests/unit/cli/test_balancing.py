"""`plait service` over a server in memory, and the words that it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plait.__main__ import plait
from plait.cli import frame
from plait.cli.service_words import parse_backend, parse_ports, tally
from plait.model.meta import ORIGIN
from plait.model.objects import (
    Endpoint,
    EndpointSlice,
    EndpointStatus,
    Metadata,
    Object,
    Service,
    object_key,
)
from plait.model.policies import Peer, Policy, PolicySpec, Rule, ServiceRef
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.services.backends import Backend

Out = pytest.CaptureFixture[str]


def run(*args: str, code: int = 0) -> None:
    assert frame.run(plait, list(args)) == code


def stored(server: Any, name: str = "web", namespace: str = "shop") -> Service:
    found = server.objects[object_key(Service, name, namespace)]
    assert isinstance(found, Service)
    return found


@pytest.fixture
def web(shop: Any) -> Any:
    """The shop, its endpoints front and api ready, with a service for all that have a label."""
    for obj in list(shop.objects.values()):
        if isinstance(obj, Endpoint) and obj.spec.name in ("front", "api"):
            shop.put(msgspec.structs.replace(obj, status=EndpointStatus(phase="ready")))
    run("service", "create", "web", "-n", "shop", "--selector", "app=front", "--port", "80:8080")
    return shop


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        (["80"], (ServicePort(port=80),)),
        (["80:8080"], (ServicePort(port=80, target_port=8080),)),
        (["80:http/TCP"], (ServicePort(port=80, target_port="http"),)),
        (["web=80@30080"], (ServicePort(port=80, name="web", node_port=30080),)),
        (
            ["53/udp", "dns=53:5353/tcp@30053"],
            (
                ServicePort(port=53, name="udp-53", protocol="UDP"),
                ServicePort(port=53, name="dns", target_port=5353, node_port=30053),
            ),
        ),
    ],
)
def test_ports_are_read(words: list[str], ports: tuple[ServicePort, ...]) -> None:
    assert parse_ports(words) == ports


@pytest.mark.parametrize("word", ["", "x", "80:", "80/icmp", "80@", "-1", "80:-", "٨٠"])
def test_other_words_are_no_ports(word: str) -> None:
    with pytest.raises(ValueError, match="is no port; write 80"):
        parse_ports([word])


@pytest.mark.parametrize(
    ("word", "backend"),
    [
        ("10.1.2.3", FixedBackend(address="10.1.2.3")),
        ("10.1.2.3:80", FixedBackend(address="10.1.2.3", port=80)),
        ("fd00::1", FixedBackend(address="fd00::1")),
        ("[fd00::1]:80", FixedBackend(address="fd00::1", port=80)),
        ("[fd00::1]", FixedBackend(address="fd00::1")),
    ],
)
def test_backends_are_read(word: str, backend: FixedBackend) -> None:
    assert parse_backend(word) == backend


@pytest.mark.parametrize(
    "word",
    ["", ":80", "10.1.2.3:", "10.1.2.3:0", "10.1.2.3:65536", "[fd00::1", "[fd00::1]:", "a:b"],
)
def test_other_words_are_no_backends(word: str) -> None:
    with pytest.raises(ValueError, match="is no backend; write"):
        parse_backend(word)


def test_who_has_an_address_of_each_family_counts_once() -> None:
    both = [Backend("10.1.0.1", ()), Backend("fd00::1", ()), Backend("fd00::2", (), ready=False)]
    assert tally(both) == (1, 2)
    assert tally([]) == (0, 0)


def test_create_says_what_was_made(shop: Any, capsys: Out) -> None:
    run(
        *("service", "create", "web", "-n", "shop", "--selector", "app=front,tier=a"),
        *("--endpoint", "front", "--port", "80:8080@30080", "--type", "node", "--affinity", "3h"),
        *("--external-traffic", "local", "--prefer", "site", "--address", "10.111.0.7"),
    )
    spec = stored(shop).spec
    assert spec.selector is not None
    assert spec.selector.match_labels == {"app": "front", "tier": "a"}
    assert [one.key for one in spec.selector.match_expressions] == ["name.plait/front"]
    assert (spec.type, spec.affinity_seconds) == ("NodePort", 10800)
    assert (spec.external_traffic, spec.internal_traffic, spec.prefer) == (
        "Local",
        "Cluster",
        "site",
    )
    out = capsys.readouterr().out
    assert "service web created: 10.111.0.7" in out
    assert "port 80 is 30080 on every host" in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--selector", "app=web"], "say which port"),
        (["--port", "80"], "say who its backends are"),
        (["--port", "x", "--selector", "app=web"], "`x` is no port"),
        (["--port", "80", "--selector", "app"], "KEY=VALUE"),
        (["--port", "80", "--selector", "a=b", "--backend", "10.0.0.1"], "not both"),
        (["--port", "80@30080", "--selector", "a=b"], "needs --type node or --type balancer"),
        (["--port", "80", "--selector", "a=b", "--source", "10.0.0.0/8"], "--source needs --type"),
        (["--alias", "a.example", "--type", "node"], "no ports and no backends"),
        (["--alias", "a.example", "--selector", "a=b", "--port", "80"], "no ports and no backends"),
    ],
)
def test_half_a_service_is_refused(shop: Any, capsys: Out, words: list[str], why: str) -> None:
    run("service", "create", "web", *words, code=2)
    assert why in capsys.readouterr().err
    assert not any(isinstance(obj, Service) for obj in shop.objects.values())


def test_an_alias_needs_nothing_else(shop: Any, capsys: Out) -> None:
    run("service", "create", "web", "-n", "shop", "--alias", "search.example.com")
    assert stored(shop).spec.type == "ExternalName"
    run("service", "show", "web", "-n", "shop")
    assert "Backends" not in capsys.readouterr().out


def test_the_list_tells_how_many_are_ready(web: Any, capsys: Out) -> None:
    web.put(
        Service(
            metadata=Metadata(name="fixed", namespace="ops"),
            spec=ServiceSpec(
                ports=(ServicePort(port=1),), backends=(FixedBackend(address="192.0.2.1"),)
            ),
        )
    )
    run("service", "create", "slow", "-n", "shop", "--selector", "app=db", "--port", "5432")
    capsys.readouterr()
    run("service", "ls")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert {(row[0], row[1], row[-2]) for row in rows} == {
        ("fixed", "ops", "1/1"),
        ("slow", "shop", "0/1"),
        ("web", "shop", "1/1"),
    }
    run("service", "ls", "-n", "ops", "--json")
    assert [one["metadata"]["name"] for one in json.loads(capsys.readouterr().out)["items"]] == [
        "fixed"
    ]


def test_show_names_the_backends(web: Any, capsys: Out) -> None:
    run("service", "show", "web", "-n", "shop")
    out = capsys.readouterr().out
    assert "Backends (1 of 1 ready)" in out
    assert out.splitlines()[-2].split() == ["10.112.0.1", "8080/tcp", "front", "h1", "-", "ready"]
    run("service", "show", "web", "-n", "shop", "--json")
    told = json.loads(capsys.readouterr().out)
    assert {one["address"] for one in told["backends"]} == {"10.112.0.1", "fd00::1"}


def test_show_tells_of_a_port_that_no_backend_has(web: Any, capsys: Out) -> None:
    run("service", "create", "named", "-n", "shop", "--selector", "app=front", "--port", "80:nope")
    capsys.readouterr()
    run("service", "show", "named", "-n", "shop")
    told = capsys.readouterr()
    assert "no backend that is ready has a port `nope`: flows to port 80 are refused" in told.err


def test_set_changes_what_is_said(web: Any, capsys: Out) -> None:
    before = stored(web).spec
    run("service", "set", "web", "-n", "shop", "--affinity", "60s", "--label", "a=b")
    after = stored(web)
    assert after.spec == msgspec.structs.replace(before, affinity_seconds=60)
    assert after.metadata.labels == {"a": "b"}
    run("service", "set", "web", "-n", "shop", "--no-affinity", "--backend", "192.0.2.1:80")
    spec = stored(web).spec
    assert (spec.selector, spec.affinity_seconds) == (None, 0)
    assert spec.backends == (FixedBackend(address="192.0.2.1", port=80),)
    run("service", "set", "web", "-n", "shop", "--selector", "app=db")
    assert stored(web).spec.backends == ()
    capsys.readouterr()
    run("service", "set", "web", "-n", "shop", code=2)
    assert "say what to change" in capsys.readouterr().err


def test_rm_deletes(web: Any, capsys: Out) -> None:
    run("service", "rm", "web", "-n", "shop")
    run("service", "ls")
    assert "there is no service" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("rm", "web"), ("set", "web", "--affinity", "60s")])
def test_who_made_a_service_is_told_to_whoever_changes_it(
    web: Any, capsys: Out, words: tuple[str, ...]
) -> None:
    made = stored(web)
    origin = msgspec.structs.replace(made.metadata, annotations={ORIGIN: "kubernetes"})
    web.put(msgspec.structs.replace(made, metadata=origin))
    capsys.readouterr()
    run("service", *words, "-n", "shop")
    assert "service web comes from kubernetes" in " ".join(capsys.readouterr().err.split())


def test_describe_names_endpoints_slices_and_policies(web: Any, capsys: Out) -> None:
    peer = Peer(service=ServiceRef(name="web", namespace="shop"))
    web.put(
        Policy(
            metadata=Metadata(name="open"),
            spec=PolicySpec(ingress=(Rule(peers=(peer,)),)),
        )
    )
    run("describe", "svc", "web", "-n", "shop")
    out = capsys.readouterr().out
    assert "Endpoints (1)" in out
    assert "Policies (1)" in out
    web.put(Service(metadata=Metadata(name="web", namespace="shop"), spec=ServiceSpec()))
    web.put(
        EndpointSlice(
            metadata=Metadata(name="web-1", namespace="shop"),
            spec=EndpointSliceSpec(
                service="web", endpoints=(SliceEndpoint(addresses=("10.0.0.1",)),)
            ),
        )
    )
    run("describe", "svc", "web", "-n", "shop")
    out = capsys.readouterr().out
    assert "EndpointSlices (1)" in out
    assert "web-1" in out


@pytest.mark.parametrize("kind", ["services", "endpointslices", "pods"])
def test_get_has_a_table_for_each_kind(web: Any, kind: str, capsys: Out) -> None:
    run("get", kind, "-A")
    out, err = capsys.readouterr()
    assert ("NAME" in out) == (kind == "services")
    assert ("no " in err) != (kind == "services")


MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: x, labels: {a: b}}
spec:
  type: NodePort
  clusterIP: 10.96.0.7
  selector: {app: front}
  sessionAffinity: ClientIP
  internalTrafficPolicy: Local
  ports:
    - {name: http, port: 80, targetPort: http, nodePort: 30080}
    - {name: dns, port: 53, protocol: UDP, targetPort: "5353"}
status: {loadBalancer: {}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-x, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: "", port: 5432, protocol: TCP}]
endpoints:
  - addresses: [10.1.0.1]
    nodeName: h1
    zone: a
    targetRef: {kind: Pod, name: db-0}
    conditions: {ready: false, serving: true, terminating: true}
    hints: {forZones: [{name: a}]}
  - addresses: [10.1.0.2]
    conditions: {}
"""


def test_apply_takes_kubernetes_manifests(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    run("apply", "-f", str(tmp_path))
    web = stored(shop)
    assert web.spec == ServiceSpec(
        type="NodePort",
        selector=web.spec.selector,
        addresses=("10.96.0.7",),
        affinity_seconds=10800,
        internal_traffic="Local",
        ports=(
            ServicePort(name="http", port=80, target_port="http", node_port=30080),
            ServicePort(name="dns", port=53, protocol="UDP", target_port=5353),
        ),
    )
    found: Object = shop.objects[object_key(EndpointSlice, "db-x", "shop")]
    assert isinstance(found, EndpointSlice)
    assert found.spec == EndpointSliceSpec(
        service="db",
        ports=(SlicePort(port=5432),),
        endpoints=(
            SliceEndpoint(
                addresses=("10.1.0.1",),
                node="h1",
                site="a",
                pod="db-0",
                ready=False,
                terminating=True,
                for_sites=("a",),
            ),
            SliceEndpoint(addresses=("10.1.0.2",)),
        ),
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("port: 80,", "port: x,", "web.yaml:11"),
        ("type: NodePort", "type: Nodeport", "web.yaml:5"),
        ("addressType: IPv4", "addressType: FQDN", "write IPv4 or IPv6"),
        ("kubernetes.io/service-name", "service-name", "kubernetes.io/service-name"),
    ],
)
def test_mistakes_in_kubernetes_manifests_are_told_by_line(
    shop: Any, tmp_path: Path, capsys: Out, old: str, new: str, why: str
) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST.lstrip().replace(old, new))
    run("apply", "-f", str(tmp_path), code=1)
    err = capsys.readouterr().err
    assert "PLAIT-CLI-004" in err
    assert why in err
