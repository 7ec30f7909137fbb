"""Counters are read the same by the owner of the table, by another socket, and by the fake."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.contract.nft_doors import KINDS, owner_and_reader

from plait.kernel import netns
from plait.kernel.nft import Nft, NftDoor
from plait.kernel.nft_counters import CounterDoor, NftCounters
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire.nft_effects import CountIn
from plait.wire.nft_read import Count

DOORS = tuple[NftDoor, CounterDoor]


@pytest.fixture(params=KINDS)
def doors(request: pytest.FixtureRequest) -> Iterator[DOORS]:
    """The owner of a table, and who only reads its counters."""
    with owner_and_reader(request.param, NftCounters) as pair:
        yield pair


def test_every_counter_of_our_table_is_read(doors: DOORS) -> None:
    owner, reader = doors
    assert reader.counters() == {}
    names = [f"r{number:011x}" for number in range(2000)]
    assert owner.commit([nft.AddTable(), *map(nft.AddCounter, names)]) == {}
    assert reader.counters() == dict.fromkeys(names, Count(0, 0))
    assert owner.commit([nft.DeleteTable()]) == {}
    assert reader.counters() == {}


@pytest.mark.root
def test_packets_and_bytes_are_counted() -> None:
    fd = netns.create()
    with netns.inside(fd):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        owner, reader = Nft(), NftCounters()
    rule = nft.Rule("count", (CountIn("r0123456789a"), e.DROP))
    chain = nft.Chain("out", (rule,), nft.Hook("filter", "output", 3, 0))
    steps = (nft.AddCounter("r0123456789a"), nft.AddChain(chain), nft.AddRules(chain))
    assert owner.commit([nft.AddTable(), *steps]) == {}
    with netns.ns_socket(fd, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(3):
            with suppress(PermissionError):  # The rule drops it, and the sender is told.
                sock.sendto(b"x" * 72, ("127.0.0.1", 9))
    assert reader.counters() == {"r0123456789a": Count(3, 300)}
    reader.close()
    owner.close()
    os.close(fd)
