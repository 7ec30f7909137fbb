"""The policies that `allow`, `deny` and `isolate` write."""

from __future__ import annotations

import msgspec
import pytest

from plait.model.errors import PlaitError
from plait.model.policies import Policy, Port
from plait.policy import words
from plait.policy.portspec import parse_port
from plait.policy.reference import parse
from plait.policy.verbs import combined, isolate_policy, rule_policy


def allow(dst: str, src: str, *ports: str, **settings: object) -> Policy:
    return rule_policy(
        "allow",
        parse(dst, "shop"),
        parse(src, "shop"),
        map(parse_port, ports),
        **settings,  # type: ignore[arg-type]
    )


def test_allow_opens_the_receiver_and_closes_it_for_others() -> None:
    made = allow("web", "ops/admin", "80/tcp")
    assert made.metadata.name == "allow.shop.web.from.ops.admin"
    assert words.subject_words(made.spec.subject) == "web in namespace shop"
    (rule,) = made.spec.ingress
    assert words.rule_words(rule, "ingress") == "Accept from admin in namespace ops on 80/tcp"
    assert made.spec.isolates("ingress")
    assert not made.spec.isolates("egress")


def test_what_leaves_the_network_is_ruled_at_the_sender() -> None:
    made = allow("*.example.com", "web", "443")
    assert made.metadata.name.startswith("allow.shop.web.to.")
    assert made.spec.ingress == ()
    assert made.spec.egress[0].peers[0].domains == ("*.example.com",)  # type: ignore[index]


def test_the_other_side_may_be_opened_without_being_closed() -> None:
    made = allow("web", "front", direction="egress", isolate=False)
    assert made.metadata.name == "allow.shop.front.to.shop.web"
    assert not made.spec.isolates("egress")


def test_deny_decides_before_what_allows() -> None:
    made = rule_policy("deny", parse("web", "shop"), parse("world", "shop"), pools=("10.0.0.0/8",))
    assert made.metadata.name == "deny.shop.web.from.world"
    assert made.spec.priority < allow("web", "x").spec.priority
    assert not made.spec.isolates("ingress")
    assert made.spec.ingress[0].peers[0].excepted == ("10.0.0.0/8",)  # type: ignore[index]


@pytest.mark.parametrize(
    ("verb", "dst", "src"),
    [("allow", "10.0.0.0/8", "world"), ("deny", "*.x.org", "web"), ("allow", "web", "*.x.org")],
)
def test_what_no_policy_can_say(verb: str, dst: str, src: str) -> None:
    with pytest.raises(PlaitError) as caught:
        rule_policy(verb, parse(dst, "shop"), parse(src, "shop"))  # type: ignore[arg-type]
    assert caught.value.code == "PLAIT-CLI-001"


def test_a_namespace_that_keeps_to_itself() -> None:
    made = isolate_policy("shop")
    assert made.metadata.name == "isolate.shop"
    assert (made.spec.isolates("ingress"), made.spec.isolates("egress")) == (True, False)
    wider = combined(made, isolate_policy("shop", egress=True))
    assert (wider.spec.isolates("ingress"), wider.spec.isolates("egress")) == (True, True)
    assert combined(wider, made) == wider


def test_saying_it_again_changes_nothing() -> None:
    for made in (allow("web", "front"), allow("web", "front", "80"), isolate_policy("shop")):
        assert combined(made, made) == made


def test_another_port_is_added() -> None:
    both = combined(allow("web", "front", "80"), allow("web", "front", "443", "80"))
    assert both.spec.ingress[0].ports == (
        Port(protocol="TCP", port=80),
        Port(protocol="TCP", port=443),
    )
    assert combined(both, allow("web", "front")).spec.ingress[0].ports is None
    assert combined(allow("web", "front"), both).spec.ingress[0].ports is None


def test_the_world_follows_new_pools() -> None:
    before = allow("web", "world", pools=("10.0.0.0/16",))
    after = allow("web", "world", pools=("10.0.0.0/16", "172.16.0.0/16"))
    assert combined(before, after) == after


def test_a_description_stays() -> None:
    made = allow("web", "front")
    told = msgspec.structs.replace(
        made, spec=msgspec.structs.replace(made.spec, description="since ticket 7")
    )
    assert combined(told, made) == told


@pytest.mark.parametrize(
    "change", [{"priority": 7}, {"tier": "admin"}, {"isolate": ()}, {"ingress": ()}]
)
def test_what_was_changed_by_hand_is_left_alone(change: dict[str, object]) -> None:
    made = allow("web", "front")
    stored = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, **change))
    if change == {"ingress": ()}:
        assert combined(stored, made) == made
        return
    with pytest.raises(PlaitError) as caught:
        combined(stored, made)
    assert caught.value.code == "PLAIT-API-005"


def test_staged_and_enforced_are_not_mixed_by_accident() -> None:
    for one, other in ((True, False), (False, True)):
        with pytest.raises(PlaitError) as caught:
            combined(allow("web", "front", staged=one), allow("web", "front", staged=other))
        assert caught.value.fix[0].startswith(("plait policy enforce", "plait policy stage"))
