"""Docker's names as DNS labels, and labels as Kubernetes writes them. Pure.

Docker allows `[a-zA-Z0-9][a-zA-Z0-9_.-]+` for containers and networks; a name in DNS is a label
of RFC 1123: 1 to 63 of `a-z0-9-`, no `-` at either end. An alias may have `_` and dots, too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ALIAS_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NOT_DNS: Final = re.compile(r"[^a-z0-9]+")
_KEY_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_KEY_PREFIX: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
MAX_LABELS: Final = 64


def is_dns_label(name: str) -> bool:
    """Whether a name stands in DNS as it is."""
    return _DNS_LABEL.fullmatch(name) is not None


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


def distinct_label(name: str) -> str:
    """A DNS label of a name that two names do not share: `my_net` and `my-net` differ."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{dns_label(name)[:56].rstrip('-')}-{digest}".lstrip("-")


def is_label_key(key: str) -> bool:
    """`[prefix/]name` of Kubernetes."""
    prefix, slash, name = key.rpartition("/")
    return _KEY_NAME.fullmatch(name) is not None and (
        not slash or _KEY_PREFIX.fullmatch(prefix) is not None
    )


def is_label_value(value: str) -> bool:
    """Empty, or 1 to 63 of `A-Za-z0-9_.-` with a letter or digit at either end."""
    return not value or _KEY_NAME.fullmatch(value) is not None


def valid_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that a selector can name. Docker's labels are free text: descriptions, paths
    and JSON stay out."""
    kept = ((k, v) for k, v in sorted(labels.items()) if is_label_key(k) and is_label_value(v))
    return dict(list(kept)[:MAX_LABELS])
