"""The programmers of everything that rtnetlink carries, in the order in which they add."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from plait.agent.programmers.addresses import Addresses
from plait.agent.programmers.links import Links
from plait.agent.programmers.neighbours import Fdb, Neighbours
from plait.agent.programmers.routes import Routes
from plait.agent.programmers.rules import Rules
from plait.agent.programmers.shapers import Shapers
from plait.agent.programmers.sysctls import Sysctls
from plait.agent.programmers.tunnels import Tunnels
from plait.kernel.netlink import Rtnetlink
from plait.kernel.sysctl import Sysctl


class Suite(NamedTuple):
    """One programmer a part. Objects on a link that goes are forgotten with it."""

    sysctls: Sysctls
    links: Links
    shapers: Shapers
    addresses: Addresses
    tunnels: Tunnels
    neighbours: Neighbours
    fdb: Fdb
    routes: Routes
    rules: Rules


def build(netlink: Rtnetlink, sysctl: Sysctl, sysctl_keys: Iterable[str] = ()) -> Suite:
    """The suite over two doors; `sysctl_keys` are the settings that the first look reads."""
    addresses = Addresses(netlink)
    neighbours, fdb, routes = Neighbours(netlink), Fdb(netlink), Routes(netlink)
    shapers = Shapers(netlink, lambda: links.actual)
    forget = (neighbours.forget_link, fdb.forget_link, routes.forget_link)
    links = Links(netlink, sysctl, (*forget, shapers.forget_link))
    return Suite(
        sysctls=Sysctls(sysctl, sysctl_keys),
        links=links,
        shapers=shapers,
        addresses=addresses,
        tunnels=Tunnels(netlink, forget, sysctl),
        neighbours=neighbours,
        fdb=fdb,
        routes=routes,
        rules=Rules(netlink),
    )
