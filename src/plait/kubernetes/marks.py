"""How the connector knows what it wrote, after a restart and without a list of its own. Pure.

An object that it made has the annotation `plait/origin: kubernetes`; without it an object is a
user's, and is left alone. Namespaces and Nodes belong to whoever made them; there the connector
keeps labels, and the annotation `plait/kubernetes-labels` says which.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from plait.model.meta import ORIGIN
from plait.model.objects import Object

KUBERNETES: Final = "kubernetes"
"""Value of the annotation `ORIGIN` of what the connector made."""
LABELS: Final = "plait/kubernetes-labels"
"""Annotation of a Namespace or Node: keys of the labels that come from Kubernetes, sorted, with a
comma between them, which no key contains."""

T = TypeVar("T", bound=Object)


def is_ours(obj: Object) -> bool:
    """Whether the connector made it."""
    return obj.metadata.annotations.get(ORIGIN) == KUBERNETES


def is_touched(obj: Object) -> bool:
    """Whether anything of the connector's is in it."""
    return is_ours(obj) or LABELS in obj.metadata.annotations


def marked(obj: T) -> T:
    """The object as one that the connector made."""
    annotations = {**obj.metadata.annotations, ORIGIN: KUBERNETES}
    return with_metadata(obj, annotations=annotations)


def lent_labels(obj: Object) -> frozenset[str]:
    """Keys of the labels that come from Kubernetes."""
    return frozenset(filter(None, obj.metadata.annotations.get(LABELS, "").split(",")))


def with_metadata(obj: T, **fields: object) -> T:
    """The object with other metadata."""
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, **fields))
