from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.ipam.pool import Pool, candidates, next_block, parse, text

POOLS = ("10.9.0.0/16", "10.9.0.0/28", "10.9.0.0/30", "10.9.0.1/32", "fd09::/64", "fd09::/120")


@pytest.mark.parametrize(
    ("cidr", "prefix"),
    [
        ("10.9.0.0/16", 26),
        ("10.9.0.0/22", 26),
        ("10.9.0.0/24", 28),
        ("10.9.0.0/29", 32),
        ("10.9.0.0/32", 32),
        ("fd09::/64", 122),
        ("fd09::/120", 124),
    ],
)
def test_a_pool_has_sixteen_blocks_or_blocks_of_one(cidr: str, prefix: int) -> None:
    pool = Pool.of("n", cidr)
    assert pool.block_prefix == prefix
    assert pool.block_count >= 16 or pool.block_size == 1


def test_special_addresses() -> None:
    pool = Pool.of("n", "10.9.0.0/24")
    assert {text(4, v) for v in pool.special} == {"10.9.0.0", "10.9.0.1", "10.9.0.255"}
    named = Pool.of("n", "10.9.0.0/24", gateways=("10.9.0.254", "fd09::1"))
    assert {text(4, v) for v in named.special} == {"10.9.0.0", "10.9.0.254", "10.9.0.255"}
    six = Pool.of("n", "fd09::/64")
    assert {text(6, v) for v in six.special} == {"fd09::", "fd09::1"}
    assert Pool.of("n", "10.9.0.1/32").special == frozenset()


def test_size_counts_what_may_be_given_out() -> None:
    assert Pool.of("n", "10.9.0.0/29").size == 5
    reserved = ("10.9.0.4/31", "10.9.0.4/30", "fd09::/64")
    assert Pool.of("n", "10.9.0.0/29", reserved=reserved).size == 2


def test_reserved_single_addresses_and_ranges() -> None:
    pool = Pool.of("n", "10.9.0.0/24", reserved=("10.9.0.9", "10.9.0.64/26"))
    assert pool.is_reserved(parse("10.9.0.9")[1])
    assert pool.is_reserved(parse("10.9.0.100")[1])
    assert not pool.is_reserved(parse("10.9.0.10")[1])


@given(st.sampled_from(POOLS), st.text("abcdef0123456789-", min_size=1, max_size=8), st.booleans())
def test_candidates_are_blocks_of_the_pool_each_once(cidr: str, node: str, top: bool) -> None:
    pool = Pool.of("n", cidr, from_top=top)
    found = list(itertools.islice(candidates(pool, node), 300))
    assert len(set(found)) == len(found)
    net = ipaddress.ip_network(cidr)
    for block in found:
        sub = ipaddress.ip_network(block)
        assert sub.version == net.version
        assert sub.subnet_of(net)  # type: ignore[arg-type]
        assert pool.block_of(int(sub.network_address)) == block


def test_blocks_come_from_the_top_where_others_use_the_bottom() -> None:
    pool = Pool.of("n", "10.9.0.0/16", from_top=True)
    assert next_block(pool, (), "any") == "10.9.255.192/26"
    assert next_block(pool, {"10.9.255.192/26"}, "any") == "10.9.255.128/26"


def test_nodes_begin_at_different_places() -> None:
    pool = Pool.of("n", "10.9.0.0/16")
    assert len({next_block(pool, (), f"node-{i}") for i in range(20)}) > 15


def test_no_block_is_left() -> None:
    pool = Pool.of("n", "10.9.0.0/29")
    every = set(candidates(pool, "x"))
    assert len(every) == 5
    assert next_block(pool, every, "x") is None
