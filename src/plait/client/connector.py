"""Asks the connector to Kubernetes of this host how it is."""

from __future__ import annotations

import http.client
from pathlib import Path

import msgspec

from plait.client.reasons import reason
from plait.client.unix_http import UnixConnection
from plait.model.errors import PlaitError
from plait.wire.connector import Report

_decode = msgspec.json.Decoder(Report).decode


def ask(path: Path, *, timeout: float = 5.0) -> Report:
    """Its report; PLAIT-HOST-005 when none answers at this socket within `timeout` seconds."""
    connection = UnixConnection(str(path), timeout)
    try:
        connection.request("GET", "/status")
        return _decode(connection.getresponse().read())
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise PlaitError(
            "PLAIT-HOST-005",
            "no connector to Kubernetes answers on this host",
            where=str(path),
            why=reason(error),
            fix=(
                "plait kubernetes install",
                "kubectl -n plait-system get lease plait-connector   # where it runs as a pod",
            ),
        ) from None
    finally:
        connection.close()
