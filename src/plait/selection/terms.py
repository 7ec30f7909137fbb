"""Selectors in a canonical form: equal if they say the same, hashable, and quick to hold against
labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from plait.model.selectors import ENDPOINT_NETWORK, NAMESPACE_NAME, Selector
from plait.model.services import ServiceSpec

SLICE_SERVICE: Final = "plait/service"
"""Label of an EndpointSlice among parties: its Service."""


class Condition(NamedTuple):
    """One condition on a label: whether its value is one of `values` (None: it has any value) is
    what is `wanted`. An absent label has none."""

    key: str
    wanted: bool
    values: tuple[str, ...] | None


Conditions = tuple[Condition, ...]
"""All must hold; none: everything is selected. Sorted, each once."""


class Term(NamedTuple):
    """Some endpoints, nodes or EndpointSlices, by their labels."""

    kind: Literal["endpoints", "nodes", "slices"]
    scope: Conditions
    """On the labels of the namespace; of nodes none."""
    labels: Conditions


def conditions(selector: Selector | None) -> Conditions:
    """The conditions of a selector; None selects everything."""
    if selector is None:
        return ()
    found = {Condition(key, True, (value,)) for key, value in selector.match_labels.items()}
    for requirement in selector.match_expressions:
        values = None
        if requirement.operator in {"In", "NotIn"}:
            values = tuple(sorted(set(requirement.values)))
        found.add(Condition(requirement.key, requirement.operator in {"In", "Exists"}, values))
    return tuple(sorted(found, key=_order))


def _order(condition: Condition) -> tuple[str, bool, bool, tuple[str, ...]]:
    key, wanted, values = condition
    return key, wanted, values is not None, values or ()


def holds(wanted: Conditions, labels: Mapping[str, str]) -> bool:
    """Whether the labels meet all conditions."""
    for key, inside, values in wanted:
        value = labels.get(key)
        if (value is not None if values is None else value in values) is not inside:
            return False
    return True


def endpoints(namespaces: Selector | None, labels: Selector | None) -> Term:
    """Endpoints that both selectors select."""
    return Term("endpoints", conditions(namespaces), conditions(labels))


def service_endpoints(namespace: str, spec: ServiceSpec) -> Term | None:
    """The endpoints that a Service of this namespace selects; None: it does not select."""
    if spec.selector is None:
        return None
    network = Condition(ENDPOINT_NETWORK, True, (spec.network,))
    return Term("endpoints", _in_namespace(namespace), (*conditions(spec.selector), network))


def service_slices(namespace: str, name: str) -> Term:
    """The EndpointSlices of a Service."""
    service = Condition(SLICE_SERVICE, True, (name,))
    return Term("slices", _in_namespace(namespace), (service,))


def _in_namespace(name: str) -> Conditions:
    return (Condition(NAMESPACE_NAME, True, (name,)),)


def nodes(labels: Selector) -> Term:
    """Nodes that the selector selects."""
    return Term("nodes", (), conditions(labels))
