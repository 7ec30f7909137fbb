"""Hosts, sites, cables and faults of a lab without Plait, and that nothing of a lab stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from tests.lab.conftest import eventually, made, unique
from tests.lab.traces import assert_nothing_left, namespaces_of, net_inode, now, traces

from plait.client.polling import poll
from plait.lab import bringup, hosts, state, topology, workloads
from plait.lab.lab import Lab
from plait.model.errors import PlaitError

pytestmark = pytest.mark.root


def answers(lab: Lab, source: str, target: str) -> tuple[bool, bool]:
    """Whether the target answers a ping by IPv4, and by IPv6."""
    at = lab.plan.hosts[target].interface

    def one(address: str) -> bool:
        argv = ["ping", "-c1", "-W0.3", address.partition("/")[0]]
        return lab.run(source, argv, check=False).returncode == 0

    return one(at.address4), one(at.address6)


def reaches(lab: Lab, source: str, target: str) -> bool:
    """Both families, at once or when the kernel has asked for a lost neighbour anew."""
    return eventually(
        f"{source} reaches {target}", lambda: answers(lab, source, target) == (True, True)
    )


def cut_off(lab: Lab, source: str, target: str) -> bool:
    return answers(lab, source, target) == (False, False)


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plait", "lab", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_host_reaches_every_other(bare_lab: Lab) -> None:
    for source, target in permutations(bare_lab.plan.hosts, 2):
        assert reaches(bare_lab, source, target), (source, target)


def test_hosts_of_one_site_share_a_link_and_sites_are_routed(bare_lab: Lab) -> None:
    def hops(target: str) -> int:
        address = bare_lab.plan.hosts[target].interface.address4.partition("/")[0]
        said = bare_lab.run("h1", ["ping", "-c1", "-W1", address]).stdout
        return 65 - int(re.findall(r"ttl=(\d+)", said)[0])

    assert (hops("h3"), hops("h2"), hops("outside")) == (1, 2, 2)


def test_a_host_has_a_name_processes_and_directories_of_its_own(bare_lab: Lab) -> None:
    assert bare_lab.run("h1", ["hostname"]).stdout == "h1\n"
    assert bare_lab.run("h1", ["cat", "/proc/1/cgroup"]).stdout.strip().endswith(":/")
    pids = bare_lab.run("h1", ["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.split()
    assert len(pids) < 5
    for directory in (*hosts.PRIVATE, "/run"):
        bare_lab.run("h1", ["touch", f"{directory}/of-h1"])
        assert not Path(directory, "of-h1").exists()
        assert bare_lab.run("h2", ["ls", f"{directory}/of-h1"], check=False).returncode != 0


def test_the_lab_has_no_uplink(bare_lab: Lab) -> None:
    assert bare_lab.run("h1", ["ping", "-c1", "-W1", "9.9.9.9"], check=False).returncode != 0
    assert "default" not in bare_lab.run(topology.ROUTER, ["ip", "route"]).stdout


def test_the_upstream_resolver(bare_lab: Lab) -> None:
    def dig(*words: str) -> str:
        return bare_lab.run("h2", ["dig", "+tries=1", "+time=2", *words]).stdout

    assert dig("+short", "outside.lab.test") == "100.64.99.2\n"
    assert dig("+short", "outside.lab.test", "AAAA") == "fd64:63::2\n"
    assert "NXDOMAIN" in dig("elsewhere.test")


@pytest.mark.parametrize("pair", [("h1", "h3"), ("h1", "h2")], ids=["bridged", "routed"])
def test_cut_and_heal(bare_lab: Lab, pair: tuple[str, str]) -> None:
    a, b = pair
    bystanders = ({"h1", "h2", "h3"} - set(pair)).pop()
    bare_lab.cut(b, a)
    bare_lab.cut(a, b)
    try:
        assert cut_off(bare_lab, a, b)
        assert cut_off(bare_lab, b, a)
        assert reaches(bare_lab, a, bystanders)
        assert reaches(bare_lab, b, bystanders)
    finally:
        bare_lab.heal(a, b)
    assert reaches(bare_lab, a, b)
    assert bare_lab.state.cuts == ()


def test_a_host_comes_back_with_its_disk_and_nothing_else(bare_lab: Lab) -> None:
    bare_lab.run("h3", ["sh", "-c", "echo kept > /var/lib/plait/note; ip link add x type bridge"])
    sleeper = hosts.popen(bare_lab.host("h3"), ["sleep", "600"])
    bringup.FAULTS["kill"](bare_lab, "h3")
    assert sleeper.wait(10) != 0
    assert cut_off(bare_lab, "h1", "h3")
    with pytest.raises(PlaitError, match="PLAIT-LAB-002"):
        bare_lab.run("h3", ["true"])
    bringup.FAULTS["restart"](bare_lab, "h3")
    assert reaches(bare_lab, "h1", "h3")
    assert bare_lab.run("h3", ["cat", "/var/lib/plait/note"]).stdout == "kept\n"
    assert bare_lab.run("h3", ["ip", "link", "show", "x"], check=False).returncode != 0


def test_a_cut_outlives_restarts(bare_lab: Lab) -> None:
    bare_lab.cut("h1", "h3")
    try:
        bringup.FAULTS["restart"](bare_lab, "h1")
        bringup.FAULTS["restart"](bare_lab, topology.ROUTER)
        assert cut_off(bare_lab, "h1", "h3")
        assert reaches(bare_lab, "h1", "h2")
    finally:
        bare_lab.heal("h1", "h3")
    assert reaches(bare_lab, "h1", "h3")


def test_unknown_hosts_are_refused_by_name(bare_lab: Lab) -> None:
    for act in (
        lambda: bare_lab.cut("h1", "h9"),
        lambda: bare_lab.power_off("h9"),
        lambda: bringup.FAULTS["restart"](bare_lab, "h9"),
        lambda: bare_lab.run("h9", ["true"]),
    ):
        with pytest.raises(PlaitError, match='PLAIT-LAB-002: lab host "h9"'):
            act()
    assert bare_lab.state.cuts == ()


@pytest.mark.parametrize("name", ["../x", "A", "a\nb", "x" * 64, ""])
def test_bad_names_of_workloads_are_refused(bare_lab: Lab, name: str) -> None:
    for words in ({"name": name}, {"name": "fine", "namespace": name}):
        with pytest.raises(PlaitError, match="PLAIT-NAME-001"):
            workloads.run(bare_lab, "h1", **words)


def test_two_labs_side_by_side(bare_lab: Lab) -> None:
    with made(unique("twin"), 2, bare=True) as twin:
        # The same addresses, and yet each lab has its own h1 and h2.
        assert reaches(twin, "h1", "h2")
        twin.cut("h1", "h2")
        assert cut_off(twin, "h1", "h2")
        assert reaches(bare_lab, "h1", "h2")
        assert {twin.name, bare_lab.name} <= set(state.names())
    # The end of a lab takes no mount point away from the other.
    assert bare_lab.run("h1", ["sh", "-c", "> /etc/plait/still-mine"]).returncode == 0
    assert reaches(bare_lab, "h1", "h2")


def test_a_lab_of_the_same_name_is_refused_and_left_alone(bare_lab: Lab) -> None:
    with pytest.raises(PlaitError, match="PLAIT-LAB-003"):
        bringup.up(bare_lab.name, 1, bare=True)
    assert reaches(bare_lab, "h1", "h2")


def test_a_lab_that_fails_on_the_way_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = unique("half")
    seen: set[str] = set()
    gone: list[int] = []
    plugged = topology.link_commands

    def trip(plan: topology.Plan, host: topology.HostPlan, pid: int) -> list[str]:
        seen.add(net_inode(pid))
        gone.append(now())
        return ["link add no such thing"] if host.name == "h2" else plugged(plan, host, pid)

    monkeypatch.setattr(topology, "link_commands", trip)
    with pytest.raises(PlaitError, match="PLAIT-LAB-005"):
        bringup.up(name, 3, bare=True)
    assert len(seen) == 2
    assert_nothing_left(name, frozenset(seen), gone[-1])


def test_down_cleans_a_lab_whose_up_was_killed() -> None:
    name = unique("crash")
    file = state.directory(name) / "state.json"
    maker = subprocess.Popen(
        [sys.executable, "-m", "plait", "lab", "up", "--name", name, "--hosts", "30", "--bare"],
        stdout=subprocess.DEVNULL,
    )
    eventually("a booted host", lambda: file.exists() and "h2" in state.load(file.parent).hosts)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    lab = Lab(name)
    namespaces = frozenset(
        net_inode(host.pid) for host in lab.state.hosts.values() if hosts.alive(host)
    )
    assert namespaces
    gone = now()
    done = cli("down", "--name", name)
    assert done.returncode == 0, done.stderr
    assert_nothing_left(name, namespaces, gone)


def test_down_cleans_a_lab_whose_hosts_died() -> None:
    name = unique("dead")
    lab = bringup.up(name, 2, bare=True)
    namespaces, gone = namespaces_of(lab), now()
    for host in lab.state.hosts.values():
        os.kill(host.pid, signal.SIGKILL)
    assert cli("down", "--name", name).returncode == 0
    assert_nothing_left(name, namespaces, gone)


def test_down_of_no_lab_succeeds() -> None:
    done = cli("down", "--name", unique("never"))
    assert done.returncode == 0
    assert "there is no lab" in done.stderr


def test_ctrl_c_takes_a_half_made_lab_down() -> None:
    name = unique("ctrlc")
    file = state.directory(name) / "state.json"
    maker = subprocess.Popen(
        [sys.executable, "-m", "plait", "lab", "up", "--name", name, "--hosts", "30", "--bare"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually("a booted host", lambda: file.exists() and "h2" in state.load(file.parent).hosts)
    maker.send_signal(signal.SIGINT)
    assert maker.wait(30) == 130
    assert_nothing_left(name, frozenset(), now())


def test_the_command_line_shows_the_lab(bare_lab: Lab) -> None:
    listed = cli("ls").stdout
    assert bare_lab.name in listed
    shown = cli("status", "--name", bare_lab.name)
    assert shown.returncode == 0
    assert "100.64.1.11/24" in shown.stdout
    done = cli("exec", "--name", bare_lab.name, "h2", "--", "sh", "-c", "hostname; exit 7")
    assert (done.returncode, done.stdout) == (7, "h2\n")
    plan = cli("up", "--name", unique("dry"), "--hosts", "2", "--dry-run")
    assert "h2" in plan.stdout
    refused = cli("status", "--name", "no-such-lab")
    assert refused.returncode == 1
    assert "PLAIT-LAB-001" in refused.stderr


def test_commands_at_the_same_time_lose_nothing(bare_lab: Lab) -> None:
    pairs = (("h1", "h2"), ("h1", "h3"), ("h2", "h3"))
    cuts = [
        subprocess.Popen(
            [sys.executable, "-m", "plait", "lab", "fault", "cut", *pair, "--name", bare_lab.name],
            stdout=subprocess.DEVNULL,
        )
        for pair in pairs
    ]
    assert [cut.wait(30) for cut in cuts] == [0, 0, 0]
    bare_lab.reload()
    assert sorted(bare_lab.state.cuts) == list(pairs)
    for pair in pairs:
        bare_lab.heal(*pair)


def test_who_came_after_a_lab_into_a_namespace_of_its_number_is_no_trace_of_it() -> None:
    namespaces, gone = frozenset({net_inode(os.getpid())}), now()
    # A tick later, so that its start is told apart.
    assert poll(lambda: now() > gone + 1, seconds=5)
    with subprocess.Popen(["sleep", "30"]) as late:
        word = f"process {late.pid} in a namespace of the lab"
        try:
            assert word not in traces("nobody", namespaces, gone)
            assert word in traces("nobody", namespaces, now() + 1)
            assert f"process {os.getpid()} in a namespace of the lab" in traces(
                "nobody", namespaces, gone
            )
        finally:
            late.kill()
