from __future__ import annotations

import socket

import pytest

from plait.agent.ports import Ports
from plait.model.errors import PlaitError
from plait.model.objects import PublishedPort


def port(number: int, protocol: str = "tcp", host_ip: str = "127.0.0.1") -> PublishedPort:
    return PublishedPort(protocol=protocol, port=80, host_port=number, host_ip=host_ip)  # type: ignore[arg-type]


def free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def ports():  # type: ignore[no-untyped-def]
    made = Ports()
    yield made
    made.close()


def test_nobody_else_gets_a_held_port(ports: Ports) -> None:
    (held,) = ports.set("e1", (port(0),))
    with socket.socket() as sock, pytest.raises(OSError):
        sock.bind(("127.0.0.1", held.host_port))
    ports.set("e1", ())
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", held.host_port))


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_two_endpoints_do_not_share_a_port(ports: Ports, protocol: str) -> None:
    (held,) = ports.set("e1", (port(0, protocol),))
    with pytest.raises(PlaitError) as caught:
        ports.set("e2", (port(held.host_port, protocol),))
    assert caught.value.code == "PLAIT-AGENT-007"
    assert "e1" in caught.value.why
    # The same port on another address, or of another protocol, is another port.
    ports.set("e3", (port(held.host_port, protocol, "127.0.0.2"),))


def test_a_port_that_the_runtime_holds_itself_is_kept_from_our_others_only(ports: Ports) -> None:
    number = free()
    ports.set("e1", (port(number),), hold=False)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", number))
        for hold in (True, False):
            with pytest.raises(PlaitError) as caught:
                ports.set("e2", (port(number),), hold=hold)
            assert caught.value.code == "PLAIT-AGENT-007"
        ports.set("e1", ())
        ports.set("e2", (port(number),), hold=False)


@pytest.mark.parametrize(
    ("host_ip", "remedy"), [("::1", "127.0.0.1"), ("192.0.2.1", "ip -brief address")]
)
def test_an_address_that_cannot_publish(ports: Ports, host_ip: str, remedy: str) -> None:
    with pytest.raises(PlaitError) as caught:
        ports.set("e1", (port(free(), host_ip=host_ip),))
    assert caught.value.code == "PLAIT-AGENT-007"
    assert remedy in caught.value.render()


def test_all_or_none(ports: Ports) -> None:
    number = free()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        busy = taken.getsockname()[1]
        with pytest.raises(PlaitError) as caught:
            ports.set("e1", (port(number), port(busy)))
        assert str(busy) in caught.value.render()
    ports.set("e2", (port(number),))


def test_a_change_keeps_what_stays(ports: Ports) -> None:
    (a, b) = ports.set("e1", (port(0), port(0)))
    assert ports.set("e1", (a,)) == (a,)
    assert ports.set("e1", (a, b)) == (a, b)
    with pytest.raises(PlaitError):
        ports.set("e2", (a,))


def test_a_chosen_port_is_free_in_both_families() -> None:
    with socket.socket(socket.AF_INET6) as taken, socket.socket(socket.AF_INET6) as other:
        for sock in (taken, other):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("::", 0))
        busy, good = (sock.getsockname()[1] for sock in (taken, other))
        other.close()
        numbers = iter((busy, busy, good))
        ports = Ports(choose=lambda _low, _high: next(numbers))
        (chosen,) = ports.set("e1", (port(0, host_ip=""),))
    assert chosen.host_port == good
    ports.close()


def test_a_wildcard_conflicts_with_an_address(ports: Ports) -> None:
    (held,) = ports.set("e1", (port(0),))
    with pytest.raises(PlaitError):
        ports.set("e2", (port(held.host_port, host_ip=""),))
    with pytest.raises(PlaitError) as caught:
        ports.set("e2", (port(held.host_port, host_ip="203.0.113.9"),))
    assert caught.value.code == "PLAIT-AGENT-007"
