"""What every store does: the promises of `plait.store.base`, on each implementation.

A new store joins by a line in `STORES`. The first half names the promises one by one; the
second half walks random histories beside a model that is too simple to be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plait.model.errors import PlaitError
from plait.store.base import Compacted, Compare, Delete, Event, KeyValue, Put
from plait.store.local import LocalStore
from plait.store.memory import MemoryStore
from plait.store.sqlite import SqliteStore


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Factory = Callable[[Path, Clock], LocalStore]

STORES: dict[str, Factory] = {
    "memory": lambda _path, clock: MemoryStore(clock=clock),
    "sqlite": lambda path, clock: SqliteStore(path / "store.db", clock=clock),
    # No history in memory: every event that a watcher sees comes from the disk.
    "sqlite-log": lambda path, clock: SqliteStore(
        path / "store.db", clock=clock, history_revisions=0
    ),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[LocalStore]:
    made = STORES[request.param](tmp_path, clock)
    await made.open()
    yield made
    await made.close()


async def put(store: LocalStore, key: str, value: bytes = b"v", lease: int = 0) -> int:
    return (await store.txn((), (Put(key, value, lease),))).revision


async def take(store: LocalStore, prefix: str, after: int, count: int) -> list[tuple[Event, ...]]:
    async with contextlib.aclosing(store.watch(prefix, after)) as watch:
        return [await anext(watch) for _ in range(count)]


async def test_an_empty_store_is_at_revision_one(store: LocalStore) -> None:
    assert store.revision == 1
    assert await store.get("/a") is None
    assert await store.range("/") == await store.range("/", limit=5)


async def test_a_put_is_read_back_with_its_revisions(store: LocalStore) -> None:
    assert await put(store, "/a", b"1") == 2
    assert await put(store, "/b", b"2") == 3
    assert await put(store, "/a", b"3") == 4
    assert await store.get("/a") == KeyValue("/a", b"3", create_revision=2, mod_revision=4)
    assert store.revision == 4


async def test_a_deleted_and_created_key_begins_anew(store: LocalStore) -> None:
    await put(store, "/a")
    assert (await store.txn((), (Delete("/a"),))).revision == 3
    assert await store.get("/a") is None
    await put(store, "/a")
    assert await store.get("/a") == KeyValue("/a", b"v", create_revision=4, mod_revision=4)


async def test_deleting_an_absent_key_is_no_write(store: LocalStore) -> None:
    result = await store.txn((), (Delete("/a"),))
    assert (result.succeeded, result.revision, store.revision) == (True, 1, 1)


async def test_one_failed_guard_stops_the_whole_transaction(store: LocalStore) -> None:
    await put(store, "/a")
    guards = (Compare("/a", 2), Compare("/b", 7), Compare("/c", 0))
    result = await store.txn(guards, (Put("/a", b"new"), Put("/c", b"new")))
    assert (result.succeeded, result.revision, result.failed) == (False, 2, ("/b",))
    assert await store.get("/c") is None
    assert (await store.txn((Compare("/a", 2),), (Put("/a", b"new"),))).succeeded


async def test_of_many_concurrent_claims_of_one_key_one_wins(store: LocalStore) -> None:
    claims = [
        store.txn((Compare("/claim", 0),), (Put("/claim", str(n).encode()),)) for n in range(64)
    ]
    results = await asyncio.gather(*claims)
    assert [r.succeeded for r in results].count(True) == 1
    assert store.revision == 2


async def test_concurrent_writes_get_one_revision_each(store: LocalStore) -> None:
    revisions = await asyncio.gather(*(put(store, f"/k/{n}") for n in range(100)))
    assert sorted(revisions) == list(range(2, 102))
    assert len((await store.range("/k/")).items) == 100


async def test_operations_of_a_transaction_count_by_their_net_effect(store: LocalStore) -> None:
    await put(store, "/a", b"old")
    await store.txn((), (Delete("/a"), Put("/a", b"new"), Put("/b", b""), Delete("/b")))
    assert await take(store, "/", 2, 1) == [(Event("/a", b"new", 3, 3, b"old"),)]


async def test_a_range_is_ordered_and_pages(store: LocalStore) -> None:
    await store.txn((), [Put(key, b"") for key in ("/b/2", "/a", "/b/10", "/b", "/c", "/b/1")])
    first = await store.range("/b/", limit=2)
    assert [item.key for item in first.items] == ["/b/1", "/b/10"]
    assert first.more
    rest = await store.range("/b/", limit=2, after="/b/10")
    assert [item.key for item in rest.items] == ["/b/2"]
    assert not rest.more
    assert rest.revision == 2
    assert [item.key for item in (await store.range("/b/", limit=2, after="/a")).items] == [
        "/b/1",
        "/b/10",
    ]
    assert (await store.range("/b/", after="/c")).items == ()


@pytest.mark.parametrize("key", ["", "a", "/é", "/a\n", "/a\0", "/" + "x" * 512])
async def test_a_key_outside_the_limits_is_refused(store: LocalStore, key: str) -> None:
    with pytest.raises(PlaitError) as caught:
        await put(store, key)
    assert caught.value.code == "PLAIT-STORE-005"
    assert store.revision == 1


async def test_a_value_may_have_one_mebibyte_and_no_more(store: LocalStore) -> None:
    await put(store, "/a", bytes(1 << 20))
    with pytest.raises(PlaitError, match="PLAIT-STORE-005"):
        await put(store, "/a", bytes((1 << 20) + 1))


async def test_a_watch_replays_and_goes_on(store: LocalStore) -> None:
    await put(store, "/a/1", b"1")
    await store.txn((), (Put("/a/2", b"2"), Put("/b", b""), Put("/a/1", b"3")))
    async with contextlib.aclosing(store.watch("/a/", 0)) as watch:
        assert await anext(watch) == (Event("/a/1", b"1", 2, 2),)
        assert await anext(watch) == (
            Event("/a/2", b"2", 3, 3),
            Event("/a/1", b"3", 3, 2, previous=b"1"),
        )
        following = asyncio.ensure_future(anext(watch))
        await put(store, "/b")
        await store.txn((), (Delete("/a/1"),))
        assert await following == (Event("/a/1", None, 5, previous=b"3"),)


async def test_a_watcher_never_sees_what_a_reader_does_not(store: LocalStore) -> None:
    seen: list[int] = []

    async def follow() -> None:
        async for events in store.watch("/", 1):
            assert store.revision >= events[0].revision
            item = await store.get(events[0].key)
            assert item is not None
            assert item.mod_revision >= events[0].revision
            seen.append(events[0].revision)
            if len(seen) == 50:
                return

    follower = asyncio.ensure_future(follow())
    await asyncio.gather(*(put(store, f"/{n % 7}") for n in range(50)))
    await follower
    assert seen == list(range(2, 52))


async def test_a_watch_from_a_compacted_revision_says_so(store: LocalStore) -> None:
    for n in range(5):
        await put(store, f"/{n}")
    await store.compact(4)
    with pytest.raises(Compacted) as caught:
        await take(store, "/", 3, 1)
    assert caught.value.revision == 4
    assert [e[0].revision for e in await take(store, "/", 4, 2)] == [5, 6]
    assert (await store.get("/0")) is not None


async def test_a_watcher_behind_a_compaction_is_told_or_complete(store: LocalStore) -> None:
    for n in range(5):
        await put(store, f"/{n}")
    seen = []
    async with contextlib.aclosing(store.watch("/", 1)) as slow:
        seen.append((await anext(slow))[0].revision)
        await store.compact(99)
        # What was read ahead may still come; then the gap is reported, never skipped.
        with contextlib.suppress(Compacted):
            while seen[-1] < 6:
                seen.append((await anext(slow))[0].revision)
    assert seen == list(range(2, 2 + len(seen)))
    with pytest.raises(Compacted):
        await take(store, "/", seen[0], 1)


async def test_a_watch_from_a_revision_of_another_history_says_so(store: LocalStore) -> None:
    with pytest.raises(Compacted):
        await take(store, "/", 1000, 1)


async def test_a_lapsed_lease_takes_its_keys_along(store: LocalStore, clock: Clock) -> None:
    lease = await store.lease_grant(5)
    await put(store, "/a", lease=lease)
    await put(store, "/b", lease=lease)
    await put(store, "/b")  # no longer under the lease
    clock.now += 4
    assert await store.lapse() == ()
    assert await store.lease_keepalive(lease)
    clock.now += 4
    assert await store.lapse() == ()
    clock.now += 1
    assert await store.lapse() == (lease,)
    assert [item.key for item in (await store.range("/")).items] == ["/b"]
    assert await take(store, "/", 4, 1) == [(Event("/a", None, 5, previous=b"v"),)]
    assert not await store.lease_keepalive(lease)
    with pytest.raises(PlaitError, match="PLAIT-STORE-004"):
        await put(store, "/a", lease=lease)


async def test_many_leases_lapse_at_once(store: LocalStore, clock: Clock) -> None:
    leases = await asyncio.gather(*(store.lease_grant(5) for _ in range(200)))
    await asyncio.gather(*(put(store, f"/{lease}", lease=lease) for lease in leases))
    clock.now += 5
    lapse = asyncio.ensure_future(store.lapse())
    other = asyncio.ensure_future(put(store, "/other"))
    assert set(await lapse) == set(leases)
    assert [item.key for item in (await store.range("/")).items] == ["/other"]
    last = max(store.revision, await other)
    seen = await take(store, "/", 1, 401)
    assert [events[0].revision for events in seen] == list(range(2, last + 1))


async def test_a_revoked_lease_is_gone_at_once_and_twice_is_no_error(store: LocalStore) -> None:
    lease = await store.lease_grant(5)
    await put(store, "/a", lease=lease)
    await asyncio.gather(store.lease_revoke(lease), store.lease_revoke(lease))
    assert await store.get("/a") is None
    assert store.revision == 3
    assert not await store.lease_keepalive(lease)
    assert await store.lease_grant(5) != lease


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
async def test_a_lease_has_a_life(store: LocalStore, ttl: float) -> None:
    with pytest.raises(PlaitError, match="PLAIT-STORE-005"):
        await store.lease_grant(ttl)


async def test_a_store_that_was_stopped_gives_the_time_back(
    store: LocalStore, clock: Clock
) -> None:
    lease = await store.lease_grant(30)
    clock.now += 3600
    assert await store.lapse() == ()
    for _ in range(3):
        clock.now += 9
        assert await store.lapse() == ()
    clock.now += 9
    assert await store.lapse() == (lease,)


async def test_a_closed_store_refuses_and_ends_its_watches(store: LocalStore) -> None:
    waiting = asyncio.ensure_future(take(store, "/", 1, 1))
    await asyncio.sleep(0)
    await store.close()
    for call in (
        waiting,
        store.get("/a"),
        put(store, "/a"),
        store.range("/"),
        store.lease_grant(1),
    ):
        with pytest.raises(PlaitError, match="PLAIT-STORE-003"):
            await call
    await store.close()


async def test_a_store_goes_on_after_it_was_closed(store: LocalStore) -> None:
    lease = await store.lease_grant(30)
    await put(store, "/a", b"1", lease)
    await store.close()
    await store.open()
    assert store.revision == 2
    assert await store.get("/a") == KeyValue("/a", b"1", 2, 2, lease)
    assert await store.lease_keepalive(lease)
    assert await take(store, "/", 0, 1) == [(Event("/a", b"1", 2, 2),)]
    await store.lease_revoke(lease)
    assert await store.lease_grant(5) > lease


# ---- random histories beside a model

KEYS = st.sampled_from([f"/{group}/{n}" for group in "ab" for n in range(3)])
OPS = st.lists(
    st.one_of(st.builds(Put, KEYS, st.binary(max_size=3)), st.builds(Delete, KEYS)), max_size=4
)


class StoreMachine(RuleBasedStateMachine):
    """A store and its model, step by step."""

    factory: Factory

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory(prefix="plait-store-")
        self.clock = Clock()
        self.store = type(self).factory(Path(self.directory.name), self.clock)
        self.runner.run(self.store.open())
        self.model: dict[str, KeyValue] = {}
        self.log: dict[int, dict[str, Event]] = {}
        self.leases: dict[int, tuple[float, float]] = {}
        self.revision = 1
        self.compacted = 0

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.store.close())
            self.runner.close()
            self.directory.cleanup()

    def expect(self, ops: Sequence[Put | Delete]) -> None:
        """Do to the model what the store was asked to do."""
        before = dict(self.model)
        revision = self.revision + 1
        for op in ops:
            if isinstance(op, Delete):
                self.model.pop(op.key, None)
            else:
                old = self.model.get(op.key)
                created = old.create_revision if old else revision
                self.model[op.key] = KeyValue(op.key, op.value, created, revision, op.lease)
        events = {}
        for key in {op.key for op in ops} & (self.model.keys() | before.keys()):
            item, old = self.model.get(key), before.get(key)
            events[key] = Event(
                key,
                item.value if item else None,
                revision,
                item.create_revision if item else 0,
                old.value if old else None,
            )
        if events:
            self.revision = revision
            self.log[revision] = events

    @rule(transactions=st.lists(st.tuples(st.dictionaries(KEYS, st.booleans()), OPS), max_size=4))
    def transact(self, transactions: list[tuple[dict[str, bool], list[Put | Delete]]]) -> None:
        """Concurrent transactions are decided in the order in which they were asked."""
        asked = []
        for guards, ops in transactions:
            compares = []
            for key, right in guards.items():
                known = self.model.get(key)
                compares.append(Compare(key, (known.mod_revision if known else 0) + (not right)))
            asked.append((compares, ops))

        async def ask() -> list[object]:
            return list(await asyncio.gather(*(self.store.txn(c, o) for c, o in asked)))

        results = self.runner.run(ask())
        for (compares, ops), result in zip(asked, results, strict=True):
            failed = []
            for compare in compares:
                now = self.model.get(compare.key)
                if (now.mod_revision if now else 0) != compare.mod_revision:
                    failed.append(compare.key)
            if not failed:
                self.expect(ops)
            assert (result.succeeded, result.failed) == (not failed, tuple(failed))
            assert result.revision == self.revision

    @rule(ttl=st.integers(1, 20), key=KEYS, value=st.binary(max_size=3))
    def lease(self, ttl: int, key: str, value: bytes) -> None:
        lease = self.runner.run(self.store.lease_grant(ttl))
        assert lease not in self.leases
        self.leases[lease] = (self.clock.now + ttl, ttl)
        self.runner.run(self.store.txn((), (Put(key, value, lease),)))
        self.expect([Put(key, value, lease)])

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), revoke=st.booleans())
    def keep_or_revoke(self, data: st.DataObject, revoke: bool) -> None:
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        if revoke:
            self.runner.run(self.store.lease_revoke(lease))
            self.end(lease)
            assert not self.runner.run(self.store.lease_keepalive(lease))
        else:
            assert self.runner.run(self.store.lease_keepalive(lease))
            ttl = self.leases[lease][1]
            self.leases[lease] = (self.clock.now + ttl, ttl)

    def end(self, lease: int) -> None:
        del self.leases[lease]
        self.expect([Delete(i.key) for i in self.model.values() if i.lease == lease])

    @rule(seconds=st.integers(0, 10))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds
        lapsed = self.runner.run(self.store.lapse())
        assert set(lapsed) == {k for k, (end, _) in self.leases.items() if end <= self.clock.now}
        for lease in lapsed:
            self.end(lease)

    @rule(back=st.integers(0, 5))
    def compact(self, back: int) -> None:
        revision = max(self.revision - back, 0)
        self.runner.run(self.store.compact(revision))
        self.compacted = max(self.compacted, revision)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.runner.run(self.store.open())
        if not isinstance(self.store, MemoryStore):
            now = self.clock.now
            self.leases = {k: (now + ttl, ttl) for k, (_, ttl) in self.leases.items()}

    @rule(back=st.integers(0, 10), prefix=st.sampled_from(["/", "/a/", "/a/1"]))
    def watch(self, back: int, prefix: str) -> None:
        """A watch from any revision gives exactly what happened since, or says that it cannot."""
        start = max(self.revision - back, 1)
        expected = []
        for revision in range(start + 1, self.revision + 1):
            matching = {k: e for k, e in self.log[revision].items() if k.startswith(prefix)}
            if matching:
                expected.append(matching)

        async def follow() -> list[dict[str, Event]]:
            async with contextlib.aclosing(self.store.watch(prefix, start)) as watch:
                groups = [await anext(watch) for _ in expected or range(start < self.compacted)]
                return [{event.key: event for event in group} for group in groups]

        if start < self.compacted:
            with pytest.raises(Compacted):
                self.runner.run(follow())
        else:
            assert self.runner.run(follow()) == expected

    @rule(prefix=st.sampled_from(["/", "/a/", "/b/1", "/z"]), limit=st.integers(0, 4), after=KEYS)
    def page(self, prefix: str, limit: int, after: str) -> None:
        keys = sorted(k for k in self.model if k.startswith(prefix) and k > after)
        page = self.runner.run(self.store.range(prefix, limit=limit, after=after))
        assert page.items == tuple(self.model[k] for k in (keys[:limit] if limit else keys))
        assert page.more == bool(limit and len(keys) > limit)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "model"):
            page = self.runner.run(self.store.range("/"))
            assert {item.key: item for item in page.items} == self.model
            assert page.revision == self.store.revision == self.revision


@pytest.mark.parametrize("name", STORES)
def test_random_histories(name: str) -> None:
    machine = type("Machine", (StoreMachine,), {"factory": staticmethod(STORES[name])})
    run = machine.TestCase
    run.settings = settings(
        max_examples=25,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
    )
    run("runTest").runTest()
