"""Tokens and node identities: the server's records of trust, stored beside the objects.

A secret is stored as its SHA-256 only; it has 256 random bits, so a slow hash adds nothing. A
token that is used once is removed in the same transaction that admits the node.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

import msgspec

from plait.model.errors import PlaitError
from plait.model.objects import Node, object_key
from plait.model.syntax import text
from plait.server.authorize import Actor, refuse
from plait.server.clock import Clock, rfc3339
from plait.server.mirror import Mirror
from plait.store.base import Compare, Delete, Put, Store
from plait.wire.api import (
    EnrolRequest,
    Role,
    TokenCreated,
    TokenInfo,
    TokenRequest,
    token_text,
)

TOKENS: Final = "/trust/tokens/"
NODES: Final = "/trust/nodes/"
MIN_TTL: Final = 60.0
MAX_TTL: Final = 366 * 86400.0
KEEP_EXPIRED: Final = 7 * 86400.0
"""Seconds that an expired token is remembered, so that its user is told what is wrong."""
MAX_TOKENS: Final = 1000


class TokenRecord(msgspec.Struct, frozen=True):
    """A token as stored."""

    id: str
    role: Role
    digest: str
    created: float
    expires: float
    single_use: bool = False
    description: str = ""

    def info(self, now: float) -> TokenInfo:
        """What may be shown of it."""
        return TokenInfo(
            id=self.id,
            role=self.role,
            created_at=rfc3339(self.created),
            expires_at=rfc3339(self.expires),
            single_use=self.single_use,
            description=self.description,
            expired=self.expires <= now,
        )


class NodeRecord(msgspec.Struct, frozen=True):
    """Who a node's name belongs to."""

    name: str
    uid: str
    digest: str


_OWN: Final = "node:"
_token = msgspec.json.Decoder(TokenRecord).decode
_node = msgspec.json.Decoder(NodeRecord).decode
_encode = msgspec.json.Encoder().encode


def node_key(name: str) -> str:
    """Store key of a node's identity."""
    return NODES + name


def own_enrolment(name: str) -> str:
    """Name of the actor that may enrol one node, by that node's own secret."""
    return _OWN + name


def digest(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Trust:
    """Reads the records from the mirror and writes them to the store."""

    def __init__(self, store: Store, mirror: Mirror, clock: Clock, ca_hash: str) -> None:
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._ca_hash = ca_hash

    # Tokens

    def tokens(self) -> tuple[TokenInfo, ...]:
        """All tokens, by their end."""
        now = self._clock.now()
        return tuple(record.info(now) for record in sorted(self._tokens(), key=lambda r: r.expires))

    def check_token(self, ident: str, secret: str) -> TokenRecord:
        """The token, or PLAIT-AUTH-003 (unknown, wrong) or PLAIT-AUTH-004 (expired)."""
        found = self._mirror.state.records.get(TOKENS + ident)
        record = None if found is None else _token(found[0])
        expected = record.digest if record else digest("")
        if not hmac.compare_digest(digest(secret), expected) or record is None:
            raise PlaitError(
                "PLAIT-AUTH-003",
                "the token is unknown or its secret is wrong",
                why="it may have been revoked, or used where it was good for one use",
                fix=("plait token create",),
            )
        if record.expires <= self._clock.now():
            raise PlaitError(
                "PLAIT-AUTH-004",
                f"the token {record.id} has expired",
                why=f"it was good until {rfc3339(record.expires)}",
                fix=("plait token create",),
            )
        return record

    async def create_token(self, request: TokenRequest) -> TokenCreated:
        """A new token; forgets those that expired long ago."""
        if not MIN_TTL <= request.ttl <= MAX_TTL:
            raise PlaitError(
                "PLAIT-API-002",
                f"a token lives {MIN_TTL:.0f} to {MAX_TTL:.0f} seconds, not {request.ttl:g}",
                where="ttl",
            )
        text(request.description, "description", 256)
        now = self._clock.now()
        known = list(self._tokens())
        old = [record for record in known if record.expires + KEEP_EXPIRED < now]
        if len(known) - len(old) >= MAX_TOKENS:
            raise PlaitError(
                "PLAIT-API-002",
                f"there are {MAX_TOKENS} tokens already",
                fix=("plait token ls", "plait token rm ID"),
            )
        ident, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        record = TokenRecord(
            ident,
            request.role,
            digest(secret),
            now,
            now + request.ttl,
            request.single_use,
            request.description,
        )
        ops: list[Put | Delete] = [Put(TOKENS + ident, _encode(record))]
        ops += [Delete(TOKENS + gone.id) for gone in old]
        done = await self._store.txn([Compare(TOKENS + ident, 0)], ops)
        await self._mirror.wait(done.revision)
        return TokenCreated(token=token_text(self._ca_hash, ident, secret), info=record.info(now))

    async def revoke_token(self, ident: str) -> None:
        """Remove a token; PLAIT-API-004 when there is none."""
        if TOKENS + ident not in self._mirror.state.records:
            raise PlaitError(
                "PLAIT-API-004", "there is no such token", where="tokens", fix=("plait token ls",)
            )
        done = await self._store.txn([], [Delete(TOKENS + ident)])
        await self._mirror.wait(done.revision)

    def _tokens(self) -> list[TokenRecord]:
        records = self._mirror.state.records
        return [_token(value) for key, (value, _) in records.items() if key.startswith(TOKENS)]

    # Nodes

    def node(self, name: str) -> NodeRecord | None:
        """Who a node's name belongs to."""
        found = self._mirror.state.records.get(node_key(name))
        return None if found is None else _node(found[0])

    def is_node(self, name: str, uid: str, secret: str) -> bool:
        """Whether these are the uid and the secret of the first enrolment under the name."""
        known = self.node(name)
        expected = known.digest if known else digest("")
        same = hmac.compare_digest(digest(secret), expected)
        return same and known is not None and known.uid == uid

    async def admit_node(self, actor: Actor, request: EnrolRequest) -> None:
        """Bind a name to a node, or check that it is this node's; uses the actor's token up.

        A known name needs the uid and the secret of its first enrolment, so that a stolen token
        does not take over a running host's name (k3s calls it the node password).
        """
        state = self._mirror.state
        if actor.name.startswith(_OWN) and actor.name != own_enrolment(request.name):
            raise refuse(actor, "enrol another node")
        key, token_key = node_key(request.name), TOKENS + actor.name
        token = state.records.get(token_key)  # None where no token was needed.
        known = self.node(request.name)
        if known is not None and not self.is_node(request.name, request.uid, request.secret):
            raise PlaitError(
                "PLAIT-AUTH-002",
                f"the name {request.name} belongs to another node",
                where=f"nodes/{request.name}",
                why="the uid or the secret is not the one of its first enrolment",
                fix=(
                    "plait join HOST --token TOKEN --name OTHER",
                    f"plait node forget {request.name}",
                ),
            )
        compares = [
            Compare(key, state.revision_of(key)),
            Compare(token_key, state.revision_of(token_key)),
        ]
        ops: list[Put | Delete] = (
            [Delete(token_key)] if token and _token(token[0]).single_use else []
        )
        if known is None:
            record = NodeRecord(request.name, request.uid, digest(request.secret))
            ops.append(Put(key, _encode(record)))
            # A Node left by an administrator or an older authority would carry another uid.
            stale = object_key(Node, request.name)
            entry = state.at(stale)
            compares.append(Compare(stale, entry.revision if entry else 0))
            if entry is not None and entry.object.metadata.uid != request.uid:
                raise PlaitError(
                    "PLAIT-AUTH-002",
                    f"a node {request.name} is known that is not this one",
                    where=f"nodes/{request.name}",
                    fix=(f"plait node forget {request.name}",),
                )
        done = await self._store.txn(compares, ops)
        await self._mirror.wait(done.revision)
        if not done.succeeded:
            raise PlaitError(
                "PLAIT-AUTH-003",
                "the token or the name was used by somebody else at the same time",
                fix=("plait token create",),
            )

    async def expel_node(self, name: str) -> None:
        """Take a node's identity away: from here on every request of it is refused."""
        done = await self._store.txn([], [Delete(node_key(name))])
        await self._mirror.wait(done.revision)
