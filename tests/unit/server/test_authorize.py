"""The node authorizer on blocks and loans: who may change what of whose."""

from __future__ import annotations

import pytest

from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    Endpoint,
    EndpointSpec,
    Loan,
    Metadata,
)
from plait.server.authorize import Actor, authorize

ME = Actor("node", "me")


def block(node: str, *loans: Loan, labels: dict[str, str] | None = None) -> AddressBlock:
    return AddressBlock(
        metadata=Metadata(name="n.10-0-0-0-26", labels=labels or {}),
        spec=AddressBlockSpec(network="n", cidr="10.0.0.0/26", node=node, loans=loans),
    )


def loan(node: str, state: str = "requested", address: str = "10.0.0.9") -> Loan:
    return Loan(address=address, node=node, state=state)  # type: ignore[arg-type]


def endpoint(node: str) -> Endpoint:
    return Endpoint(metadata=Metadata(name="e"), spec=EndpointSpec(node=node, network="n"))


GRANTED_ME, GRANTED_IT = loan("me", "granted"), loan("it", "granted")
ASKED_ME, ASKED_IT = loan("me"), loan("it")
REFUSED_IT = loan("it", "refused")

MAY = {
    "claim a block": (None, block("me")),
    "lend itself an address of nobody's block": (None, block("", GRANTED_ME)),
    "take over nobody's block, loans and all": (block("", GRANTED_IT), block("me", GRANTED_IT)),
    "lend itself another address of nobody's block": (
        block("", GRANTED_IT),
        block("", GRANTED_IT, loan("me", "granted", "10.0.0.10")),
    ),
    "grant": (block("me", ASKED_IT), block("me", GRANTED_IT)),
    "refuse": (block("me", ASKED_IT), block("me", REFUSED_IT)),
    "clear away what it refused": (block("me", REFUSED_IT), block("me")),
    "leave a block to its borrowers": (block("me", GRANTED_IT), block("", GRANTED_IT)),
    "ask": (block("it"), block("it", ASKED_ME)),
    "ask again, as it did": (block("it", ASKED_ME), block("it", ASKED_ME)),
    "ask again when refused": (block("it", loan("me", "refused")), block("it", ASKED_ME)),
    "give back": (block("it", GRANTED_ME), block("it")),
    "return its block": (block("me"), None),
    "remove nobody's block that only it used": (block("", GRANTED_ME), None),
}
MAY_NOT = {
    "claim for another": (None, block("it")),
    "claim with loans": (None, block("me", GRANTED_IT)),
    "lend to another out of nobody's block": (None, block("", GRANTED_IT)),
    "take another's block": (block("it"), block("me")),
    "free another's block": (block("it"), block("")),
    "give its block to another": (block("me"), block("it")),
    "grant itself": (block("it", ASKED_ME), block("it", GRANTED_ME)),
    "grant itself at once": (block("it"), block("it", GRANTED_ME)),
    "take back what it granted": (block("me", GRANTED_IT), block("me")),
    "change its answer": (block("me", GRANTED_IT), block("me", REFUSED_IT)),
    "lend unasked": (block("me"), block("me", GRANTED_IT)),
    "drop a request unanswered": (block("me", ASKED_IT), block("me")),
    "touch another's loan": (block("it", loan("x")), block("it", ASKED_ME)),
    "drop another's loan in nobody's block": (
        block("", GRANTED_IT, GRANTED_ME),
        block("", GRANTED_ME),
    ),
    "label another's block": (block("it", ASKED_ME), block("it", ASKED_ME, labels={"a": "b"})),
    "write another's block as it is": (block("it"), block("it")),
    "return its block while others use it": (block("me", GRANTED_IT), None),
    "remove another's block": (block("it"), None),
    "remove nobody's block that others use": (block("", GRANTED_IT), None),
    "make an endpoint of another's": (None, endpoint("it")),
    "take an endpoint": (endpoint("it"), endpoint("me")),
    "give an endpoint away": (endpoint("me"), endpoint("it")),
    "remove another's endpoint": (endpoint("it"), None),
}


@pytest.mark.parametrize("what", MAY)
def test_a_node_may(what: str) -> None:
    old, new = MAY[what]
    authorize(ME, _verb(old, new), old, new)


@pytest.mark.parametrize("what", MAY_NOT)
def test_a_node_may_not(what: str) -> None:
    old, new = MAY_NOT[what]
    with pytest.raises(PlaitError) as caught:
        authorize(ME, _verb(old, new), old, new)
    assert caught.value.code == "PLAIT-AUTH-006"


@pytest.mark.parametrize("what", [*MAY, *MAY_NOT])
def test_an_administrator_may_and_a_joiner_may_not(what: str) -> None:
    old, new = (MAY | MAY_NOT)[what]
    authorize(Actor("admin"), _verb(old, new), old, new)
    with pytest.raises(PlaitError) as caught:
        authorize(Actor("join"), _verb(old, new), old, new)
    assert caught.value.code == "PLAIT-AUTH-002"


def _verb(old: object, new: object) -> str:  # type: ignore[return]
    if new is None:
        return "delete"
    return "create" if old is None else "update"
