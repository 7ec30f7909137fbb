"""The network configuration list that `plait cni install` writes. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal, NamedTuple

from plait.model.errors import PlaitError
from plait.wire.cni.call import MAX_DEADLINE

TYPE: Final = "plait"
"""Name of the plugin's binary, and so its type in configurations."""
CAPABILITIES: Final = ("portMappings", "bandwidth", "ips", "mac", "dns", "ipRanges", "aliases")
VERSION: Final = "1.0.0"
"""The latest that containerd 1.6 and podman 4.3 know."""
VERSIONS: Final = ("0.4.0", "1.0.0", "1.1.0")
"""Out of which a runtime of CNI 1.1 chooses; earlier ones pass over the key."""
FILE: Final = "10-{name}.conflist"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Choices(NamedTuple):
    """What a user decides."""

    name: str = "plait"
    """Of the configuration: `podman run --network NAME`."""
    network: str = "plait"
    identity: Literal["kubernetes", "runtime"] = "runtime"
    deadline: int = 30
    """Seconds."""


def check(choices: Choices) -> None:
    """PLAIT-API-002 for what no runtime, or not our plugin, would take."""
    if _NAME.fullmatch(choices.name) is None:
        raise PlaitError(
            "PLAIT-API-002",
            f"{choices.name[:80]!r} cannot name a network configuration",
            why="a name has at most 63 letters, digits, _, . and -",
        )
    if not 1 <= choices.deadline <= MAX_DEADLINE:
        raise PlaitError(
            "PLAIT-API-002", f"the deadline is 1 to {MAX_DEADLINE} seconds, not {choices.deadline}"
        )


def render(choices: Choices) -> str:
    """Text of the file."""
    plugin = {
        "type": TYPE,
        "network": choices.network,
        "identity": choices.identity,
        "deadline": choices.deadline,
        "capabilities": dict.fromkeys(CAPABILITIES, True),
    }
    conflist = {
        "cniVersion": VERSION,
        "cniVersions": VERSIONS,
        "name": choices.name,
        "plugins": [plugin],
    }
    return json.dumps(conflist, indent=2) + "\n"


def plugin_of(text: str) -> dict[str, Any] | None:
    """Our plugin's part of a configuration or a list of them; None when it is not in there."""
    try:
        config = json.loads(text)
    except ValueError:
        return None
    parts = config.get("plugins", [config]) if isinstance(config, dict) else []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict) and part.get("type") == TYPE:
            return part
    return None
