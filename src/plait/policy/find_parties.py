"""From what people call a side of a flow to who it is in a world.

As for `plait allow` (`plait.policy.reference`): `web`, `shop/web`, `shop/app=web`, `ns:shop`,
`group:office`, `network:db`, `node:host1`, an address, `domain:example.com`, `world`, `anyone`; and
`shop/web@10.9.0.3` for one of several endpoints of a name, an endpoint's id, and the names that
containers use (`local_names`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final, NamedTuple

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint
from plait.policy.evaluate_rule import peer_matches
from plait.policy.local_names import local_name
from plait.policy.questions import OUTSIDE, endpoint_names
from plait.policy.reference import Reference, parse, peers, subject
from plait.policy.world import Party, World, canonical, endpoint_text

MAX_NAMED: Final = 6
"""Endpoints that are named when none has the name that was asked for."""


class Who(NamedTuple):
    """One endpoint, node, address or name."""

    text: str
    """So that `find` finds it again."""
    parties: tuple[Party, ...]
    """One for each of its addresses."""


def meetings(src: Who, dst: Who) -> tuple[tuple[Party, Party], ...]:
    """The pairs of parties that can talk: one for each family that both have.

    Where they have none in common it is their first ones, for the answer to say so.
    """
    found = tuple(
        (one, other)
        for one in src.parties
        for other in dst.parties
        if not other.address or (":" in one.address) == (":" in other.address)
    )
    return found or ((src.parties[0], dst.parties[0]),)


def find(world: World, text: str, namespace: str = "") -> tuple[Who, ...]:
    """Everyone whom a text means, at least one.

    A name without a namespace is looked for in `namespace`, or, if that is empty, in all of them.
    PLAIT-API-004 when nobody is meant, and when a name without a namespace means endpoints of
    several; PLAIT-CLI-001 when the text cannot mean anybody.
    """
    address = canonical(text)
    if address:
        party = world.party(address)
        return (Who(_of_party(world, party), (party,)),)
    name, at, where = text.rpartition("@")
    if at and canonical(where):
        return (_one(world, name, canonical(where)),)
    reference = parse(text, namespace or "*")
    if reference.kind == "endpoints":
        return _endpoints(world, text, reference, anywhere=not namespace and "/" not in text)
    return _others(world, text, reference)


def _endpoints(world: World, text: str, reference: Reference, *, anywhere: bool) -> tuple[Who, ...]:
    found = _selected(world, reference)
    if not found and reference.name:
        found = [
            e
            for e in world.endpoints
            if e.metadata.name == reference.name
            and reference.namespace in ("*", e.metadata.namespace)
        ]
    spaces = sorted({e.metadata.namespace for e in found})
    if anywhere and reference.name and len(spaces) > 1:
        raise PlaitError(
            "PLAIT-API-004",
            f"`{text}` is in {len(spaces)} namespaces",
            fix=tuple(f"write {space}/{reference.name}" for space in spaces[:5]),
        )
    if found:
        return _whos(world, found)
    if reference.name in world.nodes and "/" not in text:
        return _node(world, reference.name)
    if "." in reference.name and "/" not in text:
        return _dotted(world, reference.name)
    raise _nobody(world, text)


def _dotted(world: World, text: str) -> tuple[Who, ...]:
    """An endpoint of ours by its whole name, or a name outside."""
    local = local_name(world, text)
    if local is None:
        return _domain(text)
    found = [
        e
        for e in world.endpoints
        if e.metadata.namespace == local.namespace and local.name in (e.spec.name, *e.spec.aliases)
    ]
    if found:
        return _whos(world, found)
    if local.certain:
        raise _nobody(world, text)
    return _domain(text)


def _selected(world: World, reference: Reference) -> list[Endpoint]:
    if reference.is_subject:
        ruled = subject(reference)
        return [endpoint for endpoint in world.endpoints if world.rules_over(ruled, endpoint)]
    said = peers(reference) or ()
    return [
        endpoint
        for endpoint in world.endpoints
        if any(
            peer_matches(world, peer, party)
            for peer in said
            for party in world.parties(endpoint)
            if party.endpoint is endpoint
        )
    ]


def _others(world: World, text: str, reference: Reference) -> tuple[Who, ...]:
    match reference.kind:
        case "node":
            if reference.name not in world.nodes:
                raise _nobody(world, text, world.nodes)
            return _node(world, reference.name)
        case "domain":
            return _domain(reference.name)
        case "world":
            return tuple(Who(address, (world.party(address),)) for address in OUTSIDE)
        case "anyone":
            found = world.endpoints
        case "cidr":
            raise PlaitError(
                "PLAIT-CLI-001", f"`{text}` is many addresses", fix=("name one of them",)
            )
        case _:
            found = _selected(world, reference)
    if not found:
        raise _nobody(world, text)
    return _whos(world, found)


def _node(world: World, name: str) -> tuple[Who, ...]:
    parties = world.parties(world.nodes[name])
    if not parties:
        raise PlaitError("PLAIT-API-004", f"node `{name}` has no address")
    return (Who(f"node:{name}", parties),)


def _domain(name: str) -> tuple[Who, ...]:
    if name.startswith("*."):
        raise PlaitError("PLAIT-CLI-001", f"`{name}` is many names", fix=("name one of them",))
    return (Who(f"domain:{name}", (Party("", domain=name),)),)


def _one(world: World, name: str, address: str) -> Who:
    for endpoint in world.at.get(address, ()):
        if name in (endpoint_text(endpoint), endpoint.spec.name, endpoint.metadata.name):
            return Who(f"{endpoint_text(endpoint)}@{address}", (Party(address, endpoint),))
    raise _nobody(world, f"{name}@{address}")


def _whos(world: World, found: Iterable[Endpoint]) -> tuple[Who, ...]:
    called = endpoint_names(world.endpoints)
    whos = tuple(
        Who(called[e.metadata.namespace, e.metadata.name], world.parties(e)) for e in found
    )
    addressed = tuple(who for who in whos if who.parties)
    if not addressed:
        raise PlaitError("PLAIT-API-004", f"`{whos[0].text}` has no address yet")
    return addressed


def _of_party(world: World, party: Party) -> str:
    if party.endpoint is not None:
        return endpoint_names(world.endpoints)[
            party.endpoint.metadata.namespace, party.endpoint.metadata.name
        ]
    return f"node:{party.node.metadata.name}" if party.node else party.address


def _nobody(world: World, text: str, among: Iterable[str] = ()) -> PlaitError:
    known = list(among) or sorted({endpoint_text(e) for e in world.endpoints})
    bare = {name.partition("/")[2]: name for name in known} if "/" not in text else {}
    close = difflib.get_close_matches(text, [*known, *bare], n=3, cutoff=0.55)
    # Names that are alike are better help than all of them.
    there = ", ".join(known[:MAX_NAMED]) + (" …" if len(known) > MAX_NAMED else "")
    return PlaitError(
        "PLAIT-API-004",
        f"nobody is called `{text}`",
        why="there is no endpoint at all" if not known else "" if close else f"there is {there}",
        fix=tuple(f"write {name}" for name in dict.fromkeys(bare.get(c, c) for c in close)),
    )
