"""What a field may hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.model import syntax
from plait.model.errors import PlaitError

RULES: dict[str, tuple[Callable[[str, str], object], tuple[str, ...], tuple[str, ...]]] = {
    "label": (
        syntax.dns_label,
        ("a", "a-b", "0", "x" * 63),
        ("", "-a", "a-", "A", "a.b", "a_b", "a\n", "x" * 64, "é", "a b", "٣"),
    ),
    "name": (
        syntax.dns_name,
        ("a", "a.b", "my_db", "db.example"),
        ("", ".", "a.", "a..b", "A", "a\x00", "a." * 130),
    ),
    "endpoint": (
        syntax.endpoint_id,
        ("a", "0" * 64, "default.web-1"),
        ("", ".", "-", "a-", "A", "0" * 65, "a/b", "..", "a\n"),
    ),
    "block": (
        syntax.block_id,
        ("plait.10-9-0-0-26", "a.fd00-1--122"),
        ("plait", "plait.", ".10-0-0-0-8", "plait.10.0.0.0-8", "p/x.10-9-0-0-26"),
    ),
    "uid": (syntax.uid, ("12345678", "a-b-c-d-e"), ("", "short", "-2345678", "a b c d e f")),
    "mac": (
        syntax.mac,
        ("02:00:00:00:00:01",),
        (
            "",
            "02:00:00:00:00",
            "01:00:00:00:00:01",
            "02:00:00:00:00:0G",
            "02-00-00-00-00-01",
            "00:00:00:00:00:00",
        ),
    ),
    "text": (
        syntax.text,
        ("", "hello world", "über"),
        ("a\n", "\x1b[31m", "\u202e", "\ud800", "x" * 1025),
    ),
    "address": (
        syntax.address,
        ("10.0.0.1", "fd00::1"),
        ("", "10.0.0", "010.0.0.1", "fe80::1%eth0", "10.0.0.1/32"),
    ),
    "interface": (
        syntax.interface,
        ("10.0.0.1/24", "fd00::1/64"),
        ("10.0.0.1", "10.0.0.1/33", "x/24", "fe80::1%1/64"),
    ),
    "cidr": (
        syntax.cidr,
        ("10.0.0.0/8", "fd00::/64", "10.0.0.1"),
        ("10.0.0.1/8", "", "x", "10.0.0.0/x", "10.0.0.0/255.0.0.1"),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_takes_the_good_and_refuses_the_bad(rule: str) -> None:
    check, good, bad = RULES[rule]
    for value in good:
        check(value, "field")
    for value in bad:
        with pytest.raises(PlaitError) as caught:
            check(value, "field")
        assert caught.value.where == "field", value
        assert len(caught.value.detail) < 300
        assert caught.value.detail.isascii()


@pytest.mark.parametrize("rule", RULES)
@given(value=st.text())
def test_a_rule_never_fails_otherwise(rule: str, value: str) -> None:
    try:
        RULES[rule][0](value, "field")
    except PlaitError as error:
        error.problem()


def test_a_cidr_with_host_bits_says_which_one_was_meant() -> None:
    with pytest.raises(PlaitError) as caught:
        syntax.cidr("10.1.2.3/8", "field")
    assert caught.value.fix == ("use 10.0.0.0/8",)


@pytest.mark.parametrize(
    "labels",
    [
        {"": "a"},
        {"a b": "c"},
        {"a/b/c": "d"},
        {"/a": "b"},
        {"A.b/c": "d"},
        {"a": "b c"},
        {"a": "-"},
        {"a": "x" * 64},
        {"x" * 64: "a"},
        {f"k{i}.{'x' * 56}": "y" * 63 for i in range(600)},
    ],
)
def test_labels_that_kubernetes_refuses_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(PlaitError):
        syntax.label_map(labels, "metadata.labels")


def test_labels_that_kubernetes_takes_are_taken() -> None:
    syntax.label_map(
        {"app": "web", "app.kubernetes.io/name": "x.Y_z-0", "e": "", "UP": "A"}, "labels"
    )
    # As node-feature-discovery gives them to a Node.
    syntax.label_map(
        {f"feature.node.kubernetes.io/cpu-cpuid.{i}": "true" for i in range(500)}, "labels"
    )


def test_annotations_have_a_size() -> None:
    syntax.annotation_map({"a": "any text\n at all"}, "annotations")
    with pytest.raises(PlaitError):
        syntax.annotation_map({"a": "x" * 131072}, "annotations")
