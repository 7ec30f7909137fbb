"""Whatever comes from an API server of Kubernetes, it is an event, a page, or not understood."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.kubernetes import kinds
from plait.kubernetes.api import Lines
from plait.kubernetes.decoding import ObjectDecoder
from plait.kubernetes.kinds import Kind
from plait.kubernetes.refusals import KubernetesError, refusal

FOLLOWED: tuple[Kind[Any], ...] = (
    kinds.PODS,
    kinds.NODES,
    kinds.SERVICES,
    kinds.ENDPOINT_SLICES,
    kinds.NETWORK_POLICIES,
)
UNDERSTOOD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the reflector takes for an answer that is not understood."""

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
words = st.sampled_from(
    [
        "metadata",
        "spec",
        "status",
        "items",
        "type",
        "object",
        "name",
        "labels",
        "endpoints",
        "ports",
        "conditions",
    ]
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(), inner),
    max_leaves=12,
)
kinds_of_event = st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"])


def attempt(decode: Any, data: bytes) -> None:
    try:
        decode(data)
    except UNDERSTOOD:
        return


@pytest.mark.parametrize("kind", FOLLOWED, ids=lambda kind: kind.name)
@given(st.data())
def test_no_bytes_break_the_decoder(kind: Kind[Any], data: st.DataObject) -> None:
    decoder = ObjectDecoder(kind.type)
    obj = {"metadata": data.draw(values), "spec": data.draw(values), "status": data.draw(values)}
    made = msgspec.json.encode({"type": data.draw(kinds_of_event), "object": obj})
    page = msgspec.json.encode({"metadata": data.draw(values), "items": [obj, data.draw(values)]})
    for decode, whole in ((decoder.event, made), (decoder.page, page)):
        attempt(decode, whole)
        attempt(decode, whole[: data.draw(st.integers(0, len(whole)))])
        attempt(decode, data.draw(st.binary()))


def test_depth_breaks_nothing() -> None:
    deep = b'{"type":"ADDED","object":' + b'{"spec":' * 100_000
    attempt(ObjectDecoder(kinds.NETWORK_POLICIES.type).event, deep)
    attempt(ObjectDecoder(kinds.NETWORK_POLICIES.type).page, deep)
    assert refusal(500, "GET /", b'{"x":' * 100_000).http_status == 500


@given(st.integers(300, 599), st.binary(), st.text())
def test_any_refusal_can_be_shown(status: int, body: bytes, retry_after: str) -> None:
    error = refusal(status, "GET /x", body, retry_after)
    assert isinstance(error, KubernetesError)
    assert error.render().startswith("error[PLAIT-KUBE-")
    assert error.retry_after is None or 0 <= error.retry_after <= 300


@given(st.lists(st.binary()))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    lines = Lines()
    got = [line for piece in pieces for line in lines.feed(piece)]
    whole = b"".join(pieces)
    assert got == [line for line in whole.split(b"\n")[:-1] if line.strip()]
