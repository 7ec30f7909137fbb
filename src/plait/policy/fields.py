"""Reading of somebody else's manifests: plain data whose every field is named in errors. Pure.

A path is written as Kubernetes does: `spec.ingress[0].from[1].ipBlock.cidr`. JSON's null means
that a field is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.selectors import Operator, Requirement, Selector
from plait.model.syntax import invalid, shown

OPERATORS: dict[str, Operator] = {
    "In": "In",
    "NotIn": "NotIn",
    "Exists": "Exists",
    "DoesNotExist": "DoesNotExist",
}


class UnknownField(PlaitError):
    """A field that this version does not know, or none of those of which one must be."""


def below(where: str, name: str) -> str:
    """Path of a field inside another; safe to print."""
    shown_name = syntax.printable(name[:80])
    return f"{where}.{shown_name}" if where else shown_name


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object of JSON; empty when it is absent."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(where, f"{_named(where)} is {_shown(value)}, and must be a mapping")
    return value


def known(value: Any, where: str, names: Sequence[str]) -> dict[str, Any]:
    """An object of JSON without fields of other names."""
    found = mapping(value, where)
    for name in found:
        if name not in names:
            raise UnknownField(
                "PLAIT-API-002",
                f"there is no field {shown(str(name))} in {_named(where)}",
                where=below(where, str(name)),
                why="its fields are " + ", ".join(names),
                fix=tuple(f"write `{near}`" for near in get_close_matches(str(name), names, n=1)),
            )
    return found


def one_of(value: Any, where: str, names: Sequence[str]) -> tuple[str, Any]:
    """The one field that is set, and its value."""
    present = {k: v for k, v in known(value, where, names).items() if v is not None}
    if not present:
        raise UnknownField(
            "PLAIT-API-002",
            f"{_named(where)} is empty",
            where=where,
            why="exactly one must be set of " + ", ".join(names),
        )
    if len(present) > 1:
        raise invalid(
            where,
            f"{' and '.join(present)} stand together",
            why="exactly one must be set of " + ", ".join(names),
        )
    return next(iter(present.items()))


def sequence(value: Any, where: str) -> list[Any]:
    """A list; empty when it is absent."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(where, f"{_named(where)} is {_shown(value)}, and must be a list")
    return value


def text(value: Any, where: str) -> str:
    """A string; empty when it is absent."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(
            where,
            f"{_named(where)} is {_shown(value)}, and must be text",
            fix=f'write "{value}"' if isinstance(value, int) else "",
        )
    return value


def required(value: Any, where: str) -> str:
    """A string that is not empty."""
    found = text(value, where)
    if not found:
        raise invalid(where, f"{_named(where)} is missing")
    return found


def integer(value: Any, where: str, low: int, high: int) -> int:
    """A whole number in a range, ends included."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(where, f"{_named(where)} is {_shown(value)}, and must be a number")
    return syntax.number(value, where, low, high)


def chosen(value: Any, where: str, words: Sequence[str]) -> str:
    """One of some words."""
    found = required(value, where)
    if found not in words:
        raise invalid(where, f"{shown(found)} is not one of {', '.join(words)}")
    return found


def strings(value: Any, where: str) -> dict[str, str]:
    """A mapping of strings, such as labels."""
    return {str(key): text(item, below(where, key)) for key, item in mapping(value, where).items()}


def selector(value: Any, where: str) -> Selector:
    """A LabelSelector; an empty one selects everything."""
    found = known(value, where, ("matchLabels", "matchExpressions"))
    labels = strings(found.get("matchLabels"), f"{where}.matchLabels")
    at = f"{where}.matchExpressions"
    return Selector(
        match_labels=labels,
        match_expressions=tuple(
            _requirement(item, f"{at}[{i}]")
            for i, item in enumerate(sequence(found.get("matchExpressions"), at))
        ),
    )


def _requirement(value: Any, where: str) -> Requirement:
    found = known(value, where, ("key", "operator", "values"))
    operator = chosen(found.get("operator"), f"{where}.operator", tuple(OPERATORS))
    values = sequence(found.get("values"), f"{where}.values")
    return Requirement(
        key=required(found.get("key"), f"{where}.key"),
        operator=OPERATORS[operator],
        values=tuple(text(item, f"{where}.values[{i}]") for i, item in enumerate(values)),
    )


def labels(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Labels of an object."""
    found = strings(metadata.get("labels"), "metadata.labels")
    syntax.label_map(found, "metadata.labels")
    return found


def _named(where: str) -> str:
    return where.rpartition(".")[2] or "the manifest"


def _shown(value: Any) -> str:
    return shown(value) if isinstance(value, str) else shown(repr(value)).strip('"')
