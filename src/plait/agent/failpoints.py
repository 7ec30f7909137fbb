"""Named steps at which a test may kill the agent.

`PLAIT_FAILPOINT=name` in the environment means SIGKILL at that step. A running agent that was
started with `PLAIT_FAILPOINT_FILE=path` dies at the step that the file names; the file goes
first, so that the agent's next life passes the step. Without these variables nothing is read.

The names are enumerated, so that a test can walk all of them (facts: fault matrix row 1).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

FILE_VARIABLE: Final = "PLAIT_FAILPOINT_FILE"
FAILPOINTS: Final = (
    "attach.begin",
    "attach.allocated",
    "attach.journaled",
    "attach.programmed.links",
    "attach.programmed.shapers",
    "attach.programmed.routes",
    "attach.programmed.gate",
    "attach.programmed",
    "attach.done",
    "detach.begin",
    "detach.journaled",
    "detach.programmed",
    "identify.journaled",
    "publish.journaled",
    "reserve.journaled",
    "claim.created",
)
"""Every failpoint there is."""

_armed = os.environ.get("PLAIT_FAILPOINT", "")
_file = os.environ.get(FILE_VARIABLE, "")


def failpoint(name: str) -> None:
    """Die here, without cleaning up, if this failpoint is armed."""
    if _armed == name or (_file and _taken(Path(_file), name)):
        os.kill(os.getpid(), signal.SIGKILL)


def _taken(file: Path, name: str) -> bool:
    """Whether the file names this step; it is gone then."""
    try:
        if file.read_text().strip() != name:
            return False
        file.unlink()
    except FileNotFoundError:
        return False
    return True
