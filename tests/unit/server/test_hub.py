"""Fan-out, with transports that remember what was written to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.model.objects import KINDS, Metadata, Namespace, Network, Object
from plait.server.authorize import Actor
from plait.server.clock import Clock
from plait.server.hub import BUFFER, Hub, Watcher
from plait.server.mirror import Change
from plait.server.state import Entry, State
from plait.wire.watch import WatchDecoder, WatchEvent


class Transport:
    """Stands in for a socket; `waiting` is what it has not sent yet."""

    def __init__(self) -> None:
        self.data = b""
        self.waiting = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.data += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def events(self) -> list[WatchEvent]:
        """The chunks, decoded (RFC 9112 section 7.1)."""
        decoder, rest, events = WatchDecoder(), self.data, []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            events += decoder.feed(rest[:length])
            assert rest[length : length + 2] == b"\r\n"
            rest = rest[length + 2 :]
        return events


def change(revision: int, kind: type[Object] = Network) -> Change:
    obj = kind(metadata=Metadata(name=f"n{revision}"))
    return Change(kind, revision, Entry(obj.key, obj, revision).line)  # type: ignore[arg-type]


def publish(hub: Hub, revision: int, kind: type[Object] = Network) -> None:
    hub.publish(revision, [change(revision, kind)])
    hub.flush()


def join(
    hub: Hub, *kinds: type[Object], after: int = 0, history: str = "h", actor: Actor | None = None
) -> tuple[Watcher, Transport, list[WatchEvent]]:
    transport = Transport()
    watcher = Watcher(actor or Actor("admin"), frozenset(kinds), transport)  # type: ignore[arg-type]
    lines = hub.join(watcher, State(), after, history)
    return watcher, transport, WatchDecoder().feed(b"".join(lines))


@pytest.fixture
async def hub() -> Hub:
    made = Hub(Clock(), history_events=5)
    made.history = "h"
    made.reset(10)
    return made


async def test_each_gets_the_kinds_that_it_follows(hub: Hub) -> None:
    both, networks, namespaces = (
        join(hub, *kinds) for kinds in ((Network, Namespace), (Network,), (Namespace,))
    )
    for watcher, _, _ in (both, networks, namespaces):
        hub.caught_up(watcher)
    publish(hub, 11)
    publish(hub, 12, Namespace)
    hub.bookmark()
    assert [e.revision for e in both[1].events()] == [11, 12, 12]
    assert [e.type for e in networks[1].events()] == ["put", "bookmark"]
    assert [e.revision for e in namespaces[1].events()] == [12, 12]


async def test_what_happens_during_the_snapshot_comes_after_it(hub: Hub) -> None:
    watcher, transport, first = join(hub, Network)
    assert [e.type for e in first] == ["begin", "synced"]
    publish(hub, 11)
    hub.bookmark()
    assert transport.data == b""
    hub.caught_up(watcher)
    publish(hub, 12)
    assert [e.revision for e in transport.events()] == [11, 11, 12]


async def test_changes_of_one_turn_of_the_loop_are_one_write(hub: Hub) -> None:
    watcher, transport, _ = join(hub, Network)
    hub.caught_up(watcher)
    for revision in (11, 12, 13):
        hub.publish(revision, [change(revision)])
    late, late_transport, _ = join(hub, Network)
    hub.caught_up(late)
    assert transport.data.count(b"\r\n") == 2
    assert [e.revision for e in transport.events()] == [11, 12, 13]
    assert late_transport.data == b"", "it came after, and its snapshot had them"


async def test_a_slow_watcher_is_cut(hub: Hub) -> None:
    slow, slow_transport, _ = join(hub, Network)
    quick, quick_transport, _ = join(hub, Network)
    hub.caught_up(slow)
    hub.caught_up(quick)
    slow_transport.waiting = BUFFER + 1
    publish(hub, 11)
    assert slow_transport.aborted
    assert hub.cut == 1
    assert [e.revision for e in quick_transport.events()] == [11]
    assert hub.watchers == 1


async def test_a_watcher_that_never_reads_its_snapshot_is_cut(hub: Hub) -> None:
    _, transport, _ = join(hub, Network)
    revision = 10
    while not transport.aborted:
        revision += 1
        publish(hub, revision)
        assert revision < 100_000
    assert hub.watchers == 0


@given(st.integers(0, 20), st.integers(0, 12))
async def test_one_who_resumes_gets_the_rest_or_begins_anew(after: int, count: int) -> None:
    hub = Hub(Clock(), history_events=5)
    hub.history = "h"
    hub.reset(10)
    for revision in range(11, 11 + count):
        publish(hub, revision)
    _, _, events = join(hub, Network, after=after)
    last = 10 + count
    floor = max(10, last - 5)
    if after == 0:
        assert [e.type for e in events] == ["begin", "synced"]
    elif floor <= after <= last:
        assert [e.revision for e in events] == [*range(after + 1, last + 1), last]
        assert events[-1].type == "bookmark"
    else:
        assert [e.type for e in events] == ["resync", "begin", "synced"]


async def test_another_history_begins_anew(hub: Hub) -> None:
    _, _, events = join(hub, Network, after=10, history="other")
    assert "history" in events[0].reason


async def test_the_watchers_of_one_node_are_cut_alone(hub: Hub) -> None:
    _, one, _ = join(hub, Network, actor=Actor("node", "h1"))
    _, two, _ = join(hub, Network, actor=Actor("node", "h2"))
    _, admin, _ = join(hub, Network, actor=Actor("admin", "h1"))
    assert hub.watched_by("h1")
    hub.cut_all(node="h1")
    assert (one.aborted, two.aborted, admin.aborted) == (True, False, False)
    assert not hub.watched_by("h1")


async def test_history_is_bounded_by_bytes() -> None:
    hub = Hub(Clock(), history_bytes=1000)
    hub.history = "h"
    hub.reset(0)
    for revision in range(1, 100):
        publish(hub, revision)
    assert hub._past_bytes <= 1000
    assert join(hub, Network, after=50)[2][0].type == "resync"
    assert join(hub, *KINDS.values(), after=98)[2][0].revision == 99
