"""What a change of policies changes: who comes to reach whom, or ceases to.

Two worlds are asked the same questions, and only where something that decides differs
(`plait.policy.preview_places`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flow import Flow, port_text
from plait.policy.preview_places import Parties, Place, places
from plait.policy.questions import PortAsked, ports_asked
from plait.policy.world import Party, World

OWN_HOST = "their own host"


class Change(NamedTuple):
    """Flows that one world lets through and the other does not."""

    srcs: tuple[str, ...]
    dsts: tuple[str, ...]
    """Each sender to each receiver, but for itself."""
    ports: tuple[str, ...]
    allowed: bool
    """Afterwards."""
    by: str
    """What decides afterwards: `policy isolate.shop`, or `no policy`."""
    every: bool = False
    """The ports are all that were asked about."""
    times: int = 1
    """Flows that were seen, where flows were given."""

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """Sender, receiver and port of each."""
        for src in self.srcs:
            for dst in self.dsts:
                if src != dst:
                    yield from ((src, dst, port) for port in self.ports)


def preview(before: World, after: World, seen: Iterable[tuple[str, int]] = ()) -> list[Change]:
    """What changes, by the ports that policies name and those of `seen` (protocol, port).

    Endpoints that are in one world only are left out: they change nothing for anybody that was
    there.
    """
    found, scope = places(before, after)
    asked = ports_asked(scope.policies, seen)
    changes: list[Change] = []
    for src in found:
        for dst in found:
            if "egress" in src.ruled or "ingress" in dst.ruled:
                pair = _samples(src, dst)
                if pair is not None:
                    changes += _changes(before, after, src.names, dst.names, pair, asked)
        if "egress" in src.ruled and src.host:
            pair = (src.samples[0], src.host)
            changes += _changes(before, after, src.names, (OWN_HOST,), pair, asked)
    return _joined(changes)


def flow_changes(before: World, after: World, flows: Iterable[Flow]) -> list[Change]:
    """The flows, as they were seen, that one world accepts and the other does not."""
    found: dict[tuple[str, str, str, bool, str], int] = {}
    for flow in flows:
        then, now = _passes(before, flow), _passes(after, flow)
        if then[0] != now[0]:
            key = (str(flow.src), str(flow.dst), port_text(flow), now[0], decider(now[1]))
            found[key] = found.get(key, 0) + 1
    return [
        Change((src,), (dst,), (port,), allowed, by, times=times)
        for (src, dst, port, allowed, by), times in found.items()
    ]


def decider(verdict: Verdict) -> str:
    """`policy a`, `policy a and policy b`, `no policy`: what decided a verdict."""
    sides = [side for side in (verdict.egress, verdict.ingress) if side.decided != "not asked"]
    if not verdict.allowed:
        sides = [side for side in sides if not side.allowed]
    by = dict.fromkeys(f"policy {s.by.policy.metadata.name}" for s in sides if s.by is not None)
    return " and ".join(by) or "no policy"


# The answers


def _samples(src: Place, dst: Place) -> tuple[Parties, Parties] | None:
    """Who asks whom for the two; None if one alone would ask itself."""
    if src is not dst:
        others = [some for some in dst.samples if not _same_host(src, some)] or dst.samples
        senders = [some for some in src.samples if not _same_host(dst, some)] or src.samples
        return senders[0], others[0]
    return (src.samples[0], src.samples[1]) if len(src.samples) > 1 else None


def _same_host(place: Place, some: Parties) -> bool:
    """Whether these are the host of a place's endpoint, which has ways of its own."""
    return bool(place.host) and {p.address for p in place.host} == {p.address for p in some}


def _changes(
    before: World,
    after: World,
    srcs: tuple[str, ...],
    dsts: tuple[str, ...],
    pair: tuple[Parties, Parties],
    asked: Sequence[PortAsked],
) -> Iterator[Change]:
    found: dict[tuple[bool, str], list[str]] = {}
    answered = 0
    for port in asked:
        then, _ = _reached(before, *pair, port)
        now, verdict = _reached(after, *pair, port)
        answered += now is not None
        if then is not None and now is not None and then != now and verdict is not None:
            found.setdefault((now, decider(verdict)), []).append(port.text)
    for (allowed, by), texts in found.items():
        yield Change(srcs, dsts, tuple(texts), allowed, by, every=len(texts) == answered)


def _reached(
    world: World, senders: Parties, receivers: Parties, port: PortAsked
) -> tuple[bool | None, Verdict | None]:
    """Whether all flows pass, in every family; None if there is none to ask about."""
    result: tuple[bool | None, Verdict | None] = (None, None)
    for one in senders:
        for other in receivers:
            if (":" in one.address) != (":" in other.address):
                continue
            here, there = world.party(one.address), world.party(other.address)
            for flow in port.flows(world, here, there):
                passes, verdict = _passes(world, flow)
                if verdict.way.kind == "not ours":
                    continue
                result = (passes, verdict)
                if not passes:
                    return result
    return result


def _passes(world: World, flow: Flow) -> tuple[bool, Verdict]:
    """Whether it passes. What comes from outside is taken to come through a published port."""
    verdict = evaluate(world, flow)
    if verdict.way.kind == "from outside" and _publishes(flow.dst):
        verdict = verdict._replace(way=verdict.way._replace(kind="published"))
    return verdict.allowed, verdict


def _publishes(party: Party) -> bool:
    return party.endpoint is not None and bool(party.endpoint.spec.ports)


def _joined(changes: Iterable[Change]) -> list[Change]:
    """Senders with the same receivers and ports together, then the other way round."""
    senders: dict[Change, list[str]] = {}
    for change in changes:
        senders.setdefault(change._replace(srcs=()), []).extend(change.srcs)
    receivers: dict[Change, list[str]] = {}
    for change, srcs in senders.items():
        key = change._replace(srcs=tuple(srcs), dsts=())
        receivers.setdefault(key, []).extend(change.dsts)
    return [change._replace(dsts=tuple(dsts)) for change, dsts in receivers.items()]
