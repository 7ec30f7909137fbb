"""Request-response over TCP or UDP: one byte there, one byte back, one at a time.

What netperf calls TCP_RR and UDP_RR; iperf3 has no such test. `serve` answers both on one port;
`run` prints transactions a second. Standard library only: it runs in any namespace.
"""

from __future__ import annotations

import argparse
import select
import socket
import sys
import time

PORT = 5300
GRACE = 2.0
"""Seconds after which a lost datagram is sent again."""


def serve(port: int) -> None:
    """Answer until killed; one TCP connection at a time."""
    with (
        socket.create_server(("", port)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("", port))
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, datagrams], [], [])
            if listener in ready:
                echo_stream(listener.accept()[0])
            else:
                echo_datagrams(datagrams)


def echo_stream(sock: socket.socket) -> None:
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(64):
            sock.sendall(data)


def echo_datagrams(sock: socket.socket) -> None:
    """Until an empty datagram ends the run."""
    while True:
        data, source = sock.recvfrom(64)
        sock.sendto(data, source)
        if not data:
            return


def run(kind: str, address: str, port: int, seconds: float) -> float:
    """Transactions a second."""
    if kind == "tcp":
        sock = socket.create_connection((address, port), timeout=GRACE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((address, port))
    sock.setblocking(True)
    # SO_RCVTIMEO, not settimeout: the latter adds a poll(2) to every transaction.
    seconds_and_micros = int(GRACE).to_bytes(8, sys.byteorder) + bytes(8)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds_and_micros)
    count = 0
    with sock:
        start = time.perf_counter()
        end = start + seconds
        while (now := time.perf_counter()) < end:
            for _ in range(32):
                sock.send(b"x")
                sock.recv(64)
            count += 32
        if kind == "udp":
            sock.send(b"")
            sock.recv(64)
    return count / (now - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("serve").add_argument("--port", type=int, default=PORT)
    client = verbs.add_parser("run")
    client.add_argument("kind", choices=("tcp", "udp"))
    client.add_argument("address")
    client.add_argument("--port", type=int, default=PORT)
    client.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    if options.verb == "serve":
        serve(options.port)
    print(f"{run(options.kind, options.address, options.port, options.seconds):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
