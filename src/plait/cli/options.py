"""Options that many commands share, so that they read and behave the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """`--json`: the result as JSON on standard output. Every command that reads has it."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def dry_run_option(function: F) -> F:
    """`--dry-run`: check and say what would change. Every command that changes has it."""
    return click.option(
        "--dry-run", is_flag=True, help="Check and say what would change; change nothing."
    )(function)


def namespace_option(function: F) -> F:
    """`-n/--namespace`, default `default`."""
    from plait.cli.complete import namespaces

    return click.option(
        "-n",
        "--namespace",
        default="default",
        show_default=True,
        shell_complete=namespaces,
        help="Namespace of the name.",
    )(function)


def parse_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """`key=value` words as a mapping; a word without `=` is a mistake in the command line."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"`{pair}` is not of the form KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """A time such as `90s`, `30m`, `24h` or `7d`, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        number, unit = value[:-1], value[-1:]
        if unit not in _UNITS or not number.isascii() or not number.isdigit() or int(number) == 0:
            self.fail(f"`{value}` is not a time; write 90s, 30m, 24h or 7d", param, ctx)
        return float(int(number) * _UNITS[unit])
