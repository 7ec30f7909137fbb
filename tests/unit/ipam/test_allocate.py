from __future__ import annotations

import msgspec
import pytest

from plait.ipam.allocate import (
    HELD,
    Block,
    Granted,
    Missing,
    Request,
    Space,
    allocate,
    exhausted,
    find_free,
    give_back,
    lend,
    rested,
    surplus,
    take,
    usage,
    wants_block,
)
from plait.ipam.pool import Pool, parse, text
from plait.model.errors import PlaitError

V4 = Pool.of("net", "10.9.0.0/24", reserved=("10.9.0.20/30",))
V6 = Pool.of("net", "fd09::/64")


def space(pool: Pool = V4, *blocks: str, **more: object) -> Space:
    return Space(pool=pool, blocks=tuple(Block(b) for b in blocks), **more)  # type: ignore[arg-type]


BOTH = (space(V4, "10.9.0.0/28", "10.9.0.16/28"), space(V6, "fd09::40/122"))


def granted(spaces: tuple[Space, ...], now: float = 0.0, **request: object):  # type: ignore[no-untyped-def]
    after, outcome = allocate(spaces, Request(**{"owner": "e", **request}), now)
    assert isinstance(outcome, Granted), outcome
    return after, outcome.addresses


def test_every_family_gets_one() -> None:
    _, addresses = granted(BOTH)
    assert addresses == ("10.9.0.2", "fd09::40")


def test_addresses_of_the_pool_itself_are_not_given_out() -> None:
    spaces, seen = BOTH[:1], set()
    for number in range(26):
        spaces, outcome = allocate(spaces, Request(owner=str(number)), 0.0)
        if isinstance(outcome, Missing):
            assert outcome == Missing(families=(4,))
            break
        seen.add(outcome.addresses[0])
    # Two blocks of 16, without network, gateway and four reserved.
    assert len(seen) == 26
    assert seen.isdisjoint({"10.9.0.0", "10.9.0.1", *(f"10.9.0.{i}" for i in range(20, 24))})


def test_half_an_assignment_is_none() -> None:
    spaces = (BOTH[0], space(V6))
    after, outcome = allocate(spaces, Request(owner="e"), 0.0)
    assert after is spaces
    assert outcome == Missing(families=(6,))


def test_reuse_is_spread_and_released_addresses_rest() -> None:
    spaces, first = granted(BOTH[:1])
    spaces = (give_back(spaces[0], parse(first[0])[1], 60.0),)
    spaces, second = granted(spaces, 1.0)
    assert second != first
    lone = space(Pool.of("net", "10.9.1.0/29"), "10.9.1.2/32")
    (lone,), only = granted((lone,))
    lone = give_back(lone, parse(only[0])[1], 60.0)
    assert find_free(lone, 59.9) is None
    assert find_free(lone, 60.0) == parse("10.9.1.2")[1]
    assert rested(lone, 59.9) is lone
    assert not rested(lone, 60.0).resting


def test_a_requested_address_need_not_rest() -> None:
    spaces = (give_back(take(BOTH[0], parse("10.9.0.9")[1], "a"), parse("10.9.0.9")[1], 60.0),)
    spaces, addresses = granted(spaces, 1.0, wanted=("10.9.0.9",))
    assert addresses == ("10.9.0.9",)
    assert not spaces[0].resting


def test_a_reserved_address_is_given_out_on_request() -> None:
    _, addresses = granted(BOTH, wanted=("10.9.0.21",))
    assert addresses == ("10.9.0.21", "fd09::40")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (("10.9.0.1",), "PLAIT-IPAM-014"),
        (("10.9.0.0",), "PLAIT-IPAM-014"),
        (("10.9.0.255",), "PLAIT-IPAM-014"),
        (("10.8.0.9",), "PLAIT-IPAM-011"),
        (("fd08::9",), "PLAIT-IPAM-011"),
        (("10.9.0.5", "10.9.0.6"), "PLAIT-IPAM-011"),
        (("10.9.0.7",), "PLAIT-IPAM-010"),
        (("10.9.0.8",), "PLAIT-IPAM-010"),
    ],
)
def test_refused_requests(wanted: tuple[str, ...], code: str) -> None:
    v4 = take(BOTH[0], parse("10.9.0.7")[1], "other")
    loaned = lend(v4, parse("10.9.0.8")[1])
    assert isinstance(loaned, Space)
    spaces = (loaned, BOTH[1])
    with pytest.raises(PlaitError) as caught:
        allocate(spaces, Request(owner="e", wanted=wanted), 0.0)
    assert caught.value.code == code


def test_a_held_address_is_for_the_attach_that_names_it() -> None:
    spaces = (take(BOTH[0], parse("10.9.0.9")[1], HELD),)
    spaces, _ = granted(spaces, wanted=("10.9.0.9",))
    assert spaces[0].used == {parse("10.9.0.9")[1]: "e"}


def test_an_address_of_another_block_is_missing() -> None:
    _, outcome = allocate(BOTH, Request(owner="e", wanted=("10.9.0.200",)), 0.0)
    assert outcome == Missing(addresses=("10.9.0.200",))
    closing = msgspec.structs.replace(BOTH[0], closing=frozenset({"10.9.0.0/28"}))
    _, outcome = allocate((closing, BOTH[1]), Request(owner="e", wanted=("10.9.0.9",)), 0.0)
    assert outcome == Missing(addresses=("10.9.0.9",))


def test_a_loan_serves_its_address_only() -> None:
    loan = Space(pool=V4, blocks=(Block("10.9.0.200/32", loan=True),))
    assert find_free(loan, 0.0) is None
    _, addresses = granted((loan,), wanted=("10.9.0.200",))
    assert addresses == ("10.9.0.200",)
    assert usage(loan).size == 0


def test_lending() -> None:
    lent = lend(BOTH[0], parse("10.9.0.9")[1])
    assert isinstance(lent, Space)
    assert isinstance(lend(lent, parse("10.9.0.9")[1]), str)
    assert isinstance(lend(take(lent, parse("10.9.0.10")[1], "e"), parse("10.9.0.10")[1]), str)
    assert isinstance(lend(lent, parse("10.9.0.1")[1]), str)
    found = {text(4, v) for v in _all_free(lent)}
    assert "10.9.0.9" not in found


def _all_free(start: Space) -> list[int]:
    found = []
    while (value := find_free(start, 0.0)) is not None:
        found.append(value)
        start = take(start, value, "e")
    return found


def test_when_to_claim_and_when_to_return() -> None:
    assert wants_block(space(V4))
    block = space(V4, "10.9.0.32/28")
    assert not wants_block(block)
    for value in _all_free(block)[:12]:
        block = take(block, value, "e")
    assert wants_block(block)
    assert surplus(space(V4, "10.9.0.32/28")) is None
    two = space(V4, "10.9.0.32/28", "10.9.0.48/28")
    assert surplus(two) == "10.9.0.48/28"
    busy = take(two, parse("10.9.0.50")[1], "e")
    assert surplus(busy) is None
    assert surplus(give_back(busy, parse("10.9.0.50")[1], 60.0)) is None


def test_what_is_claimed_ahead_of_need_is_not_given_back() -> None:
    pool = Pool.of("net", "10.8.0.0/20")
    blocks = [f"10.8.0.{first}/28" for first in range(16, 256, 16)]
    held = space(pool, *blocks[:6])
    for value in _all_free(held):
        held = take(held, value, "e")
    for number in range(6, len(blocks)):
        held = msgspec.structs.replace(held, blocks=(*held.blocks, Block(blocks[number])))
        assert surplus(held) is None or not wants_block(
            msgspec.structs.replace(
                held, blocks=tuple(b for b in held.blocks if b.cidr != surplus(held))
            )
        )


def test_exhaustion_explains_itself() -> None:
    error = exhausted(space(V4, "10.9.0.0/28"), 16, 200)
    assert error.code == "PLAIT-IPAM-012"
    rendered = error.render()
    for word in ("10.9.0.0/24", "200 of", "rest", "network create"):
        assert word in rendered


def test_an_address_of_a_range() -> None:
    spaces, first = granted(BOTH, ranges=("10.9.0.16/29", "fd09::50/124"))
    assert first == ("10.9.0.16", "fd09::50")
    # Who names a range means its reserved addresses, too; a family without one is as ever.
    _, second = granted(spaces, ranges=("10.9.0.20/30",))
    assert second == ("10.9.0.20", "fd09::51")


def test_the_next_range_when_one_is_used_up() -> None:
    spaces, found = BOTH[:1], []
    for number in range(3):
        spaces, addresses = granted(
            spaces, owner=str(number), ranges=("10.9.0.8/31", "10.9.0.16/31")
        )
        found += addresses
    assert found == ["10.9.0.8", "10.9.0.9", "10.9.0.16"]


def test_a_range_in_which_nothing_of_ours_is_free() -> None:
    after, outcome = allocate(BOTH, Request(owner="e", ranges=("10.9.0.64/26",)), 0.0)
    assert (after, outcome) == (BOTH, Missing(ranges=("10.9.0.64/26",)))


def test_an_address_on_loan_serves_a_range() -> None:
    loan = Space(pool=V4, blocks=(Block("10.9.0.70/32", loan=True),))
    assert find_free(loan, 0.0) is None
    assert granted((loan,), ranges=("10.9.0.64/26",))[1] == ("10.9.0.70",)


@pytest.mark.parametrize(
    "request_",
    [
        Request(owner="e", ranges=("10.8.0.0/24",)),
        Request(owner="e", ranges=("10.9.0.0/23",)),
        Request(owner="e", wanted=("10.9.0.9",), ranges=("10.9.0.16/28",)),
    ],
)
def test_ranges_outside_of_the_pool_or_the_address_outside_of_the_range(request_: Request) -> None:
    with pytest.raises(PlaitError) as refusal:
        allocate(BOTH, request_, 0.0)
    assert refusal.value.code == "PLAIT-IPAM-011"
