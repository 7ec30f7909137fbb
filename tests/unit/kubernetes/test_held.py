"""The watch of Plait's server and answers to writes, in whatever order they come."""

from __future__ import annotations

from plait.client.base import WatchEvent
from plait.kubernetes.held import Held
from plait.model.objects import Metadata, Namespace

KEY = "/namespaces/a"


def namespace(revision: int) -> Namespace:
    return Namespace(metadata=Metadata(name="a", revision=revision))


def held(*revisions: int) -> Held:
    """After a listing at revision 10."""
    made = Held()
    made.take(WatchEvent(type="begin", revision=10))
    for revision in revisions:
        made.take(WatchEvent(type="put", revision=revision, object=namespace(revision)))
    made.take(WatchEvent(type="synced", revision=10))
    return made


def test_an_answer_that_comes_after_the_end_of_its_object_is_not_believed() -> None:
    made = held(5)
    assert made.take(WatchEvent(type="delete", revision=12, object=namespace(11))) == {KEY}
    assert made.stored(namespace(11)) == set()
    assert made.objects == {}
    assert made.stored(namespace(13)) == {KEY}


def test_what_was_removed_comes_back_by_no_older_word() -> None:
    made = held(5)
    assert made.stored(namespace(11)) == {KEY}
    assert made.removed(KEY) == {KEY}
    assert made.take(WatchEvent(type="put", revision=11, object=namespace(11))) == set()
    assert made.take(WatchEvent(type="delete", revision=12, object=namespace(11))) == set()
    assert made.take(WatchEvent(type="put", revision=13, object=namespace(13))) == {KEY}
