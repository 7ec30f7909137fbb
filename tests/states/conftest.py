"""Kernels for states: fake, and real in a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.support.nft_hosts import Doors

from plait.kernel import netns
from plait.kernel.conntrack import Conntrack, FakeConntrack
from plait.kernel.fake_nft import FakeNetfilter, FakeNft
from plait.kernel.nft import Nft, NftDoor
from plait.kernel.stage import FakeStage, KernelStage, Stage
from plait.wire import links as wl


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def doors(request: pytest.FixtureRequest) -> Iterator[Doors]:
    """See `Doors`."""
    opened: list[NftDoor | Conntrack | FakeConntrack] = []
    kernel = FakeNetfilter()
    fd = netns.create() if request.param == "real" else -1

    def build() -> tuple[NftDoor, Conntrack | FakeConntrack]:
        if fd < 0:
            pair: tuple[NftDoor, Conntrack | FakeConntrack] = FakeNft(kernel), FakeConntrack()
        else:
            with netns.inside(fd):
                pair = Nft(), Conntrack()
        opened.extend(pair)
        return pair

    yield build
    for door in opened:
        door.close()
    if fd >= 0:
        os.close(fd)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A host's kernel."""
    made: Stage = FakeStage() if request.param == "fake" else KernelStage()
    made.netlink.execute([wl.set_link(1, up=True)])
    yield made
    made.close()
