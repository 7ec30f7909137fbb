"""Endpoints. Pure."""

from __future__ import annotations

import ipaddress
from typing import cast

import msgspec

from plait.model import portnames, syntax
from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    AnyObject,
    Endpoint,
    Namespace,
    Network,
    Object,
    block_name,
)
from plait.model.syntax import Address, invalid
from plait.server.admission.base import (
    Admitted,
    Context,
    Removal,
    closing_key,
    in_namespace,
    known_network,
    same,
)
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """An endpoint is in a network that exists; its namespace is made where there is none."""
    assert isinstance(new, Endpoint)
    previous = cast("Endpoint | None", old)
    spec, namespace = new.spec, new.metadata.namespace
    _syntax(new)
    network = known_network(state, spec.network, "spec.network")
    addresses = _addresses(new, network)
    if previous is not None:
        same("spec.node", previous.spec.node, spec.node)
        same("spec.network", previous.spec.network, spec.network)
    if context.node and (previous is None or previous.spec.addresses != addresses):
        _not_of_others(state, context.node, network, addresses)
    admitted = Admitted(
        msgspec.structs.replace(new, spec=msgspec.structs.replace(spec, addresses=addresses))
    )
    if previous is not None:
        return admitted
    return admitted._replace(
        also_put=in_namespace(state, context, namespace),
        needs=(network.key,),
        absent=(closing_key(Network, spec.network), closing_key(Namespace, namespace)),
    )


def _syntax(new: Endpoint) -> None:
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
    portnames.check(spec.named_ports, "spec.namedPorts")
    syntax.text(spec.workload.id, "spec.workload.id", 4096)
    syntax.text(status.interface, "status.interface", 15)
    syntax.text(status.message, "status.message")


def _addresses(new: Endpoint, network: Network) -> tuple[str, ...]:
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


def _not_of_others(state: State, node: str, network: Network, addresses: tuple[str, ...]) -> None:
    """A node claims no address that is lent to another, nor, unless it was lent to it, one in a
    block of another."""
    for text in addresses:
        block = _block_of(state, network, ipaddress.ip_address(text))
        if block is None:
            continue
        lent = [
            loan.node for loan in block.loans if loan.address == text and loan.state == "granted"
        ]
        holder = lent[0] if lent else block.node
        if holder not in ("", node):
            raise PlaitError(
                "PLAIT-AUTH-006",
                f"the address {text} belongs to node {holder}",
                where="spec.addresses",
                why=f"it is in the block {block.cidr} and is not lent to {node}",
            )


def _block_of(state: State, network: Network, addr: Address) -> AddressBlockSpec | None:
    """The block of an address, found by its name: blocks of one network never overlap."""
    for text in network.spec.pools:
        pool = ipaddress.ip_network(text)
        if addr not in pool:
            continue
        for length in range(addr.max_prefixlen, pool.prefixlen - 1, -1):
            cidr = str(ipaddress.ip_network((addr, length), strict=False))
            block = state.get(AddressBlock, block_name(network.metadata.name, cidr))
            if block is not None:
                return block.spec
    return None


def remove(state: State, entry: Entry) -> Removal:
    """Always."""
    del state, entry
    return Removal()
