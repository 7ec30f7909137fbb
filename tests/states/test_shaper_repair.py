"""Limits of speed that were taken away, or come back while others are still going. On the fake and
on the real kernel."""

from __future__ import annotations

import msgspec
import pytest
from tests.states.test_rtnetlink_repair import IFB, NAME, observed, settle, whole

from plait.kernel.stage import Stage
from plait.model.hoststate import HostState
from plait.wire import links as wl
from plait.wire import tc


def test_a_shaper_that_waited_to_be_reaped_is_not_in_the_way(stage: Stage) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    for _ in range(2):
        assert settle(suite, wanted) == []
        assert settle(suite, HostState()) == []
    assert suite.shapers.reap() == 1
    assert stage.netlink.links("ifb") == []


def test_a_shaper_that_returns_while_the_reaper_is_at_work(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    for state in (wanted, msgspec.structs.replace(wanted, shapers={})):
        assert settle(suite, state) == []
    reap = suite.shapers.reap
    reaped: list[int] = []

    def late() -> int:
        reaped.append(reap())
        return reap()

    monkeypatch.setattr(suite.shapers, "reap", late)
    assert settle(suite, wanted) == []
    assert reaped == [1]


def test_a_redirection_whose_link_has_gone_is_replaced(stage: Stage) -> None:
    """The kernel keeps the filter, which drops all packets: another one behind it mends nothing."""
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    index = stage.netlink.index(NAME)
    before = stage.netlink.filters(index, tc.INGRESS)
    assert stage.netlink.execute([wl.del_link(stage.netlink.index(IFB))]) == [None]
    again = observed(stage)
    assert settle(again, wanted) == []
    after = stage.netlink.filters(index, tc.INGRESS)
    assert len(after) == len(before)
    assert max(rule.target for rule in after) == stage.netlink.index(IFB)
