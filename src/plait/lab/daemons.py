"""Daemons in lab hosts: Plait itself, brought up as a user would, and real dockerds."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from plait.client.polling import poll
from plait.lab import hosts, image, topology
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT
from plait.model.errors import PlaitError

FIRST = "h1"
"""The host that runs the server."""
DOCKERD_PID = "/run/dockerd.pid"
IMAGE_FILE = "image.tar"


def wait_for(
    what: str,
    ready: Callable[[], bool],
    seconds: float = 30,
    *,
    every: float = 0.05,
    logs: Callable[[], str] = lambda: "",
) -> None:
    """Poll until `ready()`; PLAIT-LAB-005 that names what did not come, and what `logs` finds."""
    if not poll(ready, seconds=seconds, every=every):
        raise PlaitError(
            "PLAIT-LAB-005",
            f"{what} did not come up within {seconds:.0f} s",
            why=logs(),
            fix=("plait lab status", "plait lab down"),
        )


def on_each(names: Sequence[str], task: Callable[[str], object]) -> None:
    """Run the task for all names at once; raise the first error after all have ended."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        for future in [pool.submit(task, name) for name in names]:
            future.result()


def start_upstream(lab: Lab) -> None:
    """The DNS server on the router."""
    addresses = [f"100.64.{site}.1" for site in lab.plan.bridges]
    read, write = os.pipe()
    try:
        child = hosts.popen(
            lab.host(topology.ROUTER),
            [sys.executable, "-m", "plait.lab.upstream", str(write), *addresses],
            pass_fds=(write,),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(write)
    hosts.leave_running(child)
    with os.fdopen(read) as pipe:
        if not pipe.readline():
            raise PlaitError("PLAIT-LAB-005", "the lab's upstream resolver did not start")


def plait(lab: Lab, host: str, *argv: str, timeout: float = 60) -> str:
    """`plait …` on a host; PLAIT-LAB-006 with what it and the daemons said when it fails."""
    done = lab.run(host, [*PLAIT, *argv], check=False, timeout=timeout)
    if done.returncode:
        raise PlaitError(
            "PLAIT-LAB-006",
            f"`plait {argv[0]}` failed on {host}",
            why=(done.stderr.strip() or done.stdout.strip())[-2000:] + _logs(lab, host),
            fix=(f"plait lab up --name {lab.name} --bare", "plait lab down"),
        )
    return done.stdout


def _logs(lab: Lab, host: str) -> str:
    """The last lines of a host's logs: they go away with a lab that did not come up."""
    tails = []
    for log in sorted((lab.directory / host / "var-log-plait").glob("*.log")):
        last = log.read_text(errors="replace").splitlines()[-8:]
        tails += [f"    {log.stem}: {line}" for line in last]
    return "".join(f"\n{line}" for line in tails)


def start_plait(lab: Lab) -> None:
    """`plait up` on the first host, `plait join` on the others; all ready when it returns."""
    first = lab.plan.hosts[FIRST]
    balancers = [f"--load-balancer-pool={pool}" for pool in topology.LOAD_BALANCERS]
    plait(lab, FIRST, "up", "--encap", lab.state.encap, *_site(lab, FIRST), *balancers)
    others = [name for name in lab.plan.machines if name != FIRST]
    if not others:
        return
    token = json.loads(plait(lab, FIRST, "token", "create", "--json"))["token"]
    server = first.interface.address4.partition("/")[0]
    joined = ("join", server, "--token", token)
    on_each(others, lambda name: plait(lab, name, *joined, *_site(lab, name)))


def _site(lab: Lab, host: str) -> tuple[str, str]:
    return "--site", f"site{lab.plan.hosts[host].site}"


def resume_plait(lab: Lab, host: str) -> None:
    """Start Plait again on a host that was powered on with its old disk."""
    plait(lab, host, "up")


def has_plait(lab: Lab, host: str) -> bool:
    """Plait was brought up on this host's disk at some time."""
    return (lab.directory / host / "var-lib-plait" / "agent.json").exists()


SUPERVISOR: Final = "/run/plait/supervisor.sock"


def steer(
    lab: Lab, host: str, verb: str, program: str = "", *, supervisor: str = SUPERVISOR
) -> Any:
    """An order to a supervisor of the host (`plait.cli.supervisor`), and its answer.

    `supervisor` is the path of its socket inside. Raises PLAIT-LAB-005 when there is none or it
    refuses.
    """
    path = f"/proc/{lab.host(host).pid}/root{supervisor}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        try:
            sock.connect(path)
            sock.sendall(json.dumps({"verb": verb, "name": program}).encode() + b"\n")
            with sock.makefile("rb") as reader:
                answer = json.loads(reader.readline())
        except (OSError, ValueError) as error:
            answer = {"error": str(error)}
    if "error" in answer:
        raise PlaitError(
            "PLAIT-LAB-005",
            f"the supervisor of {host} does not {verb} {program}".rstrip(),
            why=answer["error"],
            fix=(f"plait lab exec --name {lab.name} {host} -- plait up",),
        )
    return answer


def program_pid(lab: Lab, host: str, program: str, *, supervisor: str = SUPERVISOR) -> int:
    """Pid, inside the host, of a program of that supervisor; 0 when it does not run."""
    programs = steer(lab, host, "status", supervisor=supervisor)["programs"]
    return next((int(p["pid"]) for p in programs if p["name"] == program), 0)


# Docker


def start_docker(lab: Lab, host: str) -> None:
    """A dockerd of the host's own, with an image made of busybox and the network `plait`."""
    running = lab.host(host)
    argv = [
        "dockerd",
        "--data-root",
        "/var/lib/docker",
        "--exec-root",
        "/run/docker-exec",
        "-p",
        DOCKERD_PID,
        "-H",
        "unix:///var/run/docker.sock",
        "--log-level",
        "warn",
    ]
    if lab.state.live_restore:
        argv.append("--live-restore")
    with (lab.directory / f"{host}-dockerd.log").open("a") as log:
        child = hosts.popen(
            running,
            argv,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    hosts.leave_running(child)
    wait_for(f"dockerd on {host}", lambda: _docker_answers(lab, host))
    if image.NAME not in lab.run(host, ["docker", "images", "--format", "{{.Repository}}"]).stdout:
        file = str(lab.directory / IMAGE_FILE)
        lab.run(host, ["docker", "import", "--change", 'CMD ["sh"]', file, image.NAME])
    if has_plait(lab, host):
        wait_for(f"the network plait of dockerd on {host}", lambda: _network_offered(lab, host))


def _docker_answers(lab: Lab, host: str) -> bool:
    return lab.run(host, ["docker", "version"], check=False).returncode == 0


def _network_offered(lab: Lab, host: str) -> bool:
    argv = ["docker", "network", "ls", "--quiet", "--filter", "name=^plait$"]
    return bool(lab.run(host, argv, check=False).stdout.strip())


def docker_pid(lab: Lab, host: str) -> int:
    """Pid of dockerd inside the host; 0 when there is none."""
    text = lab.run(host, ["cat", DOCKERD_PID], check=False).stdout.strip()
    return int(text) if text.isdigit() else 0


def stop_docker(lab: Lab, host: str, sig: int = signal.SIGTERM) -> None:
    """Stop a host's dockerd and wait until it has gone."""
    pid = docker_pid(lab, host)
    if not pid:
        return
    lab.run(host, ["kill", f"-{sig}", str(pid)], check=False)
    wait_for(
        f"end of dockerd on {host}",
        lambda: lab.run(host, ["kill", "-0", str(pid)], check=False).returncode != 0,
    )
    lab.run(host, ["rm", "-f", DOCKERD_PID])


def start_dockers(lab: Lab) -> None:
    """dockerd on every host that is to have one, side by side."""
    image.write(lab.directory / IMAGE_FILE)
    on_each(lab.dockers, lambda name: start_docker(lab, name))
