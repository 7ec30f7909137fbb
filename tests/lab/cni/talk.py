"""Says who asks: one question, one answer, over TCP or UDP, IPv4 and IPv6.

talk.py serve PROTO PORT           answers every question with the address it came from;
                                   prints `ready` first, and ends when its input does
talk.py ask PROTO ADDR PORT SRC S  prints the answer, or nothing when none comes in S seconds;
                                   SRC is the port to ask from, 0 for any
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def plain(address: str) -> str:
    return address.removeprefix("::ffff:")


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(plain(addr[0]).encode(), addr)


async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(plain(writer.get_extra_info("peername")[0]).encode())
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    writer.close()


async def serve(proto: str, port: int) -> None:
    sock = socket.socket(socket.AF_INET6, KINDS[proto])
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    loop = asyncio.get_running_loop()
    if proto == "tcp":
        await asyncio.start_server(answer, sock=sock)
    else:
        await loop.create_datagram_endpoint(Datagrams, sock=sock)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def ask(proto: str, address: str, port: int, source: int, seconds: float) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, KINDS[proto]) as sock:
        sock.settimeout(seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            sock.bind(("", source))
            sock.connect((address, port))
            sock.send(b"?")
            return sock.recv(100).decode()
    return ""


if __name__ == "__main__":
    verb, proto, *rest = sys.argv[1:]
    if verb == "serve":
        asyncio.run(serve(proto, int(rest[0])))
    else:
        print(ask(proto, rest[0], int(rest[1]), int(rest[2]), float(rest[3])))
