"""`plait down`: stop, and with `--purge` leave the host as it was before `plait up`."""

from __future__ import annotations

import subprocess
import time

from plait.cli import connect, output
from plait.cli.hostfacts import docker_get
from plait.cli.lifecycle import attached_containers
from plait.cli.progress import step
from plait.cli.services import command, remove_state, services
from plait.model.config import AgentConfig
from plait.model.errors import PlaitError
from plait.model.paths import Paths


def _containers(paths: Paths) -> list[str]:
    """Names of the containers on Docker networks of ours."""
    networks = docker_get(paths, '/networks?filters={"driver":["plait"]}') or ()
    details = [docker_get(paths, f"/networks/{network['Id']}") for network in networks]
    return attached_containers([detail for detail in details if detail])


def _cni_containers() -> list[str]:
    """Those of CNI's runtimes, by name or id; none where no agent says."""
    try:
        found = connect.wait_for(connect.agent().endpoints())
    except PlaitError:
        return []
    requests = [item.request for item in found if item.request.workload.runtime == "cni"]
    return [request.name or request.workload.id[:12] for request in requests]


def down(paths: Paths, *, purge: bool, force: bool, dry_run: bool) -> None:
    """Stop everything; with `purge` remove everything. What is not there is no error."""
    if purge and not force and (names := _containers(paths)):
        raise PlaitError(
            "PLAIT-API-011",
            "containers of this host are on Plait networks",
            why=", ".join(names[:8]) + (", …" if len(names) > 8 else ""),
            fix=(f"docker rm -f {' '.join(names[:8])}", "plait down --purge --force"),
        )
    if purge and not force and (names := _cni_containers()):
        raise PlaitError(
            "PLAIT-API-011",
            "containers of this host are attached through CNI",
            why=", ".join(names[:8]) + (", …" if len(names) > 8 else ""),
            fix=(
                "kubectl drain NODE   # or remove them with their runtime",
                "plait down --purge --force",
            ),
        )
    if purge and not force and paths.kubernetes_config.exists():
        raise PlaitError(
            "PLAIT-API-011",
            "this host connects a Kubernetes cluster",
            why="taints, conditions and addresses of Plait would stay in the cluster",
            fix=("plait kubernetes uninstall", "plait down --purge --force"),
        )
    known = any(place.exists() for place in (paths.state, paths.run, paths.log))
    if not known:
        output.say("Plait is not set up on this host: there is nothing to stop.")
        if not purge:
            return
    if dry_run:
        output.good("the server and the agent of this host would be stopped")
        if purge:
            output.good(
                f"kernel objects, Docker networks, {paths.state}, {paths.log} would be removed"
            )
        return
    with step("server and agent stopped" if known else "no server and no agent runs"):
        services(paths).remove()
    if not purge:
        output.say(
            "Containers keep their network; `plait up` goes on, `plait down --purge` cleans."
        )
        return
    joined = None if paths.server_config.exists() else connect.agent_config(paths)
    # Also where nothing is known: a state that was deleted by hand says nothing of the kernel.
    removed = "removed" if known else "of Plait: none are left"
    with step(f"Docker networks and kernel objects {removed}"):
        _purge_kernel(force=force)
    # After the kernel's objects are gone, for the server gives the addresses to others; before
    # the state goes, for it holds the node's certificate.
    missed = connect.wait_for(_leave(paths, joined)) if joined else ""
    with step(f"{paths.state} and {paths.log} {'removed' if known else 'are not there'}"):
        remove_state(paths)
    if joined and missed:
        output.warn(f"node {joined.node} is still known to {joined.server}: {missed}")
        output.say(f"    fix: plait node forget {joined.node}   # on the server", err=True)


async def _leave(paths: Paths, config: AgentConfig) -> str:
    """Take the node off the server; why that failed, or empty."""
    from plait.cli.trust import leave

    async with connect.node_api(paths, config) as client:
        missed = await leave(client, config.node, paths.node, time.time())
    if not missed:
        output.good(f"node {config.node} has left {config.server}")
    return missed


def _purge_kernel(*, force: bool) -> None:
    """Run the agent's own purge: only the agent's code knows the kernel."""
    argv = [*command("agent")[:-1], "purge", *(["--force"] if force else [])]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PlaitError(
            "PLAIT-KERNEL-001",
            "not everything could be removed",
            why=done.stderr.strip()[-2000:],
            fix=("plait down --purge",),
        )
