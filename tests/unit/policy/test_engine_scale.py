"""A large network: what one change costs is counted, in labels held against selectors and in
members that a programmer must write. No times: see `bench/policy.py`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from plait.model.members import Members
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    Metadata,
    NamedPort,
    Namespace,
    Policy,
)
from plait.model.policies import Peer, PolicySpec, Port, Rule, Subject
from plait.model.ruleset import Ruleset
from plait.model.selectors import NAMESPACE_NAME, Selector
from plait.policy.engine import Engine, LocalParty

ENDPOINTS, POLICIES, SPACES, NODES = 5_000, 1_000, 100, 20


def label(key: str, value: str) -> Selector:
    return Selector(match_labels={key: value})


def endpoint(number: int) -> Endpoint:
    return Endpoint(
        metadata=Metadata(
            name=f"e{number}",
            namespace=f"ns{number % SPACES}",
            labels={"app": f"app{number % 250}", "tier": ("web", "api", "db")[number % 3]},
        ),
        spec=EndpointSpec(
            node=f"node{number // SPACES % NODES}",
            network="net",
            name=f"e{number}",
            addresses=(f"10.64.{number // 256}.{number % 256}", f"fd66::{number:x}"),
            named_ports=(NamedPort(name="http", protocol="tcp", port=8080),),
        ),
    )


def policy(number: int, *more: Rule) -> Policy:
    """Closes one tier of a namespace but for an app and for teams."""
    space = number % SPACES
    app = Peer(
        namespaces=label(NAMESPACE_NAME, f"ns{space}"), endpoints=label("app", f"app{space}")
    )
    team = Peer(namespaces=label("team", f"t{number % 10}"))
    tcp = (Port(protocol="TCP", port=80), Port(port="http"))
    return Policy(
        metadata=Metadata(name=f"p{number}"),
        spec=PolicySpec(
            subject=Subject(
                namespaces=label(NAMESPACE_NAME, f"ns{space}"),
                endpoints=label("tier", ("web", "api", "db")[number % 3]),
            ),
            ingress=(Rule(peers=(app, team), ports=tcp), *more),
            egress=(Rule(peers=(team, Peer(cidr="172.16.0.0/12"))),),
        ),
    )


class Watch:
    """What a change costs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ruleset = engine.ruleset()
        self._sets = dict(self._members(self.ruleset))
        self._serials = {name: members.serial for name, members in self._sets.items()}
        self._evaluated = engine.evaluated

    @staticmethod
    def _members(ruleset: Ruleset) -> Iterator[tuple[str, Members[object]]]:
        yield from ruleset.sets.items()  # type: ignore[misc]
        yield from ruleset.sockets.items()  # type: ignore[misc]

    def cost(self) -> tuple[int, int]:
        """Labels held against selectors, and members to write."""
        after = self.engine.ruleset()
        written = 0
        for name, members in self._members(after):
            if self._sets.get(name) is members:
                change = members.since(self._serials[name])
                assert change is not None
                written += len(change.added) + len(change.removed)
            else:
                written += len(members)
        return self.engine.evaluated - self._evaluated, written


@pytest.fixture(scope="module")
def network() -> Engine:
    engine = Engine("node0")
    for number in range(SPACES):
        labels = {"team": f"t{number % 10}"}
        engine.put(Namespace(metadata=Metadata(name=f"ns{number}", labels=labels)))
    for number in range(POLICIES):
        engine.put(policy(number))
    for number in range(ENDPOINTS):
        made = endpoint(number)
        engine.put(made)
        if made.spec.node == "node0":
            engine.set_local(made.metadata.name, party(made))
    engine.ruleset()
    return engine


def party(of: Endpoint) -> LocalParty:
    spec = of.spec
    return LocalParty(
        namespace=of.metadata.namespace,
        names=(spec.name,),
        labels=of.metadata.labels,
        network=spec.network,
        addresses=spec.addresses,
        named_ports=spec.named_ports,
    )


def test_all_of_it_is_there_once(network: Engine) -> None:
    ruleset = network.ruleset()
    assert len(ruleset.chains) == 2 * POLICIES
    # An app in each namespace, and the teams: shared by all policies that name them.
    assert len(ruleset.sets) == SPACES + 10
    assert len(ruleset.dispatch) == 2 * 300
    assert len(ruleset.classes) <= 2 * 300


def test_an_endpoint_that_comes_is_a_handful_of_elements(network: Engine) -> None:
    watch = Watch(network)
    new = endpoint(ENDPOINTS + 102)
    assert new.spec.node != "node0"
    network.put(new)
    evaluated, written = watch.cost()
    assert evaluated <= 10
    # Its two addresses, in the set of its team and as a named port.
    assert written == 4
    for table in ("chains", "classes", "dispatch", "sets"):
        assert getattr(network.ruleset(), table) is getattr(watch.ruleset, table)
    watch = Watch(network)
    network.delete(new)
    evaluated, written = watch.cost()
    assert (evaluated <= 10, written) == (True, 4)


def test_a_local_endpoint_that_comes_is_dispatched_to_a_class_that_is_there(
    network: Engine,
) -> None:
    watch = Watch(network)
    twin = msgspec.structs.replace(party(endpoint(0)), addresses=("10.99.0.1",), named_ports=())
    network.set_local("twin", twin)
    evaluated, written = watch.cost()
    assert evaluated <= 40
    assert written <= 2
    after = network.ruleset()
    assert after.classes is watch.ruleset.classes
    assert after.dispatch["10.99.0.1"] == after.dispatch["10.64.0.0"]
    network.set_local("twin", None)
    assert network.ruleset().dispatch == watch.ruleset.dispatch


def test_a_policy_that_changes_is_one_chain(network: Engine) -> None:
    watch = Watch(network)
    network.put(policy(7, Rule(peers=(Peer(endpoints=label("app", "app9")),))))
    evaluated, written = watch.cost()
    after = network.ruleset()
    chains = watch.ruleset.chains
    changed = [name for name, chain in after.chains.items() if chains[name] is not chain]
    # The compiler makes both of its directions anew, and one of them is the same as before.
    assert [name for name in changed if after.chains[name] != chains[name]] == changed[:1]
    assert evaluated <= ENDPOINTS // 250
    assert written == 2 * ENDPOINTS // 250
    assert after.classes is watch.ruleset.classes
    assert after.dispatch is watch.ruleset.dispatch
    network.put(policy(7))
    assert network.ruleset().chains == chains


def test_a_namespace_that_changes_concerns_its_endpoints(network: Engine) -> None:
    watch = Watch(network)
    network.put(Namespace(metadata=Metadata(name="ns3", labels={"team": "t4"})))
    evaluated, written = watch.cost()
    here = ENDPOINTS // SPACES
    assert written == 2 * 2 * here
    # Every scope before and after, in both files, then the endpoints of the namespace.
    assert evaluated <= 2 * 2 * (SPACES + 10) + 2 * here
    network.put(Namespace(metadata=Metadata(name="ns3", labels={"team": "t3"})))
    network.ruleset()
