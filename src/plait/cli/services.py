"""Start and stop our programs: through systemd where it runs, else our supervisor.

Both do the same three things, so that no command asks which of them is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from plait.cli.systemd import UNITS, unit
from plait.client.polling import poll
from plait.model.errors import PlaitError
from plait.model.paths import ROOT_VARIABLE, Paths

CONFIGURED: Final[dict[str, Callable[[Paths], Path]]] = {
    "server": lambda paths: paths.server_config,
    "agent": lambda paths: paths.agent_config,
    "kubernetes": lambda paths: paths.kubernetes_config,
}
"""Our programs, and the file whose presence says that this host runs one."""


def command(name: str) -> tuple[str, ...]:
    """What runs a program: this interpreter, so that a virtual environment stays itself."""
    return (sys.executable, "-P", "-m", "plait", name, "run")


class Services(Protocol):
    """The verbs. `name` is one of `CONFIGURED`."""

    def start(self, name: str) -> None:
        """Keep it running, now and after a reboot where the system can do that."""

    def stop(self, name: str) -> None:
        """End it and leave it ended; no error when it does not run."""

    def restart(self, name: str) -> None:
        """End it and start it again."""

    def state(self, name: str) -> str:
        """`up`, `waiting` (it died and will be started again) or `down`."""

    def log_hint(self, name: str) -> str:
        """A command that shows its log."""

    def forget(self, name: str) -> None:
        """End one for good, and take away what `start` put on the host for it."""

    def remove(self) -> None:
        """End everything and take away what `start` put on the host."""


def services(paths: Paths) -> Services:
    """The way that fits this host (sd_booted(3)). A `PLAIT_ROOT` is never systemd's business."""
    if paths.root == Path("/") and Path("/run/systemd/system").is_dir():
        return Systemd(paths)
    return Supervised(paths)


class Systemd:
    """Units of our own."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def start(self, name: str) -> None:
        """Install the unit, if it changed, and start it without waiting for readiness."""
        path = self.paths.units / UNITS[name]
        text = unit(name, command(name), {})
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            self._systemctl("daemon-reload")
        self._systemctl("enable", "--quiet", UNITS[name])
        self._systemctl("start", "--no-block", UNITS[name])

    def stop(self, name: str) -> None:
        """Stop the unit."""
        if (self.paths.units / UNITS[name]).exists():
            self._systemctl("stop", UNITS[name])

    def restart(self, name: str) -> None:
        """Restart the unit."""
        self._systemctl("restart", UNITS[name])

    def state(self, name: str) -> str:
        """From the unit's ActiveState."""
        answer = subprocess.run(
            ["systemctl", "show", "--property=ActiveState", "--value", UNITS[name]],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        return {"active": "up", "activating": "waiting", "reloading": "up"}.get(answer, "down")

    def log_hint(self, name: str) -> str:
        """The journal."""
        return f"journalctl -u {UNITS[name]} -n 50"

    def forget(self, name: str) -> None:
        """Stop, disable and delete the unit."""
        self._forget(name)
        self._systemctl("daemon-reload")

    def remove(self) -> None:
        """Stop, disable and delete the units."""
        for name in reversed(UNITS):
            self._forget(name)
        self._systemctl("daemon-reload")

    def _forget(self, name: str) -> None:
        path = self.paths.units / UNITS[name]
        if path.exists():
            self._systemctl("disable", "--quiet", "--now", UNITS[name])
            path.unlink()

    def _systemctl(self, *words: str) -> None:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PlaitError(
                "PLAIT-CLI-002",
                f"systemctl {' '.join(words)} failed",
                why=done.stderr.strip() or f"it ended with {done.returncode}",
            )


class Supervised:
    """Our supervisor, started when it is first needed."""

    START_TIMEOUT: Final = 8.0
    """Seconds for the supervisor to answer."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def start(self, name: str) -> None:
        """Start the program, and the supervisor before it."""
        if self._ask({"verb": "status"}) is None:
            self._launch()
        self._order("start", name)

    def stop(self, name: str) -> None:
        """Stop the program; the supervisor stays."""
        if self._ask({"verb": "status"}) is not None:
            self._order("stop", name)

    def restart(self, name: str) -> None:
        """Restart the program."""
        if self._ask({"verb": "status"}) is None:
            self._launch()
        self._order("restart", name)

    def state(self, name: str) -> str:
        """As the supervisor sees it; `down` without one."""
        answer = self._ask({"verb": "status"}) or {}
        for program in answer.get("programs", ()):
            if program["name"] == name:
                return str(program["state"])
        return "down"

    def log_hint(self, name: str) -> str:
        """The log file."""
        return f"tail -n 50 {self.paths.log / name}.log"

    def forget(self, name: str) -> None:
        """Stop the program: without its settings it is not started again."""
        self.stop(name)

    def remove(self) -> None:
        """Shut the supervisor down, and wait until it has gone."""
        if self._ask({"verb": "shutdown"}) is None:
            return
        poll(lambda: not self.paths.supervisor_pid.exists(), seconds=25, every=0.02)

    def _order(self, verb: str, name: str) -> None:
        answer = self._ask({"verb": verb, "name": name})
        if answer is None or "error" in answer:
            raise PlaitError(
                "PLAIT-HOST-008",
                f"the supervisor did not {verb} the {name}",
                why=str((answer or {}).get("error", "it does not answer")),
                fix=(f"tail -n 50 {self.paths.log}/supervisor.log",),
            )

    def _launch(self) -> None:
        self.paths.log.mkdir(parents=True, exist_ok=True, mode=0o750)
        log = os.open(
            self.paths.log / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640
        )
        environ = {**os.environ, ROOT_VARIABLE: str(self.paths.root)}
        # A variable of the shell that typed `plait up` must not steer the daemons.
        for name in ("PLAIT_SERVER", "PLAIT_TOKEN", "PLAIT_CA_FILE", "PLAIT_DEBUG"):
            environ.pop(name, None)
        try:
            # posix_spawn and not Popen: nobody waits for this process, it outlives us.
            os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "plait", "supervisor", "run"],
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(log)
        answer = poll(
            lambda: self._ask({"verb": "status"}),
            lambda status: status is not None,
            seconds=self.START_TIMEOUT,
            every=0.02,
        )
        if answer is None:
            raise PlaitError(
                "PLAIT-HOST-008",
                "the supervisor did not start",
                why=(self.paths.log / "supervisor.log").read_text()[-500:].strip(),
                fix=(f"tail -n 50 {self.paths.log}/supervisor.log",),
            )

    def _ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        """The supervisor's reply, or None when there is no supervisor."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(30)
            try:
                link.connect(str(self.paths.supervisor_socket))
                link.sendall(json.dumps(request).encode() + b"\n")
                with link.makefile("rb") as stream:
                    line = stream.readline()
            except (FileNotFoundError, ConnectionError, TimeoutError):
                return None
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            return answer if isinstance(answer, dict) else None
        return None


def remove_state(paths: Paths) -> None:
    """Delete every directory of ours; no error for what is not there."""
    paths.docker_plugin.unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError):
        for made in json.loads(paths.made.read_text()):
            # Not empty: somebody else uses it by now.
            Path(made).rmdir()
    for directory in (paths.state, paths.run, paths.log):
        if not directory.exists():
            continue
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        # A mount point (a volume of its own) stays, and is empty.
        with contextlib.suppress(OSError):
            directory.rmdir()
