"""Tokens and certificates of an `Access`, read anew when their files change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plait.client.reasons import reason
from plait.kubernetes.kubeconfig import Access
from plait.model.errors import PlaitError


class Credentials:
    """See the module's docstring. PLAIT-KUBE-001 for what cannot be read."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._files = [
            each
            for each in (access.authority, access.certificate, access.private_key)
            if isinstance(each, Path)
        ]
        self._context: ssl.SSLContext | None = None
        self._context_stamp: tuple[object, ...] = ()
        self._token = access.token
        self._token_stamp: tuple[object, ...] = ()

    def token(self) -> str:
        """The bearer token, or empty."""
        path = self._access.token_file
        if path is not None:
            stamp = _stamp((path,))
            if stamp != self._token_stamp:
                try:
                    self._token = path.read_text().strip()
                except OSError as error:
                    raise self._unreadable(path, error) from None
                self._token_stamp = stamp
        return self._token

    def tls(self) -> dict[str, Any]:
        """Arguments of a request."""
        if not self._access.server.startswith("https:"):
            return {}
        stamp = _stamp(self._files)
        if self._context is None or stamp != self._context_stamp:
            self._context, self._context_stamp = self._load(), stamp
        arguments: dict[str, Any] = {"ssl": self._context}
        if self._access.server_name:
            arguments["server_hostname"] = self._access.server_name
        return arguments

    def _load(self) -> ssl.SSLContext:
        access = self._access
        try:
            if isinstance(access.authority, bytes):
                context = ssl.create_default_context(cadata=access.authority.decode("ascii"))
            else:
                context = ssl.create_default_context(cafile=access.authority)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if access.certificate is not None and access.private_key is not None:
                with _File(access.certificate) as certificate, _File(access.private_key) as key:
                    context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            bad = next((file for file in self._files if not os.access(file, os.R_OK)), None)
            raise self._unreadable(bad or access.source, error) from None
        return context

    def _unreadable(self, where: object, error: Exception) -> PlaitError:
        # Of a file, not of a connection: `reason` would say that nothing listens there.
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            why = error.strerror or str(error)
        else:
            why = reason(error)
        return PlaitError(
            "PLAIT-KUBE-001",
            "the credentials for Kubernetes cannot be read",
            where=str(where),
            why=why,
            fix=(f"kubectl config view --kubeconfig {self._access.source}",),
        )


class _File:
    """A file's name for what may be in memory only: ssl takes nothing else."""

    def __init__(self, content: bytes | Path) -> None:
        self._content = content
        self._fd = -1

    def __enter__(self) -> str:
        if isinstance(self._content, Path):
            return str(self._content)
        self._fd = os.memfd_create("plait", os.MFD_CLOEXEC)
        os.write(self._fd, self._content)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *details: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _stamp(files: Sequence[Path]) -> tuple[object, ...]:
    """Changes when a file does; a missing one counts as it is."""
    found: list[object] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)
