"""Traffic goes on while daemons die (P4), and what is damaged by hand is mended (P6).

A flow of 100 numbered datagrams a second and a long TCP connection, by both families, run
from a workload on h1 to one on h3 (the same site: direct) and to one on h2 (another site:
VXLAN) throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.lab.census import assert_back, at_rest, inside, kernel, ready, status
from tests.lab.conftest import eventually, unique
from tests.lab.traffic import Place, Traffic, running

from plait.lab import bringup, daemons, workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import PLAIT, Order, probe
from plait.model.marks import GATEWAY4, RESOLVER6, VXLAN_LINK

pytestmark = pytest.mark.root

HOSTS = ("h1", "h2", "h3")
MEND = 10.0
"""Seconds in which damage is put right (P6)."""


def place(load: WorkloadState) -> Place:
    return Place(load.host, load.inner_pid, load.addresses)


@pytest.fixture(scope="module")
def loads(plait_lab: Lab) -> Iterator[dict[str, WorkloadState]]:
    made = {
        role: workloads.run(plait_lab, host, unique(role), listen=("80/tcp", "81/udp"))
        for role, host in (("source", "h1"), ("far", "h2"), ("near", "h3"))
    }
    yield made
    for load in made.values():
        workloads.remove(plait_lab, load)


@pytest.fixture(scope="module")
def flows(plait_lab: Lab, loads: dict[str, WorkloadState]) -> Iterator[Traffic]:
    targets = {role: place(loads[role]) for role in ("near", "far")}
    with running(plait_lab, place(loads["source"]), targets) as traffic:
        traffic.assert_whole()
        yield traffic


@pytest.fixture
def traffic(plait_lab: Lab, flows: Traffic) -> Traffic:
    """All is well, and a new period begins."""
    for host in HOSTS:
        eventually(f"{host} is ready", lambda host=host: ready(plait_lab, host))
    flows.report()
    return flows


def connected(lab: Lab, source: WorkloadState, target: str) -> bool:
    """A new TCP flow and a new UDP flow to an address or a name."""
    orders = (
        Order(ip=target, port=80, proto="tcp", timeout=5),
        Order(ip=target, port=81, proto="udp", timeout=5),
    )
    results = probe(lab, source, orders)
    return [result.result for result in results] == ["connected", "connected"]


# Daemons away: nothing is lost.


def test_the_server_is_killed(plait_lab: Lab, traffic: Traffic) -> None:
    before = daemons.program_pid(plait_lab, "h1", "server")
    bringup.kill_server(plait_lab)
    eventually(
        "the server lives again",
        lambda: daemons.program_pid(plait_lab, "h1", "server") not in (0, before),
    )
    for host in HOSTS:
        eventually(f"{host} hears it", lambda host=host: ready(plait_lab, host))
    traffic.assert_whole()


def test_new_flows_names_and_endpoints_while_the_server_is_down(
    plait_lab: Lab, loads: dict[str, WorkloadState], traffic: Traffic
) -> None:
    source = loads["source"]
    # An agent knows what it heard while the server lived; in full the names are asked for later.
    eventually(
        "h1 has heard of both",
        lambda: all(connected(plait_lab, source, loads[role].name) for role in ("near", "far")),
    )
    bringup.stop_server(plait_lab)
    fresh = None
    try:
        for role in ("near", "far"):
            for address in loads[role].addresses:
                assert connected(plait_lab, source, address), (role, address)
            assert connected(plait_lab, source, loads[role].name), role
            assert connected(plait_lab, source, f"{loads[role].name}.default.plait.local"), role
        assert probe(plait_lab, source, [Order(ip="nobody", port=80, proto="tcp")])[0].result == (
            "unknown name"
        )
        fresh = workloads.run(plait_lab, "h2", unique("fresh"), listen=("80/tcp", "81/udp"))
        for address in fresh.addresses:
            assert connected(plait_lab, source, address), address
            assert connected(plait_lab, loads["far"], address), address
        assert connected(plait_lab, loads["far"], fresh.name), "its own host knows its name"
        assert connected(plait_lab, fresh, loads["near"].name)
    finally:
        bringup.start_server(plait_lab)
    traffic.assert_whole()
    eventually(
        "the server and so h1 learn of the new endpoint",
        lambda: connected(plait_lab, source, fresh.name),
    )
    workloads.remove(plait_lab, fresh)


@pytest.mark.parametrize("host", HOSTS)
def test_an_agent_is_killed(plait_lab: Lab, traffic: Traffic, host: str) -> None:
    before = daemons.program_pid(plait_lab, host, "agent")
    bringup.kill_agent(plait_lab, host)
    eventually(
        "the agent lives again",
        lambda: daemons.program_pid(plait_lab, host, "agent") not in (0, before),
    )
    eventually("the agent is ready", lambda: ready(plait_lab, host))
    traffic.assert_whole()


@pytest.mark.parametrize("host", HOSTS)
def test_an_agent_is_stopped_and_started(
    plait_lab: Lab, loads: dict[str, WorkloadState], traffic: Traffic, host: str
) -> None:
    daemons.steer(plait_lab, host, "stop", "agent")
    try:
        for role in ("near", "far"):
            for address in loads[role].addresses:
                assert connected(plait_lab, loads["source"], address), (role, address)
    finally:
        daemons.steer(plait_lab, host, "start", "agent")
    eventually("the agent is ready", lambda: ready(plait_lab, host))
    traffic.assert_whole()


def test_everything_is_killed_at_once(plait_lab: Lab, traffic: Traffic) -> None:
    for host in HOSTS:
        bringup.kill_agent(plait_lab, host)
    bringup.kill_server(plait_lab)
    for host in HOSTS:
        eventually(f"{host} is ready", lambda host=host: ready(plait_lab, host))
    traffic.assert_whole()


# Damage by hand: mended in time, counted and logged.

Damage = Callable[[dict[str, WorkloadState]], str]


def _route(role: str, family: int) -> Damage:
    """Delete the route by which h1 reaches a role's address."""

    def command(loads: dict[str, WorkloadState]) -> str:
        address = next(a for a in loads[role].addresses if (":" in a) == (family == 6))
        return (
            f"ip -{family} route show proto 112 match {address} | "
            f"grep -v unreachable | cut -d' ' -f1 | xargs -n1 ip -{family} route del"
        )

    return command


def _text(command: str) -> Damage:
    return lambda _loads: command


ENDPOINT_LINKS = r"$(ls /sys/class/net | grep -x 'pl[0-9a-f]\{11\}')"

DAMAGE: dict[str, tuple[Damage, ...]] = {
    "routes": tuple(_route(role, family) for role in ("far", "near") for family in (4, 6)),
    "routes to the own endpoint": (_route("source", 4), _route("source", 6)),
    "all routes of ours": (
        _text("ip route flush proto 112; ip -6 route flush proto 112"),
        _text("ip route flush table 112; ip -6 route flush table 112"),
    ),
    "fdb entries and neighbours": (
        _text(
            f"bridge fdb show dev {VXLAN_LINK} | grep dst | cut -d' ' -f1 | "
            f"xargs -I@ bridge fdb del @ dev {VXLAN_LINK} self"
        ),
        _text(f"ip -6 neigh flush dev {VXLAN_LINK} nud permanent"),
    ),
    "tunnel": (_text(f"ip link del {VXLAN_LINK}"),),
    "tunnel down": (_text(f"ip link set {VXLAN_LINK} down"),),
    "tunnel's MTU and address": (
        _text(f"ip link set {VXLAN_LINK} mtu 1280"),
        _text(f"ip link set {VXLAN_LINK} address 02:00:00:00:00:99"),
    ),
    "gateway, resolver and rules": (
        _text(f"ip address del {GATEWAY4}/32 dev lo"),
        _text(f"ip address del {RESOLVER6}/128 dev lo"),
        _text(f"for i in {ENDPOINT_LINKS}; do ip address del fe80::1/64 dev $i; done"),
        _text("ip rule del pref 112; ip -6 rule del pref 112"),
    ),
    "host side down": (_text(f"for i in {ENDPOINT_LINKS}; do ip link set $i down; done"),),
    "forwarding": (_text("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0"),),
    "strays that carry our mark": (
        _text("ip route add 10.251.0.0/16 dev lo proto 112"),
        _text(f"bridge fdb add 02:0:0:0:0:98 dev {VXLAN_LINK} dst 100.64.2.77 self permanent"),
    ),
}


def harm(lab: Lab, loads: dict[str, WorkloadState], what: str) -> None:
    script = "\n".join(command(loads) for command in DAMAGE[what])
    lab.run("h1", ["sh", "-ec", script])


def journal_of_repairs(lab: Lab, host: str) -> int:
    log = inside(lab, host, "/var/log/plait/agent.log").read_text()
    return sum("event=repaired" in line for line in log.splitlines())


@pytest.mark.parametrize("what", DAMAGE)
def test_damage(
    plait_lab: Lab, loads: dict[str, WorkloadState], traffic: Traffic, what: str
) -> None:
    before = at_rest(plait_lab, "h1", quiet=0.5)
    forwarding = sysctls(plait_lab)
    repairs, logged = status(plait_lab, "h1").repairs, journal_of_repairs(plait_lab, "h1")
    harm(plait_lab, loads, what)
    eventually("mended is counted", lambda: status(plait_lab, "h1").repairs > repairs, seconds=MEND)
    assert_back(plait_lab, "h1", before, MEND)
    assert sysctls(plait_lab) == forwarding
    assert journal_of_repairs(plait_lab, "h1") > logged
    traffic.assert_mended(MEND)


def sysctls(lab: Lab) -> str:
    names = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    links = lab.run("h1", ["ip", "-br", "link", "show", VXLAN_LINK]).stdout
    return lab.run("h1", ["sysctl", *names]).stdout + links


@pytest.mark.parametrize(
    "command",
    [
        "nft delete table inet plait",
        "nft flush ruleset",
        "nft flush chain inet plait source",
    ],
)
@pytest.mark.parametrize("agent", ["lives", "is away"])
def test_our_rules_are_deleted(
    plait_lab: Lab, loads: dict[str, WorkloadState], traffic: Traffic, command: str, agent: str
) -> None:
    """While the agent lives nobody else can (the table has an owner); else they come back."""
    before = at_rest(plait_lab, "h1", quiet=0.5)
    if agent == "lives":
        plait_lab.run("h1", command.split(), check=False)
        assert_back(plait_lab, "h1", before, MEND)
        traffic.assert_whole()
        return
    daemons.steer(plait_lab, "h1", "stop", "agent")
    try:
        plait_lab.run("h1", command.split())
    finally:
        daemons.steer(plait_lab, "h1", "start", "agent")
    eventually("the agent is ready", lambda: ready(plait_lab, "h1"))
    assert_back(plait_lab, "h1", before, MEND)
    traffic.assert_mended(MEND)


FOREIGN = """
nft -f - <<'END'
table inet foreign {
  set banned { type ipv4_addr; flags interval; elements = { 203.0.113.0/28 } }
  chain input { type filter hook input priority 5; ip saddr @banned counter drop; }
}
END
ip link add mine0 type bridge
ip link set mine0 up
ip address add 203.0.113.17/32 dev mine0
ip route add 203.0.113.32/27 dev mine0 proto static
ip -6 route add 2001:db8:77::/48 dev mine0 proto static
ip rule add pref 5000 from 203.0.113.17 lookup 500
ip neigh add 203.0.113.40 lladdr 02:00:00:00:00:40 dev mine0 nud permanent
iptables -A INPUT -s 203.0.113.9 -j DROP
"""
SHOWN = """
nft -s list table inet foreign
ip link show mine0
ip address show mine0 | grep inet
ip route show proto static; ip -6 route show proto static
ip rule show pref 5000; ip neigh show dev mine0
iptables-save -t filter | grep -v '^#' | sed 's/ \\[.*//'
"""
GONE = """
nft delete table inet foreign
ip link del mine0
ip rule del pref 5000
iptables -D INPUT -s 203.0.113.9 -j DROP
"""


def test_what_is_not_ours_stays_as_it_is(
    plait_lab: Lab, loads: dict[str, WorkloadState], traffic: Traffic
) -> None:
    """Through a repair of everything and a kill of the agent."""

    def shown() -> str:
        return plait_lab.run("h1", ["sh", "-ec", SHOWN]).stdout

    plait_lab.run("h1", ["sh", "-ec", FOREIGN])
    try:
        # Duplicate address detection is over: the kernel's own change of a foreign link.
        eventually("addresses are settled", lambda: "tentative" not in shown())
        before, ours = shown(), kernel(plait_lab, "h1")
        traffic.assert_whole()
        harm(plait_lab, loads, "all routes of ours")
        harm(plait_lab, loads, "tunnel")
        bringup.kill_agent(plait_lab, "h1")
        assert_back(plait_lab, "h1", ours, 15, kernel)
        assert shown() == before
    finally:
        plait_lab.run("h1", ["sh", "-c", GONE])
    traffic.assert_mended(15)


def test_the_plan_of_a_mended_host_is_empty(plait_lab: Lab, traffic: Traffic) -> None:
    for host in HOSTS:
        assert plait_lab.run(host, [*PLAIT, "agent", "plan"]).stdout.strip() == "", host
