"""Kinds as people type them: `network`, `Networks`, `net`."""

from __future__ import annotations

from plait.cli.frame import nearest
from plait.model.errors import PlaitError
from plait.model.objects import KINDS, Object

SHORT = {
    "net": "Network",
    "ns": "Namespace",
    "ep": "Endpoint",
    "eps": "Endpoint",
    "no": "Node",
    "block": "AddressBlock",
    "blocks": "AddressBlock",
}


def find_kind(word: str) -> type[Object]:
    """The kind of a word, whatever its case and number; PLAIT-API-003 names the nearest."""
    lowered = word.lower()
    names: dict[str, type[Object]] = {}
    for name, kind in KINDS.items():
        names[name.lower()] = names[kind.plural] = kind
    for short, name in SHORT.items():
        names[short] = KINDS[name]
    if lowered in names:
        return names[lowered]
    hints = nearest(lowered, list(names))
    raise PlaitError(
        "PLAIT-API-003",
        f"no kind `{word}`",
        why="kinds are " + ", ".join(kind.plural for kind in KINDS.values()),
        fix=(f"write `{names[hints[0]].plural}`",) if hints else (),
    )
