"""From the write of a policy, or of a label, to every kernel; the memory that policies take.

Three lab hosts with `LOCAL` endpoints each, in a network of 10,000 with 1,000 policies
(`bench.policy_world`): each app of 100 endpoints accepts ten others, on a port each. A change
counts as enforced when the agent of every host says that its kernel follows the revision of the
write. The peers have the same policies for the same addresses, IPv4 only, in one namespace:
chains of iptables, rewritten by `iptables-restore --noflush`, and one chain of nftables, in which
a policy is a rule that is replaced and an app a set. They are given the new addresses for nothing:
nobody distributes them, nobody selects by labels.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count

import msgspec

from bench import labs, memory, policy_set
from bench.filter import timed
from bench.policy_set import apart, fed
from bench.policy_world import (
    APPS,
    Grant,
    grants,
    iptables,
    iptables_chain,
    one_chain,
    one_rule,
    policy,
)
from bench.table import Row, at_most, percentile
from plait.client.agent import AttachRequest
from plait.client.agent_socket import AgentClient
from plait.client.agent_socket import run as call
from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.lab.lab import Lab
from plait.model.objects import Endpoint, Object

POLICIES = 1000
LOCAL = 100
"""Endpoints of each lab host: one of every app."""
HOSTS = ("h1", "h2", "h3")
ROUNDS, PEER_ROUNDS = 200, 20
BUDGET_MS, BUDGET_MIB = 100, 150


def members() -> dict[int, list[str]]:
    """Addresses of the endpoints of each app, the crowd's."""
    found: dict[int, list[str]] = {}
    for node in range(memory.NODES):
        for obj in memory.crowd(node, APPS):
            if isinstance(obj, Endpoint):
                number = int(obj.metadata.labels["app"].removeprefix("app"))
                found.setdefault(number, []).append(obj.spec.addresses[0])
    return found


# Plait


class Network:
    """The lab, loaded; changes to it and how long they take."""

    def __init__(self, lab: Lab) -> None:
        self.agents = [
            AgentClient(labs.inside(lab, host, "/run/plait/agent.sock")) for host in HOSTS
        ]
        self._loop = asyncio.Runner()
        self._socket = labs.inside(lab, "h1", "/run/plait/server.sock")
        self._api = self._loop.run(self._connect())

    async def _connect(self) -> ApiClient:
        return ApiClient("http://localhost", unix_socket=self._socket, timeout=60)

    def close(self) -> None:
        self._loop.run(self._api.close())
        self._loop.close()

    def enforced(self, revision: int) -> bool:
        return all(call(agent.status()).applied >= revision for agent in self.agents)

    def load(self, rules: Sequence[Grant]) -> None:
        """The crowd, the endpoints of the hosts, the policies."""
        self._loop.run(memory.fill(self._socket, APPS))
        for host, agent in zip(HOSTS, self.agents, strict=True):
            for number in range(LOCAL):
                request = AttachRequest(
                    id=f"{host}-{number}",
                    network=memory.NETWORK,
                    name=f"local{number}",
                    labels={"app": f"app{number % APPS}"},
                )
                call(agent.attach(request))
        ops = [BatchOp(verb="create", object=policy(grant)) for grant in rules]
        stored = self._loop.run(self._api.batch(ops))
        revision = stored[-1].metadata.revision
        memory.wait_for("enforcing all policies", lambda: self.enforced(revision))

    def change(self, obj: Object) -> float:
        """Milliseconds from the write of an object until every kernel follows."""
        start = time.perf_counter()
        revision = self._loop.run(self._api.update(obj)).metadata.revision
        while not self.enforced(revision):
            time.sleep(0.0005)
        return (time.perf_counter() - start) * 1e3

    def policy_changes(self, rules: Sequence[Grant]) -> list[float]:
        """One policy gets another port."""
        return [
            self.change(policy(rules[n * 7 % len(rules)]._replace(port=60000 + n)))
            for n in range(ROUNDS)
        ]

    def label_changes(self) -> list[float]:
        """One endpoint of a host that is not in the lab leaves an app and joins another."""
        moving = next(o for o in memory.crowd(5, APPS) if isinstance(o, Endpoint))
        return [
            self.change(
                msgspec.structs.replace(
                    moving,
                    metadata=msgspec.structs.replace(
                        moving.metadata, labels={"app": f"app{n % APPS}"}
                    ),
                )
            )
            for n in range(1, ROUNDS + 1)
        ]


def ours(rules: Sequence[Grant]) -> tuple[list[float], list[float], float]:
    """Milliseconds of policy and label changes; MiB of the agent that holds it all."""
    with labs.lab("policy", len(HOSTS)) as lab:
        labs.plait(
            lab, "h1", "network", "create", memory.NETWORK, "--pool", f"{memory.POOL}.0.0/16"
        )
        network = Network(lab)
        try:
            print("    loading", file=sys.stderr, flush=True)
            network.load(rules)
            print("    changing", file=sys.stderr, flush=True)
            found = network.policy_changes(rules), network.label_changes()
        finally:
            network.close()
        pids = {"agent": labs.outer_pid(lab, "h1", "agent")}
        return *found, memory.settled(pids)["agent"]


# The peers


def by_iptables(rules: Sequence[Grant]) -> tuple[float, list[float], list[float]]:
    """Milliseconds to load all, to change a policy's port, to move a member between apps."""
    who = members()
    local = [addresses[0] for addresses in who.values()]
    restore = ["iptables-nft-restore", "--noflush"]

    def chain(grant: Grant) -> str:
        lines = [f":POLICY-{grant.number} - [0:0]", *iptables_chain(grant, who)]
        return "\n".join(["*filter", *lines, "COMMIT", ""])

    def move(grant: Grant, address: str, verb: str) -> str:
        return f"-{verb} POLICY-{grant.number} -s {address} -p tcp --dport {grant.port} -j ACCEPT"

    with apart():
        everything = iptables(rules, who, local)
        load = timed(lambda: fed(["iptables-nft-restore"], everything))
        ports = count(60000)
        policies = [
            timed(lambda n=n: fed(restore, chain(rules[n * 7]._replace(port=next(ports)))))  # type: ignore[misc]
            for n in range(PEER_ROUNDS)
        ]
        labels = []
        for n in range(PEER_ROUNDS):
            app = n + 40
            joining = [g for g in rules if g.peer == app and g.port]
            lines = ["*filter", *(move(grant, "10.77.0.1", "A") for grant in joining), "COMMIT", ""]
            labels.append(timed(lambda lines=lines: fed(restore, "\n".join(lines))))  # type: ignore[misc]
    return load, policies, labels


def by_one_chain(rules: Sequence[Grant]) -> tuple[float, list[float], list[float]]:
    """Milliseconds to load all, to change a policy's port, to move a member between apps."""
    who = members()
    with apart():
        load = timed(lambda: fed(["nft", "-f", "-"], one_chain(rules, who)))
        listed = fed(["nft", "-a", "list", "chain", "inet", "naive", "forward"], "")
        handles = {
            line.split("dport ")[1].split()[0]: line.rpartition("handle ")[2]
            for line in listed.splitlines()
            if "dport" in line
        }
        changes = []
        for n in range(PEER_ROUNDS):
            grant = rules[n * 7]
            rule = one_rule(grant._replace(port=60000 + n))
            text = f"replace rule inet naive forward handle {handles[str(grant.port)]} {rule}\n"
            changes.append(timed(lambda text=text: fed(["nft", "-f", "-"], text)))  # type: ignore[misc]
        labels = []
        for n in range(PEER_ROUNDS):
            text = f"add element inet naive app{n} {{ 10.77.0.{n} }}\n"
            labels.append(timed(lambda text=text: fed(["nft", "-f", "-"], text)))  # type: ignore[misc]
    return load, changes, labels


IPTABLES_CHAINS = "iptables, a chain a policy"
ONE_CHAIN = "one chain of nft, a rule a policy"


def changes(what: str, mine: Sequence[float], peers: dict[str, Sequence[float]]) -> Iterator[Row]:
    """The median beside every peer's, and the 99th percentile with its budget."""
    for peer, theirs in peers.items():
        yield Row(
            what=f"{what}, enforced on 3 hosts",
            unit="ms",
            ours=statistics.median(mine),
            peer=f"{peer}, 1 host",
            theirs=statistics.median(theirs),
        )
    yield Row(
        what=f"{what}, enforced on 3 hosts, p99",
        unit="ms",
        ours=percentile(mine, 0.99),
        budget=at_most(BUDGET_MS),
    )


def rows() -> list[Row]:
    rules = grants(POLICIES)
    policies, labels, resident = ours(rules)
    print("    iptables", file=sys.stderr, flush=True)
    loaded, chains, joined = by_iptables(rules)
    print("    one chain", file=sys.stderr, flush=True)
    loaded_chain, replaced, added = by_one_chain(rules)
    print(
        f"    loading all: iptables {loaded:.0f} ms, one chain {loaded_chain:.0f} ms",
        file=sys.stderr,
    )
    return [
        *changes("one policy of 1,000", policies, {IPTABLES_CHAINS: chains, ONE_CHAIN: replaced}),
        *changes(
            "one label of 10,000 endpoints", labels, {IPTABLES_CHAINS: joined, ONE_CHAIN: added}
        ),
        *policy_set.rows(),
        Row(
            what="memory of the agent, 10,000 endpoints, 1,000 policies",
            unit="MiB",
            ours=resident,
            peer=memory.FLOOR_NAME,
            theirs=memory.floor(),
            budget=at_most(BUDGET_MIB),
        ),
    ]
