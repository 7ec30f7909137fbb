"""Hostile packets, made by hand and sent on the link layer, and an ear that says what arrives.

    packets.py hear PORT                     prints the text of each UDP datagram, both families
    packets.py send LINK GAP HEX…            sends frames as they are: once each when GAP is 0,
                                             else over and over, GAP seconds apart, from the
                                             moment at which the link is there; prints `sent`
                                             when a round is out
    packets.py serve PORT                    accepts TCP on every address of both families
    packets.py see LINK                      prints sender's MAC, Ethernet type and, of ICMPv6, the
                                             type of each frame that comes in

All print `ready` first, and end when their standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys

HOST_MAC = "ee:ee:ee:ee:ee:ee"
ANY_MAC = "02:00:00:00:00:66"
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
ETH_P_ALL = 0x0003


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ether(kind: int, payload: bytes, *, to: str = HOST_MAC, by: str = ANY_MAC) -> bytes:
    """An Ethernet frame."""
    addresses = bytes.fromhex(to.replace(":", "")) + bytes.fromhex(by.replace(":", ""))
    return addresses + struct.pack("!H", kind) + payload


def ip(source: str, target: str, protocol: int, payload: bytes, *, hops: int = 64) -> bytes:
    """An IP packet of the family of its addresses (RFC 791, RFC 8200); no options."""
    src, dst = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if src.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
        return head + src.packed + dst.packed + payload
    fields = [0x45, 0, 20 + len(payload), 1, 0, hops, protocol, 0]
    for _ in range(2):
        head = struct.pack("!BBHHHBBH", *fields) + src.packed + dst.packed
        fields[7] = checksum(head) if not fields[7] else fields[7]
    return head + payload


def tcp(
    source: str, target: str, sport: int, dport: int, *, seq: int, ack: int, data: bytes = b"x"
) -> bytes:
    """A TCP segment (RFC 9293) with an acknowledgement."""
    src, dst = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, 0x10, 64, 0, 0)
    pseudo = src + dst + struct.pack("!II", len(head) + len(data), TCP)
    total = struct.pack("!H", checksum(pseudo + head + data))
    return head[:16] + total + head[18:] + data


def kind_of(address: str) -> int:
    """Ethernet type of an address's family."""
    return IPV6 if ":" in address else IPV4


def _summed(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    """The body with its checksum over the pseudo header (RFC 8200 8.1, RFC 768)."""
    src, dst = ipaddress.ip_address(source).packed, ipaddress.ip_address(target).packed
    if len(src) == 16:
        pseudo = src + dst + struct.pack("!II", len(body), protocol)
    else:
        pseudo = src + dst + struct.pack("!BBH", 0, protocol, len(body))
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def udp(source: str, target: str, port: int, text: str, *, by: int = 40000) -> bytes:
    """A datagram in its IP packet."""
    body = struct.pack("!HHHH", by, port, 8 + len(text), 0) + text.encode()
    return ip(source, target, UDP, _summed(source, target, UDP, body, 6))


def vxlan(outer: tuple[str, str], vni: int, frame: bytes, port: int = 4789) -> bytes:
    """A frame in VXLAN (RFC 7348) in a datagram from one host to another."""
    body = struct.pack("!BxxxI", 0x08, vni << 8) + frame
    head = struct.pack("!HHHH", 50000, port, 8 + len(body), 0)
    return ip(*outer, UDP, _summed(*outer, UDP, head + body, 6))


def router_advertisement(source: str, target: str = "ff02::1") -> bytes:
    """A default router of the highest preference and a prefix (RFC 4861 4.2)."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0)
    prefix += ipaddress.ip_address("2001:db8:bad::").packed
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0x08, 9000, 0, 0) + prefix
    return ip(source, target, ICMPV6, _summed(source, target, ICMPV6, body, 2), hops=255)


def redirect(source: str, to: str, victim: str, gateway: str) -> bytes:
    """ICMP redirect: `victim` is better reached by `gateway` (RFC 792, RFC 4861 4.5)."""
    if ":" in source:
        body = struct.pack("!BBHI", 137, 0, 0, 0)
        body += ipaddress.ip_address(gateway).packed + ipaddress.ip_address(victim).packed
        return ip(source, to, ICMPV6, _summed(source, to, ICMPV6, body, 2), hops=255)
    inner = udp(to, victim, 9, "")
    body = struct.pack("!BBH", 5, 1, 0) + ipaddress.ip_address(gateway).packed + inner[:28]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip(source, to, ICMP, body)


def unreachable(source: str, packet: bytes) -> bytes:
    """ICMP error: nobody listens at the port that the packet was for (RFC 792, RFC 4443 3.1)."""
    if packet[0] >> 4 == 6:
        to = str(ipaddress.ip_address(packet[8:24]))
        body = struct.pack("!BBHI", 1, 4, 0, 0) + packet
        return ip(source, to, ICMPV6, _summed(source, to, ICMPV6, body, 2))
    body = struct.pack("!BBHI", 3, 3, 0, 0) + packet
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip(source, str(ipaddress.ip_address(packet[12:16])), ICMP, body)


def arp_claim(address: str) -> bytes:
    """A gratuitous ARP reply (RFC 5227): the address is at ANY_MAC."""
    mac, own = bytes.fromhex(ANY_MAC.replace(":", "")), ipaddress.ip_address(address).packed
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, 2) + mac + own + b"\xff" * 6 + own


async def hear(port: int) -> None:
    loop = asyncio.get_running_loop()

    class Ear(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            print(data.decode(), flush=True)

    for family in (socket.AF_INET, socket.AF_INET6):
        await loop.create_datagram_endpoint(Ear, sock=_bound(family, socket.SOCK_DGRAM, port))
    await until_told()


async def see(link: str) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setblocking(False)
    sock.bind((link, ETH_P_ALL))

    def frame() -> None:
        data, (_, _, kind, *_) = sock.recvfrom(2048)
        if kind != socket.PACKET_OUTGOING:
            print(described(data), flush=True)

    asyncio.get_running_loop().add_reader(sock, frame)
    await until_told()


def described(data: bytes) -> str:
    """`ee:ee:ee:ee:ee:ee 86dd 134`: the last of ICMPv6 without extension headers (RFC 4443)."""
    kind = int.from_bytes(data[12:14], "big")
    words = [data[6:12].hex(":"), f"{kind:04x}"]
    if kind == IPV6 and len(data) > 54 and data[20] == ICMPV6:
        words.append(str(data[54]))
    return " ".join(words)


async def serve(port: int) -> None:
    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"host\n")
        writer.close()

    for family in (socket.AF_INET, socket.AF_INET6):
        await asyncio.start_server(hello, sock=_bound(family, socket.SOCK_STREAM, port))
    await until_told()


def _bound(family: int, kind: int, port: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    return sock


async def send(link: str, gap: float, frames: list[bytes]) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)

    async def out() -> None:
        while True:
            with contextlib.suppress(OSError):  # no link yet, or it is down
                sock.bind((link, 0))
                for frame in frames:
                    sock.send(frame)
                print("sent", flush=True)
                if not gap:
                    return
            await asyncio.sleep(gap or 0.01)

    sending = asyncio.create_task(out())
    await until_told()
    sending.cancel()


async def until_told() -> None:
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


def main(argv: list[str]) -> None:
    verb, *words = argv
    if verb == "send":
        asyncio.run(send(words[0], float(words[1]), [bytes.fromhex(w) for w in words[2:]]))
    elif verb == "see":
        asyncio.run(see(words[0]))
    else:
        asyncio.run({"hear": hear, "serve": serve}[verb](int(words[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
