"""The command line: one table says which commands there are and where their code lives.

Targets are names, not imports: a command's code is loaded when it runs, and the lab, which
stands above the command line in the order of imports, can hang in the same tree.
"""

from __future__ import annotations

import sys

import click

from plait import __version__
from plait.cli.frame import HELP_OPTIONS, Entry, LazyGroup, run

HOST = "This host"
LOOK = "Look"
USE = "Attach and change"
RUN = "Operate"

COMMANDS = {
    "up": Entry("plait.cli.host:up", "Make this host a server and an agent", HOST),
    "join": Entry("plait.cli.host:join", "Make this host an agent of a server", HOST),
    "down": Entry("plait.cli.host:down", "Stop Plait here; --purge leaves no trace", HOST),
    "status": Entry("plait.cli.views:status", "How this host and the network are", LOOK),
    "peers": Entry("plait.cli.views:peers", "How this host reaches the others", LOOK),
    "ps": Entry("plait.cli.views:ps", "Endpoints of the whole network", LOOK),
    "why": Entry("plait.cli.explaining:why", "Whether a flow passes, and what decided", LOOK),
    "get": Entry("plait.cli.resources:get", "List objects of a kind, or show one", LOOK),
    "describe": Entry("plait.cli.resources:describe", "An object and all about it", LOOK),
    "flows": Entry("plait.cli.flows:flows", "Flows: accepted and denied, and why", LOOK),
    "allow": Entry("plait.cli.allowing:allow", "Let endpoints talk to others", USE),
    "deny": Entry("plait.cli.allowing:deny", "Keep endpoints from talking to others", USE),
    "isolate": Entry("plait.cli.allowing:isolate", "A namespace that keeps to itself", USE),
    "policy": Entry("plait.cli.policy:policy", "Policies: ls, show, test, preview, learn", USE),
    "network": Entry("plait.cli.networks:network", "Networks: ls, create, rm, inspect", USE),
    "service": Entry("plait.cli.balancing:service", "Services: create, ls, show, set, rm", USE),
    "namespace": Entry("plait.cli.labelling:namespace", "Namespaces: ls, label", USE),
    "attach": Entry("plait.cli.endpoints:attach", "Join a process to the network", USE),
    "detach": Entry("plait.cli.endpoints:detach", "Take an endpoint off the network", USE),
    "apply": Entry("plait.cli.resources:apply", "Create or change objects from files", USE),
    "delete": Entry("plait.cli.resources:delete", "Delete objects", USE),
    "token": Entry("plait.cli.tokens:token", "Tokens: create, ls, rm", RUN),
    "node": Entry("plait.cli.nodes:node", "Nodes: ls, label, forget", RUN),
    "ipam": Entry("plait.cli.ipam:ipam", "Addresses: show, release", RUN),
    "lab": Entry("plait.lab.cli:lab", "A network of hosts on this machine, to try", RUN),
    "server": Entry("plait.wiring.commands:server", "The server: run, stop, backup, restore", RUN),
    "agent": Entry("plait.wiring.commands:agent", "The agent: run, stop, plan", RUN),
    "cni": Entry("plait.wiring.cni_commands:cni", "The CNI plugin: install, status", RUN),
    "kubernetes": Entry(
        "plait.wiring.kubernetes_commands:kubernetes", "Kubernetes: install, status, run", RUN
    ),
    "version": Entry("plait.cli.views:version", "Versions of what runs", RUN),
    "completion": Entry("plait.cli.complete:completion", "Completion for your shell", RUN),
    "supervisor": Entry("plait.cli.supervise:supervisor", "Keeps processes running", ""),
}


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings=HELP_OPTIONS,
    examples=["plait up", "plait join HOST --token TOKEN", "plait status"],
    epilog="Begin with `plait up` on one host and `plait join` on the others. "
    "`plait COMMAND --help` shows examples.",
)
@click.version_option(__version__, message="plait %(version)s")
def plait() -> None:
    """One address, one name and one set of rules for every container."""


def main() -> None:
    """Entry point of the `plait` program."""
    sys.exit(run(plait))


if __name__ == "__main__":
    main()
