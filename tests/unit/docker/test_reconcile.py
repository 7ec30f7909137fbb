from __future__ import annotations

from plait.docker.journal import NetworkRecord
from plait.docker.reconcile import (
    Ask,
    Bind,
    Clash,
    Create,
    Delete,
    Learn,
    Remove,
    Settled,
    bound,
    create_body,
    docker_name,
    plan,
)
from plait.model.objects import Metadata, Network, NetworkSpec
from plait.wire.docker import DockerNetwork, Ipam, IpamConfig

POOL = "10.5.0.0/24"


def plait(name: str = "blue", *pools: str, docker: bool = True, uid: str = "u1") -> Network:
    return Network(
        metadata=Metadata(name=name, uid=uid),
        spec=NetworkSpec(pools=pools or (POOL,), docker=docker),
    )


def docker(
    name: str = "blue", *pools: str, driver: str = "plait", ident: str = ""
) -> DockerNetwork:
    return DockerNetwork(
        id=ident or f"id-{name}",
        name=name,
        driver=driver,
        ipam=Ipam(driver="plait", config=tuple(IpamConfig(subnet=p) for p in pools or (POOL,))),
    )


def seen(name: str = "blue") -> NetworkRecord:
    return NetworkRecord(network=name, uid="u1", seen=True)


def test_equal_means_nothing_to_do() -> None:
    record = bound(docker(), plait(), None)
    assert plan([docker()], {"blue": plait()}, {"id-blue": record}, {}) == ()


def test_both_there_are_bound_after_amnesia() -> None:
    (action,) = plan([docker()], {"blue": plait()}, {}, {})
    assert action == Bind("id-blue", seen())


def test_a_new_docker_network_is_learnt() -> None:
    assert plan([docker()], {}, {}, {}) == (Learn(docker()),)
    unnamed = {"id-blue": NetworkRecord()}
    assert plan([docker()], {}, unnamed, {}) == (Learn(docker()),)
    # Stored, but the snapshot is behind.
    stored = {"id-blue": NetworkRecord(network="blue")}
    assert plan([docker()], {}, stored, {}) == (Learn(docker()),)


def test_a_deleted_network_leaves_docker() -> None:
    (action,) = plan([docker()], {}, {"id-blue": seen()}, {})
    assert isinstance(action, Remove)


def test_other_pools_mean_another_network() -> None:
    other = plait("blue", "10.6.0.0/24")
    (action,) = plan([docker()], {"blue": other}, {"id-blue": seen()}, {})
    assert isinstance(action, Remove)
    assert plan([], {"blue": other}, {}, {}) == (Create(other),)


def test_only_networks_meant_for_docker_are_created() -> None:
    assert plan([], {"blue": plait(docker=False)}, {}, {}) == ()


def test_networks_of_others_are_left_alone() -> None:
    assert plan([docker("net", driver="bridge")], {}, {}, {}) == ()
    (action,) = plan([docker(driver="bridge")], {"blue": plait()}, {}, {})
    assert action == Clash(plait(), "bridge")


def test_a_user_removed_it() -> None:
    assert plan([], {"blue": plait()}, {}, {"blue": "u1"}) == (Delete(plait()),)
    # Gone, or not yet in the snapshot.
    assert plan([], {}, {}, {"blue": "u1"}) == (Ask("blue", "u1"),)
    # Made anew by someone else: the deletion meant the former one.
    again = plait(uid="u2")
    assert plan([], {"blue": again}, {}, {"blue": "u1"}) == (Settled("blue"), Create(again))


def test_of_two_with_one_name_the_known_one_stays() -> None:
    first, second = docker(ident="a"), docker(ident="b")
    records = {"b": seen()}
    (action,) = plan([first, second], {"blue": plait()}, records, {})
    assert isinstance(action, Remove)
    assert action.network.id == "a"


def test_names_that_dns_has_not() -> None:
    metadata = Metadata(name="shop-default", annotations={"plait.docker-name": "shop_default"})
    network = Network(metadata=metadata, spec=NetworkSpec(pools=(POOL,)))
    assert docker_name(network) == "shop_default"
    (action,) = plan([docker("shop_default")], {"shop-default": network}, {}, {})
    assert isinstance(action, Bind)
    assert action.record.network == "shop-default"
    assert not action.record.alias


def test_another_docker_name_is_an_alias() -> None:
    named = DockerNetwork(
        id="x",
        name="mine",
        driver="plait",
        ipam=Ipam(config=(IpamConfig(subnet=POOL),)),
        options={"plait.network": "blue", "plait.namespace": "shop"},
    )
    actions = plan([named], {"blue": plait()}, {}, {})
    assert actions == (
        Bind(
            "x",
            NetworkRecord(
                network="blue",
                uid="u1",
                namespace="shop",
                on_segment=True,
                alias=True,
                seen=True,
            ),
        ),
        Create(plait()),
    )


def test_how_a_network_is_made_in_docker() -> None:
    network = plait("blue", "fd01::/64", POOL)
    body = create_body(network, {POOL: "10.5.0.1", "fd01::/64": "fd01::1"})
    assert body.enable_ipv6
    assert body.options == {"plait.network": "blue"}
    assert body.labels == {"io.plait.network": "blue"}
    assert [(c.subnet, c.gateway) for c in body.ipam.config or ()] == [
        (POOL, "10.5.0.1"),
        ("fd01::/64", "fd01::1"),
    ]
