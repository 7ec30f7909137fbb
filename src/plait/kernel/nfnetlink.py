"""The socket to netfilter: requests, dumps, batches and notifications.

Synchronous: the kernel answers before `send` returns, so nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence

from plait.model.errors import PlaitError
from plait.wire import nfnetlink as nl

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_RECEIVE = 1 << 16
"""Bytes; the kernel never makes a dump's datagram longer than 32 KiB."""
_RCVBUF = 8 << 20
_DUMP_TRIES = 8


class NetfilterError(OSError):
    """The kernel refused a request: its errno and, where given, its own words."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(number, os.strerror(number) + (f": {text}" if text else ""))


class NfnetlinkSocket:
    """One NETLINK_NETFILTER socket of the namespace in which it was opened."""

    def __init__(
        self,
        groups: Sequence[int] = (),
        *,
        sock: socket.socket | None = None,
        buffer: int = _RCVBUF,
    ) -> None:
        """`groups` are multicast groups to join, `buffer` the bytes that may wait to be read."""
        self._sock = sock or _open()
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
            with contextlib.suppress(OSError):
                self._sock.setsockopt(_SOL_NETLINK, option, 1)
        for group in groups:
            self._sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        self._sock.setblocking(False)
        self._seq = 0

    @property
    def port(self) -> int:
        """Netlink port: identifies this socket as the owner of a table."""
        port: int = self._sock.getsockname()[0]
        return port

    def fileno(self) -> int:
        """For an event loop, or to be handed to a keeper."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close; a table of ours that persists becomes an orphan."""
        self._sock.close()

    def transact(self, requests: Sequence[nl.Request], subsystem: int) -> dict[int, nl.Reply]:
        """All requests or none, in one transaction of the kernel.

        Returns the refusals by index of the request, empty when it was committed; -1 stands for
        the transaction as a whole.
        """
        if not requests:
            return {}
        seq = self._next(len(requests) + 2)
        self._send(nl.batch(requests, seq, subsystem))
        refused: dict[int, nl.Reply] = {}
        acknowledged = False
        for msg in self._drain():
            if msg.kind != nl.NLMSG_ERROR or not seq <= msg.seq < seq + len(requests) + 2:
                continue
            reply = nl.reply(msg)
            index = reply.seq - seq - 1
            if reply.errno:
                refused[index if 0 <= index < len(requests) else -1] = reply
            else:
                acknowledged = True
        if not refused and not acknowledged:
            refused[-1] = nl.Reply(seq, errno.ENOBUFS, "the answer was lost")
        return refused

    def call(
        self, kind: int, body: bytes, *, flags: int = 0, family: int = 0, res: int = 0
    ) -> list[nl.Message]:
        """One request and its answers. Raises NetfilterError when it is refused."""
        seq = self._next()
        self._send(nl.message(kind, flags | nl.F_ACK, seq, body, family=family, res=res))
        answers = []
        for msg in self._drain():
            if msg.seq != seq:
                continue
            if msg.kind == nl.NLMSG_ERROR:
                reply = nl.reply(msg)
                if reply.errno:
                    raise NetfilterError(reply.errno, reply.text)
            else:
                answers.append(msg)
        return answers

    def dump(
        self, kind: int, body: bytes, *, family: int = 0, torn: bool = False
    ) -> list[nl.Message]:
        """All objects that match, as one consistent picture; `torn`: of what packets change there
        is none, so a change of something else does not matter.

        Repeats a dump that was overtaken by a change; raises NetfilterError (EAGAIN) when that
        happens again and again, and whatever the kernel refuses with.
        """
        for _ in range(_DUMP_TRIES):
            found = self._dump(kind, body, family, torn)
            if found is not None:
                return found
        raise NetfilterError(errno.EAGAIN, "the ruleset changes faster than it can be read")

    def _dump(self, kind: int, body: bytes, family: int, as_is: bool) -> list[nl.Message] | None:
        seq = self._next()
        self._send(nl.message(kind, nl.F_DUMP, seq, body, family=family))
        found: list[nl.Message] = []
        torn = False
        for msg in self._drain():
            if msg.seq != seq:
                continue
            torn = torn or bool(msg.flags & nl.F_DUMP_INTR)
            if msg.kind == nl.NLMSG_DONE:
                return found if as_is or not torn else None
            if msg.kind == nl.NLMSG_ERROR:
                reply = nl.reply(msg)
                if reply.errno == errno.EINTR:
                    return None
                raise NetfilterError(reply.errno, reply.text)
            found.append(msg)
        return None

    def notifications(self) -> Iterator[nl.Message]:
        """What arrived from the groups; raises OSError (ENOBUFS) when some were lost."""
        return self._drain()

    def receive(self) -> bytes:
        """One datagram, empty when none waits; raises OSError (ENOBUFS) when some were lost."""
        try:
            return self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return b""

    def _drain(self) -> Iterator[nl.Message]:
        while True:
            try:
                data = self._sock.recv(_RECEIVE)
            except BlockingIOError:
                return
            yield from nl.messages(data)

    def _send(self, data: bytes) -> None:
        # A batch is one datagram, and the socket's buffer must hold it.
        if len(data) > self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
        # Answers that nobody read would be taken for those of this request.
        with contextlib.suppress(OSError):
            for _ in self._drain():
                pass
        self._sock.sendto(data, (0, 0))

    def _next(self, count: int = 1) -> int:
        seq = self._seq + 1
        # Sequence numbers are 32-bit; starting anew is harmless, for nothing is in flight.
        self._seq = (seq + count) if seq + count < 1 << 31 else 0
        return seq


def _open() -> socket.socket:
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nl.NETLINK_NETFILTER
        )
        sock.bind((0, 0))
    except OSError as error:
        raise PlaitError(
            "PLAIT-KERNEL-002",
            "the kernel offers no netfilter netlink socket",
            why=str(error),
            fix=("modprobe nfnetlink nf_tables",),
        ) from None
    return sock
