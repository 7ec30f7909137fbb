"""Policies beside the kernel's rules: flows that they end, names that they open, what is wrong.

loop --after a turn--> ender (flows), domains (sets of names)
resolver --before an answer is given--> domains
resolver --before another one is asked--> may_ask
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from plait.agent.denied_flows import DNS_PORT, Surroundings
from plait.agent.desired.inputs import bare
from plait.agent.domains import DomainDoor, Domains
from plait.agent.flow_ender import Bar, Ender
from plait.agent.metrics import Metric, counter, gauge
from plait.agent.programmers.base import Failure
from plait.agent.state import State
from plait.agent.tracing import Tracer
from plait.agent.turns import POLICY
from plait.kernel.conntrack import FlowTable
from plait.kernel.nft_inspect import Inspector
from plait.model.hoststate import HostState
from plait.model.policies import DIRECTIONS
from plait.model.ruleset import Ruleset
from plait.policy.opaque_names import chain_name
from plait.policy.walk import Packet, Walker


class PolicyDoors(msgspec.Struct, frozen=True, kw_only=True):
    """Through which policies act beside the rules."""

    flows: FlowTable
    domains: DomainDoor
    inspector: Inspector
    bar: Bar
    proxied: Callable[[], bool] = lambda: True
    """The kernel can lead DNS packets to our resolver."""


class Policing:
    """See the module's docstring."""

    def __init__(
        self,
        state: State,
        doors: PolicyDoors,
        *,
        addresses: Callable[[], Iterable[str]],
        offload: Callable[[Callable[[], Any]], Awaitable[Any]],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`addresses` are those of the host itself, with or without prefix length."""
        self._state = state
        self._doors = doors
        self._addresses = addresses
        self._pools: tuple[str, ...] = ()
        self._walker: Walker | None = None
        """Of the rules in force; None before the first turn."""
        self._ruleset: Ruleset | None = None
        self.domains = Domains(doors.domains, clock=clock, refused=self._ours)
        self.ender = Ender(doors.flows, self._around, offload=offload, sleep=sleep, bar=doors.bar)
        self.tracer = Tracer(state, doors.inspector, around=self._around, offload=offload)

    def after(self, want: HostState, unsure: bool) -> None:
        """See `Loop`: the kernel filters so now."""
        self._pools = want.filter.pools
        if self._walker is None or self._ruleset is not want.policy:
            self._ruleset = want.policy
            self._walker = Walker(
                want.policy, in_domain=self.domains.opens, in_pools=self._in_pools
            )
        self.domains.follow(want.policy.domains, unsure)
        self.ender.follow(want, unsure)

    def may_ask(self, client: str, resolver: str, tcp: bool) -> bool:
        """Whether policies let an endpoint talk to a resolver that it chose itself, which ours
        would ask for it. DNS to the host itself passes in any case."""
        if resolver in map(bare, self._addresses()):
            return True
        if self._walker is None:
            return False
        packet = Packet("egress", client, resolver, "tcp" if tcp else "udp", DNS_PORT)
        return self._walker.walk(packet).accepted

    async def run(self) -> None:
        """End flows, until cancelled."""
        await self.ender.run()

    def problems(self, refused: Iterable[Failure] = ()) -> tuple[str, ...]:
        """What is wrong with policies, a sentence each; `refused` by the kernel."""
        found = [f"policy {name}: {why}" for name, why in self._state.engine.problems.items()]
        chains = {failure.op.key[1]: failure for failure in refused if _is_chain(failure)}
        found += [
            f"policy {name}: the kernel refused its {direction} rules, which accept nothing until"
            f" it takes them: {chains[chain].error}"
            for name in (self._state.snapshot.policies if chains else ())
            for direction in DIRECTIONS
            if (chain := chain_name(name, direction)) in chains
        ]
        if self.ender.error:
            found.append(f"flows that policies deny now may go on: {self.ender.error}")
        if self.domains.error:
            found.append(f"names that policies open stay closed: {self.domains.error}")
        return tuple(found)

    def metrics(self) -> Iterator[Metric]:
        """See `agent.metrics`."""
        ruleset = self._state.engine.ruleset()
        yield gauge("plait_policies", len(self._state.snapshot.policies))
        yield gauge("plait_policies_broken", len(self._state.engine.problems))
        yield gauge("plait_policy_chains", len(ruleset.chains))
        yield gauge("plait_policy_classes", len(ruleset.classes))
        yield gauge("plait_policy_addresses", len(ruleset.dispatch))
        yield gauge("plait_policy_sets", len(ruleset.sets) + len(ruleset.sockets))
        yield gauge("plait_policy_members", sum(map(len, ruleset.sets.values())))
        yield gauge("plait_policy_domain_elements", self.domains.elements)
        yield counter("plait_policy_ended_flows", self.ender.ended)

    def _around(self) -> Surroundings:
        return Surroundings(
            host=frozenset(map(bare, self._addresses())),
            proxied=self._state.dns and self._doors.proxied(),
            in_domain=self.domains.holds,
            in_pools=self._in_pools,
        )

    def _in_pools(self, address: str) -> bool:
        return in_pools(self._pools, address)

    def _ours(self, address: str) -> bool:
        """No name outside may open an endpoint, a host of the network or what is near it."""
        ip = ipaddress.ip_address(address)
        return (
            ip.is_loopback
            or ip.is_link_local
            or ip.is_multicast
            or ip.is_unspecified
            or self._in_pools(address)
            or address in map(bare, self._addresses())
            or any(
                address in map(bare, node.spec.addresses)
                for node in self._state.snapshot.nodes.values()
            )
        )


def _is_chain(failure: Failure) -> bool:
    key = failure.op.key
    return failure.op.part == POLICY and isinstance(key, tuple) and key[:1] == ("chain",)


@lru_cache(maxsize=16_384)
def in_pools(pools: tuple[str, ...], address: str) -> bool:
    """Whether an address is in one of the pools."""
    ip = ipaddress.ip_address(address)
    return any(ip in pool for pool in _networks(pools))


@lru_cache(maxsize=4)
def _networks(
    pools: tuple[str, ...],
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, pools))
