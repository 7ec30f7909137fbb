"""Named steps at which a test may kill the agent: PLAIT_FAILPOINT=name means SIGKILL there.

The names are enumerated, so that a test can walk all of them (facts: fault matrix row 1).
"""

from __future__ import annotations

import os
import signal
from typing import Final

FAILPOINTS: Final = (
    "attach.begin",
    "attach.allocated",
    "attach.journaled",
    "attach.programmed.links",
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


def failpoint(name: str) -> None:
    """Die here, without cleaning up, if this failpoint is armed."""
    if _armed == name:
        os.kill(os.getpid(), signal.SIGKILL)
