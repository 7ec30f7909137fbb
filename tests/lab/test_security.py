"""What an endpoint, or a stranger on the underlay, may try; and what dies with a host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.lab import packets
from tests.lab.census import inside, ready, server, server_objects, verbs
from tests.lab.conftest import eventually, made, remove_network, unique

from plait.client.agent import AttachRequest, EndpointIdentity
from plait.client.agent_socket import run as at_once
from plait.lab import bringup, hosts, workloads
from plait.lab.lab import Lab
from plait.lab.matrix import Port, measure
from plait.lab.state import WorkloadState
from plait.lab.workloads import PLAIT, Order, Result, probe
from plait.model.marks import GATEWAY4, RESOLVER6, VXLAN_VNI, endpoint_mac, vtep_mac
from plait.model.objects import Node, Workload

pytestmark = pytest.mark.root

PROGRAM = str(Path(packets.__file__))
EAR = 9999
LISTEN = ("80/tcp", "81/udp")


class Process:
    """`packets.py` in a network namespace of a host; inner pid 0 is the host's own."""

    def __init__(self, lab: Lab, host: str, pid: int, words: tuple[str, ...]) -> None:
        enter = ["nsenter", "-t", str(pid), "-n", "--"] if pid else []
        self.process = hosts.popen(
            lab.host(host),
            [*enter, sys.executable, "-I", PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def process(lab: Lab, host: str, pid: int, *words: str) -> Iterator[Process]:
    made = Process(lab, host, pid, words)
    try:
        yield made
    finally:
        made.process.communicate()


def of(load: WorkloadState, family: int) -> str:
    return next(a for a in load.addresses if (":" in a) == (family == 6))


def send(lab: Lab, load: WorkloadState, *frames: bytes, link: str = "eth0") -> None:
    """Out of an endpoint's namespace, as they are."""
    words = ("send", link, "0", *(frame.hex() for frame in frames))
    with process(lab, load.host, load.inner_pid, *words) as sender:
        assert sender.line() == "sent"


def ask(lab: Lab, source: WorkloadState, target: str) -> Result:
    """What comes of a connection that is let pass: at once, but on a busy machine."""
    return probe(lab, source, [Order(ip=target, port=80, proto="tcp", timeout=5)])[0]


def send_from_host(lab: Lab, host: str, *frames: bytes) -> None:
    with process(lab, host, 0, "send", "eth0", "0", *(frame.hex() for frame in frames)) as sender:
        assert sender.line() == "sent"


@pytest.fixture(scope="module")
def loads(plait_lab: Lab) -> Iterator[dict[str, WorkloadState]]:
    """`evil` and `good` on h1, `victim` on h1 and `far` on h2, of one network."""
    made = {}
    with ExitStack() as stack:
        for role, host in (("evil", "h1"), ("good", "h1"), ("victim", "h1"), ("far", "h2")):
            load = workloads.run(plait_lab, host, unique(role), listen=LISTEN)
            stack.callback(workloads.remove, plait_lab, load)
            made[role] = load
        yield made


@pytest.fixture
def heard(
    plait_lab: Lab, loads: dict[str, WorkloadState]
) -> Iterator[Callable[[str, int], list[str]]]:
    """What a role has heard until a good datagram of a family came, which is sent last."""
    with ExitStack() as stack:
        ears = {
            role: stack.enter_context(
                process(plait_lab, loads[role].host, loads[role].inner_pid, "hear", str(EAR))
            )
            for role in ("victim", "far")
        }

        def until_good(role: str, family: int) -> list[str]:
            good, target = of(loads["good"], family), of(loads[role], family)
            last = packets.udp(good, target, EAR, "the end")
            send(plait_lab, loads["good"], packets.ether(packets.kind_of(good), last))
            lines = []
            while (line := ears[role].line()) != "the end":
                lines.append(line)
            return lines

        yield until_good


@pytest.mark.parametrize("role", ["victim", "far"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_forged_source_address_goes_nowhere(
    plait_lab: Lab,
    loads: dict[str, WorkloadState],
    heard: Callable[[str, int], list[str]],
    role: str,
    family: int,
) -> None:
    target = of(loads[role], family)
    strangers = ("198.51.100.7", "10.0.0.1", "127.0.0.1", GATEWAY4)
    if family == 6:
        strangers = ("2001:db8::7", "fd00::1", "::1", "fe80::1")
    kind = packets.kind_of(target)
    for source in (of(loads["good"], family), *strangers):
        send(
            plait_lab,
            loads["evil"],
            packets.ether(kind, packets.udp(source, target, EAR, f"evil {source}")),
        )
    own = packets.udp(of(loads["evil"], family), target, EAR, "own")
    send(plait_lab, loads["evil"], packets.ether(kind, own))
    assert heard(role, family) == ["own"]


@pytest.mark.parametrize("family", [4, 6])
def test_vxlan_comes_from_nodes_only(
    plait_lab: Lab,
    loads: dict[str, WorkloadState],
    heard: Callable[[str, int], list[str]],
    family: int,
) -> None:
    """The same packet is heard from a node, and from nobody else."""
    nodes = {node.metadata.name: node for node in server_objects(plait_lab, Node)}
    underlay = {name: host.interface.address4.partition("/")[0]
                for name, host in plait_lab.plan.hosts.items()}  # fmt: skip
    source, target = of(loads["good"], family), of(loads["far"], family)

    def forged(sender: str, by: str, to_mac: str) -> bytes:
        inner = packets.ether(
            packets.kind_of(target),
            packets.udp(source, target, EAR, f"from {sender}"),
            to=vtep_mac(nodes["h2"].metadata.uid),
            by=vtep_mac(nodes["h1"].metadata.uid),
        )
        outer = packets.vxlan((by, underlay["h2"]), VXLAN_VNI, inner)
        return packets.ether(packets.IPV4, outer, to=to_mac)

    def router_of(host: str) -> str:
        words = ["sh", "-c", "ip neigh show $(ip route show default | cut -d' ' -f3)"]
        return plait_lab.run(host, words).stdout.split()[4]

    for sender, by in (("outside", "outside"), ("outside", "h1"), ("h1", "h1")):
        plait_lab.run(sender, ["ping", "-c1", "-W2", underlay["h2"]])
        send_from_host(plait_lab, sender, forged(f"{sender} as {by}", underlay[by],
                                                 router_of(sender)))  # fmt: skip
    evil = loads["evil"]
    own = of(evil, 4)
    send(plait_lab, evil, forged("endpoint", own, packets.HOST_MAC))
    send(plait_lab, evil, forged("endpoint as node", underlay["h1"], packets.HOST_MAC))
    # A stranger who can forge a node's address on a routed underlay is the underlay's business
    # (encrypt where it is not trusted): what is shown is that an address that is no node's fails.
    found = heard("far", family)
    assert "from h1 as h1" in found
    assert not [line for line in found if line not in ("from h1 as h1", "from outside as h1")]


def test_an_endpoint_is_no_router_and_nobodys_neighbour(
    plait_lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    evil, victim, good = loads["evil"], loads["victim"], loads["good"]
    mac = endpoint_mac(evil.endpoint)
    link_local = plait_lab.run(
        "h1", ["nsenter", "-t", str(evil.inner_pid), "-n", "ip", "-6", "-br", "addr", "show",
               "dev", "eth0", "scope", "link"]
    ).stdout.split()[2].partition("/")[0]  # fmt: skip

    def routes(pid: int = 0) -> str:
        enter = ["nsenter", "-t", str(pid), "-n"] if pid else []
        script = "ip route; ip -6 route | sed 's/ expires .*//'; ip -6 addr | grep -c bad || true"
        return plait_lab.run("h1", [*enter, "sh", "-c", script]).stdout

    before = routes(), routes(victim.inner_pid)
    own4, own6 = of(evil, 4), of(evil, 6)
    send(
        plait_lab,
        evil,
        packets.ether(
            packets.IPV6, packets.router_advertisement(link_local), to="33:33:00:00:00:01", by=mac
        ),
        packets.ether(packets.IPV6, packets.router_advertisement("fe80::1"), by=mac),
        packets.ether(
            packets.IPV6, packets.router_advertisement(own6, of(victim, 6)), by=mac
        ),
        packets.ether(
            packets.IPV4, packets.redirect(own4, of(victim, 4), of(good, 4), own4), by=mac
        ),
        packets.ether(
            packets.IPV6, packets.redirect(own6, of(victim, 6), of(good, 6), own6), by=mac
        ),
        packets.ether(packets.ARP, packets.arp_claim(of(victim, 4)), to="ff:ff:ff:ff:ff:ff"),
        packets.ether(packets.ARP, packets.arp_claim(GATEWAY4), to="ff:ff:ff:ff:ff:ff"),
    )  # fmt: skip
    for address in victim.addresses:
        assert ask(plait_lab, good, address).peer == victim.name
    assert (routes(), routes(victim.inner_pid)) == before


def test_no_frame_of_an_endpoint_is_seen_by_another(
    plait_lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    """A container with NET_RAW writes any frame it likes: whatever its addresses of layer 2, ARP
    and router advertisements, others see frames of their own hosts alone, and of what it sent
    only what it may send."""
    evil, victim, far, good = (loads[role] for role in ("evil", "victim", "far", "good"))
    macs = [endpoint_mac(each.endpoint) for each in (victim, far, good)]
    everyone = ("ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "01:00:5e:00:00:01")
    frames = []
    for family in (4, 6):
        for target in (of(victim, family), of(far, family)):
            datagram = packets.udp(of(evil, family), target, EAR, "not to the host")
            kind = packets.kind_of(target)
            # Past the host, as somebody else and as the host.
            frames += [packets.ether(kind, datagram, to=mac) for mac in (*macs, *everyone)]
            stolen = packets.udp(of(good, family), target, EAR, "as the good one")
            frames += [packets.ether(kind, stolen, by=mac) for mac in (*macs, packets.HOST_MAC)]
    for address in (of(victim, 4), of(good, 4), GATEWAY4):
        for to in (*macs, *everyone, packets.HOST_MAC):
            frames.append(packets.ether(packets.ARP, packets.arp_claim(address), to=to))
    for source in ("fe80::1", of(evil, 6), of(good, 6)):
        advert = packets.router_advertisement(source, of(victim, 6))
        everywhere = packets.router_advertisement(source)
        frames += [packets.ether(packets.IPV6, advert, to=mac) for mac in (*macs, *everyone)]
        frames += [packets.ether(packets.IPV6, each) for each in (advert, everywhere)]
    with ExitStack() as stack:
        eyes, ears = [], []
        for seer in (victim, far):
            pid = seer.inner_pid
            eyes.append(Process(plait_lab, seer.host, pid, ("see", "eth0")))
            ears.append(stack.enter_context(process(plait_lab, seer.host, pid, "hear", str(EAR))))
        send(plait_lab, evil, *frames)
        for seer, eye, ear in zip((victim, far), eyes, ears, strict=True):
            for family in (4, 6):
                last = packets.udp(of(good, family), of(seer, family), EAR, "the end")
                send(plait_lab, good, packets.ether(packets.kind_of(of(good, family)), last))
                assert ear.line() == "the end", "none of the datagrams"
            seen = set(eye.process.communicate()[0].splitlines())
            assert {line.split()[0] for line in seen} == {packets.HOST_MAC}
            kinds = {line.split(maxsplit=1)[1] for line in seen}
            # The host itself may ask for its neighbour (RFC 4861 4.3).
            assert kinds <= {"0800", "86dd", "0806", "86dd 135", "86dd 136"}


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_passes_before_the_identity_is_known(
    plait_lab: Lab, loads: dict[str, WorkloadState], family: int
) -> None:
    """A flood from the first instant of the interface; open from the moment of `identify` on."""
    agent = verbs(plait_lab, "h1")
    load = workloads.start(plait_lab, "h1", unique("early"), ())
    ident = unique("early")
    ears = [loads[role] for role in ("victim", "far")]
    mac = endpoint_mac(ident)
    try:
        with ExitStack() as stack:
            listeners = [
                stack.enter_context(process(plait_lab, ear.host, ear.inner_pid, "hear", str(EAR)))
                for ear in ears
            ]
            free = at_once(agent.reserve("plait", 4 if family == 4 else 6)).address
            kind = packets.kind_of(free)
            frames = [
                packets.ether(kind, packets.udp(free, of(ear, family), EAR, "early"), by=mac)
                for ear in ears
            ]
            flood = stack.enter_context(
                process(plait_lab, "h1", load.inner_pid, "send", "eth0", "0.002",
                        *(frame.hex() for frame in frames))
            )  # fmt: skip
            at_once(
                agent.attach(
                    AttachRequest(
                        id=ident,
                        network="plait",
                        addresses=(free,),
                        netns=f"/proc/{load.inner_pid}/ns/net",
                        identified=False,
                    )
                )
            )
            for _ in range(200):
                assert flood.line() == "sent"
            for listener, ear in zip(listeners, ears, strict=True):
                good = of(loads["good"], family)
                probe_frame = packets.udp(good, of(ear, family), EAR, "good")
                send(plait_lab, loads["good"], packets.ether(kind, probe_frame))
                assert listener.line() == "good", "nothing of the flood came before"
            at_once(
                agent.identify(
                    ident,
                    EndpointIdentity(
                        name="early",
                        aliases=(),
                        labels={},
                        namespace="default",
                        workload=Workload(runtime="process", id=str(load.inner_pid)),
                    ),
                )
            )
            for listener in listeners:
                assert listener.line() == "early"
    finally:
        at_once(agent.detach(ident))
        workloads.kill(load)


def test_of_its_host_an_endpoint_reaches_names_only(
    plait_lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    evil = loads["evil"]
    at = plait_lab.plan.hosts["h1"].interface
    targets = [at.address4.partition("/")[0], at.address6.partition("/")[0], GATEWAY4, RESOLVER6]
    with process(plait_lab, "h1", 0, "serve", "9090"):
        orders = [Order(ip=a, port=p, proto="tcp") for a in targets for p in (9090, 6440)]
        results = [result.result for result in probe(plait_lab, evil, orders)]
        # Shown to be there, from the host itself.
        said = plait_lab.run("h1", ["bash", "-c", f"cat < /dev/tcp/{targets[0]}/9090"])
    assert said.stdout == "host\n"
    assert "connected" not in results, dict(zip(orders, results, strict=True))
    for resolver in (GATEWAY4, RESOLVER6):
        (answer,) = probe(plait_lab, evil, [Order(ip=resolver, port=53, proto="tcp", timeout=0.3)])
        assert answer.result in ("connected", "timed out")
    name = f"{loads['far'].name}.default.plait.local"
    assert ask(plait_lab, evil, name).result == "connected"


SOCKETS = ("agent.sock", "server.sock", "server-control.sock", "supervisor.sock")


def test_sockets_are_for_root_only(plait_lab: Lab) -> None:
    run = inside(plait_lab, "h1", "/run/plait")
    names = {path.name for path in run.iterdir() if path.is_socket()}
    assert names == set(SOCKETS)
    for name in names:
        assert (run / name).stat().st_mode & 0o777 == 0o600, name
    ask = (
        "import socket,sys;s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);"
        "s.sendall(sys.argv[2].encode());print(s.recv(4000).decode())"
    )
    request = "GET {} HTTP/1.1\r\nHost: plait\r\nConnection: close\r\n\r\n"

    def as_somebody(name: str, words: str) -> subprocess.CompletedProcess[str]:
        argv = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/python3",
                "-c", ask, f"/run/plait/{name}", words]  # fmt: skip
        return plait_lab.run("h1", argv, check=False)

    for name in names:
        assert "PermissionError" in as_somebody(name, "").stderr, name
    for name, path in (("agent.sock", "/metrics"), ("server.sock", "/v1/nodes")):
        (run / name).chmod(0o666)
        try:
            # The mode is one lock; who connects is looked at as well.
            assert "403" in as_somebody(name, request.format(path)).stdout.partition("\n")[0], name
        finally:
            (run / name).chmod(0o600)


def test_nothing_of_ours_listens_on_an_abstract_socket(plait_lab: Lab) -> None:
    for host in ("h1", "h2", "h3"):
        assert "@" not in plait_lab.run(host, ["ss", "-Hxl"]).stdout


def test_networks_are_isolated_from_each_other(plait_lab: Lab) -> None:
    """Every pair of six endpoints on three hosts, by address and by name."""
    networks = [unique("red"), unique("blue")]
    with ExitStack() as stack:
        for network in networks:
            plait_lab.run("h1", [*PLAIT, "network", "create", network])
            stack.callback(remove_network, plait_lab, network)
        loads = []
        for network in networks:
            for host in ("h1", "h2", "h3"):
                load = eventually(
                    "the host knows the network",
                    lambda host=host, network=network: _run_in(plait_lab, host, network),
                )
                stack.callback(workloads.remove, plait_lab, load)
                loads.append(load)
        by_title = {f"default/{load.name}": load.network for load in loads}
        ports = [Port(80, "tcp"), Port(81, "udp")]
        for way in ("ip", "name"):

            def wrong(way: str = way) -> list[str]:
                rows = measure(plait_lab, loads, loads, ports, way=way, timeout=0.5).rows  # type: ignore[arg-type]
                return [
                    f"{row.src} {row.dst} {row.ip} {row.port}/{row.proto}: {row.result}"
                    for row in rows
                    if (row.result == "connected") != (by_title[row.src] == by_title[row.dst])
                ]

            bad: list[str] = []

            def right(look: Callable[[], list[str]] = wrong, bad: list[str] = bad) -> bool:
                bad[:] = look()
                return not bad

            eventually("each its own", right, bad)


def _run_in(lab: Lab, host: str, network: str) -> WorkloadState | None:
    found = lab.run(host, [*PLAIT, "attach", "1", "--network", network, "--dry-run"], check=False)
    if found.returncode and "PLAIT-NET-006" in found.stderr:
        return None
    return workloads.run(lab, host, unique("iso"), network=network, listen=LISTEN)


# Hosts that die.


@pytest.fixture(scope="module")
def mortal_lab() -> Iterator[Lab]:
    with made(unique("mortal"), 3, sites=2) as lab:
        yield lab


def _answers(lab: Lab, source: WorkloadState, target: str) -> bool:
    return probe(lab, source, [Order(ip=target, port=80, proto="tcp")])[0].result == "connected"


def endpoints_of(lab: Lab, host: str) -> list[str]:
    return [line for line in server(lab) if line.endswith(f"on {host}")]


def test_a_reboot_leaves_no_dead_endpoints(mortal_lab: Lab) -> None:
    lab = mortal_lab
    stays = workloads.run(lab, "h1", "stays", listen=LISTEN)
    dies = workloads.run(lab, "h3", "dies", listen=LISTEN)
    eventually("known", lambda: len(endpoints_of(lab, "h3")) == 1)
    lab.power_off("h3")
    bringup.restart(lab, "h3")
    eventually("ready", lambda: ready(lab, "h3"))
    eventually("the dead are reaped", lambda: not endpoints_of(lab, "h3"))
    assert not at_once(verbs(lab, "h3").endpoints())
    back = workloads.run(lab, "h3", "back", addresses=dies.addresses[:1], listen=LISTEN)
    assert back.addresses[0] == dies.addresses[0], "the address is free again"
    for address in back.addresses:
        eventually(
            "reached",
            lambda address=address: probe(lab, stays, [Order(ip=address, port=80, proto="tcp")])[0]
            .result == "connected",
        )  # fmt: skip
    gone = probe(lab, stays, [Order(ip="dies", port=80, proto="tcp")])[0]
    assert gone.result == "unknown name"
    workloads.remove(lab, back)
    workloads.remove(lab, stays)


def test_a_lost_node_is_forgotten_on_demand_only(mortal_lab: Lab) -> None:
    lab = mortal_lab
    workloads.run(lab, "h2", "lost", listen=LISTEN)
    eventually("known", lambda: len(endpoints_of(lab, "h2")) == 1)

    def routed() -> bool:
        return "plait.vx" in lab.run("h1", ["ip", "route", "show", "proto", "112"]).stdout

    assert eventually("routed", routed)
    lab.power_off("h2")
    refused = lab.run("h1", [*PLAIT, "node", "forget", "h2"], check=False)
    assert refused.returncode != 0, "it was there a moment ago"
    assert "--force" in refused.stderr
    assert len(endpoints_of(lab, "h2")) == 1, "its addresses are not given to others"
    lab.run("h1", [*PLAIT, "node", "forget", "h2", "--force"])
    assert not endpoints_of(lab, "h2")
    assert "h2" not in {node.metadata.name for node in server_objects(lab, Node)}
    eventually("no route to it", lambda: not routed())
    # It comes back with its old disk: what it held is somebody else's by now.
    lab.power_on("h2")
    refused = lab.run("h2", [*PLAIT, "up"], check=False)
    assert refused.returncode != 0
    assert "plait join" in refused.stderr, refused.stderr
    token = json.loads(lab.run("h1", [*PLAIT, "token", "create", "--json"]).stdout)["token"]
    at = lab.plan.hosts["h1"].interface.address4.partition("/")[0]
    lab.run("h2", [*PLAIT, "join", at, "--token", token])
    eventually("it is a node again", lambda: ready(lab, "h2"))
    assert not at_once(verbs(lab, "h2").endpoints())
    fresh = workloads.run(lab, "h2", "fresh", listen=LISTEN)
    near = workloads.run(lab, "h1", "near", listen=LISTEN)
    for address in fresh.addresses:
        eventually("reached", lambda address=address: _answers(lab, near, address))
