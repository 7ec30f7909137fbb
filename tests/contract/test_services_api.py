"""Services through the API: many writers at once over two servers, and what is passed on."""

from __future__ import annotations

import asyncio
from itertools import chain

import msgspec

from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, EndpointSlice, Metadata, Network, NetworkSpec, Pod, Service
from plait.model.services import EndpointSliceSpec, ServicePort, ServiceSpec
from plait.server.server import Server

from .conftest import Rig


async def prepare(api: ApiClient, **fields: object) -> None:
    found = await api.get(Cluster, "plait")
    spec = msgspec.structs.replace(found.spec, **fields)
    await api.update(msgspec.structs.replace(found, spec=spec))


def service(name: str, **spec: object) -> Service:
    fields = {"ports": (ServicePort(port=80),), "type": "NodePort", **spec}
    return Service(metadata=Metadata(name=name, namespace="shop"), spec=ServiceSpec(**fields))


async def test_many_writers_over_two_servers_never_share_an_address(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await prepare(api, service_pools=("10.79.0.0/27",), node_ports="30000-30063")
    others = rig.admin(await rig.serve())
    wanted = [(api, others)[i % 2].create(service(f"s{i}")) for i in range(36)]
    made = await asyncio.gather(*wanted, return_exceptions=True)
    good = [one for one in made if isinstance(one, Service)]
    codes = [one.code for one in made if isinstance(one, PlaitError)]
    assert len(good) == 30
    assert codes == ["PLAIT-SERVICE-002"] * 6
    addresses = list(chain.from_iterable(one.spec.addresses for one in good))
    assert len(set(addresses)) == 30
    assert len({port.node_port for one in good for port in one.spec.ports}) == 30


async def test_a_network_and_a_service_that_want_the_same_do_not_both_get_it(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await prepare(api, service_pools=("10.79.0.0/16",))
    others = rig.admin(await rig.serve())
    for i in range(6):
        spec = NetworkSpec(pools=(f"10.60.{i}.0/24",))
        network = Network(metadata=Metadata(name=f"n{i}"), spec=spec)
        wanted = service(f"s{i}", addresses=(f"10.60.{i}.10",), type="ClusterIP")
        made = await asyncio.gather(
            api.create(network), others.create(wanted), return_exceptions=True
        )
        errors = [one for one in made if isinstance(one, PlaitError)]
        assert [error.code for error in errors] == ["PLAIT-SERVICE-006"]


async def test_addresses_that_come_free_go_to_who_waits(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await prepare(api, service_pools=("10.79.0.0/16",), load_balancer_pools=("192.0.2.240/31",))
    for i in range(3):
        await api.create(service(f"s{i}", type="LoadBalancer"))
    waiting = await api.get(Service, "s2", "shop")
    assert waiting.status.message
    await api.delete(Service, "s0", "shop")
    served = await api.get(Service, "s2", "shop")
    assert served.spec.load_balancer_addresses == ("192.0.2.240",)
    assert not served.status.message


async def test_nobody_waits_for_an_address_that_comes_free_at_the_same_moment(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await prepare(api, service_pools=("10.79.0.0/16",), load_balancer_pools=("192.0.2.240/32",))
    others = rig.admin(await rig.serve())
    await api.create(service("s0", type="LoadBalancer"))
    for i in range(1, 12):
        await asyncio.gather(
            api.create(service(f"s{i}", type="LoadBalancer")),
            others.delete(Service, f"s{i - 1}", "shop"),
        )
        made = await api.get(Service, f"s{i}", "shop")
        assert made.spec.load_balancer_addresses == ("192.0.2.240",)


async def test_a_batch_brings_all_that_belongs_together_and_makes_its_namespace(
    rig: Rig, server: Server, api: ApiClient
) -> None:
    await prepare(api, service_pools=("10.79.0.0/16",))
    meta = Metadata(name="web-1", namespace="shop")
    spec = EndpointSliceSpec(service="web")
    stored = await api.batch(
        [
            BatchOp(verb="create", object=Pod(metadata=meta)),
            BatchOp(verb="create", object=service("web")),
            BatchOp(verb="create", object=EndpointSlice(metadata=meta, spec=spec)),
        ]
    )
    assert {one.metadata.namespace for one in stored} == {"shop"}
    assert [one.kind for one in await api.list(Pod, "shop")] == ["Pod"]
