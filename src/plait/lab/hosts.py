"""Lab hosts: a set of namespaces held by one process, `init.main`, which is the host's PID 1.

A host is addressed by its PID 1 and that process's start time, so that a recycled pid is never
taken for a host. Killing PID 1 powers the host off: the kernel kills all that ran in it, and its
namespaces, links, mounts and rules go with it. What is on its private directories stays.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from plait.lab import init
from plait.lab.kubernetes import programs
from plait.lab.preflight import SEARCH
from plait.model.errors import PlaitError

NAMESPACES = ("-m", "-n", "-u", "-i", "-p", "-C")
BIN = str(Path(sys.executable).parent)
"""Where `plait` is installed, also when that is a virtual environment."""
PYTHON = sys.executable
"""What runs our own modules inside a host."""
PRIVATE = (
    "/var/lib/plait",
    "/var/log/plait",
    "/etc/plait",
    "/var/lib/docker",
    "/etc/docker",
    "/var/lib/containerd",
    "/etc/cni",
    "/opt/cni",
    "/var/lib/cni",
    "/etc/kubernetes",
    "/root/.kube",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/kubernetes",
    "/var/log/pods",
)
"""Directories of which every host has its own."""
FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


_left_running: list[subprocess.Popen[str]] = []
"""Children that outlive the call that started them, kept so that they are reaped in the end."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A host that was booted."""

    pid: int
    """PID 1 of the host, as seen from outside."""
    start: int
    """Its start time, clock ticks since boot (proc_pid_stat(5), field 22)."""
    cgroups: tuple[str, ...] = ()


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks; 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def alive(host: Running) -> bool:
    """The very process that was booted still runs."""
    return host.start != 0 and start_time(host.pid) == host.start


def own_cgroups(name: str) -> tuple[str, ...]:
    """A child `name` of each cgroup that this process is in (not yet made)."""
    found = []
    unified = Path("/sys/fs/cgroup/unified")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        if controller:
            root = Path("/sys/fs/cgroup", controller.removeprefix("name="))
        else:
            root = unified if unified.is_dir() else Path("/sys/fs/cgroup")
        parent = Path(f"{root}{path}")
        if parent.is_dir():
            found.append(str(parent / name))
    return tuple(found)


def make_cgroups(groups: Sequence[str]) -> None:
    """Make the host's cgroups, so that its daemons see a tree of their own."""
    for group in map(Path, groups):
        group.mkdir(exist_ok=True)
        if (group / "cpuset.cpus").exists():
            # A new cpuset (v1) is empty and takes no process until it has CPUs and memory.
            for key in ("cpuset.cpus", "cpuset.mems"):
                if not (group / key).read_text().strip():
                    (group / key).write_text((group.parent / key).read_text())


def enter_cgroups(groups: Sequence[str]) -> None:
    """Move this process into the cgroups; for the child between fork and exec."""
    pid = str(os.getpid())
    for group in groups:
        with open(f"{group}/cgroup.procs", "w") as file:  # noqa: PTH123 - after fork: no imports
            file.write(pid)


def remove_cgroups(groups: Sequence[str], patience: float = 5.0) -> list[str]:
    """Remove a host's cgroups depth first; returns those still busy after `patience` seconds.

    The kernel lets go of a cgroup a little after its last process died, and the far end of an
    nsenter may outlive the host by a moment: what is left in these groups is ours, and is killed.
    """
    deadline = time.monotonic() + patience
    while left := _remove_cgroups_once(groups):
        if time.monotonic() > deadline:
            break
        for group in left:
            _kill_members(Path(group))
        select.select([], [], [], 0.02)
    # A cgroup that could be removed has no live process: all of them can be collected now.
    reap()
    return left


def _remove_cgroups_once(groups: Sequence[str]) -> list[str]:
    left = []
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(directory)
    return left


def _kill_members(group: Path) -> None:
    try:
        members = (group / "cgroup.procs").read_text().split()
    except OSError:
        return
    for pid in members:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


def disk(directory: Path, path: str) -> Path:
    """Where a file or directory below one of `PRIVATE` is kept.

    `directory` is that of the host; `path` is absolute and as the host sees it.
    """
    top = next(top for top in PRIVATE if path == top or path.startswith(f"{top}/"))
    return directory / top.strip("/").replace("/", "-") / path[len(top) :].lstrip("/")


def prepare(directory: Path, name: str, resolver: str) -> dict[str, str]:
    """Make a host's private directories and files below `directory`.

    Returns the bind mounts, target to source; the targets exist or are the caller's to make.
    """
    binds: dict[str, str] = {}
    for target in PRIVATE:
        source = disk(directory, target)
        source.mkdir(parents=True, exist_ok=True)
        binds[target] = str(source)
    contents = {
        "/etc/hosts": f"127.0.0.1 localhost {name}\n::1 localhost\n",
        "/etc/hostname": f"{name}\n",
        "/etc/resolv.conf": f"nameserver {resolver}\n",
    }
    for target in FILES:
        if not Path(target).exists():
            continue
        file = directory / Path(target).name
        file.write_text(contents[target])
        binds[target] = str(file)
    return binds


def boot(name: str, binds: Mapping[str, str], cgroups: Sequence[str]) -> Running:
    """Start a host and wait until its PID 1 says that it is set up.

    Raises PlaitError PLAIT-LAB-005 with the reason when it does not come up.
    """
    read, write = os.pipe()
    description = json.dumps({"name": name, "binds": dict(binds)})
    try:
        unshare = subprocess.Popen(
            [
                "unshare",
                *NAMESPACES,
                "--fork",
                "--propagation",
                "private",
                sys.executable,
                "-I",
                "-S",
                init.__file__,
                description,
                str(write),
            ],
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={"PATH": SEARCH, "LANG": "C.UTF-8"},
            text=True,
            preexec_fn=lambda: enter_cgroups(cgroups),
        )
    finally:
        os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.readline().strip()
    if said != "ready":
        unshare.kill()
        unshare.wait()
        raise PlaitError(
            "PLAIT-LAB-005",
            f"lab host {name} did not come up",
            why=said or "its init died",
            fix=("plait lab down",),
        )
    leave_running(unshare)
    pid = only_child(unshare.pid)
    return Running(pid=pid, start=start_time(pid), cgroups=tuple(cgroups))


def leave_running(child: subprocess.Popen[str]) -> None:
    """Let a child live on; `reap` collects it once it has ended."""
    _left_running.append(child)


def reap() -> None:
    """Collect the children that have ended: a long-lived caller would keep them as zombies."""
    _left_running[:] = [child for child in _left_running if child.poll() is None]


def only_child(pid: int) -> int:
    """The process that unshare(1) or nsenter(1) forked to enter a pid namespace; 0 if none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0
    return int(children[0]) if children else 0


def power_off(host: Running) -> None:
    """Kill PID 1 and wait until the kernel has taken the rest down. No error if it is off."""
    if not alive(host):
        return
    pidfd = os.pidfd_open(host.pid)
    try:
        if alive(host):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _wait_dead(pidfd)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _wait_dead(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll(10_000)


def command(host: Running, argv: Sequence[str]) -> list[str]:
    """argv that runs `argv` inside a host, in its namespaces and with a clean environment."""
    return [
        "nsenter",
        "-t",
        str(host.pid),
        "-m",
        "-n",
        "-u",
        "-i",
        "-p",
        "-C",
        "--wd=/",
        "--",
        "env",
        "-i",
        f"PATH={BIN}:{SEARCH}:{programs.directory()}",
        "HOME=/root",
        "LANG=C.UTF-8",
        f"TERM={os.environ.get('TERM', 'dumb')}",
        *argv,
    ]


def popen(host: Running, argv: Sequence[str], **options: object) -> subprocess.Popen[str]:
    """Start a command inside a host; options as of subprocess.Popen."""
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        command(host, argv),
        text=True,
        preexec_fn=lambda: enter_cgroups(host.cgroups),
        **options,
    )


def run(
    host: Running,
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout: float = 60,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command inside a host and capture what it says.

    Raises subprocess.CalledProcessError (when `check`) or subprocess.TimeoutExpired.
    """
    return subprocess.run(
        command(host, argv),
        check=check,
        timeout=timeout,
        text=True,
        capture_output=True,
        input=stdin,
        preexec_fn=lambda: enter_cgroups(host.cgroups),
    )


def ip_batch(host: Running, lines: Sequence[str]) -> None:
    """Run `ip -batch` in a host's network namespace; raises PlaitError with ip's words."""
    done = subprocess.run(
        ["nsenter", "-t", str(host.pid), "-n", "--", "ip", "-batch", "-"],
        input="\n".join(lines) + "\n",
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise PlaitError(
            "PLAIT-LAB-005",
            "the lab's links could not be made",
            why=done.stderr.strip(),
            fix=("plait lab down",),
        )


def remove_private(directory: Path) -> None:
    """Remove a host's private directories."""
    shutil.rmtree(directory, ignore_errors=True)
