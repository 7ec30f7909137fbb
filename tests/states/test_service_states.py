"""State, not path: what Services are in the kernel depends on the table alone."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise

import pytest
from tests.support.nft_hosts import FILTER, Doors, recorded, walks

from plait.agent.desired.filter_sets import AFFINITY, BACKENDS, OUTSIDE, SERVICES, SHAPE_PREFIX
from plait.agent.desired.service_chains import dispatch_chains, shape_name, shape_of
from plait.agent.desired.service_fill import key_of
from plait.agent.desired.service_shapes import Use, chooses
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.services import FilterServices
from plait.kernel import netns
from plait.kernel.conntrack import Conntrack, FakeConntrack
from plait.kernel.fake_nft import FakeNft
from plait.kernel.nft import Nft, NftDoor
from plait.model.entries import Entries
from plait.model.hoststate import HostState
from plait.model.members import Members
from plait.model.service_table import BackendAddress, Choice, Entry, Frontend, ServiceTable
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.ctnetlink import Flow, Tuple

WEB = Frontend("10.96.0.10", "tcp", 80)
WEB6 = Frontend("fd96::10", "tcp", 80)
DNS = Frontend("10.96.0.53", "udp", 53)
NODE = Frontend("0.0.0.0", "tcp", 30080)
NODE6 = Frontend("::", "udp", 30053)
VIP = Frontend("192.0.2.200", "sctp", 80)


def to(*hosts: int, six: bool = False, affinity: int = 0, unavailable: str = "reject") -> Choice:
    """A choice among these hosts of network a."""
    prefix = "fd01::" if six else "10.1.0."
    backends = tuple(sorted(BackendAddress(f"{prefix}{host}", 8080) for host in hosts))
    return Choice(backends, affinity, unavailable)  # type: ignore[arg-type]


def entry(inside: Choice, outside: Choice | None = None, sources: Iterable[str] = ()) -> Entry:
    return Entry("s1", inside, outside, tuple(sources))


STATES: dict[str, dict[Frontend, Entry]] = {
    "nothing": {},
    "one": {WEB: entry(to(1))},
    "two backends": {WEB: entry(to(1, 2))},
    "three": {WEB: entry(to(1, 2, 3)), DNS: entry(to(4))},
    "other backends": {WEB: entry(to(7, 8, 9))},
    "no backend": {WEB: entry(to()), DNS: entry(to(unavailable="drop"))},
    "both families": {WEB: entry(to(1, 2)), WEB6: entry(to(1, 2, six=True))},
    "affinity": {WEB: entry(to(1, 2, affinity=10800)), NODE: entry(to(1, 2, affinity=10800))},
    "shorter affinity": {WEB: entry(to(1, 2, affinity=60))},
    "node ports": {NODE: entry(to(1, 2)), NODE6: entry(to(1, six=True))},
    "local outside": {NODE: entry(to(1, 2), to(2)), VIP: entry(to(1, 2), to(unavailable="drop"))},
    "other local outside": {NODE: entry(to(1, 2), to(1, affinity=60)), WEB: entry(to(1, 2))},
    "restricted": {
        VIP: entry(to(1, 2), sources=("10.0.0.0-10.0.0.9", "192.0.2.0-192.0.2.255")),
        WEB6: entry(to(1, six=True, affinity=9), sources=("::-ff::",)),
    },
    "other ranges": {VIP: entry(to(1, 2), sources=("10.0.0.5-10.0.0.9",))},
    "many": {WEB: entry(to(*range(1, 101))), NODE: entry(to(*range(1, 65)))},
}


class Host:
    """Programmers over a door, and a table that changes by element."""

    def __init__(self, door: NftDoor, flows: Conntrack | FakeConntrack | None = None) -> None:
        self.door = door
        self.table = FilterTable(door)
        self.base = FilterBase(self.table)
        self.services = FilterServices(self.table, flows or FakeConntrack())
        self.endpoints = FilterEndpoints(self.table, FakeConntrack())
        self._frontends: Entries[Frontend, Entry] = Entries()
        self._addresses: Members[str] = Members()

    def wanted(self, frontends: dict[Frontend, Entry]) -> HostState:
        for frontend in set(self._frontends) - frontends.keys():
            self._frontends.discard(frontend)
        for frontend, wish in frontends.items():
            self._frontends.set(frontend, wish)
        addresses = {f.address for f in frontends} - {"0.0.0.0", "::"}
        for address in set(self._addresses) - addresses:
            self._addresses.discard(address)
        for address in addresses:
            self._addresses.add(address)
        services = ServiceTable(frontends=self._frontends, addresses=self._addresses)
        return HostState(filter=FILTER, services=services)

    def go(self, frontends: dict[Frontend, Entry]) -> int:
        """Make the kernel so; the number of ops of Services that it took."""
        state, count = self.wanted(frontends), 0
        for programmer in (self.base, self.services, self.endpoints):
            programmer.observe()
            ops = programmer.plan(state)
            count += len(ops) if programmer is self.services else 0
            assert all(op.text for op in ops), ops
            assert programmer.apply(ops) == ()
            assert programmer.plan(state) == ()
        return count

    def check(self, frontends: dict[Frontend, Entry]) -> None:
        """The kernel, read anew, is what a fresh host with this table has."""
        found = self.door.read()
        assert found is not None
        fresh = Host(FakeNft(features=self.door.features))
        fresh.go(frontends)
        expected = fresh.door.read()
        assert expected is not None
        assert found._replace(info=None) == expected._replace(info=None)  # type: ignore[arg-type]
        assert self.table.actual == found
        self.table.observe(force=True)
        assert self.services.plan(self.wanted(frontends)) == ()


@pytest.fixture
def host(doors: Doors) -> Host:
    return Host(*doors())


@pytest.mark.parametrize("walk", walks(STATES).values(), ids=walks(STATES))
def test_every_walk_ends_where_a_fresh_host_would(host: Host, walk: list[str]) -> None:
    for name in walk:
        host.go(STATES[name])
        host.check(STATES[name])


def test_changes_that_pass_between_two_plans_are_one(host: Host) -> None:
    names = list(STATES)
    for name, last in zip(names, names[::-1], strict=True):
        for passed in (name, "many", "three", last):
            state = host.wanted(STATES[passed])
        host.base.observe()
        assert host.base.apply(host.base.plan(state)) == ()
        assert host.services.apply(host.services.plan(state)) == ()
        assert host.services.plan(state) == ()
        assert host.endpoints.apply(host.endpoints.plan(state)) == ()
        host.check(STATES[last])


def test_a_restarted_agent_changes_nothing_that_is_right(doors: Doors) -> None:
    first = Host(*doors())
    first.go(STATES["restricted"])
    before = first.door.read()
    first.door.close()
    second = Host(*doors())
    assert second.go(STATES["restricted"]) == 0
    after = second.door.read()
    assert before is not None
    assert after == before._replace(info=second.door.table())  # type: ignore[arg-type]
    assert second.go(STATES["many"]) > 0
    second.check(STATES["many"])


def test_a_change_of_one_backend_is_written_as_one_transaction_of_its_elements() -> None:
    door = FakeNft()
    host = Host(door)
    host.go({**STATES["two backends"], **STATES["node ports"]})
    done = len(door.commits)
    host.go({**STATES["two backends"], **STATES["node ports"], WEB: entry(to(1, 3))})
    (made,) = door.commits[done:]
    assert {type(change) for change in made} == {nft.DeleteElements, nft.AddElements}
    slot = key_of(WEB) + e.host32(1)
    address = bytes((10, 1, 0, 3))
    assert made[-1] == nft.AddElements(
        BACKENDS["address", 4], ((slot, k.concat(address, e.port(8080))),)
    )


def test_fewer_backends_and_their_shape_are_one_transaction() -> None:
    door = FakeNft()
    host = Host(door)
    host.go(STATES["three"])
    done = len(door.commits)
    host.go({**STATES["three"], WEB: entry(to(1))})
    # The chain of the shape that is no more used may go after it.
    names = {c.set.name for c in door.commits[done] if isinstance(c, nft.Elements)}
    assert names == {SERVICES["address", 4].name, BACKENDS["address", 4].name}


@pytest.mark.parametrize("walk", walks(STATES).values(), ids=walks(STATES))
def test_a_packet_between_rules_finds_what_elements_tell(walk: list[str]) -> None:
    """The kernel takes a packet through the rules that there were when it came, and looks up
    elements as they are in that moment: both of one transaction and of the next."""
    door = FakeNft()
    host = Host(door)
    tables = recorded(door)
    for name in walk:
        host.go(STATES[name])
    checked = 0
    for before, after in pairwise(tables):
        assert before is not None
        assert after is not None
        led = {use for name in before.chains if (use := shape_of(name))}
        # Each refuses at its end what found no way, while there are Services at all.
        with_end, without = (dispatch_chains(frozenset(led), some=some) for some in (True, False))
        for name in with_end.keys() & before.chains.keys():
            assert before.chains[name] in (with_end[name].state, without[name].state)
        for table in (before, after):
            for scope, maps in (("inside", SERVICES), ("outside", OUTSIDE)):
                for (at, family), declared in maps.items():
                    for number in table.elements.get(declared.name, {}).values():
                        assert number is not None
                        use = Use(family, at, scope, int.from_bytes(number, sys.byteorder))  # type: ignore[arg-type]
                        assert use in led or not chooses(use.shape)
                        assert use not in led or before.chains[shape_name(use)].rules
                        checked += use in led
    assert checked


def test_shapes_do_not_grow_with_sizes(host: Host) -> None:
    sizes = {Frontend("10.96.1.1", "tcp", size): entry(to(*range(size))) for size in range(1, 80)}
    host.go(sizes)
    assert host.table.actual is not None
    chains = [name for name in host.table.actual.chains if name.startswith(SHAPE_PREFIX)]
    assert len(chains) == 8
    host.check(sizes)


DAMAGE = {
    "shape's chain": lambda state: [nft.FlushChain("shape-inside-address4-1")],
    "dispatch": lambda state: [nft.FlushChain("services-inside-address4")],
    "elements": lambda state: [
        nft.DeleteElements(s, tuple((key, None) for key in state.elements[s.name]))
        for s in (SERVICES["address", 4], BACKENDS["address", 4], BACKENDS["port", 4])
    ],
    "other elements": lambda state: [
        nft.AddElements(SERVICES["address", 4], ((key_of(DNS), e.host32(1)),)),
        nft.AddElements(BACKENDS["port", 6], ((key_of(NODE6) + e.host32(9), bytes(20)),)),
    ],
    "addresses": lambda state: [
        nft.DeleteElements(nft.Set("vips4", (k.IPV4,)), ((bytes((10, 96, 0, 10)), None),))
    ],
    "table": lambda state: [nft.DeleteTable()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_repaired(host: Host, damage: str) -> None:
    wanted = {**STATES["two backends"], **STATES["node ports"]}
    host.go(wanted)
    made = host.door.read()
    assert made is not None
    assert not host.door.commit(DAMAGE[damage](made))
    host.table.observe(force=True)
    assert host.go(wanted) > 0
    host.check(wanted)


def test_a_table_made_anew_has_its_services_from_its_first_moment() -> None:
    door = FakeNft()
    host = Host(door)
    state = host.wanted(STATES["both families"])
    wrong = nft.Set("vteps4", (k.IPV4, k.SERVICE))
    assert not door.commit([nft.AddTable(host.table.flags), nft.AddSet(wrong)])
    host.base.observe()
    assert host.base.apply(host.base.plan(state)) == ()
    host.services.observe()
    assert host.services.plan(state) == ()
    host.go(STATES["both families"])
    host.check(STATES["both families"])


def test_one_bad_frontend_does_not_block_the_rest() -> None:
    door = FakeNft()
    host = Host(door)
    host.go(STATES["nothing"])
    wanted = {**STATES["three"], **STATES["node ports"]}
    bad = key_of(DNS)

    def is_bad(change: nft.Change) -> bool:
        return isinstance(change, nft.AddElements) and any(k == bad for k, _ in change.elements)

    door.fail(errno.ENOMEM, is_bad, times=2)
    state = host.wanted(wanted)
    failures = host.services.apply(host.services.plan(state))
    assert {f.op.key for f in failures} == {("frontend", *DNS)}
    assert {f.errno for f in failures} == {errno.ENOMEM}
    host.go(wanted)
    host.check(wanted)


def _flow(protocol: int, called: tuple[str, int], receiver: tuple[str, int]) -> Flow:
    client = ("10.1.0.9", 5555)
    return Flow(
        4,
        protocol,
        Tuple(client[0], called[0], client[1], called[1]),
        Tuple(receiver[0], client[0], receiver[1], client[1]),
        b"",
    )


def test_udp_flows_of_a_backend_that_went_are_forgotten_and_no_others() -> None:
    called = ("10.96.0.53", 53)
    udp_gone = _flow(17, called, ("10.1.0.4", 8080))
    stay = [
        _flow(17, called, ("10.1.0.5", 8080)),
        _flow(6, called, ("10.1.0.4", 8080)),
        _flow(17, ("10.96.0.54", 53), ("10.1.0.4", 8080)),
        _flow(17, called, ("10.1.0.4", 8080))._replace(protocol=6),
    ]
    flows = FakeConntrack([udp_gone, *stay])
    host = Host(FakeNft(), flows)
    host.go({DNS: entry(to(4, 5))})
    assert udp_gone in flows.entries
    host.go({DNS: entry(to(5, 6))})
    assert flows.entries == stay


def test_udp_flows_that_missed_their_service_are_forgotten() -> None:
    missed = _flow(17, ("10.96.0.53", 53), ("10.96.0.53", 53))
    node = _flow(17, ("192.0.2.1", 30053), ("192.0.2.1", 30053))
    masqueraded = node._replace(reply=Tuple("192.0.2.1", "192.0.2.9", 30053, 6666))
    flows = FakeConntrack([missed, node, masqueraded])
    host = Host(FakeNft(), flows)
    host.go({DNS: entry(to(unavailable="drop"))})
    host.go({DNS: entry(to(1)), Frontend("0.0.0.0", "udp", 30053): entry(to(1))})
    assert flows.entries == [masqueraded]


def test_clients_do_not_stay_with_a_backend_that_went(host: Host) -> None:
    host.go(STATES["affinity"])
    client = bytes((10, 1, 0, 9))
    kept, gone = (k.concat(bytes((10, 1, 0, n)), e.port(8080)) for n in (1, 2))
    other = bytes((10, 1, 0, 10))

    def remember() -> None:
        for key, backend in ((key_of(WEB) + client, gone), (key_of(WEB) + other, kept)):
            change = nft.AddTimed(AFFINITY["address", 4], ((key, backend),), 60_000)
            assert not host.door.commit([change])

    remember()
    changed = {**STATES["affinity"], WEB: entry(to(1, 3, affinity=10800))}
    host.go(changed)
    assert host.door.elements("affinity4") == {key_of(WEB) + other: kept}
    # One that met the rules before the change may be remembered after it.
    again = nft.AddTimed(AFFINITY["address", 4], ((key_of(WEB) + client, gone),), 60_000)
    assert not host.door.commit([again])
    host.services.observe()
    assert host.door.elements("affinity4") == {key_of(WEB) + other: kept}


@pytest.mark.root
def test_nft_lists_it() -> None:
    """nft 1.0.6 aborts on rules that it does not understand, and takes other people's along."""
    fd = netns.create()
    with netns.inside(fd):
        door = Nft()
        host = Host(door)
        for name, frontends in STATES.items():
            host.go(frontends)
            for options in ([], ["-j"]):
                listed = subprocess.run(
                    ["nft", *options, "list", "ruleset"], check=True, capture_output=True, text=True
                ).stdout
                assert "services-inside" in listed, name
        door.close()


def test_what_is_shown_of_a_plan_is_a_line_a_frontend() -> None:
    host = Host(FakeNft())
    host.go(STATES["nothing"])
    ops = host.services.plan(host.wanted({**STATES["local outside"], WEB6: entry(to())}))
    lines = [op.text for op in ops if op.key[0] == "frontend"]
    assert sorted(lines) == [
        "service 0.0.0.0:30080/tcp -> 10.1.0.1:8080, 10.1.0.2:8080; from outside 10.1.0.2:8080",
        "service 192.0.2.200:80/sctp -> 10.1.0.1:8080, 10.1.0.2:8080; from outside drop",
        "service [fd96::10]:80/tcp -> reject",
    ]


def test_a_table_that_is_not_there_fails_every_op() -> None:
    host = Host(FakeNft())
    state = host.wanted(STATES["one"])
    ops = host.services.plan(state)
    assert {f.errno for f in host.services.apply(ops)} == {errno.ENOENT}
