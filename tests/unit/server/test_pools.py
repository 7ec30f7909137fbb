"""Cutting pools: the lowest free range, never one in use."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.model.errors import PlaitError
from plait.server import pools
from plait.server.pools import Use

POOL = ipaddress.ip_network("10.0.0.0/24")


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=12), st.integers(24, 30)
)
def test_the_lowest_free_range_is_cut(taken: list[tuple[int, int]], length: int) -> None:
    uses = [
        Use(ipaddress.ip_network((f"10.0.0.{low}", size), strict=False), "x") for low, size in taken
    ]
    free = [
        net
        for net in POOL.subnets(new_prefix=length)
        if not any(net.overlaps(use.cidr) for use in uses)
    ]
    assert pools.cut([POOL], length, uses) == (free[0] if free else None)


def test_a_pool_smaller_than_the_cut_is_given_whole() -> None:
    small = ipaddress.ip_network("10.0.0.0/28")
    assert pools.cut([small], 20, []) == small


def test_a_use_that_holds_the_pool_leaves_nothing() -> None:
    assert pools.cut([POOL], 26, [Use(ipaddress.ip_network("10.0.0.0/8"), "x")]) is None


def test_the_next_pool_is_used_when_the_first_is_full() -> None:
    second = ipaddress.ip_network("10.9.0.0/24")
    assert pools.cut([POOL, second], 24, [Use(POOL, "x")]) == second


def test_cutting_out_of_a_wide_ipv6_pool_is_quick() -> None:
    wide = ipaddress.ip_network("fd00::/8")
    first = pools.cut([wide], 64, [Use(ipaddress.ip_network("fd00::/16"), "x")])
    assert first == ipaddress.ip_network("fd01::/64")


@pytest.mark.parametrize(
    "pool",
    ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "0.0.0.0/0", "fe80::/64", "::/0", "ff02::/16"],
)
def test_ranges_that_have_a_meaning_are_no_pools(pool: str) -> None:
    with pytest.raises(PlaitError, match="PLAIT-NET-004"):
        pools.check_range(ipaddress.ip_network(pool), "spec.pools[0]")


@pytest.mark.parametrize("pool", ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127"])
def test_a_pool_without_room_is_refused(pool: str) -> None:
    with pytest.raises(PlaitError, match="too small"):
        pools.check_range(ipaddress.ip_network(pool), "spec.pools[0]")


def test_a_network_has_one_pool_a_family() -> None:
    assert [str(p) for p in pools.canonical(("fd00::/64", "10.0.0.0/8"), "p")] == [
        "10.0.0.0/8",
        "fd00::/64",
    ]
    with pytest.raises(PlaitError, match="one pool a family"):
        pools.canonical(("10.0.0.0/8", "11.0.0.0/8"), "p")
