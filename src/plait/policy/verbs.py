"""What `plait allow`, `deny` and `isolate` write: one ordinary policy each. Pure.

A verb's policy has a name that follows from what was said, so saying it again changes nothing,
and saying it with another port adds that port.

    allow.shop.web.from.shop.front    ingress of shop/web
    allow.shop.web.to.world           egress of shop/web
    deny.shop.web.from.world
    isolate.shop
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from plait.model.errors import PlaitError
from plait.model.meta import Metadata
from plait.model.policies import DIRECTIONS, Action, Direction, Peer, Policy, PolicySpec, Port, Rule
from plait.policy.reference import Reference, namespace_selector, peers, slug, subject
from plait.policy.words import direction_word

DENY_PRIORITY: Final = 100
"""Of `plait deny`: before the allowing policies, which have the usual priority."""
EVERYWHERE: Final = frozenset({"0.0.0.0/0", "::/0"})

Verb = Literal["allow", "deny"]
ACTIONS: Final[dict[Verb, Action]] = {"allow": "Accept", "deny": "Deny"}


def side(dst: Reference, src: Reference) -> Direction:
    """Whose rules a verb writes: the receiver's where it is endpoints, else the sender's.

    PLAIT-CLI-001 when neither is.
    """
    if src.kind == "domain":
        raise PlaitError(
            "PLAIT-CLI-001",
            f"`{src}` cannot be a sender",
            why="a name outside the network is looked up by those who go there, not by who comes",
            fix=("name its address or CIDR",),
        )
    if dst.is_subject:
        return "ingress"
    if src.is_subject:
        return "egress"
    raise PlaitError(
        "PLAIT-CLI-001",
        f"neither `{dst}` nor `{src}` are endpoints",
        why="a policy rules endpoints: those of a name, of labels or of a namespace",
    )


def rule_policy(
    verb: Verb,
    dst: Reference,
    src: Reference,
    ports: Iterable[Port] = (),
    *,
    direction: Direction | None = None,
    isolate: bool = True,
    pools: Iterable[str] = (),
    reject: bool = False,
    staged: bool = False,
) -> Policy:
    """The policy of `plait allow` or `plait deny`.

    `direction` is whose rules are written, by default those of `side`. Without `isolate` an
    allowing policy opens and closes nothing. `pools` are the CIDRs that `world` leaves out.
    """
    way = direction or side(dst, src)
    ruled, other = (dst, src) if way == "ingress" else (src, dst)
    if verb == "deny" and other.kind == "domain":
        raise PlaitError(
            "PLAIT-CLI-001",
            f"`{other}` cannot be denied by its name",
            why="its addresses may be those of other names too, and it may have others tomorrow",
            fix=("name its CIDR", "allow the names that are needed: that closes the others"),
        )
    rule = Rule(
        action=ACTIONS[verb],
        peers=peers(other, pools),
        ports=tuple(ports) or None,
        reject=reject,
    )
    spec = PolicySpec(
        subject=subject(ruled),
        ingress=(rule,) if way == "ingress" else (),
        egress=(rule,) if way == "egress" else (),
        staged=staged,
    )
    if verb == "deny":
        spec = msgspec.structs.replace(spec, priority=DENY_PRIORITY)
    elif not isolate:
        spec = msgspec.structs.replace(spec, isolate=())
    joint = direction_word(way)
    return Policy(metadata=Metadata(name=f"{verb}.{slug(ruled)}.{joint}.{slug(other)}"), spec=spec)


def isolate_policy(namespace: str, *, egress: bool = False, staged: bool = False) -> Policy:
    """The policy of `plait isolate`: a namespace that keeps to itself.

    Its endpoints accept from their own namespace and what other policies open; with `egress`
    they also send to their own namespace only. Names are found in any case.
    """
    within = Rule(peers=(Peer(namespaces=namespace_selector(namespace)),))
    reference = Reference("namespace", namespace)
    return Policy(
        metadata=Metadata(name=f"isolate.{slug(reference)}"),
        spec=PolicySpec(
            subject=subject(reference),
            isolate=DIRECTIONS if egress else ("ingress",),
            ingress=(within,),
            egress=(within,) if egress else (),
            staged=staged,
        ),
    )


def combined(stored: Policy, wanted: Policy) -> Policy:
    """The stored policy with what the wanted one adds: ports, or a direction.

    PLAIT-API-005 when somebody else made the stored one into something else.
    """
    before, after = stored.spec, wanted.spec
    if before.staged != after.staged:
        raise _staged_otherwise(stored)
    same = msgspec.structs.replace(
        after,
        isolate=before.isolate,
        ingress=before.ingress,
        egress=before.egress,
        description=before.description,
    )
    if same != before or (before.isolate is None) != (after.isolate is None):
        raise _somebody_elses(stored)
    spec = msgspec.structs.replace(
        before,
        isolate=_both(before.isolate, after.isolate),
        ingress=_rules(stored, wanted, "ingress"),
        egress=_rules(stored, wanted, "egress"),
    )
    return msgspec.structs.replace(stored, spec=spec)


def _both(
    one: tuple[Direction, ...] | None, other: tuple[Direction, ...] | None
) -> tuple[Direction, ...] | None:
    if one is None or other is None:
        return None
    return tuple(direction for direction in DIRECTIONS if direction in (*one, *other))


def _rules(stored: Policy, wanted: Policy, direction: Direction) -> tuple[Rule, ...]:
    before, after = stored.spec.rules(direction), wanted.spec.rules(direction)
    if not before or not after:
        return before or after
    (new,) = after
    old = before[0]
    if len(before) > 1 or (old.action, old.reject, _bare(old.peers)) != (
        new.action,
        new.reject,
        _bare(new.peers),
    ):
        raise _somebody_elses(stored)
    ports = None
    if old.ports is not None and new.ports is not None:
        ports = (*old.ports, *(port for port in new.ports if port not in old.ports))
    return (msgspec.structs.replace(new, name=old.name, ports=ports),)


def _bare(found: tuple[Peer, ...] | None) -> tuple[Peer, ...] | None:
    """Peers as far as a command names them: `world` leaves out the pools that are there now."""
    if found is None:
        return None
    return tuple(
        msgspec.structs.replace(peer, excepted=()) if peer.cidr in EVERYWHERE else peer
        for peer in found
    )


def _staged_otherwise(stored: Policy) -> PlaitError:
    name = stored.metadata.name
    if stored.spec.staged:
        return PlaitError(
            "PLAIT-API-005",
            f"policy {name} is staged: it counts and enforces nothing",
            fix=(f"plait policy enforce {name}", "the same command with --staged"),
        )
    return PlaitError(
        "PLAIT-API-005",
        f"policy {name} is enforced already",
        fix=(f"plait policy stage {name}", "the same command without --staged"),
    )


def _somebody_elses(stored: Policy) -> PlaitError:
    name = stored.metadata.name
    return PlaitError(
        "PLAIT-API-005",
        f"there is a policy {name} that says something else",
        why="it was written with other options or by hand, so this command leaves it alone",
        fix=(f"plait policy show {name}", f"plait policy rm {name}"),
    )
