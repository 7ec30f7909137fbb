"""The watch stream: cut anywhere, broken anywhere, nothing is lost or repeated."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.model.objects import Metadata, Namespace, encode
from plait.wire import watch
from plait.wire.watch import Cursor, StreamError, WatchDecoder, WatchEvent


def body(name: str) -> bytes:
    return encode(Namespace(metadata=Metadata(name=name)))


STREAM = b"".join(
    [
        watch.mark_line("begin", 3),
        watch.put_line(2, body("a")),
        watch.mark_line("synced", 3),
        watch.delete_line(4, body("a")),
        watch.mark_line("bookmark", 9),
        watch.mark_line("resync", 9, "because"),
    ]
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    decoder = WatchDecoder()
    marks = [0, *sorted(cuts), len(STREAM)]
    events = [
        event
        for start, end in itertools.pairwise(marks)
        for event in decoder.feed(STREAM[start:end])
    ]
    types = [event.type for event in events]
    assert types == ["begin", "put", "synced", "delete", "bookmark", "resync"]
    assert events[1].object == Namespace(metadata=Metadata(name="a"))
    assert events[-1].reason == "because"


@given(st.binary())
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    decoder = WatchDecoder()
    try:
        decoder.feed(data + b"\n")
    except StreamError:
        return
    assert not data.strip(b"\n")


def test_a_line_without_end_is_refused() -> None:
    decoder = WatchDecoder()
    decoder.feed(b"x" * watch.MAX_LINE)
    with pytest.raises(StreamError, match="longer"):
        decoder.feed(b"x")


def events_of(history: list[int], after: int) -> list[WatchEvent]:
    """What a server sends to one who resumes: `history[i]` events of revision i + 1."""
    return [
        WatchEvent(type="put", revision=revision, reason=str(number))
        for revision, count in enumerate(history, start=1)
        for number in range(count)
        if revision > after
    ]


@given(
    st.lists(st.integers(1, 3), max_size=8),
    st.lists(st.tuples(st.integers(0, 10), st.booleans()), max_size=12),
)
def test_a_broken_stream_goes_on_without_gap_or_repetition(
    history: list[int], breaks: list[tuple[int, bool]]
) -> None:
    cursor = Cursor()
    assert cursor.reconnect() == 0
    for kind in ("begin", "synced"):
        assert cursor.accept(WatchEvent(type=kind, revision=0))
    got: list[tuple[int, str]] = []
    for length, bookmark in [*breaks, (1000, True)]:
        after = cursor.reconnect()
        sent = events_of(history, after)
        complete = length >= len(sent)
        got += [(e.revision, e.reason) for e in sent[:length] if cursor.accept(e)]
        if complete and bookmark:
            cursor.accept(WatchEvent(type="bookmark", revision=len(history)))
    assert got == [(event.revision, event.reason) for event in events_of(history, 0)]


def test_a_snapshot_that_breaks_is_read_again() -> None:
    cursor = Cursor()
    cursor.accept(WatchEvent(type="begin", revision=7))
    cursor.accept(WatchEvent(type="synced", revision=7))
    assert cursor.reconnect() == 7
    cursor.accept(WatchEvent(type="resync", revision=9))
    cursor.accept(WatchEvent(type="begin", revision=9))
    cursor.accept(WatchEvent(type="put", revision=8))
    assert cursor.reconnect() == 0
