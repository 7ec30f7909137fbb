"""Floods against policies: not one packet passes that they forbid, at no moment.

Frames are sent from the instant at which the interface is there, 2 ms apart, under the sender's
own and under others' addresses, each under several source ports so that every round begins flows.
The sender belongs to `app=flood`, which may send to nobody; `app=quiet` receives from nobody.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from tests.lab import packets
from tests.lab.census import inside, ready, status
from tests.lab.conftest import eventually, unique
from tests.lab.policy.stage import Pod, Scene, Stage, network, staged
from tests.lab.test_security import EAR, Process, of, process, send

from plait.lab import bringup, daemons
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.model.objects import Metadata
from plait.model.policies import Peer, Policy, PolicySpec, Rule, Subject
from plait.model.selectors import Selector

pytestmark = pytest.mark.root

POOLS = ("10.241.0.0/16", "fd00:10:241::/48")
GAP = "0.002"
"""Seconds between rounds of a flood."""
SOURCE_PORTS = range(41000, 41008)
ROUNDS = 80
"""Rounds of a flood that a moment of interest is given to let one packet slip."""
CYCLES = 3
"""Endpoints that come and go under a flood."""


def app(name: str) -> Selector:
    return Selector(match_labels={"app": name})


MAY_SEND_TO_NOBODY = Policy(
    metadata=Metadata(name="flood-sends-to-nobody"),
    spec=PolicySpec(
        subject=Subject(endpoints=app("flood")),
        isolate=("egress",),
    ),
)
RECEIVES_FROM_THE_GOOD = Policy(
    metadata=Metadata(name="quiet-receives-from-the-good"),
    spec=PolicySpec(
        subject=Subject(endpoints=app("quiet")),
        ingress=(Rule(peers=(Peer(endpoints=app("good")),)),),
    ),
)
POLICIES = (MAY_SEND_TO_NOBODY, RECEIVES_FROM_THE_GOOD)


def pod(name: str, host: str, label: str, number: int) -> Pod:
    return Pod(
        namespace="flood",
        name=name,
        host=host,
        labels={"app": label},
        addresses=(f"10.241.1.{number}", f"fd00:10:241:1::{number:x}"),
        network="flood",
    )


STANDING = (
    pod("good", "h1", "good", 10),
    pod("near", "h1", "quiet", 11),
    pod("far", "h2", "quiet", 12),
    pod("open", "h2", "open", 13),
)
FLOODER = pod("flooder", "h1", "flood", 30)
STRANGER = pod("stranger", "h1", "stranger", 31)
LATE = pod("late", "h1", "quiet", 32)


def scene(*more: Pod) -> Scene:
    return Scene(pods=(*STANDING, *more), namespaces={"flood": {}}, objects=POLICIES)


@pytest.fixture(scope="module")
def stage(policy_lab: Lab) -> Iterator[Stage]:
    with staged(policy_lab, network("flood", *POOLS)) as made:
        made.show(scene())
        yield made


def frames(sources: Sequence[str], targets: Sequence[str], text: str) -> list[bytes]:
    """From each source to each target of its family, under every source port."""
    return [
        packets.ether(
            packets.kind_of(source), packets.udp(source, target, EAR, f"{text} {source}", by=by)
        )
        for source in sources
        for target in targets
        if (":" in source) == (":" in target)
        for by in SOURCE_PORTS
    ]


@contextmanager
def flood(
    lab: Lab, host: str, pid: int, sources: Sequence[str], targets: Sequence[str]
) -> Iterator[Process]:
    """A flood that runs until the block ends, whether or not the interface is there."""
    sent = [frame.hex() for frame in frames(sources, targets, "flood")]
    with process(lab, host, pid, "send", "eth0", GAP, *sent) as sender:
        yield sender


def rounds(sender: Process, count: int = ROUNDS) -> None:
    """Wait until the flood has gone round this often from now on; it says so each time."""
    assert sender.process.stdout is not None
    pipe = sender.process.stdout.fileno()
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(pipe, 1 << 16):
            pass  # what it said before
    os.set_blocking(pipe, True)
    seen = 0
    while seen < count:
        seen += os.read(pipe, 1 << 16).count(b"\n")


class Ears:
    """What the standing pods hear."""

    def __init__(self, lab: Lab, stack: ExitStack, stage: Stage, names: Sequence[str]) -> None:
        self._lab, self._stage = lab, stage
        self.loads = [stage.load(f"flood/{name}") for name in names]
        self._ears = [
            stack.enter_context(process(lab, load.host, load.inner_pid, "hear", str(EAR)))
            for load in self.loads
        ]

    @property
    def addresses(self) -> list[str]:
        return [address for load in self.loads for address in load.addresses]

    def nothing_came(self) -> None:
        """What each hears next, in both families, is the datagram that the good one sends now."""
        good = self._stage.load("flood/good")
        for family in (4, 6):
            for load, ear in zip(self.loads, self._ears, strict=True):
                last = packets.udp(of(good, family), of(load, family), EAR, "the end")
                send(self._lab, good, packets.ether(packets.kind_of(of(good, family)), last))
                assert ear.line() == "the end", f"{load.name} heard of the flood"


@pytest.fixture
def ears(policy_lab: Lab, stage: Stage) -> Iterator[Ears]:
    stage.show(scene())
    with ExitStack() as stack:
        yield Ears(policy_lab, stack, stage, ("near", "far", "open"))


def test_an_endpoint_floods_from_its_first_instant(
    policy_lab: Lab, stage: Stage, ears: Ears
) -> None:
    """It sends as itself, as the good one, which is let in, and as a stranger."""
    good = stage.load("flood/good").addresses
    sources = [*FLOODER.addresses, *good, "198.51.100.7", "2001:db8::7"]
    for _ in range(CYCLES):
        with stage.beginning(FLOODER) as begun:
            with flood(policy_lab, "h1", begun.inner_pid, sources, ears.addresses) as sender:
                stage.show(scene(FLOODER))
                rounds(sender)
            stage.show(scene())
        ears.nothing_came()


def test_an_endpoint_is_flooded_from_its_first_instant(policy_lab: Lab, stage: Stage) -> None:
    """A stranger on the same host and an open neighbour on another send to it before it is."""
    for _ in range(CYCLES):
        stage.show(scene(STRANGER))
        stranger, far = stage.load("flood/stranger"), stage.load("flood/open")
        with ExitStack() as stack:
            begun = stack.enter_context(stage.beginning(LATE))
            senders = [
                stack.enter_context(
                    flood(policy_lab, load.host, load.inner_pid, load.addresses, LATE.addresses)
                )
                for load in (stranger, far)
            ]
            ear = stack.enter_context(process(policy_lab, "h1", begun.inner_pid, "hear", str(EAR)))
            stage.show(scene(STRANGER, LATE))
            for sender in senders:
                rounds(sender)
            good = stage.load("flood/good")
            for family in (4, 6):
                target = LATE.addresses[family == 6]
                last = packets.udp(of(good, family), target, EAR, "the end")
                kind = packets.kind_of(target)
                heard = eventually_heard(policy_lab, good, packets.ether(kind, last), ear)
                assert heard == "the end"
            stage.show(scene(STRANGER))


def eventually_heard(lab: Lab, good: WorkloadState, frame: bytes, ear: Process) -> str:
    """What comes first once the good one has spoken."""
    send(lab, good, frame)
    return ear.line()


# The agent comes and goes.


def restart(lab: Lab) -> None:
    daemons.steer(lab, "h1", "stop", "agent")
    daemons.steer(lab, "h1", "start", "agent")


def kill(lab: Lab) -> None:
    bringup.kill_agent(lab, "h1")


def forget_and_restart(lab: Lab) -> None:
    """Without its copy of the snapshot it knows nothing until the server has told it all."""
    daemons.steer(lab, "h1", "stop", "agent")
    inside(lab, "h1", "/var/lib/plait/agent/snapshot.json").unlink()
    daemons.steer(lab, "h1", "start", "agent")


def restart_server_too(lab: Lab) -> None:
    """The agent begins with its copy, while nobody answers."""
    bringup.stop_server(lab)
    restart(lab)
    bringup.start_server(lab)


def try_to_delete(lab: Lab) -> None:
    """Nobody but its owner can while the agent lives."""
    lab.run("h1", ["nft", "delete", "table", "inet", "plait"], check=False)
    lab.run("h1", ["nft", "flush", "ruleset"], check=False)


COMING_BACK: dict[str, Callable[[Lab], None]] = {
    "restart": restart,
    "kill": kill,
    "restart without a snapshot": forget_and_restart,
    "restart without a server": restart_server_too,
    "the table is deleted by hand": try_to_delete,
}


@pytest.mark.parametrize("how", COMING_BACK)
def test_a_flood_across_the_coming_back_of_an_agent(
    policy_lab: Lab, stage: Stage, ears: Ears, how: str
) -> None:
    good = stage.load("flood/good").addresses
    stage.show(scene(FLOODER, STRANGER))
    flooder, stranger = stage.load("flood/flooder"), stage.load("flood/stranger")
    sources = [*flooder.addresses, *good, "198.51.100.7", "2001:db8::7"]
    quiet = [a for load in ears.loads if load.name != "open" for a in load.addresses]
    with (
        flood(policy_lab, "h1", flooder.inner_pid, sources, ears.addresses) as one,
        flood(policy_lab, "h1", stranger.inner_pid, [*stranger.addresses, *good], quiet) as two,
    ):
        rounds(one, 10)
        COMING_BACK[how](policy_lab)
        eventually("the agent is ready", partial(ready, policy_lab, "h1"))
        settled = status(policy_lab, "h1").revision
        eventually("it follows", lambda: status(policy_lab, "h1").applied >= settled)
        stage.enforced()
        rounds(one)
        rounds(two)
    ears.nothing_came()


def test_the_flood_is_heard_where_policies_let_it_pass(
    policy_lab: Lab, stage: Stage, ears: Ears
) -> None:
    """Else silence would prove nothing."""
    stage.show(scene(STRANGER))
    stranger = stage.load("flood/stranger")
    opened = stage.load("flood/open")
    with process(policy_lab, opened.host, opened.inner_pid, "hear", str(EAR + 1)) as ear:
        for family in (4, 6):
            own = packets.udp(of(stranger, family), of(opened, family), EAR + 1, unique("own"))
            send(policy_lab, stranger, packets.ether(packets.kind_of(of(stranger, family)), own))
            assert ear.line().startswith("own")
