"""HTTP/1.1 over a unix socket with the standard library alone, for commands that must start at
once."""

from __future__ import annotations

import http.client
import socket


class UnixConnection(http.client.HTTPConnection):
    """A connection to a socket; `timeout` in seconds, for each wait."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("plait", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """See HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
