"""Options of `docker network create`. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from plait.docker.names import is_dns_label
from plait.model.errors import PlaitError
from plait.wire.docker import ENABLE_IPV6, GENERIC, INTERNAL

NETWORK: Final = "plait.network"
"""`-o` and `--ipam-opt`: the Plait Network that the Docker network stands for."""
NAMESPACE: Final = "plait.namespace"
"""`-o`, and label of a container: namespace of its endpoints."""

SUPPORTED: Final = (NETWORK, NAMESPACE, ENABLE_IPV6, INTERNAL)
IPAM_SUPPORTED: Final = (NETWORK,)


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `-o` and the flags of `docker network create` said."""

    network: str = ""
    namespace: str = ""
    internal: bool = False


def _refuse_unknown(given: dict[str, Any], supported: tuple[str, ...], flag: str) -> None:
    unknown = sorted(set(given) - set(supported))
    if not unknown:
        return
    raise PlaitError(
        "PLAIT-DOCKER-002",
        f"the network option {unknown[0]!r} is not supported",
        why=f"Plait knows {', '.join(supported)}",
        fix=(f"leave `{flag} {unknown[0]}={given[unknown[0]]}` out",),
    )


def _label(given: dict[str, Any], key: str) -> str:
    value = str(given.get(key, ""))
    if value and not is_dns_label(value):
        raise PlaitError(
            "PLAIT-NAME-001",
            f"{value!r}, the value of the option {key}, is not a DNS label",
            why="a label has 1 to 63 of a-z, 0-9 and -, and no - at either end",
        )
    return value


def _flag(value: object) -> bool:
    """dockerd's own flags are booleans; the same key given by `-o` is text."""
    return value is True or str(value).lower() in ("true", "1", "yes")


def parse(options: dict[str, Any] | None) -> NetworkOptions:
    """Options of CreateNetwork; PLAIT-DOCKER-002 for one that Plait does not know."""
    given = options or {}
    generic = given.get(GENERIC) or {}
    if not isinstance(generic, dict):
        raise PlaitError("PLAIT-DOCKER-001", f"{GENERIC} is not a map")
    _refuse_unknown(generic, SUPPORTED, "-o")
    return NetworkOptions(
        network=_label(generic, NETWORK),
        namespace=_label(generic, NAMESPACE),
        internal=_flag(given.get(INTERNAL)) or _flag(generic.get(INTERNAL)),
    )


def parse_ipam(options: dict[str, Any] | None) -> str:
    """Options of RequestPool: the Plait Network named there, or an empty string."""
    given = options or {}
    _refuse_unknown(given, IPAM_SUPPORTED, "--ipam-opt")
    return _label(given, NETWORK)
