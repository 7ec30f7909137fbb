"""Admission: what each kind must satisfy, and what the server fills in. Pure.

`admit` takes the object as sent, the object there is, and the state; it returns the object to
store and what must happen with it, or raises `PlaitError`. One function a kind, in `ADMIT`;
one a kind for removal, in `REMOVE`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec

from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AnyObject,
    Cluster,
    Endpoint,
    Metadata,
    Namespace,
    Network,
    Node,
    Object,
    block_name,
)
from plait.server import pools, syntax
from plait.server.state import Entry, State
from plait.server.syntax import Address, Cidr, invalid

T = TypeVar("T", bound=Object)

CLUSTER_NAME: Final = "plait"
DEFAULT_NAMESPACE: Final = "default"


class Context(NamedTuple):
    """What a write depends on beside the state."""

    now: str
    """RFC 3339, UTC."""
    new_uid: Callable[[], str]
    node: str = ""
    """Name of the node that writes; empty for anybody else."""
    node_uid: str = ""


class Admitted(NamedTuple):
    """An object to store, and what goes with it."""

    object: AnyObject
    also_put: tuple[AnyObject, ...] = ()
    needs: tuple[str, ...] = ()
    """Keys that must not change until the write is done."""
    absent: tuple[str, ...] = ()
    """Keys that must not exist when the write is done."""
    guards: tuple[str, ...] = ()
    """Records that every write of the same invariant touches, so that two servers cannot both
    pass a check that spans objects."""


class Removal(NamedTuple):
    """What goes with an object that is removed."""

    also_delete: tuple[str, ...] = ()
    closing: str = ""
    """Mark to set before the check that nothing refers to the object; see `closing_key`."""


def closing_key(kind: type[Object], name: str) -> str:
    """Record that says: this object is about to go, refer to it no more.

    Removal sets it, looks again for references, then removes. Whoever refers to the object
    requires its absence, so neither order of the two leaves a reference to nothing.
    """
    return f"/closing/{kind.plural}/{name}"


POOLS_GUARD: Final = "/guards/pools"


def blocks_guard(network: str) -> str:
    """Guard of the rule that blocks of one network do not overlap."""
    return f"/guards/blocks/{network}"


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """Check an object and fill in what the server owns."""
    checked = _metadata(context, old, new)
    return ADMIT[type(new)](state, context, old, checked)


def remove(state: State, entry: Entry) -> Removal:
    """Check that an object may go."""
    return REMOVE[entry.kind](state, entry)


def _metadata(context: Context, old: Object | None, new: AnyObject) -> AnyObject:
    meta = new.metadata
    kind = type(new)
    _name_rule(kind)(meta.name, "metadata.name")
    namespace = meta.namespace
    if kind.namespaced:
        namespace = syntax.dns_label(namespace or DEFAULT_NAMESPACE, "metadata.namespace")
    elif namespace:
        raise invalid("metadata.namespace", f"a {new.kind} belongs to no namespace")
    syntax.label_map(meta.labels, "metadata.labels")
    syntax.annotation_map(meta.annotations, "metadata.annotations")
    if meta.uid:
        syntax.uid(meta.uid, "metadata.uid")
    if old is not None and meta.uid and meta.uid != old.metadata.uid:
        raise PlaitError(
            "PLAIT-API-006",
            f"the {kind.__name__} {meta.name} is another one than the one meant",
            where="metadata.uid",
            why=f"it has the uid {old.metadata.uid}; the one meant was deleted",
        )
    own = context.node_uid if kind is Node else ""
    wanted = Metadata(
        name=meta.name,
        namespace=namespace,
        uid=old.metadata.uid if old else (meta.uid or own or context.new_uid()),
        labels=meta.labels,
        annotations=meta.annotations,
        created_at=old.metadata.created_at if old else context.now,
    )
    return msgspec.structs.replace(new, metadata=wanted)


def _name_rule(kind: type[Object]) -> Callable[[str, str], str]:
    if kind is Endpoint:
        return syntax.endpoint_id
    return syntax.block_id if kind is AddressBlock else syntax.dns_label


def _cluster(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    del state, context, old
    assert isinstance(new, Cluster)
    if new.metadata.name != CLUSTER_NAME:
        raise invalid("metadata.name", f'there is one Cluster, and its name is "{CLUSTER_NAME}"')
    syntax.items(new.spec.pools, "spec.pools", 64)
    parsed = [syntax.cidr(pool, f"spec.pools[{i}]") for i, pool in enumerate(new.spec.pools)]
    for i, pool in enumerate(parsed):
        pools.check_range(pool, f"spec.pools[{i}]")
        other = pools.overlap(pool, [pools.Use(net, "pool") for net in parsed[:i]])
        if other is not None:
            raise invalid(f"spec.pools[{i}]", f"the pool {pool} overlaps {other.cidr}")
    syntax.number(new.spec.vxlan_port, "spec.vxlanPort", 1, 65535)
    syntax.number(new.spec.vni, "spec.vni", 1, (1 << 24) - 1)
    syntax.dns_name(new.spec.domain, "spec.domain")
    spec = msgspec.structs.replace(new.spec, pools=tuple(str(pool) for pool in parsed))
    return Admitted(msgspec.structs.replace(new, spec=spec))


def _namespace(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    del state, context, old
    return Admitted(new)


def _node(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    del state
    assert isinstance(new, Node)
    previous = cast("Node | None", old)
    spec, status = new.spec, new.status
    addresses = [
        syntax.interface(addr, f"spec.addresses[{i}]") for i, addr in enumerate(spec.addresses)
    ]
    if len({addr.version for addr in addresses}) != len(addresses):
        raise invalid("spec.addresses", "a node has at most one underlay address a family")
    if spec.link_local:
        link_local = syntax.address(spec.link_local, "spec.linkLocal")
        if not (link_local.version == 6 and link_local.is_link_local):
            raise invalid("spec.linkLocal", f"{link_local} is not an IPv6 link-local address")
    syntax.number(spec.mtu, "spec.mtu", 1280, 65536)
    syntax.text(spec.site, "spec.site", 63)
    syntax.text(status.version, "status.version", 63)
    syntax.items(status.prefixes, "status.prefixes")
    syntax.items(status.conditions, "status.conditions", 64)
    for i, condition in enumerate(status.conditions):
        syntax.text(condition, f"status.conditions[{i}]")
    prefixes = tuple(
        str(syntax.cidr(prefix, f"status.prefixes[{i}]", code="PLAIT-API-002"))
        for i, prefix in enumerate(status.prefixes)
    )
    if context.node and context.node_uid != new.metadata.uid:
        raise PlaitError(
            "PLAIT-AUTH-002",
            f"the node {context.node} was enrolled anew, and another of its name is known",
            where=f"nodes/{context.node}",
            fix=(f"plait node forget {context.node}",),
        )
    status = msgspec.structs.replace(
        status, prefixes=prefixes, last_seen=_last_seen(context, previous, new)
    )
    spec = msgspec.structs.replace(spec, addresses=tuple(str(addr) for addr in addresses))
    return Admitted(msgspec.structs.replace(new, spec=spec, status=status))


def _last_seen(context: Context, old: Node | None, new: Node) -> str:
    """Now when the node itself writes, or when its status changes; else as it was."""
    seen = old.status.last_seen if old else ""
    told = msgspec.structs.replace(new.status, last_seen=seen)
    return context.now if context.node or old is None or told != old.status else seen


def _network(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    del context
    assert isinstance(new, Network)
    previous = cast("Network | None", old)
    name = new.metadata.name
    given = pools.canonical(new.spec.pools, "spec.pools")
    if previous is None:
        chosen = _new_pools(state, new, given)
    else:
        chosen = tuple(ipaddress.ip_network(pool) for pool in previous.spec.pools)
        if given and given != chosen:
            raise PlaitError(
                "PLAIT-NET-005",
                f"the pools of network {name} cannot be changed",
                where="spec.pools",
                why="it has " + ", ".join(str(pool) for pool in chosen),
                fix=("plait network create NEW --pool CIDR",),
            )
    gateways = _gateways(new, chosen, previous)
    spec = msgspec.structs.replace(
        new.spec,
        pools=tuple(str(pool) for pool in chosen),
        gateways=tuple(str(gateway) for gateway in gateways),
        reserved=_reserved(new, chosen),
    )
    status = previous.status if previous else new.status
    return Admitted(
        msgspec.structs.replace(new, spec=spec, status=status),
        absent=() if previous else (closing_key(Network, name),),
        guards=() if previous else (POOLS_GUARD,),
    )


def _new_pools(state: State, new: Network, given: tuple[Cidr, ...]) -> tuple[Cidr, ...]:
    """The pools asked for, or cut from the cluster's.

    A network whose IPv4 addresses are chosen elsewhere (`externalIpam`) gets an IPv6 pool of
    ours all the same, if the cluster has one: Docker did not ask for it, its users profit.
    """
    name = new.metadata.name
    for i, pool in enumerate(given):
        pools.check_range(pool, f"spec.pools[{i}]")
        pools.check_free(state, pool, name, f"spec.pools[{i}]")
    cluster = state.get(Cluster, CLUSTER_NAME)
    sources = cluster.spec.pools if cluster else ()
    families = {ipaddress.ip_network(pool).version for pool in sources}
    if not given:
        if not families:
            raise PlaitError(
                "PLAIT-NET-003",
                f"network {name} names no pool, and the cluster has none",
                where="spec.pools",
                fix=(f"plait network create {name} --pool CIDR",),
            )
        return tuple(pools.choose(state, sources, family, name) for family in sorted(families))
    if new.spec.external_ipam and 6 in families and all(pool.version == 4 for pool in given):
        return (*given, pools.choose(state, sources, 6, name))
    return given


def _gateways(new: Network, chosen: tuple[Cidr, ...], old: Network | None) -> tuple[Address, ...]:
    """A gateway a pool, in the pools' order: as given, as it was, or the first address."""
    syntax.items(new.spec.gateways, "spec.gateways", 2)
    given: dict[int, Address] = {}
    for i, text in enumerate(new.spec.gateways):
        where = f"spec.gateways[{i}]"
        gateway = syntax.address(text, where)
        pool = next((pool for pool in chosen if pool.version == gateway.version), None)
        if pool is None or gateway not in pool or gateway.version in given:
            raise PlaitError(
                "PLAIT-IPAM-011",
                f"the gateway {gateway} is not an address of a pool of its own",
                where=where,
                why="the pools are " + ", ".join(str(pool) for pool in chosen),
            )
        if pool.version == 4 and gateway in (pool.network_address, pool.broadcast_address):
            raise PlaitError(
                "PLAIT-IPAM-014", f"{gateway} is the network's or broadcast address", where=where
            )
        given[gateway.version] = gateway
    if old is not None:
        before = tuple(ipaddress.ip_address(text) for text in old.spec.gateways)
        changed = [gw for gw in given.values() if gw not in before]
        if changed:
            raise PlaitError(
                "PLAIT-NET-005",
                f"the gateways of network {new.metadata.name} cannot be changed",
                where="spec.gateways",
                why="its endpoints use " + ", ".join(str(gateway) for gateway in before),
            )
        return before
    return tuple(given.get(pool.version) or pool.network_address + 1 for pool in chosen)


def _reserved(new: Network, chosen: tuple[Cidr, ...]) -> tuple[str, ...]:
    syntax.items(new.spec.reserved, "spec.reserved")
    result = []
    for i, text in enumerate(new.spec.reserved):
        where = f"spec.reserved[{i}]"
        net = syntax.cidr(text, where, code="PLAIT-API-002")
        if not any(_inside(net, pool) for pool in chosen):
            raise PlaitError("PLAIT-IPAM-011", f"{net} is outside the network's pools", where=where)
        result.append(str(net))
    return tuple(result)


def _inside(inner: Cidr, outer: Cidr) -> bool:
    return inner.version == outer.version and cast(Any, inner).subnet_of(outer)


def _known_network(state: State, name: str, where: str) -> Network:
    network = state.get(Network, name)
    if network is None:
        raise PlaitError(
            "PLAIT-NET-006",
            f"there is no network {syntax.shown(name)}",
            where=where,
            fix=("plait network ls",),
        )
    return network


def _same(where: str, before: str, after: str) -> None:
    if before != after:
        raise invalid(where, f"the field is immutable: {syntax.shown(before)} stays", why="")


def _block(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    del context
    assert isinstance(new, AddressBlock)
    previous = cast("AddressBlock | None", old)
    spec = new.spec
    network = _known_network(state, spec.network, "spec.network")
    net = syntax.cidr(spec.cidr, "spec.cidr")
    _same("spec.cidr", str(net), spec.cidr)
    if not any(_inside(net, ipaddress.ip_network(pool)) for pool in network.spec.pools):
        raise PlaitError(
            "PLAIT-IPAM-011",
            f"the block {net} is outside the pools of network {spec.network}",
            where="spec.cidr",
            why="they are " + ", ".join(network.spec.pools),
        )
    _same("metadata.name", block_name(spec.network, spec.cidr), new.metadata.name)
    if spec.node:
        syntax.dns_label(spec.node, "spec.node")
    elif not spec.loans:
        raise invalid("spec.node", "a block with neither owner nor loans is of no use: delete it")
    _loans(new, net)
    if previous is not None:
        _same("spec.network", previous.spec.network, spec.network)
        return Admitted(new)
    for entry in state.in_network(AddressBlock, spec.network):
        other = ipaddress.ip_network(cast(AddressBlock, entry.object).spec.cidr)
        if other.version == net.version and other.overlaps(net):
            raise PlaitError(
                "PLAIT-API-005",
                f"the block {net} overlaps the block {other}",
                where="spec.cidr",
            )
    return Admitted(
        new,
        needs=(network.key,),
        absent=(closing_key(Network, spec.network),),
        guards=(blocks_guard(spec.network),),
    )


def _loans(new: AddressBlock, net: Cidr) -> None:
    syntax.items(new.spec.loans, "spec.loans")
    granted: dict[Address, str] = {}
    pairs = set()
    for i, loan in enumerate(new.spec.loans):
        where = f"spec.loans[{i}]"
        addr = syntax.address(loan.address, f"{where}.address")
        if addr not in net:
            raise PlaitError(
                "PLAIT-IPAM-011", f"{addr} is outside the block {net}", where=f"{where}.address"
            )
        syntax.dns_label(loan.node, f"{where}.node")
        syntax.text(loan.reason, f"{where}.reason", 256)
        if (addr, loan.node) in pairs:
            raise invalid(where, f"{loan.node} has two loans of {addr}")
        pairs.add((addr, loan.node))
        if loan.state == "granted" and addr in granted:
            raise PlaitError(
                "PLAIT-IPAM-010",
                f"{addr} cannot be lent to {loan.node}",
                where=where,
                why=f"it is lent to {granted[addr]}",
            )
        if loan.state == "granted":
            granted[addr] = loan.node


def _endpoint(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    assert isinstance(new, Endpoint)
    previous = cast("Endpoint | None", old)
    spec, namespace = new.spec, new.metadata.namespace
    _endpoint_syntax(new)
    network = _known_network(state, spec.network, "spec.network")
    addresses = _endpoint_addresses(new, network)
    if previous is not None:
        _same("spec.node", previous.spec.node, spec.node)
        _same("spec.network", previous.spec.network, spec.network)
    if context.node and (previous is None or previous.spec.addresses != addresses):
        _not_of_others(state, context.node, spec.network, addresses)
    admitted = Admitted(
        msgspec.structs.replace(new, spec=msgspec.structs.replace(spec, addresses=addresses))
    )
    if previous is not None:
        return admitted
    also: tuple[AnyObject, ...] = ()
    if state.get(Namespace, namespace) is None:
        made = Metadata(name=namespace, uid=context.new_uid(), created_at=context.now)
        also = (Namespace(metadata=made),)
    return admitted._replace(
        also_put=also,
        needs=(network.key,),
        absent=(closing_key(Network, spec.network), closing_key(Namespace, namespace)),
    )


def _endpoint_syntax(new: Endpoint) -> None:
    spec, status = new.spec, new.status
    syntax.dns_label(spec.node, "spec.node")
    if spec.name:
        syntax.dns_label(spec.name, "spec.name")
    syntax.items(spec.aliases, "spec.aliases", 64)
    for i, alias in enumerate(spec.aliases):
        syntax.dns_name(alias, f"spec.aliases[{i}]")
    if spec.mac:
        syntax.mac(spec.mac, "spec.mac")
    syntax.items(spec.ports, "spec.ports", 512)
    for i, port in enumerate(spec.ports):
        syntax.number(port.port, f"spec.ports[{i}].port", 1, 65535)
        syntax.number(port.host_port, f"spec.ports[{i}].hostPort", 1, 65535)
        if port.host_ip:
            syntax.address(port.host_ip, f"spec.ports[{i}].hostIp")
    syntax.text(spec.workload.id, "spec.workload.id", 4096)
    syntax.text(status.interface, "status.interface", 15)
    syntax.text(status.message, "status.message")


def _endpoint_addresses(new: Endpoint, network: Network) -> tuple[str, ...]:
    syntax.items(new.spec.addresses, "spec.addresses", 2)
    result: dict[int, Address] = {}
    for i, text in enumerate(new.spec.addresses):
        where = f"spec.addresses[{i}]"
        addr = syntax.address(text, where)
        if addr.version in result:
            raise invalid(where, "an endpoint has at most one address a family")
        if not any(addr in ipaddress.ip_network(pool) for pool in network.spec.pools):
            raise PlaitError(
                "PLAIT-IPAM-011",
                f"{addr} is outside the pools of network {network.metadata.name}",
                where=where,
                why="they are " + ", ".join(network.spec.pools),
            )
        if str(addr) in network.spec.gateways:
            raise PlaitError(
                "PLAIT-IPAM-014", f"{addr} is the network's gateway and never given", where=where
            )
        result[addr.version] = addr
    return tuple(str(result[family]) for family in sorted(result))


def _not_of_others(state: State, node: str, network: str, addresses: tuple[str, ...]) -> None:
    """A node claims no address in a block of another, unless it was lent to it."""
    for text in addresses:
        addr = ipaddress.ip_address(text)
        for entry in state.in_network(AddressBlock, network):
            if entry.node in ("", node):
                continue
            block = cast(AddressBlock, entry.object).spec
            if addr not in ipaddress.ip_network(block.cidr):
                continue
            if not any(
                loan.address == text and loan.node == node and loan.state == "granted"
                for loan in block.loans
            ):
                raise PlaitError(
                    "PLAIT-AUTH-006",
                    f"the address {addr} belongs to node {block.node}",
                    where="spec.addresses",
                    why=f"it is in the block {block.cidr} and is not lent to {node}",
                )


def _in_use(kind: str, name: str, users: list[str], fix: str) -> PlaitError:
    named = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
    return PlaitError(
        "PLAIT-API-011",
        f"the {kind} {name} is in use",
        where=f"{kind}s/{name}",
        why=f"endpoints use it: {named}",
        fix=(fix,),
    )


def _users(entries: object) -> list[str]:
    found = []
    for entry in cast("list[Entry]", entries):
        endpoint = cast(Endpoint, entry.object)
        shown = endpoint.spec.name or endpoint.metadata.name
        found.append(f"{endpoint.metadata.namespace}/{shown} on {endpoint.spec.node}")
    return sorted(found)


def _free(state: State, entry: Entry) -> Removal:
    del state, entry
    return Removal()


def _remove_cluster(state: State, entry: Entry) -> Removal:
    del state, entry
    raise PlaitError(
        "PLAIT-API-011",
        "the Cluster cannot be deleted",
        where=f"clusters/{CLUSTER_NAME}",
        why="it holds the settings of the whole network",
        fix=("plait down --purge",),
    )


def _remove_namespace(state: State, entry: Entry) -> Removal:
    name = entry.object.metadata.name
    if name == DEFAULT_NAMESPACE:
        raise PlaitError(
            "PLAIT-API-011",
            f"the namespace {name} cannot be deleted",
            where=f"namespaces/{name}",
            why="what names no namespace is in it",
        )
    users = _users(state.in_namespace(name))
    if users:
        raise _in_use("namespace", name, users, f"plait get endpoints --namespace {name}")
    return Removal(closing=closing_key(Namespace, name))


def _remove_network(state: State, entry: Entry) -> Removal:
    name = entry.object.metadata.name
    users = _users(state.in_network(Endpoint, name))
    if users:
        raise _in_use("network", name, users, f"plait network inspect {name}")
    return Removal(
        also_delete=tuple(block.key for block in state.in_network(AddressBlock, name)),
        closing=closing_key(Network, name),
    )


def _remove_node(state: State, entry: Entry) -> Removal:
    name = entry.object.metadata.name
    held = [*state.of_node(Endpoint, name), *state.of_node(AddressBlock, name)]
    if held:
        raise PlaitError(
            "PLAIT-API-011",
            f"the node {name} holds endpoints or address blocks",
            where=f"nodes/{name}",
            why=f"{len(held)} objects are its own",
            fix=(f"plait node forget {name}",),
        )
    return Removal()


def _remove_block(state: State, entry: Entry) -> Removal:
    del state
    block = cast(AddressBlock, entry.object)
    lent = [loan for loan in block.spec.loans if loan.state == "granted"]
    if block.spec.node and lent:
        raise PlaitError(
            "PLAIT-API-011",
            f"addresses of the block {block.spec.cidr} are lent",
            where=f"addressblocks/{block.metadata.name}",
            why="; ".join(f"{loan.address} to {loan.node}" for loan in lent[:5]),
        )
    return Removal()


Admit = Callable[[State, Context, Object | None, AnyObject], Admitted]

ADMIT: Final[dict[type[Object], Admit]] = {
    Cluster: _cluster,
    Namespace: _namespace,
    Node: _node,
    Network: _network,
    AddressBlock: _block,
    Endpoint: _endpoint,
}
REMOVE: Final[dict[type[Object], Callable[[State, Entry], Removal]]] = {
    Cluster: _remove_cluster,
    Namespace: _remove_namespace,
    Node: _remove_node,
    Network: _remove_network,
    AddressBlock: _remove_block,
    Endpoint: _free,
}
