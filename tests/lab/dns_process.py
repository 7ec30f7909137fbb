"""What runs inside the namespaces of `test_dns_intercept`: our resolver, or a foreign one.

Prints `ready` when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import dns.message
import dns.rdatatype
import dns.rrset

from plait.dns.server import DnsServer
from plait.dns.zone import Zone
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
)


def endpoint(name: str, network: str, *addresses: str) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=f"id-{name}-{network}", namespace="default"),
        spec=EndpointSpec(node="h", network=network, name=name, addresses=addresses),
        status=EndpointStatus(phase="ready"),
    )


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
    server = DnsServer(zone)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def answer(data: bytes, peer: str) -> bytes:
    """Whoever asks is told from which address: so a client sees who forwarded its question."""
    query = dns.message.from_wire(data)
    reply = dns.message.make_response(query)
    question = query.question[0]
    wanted = "AAAA" if ":" in peer else "A"
    if question.rdtype == dns.rdatatype.from_text(wanted):
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", wanted, peer))
    return reply.to_wire()


class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(answer(data, addr[0]), addr)


async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = int.from_bytes(await reader.readexactly(2), "big")
    message = answer(await reader.readexactly(size), writer.get_extra_info("peername")[0])
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
