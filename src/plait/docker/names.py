"""Docker's names as DNS labels (`model.dnsnames`), and labels as Kubernetes writes them. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from plait.model.dnsnames import dns_alias as dns_alias
from plait.model.dnsnames import dns_label as dns_label
from plait.model.dnsnames import is_dns_label as is_dns_label

_KEY_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_KEY_PREFIX: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
MAX_LABELS: Final = 64


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
