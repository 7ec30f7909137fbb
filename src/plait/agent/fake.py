"""An agent over fake doors: the whole of it, with a kernel, a server and a clock in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from plait.agent.agent import Agent, Config, Doors
from plait.agent.policing import PolicyDoors
from plait.agent.programmers import in_order
from plait.agent.programmers.domains import DomainSets
from plait.agent.programmers.ended import EndedFlows
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.agent.programmers.rtnetlink import build
from plait.agent.state import Identity
from plait.agent.watchers import RtnetlinkWatcher, Watcher
from plait.client.fake_api import FakeApi, FakeServer
from plait.kernel.conntrack import FakeConntrack
from plait.kernel.fake_netlink import FakeKernel
from plait.kernel.fake_nft import FakeNft
from plait.kernel.hostfacts import AddressFact, HostFacts, LinkFact, RouteFact
from plait.kernel.nft_inspect import FakeInspector
from plait.model.objects import Cluster, ClusterSpec, Encap, Metadata, Network, NetworkSpec
from plait.wire.links import LinkInfo, set_link


class Clock:
    """A clock that moves when it is told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def server(
    *networks: Network, encap: Encap = "auto", pools: tuple[str, ...] = ("10.9.0.0/16", "fd09::/64")
) -> FakeServer:
    """A server with a cluster, the network `plait` with these pools, and other networks."""
    made = FakeServer()
    made.put(Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(encap=encap)))
    made.put(Network(metadata=Metadata(name="plait"), spec=NetworkSpec(pools=pools)))
    for network in networks:
        made.put(network)
    return made


def facts(number: int = 1, *, mtu: int = 1500) -> HostFacts:
    """A host with one interface on 192.0.2.0/24 and 2001:db8::/64 (RFC 5737, RFC 3849)."""
    return HostFacts(
        links=(LinkFact(1, "lo", 65536, True, 0), LinkFact(2, "eth0", mtu, True, 0)),
        addresses=(
            AddressFact("lo", "127.0.0.1/8", True, 0),
            AddressFact("eth0", f"192.0.2.{number}/24", True, 0),
            AddressFact("eth0", f"2001:db8::{number:x}/64", True, 0),
            AddressFact("eth0", f"fe80::{number:x}/64", True, 0),
        ),
        routes=(
            RouteFact("0.0.0.0/0", "eth0", "192.0.2.254", 0, 3),
            RouteFact("192.0.2.0/24", "eth0", "", 0, 2),
        ),
        accept_ra={"eth0": "0"},
    )


async def _inline(work: Callable[[], object]) -> object:
    """Work that would go to a thread: the fake kernel is not made for several."""
    return work()


class FakeHost:
    """A host whose agent can be started, stopped and started again over the same kernel."""

    def __init__(self, shared: FakeServer, directory: Path, number: int = 1) -> None:
        self.name = f"h{number}"
        self.number = number
        self.server = shared
        self.directory = directory / self.name
        self.clock = Clock()
        self.boot = "boot-1"
        self.facts = facts(number)
        self.reboot()

    def reboot(self) -> None:
        """A kernel without anything of ours."""
        self.kernel = FakeKernel()
        self.netlink = self.kernel.netlink()
        self.netlink.execute([set_link(self.netlink.index("lo"), up=True)])
        self.kernel.host.add(LinkInfo(0, "eth0", True, 0, 1500, "02:00:00:00:00:01"))
        self.nft = FakeNft()
        self.conntrack = FakeConntrack()
        self.sysctl = self.kernel.sysctl()
        self.sysctl.values |= {"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"}

    def agent(self, *, socket: Path | None = None) -> Agent:
        """A new agent process, so to speak."""
        self.nft.close()  # A process that ends gives its table up.
        self.nft = FakeNft(self.nft.kernel)
        suite = build(self.netlink, self.sysctl)
        table = FilterTable(self.nft)
        gate = FilterEndpoints(table, self.conntrack)
        programmers = in_order((*suite, FilterBase(table), FilterPolicy(table), gate))
        watchers: tuple[Watcher, ...] = (RtnetlinkWatcher(self.netlink.subscribe(), programmers),)
        return Agent(
            Config(
                identity=Identity(name=self.name, uid=f"uid-{self.name}"),
                directory=self.directory,
                socket=socket,
                resync=3600.0,
            ),
            Doors(
                api=FakeApi(self.server),
                programmers=programmers,
                facts=lambda: self.facts,
                sysctl=self.sysctl,
                boot=self.boot,
                counters=self.nft,
                policy=PolicyDoors(
                    flows=self.conntrack,
                    domains=DomainSets(table, self.clock),
                    inspector=FakeInspector(self.nft),
                    bar=EndedFlows(table).bar,
                ),
                watchers=watchers,
                purge=(table.purge,),
                offload=_inline,
                clock=self.clock,
                wall=self.clock,
            ),
        )
