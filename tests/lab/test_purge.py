"""`plait up` and `plait down --purge` leave a host as it was, also when they are interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.census import inside
from tests.lab.conftest import eventually, made, unique
from tests.support import shim

from plait.lab import daemons, hosts, image, workloads
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT

pytestmark = pytest.mark.root

HOST = "h1"
PICTURE = {
    "links": "ip -o link | sed 's/ qlen .*//'",
    "addresses": "ip -o address | sed 's/ valid_lft .*//'",
    "routes": "ip route show table all; ip -6 route show table all | sed 's/ expires .*//'",
    "rules": "ip rule; ip -6 rule",
    "neighbours": "ip neigh show nud permanent; bridge fdb show | grep -v '33:33\\|01:00' || true",
    "nft": "nft -s list ruleset | grep -v '^# Warning'",
    "iptables": "iptables-save; ip6tables-save",
    "sockets": "ss -Hlntu | awk '{print $1, $5}' | sort; ss -Hlx | awk '{print $5}' | sort",
    "namespaces": "ls /run/netns",
    "processes": "ps -eo args= | grep '[p]lait' | grep -v 'plait/lab/init.py' || true",
    "mounts": "cut -d' ' -f5 /proc/self/mountinfo | sort",
    # What the lab binds over or keeps for itself is no part of the picture.
    "files": "find /run /var/lib/plait /var/log/plait /etc/plait /etc/systemd /etc/cni "
    "/opt/cni -xdev 2>/dev/null | grep -v '^/run/docker\\|/run/xtables.lock' | sort",
}
COUNTERS = re.compile(r"\[\d+:\d+\]|^#.*$", re.MULTILINE)
MOVING = ("nf_conntrack_count", "stat_refresh", "/neigh/", "random/", "stable_secret")


Picture = dict[str, frozenset[str]]


def picture(lab: Lab) -> Picture:
    """The host."""
    found = {}
    for what, script in PICTURE.items():
        said = lab.run(HOST, ["bash", "-o", "pipefail", "-c", f"{{ {script}; }} || true"]).stdout
        found[what] = frozenset(COUNTERS.sub("", said).splitlines())
    words = ["sysctl", "-a", "--ignore", "-r", "^net\\."]
    said = lab.run(HOST, words, check=False).stdout
    found["sysctls"] = frozenset(
        line
        for line in said.splitlines()
        if not any(word in line.replace(".", "/") for word in MOVING)
    )
    return found


def assert_as_before(lab: Lab, before: Picture) -> None:
    left: list[str] = []

    def same() -> bool:
        now = picture(lab)
        left[:] = [
            f"{what}: {sign} {line}"
            for what in before
            for sign, one, other in (("+", now, before), ("-", before, now))
            for line in sorted(one[what] - other[what])
        ]
        return not left

    eventually("as before", same, left)


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """One host with nothing on it."""
    with made(unique("purge"), 1, bare=True) as lab:
        yield lab


@pytest.fixture(scope="module")
def before(bare: Lab) -> Picture:
    # What looking itself brings about (nft's and iptables' modules, sockets) is there already.
    picture(bare)
    return picture(bare)


def plait(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    done = lab.run(HOST, [*PLAIT, *words], check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_up_and_purge(bare: Lab, before: Picture) -> None:
    for _ in range(2):
        assert plait(bare, "up").returncode == 0
        assert picture(bare)["files"] != before["files"]
        load = workloads.run(bare, HOST, unique("load"), listen=("80/tcp",))
        done = plait(bare, "down", "--purge")
        assert done.returncode == 0, done.stderr
        workloads.kill(load)
        bare.state.workloads.clear()
        bare.run(HOST, ["rm", "-r", workloads.CONTROL])
        assert_as_before(bare, before)


def test_down_alone_keeps_the_traffic_and_purge_follows(bare: Lab, before: Picture) -> None:
    assert plait(bare, "up").returncode == 0
    assert plait(bare, "down").returncode == 0
    kept = picture(bare)
    assert any("plait.vx" in line for line in kept["links"]) or kept["nft"] != before["nft"]
    assert plait(bare, "down").returncode == 0, "twice is no error"
    assert plait(bare, "down", "--purge").returncode == 0
    assert plait(bare, "down", "--purge").returncode == 0, "twice is no error"
    assert_as_before(bare, before)


@pytest.mark.skipif(not shim.COMPILER, reason=shim.NO_COMPILER)
def test_purge_takes_the_cni_plugin_away(bare: Lab, before: Picture) -> None:
    """Not while containers are attached, whose removal needs it, unless that is wanted."""
    assert plait(bare, "up").returncode == 0
    assert plait(bare, "cni", "install").returncode == 0
    config = bare.run(HOST, ["cat", "/etc/cni/net.d/10-plait.conflist"]).stdout
    (plugin,) = json.loads(config)["plugins"]
    stdin = json.dumps({**plugin, "name": "plait", "cniVersion": "1.0.0"})
    bare.run(HOST, ["ip", "netns", "add", "c1"])
    call = ["CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/c1"]
    bare.run(HOST, ["env", *call, "/opt/cni/bin/plait"], stdin=stdin)
    done = plait(bare, "down", "--purge")
    assert "error[PLAIT-API-011]" in done.stderr
    assert plait(bare, "down", "--purge", "--force").returncode == 0
    bare.run(HOST, ["ip", "netns", "delete", "c1"])
    assert_as_before(bare, before)


def has_loaded(pid: int) -> bool:
    """A command has loaded what it is written with, or has ended: until then Python itself answers
    a signal, with a traceback."""
    try:
        return "msgspec" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("delay", [0.3, 0.8])
def test_ctrl_c_in_the_middle_of_up(bare: Lab, before: Picture, delay: float) -> None:
    """Twice, at a moment that the clock picks; then `up` goes on where it stood."""
    for _ in range(2):
        process = hosts.popen(
            bare.host(HOST),
            [*PLAIT, "up"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        inner = eventually("forked", lambda process=process: hosts.only_child(process.pid))
        eventually("our own code is loaded", lambda inner=inner: has_loaded(inner))
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            # A terminal sends it to the command, not to the daemons, which have their session.
            os.kill(inner, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err
        # Before and after its own code runs, Python leaves the signal to its default.
        assert process.returncode in (0, 130, -signal.SIGINT), (process.returncode, out, err)
    done = plait(bare, "down", "--purge")
    assert done.returncode == 0, done.stderr
    assert_as_before(bare, before)
    assert plait(bare, "up").returncode == 0
    assert plait(bare, "status").returncode == 0
    assert plait(bare, "down", "--purge").returncode == 0
    assert_as_before(bare, before)


def test_ctrl_c_in_the_middle_of_purge(bare: Lab, before: Picture) -> None:
    for delay in (0.3, 0.7):
        assert plait(bare, "up").returncode == 0
        process = hosts.popen(bare.host(HOST), [*PLAIT, "down", "--purge"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        inner = eventually("forked", lambda process=process: hosts.only_child(process.pid))
        eventually("our own code is loaded", lambda inner=inner: has_loaded(inner))
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(inner, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err
        done = plait(bare, "down", "--purge")
        assert done.returncode == 0, done.stderr
        assert_as_before(bare, before)


def test_a_killed_host_of_daemons_is_purged(bare: Lab, before: Picture) -> None:
    """Supervisor, server and agent killed at once: purge needs none of them."""
    assert plait(bare, "up").returncode == 0
    pids = [str(daemons.program_pid(bare, HOST, name)) for name in ("server", "agent")]
    pids.append(inside(bare, HOST, "/run/plait/supervisor.pid").read_text().strip())
    bare.run(HOST, ["kill", "-KILL", *reversed(pids)])
    done = plait(bare, "down", "--purge")
    assert done.returncode == 0, done.stderr
    assert_as_before(bare, before)


@pytest.mark.docker
def test_purge_beside_docker(docker_purge: Lab) -> None:
    lab = docker_purge
    # The first container makes directories of Docker's own.
    lab.run(HOST, ["docker", "run", "--rm", "--network", "none", image.NAME, "true"])
    before = picture(lab)
    networks = lab.run(HOST, ["docker", "network", "ls", "-q"]).stdout
    assert plait(lab, "up").returncode == 0

    def offered() -> bool:
        return "plait" in lab.run(HOST, ["docker", "network", "ls"]).stdout

    eventually("the network is offered", offered)
    run = ["docker", "run", "-d", "--name", "inmate", "--network", "plait", "-p", "8088:80"]
    started = lab.run(HOST, [*run, image.NAME, "sleep", "600"], check=False)
    assert started.returncode == 0, started.stderr
    refused = plait(lab, "down", "--purge")
    assert refused.returncode != 0
    assert "docker rm -f inmate" in refused.stderr
    lab.run(HOST, ["docker", "rm", "-f", "inmate"])
    done = plait(lab, "down", "--purge")
    assert done.returncode == 0, done.stderr
    assert_as_before(lab, before)
    assert lab.run(HOST, ["docker", "network", "ls", "-q"]).stdout == networks


@pytest.fixture
def docker_purge() -> Iterator[Lab]:
    with made(unique("purged"), 1, bare=True, docker=True) as lab:
        yield lab
