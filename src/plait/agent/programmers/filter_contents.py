"""What the table holds of networks, endpoints and ports, and what is wanted there, in one form.

Pure; `filter.py` compares and acts.
"""

from __future__ import annotations

from operator import attrgetter

import msgspec

from plait.agent.desired import filter_sets, ruleset
from plait.agent.desired.ruleset import Element
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e


def held_elements(state: nft_read.TableState, wanted: ruleset.NetworkRules) -> tuple[Element, ...]:
    """Those of a network's elements that have their key in the table, with what it has there."""
    return tuple(
        Element(name, key, held[key])
        for name, key, _ in wanted.elements
        if key in (held := state.elements.get(name, {}))
    )


def held_network(
    state: nft_read.TableState, wanted: ruleset.NetworkRules
) -> ruleset.NetworkRules | None:
    """What the table holds for a network, in the same form; None when it holds nothing."""
    chains = tuple(
        ruleset.ChainRules(rules.chain, state.chains[rules.chain.name])
        for rules in wanted.chains
        if rules.chain.name in state.chains
    )
    elements = held_elements(state, wanted)
    return ruleset.NetworkRules(chains, elements) if chains or elements else None


def suffix_of(verdict: nft.Data) -> str:
    """Opaque name of the network to whose chain a verdict leads."""
    chain = verdict.chain if isinstance(verdict, e.Verdict) else ""
    return chain.partition("-")[2]


def is_network(chain: str) -> bool:
    """It is a chain of a network."""
    return chain.startswith((filter_sets.EGRESS_PREFIX, filter_sets.INGRESS_PREFIX))


def port_of(key: bytes) -> tuple[str, int]:
    """Protocol and number of the published port of an element's key."""
    # The key ends in protocol and port, each padded to four bytes.
    return e.show_protocol(key[-8:-7]), int.from_bytes(key[-4:-2], "big")


def used_networks(wanted: Filter) -> dict[str, FilterNetwork]:
    """Networks with an endpoint here: the others need no chains on this host."""
    names = dict.fromkeys(map(attrgetter("network"), wanted.endpoints.values()))
    return {name: wanted.networks[name] for name in names if name in wanted.networks}


def wanted_endpoint(
    wanted: Filter, link: str, endpoint: FilterEndpoint
) -> frozenset[Element] | None:
    """Its elements; None for one of a network that is not there, which stays unknown."""
    if endpoint.network not in wanted.networks:
        return None
    return ruleset.endpoint_elements(link, endpoint)


def wanted_ports(wanted: Filter) -> dict[tuple[str, bytes], Element]:
    """Elements of published ports by set and key."""
    found = {}
    # Sorted, so that of two that claim one port the same one always wins.
    for port in sorted(wanted.ports, key=msgspec.json.encode):
        element = ruleset.port_element(port)
        found[element.set, element.key] = element
    return found
