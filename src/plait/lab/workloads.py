"""Workloads of a lab from outside: start, attach, remove, and send their probers out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from plait.lab import hosts
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.model.errors import PlaitError

CONTROL = "/run/plait-lab"
"""Directory of the control sockets, inside a host."""
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""DNS label (RFC 1123 2.1), lower case."""
WORKLOAD = (sys.executable, "-m", "plait.lab.workload")
PLAIT = (sys.executable, "-m", "plait")
"""The command line, as a lab host calls it."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One probe to send."""

    ip: str
    """Address or name."""
    port: int
    proto: str
    family: Literal[0, 4, 6] = 0
    """Of the address that a name is to give; 0 for any."""
    timeout: float = 1.0
    """Seconds."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a probe: `connected`, `refused`, `timed out` or `unknown name`."""

    result: str
    peer: str = ""
    """Who answered, where the protocol lets him say."""
    detail: str = ""


class Answer(msgspec.Struct, frozen=True):
    """All results of one exchange, in the order of the orders."""

    results: tuple[Result, ...]


def find(lab: Lab, name: str) -> WorkloadState:
    """A workload by `name`, `host/name`, `namespace/name` or `host/namespace/name`.

    Raises PLAIT-LAB-004 when there is none or more than one.
    """
    loads = lab.state.workloads
    found = [load for key, load in loads.items() if name in _names(key, load)]
    if len(found) != 1:
        known = ", ".join(sorted(loads)) or "none"
        word = "there is no" if not found else "more than one"
        raise PlaitError(
            "PLAIT-LAB-004",
            f'{word} workload "{name}"',
            where=f"lab {lab.name}",
            why=f"workloads: {known}",
            fix=("plait lab status",),
        )
    return found[0]


def _names(key: str, load: WorkloadState) -> tuple[str, ...]:
    return (load.name, f"{load.host}/{load.name}", f"{load.namespace}/{load.name}", key)


def control(load: WorkloadState) -> str:
    """Path of the control socket inside the host; short, for sun_path holds 108 bytes."""
    digest = hashlib.sha256(f"{load.namespace}/{load.name}".encode()).hexdigest()[:16]
    return f"{CONTROL}/{digest}.sock"


def start(
    lab: Lab, host: str, name: str, listen: Sequence[str], namespace: str = "default"
) -> WorkloadState:
    """Start a workload that is attached to nothing yet, and that the lab does not remember.

    Raises PlaitError PLAIT-LAB-005 when it does not come up.
    """
    running = lab.host(host)
    load = WorkloadState(
        name=name,
        namespace=namespace,
        host=host,
        pid=0,
        start=0,
        inner_pid=0,
        listen=tuple(listen),
    )
    hosts.run(running, ["mkdir", "-p", CONTROL])
    log = (lab.directory / f"{host}-{namespace}-{name}.log").open("w")
    read, write = os.pipe()
    try:
        child = hosts.popen(
            running,
            [*WORKLOAD, name, control(load), str(write), *listen],
            pass_fds=(write,),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    finally:
        log.close()
        os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.readline().strip()
    if not said:
        child.wait()
        words = Path(log.name).read_text().strip().splitlines()
        raise PlaitError(
            "PLAIT-LAB-005",
            f"workload {name} on {host} did not start",
            why=words[-1] if words else "it said nothing",
        )
    hosts.leave_running(child)
    outer = hosts.only_child(child.pid)
    return msgspec.structs.replace(
        load, pid=outer, start=hosts.start_time(outer), inner_pid=int(said)
    )


def run(
    lab: Lab,
    host: str,
    name: str,
    *,
    namespace: str = "default",
    network: str = "plait",
    labels: Sequence[str] = (),
    addresses: Sequence[str] = (),
    listen: Sequence[str] = (),
    port_names: Sequence[str] = (),
) -> WorkloadState:
    """Start a workload and attach it through the host's agent; all or nothing."""
    for word in (name, namespace):
        if not LABEL.fullmatch(word):
            raise PlaitError(
                "PLAIT-NAME-001",
                f"{word[:80]!r} cannot name a workload or a namespace",
                why="a name has letters a-z, digits and hyphens, at most 63",
            )
    key = f"{host}/{namespace}/{name}"
    if key in lab.state.workloads:
        raise PlaitError(
            "PLAIT-LAB-003",
            f"workload {name} runs on {host} already",
            fix=(f"plait lab rm --name {lab.name} {host} {name}",),
        )
    load = start(lab, host, name, listen, namespace)
    try:
        argv = [
            *PLAIT,
            "attach",
            str(load.inner_pid),
            "--name",
            name,
            "--namespace",
            namespace,
            "--network",
            network,
            "--json",
        ]
        for label in labels:
            argv += ["--label", label]
        for address in addresses:
            argv += ["--ip", address]
        for port in port_names:
            argv += ["--port-name", port]
        done = lab.run(host, argv, check=False)
        if done.returncode:
            raise PlaitError(
                "PLAIT-LAB-005",
                f"workload {name} on {host} could not be attached",
                why=done.stderr.strip() or done.stdout.strip(),
            )
        endpoint = json.loads(done.stdout)
    except BaseException:
        kill(load)
        raise
    load = msgspec.structs.replace(
        load,
        endpoint=endpoint["id"],
        addresses=tuple(endpoint["addresses"]),
        network=network,
        port_names=tuple(port_names),
    )
    lab.state.workloads[key] = load
    lab.save()
    return load


def kill(load: WorkloadState) -> None:
    """End a workload's process; no error if it is gone."""
    if load.start and hosts.start_time(load.pid) == load.start:
        os.kill(load.pid, signal.SIGKILL)


def remove(lab: Lab, load: WorkloadState) -> None:
    """Detach a workload and end it."""
    if load.endpoint:
        lab.run(load.host, [*PLAIT, "detach", load.endpoint], check=False)
    kill(load)
    lab.state.workloads = {
        key: other for key, other in lab.state.workloads.items() if other != load
    }
    lab.save()


def probe(lab: Lab, load: WorkloadState, orders: Sequence[Order]) -> tuple[Result, ...]:
    """Send probes out of a workload, all at once; results in the same order."""
    if not orders:
        return ()
    # The socket lives in the host's /run; its root is reached through PID 1.
    path = f"/proc/{lab.host(load.host).pid}/root{control(load)}"
    deadline = time.monotonic() + max(order.timeout for order in orders) + 10
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(deadline - time.monotonic())
        sock.connect(path)
        sock.sendall(msgspec.json.encode({"probes": orders}) + b"\n")
        with sock.makefile("rb") as reader:
            line = reader.readline()
    return msgspec.json.decode(line, type=Answer).results
