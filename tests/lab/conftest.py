"""Labs for the tests: made once a session under a name of their own, destroyed at its end."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from tests.lab.traces import assert_nothing_left, namespaces_of, now

from plait.client.polling import poll
from plait.lab import bringup
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT
from plait.model.errors import PlaitError

T = TypeVar("T")


def unique(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(3)}"


def eventually(
    what: str, look: Callable[[], T], evidence: object = None, seconds: float = 30.0
) -> T:
    """What `look` gives as soon as it is true; fails after `seconds` and shows the evidence.

    They are many unless the time is what is promised: a busy machine may stop any process.
    """
    value = poll(look, seconds=seconds)
    assert value, f"{what}: not in {seconds} s; {evidence or value!r}"
    return value


def remove_network(lab: Lab, name: str) -> None:
    """Delete a network, as soon as the server has heard that its endpoints are gone."""
    argv = [*PLAIT, "network", "rm", name]

    def removed() -> bool:
        said.append(lab.run("h1", argv, check=False))
        return said[-1].returncode == 0

    said: list[subprocess.CompletedProcess[str]] = []
    eventually(f"network {name} can go", removed, said[-1:])


@contextmanager
def made(name: str, hosts: int, **options: object) -> Iterator[Lab]:
    """A lab that goes away with the block, whatever happens in it, and leaves nothing."""
    try:
        lab = bringup.up(name, hosts, **options)  # type: ignore[arg-type]
    except PlaitError as error:
        # Its evidence holds the daemons' last words, which the message leaves out.
        pytest.fail(error.render(), pytrace=False)
    try:
        yield lab
    finally:
        # Not those of hosts that ended meanwhile: others may have got their numbers since.
        namespaces, gone = namespaces_of(lab), now()
        assert lab.destroy() == []
    assert_nothing_left(name, namespaces, gone)


@pytest.fixture(scope="session")
def bare_lab() -> Iterator[Lab]:
    """Three hosts on two sites, without Plait."""
    with made(unique("bare"), 3, sites=2, bare=True) as lab:
        yield lab


@pytest.fixture(scope="session")
def plait_lab() -> Iterator[Lab]:
    """Three hosts on two sites: a server, three agents, no Docker."""
    with made(unique("plait"), 3, sites=2) as lab:
        yield lab


@pytest.fixture(scope="session")
def docker_lab() -> Iterator[Lab]:
    """Three hosts on two sites, a real dockerd on each."""
    with made(unique("dock"), 3, sites=2, docker=True) as lab:
        yield lab
