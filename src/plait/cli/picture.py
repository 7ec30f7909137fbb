"""What `plait status` shows: gathered from the services, the agent and the server.

Each part is shown as far as it can be had: with the server down the agent still answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import msgspec

from plait.cli import connect
from plait.cli.services import CONFIGURED, Services, services
from plait.cli.usage import NetworkUse, network_use
from plait.client.agent import AgentStatus
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, Endpoint, Network, Node
from plait.model.paths import Paths


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
    details: AgentStatus | None = None
    nodes: int | None = None
    """None: the server does not answer."""
    nodes_ready: int = 0
    endpoints: int = 0
    networks: tuple[NetworkUse, ...] = ()
    problems: tuple[Trouble, ...] = ()


def _service_trouble(name: str, state: str, manager: Services) -> list[Trouble]:
    if state in {"up", "-"}:
        return []
    text = f"the {name} is down"
    if state == "waiting":
        text = f"the {name} died and is started again"
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
    uses: list[NetworkUse] = []
    try:
        async with connect.api() as client:
            nodes = await client.list(Node)
            endpoints = await client.list(Endpoint)
            uses = network_use(
                await client.list(Network), await client.list(AddressBlock), endpoints
            )
    except PlaitError as error:
        if states["server"] in {"up", "-"}:
            problems.append(_refusal(error))
    problems += node_troubles(nodes or (), details)
    return Picture(
        server=states["server"],
        agent=states["agent"],
        details=details,
        nodes=None if nodes is None else len(nodes),
        nodes_ready=sum(node.status.ready for node in nodes or ()),
        endpoints=len(endpoints),
        networks=tuple(uses),
        problems=tuple(dict.fromkeys(problems)),
    )


def node_troubles(nodes: Iterable[Node], here: AgentStatus | None) -> list[Trouble]:
    """What the nodes say of themselves; of this host's node, what its agent has not said."""
    found = []
    for node in nodes:
        name = node.metadata.name
        if not node.status.ready:
            found.append(Trouble(f"node {name} is not ready", (f"plait describe node {name}",)))
        said = here.problems if here is not None and here.node == name else ()
        found += [Trouble(f"node {name}: {t}") for t in node.status.conditions if t not in said]
    return found


def as_facts(picture: Picture) -> list[tuple[str, str]]:
    """The picture as labelled values, networks and problems aside."""
    pairs = [("server", picture.server), ("agent", picture.agent)]
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
    ]
