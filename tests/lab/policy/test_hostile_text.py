"""Names, labels and descriptions made of quotes, newlines, nft and shell: they are refused, or
change nothing but themselves.

Text goes in through the API as JSON and through the agent's socket. Then the kernel's table holds
none of it, can be read back by nft as it is listed, and rules traffic as before.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from tests.lab.census import inside, status, table, verbs
from tests.lab.conftest import eventually
from tests.lab.policy.ground import OPEN, SHUT, Probe
from tests.lab.policy.stage import Pod, Scene, Stage, network, staged

from plait.client.agent import AttachRequest
from plait.client.agent_socket import run as at_once
from plait.lab.daemons import FIRST
from plait.lab.lab import Lab
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Metadata, NamedPort, Namespace
from plait.model.policies import (
    Group,
    GroupSpec,
    Origin,
    Peer,
    Policy,
    PolicySpec,
    Port,
    Rule,
    ServiceRef,
    Subject,
)
from plait.model.selectors import Requirement, Selector

pytestmark = pytest.mark.root

MARK: Final = "h0stile"
"""In every text, so that it is found wherever it went."""
FILE: Final = f"/run/{MARK}"
"""What a shell would make if it were given the text."""
PIECES: Final = (
    *('"', "'", "\\", "`", "\n", "\r", "\t", "\0", "\x1b[2J", "\u202e", "\ud7ff", "é", " ", "#"),
    *("{", "}", ";", "*", "@", "$", "/", ".", "-", "_", ":", "%s", "%n", "{0}", "\\n"),
    *("; flush ruleset;", "} } delete table inet plait", "accept", "drop", 'comment "', "jump on"),
    *(f"$(touch {FILE})", f"`touch {FILE}`", f"; touch {FILE} #", f"| touch {FILE}", "&& true"),
    *("inet plait", "elements = { 0.0.0.0/0 }", "include \"/etc/passwd\"", "define x = 1"),
    *("../../etc/passwd", "-j ACCEPT", "--help", "null", "true", "0", "1e3", "<b>", "${PATH}"),
)  # fmt: skip
CLASSIC: Final = f'"; }} }} flush ruleset; $(touch {FILE}) {MARK}\n'

POOLS: Final = ("10.243.0.0/16", "fd00:10:243::/48")
LINE: Final = re.compile(r"timestamp=\S+ level=\w+ event=")


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Pieces and letters in any order, with the mark among them."""
    some = draw(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), min_size=1, max_size=5))
    return "".join([*some, MARK, *draw(st.lists(st.sampled_from(PIECES), max_size=2))])


def taken(text: str) -> str:
    """The nearest that a name or a label may be: what is stored has to be inert as well."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-") or MARK


def pod(name: str, host: str, number: int) -> Pod:
    return Pod(
        namespace="prey",
        name=name,
        host=host,
        labels={"app": name},
        addresses=(f"10.243.1.{number}", f"fd00:10:243:1::{number:x}"),
        listen=("80/tcp", "81/tcp"),
        network="prey",
    )


PODS: Final = (pod("front", "h1", 10), pod("web", "h1", 11), pod("far", "h2", 12))
GUARDED: Final = Policy(
    metadata=Metadata(name="guarded"),
    spec=PolicySpec(
        subject=Subject(endpoints=Selector(match_labels={"app": "web"})),
        ingress=(Rule(peers=(Peer(endpoints=Selector(match_labels={"app": "front"})),),
                      ports=(Port(protocol="TCP", port=80),)),),
    ),
)  # fmt: skip
SCENE: Final = Scene(pods=PODS, namespaces={"prey": {}}, objects=(GUARDED,))
EXPECTED: Final = {
    Probe(f"prey/{source}", ip, port, "tcp"): OPEN if (source, port) == ("front", 80) else SHUT
    for source in ("front", "far")
    for ip in PODS[1].addresses
    for port in (80, 81)
}


@pytest.fixture(scope="module")
def stage(policy_lab: Lab) -> Iterator[Stage]:
    with staged(policy_lab, network("prey", *POOLS)) as made:
        made.show(SCENE)
        assert not made.wrong(EXPECTED)
        yield made


class Tables(dict[str, set[str]]):
    """The tables of all hosts, by host. They say little of themselves: hypothesis shows the
    arguments of a test, and refuses long ones."""

    def __repr__(self) -> str:
        return f"tables of {', '.join(self)}"


@pytest.fixture(scope="module")
def before(stage: Stage) -> Tables:
    """The tables of all hosts."""
    return Tables({host: table(stage.lab, host) for host in stage.hosts})


def policies(text: str) -> Iterator[Policy]:
    """The text in each place of a policy that has text; it rules a pod wherever it is stored."""
    web = Subject(endpoints=Selector(match_labels={"app": "web"}))

    def made(name: str = MARK, metadata: Metadata | None = None, **spec: object) -> Policy:
        return Policy(
            metadata=metadata or Metadata(name=name),
            spec=PolicySpec(**{"subject": web, "isolate": (), **spec}),  # type: ignore[arg-type]
        )

    yield made(text)
    yield made(taken(text))
    yield made(metadata=Metadata(name=MARK, labels={"a": text}, annotations={"a": text}))
    yield made(metadata=Metadata(name=MARK, labels={text: "a"}, annotations={text: "a"}))
    yield made(description=text)
    yield made(origin=Origin(kind=text, name=text, namespace=text))
    for value in (text, taken(text)):
        selectors = (
            Selector(match_labels={value: "a"}),
            Selector(match_labels={"a": value}),
            Selector(match_expressions=(Requirement(key=value, operator="Exists"),)),
            Selector(match_expressions=(Requirement(key="a", operator="In", values=(value,)),)),
        )
        for selector in selectors:
            yield made(subject=Subject(namespaces=selector, endpoints=selector))
        peers = (
            *(Peer(endpoints=s) for s in selectors),
            *(Peer(group=value), Peer(network=value), Peer(cidr=value)),
            *(Peer(cidr="0.0.0.0/0", excepted=(value,)), Peer(nodes=selectors[1])),
            Peer(service=ServiceRef(name=value, namespace=value)),
        )
        # At last, so that it is compiled and decides nothing: the same is denied before it.
        denied = Rule(action="Deny", name=value, peers=(Peer(cidr="192.0.2.0/24"),))
        for peer in peers:
            yield made(tier="admin", isolate=None, ingress=(denied, _denying(value, peer)))
        yield made(egress=(Rule(name=value, peers=(Peer(domains=(value, f"*.{value}")),)),))
        yield made(
            tier="admin",
            isolate=None,
            ingress=(
                Rule(action="Deny", name=value, ports=(Port(protocol="TCP", port=value),),
                     peers=(Peer(cidr="192.0.2.0/24"),)),
            ),
        )  # fmt: skip


def _denying(name: str, peer: Peer) -> Rule:
    """Nobody listens there."""
    return Rule(action="Deny", name=name, peers=(peer,), ports=(Port(protocol="TCP", port=9),))


def others(text: str) -> Iterator[AnyObject]:
    """Groups and namespaces."""
    for value in (text, taken(text)):
        yield Group(metadata=Metadata(name=value), spec=GroupSpec(cidrs=("192.0.2.0/24",)))
        yield Group(metadata=Metadata(name=MARK), spec=GroupSpec(cidrs=(value,)))
        selector = Selector(match_labels={value: value})
        yield Group(metadata=Metadata(name=MARK), spec=GroupSpec(endpoints=selector))
        yield Namespace(metadata=Metadata(name=MARK, labels={"a": value}))
        yield Namespace(metadata=Metadata(name=value))


def requests(text: str) -> Iterator[AttachRequest]:
    """What a runtime may say of an endpoint."""
    for value in (text, taken(text)):
        said: tuple[dict[str, object], ...] = (
            {"id": value},
            {"namespace": value},
            {"name": value},
            {"aliases": (value,)},
            {"labels": {"app": value, value: "x"}},
            {"named_ports": (NamedPort(name=value, protocol="tcp", port=80),)},
        )
        for fields in said:
            yield AttachRequest(
                **{  # type: ignore[arg-type]
                    "id": f"{MARK}-{secrets.token_hex(4)}",
                    "network": "prey",
                    "namespace": "prey",
                    "labels": {"app": "front"},
                    **fields,
                }
            )


def tried(stage: Stage, obj: AnyObject) -> bool:
    """Whether the API took it; what it refuses, it refuses with a reason."""
    try:
        stage.put(obj)
    except PlaitError as error:
        if not (400 <= error.status < 500 and error.detail):
            raise
        return False
    except (UnicodeEncodeError, ValueError, TypeError):
        return False  # It cannot be said in JSON, or in a request.
    return True


def assert_inert(stage: Stage) -> None:
    """No host's table has any of it, nft reads its own listing back, nobody ran a shell."""
    for host in stage.hosts:
        listed = stage.lab.run(host, ["nft", "list", "ruleset"]).stdout
        assert MARK not in listed
        # In a namespace of its own: there nobody owns the table.
        restored = stage.lab.run(
            host,
            ["unshare", "-n", "nft", "-c", "-f", "-"],
            stdin=listed.replace("flags owner", ""),
            check=False,
        )
        assert restored.returncode == 0, restored.stderr[:500]
        assert not inside(stage.lab, host, FILE).exists()
        said = status(stage.lab, host)
        assert said is not None
        assert not [problem for problem in said.problems if "nft" in problem]


def is_back(stage: Stage, before: Tables) -> bool:
    """Nothing stays of what went."""
    return all(table(stage.lab, host) == lines for host, lines in before.items())


def assert_logs_whole(stage: Stage) -> None:
    """A line of a log is one event, whatever somebody sent."""
    for host, program in [(host, "agent") for host in stage.hosts] + [(FIRST, "server")]:
        log = inside(stage.lab, host, f"/var/log/plait/{program}.log").read_text()
        assert not [line for line in log.splitlines() if MARK in line and not LINE.match(line)]


LAX: Final = settings(
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def through_the_api(stage: Stage, before: Tables, text: str) -> None:
    stored = [obj for obj in (*policies(text), *others(text)) if tried(stage, obj)]
    assert stored, "what is left of the text is a name"
    stage.enforced()
    assert_inert(stage)
    assert not stage.wrong(EXPECTED)
    # Policies first: a group that one names stays.
    for obj in {(type(o), o.metadata.name): o for o in stored}.values():
        stage.delete(obj)
    stage.enforced()
    eventually("nothing stays", lambda: is_back(stage, before))
    assert_logs_whole(stage)


@example(CLASSIC)
@given(texts())
@settings(LAX, max_examples=4)
def test_text_from_the_api(stage: Stage, before: Tables, text: str) -> None:
    through_the_api(stage, before, text)


@pytest.mark.slow
@given(texts())
@settings(LAX, max_examples=60)
def test_text_from_the_api_at_length(stage: Stage, before: Tables, text: str) -> None:
    through_the_api(stage, before, text)


@example(CLASSIC)
@given(texts())
@settings(LAX, max_examples=4)
def test_text_from_a_runtime(stage: Stage, before: Tables, text: str) -> None:
    agent = verbs(stage.lab, "h1")
    made = []
    try:
        for request in requests(text):
            try:
                at_once(agent.attach(request))
            except PlaitError as error:
                if not (400 <= error.status < 500 and error.detail):
                    raise
            except (UnicodeEncodeError, ValueError):
                continue  # It cannot be said in JSON.
            else:
                made.append(request.id)
        assert made, "what is left of the text is a name"
        stage.enforced()
        assert_inert(stage)
        assert not stage.wrong(EXPECTED)
    finally:
        for ident in made:
            at_once(agent.detach(ident))
    stage.enforced()
    eventually("nothing stays", lambda: is_back(stage, before))
