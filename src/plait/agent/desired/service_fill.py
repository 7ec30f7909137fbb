"""What Services put into the sets of the kernel, and all of them at once for a table made anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from plait.agent.desired.filter_sets import BACKENDS, CALLERS, OUTSIDE, SERVICES, VIPS, Door
from plait.agent.desired.policy_sets import family_of, packed
from plait.agent.desired.ruleset import Element
from plait.agent.desired.service_chains import dispatch_chains, shape_chain
from plait.agent.desired.service_shapes import FIRST_SLOT, Scope, Use, chooses, shape
from plait.model.service_table import Choice, Entry, Frontend, ServiceTable
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k

_OF_HOST: Final = frozenset(("0.0.0.0", "::"))
_MAP: Final = {"inside": SERVICES, "outside": OUTSIDE}


def door_of(frontend: Frontend) -> Door:
    """How a frontend is called."""
    return "port" if frontend.address in _OF_HOST else "address"


def uses(frontend: Frontend, entry: Entry) -> Iterator[Use]:
    """The shapes that a frontend needs chains for."""
    family, door = family_of(frontend.address), door_of(frontend)
    for scope, choice in _choices(entry):
        number = shape(choice, restricted=bool(entry.sources))
        if chooses(number):
            yield Use(family, door, scope, number)


def _choices(entry: Entry) -> Iterator[tuple[Scope, Choice]]:
    yield "inside", entry.inside
    if entry.outside is not None:
        yield "outside", entry.outside


def key_of(frontend: Frontend) -> bytes:
    """Key of a frontend."""
    at = (e.byte(e.PROTOCOLS[frontend.protocol]), e.port(frontend.port))
    if door_of(frontend) == "port":
        return k.concat(*at)
    return k.concat(packed(frontend.address), *at)


def frontend_elements(frontend: Frontend, entry: Entry) -> Iterator[Element]:
    """All that a frontend is in the kernel."""
    door, family, key = door_of(frontend), family_of(frontend.address), key_of(frontend)
    backends = BACKENDS[door, family].name
    for scope, choice in _choices(entry):
        number = shape(choice, restricted=bool(entry.sources))
        yield Element(_MAP[scope][door, family].name, key, e.host32(number))
        for slot, backend in enumerate(choice.backends, FIRST_SLOT[scope]):
            data = k.concat(packed(backend.address), e.port(backend.port))
            yield Element(backends, key + e.host32(slot), data)
    for span in entry.sources:
        first, _, last = span.partition("-")
        yield Element(CALLERS[door, family].name, key + packed(first) + key + packed(last), None)


def vip_elements(addresses: Iterable[str]) -> Iterator[Element]:
    """Addresses of Services."""
    for address in addresses:
        yield Element(VIPS[family_of(address)].name, packed(address), None)


class Whole(NamedTuple):
    """All that a table of Services is in the kernel, where there is nothing of it yet."""

    chains: tuple[nft.Chain, ...]
    """Those of shapes, whole."""
    dispatch: tuple[nft.Chain, ...]
    """Chains that are there already, and empty, with their rules."""
    elements: tuple[Element, ...]


EMPTY: Final = Whole((), (), ())


def whole(wanted: ServiceTable) -> Whole:
    """See Whole."""
    used: set[Use] = set()
    elements: list[Element] = []
    for frontend, entry in wanted.frontends.items():
        used.update(uses(frontend, entry))
        elements += frontend_elements(frontend, entry)
    elements += vip_elements(wanted.addresses)
    return Whole(
        tuple(shape_chain(use).chain for use in sorted(used)),
        tuple(
            rules.chain
            for rules in dispatch_chains(frozenset(used), some=len(wanted.frontends) > 0).values()
            if rules.chain.rules
        ),
        tuple(elements),
    )
