"""A lab host whose agent dies on order, at a step of `plait.agent.failpoints`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.census import inside, ready
from tests.lab.conftest import eventually

from plait.agent.failpoints import FILE_VARIABLE
from plait.lab import daemons
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT

FILE = "/run/plait-failpoint"


class Victim:
    """The host, and its agent's death."""

    def __init__(self, lab: Lab, host: str) -> None:
        self.lab = lab
        self.host = host
        self.pid = 0

    def plait(self, *words: str) -> tuple[int, str]:
        done = self.lab.run(self.host, [*PLAIT, *words], check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def docker(self, *words: str) -> tuple[int, str]:
        done = self.lab.run(self.host, ["docker", *words], check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def arm(self, name: str) -> None:
        """The next time the agent comes to this step it dies."""
        self.pid = daemons.program_pid(self.lab, self.host, "agent")
        inside(self.lab, self.host, FILE).write_text(name)

    def disarm(self) -> None:
        inside(self.lab, self.host, FILE).unlink(missing_ok=True)

    def kill(self) -> None:
        """It dies here and now; its next life is ready."""
        self.pid = daemons.program_pid(self.lab, self.host, "agent")
        self.lab.run(self.host, ["kill", "-9", str(self.pid)])
        self._reborn()

    @property
    def struck(self) -> bool:
        """The agent has come to the step."""
        return not inside(self.lab, self.host, FILE).exists()

    def died(self) -> None:
        """It has died at that step, and its next life is ready."""
        assert self.struck, "the step was never come to"
        self._reborn()

    def _reborn(self) -> None:
        eventually("the agent is started again", self._started)
        eventually("the agent is ready again", lambda: ready(self.lab, self.host))

    def _started(self) -> bool:
        pid = daemons.program_pid(self.lab, self.host, "agent")
        if pid in (0, self.pid):
            # Its backoff is for agents that die by themselves.
            daemons.steer(self.lab, self.host, "start", "agent")
            return False
        return True


@contextmanager
def mortal(lab: Lab, host: str) -> Iterator[Victim]:
    """The host with an agent that reads which step is its last one; an ordinary one afterwards."""
    up = [*PLAIT, "up"]
    lab.run(host, [*PLAIT, "down"])
    lab.run(host, ["env", f"{FILE_VARIABLE}={FILE}", *up])
    victim = Victim(lab, host)
    try:
        yield victim
    finally:
        victim.disarm()
        lab.run(host, [*PLAIT, "down"])
        lab.run(host, up)
