"""A unix socket of root's for what only a running daemon can do: one JSON line in, one out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from plait.model.errors import PlaitError, Problem

MAX_LINE: Final = 65536
READ_TIMEOUT: Final = 5.0

Verb = Callable[[dict[str, Any]], Awaitable[None]]


async def serve(path: Path, verbs: Mapping[str, Verb]) -> asyncio.Server:
    """Listen; the socket has mode 0600 from its first moment."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply: bytes = b"{}"
        try:
            line = await asyncio.wait_for(reader.readline(), READ_TIMEOUT)
            request = json.loads(line)
            await verbs[request["verb"]](request)
        except PlaitError as error:
            reply = msgspec.json.encode(error.problem())
        except (ValueError, KeyError, TypeError, TimeoutError, RecursionError):
            reply = msgspec.json.encode(PlaitError("PLAIT-API-001", "not a request").problem())
        except OSError as error:
            reply = msgspec.json.encode(PlaitError("PLAIT-CLI-002", str(error)).problem())
        with contextlib.suppress(OSError):
            writer.write(reply + b"\n")
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, sock=private_socket(path), limit=MAX_LINE)


def private_socket(path: Path) -> socket.socket:
    """A bound socket of mode 0600 in place of whatever was there; nobody connects before."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    return listener


def ask(path: Path, request: Mapping[str, str], timeout: float) -> bool:
    """Have a verb done; False when nobody listens. Raises the daemon's refusal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout)
        try:
            link.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        link.sendall(json.dumps(dict(request)).encode() + b"\n")
        with link.makefile("rb") as stream:
            line = stream.readline()
    if line.strip() != b"{}":
        raise PlaitError.from_problem(msgspec.json.decode(line, type=Problem))
    return True
