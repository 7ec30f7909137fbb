"""Read the manifests that a command line names: files, directories, standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from plait.cli.manifests import MAX_BYTES, Document, documents, to_known, to_object
from plait.model.errors import PlaitError
from plait.model.objects import KINDS, AnyObject
from plait.policy import expectations

SUFFIXES = (".yaml", ".yml", ".json")


def texts(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The text of each file that is meant, and what the file is called."""
    for name in names:
        if name == "-":
            yield _decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>"), "<stdin>"
            continue
        path = Path(name)
        found = (
            sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
            if path.is_dir()
            else [path]
        )
        if not found:
            raise PlaitError(
                "PLAIT-CLI-004",
                f"there is no manifest in {name}",
                why=f"files must end in {', '.join(SUFFIXES)}",
            )
        for file in found:
            with file.open("rb") as stream:
                yield _decoded(stream.read(MAX_BYTES + 1), str(file)), str(file)


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlaitError(
            "PLAIT-CLI-004", "the manifest is not valid", where=source, why=str(error)
        ) from None


def read_manifests(names: Sequence[str]) -> list[AnyObject]:
    """The objects of all manifests, ordered so that what others need comes first.

    PLAIT-CLI-004 when two of them are the same object: which one counts would be a guess.
    """
    return _read(names, to_object)


def read_world(names: Sequence[str]) -> list[AnyObject]:
    """As `read_manifests`, of what has a part in policy; the rest is passed over."""
    return _read(names, to_known)


def _is_test(document: Document) -> bool:
    """Whether it holds expectations, which stand beside the policies and are no object."""
    return isinstance(document.data, dict) and document.data.get("kind") == expectations.KIND


def _read(names: Sequence[str], convert: Callable[[Document], AnyObject | None]) -> list[AnyObject]:
    found: list[AnyObject] = []
    places: dict[str, str] = {}
    for text, source in texts(names):
        for document in documents(text, source):
            if _is_test(document):
                continue
            obj = convert(document)
            if obj is None:
                continue
            if obj.key in places:
                raise PlaitError(
                    "PLAIT-CLI-004",
                    f"{obj.kind} {obj.metadata.name} stands twice",
                    where=document.where(),
                    why=f"it stands at {places[obj.key]} already",
                )
            places[obj.key] = document.where()
            found.append(obj)
    if not found:
        raise PlaitError("PLAIT-CLI-004", "there is no object in " + ", ".join(names))
    order = list(KINDS)
    return sorted(found, key=lambda obj: order.index(obj.kind))
