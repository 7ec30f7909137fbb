"""Names of Services and pods, as Kubernetes' DNS specification has them, from inside of pods."""

from __future__ import annotations

import pytest
from tests.lab.kubernetes.stage import PORT, Stage, deployment, service

pytestmark = pytest.mark.root


@pytest.fixture
def named(stage: Stage) -> Stage:
    """A server behind a Service and behind a headless one, and a client."""
    stage.deploy(
        deployment("web", pod={"hostname": "one", "subdomain": "all"}), deployment("client")
    )
    stage.apply(service("web"), service("all", app="web", clusterIP="None"))
    return stage


def looked_up(stage: Stage, name: str) -> set[str]:
    """Addresses of a name, through the pod's own resolver configuration."""
    said = stage.execute(stage.pod("client").name, ["getent", "ahosts", name]).stdout
    return {line.split()[0] for line in said.splitlines()}


def dig(stage: Stage, *words: str) -> list[str]:
    said = stage.inside(
        stage.pod("client"), "dig", "+short", "+time=2", "+tries=1", "@169.254.1.1", *words
    )
    return sorted(said.split("\n")[:-1])


def test_a_service_is_known_by_every_form_of_its_name(named: Stage) -> None:
    ns, wanted = named.namespace, set(named.addresses("web"))
    for name in ("web", f"web.{ns}", f"web.{ns}.svc", f"web.{ns}.svc.cluster.local"):
        named.until(f"{name} means {wanted}", lambda name=name: looked_up(named, name) == wanted)
    answer = named.ask(named.pod("client").name, "web:80")
    assert answer.server == "one", answer


def test_a_name_that_is_not_there_is_not_waited_for(named: Stage) -> None:
    assert looked_up(named, "nothing") == set()
    said = named.inside(
        named.pod("client"), "dig", "+time=2", "+tries=1", "@169.254.1.1",
        f"nothing.{named.namespace}.svc.cluster.local",
    )  # fmt: skip
    assert "status: NXDOMAIN" in said


def test_ports_and_reverse_names_of_a_service(named: Stage) -> None:
    zone = f"{named.namespace}.svc.cluster.local"
    named.until(
        "SRV of the Service",
        lambda: (
            [line.split()[2:] for line in dig(named, "SRV", f"_http._tcp.web.{zone}")]
            == [["80", f"web.{zone}."]]
        ),
    )
    for address in named.addresses("web"):
        assert dig(named, "-x", address) == [f"web.{zone}."]


def test_a_pod_has_the_name_of_its_hostname_and_of_its_address(named: Stage) -> None:
    zone = f"{named.namespace}.svc.cluster.local"
    pod = named.pod("web")
    wanted = set(pod.addresses)
    named.until("the pod's hostname", lambda: looked_up(named, f"one.all.{zone}") == wanted)
    assert [line.split()[2:] for line in dig(named, "SRV", f"_http._tcp.all.{zone}")] == [
        [str(PORT), f"one.all.{zone}."]
    ]
    dashed = pod.addresses[0].replace(".", "-")
    assert dig(named, "A", f"{dashed}.{named.namespace}.pod.cluster.local") == [pod.addresses[0]]


def test_a_service_that_is_an_alias(named: Stage) -> None:
    named.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "alias"},
            "spec": {"type": "ExternalName", "externalName": "outside.lab.test"},
        }
    )
    at = named.lab.plan.hosts["outside"].interface
    wanted = {address.partition("/")[0] for address in (at.address4, at.address6)}
    named.until("the alias's target", lambda: looked_up(named, "alias") == wanted)
