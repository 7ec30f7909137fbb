from __future__ import annotations

from typing import Any

import pytest

from plait.docker.ports import bindings, candidates, publish
from plait.model.errors import PlaitError
from plait.model.objects import PublishedPort
from plait.wire.docker import PORT_MAP


def mapped(**port: Any) -> dict[str, Any]:
    return {PORT_MAP: [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 0, **port}]}


class Host:
    """Host ports, some of them taken."""

    def __init__(self, *taken: int) -> None:
        self.taken = taken
        self.published: tuple[PublishedPort, ...] = ()

    async def act(self, ports: tuple[PublishedPort, ...]) -> tuple[PublishedPort, ...]:
        for port in ports:
            if port.host_port in self.taken:
                raise PlaitError("PLAIT-AGENT-007", f"the host port {port.host_port} is taken")
        self.published = ports
        return ports


@pytest.mark.parametrize("options", [None, {}, {PORT_MAP: None}, {PORT_MAP: []}])
def test_no_ports(options: dict[str, Any] | None) -> None:
    assert bindings(options) == ()


def test_a_binding_of_dockerd() -> None:
    (binding,) = bindings(mapped(HostPort=8080, HostPortEnd=8080, HostIP="127.0.0.1", Proto=17))
    (port,) = candidates(binding)
    assert port == PublishedPort(protocol="udp", port=80, host_port=8080, host_ip="127.0.0.1")


def test_host_port_zero_is_left_to_the_agent() -> None:
    (binding,) = bindings(mapped())
    assert [p.host_port for p in candidates(binding)] == [0]


@pytest.mark.parametrize("port", [{"Proto": 1}, {"Port": "x"}, {"HostPort": None}])
def test_not_valid(port: dict[str, Any]) -> None:
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-001"):
        bindings(mapped(**port))


async def test_the_first_free_port_of_a_range() -> None:
    host = Host(8000, 8001)
    wanted = bindings(mapped(HostPort=8000, HostPortEnd=8005)) + bindings(mapped(HostPort=8002))
    chosen = await publish(wanted, host.act)
    assert [p.host_port for p in chosen] == [8002, 8003]
    assert host.published == chosen


async def test_a_full_range_publishes_nothing() -> None:
    host = Host(8000, 8001)
    wanted = bindings(mapped(HostPort=9000)) + bindings(mapped(HostPort=8000, HostPortEnd=8001))
    with pytest.raises(PlaitError, match="from 8000 to 8001 is taken"):
        await publish(wanted, host.act)
    assert host.published == ()


async def test_a_taken_port_is_refused() -> None:
    with pytest.raises(PlaitError, match="PLAIT-AGENT-007"):
        await publish(bindings(mapped(HostPort=80)), Host(80).act)
