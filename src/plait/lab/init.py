"""PID 1 of a lab host: makes the namespaces it was born in look like a machine, then reaps.

Run by `hosts.boot` inside fresh mount, network, UTS, IPC, PID and cgroup namespaces, with the
host's description as JSON in argv[1]. It imports the standard library only, for it is resident
in every host. When it dies the kernel kills all of the host's processes: the power is off.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_REMOUNT_BIND, MS_BIND, MS_REC = 2, 4, 0x1020, 0x1000, 0x4000
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError that names the target."""
    if _libc.mount(source.encode(), target.encode(), fstype.encode(), flags, data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def umount(target: str) -> None:
    """umount2(2) with MNT_DETACH; raises OSError."""
    if _libc.umount2(target.encode(), MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def controllers() -> list[str]:
    """cgroup v1 hierarchies of this process, as mount names; empty on a unified host."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return [name for line in lines if (name := line.split(":")[1])]


def mount_cgroups() -> None:
    """The cgroup trees, seen from the host's own cgroup namespace."""
    names = controllers()
    if not names:
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        return
    mount("cgroup", "/sys/fs/cgroup", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for name in names:
        directory = Path("/sys/fs/cgroup", name.removeprefix("name="))
        directory.mkdir()
        # A named hierarchy has no controller; `none` says so (cgroup-v1/cgroups.rst).
        mount(
            "cgroup",
            str(directory),
            "cgroup",
            0,
            f"none,{name}" if name.startswith("name=") else name,
        )
    unified = Path("/sys/fs/cgroup/unified")
    unified.mkdir()
    mount("cgroup2", str(unified), "cgroup2")


def set_up(host: dict[str, object]) -> None:
    """Private mounts, host name, loopback; all of it invisible outside."""
    name = str(host["name"]).encode()
    _libc.sethostname(name, len(name))
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    umount("/sys")
    mount("sysfs", "/sys", "sysfs")
    mount_cgroups()
    mount("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for directory in ("/run/netns", "/run/lock"):
        Path(directory).mkdir()
    binds = host["binds"]
    assert isinstance(binds, dict)
    for target, source in binds.items():
        mount(source, target, "", MS_BIND)
    # Namespaces bound below /run by dockerd or `ip netns` must reach the host's other processes.
    mount("", "/", "", MS_REC | MS_SHARED)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> int:
    """Set up, say so on the file descriptor in argv[2], reap until told to stop."""
    host = json.loads(sys.argv[1])
    report = int(sys.argv[2])
    try:
        set_up(host)
    except (OSError, subprocess.CalledProcessError) as error:
        os.write(report, f"error {error}\n".encode())
        return 1
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop | {signal.SIGCHLD})
    os.write(report, b"ready\n")
    os.close(report)
    while True:
        # Reap before waiting: a child may have ended before SIGCHLD was blocked.
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        if signal.sigwait(stop | {signal.SIGCHLD}) in stop:
            return 0


if __name__ == "__main__":
    sys.exit(main())
