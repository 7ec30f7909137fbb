"""The bounds of what memory keeps for watchers."""

from __future__ import annotations

from plait.store.base import Event
from plait.store.history import EVENT_OVERHEAD, History


def events(revision: int, size: int = 0) -> tuple[Event, ...]:
    return (Event("/k", bytes(size), revision),)


def test_revisions_are_found_by_number() -> None:
    history = History(4, max_revisions=10, max_bytes=10**6)
    history.append(events(5))
    history.append(events(6))
    assert [history.get(r) for r in (4, 5, 6, 7)] == [None, events(5), events(6), None]


def test_the_oldest_go_when_there_are_too_many() -> None:
    history = History(0, max_revisions=3, max_bytes=10**6)
    for revision in range(1, 11):
        history.append(events(revision))
    assert history.floor == 7
    assert history.get(7) is None
    assert history.get(8) == events(8)


def test_the_oldest_go_when_they_are_too_large() -> None:
    history = History(0, max_revisions=100, max_bytes=2 * (EVENT_OVERHEAD + 1000))
    for revision in range(1, 11):
        history.append(events(revision, 1000))
    assert history.floor == 8
    history.append(events(11, 10**6))
    assert history.floor == 11


def test_forgetting_stops_at_the_newest() -> None:
    history = History(0, max_revisions=100, max_bytes=10**6)
    for revision in range(1, 5):
        history.append(events(revision))
    history.forget(2)
    assert history.floor == 2
    history.forget(99)
    assert history.floor == 4
    history.append(events(5))
    assert history.get(5) == events(5)
