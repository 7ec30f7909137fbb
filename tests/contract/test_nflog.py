"""The door to logged packets: fake and real give the same packets and count the same losses."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from plait.client.polling import poll
from plait.kernel import netns
from plait.kernel.nflog import FakeNflog, Nflog, PacketLog, Reading
from plait.model.errors import PlaitError
from plait.model.marks import LOG_GROUP
from plait.wire.nflog import Packet

RULES = f"""table inet t {{
 chain o {{
  type filter hook output priority 0; policy accept;
  udp dport 9 log prefix "r0123456789a.ed" group {LOG_GROUP} snaplen 96 drop
  tcp dport 80 log prefix "none.ea" group {LOG_GROUP} snaplen 96
 }}
}}
"""
ROOM = 64 << 10
"""Bytes of the real door's buffer: small, so that it overflows soon."""


class Rig(NamedTuple):
    door: PacketLog
    udp: Callable[[str, int], None]
    """Send a packet to port 9 of an address, from this port."""
    tcp: Callable[[str], None]
    """Try to connect to port 80 of an address."""


def fake() -> Iterator[Rig]:
    door = FakeNflog(room=100)

    def log(prefix: str, protocol: int, address: str, sport: int, dport: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = socket.inet_pton(family, address)
        door.log(Packet(prefix, 0, 3, 0, 1, 0.0, protocol, raw, raw, sport, dport))

    yield Rig(
        door,
        lambda address, port: log("r0123456789a.ed", 17, address, port, 9),
        lambda address: log("none.ea", 6, address, 40000, 80),
    )
    door.close()


def real() -> Iterator[Rig]:
    fd = netns.create()
    with netns.inside(fd):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["nft", "-f", "-"], input=RULES.encode(), check=True)
        door = Nflog(buffer=ROOM)

    def family(address: str) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in address else socket.AF_INET

    def udp(address: str, port: int) -> None:
        with netns.ns_socket(fd, family(address), socket.SOCK_DGRAM) as sock:
            sock.bind((address, port))
            with suppress(PermissionError):  # The rule drops it, and the sender is told.
                sock.sendto(b"x" * 300, (address, 9))

    def tcp(address: str) -> None:
        with (
            netns.ns_socket(fd, family(address), socket.SOCK_STREAM) as sock,
            suppress(ConnectionRefusedError),
        ):
            sock.connect((address, 80))

    yield Rig(door, udp, tcp)
    door.close()
    os.close(fd)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    yield from (real if request.param == "real" else fake)()


def collect(door: PacketLog, count: int, limit: int = 1000) -> Reading:
    """What is read until so many packets came or were lost."""
    packets: list[Packet] = []
    lost = 0

    def look() -> bool:
        nonlocal lost
        reading = door.read(limit)
        packets.extend(reading.packets)
        lost += reading.lost
        return len(packets) + lost >= count

    assert poll(look, seconds=5, every=0.005), (len(packets), lost)
    return Reading(tuple(packets), lost, more=False)


def test_a_packet_tells_who_and_which_rule(rig: Rig) -> None:
    rig.udp("127.0.0.1", 4001)
    rig.udp("::1", 4002)
    rig.tcp("127.0.0.1")
    four, six, syn = collect(rig.door, 3).packets
    assert (four.prefix, four.protocol, four.sport, four.dport) == ("r0123456789a.ed", 17, 4001, 9)
    assert four.src == four.dst == bytes([127, 0, 0, 1])
    assert (six.protocol, six.sport, six.dport) == (17, 4002, 9)
    assert six.src == six.dst == bytes(15) + b"\1"
    assert (syn.prefix, syn.protocol, syn.dport) == ("none.ea", 6, 80)
    assert (four.hook, four.outdev) == (3, 1)
    assert [four.sequence, six.sequence, syn.sequence] == [0, 1, 2]


def test_nothing_waits_when_nothing_came(rig: Rig) -> None:
    assert rig.door.read(10) == Reading((), 0, more=False)


def test_it_reads_no_further_than_the_limit(rig: Rig) -> None:
    for number in range(60):
        rig.udp("127.0.0.1", 5000 + number)
    found = collect(rig.door, 60, limit=7).packets
    assert [packet.sport for packet in found] == list(range(5000, 5060))


def test_what_finds_no_room_is_counted_exactly(rig: Rig) -> None:
    for number in range(3000):
        rig.udp("127.0.0.1", 5000 + number)
    first = collect(rig.door, 1)
    # The kernel still holds the last ones; the next packets tell how many are missing.
    for number in range(20):
        rig.udp("127.0.0.1", 4100 + number)
    rest = collect(rig.door, 3020 - len(first.packets) - first.lost)
    packets = first.packets + rest.packets
    assert first.lost + rest.lost > 1000
    assert len(packets) + first.lost + rest.lost == 3020
    assert packets[-1].sport == 4119
    assert [p.sequence for p in packets] == sorted(p.sequence for p in packets)


@pytest.mark.root
def test_a_group_has_one_reader_and_says_so() -> None:
    fd = netns.create()
    with netns.inside(fd):
        first = Nflog()
        with pytest.raises(PlaitError) as refused:
            Nflog()
        assert refused.value.code == "PLAIT-HOST-004"
        first.close()
        Nflog().close()
    os.close(fd)
