from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.docker.names import (
    distinct_label,
    dns_alias,
    dns_label,
    is_dns_label,
    is_label_key,
    is_label_value,
    valid_labels,
)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web", "web"),
        ("web_1", "web-1"),
        ("My.App", "my-app"),
        ("proj_default", "proj-default"),
        ("-x-", "x"),
        ("a" * 80, "a" * 63),
        ("___", ""),
        ("a\nb", "a-b"),
    ],
)
def test_the_nearest_label(name: str, label: str) -> None:
    assert dns_label(name) == label


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("my_db", "my_db"),
        ("Web.Shop", "web.shop"),
        ("_sip", "_sip"),
        ("a..b", "a-b"),
        ("-x-", "x"),
        ("a" * 64, "a" * 63),
        (".".join(["a" * 63] * 4), "a" * 63),
        ("ä b", "b"),
        ("", ""),
    ],
)
def test_an_alias_is_what_clients_ask_for(name: str, alias: str) -> None:
    assert dns_alias(name) == alias


@given(st.text(max_size=100))
def test_a_label_or_nothing(name: str) -> None:
    assert dns_label(name) == "" or is_dns_label(dns_label(name))
    assert is_dns_label(distinct_label(name))


def test_distinct_names_stay_distinct() -> None:
    assert distinct_label("my_net") != distinct_label("my-net")


def test_only_labels_that_a_selector_can_name() -> None:
    kept = valid_labels(
        {
            "app": "web",
            "com.docker.compose.project": "shop",
            "example.com/tier": "front",
            "description": "free text",
            "path": "/srv/x",
            "bad key!": "x",
            "empty": "",
        }
    )
    assert kept == {
        "app": "web",
        "com.docker.compose.project": "shop",
        "example.com/tier": "front",
        "empty": "",
    }


@given(st.dictionaries(st.text(), st.text(), max_size=5))
def test_no_foreign_text_gets_through(labels: dict[str, str]) -> None:
    for key, value in valid_labels(labels).items():
        assert is_label_key(key)
        assert is_label_value(value)
