"""Decisions: what a client gets for a question, read back by dnspython."""

from __future__ import annotations

import random

import dns.message
import dns.rcode
import pytest

from plait.dns.resolver import Forward, Resolver
from plait.dns.zone import Zone
from plait.model import marks
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
)
from plait.wire import dns as wire

HOST_SERVERS = (("192.0.2.53", 53), (marks.GATEWAY4, 53))
OURS = (marks.GATEWAY4, 53)
QUAD9 = ("9.9.9.9", 53)


def endpoint(
    ident: str, name: str, network: str, *addresses: str, namespace: str = "default"
) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=ident, namespace=namespace),
        spec=EndpointSpec(node="h", network=network, name=name, addresses=addresses),
        status=EndpointStatus(phase="ready"),
    )


def network(name: str, *pools: str, internal: bool = False) -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, internal=internal))


class Asker:
    """Asks as a client with an address would."""

    def __init__(self) -> None:
        self.zone = Zone()
        self.zone.replace(
            [
                endpoint("1", "client", "blue", "10.0.0.9", "fd00::9"),
                endpoint("2", "web", "blue", "10.0.0.1", "fd00::1"),
                endpoint("3", "web", "blue", "10.0.0.2"),
                endpoint("4", "web", "red", "10.1.0.1"),
                endpoint("5", "web", "blue", "10.0.0.3", namespace="shop"),
                endpoint("6", "shut", "inner", "10.2.0.1"),
            ],
            [
                network("blue", "10.0.0.0/24", "fd00::/64"),
                network("red", "10.1.0.0/24"),
                network("inner", "10.2.0.0/24", internal=True),
            ],
        )
        self.resolver = Resolver(self.zone, lambda: HOST_SERVERS, rng=random.Random(1))

    def __call__(
        self,
        name: str,
        qtype: str = "A",
        *,
        client: str = "10.0.0.9",
        to: tuple[str, int] = OURS,
        qclass: str = "IN",
    ) -> dns.message.Message | Forward:
        message = dns.message.make_query(name, qtype, qclass, use_edns=0)
        query = wire.parse_query(message.to_wire())
        scope = self.zone.host if client == "host" else self.zone.scope(client)
        decision = self.resolver.decide(scope, query, to)
        if isinstance(decision, Forward):
            return decision
        return dns.message.from_wire(decision.reply_to(query, 65535))

    def texts(self, name: str, qtype: str = "A", *, client: str = "10.0.0.9") -> list[str]:
        reply = self(name, qtype, client=client)
        assert isinstance(reply, dns.message.Message)
        return [record.to_text() for rrset in reply.answer for record in rrset]

    def outcome(self, name: str, qtype: str = "A", *, client: str = "10.0.0.9") -> tuple[str, bool]:
        """rcode, and whether an SOA says how long that is good for."""
        reply = self(name, qtype, client=client)
        assert isinstance(reply, dns.message.Message)
        assert not reply.answer
        return dns.rcode.to_text(reply.rcode()), bool(reply.authority)


@pytest.fixture
def ask() -> Asker:
    return Asker()


@pytest.mark.parametrize("name", ["web", "WEB.Default", "web.default.plait.local"])
def test_addresses_of_a_name_in_the_clients_networks(ask: Asker, name: str) -> None:
    assert sorted(ask.texts(name)) == ["10.0.0.1", "10.0.0.2"]
    assert ask.texts(name, "AAAA") == ["fd00::1"]


def test_another_namespace_needs_its_name(ask: Asker) -> None:
    assert ask.texts("web.shop") == ["10.0.0.3"]
    assert ask.texts("web.shop.plait.local") == ["10.0.0.3"]


def test_each_address_has_its_turn_at_the_front(ask: Asker) -> None:
    assert {ask.texts("web")[0] for _ in range(4)} == {"10.0.0.1", "10.0.0.2"}


def test_both_families_on_request(ask: Asker) -> None:
    assert sorted(ask.texts("web", "ANY")) == ["10.0.0.1", "10.0.0.2", "fd00::1"]


@pytest.mark.parametrize(
    ("name", "qtype", "outcome"),
    [
        ("web", "MX", ("NOERROR", True)),
        ("web.shop", "AAAA", ("NOERROR", True)),
        ("web.default.plait.local", "HTTPS", ("NOERROR", True)),
        ("plait.local", "A", ("NOERROR", True)),
        ("default.plait.local", "A", ("NOERROR", True)),
        ("nope.default.plait.local", "A", ("NXDOMAIN", True)),
        ("nowhere.plait.local", "A", ("NXDOMAIN", True)),
        ("shut.default.plait.local", "A", ("NXDOMAIN", True)),
        (r"web\.default.plait.local", "A", ("NXDOMAIN", True)),
        ("9.9.0.0.10.in-addr.arpa", "PTR", ("NXDOMAIN", True)),
        ("99.0.0.10.in-addr.arpa", "PTR", ("NXDOMAIN", True)),
        ("1.0.1.10.in-addr.arpa", "PTR", ("NXDOMAIN", True)),
        ("1.0.0.10.in-addr.arpa", "A", ("NOERROR", True)),
        ("0.0.10.in-addr.arpa", "PTR", ("NOERROR", True)),
    ],
)
def test_what_is_not_there(ask: Asker, name: str, qtype: str, outcome: tuple[str, bool]) -> None:
    if name.startswith("9.9."):
        assert isinstance(ask(name, qtype), Forward)
    else:
        assert ask.outcome(name, qtype) == outcome


def test_negative_answers_are_forgotten_within_a_second(ask: Asker) -> None:
    reply = ask("nope.default.plait.local")
    assert isinstance(reply, dns.message.Message)
    soa = reply.authority[0]
    assert (str(soa.name), soa.ttl, soa[0].minimum) == ("plait.local.", 1, 1)
    apex = ask("plait.local", "SOA")
    assert isinstance(apex, dns.message.Message)
    assert apex.answer[0][0].mname.to_text() == "ns.plait.local."


def test_reverse_names_of_both_families(ask: Asker) -> None:
    six = "1" + ".0" * 23 + ".0.0.0.0.0.0.d.f"
    assert ask.texts("1.0.0.10.in-addr.arpa", "PTR") == ["web.default.plait.local."]
    assert ask.texts(six + ".ip6.arpa", "PTR") == ["web.default.plait.local."]
    assert ask.texts("1.0.1.10.in-addr.arpa", "PTR", client="host") == ["web.default.plait.local."]


@pytest.mark.parametrize(
    "name",
    [
        "example.org",
        "printer",
        "web.red",
        "shut",
        ".",
        "1.2.0.192.in-addr.arpa",
        "01.0.0.10.in-addr.arpa",
        "256.0.0.10.in-addr.arpa",
        "+1.ip6.arpa",
        "in-addr.arpa",
        r"web\.default",
    ],
)
def test_the_rest_goes_to_the_resolver_that_was_asked(ask: Asker, name: str) -> None:
    assert ask(name, to=QUAD9) == Forward((QUAD9,), verbatim=True)
    assert ask(name) == Forward((("192.0.2.53", 53),))


def test_the_host_sees_all_by_full_name_and_nothing_by_short_ones(ask: Asker) -> None:
    everywhere = sorted(ask.texts("web.default.plait.local", client="host"))
    assert everywhere == ["10.0.0.1", "10.0.0.2", "10.1.0.1"]
    assert isinstance(ask("web", client="host"), Forward)


def test_an_internal_network_has_names_inside_only_and_is_told_why(ask: Asker) -> None:
    inside = "10.2.0.1"
    assert ask.texts("shut", client=inside) == ["10.2.0.1"]
    for to in (OURS, QUAD9):
        reply = ask("example.org", client=inside, to=to)
        assert isinstance(reply, dns.message.Message)
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert "internal network" in reply.options[0].to_text()
    # A resolver inside the same network is no way out.
    assert ask("example.org", client=inside, to=("10.2.0.7", 53)) == Forward(
        (("10.2.0.7", 53),), True
    )


def test_nobody_reaches_another_network_through_the_resolver(ask: Asker) -> None:
    reply = ask("example.org", to=("10.1.0.7", 53))
    assert isinstance(reply, dns.message.Message)
    assert reply.rcode() == dns.rcode.REFUSED
    assert ask("example.org", to=("10.0.0.7", 53)) == Forward((("10.0.0.7", 53),), True)
    for nonsense in ("127.0.0.1", "224.0.0.1", "0.0.0.0", "::1"):
        assert isinstance(ask("example.org", to=(nonsense, 53)), dns.message.Message)


def test_the_gateway_is_our_own_address_too(ask: Asker) -> None:
    for gateway in ("10.0.0.1", "fd00::1"):
        assert ask("example.org", to=(gateway, 53)) == Forward((("192.0.2.53", 53),))
    spec = NetworkSpec(pools=("10.0.0.0/24",), gateways=("10.0.0.254",))
    ask.zone.put_network(Network(metadata=Metadata(name="blue"), spec=spec))
    assert ask("example.org", to=("10.0.0.254", 53)) == Forward((("192.0.2.53", 53),))
    assert ask("example.org", to=("10.0.0.1", 53)) == Forward((("10.0.0.1", 53),), True)


def test_strangers_and_other_classes_are_refused(ask: Asker) -> None:
    assert ask.outcome("web", client="10.0.0.77") == ("REFUSED", False)
    reply = ask("web", qclass="CH")
    assert isinstance(reply, dns.message.Message)
    assert reply.rcode() == dns.rcode.REFUSED


def test_a_change_is_seen_by_the_next_question(ask: Asker) -> None:
    scope = ask.zone.scope("10.0.0.9")
    assert scope is not None
    ask.texts("web")
    data = dns.message.make_query("web", "A").to_wire()
    assert ask.resolver.quick(scope, data) is not None
    ask.zone.put(endpoint("7", "elsewhere", "red", "10.1.0.2"))
    assert ask.resolver.quick(scope, data) is not None
    ask.zone.delete("default", "2")
    assert ask.resolver.quick(scope, data) is None
    assert ask.texts("web") == ["10.0.0.2"]


def test_names_that_do_not_exist_take_no_memory(ask: Asker) -> None:
    scope = ask.zone.scope("10.0.0.9")
    assert scope is not None
    for i in range(100):
        ask.outcome(f"n{i}.default.plait.local")
    assert not scope.answers


def test_a_crowd_shows_a_part_of_itself_and_rotates(ask: Asker) -> None:
    for i in range(2100):
        ask.zone.put(endpoint(f"c{i}", "crowd", "blue", f"10.0.{i >> 8}.{i & 255}"))
    seen = [ask.texts("crowd") for _ in range(4)]
    assert {len(texts) for texts in seen} == {2000}
    assert len({texts[0] for texts in seen}) == 2
