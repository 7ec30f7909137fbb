from __future__ import annotations

from plait.cli.columns import rows
from plait.model.objects import Endpoint, EndpointSpec, Metadata, PublishedPort


def endpoint(ident: str, name: str, *ports: int) -> Endpoint:
    published = tuple(PublishedPort(protocol="tcp", port=80, host_port=p) for p in ports)
    spec = EndpointSpec(node="h1", network="plait", name=name, ports=published)
    return Endpoint(metadata=Metadata(name=ident, namespace="default"), spec=spec)


def test_endpoints_stand_by_name_and_ports_by_number() -> None:
    headings, cells = rows([endpoint("a", "web", 9000, 8080), endpoint("b", "db")])
    table = [dict(zip(headings, row, strict=True)) for row in cells]
    assert [row["name"] for row in table] == ["db", "web"]
    assert table[1]["ports"] == "8080->80/tcp, 9000->80/tcp"
