"""Traffic control behind the rtnetlink door: one contract, kept by the real kernel and the fake."""

import errno
from collections.abc import Iterator

import pytest

from plait.kernel.netlink import Rtnetlink
from plait.kernel.stage import FakeStage, KernelStage, Stage
from plait.model import marks
from plait.wire import links as wl
from plait.wire import tc

BUCKET = tc.Bucket(rate=1_250_000, burst=65536, limit=128_036)
HANDLE = marks.QDISC_HANDLE
PREF = marks.FILTER_PRIORITY


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    made: Stage = FakeStage() if request.param == "fake" else KernelStage()
    yield made
    made.close()


def codes(netlink: Rtnetlink, *messages: bytes) -> list[int]:
    return [problem.code if problem else 0 for problem in netlink.execute(messages)]


def ifb(netlink: Rtnetlink, name: str = "pi1") -> int:
    assert codes(netlink, wl.new_ifb(name, group=112)) == [0]
    return netlink.index(name)


def test_an_ifb_link_is_born_down_in_its_group(stage: Stage) -> None:
    ifb(stage.netlink)
    (made,) = stage.netlink.links("ifb")
    assert (made.name, made.up, made.group, made.kind) == ("pi1", False, 112, "ifb")
    assert codes(stage.netlink, wl.new_ifb("pi1", group=112)) == [errno.EEXIST]


def test_links_have_no_qdisc_but_the_kernels_own(stage: Stage) -> None:
    index = ifb(stage.netlink)
    assert stage.netlink.qdiscs() == []
    assert stage.netlink.filters(index, tc.INGRESS) == []
    assert codes(stage.netlink, tc.del_bucket(index, HANDLE))[0] in {errno.ENOENT, errno.EINVAL}


@pytest.mark.parametrize(
    "bucket",
    [
        BUCKET,
        tc.Bucket(rate=125, burst=16384, limit=16390),
        tc.Bucket(rate=(1 << 32) - 1, burst=1 << 31, limit=tc.U32),
        tc.Bucket(rate=1 << 35, burst=1 << 20, limit=tc.U32),
        tc.Bucket(rate=(1 << 61) - 1, burst=1 << 20, limit=tc.U32),
    ],
)
def test_a_bucket_is_shown_as_it_was_asked_for(stage: Stage, bucket: tc.Bucket) -> None:
    index = ifb(stage.netlink)
    assert codes(stage.netlink, tc.new_bucket(index, HANDLE, bucket)) == [0]
    (seen,) = stage.netlink.qdiscs()
    assert (seen.index, seen.kind, seen.handle, seen.parent) == (index, "tbf", HANDLE, tc.ROOT)
    assert seen.bucket is not None
    assert bucket.like(seen.bucket), seen.bucket


def test_a_bucket_is_changed_in_place_and_another_qdisc_is_never_replaced(stage: Stage) -> None:
    netlink = stage.netlink
    index = ifb(netlink)
    other = tc.Bucket(rate=2_500_000, burst=131072, limit=300_000)
    assert codes(netlink, tc.new_bucket(index, HANDLE, BUCKET)) == [0]
    assert codes(netlink, tc.new_bucket(index, HANDLE, other)) == [errno.EEXIST]
    assert codes(netlink, tc.new_bucket(index, HANDLE, other, change=True)) == [0]
    (seen,) = netlink.qdiscs()
    assert seen.bucket is not None
    assert other.like(seen.bucket)
    assert not BUCKET.like(seen.bucket)
    assert codes(netlink, tc.del_bucket(index, 0x1_0000)) == [errno.EINVAL]
    assert codes(netlink, tc.del_bucket(index, HANDLE)) == [0]
    assert netlink.qdiscs() == []
    assert codes(netlink, tc.new_bucket(index, 0x1_0000, BUCKET)) == [0]
    assert codes(netlink, tc.new_bucket(index, HANDLE, other)) == [errno.EEXIST]


def test_a_filter_leads_what_a_link_receives_to_another(stage: Stage) -> None:
    netlink = stage.netlink
    here, there = ifb(netlink, "pi1"), ifb(netlink, "pi2")
    lead = tc.new_redirect(here, PREF, there)
    assert codes(netlink, lead) == [errno.EINVAL]
    assert codes(netlink, tc.new_clsact(here), tc.new_clsact(here)) == [0, errno.EEXIST]
    assert codes(netlink, lead) == [0]
    seen = [f for f in netlink.filters(here, tc.INGRESS) if f.target]
    assert [(f.priority, f.kind, f.target) for f in seen] == [(PREF, "u32", there)]
    assert netlink.filters(here, tc.EGRESS) == []
    assert [(q.kind, q.parent, q.handle) for q in netlink.qdiscs()] == [
        ("clsact", tc.CLSACT, tc.CLSACT_HANDLE)
    ]
    assert codes(netlink, tc.del_filters(here, PREF), tc.del_filters(here, PREF)) == [
        0,
        errno.ENOENT,
    ]
    assert netlink.filters(here, tc.INGRESS) == []
    assert codes(netlink, lead, tc.del_clsact(here)) == [0, 0]
    assert netlink.filters(here, tc.INGRESS) == []
    assert netlink.qdiscs() == []


def test_all_goes_with_its_link(stage: Stage) -> None:
    netlink = stage.netlink
    here, there = ifb(netlink, "pi1"), ifb(netlink, "pi2")
    made = (
        tc.new_bucket(here, HANDLE, BUCKET),
        tc.new_clsact(here),
        tc.new_redirect(here, PREF, there),
        wl.del_link(here),
    )
    assert codes(netlink, *made) == [0, 0, 0, 0]
    assert netlink.qdiscs() == []
    assert codes(netlink, tc.new_clsact(here)) == [errno.ENODEV]
