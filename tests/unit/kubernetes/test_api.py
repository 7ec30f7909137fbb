"""The client against the fake API server: TLS, credentials, refusals, streams."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from plait.kubernetes import api as module
from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi, Lines
from plait.kubernetes.fake_server import FakeKubernetes
from plait.kubernetes.kinds import Resource
from plait.kubernetes.kubeconfig import Access
from plait.kubernetes.objects import Namespace, Pod
from plait.kubernetes.refusals import KubernetesError
from plait.lab.kubernetes import pki
from plait.model.errors import PlaitError

PODS = kinds.PODS.resources[0]
NODES = kinds.NODES.resources[0]
NAMESPACES = kinds.NAMESPACES.resources[0]


@pytest.fixture
async def server() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as running:
        yield running


@pytest.fixture
async def api(server: FakeKubernetes) -> AsyncIterator[KubernetesApi]:
    client = KubernetesApi(server.access())
    yield client
    await client.close()


# Paths


def test_paths() -> None:
    slices = kinds.ENDPOINT_SLICES.resources[0]
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path(namespace="a") == "/api/v1/namespaces/a/pods"
    assert PODS.path("p", "a", "status") == "/api/v1/namespaces/a/pods/p/status"
    assert NODES.path("../x", "ignored") == "/api/v1/nodes/..%2Fx"
    assert slices.path(namespace="a").startswith("/apis/discovery.k8s.io/v1/namespaces/a/")
    assert str(slices) == "endpointslices.v1.discovery.k8s.io"
    assert str(PODS) == "pods"


# Objects


async def test_an_object_is_made_read_changed_and_removed(api: KubernetesApi) -> None:
    await api.create(PODS, {"metadata": {"name": "p"}}, "a")
    pod = await api.get(PODS, Pod, "p", "a")
    assert pod.metadata.key == ("a", "p")
    patched = await api.patch(PODS, {"metadata": {"labels": {"x": "y"}}}, "p", "a")
    assert patched["metadata"]["labels"] == {"x": "y"}
    patched["metadata"]["labels"]["x"] = "z"
    await api.replace(PODS, patched, "p", "a")
    with pytest.raises(KubernetesError) as conflict:
        await api.replace(PODS, patched, "p", "a")
    assert (conflict.value.code, conflict.value.reason) == ("PLAIT-KUBE-006", "Conflict")
    await api.delete(PODS, "p", "a")
    with pytest.raises(KubernetesError, match="PLAIT-KUBE-005"):
        await api.get(PODS, Pod, "p", "a")


async def test_a_status_is_written_by_itself(api: KubernetesApi) -> None:
    await api.create(NODES, {"metadata": {"name": "n"}, "spec": {}})
    for kind, status in (("Ready", "True"), ("NetworkUnavailable", "False"), ("Ready", "False")):
        body = {"status": {"conditions": [{"type": kind, "status": status}]}}
        node = await api.patch(NODES, body, "n", patch="strategic", subresource="status")
    assert node["status"]["conditions"] == [
        {"type": "Ready", "status": "False"},
        {"type": "NetworkUnavailable", "status": "False"},
    ]
    beside = await api.patch(NODES, {"status": {"conditions": []}, "spec": {"x": 1}}, "n")
    assert beside["spec"] == {"x": 1}
    assert len(beside["status"]["conditions"]) == 2


async def test_server_side_apply_makes_what_is_not_there(
    api: KubernetesApi, server: FakeKubernetes
) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    made = await api.patch(NAMESPACES, body, "a", patch="apply", force=True)
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "a"}
    assert server.requests == ["PATCH /api/v1/namespaces/a?fieldManager=plait&force=true"]


# Refusals


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "PLAIT-KUBE-003"),
        (403, "PLAIT-KUBE-004"),
        (404, "PLAIT-KUBE-005"),
        (409, "PLAIT-KUBE-006"),
        (410, "PLAIT-KUBE-007"),
        (429, "PLAIT-KUBE-008"),
        (500, "PLAIT-KUBE-009"),
        (503, "PLAIT-KUBE-009"),
        (418, "PLAIT-KUBE-009"),
    ],
)
async def test_a_refusal_has_a_code(
    api: KubernetesApi, server: FakeKubernetes, status: int, code: str
) -> None:
    server.faults.refuse("read", status, retry_after=7)
    with pytest.raises(KubernetesError) as refused:
        await api.read("/api/v1", dict[str, Any])
    assert refused.value.code == code
    assert refused.value.http_status == status
    assert refused.value.retry_after == 7
    assert refused.value.why == "injected"
    assert refused.value.where == "GET /api/v1"


async def test_an_answer_that_is_not_understood(api: KubernetesApi, server: FakeKubernetes) -> None:
    server.faults.garble("read", b"<html>")
    with pytest.raises(PlaitError, match="PLAIT-KUBE-011"):
        await api.read("/api/v1", Namespace)


async def test_an_answer_that_is_too_long(
    api: KubernetesApi, server: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 10)
    with pytest.raises(PlaitError, match="PLAIT-KUBE-011") as refused:
        await api.read_bytes("/api/v1")
    assert "10 bytes" in refused.value.why


async def test_a_server_out_of_reach(server: FakeKubernetes) -> None:
    await server.stop()
    api = KubernetesApi(server.access())
    with pytest.raises(PlaitError, match="PLAIT-KUBE-002") as refused:
        await api.read_bytes("/api/v1")
    assert "nothing listens" in refused.value.why
    await api.close()


async def test_a_server_that_does_not_answer(server: FakeKubernetes) -> None:
    server.faults.open.clear()
    api = KubernetesApi(server.access(), timeout=0.05)
    with pytest.raises(PlaitError, match="PLAIT-KUBE-002") as refused:
        await api.read_bytes("/api/v1")
    assert "timed out" in refused.value.why
    await api.close()


async def test_nobody_is_followed_elsewhere() -> None:
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.path)
        raise web.HTTPFound("/elsewhere")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = KubernetesApi(Access(server=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    with pytest.raises(KubernetesError, match="302"):
        await api.read_bytes("/api/v1")
    assert seen == ["/api/v1"]
    await api.close()
    await runner.cleanup()


# Streams


async def test_a_watch_gives_lines_as_they_come(api: KubernetesApi, server: FakeKubernetes) -> None:
    got: list[bytes] = []
    query = {"resourceVersion": "1", "allowWatchBookmarks": "true"}
    async with aclosing(api.watch(PODS.path(), query, silence=10)) as stream:
        async for lines in stream:
            if not lines:
                server.put(PODS, {"metadata": {"name": "a", "namespace": "x"}})
                server.remove(PODS, "a", "x")
                server.bookmark()
            got += lines
            if len(got) == 3:
                break
    kinds_told = [msgspec.json.decode(line)["type"] for line in got]
    assert kinds_told == ["ADDED", "DELETED", "BOOKMARK"]


async def watched(api: KubernetesApi, got: list[bytes], silence: float = 5.0) -> None:
    """Watch pods until it ends."""
    async for lines in api.watch(PODS.path(), {"resourceVersion": "1"}, silence=silence):
        got += lines


async def test_a_watch_that_is_silent_is_dead(api: KubernetesApi, server: FakeKubernetes) -> None:
    server.faults.watch("silence")
    with pytest.raises(PlaitError, match="PLAIT-KUBE-002") as dead:
        await watched(api, [], silence=0.05)
    assert "timed out" in dead.value.why


async def test_a_watch_that_hangs_before_it_begins_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No word of the resolver comes."""

    async def never(*_: object, **__: object) -> list[object]:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    api = KubernetesApi(Access(server="http://server.test"))
    try:
        async with asyncio.timeout(10):
            with pytest.raises(PlaitError, match="PLAIT-KUBE-002"):
                await watched(api, [], silence=0.05)
    finally:
        await api.close()


async def test_a_watch_that_is_cut_off_says_so(api: KubernetesApi, server: FakeKubernetes) -> None:
    server.put(PODS, {"metadata": {"name": "a", "namespace": "x"}})
    server.faults.watch("mid-line")
    got: list[bytes] = []
    with pytest.raises(PlaitError, match="PLAIT-KUBE-002"):
        await watched(api, got)
    assert got == []


async def test_a_watch_that_is_refused(api: KubernetesApi, server: FakeKubernetes) -> None:
    server.store.revision = 10
    server.store.compact()
    with pytest.raises(KubernetesError) as refused:
        await watched(api, [])
    assert refused.value.http_status == 410


def test_lines_may_come_in_any_pieces() -> None:
    text = b'{"a":1}\n\n{"b":"\xc3\xa4"}\n   \n{"c":' + b"x" * 5000 + b"}\n{rest"
    want = [line for line in text.split(b"\n")[:-1] if line.strip()]
    for size in (1, 2, 3, 7, 1000, len(text)):
        lines = Lines()
        got: list[bytes] = []
        for start in range(0, len(text), size):
            got += lines.feed(text[start : start + size])
        assert got == want


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 10)
    lines = Lines()
    assert lines.feed(b"12345\n67890") == [b"12345"]
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        lines.feed(b"123456")


# Trust


class Trust:
    """An authority, a server's context that wants clients of it, and a client's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = pki.Authority(datetime.datetime.now(datetime.UTC))
        (path / "ca.crt").write_text(self.authority.pem)
        self._pair("server", self.authority.server("api", ["127.0.0.1"]))
        self._pair("client", self.authority.client("plait"))

    def _pair(self, name: str, pair: pki.Pair) -> None:
        (self.path / f"{name}.crt").write_text(pair.certificate)
        (self.path / f"{name}.key").write_text(pair.key)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.path / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.path / "server.crt", self.path / "server.key")
        return context

    def data(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust(tmp_path_factory.mktemp("trust"))


async def fetched(access: Access) -> bytes:
    api = KubernetesApi(access)
    try:
        return await api.read_bytes("/api/v1")
    finally:
        await api.close()


async def test_a_client_certificate_from_files_or_memory(trust: Trust) -> None:
    async with FakeKubernetes(tls=trust.context()) as server:
        assert await fetched(
            Access(
                server=server.url,
                authority=trust.path / "ca.crt",
                certificate=trust.path / "client.crt",
                private_key=trust.path / "client.key",
            )
        )
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        assert await fetched(
            Access(
                server=server.url,
                authority=trust.data("ca.crt"),
                certificate=trust.data("client.crt"),
                private_key=trust.data("client.key"),
            )
        )
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


async def test_a_server_of_another_authority_learns_no_token(trust: Trust, tmp_path: Path) -> None:
    other = Trust(tmp_path)
    async with FakeKubernetes(tls=other.context()) as server:
        with pytest.raises(PlaitError, match="PLAIT-KUBE-012"):
            await fetched(
                Access(server=server.url, authority=trust.path / "ca.crt", token="secret")
            )
        assert server.requests == []


async def test_a_server_of_another_name(trust: Trust) -> None:
    async with FakeKubernetes(tls=trust.context()) as server:
        access = Access(
            server=server.url, authority=trust.data("ca.crt"), server_name="kubernetes.example"
        )
        with pytest.raises(PlaitError, match="PLAIT-KUBE-012"):
            await fetched(access)


async def test_a_token_is_read_anew_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    async with FakeKubernetes(tokens=frozenset({"new"})) as server:
        api = KubernetesApi(Access(server=server.url, token_file=file, token="unused"))
        with pytest.raises(KubernetesError, match="PLAIT-KUBE-003") as refused:
            await api.read_bytes("/api/v1")
        assert "old" not in refused.value.render()
        # As kubelet does it: another file takes the name.
        (tmp_path / "next").write_text("new\n")
        (tmp_path / "next").rename(file)
        assert await api.read_bytes("/api/v1")
        file.unlink()
        with pytest.raises(PlaitError, match="PLAIT-KUBE-001"):
            await api.read_bytes("/api/v1")
        await api.close()


async def test_credentials_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PlaitError, match="PLAIT-KUBE-001"):
        await fetched(Access(server="https://127.0.0.1:1", authority=b"no certificate"))
    with pytest.raises(PlaitError, match="PLAIT-KUBE-001"):
        await fetched(Access(server="https://127.0.0.1:1", authority=tmp_path / "none"))


async def test_a_prefix_of_the_server_stays(server: FakeKubernetes) -> None:
    api = KubernetesApi(Access(server=f"{server.url}/k8s/clusters/c1"))
    with pytest.raises(KubernetesError, match="404"):
        await api.get(Resource("", "v1", "pods"), Pod, "p", "a")
    assert server.requests == ["GET /k8s/clusters/c1/api/v1/namespaces/a/pods/p"]
    await api.close()
