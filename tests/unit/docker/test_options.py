from __future__ import annotations

from typing import Any

import pytest

from plait.docker.options import parse, parse_ipam
from plait.model.errors import PlaitError
from plait.wire.docker import ENABLE_IPV6, GENERIC, INTERNAL


@pytest.mark.parametrize("options", [None, {}, {GENERIC: None}, {GENERIC: {}, ENABLE_IPV6: True}])
def test_nothing_said(options: dict[str, Any] | None) -> None:
    assert parse(options).network == ""
    assert not parse(options).internal


def test_all_options() -> None:
    found = parse({GENERIC: {"plait.network": "blue", "plait.namespace": "shop"}, INTERNAL: True})
    assert (found.network, found.namespace, found.internal) == ("blue", "shop", True)
    assert parse({GENERIC: {INTERNAL: "true"}}).internal


def test_an_unknown_option_is_named_with_those_that_are_known() -> None:
    with pytest.raises(PlaitError) as caught:
        parse({GENERIC: {"com.docker.network.driver.mtu": "1400"}})
    assert caught.value.code == "PLAIT-DOCKER-002"
    assert "com.docker.network.driver.mtu" in caught.value.detail
    assert "plait.network" in caught.value.why
    assert caught.value.fix == ("leave `-o com.docker.network.driver.mtu=1400` out",)


@pytest.mark.parametrize("value", ["a b", "A", "x" * 64, "a\n", "-a"])
def test_names_are_labels(value: str) -> None:
    with pytest.raises(PlaitError, match="PLAIT-NAME-001"):
        parse({GENERIC: {"plait.network": value}})
    with pytest.raises(PlaitError, match="PLAIT-NAME-001"):
        parse_ipam({"plait.network": value})


def test_ipam_options() -> None:
    assert parse_ipam(None) == ""
    assert parse_ipam({"plait.network": "blue"}) == "blue"
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-002"):
        parse_ipam({"plait.namespace": "x"})


def test_options_of_a_wrong_shape() -> None:
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-001"):
        parse({GENERIC: ["x"]})
