"""The process of the connector: its settings, its socket, and that there is one of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import yaml
from tests.support.waiting import until

from plait.cli.connector import as_facts, show
from plait.client.api import ApiClient
from plait.client.connector import ask
from plait.kubernetes import kinds, manifests
from plait.kubernetes.fake_server import FakeKubernetes
from plait.kubernetes.kinds import Resource
from plait.kubernetes.kubeconfig import Access
from plait.model.config import KubernetesConfig
from plait.model.errors import PlaitError
from plait.model.objects import ClusterSpec
from plait.model.paths import Paths
from plait.server.bootstrap import bootstrap
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.server import Server
from plait.store.memory import MemoryStore
from plait.wire.api import TokenRequest
from plait.wire.connector import Followed, Report
from plait.wiring.kubernetes import listener, only_one, read_config, run_connector
from plait.wiring.kubernetes_setup import (
    api_address,
    install_here,
    program_path,
    uninstall,
)


@pytest.fixture
async def kube() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as server:
        server.put(kinds.NAMESPACES.resources[0], {"metadata": {"name": "shop"}})
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    paths, clock, store = Paths(tmp_path), Clock(), MemoryStore()
    await store.open()
    await bootstrap(store, ClusterSpec(), clock)
    paths.run.mkdir(parents=True)
    config = Config(listen=(("127.0.0.1", 0),), unix_socket=paths.server_socket)
    made = Server(store, Authority.open(tmp_path / "ca", clock.now), config, clock)
    await made.start()
    yield made
    await made.stop()
    await store.close()


def kubeconfig(tmp_path: Path, kube: FakeKubernetes) -> str:
    path = tmp_path / "kubeconfig"
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": kube.url}}],
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


async def asked(paths: Paths) -> Report:
    async with asyncio.timeout(20):
        while True:
            try:
                report = await asyncio.to_thread(ask, paths.kubernetes_socket)
            except PlaitError:
                report = None
            if report is not None and report.synced:
                return report
            await asyncio.sleep(0.02)


async def test_the_connector_of_a_host_writes_through_a_servers_token_and_says_how_it_is(
    tmp_path: Path, kube: FakeKubernetes, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Paths(tmp_path)
    admin = ApiClient("http://localhost", unix_socket=paths.server_socket)
    token = (await admin.create_token(TokenRequest(role="connector"))).token
    await admin.close()
    config = KubernetesConfig(
        kubeconfig=kubeconfig(tmp_path, kube),
        server=f"127.0.0.1:{server.ports[0]}",
        token_file=str(tmp_path / "token"),
        listen="127.0.0.1:0",
    )
    (tmp_path / "token").write_text(token)
    stop = asyncio.Event()
    task = asyncio.create_task(run_connector(config, paths, stop))
    report = await asked(paths)
    assert (report.leads, report.connected, report.server_connected) == (True, True, True)
    assert report.api_server == kube.url
    show(report)
    said = capsys.readouterr().out
    assert "this one writes" in said
    assert "Namespace" in said
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(paths.kubernetes_socket))
    ) as session:
        for path, wanted in (
            ("/healthz", "ok"),
            ("/readyz", "ok"),
            ("/metrics", 'plait_kubernetes_objects{kind="Namespace"} 1.0'),
        ):
            async with session.get(f"http://localhost{path}") as response:
                assert response.status == 200
                assert wanted in await response.text()
    with pytest.raises(PlaitError) as caught:
        await run_connector(config, paths, asyncio.Event())
    assert caught.value.code == "PLAIT-HOST-004"
    stop.set()
    await asyncio.wait_for(task, 10)
    assert not paths.kubernetes_socket.exists()
    with pytest.raises(PlaitError) as caught:
        ask(paths.kubernetes_socket)
    assert caught.value.code == "PLAIT-HOST-005"


async def test_the_end_of_its_token_is_a_problem_of_the_connector_before_it_comes(
    tmp_path: Path, kube: FakeKubernetes, server: Server
) -> None:
    paths = Paths(tmp_path)
    admin = ApiClient("http://localhost", unix_socket=paths.server_socket)
    made = await admin.create_token(TokenRequest(role="connector", ttl=29 * 86400.0))
    await admin.close()
    (tmp_path / "token").write_text(made.token)
    config = KubernetesConfig(
        kubeconfig=kubeconfig(tmp_path, kube),
        server=f"127.0.0.1:{server.ports[0]}",
        token_file=str(tmp_path / "token"),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(run_connector(config, paths, stop))
    (problem,) = (await asked(paths)).problems
    assert problem.startswith(f"the connector's token ends at {made.info.expires_at}")
    stop.set()
    await asyncio.wait_for(task, 10)


async def test_without_a_server_or_a_token_nothing_is_begun(
    tmp_path: Path, kube: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PLAIT_SERVER", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = KubernetesConfig(kubeconfig=kubeconfig(tmp_path, kube))
    for settings, code in (
        (config, "PLAIT-HOST-005"),
        (msgspec.structs.replace(config, server="192.0.2.1"), "PLAIT-AUTH-001"),
        (
            msgspec.structs.replace(config, server="192.0.2.1", token_file="/nowhere"),
            "PLAIT-AUTH-001",
        ),
    ):
        with pytest.raises(PlaitError) as caught:
            await run_connector(settings, Paths(tmp_path), asyncio.Event())
        assert caught.value.code == code


def test_settings_are_read_where_install_wrote_them(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert read_config(paths) == KubernetesConfig()
    paths.state.mkdir(parents=True)
    config = KubernetesConfig(kubeconfig="/k", network="pods")
    paths.kubernetes_config.write_bytes(msgspec.json.encode(config))
    assert read_config(paths) == config


def test_one_connector_a_host(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock"), pytest.raises(PlaitError), only_one(tmp_path / "lock"):
        pass
    with only_one(tmp_path / "lock"):
        pass


def test_where_it_listens() -> None:
    first = listener("127.0.0.1:0")
    port = first.getsockname()[1]
    first.listen()
    with pytest.raises(PlaitError) as caught:
        listener(f"127.0.0.1:{port}")
    assert caught.value.code == "PLAIT-HOST-007"
    first.close()
    for text in ("nonsense", "127.0.0.1:http-alt-alt", "127.0.0.1:99999"):
        with pytest.raises(PlaitError) as caught:
            listener(text)
        assert caught.value.code == "PLAIT-CLI-001"


@pytest.mark.parametrize(
    ("server", "said", "found"),
    [
        ("https://192.0.2.1:6443", "", ("192.0.2.1", "6443")),
        ("https://api.example", "", ("api.example", "443")),
        ("https://127.0.0.1:6443", "192.0.2.9:6444", ("192.0.2.9", "6444")),
        ("https://[fd00::1]:6443", "", ("fd00::1", "6443")),
    ],
)
def test_how_nodes_reach_the_api_server(server: str, said: str, found: tuple[str, str]) -> None:
    assert api_address(Access(server=server), said) == found


def test_nodes_look_for_plait_where_it_stands_here(tmp_path: Path) -> None:
    assert program_path(str(tmp_path / "python")).split(":")[:2] == [
        "/opt/plait/bin",
        "/usr/local/sbin",
    ]
    (tmp_path / "plait").touch()
    assert program_path(str(tmp_path / "python")).split(":")[1] == str(tmp_path)


def test_a_report_in_words() -> None:
    kind = Followed(kind="Pod", resource="pods", phase="watching", synced=True, objects=3, age=1.0)
    report = Report(
        version="1",
        identity="h1",
        leads=False,
        leader="h2",
        api_server="https://k",
        connected=True,
        server_connected=True,
        synced=False,
        age=1.4,
        due=2,
        written=5,
        told=1,
        kinds=(kind,),
        problem_count=4,
    )
    assert report.summary == "connected, heard 1 s ago, 3 objects, 4 problems"
    assert msgspec.structs.replace(report, problem_count=1).summary.endswith(", 1 problem")
    facts = dict(as_facts(report))
    assert facts["connector"] == "h1, h2 writes"
    # What it would compare if it had to take over says nothing of what is left to do.
    assert facts["objects"].startswith("stands by; 5 written")
    leading = msgspec.structs.replace(report, leads=True)
    assert dict(as_facts(leading))["objects"].startswith("2 objects may have to be written")
    apart = msgspec.structs.replace(report, server_connected=False)
    assert apart.summary.startswith("Plait's server is out of reach")
    alone = msgspec.structs.replace(report, connected=False, leader="")
    assert alone.summary.startswith("Kubernetes is not wholly followed")
    assert "nobody writes" in dict(as_facts(alone))["connector"]


async def test_a_connector_that_runs_by_hand_is_not_taken_for_the_service(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.server_config.parent.mkdir(parents=True)
    paths.server_config.touch()
    with only_one(paths.kubernetes_lock), pytest.raises(PlaitError) as refused:
        await install_here(KubernetesConfig(), paths, dry_run=False)
    assert refused.value.code == "PLAIT-HOST-004"
    assert not paths.kubernetes_config.exists()


async def test_an_uninstall_that_was_interrupted_cleans_the_nodes_when_it_is_run_again(
    tmp_path: Path, kube: FakeKubernetes, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = ApiClient("http://localhost", unix_socket=Paths(tmp_path).server_socket)
    token = (await admin.create_token(TokenRequest(role="admin"))).token
    await admin.close()
    monkeypatch.setenv("PLAIT_SERVER", f"https://127.0.0.1:{server.ports[0]}")
    monkeypatch.setenv("PLAIT_TOKEN", token)
    monkeypatch.setenv("HOME", str(tmp_path))
    daemons = Resource("apps", "v1", "daemonsets")
    secret = manifests.agents_token()
    kube.serve(daemons, "DaemonSet")
    kube.serve(manifests.resource_of(secret), "Secret")
    # The agents are gone, and no node was cleaned.
    kube.put(manifests.resource_of(secret), secret)
    (cleanup,) = manifests.load("cleanup")
    config = KubernetesConfig(kubeconfig=kubeconfig(tmp_path, kube))
    leaving = asyncio.create_task(
        uninstall(config, Paths(tmp_path), gone=False, force=True, dry_run=False)
    )
    name = cleanup["metadata"]["name"]
    await until(lambda: leaving.done() or kube.get(daemons, name, manifests.NAMESPACE))
    cleaning = kube.get(daemons, name, manifests.NAMESPACE)
    assert cleaning is not None
    done = {"observedGeneration": 1, "desiredNumberScheduled": 1, "numberReady": 1}
    kube.put(daemons, {**cleaning, "status": done})
    await leaving
    assert kube.get(daemons, name, manifests.NAMESPACE) is None
    assert kube.get(manifests.resource_of(secret), "plait-agent", manifests.NAMESPACE) is None
