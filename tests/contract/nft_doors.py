"""The owner of a table, and who only reads it: over one fake, or two sockets of one namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import pytest

from plait.kernel import netns
from plait.kernel.fake_nft import FakeNft
from plait.kernel.nft import Nft, NftDoor
from plait.kernel.nft_counters import NftCounters
from plait.kernel.nft_elements import NftElements

R = TypeVar("R", NftCounters, NftElements)
KINDS = ("fake", pytest.param("real", marks=pytest.mark.root))


@contextmanager
def owner_and_reader(kind: str, reader: Callable[[], R]) -> Iterator[tuple[NftDoor, R | FakeNft]]:
    """Both, of one of KINDS; `reader` opens the second."""
    if kind == "fake":
        with closing(FakeNft()) as fake:
            yield fake, fake
        return
    fd = netns.create()
    try:
        with netns.inside(fd):
            owner, second = Nft(), reader()
        with closing(owner), closing(second):
            yield owner, second
    finally:
        os.close(fd)
