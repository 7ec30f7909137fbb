"""Kernel settings that the whole host needs (`net/ipv4/ip_forward`).

A setting that is no longer wanted keeps its value: who else relies on it by now (Docker on
forwarding, for one) cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from plait.agent.programmers.base import Failure, Op
from plait.agent.programmers.support import refused
from plait.kernel.netlink import Event
from plait.kernel.sysctl import Sysctl
from plait.model.hoststate import HostState


class Sysctls:
    """Programmer of `HostState.sysctls`; identity: the key."""

    name = "sysctls"

    def __init__(self, sysctl: Sysctl, keys: Iterable[str] = ()) -> None:
        self._sysctl = sysctl
        self.actual: dict[str, str | None] = dict.fromkeys(keys)
        """Values of `keys` and of those asked for so far; None: the kernel has no such key."""

    def observe(self) -> None:
        """Read the keys again."""
        self.actual = {key: self._sysctl.read(key) for key in self.actual}

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """What differs; a key that was never read counts as different."""
        return tuple(
            Op(
                part=self.name,
                verb="change",
                key=key,
                want=want,
                have=self.actual.get(key),
                text=f"sysctl -w {key}={want!r}" if " " in want else f"sysctl -w {key}={want}",
            )
            for key, want in sorted(desired.sysctls.items())
            if self.actual.get(key) != want
        )

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Write what is not so already: writing forwarding resets settings of every link."""
        failures: list[Failure] = []
        for op in ops:
            try:
                if self._sysctl.read(op.key) != op.want:
                    self._sysctl.write(op.key, op.want)
                self.actual[op.key] = op.want
            except OSError as problem:
                failures.append(refused(op, problem))
        return tuple(failures)

    def notice(self, events: Sequence[Event]) -> bool:
        """Settings cause no rtnetlink events."""
        del events
        return False
