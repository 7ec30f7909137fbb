"""`plait lab`: a network of hosts on this machine."""

from __future__ import annotations

import os
from typing import Any

import click

from plait.cli.frame import Command, Group
from plait.cli.options import dry_run_option, json_option

name_option = click.option(
    "--name", default="lab", show_default=True, envvar="PLAIT_LAB", help="Which lab."
)


@click.group(
    cls=Group,
    examples=[
        "plait lab up --hosts 3 --sites 2",
        "plait lab run h2 web --label app=web --listen 80",
        "plait lab run h3 client",
        "plait lab probe client web 80/tcp",
        "plait lab fault cut h2 h3",
        "plait lab down",
    ],
)
def lab() -> None:
    """Hosts made of namespaces on this machine, with a real server and real agents."""


def _open(name: str) -> Any:
    from plait.lab.lab import Lab

    opened = Lab(name)
    _ = opened.state
    return opened


@lab.command(
    examples=[
        "plait lab up --hosts 3",
        "plait lab up --hosts 3 --sites 2 --docker",
        "plait lab up --hosts 3 --kubernetes",
        "plait lab up --hosts 4 --kubernetes=3 --docker",
    ]
)
@name_option
@click.option("--hosts", "count", default=3, show_default=True, help="How many hosts.")
@click.option("--sites", default=1, show_default=True, help="Subnets with a router between.")
@click.option("--docker", is_flag=True, help="A real dockerd on every host that is no node.")
@click.option(
    "--kubernetes",
    is_flag=False,
    flag_value="all",
    default="0",
    metavar="[=N]",
    help="A real Kubernetes cluster: every host is a node, or the first N are.",
)
@click.option("--live-restore", is_flag=True, help="dockerd with live-restore.")
@click.option("--mtu", default=1500, show_default=True, help="Of the underlay, in bytes.")
@click.option(
    "--encap", type=click.Choice(["auto", "direct", "vxlan"]), default="auto", show_default=True
)
@click.option("--bare", is_flag=True, help="Hosts only, without Plait.")
@dry_run_option
def up(
    name: str,
    count: int,
    sites: int,
    docker: bool,
    kubernetes: str,
    live_restore: bool,
    mtu: int,
    encap: str,
    bare: bool,
    dry_run: bool,
) -> None:
    """Make a lab; the first host, h1, runs the server."""
    from plait.cli import output
    from plait.lab import bringup, topology

    try:
        plan = topology.plan(name, count, sites, mtu)
        nodes = bringup.node_count(kubernetes, count, docker=docker)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if dry_run:
        for line in bringup.describe(plan, nodes):
            output.say(line)
        return
    bringup.up(
        name,
        count,
        sites=sites,
        mtu=mtu,
        docker=docker,
        kubernetes=nodes,
        live_restore=live_restore,
        encap=encap,
        bare=bare,
        say=output.good,
    )
    output.say(f"next: plait lab exec{_flag(name)} h1 -- plait status")
    if nodes:
        output.say(f"      plait lab exec{_flag(name)} h1 -- kubectl get pods -A")


def _flag(name: str) -> str:
    return "" if name == "lab" else f" --name {name}"


@lab.command(examples=["plait lab down", "plait lab down --name other"])
@name_option
@dry_run_option
def down(name: str, dry_run: bool) -> None:
    """Take a lab down, whatever state it is in; succeeds when there is none."""
    from plait.cli import output
    from plait.lab import state
    from plait.lab.lab import Lab
    from plait.model.errors import PlaitError

    if name not in state.names():
        output.say(f'there is no lab "{name}"', err=True)
        return
    found = Lab(name)
    if dry_run:
        output.say(f"would power off {', '.join(found.state.hosts)} and remove {found.directory}")
        return
    with found.changing():
        left = found.destroy()
    if left:
        raise PlaitError(
            "PLAIT-LAB-005",
            f'the lab "{name}" did not go away',
            why="busy: " + ", ".join(left),
            fix=(f"plait lab down{_flag(name)}",),
        )
    output.good(f'lab "{name}" is down')


@lab.command(examples=["plait lab ls", "plait lab ls --json"])
@json_option
def ls(as_json: bool) -> None:
    """The labs on this machine."""
    from plait.cli import output
    from plait.lab import hosts, state

    rows = []
    for name in state.names():
        found = state.load(state.directory(name))
        machines = found.plan.machines
        rows.append(
            {
                "name": name,
                "hosts": len(machines),
                "sites": found.plan.sites,
                "running": sum(
                    hosts.alive(host) for key, host in found.hosts.items() if key in machines
                ),
                "docker": found.docker,
                "nodes": found.kubernetes,
                "workloads": len(found.workloads),
            }
        )
    if as_json:
        output.json_out(rows)
        return
    output.table(
        ["name", "hosts", "sites", "running", "docker", "nodes", "workloads"],
        [
            [{True: "yes", False: "no"}[v] if isinstance(v, bool) else str(v) for v in row.values()]
            for row in rows
        ],
        empty="no lab; `plait lab up` makes one",
    )


@lab.command(examples=["plait lab status", "plait lab status --json"])
@name_option
@json_option
def status(name: str, as_json: bool) -> None:
    """Hosts, cuts and workloads of a lab."""
    from plait.cli import output
    from plait.lab import hosts

    opened = _open(name)
    machines = [
        {
            "name": host,
            "running": hosts.alive(running),
            "pid": running.pid,
            "address4": planned.interface.address4 if planned else "",
            "address6": planned.interface.address6 if planned else "",
            "site": planned.site if planned else 0,
        }
        for host, running in opened.state.hosts.items()
        for planned in [opened.plan.hosts.get(host)]
    ]
    loads = list(opened.state.workloads.values())
    if as_json:
        output.json_out(
            {"name": name, "hosts": machines, "cuts": opened.state.cuts, "workloads": loads}
        )
        return
    output.table(
        ["host", "site", "address", "address6", "state"],
        [
            [
                str(m["name"]),
                str(m["site"] or ""),
                str(m["address4"]),
                str(m["address6"]),
                "up" if m["running"] else "down",
            ]
            for m in machines
        ],
    )
    for a, b in opened.state.cuts:
        output.say(f"cut: {a} - {b}")
    if loads:
        output.say()
        output.table(
            ["workload", "namespace", "host", "network", "addresses", "listens"],
            [
                [w.name, w.namespace, w.host, w.network, " ".join(w.addresses), " ".join(w.listen)]
                for w in loads
            ],
        )


@lab.command(
    "exec",
    context_settings={"ignore_unknown_options": True},
    examples=["plait lab exec h1 -- plait status", "plait lab exec h2 -- ip route"],
)
@name_option
@click.argument("host")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, host: str, argv: tuple[str, ...]) -> None:
    """Run a command on a lab host; its exit code is ours."""
    from plait.lab import hosts

    running = _open(name).host(host)
    hosts.enter_cgroups(running.cgroups)
    line = hosts.command(running, argv)
    os.execvp(line[0], line)  # noqa: S606 - argv list, no shell


@lab.command(examples=["plait lab shell h1"])
@name_option
@click.argument("host")
@click.pass_context
def shell(context: click.Context, name: str, host: str) -> None:
    """A shell on a lab host."""
    context.invoke(execute, name=name, host=host, argv=("bash", "--norc"))


@lab.command(
    examples=[
        "plait lab run h2 web --label app=web --listen 80",
        "plait lab run h1 db --namespace shop --ip 10.112.0.77 --listen 5432/tcp,53/udp",
        "plait lab run h1 web --listen 80 --port-name http=80/tcp",
    ]
)
@name_option
@click.argument("host")
@click.argument("workload")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--network", default="plait", show_default=True)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@click.option("--ip", "addresses", multiple=True, metavar="IP", help="Wanted address.")
@click.option("--listen", default="", metavar="PORT/PROTO,…", help="80/tcp, 81/udp, 82/sctp.")
@click.option(
    "--port-name",
    "port_names",
    multiple=True,
    metavar="NAME=PORT/PROTO",
    help="A port that policies may call by name.",
)
@dry_run_option
@json_option
def run(
    name: str,
    host: str,
    workload: str,
    namespace: str,
    network: str,
    labels: tuple[str, ...],
    addresses: tuple[str, ...],
    listen: str,
    port_names: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a workload on a host and attach it; no Docker needed."""
    from plait.cli import output
    from plait.lab import matrix, workloads

    ports = [str(matrix.parse_port(text)) for text in listen.split(",") if text]
    opened = _open(name)
    if dry_run:
        opened.host(host)
        output.say(f"would run {workload} on {host}, listening on {', '.join(ports) or 'nothing'}")
        return
    with opened.changing():
        load = workloads.run(
            opened,
            host,
            workload,
            namespace=namespace,
            network=network,
            labels=labels,
            addresses=addresses,
            listen=ports,
            port_names=port_names,
        )
    if as_json:
        output.json_out(load)
    else:
        output.good(f"{workload} runs on {host} with {', '.join(load.addresses)}")


@lab.command(examples=["plait lab rm h2 web"])
@name_option
@click.argument("host")
@click.argument("workload")
@dry_run_option
def rm(name: str, host: str, workload: str, dry_run: bool) -> None:
    """Detach a workload and end it."""
    from plait.cli import output
    from plait.lab import workloads

    opened = _open(name)
    wanted = f"{host}/{workload}"
    if dry_run:
        workloads.find(opened, wanted)
        output.say(f"would remove {workload} from {host}")
        return
    with opened.changing():
        workloads.remove(opened, workloads.find(opened, wanted))
    output.good(f"{workload} is gone from {host}")


@lab.command(
    examples=[
        "plait lab probe client web 80/tcp",
        "plait lab probe client web 80/tcp --by-name",
        "plait lab probe --matrix 80/tcp,81/udp --json",
    ]
)
@name_option
@click.argument("words", nargs=-1, metavar="[SRC DST PORT/PROTO]")
@click.option("--matrix", "ports", default="", metavar="PORT/PROTO,…", help="Every pair.")
@click.option("--by-name", is_flag=True, help="Aim at names instead of addresses.")
@click.option("--timeout", default=1.0, show_default=True, help="Seconds for each probe.")
@json_option
def probe(
    name: str, words: tuple[str, ...], ports: str, by_name: bool, timeout: float, as_json: bool
) -> None:
    """Who reaches whom: connected, refused or timed out. Exit code 1 if a single probe fails."""
    from plait.cli import output
    from plait.lab import matrix, workloads

    opened = _open(name)
    way: Any = "name" if by_name else "ip"
    if ports and not words:
        loads = list(opened.state.workloads.values())
        wanted = [matrix.parse_port(text) for text in ports.split(",")]
        found = matrix.measure(opened, loads, loads, wanted, way=way, timeout=timeout)
        if as_json:
            output.json_out(found)
            return
        output.say(". connected, r refused, X timed out; a mark for each address")
        for port, headings, rows in matrix.squares(found):
            output.say(f"\n{port}")
            output.table(headings, rows)
        return
    if ports or len(words) != 3:
        raise click.UsageError("give SRC DST PORT/PROTO, or --matrix PORT/PROTO,…")
    source, target = (workloads.find(opened, word) for word in words[:2])
    found = matrix.measure(
        opened, [source], [target], [matrix.parse_port(words[2])], way=way, timeout=timeout
    )
    if as_json:
        output.json_out(found)
    else:
        for row in found.rows:
            detail = row.peer or row.detail
            output.say(
                f"{row.src} -> {row.dst} {row.ip} {row.port}/{row.proto}: {row.result}"
                + (f" ({detail})" if detail else "")
            )
    if any(row.result != "connected" for row in found.rows):
        raise SystemExit(1)


@lab.group(cls=Group, examples=["plait lab fault cut h1 h2", "plait lab fault kill h3"])
def fault() -> None:
    """Break things, and mend them."""


def _fault(verb: str, text: str, arguments: int) -> None:
    example = " ".join(("plait lab fault", verb, "h1", "h2")[: 2 + arguments])

    @fault.command(verb, cls=Command, help=text, examples=[example])
    @name_option
    @click.argument("hosts", nargs=-1, metavar=" ".join(("HOST",) * arguments))
    @dry_run_option
    def act(name: str, hosts: tuple[str, ...], dry_run: bool) -> None:
        from plait.cli import output
        from plait.lab import bringup

        if len(hosts) != arguments:
            raise click.UsageError(f"`{verb}` takes {arguments} host names")
        if len(set(hosts)) != len(hosts):
            raise click.UsageError(f"`{verb}` takes {arguments} different hosts")
        opened = _open(name)
        said = " ".join((verb, *hosts))
        if dry_run:
            output.say(f"would {said}")
            return
        with opened.changing():
            bringup.FAULTS[verb](opened, *hosts)
        output.good(said)


for _verb, _text, _arguments in (
    ("cut", "Drop everything between two hosts.", 2),
    ("heal", "Undo a cut.", 2),
    ("kill", "Power a host off.", 1),
    ("restart", "Power a host on again, with its old disk.", 1),
    ("kill-agent", "Kill -9 a host's agent; it is restarted.", 1),
    ("kill-server", "Kill -9 the server; it is restarted.", 0),
    ("stop-server", "Stop the server until `start-server`.", 0),
    ("start-server", "Start the server again.", 0),
    ("kill-docker", "Kill -9 a host's dockerd.", 1),
    ("start-docker", "Start a host's dockerd again.", 1),
    ("restart-docker", "Stop a host's dockerd in good order and start it again.", 1),
    ("kill-kubelet", "Kill -9 a node's kubelet; it is restarted.", 1),
    ("kill-containerd", "Kill -9 a node's containerd; it is restarted, containers live on.", 1),
    ("kill-apiserver", "Kill -9 Kubernetes' API server; it is restarted.", 0),
    ("stop-apiserver", "Stop Kubernetes' API server until `start-apiserver`.", 0),
    ("start-apiserver", "Start Kubernetes' API server again.", 0),
):
    _fault(_verb, _text, _arguments)
