"""Comparing tables of which little changed gives what comparing them anew gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plait.agent.programmers.comparing import differing, left_over, other_objects, out_and_put

TABLES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1000, 1002).map(str))


@given(TABLES, TABLES)
def test_what_differs(before: dict[str, str], after: dict[str, str]) -> None:
    put = [key for key in after if before.get(key) != after[key]]
    out = {key for key in before if before[key] != after.get(key)}
    assert differing(before, after) == put
    found = out_and_put(before, after)
    assert (set(found[0]), len(found[0]), found[1]) == (out, len(out), put)
    new = len(after.keys() - before.keys())
    assert left_over(before.keys(), after.keys(), new) == before.keys() - after.keys()


def test_equal_objects_are_others_but_do_not_differ() -> None:
    before, after = {"a": [1], "b": [2]}, {"a": [1]}
    after["b"] = before["b"]
    assert list(other_objects(before, after)) == ["a"]
    assert differing(before, after) == []
    assert out_and_put(before, after) == ([], [])
