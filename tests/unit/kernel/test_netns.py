"""Network namespaces: their identity, and acting inside one."""

import os
import socket
from pathlib import Path

import pytest

from plait.kernel import netns
from plait.kernel.netlink import Netlink
from plait.kernel.netns import NamespaceGone
from plait.kernel.sysctl import KernelSysctl
from plait.wire import links as wl

pytestmark = pytest.mark.root


def test_a_new_namespace_is_another_and_the_thread_comes_back() -> None:
    before = netns.own_inode()
    fd = netns.create()
    try:
        inode = os.fstat(fd).st_ino
        assert inode != before
        with netns.inside(fd):
            assert netns.own_inode() == inode
        assert netns.own_inode() == before
        with pytest.raises(ZeroDivisionError), netns.inside(fd):
            raise ZeroDivisionError
        assert netns.own_inode() == before
        assert netns.inode_of(netns.fd_path(fd)) == inode
        assert netns.inode_of(netns.pid_path(os.getpid())) == before
    finally:
        os.close(fd)


def test_a_socket_stays_in_its_namespace() -> None:
    fd = netns.create()
    made = netns.ns_socket(fd, socket.AF_INET, socket.SOCK_DGRAM)
    os.close(fd)
    with made, pytest.raises(OSError, match="unreachable"):
        made.connect(("127.0.0.1", 9))


def test_what_is_no_namespace_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path / "none", fifo, tmp_path, "/proc/self/ns/mnt", "/dev/null"):
        with pytest.raises(NamespaceGone):
            netns.open_netns(str(path))
    own = netns.own_inode()
    with pytest.raises(NamespaceGone, match=f"inode {own}, was 5"):
        netns.open_netns("/proc/self/ns/net", 5)


def test_a_name_is_given_and_taken_away() -> None:
    name = f"plait-test-{os.getpid()}"
    fd = netns.create()
    try:
        path = netns.bind(fd, name)
        try:
            assert netns.inode_of(str(path)) == os.fstat(fd).st_ino
        finally:
            netns.unbind(name)
        assert not path.exists()
        netns.unbind(name)
    finally:
        os.close(fd)


def test_settings_are_those_of_the_namespace() -> None:
    fd = netns.create()
    try:
        door = KernelSysctl(fd)
        before = KernelSysctl().read("net/ipv4/conf/lo/tag")
        door.write("net/ipv4/conf/lo/tag", "7")
        assert door.read("net/ipv4/conf/lo/tag") == "7"
        assert KernelSysctl().read("net/ipv4/conf/lo/tag") == before
        with pytest.raises(OSError, match="Invalid argument"):
            door.write("net/ipv4/conf/lo/tag", "seven")
    finally:
        os.close(fd)


def test_doors_leak_no_descriptor() -> None:
    fd = netns.create()
    try:
        path = netns.fd_path(fd)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            door = Netlink()
            with door.open(path) as there:
                assert there.netlink.index("lo") == 1
                there.netlink.clone().close()
            with pytest.raises(NamespaceGone):
                door.open(path, 5)
            door.subscribe().close()
            door.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        os.close(fd)


def test_a_batch_larger_than_a_send() -> None:
    fd = netns.create()
    door = Netlink(fd)
    try:
        results = door.execute([wl.set_link(1, up=bool(n % 2)) for n in range(1001)])
        assert results == [None] * 1001
        assert not door.links()[0].up
        assert door.execute([]) == []
    finally:
        door.close()
        os.close(fd)
