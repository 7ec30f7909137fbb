"""Payloads of the REST API other than the kinds: lists, batches, enrolment, tokens.

JSON with camelCase fields, as the kinds. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Final, Generic, Literal, TypeVar

import msgspec

from plait.model.objects import API_VERSION, AnyObject, Base, Object

T = TypeVar("T", bound=Object)

SERVER_NAME: Final = "server.plait.internal"
"""DNS name in the certificate of every server and of nothing else.

Clients verify this name and not the address that they dialled: a server is known by what the
authority says of it, and a node's certificate never carries the name.
"""
VERSION_HEADER: Final = "Plait-Version"
HISTORY_HEADER: Final = "Plait-History"
"""Response header of a watch: id of the store's history. It changes when a backup is restored,
and a revision of one history means nothing in another."""
EXPIRES_HEADER: Final = "Plait-Credential-Expires"
"""Response header of a watch: when what the client is known by ends, in seconds since 1970; not
there if it does not."""

NODE_SCHEME: Final = "Plait-Node"
"""Authorization scheme by which a node whose certificate has lapsed shows name, uid and secret:
`Plait-Node <name>.<uid>.<secret>`. It is good for enrolment under that name and nothing else."""

Role = Literal["join", "admin", "connector"]
"""What a token is good for: joining as a node; everything; reading everything and writing what an
orchestrator says (`plait kubernetes`)."""


class ListMeta(Base, frozen=True, kw_only=True):
    """Where a list stands."""

    revision: int = 0
    """Store revision at which this page was read."""
    continue_: str = msgspec.field(default="", name="continue")
    """Opaque; ask for the next page with it. Empty on the last page."""


class Listing(Base, Generic[T], frozen=True, kw_only=True):
    """A page of objects, in order of their keys."""

    kind: str
    metadata: ListMeta = ListMeta()
    items: tuple[T, ...] = ()
    # A factory, so that omit_defaults keeps the field on the wire.
    api_version: Literal["plait/v1"] = msgspec.field(default_factory=lambda: API_VERSION)


class BatchResult(Base, frozen=True, kw_only=True):
    """Outcome of a batch: the objects as stored, for a delete the last one known."""

    revision: int
    items: tuple[AnyObject, ...]


class EnrolRequest(Base, frozen=True, kw_only=True):
    """A node asks for its certificate."""

    name: str
    uid: str
    """Chosen by the node at its first enrolment, kept for ever."""
    secret: str
    """Chosen by the node at its first enrolment: later ones must show the same."""
    csr: str
    """PKCS #10, PEM. Its subject is ignored: the name above is what is signed."""


class RenewRequest(Base, frozen=True, kw_only=True):
    """A node asks for its next certificate."""

    csr: str


class Enrolled(Base, frozen=True, kw_only=True):
    """A signed certificate."""

    certificate: str
    """PEM."""
    authority: str
    """Certificate of the authority, PEM."""
    expires_at: str
    """RFC 3339."""


class TokenRequest(Base, frozen=True, kw_only=True):
    """Make a token."""

    role: Role = "join"
    ttl: float = 86400.0
    """Seconds until it expires; 60 to one year."""
    single_use: bool = False
    description: str = ""


class TokenInfo(Base, frozen=True, kw_only=True):
    """A token without its secret."""

    id: str
    role: Role
    created_at: str
    expires_at: str
    single_use: bool = False
    description: str = ""
    expired: bool = False
    in_use: bool = False
    """Somebody follows the server with it just now."""


class TokenCreated(Base, frozen=True, kw_only=True):
    """A new token; the only time that its secret is shown."""

    token: str
    info: TokenInfo


class TokenList(Base, frozen=True, kw_only=True):
    """All tokens."""

    items: tuple[TokenInfo, ...] = ()


class PoolUse(Base, frozen=True, kw_only=True):
    """A range that Plait uses, or may use, for containers."""

    cidr: str
    network: str = ""
    """Whose pool it is; empty for a pool of the cluster, out of which networks get theirs, or
    Services their addresses."""
    external_ipam: bool = False
    """Docker chose it, on one host or another, out of its own pools."""


class PoolList(Base, frozen=True, kw_only=True):
    """All of them: what a host that wants to join must not use for anything else."""

    items: tuple[PoolUse, ...] = ()


class Forgotten(Base, frozen=True, kw_only=True):
    """What was removed with a node."""

    node: str
    endpoints: int
    blocks: int
    loans: int


class VersionInfo(Base, frozen=True, kw_only=True):
    """The server."""

    version: str
    api: str = "v1"
    revision: int = 0


def token_text(ca_hash: str, ident: str, secret: str) -> str:
    """A token as people copy it: `plait1.<CA hash>.<id>.<secret>`."""
    return f"plait1.{ca_hash}.{ident}.{secret}"


def split_token(text: str) -> tuple[str, str, str]:
    """(CA hash, id, secret) of a token.

    The hash is 64 hex digits of the SHA-256 of the authority's certificate (DER), so that a
    joining node knows the server before it shows the secret. Raises ValueError for anything
    else, a short secret included: 16 hex digits of id, at least 43 letters of secret.
    """
    parts = text.strip().split(".")
    if len(parts) != 4 or parts[0] != "plait1":
        raise ValueError("it does not have the form plait1.<hash>.<id>.<secret>")
    _, ca_hash, ident, secret = parts
    if len(ca_hash) != 64 or not set(ca_hash) <= _HEX:
        raise ValueError("its second part is not a SHA-256 in hex")
    if len(ident) != 16 or not set(ident) <= _HEX:
        raise ValueError("its third part is not an id of 16 hex digits")
    if not 43 <= len(secret) <= 128 or not secret.isascii():
        raise ValueError("its secret is cut short")
    return ca_hash, ident, secret


_HEX = frozenset("0123456789abcdef")
