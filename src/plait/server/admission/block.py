"""Address blocks and loans. Pure."""

from __future__ import annotations

import ipaddress
from typing import cast

from plait.ipam.pool import Pool
from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, AnyObject, Endpoint, Network, Object, block_name
from plait.model.syntax import Address, Cidr, invalid
from plait.server.admission.base import (
    Admitted,
    Context,
    Removal,
    blocks_guard,
    closing_key,
    known_network,
    same,
)
from plait.server.admission.network import inside
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """A block lies in its network's pool, has its derived name and overlaps no other.

    A node claims blocks of the size that all nodes cut the pool into: with a larger one it would
    take the pool from the others. An owner changes only when none of its endpoints is inside.
    """
    assert isinstance(new, AddressBlock)
    previous = cast("AddressBlock | None", old)
    spec = new.spec
    network = known_network(state, spec.network, "spec.network")
    net = syntax.cidr(spec.cidr, "spec.cidr")
    same("spec.cidr", str(net), spec.cidr)
    pool = next((p for p in network.spec.pools if inside(net, ipaddress.ip_network(p))), None)
    if pool is None:
        raise PlaitError(
            "PLAIT-IPAM-011",
            f"the block {net} is outside the pools of network {spec.network}",
            where="spec.cidr",
            why="they are " + ", ".join(network.spec.pools),
        )
    same("metadata.name", block_name(spec.network, spec.cidr), new.metadata.name)
    if spec.node:
        syntax.dns_label(spec.node, "spec.node")
    elif not spec.loans:
        raise invalid("spec.node", "a block with neither owner nor loans is of no use: delete it")
    _loans(new, net)
    if previous is not None:
        same("spec.network", previous.spec.network, spec.network)
        if previous.spec.node != spec.node:
            _unused(state, previous, "cannot change hands")
        return Admitted(new)
    size = Pool.of(spec.network, pool).block_prefix
    if context.node and net.prefixlen != size:
        raise invalid("spec.cidr", f"nodes claim blocks of {pool} with the prefix length {size}")
    for entry in state.in_network(AddressBlock, spec.network):
        text = cast(AddressBlock, entry.object).spec.cidr
        if text.endswith(f"/{net.prefixlen}"):
            continue  # Of one size: they overlap only if they are one, and then have one name.
        other = ipaddress.ip_network(text)
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


def remove(state: State, entry: Entry) -> Removal:
    """Not while endpoints of its owner are inside, or others use addresses that it lent."""
    block = cast(AddressBlock, entry.object)
    lent = [loan for loan in block.spec.loans if loan.state == "granted"]
    if block.spec.node and lent:
        raise PlaitError(
            "PLAIT-API-011",
            f"addresses of the block {block.spec.cidr} are lent",
            where=f"addressblocks/{block.metadata.name}",
            why="; ".join(f"{loan.address} to {loan.node}" for loan in lent[:5]),
        )
    _unused(state, block, "cannot be removed")
    return Removal()


def _unused(state: State, block: AddressBlock, what: str) -> None:
    """Refuse to take a block from under endpoints of its owner (P2)."""
    spec = block.spec
    net = ipaddress.ip_network(spec.cidr)
    inside_it = [
        address
        for entry in (state.of_node(Endpoint, spec.node) if spec.node else ())
        if entry.network == spec.network
        for address in cast(Endpoint, entry.object).spec.addresses
        if ipaddress.ip_address(address) in net
    ]
    if inside_it:
        raise PlaitError(
            "PLAIT-API-011",
            f"the block {spec.cidr} {what}: endpoints of node {spec.node} are inside",
            where=f"addressblocks/{block.metadata.name}",
            why=", ".join(inside_it[:5]),
            fix=(f"plait node forget {spec.node}   # if that host is lost",),
        )
