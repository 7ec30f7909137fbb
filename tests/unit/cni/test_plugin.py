"""The verbs: what they do to the agent, in which order, and what is left of those that fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.waiting import until
from tests.unit.cni.conftest import Runtime

from plait.agent.metrics import render
from plait.client.agent import AttachRequest
from plait.cni import attachment
from plait.kernel.fake_netlink import FakeSpace
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Pod
from plait.model.pods import PodSpec
from plait.wire.cni.call import Attachment
from plait.wiring.telling import cni_metrics

POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=uid-web-0"


def announce(runtime: Runtime, **spec: Any) -> None:
    spec = {"uid": "uid-web-0", "node": runtime.host.name, **spec}
    meta = Metadata(name="web-0", namespace="shop", labels={"app": "web"})
    runtime.host.server.put(Pod(metadata=meta, spec=PodSpec(**spec)))


async def identity(runtime: Runtime) -> AttachRequest:
    (endpoint,) = await runtime.agent.service.endpoints()
    return endpoint.request


async def test_add_check_del(runtime: Runtime) -> None:
    result = await runtime("ADD")
    assert [part["sandbox"] for part in result["interfaces"][1:]] == [str(runtime.directory / "c1")]
    assert await runtime.attached() == {("c1", "eth0")}
    await runtime("CHECK", prevResult=result)
    for _ in range(3):
        await runtime("DEL")
    assert await runtime.attached() == set()
    assert (await runtime.refused("CHECK", prevResult=result))["code"] == 3


async def test_what_is_there_already_is_refused_and_stays(runtime: Runtime) -> None:
    await runtime("ADD")
    said = await runtime.refused("ADD", cniVersion="0.4.0")
    assert (said["code"], said["cniVersion"]) == (101, "0.4.0")
    assert await runtime.attached() == {("c1", "eth0")}


async def test_a_result_that_cannot_be_made_leaves_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(attachment, "result", broken)
    assert (await runtime.refused("ADD"))["code"] == 100
    assert await runtime.attached() == set()


async def test_an_add_waits_for_its_pod(runtime: Runtime) -> None:
    adding = asyncio.create_task(runtime("ADD", args=POD, identity="kubernetes"))
    await asyncio.wait({adding}, timeout=0.05)
    assert not adding.done()
    announce(runtime)
    await adding
    request = await identity(runtime)
    assert (request.namespace, request.name) == ("shop", "web-0")
    assert (request.labels, request.pod) == ({"app": "web"}, "uid-web-0")


async def test_a_pod_that_does_not_come_is_to_be_tried_again(runtime: Runtime) -> None:
    body = runtime.body("ADD", args=POD, identity="kubernetes", deadline=2)
    runtime.now += 1_950 * 10**6  # The shim was started that long ago.
    answer = await runtime.plugin.handle(body)
    assert (answer.status, runtime.said(answer)["code"]) == (11, 11)
    assert await runtime.attached() == set()


async def test_an_add_that_began_too_long_ago_is_not_begun(runtime: Runtime) -> None:
    body = runtime.body("ADD", deadline=5)
    runtime.now += 6 * 10**9
    assert (await runtime.plugin.handle(body)).status == 11
    assert await runtime.attached() == set()


async def test_a_del_ends_the_add_that_waits(runtime: Runtime) -> None:
    adding = asyncio.create_task(runtime.refused("ADD", args=POD, identity="kubernetes"))
    await asyncio.wait({adding}, timeout=0.05)
    await runtime("DEL")
    assert "DEL" in (await adding)["msg"]
    assert (await adding)["code"] == 11


async def test_a_pod_whose_namespace_has_the_inode_of_one_that_has_gone(runtime: Runtime) -> None:
    """The runtime has not deleted the former one yet. What is first in its own namespace has the
    default routes, and its name is free there."""
    await runtime("ADD")
    old, new = runtime.directory / "c1", runtime.directory / "c2"
    runtime.host.kernel.del_netns(str(old))
    old.rename(new)
    runtime.host.kernel.paths[str(new)] = FakeSpace(new.stat().st_ino)
    result = await runtime("ADD", "c2")
    assert "0.0.0.0/0" in [route["dst"] for route in result["routes"]]


async def test_the_order_of_beginnings_counts(runtime: Runtime) -> None:
    """Not that of arrivals: a runtime that died leaves its plugin running."""
    early, late = runtime.body("ADD"), runtime.body("DEL")
    assert (await runtime.plugin.handle(late)).status == 0
    assert (await runtime.plugin.handle(early)).status == 3
    assert await runtime.attached() == set()
    early, late = runtime.body("DEL"), runtime.body("ADD")
    assert (await runtime.plugin.handle(late)).status == 0
    assert (await runtime.plugin.handle(early)).status == 0
    assert await runtime.attached() == {("c1", "eth0")}
    await runtime("DEL")
    assert await runtime.attached() == set()


async def test_the_order_of_beginnings_counts_over_a_restart(runtime: Runtime) -> None:
    early = runtime.body("ADD")
    await runtime("DEL")
    runtime.restarted()
    answer = await runtime.plugin.handle(early)
    assert (answer.status, runtime.said(answer)["code"]) == (11, 11)
    assert "restarted" in runtime.said(answer)["msg"]
    assert await runtime.attached() == set()
    early = runtime.body("DEL")
    await runtime("ADD")
    runtime.restarted()
    assert (await runtime.plugin.handle(early)).status == 0
    assert await runtime.attached() == {("c1", "eth0")}
    await runtime("DEL")
    assert await runtime.attached() == set()


async def test_calls_that_do_not_say_when_they_began_are_served(runtime: Runtime) -> None:
    await runtime("DEL", started="")
    await runtime("ADD", started="")
    await runtime("DEL", started="")
    assert await runtime.attached() == set()


async def test_many_of_one_attachment_at_once(runtime: Runtime) -> None:
    runtime.netns("c1")
    adds = [runtime.plugin.handle(runtime.body("ADD")) for _ in range(20)]
    codes = sorted(answer.status for answer in await asyncio.gather(*adds))
    assert codes == [0] + [101] * 19
    dels = [runtime.plugin.handle(runtime.body("DEL")) for _ in range(20)]
    assert {answer.status for answer in await asyncio.gather(*dels)} == {0}
    mixed = [runtime.plugin.handle(runtime.body("ADD" if n % 2 else "DEL")) for n in range(20)]
    await asyncio.gather(*mixed)
    await runtime("DEL")
    assert await runtime.attached() == set()


async def test_nobody_waits_for_the_result(runtime: Runtime) -> None:
    answer = await runtime.plugin.handle(runtime.body("ADD"), lambda: True)
    assert answer.status == 0
    assert await runtime.attached() == set()


async def test_nobody_waits_but_the_next_add_of_the_same_has_its_place(runtime: Runtime) -> None:
    lost = runtime.body("ADD", netns=runtime.netns("former"))
    adds = runtime.plugin.handle(lost, lambda: True), runtime.plugin.handle(runtime.body("ADD"))
    assert [answer.status for answer in await asyncio.gather(*adds)] == [0, 0]
    (endpoint,) = await runtime.agent.service.endpoints()
    assert endpoint.request.netns == runtime.netns("c1")


async def test_the_agent_stops_while_an_add_waits(runtime: Runtime) -> None:
    adding = asyncio.create_task(runtime.refused("ADD", args=POD, identity="kubernetes"))
    await asyncio.wait({adding}, timeout=0.05)
    await runtime.plugin.stop()
    assert (await adding)["code"] == 11
    assert (await runtime.refused("ADD", "c2"))["code"] == 11


async def test_gc(runtime: Runtime) -> None:
    for container in ("stays", "goes"):
        await runtime("ADD", container)
    await runtime("ADD", "other", name="other")
    valid = [{"containerID": "stays", "ifname": "eth0"}]
    await runtime("GC", **{"cni.dev/valid-attachments": valid})
    assert await runtime.attached() == {("stays", "eth0"), ("other", "eth0")}


async def test_gc_goes_on_after_an_error_and_tells_all(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for container in ("a", "b", "c"):
        await runtime("ADD", container)
    real = runtime.agent.service.detach

    async def detach(ident: str) -> bool:
        if ident == attachment.endpoint_id("podnet", Attachment("b", "eth0")):
            raise PlaitError("PLAIT-KERNEL-001", "the kernel refused")
        return await real(ident)

    monkeypatch.setattr(runtime.agent.service, "detach", detach)
    error = await runtime.refused("GC", **{"cni.dev/valid-attachments": []})
    assert error["code"] == 100
    assert "PLAIT-KERNEL-001" in error["details"]
    assert await runtime.attached() == {("b", "eth0")}


async def test_status(runtime: Runtime) -> None:
    await runtime("STATUS")
    said = await runtime.refused("STATUS", network="nope")
    assert said["code"] == 50
    assert "there is no network 'nope'" in said["msg"]
    await runtime("STATUS", identity="kubernetes")
    runtime.agent.sync.connected = False
    assert (await runtime.refused("STATUS", identity="kubernetes"))["code"] == 50
    await runtime("STATUS")
    runtime.agent.state.forgotten = True
    assert (await runtime.refused("STATUS"))["code"] == 51


async def test_kept_dels_are_served_before_an_add(runtime: Runtime) -> None:
    await runtime("ADD", "old")
    runtime.queue.mkdir()
    kept = runtime.body("DEL", "old", boot="boot-1")
    (runtime.queue / "one").write_bytes(kept)
    (runtime.queue / ".half").write_bytes(kept[:7])
    (runtime.queue / "junk").write_bytes(b"junk")
    await runtime("ADD", "new")
    assert await runtime.attached() == {("new", "eth0")}
    assert [path.name for path in runtime.queue.iterdir()] == [".half"]


async def test_a_kept_del_that_fails_stays_and_holds_nobody_up(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runtime("ADD", "old")
    runtime.queue.mkdir()
    (runtime.queue / "one").write_bytes(runtime.body("DEL", "old", boot="boot-1"))

    async def detach(_ident: str) -> bool:
        raise PlaitError("PLAIT-KERNEL-001", "the kernel refused")

    with monkeypatch.context() as patched:
        patched.setattr(runtime.agent.service, "detach", detach)
        await runtime("ADD", "new")
        assert (runtime.queue / "one").exists()
    await runtime.plugin.empty()
    assert await runtime.attached() == {("new", "eth0")}
    assert not list(runtime.queue.iterdir())


async def test_kept_dels_are_found_without_a_call(runtime: Runtime) -> None:
    await runtime("ADD", "old")
    runtime.queue.mkdir()
    (runtime.queue / "one").write_bytes(runtime.body("DEL", "old", boot="boot-1"))
    looking = asyncio.create_task(runtime.plugin.run())
    await until(lambda: not list(runtime.queue.iterdir()))
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert await runtime.attached() == set()


async def test_calls_are_counted(runtime: Runtime) -> None:
    await runtime("ADD")
    await runtime.refused("ADD")
    await runtime.plugin.handle(b"junk")
    assert runtime.plugin.served == {("ADD", 0): 1, ("ADD", 101): 1, ("none", 4): 1}
    text = render(cni_metrics(runtime.plugin)).decode()
    assert 'plait_cni_calls_total{code="101",verb="ADD"} 1' in text
    assert "plait_cni_kept_dels 0" in text
