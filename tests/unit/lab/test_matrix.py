"""What is probed, and how the results are drawn."""

import click
import msgspec
import pytest

from plait.lab import matrix
from plait.lab.state import WorkloadState
from plait.lab.workloads import Result


def load(name: str, *addresses: str) -> WorkloadState:
    return WorkloadState(name=name, host="h1", pid=1, start=1, inner_pid=1, addresses=addresses)


A, B = load("a", "10.112.0.1", "fd70::1"), load("b", "10.112.0.2")


@pytest.mark.parametrize(
    ("text", "port"), [("80", "80/tcp"), ("53/udp", "53/udp"), ("65535/sctp", "65535/sctp")]
)
def test_ports(text: str, port: str) -> None:
    assert str(matrix.parse_port(text)) == port


@pytest.mark.parametrize("text", ["", "0", "65536", "x", "80/icmp", "-1", "٨", "8" * 5000])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(click.BadParameter):
        matrix.parse_port(text)


def test_targets_are_every_address_or_the_name_once_a_family() -> None:
    assert matrix.targets(A, "ip") == [("10.112.0.1", 4), ("fd70::1", 6)]
    assert matrix.targets(A, "name") == [("a.default.plait.local", 4), ("a.default.plait.local", 6)]


def test_squares_and_the_shape_of_the_json() -> None:
    port = matrix.Port(80, "tcp")
    found = matrix.Matrix(
        ports=("80/tcp",),
        rows=(
            matrix.row(B, A, "10.112.0.1", port, Result(result="connected", peer="a")),
            matrix.row(B, A, "fd70::1", port, Result(result="timed out")),
            matrix.row(A, B, "10.112.0.2", port, Result(result="refused")),
        ),
    )
    assert matrix.squares(found) == [
        (
            "80/tcp",
            ["from \\ to", "default/b", "default/a"],
            [["default/b", "-", ".X"], ["default/a", "r", "-"]],
        )
    ]
    shape = msgspec.to_builtins(found)
    assert shape["ports"] == ("80/tcp",)
    assert shape["rows"][0] == {
        "src": "default/b",
        "dst": "default/a",
        "port": 80,
        "proto": "tcp",
        "ip": "10.112.0.1",
        "result": "connected",
        "peer": "a",
        "detail": "",
    }
