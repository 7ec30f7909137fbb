"""State, not path: the filter's end state depends on what is desired, not on how it came."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import msgspec
import pytest
from tests.support.nft_hosts import Doors, walks

from plait.agent.desired import filter_chains, filter_sets, ruleset
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel import netns
from plait.kernel.conntrack import Conntrack, FakeConntrack
from plait.kernel.fake_nft import FakeNetfilter, FakeNft
from plait.kernel.nft import Features, Nft, NftDoor
from plait.model.errors import PlaitError
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState, PortMap
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k

A = FilterNetwork(pools=("10.1.0.0/16", "fd01::/64"))
B = FilterNetwork(pools=("10.2.0.0/16",))
A_INTERNAL = FilterNetwork(pools=A.pools, internal=True)
A1 = FilterEndpoint(network="a", addresses=("10.1.0.1", "fd01::1"))
A2 = FilterEndpoint(network="a", addresses=("10.1.0.2", "fd01::2"))
B1 = FilterEndpoint(network="b", addresses=("10.2.0.1",))
WEB = PortMap(family=4, protocol="tcp", host_ip="", host_port=80, address="10.1.0.1", port=8080)
WEB6 = PortMap(
    family=6, protocol="tcp", host_ip="fd09::1", host_port=80, address="fd01::1", port=8080
)
DNS = PortMap(family=4, protocol="udp", host_ip="", host_port=53, address="10.2.0.1", port=53)
POOLS = (*A.pools, *B.pools)

STATES = {
    "nothing": Filter(),
    "a network": Filter(networks={"a": A}, pools=POOLS),
    "an endpoint": Filter(networks={"a": A}, endpoints={"pl1": A1}, pools=POOLS),
    "two endpoints": Filter(networks={"a": A}, endpoints={"pl1": A1, "pl2": A2}, pools=POOLS),
    "two networks": Filter(
        networks={"a": A, "b": B}, endpoints={"pl1": A1, "pl3": B1}, pools=POOLS
    ),
    "internal": Filter(networks={"a": A_INTERNAL}, endpoints={"pl1": A1}, pools=POOLS),
    "link of another network": Filter(
        networks={"a": A, "b": B}, endpoints={"pl1": B1}, pools=POOLS
    ),
    "published": Filter(
        networks={"a": A},
        endpoints={"pl1": A1},
        pools=POOLS,
        ports=frozenset({WEB, WEB6}),
        vteps=("192.0.2.2", "2001:db8::2"),
    ),
    "published elsewhere": Filter(
        networks={"a": A, "b": B},
        endpoints={"pl2": A2, "pl3": B1},
        pools=POOLS,
        ports=frozenset({msgspec.structs.replace(WEB, address="10.1.0.2"), DNS}),
        vteps=("192.0.2.3",),
    ),
    "pools of another network": Filter(
        networks={"c": A, "d": B}, endpoints={"pl1": msgspec.structs.replace(A1, network="c")}
    ),
    "other pools": Filter(networks={"a": A}, pools=("10.1.0.0/17", "10.1.128.0/17", "0.0.0.0/1")),
    "other tunnel": Filter(vxlan_port=8472, vni=7, vteps=("192.0.2.2",)),
    "no dns": Filter(dns=False),
}


class Host:
    """Programmers over a door."""

    def __init__(self, door: NftDoor, flows: Conntrack | FakeConntrack) -> None:
        self.door = door
        self.table = FilterTable(door)
        self.base = FilterBase(self.table)
        self.endpoints = FilterEndpoints(self.table, flows)

    def go(self, wanted: Filter) -> int:
        """Make the kernel so; the number of ops that it took."""
        state, count = HostState(filter=wanted), 0
        for programmer in (self.base, self.endpoints):
            programmer.observe()
            ops = programmer.plan(state)
            count += len(ops)
            assert all(str(op) for op in ops)
            assert programmer.apply(ops) == ()
            assert programmer.plan(state) == ()
        return count

    def check(self, wanted: Filter) -> None:
        """The kernel, read anew, is what a fresh host with this filter has."""
        found = self.door.read()
        assert found is not None
        fresh = Host(FakeNft(features=self.door.features), FakeConntrack())
        fresh.go(wanted)
        expected = fresh.door.read()
        assert expected is not None
        assert found._replace(info=None) == expected._replace(info=None)  # type: ignore[arg-type]
        # What we believe is what is there.
        assert self.table.actual == found
        believed = self.table.endpoints
        self.table.observe(force=True)
        assert self.table.endpoints == believed


@pytest.fixture
def host(doors: Doors) -> Host:
    return Host(*doors())


@pytest.mark.parametrize("walk", walks(STATES).values(), ids=walks(STATES))
def test_every_walk_ends_where_a_fresh_host_would(host: Host, walk: list[str]) -> None:
    for name in walk:
        host.go(STATES[name])
        host.check(STATES[name])


@pytest.mark.parametrize("name", STATES)
def test_squashed_from_nothing_and_back(host: Host, name: str) -> None:
    host.go(STATES[name])
    host.check(STATES[name])
    host.go(STATES["nothing"])
    host.check(STATES["nothing"])


def test_split_into_single_ops(host: Host) -> None:
    host.go(STATES["nothing"])
    for name in ("two networks", "published", "published elsewhere"):
        wanted = HostState(filter=STATES[name])
        for programmer in (host.base, host.endpoints):
            for op in programmer.plan(wanted):
                assert programmer.apply([op]) == ()
        host.check(STATES[name])


def test_a_restarted_agent_adopts_and_changes_nothing_that_is_right(doors: Doors) -> None:
    first = Host(*doors())
    first.go(STATES["published"])
    before = first.door.read()
    first.door.close()
    second = Host(*doors())
    assert second.go(STATES["published"]) == 1
    after = second.door.read()
    assert before is not None
    assert after == before._replace(info=second.door.table())  # type: ignore[arg-type]
    assert after.info.handle == before.info.handle
    assert second.go(STATES["two endpoints"]) > 0
    second.check(STATES["two endpoints"])


def test_a_second_agent_is_refused(doors: Doors) -> None:
    first = Host(*doors())
    first.go(STATES["an endpoint"])
    second = Host(*doors())
    with pytest.raises(PlaitError) as caught:
        second.go(STATES["nothing"])
    assert caught.value.code == "PLAIT-HOST-004"
    first.check(STATES["an endpoint"])


def test_a_table_of_other_types_is_replaced_and_what_may_stay_open_stays(
    doors: Doors,
) -> None:
    host = Host(*doors())
    wrong = nft.Set("vteps4", (k.IPV4, k.SERVICE))
    name = e.ifname("pl1")
    held = sorted(ruleset.endpoint_elements("pl1", A1), key=lambda x: x[:2])
    chains = ruleset.network_chains("a", A)
    assert not host.door.commit(
        [
            nft.AddTable(host.table.flags),
            nft.AddSet(wrong),
            *[nft.AddSet(s) for s in filter_sets.ENDPOINT_SETS],
            *[nft.AddChain(c) for c in chains],
            *[nft.AddElements(filter_sets.SETS[s], ((key, data),)) for s, key, data in held],
        ]
    )
    host.base.observe()
    state = HostState(filter=STATES["two endpoints"])
    (op,) = host.base.plan(state)
    assert host.base.apply([op]) == ()
    # One transaction later the old endpoint is open and the new one is not.
    assert host.table.endpoints == {"pl1": frozenset(held)}
    assert name in host.table.actual.elements["known"]  # type: ignore[union-attr]
    host.go(STATES["two endpoints"])
    host.check(STATES["two endpoints"])


DAMAGE = {
    "table": lambda state: [nft.DeleteTable()],
    "chain": lambda state: [nft.FlushChain("source")],
    "network's chain": lambda state: [nft.FlushChain("i-" + ruleset.chain_suffix("a"))],
    "rule": lambda state: [nft.AddRules(nft.Chain("source", (nft.Rule("by hand", (e.ACCEPT,)),)))],
    "order": lambda state: [
        nft.FlushChain("host-in"),
        nft.AddRules(
            nft.Chain(
                "host-in",
                tuple(
                    rule
                    for chain in filter_chains.base_chains(4789, 0x706C, dns=True)
                    if chain.name == "host-in"
                    for rule in chain.rules[::-1]
                ),
            )
        ),
    ],
    "foreign chain and set": lambda state: [
        nft.AddChain(nft.Chain("theirs")),
        nft.AddSet(nft.Set("their-set", (k.IPV4,))),
    ],
    "elements": lambda state: [
        nft.DeleteElements(
            filter_sets.SETS[name], tuple((key, None) for key in state.elements[name])
        )
        for name in ("src4", "known", "pools4", "ports4", "to4", "from6")
    ],
    "surplus elements": lambda state: [
        nft.AddElements(filter_sets.KNOWN, ((e.ifname("plx"), None),)),
        nft.AddElements(filter_sets.POOLS[4], ((k.cidr_range("10.77.0.0/16"), None),)),
    ],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_repaired(host: Host, damage: str) -> None:
    host.go(STATES["published"])
    made = host.door.read()
    assert made is not None
    assert not host.door.commit(DAMAGE[damage](made))
    # As if it had been somebody else, on a kernel where that is possible.
    host.table.observe(force=True)
    assert host.go(STATES["published"]) > 0
    host.check(STATES["published"])


def test_an_unowned_table_is_read_again_when_any_ruleset_changed() -> None:
    features = Features(owner=False, tproxy=True, nflog=True)
    kernel = FakeNetfilter()
    host = Host(FakeNft(kernel, features=features), FakeConntrack())
    host.go(STATES["published"])
    other = FakeNft(kernel, features=features)
    assert not other.commit([nft.FlushChain("source")])
    assert host.go(STATES["published"]) == 1
    kernel.flush()
    assert host.go(STATES["published"]) > 10
    host.check(STATES["published"])


def test_a_stale_belief_is_read_anew_and_the_ops_still_done(host: Host) -> None:
    host.go(STATES["two endpoints"])
    ops = host.endpoints.plan(HostState(filter=STATES["an endpoint"]))
    gone = tuple((key, None) for s, key, _ in ruleset.endpoint_elements("pl2", A2) if s == "known")
    assert not host.door.commit([nft.DeleteElements(filter_sets.KNOWN, gone)])
    assert host.endpoints.apply(ops) == ()
    host.check(STATES["an endpoint"])


def test_one_bad_object_does_not_block_the_rest() -> None:
    door = FakeNft()
    host = Host(door, FakeConntrack())
    host.go(STATES["nothing"])
    bad = e.ifname("pl1")

    def is_bad(change: nft.Change) -> bool:
        return isinstance(change, nft.AddElements) and any(k == bad for k, _ in change.elements)

    # In the transaction of all, and in the one that finds out whose change it is.
    door.fail(errno.ENOMEM, is_bad, times=2)
    state = HostState(filter=STATES["two networks"])
    assert host.base.apply(host.base.plan(state)) == ()
    failures = host.endpoints.apply(host.endpoints.plan(state))
    assert {f.op.key for f in failures} == {("endpoint", "pl1")}
    assert {f.errno for f in failures} == {errno.ENOMEM}
    assert list(host.table.endpoints) == ["pl3"]
    host.go(STATES["two networks"])
    host.check(STATES["two networks"])


def test_what_the_kernel_lacks_is_said_and_done_without() -> None:
    host = Host(FakeNft(features=Features(owner=False, tproxy=False, nflog=False)), FakeConntrack())
    host.go(STATES["published"])
    assert host.table.actual is not None
    assert host.table.actual.info.flags == 0
    reasons = [rule.partition(" #")[0] for rule in host.table.actual.chains["mangle"].rules]
    assert "dns" not in reasons
    assert [p.split(" ")[0] for p in host.table.problems] == ["nftables", "nftables", "nftables"]
    assert Host(FakeNft(), FakeConntrack()).table.problems == ()


def test_an_endpoint_of_an_absent_network_stays_unknown(host: Host) -> None:
    host.go(Filter(endpoints={"pl1": A1}))
    assert host.table.endpoints == {}
    host.go(STATES["an endpoint"])
    host.check(STATES["an endpoint"])
    host.go(Filter(endpoints={"pl1": A1}))
    assert host.table.endpoints == {}


def test_purge_leaves_nothing(doors: Doors) -> None:
    host = Host(*doors())
    host.go(STATES["published"])
    host.table.purge()
    assert host.door.read() is None
    host.table.purge()
    host.go(STATES["an endpoint"])
    host.check(STATES["an endpoint"])
    host.door.close()
    # By another process, of the orphan.
    other = Host(*doors())
    other.table.observe()
    other.table.purge()
    assert other.door.read() is None


@pytest.mark.root
def test_an_agent_that_was_killed_is_followed_by_one_that_adopts() -> None:
    fd = netns.create()
    program = (
        "import os, signal\n"
        "from plait.kernel import netns\n"
        "from plait.kernel.nft import Nft\n"
        "from plait.wire import nft\n"
        "door = Nft()\n"
        "door.commit([nft.AddTable(6), nft.AddChain(nft.Chain('c'))])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with netns.inside(fd):
        done = subprocess.run([sys.executable, "-c", program], check=False)
        assert done.returncode == -9
        door = Nft()
        flows = Conntrack()
    state = door.read()
    assert isinstance(state, nft_read.TableState)
    assert list(state.chains) == ["c"]
    host = Host(door, flows)
    host.go(STATES["published"])
    host.check(STATES["published"])
    door.close()
    flows.close()
    os.close(fd)
