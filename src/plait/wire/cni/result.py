"""Results of CNI plugins: ours, and those of plugins before us in a list, in every version.

Specification 1.1.0 section 5; what earlier versions had otherwise as in libcni's
`pkg/types/{040,100}`: up to 0.4.0 an address tells its family, before 1.1.0 there are no MTU,
socket, PCI id and no properties of routes.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import msgspec

from plait.wire.cni.errors import DECODE_FAILURE, INCOMPATIBLE_VERSION, VERSIONS, CniError


def at_least(version: str, since: str) -> bool:
    """The version is `since` or a later one."""
    return VERSIONS.index(version) >= VERSIONS.index(since)


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Common options; unknown members are passed over, as libcni does."""


class Interface(Part, frozen=True, kw_only=True):
    """An interface that a plugin made or adjusted."""

    name: str
    mac: str = ""
    mtu: int = 0
    """Bytes. From 1.1.0 on, as are the two below `sandbox`."""
    sandbox: str = ""
    """Path of its network namespace; empty: the host's."""
    socket_path: str = ""
    pci_id: str = msgspec.field(name="pciID", default="")


class Ip(Part, frozen=True, kw_only=True):
    """An address of an interface."""

    address: str
    """With prefix length."""
    gateway: str = ""
    interface: int | None = None
    """Index in `Result.interfaces`."""


class Route(Part, frozen=True, kw_only=True):
    """A route inside the container. All but the first two from 1.1.0 on."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class Dns(Part, frozen=True, kw_only=True):
    """What the runtime is to write into resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(Part, frozen=True, kw_only=True):
    """The result of an ADD."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


def parse(raw: Any, version: str) -> Result:
    """A `prevResult`; `version` is that of the configuration, which holds where the result does
    not name its own."""
    if not isinstance(raw, dict):
        raise _unreadable("it is not an object")
    own = raw.get("cniVersion", version)
    if own not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            "prevResult is of a version that is not supported",
            f"cniVersion {own!r}; supported: {', '.join(VERSIONS)}",
        )
    try:
        # Go's nil slices arrive as null.
        given = {key: value for key, value in raw.items() if value is not None}
        result = msgspec.convert(given, Result)
        for ip in result.ips:
            ipaddress.ip_interface(ip.address)
            if ip.gateway:
                ipaddress.ip_address(ip.gateway)
        for route in result.routes:
            ipaddress.ip_network(route.dst, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise _unreadable(str(error)) from error
    for ip in result.ips:
        if ip.interface is not None and not 0 <= ip.interface < len(result.interfaces):
            raise _unreadable(f"{ip.address} is of interface {ip.interface}, which is not there")
    return result


def merge(previous: Result | None, ours: Result) -> Result:
    """Our part after that of the plugins before us, whose indexes stay as they are."""
    if previous is None:
        return ours
    offset = len(previous.interfaces)
    moved = tuple(
        msgspec.structs.replace(ip, interface=ip.interface + offset)
        if ip.interface is not None
        else ip
        for ip in ours.ips
    )
    return Result(
        interfaces=previous.interfaces + ours.interfaces,
        ips=previous.ips + moved,
        routes=previous.routes + ours.routes,
        dns=ours.dns if ours.dns != Dns() else previous.dns,
    )


def encode(result: Result, version: str) -> bytes:
    """The result as that version has it."""
    body: dict[str, Any] = {
        "cniVersion": version,
        "interfaces": [_member(interface, version) for interface in result.interfaces],
        "ips": [_ip(ip, version) for ip in result.ips],
        "routes": [_member(route, version) for route in result.routes],
        "dns": msgspec.to_builtins(result.dns),
    }
    return msgspec.json.encode(body)


SINCE_1_1: Final = frozenset(("mtu", "socketPath", "pciID", "advmss", "priority", "table", "scope"))


def _member(part: Part, version: str) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(part)
    if at_least(version, "1.1.0"):
        return members
    return {key: value for key, value in members.items() if key not in SINCE_1_1}


def _ip(ip: Ip, version: str) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(ip)
    if not at_least(version, "1.0.0"):
        members["version"] = "6" if ":" in ip.address else "4"
    return members


def _unreadable(why: str) -> CniError:
    return CniError(DECODE_FAILURE, "prevResult cannot be read", why)
