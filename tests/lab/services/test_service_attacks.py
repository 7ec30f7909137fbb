"""What nobody gets by a Service, or by its addresses, shown by packets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from tests.lab.services.conftest import ANY, OWN, REMOTE, SERVICE_POOLS, entry, to

from plait.model import marks
from plait.model.service_table import Frontend

pytestmark = pytest.mark.root

A1 = ("10.1.0.1", "fd01::1")
A2 = ("10.1.0.2", "fd01::2")
FAR_OWN = ("198.51.100.1", "fd08::1")
"""The host, as `far` knows it."""
OUT = ("192.0.2.2", "fd09::2")
"""Another host of ours."""
VXLAN = struct.pack("!II", 0x0800_0000, marks.VXLAN_VNI << 8) + b"a frame"
both = pytest.mark.parametrize("v", [0, 1], ids=["v4", "v6"])


@contextmanager
def pretending(stage: Any, name: str, address: str) -> Iterator[None]:
    """A namespace can send from an address that is not its own."""
    option, length = ("-6 ", "128 dev lo nodad") if ":" in address else ("", "32 dev lo")
    stage.ip(name, f"{option}address add {address}/{length}")
    try:
        yield
    finally:
        stage.ip(name, f"{option}address del {address}/{length.split()[0]} dev lo")


@both
def test_the_addresses_of_hosts_are_never_a_services_alone(stage: Any, v: int) -> None:
    """Neither a load-balancer pool around them, nor a Service that has one as its own address,
    keeps from a host what is not the Service's."""
    before = stage.filter
    pools = (*SERVICE_POOLS, "192.0.2.0/28", "fd09::/124")
    stage.filter = msgspec.structs.replace(before, service_pools=pools)
    try:
        stage.go({Frontend(OUT[v], "tcp", 80): entry(to((A1[v], 8080)))})
        with stage.servers("tcp", ("host", OWN[v], 6443)) as servers:
            stage.ask("out", (OWN[v], 6443), servers)
        with stage.servers("tcp", ("out", OUT[v], 6443)) as servers:
            stage.ask("host", (OUT[v], 6443), servers)
    finally:
        stage.filter = before
        stage.go({})


@both
def test_a_stranger_does_not_send_as_an_endpoint_to_others_elsewhere(stage: Any, v: int) -> None:
    """The host would carry it into the tunnel, and from there it would be believed."""
    with pretending(stage, "far", A2[v]):
        stage.expect_drop(
            "source by a wrong way", lambda: stage.send("far", (REMOTE[v], 7), src=A2[v])
        )


@both
def test_a_stranger_is_no_sender_inside(stage: Any, v: int) -> None:
    stage.go({Frontend(ANY[v], "udp", 30080): entry(to((REMOTE[v], 7)))})
    with pretending(stage, "far", A2[v]):
        stage.expect_drop(
            "source by a wrong way", lambda: stage.send("far", (FAR_OWN[v], 30080), src=A2[v])
        )


@both
def test_what_is_not_tracked_takes_no_way_through_this_host(stage: Any, v: int) -> None:
    """As another host it would be let in there."""
    with pretending(stage, "far", OUT[v]):
        stage.expect_drop(
            "to an endpoint elsewhere",
            lambda: stage.send("far", (REMOTE[v], marks.VXLAN_PORT), src=OUT[v], data=VXLAN),
        )


@both
def test_no_service_leads_into_the_tunnel_of_another_host(stage: Any, v: int) -> None:
    """It would arrive as this host's, whose frames are believed."""
    stage.go({Frontend(ANY[v], "udp", 30080): entry(to((OUT[v], marks.VXLAN_PORT)))})
    stage.expect_drop(
        "vxlan by a service", lambda: stage.send("far", (FAR_OWN[v], 30080), data=VXLAN)
    )
