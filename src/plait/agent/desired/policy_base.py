"""The chains through which every packet comes to the policies of its endpoints, and back.

Networks decide first, in the forward hook's first chain; what they accept comes to the policies
of the sender, then to those of the receiver. Each is a base chain of its own: `accept` ends that
one only, however deep in it a rule stands, and the kernel, which walks all that a base chain
leads to whenever a rule or a verdict is added, walks no class of receivers for each sender's.
"""

from __future__ import annotations

from typing import Final

from plait.agent.desired.filter_logs import ACCEPTED, DENIED, log
from plait.agent.desired.filter_sets import ENDED, FAMILIES, POLICY
from plait.model import marks
from plait.model.policies import DIRECTIONS, Direction
from plait.wire import nft_expr as e
from plait.wire.nft import Chain, Hook, Rule
from plait.wire.nft_effects import Prohibit, Reset
from plait.wire.nft_expr import ACCEPT, DROP, Counter, InSet, Match

REJECT: Final = "refused"
"""Chain that refuses a packet with an answer. (`reject` is a word of nft's own.)"""
_GROUP: Final = e.host32(marks.LINK_GROUP)
_LINK: Final = {"egress": Match(e.IIFGROUP, _GROUP), "ingress": Match(e.OIFGROUP, _GROUP)}
_OWN: Final = {"egress": e.SADDR, "ingress": e.DADDR}
_COUNT: Final = Counter()
_NEW: Final = e.Masked(e.CT_STATE, e.CT_NEW)
_ESTABLISHED: Final = e.Masked(e.CT_STATE, e.CT_ESTABLISHED | e.CT_RELATED)
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_PRIORITY: Final = {"egress": -2, "ingress": -1}


def pickup_chain(direction: Direction) -> str:
    """The chain of addresses to which policies apply, but none in this direction."""
    return f"pickup-{direction}"


def by_policy(direction: Direction) -> tuple[Rule, ...]:
    """To the policies of the endpoint, and back here where none decides."""
    return tuple(
        Rule("policies", (e.family(f), e.Vmap((_OWN[direction][f],), POLICY[direction, f].name)))
        for f in FAMILIES
    )


def pickup(logs: bool, direction: Direction) -> Rule:
    """A flow that was ended must not go on as a new one: TCP begins with a SYN."""
    return Rule(
        "pick-up",
        (
            e.protocol("tcp"),
            _NEW,
            e.FlagsDiffer(e.TCP_FLAGS, _FIN | _SYN | _RST | _ACK, _SYN),
            _COUNT,
            *log(logs, "pickup", direction, DENIED),
            DROP,
        ),
    )


def _ended(logs: bool, direction: Direction) -> tuple[Rule, ...]:
    """An answer in a UDP flow that was ended must not begin it anew from the other side, where
    policies may accept it: what its receiver sends would be answers then."""
    return tuple(
        Rule(
            "ended",
            (
                e.family(f),
                e.protocol("udp"),
                InSet((e.SADDR[f], e.SPORT, e.DADDR[f], e.DPORT), ENDED[f].name),
                _COUNT,
                *log(logs, "ended", direction, DENIED),
                DROP,
            ),
        )
        for f in FAMILIES
    )


def policy_base(logs: bool) -> tuple[Chain, ...]:
    """The chains that policies and base chains lead to."""
    reject = Chain(
        REJECT,
        (Rule("rejected", (e.protocol("tcp"), Reset())), Rule("rejected", (Prohibit(),))),
    )
    stages = tuple(
        Chain(
            f"policies-{direction}",
            (
                *_ended(logs, direction),
                *by_policy(direction),
                Rule("no policy", (_COUNT, *log(logs, "none", direction, ACCEPTED), ACCEPT)),
            ),
        )
        for direction in DIRECTIONS
    )
    pickups = tuple(Chain(pickup_chain(d), (pickup(logs, d),)) for d in DIRECTIONS)
    return (reject, *pickups, *stages)


def policy_hooks() -> tuple[Chain, ...]:
    """The base chains of the forward hook, after that of the networks."""
    return tuple(
        Chain(
            f"policy-{direction}",
            (
                Rule("established", (_ESTABLISHED, ACCEPT)),
                Rule("endpoint", (_LINK[direction], e.goto(f"policies-{direction}"))),
            ),
            Hook("filter", "forward", 2, _PRIORITY[direction]),
        )
        for direction in ("egress", "ingress")
    )
