"""HostState.forward_accept in the kernel: our accept rules in Docker's DOCKER-USER chain.

dockerd sets the policy of FORWARD to drop, which would eat what our own table accepts: in
netfilter every table must agree. Docker leaves DOCKER-USER to others. Our rules stand behind the
user's own, before the unconditional RETURN that older Dockers put at the end.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from plait.agent.programmers.base import Failure, Op
from plait.kernel.iptables import CHAIN, IptablesDoor
from plait.model import marks
from plait.model.hoststate import HostState

_MARK: Final = ("-m", "comment", "--comment", marks.COMMENT)
RULES: Final = tuple(
    shlex.join(["-A", CHAIN, side, "pl+", *_MARK, "-j", "ACCEPT"]) for side in ("-i", "-o")
)
"""As `-S` prints them. `pl+` is every host-side link, and nothing that passes no such link is
of ours."""
_RETURN: Final = f"-A {CHAIN} -j RETURN"


class DockerUser:
    """See the module's docstring."""

    name = "docker_user"

    def __init__(self, door: IptablesDoor) -> None:
        self._door = door
        self.actual: dict[str, tuple[str, ...]] = {}
        self._served: set[str] = set()
        """Back ends whose present chain has had our rules."""

    def observe(self) -> None:
        """Read DOCKER-USER of every back end that has it."""
        self.actual = self._door.rules()
        self._served = {
            command
            for command, lines in self.actual.items()
            if command in self._served or any(map(_ours, lines))
        }

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """See Programmer. Where Docker made no chain there is nothing to do."""
        wanted = RULES if desired.forward_accept else ()
        ops = []
        for command, lines in self.actual.items():
            end = lines.index(_RETURN) if _RETURN in lines else len(lines)
            good: list[str] = []
            for position, line in enumerate(lines):
                if not _ours(line):
                    continue
                if line in wanted and line not in good and position < end:
                    good.append(line)
                else:
                    ops.append(self._op("delete", command, line))
            ops += [self._op("add", command, line) for line in wanted if line not in good]
        return tuple(ops)

    def _op(self, verb: str, command: str, line: str) -> Op:
        flag = "-I" if verb == "add" else "-D"
        return Op(
            part=self.name,
            verb="add" if verb == "add" else "delete",
            key=(command, line),
            text=f"{command} {flag}{line.removeprefix('-A')}",
            arrival=verb == "add" and command not in self._served,
        )

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """See Programmer."""
        failures = []
        for op in ops:
            command, line = op.key
            rule = shlex.split(line)[2:]
            lines = list(self.actual.get(command, ()))
            if op.verb == "add":
                end = lines.index(_RETURN) if _RETURN in lines else len(lines)
                error = self._door.run(command, ["-I", CHAIN, str(end + 1), *rule])
                lines.insert(end, line)
            else:
                error = self._door.run(command, ["-D", CHAIN, *rule])
                if line in lines:
                    lines.remove(line)
            if error:
                failures.append(Failure(op=op, error=error))
            else:
                self.actual[command] = tuple(lines)
                if op.verb == "add":
                    self._served.add(command)
        if failures:
            # Positions count from what is there; somebody else may have changed it.
            self.observe()
        return tuple(failures)


def _ours(line: str) -> bool:
    words = shlex.split(line)
    return any(words[i : i + 2] == ["--comment", marks.COMMENT] for i in range(len(words)))
