"""What an API server says when it does not do what it was asked, as errors of ours. Pure.

Kubernetes' own form is `Status` of meta/v1; what stands between (a proxy, a load balancer) answers
in any form.
"""

from __future__ import annotations

from typing import Final

import msgspec

from plait.model.errors import PlaitError

SHOWN: Final = 300
"""Characters of a server's words that are shown."""
LONGEST_WAIT: Final = 300.0
"""Seconds of a Retry-After that are obeyed at most."""

_CODES: Final = {
    400: "PLAIT-KUBE-010",
    401: "PLAIT-KUBE-003",
    403: "PLAIT-KUBE-004",
    404: "PLAIT-KUBE-005",
    409: "PLAIT-KUBE-006",
    410: "PLAIT-KUBE-007",
    413: "PLAIT-KUBE-010",
    415: "PLAIT-KUBE-010",
    422: "PLAIT-KUBE-010",
    429: "PLAIT-KUBE-008",
}
_FAILED: Final = "PLAIT-KUBE-009"
_FIXES: Final[dict[str, tuple[str, ...]]] = {
    "PLAIT-KUBE-003": ("kubectl auth can-i --list   # with the same kubeconfig",),
    "PLAIT-KUBE-004": ("kubectl apply -k deploy/kubernetes",),
    "PLAIT-KUBE-009": ("kubectl get --raw /readyz?verbose",),
}


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """Of a `Status`."""

    retry_after_seconds: float = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """meta/v1 Status, as far as it is used."""

    status: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


_decode: Final = msgspec.json.Decoder(Status).decode


class KubernetesError(PlaitError):
    """A refusal of an API server."""

    def __init__(
        self, http_status: int, what: str, status: Status, *, retry_after: float | None = None
    ) -> None:
        code = _CODES.get(http_status, _FAILED)
        said = status.message[:SHOWN] or status.reason
        super().__init__(
            code,
            f"the API server answered {http_status} to {what}",
            where=what,
            why=said,
            fix=_FIXES.get(code, ()),
        )
        self.http_status = http_status
        self.reason = status.reason
        """Kubernetes' word for it (meta/v1 StatusReason), or empty."""
        self.retry_after = retry_after
        """Seconds for which the server wants to be left alone; None: it did not say."""


def refusal(http_status: int, what: str, body: bytes, retry_after: str = "") -> KubernetesError:
    """The error of an answer; `retry_after` is the header of RFC 9110 in its form of seconds."""
    try:
        status = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        status = Status(message=body[:SHOWN].decode("utf-8", "replace").strip())
    return of_status(status, what, http_status=http_status, retry_after=retry_after)


def of_status(
    status: Status, what: str, *, http_status: int = 0, retry_after: str = ""
) -> KubernetesError:
    """The error of a `Status`, e.g. of one within a watch."""
    wait: float | None = None
    if retry_after.isascii() and retry_after.isdecimal():
        wait = float(retry_after[:9])
    elif status.details is not None and status.details.retry_after_seconds > 0:
        wait = status.details.retry_after_seconds
    bounded = None if wait is None else min(wait, LONGEST_WAIT)
    return KubernetesError(http_status or status.code or 500, what, status, retry_after=bounded)


def misunderstood(what: str, error: Exception | str) -> PlaitError:
    """The error of an answer that is not what was asked for."""
    return PlaitError(
        "PLAIT-KUBE-011",
        f"the answer to {what} is not understood",
        where=what,
        why=str(error)[:SHOWN],
        fix=("kubectl version",),
    )
