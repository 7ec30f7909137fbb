"""Kubernetes' manifests as objects of ours. Pure.

`to_policy` takes NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy
(policy.networking.k8s.io/v1alpha2); `to_object` these and Namespace, Pod and Node of core v1.

The policies mean what their specifications say (`k8s.io/api/networking/v1/types.go`,
`sigs.k8s.io/network-policy-api/apis/v1alpha2`), and what an API server refuses is refused here,
with the path of the field: PLAIT-API-002, or PLAIT-NAME-001 for a name.

A NetworkPolicy `shop/web` becomes the Policy `knp.shop.web`, a ClusterNetworkPolicy `base` the
Policy `kcnp.base`. A field that this version does not know is refused, as `kubectl` does. Who
reads from an API server of a newer version says `strict=False`: then a rule with such a field
fails closed. One that accepts is left out; one that denies or passes denies everything of its
direction (v1alpha2, at ClusterNetworkPolicyEgressPeer).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.meta import Metadata
from plait.model.objects import AnyObject
from plait.model.policies import (
    MAX_PRIORITY,
    Action,
    Direction,
    Origin,
    Peer,
    Policy,
    PolicySpec,
    Port,
    Protocol,
    Rule,
    Subject,
    TierName,
)
from plait.model.selectors import NAMESPACE_NAME, Selector
from plait.model.syntax import Cidr, invalid, shown
from plait.policy import core_v1, validate
from plait.policy.fields import (
    UnknownField,
    chosen,
    integer,
    known,
    labels,
    mapping,
    one_of,
    required,
    selector,
    sequence,
    strings,
    text,
)

DEFAULT_NAMESPACE: Final = "default"

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation that holds the whole manifest once more."""
MAX_NAME: Final = 253
"""Of a policy: a DNS subdomain (RFC 1123)."""
MAX_ITEMS: Final = 25
"""Of any list of a ClusterNetworkPolicy."""
MAX_PORT_NAME: Final = 15
"""Of a NetworkPolicy's port (RFC 6335 section 5.1)."""

PREFIX: Final = {"NetworkPolicy": "knp", "ClusterNetworkPolicy": "kcnp"}
"""First part of the name of the Policy that an object of a kind becomes."""

_TOP: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_PROTOCOLS: Final[dict[str, Protocol]] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
_TYPES: Final[dict[str, Direction]] = {"Ingress": "ingress", "Egress": "egress"}
_PEERS: Final[dict[Direction, str]] = {"ingress": "from", "egress": "to"}
_TIERS: Final[dict[str, TierName]] = {"Admin": "admin", "Baseline": "baseline"}
_ACTIONS: Final[dict[str, Action]] = {"Accept": "Accept", "Deny": "Deny", "Pass": "Pass"}
_CLUSTER_PEERS: Final[dict[Direction, tuple[str, ...]]] = {
    "ingress": ("namespaces", "pods"),
    "egress": ("namespaces", "pods", "nodes", "networks", "domainNames"),
}


def policy_name(kind: str, name: str, namespace: str = "") -> str:
    """Name of the Policy that an object becomes; one too long ends in a hash of all of it."""
    name = ".".join((PREFIX[kind], *((namespace,) if namespace else ()), name))
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.blake2s(name.encode(), digest_size=8).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 1].rstrip('.-')}.{digest}"


def network_policy(data: Mapping[str, Any], *, strict: bool = True) -> Policy:
    """A NetworkPolicy: accepts, and closes its pods in the directions of its types."""
    top = _object(data, strict=strict)
    meta = mapping(top.get("metadata"), "metadata")
    namespace = _namespace(meta)
    name = _name(meta)
    fields = ("podSelector", "ingress", "egress", "policyTypes")
    spec = _known(top.get("spec"), "spec", fields, strict=strict)
    types = _types(spec)
    rules: dict[str, tuple[Rule, ...]] = {}
    for direction in types:
        at = f"spec.{direction}"
        rules[direction] = tuple(
            _rules(
                ((item, f"{at}[{i}]") for i, item in enumerate(sequence(spec.get(direction), at))),
                direction,
                namespace,
                strict=strict,
            )
        )
    return Policy(
        metadata=_metadata(meta, policy_name("NetworkPolicy", name, namespace)),
        spec=PolicySpec(
            tier="application",
            subject=Subject(
                namespaces=_in_namespace(namespace),
                endpoints=_selector(spec.get("podSelector"), "spec.podSelector"),
            ),
            isolate=types,
            origin=Origin(kind="NetworkPolicy", name=name, namespace=namespace),
            **cast(Any, rules),
        ),
    )


def _types(spec: Mapping[str, Any]) -> tuple[Direction, ...]:
    """The directions that it rules. Left out: ingress, and egress if there are egress rules, as
    the API server's defaulting has it."""
    at = "spec.policyTypes"
    given = [
        _TYPES[chosen(item, f"{at}[{i}]", tuple(_TYPES))]
        for i, item in enumerate(sequence(spec.get("policyTypes"), at))
    ]
    if len(given) > len(_TYPES):
        raise invalid(at, "there are more than two policyTypes")
    egress = bool(given) or bool(sequence(spec.get("egress"), "spec.egress"))
    found = given or (["ingress", "egress"] if egress else ["ingress"])
    return tuple(direction for direction in _PEERS if direction in found)


def _rules(
    items: Iterator[tuple[Any, str]], direction: Direction, namespace: str, *, strict: bool
) -> Iterator[Rule]:
    for item, at in items:
        try:
            yield _rule(item, direction, namespace, at)
        except UnknownField:
            if strict:
                raise


def _rule(value: Any, direction: Direction, namespace: str, where: str) -> Rule:
    side = _PEERS[direction]
    found = known(value, where, (side, "ports"))
    peers = sequence(found.get(side), f"{where}.{side}")
    ports = sequence(found.get("ports"), f"{where}.ports")
    # Here an empty list means anyone, and every port, as does none.
    return Rule(
        peers=tuple(_peer(item, namespace, f"{where}.{side}[{i}]") for i, item in enumerate(peers))
        or None,
        ports=tuple(_port(item, f"{where}.ports[{i}]") for i, item in enumerate(ports)) or None,
    )


def _peer(value: Any, namespace: str, where: str) -> Peer:
    found = known(value, where, ("podSelector", "namespaceSelector", "ipBlock"))
    present = {key: item for key, item in found.items() if item is not None}
    if not present:
        raise UnknownField(
            "PLAIT-API-002",
            "the peer says nothing of who it is",
            where=where,
            why="one must be set of podSelector, namespaceSelector, ipBlock",
            fix=("write `podSelector: {}` for every pod of the namespace",),
        )
    if "ipBlock" in present:
        if len(present) > 1:
            raise invalid(
                where,
                "ipBlock stands beside a selector",
                fix="write an item for each; they add up",
            )
        return _block(present["ipBlock"], f"{where}.ipBlock")
    pods = present.get("podSelector")
    spaces = present.get("namespaceSelector")
    return Peer(
        namespaces=_in_namespace(namespace)
        if spaces is None
        else _selector(spaces, f"{where}.namespaceSelector"),
        endpoints=None if pods is None else _selector(pods, f"{where}.podSelector"),
    )


def _block(value: Any, where: str) -> Peer:
    found = known(value, where, ("cidr", "except"))
    whole = _cidr(found.get("cidr"), f"{where}.cidr")
    parts = []
    for i, item in enumerate(sequence(found.get("except"), f"{where}.except")):
        at = f"{where}.except[{i}]"
        part = _cidr(item, at)
        if not validate.strictly_inside(part, whole):
            raise invalid(at, f"{part} must be a strict subset of cidr, {whole}")
        parts.append(str(part))
    return Peer(cidr=str(whole), excepted=tuple(parts))


def _port(value: Any, where: str) -> Port:
    found = known(value, where, ("protocol", "port", "endPort"))
    protocol = _PROTOCOLS["TCP"]
    if found.get("protocol") is not None:
        protocol = _PROTOCOLS[chosen(found["protocol"], f"{where}.protocol", tuple(_PROTOCOLS))]
    port, end = found.get("port"), found.get("endPort")
    if isinstance(port, str):
        port = syntax.port_name(port, f"{where}.port")
        if len(port) > MAX_PORT_NAME:
            raise invalid(f"{where}.port", f"{shown(port)} has more than 15 characters")
    elif port is not None:
        port = integer(port, f"{where}.port", 1, 65535)
    if end is None:
        return Port(protocol=protocol, port=port)
    if not isinstance(port, int):
        raise invalid(f"{where}.endPort", "endPort stands without a port that is a number")
    end = integer(end, f"{where}.endPort", port, 65535)
    return Port(protocol=protocol, port=port, end_port=end)


def cluster_network_policy(data: Mapping[str, Any], *, strict: bool = True) -> Policy:
    """A ClusterNetworkPolicy: ordered rules before, or after, those of the application tier."""
    top = _object(data, strict=strict)
    meta = mapping(top.get("metadata"), "metadata")
    name = _name(meta)
    fields = ("tier", "priority", "subject", "ingress", "egress")
    spec = _known(top.get("spec"), "spec", fields, strict=strict)
    rules: dict[str, tuple[Rule, ...]] = {}
    for direction in _PEERS:
        at = f"spec.{direction}"
        items = _at_most(sequence(spec.get(direction), at), at)
        found = (
            _cluster_rule(item, direction, f"{at}[{i}]", strict=strict)
            for i, item in enumerate(items)
        )
        rules[direction] = tuple(rule for rule in found if rule is not None)
    return Policy(
        metadata=_metadata(meta, policy_name("ClusterNetworkPolicy", name)),
        spec=PolicySpec(
            tier=_TIERS[chosen(spec.get("tier"), "spec.tier", tuple(_TIERS))],
            priority=integer(spec.get("priority"), "spec.priority", 0, MAX_PRIORITY),
            subject=_subject(spec.get("subject")),
            origin=Origin(kind="ClusterNetworkPolicy", name=name),
            **cast(Any, rules),
        ),
    )


def _subject(value: Any) -> Subject:
    way, found = one_of(value, "spec.subject", ("namespaces", "pods"))
    if way == "namespaces":
        return Subject(namespaces=_selector(found, "spec.subject.namespaces"))
    spaces, pods = _pods(found, "spec.subject.pods")
    return Subject(namespaces=spaces, endpoints=pods)


def _pods(value: Any, where: str) -> tuple[Selector, Selector]:
    found = known(value, where, ("namespaceSelector", "podSelector"))
    if found.get("podSelector") is None:
        raise invalid(
            f"{where}.podSelector",
            "podSelector is missing",
            fix="write `podSelector: {}` for every pod",
        )
    return (
        _selector(found.get("namespaceSelector"), f"{where}.namespaceSelector"),
        _selector(found["podSelector"], f"{where}.podSelector"),
    )


def _cluster_rule(value: Any, direction: Direction, where: str, *, strict: bool) -> Rule | None:
    """A rule; None where one that accepts fails closed."""
    found = mapping(value, where)
    name = text(found.get("name"), f"{where}.name")
    syntax.text(name, f"{where}.name", validate.MAX_RULE_NAME)
    action = _ACTIONS[chosen(found.get("action"), f"{where}.action", tuple(_ACTIONS))]
    try:
        return _understood(found, direction, Rule(action=action, name=name), where)
    except UnknownField:
        if strict:
            raise
        return None if action == "Accept" else Rule(action="Deny", name=name)


def _understood(found: dict[str, Any], direction: Direction, rule: Rule, where: str) -> Rule:
    side = _PEERS[direction]
    known(found, where, ("name", "action", side, "protocols"))
    peers = _some(found.get(side), f"{where}.{side}")
    protocols = None
    if found.get("protocols") is not None:
        at = f"{where}.protocols"
        protocols = tuple(
            _protocol(item, f"{at}[{i}]") for i, item in enumerate(_some(found["protocols"], at))
        )
    result = tuple(
        peer
        for i, item in enumerate(peers)
        for peer in _cluster_peers(item, direction, f"{where}.{side}[{i}]")
    )
    if rule.action != "Accept" and any(peer.domains for peer in result):
        raise invalid(
            f"{where}.{side}",
            f"domainNames stand in a rule with action {rule.action}",
            why="they are supported for Accept rules only",
        )
    named = any(isinstance(port.port, str) for port in protocols or ())
    if named and any(peer.cidr or peer.nodes is not None or peer.domains for peer in result):
        raise invalid(
            f"{where}.protocols",
            "destinationNamedPort stands with a networks, nodes or domainNames peer",
            why="these have no named ports",
        )
    return msgspec.structs.replace(rule, peers=result, ports=protocols)


def _cluster_peers(value: Any, direction: Direction, where: str) -> Iterator[Peer]:
    way, found = one_of(value, where, _CLUSTER_PEERS[direction])
    at = f"{where}.{way}"
    if way == "namespaces":
        yield Peer(namespaces=_selector(found, at))
    elif way == "pods":
        spaces, pods = _pods(found, at)
        yield Peer(namespaces=spaces, endpoints=pods)
    elif way == "nodes":
        yield Peer(nodes=_selector(found, at))
    elif way == "networks":
        cidrs = [str(_cidr(item, f"{at}[{i}]")) for i, item in enumerate(_some(found, at))]
        _distinct(cidrs, at)
        yield from (Peer(cidr=cidr) for cidr in cidrs)
    else:
        names = [_domain(item, f"{at}[{i}]") for i, item in enumerate(_some(found, at))]
        _distinct(names, at)
        yield Peer(domains=tuple(names))


def _domain(value: Any, where: str) -> str:
    name = validate.domain_name(required(value, where), where)
    if "." not in name.removeprefix("*."):
        raise invalid(where, f"{shown(name)} is not a domain of two labels or more")
    return name


def _protocol(value: Any, where: str) -> Port:
    way, found = one_of(value, where, ("tcp", "udp", "sctp", "destinationNamedPort"))
    at = f"{where}.{way}"
    if way == "destinationNamedPort":
        return Port(port=syntax.port_name(required(found, at), at))
    protocol = _PROTOCOLS[way.upper()]
    _, port = one_of(found, at, ("destinationPort",))
    at = f"{at}.destinationPort"
    kind, number = one_of(port, at, ("number", "range"))
    if kind == "number":
        return Port(protocol=protocol, port=integer(number, f"{at}.number", 1, 65535))
    at = f"{at}.range"
    ends = known(number, at, ("start", "end"))
    start = integer(ends.get("start"), f"{at}.start", 1, 65535)
    end = integer(ends.get("end"), f"{at}.end", 1, 65535)
    if start >= end:
        raise invalid(at, f"start, {start}, must be less than end, {end}")
    return Port(protocol=protocol, port=start, end_port=end)


# What both have.


def _object(data: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    return _known(dict(data), "", _TOP, strict=strict)


def _known(value: Any, where: str, names: tuple[str, ...], *, strict: bool) -> dict[str, Any]:
    return known(value, where, names) if strict else mapping(value, where)


def _name(meta: Mapping[str, Any]) -> str:
    return syntax.dns_subdomain(required(meta.get("name"), "metadata.name"), "metadata.name")


def _namespace(meta: Mapping[str, Any]) -> str:
    found = text(meta.get("namespace"), "metadata.namespace") or DEFAULT_NAMESPACE
    return syntax.dns_label(found, "metadata.namespace")


def _metadata(meta: Mapping[str, Any], name: str) -> Metadata:
    annotations = strings(meta.get("annotations"), "metadata.annotations")
    annotations.pop(LAST_APPLIED, None)
    syntax.annotation_map(annotations, "metadata.annotations")
    return Metadata(name=name, labels=labels(meta), annotations=annotations)


def _selector(value: Any, where: str) -> Selector:
    found = selector(value, where)
    validate.selector(found, where)
    return found


def _in_namespace(name: str) -> Selector:
    return Selector(match_labels={NAMESPACE_NAME: name})


def _cidr(value: Any, where: str) -> Cidr:
    """A CIDR; bits beyond its prefix length count for nothing, as with Go's `net.ParseCIDR`."""
    given = required(value, where)
    try:
        if "/" not in given or "%" in given or not given.rpartition("/")[2].isdigit():
            raise ValueError
        return ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise invalid(where, f"{shown(given)} is not a valid CIDR") from None


def _at_most(items: list[Any], where: str) -> list[Any]:
    syntax.items(items, where, MAX_ITEMS)
    return items


def _some(value: Any, where: str) -> list[Any]:
    """A list of 1 to 25."""
    items = _at_most(sequence(value, where), where)
    if not items:
        raise invalid(where, "there must be at least one item")
    return items


def _distinct(items: list[str], where: str) -> None:
    if len(set(items)) != len(items):
        raise invalid(where, "an item stands twice")


# All kinds.

Key = tuple[str, str]
"""apiVersion and kind."""

POLICIES: Final[dict[Key, Callable[..., Policy]]] = {
    ("networking.k8s.io/v1", "NetworkPolicy"): network_policy,
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"): cluster_network_policy,
}
OTHERS: Final[dict[Key, Callable[[Mapping[str, Any]], AnyObject | None]]] = {
    ("v1", "Namespace"): core_v1.namespace,
    ("v1", "Pod"): core_v1.pod,
    ("v1", "Node"): core_v1.node,
}


def key_of(data: Mapping[str, Any]) -> Key:
    """apiVersion and kind of a manifest, as far as it says so."""
    return str(data.get("apiVersion", "")), str(data.get("kind", ""))


def understood(data: Mapping[str, Any]) -> bool:
    """Whether `to_object` takes it."""
    return key_of(data) in POLICIES or key_of(data) in OTHERS


def to_policy(data: Mapping[str, Any], *, strict: bool = True) -> Policy:
    """The policy of a manifest; see the module's docstring."""
    read = POLICIES.get(key_of(data))
    if read is None:
        raise _no_kind(data, POLICIES)
    return read(data, strict=strict)


def to_object(data: Mapping[str, Any], *, strict: bool = True) -> AnyObject | None:
    """The object of a manifest; None for a pod without addresses of its own."""
    read = OTHERS.get(key_of(data))
    return to_policy(data, strict=strict) if read is None else read(data)


def _no_kind(data: Mapping[str, Any], kinds: Mapping[Key, object]) -> PlaitError:
    version, kind = key_of(data)
    return invalid(
        "kind",
        f"{shown(kind)} of {shown(version)} is not read",
        why="read are " + ", ".join(f"{name} of {group}" for group, name in kinds),
    )
