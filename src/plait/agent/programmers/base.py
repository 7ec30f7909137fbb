"""What a programmer is: the only code of the agent that changes the kernel.

A programmer owns one part of HostState. It keeps `actual`, the kernel objects of ours as it
last saw or made them, so that a plan costs no kernel call:

- `observe()` reads ours from the kernel into `actual` (a full resync, or after an event);
- `plan(desired)` is pure: what differs, as ops that print as a network engineer writes them;
- `apply(ops)` carries them out and brings `actual` up to date. One op that fails is reported and
  never stops the rest.

All three are synchronous and quick: the agent's loop calls them between awaits, because a
namespace switch (setns) must not be interleaved with other work. `tests/states` drives every
programmer against its fake door and against the real kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Literal, Protocol

import msgspec

from plait.model.errors import PlaitError
from plait.model.hoststate import HostState

Verb = Literal["add", "change", "delete"]

_WORD: Final = re.compile(r"[0-9A-Za-z.:/-]+")


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between desired and actual."""

    part: str
    """Name of the programmer."""
    verb: Verb
    key: Any
    """Identity of the object in its part."""
    want: Any = None
    have: Any = None
    text: str = ""
    """As a network engineer writes it: `ip route add 10.0.0.0/26 via …`."""
    arrival: bool = False
    """The place for the object came about only now, by somebody else (dockerd made its chain):
    that it is missing there is no damage."""

    def __str__(self) -> str:
        return self.text

    def concerns(self, words: AbstractSet[str]) -> bool:
        """It names one of these: a link, an address, a CIDR."""
        return not words.isdisjoint(_WORD.findall(f"{self.key!r} {self.text}"))


def verb_of(want: object, have: object) -> Verb:
    """What leads from what is there to what is wanted; None: nothing."""
    return "delete" if want is None else "add" if have is None else "change"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An op that the kernel refused. `gone` says that the namespace of an endpoint vanished."""

    op: Op
    error: str
    errno: int = 0
    gone: bool = False


def all_failed(ops: Iterable[Op], error: PlaitError | OSError) -> tuple[Failure, ...]:
    """What a whole transaction that failed says of each of its ops."""
    number = getattr(error, "errno", 0) or 0
    return tuple(Failure(op=op, error=str(error), errno=number) for op in ops)


class Checking(Protocol):
    """A programmer that can look at what it made for one endpoint, and at nothing else."""

    name: str

    def check(self, desired: HostState, link: str) -> tuple[str, ...]:
        """Commands that would put right what the kernel lacks of the endpoint with this link;
        changes neither the kernel nor what the programmer knows."""
        ...


class Programmer(Protocol):
    """See the module's docstring."""

    name: str

    def observe(self) -> None:
        """Read our objects from the kernel."""

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """What is to be done, from `actual` alone."""

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Do it; return what failed."""
