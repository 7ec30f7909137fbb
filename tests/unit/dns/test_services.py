"""Names of Services and pods, in our domain and in Kubernetes' schema, read by dnspython."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.dns.asks import AskAlias
from plait.dns.resolver import Aliased, Forward, Resolver
from plait.dns.zone import MAX_ANSWERS_KEPT, Scope, Zone
from plait.model import marks
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
    Pod,
    Service,
)
from plait.model.pods import PodSpec
from plait.model.policies import Origin
from plait.model.services import ServicePort, ServiceSpec
from plait.services.backends import Backend
from plait.wire import dns as wire

OURS = (marks.GATEWAY4, marks.DNS_PORT)
UPSTREAM = ("192.0.2.53", 53)
PORTS = (
    ServicePort(name="http", port=80, target_port=8080),
    ServicePort(name="dns", port=53, protocol="UDP"),
)
CLUSTER = "svc.cluster.local"


def network(name: str, *pools: str, internal: bool = False) -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, internal=internal))


def endpoint(
    ident: str, name: str, address: str, network: str = "blue", namespace: str = "shop"
) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=ident, namespace=namespace),
        spec=EndpointSpec(node="h", network=network, name=name, addresses=(address,)),
        status=EndpointStatus(phase="ready"),
    )


def service(
    name: str, *addresses: str, namespace: str = "shop", foreign: bool = True, **spec: Any
) -> Service:
    fields: dict[str, Any] = {"network": "blue", "ports": PORTS, **spec}
    origin = Origin(kind="Service", name=name, namespace=namespace) if foreign else None
    return Service(
        metadata=Metadata(name=name, namespace=namespace),
        spec=ServiceSpec(addresses=addresses, origin=origin, **fields),
    )


def backend(address: str, name: str = "", **fields: Any) -> Backend:
    return Backend(address, (8080, 53), name=name, **fields)


def pod(name: str, *addresses: str, namespace: str = "shop", **fields: Any) -> Pod:
    metadata = Metadata(name=name, namespace=namespace)
    return Pod(metadata=metadata, spec=PodSpec(addresses=addresses, **fields))


class World:
    """A zone with an asker in network blue and namespace default, and one in network red."""

    def __init__(self) -> None:
        self.behind: dict[tuple[str, str], list[Backend]] = defaultdict(list)
        self.zone = Zone(backends=lambda namespace, name: self.behind[namespace, name])
        self.zone.replace(
            [
                endpoint("1", "client", "10.0.0.9", namespace="default"),
                endpoint("2", "web-0", "10.0.0.1"),
                endpoint("3", "red", "10.1.0.9", network="red", namespace="default"),
                endpoint("4", "inner", "10.2.0.9", network="inner", namespace="default"),
            ],
            [
                network("blue", "10.0.0.0/16", "fd00::/64"),
                network("red", "10.1.0.0/16"),
                network("inner", "10.2.0.0/16", internal=True),
            ],
        )
        self.services = self.zone.services
        self.resolver = Resolver(self.zone, lambda: (UPSTREAM,), rng=random.Random(1))

    def stand(self, namespace: str, name: str, *backends: Backend) -> None:
        """These answer for a Service now."""
        self.behind[namespace, name] = list(backends)
        self.services.moved(namespace, name)

    def decide(self, name: str, qtype: str = "A", client: str = "10.0.0.9") -> Any:
        query = wire.parse_query(dns.message.make_query(name, qtype, use_edns=0).to_wire())
        scope = self.zone.host if client == "host" else self.zone.scope(client)
        return self.resolver.decide(scope, query, OURS), query

    def reply(self, name: str, qtype: str = "A", client: str = "10.0.0.9") -> dns.message.Message:
        decision, query = self.decide(name, qtype, client)
        assert isinstance(decision, wire.Answer), decision
        return dns.message.from_wire(decision.reply_to(query, wire.TCP_MAX))

    def __call__(self, name: str, qtype: str = "A", client: str = "10.0.0.9") -> Any:
        """Sorted records, or the rcode where there are none."""
        reply = self.reply(name, qtype, client)
        found = sorted(record.to_text() for rrset in reply.answer for record in rrset)
        return found or dns.rcode.to_text(reply.rcode())


@pytest.fixture
def world() -> World:
    made = World()
    made.services.put(service("web", "10.96.0.10", "fd00:1::10"))
    made.services.put(service("db", headless=True))
    made.services.put(service("plain", "10.79.0.5", foreign=False, namespace="default"))
    made.stand("shop", "db", backend("10.0.0.1", "db-0"), backend("10.0.0.2"), backend("fd00::2"))
    return made


@pytest.mark.parametrize(
    "name",
    ["web.shop", "web.shop.plait.local", f"web.shop.{CLUSTER}", "WEB.Shop.SVC.cluster.local"],
)
def test_a_service_has_its_addresses(world: World, name: str) -> None:
    assert world(name) == ["10.96.0.10"]
    assert world(name, "AAAA") == ["fd00:1::10"]
    assert world(name, "MX") == "NOERROR"
    assert world(name, "ANY") == ["10.96.0.10", "fd00:1::10"]


def test_a_service_of_the_askers_namespace_has_a_short_name(world: World) -> None:
    assert world("plain") == ["10.79.0.5"]
    assert world("plain.default.plait.local") == ["10.79.0.5"]


def test_a_service_goes_before_endpoints_of_its_name(world: World) -> None:
    world.zone.put(endpoint("5", "plain", "10.0.0.50", namespace="default"))
    assert world("plain") == ["10.79.0.5"]
    world.services.delete("default", "plain")
    assert world("plain") == ["10.0.0.50"]
    world.services.put(service("plain", "10.79.0.6", namespace="default"))
    assert world("plain") == ["10.79.0.6"]


def test_what_shares_no_network_sees_no_service(world: World) -> None:
    red = "10.1.0.9"
    assert world("web.shop.plait.local", client=red) == "NXDOMAIN"
    assert world(f"web.shop.{CLUSTER}", client=red) == "NXDOMAIN"
    assert world(f"shop.{CLUSTER}", client=red) == "NXDOMAIN"
    assert isinstance(world.decide("web.shop", client=red)[0], Forward)
    assert world("10.0.96.10.in-addr.arpa", "PTR", client="host") == ["web.shop.svc.cluster.local."]
    assert isinstance(world.decide("10.0.96.10.in-addr.arpa", "PTR", client=red)[0], Forward)


def test_the_host_knows_full_names(world: World) -> None:
    assert world(f"web.shop.{CLUSTER}", client="host") == ["10.96.0.10"]
    assert isinstance(world.decide("web.shop", client="host")[0], Forward)


def test_headless_services_have_the_addresses_of_their_ready_backends(world: World) -> None:
    name = f"db.shop.{CLUSTER}"
    assert world(name) == ["10.0.0.1", "10.0.0.2"]
    assert world(name, "AAAA") == ["fd00::2"]
    world.stand("shop", "db", backend("10.0.0.1", "db-0", ready=False), backend("10.0.0.2"))
    assert world(name) == ["10.0.0.2"]
    assert world(f"db-0.{name}") == "NXDOMAIN"
    world.services.put(service("db", headless=True, publish_not_ready=True))
    assert world(name) == ["10.0.0.1", "10.0.0.2"]
    world.stand("shop", "db")
    assert world(name) == "NXDOMAIN"
    assert world(name, "AAAA") == "NXDOMAIN"


def test_backends_have_names_of_their_own(world: World) -> None:
    assert world(f"db-0.db.shop.{CLUSTER}") == ["10.0.0.1"]
    assert world("db-0.db.shop") == ["10.0.0.1"]
    assert world("db-0.db.shop.plait.local") == ["10.0.0.1"]
    assert world(f"10-0-0-2.db.shop.{CLUSTER}") == ["10.0.0.2"]
    assert world(f"fd00--2.db.shop.{CLUSTER}", "AAAA") == ["fd00::2"]
    assert world(f"fd00--2.db.shop.{CLUSTER}") == "NOERROR"
    for nobody in ("10-0-0-1", "10-0-0-3", "db-1", "a.db-0"):
        assert world(f"{nobody}.db.shop.{CLUSTER}") == "NXDOMAIN"


def test_named_ports_have_srv_records(world: World) -> None:
    web = f"web.shop.{CLUSTER}"
    assert world(f"_http._tcp.{web}", "SRV") == [f"0 100 80 {web}."]
    assert world(f"_dns._udp.{web}", "SRV") == [f"0 100 53 {web}."]
    assert world("_http._tcp.web.shop", "SRV") == ["0 100 80 web.shop.plait.local."]
    assert world(f"_http._tcp.{web}") == "NOERROR"
    assert world(f"_tcp.{web}", "SRV") == "NOERROR"
    for nothing in ("_http._udp", "_https._tcp", "http._tcp", "_sctp", "_x._http._tcp"):
        assert world(f"{nothing}.{web}", "SRV") == "NXDOMAIN"


def test_headless_services_have_an_srv_record_of_each_backend(world: World) -> None:
    db = f"db.shop.{CLUSTER}"
    targets = ["10-0-0-2", "db-0", "fd00--2"]
    assert world(f"_http._tcp.{db}", "SRV") == [f"0 33 8080 {each}.{db}." for each in targets]
    for each in targets:
        assert world(f"{each}.{db}", "ANY") != "NXDOMAIN"


def test_unnamed_ports_have_no_srv_records(world: World) -> None:
    world.services.put(service("bare", "10.96.0.11", ports=(ServicePort(port=80),)))
    assert world(f"_tcp.bare.shop.{CLUSTER}", "SRV") == "NXDOMAIN"


def test_addresses_lead_back_to_services(world: World) -> None:
    assert world("10.0.96.10.in-addr.arpa", "PTR") == ["web.shop.svc.cluster.local."]
    assert world("5.0.79.10.in-addr.arpa", "PTR") == ["plain.default.plait.local."]
    assert world("10.0.96.10.in-addr.arpa", "A") == "NOERROR"
    reverse = "0.1." + "0." * 18 + "1.0.0.0." + "0.0.d.f.ip6.arpa"
    assert isinstance(world.decide(reverse, "PTR")[0], Forward)
    six = ".".join(reversed("fd000001000000000000000000000010")) + ".ip6.arpa"
    assert world(six, "PTR") == ["web.shop.svc.cluster.local."]


def test_addresses_of_backends_with_a_hostname_lead_back_to_it(world: World) -> None:
    one = "1.0.0.10.in-addr.arpa"
    assert world(one, "PTR") == ["db-0.db.shop.svc.cluster.local."]
    world.stand("shop", "db", backend("10.0.0.1"))
    assert world(one, "PTR") == ["web-0.shop.plait.local."]
    world.stand("shop", "db", backend("10.0.0.1", "db-7"))
    assert world(one, "PTR") == ["db-7.db.shop.svc.cluster.local."]
    world.services.delete("shop", "db")
    assert world(one, "PTR") == ["web-0.shop.plait.local."]


def test_pods_have_names_by_the_address_that_they_have(world: World) -> None:
    assert world("10-0-0-1.shop.pod.cluster.local") == ["10.0.0.1"]
    assert world("10-0-0-1.default.pod.cluster.local") == "NXDOMAIN"
    assert world("10-0-0-7.shop.pod.cluster.local") == "NXDOMAIN"
    world.services.put_pod(pod("p", "10.0.0.7", "fd00::7"))
    assert world("10-0-0-7.shop.pod.cluster.local") == ["10.0.0.7"]
    assert world("fd00--7.shop.pod.cluster.local", "AAAA") == ["fd00::7"]
    assert world("10-0-0-7.shop.pod.cluster.local", client="10.1.0.9") == "NXDOMAIN"
    world.services.put_pod(pod("p", "10.0.0.7", finished=True))
    assert world("10-0-0-7.shop.pod.cluster.local") == "NXDOMAIN"
    world.services.put_pod(pod("agent", "192.0.2.11", host_network=True))
    assert world("192-0-2-11.shop.pod.cluster.local", client="10.1.0.9") == ["192.0.2.11"]
    world.services.delete_pod("shop", "agent")
    assert world("192-0-2-11.shop.pod.cluster.local", client="10.1.0.9") == "NXDOMAIN"


@pytest.mark.parametrize(
    ("name", "qtype", "outcome"),
    [
        ("dns-version.cluster.local", "TXT", ['"1.1.0"']),
        ("dns-version.cluster.local", "A", "NOERROR"),
        ("cluster.local", "A", "NOERROR"),
        ("svc.cluster.local", "A", "NOERROR"),
        ("pod.cluster.local", "A", "NOERROR"),
        ("shop.svc.cluster.local", "A", "NOERROR"),
        ("shop.pod.cluster.local", "A", "NOERROR"),
        ("nowhere.svc.cluster.local", "A", "NXDOMAIN"),
        ("web.cluster.local", "A", "NXDOMAIN"),
        ("example.com.shop.svc.cluster.local", "A", "NXDOMAIN"),
        ("example.com.svc.cluster.local", "A", "NXDOMAIN"),
        ("example.com.cluster.local", "A", "NXDOMAIN"),
        ("cluster.local", "AXFR", "REFUSED"),
        ("web.shop.svc.cluster.local", "IXFR", "REFUSED"),
        ("plait.local", "AXFR", "REFUSED"),
    ],
)
def test_the_rest_of_the_domain(world: World, name: str, qtype: str, outcome: Any) -> None:
    assert world(name, qtype) == outcome


def test_no_is_good_for_a_second_and_of_the_domain_that_was_asked(world: World) -> None:
    reply = world.reply("nowhere.cluster.local")
    (soa,) = reply.authority
    assert (str(soa.name), soa.ttl, soa[0].minimum) == ("cluster.local.", 1, 1)
    assert str(world.reply("cluster.local", "SOA").answer[0][0].mname) == "ns.cluster.local."
    assert reply.flags & dns.flags.AA


def test_kubernetes_domain_is_ours_only_where_kubernetes_is() -> None:
    world = World()
    world.services.put(service("web", "10.79.0.5", foreign=False))
    for name in (f"web.shop.{CLUSTER}", "cluster.local", "nothing.cluster.local"):
        assert isinstance(world.decide(name)[0], Forward)
    world.services.put_pod(pod("p", "10.0.0.7"))
    assert world(f"web.shop.{CLUSTER}") == ["10.79.0.5"]
    assert world("nothing.cluster.local") == "NXDOMAIN"
    world.services.delete_pod("shop", "p")
    assert isinstance(world.decide(f"web.shop.{CLUSTER}")[0], Forward)


def test_the_domain_is_a_setting(world: World) -> None:
    world.zone.set_domain("plait.local", "k8s.example.org")
    assert world("web.shop.svc.k8s.example.org") == ["10.96.0.10"]
    assert isinstance(world.decide(f"web.shop.{CLUSTER}")[0], Forward)


# Aliases


def test_an_alias_inside_is_followed(world: World) -> None:
    world.services.put(service("a", type="ExternalName", external_name=f"b.shop.{CLUSTER}"))
    world.services.put(service("b", type="ExternalName", external_name="WEB.shop.plait.local."))
    reply = world.reply(f"a.shop.{CLUSTER}")
    chain = [(str(r.name), dns.rdatatype.to_text(r.rdtype)) for r in reply.answer]
    assert chain == [
        (f"a.shop.{CLUSTER}.", "CNAME"),
        (f"b.shop.{CLUSTER}.", "CNAME"),
        ("web.shop.plait.local.", "A"),
    ]
    assert reply.answer[-1][0].to_text() == "10.96.0.10"
    assert world(f"a.shop.{CLUSTER}", "CNAME") == [f"b.shop.{CLUSTER}."]
    world.services.delete("shop", "web")
    reply = world.reply(f"a.shop.{CLUSTER}")
    assert dns.rcode.to_text(reply.rcode()) == "NXDOMAIN"
    assert len(reply.answer) == 2


def test_aliases_in_a_circle_end(world: World) -> None:
    world.services.put(service("a", type="ExternalName", external_name=f"a.shop.{CLUSTER}"))
    assert world(f"a.shop.{CLUSTER}") == "SERVFAIL"


def test_an_alias_for_a_name_outside_is_asked_for_and_answered_with_both(world: World) -> None:
    world.services.put(service("ext", type="ExternalName", external_name="db.example.com"))
    decision, query = world.decide(f"EXT.shop.{CLUSTER}")
    assert isinstance(decision, Aliased)
    assert decision.forward.servers == (UPSTREAM,)
    ask = AskAlias(decision.forward.servers, query, "10.0.0.9", wire.TCP_MAX, decision.alias)
    asked = dns.message.from_wire(ask.pack(7))
    assert str(asked.question[0].name) == "db.example.com."
    upstream = dns.message.make_response(asked)
    upstream.answer = [
        dns.rrset.from_text("db.example.com.", 60, "IN", "CNAME", "x.example.net."),
        dns.rrset.from_text("x.example.net.", 30, "IN", "A", "192.0.2.1", "192.0.2.2"),
    ]
    response = ask.believed(upstream.to_wire(), 7)
    assert response is not None
    reply = dns.message.from_wire(ask.render(response, 10))
    assert str(reply.question[0].name) == f"EXT.shop.{CLUSTER}."
    names = [(str(r.name).lower(), r.ttl) for r in reply.answer]
    assert names == [(f"ext.shop.{CLUSTER}.", 1), ("db.example.com.", 20), ("x.example.net.", 20)]
    assert sorted(r.to_text() for r in reply.answer[-1]) == ["192.0.2.1", "192.0.2.2"]
    none = dns.message.make_response(asked)
    none.set_rcode(dns.rcode.NXDOMAIN)
    response = ask.believed(none.to_wire(), 7)
    assert response is not None
    reply = dns.message.from_wire(ask.render(response, 0))
    assert dns.rcode.to_text(reply.rcode()) == "NXDOMAIN"
    assert [dns.rdatatype.to_text(r.rdtype) for r in reply.answer] == ["CNAME"]
    assert dns.rcode.to_text(dns.message.from_wire(ask.failure()).rcode()) == "SERVFAIL"


def test_nothing_outside_is_asked_from_an_internal_network(world: World) -> None:
    world.services.put(
        service("ext", type="ExternalName", external_name="a.example", network="inner")
    )
    assert world(f"ext.shop.{CLUSTER}", client="10.2.0.9") == "NXDOMAIN"


# Large answers


def test_many_backends_are_whole_by_tcp_and_cut_by_udp(world: World) -> None:
    world.stand("shop", "db", *(backend(f"10.0.{i >> 8}.{i & 255}") for i in range(1500)))
    decision, query = world.decide(f"db.shop.{CLUSTER}")
    whole = dns.message.from_wire(decision.reply_to(query, wire.TCP_MAX))
    assert len(whole.answer[0]) == 1500
    cut = decision.reply_to(query, query.udp_limit)
    assert len(cut) <= query.udp_limit
    reply = dns.message.from_wire(cut, ignore_trailing=True)
    assert reply.flags & dns.flags.TC
    assert len(reply.answer[0]) > 50
    decision, query = world.decide(f"_http._tcp.db.shop.{CLUSTER}", "SRV")
    message = decision.reply_to(query, wire.TCP_MAX)
    assert len(message) <= wire.TCP_MAX
    assert dns.message.from_wire(message).flags & dns.flags.TC


# What is kept


def test_a_change_of_one_service_leaves_answers_about_others(world: World) -> None:
    for i in range(50):
        world.services.put(service(f"s{i}", f"10.96.1.{i}"))
        world(f"s{i}.shop.{CLUSTER}")
    scope = world.zone.scope("10.0.0.9")
    assert scope is not None
    before = len(scope.answers)
    assert before >= 50
    world.stand("shop", "s7", backend("10.0.0.8"))
    assert len(scope.answers) == before - 1
    world.zone.put(endpoint("77", "other", "10.0.0.77"))
    assert len(scope.answers) == before - 1


def test_what_is_kept_is_bounded_whatever_is_asked_and_changes() -> None:
    scope = Scope(frozenset({"blue"}), "default")
    answer = wire.Answer(wire.NOERROR)
    most = 0
    for i in range(70_000):
        scope.keep(b"%d" % i, answer, ((b"shop", b"a"), (b"shop", b"b")))
        scope.forget([(b"shop", b"a")])
        most = max(most, sum(map(len, scope._hanging.values())))
    assert not scope.answers
    assert most <= 4 * MAX_ANSWERS_KEPT


NAMES = (
    "web",
    "web.shop",
    f"web.shop.{CLUSTER}",
    f"_http._tcp.web.shop.{CLUSTER}",
    f"h1.web.shop.{CLUSTER}",
    f"10-0-0-4.web.shop.{CLUSTER}",
    "10-0-0-4.shop.pod.cluster.local",
    "4.0.0.10.in-addr.arpa",
    "10.0.96.10.in-addr.arpa",
    "web.default.plait.local",
    "h1.web.shop",
    "a.web.shop",
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("service"),
                st.sampled_from(["shop", "default"]),
                st.sampled_from(["10.96.0.10", "10.96.0.11", "", "alias"]),
                st.booleans(),
            ),
            st.tuples(st.just("gone"), st.sampled_from(["shop", "default"])),
            st.tuples(
                st.just("stand"),
                st.lists(st.sampled_from(["10.0.0.4", "10.0.0.5"]), unique=True),
                st.sampled_from(["", "h1"]),
                st.booleans(),
            ),
            st.tuples(
                st.just("endpoint"),
                st.sampled_from(["web", "a.web", "h1"]),
                st.sampled_from(["10.0.0.4", "10.0.0.6"]),
            ),
            st.tuples(st.just("left")),
            st.tuples(st.just("pod"), st.booleans()),
        ),
        max_size=8,
    )
)
def test_kept_answers_are_those_that_a_new_zone_would_give(changes: list[Any]) -> None:
    """Whatever changes, and whatever was asked between: nothing stale is ever said."""
    world, fresh = World(), World()
    for change in changes:
        for one in (world, fresh):
            _apply(one, *change)
        fresh.zone._forget_scopes()
        for name in NAMES:
            qtype = "SRV" if name[0] == "_" else "PTR" if name.endswith("arpa") else "A"
            assert _outcome(world, name, qtype) == _outcome(fresh, name, qtype), name
        fresh.zone._forget_scopes()


def _outcome(world: World, name: str, qtype: str) -> Any:
    decision, _ = world.decide(name, qtype)
    if isinstance(decision, wire.Answer):
        return world(name, qtype)
    return decision if isinstance(decision, Forward) else decision.alias.records


def _apply(world: World, what: str, *told: Any) -> None:
    match what:
        case "service":
            namespace, address, foreign = told
            spec: dict[str, Any] = {"headless": not address}
            if address == "alias":
                spec = {"type": "ExternalName", "external_name": "web.shop.plait.local"}
                address = ""
            addresses = (address,) if address else ()
            world.services.put(
                service("web", *addresses, namespace=namespace, foreign=foreign, **spec)
            )
        case "gone":
            world.services.delete(told[0], "web")
        case "stand":
            addresses, name, ready = told
            world.stand("shop", "web", *(backend(a, name, ready=ready) for a in addresses))
        case "endpoint":
            world.zone.put(endpoint("e", *told))
        case "left":
            world.zone.delete("shop", "e")
        case "pod":
            world.services.put_pod(pod("p", "10.0.0.4", finished=told[0]))
