"""Are the words of a request fit to become names? Pure; refusals say what would be."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from plait.client.agent import AttachRequest, Bandwidth
from plait.ipam.pool import parse, text
from plait.model import portnames, syntax
from plait.model.errors import PlaitError

ID: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123 section 2.1), lower case."""
ALIAS_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
"""A label of an alias: `_` too, as Docker allows it."""
IFNAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
"""Narrower than the kernel's dev_valid_name, which takes anything but space and slash."""
NO_IFNAMES: Final = frozenset((".", "..", "lo", "all", "default"))
"""The loopback, and names of directories below net/ipv6/conf (addrconf_sysctl_register)."""
MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

LOWEST_RATE: Final = 1000
"""Bits a second, as Kubernetes' annotations: with less, one packet takes minutes."""
HIGHEST_RATE: Final = (1 << 64) - 1
"""Bits a second: the largest that CNI can say."""
HIGHEST_BURST: Final = (1 << 64) - 1
"""Bits: likewise. The kernel can do with fewer (desired.shapers)."""
RATES: Final = f"bits a second, from {LOWEST_RATE} to 2^64 - 1, or 0 for no limit"
BURSTS: Final = "bits up to 2^64 - 1, and a rate with it"


def check_request(request: AttachRequest) -> None:
    """Raises PLAIT-API-002 or PLAIT-NAME-001."""
    if not ID.fullmatch(request.id):
        raise _invalid("id", request.id, "1 to 64 of a-z, 0-9, '.' and '-'")
    if not IFNAME.fullmatch(request.ifname) or request.ifname in NO_IFNAMES:
        raise _invalid(
            "ifname",
            request.ifname,
            "1 to 15 of letters, digits, '_', '.', ':' and '-', and not lo, all or default",
        )
    if request.mac and not _is_unicast(request.mac):
        raise _invalid("mac", request.mac, "a unicast MAC such as 02:42:ac:11:00:02")
    if request.netns and (not request.netns.startswith("/") or "\0" in request.netns):
        raise _invalid("netns", request.netns, "an absolute path")
    for port in request.ports:
        if not (1 <= port.port <= 65535 and 0 <= port.host_port <= 65535):
            raise _invalid("ports", f"{port.host_port}:{port.port}", "port numbers up to 65535")
    for cidr in request.ranges:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise _invalid("ranges", cidr, "a CIDR without host bits") from error
    if request.bandwidth is not None:
        _check_bandwidth(request.bandwidth)
    portnames.check(request.named_ports, "namedPorts")
    check_identity(request.name, request.aliases, request.namespace)


def _is_unicast(mac: str) -> bool:
    return bool(MAC.fullmatch(mac)) and not int(mac[:2], 16) & 1 and mac != syntax.NO_MAC


def _check_bandwidth(bandwidth: Bandwidth) -> None:
    for way in ("ingress", "egress"):
        rate, burst = getattr(bandwidth, f"{way}_rate"), getattr(bandwidth, f"{way}_burst")
        if rate and not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise _invalid("bandwidth", f"{way}_rate {rate}", RATES)
        if not 0 <= burst <= HIGHEST_BURST or (burst and not rate):
            raise _invalid("bandwidth", f"{way}_burst {burst}", BURSTS)


def canonical(address: str) -> str:
    """The address in its canonical text; PLAIT-IPAM-011 when it is none."""
    try:
        return text(*parse(address.partition("/")[0]))
    except ValueError as error:
        raise PlaitError("PLAIT-IPAM-011", f"{address!r} is not an IP address") from error


def check_identity(name: str, aliases: tuple[str, ...], namespace: str) -> None:
    """Raises PLAIT-NAME-001."""
    for what, label in (("namespace", namespace), *((("name", name),) if name else ())):
        if not LABEL.fullmatch(label):
            raise PlaitError(
                "PLAIT-NAME-001",
                f"the {what} {label[:80]!r} is not a DNS label",
                why="a label has 1 to 63 of a-z, 0-9 and '-', and no '-' at its ends (RFC 1123)",
                fix=(f"choose a {what} such as web-1",),
            )
    for alias in aliases:
        if len(alias) > 253 or not all(map(ALIAS_LABEL.fullmatch, alias.split("."))):
            raise PlaitError(
                "PLAIT-NAME-001",
                f"the alias {alias[:80]!r} is not a DNS name",
                why="it has labels of 1 to 63 of a-z, 0-9, '-' and '_', joined by dots",
                fix=("choose an alias such as web-1 or my_web.shop",),
            )


def _invalid(field: str, value: str, expected: str) -> PlaitError:
    return PlaitError(
        "PLAIT-API-002",
        f"{field} {value[:80]!r} is not valid",
        why=f"expected: {expected}",
    )
