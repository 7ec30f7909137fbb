"""Who is selected, and how much work it is to know: counted, not timed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import endpoint_selectors, namespace_selectors

from plait.model.selectors import Selector
from plait.selection.parties import Party, namespace_labels
from plait.selection.selector_index import SelectorIndex
from plait.selection.terms import conditions, endpoints, holds

NAMESPACE = "kubernetes.io/metadata.name"


@given(
    endpoint_selectors,
    st.dictionaries(st.sampled_from(("app", "env")), st.sampled_from(("a", "b", ""))),
)
def test_conditions_say_what_the_selector_says(selector: Selector, labels: dict[str, str]) -> None:
    assert holds(conditions(selector), labels) == selector.matches(labels)


def label(key: str, value: str) -> Selector:
    return Selector(match_labels={key: value})


def party(namespace: str, **labels: str) -> Party:
    return Party(namespace, labels, ())


_terms = st.builds(
    endpoints,
    st.one_of(st.none(), namespace_selectors),
    st.one_of(st.none(), endpoint_selectors),
)
_parties = st.builds(
    lambda space, labels: Party(space, labels, ()),
    st.sampled_from(("x", "y")),
    st.dictionaries(
        st.sampled_from(("app", "env", "name.plait/web")), st.sampled_from(("a", "b", ""))
    ),
)


@given(st.lists(_terms, max_size=6), st.lists(_parties, max_size=6), st.data())
@settings(max_examples=100)
def test_files_find_what_a_search_of_everything_finds(
    terms: list[object], parties: list[Party], data: st.DataObject
) -> None:
    index: SelectorIndex[int] = SelectorIndex()
    spaces: dict[str, dict[str, str]] = {}
    for user, term in enumerate(terms):
        index.watch(term, user)  # type: ignore[arg-type]
    for one in parties:
        index.add(one)
    for space in ("x", "y"):
        spaces[space] = data.draw(st.dictionaries(st.just("app"), st.sampled_from(("a", "b"))))
        index.relabel(space, spaces[space])
    for user, term in enumerate(terms):
        scope, labels = term.scope, term.labels  # type: ignore[attr-defined]
        chosen = {
            one
            for one in parties
            if holds(labels, one.labels)
            and holds(scope, namespace_labels(one.space, spaces[one.space]))
        }
        assert set(index.select(term)) == chosen  # type: ignore[arg-type]
        assert {one for one in parties if user in index.users(one)} == chosen


def busy() -> tuple[SelectorIndex[int], random.Random]:
    """10,000 parties in 100 namespaces, 2,000 terms: half name a namespace and a common label."""
    index: SelectorIndex[int] = SelectorIndex()
    rng = random.Random(7)
    for number in range(100):
        index.relabel(f"ns{number}", {"team": f"t{number % 20}"})
    for number in range(2000):
        scope = label(NAMESPACE, f"ns{number % 100}") if number % 2 else None
        own = label("tier", "web") if number % 2 else label("app", f"a{number}")
        index.watch(endpoints(scope, own), number)
    for number in range(10_000):
        index.add(party(f"ns{number % 100}", app=f"a{rng.randrange(2000)}", tier="web"))
    return index, rng


def test_the_work_of_a_change_depends_on_what_it_concerns() -> None:
    index, _ = busy()

    def work() -> int:
        done, index.evaluated = index.evaluated, 0
        return done

    work()
    new = party("ns7", app="a8", tier="web")
    index.add(new)
    assert len(index.users(new)) == 21
    # 20 terms of its namespace and one of its label, of 2,000.
    assert work() < 60
    assert len(index.select(endpoints(label(NAMESPACE, "ns7"), label("app", "a8")))) >= 1
    assert work() < 60
    assert len(index.select(endpoints(label(NAMESPACE, "ns8"), label("tier", "web")))) == 100
    assert work() <= 100 + 1
    watched = endpoints(label("team", "none"), label("tier", "web"))
    index.watch(watched, 1)
    work()
    flips = index.relabel("ns9", {"team": "none"})
    assert {flip.party for flip in flips} == set(
        index.select(endpoints(label(NAMESPACE, "ns9"), None))
    )
    # Each scope twice, then the endpoints of that namespace for the one term that flipped.
    assert work() < 2 * 102 + 100 + 110


def test_terms_are_spread_over_the_labels_that_they_require() -> None:
    index: SelectorIndex[int] = SelectorIndex()
    for number in range(500):
        index.watch(endpoints(label(NAMESPACE, f"ns{number}"), label("tier", "web")), number)
    one = party("ns7", tier="web")
    index.add(one)
    index.evaluated = 0
    assert index.users(one) == [7]
    assert index.evaluated <= 3
