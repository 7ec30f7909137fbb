"""What a client of the server shows of itself: a token, certificates; files of them are read anew
when they change."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Any

from plait.model.errors import PlaitError
from plait.wire import api as wire


class Token:
    """A token, read anew when its file changes; while nothing can be read there, for it is just
    being written, the last one counts."""

    def __init__(self, token: str, file: str | Path | None, scheme: str) -> None:
        self._token = token
        self._file = None if file is None else Path(file)
        self._scheme = scheme
        self._stamp: tuple[int, int] = (0, 0)

    def headers(self) -> dict[str, str]:
        """Of a request."""
        if self._file is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                status = self._file.stat()
                stamp = (status.st_mtime_ns, status.st_ino)
                if stamp != self._stamp and (found := self._file.read_text().strip()):
                    self._token, self._stamp = found, stamp
        if not self._token:
            return {}
        return {"Authorization": f"{self._scheme} {self._token.strip()}"}


class Tls:
    """TLS settings, read anew when the files change."""

    def __init__(
        self,
        ca_file: str | Path | None,
        cert_file: str | Path | None,
        key_file: str | Path | None,
    ) -> None:
        self._ca = ca_file
        self._cert = cert_file
        self._key = key_file
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[int, int] = (0, 0)

    def arguments(self, unix: str | None) -> dict[str, Any]:
        """Arguments of a request."""
        if unix is not None or not (self._ca or self._cert):
            return {}
        stamp = self._read_stamp()
        if self._context is None or stamp != self._stamp:
            self._context, self._stamp = self._load(), stamp
        arguments: dict[str, Any] = {"ssl": self._context}
        if self._ca:
            arguments["server_hostname"] = wire.SERVER_NAME
        return arguments

    def _read_stamp(self) -> tuple[int, int]:
        if self._cert is None:
            return (0, 0)
        try:
            status = Path(self._cert).stat()
        except OSError:
            return self._stamp
        return status.st_mtime_ns, status.st_ino

    def _load(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            if self._cert is not None:
                context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            raise PlaitError(
                "PLAIT-AUTH-001",
                "the certificates of this node cannot be read",
                where=str(self._cert or self._ca),
                why=str(error),
                fix=("plait join SERVER --token TOKEN",),
            ) from None
        return context
