"""DOCKER-USER: our accept rules among the user's own, with the fake and the real programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from plait.agent.programmers.docker_user import RULES, DockerUser
from plait.kernel import netns
from plait.kernel.iptables import CHAIN, FakeIptables, Iptables, IptablesDoor
from plait.model.hoststate import HostState

ON = HostState(forward_accept=True)
OFF = HostState()
RETURN = f"-A {CHAIN} -j RETURN"
USER = f"-A {CHAIN} -s 198.51.100.7/32 -j DROP"
COMMANDS = ("iptables-nft", "ip6tables-nft", "iptables-legacy")

Make = Callable[[str, list[str]], IptablesDoor]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """A door to a host where one command holds a chain with these rules."""
    if request.param == "fake":
        yield lambda command, rules: FakeIptables({command: list(rules)})
        return
    fd = netns.create()
    opened: list[Iptables] = []

    def real(command: str, rules: list[str]) -> IptablesDoor:
        subprocess.run([command, "-N", CHAIN], check=True)
        for rule in rules:
            subprocess.run([command, *rule.split()], check=True)
        opened.append(Iptables())
        return opened[-1]

    with netns.inside(fd):
        yield real
    for door in opened:
        door.close()
    os.close(fd)


def converge(programmer: DockerUser, state: HostState) -> None:
    programmer.observe()
    assert programmer.apply(programmer.plan(state)) == ()
    assert programmer.plan(state) == ()
    programmer.observe()
    assert programmer.plan(state) == ()


@pytest.mark.parametrize("command", COMMANDS)
def test_rules_come_and_go(make: Make, command: str) -> None:
    programmer = DockerUser(make(command, []))
    converge(programmer, ON)
    assert programmer.actual == {command: RULES}
    converge(programmer, ON)
    converge(programmer, OFF)
    assert programmer.actual == {command: ()}


def test_the_users_rules_stay_first_and_dockers_return_last(make: Make) -> None:
    programmer = DockerUser(make("iptables-nft", [USER, RETURN]))
    converge(programmer, ON)
    assert programmer.actual["iptables-nft"] == (USER, *RULES, RETURN)
    converge(programmer, OFF)
    assert programmer.actual["iptables-nft"] == (USER, RETURN)


def test_what_is_out_of_place_twice_or_old_is_put_right(make: Make) -> None:
    old = RULES[0].replace("pl+", "old+")
    held = [RULES[0], RULES[0], old, RETURN, RULES[1]]
    programmer = DockerUser(make("iptables-nft", held))
    programmer.observe()
    converge(programmer, ON)
    assert programmer.actual["iptables-nft"] == (*RULES, RETURN)


def test_a_refusal_is_reported_and_tried_again() -> None:
    fake = FakeIptables({"iptables-nft": []})
    programmer = DockerUser(fake)
    programmer.observe()
    fake.fail_next = "Another app is currently holding the xtables lock."
    (failure,) = programmer.apply(programmer.plan(ON))
    assert "xtables lock" in failure.error
    converge(programmer, ON)


@pytest.mark.root
def test_without_docker_nothing_is_made() -> None:
    fd = netns.create()
    with netns.inside(fd):
        door = Iptables()
        programmer = DockerUser(door)
        converge(programmer, ON)
        listed = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True)
        names = subprocess.run(
            ["cat", "/proc/thread-self/net/ip_tables_names"], capture_output=True, check=False
        )
        door.close()
    os.close(fd)
    assert programmer.actual == {}
    assert listed.stdout == b""
    assert names.stdout == b""


def test_only_what_was_there_can_be_damaged() -> None:
    door = FakeIptables({})
    programmer = DockerUser(door)
    converge(programmer, ON)
    door.chains["iptables-nft"] = []  # dockerd starts.
    programmer.observe()
    assert [op.arrival for op in programmer.plan(ON)] == [True, True]
    converge(programmer, ON)
    door.chains["iptables-nft"].clear()  # Somebody flushes the chain.
    programmer.observe()
    assert [op.arrival for op in programmer.plan(ON)] == [False, False]
    del door.chains["iptables-nft"]  # dockerd takes its chain away, and makes it again.
    programmer.observe()
    door.chains["iptables-nft"] = []
    programmer.observe()
    assert [op.arrival for op in programmer.plan(ON)] == [True, True]
