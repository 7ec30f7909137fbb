"""Results in every version, there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plait.wire.cni.errors import VERSIONS, CniError
from plait.wire.cni.result import (
    SINCE_1_1,
    Dns,
    Interface,
    Ip,
    Result,
    Route,
    encode,
    merge,
    parse,
)

RESULT = Result(
    interfaces=(
        Interface(name="veth0", mac="02:00:00:00:00:01", mtu=1450),
        Interface(name="eth0", mac="02:00:00:00:00:02", mtu=1450, sandbox="/run/netns/c1"),
    ),
    ips=(
        Ip(address="10.0.0.2/32", gateway="169.254.1.1", interface=1),
        Ip(address="fd00::2/128", gateway="fe80::1", interface=1),
    ),
    routes=(Route(dst="0.0.0.0/0", gw="169.254.1.1"), Route(dst="::/0", gw="fe80::1", mtu=1400)),
    dns=Dns(nameservers=("169.254.1.1",)),
)


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_has_its_members_only(version: str) -> None:
    said = json.loads(encode(RESULT, version))
    assert said["cniVersion"] == version
    families = [ip.get("version") for ip in said["ips"]]
    assert families == (["4", "6"] if version <= "0.4.0" else [None, None])
    assert bool(keys(said) & SINCE_1_1) == (version == "1.1.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_read(version: str) -> None:
    found = parse(json.loads(encode(RESULT, version)), version)
    assert encode(found, version) == encode(RESULT, version)
    assert (found == RESULT) == (version == "1.1.0")


def test_a_result_has_its_own_version() -> None:
    raw = json.loads(encode(RESULT, "0.4.0"))
    assert encode(parse(raw, "1.1.0"), "0.4.0") == encode(RESULT, "0.4.0")
    with pytest.raises(CniError) as caught:
        parse({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.2/24"}}, "1.1.0")
    assert caught.value.code == 1


def test_ours_comes_behind_theirs() -> None:
    theirs = Result(
        interfaces=(Interface(name="br0"), Interface(name="eth0", sandbox="/run/netns/c1")),
        ips=(Ip(address="10.9.0.2/24", interface=1), Ip(address="10.9.1.2/24")),
        dns=Dns(search=("a.example",)),
    )
    ours = Result(interfaces=RESULT.interfaces, ips=RESULT.ips, routes=RESULT.routes, dns=Dns())
    merged = merge(theirs, ours)
    assert merged.interfaces == theirs.interfaces + ours.interfaces
    assert merged.ips[:2] == theirs.ips
    assert [ip.interface for ip in merged.ips] == [1, None, 3, 3]
    assert merged.dns == theirs.dns
    assert merge(theirs, RESULT).dns == RESULT.dns
    assert merge(None, RESULT) == RESULT


def test_null_is_nothing_and_unknown_members_are_passed_over() -> None:
    raw = {"interfaces": None, "ips": [{"address": "10.0.0.2/24", "x": 1}], "dns": {}, "y": 2}
    assert parse(raw, "1.0.0") == Result(ips=(Ip(address="10.0.0.2/24"),))


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {"ips": 3},
        {"ips": [{"address": "10.0.0.300/24"}]},
        {"ips": [{"address": "10.0.0.2/24", "gateway": "x"}]},
        {"ips": [{"address": "10.0.0.2/24", "interface": 0}]},
        {"ips": [{"address": "10.0.0.2/24", "interface": -1}], "interfaces": [{"name": "a"}]},
        {"routes": [{"dst": "everywhere"}]},
        {"interfaces": [{}]},
    ],
)
def test_what_is_no_result_is_refused(raw: Any) -> None:
    with pytest.raises(CniError) as caught:
        parse(raw, "1.0.0")
    assert caught.value.code == 6
