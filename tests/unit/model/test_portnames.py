"""Names of ports, as people write them."""

from __future__ import annotations

import pytest

from plait.model.errors import PlaitError
from plait.model.objects import NamedPort
from plait.model.portnames import check, parse


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("http", "80", [("tcp", 80)]),
        ("http", "80/tcp", [("tcp", 80)]),
        ("dns", "53/TCP, 53/udp", [("tcp", 53), ("udp", 53)]),
        ("serve-80-sctp", "80/sctp", [("sctp", 80)]),
    ],
)
def test_what_is_written(name: str, text: str, expected: list[tuple[str, int]]) -> None:
    found = parse(name, text, "here")
    assert [(port.name, port.protocol, port.port) for port in found] == [
        (name, protocol, number) for protocol, number in expected
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("http", ""),
        ("http", "0"),
        ("http", "65536"),
        ("http", "80/"),
        ("http", "80/icmp"),
        ("http", "80-90/tcp"),
        ("http", "http"),
        ("http", "²"),
        ("http", "80,"),
        ("", "80"),
        ("80", "80"),
        ("HTTP", "80"),
        ("a--b", "80"),
    ],
)
def test_what_is_not(name: str, text: str) -> None:
    with pytest.raises(PlaitError) as caught:
        parse(name, text, "here")
    assert (caught.value.code, caught.value.where) == ("PLAIT-API-002", "here")


def test_a_name_means_one_port_a_protocol() -> None:
    tcp = NamedPort(name="dns", protocol="tcp", port=53)
    udp = NamedPort(name="dns", protocol="udp", port=53)
    check((tcp, udp), "ports")
    with pytest.raises(PlaitError) as caught:
        check((tcp, udp, tcp), "ports")
    assert caught.value.where == "ports[2].name"
    with pytest.raises(PlaitError):
        check([tcp] * 257, "ports")
