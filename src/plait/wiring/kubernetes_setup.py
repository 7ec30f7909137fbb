"""`plait kubernetes install` and `uninstall`: tokens, manifests, the connector of this host."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from plait.cli import connect, output
from plait.cli.lifecycle import write_config
from plait.cli.progress import step
from plait.cli.services import services
from plait.client.api import ApiClient
from plait.client.connector import ask
from plait.kubernetes import manifests
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.kubeconfig import Access
from plait.kubernetes.manifests import Manifest, Settings
from plait.kubernetes.uninstall import attached_pods, leave_kubernetes, leave_plait, wait_free
from plait.model.config import KubernetesConfig
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, Network
from plait.model.paths import Paths
from plait.wire.api import Role, TokenRequest
from plait.wiring.kubernetes import find_access, only_one, read_config

YEAR: Final = 365 * 86400.0
"""Seconds that the tokens of an installation live."""
DESCRIPTION: Final = "plait kubernetes install"
"""Of these tokens, by which an uninstall finds them."""
READY_TIMEOUT: Final = 30.0
"""Seconds for the connector to know both sides."""
MOST_NAMED: Final = 8
"""Pods that are named."""
GONE_TIMEOUT: Final = 60.0
"""Seconds for Kubernetes to finish deleting what it was told to delete."""
CLEAN_TIMEOUT: Final = 180.0
"""Seconds for all nodes to be clean."""
POLL: Final = 0.2


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked of `plait kubernetes install`."""

    agents: bool = False
    """Agents are pods too."""
    image: str = ""
    path: str = ""
    api_server: str = ""
    """`HOST:PORT`; empty: as in the kubeconfig."""


def config_of(kubeconfig: Path | None, context: str, network: str) -> KubernetesConfig:
    """Settings of a connector on this host."""
    return KubernetesConfig(
        kubeconfig=str(kubeconfig.absolute()) if kubeconfig else "",
        context=context,
        network=network,
    )


# On this host


async def install_here(config: KubernetesConfig, paths: Paths, *, dry_run: bool) -> None:
    """Run the connector as a service of this host, which has a server of Plait."""
    if not paths.server_config.exists():
        raise PlaitError(
            "PLAIT-HOST-005",
            "no server of Plait runs on this host",
            why="a connector of the host writes through the server's own socket",
            fix=("plait kubernetes install --apply   # as a pod", "plait up"),
        )
    manager = services(paths)
    if manager.state("kubernetes") != "up":
        with only_one(paths.kubernetes_lock):
            pass  # One that somebody runs by hand would keep the service from its work.
    access = find_access(config, os.environ)
    # The service has no home directory and no environment of a shell.
    config = msgspec.structs.replace(config, kubeconfig=_absolute(access.source))
    async with connect.api() as client:
        await client.get(Network, config.network)
    kubernetes = KubernetesApi(access)
    try:
        await kubernetes.read_bytes("/version")
    finally:
        await kubernetes.close()
    if dry_run:
        output.good(f"a connector to {access.server} would run on this host")
        return
    changed = read_config(paths) != config
    write_config(paths.kubernetes_config, config)
    with step(f"connector to {access.server}"):
        if changed and manager.state("kubernetes") != "down":
            manager.restart("kubernetes")
        else:
            manager.start("kubernetes")
        await _until_ready(paths)
    output.say("On every node: `plait join`, then `plait cni install --kubernetes`.")


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


async def _until_ready(paths: Paths) -> None:
    why = ""

    async def ready() -> bool:
        nonlocal why
        try:
            report = await asyncio.to_thread(ask, paths.kubernetes_socket)
        except PlaitError as error:
            why = error.why
            return False
        why = "; ".join(report.problems) or report.summary
        return report.connected and report.server_connected

    if not await _until(ready, READY_TIMEOUT):
        raise PlaitError(
            "PLAIT-HOST-008",
            "the connector did not become ready",
            why=why,
            fix=(services(paths).log_hint("kubernetes"), "plait kubernetes status"),
        )


async def _until(good: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Ask until it is good; False once the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        if await good():
            return True
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(POLL)


# In the cluster


def program_path(interpreter: str) -> str:
    """Directories in which nodes look for `plait`: where an image puts it, beside this
    interpreter if one stands there, and where programs usually are."""
    beside = Path(interpreter).parent
    own = [str(beside)] if (beside / "plait").exists() else []
    usual = manifests.SYSTEM_PATH.split(":")
    return ":".join(dict.fromkeys([manifests.CARRIED, *own, *usual]))


def api_address(access: Access, said: str) -> tuple[str, str]:
    """Host and port of the API server."""
    parts = urlsplit(f"https://{said}" if said else access.server)
    return parts.hostname or "", str(parts.port or 443)


async def install_cluster(
    config: KubernetesConfig, options: Options, *, apply: bool, dry_run: bool
) -> None:
    """Run the connector as a pod: print the manifests, or apply them."""
    access = find_access(config, os.environ)
    host, port = api_address(access, options.api_server)
    async with connect.api() as client:
        await client.get(Network, config.network)
        settings = Settings(
            address=await connect.server_address(client),
            api_host=host,
            api_port=port,
            network=config.network,
            path=options.path or program_path(sys.executable),
            connector_token=await _token(client, "connector", dry_run=dry_run),
            agent_token=await _token(client, "join", dry_run=dry_run) if options.agents else "",
            image=options.image,
        )
    wanted = manifests.filled(settings)
    if not apply:
        output.say(manifests.to_yaml(wanted).rstrip())
        output.say("apply them with `kubectl apply -f`; they hold tokens", err=True)
        return
    kubernetes = KubernetesApi(access)
    try:
        for manifest in wanted:
            if not dry_run:
                await manifests.apply(kubernetes, manifest)
            output.good(f"{manifests.shown(manifest)} {'would be ' if dry_run else ''}applied")
    finally:
        await kubernetes.close()
    if not options.agents:
        output.say("On every node: `plait join`, then `plait cni install --kubernetes`.")


async def _token(client: ApiClient, role: Role, *, dry_run: bool) -> str:
    if dry_run:
        return "TOKEN"
    made = await client.create_token(TokenRequest(role=role, ttl=YEAR, description=DESCRIPTION))
    return made.token


# Away with it


async def uninstall(
    config: KubernetesConfig, paths: Paths, *, gone: bool, force: bool, dry_run: bool
) -> None:
    """Take everything back, on both sides and on this host; `gone` where there is no cluster any
    more. PLAIT-API-011 while pods are on our network, unless `force`."""
    if not (gone or force):
        await _no_pods(find_access(config, os.environ))
    here = paths.kubernetes_config.exists()
    if here and not dry_run:
        services(paths).forget("kubernetes")
    async with connect.api() as client:
        cluster = await client.get(Cluster, "plait")
        if not gone:
            kubernetes = KubernetesApi(find_access(config, os.environ))
            try:
                pools = cluster.spec.load_balancer_pools
                async for line in _leave_cluster(kubernetes, config, pools, dry_run=dry_run):
                    _say(line, dry_run)
            finally:
                await kubernetes.close()
        async for line in leave_plait(client, dry_run=dry_run):
            _say(line, dry_run)
        for token in await client.tokens():
            if token.description == DESCRIPTION:
                if not dry_run:
                    await client.revoke_token(token.id)
                _say(f"token {token.id} ({token.role})", dry_run)
    if here:
        # Last: whoever was interrupted finds it again.
        if not dry_run:
            paths.kubernetes_lock.unlink(missing_ok=True)
            paths.kubernetes_config.unlink()
        _say("the connector of this host", dry_run)
    output.say("On nodes that joined by hand: `plait cni uninstall`, `plait down --purge`.")


async def _no_pods(access: Access) -> None:
    """Without Plait they have no network, and their runtime no plugin to remove them with."""
    api = KubernetesApi(access)
    try:
        names = await attached_pods(api)
    finally:
        await api.close()
    if names:
        shown = ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
        raise PlaitError(
            "PLAIT-API-011",
            "pods of the cluster are on Plait's network",
            why=shown,
            fix=("kubectl get pods -A -o wide", "plait kubernetes uninstall --force"),
        )


def _say(line: str, dry_run: bool) -> None:
    if line.startswith("left: "):
        output.warn(line)
    else:
        output.good(f"{line} {'would be ' if dry_run else ''}removed")


async def _leave_cluster(
    api: KubernetesApi, config: KubernetesConfig, pools: tuple[str, ...], *, dry_run: bool
) -> AsyncIterator[str]:
    base, agents = manifests.load("base"), manifests.load("agents")
    workloads = [each for each in base if each["kind"] == "Deployment"]
    others = [each for each in base if each["kind"] != "Deployment"]
    for manifest in workloads:
        if await _delete(api, manifest, dry_run=dry_run):
            yield manifests.shown(manifest)
    namespaces = dict.fromkeys((config.lease_namespace, manifests.NAMESPACE))
    if not dry_run:
        for namespace in namespaces:
            await wait_free(api, namespace)
    # Their token goes after they did: who was interrupted in between finds that they were there.
    were_pods = await manifests.status(api, manifests.agents_token()) is not None
    for manifest in agents:
        if await _delete(api, manifest, dry_run=dry_run):
            were_pods = True
            yield manifests.shown(manifest)
    if were_pods:
        if not dry_run:
            await _clean_nodes(api, agents)
        yield "Plait on the nodes"
    async for line in leave_kubernetes(api, pools, *namespaces, dry_run=dry_run):
        yield line
    for manifest in reversed([*others, *manifests.settings_shells()]):
        if await _delete(api, manifest, dry_run=dry_run):
            yield manifests.shown(manifest)
    if not dry_run and not await _until(partial(_is_gone, api, others), GONE_TIMEOUT):
        yield f"left: namespaces/{manifests.NAMESPACE}: it is being deleted, and not yet gone"


async def _is_gone(api: KubernetesApi, listed: Sequence[Manifest]) -> bool:
    """Whether Kubernetes has finished with all of them: it empties namespaces in its own time."""
    return not any([await manifests.status(api, each) is not None for each in listed])


async def _delete(api: KubernetesApi, manifest: Manifest, *, dry_run: bool) -> bool:
    if dry_run:
        return await manifests.status(api, manifest) is not None
    return await manifests.delete(api, manifest)


async def _clean_nodes(api: KubernetesApi, agents: Sequence[Manifest]) -> None:
    """Have a pod on every node take Plait off it, once no agent runs there."""
    (manifest,) = manifests.load("cleanup")
    status: dict[str, int] = {}

    async def no_agents() -> bool:
        return not any([await manifests.pods(api, each) for each in agents])

    async def clean() -> bool:
        nonlocal status
        status = await manifests.status(api, manifest) or {}
        wanted = status.get("desiredNumberScheduled", 0)
        return bool(status.get("observedGeneration")) and status.get("numberReady", 0) >= wanted

    done = await _until(no_agents, CLEAN_TIMEOUT)
    if done:
        await manifests.apply(api, manifest)
        done = await _until(clean, CLEAN_TIMEOUT)
    if not done:
        raise PlaitError(
            "PLAIT-HOST-008",
            "not every node could be cleaned in time",
            why=f"{status.get('numberReady', 0)} of {status.get('desiredNumberScheduled', 0)} are",
            fix=(
                f"kubectl -n {manifests.NAMESPACE} get pods -o wide   # where is none ready?",
                f"kubectl -n {manifests.NAMESPACE} logs -l app.kubernetes.io/name=plait-cleanup",
                "kubectl delete node NODE   # one that is lost and does not come back",
                "plait kubernetes uninstall",
            ),
        )
    await manifests.delete(api, manifest)
