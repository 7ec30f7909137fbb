from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plait.kubernetes.objects import Metadata, Namespace
from plait.kubernetes.replica import Change, Listing, Replica


def thing(name: str, version: int, uid: str = "u") -> Namespace:
    return Namespace(metadata=Metadata(name=name, uid=uid, resource_version=str(version)))


def listed(replica: Replica[Namespace], *things: Namespace) -> list[Change[Namespace]]:
    listing = Listing(replica)
    listing.add(things)
    return replica.replace(listing)


def test_a_first_list_is_all_new() -> None:
    replica = Replica[Namespace]()
    a, b = thing("a", 1), thing("b", 2)
    assert listed(replica, a, b) == [Change(("", "a"), None, a), Change(("", "b"), None, b)]
    assert dict(replica.objects) == {("", "a"): a, ("", "b"): b}


def test_a_later_list_tells_what_went_first_and_nothing_twice() -> None:
    replica = Replica[Namespace]()
    a, b, c = thing("a", 1), thing("b", 2), thing("c", 3)
    listed(replica, a, b, c)
    newer, d = thing("b", 5), thing("d", 6)
    assert listed(replica, thing("a", 1), newer, d) == [
        Change(("", "c"), c, None),
        Change(("", "b"), b, newer),
        Change(("", "d"), None, d),
    ]
    assert replica.objects["", "a"] is a


def test_another_object_of_the_name_is_told_as_gone_and_come() -> None:
    replica = Replica[Namespace]()
    first, second = thing("a", 1), thing("a", 5, uid="v")
    replica.put(first)
    told = [Change(("", "a"), first, None), Change(("", "a"), None, second)]
    assert replica.put(second) == told
    assert listed(replica, thing("a", 7, uid="w"))[0] == Change(("", "a"), second, None)


def test_what_is_known_is_no_change() -> None:
    replica = Replica[Namespace]()
    replica.put(thing("a", 1))
    assert replica.put(thing("a", 1)) == []
    assert replica.delete(("", "b")) == []


def test_what_a_list_holds_but_nobody_understands_stays_as_it_was() -> None:
    replica = Replica[Namespace]()
    a = thing("a", 1)
    replica.put(a)
    listing = Listing(replica)
    listing.keep(("", "a"))
    listing.keep(("", "b"))
    assert replica.replace(listing) == []
    assert dict(replica.objects) == {("", "a"): a}


def test_a_list_that_was_cut_off_changes_nothing() -> None:
    replica = Replica[Namespace]()
    replica.put(thing("a", 1))
    Listing(replica).add([thing("b", 2)])
    assert set(replica.objects) == {("", "a")}


def test_nothing_is_left_after_clear() -> None:
    replica = Replica[Namespace]()
    a = thing("a", 1)
    replica.put(a)
    assert replica.clear() == [Change(("", "a"), a, None)]
    assert not replica.objects


names = st.sampled_from("abc")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), names),
        st.tuples(st.just("recreate"), names),
        st.tuples(st.just("delete"), names),
        st.tuples(st.just("hear"), st.just("")),
        st.tuples(st.just("list"), st.just("")),
    ),
    max_size=40,
)


@given(steps)
def test_however_it_hears_of_them_its_changes_lead_to_what_there_is(
    drawn: list[tuple[str, str]],
) -> None:
    """A world that changes; a replica that hears every change or lists; a follower of changes."""
    replica = Replica[Namespace]()
    world: dict[str, Namespace] = {}
    unheard: list[tuple[str, Namespace | None]] = []
    followed: dict[Any, Namespace] = {}

    def tell(changes: list[Change[Namespace]]) -> None:
        for key, old, new in changes:
            assert followed.get(key) == old
            assert old is None or new is None or old.metadata.uid == new.metadata.uid
            assert old != new
            if new is None:
                del followed[key]
            else:
                followed[key] = new

    for version, (what, name) in enumerate(drawn, 1):
        if what == "put":
            uid = world[name].metadata.uid if name in world else f"u{version}"
            world[name] = thing(name, version, uid)
            unheard.append((name, world[name]))
        elif what == "recreate":
            world[name] = thing(name, version, f"u{version}")
            unheard += [(name, None), (name, world[name])]
        elif what == "delete" and world.pop(name, None) is not None:
            unheard.append((name, None))
        elif what == "hear":
            for heard, new in unheard:
                tell(replica.delete(("", heard)) if new is None else replica.put(new))
            unheard.clear()
        elif what == "list":
            tell(listed(replica, *world.values()))
            unheard.clear()
    tell(listed(replica, *world.values()))
    assert followed == {("", name): each for name, each in world.items()} == dict(replica.objects)
