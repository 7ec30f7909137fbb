"""The doors to this host's kernel, and the programmers behind them."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from plait.agent.agent import Doors
from plait.agent.policing import PolicyDoors
from plait.agent.programmers import in_order
from plait.agent.programmers.addresses import Addresses
from plait.agent.programmers.aside import InThread
from plait.agent.programmers.docker_user import DockerUser
from plait.agent.programmers.domains import DomainSets
from plait.agent.programmers.ended import EndedFlows
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.links import Links
from plait.agent.programmers.neighbours import Fdb, Neighbours
from plait.agent.programmers.policy import FilterPolicy
from plait.agent.programmers.routes import Routes
from plait.agent.programmers.rules import Rules
from plait.agent.programmers.services import FilterServices
from plait.agent.programmers.shapers import Shapers
from plait.agent.programmers.sysctls import Sysctls
from plait.agent.programmers.tunnels import Tunnels
from plait.agent.watchers import RtnetlinkWatcher
from plait.client.base import Api
from plait.kernel import hostfacts
from plait.kernel.conntrack import Conntrack, FlowReaper
from plait.kernel.iptables import Iptables
from plait.kernel.netlink import Netlink
from plait.kernel.nft import Nft, NftMonitor
from plait.kernel.nft_counters import NftCounters
from plait.kernel.nft_elements import NftElements
from plait.kernel.nft_inspect import NftInspector
from plait.kernel.sysctl import KernelSysctl
from plait.wiring.telling import flow_metrics, flow_problems


def open_doors(api: Api, resolv_conf: Path, stack: AsyncExitStack) -> Doors:
    """Every door of the agent, of the network namespace of the caller; `stack` closes them.

    The agent closes the watchers itself. PLAIT-KERNEL-002 when the kernel lacks a feature.
    """
    netlink = Netlink()
    stack.callback(netlink.close)
    nft = Nft()
    stack.callback(nft.close)
    flows = FlowReaper(Conntrack())
    stack.callback(flows.close)
    connections = Conntrack()
    stack.callback(connections.close)
    aside = InThread(NftElements())
    stack.callback(aside.close)
    inspector = NftInspector()
    stack.callback(inspector.close)
    counters = NftCounters()
    stack.callback(counters.close)
    iptables = Iptables()
    stack.callback(iptables.close)
    sysctl = KernelSysctl()
    table = FilterTable(nft)
    addresses, routes = Addresses(netlink), Routes(netlink)
    neighbours, fdb = Neighbours(netlink), Fdb(netlink)
    # A link takes what stands on it away with it, and the kernel does not say so one by one.
    shapers = Shapers(netlink, lambda: links.actual)
    forget = (addresses.forget_link, routes.forget_link, shapers.forget_link)
    links = Links(netlink, sysctl, forget)
    tunnels = Tunnels(
        netlink,
        tuple(part.forget_link for part in (addresses, routes, neighbours, fdb)),
        sysctl,
    )
    programmers = in_order(
        (
            FilterBase(table),
            FilterPolicy(table),
            FilterServices(table, flows, aside),
            FilterEndpoints(table, flows),
            links,
            shapers,
            addresses,
            tunnels,
            Sysctls(sysctl),
            neighbours,
            fdb,
            routes,
            Rules(netlink),
            DockerUser(iptables),
        )
    )
    return Doors(
        api=api,
        programmers=programmers,
        facts=partial(hostfacts.read, resolv_conf),
        sysctl=sysctl,
        boot=hostfacts.boot_identity(),
        counters=counters,
        policy=PolicyDoors(
            flows=connections,
            domains=DomainSets(table, time.monotonic),
            inspector=inspector,
            bar=EndedFlows(table).bar,
            proxied=lambda: table.features.tproxy,
        ),
        watchers=(RtnetlinkWatcher(netlink.subscribe(), programmers), NftMonitor(nft)),
        purge=(table.purge,),
        problems=(lambda: table.problems, partial(flow_problems, flows)),
        metrics=(partial(flow_metrics, flows),),
    )
