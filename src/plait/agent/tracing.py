"""What the kernel of this host would do with a flow: its own rules, read anew and walked.

Nothing is sent and nothing is counted. Each side is asked by itself, as if the other were on
another host, so that a refusal of one does not hide the answer of the other. Beside it stands
what the agent's model of the policies says; where the two differ, somebody changed the rules and
they were not mended yet, or the kernel refused some of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from plait.agent.denied_flows import Surroundings
from plait.agent.desired import filter_sets
from plait.agent.desired.policy_base import REJECT
from plait.agent.state import State
from plait.kernel.nft_inspect import Inspector
from plait.model import marks
from plait.model.errors import PlaitError
from plait.model.flows import ISOLATED, REASONS, rule_text
from plait.model.policies import Direction
from plait.model.traces import Trace, TracedSide, TraceQuery
from plait.policy.walk import GUARD, Outcome, Packet, walk
from plait.wire.nft_expr import PROTOCOLS
from plait.wire.nft_machine import Machine, Met, Passage, Probe, UnknownExpression

TRIES: Final = 4
"""Readings of a ruleset that goes on changing."""
_PREROUTING, _INPUT, _FORWARD, _OUTPUT = 0, 1, 2, 3
"""NF_INET_* (linux/netfilter.h)."""
_STAGED: Final = "s"
_OF_POLICIES: Final = (*filter_sets.POLICY_CHAINS, REJECT)
"""Beginnings of the names of chains in which policies decide."""

Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


class Tracer:
    """See the module's docstring."""

    def __init__(
        self,
        state: State,
        inspector: Inspector,
        *,
        around: Callable[[], Surroundings],
        offload: Offload,
    ) -> None:
        """The inspector is used in `offload` only."""
        self._reading = asyncio.Lock()
        self._state = state
        self._inspector = inspector
        self._around = around
        self._offload = offload

    async def trace(self, query: TraceQuery) -> Trace:
        """Verb `trace`. PLAIT-KERNEL-003 when the rules cannot be read or understood."""
        host = self._state.host()
        links = (
            {a: item.interface for item in host.attachments.values() for a in item.addresses}
            if host is not None
            else {}
        )
        ours = self._around().host
        ends: tuple[tuple[Direction, str], ...] = (("egress", query.src), ("ingress", query.dst))
        asked = [direction for direction, address in ends if address in links]
        # One at a time: the socket's answers, and what was read of the table, are one question's.
        async with self._reading:
            found = await self._offload(lambda: self._passages(query, asked, links, ours))
        return Trace(
            node=self._state.identity.name,
            sides=tuple(
                self._side(query, direction, found[direction], ours) for direction in asked
            ),
            applied=self._state.in_force,
        )

    def _passages(
        self,
        query: TraceQuery,
        asked: Iterable[Direction],
        links: Mapping[str, str],
        ours: frozenset[str],
    ) -> dict[Direction, Passage]:
        """What the kernel does, of one state of its rules."""
        run = {"egress": _sent, "ingress": _received}
        try:
            for _ in range(TRIES):
                before = self._inspector.generation()
                if not self._inspector.begin():
                    # Without our table nothing of ours refuses anything.
                    return dict.fromkeys(asked, Passage("accept", ()))
                machine = Machine(self._inspector)
                found = {d: run[d](machine, query, links, ours) for d in asked}
                if self._inspector.generation() == before:
                    break
        except UnknownExpression as error:
            raise _unreadable(f"a rule has `{error}`, which is not ours") from error
        except (OSError, KeyError) as error:
            raise _unreadable(str(error)) from error
        return found

    def _side(
        self, query: TraceQuery, direction: Direction, passage: Passage, ours: frozenset[str]
    ) -> TracedSide:
        denied = self._by_resolver(query, direction)
        allowed = passage.verdict == "accept" and denied is None
        ident = _decider(passage) if denied is None else denied.id
        meaning = self._state.engine.meaning(ident) if ident else None
        policy, reason = "", REASONS.get(ident, "")
        if meaning is not None:
            policy = meaning.policy or ", ".join(meaning.isolating)
            reason = ISOLATED if meaning.index < 0 else ""
        elif not allowed and not reason:
            reason = passage.met[-1].comment.partition(" #")[0] if passage.met else ""
        expected = self._expected(query, direction, ours)
        agrees = _agree(passage, ident, expected)
        return TracedSide(
            direction=direction,
            allowed=allowed,
            policy=policy,
            rule=meaning.index if meaning is not None else -1,
            rule_name=meaning.name if meaning is not None else "",
            reason=reason,
            reject=passage.verdict == "reject",
            agrees=agrees,
            expected="" if agrees or expected is None else self._words(expected),
            path=tuple(map(_shown, passage.met)),
        )

    def _expected(
        self, query: TraceQuery, direction: Direction, ours: frozenset[str]
    ) -> Outcome | None:
        """What policies say; None where they are not asked: of the host's own packets, and of
        names, which the resolver answers."""
        if direction == "ingress" and query.src in ours:
            return None
        if self._is_proxied(query, direction):
            return None
        return self._walked(query, direction)

    def _by_resolver(self, query: TraceQuery, direction: Direction) -> Outcome | None:
        """Policies' denial of a resolver elsewhere, which ours obeys in place of the kernel."""
        if not self._is_proxied(query, direction) or query.dst in self._around().host:
            return None
        outcome = self._walked(query, direction)
        return None if outcome.accepted else outcome

    def _is_proxied(self, query: TraceQuery, direction: Direction) -> bool:
        around = self._around()
        return direction == "egress" and around.proxies(query.protocol, query.dst, query.port)

    def _walked(self, query: TraceQuery, direction: Direction) -> Outcome:
        around = self._around()
        kind = query.icmp_type if query.protocol.startswith("icmp") else -1
        code = query.icmp_code if query.protocol.startswith("icmp") else -1
        packet = Packet(direction, query.src, query.dst, query.protocol, query.port, kind, code)
        return walk(
            self._state.engine.ruleset(),
            packet,
            in_domain=around.in_domain,
            in_pools=around.in_pools,
        )

    def _words(self, outcome: Outcome) -> str:
        verb = "accepts" if outcome.accepted else "denies"
        meaning = self._state.engine.meaning(outcome.id)
        if meaning is None:
            return f"{verb}: {REASONS.get(outcome.id, outcome.id)}"
        if meaning.index < 0:
            return f"{verb}: {ISOLATED} ({', '.join(meaning.isolating)})"
        rule = rule_text(meaning.direction, meaning.index, meaning.name)
        return f"{verb}: policy {meaning.policy}, {rule}"


def _sent(
    machine: Machine, query: TraceQuery, links: Mapping[str, str], ours: frozenset[str]
) -> Passage:
    """From an endpoint of this host: to the host, or out as if the receiver were elsewhere."""
    packet = _probe(query, to_host=query.dst in ours)
    packet.iif, packet.iif_group = links[query.src], marks.LINK_GROUP
    first = machine.hook(_PREROUTING, packet, kind="")
    if first.verdict != "accept":
        return first
    here = packet.to_host or packet.proxied
    then = machine.hook(_INPUT if here else _FORWARD, packet)
    return Passage(then.verdict, (*first.met, *then.met))


def _received(
    machine: Machine, query: TraceQuery, links: Mapping[str, str], ours: frozenset[str]
) -> Passage:
    """To an endpoint of this host: from the host, or as if the sender were elsewhere."""
    packet = _probe(query)
    packet.oif, packet.oif_group = links[query.dst], marks.LINK_GROUP
    return machine.hook(_OUTPUT if query.src in ours else _FORWARD, packet)


def _probe(query: TraceQuery, *, to_host: bool = False) -> Probe:
    return Probe(
        src=query.src,
        dst=query.dst,
        protocol=PROTOCOLS[query.protocol],
        dport=query.port,
        icmp_type=query.icmp_type,
        icmp_code=query.icmp_code,
        to_host=to_host,
    )


def _named(met: Met) -> str:
    """The id under which a rule decides: that of its log record, or of its counter."""
    word, _, how = met.prefix.partition(".")
    return "" if how.endswith(_STAGED) else word or met.counter


def _decider(passage: Passage) -> str:
    """Id of what decided: of the last rule that ended something under a name."""
    ending = ("accept", "drop", "reject", f"goto {REJECT}")
    for met in reversed(passage.met):
        if met.verdict in ending and (name := _named(met)):
            return name
        if passage.verdict == "drop":
            break  # The last rule it was.
    return ""


def _agree(passage: Passage, ident: str, expected: Outcome | None) -> bool:
    if expected is None:
        return True
    if passage.verdict == "accept":
        # Echo to the host and the like pass where no policy has a say.
        return expected.accepted and (not ident or ident == expected.id)
    last = passage.met[-1].chain if passage.met else ""
    if last.startswith(_OF_POLICIES) or ident == GUARD:
        return not expected.accepted and ident == expected.id
    # Networks, unknown addresses and the host itself refuse beside the policies.
    return True


def _shown(met: Met) -> str:
    comment = met.comment.partition(" #")[0]
    verdict = f" -> {met.verdict}" if met.verdict else ""
    return f"{met.chain}: {comment}{verdict}"


def _unreadable(why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-KERNEL-003",
        "what the kernel would do cannot be said",
        why=why,
        fix=("nft list table inet plait", "plait status"),
    )
