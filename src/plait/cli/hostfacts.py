"""Read what preflight judges: routes, addresses, resolvers, Docker's pools, kernel features."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from plait.cli.preflight import DOCKER_DEFAULT_POOLS, Feature, HostFacts, Use
from plait.model import marks
from plait.model.paths import Paths

PROGRAMS: Final = (("ip", "iproute2"), ("unshare", "util-linux"))
"""Programs that preflight itself needs, and their Debian packages."""

_PROBES: Final = (
    ("veth", ("type", "veth", "peer", "name", "plprobe1"), "endpoints", True),
    ("vxlan", ("type", "vxlan", "id", "1", "dstport", "4789"), "hosts on other subnets", False),
)
"""(link type, words of `ip link add`, what for, required)."""


def _ip(*words: str) -> list[dict[str, Any]]:
    """Parsed output of `ip -json …`; empty when it fails (no IPv6, for example)."""
    done = subprocess.run(["ip", "-json", *words], capture_output=True, check=False)
    try:
        parsed = json.loads(done.stdout or b"[]")
    except ValueError:
        return []
    return [entry for entry in parsed if entry]


def _route_uses() -> Iterator[Use]:
    for family in ("-4", "-6"):
        for route in _ip(family, "route", "show", "table", "all"):
            dst = route.get("dst", "default")
            if dst == "default" or str(route.get("protocol")) == str(marks.PROTOCOL):
                continue
            if route.get("type", "unicast") in {"local", "broadcast", "anycast", "multicast"}:
                continue
            if ipaddress.ip_network(dst, strict=False).is_link_local:
                continue
            dev = route.get("dev", "")
            yield Use(dst, f"the route {dst}" + (f" dev {dev}" if dev else ""))


def _links() -> Iterator[tuple[str, str, bool]]:
    """(interface, address/len, ours) of every global address."""
    for link in _ip("address", "show"):
        ours = link.get("ifname", "").startswith("pl") and link.get("group") == str(
            marks.LINK_GROUP
        )
        for entry in link.get("addr_info", ()):
            address = f"{entry['local']}/{entry['prefixlen']}"
            yield link["ifname"], address, ours or str(entry.get("protocol")) == str(marks.PROTOCOL)


def _resolvers(resolv_conf: Path) -> tuple[str, ...]:
    """Name servers of a resolv.conf(5)."""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    words = (line.split() for line in lines)
    return tuple(w[1] for w in words if len(w) > 1 and w[0] == "nameserver")


def real_resolvers(paths: Paths) -> tuple[str, ...]:
    """Name servers of the host; behind systemd-resolved's stub those that it asks, as dockerd
    takes them (moby, libnetwork/resolvconf: alternate path for 127.0.0.53)."""
    found = _resolvers(paths.resolv_conf)
    if found == ("127.0.0.53",):
        return _resolvers(paths.root / "run/systemd/resolve/resolv.conf") or found
    return found


def _resolver_uses(resolv_conf: Path) -> Iterator[Use]:
    for text in _resolvers(resolv_conf):
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            continue
        if not address.is_loopback and not address.is_link_local:
            yield Use(f"{address}/{address.max_prefixlen}", f"the resolver {address}")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=2)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def docker_get(paths: Paths, path: str) -> Any:
    """The parsed answer of the Docker API, or None when no Docker answers."""
    connection = _UnixConnection(paths.docker_socket)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _docker_settings(paths: Paths) -> dict[str, Any]:
    """daemon.json; empty when there is none that dockerd could read."""
    try:
        settings = json.loads((paths.root / "etc/docker/daemon.json").read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _docker_uses(paths: Paths) -> Iterator[Use]:
    networks = docker_get(paths, "/networks")
    for network in networks or ():
        if network.get("Driver") == "plait":
            continue
        for config in (network.get("IPAM") or {}).get("Config") or ():
            if subnet := config.get("Subnet"):
                yield Use(subnet, f"the pool {subnet} of the Docker network `{network['Name']}`")
    if networks is None and shutil.which("dockerd") is None:
        return
    configured = _docker_settings(paths).get("default-address-pools")
    bases = [str(pool.get("base")) for pool in configured or ()] or DOCKER_DEFAULT_POOLS
    for base in bases:
        yield Use(base, f"the pool {base} from which Docker makes networks", proposed=True)


def _valid(uses: Iterable[Use]) -> Iterator[Use]:
    for use in uses:
        try:
            ipaddress.ip_network(use.cidr, strict=False)
        except ValueError:
            continue
        yield use


def _default_device() -> str:
    for family in ("-4", "-6"):
        for route in _ip(family, "route", "show", "default"):
            if dev := route.get("dev"):
                return str(dev)
    return ""


def _nftables_present() -> bool:
    """Ask nf_tables for its generation (NFT_MSG_GETGEN): the kernel loads the module for it."""
    nfnl_nftables, getgen, request = 10, 16, 1
    header = struct.pack("=LHHLL", 20, nfnl_nftables << 8 | getgen, request, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:
            link.settimeout(2)
            link.send(header + struct.pack("=BBH", 0, 0, 0))
            answer = link.recv(4096)
    except OSError:
        return False
    kind = struct.unpack_from("=H", answer, 4)[0]
    return bool(kind >> 8 == nfnl_nftables)


def _ipv6_present() -> bool:
    """A kernel booted with ipv6.disable=1 has no such sockets."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _foreign_vxlan_port() -> bool:
    """The port is held, and by no VXLAN device of this namespace (devices share it)."""
    if not _busy(socket.SOCK_DGRAM, marks.VXLAN_PORT):
        return False
    devices = _ip("-details", "link", "show", "type", "vxlan")
    ports = [d.get("linkinfo", {}).get("info_data", {}).get("port") for d in devices]
    return marks.VXLAN_PORT not in ports


def _features() -> tuple[Feature, ...]:
    found = [
        Feature(
            "nf_tables", _nftables_present(), "every rule of the network", "modprobe nf_tables"
        ),
        Feature(
            "IPv6",
            _ipv6_present(),
            "addresses of containers and the way between hosts",
            "take ipv6.disable=1 off the kernel's command line and reboot",
        ),
    ]
    for name, words, purpose, required in _PROBES:
        argv = ["unshare", "--net", "ip", "link", "add", "plprobe0", *words]
        done = subprocess.run(argv, capture_output=True, check=False)
        found.append(Feature(name, done.returncode == 0, purpose, f"modprobe {name}", required))
    return tuple(found)


def _busy(protocol: int, port: int) -> bool:
    """Whether the port is taken on every IPv4 address."""
    with socket.socket(socket.AF_INET, protocol) as probe:
        if protocol == socket.SOCK_STREAM:
            # A listener's old connections in TIME_WAIT do not make the port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def read_host(paths: Paths, *, interface: str = "", port: int = 0) -> HostFacts:
    """Everything that preflight wants to know. Changes nothing; needs root for the probes."""
    root = os.geteuid() == 0
    missing = tuple((name, package) for name, package in PROGRAMS if not shutil.which(name))
    if missing or not root:
        return HostFacts(root=root, missing_programs=missing)
    links = [entry for entry in _links() if not entry[2]]
    outward = interface or _default_device()
    # Stable: the default route's interface first, IPv4 before IPv6 on each.
    reachable = sorted(
        (
            (dev, address)
            for dev, address, _ in links
            if not (interface and dev != interface)
            and not (ip := ipaddress.ip_interface(address).ip).is_loopback
            and not ip.is_link_local
        ),
        key=lambda entry: (entry[0] != outward, ":" in entry[1]),
    )
    uses = [
        *_route_uses(),
        *(Use(a, f"the address {a} of {dev}") for dev, a, _ in links if not _quiet(a)),
        *_resolver_uses(paths.resolv_conf),
        *_docker_uses(paths),
    ]
    wanted = ((socket.SOCK_STREAM, "tcp", port), (socket.SOCK_DGRAM, "udp", 53))
    return HostFacts(
        root=root,
        features=_features(),
        uses=tuple(_valid(uses)),
        addresses=tuple(address for _, address in reachable),
        interfaces=tuple(dict.fromkeys(dev for dev, _ in reachable)),
        busy_ports=tuple((name, p) for kind, name, p in wanted if p and _busy(kind, p)),
        resolvers=real_resolvers(paths),
        docker=shutil.which("dockerd") is not None,
        docker_dns=bool(_docker_settings(paths).get("dns")),
        foreign_vxlan_port=_foreign_vxlan_port(),
        version=platform.release(),
    )


def _quiet(address: str) -> bool:
    ip = ipaddress.ip_interface(address).ip
    return ip.is_loopback or ip.is_link_local
