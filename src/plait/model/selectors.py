"""Label selectors, with the meaning that Kubernetes gives them (meta/v1 LabelSelector)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from plait.model.meta import Base

NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""Label that every namespace has: its name."""
ENDPOINT_NAME: Final = "name.plait/"
"""Prefix of the labels that an endpoint has for its name and each alias: `name.plait/web`, with
an empty value, so that a selector finds it by any of them."""
ENDPOINT_NETWORK: Final = "plait/network"
"""Label that every endpoint has: its network."""
ENDPOINT_NODE: Final = "plait/node"
"""Label that every endpoint has: its node. A Node has it too."""

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]


class Requirement(Base, frozen=True, kw_only=True):
    """One condition on a label. `NotIn` and `DoesNotExist` hold where the label is absent."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()
    """Of `In` and `NotIn`, at least one; of the others none."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet it."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class Selector(Base, frozen=True, kw_only=True):
    """All conditions must hold; one without any selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects what carries these labels."""
        for key, value in self.match_labels.items():
            if labels.get(key) != value:
                return False
        return all(requirement.holds(labels) for requirement in self.match_expressions)
