"""Flows that stand when they are forbidden: they end soon, on whatever hosts, and no others do.

Every flow is a pair of sockets of this process, made in the namespaces of two pods.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import msgspec
import pytest
from tests.lab.conftest import eventually
from tests.lab.policy.stage import Pod, Scene, Stage, network, staged

from plait.kernel import netns
from plait.lab.lab import Lab
from plait.model.objects import Metadata
from plait.model.policies import Group, GroupSpec, Peer, Policy, PolicySpec, Rule, Subject
from plait.model.selectors import Requirement, Selector

pytestmark = pytest.mark.root

POOLS = ("10.242.0.0/16", "fd00:10:242::/48")
ARRIVES = 2.0
"""Seconds within which what may pass has arrived, on a busy machine too."""
SILENT = 0.2
"""Seconds after which what did not arrive was dropped."""
SOON = 5.0
"""Seconds for which the end of a flow is waited for; a second is the promise."""


class Talk:
    """One flow that stands: what the client says is to reach the server. Close it."""

    _numbers = itertools.count()

    def __init__(self, stage: Stage, client: str, server: str, family: int, kind: int) -> None:
        self.name = f"{client} -> {server} IPv{family} {socket.SocketKind(kind).name}"
        self.client = client
        domain = socket.AF_INET6 if family == 6 else socket.AF_INET
        address = stage.load(server).addresses[family == 6]
        with inside(stage, server):
            listener = socket.socket(domain, kind)
        with inside(stage, client):
            self._mine = socket.socket(domain, kind)
        listener.bind((address, 0))
        self._mine.settimeout(ARRIVES)
        if kind == socket.SOCK_STREAM:
            listener.listen()
            self._mine.connect(listener.getsockname())
            self._theirs = listener.accept()[0]
            listener.close()
        else:
            self._mine.connect(listener.getsockname())
            self._mine.send(b"hello")
            listener.settimeout(ARRIVES)
            _, source = listener.recvfrom(64)
            listener.connect(source)
            self._theirs = listener
        # An answer: from now on it is established for connection tracking, too.
        self._theirs.send(b"welcome")
        self._mine.recv(64)

    def close(self) -> None:
        self._mine.close()
        self._theirs.close()

    def say(self) -> bytes:
        """What the client says now, unlike anything before."""
        word = b"<%d>" % next(self._numbers)
        self._mine.send(word)
        return word

    def hears(self, word: bytes, until: float) -> bool:
        """Whether the server has it by then; what was said before may come before it."""
        heard = b""
        try:
            while word not in heard:
                self._theirs.settimeout(max(0.001, until - time.monotonic()))
                heard += self._theirs.recv(65536)
        except TimeoutError:
            return False
        return True


def passing(talks: Sequence[Talk], patience: float) -> list[str]:
    """Names of the flows on which what the client says now arrives."""
    words = [talk.say() for talk in talks]
    until = time.monotonic() + patience
    return [talk.name for talk, word in zip(talks, words, strict=True) if talk.hears(word, until)]


class inside:  # noqa: N801 - used as a verb
    """Within the network namespace of a pod."""

    def __init__(self, stage: Stage, key: str) -> None:
        self._fd = netns.open_netns(netns.pid_path(stage.load(key).pid))
        self._entered = netns.inside(self._fd)

    def __enter__(self) -> None:
        self._entered.__enter__()

    def __exit__(self, *error: object) -> None:
        try:
            self._entered.__exit__(*error)  # type: ignore[arg-type]
        finally:
            os.close(self._fd)


def app(name: str) -> Selector:
    return Selector(match_labels={"app": name})


def pod(namespace: str, name: str, host: str, number: int) -> Pod:
    return Pod(
        namespace=namespace,
        name=name,
        host=host,
        labels={"app": name},
        addresses=(f"10.242.1.{number}", f"fd00:10:242:1::{number:x}"),
        network="ending",
    )


PODS = (
    pod("guests", "odd", "h1", 10),
    pod("staff", "even", "h1", 11),
    pod("shop", "near", "h1", 20),
    pod("shop", "far", "h2", 21),
)
ODD, EVEN, SERVERS = "guests/odd", "staff/even", ("shop/near", "shop/far")
SHOP = Subject(namespaces=Selector(match_labels={"kubernetes.io/metadata.name": "shop"}))


def policy(name: str, **spec: object) -> Policy:
    return Policy(metadata=Metadata(name=name), spec=PolicySpec(**spec))  # type: ignore[arg-type]


def accepting(*peers: Peer) -> Policy:
    return policy("shop", subject=SHOP, ingress=(Rule(peers=peers),))


DENIAL = Rule(action="Deny", peers=(Peer(endpoints=app("odd")),))
DENY_ODD = policy("odd", tier="admin", subject=SHOP, ingress=(DENIAL,))
NO_EGRESS = policy("odd", subject=Subject(endpoints=app("odd")), isolate=("egress",))


def friends(*names: str) -> Group:
    some = Requirement(key="app", operator="In", values=names)
    return Group(
        metadata=Metadata(name="friends"),
        spec=GroupSpec(endpoints=Selector(match_expressions=(some,))),
    )


def scene(*objects: Policy | Group, odd: str = "odd", open_to: Sequence[str] = ()) -> Scene:
    pods = [
        msgspec.structs.replace(each, labels={"app": odd}) if each.key == ODD else each
        for each in PODS
    ]
    namespaces: dict[str, dict[str, str]] = {
        name: {"known": "yes"} if name in open_to else {} for name in ("guests", "staff", "shop")
    }
    return Scene(pods=tuple(pods), namespaces=namespaces, objects=objects)


KNOWN = accepting(Peer(namespaces=Selector(match_labels={"known": "yes"})))
EVERYONE = ("guests", "staff", "shop")
CHANGES: dict[str, tuple[Scene, Scene]] = {
    "a policy denies": (scene(), scene(DENY_ODD)),
    "a policy isolates": (scene(), scene(accepting(Peer(endpoints=app("even"))))),
    "the sender may send no more": (scene(), scene(NO_EGRESS)),
    "a rule accepts fewer": (
        scene(accepting(Peer(endpoints=app("even")), Peer(endpoints=app("odd")))),
        scene(accepting(Peer(endpoints=app("even")))),
    ),
    "a label of the sender": (
        scene(accepting(Peer(endpoints=app("even")), Peer(endpoints=app("odd")))),
        scene(accepting(Peer(endpoints=app("even")), Peer(endpoints=app("odd"))), odd="stranger"),
    ),
    "a label of its namespace": (
        scene(KNOWN, open_to=EVERYONE),
        scene(KNOWN, open_to=("staff", "shop")),
    ),
    "a group": (
        scene(friends("odd", "even"), accepting(Peer(group="friends"))),
        scene(friends("even"), accepting(Peer(group="friends"))),
    ),
}


@pytest.fixture(scope="module")
def stage(policy_lab: Lab) -> Iterator[Stage]:
    with staged(policy_lab, network("ending", *POOLS)) as made:
        yield made


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_forbidden_ends_and_the_rest_goes_on(stage: Stage, what: str) -> None:
    before, after = CHANGES[what]
    stage.show(before)
    with ExitStack() as stack:
        talks = [
            Talk(stage, client, server, family, kind)
            for client in (ODD, EVEN)
            for server in SERVERS
            for family in (4, 6)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ]
        for talk in talks:
            stack.callback(talk.close)
        odd = [talk for talk in talks if talk.client == ODD]
        even = [talk for talk in talks if talk.client == EVEN]
        assert len(passing(talks, ARRIVES)) == len(talks)
        stage.show(after)
        left: list[str] = []

        def all_silent() -> bool:
            left[:] = passing(odd, SILENT)
            return not left

        eventually("the flows end", all_silent, left, SOON)
        assert len(passing(even, ARRIVES)) == len(even)
        # For good: neither what the client repeats nor what it says now is taken up again.
        assert not passing(odd, SILENT)
