"""The small pure parts: URLs, names, ports, tables, units, use of pools, applying."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.cli import connect
from plait.cli.applying import apply_all, merged
from plait.cli.columns import age
from plait.cli.endpoints import parse_port, parse_port_names
from plait.cli.kinds import find_kind, find_wanted
from plait.cli.labelling import changed
from plait.cli.lifecycle import attached_containers, node_name
from plait.cli.options import Duration, parse_labels
from plait.cli.output import clean, plain_table
from plait.cli.systemd import quote, unit
from plait.cli.targets import dns_label
from plait.cli.usage import network_use
from plait.client.base import BatchOp
from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    Network,
    NetworkSpec,
    Object,
    Policy,
    Service,
)
from plait.model.services import ServicePort, ServiceSpec


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("h", "https://h:6440"),
        ("H.example:1", "https://h.example:1"),
        ("::1", "https://[::1]:6440"),
        ("[::1]:55", "https://[::1]:55"),
        ("https://a:6440/", "https://a:6440"),
    ],
)
def test_a_server_is_named_by_host_and_port(text: str, url: str) -> None:
    assert connect.server_url(text, "fix") == url


@pytest.mark.parametrize("text", ["", ":5", "a b", "h:70000", "h:0x1", "h/x", "a@b", "h:1\n", "ä"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(PlaitError) as caught:
        connect.server_url(text, "fix")
    assert caught.value.code == "PLAIT-CLI-001"


@pytest.mark.parametrize("text", ["100.64.1.11", "https://100.64.1.11", "100.64.1.11:6440"])
def test_the_environment_names_a_server_as_join_does(text: str) -> None:
    found = connect.remote({"PLAIT_SERVER": text, "PLAIT_TOKEN": "t"})
    assert found == connect.Remote("https://100.64.1.11:6440", "t")


def test_a_server_without_tls_is_refused_before_it_is_asked() -> None:
    with pytest.raises(PlaitError, match="no HOST") as caught:
        connect.remote({"PLAIT_SERVER": "http://100.64.1.11:6440"})
    assert caught.value.fix == ("export PLAIT_SERVER=https://192.0.2.10:6440",)


@given(st.text(max_size=100))
def test_a_dns_label_is_one_or_empty(text: str) -> None:
    label = dns_label(text)
    assert len(label) <= 63
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert label.strip("-") == label
    assert dns_label(label) == label


def test_a_node_name_must_be_a_label() -> None:
    assert node_name("host-1") == "host-1"
    with pytest.raises(PlaitError) as caught:
        node_name("Host_1")
    assert caught.value.fix == ("--name host-1",)


@pytest.mark.parametrize(
    ("text", "protocol", "host_ip", "host_port", "port"),
    [
        ("8080:80", "tcp", "", 8080, 80),
        ("127.0.0.1:53:53/udp", "udp", "127.0.0.1", 53, 53),
        ("[::1]:1:2/sctp", "sctp", "::1", 1, 2),
    ],
)
def test_published_ports_read_as_dockers(
    text: str, protocol: str, host_ip: str, host_port: int, port: int
) -> None:
    found = parse_port(text)
    assert (found.protocol, found.host_ip, found.host_port, found.port) == (
        protocol,
        host_ip,
        host_port,
        port,
    )


@pytest.mark.parametrize("text", ["80", "a:b", "1:2/icmp", "0:80", "70000:80", "x:1:2", ""])
def test_what_is_no_published_port(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_port(text)


def test_labels() -> None:
    assert parse_labels(("a=b", "c=", "d=e=f")) == {"a": "b", "c": "", "d": "e=f"}
    for bad in ("a", "=b"):
        with pytest.raises(click.BadParameter):
            parse_labels((bad,))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "5", "-1s", "0s", "1w", "1.5h", "²s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@pytest.mark.parametrize("word", ["network", "Networks", "NET", "net"])
def test_kinds_by_any_of_their_names(word: str) -> None:
    assert find_kind(word) is Network


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(PlaitError) as caught:
        find_kind("netwrok")
    assert caught.value.fix == ("write `networks`",)


def test_a_table_for_pipes_has_no_trailing_blanks_and_no_control_characters() -> None:
    text = plain_table(["A", "LONG"], [["x\x1b[31m", ""], ["yy", "z"]])
    assert text.splitlines() == ["A          LONG", "x\\x1b[31m  -", "yy         z"]
    assert clean("ok ü") == "ok ü"


def test_ages() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert [age(t, now) for t in ("2026-01-01T23:59:18Z", "2026-01-01T00:00:00Z", "", "x")] == [
        "42s",
        "1d",
        "",
        "",
    ]


def test_units_are_notify_and_ordered_before_docker() -> None:
    text = unit("agent", ["/opt/a b/python", "-m", "plait"], {"PLAIT_ROOT": "/x%y"})
    assert 'ExecStart="/opt/a b/python" "-m" "plait"' in text
    assert 'Environment="PLAIT_ROOT=/x%%y"' in text
    for line in (
        "Type=notify",
        "Before=docker.service kubelet.service",
        "FileDescriptorStoreMax=4",
    ):
        assert line in text.splitlines()
    assert quote('a"$\\', command=True) == '"a\\"$$\\\\"'
    with pytest.raises(ValueError):
        quote("a\nExecStart=/bin/sh")


def test_use_of_a_network() -> None:
    network = Network(
        metadata=Metadata(name="n"), spec=NetworkSpec(pools=("10.0.0.0/24", "fd00::/64"))
    )
    blocks = [
        AddressBlock(
            metadata=Metadata(name=f"b{i}"),
            spec=AddressBlockSpec(network="n", cidr=cidr, node=node),
        )
        for i, (cidr, node) in enumerate(
            [("10.0.0.0/26", "a"), ("10.0.0.64/26", ""), ("fd00::/122", "a")]
        )
    ]
    endpoint = Endpoint(
        metadata=Metadata(name="e", namespace="default"),
        spec=EndpointSpec(node="a", network="n", addresses=("10.0.0.1", "fd00::1")),
    )
    (use,) = network_use([network], blocks, [endpoint])
    assert use.endpoints == 1
    assert [(p.size, p.claimed, p.used, p.blocks, p.percent) for p in use.pools] == [
        (256, 64, 1, 1, "25%"),
        (2**64, 64, 1, 1, "<1%"),
    ]


def test_containers_on_networks_of_ours() -> None:
    listed = [
        {"Driver": "bridge", "Containers": {"1": {"Name": "a"}}},
        {"Driver": "plait", "Containers": {"2": {"Name": "c"}, "3": {"Name": "b"}}},
        {"Driver": "plait", "Containers": None},
    ]
    assert attached_containers(listed) == ["b", "c"]


class FakeApi:
    """Objects in a dict; only what applying asks for."""

    def __init__(self, *objects: AnyObject) -> None:
        self.objects: dict[str, AnyObject] = {o.key: o for o in objects}
        self.dry: list[str] = []
        self.batches: list[tuple[BatchOp, ...]] = []

    async def get(self, kind: type[Object], name: str, namespace: str = "") -> AnyObject:
        for obj in self.objects.values():
            if type(obj) is kind and obj.metadata.name == name:
                return obj
        raise PlaitError("PLAIT-API-004", "no")

    async def create(self, obj: AnyObject, *, dry_run: bool = False) -> AnyObject:
        assert dry_run
        self.dry.append(obj.metadata.name)
        return obj

    update = create

    async def batch(self, ops: tuple[BatchOp, ...]) -> tuple[AnyObject, ...]:
        self.batches.append(tuple(ops))
        return tuple(op.object for op in ops)


STORED = Network(
    metadata=Metadata(name="n", revision=7, uid="u", created_at="2026-01-01T00:00:00Z"),
    spec=NetworkSpec(pools=("10.0.0.0/20",), gateways=("10.0.0.1",)),
)


def test_applying_keeps_what_the_server_filled_in() -> None:
    wanted = Network(
        metadata=Metadata(name="n", labels={"a": "b"}), spec=NetworkSpec(internal=True)
    )
    found = merged(wanted, STORED)
    assert found.spec == NetworkSpec(pools=("10.0.0.0/20",), gateways=("10.0.0.1",), internal=True)
    assert (found.metadata.revision, found.metadata.labels) == (7, {"a": "b"})


async def test_applying_writes_what_differs_in_one_batch() -> None:
    api = FakeApi(STORED)
    same = Network(metadata=Metadata(name="n"))
    new = Network(metadata=Metadata(name="m", revision=99, uid="other"))
    outcome = await apply_all(api, [same, new], dry_run=False)  # type: ignore[arg-type]
    assert [(o.metadata.name, result) for o, result in outcome] == [
        ("n", "unchanged"),
        ("m", "created"),
    ]
    ((op,),) = api.batches
    assert (op.verb, op.object.metadata) == ("create", Metadata(name="m"))


async def test_a_dry_run_writes_nothing() -> None:
    api = FakeApi(STORED)
    changed = Network(metadata=Metadata(name="n", labels={"x": "y"}))
    outcome = await apply_all(api, [changed], dry_run=True)  # type: ignore[arg-type]
    assert [result for _, result in outcome] == ["changed"]
    assert api.dry == ["n"]
    assert api.batches == []


async def test_what_the_server_fills_in_again_is_no_change() -> None:
    stored = Service(
        metadata=Metadata(name="s", namespace="x", revision=3),
        spec=ServiceSpec(ports=(ServicePort(port=80),), addresses=("10.79.0.7",)),
    )

    class Filling(FakeApi):
        async def batch(self, ops: tuple[BatchOp, ...]) -> tuple[AnyObject, ...]:
            return (stored,)

    same = Service(
        metadata=Metadata(name="s", namespace="x"), spec=ServiceSpec(ports=(ServicePort(port=80),))
    )
    outcome = await apply_all(Filling(stored), [same], dry_run=False)  # type: ignore[arg-type]
    assert outcome == [(stored, "unchanged")]


def test_named_ports_of_an_attachment() -> None:
    found = parse_port_names(("http=80", "dns=53/udp,53/tcp"))
    assert [(p.name, p.protocol, p.port) for p in found] == [
        ("http", "tcp", 80),
        ("dns", "udp", 53),
        ("dns", "tcp", 53),
    ]


@pytest.mark.parametrize(
    "words", [("http",), ("=80",), ("http=x",), ("80=80",), ("http=80", "http=81")]
)
def test_what_names_no_port(words: tuple[str, ...]) -> None:
    with pytest.raises(click.BadParameter):
        parse_port_names(words)


def test_labels_are_set_and_taken_away() -> None:
    before = {"a": "1", "b": "2"}
    assert changed(before, ("a-", "b=3", "c=")) == {"b": "3", "c": ""}
    assert changed(before, ("none-",)) == before
    for bad in (("a",), ("-",), ("=x",), ("a=1", "a-")):
        with pytest.raises(click.BadParameter):
            changed(before, bad)


@pytest.mark.parametrize(
    ("word", "name", "namespace", "stored"),
    [
        ("NetworkPolicy", "web", "shop", "knp.shop.web"),
        ("netpol", "knp.shop.web", "default", "knp.shop.web"),
        ("cnp", "base", "shop", "kcnp.base"),
        ("policy", "web", "shop", "web"),
        ("pol", "web", "shop", "web"),
    ],
)
def test_kubernetes_kinds_by_the_names_that_they_are_stored_under(
    word: str, name: str, namespace: str, stored: str
) -> None:
    wanted = find_wanted(word)
    assert wanted.kind is Policy
    assert wanted.stored_name(name, namespace) == stored
