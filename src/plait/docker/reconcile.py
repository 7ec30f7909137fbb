"""What has to change so that this Docker has the networks of Plait, and Plait those made here.

Pure: `plan` compares; `networks.NetworkKeeper` acts. One row for each way in which the two can
differ:

| Docker here | Plait | Action |
|---|---|---|
| a network without a record, or not yet confirmed | – | Learn |
| the network | the same pools | Bind, once |
| the network | other pools | Remove; the next round creates it |
| the network, confirmed earlier | gone | Remove |
| – | there, for Docker | Create |
| – | there, but removed here by the user | Delete |
| – | not seen, and removed here by the user | Ask |
| – | another of that name since the removal | Settled |
| listed until now, perhaps being removed | there | none yet |
| a network of another driver with that name | there | Clash |
| a second network of ours with that name | – | Remove |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from plait.docker.engine import DRIVER
from plait.docker.journal import NetworkRecord
from plait.docker.options import NETWORK
from plait.model.objects import Network
from plait.wire.docker import CreateNetworkBody, DockerNetwork, Ipam, IpamConfig

DOCKER_NAME: Final = "plait.docker-name"
"""Annotation of a Network: its name in Docker, where that is no DNS label."""
LABEL: Final = "io.plait.network"
"""Label of Docker networks that Plait made: the Plait Network."""
BUILTIN: Final = "plait"
"""The ready-made network: `docker network rm` and `prune` never delete it for all."""


class Learn(msgspec.Struct, frozen=True):
    """A Docker network that is new to us: find or make its Plait Network."""

    network: DockerNetwork


class Bind(msgspec.Struct, frozen=True):
    """Both sides are there and equal: keep the link between them."""

    network_id: str
    record: NetworkRecord


class Remove(msgspec.Struct, frozen=True):
    """A Docker network that has to go."""

    network: DockerNetwork
    why: str


class Create(msgspec.Struct, frozen=True):
    """A Plait Network that this Docker lacks."""

    network: Network


class Delete(msgspec.Struct, frozen=True):
    """A Plait Network that the user removed here with `docker network rm`."""

    network: Network


class Ask(msgspec.Struct, frozen=True):
    """A deletion of what the snapshot lacks: the server knows whether it has come to pass, or
    whether the snapshot is only behind."""

    name: str
    uid: str


class Settled(msgspec.Struct, frozen=True):
    """A deletion that has come to pass."""

    name: str


class Clash(msgspec.Struct, frozen=True):
    """A Plait Network whose name another driver's network has here."""

    network: Network
    driver: str


Action = Learn | Bind | Remove | Create | Delete | Ask | Settled | Clash


def docker_name(network: Network) -> str:
    """What a Plait Network is called in Docker."""
    return network.metadata.annotations.get(DOCKER_NAME, network.metadata.name)


def subnets(network: DockerNetwork) -> tuple[str, ...]:
    """Pools of a Docker network, in Docker's order."""
    return tuple(c.subnet for c in network.ipam.config or () if c.subnet)


def fits(network: DockerNetwork, plait: Network) -> bool:
    """Whether a Docker network can stand for a Plait Network: its pools are that network's."""
    mine = subnets(network)
    return bool(mine) and set(mine) <= set(plait.spec.pools)


def target_name(
    network: DockerNetwork, record: NetworkRecord | None, networks: Mapping[str, Network]
) -> str:
    """The Plait Network that a Docker network is meant for; empty when nobody has said."""
    named = (network.options or {}).get(NETWORK, "")
    if named:
        return named
    if record is not None and record.network:
        return record.network
    same = (n for n in networks.values() if docker_name(n) == network.name and fits(network, n))
    return next((n.metadata.name for n in same), "")


def bound(network: DockerNetwork, plait: Network, record: NetworkRecord | None) -> NetworkRecord:
    """The record of a Docker network whose Plait Network is there."""
    return msgspec.structs.replace(
        record or NetworkRecord(namespace=(network.options or {}).get("plait.namespace", "")),
        network=plait.metadata.name,
        uid=plait.metadata.uid,
        on_segment=network.ipam.driver != DRIVER,
        alias=network.name != docker_name(plait),
        seen=True,
    )


def doubles(
    networks: Iterable[DockerNetwork], records: Mapping[str, NetworkRecord]
) -> frozenset[str]:
    """Ids of networks whose name an older one of ours has: dockerd's check of names does not
    hold between two calls at once. A network that we know is kept before one that we don't."""
    kept: dict[str, str] = {}
    surplus = set()
    for network in sorted(networks, key=lambda n: (not _is_bound(records.get(n.id)), n.id)):
        if kept.setdefault(network.name, network.id) != network.id:
            surplus.add(network.id)
    return frozenset(surplus)


def _is_bound(record: NetworkRecord | None) -> bool:
    return record is not None and record.seen


def plan(
    docker: Iterable[DockerNetwork],
    networks: Mapping[str, Network],
    records: Mapping[str, NetworkRecord],
    deletions: Mapping[str, str],
    leaving: Collection[str] = (),
) -> tuple[Action, ...]:
    """The actions, those that make room first.

    `leaving` has the Plait Networks that dockerd may be deleting: not listed, not yet said.
    """
    listed = tuple(docker)
    actions: list[Action] = []
    names = {n.name: n.driver for n in listed}
    ours = [n for n in listed if n.driver == DRIVER]
    surplus = doubles(ours, records)
    for network in ours:
        if network.id in surplus:
            actions.append(Remove(network, f"there are several networks {network.name}"))
            continue
        action = _of_docker(network, networks, records.get(network.id))
        if action is not None:
            actions.append(action)
    for name, uid in deletions.items():
        doomed = networks.get(name)
        if doomed is None:
            actions.append(Ask(name, uid))
        else:
            same = doomed.metadata.uid == uid
            actions.append(Delete(doomed) if same else Settled(name))
    for plait in networks.values():
        doomed_uid = deletions.get(plait.metadata.name)
        if plait.spec.docker and doomed_uid != plait.metadata.uid:
            driver = names.get(docker_name(plait))
            if driver is None:
                if plait.metadata.name not in leaving:
                    actions.append(Create(plait))
            elif driver != DRIVER:
                actions.append(Clash(plait, driver))
    return tuple(actions)


def _of_docker(
    network: DockerNetwork, networks: Mapping[str, Network], record: NetworkRecord | None
) -> Action | None:
    target = target_name(network, record, networks)
    plait = networks.get(target)
    if plait is None:
        if record is not None and record.seen:
            return Remove(network, f"the network {target} was deleted")
        return Learn(network)
    if not fits(network, plait):
        return Remove(network, f"the network {target} has the pools {', '.join(plait.spec.pools)}")
    fresh = bound(network, plait, record)
    return Bind(network.id, fresh) if fresh != record else None


def create_body(network: Network, gateways: Mapping[str, str]) -> CreateNetworkBody:
    """How a Plait Network is made in Docker; `gateways` has one for each pool."""
    pools = sorted(network.spec.pools, key=lambda p: ":" in p)
    config = tuple(IpamConfig(subnet=p, gateway=gateways[p]) for p in pools)
    return CreateNetworkBody(
        name=docker_name(network),
        driver=DRIVER,
        internal=network.spec.internal,
        enable_ipv6=any(":" in p for p in pools),
        ipam=Ipam(driver=DRIVER, config=config),
        options={NETWORK: network.metadata.name},
        labels={LABEL: network.metadata.name},
    )
