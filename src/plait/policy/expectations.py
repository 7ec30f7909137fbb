"""Expectations of policies, kept in a file beside them, and held against a world.

    apiVersion: plait/v1
    kind: PolicyTest
    manifests: [.]              # beside this file; this is the default
    namespace: shop             # of names that say none
    cases:
    - name: the front asks the api and nothing else
      from: front               # whatever `plait why` takes, ns:shop, app=web, anyone, world …
      to: api
      port: 80/tcp              # or ports: [80/tcp, http]
      expect: allow             # or deny
      by: api                   # the policy that decided, `none` or `network`; may be left out
    - from: [ns:guests, world]
      to: [api, db]
      ports: [80/tcp, 5432/tcp]
      expect: deny

A case holds for every sender, receiver and port that it names, in every family that both have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple
from xml.etree import ElementTree

import msgspec

from plait.model.errors import PlaitError
from plait.model.policies import Policy
from plait.policy.evaluate import Side, Verdict, evaluate
from plait.policy.explain import headline
from plait.policy.find_parties import find, meetings
from plait.policy.flow import Flow
from plait.policy.questions import parse_asked
from plait.policy.world import World

KIND: Final = "PolicyTest"
MAX_SHOWN: Final = 10
"""Flows of one case that are told when they are not as expected."""

Words = str | tuple[str, ...]


class Case(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is expected of some flows."""

    senders: Words = msgspec.field(name="from")
    receivers: Words = msgspec.field(name="to")
    expect: Literal["allow", "deny"]
    name: str = ""
    port: str | int | None = None
    ports: tuple[str | int, ...] = ()
    by: str = ""
    """Name of the policy that must have decided, or of the object that it was made of; `none`
    where no policy decided; `network` where the networks refused. Empty: whatever."""

    @property
    def title(self) -> str:
        """Its name, or what it says."""
        if self.name:
            return self.name
        ports = ", ".join(self.port_texts)
        way = "reaches" if self.expect == "allow" else "does not reach"
        by = f" by {ports}" if ports else ""
        return f"{_joined(self.senders)} {way} {_joined(self.receivers)}{by}"

    @property
    def expected(self) -> str:
        """`allow`, `deny by isolate.shop`."""
        return f"{self.expect} by {self.by}" if self.by else self.expect

    @property
    def port_texts(self) -> tuple[str, ...]:
        """`port` and `ports` together."""
        first = () if self.port is None else (self.port,)
        return tuple(map(str, (*first, *self.ports)))


class PolicyTest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A file of expectations, or one document of it."""

    api_version: Literal["plait/v1"]
    kind: Literal["PolicyTest"]
    cases: tuple[Case, ...]
    metadata: dict[str, object] = {}
    manifests: tuple[str, ...] = (".",)
    """Files and directories, from the place of the file."""
    namespace: str = ""


class Result(NamedTuple):
    """What became of a case."""

    case: Case
    where: str
    """`file:line`."""
    asked: int
    """Flows that it is about."""
    wrong: tuple[str, ...] = ()
    """Those that are not as expected, in words; as many as `MAX_SHOWN`."""
    error: str = ""
    """Why it could not be asked."""

    @property
    def passed(self) -> bool:
        """Whether all of it is as expected."""
        return not self.wrong and not self.error


def run(world: World, case: Case, where: str = "", namespace: str = "") -> Result:
    """Hold a case against a world. What it names must be there: else it would hold for nothing."""
    try:
        flows = list(_flows(world, case, namespace))
    except PlaitError as error:
        said = (error.detail, error.why, " or ".join(error.fix))
        return Result(case, where, 0, error="; ".join(filter(None, said)))
    if not flows:
        return Result(case, where, 0, error="it names no flow: no receiver has such a port")
    wrong = []
    for flow in flows:
        verdict = evaluate(world, flow)
        if verdict.allowed != (case.expect == "allow"):
            wrong.append(headline(verdict))
        elif case.by and not _decided_by(verdict, case.by):
            wrong.append(f"{headline(verdict)}: decided by {_deciders(verdict)}, not {case.by}")
    return Result(case, where, len(flows), tuple(wrong[:MAX_SHOWN]))


def _flows(world: World, case: Case, namespace: str) -> Iterator[Flow]:
    senders, receivers = (
        [who for word in _words(words) for who in find(world, word, namespace)]
        for words in (case.senders, case.receivers)
    )
    many = len(senders) > 1 or len(receivers) > 1
    if not case.port_texts:
        raise PlaitError("PLAIT-CLI-004", "it names no port")
    for text in case.port_texts:
        port = parse_asked(text)
        for src in senders:
            for dst in receivers:
                if many and src == dst:
                    continue
                for one, other in meetings(src, dst):
                    yield from port.flows(world, one, other)


def _decided_by(verdict: Verdict, by: str) -> bool:
    if by == "network":
        return not verdict.way.allowed
    sides = _deciding(verdict)
    if by == "none":
        return verdict.way.allowed and all(side.by is None for side in sides)
    return any(side.by is not None and by in _called(side.by.policy) for side in sides)


def _deciding(verdict: Verdict) -> list[Side]:
    """The sides whose word counted: both of what is allowed, else those that refused."""
    sides = (verdict.egress, verdict.ingress)
    return [side for side in sides if verdict.allowed or not side.allowed]


def _called(policy: Policy) -> tuple[str, ...]:
    """What a policy, or the object that it was made of, is called."""
    origin = policy.spec.origin
    if origin is None:
        return (policy.metadata.name,)
    place = f"{origin.namespace}/{origin.name}" if origin.namespace else origin.name
    return (policy.metadata.name, place)


def _deciders(verdict: Verdict) -> str:
    if not verdict.way.allowed:
        return "network"
    names = [side.by.policy.metadata.name for side in _deciding(verdict) if side.by is not None]
    return " and ".join(dict.fromkeys(names)) or "none"


def _words(words: Words) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words


def _joined(words: Words) -> str:
    return ", ".join(_words(words))


# JUnit


def junit(name: str, results: Sequence[Result]) -> str:
    """The results as the XML that CI systems read (JUnit's, as Jenkins and GitLab take it)."""
    failures = sum(1 for r in results if r.wrong)
    errors = sum(1 for r in results if r.error)
    counts = {"tests": str(len(results)), "failures": str(failures), "errors": str(errors)}
    top = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(top, "testsuite", {"name": _printable(name), **counts})
    for result in results:
        file, _, line = result.where.rpartition(":")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {
                "name": _printable(result.case.title),
                "classname": _printable(name),
                "file": _printable(file),
                "line": line,
            },
        )
        if result.error:
            ElementTree.SubElement(case, "error", {"message": _printable(result.error)})
        elif result.wrong:
            found = ElementTree.SubElement(
                case, "failure", {"message": _printable(f"expected {result.case.expected}")}
            )
            found.text = "\n".join(map(_printable, result.wrong))
    ElementTree.indent(top)
    body = ElementTree.tostring(top, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _printable(text: str) -> str:
    """Characters that XML 1.0 cannot carry become a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)
