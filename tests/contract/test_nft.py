"""The nf_tables door: the fake and the real kernel keep the same contract."""

from __future__ import annotations

import errno
import ipaddress
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from plait.kernel import netns
from plait.kernel.fake_nft import FakeNetfilter, FakeNft
from plait.kernel.nft import Nft, NftDoor, NftMonitor
from plait.model.errors import PlaitError
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft_effects import CountIn

OWNED = nft.TABLE_OWNER | nft.TABLE_PERSIST
SOURCES = nft.Set("sources", (k.IFNAME, k.IPV4))
POOLS = nft.Set("pools", (k.IPV4,), interval=True)
DISPATCH = nft.Set("dispatch", (k.IFNAME,), verdicts=True)
LEAF = nft.Chain("leaf", (nft.Rule("drop all", (e.Counter(), e.DROP)),))
BASE = nft.Chain(
    "base",
    (
        nft.Rule("known", (e.InSet((e.IIFNAME, e.SADDR[4]), "sources"), e.Counter(), e.ACCEPT)),
        nft.Rule("network", (e.Vmap((e.IIFNAME,), "dispatch"),)),
    ),
    nft.Hook("filter", "forward", 2, -1),
)
SKELETON = (
    nft.AddTable(OWNED),
    nft.AddSet(SOURCES),
    nft.AddSet(POOLS),
    nft.AddSet(DISPATCH),
    nft.AddChain(LEAF),
    nft.AddChain(BASE),
    nft.AddRules(LEAF),
    nft.AddRules(BASE),
)


def source(link: str, address: str) -> tuple[bytes, nft.Data]:
    return k.concat(e.ifname(link), ipaddress.ip_address(address).packed), None


@pytest.fixture
def namespace() -> Iterator[int]:
    fd = netns.create()
    yield fd
    os.close(fd)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[], NftDoor]]:
    """Opens one more process's door to the same kernel."""
    opened: list[NftDoor] = []
    kernel = FakeNetfilter()
    fd = request.getfixturevalue("namespace") if request.param == "real" else -1

    def make() -> NftDoor:
        door: NftDoor
        if request.param == "fake":
            door = FakeNft(kernel)
        else:
            with netns.inside(fd):
                door = Nft()
        opened.append(door)
        return door

    yield make
    for door in opened:
        door.close()


@pytest.fixture
def door(connect: Callable[[], NftDoor]) -> NftDoor:
    return connect()


def read(door: NftDoor) -> nft_read.TableState:
    state = door.read()
    assert state is not None
    return state


def test_no_table_is_none(door: NftDoor) -> None:
    assert door.table() is None
    assert door.read() is None
    assert door.rules() == ()


def test_reads_back_what_was_made(door: NftDoor) -> None:
    elements = (source("pl1", "10.0.0.1"), source("pl2", "10.0.0.2"))
    ranges = tuple((k.cidr_range(c), None) for c in ("10.0.0.0/16", "10.1.0.0/16"))
    verdict = (e.ifname("pl1"), e.goto("leaf"))
    assert not door.commit(
        [
            *SKELETON,
            nft.AddElements(SOURCES, elements),
            nft.AddElements(POOLS, (*ranges, (k.cidr_range("255.0.0.0/8"), None))),
            nft.AddElements(DISPATCH, (verdict,)),
        ]
    )
    state = read(door)
    assert state.info.owner == door.port
    assert state.info.flags == OWNED
    assert state.chains == {c.name: nft_read.describe_chain(c) for c in (LEAF, BASE)}
    assert state.sets == {s.name: nft_read.describe(s) for s in (SOURCES, POOLS, DISPATCH)}
    assert state.elements["sources"] == dict(elements)
    assert state.elements["dispatch"] == dict([verdict])
    assert set(state.elements["pools"]) == {
        *(key for key, _ in ranges),
        k.cidr_range("255.0.0.0/8"),
    }
    assert [(r.chain, r.packets) for r in door.rules()] == [("leaf", 0), ("base", 0), ("base", 0)]


def test_a_transaction_is_all_or_nothing(door: NftDoor) -> None:
    assert not door.commit(SKELETON)
    before = read(door)
    refused = door.commit(
        [
            nft.AddElements(SOURCES, (source("pl1", "10.0.0.1"),)),
            nft.DeleteElements(SOURCES, (source("pl9", "10.0.0.9"),)),
            nft.DeleteChain("leafless"),
        ]
    )
    assert {i: r.errno for i, r in refused.items()} == {1: errno.ENOENT, 2: errno.ENOENT}
    assert read(door) == before


def test_an_element_that_is_there_is_refused(door: NftDoor) -> None:
    assert not door.commit([*SKELETON, nft.AddElements(SOURCES, (source("pl1", "10.0.0.1"),))])
    refused = door.commit([nft.AddElements(SOURCES, (source("pl1", "10.0.0.1"),))])
    assert refused[0].errno == errno.EEXIST


def test_a_chain_in_use_stays(door: NftDoor) -> None:
    verdict = (e.ifname("pl1"), e.goto("leaf"))
    assert not door.commit([*SKELETON, nft.AddElements(DISPATCH, (verdict,))])
    assert door.commit([nft.DeleteChain("leaf")])[0].errno == errno.EBUSY
    assert "leaf" in read(door).chains
    assert not door.commit([nft.DeleteElements(DISPATCH, (verdict,)), nft.DeleteChain("leaf")])
    assert "leaf" not in read(door).chains


def test_a_set_in_use_stays(door: NftDoor) -> None:
    assert not door.commit(SKELETON)
    assert door.commit([nft.DeleteSet("sources")])[0].errno == errno.EBUSY
    assert not door.commit([nft.FlushChain("base"), nft.DeleteSet("sources")])
    assert read(door).chains["base"].rules == ()


def test_an_element_may_change_its_value_in_one_transaction(door: NftDoor) -> None:
    other = nft.Chain("other")
    old, new = (e.ifname("pl1"), e.goto("leaf")), (e.ifname("pl1"), e.goto("other"))
    assert not door.commit([*SKELETON, nft.AddElements(DISPATCH, (old,))])
    assert not door.commit(
        [
            nft.DeleteElements(DISPATCH, (old,)),
            nft.AddChain(other),
            nft.AddElements(DISPATCH, (new,)),
        ]
    )
    assert read(door).elements["dispatch"] == dict([new])


def test_only_the_owner_changes_the_table(connect: Callable[[], NftDoor]) -> None:
    mine, other = connect(), connect()
    assert not mine.commit(SKELETON)
    info = other.table()
    assert info is not None
    assert info.owner == mine.port
    with pytest.raises(PlaitError, match="PLAIT-HOST-004"):
        other.commit([nft.AddElements(SOURCES, (source("pl1", "10.0.0.1"),))])
    with pytest.raises(PlaitError, match="PLAIT-HOST-004"):
        other.commit([nft.DeleteTable()])
    assert read(mine).elements["sources"] == {}


def test_an_orphan_is_adopted_as_it_is(connect: Callable[[], NftDoor]) -> None:
    first = connect()
    element = source("pl1", "10.0.0.1")
    assert not first.commit([*SKELETON, nft.AddElements(SOURCES, (element,))])
    before = read(first)
    first.close()
    second = connect()
    orphan = read(second)
    assert orphan == before._replace(info=orphan.info)
    assert (orphan.info.owner, orphan.info.flags) == (0, nft.TABLE_PERSIST)
    assert not second.commit([nft.AddTable(OWNED), nft.DeleteElements(SOURCES, (element,))])
    assert read(second).info.owner == second.port
    assert read(second).elements["sources"] == {}


def test_base_chains_wait_until_the_table_is_adopted(connect: Callable[[], NftDoor]) -> None:
    first = connect()
    assert not first.commit([nft.AddTable(OWNED), nft.AddChain(nft.Chain("leaf"))])
    first.close()
    second = connect()
    chain = nft.AddChain(BASE)
    assert second.commit([nft.AddTable(OWNED), chain])[1].errno == errno.EINVAL
    assert read(second).info.owner == 0
    assert not second.commit([nft.AddTable(OWNED)])
    assert not second.commit([chain])


def test_a_table_without_owner_flag_cannot_be_adopted(door: NftDoor) -> None:
    assert not door.commit([nft.AddTable()])
    assert door.commit([nft.AddTable(OWNED)])[0].errno == errno.EOPNOTSUPP
    assert not door.commit([nft.DeleteTable(), *SKELETON])
    assert read(door).info.owner == door.port


def test_the_generation_counts_commits_and_reads_do_not(door: NftDoor) -> None:
    before = door.generation()
    door.read()
    assert door.generation() == before
    assert not door.commit(SKELETON)
    assert door.generation() > before


def test_a_large_set_is_loaded_and_read_whole(door: NftDoor) -> None:
    elements = tuple(source(f"pl{i}", f"10.0.{i >> 8}.{i & 255}") for i in range(5000))
    assert not door.commit([*SKELETON, nft.AddElements(SOURCES, elements)])
    assert len(read(door).elements["sources"]) == 5000


COUNTING = nft.Chain("counting", (nft.Rule("count", (CountIn("c1"), e.DROP)),))
PORTS = nft.Set("ports", (k.PROTO, k.SERVICE), interval=True)
STAY = nft.Set("stay", (k.IPV4,), (k.IPV4, k.SERVICE), timeout=True, size=1024)
TIMED = nft.Set("timed", (k.IPV4,), timeout=True)
A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def test_a_counter_outlives_the_rules_that_use_it(door: NftDoor) -> None:
    assert door.counters() == {}
    rules = [nft.AddChain(COUNTING), nft.AddRules(COUNTING)]
    refused = door.commit([*SKELETON, *rules])
    assert [why.errno for why in refused.values()] == [errno.ENOENT]
    assert not door.commit([*SKELETON, nft.AddCounter("c1"), *rules])
    assert door.counters() == {"c1": nft_read.Count(0, 0)}
    assert read(door).counters == {"c1"}
    # One that is there stays as it is, and stays while a rule uses it.
    assert not door.commit([nft.AddCounter("c1")])
    assert door.commit([nft.DeleteCounter("c1")])[0].errno == errno.EBUSY
    assert not door.commit([nft.FlushChain("counting"), nft.AddRules(COUNTING)])
    assert not door.commit([nft.FlushChain("counting"), nft.DeleteCounter("c1")])
    assert door.counters() == {}
    assert door.commit([nft.DeleteCounter("c1")])[0].errno == errno.ENOENT


def test_ranges_of_several_fields_read_back(door: NftDoor) -> None:
    def key(proto: int, first: int, last: int) -> bytes:
        ends = [k.concat(e.byte(proto), e.port(number)) for number in (first, last)]
        return b"".join(ends)

    elements = [(key(6, 80, 80), None), (key(6, 8000, 9000), None), (key(17, 53, 53), None)]
    assert not door.commit([*SKELETON, nft.AddSet(PORTS), nft.AddElements(PORTS, tuple(elements))])
    state = read(door)
    assert state.sets["ports"] == nft_read.describe(PORTS)
    assert state.elements["ports"] == dict(elements)
    assert not door.commit([nft.DeleteElements(PORTS, tuple(elements[1:]))])
    assert read(door).elements["ports"] == dict(elements[:1])


def test_elements_may_have_an_end(door: NftDoor) -> None:
    assert door.live("timed") == {}
    assert door.commit([*SKELETON, nft.AddTimed(TIMED, ((A, None),), 1000)])
    assert not door.commit([*SKELETON, nft.AddSet(TIMED), nft.AddTimed(TIMED, ((A, None),), 60000)])
    assert set(read(door).elements["timed"]) == {A}
    assert door.live("timed").keys() == {A}
    assert 0 < door.live("timed")[A] <= 60000
    # One that is there is no error; gone and back in one transaction, it has the new end.
    assert not door.commit([nft.AddTimed(TIMED, ((A, None), (B, None)), 90000)])
    again = nft.DeleteElements(TIMED, ((A, None),)), nft.AddTimed(TIMED, ((A, None),), 120000)
    assert not door.commit(again)
    left = door.live("timed")
    assert left.keys() == {A, B}
    assert 60000 < left[B] <= 90000 < left[A] <= 120000


def test_what_a_map_remembers_for_a_time(door: NftDoor) -> None:
    assert door.elements("stay") == {}
    value = k.concat(A, (80).to_bytes(2, "big"))
    remembered = nft.AddTimed(STAY, ((A, value),), 60000)
    assert not door.commit([*SKELETON, nft.AddSet(STAY), remembered])
    assert door.elements("stay") == {A: value}
    assert door.live("stay").keys() == {A}
    assert read(door).sets["stay"] == nft_read.describe(STAY)
    assert not door.commit([nft.DeleteElements(STAY, ((A, None),))])
    assert door.elements("stay") == {}


def test_an_element_goes_by_itself(door: NftDoor) -> None:
    assert not door.commit([*SKELETON, nft.AddSet(TIMED), nft.AddTimed(TIMED, ((A, None),), 20)])
    if isinstance(door, FakeNft):
        door.kernel.now += 20
    deadline = time.monotonic() + 5
    while door.live("timed"):
        assert time.monotonic() < deadline
        os.sched_yield()
    assert door.commit([nft.DeleteElements(TIMED, ((A, None),))])[0].errno == errno.ENOENT


@pytest.mark.root
def test_a_flush_by_another_process_misses_what_is_owned(namespace: int) -> None:
    with netns.inside(namespace):
        mine = Nft()
        assert not mine.commit(SKELETON)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert mine.table() is not None
        mine.close()
        # An orphan is flushed like any table; design section 4 says how to rule that out.
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        again = Nft()
        assert again.table() is None
        again.close()


@pytest.mark.root
def test_probing_leaves_no_table(namespace: int) -> None:
    with netns.inside(namespace):
        door = Nft()
        listed = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True)
        door.close()
    assert listed.stdout == b""


@pytest.mark.root
def test_the_monitor_tells_our_changes_from_others(namespace: int) -> None:
    with netns.inside(namespace):
        door = Nft()
        monitor = NftMonitor(door)
        # Without an owner, as on kernels before 6.9.
        assert not door.commit([nft.AddTable(), *SKELETON[1:]])
        assert not monitor.drain()
        subprocess.run(["nft", "add", "table", "inet", "somebody"], check=True)
        assert not monitor.drain()
        subprocess.run(["nft", "flush", "chain", "inet", "plait", "base"], check=True)
        assert monitor.drain()
        assert not monitor.drain()
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert monitor.drain()
        monitor.close()
        door.close()
