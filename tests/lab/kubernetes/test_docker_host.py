"""A Docker container on a host that is no node: one network, one set of names and policies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.conftest import unique
from tests.lab.kubernetes.conftest import DOCKER_HOST
from tests.lab.kubernetes.stage import (
    PORT,
    Answer,
    Stage,
    authority,
    deployment,
    policy,
    question,
    service,
)

pytestmark = [pytest.mark.root, pytest.mark.docker]


@pytest.fixture
def container(stage: Stage) -> Iterator[str]:
    """A container of the network `plait` that serves and asks, with the label `app=legacy`."""
    name = unique("legacy")
    argv = ["docker", "run", "--detach", "--network=plait", f"--name={name}", "--label=app=legacy"]
    serve = ["httpd", "-f", "-p", str(PORT), "-h", "/www"]
    stage.lab.run(DOCKER_HOST, [*argv, "busybox", *serve])
    yield name
    stage.lab.run(DOCKER_HOST, ["docker", "rm", "--force", name], check=False)


def ask(stage: Stage, container: str, where: str) -> Answer:
    """What the container gets of `host:port`, asked once."""
    argv = ["docker", "exec", container, *question(where)]
    return Answer.of(stage.lab.run(DOCKER_HOST, argv, check=False))


def addresses(stage: Stage, container: str) -> tuple[str, ...]:
    """The container's addresses, IPv4 first."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
    argv = ["docker", "inspect", f"--format={form}", container]
    return tuple(stage.lab.run(DOCKER_HOST, argv).stdout.split())


def test_a_container_calls_a_service_by_name_until_a_policy_refuses(
    stage: Stage, container: str
) -> None:
    stage.deploy(deployment("web", 3, spread=True), deployment("friend"))
    stage.apply(service("web"))
    where = f"web.{stage.namespace}.svc.cluster.local"
    servers = {pod.name for pod in stage.pods("web")}
    stage.until("the container is answered", lambda: ask(stage, container, where).server in servers)
    assert ask(stage, container, where).client in addresses(stage, container)
    friends = {"podSelector": {"matchLabels": {"app": "friend"}}}
    stage.apply(policy("friends", "web", ingress=[{"from": [friends]}]))
    for pod in stage.pods("web"):
        stage.until(
            f"{pod.name} refuses the container",
            lambda pod=pod: ask(stage, container, authority(pod.addresses[0], PORT)).error,
        )
    assert ask(stage, container, where).error
    assert stage.ask(stage.pod("friend").name, "web").server in servers
    stage.kubectl("delete", "networkpolicy", "friends")
    stage.until(
        "the container is answered again", lambda: ask(stage, container, where).server in servers
    )


def test_a_pod_calls_a_container_as_it_is(stage: Stage, container: str) -> None:
    stage.deploy(deployment("client"))
    client = stage.pod("client")
    for own, other in zip(client.addresses, addresses(stage, container), strict=True):
        assert stage.ask(client.name, authority(other, PORT)).client == own
