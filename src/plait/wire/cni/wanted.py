"""What a runtime wants for a workload, gathered from the places where it may say so.

Source: CONVENTIONS.md of the CNI specification. For each thing `runtimeConfig` counts before
`args.cni`, and that before CNI_ARGS; only the limits of speed in the configuration itself count
before those of the runtime, as the reference plugin `bandwidth` has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.ports import PublishedPort
from plait.wire.cni.errors import BAD_CONFIGURATION, BAD_ENVIRONMENT, CniError
from plait.wire.cni.result import Dns, Part

T = TypeVar("T")

ARGUMENTS: Final = frozenset(
    (
        "IgnoreUnknown",
        "IP",
        "MAC",
        "K8S_POD_NAMESPACE",
        "K8S_POD_NAME",
        "K8S_POD_UID",
        "K8S_POD_INFRA_CONTAINER_ID",
    )
)
"""Keys of CNI_ARGS that mean something to us."""
FIELDS: Final = frozenset(("portMappings", "bandwidth", "ipRanges", "dns"))
"""Keys of `runtimeConfig` whose values are made of named fields."""
MAX_BURST: Final = 8 * 0xFFFF_FFFF
"""Bits: the kernel's token buckets count 32 bits of bytes (linux/pkt_sched.h, tc_tbf_qopt)."""
MAX_RATE: Final = (1 << 64) - 1
PROTOCOLS: Final[dict[str, Literal["tcp", "udp", "sctp"]]] = {
    "": "tcp",
    "tcp": "tcp",
    "udp": "udp",
    "sctp": "sctp",
}


class Rates(Part, frozen=True, kw_only=True):
    """Limits of speed: bits a second and bits, seen from the workload; 0: none."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; empty where nothing was said."""

    addresses: tuple[str, ...] = ()
    """Without prefix length, at most one a family."""
    ranges: tuple[str, ...] = ()
    """CIDRs out of which an address that is not requested is to be taken."""
    mac: str = ""
    ports: tuple[PublishedPort, ...] = ()
    rates: Rates | None = None
    dns: Dns | None = None
    aliases: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""


class _Mapping(Part, frozen=True, kw_only=True):
    host_port: int
    container_port: int
    protocol: str = ""
    host_ip: str = msgspec.field(name="hostIP", default="")


class _Range(Part, frozen=True, kw_only=True):
    subnet: str
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


class _Label(Part, frozen=True, kw_only=True):
    key: str
    value: str


class _RuntimeDns(Part, frozen=True, kw_only=True):
    servers: tuple[str, ...] | None = None
    searches: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None


def arguments(text: str) -> dict[str, str]:
    """CNI_ARGS, `KEY=VALUE` joined by semicolons; code 4 for a key that nobody knows, unless
    `IgnoreUnknown` is said."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CniError(BAD_ENVIRONMENT, "CNI_ARGS is not valid", f"{pair!r} is no KEY=VALUE")
        found[key] = value
    unknown = found.keys() - ARGUMENTS
    if unknown and found.get("IgnoreUnknown", "").lower() not in ("1", "t", "true"):
        raise CniError(
            BAD_ENVIRONMENT,
            "CNI_ARGS has unknown keys",
            f"{', '.join(sorted(unknown))}; known: {', '.join(sorted(ARGUMENTS))}",
        )
    return found


def parse(config: Mapping[str, Any], network: str, args: Mapping[str, str]) -> Wanted:
    """Everything that is wanted; `network` is the configuration's name, `args` CNI_ARGS."""
    runtime = _runtime_config(config)
    own = section(section(config, "args"), "cni")
    dns = _dns(config, runtime)
    return Wanted(
        addresses=_addresses(runtime, own, args),
        ranges=_ranges(runtime.get("ipRanges")),
        mac=_mac(runtime.get("mac") or own.get("mac") or "", args.get("MAC", "")),
        ports=_ports(runtime.get("portMappings")),
        rates=_rates(config, runtime),
        dns=dns,
        aliases=_aliases(runtime.get("aliases"), network),
        labels=_labels(own.get("labels")),
        pod_namespace=args.get("K8S_POD_NAMESPACE", ""),
        pod_name=args.get("K8S_POD_NAME", ""),
        pod_uid=args.get("K8S_POD_UID", ""),
    )


def _runtime_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`runtimeConfig`, its fields in the case of the conventions.

    containerd (go-cni) writes the names of Go's own fields, `HostPort`: to Go they are the same.
    """
    given = section(config, "runtimeConfig")
    return {key: _uncapitalised(value) if key in FIELDS else value for key, value in given.items()}


def _uncapitalised(value: Any) -> Any:
    if isinstance(value, list):
        return [_uncapitalised(item) for item in value]
    if isinstance(value, dict):
        return {key[:1].lower() + key[1:]: item for key, item in value.items()}
    return value


def convert(value: Any, kind: type[T], where: str) -> T:
    """The value as that type; code 7 names the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise CniError(BAD_CONFIGURATION, f"{where} is not valid", str(error)) from error


@contextmanager
def checking(where: str, code: int = BAD_CONFIGURATION) -> Iterator[None]:
    """A check inside that refuses is an error of CNI about that field."""
    try:
        yield
    except (PlaitError, ValueError) as error:
        why = error.detail if isinstance(error, PlaitError) else str(error)
        raise CniError(code, f"{where} is not valid", why) from error


def section(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object below a key; empty where it is missing or null, code 7 where it is no object."""
    value = parent.get(key)
    return {} if value is None else convert(value, dict[str, Any], key)


def _addresses(
    runtime: Mapping[str, Any], own: Mapping[str, Any], args: Mapping[str, str]
) -> tuple[str, ...]:
    places = (
        (runtime.get("ips"), "runtimeConfig.ips", BAD_CONFIGURATION),
        (own.get("ips"), "args.cni.ips", BAD_CONFIGURATION),
        (list(filter(None, [args.get("IP")])), "CNI_ARGS, IP", BAD_ENVIRONMENT),
    )
    for given, where, code in places:
        if not given:
            continue
        with checking(where, code):
            # With or without a prefix length: ours is always the whole address.
            found = [
                syntax.address(text.partition("/")[0], where)
                for text in convert(given, list[str], where)
            ]
        _one_a_family((address.version for address in found), where)
        return tuple(map(str, found))
    return ()


def _one_a_family(versions: Iterable[int], where: str) -> None:
    given = list(versions)
    if len(given) != len(set(given)):
        raise CniError(
            BAD_CONFIGURATION, f"{where} is not valid", "an interface has one address a family"
        )


def _ranges(given: Any) -> tuple[str, ...]:
    where = "runtimeConfig.ipRanges"
    if not given:
        return ()
    found: list[str] = []
    versions: list[int] = []
    for group in convert(given, list[list[_Range]], where):
        with checking(where):
            family = {syntax.cidr(item.subnet, where).version for item in group}
            if len(family) != 1:
                raise ValueError("a set of ranges has one family")
            versions += family
            for item in group:
                found += _cidrs(item)
    _one_a_family(versions, where)
    return tuple(found)


def _cidrs(item: _Range) -> list[str]:
    subnet = ipaddress.ip_network(item.subnet)
    first = ipaddress.ip_address(item.range_start or subnet.network_address)
    last = ipaddress.ip_address(item.range_end or subnet.broadcast_address)
    if first not in subnet or last not in subnet:
        raise ValueError(f"{first} to {last} is not inside {subnet}")
    # Refuses a range that ends before it begins.
    return [str(cidr) for cidr in ipaddress.summarize_address_range(first, last)]


def _mac(configured: Any, argument: str) -> str:
    where, code = ("mac", BAD_CONFIGURATION) if configured else ("CNI_ARGS, MAC", BAD_ENVIRONMENT)
    text = convert(configured or argument, str, where).lower().replace("-", ":")
    with checking(where, code):
        return syntax.mac(text, where) if text else ""


def _ports(given: Any) -> tuple[PublishedPort, ...]:
    where = "runtimeConfig.portMappings"
    with checking(where):
        return tuple(map(_port, convert(given or [], list[_Mapping], where)))


def _port(item: _Mapping) -> PublishedPort:
    protocol = PROTOCOLS.get(item.protocol.lower())
    if protocol is None:
        raise ValueError(f"the protocol {item.protocol!r} is none of tcp, udp and sctp")
    for number in (item.host_port, item.container_port):
        syntax.number(number, "port", 1, 65535)
    host_ip = str(syntax.address(item.host_ip, "hostIP")) if item.host_ip else ""
    return PublishedPort(
        protocol=protocol, port=item.container_port, host_port=item.host_port, host_ip=host_ip
    )


def _rates(config: Mapping[str, Any], runtime: Mapping[str, Any]) -> Rates | None:
    static = convert(config, Rates, "the limits of speed")
    given = runtime.get("bandwidth")
    rates = static
    if static == Rates() and given is not None:
        rates = convert(given, Rates, "runtimeConfig.bandwidth")
    if rates == Rates():
        return None
    for rate, burst in (
        (rates.ingress_rate, rates.ingress_burst),
        (rates.egress_rate, rates.egress_burst),
    ):
        if not 0 <= rate <= MAX_RATE or not 0 <= burst <= MAX_BURST:
            raise _no_rates(f"a rate is 0 to {MAX_RATE} bit/s, a burst 0 to {MAX_BURST} bit")
        if burst and not rate:
            raise _no_rates("a burst without a rate limits nothing")
    return rates


def _no_rates(why: str) -> CniError:
    return CniError(BAD_CONFIGURATION, "the limits of speed are not valid", why)


def _dns(config: Mapping[str, Any], runtime: Mapping[str, Any]) -> Dns | None:
    if runtime.get("dns"):
        said = convert(runtime["dns"], _RuntimeDns, "runtimeConfig.dns")
        return Dns(
            nameservers=said.servers or (), search=said.searches or (), options=said.options or ()
        )
    if config.get("dns"):
        given = {key: value for key, value in section(config, "dns").items() if value is not None}
        return convert(given, Dns, "dns")
    return None


def _aliases(given: Any, network: str) -> tuple[str, ...]:
    # podman gives the aliases of each network by its name.
    if isinstance(given, dict):
        given = given.get(network)
    return tuple(convert(given or [], list[str], "runtimeConfig.aliases"))


def _labels(given: Any) -> dict[str, str]:
    where = "args.cni.labels"
    if isinstance(given, dict):
        labels = convert(given, dict[str, str], where)
    else:
        labels = {item.key: item.value for item in convert(given or [], list[_Label], where)}
    with checking(where):
        syntax.label_map(labels, where)
    return labels
