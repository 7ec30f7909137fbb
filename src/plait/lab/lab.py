"""The lab as an object: hosts up and down, faults, commands inside hosts.

What runs in the hosts (Plait itself, dockerd, workloads) is started by the modules beside this
one; here are the machines and the cables.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from plait.lab import faults, hosts, mountpoints, state, topology
from plait.lab.kubernetes import node
from plait.model.errors import PlaitError

ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    # Who forwards asks for neighbours from its link-local address, which duplicate address
    # detection (RFC 4862 5.4) holds back for a second or two: nobody else is here to clash with.
    "net/ipv6/conf/default/accept_dad": 0,
}
CABLE_SYSCTLS = {"net/ipv6/conf/eth0/accept_dad": 0}
"""Of every host, before its cable comes up; new interfaces of the host are not concerned."""


class Lab:
    """One lab; every change is written to its state file."""

    def __init__(self, name: str = "lab", root: Path = state.ROOT) -> None:
        self.name = name
        self.directory = state.directory(name, root)
        self._state: state.State | None = None

    @property
    def state(self) -> state.State:
        """What the lab remembers; PLAIT-LAB-001 when it does not exist."""
        if self._state is None:
            self._state = state.load(self.directory)
        return self._state

    def reload(self) -> None:
        """Forget what is in memory: another process may have changed the lab."""
        self._state = None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lab against other processes, and see what they did; PLAIT-LAB-001."""
        with state.locked(self.directory):
            self.reload()
            _ = self.state
            yield

    @property
    def plan(self) -> topology.Plan:
        """Sites, hosts and addresses."""
        return self.state.plan

    @property
    def nodes(self) -> list[str]:
        """Hosts that are nodes of the lab's Kubernetes cluster."""
        return self.plan.machines[: self.state.kubernetes]

    @property
    def dockers(self) -> list[str]:
        """Hosts with a dockerd: those that are no nodes."""
        return self.plan.machines[self.state.kubernetes :] if self.state.docker else []

    def save(self) -> None:
        """Write the state."""
        state.save(self.directory, self.state)

    def host(self, name: str) -> hosts.Running:
        """A running host; PLAIT-LAB-002 when there is none of that name or it is off."""
        running = self.state.hosts.get(name)
        if running is None or not hosts.alive(running):
            known = ", ".join(sorted(self.state.hosts))
            off = running is not None
            restart = f"plait lab fault restart --name {self.name} {name}"
            raise PlaitError(
                "PLAIT-LAB-002",
                f'lab host "{name}" is {"off" if off else "not one of this lab"}',
                where=f"lab {self.name}",
                why=f"hosts of this lab: {known}",
                fix=(restart if off else f"plait lab status --name {self.name}",),
            )
        return running

    def refuse_existing(self) -> None:
        """PLAIT-LAB-003 when a lab of this name exists, running or crashed."""
        if (self.directory / "state.json").exists():
            raise PlaitError(
                "PLAIT-LAB-003",
                f'the lab "{self.name}" exists',
                where=str(self.directory),
                fix=(f"plait lab down --name {self.name}",),
            )

    def create(
        self,
        count: int,
        *,
        sites: int = 1,
        mtu: int = 1500,
        docker: bool = False,
        kubernetes: int = 0,
        live_restore: bool = False,
        encap: str = "auto",
    ) -> None:
        """Make the router, the hosts and the cables; PLAIT-LAB-003 when the lab exists."""
        self.refuse_existing()
        self._state = state.State(
            plan=topology.plan(self.name, count, sites, mtu),
            docker=docker,
            kubernetes=kubernetes,
            live_restore=live_restore,
            encap=encap,
        )
        self.save()
        self.power_on_router()
        for name in self.plan.hosts:
            self.power_on(name)

    def _boot(self, name: str) -> None:
        groups = hosts.own_cgroups(f"plait-lab-{self.name}-{name}")
        # Written before they are made, so that a crash at any point leaves a record of them.
        self.state.hosts[name] = hosts.Running(pid=0, start=0, cgroups=groups)
        self.save()
        hosts.make_cgroups(groups)
        mountpoints.ensure(self.directory.parent, hosts.PRIVATE)
        binds = hosts.prepare(self.directory / name, name, resolver=self._resolver(name))
        if name in self.nodes:
            binds |= node.sysctls(self.directory / name)
        self.state.hosts[name] = hosts.boot(name, binds, groups)
        self.save()

    def _resolver(self, name: str) -> str:
        planned = self.plan.hosts.get(name)
        return planned.interface.gateway4 if planned else "127.0.0.1"

    def power_on_router(self) -> None:
        """Boot the router, off first if it runs, and plug in the hosts that run."""
        self._power_off(topology.ROUTER)
        self._boot(topology.ROUTER)
        self._set(topology.ROUTER, ROUTER_SYSCTLS)
        hosts.ip_batch(self.host(topology.ROUTER), topology.router_commands(self.plan))
        self._write_faults()
        for name, running in self.state.hosts.items():
            if name in self.plan.hosts and hosts.alive(running):
                self._plug_in(name)

    def power_on(self, name: str) -> None:
        """Boot a planned host and plug it in."""
        self._boot(name)
        self._plug_in(name)

    def _plug_in(self, name: str) -> None:
        """The cable between a running host and the router, and the host's addresses."""
        planned = self.plan.hosts[name]
        running = self.state.hosts[name]
        hosts.ip_batch(
            self.host(topology.ROUTER), topology.link_commands(self.plan, planned, running.pid)
        )
        self._set(name, CABLE_SYSCTLS)
        hosts.ip_batch(running, topology.host_commands(planned))

    def _set(self, name: str, sysctls: Mapping[str, int]) -> None:
        lines = [f"echo {value} > /proc/sys/{key}" for key, value in sysctls.items()]
        self.run(name, ["sh", "-ec", "\n".join(lines)])

    def power_off(self, name: str) -> None:
        """Kill a host at once; its disk stays. No error if it is off."""
        if name not in self.state.hosts:
            self.host(name)  # raises the error that names the hosts
        self._power_off(name)
        router = self.state.hosts[topology.ROUTER]
        if name in self.plan.hosts and hosts.alive(router):
            # The kernel takes a dead namespace's links down some time later; the port of the
            # cable must be free for the next boot.
            port = self.plan.hosts[name].interface.port
            hosts.run(router, ["ip", "link", "delete", port], check=False)
        self.state.workloads = {
            key: load for key, load in self.state.workloads.items() if load.host != name
        }
        self.save()

    def _power_off(self, name: str) -> None:
        running = self.state.hosts.get(name)
        if running is not None:
            hosts.power_off(running)
            hosts.remove_cgroups(running.cgroups)

    def _write_faults(self) -> None:
        text = faults.ruleset(self.plan, self.state.cuts)
        self.run(topology.ROUTER, ["nft", "-f", "-"], stdin=text)

    def cut(self, a: str, b: str) -> None:
        """Drop everything between two hosts, both ways."""
        self._change_cuts(a, b, cut=True)

    def heal(self, a: str, b: str) -> None:
        """Undo a cut."""
        self._change_cuts(a, b, cut=False)

    def _change_cuts(self, a: str, b: str, *, cut: bool) -> None:
        for name in (a, b):
            if name not in self.plan.hosts:
                self.host(name)  # raises the error that names the hosts
        pair = (min(a, b), max(a, b))
        others = tuple(other for other in self.state.cuts if other != pair)
        self.state.cuts = (*others, pair) if cut else others
        self.save()
        self._write_faults()

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host; see `hosts.run`."""
        return hosts.run(self.host(host), argv, check=check, timeout=timeout, stdin=stdin)

    def destroy(self) -> list[str]:
        """Take everything down, also of a lab that was half made; returns what is left."""
        left: list[str] = []
        running = self.state.hosts
        for host in running.values():
            hosts.power_off(host)
        for host in running.values():
            left += hosts.remove_cgroups(host.cgroups)
        for name in running:
            hosts.remove_private(self.directory / name)
        if left:
            return left
        shutil.rmtree(self.directory)
        (self.directory.parent / f".{self.name}.lock").unlink(missing_ok=True)
        mountpoints.release(self.directory.parent)
        self._state = None
        return []
