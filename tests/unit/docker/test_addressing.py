from __future__ import annotations

import pytest

from plait.client.agent import AttachResult
from plait.docker.addressing import bare, first_address, gateway, halves, join_routes, parse_pool
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Network, NetworkSpec


def network(*pools: str, gateways: tuple[str, ...] = ()) -> Network:
    return Network(metadata=Metadata(name="n"), spec=NetworkSpec(pools=pools, gateways=gateways))


def result(*addresses: str) -> AttachResult:
    return AttachResult(
        id="e",
        interface="pl1",
        peer_name="pt1",
        mac="02:00:00:00:00:01",
        mtu=1450,
        addresses=addresses,
        gateways=("10.1.0.1", "fd00::1"),
        pools=("10.1.0.0/16", "fd00::/64"),
    )


def test_gateway_is_the_first_address_unless_named() -> None:
    plain = network("10.1.0.0/16", "fd00::/64")
    assert gateway(plain, 4) == "10.1.0.1"
    assert gateway(plain, 6) == "fd00::1"
    assert gateway(network("10.1.0.0/16", gateways=("10.1.0.9",)), 4) == "10.1.0.9"
    assert gateway(network("10.1.0.0/16"), 6) == ""


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("10.0.0.0/16", ("10.0.0.0/17", "10.0.128.0/17")),
        ("10.0.0.8/31", ("10.0.0.8/32", "10.0.0.9/32")),
        ("10.0.0.8/32", ("10.0.0.8/32",)),
        ("fd00::/64", ("fd00::/65", "fd00::8000:0:0:0/65")),
    ],
)
def test_halves(pool: str, expected: tuple[str, ...]) -> None:
    assert halves(pool) == expected


@pytest.mark.parametrize("pool", ["10.0.0.0/31", "10.0.0.4/32", "fd00::/127", "10.0.0.0/24"])
def test_every_pool_has_a_first_address(pool: str) -> None:
    assert first_address(pool)


def test_routes_of_a_layer_3_address_lead_to_the_pool() -> None:
    routes = join_routes(result("10.1.0.5", "fd00::5"), on_segment=False)
    assert [(r.destination, r.route_type, r.next_hop) for r in routes] == [
        ("10.1.0.1/32", 1, ""),
        ("10.1.0.0/16", 0, "10.1.0.1"),
        ("fd00::1/128", 1, ""),
        ("fd00::/64", 0, "fd00::1"),
    ]


def test_routes_of_an_address_on_a_segment_are_more_specific_than_it() -> None:
    routes = join_routes(result("10.1.0.5"), on_segment=True)
    assert [r.destination for r in routes] == ["10.1.0.1/32", "10.1.0.0/17", "10.1.128.0/17"]


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "x", "10.0.0.0/33", "10.0.0.0/8\n"])
def test_not_a_pool(text: str) -> None:
    with pytest.raises(PlaitError, match="PLAIT-NET-004"):
        parse_pool(text)


def test_bare() -> None:
    assert bare("172.18.0.2/16") == "172.18.0.2"
    assert bare("FD00::0:5/64") == "fd00::5"
    assert bare("") == ""
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-001"):
        bare("nonsense")
