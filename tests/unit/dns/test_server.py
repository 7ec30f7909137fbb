"""The whole resolver on loopback: real sockets, a scripted upstream, an injected clock."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any, cast

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop

from plait.dns.asks import Verbatim
from plait.dns.frontend import Frontend
from plait.dns.resolver import Resolver, Server
from plait.dns.server import DnsServer
from plait.dns.stats import Stats
from plait.dns.tcp import TcpListener
from plait.dns.upstream import MAX_WAITING_PER_CLIENT, Patience, Upstream
from plait.dns.zone import Zone
from plait.model.errors import PlaitError
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
)
from plait.wire import dns as wire

Message = dns.message.Message
Script = Callable[[Message, bool], list[bytes]]
"""(query, over TCP) -> what is sent back."""
DEADLINE = 10.0


def address(query: Message, text: str = "192.0.2.7", ttl: int = 60) -> Message:
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, ttl, "IN", "A", text))
    return reply


def plainly(query: Message, tcp: bool) -> list[bytes]:
    return [address(query).to_wire()]


class Foreign(asyncio.DatagramProtocol):
    """An upstream resolver that does as its script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Message] = []
        self._arrived: asyncio.Queue[None] = asyncio.Queue()
        self.port = 0

    @property
    def server(self) -> Server:
        return "127.0.0.1", self.port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.port = self.transport.get_extra_info("sockname")[1]

    def _answers(self, data: bytes, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        self._arrived.put_nowait(None)
        return self.script(query, tcp)

    async def reached(self, count: int) -> None:
        """Wait until so many questions came."""
        async with asyncio.timeout(DEADLINE):
            while len(self.asked) < count:
                await self._arrived.get()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for message in self._answers(data, False):
            self.transport.sendto(message, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        for message in self._answers(await reader.readexactly(size), True):
            writer.write(len(message).to_bytes(2, "big") + message)
        writer.close()


@asynccontextmanager
async def foreign(script: Script = plainly) -> AsyncIterator[Foreign]:
    loop = asyncio.get_running_loop()
    server = None
    while server is None:
        transport, upstream = await loop.create_datagram_endpoint(
            lambda: Foreign(script), local_addr=("127.0.0.1", 0)
        )
        try:
            server = await asyncio.start_server(upstream.stream, "127.0.0.1", upstream.port)
        except OSError:  # A port that is free for UDP may be somebody's for TCP.
            transport.close()
    try:
        yield upstream
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


def zone() -> Zone:
    """The tests' own address is a client in network `blue`."""
    zone = Zone()
    specs = {"client": "127.0.0.1", "client6": "::1", "web": "10.0.0.1"}
    specs |= {f"m{i}": f"10.0.1.{i}" for i in range(100)}
    for ident, where in specs.items():
        name = "many" if ident.startswith("m") else ident
        spec = EndpointSpec(node="h", network="blue", name=name, addresses=(where,))
        zone.put(
            Endpoint(
                metadata=Metadata(name=ident, namespace="default"),
                spec=spec,
                status=EndpointStatus(phase="ready"),
            )
        )
    zone.put_network(
        Network(metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.0.0.0/16",)))
    )
    return zone


class Plait:
    """A running server and a client of it."""

    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.stats = server.stats
        self.where, self.port = server.addresses[0]

    async def udp(self, name: str, qtype: str = "A", **options: object) -> Message:
        query = dns.message.make_query(name, qtype, **options)  # type: ignore[arg-type]
        return await dns.asyncquery.udp(query, self.where, timeout=DEADLINE, port=self.port)

    async def tcp(self, name: str, qtype: str = "A") -> Message:
        query = dns.message.make_query(name, qtype)
        return await dns.asyncquery.tcp(query, self.where, timeout=DEADLINE, port=self.port)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.where, self.port)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def plait(*servers: Server, **options: object) -> AsyncIterator[Plait]:
    settings: dict[str, object] = {
        "binds": (("127.0.0.1", 0),),
        "transparent": False,
        "host_servers": lambda: servers,
        "clock": Clock(),
    }
    server = DnsServer(zone(), **(settings | options))  # type: ignore[arg-type]
    await server.start()
    try:
        yield Plait(server)
    finally:
        await server.stop()


def texts(reply: Message) -> list[str]:
    return [record.to_text() for rrset in reply.answer for record in rrset]


def framed(name: str, ident: int) -> bytes:
    data = dns.message.make_query(name, "A", id=ident).to_wire()
    return len(data).to_bytes(2, "big") + data


async def read_message(reader: asyncio.StreamReader) -> Message:
    async with asyncio.timeout(DEADLINE):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


async def test_our_names_over_udp_and_tcp_and_with_edns() -> None:
    async with plait() as p:
        for _ in range(2):
            assert texts(await p.udp("web")) == ["10.0.0.1"]
            assert texts(await p.udp("WEB.default.plait.local", use_edns=0)) == ["10.0.0.1"]
            assert texts(await p.tcp("web.default")) == ["10.0.0.1"]
        assert (await p.udp("nope.default.plait.local")).rcode() == dns.rcode.NXDOMAIN
        assert p.stats.answers == {wire.NOERROR: 6, wire.NXDOMAIN: 1}
        assert p.stats.queries == 7


async def test_ipv6_clients() -> None:
    async with plait(binds=(("::1", 0),)) as p:
        assert texts(await p.udp("web")) == ["10.0.0.1"]
        assert texts(await p.tcp("web")) == ["10.0.0.1"]


async def test_what_does_not_fit_is_cut_and_whole_over_tcp() -> None:
    async with plait() as p:
        cut = await p.udp("many")
        assert cut.flags & dns.flags.TC
        assert len(texts(cut)) == 30
        assert len(texts(await p.udp("many", use_edns=0, payload=4096))) == 74
        assert len(texts(await p.tcp("many"))) == 100


async def test_other_names_are_forwarded_and_kept_while_they_live() -> None:
    clock = Clock()
    async with foreign() as upstream, plait(upstream.server, clock=clock) as p:
        first = await p.udp("eXample.org", use_edns=0)
        assert texts(first) == ["192.0.2.7"]
        assert str(first.question[0].name) == "eXample.org."
        clock.now += 20
        again = await p.udp("example.ORG")
        assert again.answer[0].ttl == 40
        assert again.edns == -1
        assert texts(await p.tcp("example.org")) == ["192.0.2.7"]
        assert len(upstream.asked) == 1
        clock.now += 40
        await p.udp("example.org")
        assert len(upstream.asked) == 2
        assert (p.stats.forwarded, p.stats.cache_hits) == (4, 2)


async def test_answers_of_others_are_told_before_the_client_has_them() -> None:
    clock = Clock()
    told: list[tuple[str, int]] = []

    def tell(message: bytes, age: int) -> None:
        told.append((texts(dns.message.from_wire(message))[0], age))

    async with foreign() as upstream, plait(upstream.server, clock=clock, told=tell) as p:
        for count, ask in enumerate((p.udp, p.udp, p.tcp), 1):
            assert texts(await ask("example.org")) == ["192.0.2.7"]
            assert len(told) == count
            clock.now += 20
        assert told == [("192.0.2.7", 0), ("192.0.2.7", 20), ("192.0.2.7", 40)]
        await p.udp("web")
        assert len(told) == 3, "our own names are nobody's news"


async def test_a_client_that_chose_its_resolver_is_believed_only_if_we_trust_that_one() -> None:
    told: list[int] = []
    clock, stats = Clock(), Stats()
    trusted: list[Server] = []
    async with foreign() as upstream:
        asking = Upstream(clock=clock, stats=stats)
        frontend = Frontend(
            Resolver(zone(), lambda: ()),
            asking,
            clock=clock,
            stats=stats,
            told=lambda _message, age: told.append(age),
            trusted=lambda: trusted,
        )
        data = dns.message.make_query("example.org", "A").to_wire()
        question = Verbatim((upstream.server,), data, wire.parse_query(data), "10.0.0.1")
        reply = dns.message.from_wire(await frontend.wait(question))
        assert texts(reply) == ["192.0.2.7"]
        assert told == []
        trusted.append(upstream.server)
        await frontend.wait(question)
        assert told == [0]
        # By TCP all that comes back goes to the client, whatever it asked.
        frontend.overheard(question, reply.to_wire())
        assert told == [0, 0]
        trusted.clear()
        frontend.overheard(question, reply.to_wire())
        assert told == [0, 0]
        await asking.close()


async def test_only_the_true_answer_is_believed() -> None:
    def script(query: Message, tcp: bool) -> list[bytes]:
        lie = address(query, "203.0.113.66")
        other_id = dns.message.from_wire(lie.to_wire())
        other_id.id = query.id ^ 1
        stranger = dns.message.make_query("evil.example", "A", id=query.id)
        good = address(query).to_wire()
        return [
            b"junk",
            other_id.to_wire(),
            address(stranger, "203.0.113.66").to_wire(),
            query.to_wire(),
            lie.to_wire()[:-3],
            good,
        ]

    async with foreign(script) as upstream, plait(upstream.server) as p:
        assert texts(await p.udp("example.org")) == ["192.0.2.7"]
        assert p.stats.upstream_invalid == 5


async def test_a_cut_answer_is_fetched_over_tcp() -> None:
    def script(query: Message, tcp: bool) -> list[bytes]:
        reply = address(query)
        if not tcp:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
        return [reply.to_wire()]

    async with foreign(script) as upstream, plait(upstream.server) as p:
        assert texts(await p.udp("example.org")) == ["192.0.2.7"]
        assert len(upstream.asked) == 2


async def test_an_upstream_without_edns_is_asked_plainly() -> None:
    def script(query: Message, tcp: bool) -> list[bytes]:
        reply = address(query)
        if query.edns >= 0:
            reply = dns.message.make_response(query)
            reply.set_rcode(dns.rcode.FORMERR)
            reply.use_edns(False)
        return [reply.to_wire()]

    async with foreign(script) as upstream, plait(upstream.server) as p:
        assert texts(await p.udp("example.org")) == ["192.0.2.7"]
        assert [query.edns for query in upstream.asked] == [0, -1]


def refusing(query: Message, tcp: bool) -> list[bytes]:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.REFUSED)
    return [reply.to_wire()]


async def test_the_next_server_is_asked_when_one_is_dead_or_refuses() -> None:
    async with AsyncExitStack() as stack:
        no = await stack.enter_async_context(foreign(refusing))
        yes = await stack.enter_async_context(foreign())
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind(("127.0.0.1", 0))
            dead: Server = sock.getsockname()
        p = await stack.enter_async_context(plait(dead, no.server, yes.server))
        assert texts(await p.udp("example.org")) == ["192.0.2.7"]
        assert (len(no.asked), len(yes.asked)) == (1, 1)


async def test_an_upstreams_own_refusal_is_passed_on_and_not_kept() -> None:
    async with foreign(refusing) as no, plait(no.server) as p:
        for _ in range(2):
            assert (await p.udp("example.org")).rcode() == dns.rcode.REFUSED
        assert len(no.asked) == 2


@pytest.mark.parametrize("script", [lambda query, tcp: [], lambda query, tcp: [b"x"] * 100])
async def test_servfail_when_nobody_answers_in_time(script: Script) -> None:
    patience = Patience(first=0.05, total=0.2)
    async with foreign(script) as mute, plait(mute.server, patience=patience) as p:
        assert (await p.udp("example.org")).rcode() == dns.rcode.SERVFAIL
        assert p.stats.upstream_failures == 1
        # Its own names never wait for anybody.
        assert texts(await p.udp("web")) == ["10.0.0.1"]
    async with plait() as p:
        assert (await p.udp("example.org")).rcode() == dns.rcode.SERVFAIL


async def test_one_question_asked_often_is_sent_once_and_a_flood_is_bounded() -> None:
    async with foreign(lambda query, tcp: []) as mute, plait(mute.server) as p:
        loop = asyncio.get_running_loop()
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.setblocking(False)
            sock.connect(p.server.addresses[0])
            for _ in range(5):
                await loop.sock_sendall(sock, dns.message.make_query("same.example", "A").to_wire())
            for i in range(MAX_WAITING_PER_CLIENT + 10):
                query = dns.message.make_query(f"n{i}.example", "A")
                await loop.sock_sendall(sock, query.to_wire())
            for _ in range(15):
                async with asyncio.timeout(DEADLINE):
                    reply = dns.message.from_wire(await loop.sock_recv(sock, 512))
                assert reply.rcode() == dns.rcode.SERVFAIL
            await mute.reached(MAX_WAITING_PER_CLIENT - 4)
        asked = [str(query.question[0].name) for query in mute.asked]
        assert asked.count("same.example.") == 1
        assert len(asked) == MAX_WAITING_PER_CLIENT - 4


async def test_an_idle_connection_blocks_nobody_and_is_closed() -> None:
    async with plait(tcp_idle=0.5) as p:
        idle, writer = await p.connect()
        writer.write(b"\0")
        assert texts(await p.tcp("web")) == ["10.0.0.1"]
        assert texts(await p.udp("web")) == ["10.0.0.1"]
        async with asyncio.timeout(DEADLINE):
            assert await idle.read() == b""
        writer.close()


async def test_pipelined_questions_do_not_wait_for_a_slow_one() -> None:
    async with foreign(lambda query, tcp: []) as mute, plait(mute.server) as p:
        reader, writer = await p.connect()
        writer.write(framed("slow.example", 1) + framed("web", 2) + framed("web.default", 3))
        replies = [await read_message(reader) for _ in range(2)]
        assert [reply.id for reply in replies] == [2, 3]
        writer.close()


async def test_a_half_closed_connection_still_gets_its_answers() -> None:
    async with foreign() as upstream, plait(upstream.server) as p:
        reader, writer = await p.connect()
        writer.write(framed("example.org", 1) + framed("web", 2))
        writer.write_eof()
        replies = [await read_message(reader) for _ in range(2)]
        assert sorted(reply.id for reply in replies) == [1, 2]
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("data", [b"\0\0", b"\0\4junk", b"\0\14" + b"\xff" * 12])
async def test_junk_ends_its_own_connection_only(data: bytes) -> None:
    async with plait() as p:
        reader, writer = await p.connect()
        writer.write(data)
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b""
        writer.close()
        assert texts(await p.tcp("web")) == ["10.0.0.1"]


async def test_one_client_cannot_take_all_connections() -> None:
    async with plait() as p, AsyncExitStack() as stack:
        kept = []
        for _ in range(40):
            reader, writer = await p.connect()
            stack.callback(writer.close)
            writer.write(framed("web", 1))
            try:
                await read_message(reader)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                continue
            kept.append(writer)
        assert len(kept) == 32
        assert (p.stats.connections, p.stats.refused_connections) == (32, 8)


async def test_malformed_datagrams_get_an_error_or_silence() -> None:
    async with plait() as p:
        loop = asyncio.get_running_loop()
        good = dns.message.make_query("web", "A").to_wire()
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.setblocking(False)
            sock.connect(p.server.addresses[0])
            for data in (b"", b"x", good[:2] + b"\x80" + good[3:], good + b"!", good):
                await loop.sock_sendall(sock, data)
            rcodes = []
            for _ in range(2):
                async with asyncio.timeout(DEADLINE):
                    rcodes.append((await loop.sock_recv(sock, 512))[3] & 15)
        assert rcodes == [wire.FORMERR, wire.NOERROR]
        assert p.stats.dropped == 3


async def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    async with plait() as p:
        with pytest.raises(PlaitError) as error:
            async with plait(binds=(("127.0.0.1", 0), p.server.addresses[0])):
                pass
        assert error.value.code == "PLAIT-DNS-001"
        assert str(p.port) in error.value.fix[0]


async def test_a_port_that_udp_chose_and_tcp_cannot_have_is_chosen_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[Server] = []

    def listener(frontend: Frontend, bind: Server, **options: Any) -> TcpListener:
        tried.append(bind)
        if len(tried) < 3:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return TcpListener(frontend, bind, **options)

    monkeypatch.setattr("plait.dns.server.TcpListener", listener)
    async with plait() as p:
        assert p.server.addresses == (tried[2],)
        for given_up in tried[:2]:
            if given_up != tried[2]:
                with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
                    sock.bind(given_up)


async def test_stopped_means_gone_and_it_starts_again() -> None:
    server = DnsServer(zone(), binds=(("127.0.0.1", 0),), transparent=False)
    for _ in range(2):
        await server.start()
        where = server.addresses[0]
        assert texts(await Plait(server).udp("web")) == ["10.0.0.1"]
        await server.stop()
        await server.stop()
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.bind(where)
        with pytest.raises(OSError):
            await asyncio.open_connection(*where)


@pytest.mark.parametrize(
    "case",
    [
        test_our_names_over_udp_and_tcp_and_with_edns,
        test_ipv6_clients,
        test_other_names_are_forwarded_and_kept_while_they_live,
        test_only_the_true_answer_is_believed,
        test_a_cut_answer_is_fetched_over_tcp,
        test_the_next_server_is_asked_when_one_is_dead_or_refuses,
        test_an_idle_connection_blocks_nobody_and_is_closed,
        test_pipelined_questions_do_not_wait_for_a_slow_one,
        test_a_half_closed_connection_still_gets_its_answers,
        test_one_client_cannot_take_all_connections,
        test_stopped_means_gone_and_it_starts_again,
    ],
)
def test_the_same_on_uvloop(case: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(case())
