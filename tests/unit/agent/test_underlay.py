from __future__ import annotations

import msgspec
import pytest

from plait.agent import fake
from plait.agent.underlay import accepts_ra, decide, prefixes
from plait.kernel.hostfacts import AddressFact, LinkFact, RouteFact
from plait.model.errors import PlaitError

ONE = fake.facts(1)
TWO = msgspec.structs.replace(
    ONE,
    links=(*ONE.links, LinkFact(3, "eth1", 9000, True, 0), LinkFact(4, "plait.vx", 1450, True, 0)),
    addresses=(
        *ONE.addresses,
        AddressFact("eth1", "198.51.100.7/25", True, 0),
        AddressFact("eth1", "2001:db8:1::7/64", False, 0),
        AddressFact("plait.vx", "203.0.113.1/32", True, 0),
        AddressFact("lo", "169.254.1.1/32", True, 112),
    ),
    routes=(*ONE.routes, RouteFact("10.0.0.0/8", "eth1", "198.51.100.1", 0, 3)),
    resolvers=("9.9.9.9", "fe80::1%eth0", "nonsense", "2620:fe::fe"),
)


def test_the_default_route_decides() -> None:
    underlay = decide(TWO)
    assert underlay.interface == "eth0"
    assert underlay.addresses == ("192.0.2.1/24", "2001:db8::1/64")
    assert underlay.link_local == "fe80::1"
    assert underlay.gateways == ("192.0.2.254",)
    assert underlay.mtu == 1500


def test_a_named_address_or_interface_decides() -> None:
    for underlay in (decide(TWO, address="198.51.100.7"), decide(TWO, interface="eth1")):
        assert (underlay.interface, underlay.mtu) == ("eth1", 9000)
        assert underlay.addresses == ("198.51.100.7/25",)
    assert decide(TWO, address="198.51.100.7/32").addresses == ("198.51.100.7/32",)
    assert decide(TWO, address="2001:db8::1").addresses == ("192.0.2.1/24", "2001:db8::1/64")


def test_without_a_default_route_the_first_global_address_decides() -> None:
    assert decide(msgspec.structs.replace(ONE, routes=())).interface == "eth0"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"address": "203.0.113.99"}, "203.0.113.99"),
        ({"address": "2001:db8:1::7"}, "2001:db8:1::7"),
        ({"interface": "eth9"}, "eth9"),
        ({"interface": "lo"}, "lo"),
    ],
)
def test_what_cannot_be_says_why(settings: dict[str, str], word: str) -> None:
    with pytest.raises(PlaitError) as caught:
        decide(TWO, **settings)
    assert caught.value.code == "PLAIT-HOST-006"
    assert word in caught.value.why
    assert "192.0.2.1/24 on eth0" in caught.value.why


def test_a_host_without_addresses() -> None:
    with pytest.raises(PlaitError):
        decide(msgspec.structs.replace(ONE, routes=(), addresses=()))


def test_prefixes_are_those_of_others() -> None:
    assert prefixes(TWO) == (
        "9.9.9.9/32",
        "10.0.0.0/8",
        "192.0.2.0/24",
        "198.51.100.0/25",
        "2001:db8::/64",
        "2001:db8:1::/64",
        "2620:fe::fe/128",
    )


def test_router_advertisements() -> None:
    assert not accepts_ra(ONE, "eth0")
    assert accepts_ra(msgspec.structs.replace(ONE, accept_ra={"eth0": "1"}), "eth0")
    assert accepts_ra(msgspec.structs.replace(ONE, accept_ra={"eth0": "2"}), "eth0")


def test_a_host_with_very_many_routes_names_the_widest() -> None:
    routes = tuple(
        RouteFact(f"10.{i // 256}.{i % 256}.0/24", "eth0", "192.0.2.254", 0, 3) for i in range(3000)
    )
    found = prefixes(msgspec.structs.replace(TWO, routes=(*routes, *TWO.routes)))
    assert len(found) == 1000
    assert "10.0.0.0/8" in found
