"""What every object of the API has: identity, labels, a revision, a place in the store.

Wire form: JSON with `apiVersion: plait/v1`, `kind`, `metadata`, `spec`, `status`, camelCase
fields (Kubernetes API conventions). Unknown fields are refused. Sequences are tuples, so that
objects are hashable by identity and comparable by value.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import msgspec

API_VERSION: Final = "plait/v1"
ORIGIN: Final = "plait/origin"
"""Annotation of what a connector wrote: out of whose objects, as `kubernetes`. The connector may
change and remove what carries it, and nothing else."""


class Base(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Common options of every struct of the API."""


class Metadata(Base, frozen=True, kw_only=True):
    """Identity and labels of an object.

    `revision` is the store revision of the last write; 0 means "not stored". An update with a
    non-zero revision succeeds only if it is still the current one (optimistic concurrency).
    """

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    revision: int = 0
    created_at: str = ""
    """RFC 3339, UTC; set by the server."""


class Object(Base, frozen=True, kw_only=True, tag_field="kind"):
    """A stored object. `kind` is the struct's tag."""

    namespaced: ClassVar[bool] = False
    plural: ClassVar[str] = ""

    metadata: Metadata
    # A factory, so that omit_defaults keeps the field on the wire.
    api_version: Literal["plait/v1"] = msgspec.field(default_factory=lambda: API_VERSION)

    @property
    def kind(self) -> str:
        """The kind's name, as on the wire."""
        return type(self).__name__

    @property
    def key(self) -> str:
        """Store key: `/<plural>/[<namespace>/]<name>`."""
        return object_key(type(self), self.metadata.name, self.metadata.namespace)


def object_key(kind: type[Object], name: str, namespace: str = "") -> str:
    """Store key of an object: `/<plural>/[<namespace>/]<name>`."""
    if kind.namespaced:
        return f"/{kind.plural}/{namespace}/{name}"
    return f"/{kind.plural}/{name}"
