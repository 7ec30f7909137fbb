"""Sets that policies bring: their names, their types, and the keys of their elements.

p-s…-4   addresses that rules name as peers     p-n…-4   ports of endpoints that have a name
p-d…-4   addresses of domains; the resolver's hook fills them, and each element has its end
p-v…     constants of rules: ports, or ranges of addresses; named by what is in them
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from plait.agent.desired.filter_sets import FAMILIES, POLICY_PREFIX, SETS
from plait.model.ruleset import Socket
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft import Set

Family = Literal[4, 6]

_IDENT: Final = re.compile(r"[a-z0-9]{1,16}")
_ADDRESSES: Final = "s"
_SOCKETS: Final = "n"
_DOMAINS: Final = "d"
_CONSTANT: Final = "v"
_NAME: Final = re.compile(
    rf"{POLICY_PREFIX}([{_ADDRESSES}{_SOCKETS}{_DOMAINS}])-([a-z0-9]+)-([46])"
)


class Constant(NamedTuple):
    """A set whose elements never change."""

    set: Set
    keys: tuple[bytes, ...]


def opaque(ident: str) -> str:
    """The id itself; ValueError for one that is not opaque: no user's text may come this far."""
    if not _IDENT.fullmatch(ident):
        raise ValueError(f"not an opaque id: {ident!r}")
    return ident


@lru_cache(maxsize=8192)
def _named(kind: str, ident: str, family: Family) -> Set:
    name = f"{POLICY_PREFIX}{kind}-{opaque(ident)}-{family}"
    address = k.ADDRESS[family]
    if kind == _SOCKETS:
        return Set(name, (address, k.PROTO, k.SERVICE))
    return Set(name, (address,), timeout=kind == _DOMAINS)


def address_set(ident: str, family: Family) -> Set:
    """Of a set of `Ruleset.sets`."""
    return _named(_ADDRESSES, ident, family)


def socket_set(ident: str, family: Family) -> Set:
    """Of a set of `Ruleset.sockets`."""
    return _named(_SOCKETS, ident, family)


def domain_set(ident: str, family: Family) -> Set:
    """Of a set of `Ruleset.domains`."""
    return _named(_DOMAINS, ident, family)


def declared(name: str) -> Set | None:
    """What a set of this name is, wherever the name says it; None for constants and strangers."""
    if name in SETS:
        return SETS[name]
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind, family = found[1], 4 if found[3] == "4" else 6
    address = k.ADDRESS[family]
    if kind == _SOCKETS:
        return Set(name, (address, k.PROTO, k.SERVICE))
    return Set(name, (address,), timeout=kind == _DOMAINS)


def ident_of(name: str) -> str:
    """The id in a ruleset of the set of this name; empty for one that is always there."""
    found = _NAME.fullmatch(name)
    return found[2] if found else ""


def is_policy(name: str) -> bool:
    """Whether policies brought the set."""
    return name.startswith(POLICY_PREFIX)


def constant(key: tuple[k.Type, ...], keys: Iterable[bytes], *, interval: bool) -> Constant:
    """The constant with these elements; one that holds the same is the same."""
    elements = tuple(sorted(set(keys)))
    digest = hashlib.blake2s(digest_size=8)
    digest.update(repr(([t.name for t in key], interval)).encode())
    for element in elements:
        digest.update(element)
    name = f"{POLICY_PREFIX}{_CONSTANT}-{digest.hexdigest()}"
    return Constant(Set(name, key, interval=interval), elements)


# Keys


def packed(address: str) -> bytes:
    """A canonical address as the kernel has it."""
    if ":" in address:
        return ipaddress.IPv6Address(address).packed
    return bytes(map(int, address.split(".")))


def family_of(address: str) -> Family:
    """The family of a canonical address."""
    return 6 if ":" in address else 4


def socket_key(socket: Socket) -> bytes:
    """Key of an endpoint's port."""
    protocol = e.byte(e.PROTOCOLS[socket.protocol])
    return k.concat(packed(socket.address), protocol, e.port(socket.port))


def keys_by_family(addresses: Iterable[str]) -> dict[Family, set[bytes]]:
    """Keys of addresses."""
    found: dict[Family, set[bytes]] = {f: set() for f in FAMILIES}
    four, six = found[4], found[6]
    for address in addresses:
        if ":" in address:
            six.add(ipaddress.IPv6Address(address).packed)
        else:
            four.add(bytes(map(int, address.split("."))))
    return found


def socket_keys_by_family(sockets: Iterable[Socket]) -> dict[Family, set[bytes]]:
    """Keys of ports of endpoints."""
    found: dict[Family, set[bytes]] = {f: set() for f in FAMILIES}
    for socket in sockets:
        found[family_of(socket.address)].add(socket_key(socket))
    return found
