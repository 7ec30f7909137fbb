"""What the engine of one host knows, and what it leaves out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    NamedPort,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
)
from plait.model.policies import (
    Group,
    GroupSpec,
    Peer,
    Policy,
    PolicySpec,
    Port,
    Rule,
    ServiceRef,
    Subject,
)
from plait.model.ruleset import Classes, Ruleset, Socket
from plait.model.selectors import Selector
from plait.model.services import (
    EndpointSlice,
    EndpointSliceSpec,
    Service,
    ServiceSpec,
    SliceEndpoint,
)
from plait.policy.engine import REMEMBERED, Engine, LocalParty
from plait.policy.walk import Packet, walk

WEB = Selector(match_labels={"app": "web"})


def endpoint(name: str, address: str = "10.0.0.9", node: str = "there", **labels: str) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=name, namespace="x", labels=labels),
        spec=EndpointSpec(
            node=node,
            network="net",
            name=name,
            addresses=(address,),
            named_ports=(NamedPort(name="http", protocol="tcp", port=8080),),
        ),
    )


def policy(name: str = "p", **spec: Any) -> Policy:
    return Policy(metadata=Metadata(name=name), spec=PolicySpec(**spec))


def party(address: str = "10.0.0.1", namespace: str = "x", **labels: str) -> LocalParty:
    return LocalParty(namespace=namespace, labels=labels, network="net", addresses=(address,))


def engine(*objects: AnyObject, **locals_: LocalParty) -> Engine:
    made = Engine("here")
    for obj in objects:
        made.put(obj)
    for ident, local in locals_.items():
        made.set_local(ident, local)
    return made


FROM_WEB = policy(ingress=(Rule(peers=(Peer(endpoints=WEB),)),))


def members(ruleset: Ruleset) -> set[str]:
    return {address for found in ruleset.sets.values() for address in found}


def test_nothing_is_nothing() -> None:
    made = Engine("here")
    assert made.ruleset() is made.ruleset()
    assert made.ruleset() == Ruleset()
    made.put(Network(metadata=Metadata(name="net")))
    made.delete(FROM_WEB)
    made.set_local("e", None)
    assert made.ruleset() == Ruleset()


def test_an_endpoint_without_policies_is_not_dispatched() -> None:
    only = policy(subject=Subject(endpoints=WEB), ingress=(Rule(),))
    ruleset = engine(only, a=party(app="web"), b=party("10.0.0.2")).ruleset()
    assert set(ruleset.dispatch) == {"10.0.0.1"}
    assert ruleset.dispatch["10.0.0.1"].egress == ""


def test_policies_and_sets_of_others_are_not_there() -> None:
    elsewhere = policy("q", subject=Subject(endpoints=WEB), ingress=(Rule(),))
    ruleset = engine(FROM_WEB, elsewhere, endpoint("w", app="web"), a=party()).ruleset()
    assert len(ruleset.chains) == 1
    assert members(ruleset) == {"10.0.0.9"}
    assert engine(FROM_WEB, endpoint("w", app="web")).ruleset() == Ruleset()


def test_endpoints_of_the_same_policies_share_a_class() -> None:
    closed = policy("q", subject=Subject(endpoints=WEB), isolate=("ingress",))
    ruleset = engine(
        FROM_WEB, closed, a=party(), b=party("10.0.0.2"), c=party("10.0.0.3", app="web")
    ).ruleset()
    classes = [ruleset.dispatch[f"10.0.0.{n}"].ingress for n in (1, 2, 3)]
    assert classes[0] == classes[1] != classes[2]
    assert len(ruleset.classes) == 2


def test_a_change_far_away_changes_one_set_and_no_table() -> None:
    made = engine(FROM_WEB, a=party())
    before = made.ruleset()
    made.put(endpoint("w", app="web"))
    after = made.ruleset()
    assert after is not before
    assert after.serial == before.serial + 1
    for table in ("chains", "classes", "dispatch", "sets", "sockets", "domains"):
        assert getattr(after, table) is getattr(before, table)
    made.put(endpoint("w", app="web"))
    made.put(endpoint("v", "10.0.0.8", app="api"))
    assert made.ruleset() is after


def test_a_server_copy_of_an_endpoint_of_this_node_is_ignored() -> None:
    made = engine(FROM_WEB, endpoint("w", node="here", app="web"), a=party())
    assert members(made.ruleset()) == set()
    made.set_local("w", party("10.0.0.9", app="web"))
    assert members(made.ruleset()) == {"10.0.0.9"}
    # It moved here: the copy says so before it is local.
    moved = engine(FROM_WEB, endpoint("w", app="web"), a=party())
    assert members(moved.ruleset()) == {"10.0.0.9"}
    moved.put(endpoint("w", node="here", app="web"))
    assert members(moved.ruleset()) == set()


def test_labels_that_everybody_has() -> None:
    here = LocalParty(namespace="x", names=("web", "www"), network="shop", addresses=("10.0.0.2",))
    for selector in (
        {"name.plait/web": ""},
        {"name.plait/www": ""},
        {"plait/network": "shop"},
        {"plait/node": "here"},
    ):
        peer = Peer(endpoints=Selector(match_labels=selector))
        made = engine(policy(ingress=(Rule(peers=(peer,)),)), a=party(), b=here)
        assert "10.0.0.2" in members(made.ruleset()), selector


def test_nobody_gives_himself_the_labels_that_everybody_has() -> None:
    service = Peer(endpoints=Selector(match_labels={"name.plait/db": "", "plait/network": "shop"}))
    liar = endpoint("w", **{"name.plait/db": "", "plait/network": "shop"})
    fake = Namespace(metadata=Metadata(name="x", labels={"kubernetes.io/metadata.name": "y"}))
    of_y = Peer(namespaces=Selector(match_labels={"kubernetes.io/metadata.name": "y"}))
    made = engine(policy(ingress=(Rule(peers=(service, of_y)),)), fake, liar, a=party())
    assert members(made.ruleset()) == set()


def test_a_namespace_without_an_object_is_there() -> None:
    peer = Peer(namespaces=Selector(match_labels={"kubernetes.io/metadata.name": "x"}))
    made = engine(policy(ingress=(Rule(peers=(peer,)),)), endpoint("w"), a=party(namespace="y"))
    assert members(made.ruleset()) == {"10.0.0.9"}


def test_addresses_are_canonical_and_what_is_none_is_nobodys() -> None:
    odd = msgspec.structs.replace(
        endpoint("w", app="web"),
        spec=msgspec.structs.replace(
            endpoint("w").spec, addresses=("FD00:0::1", "fd00::1", "x", "10.0.0.300", "")
        ),
    )
    made = engine(FROM_WEB, odd, a=party())
    assert members(made.ruleset()) == {"fd00::1"}


def test_nodes_are_peers_by_their_addresses() -> None:
    node = Node(
        metadata=Metadata(name="n", labels={"app": "web"}),
        spec=NodeSpec(addresses=("192.0.2.1/24", "2001:db8::1/64")),
    )
    by_label = policy(ingress=(Rule(peers=(Peer(nodes=WEB),)),))
    made = engine(by_label, node, endpoint("w", app="web"), a=party())
    assert members(made.ruleset()) == {"192.0.2.1", "2001:db8::1"}
    heartbeat = msgspec.structs.replace(
        node, status=msgspec.structs.replace(node.status, last_seen="2026-01-01T00:00:00Z")
    )
    before = made.ruleset()
    made.put(heartbeat)
    assert made.ruleset() is before


def test_slices_are_peers_whenever_a_policy_names_their_service() -> None:
    def slice_of(name: str, address: str) -> EndpointSlice:
        told = EndpointSliceSpec(service="web", endpoints=(SliceEndpoint(addresses=(address,)),))
        return EndpointSlice(metadata=Metadata(namespace="x", name=name), spec=told)

    ref = ServiceRef(namespace="x", name="web")
    from_service = policy(ingress=(Rule(peers=(Peer(service=ref),)),))
    gone = slice_of("web-2", "10.0.0.8")
    made = engine(
        Service(metadata=Metadata(namespace="x", name="web"), spec=ServiceSpec()),
        slice_of("web-1", "10.0.0.9"),
        gone,
        a=party(),
    )
    made.delete(gone)
    assert members(made.ruleset()) == set()
    made.put(from_service)
    assert members(made.ruleset()) == {"10.0.0.9"}
    made.put(gone)
    made.put(slice_of("web-1", "10.0.0.7"))
    assert members(made.ruleset()) == {"10.0.0.7", "10.0.0.8"}
    made.delete(gone)
    assert members(made.ruleset()) == {"10.0.0.7"}


def test_named_ports_are_of_every_known_endpoint() -> None:
    to_http = policy(egress=(Rule(ports=(Port(port="http"),)),))
    made = engine(to_http, endpoint("w"), a=party())
    (sockets,) = made.ruleset().sockets.values()
    assert set(sockets) == {Socket("10.0.0.9", "tcp", 8080)}


def test_of_two_with_one_address_one_counts_whoever_came_first() -> None:
    strict = policy("q", subject=Subject(endpoints=WEB), isolate=("ingress", "egress"))
    for order in (("a", "b"), ("b", "a")):
        made = Engine("here")
        made.put(strict)
        for ident in order:
            made.set_local(ident, party(app="web") if ident == "a" else party())
        assert made.ruleset().dispatch["10.0.0.1"] != Classes("", "")
        made.set_local("a", None)
        assert made.ruleset().dispatch == {}
        made.set_local("b", None)
        assert made.ruleset().dispatch == {}


def test_the_guard_knows_everybody_but_only_while_it_stands() -> None:
    deny = policy(egress=(Rule(action="Deny", peers=(Peer(endpoints=WEB),)),))
    made = engine(deny, endpoint("w"), a=party())
    known = made.ruleset().known
    assert known is not None
    assert set(known) == {"10.0.0.9", "10.0.0.1"}
    made.put(endpoint("v", "10.0.0.8"))
    assert made.ruleset().known is known
    assert "10.0.0.8" in known
    made.put(policy(egress=deny.spec.egress, staged=True))
    before = made.ruleset()
    assert before.known is None
    made.put(endpoint("u", "10.0.0.7"))
    assert made.ruleset() is before


def test_a_guard_lets_gateways_pass() -> None:
    deny = policy(tier="admin", egress=(Rule(action="Deny", peers=(Peer(endpoints=WEB),)),))
    network = Network(metadata=Metadata(name="net"), spec=NetworkSpec(gateways=("10.0.0.1",)))
    made = engine(deny, network, local=party("10.0.0.2"))
    known = made.ruleset().known
    assert known is not None
    assert set(known) == {"10.0.0.1", "10.0.0.2"}
    made.put(network)
    made.delete(network)
    assert made.ruleset().known == known
    assert set(known) == {"10.0.0.2"}


# Groups


def group(**spec: Any) -> Group:
    return Group(metadata=Metadata(name="friends"), spec=GroupSpec(**spec))


def test_a_group_changes_the_rules_that_name_it() -> None:
    of_group = policy(ingress=(Rule(peers=(Peer(group="friends"),)),))
    made = engine(of_group, group(endpoints=WEB), endpoint("w", app="web"), a=party())
    assert members(made.ruleset()) == {"10.0.0.9"}
    made.put(group(cidrs=("192.0.2.0/24",)))
    ruleset = made.ruleset()
    (chain,) = ruleset.chains.values()
    assert ruleset.sets == {}
    assert chain.rules[0].ranges == ("192.0.2.0-192.0.2.255",)
    assert made.problems == {}
    made.delete(group())
    assert made.ruleset().chains == {}
    assert made.problems == {"p": "ingress rule 1: there is no group friends"}
    made.put(group(endpoints=WEB))
    assert members(made.ruleset()) == {"10.0.0.9"}
    assert made.problems == {}


# A bad policy beside a good one


def test_a_bad_rule_concerns_its_own_policy_only() -> None:
    bad = policy("bad", ingress=(Rule(peers=(Peer(cidr="x"),)),))
    made = engine(bad, FROM_WEB, endpoint("w", app="web"), a=party())
    ruleset = made.ruleset()
    assert set(made.problems) == {"bad"}
    for source, accepted in (("10.0.0.9", True), ("10.0.0.8", False)):
        assert walk(ruleset, Packet("ingress", source, "10.0.0.1")).accepted == accepted
    made.delete(bad)
    made.ruleset()
    assert made.problems == {}


def test_a_bad_policy_that_rules_nobody_here_is_no_problem_of_this_host() -> None:
    bad = policy("bad", subject=Subject(endpoints=WEB), ingress=(Rule(peers=(Peer(),)),))
    made = engine(bad, a=party())
    made.ruleset()
    assert made.problems == {}


# Meanings


def test_ids_mean_rules_and_isolation_also_a_while_after() -> None:
    made = engine(FROM_WEB, a=party())
    ruleset = made.ruleset()
    ((chain,), (found,)) = (ruleset.chains.values(), ruleset.classes.values())
    rule = made.meaning(chain.rules[0].id)
    deny = made.meaning(found.tiers[0].deny)
    assert rule is not None
    assert (rule.policy, rule.index, rule.action) == ("p", 0, "Accept")
    assert deny is not None
    assert (deny.isolating, deny.action, deny.direction) == (("p",), "Deny", "ingress")
    made.delete(FROM_WEB)
    assert made.ruleset().chains == {}
    assert made.meaning(chain.rules[0].id) == rule
    assert made.meaning(found.tiers[0].deny) == deny
    assert made.meaning("r00000000000") is None


def test_meanings_are_not_kept_for_ever() -> None:
    made = engine(a=party())
    first = ""
    for number in range(REMEMBERED // 50 + 2):
        rules = tuple(Rule(name=f"{number}/{n}", action="Deny") for n in range(50))
        made.put(policy(ingress=rules))
        (chain,) = made.ruleset().chains.values()
        first = first or chain.rules[0].id
    assert made.meaning(first) is None
    assert made.meaning(chain.rules[0].id) is not None


@pytest.mark.parametrize("change", ["staged", "priority", "isolate"])
def test_what_classes_depend_on_reaches_them(change: str) -> None:
    value: Any = {"staged": True, "priority": 1, "isolate": ()}[change]
    other = policy("a", ingress=(Rule(action="Deny", ports=(Port(protocol="ICMP"),)),))
    made = engine(FROM_WEB, other, a=party())
    before = made.ruleset()
    made.put(policy(**{"ingress": FROM_WEB.spec.ingress, change: value}))
    after = made.ruleset()
    assert before.classes != after.classes
    fresh = engine(policy(**{"ingress": FROM_WEB.spec.ingress, change: value}), other, a=party())
    assert after.classes == fresh.ruleset().classes
