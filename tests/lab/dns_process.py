"""What runs inside the namespaces of `test_dns_intercept`: our resolver, or a foreign one.

Prints `ready` when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rdatatype
import dns.rrset

from plait.dns.server import DnsServer
from plait.dns.zone import Zone
from plait.model.objects import (
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
    Pod,
    Service,
)
from plait.model.pods import PodSpec
from plait.model.policies import Origin
from plait.model.services import (
    EndpointSliceSpec,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.services.engine import Engine


def endpoint(name: str, network: str, *addresses: str) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=f"id-{name}-{network}", namespace="default"),
        spec=EndpointSpec(node="h", network=network, name=name, addresses=addresses),
        status=EndpointStatus(phase="ready"),
    )


def service(name: str, *addresses: str, **spec: Any) -> Service:
    origin = Origin(kind="Service", name=name, namespace="shop")
    ports = (ServicePort(name="http", port=80),)
    fields = {"network": "blue", "ports": ports, "origin": origin, "addresses": addresses, **spec}
    return Service(metadata=Metadata(name=name, namespace="shop"), spec=ServiceSpec(**fields))


def backends(name: str, *endpoints: SliceEndpoint) -> EndpointSlice:
    spec = EndpointSliceSpec(
        service=name, ports=(SlicePort(name="http", port=8080),), endpoints=endpoints
    )
    return EndpointSlice(metadata=Metadata(name=f"{name}-1", namespace="shop"), spec=spec)


def services(zone: Zone) -> None:
    """A cluster's Services as an agent has them: names, and who answers for them."""
    engine = Engine("h")
    zone.services.backends = engine.backends
    engine.moved = zone.services.moved
    crowd = [SliceEndpoint(addresses=(f"10.112.{100 + i // 250}.{i % 250}",)) for i in range(500)]
    pods = [SliceEndpoint(addresses=(f"10.112.9.{i}",), hostname=f"db-{i}") for i in (1, 2)]
    for made in (
        service("front", "10.96.0.10", "fd70:96::10"),
        service("db", headless=True),
        backends("db", *pods),
        service("crowd", headless=True),
        backends("crowd", *crowd),
        service("outside", type="ExternalName", external_name="www.example.org", ports=()),
    ):
        engine.put(made)
        if isinstance(made, Service):
            zone.services.put(made)
    pod = Metadata(name="db-1", namespace="shop")
    zone.services.put_pod(Pod(metadata=pod, spec=PodSpec(addresses=("10.112.9.1",))))


async def resolver() -> None:
    zone = Zone()
    zone.replace(
        [
            endpoint("client", "blue", "10.112.0.5", "fd70:1::5"),
            endpoint("web", "blue", "10.112.0.6", "fd70:1::6"),
            endpoint("other", "red", "10.113.0.6"),
        ],
        [
            Network(metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.112.0.0/16",))),
            Network(metadata=Metadata(name="red"), spec=NetworkSpec(pools=("10.113.0.0/16",))),
        ],
    )
    services(zone)
    server = DnsServer(zone)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def answer(data: bytes, peer: str) -> list[bytes]:
    """Whoever asks is told from which address: so a client sees who forwarded its question.

    An iterative question gets an authoritative answer, a cookie its other half (RFC 7873), a
    transfer two messages (RFC 5936), an update a yes (RFC 2136).
    """
    query = dns.message.from_wire(data)
    reply = dns.message.make_response(query)
    for option in query.options:
        if isinstance(option, dns.edns.CookieOption):
            reply.use_edns(0, options=[dns.edns.CookieOption(option.client, b"8 bytes!")])
    if query.opcode() != dns.opcode.QUERY:
        return [reply.to_wire()]
    name, rdtype = query.question[0].name, query.question[0].rdtype
    if not query.flags & dns.flags.RD:
        reply.flags |= dns.flags.AA
    wanted = "AAAA" if ":" in peer else "A"
    record = dns.rrset.from_text(name, 60, "IN", wanted, peer)
    if rdtype == dns.rdatatype.AXFR:
        soa = dns.rrset.from_text(name, 60, "IN", "SOA", ". . 1 2 3 4 5")
        last = dns.message.make_response(query)
        reply.answer += [soa, record]
        last.answer.append(soa)
        return [reply.to_wire(), last.to_wire()]
    if rdtype == dns.rdatatype.from_text(wanted):
        reply.answer.append(record)
    return [reply.to_wire()]


class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for message in answer(data, addr[0]):
            self.transport.sendto(message, addr)


async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = int.from_bytes(await reader.readexactly(2), "big")
    peer = writer.get_extra_info("peername")[0]
    for message in answer(await reader.readexactly(size), peer):
        writer.write(len(message).to_bytes(2, "big") + message)
    writer.close()


async def foreign(*addresses: str) -> None:
    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_datagram_endpoint(Udp, local_addr=(address, 53))
        await asyncio.start_server(tcp, address, 53)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(resolver() if sys.argv[1] == "resolver" else foreign(*sys.argv[2:]))
