"""One lab for all tests of policy on the kernel, and a stage in it for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.conftest import made, unique

from plait.lab.lab import Lab


@pytest.fixture(scope="session")
def policy_lab() -> Iterator[Lab]:
    """Three hosts on two sites, so that pairs share a host, a subnet, or neither."""
    with made(unique("pol"), 3, sites=2) as lab:
        yield lab
