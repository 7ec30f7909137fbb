"""A lab from nothing to ready in one call, and the faults by the names that the CLI gives them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from plait.cni import install
from plait.lab import daemons, preflight, state, topology
from plait.lab.kubernetes import cluster, programs
from plait.lab.lab import Lab
from plait.model.errors import PlaitError

Say = Callable[[str], None]
"""Takes one line of progress."""


def _quiet(_: str) -> None:
    """Say nothing."""


def node_count(wanted: str, hosts: int, *, docker: bool) -> int:
    """How many hosts are Kubernetes nodes: `all`, or a number out of 0 to `hosts`.

    With `docker` a host must be left for it. Raises ValueError.
    """
    if wanted == "all":
        count = hosts
    elif wanted.isdecimal() and int(wanted) <= hosts:
        count = int(wanted)
    else:
        raise ValueError(f"of {hosts} hosts, 0 to {hosts} can be Kubernetes nodes, not {wanted}")
    if docker and count == hosts:
        raise ValueError(
            f"dockerd runs on hosts that are no Kubernetes nodes: "
            f"--hosts {hosts + 1} --kubernetes={hosts} --docker"
        )
    return count


def describe(plan: topology.Plan, nodes: int = 0) -> list[str]:
    """What a plan would make, one line a site and a host; the first `nodes` are Kubernetes'."""
    lines = [f'would make the lab "{plan.name}": {plan.sites} sites, MTU {plan.mtu}']
    for host in plan.hosts.values():
        site = "beyond the sites" if host.name == topology.OUTSIDE else f"site {host.site}"
        role = ", Kubernetes node" if host.name in plan.machines[:nodes] else ""
        lines.append(
            f"  {host.name}: {site}, {host.interface.address4}, {host.interface.address6}{role}"
        )
    return lines


def up(
    name: str,
    count: int,
    *,
    sites: int = 1,
    mtu: int = 1500,
    docker: bool = False,
    kubernetes: int = 0,
    live_restore: bool = False,
    encap: str = "auto",
    bare: bool = False,
    say: Say = _quiet,
) -> Lab:
    """Make a lab and bring Plait (unless `bare`) and the dockerds (if `docker`) up in it.

    The first `kubernetes` hosts are nodes of a Kubernetes cluster; they have no dockerd.

    What fails or is interrupted on the way is taken down again before the error goes on. Raises
    PLAIT-LAB-003 when the lab exists (it is left alone), PLAIT-HOST-001 and 002 for what this
    machine lacks, PLAIT-LAB-005 for what does not come up, and ValueError for numbers out of range.
    """
    preflight.check(docker=docker, kubernetes=kubernetes > 0)
    if kubernetes:
        programs.check()
    if kubernetes and not bare:
        install.read_shim()  # Nodes need it: rather built now than missed half-way.
    lab = Lab(name)
    with state.locked(lab.directory):
        lab.refuse_existing()
        try:
            lab.create(
                count,
                sites=sites,
                mtu=mtu,
                docker=docker,
                kubernetes=kubernetes,
                live_restore=live_restore,
                encap=encap,
            )
            hosts = "host" if count == 1 else "hosts"
            say(f"{count} {hosts} on {sites} {'site' if sites == 1 else 'sites'}")
            daemons.start_upstream(lab)
            if not bare:
                daemons.start_plait(lab)
                say(f"server on {daemons.FIRST}, an agent on every host")
            # Not earlier: an API server that starts takes all of a small machine for seconds.
            if kubernetes:
                cluster.launch(lab)
            if docker:
                daemons.start_dockers(lab)
                say(f"dockerd on {', '.join(lab.dockers)}")
            if kubernetes:
                cluster.finish(lab, say, network=not bare)
        except BaseException:
            lab.destroy()
            raise
    return lab


def restart(lab: Lab, host: str) -> None:
    """Power a host on, off first if it runs, and bring up again what ran on it."""
    if host == topology.ROUTER:
        lab.power_on_router()
        daemons.start_upstream(lab)
        return
    lab.power_off(host)
    lab.power_on(host)
    if daemons.has_plait(lab, host):
        daemons.resume_plait(lab, host)
    if host in lab.dockers:
        daemons.start_docker(lab, host)
    if host in lab.nodes:
        cluster.resume(lab, host)


def _kill_program(lab: Lab, host: str, program: str) -> None:
    pid = daemons.program_pid(lab, host, program)
    if not pid:
        raise PlaitError(
            "PLAIT-LAB-005",
            f"no {program} runs on {host}",
            where=f"lab {lab.name}",
            fix=(f"plait lab exec --name {lab.name} {host} -- plait up",),
        )
    lab.run(host, ["kill", "-KILL", str(pid)])


def kill_agent(lab: Lab, host: str) -> None:
    """SIGKILL to the agent; the host's supervisor starts it again."""
    _kill_program(lab, host, "agent")


def kill_server(lab: Lab) -> None:
    """SIGKILL to the server; the host's supervisor starts it again."""
    _kill_program(lab, daemons.FIRST, "server")


def stop_server(lab: Lab) -> None:
    """Stop the server, and keep it down."""
    daemons.steer(lab, daemons.FIRST, "stop", "server")


def start_server(lab: Lab) -> None:
    """Start the server; it answers when this returns."""
    daemons.resume_plait(lab, daemons.FIRST)


def kill_docker(lab: Lab, host: str) -> None:
    """SIGKILL to dockerd."""
    daemons.stop_docker(lab, host, signal.SIGKILL)


def restart_docker(lab: Lab, host: str) -> None:
    """Stop dockerd in good order and start it again."""
    daemons.stop_docker(lab, host)
    daemons.start_docker(lab, host)


def _kill_of_cluster(program: str) -> Callable[[Lab, str], None]:
    def kill(lab: Lab, host: str) -> None:
        pid = cluster.pid(lab, host, program) if host in lab.nodes else 0
        if not pid:
            raise PlaitError(
                "PLAIT-LAB-005",
                f"no {program} runs on {host}",
                where=f"lab {lab.name}",
                fix=(f"plait lab status --name {lab.name}",),
            )
        lab.run(host, ["kill", "-KILL", str(pid)])

    return kill


def _steer_cluster(verb: str, program: str) -> Callable[[Lab], None]:
    return lambda lab: cluster.steer(lab, daemons.FIRST, verb, program)


FAULTS: Final[dict[str, Callable[..., None]]] = {
    "cut": Lab.cut,
    "heal": Lab.heal,
    "kill": Lab.power_off,
    "restart": restart,
    "kill-agent": kill_agent,
    "kill-server": kill_server,
    "stop-server": stop_server,
    "start-server": start_server,
    "kill-docker": kill_docker,
    "start-docker": daemons.start_docker,
    "restart-docker": restart_docker,
    "kill-kubelet": _kill_of_cluster("kubelet"),
    "kill-containerd": _kill_of_cluster("containerd"),
    "kill-apiserver": lambda lab: _kill_of_cluster("kube-apiserver")(lab, daemons.FIRST),
    "stop-apiserver": _steer_cluster("stop", "kube-apiserver"),
    "start-apiserver": _steer_cluster("start", "kube-apiserver"),
}
"""What `plait lab fault VERB` does: called with the lab and the names of hosts."""
