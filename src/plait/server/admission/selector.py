"""Selectors, as Kubernetes validates them (meta/v1 LabelSelector). Pure."""

from __future__ import annotations

from typing import Final

from plait.model import syntax
from plait.model.selectors import Requirement, Selector
from plait.model.syntax import invalid

MAX_EXPRESSIONS: Final = 64
MAX_VALUES: Final = 256


def check(value: Selector, where: str) -> None:
    """Keys and values in the syntax of labels; values where the operator compares them only."""
    syntax.label_map(value.match_labels, f"{where}.matchLabels")
    syntax.items(value.match_expressions, f"{where}.matchExpressions", MAX_EXPRESSIONS)
    for i, requirement in enumerate(value.match_expressions):
        _requirement(requirement, f"{where}.matchExpressions[{i}]")


def _requirement(value: Requirement, where: str) -> None:
    syntax.label_key(value.key, f"{where}.key")
    syntax.items(value.values, f"{where}.values", MAX_VALUES)
    compares = value.operator in ("In", "NotIn")
    if compares and not value.values:
        raise invalid(
            f"{where}.values",
            f"the operator {value.operator} compares with values, and there are none",
            fix="write `Exists` or `DoesNotExist` if any value will do",
        )
    if value.values and not compares:
        raise invalid(
            f"{where}.values",
            f"the operator {value.operator} takes no values",
            fix="leave `values` out, or write `In` or `NotIn`",
        )
    for i, text in enumerate(value.values):
        syntax.label_value(text, f"{where}.values[{i}]")
