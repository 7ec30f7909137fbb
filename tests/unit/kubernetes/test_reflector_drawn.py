"""Whatever goes wrong in whatever order, the reflector ends with what there is, told in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, get_args

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.kube_witness import Witness

from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.fake_faults import WatchEnd
from plait.kubernetes.fake_server import FakeKubernetes
from plait.kubernetes.reflector import Reflector, Timing

SLICES, _ = kinds.ENDPOINT_SLICES.resources
NAMES = ("a", "b", "c", "d")
TIMING = Timing(page=2, first=0.001, longest=0.002, brief=0.001, absent=0.001)

names = st.sampled_from(NAMES)
Step = tuple[Any, ...]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), names, st.integers(0, 3)),
        st.tuples(st.just("put"), names, st.integers(0, 3)),
        st.tuples(st.just("remove"), names),
        st.tuples(st.just("recreate"), names),
        st.tuples(
            st.just("watch"),
            st.sampled_from([how for how in get_args(WatchEnd) if how != "silence"]),
            st.integers(0, 3),
        ),
        st.tuples(
            st.just("refuse"),
            st.sampled_from(["read", "watch"]),
            st.sampled_from([401, 404, 410, 429, 500, 503]),
        ),
        st.tuples(st.just("garble"), st.sampled_from(["read", "watch"])),
        st.tuples(st.just("reset"), st.sampled_from(["read", "watch"])),
        st.tuples(st.sampled_from(["drop", "expire", "bookmark", "compact", "settle", "turn"])),
    ),
    max_size=30,
)


async def play(drawn: Sequence[Step], *, in_stream: bool, older: bool) -> None:
    async with FakeKubernetes() as server:
        if older:
            server.like_1_20()
        server.faults.in_stream = in_stream
        follower = Witness()
        api = KubernetesApi(server.access())
        reflector = Reflector(
            api, kinds.ENDPOINT_SLICES, follower, timing=TIMING, rng=random.Random(1)
        )
        task = asyncio.create_task(reflector.run())

        def agrees() -> bool:
            assert not task.done() or task.result() is None
            there = {
                (each["metadata"]["namespace"], each["metadata"]["name"]): each["metadata"]
                for each in server.store.list((SLICES.group, SLICES.plural))
            }
            known = {key: obj.metadata for key, obj in follower.state.items()}
            return {k: (m["uid"], m["resourceVersion"]) for k, m in there.items()} == {
                k: (m.uid, m.resource_version) for k, m in known.items()
            }

        async def settle() -> None:
            end = asyncio.get_running_loop().time() + 10
            while not (agrees() and reflector.synced.is_set()):
                assert asyncio.get_running_loop().time() < end, reflector.health
                await asyncio.sleep(0.001)

        try:
            for what, *args in drawn:
                await act(server, what, args)
                if what == "settle":
                    await settle()
            await settle()
            assert dict(reflector.objects) == follower.state
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await api.close()


async def act(server: FakeKubernetes, what: str, args: list[Any]) -> None:
    match what:
        case "put":
            name, turn = args
            old = server.get(SLICES, name, "x") or {"metadata": {"name": name, "namespace": "x"}}
            labels = {"turn": str(turn)}
            server.put(SLICES, {**old, "metadata": {**old["metadata"], "labels": labels}})
        case "remove" | "recreate":
            if server.get(SLICES, args[0], "x") is not None:
                server.remove(SLICES, args[0], "x")
            if what == "recreate":
                server.put(SLICES, {"metadata": {"name": args[0], "namespace": "x"}})
        case "watch":
            server.faults.watch(args[0], after=args[1])
        case "refuse":
            server.faults.refuse(args[0], args[1], path="endpointslices")
        case "garble":
            server.faults.garble(args[0], path="endpointslices")
        case "reset":
            server.faults.reset(args[0])
        case "drop":
            server.drop()
        case "expire":
            server.expire()
        case "bookmark":
            server.bookmark()
        case "compact":
            server.store.compact()
        case "turn":
            await asyncio.sleep(0)


@settings(max_examples=60)
@given(steps, st.booleans(), st.booleans())
def test_no_event_is_lost_whatever_goes_wrong(
    drawn: list[Step], in_stream: bool, older: bool
) -> None:
    with structlog.testing.capture_logs():
        asyncio.run(play(drawn, in_stream=in_stream, older=older))
