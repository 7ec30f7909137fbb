"""What packets put into sets is read the same by another socket than the owner's, and the fake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.contract.nft_doors import KINDS, owner_and_reader

from plait.kernel.nft import NftDoor
from plait.kernel.nft_elements import ElementDoor, NftElements
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k

DOORS = tuple[NftDoor, ElementDoor]
STAY = nft.Set("stay", (k.IPV4,), (k.IPV4, k.SERVICE), timeout=True, size=1 << 16)


@pytest.fixture(params=KINDS)
def doors(request: pytest.FixtureRequest) -> Iterator[DOORS]:
    """The owner of a table, and who only reads what is in its sets."""
    with owner_and_reader(request.param, NftElements) as pair:
        yield pair


def test_every_element_of_a_set_is_read(doors: DOORS) -> None:
    owner, reader = doors
    assert reader.elements("stay") == {}
    made = {number.to_bytes(4, "big"): k.concat(bytes(4), e.port(number)) for number in range(4000)}
    steps = (nft.AddSet(STAY), nft.AddTimed(STAY, tuple(made.items()), 60_000))
    assert owner.commit([nft.AddTable(nft.TABLE_OWNER | nft.TABLE_PERSIST), *steps]) == {}
    assert reader.elements("stay") == made
    assert owner.commit([nft.DeleteElements(STAY, tuple(dict.fromkeys(made).items()))]) == {}
    assert reader.elements("stay") == {}
