"""What a sender gets who calls a Service, shown by packets."""

from __future__ import annotations

import select
import socket
import threading
from collections import Counter
from typing import Any

import msgspec
import pytest
from tests.lab import packets
from tests.lab.filter.conftest import until
from tests.lab.services.conftest import ANY, FREE, OWN, REMOTE, VIP, entry, to

from plait.kernel import netns
from plait.model import marks
from plait.model.hoststate import PortMap
from plait.model.service_table import Frontend

pytestmark = pytest.mark.root

A1 = ("10.1.0.1", "fd01::1")
A2 = ("10.1.0.2", "fd01::2")
B1 = ("10.2.0.1", "fd02::1")
I1 = ("10.3.0.1", "fd03::1")
FAR = ("198.51.100.2", "fd08::2")
FAR_OWN = ("198.51.100.1", "fd08::1")
"""The host, as `far` knows it."""
GATEWAY = (marks.GATEWAY4, marks.RESOLVER6)
_RCVBUFFORCE = 33
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
_RECEIVE_QUEUE, _SEND_QUEUE = 1, 2
"""linux/tcp.h."""
both = pytest.mark.parametrize("v", [0, 1], ids=["v4", "v6"])
kinds = pytest.mark.parametrize("kind", ["tcp", "udp"])


@both
@kinds
def test_an_endpoint_reaches_every_backend_and_keeps_its_address(
    stage: Any, v: int, kind: str
) -> None:
    stage.go({Frontend(VIP[v], kind, 80): entry(to((A1[v], 8080), (A2[v], 8081)))})
    with stage.servers(kind, ("a1", A1[v], 8080), ("a2", A2[v], 8081)) as servers:
        got = Counter(stage.ask("a1", (VIP[v], 80), servers)[0] for _ in range(24))
        assert got.keys() == {A1[v], A2[v]}
        assert {stage.ask("a2", (VIP[v], 80), servers)[1] for _ in range(24)} == {
            A2[v],
            # Its own backend answers to the host, or it would answer itself directly.
            GATEWAY[v],
        }


@both
def test_backends_that_are_no_power_of_two_get_equal_shares(stage: Any, v: int) -> None:
    ports = range(8001, 8006)
    called = (VIP[v], 80)
    stage.go({Frontend(VIP[v], "udp", 80): entry(to(*[(A1[v], port) for port in ports]))})
    count = 1500
    with stage.servers("udp", *[("a1", A1[v], port) for port in ports]) as servers:
        got: Counter[int] = Counter()
        for _ in range(count):
            with stage.socket("a2", A2[v]) as client:
                client.sendto(b"q", called)
                (server,) = select.select(list(servers), [], [], 5)[0]
                server.recv(1)
                got[server.getsockname()[1]] += 1
    # Six standard deviations of a binomial distribution.
    share, spread = count / 5, 6 * (count * 0.2 * 0.8) ** 0.5
    assert all(abs(got[port] - share) < spread for port in ports), got


@both
def test_other_ports_and_other_addresses_of_services_are_refused_at_once(
    stage: Any, v: int
) -> None:
    stage.go({Frontend(VIP[v], "tcp", 80): entry(to((A1[v], 8080)))})
    for name in ("a1", "host", "far"):
        stage.ip("far", f"route replace {VIP[0]} via {FAR_OWN[0]}")
        stage.refused(name, (VIP[v], 81))
        stage.refused(name, (VIP[v], 80), "udp")
        stage.refused(name, (FREE[v], 80))


@both
@kinds
def test_no_backend_refuses_at_once_or_drops_as_it_is_told(stage: Any, v: int, kind: str) -> None:
    stage.go({Frontend(VIP[v], kind, 80): entry(to()), Frontend(ANY[v], kind, 30080): entry(to())})
    stage.refused("a1", (VIP[v], 80), kind)
    stage.refused("host", (VIP[v], 80), kind)
    stage.refused("far", (FAR_OWN[v], 30080), kind)
    stage.refused("a1", (OWN[v], 30080), kind)
    stage.go({Frontend(VIP[v], "udp", 80): entry(to(unavailable="drop"))})
    stage.expect_drop("unavailable", lambda: stage.send("a1", (VIP[v], 80)))
    stage.expect_drop("unavailable", lambda: stage.send("host", (VIP[v], 80)))


@both
@kinds
def test_the_host_itself(stage: Any, v: int, kind: str) -> None:
    stage.go(
        {
            Frontend(VIP[v], kind, 80): entry(to((A1[v], 8080))),
            Frontend(VIP[v], kind, 81): entry(to((REMOTE[v], 8080))),
            Frontend(ANY[v], kind, 30080): entry(to((A1[v], 8080))),
        }
    )
    with stage.servers(kind, ("a1", A1[v], 8080)) as servers:
        stage.ask("host", (VIP[v], 80), servers)
        stage.ask("host", (OWN[v], 30080), servers)
    # Half of the backends would be out of its reach, so none is led to.
    stage.refused("host", (("127.0.0.1", "::1")[v], 30080), kind)
    with stage.servers(kind, ("out", REMOTE[v], 8080)) as servers:
        assert stage.ask("host", (VIP[v], 81), servers) == (REMOTE[v], OWN[v])
        # Whatever address it had, the answer must find this host.
        answer = stage.ask("host", (VIP[v], 81), servers, src=FAR_OWN[v])
        assert answer == (REMOTE[v], OWN[v])


@both
@kinds
def test_a_node_port_keeps_the_sender_here_and_is_the_host_elsewhere(
    stage: Any, v: int, kind: str
) -> None:
    stage.go(
        {
            Frontend(ANY[v], kind, 30080): entry(to((A1[v], 8080))),
            Frontend(ANY[v], kind, 30081): entry(to((REMOTE[v], 8080))),
        }
    )
    with stage.servers(kind, ("a1", A1[v], 8080)) as servers:
        assert stage.ask("far", (FAR_OWN[v], 30080), servers) == (A1[v], FAR[v])
        assert stage.ask("a2", (OWN[v], 30080), servers) == (A1[v], A2[v])
    with stage.servers(kind, ("out", REMOTE[v], 8080)) as servers:
        assert stage.ask("far", (FAR_OWN[v], 30081), servers) == (REMOTE[v], OWN[v])
        assert stage.ask("a1", (OWN[v], 30081), servers) == (REMOTE[v], A1[v])


@both
@kinds
def test_local_traffic_only(stage: Any, v: int, kind: str) -> None:
    """Inside, all backends; outside those of this host, with the sender's address, or nothing."""
    inside, here = to((REMOTE[v], 8080)), to((A1[v], 8080))
    nothing = to(unavailable="drop")
    stage.go(
        {
            Frontend(ANY[v], kind, 30080): entry(inside, here),
            Frontend(ANY[v], kind, 30081): entry(inside, nothing),
        }
    )
    with stage.servers(kind, ("a1", A1[v], 8080), ("out", REMOTE[v], 8080)) as servers:
        assert stage.ask("far", (FAR_OWN[v], 30080), servers) == (A1[v], FAR[v])
        assert stage.ask("a2", (OWN[v], 30080), servers) == (REMOTE[v], A2[v])
        assert stage.ask("a2", (OWN[v], 30081), servers) == (REMOTE[v], A2[v])
        assert stage.ask("host", (OWN[v], 30081), servers)[0] == REMOTE[v]
    if kind == "udp":
        stage.expect_drop("unavailable", lambda: stage.send("far", (FAR_OWN[v], 30081)))


@both
def test_a_backend_outside_of_our_networks(stage: Any, v: int) -> None:
    stage.go(
        {
            Frontend(VIP[v], "tcp", 80): entry(to((FAR[v], 8080))),
            Frontend(ANY[v], "tcp", 30080): entry(to((FAR[v], 8080))),
        }
    )
    with stage.servers("tcp", ("far", FAR[v], 8080)) as servers:
        assert stage.ask("a1", (VIP[v], 80), servers) == (FAR[v], FAR_OWN[v])
        assert stage.ask("out", (OWN[v], 30080), servers) == (FAR[v], FAR_OWN[v])


@both
def test_a_backend_that_is_the_host_itself(stage: Any, v: int) -> None:
    stage.go({Frontend(ANY[v], "tcp", 30080): entry(to((OWN[v], 8080), affinity=60))})
    with stage.servers("tcp", ("host", OWN[v], 8080)) as servers:
        assert stage.ask("far", (FAR_OWN[v], 30080), servers) == (OWN[v], FAR[v])
    # Remembered in the input hook: it never meets the one behind routing.
    assert len(stage.nft.elements(f"nodeaffinity{(4, 6)[v]}")) == 1


@both
def test_networks_decide_of_the_backend(stage: Any, v: int) -> None:
    """A Service opens no way from one network to another; from outside only its node ports do."""
    stage.go(
        {
            Frontend(VIP[v], "udp", 80): entry(to((B1[v], 8080))),
            Frontend(ANY[v], "udp", 30080): entry(to((B1[v], 8080))),
            Frontend(ANY[v], "udp", 30081): entry(to((I1[v], 8080))),
        }
    )
    stage.expect_drop("another network", lambda: stage.send("a1", (VIP[v], 80)))
    stage.expect_drop("another network", lambda: stage.send("a1", (OWN[v], 30080)))
    with stage.servers("udp", ("b1", B1[v], 8080)) as servers:
        assert stage.ask("far", (FAR_OWN[v], 30080), servers) == (B1[v], FAR[v])
    stage.expect_drop("not from own network", lambda: stage.send("far", (FAR_OWN[v], 30081)))


@both
def test_only_some_may_call(stage: Any, v: int) -> None:
    mine = (f"{FAR[0]}-{FAR[0]}", f"{FAR[1]}-{FAR[1]}")[v]
    choice = to((A1[v], 8080), (A2[v], 8080))
    stage.go(
        {
            Frontend(OWN[v], "udp", 80): entry(choice, sources=(mine,)),
            Frontend(OWN[v], "udp", 81): entry(choice),
        }
    )
    with stage.servers("udp", ("a1", A1[v], 8080), ("a2", A2[v], 8080)) as servers:
        for name, port in (("far", 80), ("host", 80), ("out", 81), ("a1", 81)):
            stage.ask(name, (OWN[v], port), servers)
        for name in ("out", "a1"):
            stage.expect_drop("may not call", lambda name=name: stage.send(name, (OWN[v], 80)))


@both
@kinds
def test_a_client_stays_until_it_was_silent_for_so_long(stage: Any, v: int, kind: str) -> None:
    backends = [(A1[v], 8001), (A1[v], 8002), (A1[v], 8003), (A1[v], 8004)]
    called = (VIP[v], 80)
    stage.go({Frontend(VIP[v], kind, 80): entry(to(*backends, affinity=3600))})
    held = f"affinity{(4, 6)[v]}"
    sockets = [("a1", *backend) for backend in backends]
    with stage.servers(kind, *sockets) as servers:
        ports = {sock: str(sock.getsockname()[1]) for sock in servers}
        first = stage.ask("a2", called, ports)[0]
        assert {stage.ask("a2", called, ports)[0] for _ in range(12)} == {first}
        # Somebody else may get another one.
        others = {stage.ask("host", called, ports, src=FAR_OWN[v])[0] for _ in range(6)}
        assert len(others) == 1
        (left, _) = sorted(stage.nft.live(held).values())
        assert left > 3_500_000
        # Its backend goes: it gets another one, and stays with that.
        stay = [backend for backend in backends if str(backend[1]) != first]
        stage.go({Frontend(VIP[v], kind, 80): entry(to(*stay, affinity=3600))})
        second = stage.ask("a2", called, ports)[0]
        assert second != first
        assert {stage.ask("a2", called, ports)[0] for _ in range(24)} == {second}
        # A new flow begins the time anew, and after it nothing is remembered.
        stage.go({Frontend(VIP[v], kind, 80): entry(to(*stay, affinity=1))})

        def renewed() -> bool:
            stage.ask("a2", called, ports)
            return bool(min(stage.nft.live(held).values()) <= 1000)

        until(renewed, "its time did not begin anew")
        until(lambda: len(stage.nft.live(held)) <= 1, "it is remembered for ever")


@both
def test_a_restarted_agent_keeps_clients_where_they_are(stage: Any, v: int) -> None:
    frontends = {Frontend(VIP[v], "udp", 80): entry(to((A1[v], 1), (A1[v], 2), affinity=600))}
    stage.go(frontends)
    with stage.servers("udp", ("a1", A1[v], 1), ("a1", A1[v], 2)) as servers:
        ports = {sock: str(sock.getsockname()[1]) for sock in servers}
        first = stage.ask("a2", (VIP[v], 80), ports)[0]
        stage.table.observe(force=True)
        stage.go(frontends)
        assert {stage.ask("a2", (VIP[v], 80), ports)[0] for _ in range(24)} == {first}


@both
def test_a_client_that_goes_on_sending_leaves_a_backend_that_went(stage: Any, v: int) -> None:
    called, kind = (VIP[v], 80), "udp"
    with stage.socket("a2", A2[v]) as client:
        # Before there is a Service it is refused; then it finds one from the same port.
        client.sendto(b"q", called)
        stage.go({Frontend(VIP[v], kind, 80): entry(to((A1[v], 1)))})
        with stage.servers(kind, ("a1", A1[v], 1), ("a1", A1[v], 2)) as servers:
            ports = {sock: str(sock.getsockname()[1]) for sock in servers}
            assert stage.ask("a2", called, ports, client=client)[0] == "1"
            stage.go({Frontend(VIP[v], kind, 80): entry(to((A1[v], 2)))})
            assert stage.ask("a2", called, ports, client=client)[0] == "2"
            stage.go({Frontend(VIP[v], kind, 80): entry(to())})
            stage.refused("a2", called, client=client)


@both
def test_tcp_flows_of_a_backend_that_went_go_on(stage: Any, v: int) -> None:
    called = (VIP[v], 80)
    stage.go({Frontend(VIP[v], "tcp", 80): entry(to((A1[v], 1)))})
    with (
        stage.socket("a1", A1[v], 1, "tcp") as server,
        stage.socket("a2", A2[v], kind="tcp") as client,
    ):
        client.connect(called)
        peer, _ = server.accept()
        with peer:
            stage.go({Frontend(VIP[v], "tcp", 80): entry(to((A1[v], 2)))})
            client.sendall(b"q")
            peer.settimeout(5)
            assert peer.recv(1) == b"q"


@both
def test_what_conntrack_cannot_place_does_not_end_a_flow(stage: Any, v: int) -> None:
    """It would come with the backend's own address, and the client would answer it with a reset."""
    stage.go({Frontend(VIP[v], "tcp", 80): entry(to((A1[v], 8080)))})
    with (
        stage.socket("a1", A1[v], 8080, "tcp") as server,
        stage.socket("a2", A2[v], kind="tcp") as client,
    ):
        client.connect((VIP[v], 80))
        peer, _ = server.accept()
        with peer:
            ours, theirs = peer.getsockname()[1], peer.getpeername()[1]
            family = (socket.AF_INET, socket.AF_INET6)[v]
            peer.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
            numbers = []
            for queue in (_SEND_QUEUE, _RECEIVE_QUEUE):
                peer.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
                numbers.append(peer.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) & 0xFFFFFFFF)
            peer.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, -1)
            # Repairing takes that away, and the next test wants the port.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ahead = (numbers[0] + (1 << 30)) & 0xFFFFFFFF
            late = packets.tcp(A1[v], A2[v], ours, theirs, seq=ahead, ack=numbers[1])
            with netns.ns_socket(
                stage.ns["a1"], family, socket.SOCK_RAW, socket.IPPROTO_TCP
            ) as raw:
                stage.expect_drop("invalid", lambda: raw.sendto(late, (A2[v], 0)))
            client.sendall(b"q")
            peer.settimeout(5)
            assert peer.recv(1) == b"q"


@both
def test_another_host_reaches_an_endpoint_and_gets_its_answer(stage: Any, v: int) -> None:
    """As which senders from outside appear that called a Service there."""
    out = ("192.0.2.2", "fd09::2")
    with stage.servers("tcp", ("a1", A1[v], 80)) as servers:
        assert stage.ask("out", (A1[v], 80), servers) == (A1[v], out[v])
    stage.expect_drop("not from own network", lambda: stage.send("out", (I1[v], 80)))


@both
def test_nobody_reaches_an_endpoint_elsewhere_through_this_host(stage: Any, v: int) -> None:
    stage.expect_drop("to an endpoint elsewhere", lambda: stage.send("far", (REMOTE[v], 7)))


@both
def test_a_published_port_comes_before_a_node_port(stage: Any, v: int) -> None:
    port = PortMap(
        family=(4, 6)[v], protocol="udp", host_ip="", host_port=30080, address=A1[v], port=1
    )
    before = stage.filter
    stage.filter = msgspec.structs.replace(before, ports=frozenset({port}))
    try:
        stage.go({Frontend(ANY[v], "udp", 30080): entry(to((A1[v], 2)))})
        with stage.servers("udp", ("a1", A1[v], 1), ("a1", A1[v], 2)) as servers:
            ports = {sock: str(sock.getsockname()[1]) for sock in servers}
            assert stage.ask("far", (FAR_OWN[v], 30080), ports)[0] == "1"
    finally:
        stage.filter = before
        stage.go({})


@both
def test_a_question_to_a_service_of_names_is_the_resolvers(stage: Any, v: int) -> None:
    """DNS packets of endpoints go to the resolver whatever server they ask; the resolver's own
    question goes to the Service."""
    stage.go({Frontend(VIP[v], "udp", 53): entry(to((A1[v], 53)))})
    family = (socket.AF_INET, socket.AF_INET6)[v]
    with netns.ns_socket(stage.ns["host"], family, socket.SOCK_DGRAM) as proxy:
        proxy.settimeout(5)
        level, option = ((socket.SOL_IP, 19), (socket.IPPROTO_IPV6, 75))[v]
        proxy.setsockopt(level, option, 1)
        with netns.inside(stage.ns["host"]):
            proxy.bind((GATEWAY[v], 53))
        stage.send("a2", (VIP[v], 53), data=b"question")
        assert proxy.recv(64) == b"question"
        with stage.servers("udp", ("a1", A1[v], 53)) as servers:
            stage.ask("host", (VIP[v], 53), servers)


@both
def test_a_flow_meets_the_backends_before_a_change_or_after_it(stage: Any, v: int) -> None:
    ports = range(8001, 8007)
    called = Frontend(VIP[v], "udp", 80)
    states = [entry(to(*[(A1[v], port) for port in ports[:count]])) for count in (1, 5, 2, 6, 3)]
    stage.go({called: states[0]})
    stop, sent = threading.Event(), 0

    def call() -> None:
        nonlocal sent
        while not stop.is_set() and sent < 2000:
            # Each from a port of its own: a flow of its own.
            stage.send("a2", (VIP[v], 80))
            sent += 1

    with stage.servers("udp", *[("a1", A1[v], port) for port in ports]) as servers:
        for server in servers:
            server.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 8 << 20)
        caller = threading.Thread(target=call)
        caller.start()
        for number in range(60):
            stage.go({called: states[number % len(states)]})
        stop.set()
        caller.join()
        got = 0
        while ready := select.select(list(servers), [], [], 0.2)[0]:
            for server in ready:
                server.recv(8)
                got += 1
    assert got == sent


@both
def test_ten_thousand_services_are_there_and_one_more_is_found(stage: Any, v: int) -> None:
    base = ("10.96.{}.{}", "fd96::{:x}:{:x}")[v]
    frontends = {
        Frontend(base.format(16 + n // 250 % 200, n % 250), "tcp", 80): entry(
            to((A1[v], 8000), (A2[v], 8000))
        )
        for n in range(10_000)
    }
    called = Frontend(VIP[v], "tcp", 80)
    stage.go({**frontends, called: entry(to((A1[v], 8080)))})
    with stage.servers("tcp", ("a1", A1[v], 8080)) as servers:
        stage.ask("a2", (VIP[v], 80), servers)
    some = next(iter(frontends))
    with stage.servers("tcp", ("a1", A1[v], 8000), ("a2", A2[v], 8000)) as servers:
        assert {stage.ask("host", (some.address, 80), servers)[0] for _ in range(16)} == {
            A1[v],
            A2[v],
        }
