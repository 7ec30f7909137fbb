"""What the rtnetlink programmers share: steps that print and act, names, failures."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, Protocol

from plait.agent.programmers.base import Failure, Op
from plait.kernel.netlink import Rtnetlink
from plait.kernel.sysctl import Sysctl
from plait.model import marks
from plait.wire import links as wl
from plait.wire import rtnetlink as rt
from plait.wire.netlink import NetlinkError

HOST_LINK: Final = re.compile(r"pl[0-9a-f]{11}")
"""Names that `marks.host_ifname` gives."""
TUNNEL_PREFIX: Final = "plait."
GONE: Final = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})
"""A deletion that ends in one of these found nothing: that is what it wanted."""

ForgetLink = Callable[[str], None]
"""Told the name of a link whose addresses, routes and neighbours went with it."""


class Step(NamedTuple):
    """One command: as it is typed, and as it is sent."""

    text: str
    message: bytes


class Seen(Protocol):
    """What is known of a link that is there."""

    @property
    def index(self) -> int:
        """Interface index."""
        ...

    @property
    def up(self) -> bool:
        """Administratively up."""
        ...

    @property
    def addrgen_none(self) -> bool:
        """The kernel makes no link-local address by itself."""
        ...

    @property
    def addresses(self) -> AbstractSet[str]:
        """All of its addresses, with prefix length."""
        ...

    @property
    def surplus(self) -> AbstractSet[str]:
        """Addresses that the kernel or we put there; others are a person's."""
        ...


def settle(name: str, addresses: Sequence[str], have: Seen) -> list[Step]:
    """What puts a link up with its addresses and no other of ours.

    The kernel's own link-local address is turned off first: it comes with `up`.
    """
    index = have.index
    steps: list[Step] = []
    if not have.addrgen_none:
        text = f"ip link set {name} addrgenmode none"
        steps.append(Step(text, wl.set_link(index, addrgen_none=True)))
    if not have.up:
        steps.append(Step(f"ip link set {name} up", wl.set_link(index, up=True)))
    for address in addresses:
        if address not in have.addresses:
            nodad = " nodad" if ":" in address else ""
            text = f"ip address add {address} dev {name}{nodad} proto {marks.PROTOCOL}"
            steps.append(Step(text, rt.new_address(index, address, marks.PROTOCOL)))
    for address in sorted(have.surplus - set(addresses)):
        text = f"ip address del {address} dev {name}"
        steps.append(Step(text, rt.del_address(index, address)))
    return steps


def has_own_programmer(link: str) -> bool:
    """Addresses of this link belong to the links' or the tunnels' programmer."""
    return bool(HOST_LINK.fullmatch(link)) or link.startswith(TUNNEL_PREFIX)


def describe(problem: OSError) -> str:
    """`File exists (EEXIST)`, or the kernel's own words where it gave some."""
    if isinstance(problem, NetlinkError):
        return str(problem)
    code = errno.errorcode.get(problem.errno or 0, str(problem.errno))
    return f"{problem.strerror or problem} ({code})"


def refused(op: Op, problem: OSError, at: str = "") -> Failure:
    """The failure of an op; `at` is the command that the kernel refused."""
    text = f"{at}: {describe(problem)}" if at else describe(problem)
    return Failure(op=op, error=text, errno=problem.errno or 0)


def run(
    netlink: Rtnetlink, sysctl: Sysctl | None, link: str, steps: Sequence[Step]
) -> tuple[Step, NetlinkError] | None:
    """Carry out steps on a link; the first that was refused, None when all is done.

    EACCES is IPv6's way to say that it is turned off on a link: hosts are hardened so, and
    Docker does it to every namespace. It is then turned on for our link alone.
    """
    results = netlink.execute([step.message for step in steps])
    refused = [pair for pair in zip(steps, results, strict=True) if pair[1] is not None]
    off = [step for step, problem in refused if problem and problem.code == errno.EACCES]
    if off and sysctl and sysctl.read(f"net/ipv6/conf/{link}/disable_ipv6") == "1":
        sysctl.write(f"net/ipv6/conf/{link}/disable_ipv6", "0")
        steps = [step for step, _ in refused]
        results = netlink.execute([step.message for step in steps])
    for step, problem in zip(steps, results, strict=True):
        if problem is not None:
            return step, problem
    return None


class Indexes:
    """Interface indexes by name for the length of one `apply`."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self._known: dict[str, int] = {}

    def __call__(self, link: str) -> int:
        """The index; 0 when there is no such link."""
        found = self._known.get(link)
        if found is None:
            found = self._known[link] = self._netlink.index(link)
        return found


class Names:
    """Interface names by index for the length of one `observe`."""

    def __init__(self, netlink: Rtnetlink) -> None:
        self._netlink = netlink
        self._known: dict[int, str] = {0: ""}

    def __call__(self, index: int) -> str:
        """The name; empty when there is no such link."""
        found = self._known.get(index)
        if found is None:
            found = self._known[index] = self._netlink.name(index)
        return found


def no_link(op: Op, link: str) -> Failure:
    """The op needs a link that is not there (yet)."""
    return Failure(op=op, error=f"there is no link {link}", errno=errno.ENODEV)
