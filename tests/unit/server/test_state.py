"""The state's indices equal recomputing them, and speculation leaves no trace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    Namespace,
    Network,
    Object,
    decode,
)
from plait.server.state import State

NAMES = st.sampled_from(["a", "b", "c"])


@st.composite
def objects(draw: st.DrawFn) -> AnyObject:
    name = draw(NAMES)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return Endpoint(
            metadata=Metadata(name=name, namespace=draw(NAMES)),
            spec=EndpointSpec(node=draw(NAMES), network=draw(NAMES)),
        )
    if kind == 1:
        spec = AddressBlockSpec(network=draw(NAMES), cidr="10.0.0.0/26", node=draw(NAMES))
        return AddressBlock(metadata=Metadata(name=name), spec=spec)
    if kind == 2:
        return Network(metadata=Metadata(name=name))
    return Namespace(metadata=Metadata(name=name))


STEPS = st.lists(st.tuples(st.booleans(), objects()), max_size=20)


def play(state: State, steps: list[tuple[bool, AnyObject]]) -> None:
    for revision, (put, obj) in enumerate(steps, start=1):
        if put:
            state.put(obj.key, obj, revision)
        else:
            state.delete(obj.key)


def picture(state: State) -> dict[str, object]:
    """Everything that the state answers."""
    kinds: list[type[Object]] = [Endpoint, AddressBlock, Network, Namespace]
    return {
        "groups": {key: sorted(members) for key, members in state._groups.items()},
        "pages": {k.plural: [entry.line for entry in state.page(k)[0]] for k in kinds},
        "counts": [state.count(kind) for kind in kinds],
    }


@given(STEPS)
def test_indices_equal_a_fresh_start(steps: list[tuple[bool, AnyObject]]) -> None:
    state = State()
    play(state, steps)
    fresh = State()
    for kind in (Endpoint, AddressBlock, Network, Namespace):
        for entry in state.entries(kind):
            fresh.put(entry.key, entry.object, entry.revision)
    assert picture(state) == picture(fresh)


@given(STEPS, STEPS)
def test_speculation_leaves_no_trace(
    steps: list[tuple[bool, AnyObject]], more: list[tuple[bool, AnyObject]]
) -> None:
    state = State()
    play(state, steps)
    before = picture(state)
    with state.speculate():
        play(state, more)
    assert picture(state) == before


@given(STEPS)
def test_an_entry_reads_as_it_was_written(steps: list[tuple[bool, AnyObject]]) -> None:
    state = State()
    play(state, steps)
    for kind in (Endpoint, AddressBlock, Network, Namespace):
        for entry in state.entries(kind):
            assert decode(entry.body) == entry.object
            assert entry.object.metadata.revision == entry.revision == state.revision_of(entry.key)


def test_a_page_goes_on_where_the_last_ended() -> None:
    state = State()
    for name in ("a", "ab", "b"):
        spec = EndpointSpec(node="h", network="n")
        for namespace in ("x", "x-y", "y"):
            meta = Metadata(name=name, namespace=namespace)
            obj = Endpoint(metadata=meta, spec=spec)
            state.put(obj.key, obj, 1)
    seen: list[str] = []
    more = True
    while more:
        page, more = state.page(Endpoint, after=seen[-1] if seen else "", limit=2)
        seen += [entry.key for entry in page]
    assert seen == sorted(seen)
    assert len(seen) == 9
    scoped, _ = state.page(Endpoint, namespace="x")
    assert [entry.key for entry in scoped] == [f"/endpoints/x/{name}" for name in ("a", "ab", "b")]
    rest, more = state.page(Endpoint, namespace="x", after=scoped[0].key, limit=5)
    assert [entry.key for entry in rest] == [entry.key for entry in scoped[1:]]
    assert not more
