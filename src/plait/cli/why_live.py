"""`plait why --live`: what this host's kernel would do with the flow, beside the model's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from plait.model.policies import Direction
    from plait.model.traces import Trace, TracedSide, TraceQuery
    from plait.policy.evaluate import Side, Verdict
    from plait.policy.flow import Flow

ASKED = 20
"""Flows of which the kernel is asked, at most: names may mean many."""


class Compared(NamedTuple):
    """One side, asked of the kernel and of the model."""

    flow: Flow
    node: str
    side: TracedSide
    model: bool
    """The model lets it pass."""
    certain: bool = True
    """What a name resolves to does not matter."""

    @property
    def agrees(self) -> bool:
        """Kernel and model say the same, and for the same reason."""
        if not self.certain:
            return True
        return self.side.allowed == self.model and self.side.agrees


class Live(NamedTuple):
    """What this host could say."""

    node: str
    applied: int
    sides: tuple[Compared, ...]
    elsewhere: tuple[str, ...]
    """Nodes that decide about the rest."""
    unasked: int = 0
    """Flows that a kernel cannot be asked about: of a name outside, of a protocol without ports."""

    @property
    def agrees(self) -> bool:
        """Nothing differs."""
        return all(side.agrees for side in self.sides)


def ask(verdicts: list[Verdict]) -> Live:
    """Ask the agent of this host about the flows of the answers. PLAIT-AGENT-001 without one."""
    from plait.cli import connect

    agent = connect.agent()
    node, applied, unasked = "", 0, 0
    found: list[Compared] = []
    elsewhere: dict[str, None] = {}
    for verdict in verdicts[:ASKED]:
        query = query_of(verdict.flow)
        if query is None:
            unasked += 1
            continue
        trace: Trace = connect.wait_for(agent.trace(query))
        node, applied = trace.node, trace.applied
        found += [_compared(verdict, trace, side) for side in trace.sides]
        here = {side.direction for side in trace.sides}
        for side in (verdict.egress, verdict.ingress):
            if side.endpoint is not None and side.direction not in here:
                elsewhere[side.endpoint.spec.node] = None
    return Live(node, applied, tuple(found), tuple(elsewhere), unasked)


def query_of(flow: Flow) -> TraceQuery | None:
    """The flow as the agent takes it; None for one that cannot be asked: of a name outside, or
    of a protocol without ports."""
    from plait.model.traces import TraceQuery

    protocol = flow.protocol.lower()
    if not flow.src.address or not flow.dst.address:
        return None
    if protocol not in ("tcp", "udp", "sctp", "icmp", "icmpv6"):
        return None
    return TraceQuery(
        src=flow.src.address,
        dst=flow.dst.address,
        protocol=protocol,  # type: ignore[arg-type]
        port=flow.port,
        icmp_type=max(flow.icmp_type, 0),
        icmp_code=max(flow.icmp_code, 0),
    )


def _compared(verdict: Verdict, trace: Trace, side: TracedSide) -> Compared:
    model = _side(verdict, side.direction)
    return Compared(
        flow=verdict.flow,
        node=trace.node,
        side=side,
        model=verdict.way.allowed and model.allowed,
        certain=not model.depends,
    )


def _side(verdict: Verdict, direction: Direction) -> Side:
    return verdict.egress if direction == "egress" else verdict.ingress


def show(live: Live) -> None:
    """The kernel's answer, a line a side."""
    from plait.cli import output
    from plait.policy.flow import port_text

    if live.sides:
        output.say(f"\nkernel of {live.node}, as it is now:")
    shown = ""
    for compared in live.sides:
        flow = f"{compared.flow.src.address} -> {compared.flow.dst.address}"
        if flow != shown:
            output.say(f"  {flow} {port_text(compared.flow)}")
            shown = flow
        output.say(output.clean(f"    {_line(compared)}"))
    if not live.agrees:
        output.warn(
            f"the kernel of {live.node} does not do what the policies say. What was changed by hand"
            " is mended within 10 s; `plait status` tells what the kernel refuses, and whether the"
            " server is ahead of this host"
        )
    if live.unasked:
        output.warn(
            f"the kernel was not asked of {live.unasked} of these flows: give an address in place "
            "of a name outside, and a protocol with ports"
        )
    for node in live.elsewhere:
        output.say(f"  the rest is decided on {node}: run the same command there", err=True)


def _line(compared: Compared) -> str:
    from plait.model.flows import rule_text

    side = compared.side
    verb = "accepts" if side.allowed else "rejects" if side.reject else "drops"
    why = side.reason
    if side.policy:
        rule = rule_text(side.direction, side.rule, side.rule_name)
        why = f"policy {side.policy}, {rule}" + (f": {why}" if why else "")
    line = f"{side.direction:7}  {verb}: {why}" if why else f"{side.direction:7}  {verb}"
    if compared.agrees:
        return line + (", as the model says" if compared.certain else "")
    expected = side.expected or ("accepts" if compared.model else "denies")
    return f"{line}; THE MODEL SAYS OTHERWISE: it {expected}"


def as_data(live: Live) -> dict[str, Any]:
    """For programs."""
    import msgspec

    return {
        "node": live.node,
        "applied": live.applied,
        "agrees": live.agrees,
        "elsewhere": list(live.elsewhere),
        "unasked": live.unasked,
        "sides": [
            {
                "src": compared.flow.src.address,
                "dst": compared.flow.dst.address,
                "model": compared.model,
                **msgspec.to_builtins(compared.side),
                "agrees": compared.agrees,
            }
            for compared in live.sides
        ],
    }
