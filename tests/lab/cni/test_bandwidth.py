"""Limits of speed on real packets: they wait in both directions, and what waits is counted.

How near a stream comes to its rate is a matter of `bench/cni.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.lab.cni.conftest import Box
from tests.lab.conftest import eventually
from tests.support.libcni import Attachment

from plait.model import marks

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

RATE = 8_000_000
"""Bits a second of every limit here; a megabyte takes one."""
LIMITS = {
    "ingressRate": RATE,
    "ingressBurst": 131_072,
    "egressRate": RATE,
    "egressBurst": 131_072,
}
HANDLE = f"{marks.QDISC_HANDLE >> 16:x}:"


def buckets(box: Box, at: Attachment) -> dict[str, Any]:
    """What `tc -s` says of a container's buckets, by the prefix of their link's name."""
    link = box.endpoint(at).interface
    mine = {link: "to", marks.shaper_ifname(link): "from"}
    shown = json.loads(box.sh("tc", "-s", "-j", "qdisc", "show"))
    return {mine[q["dev"]]: q for q in shown if q.get("dev") in mine and q.get("handle") == HANDLE}


def flood(box: Box, at: Attachment, address: str) -> None:
    """Packets as fast as they can be sent, of 1,400 bytes; more than a bucket holds."""
    argv = ("ping", "-q", "-f", "-c", "200", "-s", "1400", "-W", "2", address)
    box.inside(at, *argv, check=False)


def limited(box: Box, **limits: int) -> Attachment:
    at = box.container()
    box.network().add(at, bandwidth=limits)
    return at


def test_packets_wait_in_both_directions(box: Box) -> None:
    """An echo request and its answer pass one bucket each."""
    at = limited(box, **LIMITS)
    flood(box, at, marks.GATEWAY4)
    seen = buckets(box, at)
    assert set(seen) == {"to", "from"}
    for way, bucket in seen.items():
        assert bucket["options"]["rate"] == RATE // 8
        assert bucket["packets"] > 0, way
    assert seen["from"]["overlimits"] > 0


@pytest.mark.parametrize(("way", "name"), [("to", "ingress"), ("from", "egress")])
def test_one_direction_alone(box: Box, way: str, name: str) -> None:
    at = limited(box, **{f"{name}Rate": RATE, f"{name}Burst": 131_072})
    flood(box, at, marks.GATEWAY4)
    seen = buckets(box, at)
    assert set(seen) == {way}
    assert seen[way]["overlimits"] > 0


def test_what_is_limited_is_filtered_as_ever(box: Box) -> None:
    """Through the shaper's link packets come back to where they came from: a source address that
    is not the container's is dropped, and the right one answered."""
    at = limited(box, **LIMITS)
    assert "1 received" in box.inside(at, "ping", "-c1", "-W2", marks.GATEWAY4)
    box.inside(at, "ip", "address", "add", "192.0.2.77/32", "dev", "eth0")
    done = box.inside(at, "ping", "-c1", "-W1", "-I", "192.0.2.77", marks.GATEWAY4, check=False)
    assert "0 received" in done


def test_what_somebody_took_away_is_put_back(box: Box) -> None:
    at = limited(box, **LIMITS)
    network = box.network()
    link = box.endpoint(at).interface
    box.sh("tc", "qdisc", "del", "dev", link, "root")
    box.sh("tc", "qdisc", "del", "dev", link, "clsact")
    box.sh("ip", "link", "del", marks.shaper_ifname(link))
    eventually("both are back", lambda: set(buckets(box, at)) == {"to", "from"})

    def waits() -> bool:
        flood(box, at, marks.GATEWAY4)
        return bool(buckets(box, at)["from"]["overlimits"] > 0)

    eventually("what leads to the link is back as well", waits)
    network.delete(at)
