"""Objects as YAML that `plait apply -f -` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from plait.model.objects import Object, to_builtins

SERVERS: Final = ("uid", "revision", "createdAt")
"""Fields of `metadata` that the server writes."""


def manifest(obj: Object) -> dict[str, Any]:
    """The user's part of an object, in the order in which people read it."""
    wire = to_builtins(obj)
    metadata = {k: v for k, v in wire["metadata"].items() if k not in SERVERS}
    head = {"apiVersion": wire["apiVersion"], "kind": obj.kind, "metadata": metadata}
    return {**head, **{part: wire[part] for part in ("spec",) if part in wire}}


def yaml_text(objects: Iterable[Object]) -> str:
    """The objects as documents of one YAML text, without a line break at its end."""
    import yaml

    texts = (yaml.safe_dump(manifest(obj), sort_keys=False, allow_unicode=True) for obj in objects)
    return "---\n".join(texts).rstrip("\n")
