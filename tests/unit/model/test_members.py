from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plait.model.members import REMEMBERED, Change, Members


def test_a_change_is_told_once() -> None:
    members: Members[str] = Members({"a"})
    assert members.add("b")
    assert not members.add("b")
    assert members.discard("a")
    assert not members.discard("a")
    assert set(members) == {"b"}
    assert members.since(0) == Change(frozenset({"b"}), frozenset({"a"}))
    assert members.since(members.serial) == Change(frozenset(), frozenset())


def test_what_came_and_went_did_not_happen() -> None:
    members: Members[str] = Members({"a"})
    members.add("b")
    members.discard("b")
    members.discard("a")
    members.add("a")
    assert members.since(0) == Change(frozenset(), frozenset())


def test_too_long_ago_is_not_known() -> None:
    members: Members[int] = Members()
    for number in range(REMEMBERED + 1):
        members.add(number)
    assert members.since(0) is None
    assert members.since(1) == Change(frozenset(range(1, REMEMBERED + 1)), frozenset())
    assert members.since(members.serial + 1) is None


def test_a_set_made_anew_is_not_taken_for_the_former_one() -> None:
    former: Members[str] = Members()
    former.add("a")
    again: Members[str] = Members({"b"}, serial=former.serial + 1)
    assert again.since(former.serial) is None
    again.add("c")
    assert again.since(former.serial) is None
    assert again.since(former.serial + 1) == Change(frozenset({"c"}), frozenset())


def test_content_makes_equal() -> None:
    members: Members[str] = Members({"a"})
    members.discard("a")
    assert members == Members()
    assert members != Members({"a"})
    assert members != set()


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40), st.sets(st.integers(0, 5))
)
def test_the_difference_to_any_moment(changes: list[tuple[bool, int]], start: set[int]) -> None:
    members = Members(start)
    seen = [(members.serial, set(members))]
    for added, item in changes:
        (members.add if added else members.discard)(item)
        seen.append((members.serial, set(members)))
    for serial, then in seen:
        change = members.since(serial)
        assert change is not None
        assert change.added == set(members) - then
        assert change.removed == then - set(members)
