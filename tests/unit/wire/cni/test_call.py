"""Calls of CNI, taken apart. What real plugins are asked is in tests/lab/cni."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plait.wire.cni.call import Attachment, Call, Settings, parse, split
from plait.wire.cni.errors import VERSIONS, CniError, versions

ENVIRONMENT = {
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = {"cniVersion": "1.1.0", "name": "podnet", "type": "plait"}


def body(verb: str, config: Any = CONFIG, **environment: str) -> bytes:
    pairs = {"CNI_COMMAND": verb, **ENVIRONMENT, **environment}
    head = b"".join(f"{name}={value}\0".encode() for name, value in pairs.items())
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    return head + b"\0" + text


def refused(verb: str, config: Any = CONFIG, **environment: str) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(body(verb, config, **environment))
    return caught.value


def add(**keys: Any) -> Call:
    return parse(body("ADD", {**CONFIG, **keys}))


def test_environment_and_configuration_are_split_where_the_shim_joined_them() -> None:
    assert split(b"A=1\0B=\0\0{}") == ({"A": "1", "B": ""}, b"{}")
    assert split(b"A=x=y\n\0\0\0\0{}") == ({"A": "x=y\n"}, b"\0\0{}")
    assert split(b"\0{}") == ({}, b"{}")
    assert split(b"") == ({}, b"")


def test_an_add() -> None:
    call = parse(body("ADD", PLAIT_STARTED="17"))
    assert call.attachment == Attachment("c1", "eth0")
    assert (call.verb, call.version, call.name) == ("ADD", "1.1.0", "podnet")
    assert (call.netns, call.ifname, call.started) == ("/run/netns/c1", "eth0", 17)
    assert call.settings == Settings()


def test_our_own_keys() -> None:
    settings = add(
        network="shop", namespace="prod", identity="kubernetes", deadline=5, ifname="net1",
        defaultRoute=False,
    ).settings  # fmt: skip
    assert settings == Settings(
        network="shop", namespace="prod", identity="kubernetes", deadline=5, ifname="net1",
        default_route=False,
    )  # fmt: skip
    assert add(ifname="net1").ifname == "net1"


@pytest.mark.parametrize("name", ["é" * 8, "eth%d", "a" * 16, "a b", ".."])
def test_a_name_that_the_kernel_would_not_keep_is_refused(name: str) -> None:
    assert refused("ADD", CNI_IFNAME=name).code == 4
    assert refused("ADD", {**CONFIG, "ifname": name}).code == 7
    # The kernel counts bytes.
    assert parse(body("ADD", CNI_IFNAME="é" * 7)).ifname == "é" * 7


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("netwrok", "network"),
        ("Network", "network"),
        ("default_route", "defaultRoute"),
        ("deadlin", "deadline"),
        ("ifName", "ifname"),
        ("egressBrust", "egressBurst"),
    ],
)
def test_a_key_that_is_nearly_one_of_ours_is_refused(key: str, meant: str) -> None:
    """The specification wants code 2, the key and its value."""
    error = refused("ADD", {**CONFIG, key: "internal"})
    assert error.code == 2
    assert error.msg == f"unsupported field {key}: 'internal'"
    assert error.details == f"fix: {meant}"


def test_keys_of_others_are_passed_over() -> None:
    others = ("ipMasq", "deviceID", "mtu", "logLevel", "kubernetes", "cni.dev/x", "_comment", "mac")
    assert add(**dict.fromkeys(others, "x")).settings == Settings()


def test_a_version_that_nobody_wrote_is_not_said_to_be_written() -> None:
    assert "has no cniVersion" in refused("ADD", {"name": "podnet"}).details
    assert "has no" not in refused("ADD", {**CONFIG, "cniVersion": "0.1.0"}).details


@pytest.mark.parametrize(
    ("ipam", "code"), [({}, None), (None, None), ({"type": "host-local"}, 2), ("host-local", 7)]
)
def test_addresses_are_nobody_else_s(ipam: Any, code: int | None) -> None:
    if code is None:
        assert add(ipam=ipam).settings == Settings()
    else:
        assert refused("ADD", {**CONFIG, "ipam": ipam}).code == code


@pytest.mark.parametrize("started", ["", "-1", "1e9", "9" * 20, "soon"])
def test_a_beginning_that_is_no_number_is_not_known(started: str) -> None:
    assert parse(body("DEL", PLAIT_STARTED=started)).started == 0


@pytest.mark.parametrize(
    "config",
    [
        {"ipam": {"type": "host-local"}},
        {"prevResult": "garbage"},
        {"network": 3, "deadline": "long"},
        {"runtimeConfig": {"ips": ["nonsense"]}, "dns": 7},
    ],
)
def test_a_del_looks_at_nothing_but_the_name(config: dict[str, Any]) -> None:
    call = parse(body("DEL", {**CONFIG, **config}, CNI_ARGS="garbage", CNI_NETNS=""))
    assert (call.name, call.attachment) == ("podnet", Attachment("c1", "eth0"))


@pytest.mark.parametrize("verb", ["CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", VERSIONS)
def test_verbs_came_with_their_versions(verb: str, version: str) -> None:
    config = {
        **CONFIG,
        "cniVersion": version,
        "prevResult": {},
        "cni.dev/valid-attachments": [],
    }
    since = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}[verb]
    if version >= since:
        assert parse(body(verb, config)).version == version
    else:
        error = refused(verb, config)
        assert (error.code, error.version) == (1, "1.1.0")


def test_an_error_is_of_the_version_that_was_asked() -> None:
    error = refused("ADD", {**CONFIG, "cniVersion": "0.4.0", "deadline": 0})
    assert json.loads(error.encode()) == {
        "cniVersion": "0.4.0",
        "code": 7,
        "msg": error.msg,
        "details": error.details,
    }
    assert "deadline" in error.details


def test_check_wants_the_result() -> None:
    assert refused("CHECK").code == 7
    assert refused("CHECK", {**CONFIG, "prevResult": None}).code == 7


def test_gc_lists_what_stays() -> None:
    valid = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]
    call = parse(body("GC", {**CONFIG, "cni.dev/valid-attachments": valid}))
    assert call.valid == {Attachment("c1", "eth0"), Attachment("c2", "net1")}
    for wrong in ([{"containerID": "c1"}], None, {}, "all"):
        assert refused("GC", {**CONFIG, "cni.dev/valid-attachments": wrong}).code == 7


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'"x"', b'{"cniVersion": 3}']
)
def test_a_configuration_that_is_none(text: bytes) -> None:
    assert refused("ADD", text).code == 6


def test_versions_are_listed() -> None:
    said = json.loads(versions())
    assert said == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}
    assert parse(body("VERSION", {"cniVersion": "9.9.9"})).verb == "VERSION"
