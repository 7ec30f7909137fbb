"""What the server's refusal of a batch says of the objects in it. Pure."""

from __future__ import annotations

from typing import Final

from plait.model.errors import PlaitError

_NOT_OF_THE_OBJECTS: Final = (401, 408, 421, 429)
"""HTTP statuses: who asks, how slowly, of which server, how often."""
_VERSION: Final = "PLAIT-AGENT-002"


def is_of_no_object(error: PlaitError) -> bool:
    """Whether it says nothing of what was sent, so that all of it is sent again."""
    return error.status >= 500 or error.status in _NOT_OF_THE_OBJECTS or error.code == _VERSION
