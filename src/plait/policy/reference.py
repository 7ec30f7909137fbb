"""How a command names one side of a flow: `web`, `shop/app=web`, `ns:shop`, `10.0.0.0/8`, `world`.

web, shop/web            the endpoints of that name or alias
app=web, shop/app=web    the endpoints with these labels (several: `app=web,tier=front`)
*/app=web                in every namespace
ns:shop                  every endpoint of a namespace
group:office network:db node:host1
10.0.0.0/8, 192.0.2.7    addresses, those of endpoints too
domain:example.com, *.example.com    names outside the network, as receivers only
world                    everything outside the network
anyone                   every endpoint and everything outside
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from hashlib import blake2s
from typing import Final, Literal, NamedTuple

from plait.model.errors import PlaitError
from plait.model.policies import Peer, Subject
from plait.model.selectors import (
    ENDPOINT_NAME,
    ENDPOINT_NODE,
    NAMESPACE_NAME,
    Requirement,
    Selector,
)

RESERVED: Final = frozenset({"from", "to", "world", "anyone", "everywhere"})
"""Words of policies' names; a name that is one of them is written with a hash."""

Kind = Literal[
    "endpoints", "namespace", "group", "network", "node", "cidr", "domain", "world", "anyone"
]
PREFIXES: Final[dict[str, Kind]] = {
    "ns": "namespace",
    "namespace": "namespace",
    "group": "group",
    "network": "network",
    "node": "node",
    "domain": "domain",
}

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_CIDR_LIKE: Final = re.compile(r"[0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*/\d+", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9_]([-a-z0-9_.]{0,251}[a-z0-9_])?", re.ASCII)
_KEY: Final = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)
_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_DOMAIN: Final = re.compile(r"(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}")


class Reference(NamedTuple):
    """One side of a flow, as somebody named it."""

    kind: Kind
    name: str = ""
    """Of the object; or the endpoint's name, empty when it is meant by labels."""
    namespace: str = ""
    """Of endpoints; `*` is every one."""
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def is_subject(self) -> bool:
        """Whether a policy can rule it: endpoints only."""
        return self.kind in {"endpoints", "namespace"}

    def __str__(self) -> str:
        """As it is typed, so that it reads the same in every namespace."""
        match self.kind:
            case "endpoints":
                labels = ",".join(f"{key}={value}" for key, value in self.labels)
                return f"{self.namespace}/{self.name or labels}"
            case "namespace":
                return f"ns:{self.name}"
            case "cidr" | "world" | "anyone":
                return self.name or self.kind
            case _:
                return f"{self.kind}:{self.name}"


def parse(text: str, namespace: str) -> Reference:
    """The side that a text names; `namespace` is that of names without one.

    PLAIT-CLI-001 says what may be written instead.
    """
    if text in {"world", "anyone"}:
        return Reference("world" if text == "world" else "anyone")
    prefix, colon, rest = text.partition(":")
    if colon and prefix in PREFIXES:
        return _named(PREFIXES[prefix], rest, text)
    if _is_address(text):
        return _cidr(text)
    if text.startswith("*.") and "/" not in text:
        return _named("domain", text, text)
    return _endpoints(text, namespace)


def _named(kind: Kind, name: str, text: str) -> Reference:
    if kind == "domain":
        name = name.lower().rstrip(".")
        good = _DOMAIN.fullmatch(name) is not None
    else:
        good = _LABEL.fullmatch(name) is not None
    if not good:
        raise unclear(text, f"`{name}` is no name of a {kind}")
    return Reference(kind, name)


def _is_address(text: str) -> bool:
    return _parsed(text) is not None


def _parsed(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _cidr(text: str) -> Reference:
    parsed = _parsed(text)
    assert parsed is not None
    if "/" in text and "%" not in text and ipaddress.ip_interface(text).ip != parsed[0]:
        raise PlaitError(
            "PLAIT-CLI-001",
            f"`{text}` has bits set beyond its prefix length",
            fix=(f"write {parsed} or {ipaddress.ip_interface(text).ip}",),
        )
    if "%" in text:
        raise unclear(text, "an address has no zone here")
    return Reference("cidr", str(parsed))


def _endpoints(text: str, namespace: str) -> Reference:
    head, slash, tail = text.partition("/")
    # Labels' prefixes are DNS names, `app.kubernetes.io/name`; a namespace has no dot.
    if slash and "." not in head and "=" not in head:
        namespace, rest = head, tail
    else:
        rest = text
    if _CIDR_LIKE.fullmatch(text):
        raise unclear(text, f"`{text}` is no CIDR")
    if namespace != "*" and _LABEL.fullmatch(namespace) is None:
        raise unclear(text, f"`{namespace}` is no name of a namespace")
    if "=" in rest:
        return Reference("endpoints", "", namespace, _labels(rest, text))
    if _NAME.fullmatch(rest) is None:
        raise unclear(text, f"`{rest}` is no name of an endpoint")
    return Reference("endpoints", rest, namespace)


def _labels(text: str, whole: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise unclear(whole, f"`{pair}` is not of the form KEY=VALUE")
        if found.setdefault(key, value) != value:
            raise unclear(whole, f"`{key}` cannot have two values at once")
    return tuple(sorted(found.items()))


def unclear(text: str, why: str) -> PlaitError:
    """PLAIT-CLI-001: what was typed names no side of a flow."""
    return PlaitError(
        "PLAIT-CLI-001",
        f"`{text}` names nobody",
        why=f"{why}; write web, shop/web, app=web, ns:shop, group:office, 10.0.0.0/8, "
        "domain:example.com, world or anyone",
    )


def namespace_selector(name: str) -> Selector:
    """Selects the namespace of that name; `*` all."""
    return Selector() if name == "*" else Selector(match_labels={NAMESPACE_NAME: name})


def name_selector(name: str) -> Selector:
    """Selects endpoints by name or alias."""
    exists = Requirement(key=f"{ENDPOINT_NAME}{name}", operator="Exists")
    return Selector(match_expressions=(exists,))


def _selector(reference: Reference) -> Selector:
    if reference.name:
        return name_selector(reference.name)
    return Selector(match_labels=dict(reference.labels))


def subject(reference: Reference) -> Subject:
    """The endpoints that it names; it must be a subject."""
    assert reference.is_subject, reference
    if reference.kind == "namespace":
        return Subject(namespaces=namespace_selector(reference.name))
    return Subject(
        namespaces=namespace_selector(reference.namespace), endpoints=_selector(reference)
    )


def peers(reference: Reference, pools: Iterable[str] = ()) -> tuple[Peer, ...] | None:
    """What a rule says of it; None is anyone. `pools` are what `world` leaves out."""
    match reference.kind:
        case "anyone":
            return None
        case "world":
            return _world(pools)
        case "cidr":
            return (Peer(cidr=reference.name),)
        case "domain":
            return (Peer(domains=(reference.name,)),)
        case "group":
            return (Peer(group=reference.name),)
        case "network":
            return (Peer(network=reference.name),)
        case "node":
            return (Peer(nodes=Selector(match_labels={ENDPOINT_NODE: reference.name})),)
        case "namespace":
            return (Peer(namespaces=namespace_selector(reference.name)),)
        case "endpoints":
            return (
                Peer(
                    namespaces=namespace_selector(reference.namespace),
                    endpoints=_selector(reference),
                ),
            )


def _world(pools: Iterable[str]) -> tuple[Peer, ...]:
    """Everything but the pools, which are merged so that the list stays short."""
    parsed = [ipaddress.ip_network(pool) for pool in pools]
    four = ipaddress.collapse_addresses(p for p in parsed if p.version == 4)
    six = ipaddress.collapse_addresses(p for p in parsed if p.version == 6)
    return (
        Peer(cidr="0.0.0.0/0", excepted=tuple(map(str, four))),
        Peer(cidr="::/0", excepted=tuple(map(str, six))),
    )


def slug(reference: Reference) -> str:
    """Its part of a policy's name: telling, stable, and the same for no other reference.

    `shop.web` is an endpoint, `shop` a namespace; whatever cannot be written so plainly ends
    with a hash.
    """
    if reference.kind in {"world", "anyone"}:
        return reference.kind
    parts = (
        (reference.namespace, reference.name)
        if reference.kind == "endpoints"
        else (reference.name,)
    )
    plain = reference.is_subject and all(
        _LABEL.fullmatch(part) and part not in RESERVED for part in parts
    )
    if plain:
        return ".".join(parts)
    text = str(reference)
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    digest = blake2s(text.encode(), digest_size=4).hexdigest()
    return f"{readable}-{digest}" if readable else digest
