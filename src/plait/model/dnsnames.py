"""Names of other people's things as DNS has them. Pure.

Runtimes allow `[a-zA-Z0-9][a-zA-Z0-9_.-]+` for containers, orchestrators dots in names of pods; a
name in DNS is a label of RFC 1123: 1 to 63 of `a-z0-9-`, no `-` at either end. An alias may have
`_` and dots, too.
"""

from __future__ import annotations

import re
from typing import Final

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ALIAS_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NOT_DNS: Final = re.compile(r"[^a-z0-9]+")


def is_dns_label(name: str) -> bool:
    """Whether a name stands in DNS as it is."""
    return _LABEL.fullmatch(name) is not None


def dns_label(name: str) -> str:
    """The nearest DNS label; empty when nothing of the name can stand in one."""
    if is_dns_label(name):
        return name
    return _NOT_DNS.sub("-", name.lower()).strip("-")[:63].rstrip("-")


def dns_alias(name: str) -> str:
    """What clients ask for who were told this name (`my_db`, `db.shop`), or the nearest DNS label.

    Resolvers pass `_` and inner dots on as they are, and Docker's own resolver answers to them.
    """
    lower = name.lower()
    asked = len(lower) <= 253 and all(map(_ALIAS_LABEL.fullmatch, lower.split(".")))
    return lower if asked else dns_label(name)
