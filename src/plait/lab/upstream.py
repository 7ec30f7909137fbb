"""The lab's resolver of last resort: a DNS server on the router, standing in for the world's.

It knows `outside.lab.test` and nothing else, so that forwarding can be seen to work, and answers
NXDOMAIN at once where the real one would go on asking.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import sys
from typing import Any

from plait.lab.topology import OUTSIDE_SITE
from plait.wire import dns

NAME = (b"outside", b"lab", b"test")
ADDRESSES = (f"100.64.{OUTSIDE_SITE}.2", f"fd64:{OUTSIDE_SITE:x}::2")


def reply(data: bytes) -> bytes | None:
    """The answer to a datagram; None for what is no query."""
    try:
        query = dns.parse_query(data)
    except dns.WireError as error:
        return None if error.rcode is None else dns.error_reply(data, error.rcode)
    if query.labels != NAME:
        answer = dns.Answer(dns.NXDOMAIN)
    else:
        records = [
            dns.address_record(address.packed, 60)
            for address in map(ipaddress.ip_address, ADDRESSES)
            if query.qtype == (dns.A if address.version == 4 else dns.AAAA)
        ]
        answer = dns.Answer(dns.NOERROR, [records] if records else ())
    return answer.reply_to(query, query.udp_limit)


class Server(asyncio.DatagramProtocol):
    """One socket for all."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport to answer on."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer."""
        answer = reply(data)
        if answer is not None:
            self.transport.sendto(answer, addr)


async def serve(addresses: list[str], ready: int) -> None:
    """Listen on UDP port 53 of the addresses until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    for address in addresses:
        await loop.create_datagram_endpoint(Server, local_addr=(address, 53))
    os.write(ready, b"ready\n")
    os.close(ready)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2:], int(sys.argv[1])))
