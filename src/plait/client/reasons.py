"""Why a server could not be reached, in words for people. Pure.

aiohttp's own texts show Python objects and repeat the address in brackets.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Final

import aiohttp

_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused: nothing listens there",
    errno.ENOENT: "nothing listens there: there is no such socket",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied: a packet filter of this host, perhaps",
    errno.ETIMEDOUT: "timed out: no answer from that address",
    errno.EHOSTUNREACH: "no route to that address, or the host is down",
    errno.ENETUNREACH: "this host has no route to that network",
    errno.ECONNRESET: "the connection was reset by the other side",
}


def reason(error: BaseException) -> str:
    """One clause without a full stop: `connection refused: nothing listens there`."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return reason(error.certificate_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):  # Its errno is OpenSSL's, none of errno(3).
        text = getattr(error, "reason", "") or str(error)
        return f"TLS failed: {text.replace('_', ' ').lower()}"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, socket.gaierror) or isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"the name {error.host} was not found"
        return _system(cause)
    if isinstance(error, TimeoutError):  # aiohttp's own are of this class, too.
        return _WORDS[errno.ETIMEDOUT]
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed without an answer"
    if isinstance(error, aiohttp.InvalidURL):
        return "that is no address of a server"
    if isinstance(error, OSError):
        return _system(error)
    return str(error) or type(error).__name__


def _system(error: OSError) -> str:
    """Words of an errno. Where several addresses were tried, the first one's counts."""
    if isinstance(error, ssl.SSLError):
        return reason(error)
    nested = getattr(error, "exceptions", ())
    code = error.errno or next((e.errno for e in nested if getattr(e, "errno", None)), None)
    if code is None:
        return next((words for text, words in _TEXTS.items() if text in str(error)), str(error))
    return _WORDS.get(code) or os.strerror(code)


_TEXTS: Final = {f"[Errno {code}]": words for code, words in _WORDS.items()}
