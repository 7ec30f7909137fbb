"""Who is asking: from a connection and its headers to an `Actor`.

Nothing is anonymous but the routes that say so. A unix socket vouches for the peer's uid, a
client certificate for a node, a bearer token for its role.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from plait.model.errors import PlaitError
from plait.model.syntax import shown
from plait.server.authorize import Actor
from plait.server.ca import parse_node_uri
from plait.server.clock import Clock
from plait.server.tokens import Trust, node_key, own_enrolment
from plait.wire.api import NODE_SCHEME, split_token

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


class Transport(Protocol):
    """What is asked of a connection."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""


def unauthenticated(why: str, *fix: str) -> PlaitError:
    """PLAIT-AUTH-001."""
    return PlaitError(
        "PLAIT-AUTH-001", "the request names nobody who is known", why=why, fix=tuple(fix)
    )


def unknown_node(why: str) -> PlaitError:
    """PLAIT-AUTH-007: the node's agent then silences its endpoints, for others may have their
    addresses."""
    return PlaitError(
        "PLAIT-AUTH-007",
        "the server does not know this node any more",
        why=why,
        fix=("plait join SERVER --token TOKEN", "plait down --purge"),
    )


class Authenticator:
    """Turns credentials into actors."""

    def __init__(self, trust: Trust, clock: Clock, allowed_uids: frozenset[int]) -> None:
        self._trust = trust
        self._clock = clock
        self._allowed_uids = allowed_uids

    def identify(self, transport: Transport | None, headers: Mapping[str, str]) -> Actor:
        """The actor, or `PlaitError` of the AUTH group."""
        if transport is None:
            raise unauthenticated("the connection is gone")
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            return self._peer(sock)
        header = headers.get("Authorization")
        if header is not None:
            return self._bearer(header)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            return self._certificate(certificate)
        raise unauthenticated(
            "neither a client certificate nor a token was shown",
            "run the command as root on a host with a server",
            "plait token create --role admin",
        )

    def fence(self, actor: Actor) -> tuple[str, ...]:
        """A node's writes hold only as long as its identity stands."""
        return (node_key(actor.name),) if actor.role == "node" else ()

    def _peer(self, sock: socket.socket) -> Actor:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid not in self._allowed_uids:
            raise PlaitError(
                "PLAIT-AUTH-002",
                f"uid {uid} may not use the server's socket",
                fix=("run the command as root",),
            )
        return Actor("admin", f"uid:{uid}")

    def _bearer(self, header: str) -> Actor:
        scheme, _, value = header.partition(" ")
        if scheme.lower() == NODE_SCHEME.lower():
            return self._node(value)
        if scheme.lower() != "bearer":
            raise unauthenticated("the only scheme is Bearer (RFC 6750)")
        try:
            _, ident, secret = split_token(value)
        except ValueError as error:
            raise PlaitError(
                "PLAIT-AUTH-003",
                "that is no token",
                why=str(error),
                fix=("plait token create",),
            ) from None
        record = self._trust.check_token(ident, secret)
        return Actor(record.role, record.id, expires=record.expires)

    def _node(self, value: str) -> Actor:
        """A node that was off for longer than its certificate lives."""
        name, _, rest = value.partition(".")
        uid, _, secret = rest.partition(".")
        if not self._trust.is_node(name, uid, secret):
            # The same words whether the name, the uid or the secret is another.
            raise unknown_node(f"no node {shown(name)} of that uid and secret is enrolled")
        return Actor("join", own_enrolment(name))

    def _certificate(self, certificate: Mapping[str, Any]) -> Actor:
        # ssl has verified the chain and the dates at the handshake; a connection may outlive
        # the certificate, and a node its enrolment.
        from ssl import cert_time_to_seconds

        names = cast("Sequence[tuple[str, str]]", certificate.get("subjectAltName", ()))
        found = [parse_node_uri(value) for kind, value in names if kind == "URI"]
        if len(found) != 1 or found[0] is None:
            raise unauthenticated("the client certificate is not a node's")
        name, uid = found[0]
        expires = float(cert_time_to_seconds(certificate["notAfter"]))
        if expires < self._clock.now():
            raise unauthenticated(f"the certificate of node {name} has expired")
        record = self._trust.node(name)
        if record is None or record.uid != uid:
            raise unknown_node(f"the node {name} was forgotten, or enrolled anew")
        return Actor("node", name, uid, expires)
