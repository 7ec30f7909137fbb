"""What `plait status` shows: gathered from the services, the agent and the server.

Each part is shown as far as it can be had: with the server down the agent still answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from plait.cli import connect
from plait.cli.services import CONFIGURED, Services, services
from plait.cli.usage import NetworkUse, network_use
from plait.client.agent import AgentStatus
from plait.client.connector import ask as ask_connector
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, Endpoint, Network, Node, Service
from plait.model.paths import Paths
from plait.wire.api import TokenInfo
from plait.wire.connector import Report

if TYPE_CHECKING:
    from plait.client.api import ApiClient

MOST_PROBLEMS: Final = 10
"""Problems of the connector, and of Services, that are shown; others show the rest."""
_MORE: Final = ("plait kubernetes status",)
SOON: Final = 30 * 86400.0
"""Seconds before the end of a token from which on it is a problem, if somebody may need it then."""
LONG: Final = 2 * SOON
"""Seconds that a token lives at least that is not meant for an afternoon."""
RENEWED: Final[Mapping[str, str]] = {
    "connector": "plait kubernetes install --apply   # or, for a connector that you run yourself: "
    "plait token create --role connector --ttl 365d > ITS_TOKEN_FILE",
    "join": "plait kubernetes install --agents --apply   # if they are its agents'",
    "admin": "plait token create --role admin --ttl 365d",
}


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
            problems += token_troubles(await _tokens(client), time.time())
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


async def _tokens(client: ApiClient) -> tuple[TokenInfo, ...]:
    """All tokens, for who may know them."""
    try:
        return await client.tokens()
    except PlaitError as error:
        if not error.code.startswith("PLAIT-AUTH-"):
            raise
        return ()


def token_troubles(tokens: Iterable[TokenInfo], now: float) -> list[Trouble]:
    """Tokens that end soon, or have ended, and have no successor: those of connectors that show
    them just now, and those that were made for long."""
    known = [(info, _moment(info.expires_at)) for info in tokens]
    last: dict[tuple[str, str], float] = {}
    for info, ends in known:
        purpose = (info.role, info.description)
        last[purpose] = max(ends, last.get(purpose, 0.0))
    found = []
    for info, ends in known:
        life = ends - _moment(info.created_at)
        succeeded = last[info.role, info.description] > ends
        needed = life >= LONG and not succeeded and not info.single_use
        if ends - now > SOON or not (needed or (info.in_use and info.role == "connector")):
            continue
        how = "has ended" if ends <= now else "ends"
        note = f" ({info.description})" if info.description else ""
        text = f"the {info.role} token {info.id}{note} {how}: {info.expires_at}"
        found.append(Trouble(text, (RENEWED[info.role], f"plait token rm {info.id}")))
    return found


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


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
