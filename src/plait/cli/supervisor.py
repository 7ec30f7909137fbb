"""A small supervisor for hosts without systemd: it restarts what dies, and keeps the logs.

Each program is one process with a wanted state, `up` or `down`. One that ends although it is
wanted is started again after a delay that doubles from `Backoff.base` to `Backoff.cap` seconds,
with jitter, and begins anew once it has lived `Backoff.stable` seconds. The supervisor is
steered through a unix socket of root's (one JSON line in, one out):

    {"verb": "status"}                        {"programs": [{"name": "agent", ...}]}
    {"verb": "start", "name": "agent"}        also stop, restart
    {"verb": "shutdown"}                      stops everything, then the supervisor
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plait.cli.rotation import RotatingLog

SUPERVISOR_PID: Final = "PLAIT_SUPERVISOR_PID"
"""Environment variable that tells a program its supervisor: it asks the kernel to end it when
the supervisor dies (PR_SET_PDEATHSIG), so that a new supervisor never finds an old twin."""
STOP_TIMEOUT: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""
MAX_REQUEST: Final = 4096


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a program that died is started again, in seconds."""

    base: float = 0.25
    cap: float = 15.0
    stable: float = 20.0

    def delay(self, failures: int, jitter: float) -> float:
        """The wait after `failures` short lives in a row, `jitter` in [0, 1): half to whole."""
        # 2**32 is far above any cap; the bound keeps the power a small number.
        whole = min(self.cap, self.base * 2.0 ** min(failures, 32))
        return whole * (0.5 + jitter / 2)


class Program:
    """One process, kept in its wanted state."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: RotatingLog,
        *,
        env: Mapping[str, str],
        backoff: Backoff = Backoff(),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self.env = dict(env)
        self.backoff = backoff
        self.clock = clock
        self.jitter = jitter
        self.restarts = 0
        self.exit_code: int | None = None
        self.process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._failures = 0

    @property
    def state(self) -> str:
        """`up`, `waiting` (it died and will be started again) or `down` (not wanted)."""
        if self._task is None:
            return "down"
        return "up" if self.process else "waiting"

    def describe(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "name": self.name,
            "state": self.state,
            "pid": self.process.pid if self.process else 0,
            "restarts": self.restarts,
            "exitCode": self.exit_code,
        }

    def start(self) -> None:
        """Want it up; starts at once also when it waits for its next attempt."""
        self._failures = 0
        if self._task is None:
            self._task = asyncio.create_task(self._keep_up(), name=f"keep {self.name} up")
        else:
            self._wake.set()

    async def stop(self) -> None:
        """Want it down; returns when the process has gone."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_up(self) -> None:
        while True:
            began = self.clock()
            await self._live()
            self._failures = 0 if self.clock() - began >= self.backoff.stable else self._failures
            delay = self.backoff.delay(self._failures, self.jitter())
            self._failures += 1
            self.restarts += 1
            self._note(f"ended with {self.exit_code}; starting again in {delay:.1f} s")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    async def _live(self) -> None:
        """One life of the process, from start to exit; a cancellation ends it first."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self.env,
                cwd="/",
            )
        except OSError as error:
            self._note(f"cannot be started: {error}")
            self.exit_code = 127
            return
        self.process = process
        pump = asyncio.create_task(self._pump(process), name=f"log of {self.name}")
        try:
            self.exit_code = await process.wait()
        except asyncio.CancelledError:
            self.exit_code = await self._end(process)
            raise
        finally:
            self.process = None
            # A grandchild may hold the pipe open: what it writes later is not waited for.
            await asyncio.wait([pump], timeout=0.5)
            pump.cancel()

    async def _end(self, process: asyncio.subprocess.Process) -> int:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            return await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            self._note("did not end on SIGTERM; killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    async def _pump(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(65536):
            self.log.write(data)

    def _note(self, text: str) -> None:
        self.log.write(f"supervisor: {self.name} {text}\n".encode())


class Supervisor:
    """Programs by name, and the socket that steers them."""

    def __init__(self, programs: Mapping[str, Program], socket_path: Path, pid_path: Path) -> None:
        self.programs = dict(programs)
        self.socket_path = socket_path
        self.pid_path = pid_path
        self.done = asyncio.Event()

    async def run(self, wanted: Sequence[str]) -> None:
        """Start what is wanted and serve until `shutdown`, SIGTERM or SIGINT."""
        lock = self._lock()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.done.set)
        listener = self._listen()
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_REQUEST)
        try:
            for name in wanted:
                self.programs[name].start()
            await self.done.wait()
        finally:
            server.close()
            # The agent ends before the server, so that its last words are heard.
            for program in reversed(self.programs.values()):
                await program.stop()
                program.log.close()
            for path in (self.socket_path, self.pid_path):
                path.unlink(missing_ok=True)
            os.close(lock)

    def _lock(self) -> int:
        """Hold the pid file; BlockingIOError when another supervisor does."""
        self.pid_path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        fd = os.open(self.pid_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        return fd

    def _listen(self) -> socket.socket:
        self.socket_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Nobody may connect between bind and chmod.
        mask = os.umask(0o177)
        try:
            listener.bind(str(self.socket_path))
        finally:
            os.umask(mask)
        return listener

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 5)
            reply = await self._answer(json.loads(line))
        except (ValueError, TimeoutError, RecursionError):
            reply = {"error": "not a request"}
        with contextlib.suppress(OSError):
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, request: Any) -> dict[str, Any]:
        verb = request.get("verb") if isinstance(request, dict) else None
        if verb == "shutdown":
            self.done.set()
        elif verb != "status":
            program = self.programs.get(str(request.get("name"))) if verb else None
            if program is None or verb not in {"start", "stop", "restart"}:
                return {"error": f"no verb {verb!r} or no such program"}
            if verb != "start":
                await program.stop()
            if verb != "stop":
                program.start()
        return {"pid": os.getpid(), "programs": [p.describe() for p in self.programs.values()]}
