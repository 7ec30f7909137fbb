"""Addresses of parties are compared as texts, so each must have one text."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.selection.parties import canonical

ODD = (
    "",
    "1.2.3",
    "1.2.3.4.5",
    "1.2.3.4\n",
    " 1.2.3.4",
    "01.2.3.4",
    "1.2.3.00",
    "256.1.1.1",
    "1.2.3.400",
    "1.2.3.4/32",
    "١.2.3.4",
    "fe80::1%eth0",
)


def _by_library(text: str) -> tuple[str, ...]:
    try:
        return (str(ipaddress.ip_address(text)),)
    except ValueError:
        return ()


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_address_is_nobodys(text: str) -> None:
    assert canonical([text]) == _by_library(text)


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.ip_addresses(v=6).map(lambda address: address.exploded),
        st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}"),
    )
)
def test_addresses_are_as_the_library_writes_them(text: str) -> None:
    assert canonical([text, text]) == _by_library(text)
