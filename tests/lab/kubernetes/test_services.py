"""Services of a real cluster: there is no kube-proxy, and everything works."""

from __future__ import annotations

import pytest
from tests.lab.kubernetes.stage import PORT, TIMEOUT, Stage, authority, deployment, service

pytestmark = pytest.mark.root


@pytest.fixture
def web(stage: Stage) -> Stage:
    """Three servers, one a node, and a client."""
    stage.deploy(deployment("web", 3, spread=True), deployment("client"))
    return stage


def servers(stage: Stage) -> set[str]:
    return {pod.name for pod in stage.pods("web")}


def test_a_cluster_address_leads_to_every_backend(web: Stage) -> None:
    web.apply(service("web"))
    client = web.pod("client").name
    for address in web.addresses("web"):
        where = authority(address, 80)
        web.until("the first answer", lambda where=where: web.ask(client, where).server)
        seen: set[str] = set()

        def all_seen(where: str = where, seen: set[str] = seen) -> bool:
            answer = web.ask(client, where)
            assert answer.server, answer
            assert answer.client in web.pod("client").addresses, answer
            seen.add(answer.server)
            return seen == servers(web)

        web.until("every backend", all_seen)


def test_every_node_and_the_docker_host_reach_a_cluster_address(web: Stage) -> None:
    web.apply(service("web"))
    (address, *_) = web.addresses("web")
    for host in ("h1", "h2", "h3", "h4"):
        web.until(
            f"an answer on {host}",
            lambda host=host: web.ask_from(host, authority(address, 80)).server,
        )


def test_a_pod_reaches_itself_through_its_service(stage: Stage) -> None:
    stage.deploy(deployment("web"))
    stage.apply(service("web"))
    pod = stage.pod("web").name
    for address in stage.addresses("web"):
        where = authority(address, 80)
        answer = stage.until("an answer", lambda where=where: stage.ask(pod, where).server == pod)
        assert answer


def test_a_service_without_backends_refuses_at_once(stage: Stage) -> None:
    stage.deploy(deployment("client"))
    stage.apply(service("web"))
    client = stage.pod("client").name
    for address in stage.addresses("web"):
        where = authority(address, 80)
        stage.until("a refusal", lambda where=where: "refused" in stage.ask(client, where).error)


def test_a_node_port_is_open_on_every_node(web: Stage) -> None:
    web.apply(service("web", type="NodePort"))
    port = web.get("service", "web")["spec"]["ports"][0]["nodePort"]
    client = web.pod("client").name
    for name in ("h1", "h2", "h3"):
        at = web.lab.plan.hosts[name].interface
        for address in (at.address4, at.address6):
            where = authority(address.partition("/")[0], port)
            web.until(
                f"an answer of {where}",
                lambda where=where: web.ask_from("outside", where).server in servers(web),
            )
            assert web.ask(client, where).server in servers(web), where


def test_local_traffic_keeps_the_clients_address_and_stays_on_the_node(stage: Stage) -> None:
    stage.deploy(deployment("web"), deployment("client"))
    stage.apply(service("web", type="NodePort", externalTrafficPolicy="Local"))
    port = stage.get("service", "web")["spec"]["ports"][0]["nodePort"]
    pod = stage.pod("web")
    outside = stage.lab.plan.hosts["outside"].interface.address4.partition("/")[0]
    for name in ("h1", "h2", "h3"):
        where = authority(stage.lab.plan.hosts[name].interface.address4.partition("/")[0], port)
        if name == pod.node:
            stage.until("the answer", lambda where=where: stage.ask_from("outside", where).server)
            assert stage.ask_from("outside", where).client == outside
        else:
            # Who refused would get more of whoever balances; until a node knows of the Service
            # it does.
            stage.until(
                f"silence of {name}, which has no backend of its own",
                lambda where=where: (
                    (error := stage.ask_from("outside", where).error) and "refused" not in error
                ),
            )


def test_a_load_balancer_gets_an_address_that_answers_outside(web: Stage) -> None:
    web.apply(service("web", type="LoadBalancer"))

    def given() -> list[str]:
        status = web.get("service", "web")["status"]
        return [entry["ip"] for entry in status.get("loadBalancer", {}).get("ingress", ())]

    addresses = web.until("an address in the status", given)
    assert [":" in address for address in addresses] == [False, True]
    for address in addresses:
        where = authority(address, 80)
        web.until(
            f"an answer of {where} outside",
            lambda where=where: web.ask_from("outside", where).server in servers(web),
        )
        web.until(
            f"an answer of {where} inside",
            lambda where=where: web.ask(web.pod("client").name, where).server in servers(web),
        )
    web.kubectl("patch", "service", "web", "--patch", '{"spec": {"type": "ClusterIP"}}')
    web.until("no address in the status", lambda: not given())


def test_a_client_with_affinity_stays_with_its_backend(web: Stage) -> None:
    web.apply(service("web", sessionAffinity="ClientIP"))
    client = web.pod("client").name
    (address, *_) = web.addresses("web")
    where = authority(address, 80)
    first = web.until("an answer", lambda: web.ask(client, where).server)
    loop = (
        f"for i in $(seq 20); do wget -qO- -T{TIMEOUT} --tries=1 http://{where}/cgi-bin/who; done"
    )
    said = web.execute(client, ["sh", "-c", loop]).stdout.split("\n")
    assert {line.split()[0] for line in said if line} == {first}


def test_a_headless_service_is_a_name_for_its_pods(web: Stage) -> None:
    web.apply(service("web", clusterIP="None"))
    wanted = {address for pod in web.pods("web") for address in pod.addresses}
    client = web.pod("client").name
    name = f"web.{web.namespace}.svc.cluster.local"

    def resolved() -> set[str]:
        said = web.execute(client, ["getent", "ahosts", name]).stdout
        return {line.split()[0] for line in said.splitlines()}

    web.until("all addresses of the pods", lambda: resolved() == wanted)
    assert web.ask(client, f"web:{PORT}").server in servers(web)
