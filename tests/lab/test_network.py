"""One network over three hosts on two sites, without Docker: real server, agents and kernel.

site 1: h1 (server) h3      site 2: h2
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from tests.lab.conftest import eventually, remove_network

from plait.lab import bringup, daemons, matrix, workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import Order, Result
from plait.model.errors import PlaitError

pytestmark = pytest.mark.root

LISTEN = ("80/tcp", "81/udp", "82/sctp")
PORTS = tuple(map(matrix.parse_port, LISTEN))


def unique(word: str) -> str:
    return f"{word}-{secrets.token_hex(2)}"


def plait(lab: Lab, host: str, *words: str) -> Any:
    return json.loads(daemons.plait(lab, host, *words, "--json"))


@contextmanager
def running(
    lab: Lab, *places: tuple[str, str], listen: tuple[str, ...] = LISTEN, **options: Any
) -> Iterator[list[WorkloadState]]:
    """Workloads (host, name), gone at the end of the block."""
    loads: list[WorkloadState] = []
    try:
        for host, name in places:
            loads.append(workloads.run(lab, host, name, listen=listen, **options))
        yield loads
    finally:
        for load in loads:
            workloads.remove(lab, load)


@pytest.fixture(scope="module")
def trio(plait_lab: Lab) -> Iterator[list[WorkloadState]]:
    """`a`, `b`, `c` on h1, h2, h3, ready on every host."""
    places = (("h1", "a"), ("h2", "b"), ("h3", "c"))
    with running(plait_lab, *places, namespace="trio", labels=["app=trio"]) as loads:
        ways: tuple[matrix.Way, ...] = ("ip", "name")
        for way in ways:
            eventually(f"connected by {way}", partial(everyone_connected, plait_lab, loads, way))
        yield loads


def everyone_connected(lab: Lab, loads: list[WorkloadState], way: matrix.Way = "ip") -> bool:
    found = matrix.measure(lab, loads, loads, PORTS[:1], way=way, timeout=2)
    return {row.result for row in found.rows} == {"connected"}


def ask(lab: Lab, load: WorkloadState, target: str, family: int = 0, port: int = 80) -> Result:
    order = Order(ip=target, port=port, proto="tcp", family=family, timeout=2)
    return workloads.probe(lab, load, [order])[0]


def comes_to_reach(lab: Lab, load: WorkloadState, target: str, peer: str) -> bool:
    """The target answers as `peer`, at once or soon."""
    return eventually(f"{load.name} reaches {peer}", lambda: ask(lab, load, target).peer == peer)


def comes_to_resolve(lab: Lab, load: WorkloadState, name: str, address: str) -> bool:
    """The name leads to the address alone, at once or soon."""
    seen: list[str] = []

    def look() -> bool:
        seen[:] = dig(lab, load, name)
        return seen == ([address] if address else [])

    return eventually(f"{load.name} finds {name} at {address}", look, seen)


def dig(lab: Lab, load: WorkloadState, *words: str) -> list[str]:
    """Answers of the resolver that the workload was given, asked from inside of it."""
    argv = ["nsenter", "-t", str(load.inner_pid), "-n", "dig", "+tries=1", "+time=3", "+short"]
    return lab.run(load.host, [*argv, *words]).stdout.split()


def inside(lab: Lab, load: WorkloadState, *argv: str) -> str:
    return lab.run(load.host, ["nsenter", "-t", str(load.inner_pid), "-n", *argv]).stdout


@pytest.mark.parametrize("way", ["ip", "name"])
def test_everyone_reaches_everyone_by_every_protocol(
    plait_lab: Lab, trio: list[WorkloadState], way: matrix.Way
) -> None:
    found = matrix.measure(plait_lab, trio, trio, PORTS, way=way, timeout=3)
    # 3 x 2 pairs, IPv4 and IPv6, three protocols.
    assert len(found.rows) == 36
    for row in found.rows:
        assert row.result == "connected", row
        if row.proto != "sctp":
            assert row.peer == row.dst.removeprefix("trio/"), row


def test_closed_ports_are_refused_by_the_workload(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    closed = [matrix.Port(9, "tcp"), matrix.Port(9, "udp"), matrix.Port(9, "sctp")]
    found = matrix.measure(plait_lab, trio[:1], trio[1:], closed, timeout=2)
    assert {row.result for row in found.rows} == {"refused"}


def test_hosts_of_a_site_route_directly_and_sites_are_tunnelled(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    def way(host: str, load: WorkloadState) -> set[str]:
        """Interfaces by which the host sends to the workload."""
        return {
            re.findall(r"dev (\S+)", plait_lab.run(host, ["ip", "route", "get", ip]).stdout)[0]
            for ip in load.addresses
        }

    a, b, c = trio
    assert way("h1", c) == way("h3", a) == {"eth0"}
    assert way("h1", b) == way("h2", a) == way("h2", c) == {"plait.vx"}
    peers = {peer["node"]: peer["encap"] for peer in plait(plait_lab, "h1", "peers")["items"]}
    assert peers == {"h2": "vxlan", "h3": "direct"}


def test_packets_between_sites_have_the_size_that_the_tunnel_carries(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    a, b, _ = trio
    four, six = b.addresses
    # MTU 1450: 1500 of the underlay less 50 of VXLAN over IPv4; ICMP payload 28 and 48 less.
    inside(plait_lab, a, "ping", "-c1", "-W2", "-Mdo", "-s1422", four)
    inside(plait_lab, a, "ping", "-c1", "-W2", "-Mdo", "-s1402", six)
    for size, address in (("1423", four), ("1403", six)):
        with pytest.raises(Exception, match="exit status 1"):
            inside(plait_lab, a, "ping", "-c1", "-W1", "-Mdo", f"-s{size}", address)


def test_short_names_belong_to_a_namespace(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    a, b, _ = trio
    four, six = b.addresses
    assert dig(plait_lab, a, "b") == [four]
    assert dig(plait_lab, a, "AAAA", "b.trio.plait.local") == [six]
    assert dig(plait_lab, a, "+tcp", "b.trio.plait.local") == [four]
    with running(plait_lab, ("h3", "stranger"), namespace="elsewhere") as (stranger,):
        assert dig(plait_lab, stranger, "b") == []
        assert dig(plait_lab, stranger, "b.trio.plait.local") == [four]
        assert ask(plait_lab, stranger, "b.trio.plait.local").peer == "b"


def test_two_namespaces_may_use_one_name(plait_lab: Lab) -> None:
    name = unique("twin")
    with (
        running(plait_lab, ("h1", name), namespace="left") as (left,),
        running(plait_lab, ("h1", name), namespace="right") as (right,),
        running(plait_lab, ("h2", "look"), namespace="left") as (look,),
    ):
        assert comes_to_resolve(plait_lab, look, name, left.addresses[0])
        full = f"{name}.right.plait.local"
        assert comes_to_resolve(plait_lab, look, full, right.addresses[0])


def test_reverse_names(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    a, b, _ = trio
    for address in b.addresses:
        assert dig(plait_lab, a, "-x", address) == ["b.trio.plait.local."]


def test_unknown_names_of_ours_do_not_exist_and_foreign_ones_are_forwarded(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    a = trio[0]
    assert dig(plait_lab, a, "nobody.trio.plait.local") == []
    said = inside(plait_lab, a, "dig", "+tries=1", "nobody.trio.plait.local")
    assert "status: NXDOMAIN" in said
    assert dig(plait_lab, a, "outside.lab.test") == ["100.64.99.2"]
    assert dig(plait_lab, a, "AAAA", "outside.lab.test") == ["fd64:63::2"]


def test_the_world_outside_is_reached_with_the_address_of_the_host(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    for load in trio:
        for address in ("100.64.99.2", "fd64:63::2"):
            inside(plait_lab, load, "ping", "-c1", "-W2", address)


def test_the_world_outside_does_not_reach_in(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    four, six = trio[0].addresses
    routes = f"ip route add {four} via 100.64.1.11; ip -6 route add {six} via fd64:1::b"
    plait_lab.run("router", ["sh", "-ec", routes])
    try:
        for address in (four, six):
            ping = ["ping", "-c1", "-W1", address]
            assert plait_lab.run("outside", ping, check=False).returncode != 0
    finally:
        undo = f"ip route del {four}; ip -6 route del {six}"
        plait_lab.run("router", ["sh", "-c", undo], check=False)


def test_two_networks_do_not_reach_each_other(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    name = unique("blue")
    plait_lab.run("h1", [*workloads.PLAIT, "network", "create", name])
    try:
        places = (("h1", "b1"), ("h2", "b2"), ("h3", "b3"))
        with running(plait_lab, *places, network=name, namespace="trio") as blues:
            eventually("blue is one network", lambda: everyone_connected(plait_lab, blues))
            for sources, targets in ((trio, blues), (blues, trio)):
                found = matrix.measure(plait_lab, sources, targets, PORTS, timeout=0.5)
                assert len(found.rows) == 54
                assert {row.result for row in found.rows} <= {"timed out", "refused"}
                assert dig(plait_lab, sources[0], targets[1].name) == []
    finally:
        remove_network(plait_lab, name)


def test_a_requested_address_is_given_once(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    pool = plait(plait_lab, "h1", "get", "network", "plait")["spec"]["pools"][0]
    wanted = str(ipaddress.ip_network(pool)[-300])
    with running(plait_lab, ("h1", "fixed"), addresses=[wanted]) as (fixed,):
        assert wanted in fixed.addresses
        for host in ("h1", "h2"):
            with pytest.raises(PlaitError, match="could not be attached") as refused:
                workloads.run(plait_lab, host, "thief", addresses=[wanted])
            assert "PLAIT-IPAM" in refused.value.why
        assert comes_to_reach(plait_lab, trio[1], wanted, "fixed")


def test_an_address_in_the_block_of_another_node(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    """b's block belongs to h2; a free address of it is wanted on h1."""
    a, b, c = trio
    beside = str(ipaddress.ip_address(b.addresses[0]) + 17)
    with running(plait_lab, ("h1", "guest"), addresses=[beside], namespace="trio") as (guest,):
        assert guest.addresses[0] == beside
        for load in (a, b, c):
            assert comes_to_reach(plait_lab, load, beside, "guest")
        assert ask(plait_lab, guest, b.addresses[0]).peer == "b"


def test_attaching_twice_is_attaching_once(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    a = trio[0]
    argv = ["attach", str(a.inner_pid), "--name", "a", "--namespace", "trio"]
    again = plait(plait_lab, "h1", *argv)
    assert again["id"] == a.endpoint
    assert tuple(again["addresses"]) == a.addresses


def test_detaching_twice_and_what_was_never_there(plait_lab: Lab) -> None:
    load = workloads.run(plait_lab, "h2", unique("brief"), listen=LISTEN)
    for target in (load.endpoint, load.endpoint, "never-was"):
        plait_lab.run("h2", [*workloads.PLAIT, "detach", target])
    ids = {end["metadata"]["name"] for end in plait(plait_lab, "h2", "ps")["items"]}
    assert load.endpoint not in ids
    assert inside(plait_lab, load, "ip", "-br", "link").split()[0] == "lo"
    assert load.endpoint not in plait_lab.run("h2", ["ip", "link"]).stdout
    workloads.remove(plait_lab, load)


def test_a_name_follows_its_workload_to_another_host(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    name = unique("nomad")
    for host in ("h1", "h2", "h3", "h1"):
        with running(plait_lab, (host, name), namespace="trio") as (nomad,):
            for load in trio:
                assert comes_to_resolve(plait_lab, load, name, nomad.addresses[0])
            assert ask(plait_lab, trio[1], name, family=6).peer == name
    for load in trio:
        assert comes_to_resolve(plait_lab, load, name, "")


def test_a_cut_between_two_hosts_cuts_their_workloads_and_heals(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    a, b, c = trio
    plait_lab.cut("h2", "h3")
    try:
        found = matrix.measure(plait_lab, [b], [c], PORTS[:1], timeout=0.5)
        assert {row.result for row in found.rows} == {"timed out"}
        assert everyone_connected(plait_lab, [a, b])
        assert everyone_connected(plait_lab, [a, c])
    finally:
        plait_lab.heal("h2", "h3")
    eventually("healed", lambda: everyone_connected(plait_lab, trio))


def test_killed_daemons_come_back_and_traffic_never_stopped(
    plait_lab: Lab, trio: list[WorkloadState]
) -> None:
    a, b, _ = trio
    programs = ("server", "agent")

    def pids() -> list[int]:
        return [daemons.program_pid(plait_lab, "h1", program) for program in programs]

    before = pids()
    bringup.FAULTS["kill-server"](plait_lab)
    bringup.FAULTS["kill-agent"](plait_lab, "h1")
    assert everyone_connected(plait_lab, [a, b])
    eventually("new processes", lambda: all(pids()) and not set(pids()) & set(before))
    daemons.resume_plait(plait_lab, "h1")
    assert everyone_connected(plait_lab, trio)
    late = unique("late")
    with running(plait_lab, ("h1", late), namespace="trio"):
        assert comes_to_reach(plait_lab, b, late, late)


def test_a_host_that_was_powered_off_joins_again(plait_lab: Lab, trio: list[WorkloadState]) -> None:
    gone = unique("gone")
    workloads.run(plait_lab, "h3", gone, namespace="trio", listen=LISTEN)
    c = trio[2]
    bringup.FAULTS["kill"](plait_lab, "h3")
    bringup.FAULTS["restart"](plait_lab, "h3")
    assert plait(plait_lab, "h3", "status")["details"]["ready"]
    # Its processes died with it: their endpoints go, and the host takes new ones.
    eventually("dead endpoints go", lambda: dig(plait_lab, trio[0], gone) == [])
    trio[2] = workloads.run(plait_lab, "h3", "c", namespace="trio", listen=LISTEN)
    assert trio[2].endpoint != c.endpoint
    eventually("c is back", lambda: everyone_connected(plait_lab, trio))


def test_the_command_line_runs_probes_and_breaks(plait_lab: Lab) -> None:
    def lab(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "plait", "lab", *words],
            env={**os.environ, "PLAIT_LAB": plait_lab.name},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    server, client = unique("srv"), unique("cli")
    try:
        said = lab("run", "h1", server, "--listen", "80,81/udp,82/sctp", "--label", "app=web")
        assert said.returncode == 0, said.stderr
        load = json.loads(lab("run", "h2", client, "--json").stdout)
        assert len(load["addresses"]) == 2
        plait_lab.reload()
        loads = [workloads.find(plait_lab, name) for name in (server, client)]
        eventually("spread", lambda: ask(plait_lab, loads[1], server).peer == server)
        found = json.loads(lab("probe", client, server, "80/tcp", "--by-name", "--json").stdout)
        assert found["ports"] == ["80/tcp"]
        assert [row["result"] for row in found["rows"]] == ["connected"] * 2
        assert {row["peer"] for row in found["rows"]} == {server}
        drawn = lab("probe", "--matrix", "80/tcp,81/udp,82/sctp").stdout
        assert drawn.count(f"default/{client}") == 3
        assert lab("fault", "cut", "h1", "h2").returncode == 0
        cut = lab("probe", client, server, "80/tcp", "--timeout", "0.3")
        assert (cut.returncode, cut.stdout.count("timed out")) == (1, 2)
        assert lab("fault", "heal", "h1", "h2").returncode == 0
        assert lab("probe", client, server, "81/udp").returncode == 0
        for verb in ("kill-agent", "kill-server"):
            said = lab("fault", verb, *(["h1"] if verb == "kill-agent" else []))
            assert said.returncode == 0, said.stderr
        assert "takes 2 host names" in lab("fault", "cut", "h1").stderr
        assert "PLAIT-LAB-004" in lab("probe", client, "nobody", "80").stderr
        assert "PLAIT-LAB-003" in lab("run", "h2", client).stderr
    finally:
        daemons.resume_plait(plait_lab, "h1")
        for host, name in (("h1", server), ("h2", client)):
            said = lab("rm", host, name)
            assert said.returncode == 0, said.stderr
        plait_lab.reload()
