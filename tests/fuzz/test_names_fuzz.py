"""Whatever name is asked for: an answer that can be read, or the word to ask elsewhere."""

from __future__ import annotations

import random
import struct

import dns.message
import dns.rcode
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.test_dns_fuzz import mangled

from plait.dns.asks import AskAlias
from plait.dns.resolver import Aliased, Forward, Resolver
from plait.dns.zone import Zone
from plait.model import marks
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
    Service,
)
from plait.model.policies import Origin
from plait.model.services import ServicePort, ServiceSpec
from plait.services.backends import Backend
from plait.wire import dns as wire

HERE = (marks.GATEWAY4, marks.DNS_PORT)
WORDS = (
    b"web", b"db", b"ext", b"loop", b"shop", b"default", b"svc", b"pod", b"cluster", b"local",
    b"plait", b"_http", b"_tcp", b"_udp", b"db-0", b"10-0-0-1", b"fd00--1", b"dns-version",
    b"in-addr", b"ip6", b"arpa", b"10", b"0", b"1", b"9", b"96", b"WEB",
)  # fmt: skip
APEXES = (b"cluster local", b"plait local", b"svc cluster local", b"in-addr arpa", b"ip6 arpa", b"")


def service(name: str, **spec: object) -> Service:
    fields = {
        "network": "blue",
        "ports": (ServicePort(name="http", port=80),),
        "origin": Origin(kind="Service", name=name, namespace="shop"),
        **spec,
    }
    return Service(metadata=Metadata(name=name, namespace="shop"), spec=ServiceSpec(**fields))  # type: ignore[arg-type]


def a_zone() -> Zone:
    backends = (Backend("10.0.0.1", (80,), name="db-0"), Backend("fd00::1", (0,)))
    zone = Zone(backends=lambda _namespace, name: backends if name == "db" else ())
    asker = Endpoint(
        metadata=Metadata(name="e", namespace="shop"),
        spec=EndpointSpec(node="h", network="blue", name="web.db", addresses=("10.0.0.9",)),
        status=EndpointStatus(phase="ready"),
    )
    blue = Network(metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.0.0.0/24",)))
    zone.replace([asker], [blue])
    for made in (
        service("web", addresses=("10.96.0.1", "fd00:9::1")),
        service("db", headless=True),
        service("ext", type="ExternalName", external_name="www.example.org"),
        service("loop", type="ExternalName", external_name="loop.shop.svc.cluster.local"),
    ):
        zone.services.put(made)
    return zone


RESOLVER = Resolver(a_zone(), lambda: (("192.0.2.53", 53),), rng=random.Random(1))


@st.composite
def names(draw: st.DrawFn) -> bytes:
    """A name in wire form, mostly of words that mean something somewhere."""
    label = st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=63))
    labels = draw(st.lists(label, max_size=5)) + draw(st.sampled_from(APEXES)).split()
    wired = b"".join(bytes((len(one),)) + one for one in labels) + b"\0"
    return wired if len(wired) <= wire.MAX_NAME else b"\0"


@settings(max_examples=400, deadline=None)
@given(names(), st.sampled_from([1, 5, 6, 12, 16, 28, 33, 252, 255, 65]), st.booleans())
def test_every_name_has_an_answer_that_can_be_read(name: bytes, qtype: int, rd: bool) -> None:
    data = (
        struct.pack("!6H", 7, 0x100 if rd else 0, 1, 0, 0, 0) + name + struct.pack("!2H", qtype, 1)
    )
    query = wire.parse_query(data)
    for scope in (RESOLVER.zone.host, RESOLVER.zone.scope("10.0.0.9")):
        assert scope is not None
        decision = RESOLVER.decide(scope, query, HERE)
        if isinstance(decision, Forward):
            continue
        if isinstance(decision, Aliased):
            ask = AskAlias(decision.forward.servers, query, "10.0.0.9", 512, decision.alias)
            dns.message.from_wire(ask.failure())
            continue
        for limit in (512, wire.TCP_MAX):
            reply = decision.reply_to(query, limit)
            assert len(reply) <= max(limit, len(data) + 200)
            dns.message.from_wire(reply)
        quick = RESOLVER.quick(scope, data)
        assert quick is None or quick[3] & 0xF == decision.rcode


def _upstream() -> bytes:
    query = dns.message.make_query("www.example.org", "A", use_edns=0)
    reply = dns.message.make_response(query)
    reply.answer = [
        dns.rrset.from_text("www.example.org.", 60, "IN", "CNAME", "a.example.net."),
        dns.rrset.from_text("a.example.net.", 60, "IN", "A", "192.0.2.1"),
    ]
    return reply.to_wire()


@settings(max_examples=300, deadline=None)
@given(mangled(_upstream()), st.integers(0, 100_000))
def test_whatever_stands_behind_an_alias_the_answer_can_be_read(data: bytes, age: int) -> None:
    asked = dns.message.make_query("ext.shop.svc.cluster.local", "A", use_edns=0).to_wire()
    query = wire.parse_query(asked)
    decision = RESOLVER.decide(RESOLVER.zone.host, query, HERE)
    assert isinstance(decision, Aliased)
    ask = AskAlias(decision.forward.servers, query, "10.0.0.9", 1232, decision.alias)
    response = ask.believed(data, int.from_bytes(data[:2], "big"))
    if response is not None:
        rendered = ask.render(response, age)
        assert len(rendered) <= 1232
        assert dns.message.from_wire(rendered).answer
