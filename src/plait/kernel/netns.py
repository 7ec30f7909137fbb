"""Network namespaces: opening them, telling them apart, acting inside one (man 7 namespaces).

`inside` switches the calling thread and back in about 10 µs. Nothing may be awaited between:
the agent's loop would go on in the wrong namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CLONE_NEWNET: Final = 0x40000000
_NS_GET_NSTYPE: Final = 0xB703
_SELF: Final = "/proc/thread-self/ns/net"
_libc: Final = ctypes.CDLL(None, use_errno=True)


class NamespaceGone(Exception):
    """The path leads to no network namespace, or to another one than it did."""


def open_netns(path: str, inode: int = 0) -> int:
    """A descriptor of the namespace, to be closed by the caller.

    Raises NamespaceGone when there is no such path, when it is not a network namespace (a
    mount point that was left behind), or when `inode` is given and differs.
    """
    try:
        # Never blocks, should the path be a FIFO by malice.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as problem:
        raise NamespaceGone(f"{path}: {problem.strerror}") from problem
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    found = os.fstat(fd).st_ino
    if kind == CLONE_NEWNET and (not inode or inode == found):
        return fd
    os.close(fd)
    if kind != CLONE_NEWNET:
        raise NamespaceGone(f"{path} is not a network namespace")
    raise NamespaceGone(f"{path} is another namespace now (inode {found}, was {inode})")


def inode_of(path: str) -> int:
    """Inode of the namespace behind a path: its identity while anything holds it."""
    fd = open_netns(path)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def own_inode() -> int:
    """Inode of the calling thread's namespace."""
    return os.stat(_SELF).st_ino  # noqa: PTH116 - a Path would cost more than the call


def pid_path(pid: int) -> str:
    """Path of a process's namespace."""
    return f"/proc/{pid}/ns/net"


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


@contextmanager
def inside(fd: int | None) -> Iterator[None]:
    """The calling thread is in that namespace for the block; None: it stays where it is."""
    if fd is None:
        yield
        return
    back = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            yield
        finally:
            _setns(back)
    finally:
        os.close(back)


def ns_socket(fd: int | None, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that belongs to that namespace for its life, close-on-exec."""
    with inside(fd):
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)


def create() -> int:
    """A new namespace that lives as long as the descriptor, or something inside it, does."""
    back = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"unshare: {os.strerror(code)}")
        try:
            return os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _setns(back)
    finally:
        os.close(back)


def fd_path(fd: int) -> str:
    """A path that leads to the namespace while this process holds the descriptor."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def bind(fd: int, name: str) -> Path:
    """Give the namespace a name under /run/netns, as `ip netns attach` does."""
    directory = Path("/run/netns")
    directory.mkdir(exist_ok=True)
    target = directory / name
    target.touch(exist_ok=False)
    if _libc.mount(fd_path(fd).encode(), bytes(target), b"none", 0x1000, None) != 0:
        code = ctypes.get_errno()
        target.unlink()
        raise OSError(code, f"mount: {os.strerror(code)}", str(target))
    return target


def unbind(name: str) -> None:
    """Take the name away; no error when there is none."""
    target = Path("/run/netns") / name
    _libc.umount2(bytes(target), 2)
    target.unlink(missing_ok=True)
