"""Policy-routing rules of protocol `marks.PROTOCOL`; identity: all of the rule."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from plait.agent.programmers.base import Failure, Op
from plait.agent.programmers.support import GONE, refused
from plait.kernel.netlink import Event, Rtnetlink
from plait.model import marks
from plait.model.hoststate import HostState, Rule
from plait.wire import rtnetlink as rt

_FAMILIES = {4: rt.AF_INET, 6: rt.AF_INET6}


class Rules:
    """Programmer of `HostState.rules`."""

    name = "rules"

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self.actual: frozenset[Rule] = frozenset()

    def observe(self) -> None:
        """Read the rules of our protocol."""
        self.actual = frozenset(
            _observed(info)
            for family in _FAMILIES.values()
            for info in self._netlink.rules(family)
            if info.protocol == marks.PROTOCOL
        )

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """Additions, then deletions."""
        add = sorted(desired.rules - self.actual, key=_order)
        delete = sorted(self.actual - desired.rules, key=_order)
        return tuple([_op("add", rule) for rule in add] + [_op("delete", rule) for rule in delete])

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """All in one batch."""
        packed = [
            rt.del_rule(_info(op.key)) if op.verb == "delete" else rt.new_rule(_info(op.key))
            for op in ops
        ]
        actual = set(self.actual)
        failures: list[Failure] = []
        for op, problem in zip(ops, self._netlink.execute(packed), strict=True):
            if op.verb == "delete" and (problem is None or problem.code in GONE):
                actual.discard(op.key)
            elif problem is None:
                actual.add(op.key)
            elif problem.code == errno.EEXIST:
                text = "a rule that is not ours says the same"
                failures.append(Failure(op=op, error=text, errno=problem.code))
            else:
                failures.append(refused(op, problem))
        self.actual = frozenset(actual)
        return tuple(failures)

    def notice(self, events: Sequence[Event]) -> bool:
        """True when an event contradicts `actual`: somebody else deleted one of ours."""
        return any(
            event.kind == "lost"
            or (isinstance(event.info, rt.RuleInfo) and _observed(event.info) in self.actual)
            for event in events
        )


def _order(rule: Rule) -> tuple[int, ...]:
    return rule.family, rule.priority, rule.table, rule.mark, rule.mask


def _observed(info: rt.RuleInfo) -> Rule:
    return Rule(
        family=6 if info.family == rt.AF_INET6 else 4,
        priority=info.priority,
        table=info.table,
        mark=info.mark,
        mask=info.mask,
    )


def _info(rule: Rule) -> rt.RuleInfo:
    return rt.RuleInfo(
        family=_FAMILIES[rule.family],
        priority=rule.priority,
        table=rule.table,
        mark=rule.mark,
        mask=rule.mask,
        protocol=marks.PROTOCOL,
    )


def _op(verb: str, rule: Rule) -> Op:
    words = f"priority {rule.priority} fwmark {rule.mark:#x}/{rule.mask:#x} lookup {rule.table}"
    family = " -6" if rule.family == 6 else ""
    if verb == "add":
        text = f"ip{family} rule add {words} protocol {marks.PROTOCOL}"
        return Op(part="rules", verb="add", key=rule, want=rule, text=text)
    text = f"ip{family} rule del {words} protocol {marks.PROTOCOL}"
    return Op(part="rules", verb="delete", key=rule, have=rule, text=text)
