from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.selection import ranges
from plait.selection.ranges import Range


def texts(cidr: str, *holes: str) -> list[str]:
    left = ranges.without(ranges.of_cidr(cidr), map(ranges.of_cidr, holes))
    return [ranges.text(one) for one in left]


@pytest.mark.parametrize(
    ("cidr", "holes", "left"),
    [
        ("10.0.0.0/8", (), ["10.0.0.0-10.255.255.255"]),
        ("10.0.0.7/32", (), ["10.0.0.7-10.0.0.7"]),
        ("0.0.0.0/0", ("0.0.0.0/1",), ["128.0.0.0-255.255.255.255"]),
        (
            "10.0.0.0/29",
            ("10.0.0.2/31", "10.0.0.2/32", "10.0.0.6/32"),
            ["10.0.0.0-10.0.0.1", "10.0.0.4-10.0.0.5", "10.0.0.7-10.0.0.7"],
        ),
        ("10.0.0.0/29", ("10.0.0.0/29",), []),
        ("10.0.0.0/29", ("10.0.0.0/8",), []),
        ("10.0.0.0/29", ("10.1.0.0/16", "::/0"), ["10.0.0.0-10.0.0.7"]),
        ("fd00::/126", ("fd00::1/128",), ["fd00::-fd00::", "fd00::2-fd00::3"]),
    ],
)
def test_exceptions(cidr: str, holes: tuple[str, ...], left: list[str]) -> None:
    assert texts(cidr, *holes) == left


def test_neighbours_become_one_and_families_stay_apart() -> None:
    parts = [
        ranges.of_cidr(c)
        for c in ("10.0.0.2/31", "::/128", "10.0.0.0/31", "10.0.0.1/32", "10.0.0.9/32")
    ]
    joined = [ranges.text(one) for one in ranges.join(parts)]
    assert joined == ["10.0.0.0-10.0.0.3", "10.0.0.9-10.0.0.9", "::-::"]


def test_there_and_back() -> None:
    for cidr in ("10.0.0.0/8", "fd00::/64", "0.0.0.0/0"):
        one = ranges.of_cidr(cidr)
        assert ranges.parse(ranges.text(one)) == one


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "x", "10.0.0.0/8; flush"])
def test_what_is_no_cidr(text: str) -> None:
    with pytest.raises(ValueError):
        ranges.of_cidr(text)


small = st.integers(0, 15).flatmap(
    lambda first: st.integers(first, 15).map(lambda last: Range(4, first, last))
)


def numbers(found: list[Range]) -> set[int]:
    return {n for one in found for n in range(one.first, one.last + 1)}


@given(small, st.lists(small, max_size=4))
def test_as_sets_of_numbers(whole: Range, holes: list[Range]) -> None:
    left = ranges.without(whole, holes)
    assert numbers(left) == numbers([whole]) - numbers(holes)
    joined = ranges.join([whole, *holes])
    assert numbers(joined) == numbers([whole, *holes])
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(joined))


def test_addresses_are_canonical() -> None:
    first, last = ranges.text(ranges.of_cidr("FD00:0:0::/127")).split("-")
    assert (first, last) == ("fd00::", str(ipaddress.ip_address("fd00::1")))
