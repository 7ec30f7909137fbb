"""Kubernetes' names: what their labels mean, and addresses as labels."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.dns import schema


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "apex"),
        ("dns-version", "version"),
        ("svc", "branch"),
        ("pod", "branch"),
        ("shop.svc", "namespace"),
        ("shop.pod", "namespace"),
        ("web.shop.svc", "named"),
        ("web-0.web.shop.svc", "named"),
        ("_http._tcp.web.shop.svc", "named"),
        ("10-0-0-1.shop.pod", "pod"),
        ("fd00--1.shop.pod", "pod"),
        ("web.shop.pod", "nothing"),
        ("10-0-0-256.shop.pod", "nothing"),
        ("a.10-0-0-1.shop.pod", "nothing"),
        ("web.shop", "nothing"),
        ("shop", "nothing"),
    ],
)
def test_what_names_mean(name: str, what: str) -> None:
    labels = tuple(part.encode() for part in name.split(".")) if name else ()
    assert schema.meaning(labels).what == what


def test_what_stands_before_a_namespace_stays_in_order() -> None:
    meaning = schema.meaning((b"_http", b"_tcp", b"web", b"shop", b"svc"))
    assert (meaning.namespace, meaning.labels) == (b"shop", (b"_http", b"_tcp", b"web"))


@given(st.ip_addresses())
def test_addresses_are_labels_and_back(address: ipaddress.IPv4Address) -> None:
    label = schema.dashed(address.packed)
    assert len(label) <= 63
    assert not label.startswith(b"-")
    assert not label.endswith(b"-")
    assert schema.undashed(label) == address.packed


@given(st.binary(max_size=63))
def test_anything_is_an_address_or_none(label: bytes) -> None:
    assert len(schema.undashed(label)) in (0, 4, 16)
