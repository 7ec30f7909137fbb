"""What a Service is in the kernel: a few elements, and a shape that it shares with others.

A shape says how a backend is chosen: among how many, whether the client stays with it, and who may
call. Each shape that is in use has one chain, however many Services are of it. A number tells it,
the value of the frontend in the maps `services…` and `outside…`:

    bits 0-7   what to do: refuse, drop, or choose among at most 2^n backends
    bit 9      only some may call
    bits 12-   seconds for which a client stays

A backend is chosen by drawing one of 2^n slots; an empty one is drawn again. So the number of
shapes does not grow with that of the sizes of Services.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from plait.agent.desired.filter_sets import Door
from plait.agent.desired.policy_sets import Family
from plait.model.service_table import Choice

Scope = Literal["inside", "outside"]
"""Who sends: the network and this host itself, or somebody else."""
SCOPES: Final[tuple[Scope, ...]] = ("outside", "inside")

REFUSE: Final = 0x80
DROP: Final = 0x81
_RESTRICTED: Final = 0x200
_SIZE: Final = 0x7F
_SECONDS: Final = 12
FIRST_SLOT: Final[dict[Scope, int]] = {"inside": 0, "outside": 1 << 20}


class Use(NamedTuple):
    """A shape where it is used."""

    family: Family
    door: Door
    scope: Scope
    shape: int


def shape(choice: Choice, *, restricted: bool) -> int:
    """The number of a choice's shape."""
    if not choice.backends:
        return REFUSE if choice.unavailable == "reject" else DROP
    power = (len(choice.backends) - 1).bit_length()
    return power | (_RESTRICTED if restricted else 0) | choice.affinity << _SECONDS


def slots(number: int) -> int:
    """Among how many slots a shape chooses; not all of them need be filled."""
    return 1 << (number & _SIZE)


def chooses(number: int) -> bool:
    """Whether a flow gets a backend at all."""
    return number not in (REFUSE, DROP)


def restricted(number: int) -> bool:
    """Whether only some may call."""
    return bool(number & _RESTRICTED)


def seconds(number: int) -> int:
    """For how long a client stays with its backend; 0: not at all."""
    return number >> _SECONDS
