"""What `plait status` shows: gathered from the services, the agent and the server.

Each part is shown as far as it can be had: with the server down the agent still answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from plait.cli import connect
from plait.cli.services import CONFIGURED, Services, services
from plait.cli.usage import NetworkUse, network_use
from plait.client.agent import AgentStatus
from plait.client.connector import ask as ask_connector
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, Endpoint, Network, Node, Service
from plait.model.paths import Paths
from plait.wire.connector import Report

MOST_PROBLEMS: Final = 10
"""Problems of the connector, and of Services, that are shown; others show the rest."""
_MORE: Final = ("plait kubernetes status",)


TITLES: Final = {"kubernetes": "connector to Kubernetes"}
"""What a program is called where its name says too little."""


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem in one line, and commands that mend it."""

    text: str
    fix: tuple[str, ...] = ()


class Picture(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of it."""

    server: str
    """State of this host's server: `up`, `waiting`, `down`, or `-` when it has none."""
    agent: str
    """State of this host's agent, likewise."""
    kubernetes: str = "-"
    """State of this host's connector to Kubernetes, likewise."""
    connector: Report | None = None
    """What it says."""
    details: AgentStatus | None = None
    nodes: int | None = None
    """None: the server does not answer."""
    nodes_ready: int = 0
    endpoints: int = 0
    services: int = 0
    networks: tuple[NetworkUse, ...] = ()
    problems: tuple[Trouble, ...] = ()


def _service_trouble(name: str, state: str, manager: Services) -> list[Trouble]:
    if state in {"up", "-"}:
        return []
    title = TITLES.get(name, name)
    text = f"the {title} is down"
    if state == "waiting":
        text = f"the {title} died and is started again"
    return [Trouble(text, ("plait up", manager.log_hint(name)))]


def setup_trouble(states: Mapping[str, str]) -> list[Trouble]:
    """A server without an agent: `plait up` writes the settings of one after the other's."""
    if states["server"] == "-" or states["agent"] != "-":
        return []
    return [Trouble("this host is set up only in part: `plait up` did not end", ("plait up",))]


def _refusal(error: PlaitError) -> Trouble:
    return Trouble(f"{error.detail} [{error.code}]", error.fix)


async def look(paths: Paths) -> Picture:
    """Gather the picture; PLAIT-HOST-005 when Plait was never set up here."""
    manager = services(paths)
    states = {
        name: manager.state(name) if config(paths).exists() else "-"
        for name, config in CONFIGURED.items()
    }
    problems = setup_trouble(states)
    problems += [
        t for name, state in states.items() for t in _service_trouble(name, state, manager)
    ]
    details: AgentStatus | None = None
    if set(states.values()) == {"-"} and connect.remote(os.environ) is None:
        raise connect.not_here()
    if states["agent"] != "-":
        try:
            details = await connect.agent().status()
            problems += [Trouble(text) for text in details.problems]
        except PlaitError as error:
            if states["agent"] == "up":
                problems.append(_refusal(error))
    nodes: tuple[Node, ...] | None = None
    endpoints: tuple[Endpoint, ...] = ()
    balanced: tuple[Service, ...] = ()
    uses: list[NetworkUse] = []
    try:
        async with connect.api() as client:
            nodes = await client.list(Node)
            endpoints = await client.list(Endpoint)
            balanced = await client.list(Service)
            uses = network_use(
                await client.list(Network), await client.list(AddressBlock), endpoints
            )
    except PlaitError as error:
        if states["server"] in {"up", "-"}:
            problems.append(_refusal(error))
    problems += node_troubles(nodes or (), details)
    problems += balancing_troubles(balanced)
    report: Report | None = None
    # One that runs as a pod is not ours to start, and answers here all the same.
    if states["kubernetes"] != "-" or paths.kubernetes_socket.exists():
        report, more = _connector(paths, states["kubernetes"])
        problems += more
    return Picture(
        server=states["server"],
        agent=states["agent"],
        kubernetes=states["kubernetes"],
        connector=report,
        details=details,
        nodes=None if nodes is None else len(nodes),
        nodes_ready=sum(node.is_ready for node in nodes or ()),
        endpoints=len(endpoints),
        services=len(balanced),
        networks=tuple(uses),
        problems=tuple(dict.fromkeys(problems)),
    )


def _connector(paths: Paths, state: str) -> tuple[Report | None, list[Trouble]]:
    """What the connector says, and what is wrong with it."""
    try:
        report = ask_connector(paths.kubernetes_socket)
    except PlaitError as error:
        return None, [_refusal(error)] if state == "up" else []
    found = []
    if not (report.connected and report.server_connected):
        found.append(Trouble(f"the connector to Kubernetes: {report.summary}", _MORE))
    found += [Trouble(f"Kubernetes: {text}", _MORE) for text in report.problems[:MOST_PROBLEMS]]
    if report.problem_count > MOST_PROBLEMS:
        more = report.problem_count - MOST_PROBLEMS
        found.append(Trouble(f"Kubernetes: {more} more problems", _MORE))
    return report, found


def node_troubles(nodes: Iterable[Node], here: AgentStatus | None) -> list[Trouble]:
    """What the nodes say of themselves; of this host's node, what its agent has not said."""
    found = []
    for node in nodes:
        name = node.metadata.name
        if not node.is_ready:
            how = "is silent" if node.status.silent else "is not ready"
            found.append(Trouble(f"node {name} {how}", (f"plait describe node {name}",)))
        said = here.problems if here is not None and here.node == name else ()
        found += [Trouble(f"node {name}: {t}") for t in node.status.conditions if t not in said]
    return found


def balancing_troubles(balanced: Iterable[Service]) -> list[Trouble]:
    """What Services lack, as the server says."""
    lacking = [one for one in balanced if one.status.message]
    found = []
    for one in lacking[:MOST_PROBLEMS]:
        space, name = one.metadata.namespace, one.metadata.name
        fix = f"plait service show {name} -n {space}"
        found.append(Trouble(f"service {space}/{name}: {one.status.message}", (fix,)))
    if len(lacking) > MOST_PROBLEMS:
        more = len(lacking) - MOST_PROBLEMS
        found.append(Trouble(f"{more} more Services lack something", ("plait service ls",)))
    return found


def as_facts(picture: Picture) -> list[tuple[str, str]]:
    """The picture as labelled values, networks and problems aside."""
    pairs = [("server", picture.server), ("agent", picture.agent)]
    if picture.connector is not None:
        pairs.append(("kubernetes", picture.connector.summary))
    elif picture.kubernetes != "-":
        pairs.append(("kubernetes", picture.kubernetes))
    details = picture.details
    if details is not None:
        link = "connected" if details.server_connected else "out of reach"
        pairs += [
            ("node", f"{details.node}, {'ready' if details.ready else 'not ready'}"),
            ("its server", f"{details.server}, {link}, revision {details.revision}"),
            ("docker", "served" if details.docker else "not there"),
            ("repairs", str(details.repairs)),
        ]
    if picture.nodes is None:
        return [*pairs, ("network", "unknown: the server does not answer")]
    return [
        *pairs,
        ("nodes", f"{picture.nodes_ready} of {picture.nodes} ready"),
        ("endpoints", str(picture.endpoints)),
        *([("services", str(picture.services))] if picture.services else []),
    ]
