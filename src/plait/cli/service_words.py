"""Services as people type and read them: `web=80:8080/udp@30080`, `2 of 3`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from plait.cli.columns import SERVICE_TYPES, joined
from plait.model.selectors import ENDPOINT_NAME, Requirement, Selector
from plait.model.services import FixedBackend, ServicePort, ServiceProtocol, ServiceSpec
from plait.services.backends import Backend

TYPES: Final[dict[str, str]] = {
    word: kind for kind, word in SERVICE_TYPES.items() if kind != "ExternalName"
}
"""What `--type` takes."""
PROTOCOLS: Final[dict[str, ServiceProtocol]] = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}

_PORT: Final = re.compile(
    r"((?P<name>[a-z0-9]([-a-z0-9]*[a-z0-9])?)=)?(?P<port>\d{1,5})"
    r"(:(?P<target>[a-z0-9]([-a-z0-9]*[a-z0-9])?))?(/(?P<protocol>tcp|udp|sctp))?(@(?P<node>\d{1,5}))?",
    re.ASCII | re.IGNORECASE,
)
_BACKEND: Final = re.compile(
    r"(?P<bare>[^][:]*:[^][:]*:[^][]*)|(\[(?P<bracketed>[^][]+)\]|(?P<before>[^][:]+))(:(?P<port>\d{1,5}))?",
    re.ASCII,
)


def parse_ports(words: Sequence[str]) -> tuple[ServicePort, ...]:
    """Ports as `80`, `80:8080`, `53/udp`, `web=80:http`, `80@30080` (its node port); where there
    are several, those without a name get one. ValueError says what is wrong with which."""
    found = [_port(word) for word in words]
    if len(found) > 1:
        found = [_named(port) for port in found]
    return tuple(found)


def _port(word: str) -> ServicePort:
    match = _PORT.fullmatch(word)
    if match is None:
        raise ValueError(f"`{word}` is no port; write 80, 80:8080, 53/udp, web=80:http or 80@30080")
    target = match["target"]
    return ServicePort(
        port=int(match["port"]),
        name=(match["name"] or "").lower(),
        protocol=PROTOCOLS[(match["protocol"] or "tcp").lower()],
        target_port=None if target is None else int(target) if target.isdigit() else target,
        node_port=int(match["node"] or 0),
    )


def _named(port: ServicePort) -> ServicePort:
    import msgspec

    name = port.name or f"{port.protocol.lower()}-{port.port}"
    return msgspec.structs.replace(port, name=name)


def parse_backend(word: str) -> FixedBackend:
    """A backend as `10.1.2.3`, `10.1.2.3:80`, `fd00::1` or `[fd00::1]:80`; else ValueError."""
    match = _BACKEND.fullmatch(word)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise ValueError(f"`{word}` is no backend; write 10.1.2.3, 10.1.2.3:80 or [fd00::1]:80")
    address = match["bracketed"] or match["bare"] or match["before"]
    return FixedBackend(address=address, port=int(match["port"] or 0))


def parse_selector(labels: Sequence[str], names: Sequence[str]) -> Selector | None:
    """Endpoints that have all labels (`app=web,tier=front`) and all names; None: nobody was said.
    ValueError where a label is not `KEY=VALUE`."""
    wanted: dict[str, str] = {}
    for pair in (pair for word in labels for pair in word.split(",")):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"`{pair}` is not of the form KEY=VALUE")
        wanted[key] = value
    exist = tuple(Requirement(key=f"{ENDPOINT_NAME}{name}", operator="Exists") for name in names)
    if not wanted and not exist:
        return None
    return Selector(match_labels=wanted, match_expressions=exist)


def tally(backends: Iterable[Backend]) -> tuple[int, int]:
    """How many are ready, and how many there are: of the family of which there are more, for most
    have an address of each."""
    ready: Counter[bool] = Counter()
    there: Counter[bool] = Counter()
    for backend in backends:
        there[":" in backend.address] += 1
        ready[":" in backend.address] += backend.ready
    return max(ready.values(), default=0), max(there.values(), default=0)


def state_text(backend: Backend) -> str:
    """How a backend is, in a word."""
    if backend.ready:
        return "ready"
    if backend.silent:
        return "silent"
    if backend.terminating:
        return "draining" if backend.serving else "gone"
    return backend.condition or "pending"


def backend_rows(spec: ServiceSpec, backends: Iterable[Backend]) -> list[list[str]]:
    """A row for each: address, ports, name, node, site, state."""
    return [
        [
            backend.address,
            joined(
                [
                    f"{number}/{port.protocol.lower()}"
                    for port, number in zip(spec.ports, backend.ports, strict=True)
                    if number
                ]
            ),
            backend.pod or backend.name,
            backend.node,
            backend.site,
            state_text(backend),
        ]
        for backend in sorted(backends, key=lambda one: (one.node, one.address))
    ]


def unserved(spec: ServiceSpec, backends: Sequence[Backend]) -> list[ServicePort]:
    """Ports that lead to a name which no backend has that is ready, though some are."""
    ready = [backend.ports for backend in backends if backend.ready]
    if not ready:
        return []
    return [port for i, port in enumerate(spec.ports) if not any(ports[i] for ports in ready)]


def engine_of(objects: Iterable[Any]) -> Any:
    """The services of these objects, seen from no host in particular."""
    from plait.services.engine import Engine

    engine = Engine("")
    for obj in objects:
        engine.put(obj)
    return engine
