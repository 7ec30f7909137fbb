"""The reflector's contract, against the fake API server in two shapes and a real one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.contract.kube_clusters import (
    POLICIES,
    QUICK,
    Scene,
    known,
)
from tests.support.kube_witness import Witness
from tests.support.waiting import until

from plait.kubernetes import kinds
from plait.kubernetes.kinds import Kind
from plait.kubernetes.reflector import Timing

BOTH = pytest.mark.parametrize(
    "kind", [kinds.PODS, kinds.NETWORK_POLICIES], ids=lambda kind: kind.name
)
"""Watched through the real server's cache, and straight from its etcd."""


async def test_what_is_there_is_told_at_once_and_what_changes_in_order(scene: Scene) -> None:
    for number in range(5):
        await scene.create(kinds.PODS, f"old{number}")
    batches: list[int] = []
    witness = Witness()

    def handler(changes: Any) -> None:
        batches.append(len(changes))
        witness(changes)

    pods = await scene.follow(kinds.PODS, handler, timing=Timing(page=2))
    assert batches == [5]
    await scene.create(kinds.PODS, "new", app="a")
    await scene.label(kinds.PODS, "new", app="b")
    await scene.delete(kinds.PODS, "old3")
    await scene.delete(kinds.PODS, "new")
    await until(lambda: len(witness.story) == 9, witness.story)
    assert [name for name, _ in witness.story[5:]] == ["new", "new", "old3", "new"]
    assert known(pods) == await scene.truth(kinds.PODS)
    assert pods.health.lists == 1
    assert pods.health.phase == "watching"


async def test_a_broken_watch_goes_on_where_it_was_and_tells_everything_once(scene: Scene) -> None:
    witness = Witness()
    api = scene.behind()
    pods = await scene.follow(kinds.PODS, witness, api=api)
    expected: list[tuple[str, str]] = []
    for number in range(40):
        name = f"p{number % 4}"
        if number < 4:
            made = await scene.create(kinds.PODS, name)
        elif number % 7 == 5:
            await scene.delete(kinds.PODS, name)
            expected.append((name, "gone"))
            made = await scene.create(kinds.PODS, name)
        else:
            made = await scene.label(kinds.PODS, name, turn=str(number))
        expected.append((name, made["metadata"]["resourceVersion"]))
        seen = api.watches
        if number % 3 == 0:
            scene.cutter.cut()
            await until(lambda seen=seen: api.watches > seen)  # type: ignore[misc]
        elif number % 3 == 1:
            scene.cutter.cut_after(number * 40)
    truth = await scene.truth(kinds.PODS)
    await until(lambda: known(pods) == truth, "the last change")
    assert witness.story == expected
    assert pods.health.lists == 1
    assert scene.cutter.cuts > 10


@BOTH
async def test_what_went_while_nobody_could_watch_is_told_as_gone(
    scene: Scene, kind: Kind[Any]
) -> None:
    for name in ("stays", "goes", "changes", "returns"):
        await scene.create(kind, name)
    witness = Witness()
    reflector = await scene.follow(kind, witness)
    told = len(witness.story)
    scene.cutter.shut = True
    scene.cutter.cut()
    await until(lambda: reflector.health.failures)
    await scene.delete(kind, "goes")
    await scene.label(kind, "changes", to="b")
    await scene.delete(kind, "returns")
    await scene.create(kind, "returns")
    await scene.create(kind, "comes")
    await scene.cluster.compact(await scene.revision())
    scene.cutter.shut = False
    truth = await scene.truth(kind)
    await until(lambda: known(reflector) == truth, "the new list")
    later = [(name, version == "gone") for name, version in witness.story[told:]]
    assert later.index(("returns", True)) < later.index(("returns", False))
    if scene.cluster.forgets(kind):
        # What has gone is told first: its addresses may be another's already.
        assert reflector.health.lists == 2
        assert later[0] == ("goes", True)
    else:
        assert reflector.health.lists == 1
    assert sorted(later) == [
        ("changes", False),
        ("comes", False),
        ("goes", True),
        ("returns", False),
        ("returns", True),
    ]


async def test_a_list_whose_pages_expire_begins_anew(scene: Scene) -> None:
    for number in range(6):
        await scene.create(kinds.PODS, f"p{number}")
    api = scene.behind()

    async def expire() -> None:
        await scene.delete(kinds.PODS, "p0")
        await scene.create(kinds.PODS, "q")
        await scene.cluster.compact(await scene.revision())

    api.before_page = expire
    witness = Witness()
    pods = await scene.follow(
        kinds.PODS, witness, api=api, timing=Timing(page=2, first=0.005, longest=0.05)
    )
    assert api.before_page is None
    assert sorted(name for name, _ in witness.story) == ["p1", "p2", "p3", "p4", "p5", "q"]
    assert known(pods) == await scene.truth(kinds.PODS)


async def test_a_list_is_of_one_moment(scene: Scene) -> None:
    for number in range(6):
        await scene.create(kinds.PODS, f"p{number}")
    api = scene.behind()

    async def change() -> None:
        await scene.delete(kinds.PODS, "p0")
        await scene.delete(kinds.PODS, "p5")
        await scene.create(kinds.PODS, "q")

    api.before_page = change
    witness = Witness()
    pods = await scene.follow(kinds.PODS, witness, api=api, timing=Timing(page=2))
    truth = await scene.truth(kinds.PODS)
    await until(lambda: known(pods) == truth, "the changes after the list")
    assert [name for name, _ in witness.story[:6]] == [f"p{n}" for n in range(6)]
    assert [name for name, _ in witness.story[6:]] == ["p0", "p5", "q"]


async def test_selectors_show_what_comes_and_goes_by_a_change(scene: Scene) -> None:
    await scene.create(kinds.PODS, "a", app="web")
    await scene.create(kinds.PODS, "b", app="db")
    witness = Witness()
    pods = await scene.follow(
        kinds.PODS,
        witness,
        label_selector="app in (web,front),!hidden",
        field_selector="metadata.name!=c,spec.nodeName=",
    )
    assert set(witness.state) == {(scene.namespace, "a")}
    await scene.label(kinds.PODS, "b", app="front")
    await scene.label(kinds.PODS, "a", hidden="yes")
    await scene.create(kinds.PODS, "c", app="web")
    await scene.delete(kinds.PODS, "b")
    await scene.create(kinds.PODS, "d", app="web")
    await until(lambda: (scene.namespace, "d") in pods.objects)
    assert [name for name, _ in witness.story] == ["a", "b", "a", "b", "d"]
    assert set(pods.objects) == {(scene.namespace, "d")}


async def test_a_watch_whose_time_is_over_goes_on_quietly(scene: Scene) -> None:
    witness = Witness()
    timing = Timing(watch=1, first=0.005, longest=0.05)
    api = scene.behind()
    pods = await scene.follow(kinds.PODS, witness, api=api, timing=timing)
    for number in range(2):
        seen = api.watches
        await scene.create(kinds.PODS, f"p{number}")
        await until(lambda seen=seen: api.watches > seen, "the next watch")  # type: ignore[misc]
    truth = await scene.truth(kinds.PODS)
    await until(lambda: known(pods) == truth)
    assert pods.health.lists == 1
    assert pods.health.error == ""


async def test_the_version_that_is_served_is_found(scene: Scene) -> None:
    slices = await scene.follow(kinds.ENDPOINT_SLICES, Witness())
    version = "v1" if scene.cluster.serves_v1 else "v1beta1"
    assert slices.health.resource == f"endpointslices.{version}.discovery.k8s.io"
    resource = next(r for r in kinds.ENDPOINT_SLICES.resources if r.version == version)
    where: dict[str, Any] = (
        {"nodeName": "h1", "zone": "z1"}
        if version == "v1"
        else {"topology": {"kubernetes.io/hostname": "h1", "topology.kubernetes.io/zone": "z1"}}
    )
    body = {
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}, **where}],
        "ports": [{"name": "http", "port": 80}],
    }
    await scene.api.create(resource, body, scene.namespace)
    await until(lambda: slices.objects)
    found = slices.objects[scene.namespace, "web-1"]
    assert found.service == "web"
    assert found.endpoints is not None
    assert [(e.node, e.zone, e.ready, e.serving) for e in found.endpoints] == [
        ("h1", "z1", False, False)
    ]


async def test_a_kind_that_is_installed_later_is_followed_from_then_on(scene: Scene) -> None:
    kind = kinds.CLUSTER_NETWORK_POLICIES
    witness = Witness()
    policies = await scene.follow(kind, witness, namespaced=False)
    assert policies.health.phase == "not served"
    for _ in range(2):
        await scene.cluster.install(scene.api)
        await until(lambda: policies.health.phase == "watching", "installed")
        body = {
            "apiVersion": POLICIES.group_version,
            "kind": kind.name,
            "metadata": {"name": "base"},
            "spec": {"tier": "Admin", "priority": 10},
        }
        await scene.api.create(POLICIES, body)
        await until(lambda: witness.state, "a policy")
        assert policies.objects["", "base"].spec["tier"] == "Admin"
        await scene.cluster.uninstall(scene.api)
        await until(lambda: not witness.state, "no policy")
        await until(lambda: policies.health.phase == "not served", "not served")


@pytest.mark.slow
@BOTH
async def test_a_server_that_was_killed_is_followed_on(scene: Scene, kind: Kind[Any]) -> None:
    for name in ("a", "b"):
        await scene.create(kind, name)
    witness = Witness()
    reflector = await scene.follow(kind, witness)
    for turn in range(2):
        await scene.cluster.restart()
        await scene.label(kind, "a", turn=str(turn))
        await scene.delete(kind, "b")
        await scene.create(kind, "b")
        truth = await scene.truth(kind)
        await until(lambda truth=truth: known(reflector) == truth)  # type: ignore[misc]
    await until(lambda: reflector.health.phase == "watching")
    scene.check()


@BOTH
@pytest.mark.parametrize("cuts", [40, pytest.param(200, marks=pytest.mark.slow)])
async def test_no_event_is_lost_in_a_storm(scene: Scene, kind: Kind[Any], cuts: int) -> None:
    await storm(scene, kind, cuts, random.Random(cuts))


async def storm(scene: Scene, kind: Kind[Any], cuts: int, rng: random.Random) -> None:
    """Writes at random while connections break, versions expire and nobody lets us in."""
    witness = Witness()
    api = scene.behind()
    reflector = await scene.follow(kind, witness, api=api, timing=QUICK)
    written: set[tuple[str, str]] = set()
    there: set[str] = set()
    newest = 0
    while scene.cutter.cuts < cuts:
        scene.check()
        for _ in range(rng.randrange(6)):
            name = f"p{rng.randrange(12)}"
            if name not in there:
                made = await scene.create(kind, name)
                there.add(name)
            elif rng.random() < 0.4:
                await scene.delete(kind, name)
                there.discard(name)
                continue
            else:
                made = await scene.label(kind, name, turn=str(rng.random()))
            newest = int(made["metadata"]["resourceVersion"])
            written.add((name, str(newest)))
        match rng.randrange(6):
            case 0:
                scene.cutter.cut()
            case 1:
                scene.cutter.cut_after(rng.randrange(4000))
            case 2:
                scene.cutter.cut()
                await scene.cluster.compact(newest)
            case 3:
                scene.cutter.cut()
                api.ancient = scene.cluster.forgets(kind)
                await scene.cluster.compact(newest)
            case 4:
                scene.cutter.shut = True
                scene.cutter.cut()
                await until(lambda: reflector.health.failures)
                scene.cutter.shut = False
            case _:
                await until(lambda: reflector.health.phase == "watching")
    truth = await scene.truth(kind)
    await until(lambda: known(reflector) == truth, "the truth")
    told = {(name, version) for name, version in witness.story if version != "gone"}
    assert told <= written
    assert (reflector.health.lists > 1) is scene.cluster.forgets(kind)
