"""The world that a question is about: of manifests alone, of the server, or as last seen here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from plait.client.base import Api
    from plait.model.objects import AnyObject
    from plait.policy.world import World

F = TypeVar("F", bound=Callable[..., Any])


def files_option(function: F) -> F:
    """`-f/--file`: ask about the objects of manifests, with no server, root or network."""
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE",
        type=click.Path(allow_dash=True),
        help="Answer from manifests alone: file, directory, or - for standard input.",
    )(function)


def world_of(files: Sequence[str]) -> World:
    """The world of these manifests, or with none of the server's objects."""
    from plait.policy.world import World

    return World.of(read(files) if files else stored())


def read(files: Sequence[str]) -> list[AnyObject]:
    """The objects of manifests that have a part in policy."""
    from plait.cli.reading import read_world

    return read_world(files)


def stored() -> list[AnyObject]:
    """The objects of the server that have a part in policy.

    While the server is away, those that this host's agent knew last, with a warning.
    """
    from plait.cli import connect, output
    from plait.client.kept import load
    from plait.model.errors import PlaitError

    async def ask() -> list[AnyObject]:
        async with connect.api() as client:
            return await deciding(client)

    try:
        return connect.wait_for(ask())
    except PlaitError as error:
        if error.code != "PLAIT-API-012":
            raise
        kept = load(connect.paths().agent / "snapshot.json")
        if kept is None:
            raise
        output.warn(f"{error.detail}; this is what the agent of this host knew last")
        return list(kept.objects)


async def deciding(client: Api) -> list[AnyObject]:
    """The objects that have a part in policy, as a server has them now."""
    from plait.model.objects import (
        Cluster,
        Endpoint,
        EndpointSlice,
        Group,
        Namespace,
        Network,
        Node,
        Pod,
        Policy,
        Service,
    )

    kinds: tuple[Any, ...] = (
        Cluster,
        Namespace,
        Node,
        Network,
        Group,
        Policy,
        Endpoint,
        Service,
        EndpointSlice,
    )
    found = [obj for kind in kinds for obj in await client.list(kind)]
    if any(isinstance(obj, Service) and obj.spec.selector is not None for obj in found):
        found += await client.list(Pod)  # Which of the selected are ready.
    return found
