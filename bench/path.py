"""Processor time that one packet costs on its way between two workloads.

One thread holds a UDP socket in either namespace and sends one byte there and one back. On this
way nothing waits and nobody is woken: the kernel does all the work within the calls, and charges
it to this process. So the figure hardly depends on what else the machine does, as throughput
does.
"""

from __future__ import annotations

import os
import socket
import time

from plait.kernel import netns

PACKETS = 4000


def udp(pid: int, address: str) -> socket.socket:
    """A bound socket in the network namespace of a process."""
    fd = netns.open_netns(netns.pid_path(pid))
    try:
        with netns.inside(fd):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    finally:
        os.close(fd)
    sock.bind((address, 0))
    return sock


class Path:
    """Two sockets that know each other. Close it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        client.connect(server.getsockname())
        server.connect(client.getsockname())
        # A packet that is lost is a fault to be seen, not to be waited for.
        client.settimeout(2.0)
        server.settimeout(2.0)
        self._bounce(1)
        client.settimeout(None)
        server.settimeout(None)

    def _bounce(self, times: int) -> None:
        client, server = self.client, self.server
        for _ in range(times):
            client.send(b"x")
            server.recv(64)
            server.send(b"x")
            client.recv(64)

    def cost(self) -> float:
        """Microseconds of processor time a packet."""
        start = time.process_time()
        self._bounce(PACKETS // 2)
        return (time.process_time() - start) / PACKETS * 1e6

    def close(self) -> None:
        self.client.close()
        self.server.close()
