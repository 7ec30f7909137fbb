"""The cluster of a lab: up, back after a reboot, and asked through kubectl.

`launch` is quick and `finish` waits: dockerds come up while the API server does.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from plait.lab import daemons, hosts
from plait.lab.kubernetes import control_plane, credentials, images, layout, node, programs
from plait.lab.kubernetes.keeper import Command, Set
from plait.lab.lab import Lab
from plait.lab.topology import HostPlan

PROGRAMS: Final = f"{layout.ETC}/programs.json"
READY: Final = 120.0
"""Seconds for each step of a cluster's way up, on a machine that has other things to do."""
IMAGES: Final = "images"
LATER: Final = ("kubelet", "plait-kubernetes")
"""Programs that are started once the API server answers."""


def _commands(lab: Lab, name: str) -> tuple[Command, ...]:
    built, planned = programs.directory(), lab.plan.hosts[name]
    own = (node.containerd(), node.kubelet(built, planned))
    if name != daemons.FIRST:
        return own
    return (*control_plane.commands(built, planned), *own)


def launch(lab: Lab) -> None:
    """Write what all nodes need, and start everything but the kubelets; waits for nothing."""
    planned: Mapping[str, HostPlan] = {name: lab.plan.hosts[name] for name in lab.nodes}
    secrets = credentials.credentials(
        planned[daemons.FIRST], planned, datetime.datetime.now(datetime.UTC)
    )
    for name in lab.nodes:
        commands = _commands(lab, name)
        wanted = Set(
            programs=commands, at_once=tuple(c.name for c in commands if c.name not in LATER)
        )
        files = {
            **secrets[name],
            **node.files(),
            PROGRAMS: msgspec.json.encode(wanted).decode(),
        }
        layout.write(lab.directory / name, files)
        node.link_plugins(lab.directory / name)
        _keep(lab, name)


def _keep(lab: Lab, name: str) -> None:
    """Start the host's keeper, in its namespaces and for as long as it has power."""
    with (lab.directory / f"{name}-keeper.log").open("a") as log:
        child = hosts.popen(
            lab.host(name),
            [hosts.PYTHON, "-m", "plait.lab.kubernetes.keeper", PROGRAMS],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    hosts.leave_running(child)


def steer(lab: Lab, name: str, verb: str, program: str = "") -> Any:
    """`start`, `stop` or `restart` a program of a node; `status` shows them."""
    return daemons.steer(lab, name, verb, program, supervisor=layout.KEEPER_SOCKET)


def pid(lab: Lab, name: str, program: str) -> int:
    """Pid inside the host of a program of its; 0 when it does not run."""
    return daemons.program_pid(lab, name, program, supervisor=layout.KEEPER_SOCKET)


def finish(lab: Lab, say: Callable[[str], None], *, network: bool) -> None:
    """Wait for the API, start the kubelets, and wait until every node takes pods.

    Without `network` the nodes only register: they take pods once somebody has put a CNI
    configuration into their `/etc/cni/net.d`.
    """
    images.write(lab.directory / IMAGES)
    _wait(lab, "the API server", lambda: answers(lab))
    say(f"Kubernetes {programs.VERSION}: control plane on {daemons.FIRST}")
    for name in lab.nodes:
        steer(lab, name, "start", "kubelet")
    daemons.on_each(lab.nodes, lambda name: _import(lab, name))
    if network:
        install = ("cni", "install", "--kubernetes")
        daemons.on_each(lab.nodes, lambda name: daemons.plait(lab, name, *install))
        steer(lab, daemons.FIRST, "start", "plait-kubernetes")
    _wait(lab, "the nodes", lambda: set(lab.nodes) <= nodes(lab, ready=network))
    _wait(lab, "the account of pods", lambda: _has_account(lab))
    say(f"nodes {'ready' if network else 'registered'}: {', '.join(lab.nodes)}")


def resume(lab: Lab, name: str) -> None:
    """Start a node's programs again after a reboot; returns when its kubelet says it is ready."""
    _keep(lab, name)
    _wait(lab, f"the keeper of {name}", lambda: _kept(lab, name))
    for program in LATER:
        if program == "kubelet" or (name == daemons.FIRST and daemons.has_plait(lab, name)):
            steer(lab, name, "start", program)
    _wait(lab, "the API server", lambda: answers(lab))
    _wait(lab, f"the node {name}", lambda: name in nodes(lab, ready=True))


def _kept(lab: Lab, name: str) -> bool:
    return lab.run(name, ["test", "-S", layout.KEEPER_SOCKET], check=False).returncode == 0


def _wait(lab: Lab, what: str, ready: Callable[[], bool]) -> None:
    daemons.wait_for(what, ready, READY, every=0.25, logs=lambda: logs(lab))


def logs(lab: Lab) -> str:
    """The last line of every program of every node: it goes with a cluster that does not come."""
    lines = []
    for name in lab.nodes:
        for log in sorted(hosts.disk(lab.directory / name, layout.LOGS).glob("*.log")):
            last = log.read_text(errors="replace").splitlines()[-2:]
            lines += [f"\n    {name} {log.stem}: {line[:300]}" for line in last]
    return "".join(lines)


def _import(lab: Lab, name: str) -> None:
    """Give containerd the images, as soon as it answers."""
    _wait(lab, f"containerd on {name}", lambda: _run(lab, name, node.imported()).returncode == 0)
    for archive in sorted((lab.directory / IMAGES).iterdir()):
        lab.run(name, node.import_image(str(archive)))


def _run(lab: Lab, name: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return lab.run(name, argv, check=False)


# Asking


def kubectl(lab: Lab, *argv: str, stdin: str | None = None, check: bool = True) -> str:
    """What `kubectl` says on the first host, as administrator.

    Raises subprocess.CalledProcessError, which has its words, when `check` and it fails.
    """
    return lab.run(daemons.FIRST, ["kubectl", *argv], check=check, stdin=stdin).stdout


def answers(lab: Lab) -> bool:
    """The API server is ready."""
    return kubectl(lab, "get", "--raw", "/readyz", check=False) == "ok"


def nodes(lab: Lab, *, ready: bool) -> set[str]:
    """Names of the nodes that registered; those that take pods, where `ready`."""
    said = kubectl(lab, "get", "nodes", "--output=json", check=False)
    return {
        item["metadata"]["name"]
        for item in (json.loads(said)["items"] if said else ())
        if not ready or _is_ready(item)
    }


def _is_ready(item: Mapping[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in item["status"].get("conditions", ())}
    return conditions.get("Ready") == "True"


def _has_account(lab: Lab) -> bool:
    """Pods of the namespace `default` have the account that they run as."""
    return bool(kubectl(lab, "get", "serviceaccount", "default", "--output=name", check=False))
