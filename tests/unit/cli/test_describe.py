from __future__ import annotations

from plait.cli.describe import sheet
from plait.model.objects import Metadata, Network, NetworkSpec


def test_lists_are_written_as_people_write_them() -> None:
    network = Network(
        metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.1.0.0/24", "fd01::/64"))
    )
    assert dict(sheet(network))["spec.pools"] == "10.1.0.0/24, fd01::/64"
