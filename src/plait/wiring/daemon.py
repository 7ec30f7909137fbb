"""What every daemon of ours does around its work: logs, signals, readiness, its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from plait.cli.supervisor import SUPERVISOR_PID
from plait.model.errors import PlaitError

PR_SET_PDEATHSIG: Final = 1
"""prctl(2), linux/prctl.h."""
YOUNG: Final = 10_000
"""Objects after which those that came since are searched for garbage. Python's 700 are for programs
that are small: with ten thousand Services that come at once a third of the time went there."""


def notify(state: str, environ: Mapping[str, str]) -> bool:
    """Tell the service manager (sd_notify(3)): `READY=1`, `STOPPING=1`, `STATUS=…`.

    False where nobody asked to be told, or cannot be.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        try:
            link.connect("\0" + address[1:] if address[0] == "@" else address)
            link.send(state.encode())
        except OSError:
            return False
    return True


def die_with_supervisor(environ: Mapping[str, str]) -> None:
    """End with SIGTERM when our supervisor dies, so that its successor never finds a twin."""
    parent = environ.get(SUPERVISOR_PID, "")
    if not parent.isdigit():
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # It may have died before the call above.
    if os.getppid() != int(parent):
        raise SystemExit("the supervisor has gone")


@contextlib.contextmanager
def only_one(path: Path, what: str, fix: str) -> Iterator[None]:
    """Hold a file as long as it lasts; PLAIT-HOST-004 in these words if another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaitError("PLAIT-HOST-004", what, where=str(path), fix=(fix,)) from None
        yield
    finally:
        os.close(fd)


def set_up_logs() -> None:
    """One line an event on standard error, for the journal or the supervisor's file."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.ExceptionRenderer(),
            structlog.processors.LogfmtRenderer(
                key_order=("timestamp", "level", "event"), bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="timestamp=%(asctime)s level=%(levelname)s event=%(name)s message=%(message)r",
    )


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a daemon on uvloop until SIGTERM or SIGINT sets the event that `main` is given."""
    import uvloop

    die_with_supervisor(os.environ)
    set_up_logs()
    # Sockets and files of a daemon are root's until their owner says otherwise.
    os.umask(0o077)
    gc.set_threshold(YOUNG)

    async def guarded() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await main(stop)
        finally:
            notify("STOPPING=1", os.environ)

    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(guarded())
