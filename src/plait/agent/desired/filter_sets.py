"""The sets and maps of our nftables table: all that changes without a rule being changed."""

from __future__ import annotations

from typing import Final, Literal

from plait.wire import nft_keys as k
from plait.wire.nft import Set

FAMILIES: Final[tuple[Literal[4, 6], ...]] = (4, 6)
SRC: Final = {
    4: Set("src4", (k.IFNAME, k.IPV4)),
    6: Set("src6", (k.IFNAME, k.IPV6)),
}
"""Host-side link and address of every known endpoint."""
KNOWN: Final = Set("known", (k.IFNAME,))
TO_HOST: Final = Set("tohost", (k.IFNAME,))
"""Host-side link of every known endpoint that may call this host."""
FROM: Final = {
    4: Set("from4", (k.IPV4,), verdicts=True, interval=True),
    6: Set("from6", (k.IPV6,), verdicts=True, interval=True),
}
"""Pool of the sender to the network's egress chain."""
TO: Final = {
    4: Set("to4", (k.IPV4,), verdicts=True, interval=True),
    6: Set("to6", (k.IPV6,), verdicts=True, interval=True),
}
"""Pool of the receiver to the network's ingress chain. Dispatch is by pool and not by link: for
each element that is added to a verdict map the kernel validates all chains that the map leads to,
so the sets that change with every endpoint hold no verdicts."""
POOLS: Final = {
    4: Set("pools4", (k.IPV4,), interval=True),
    6: Set("pools6", (k.IPV6,), interval=True),
}
VTEPS: Final = {4: Set("vteps4", (k.IPV4,)), 6: Set("vteps6", (k.IPV6,))}
PORTS: Final = {
    4: Set("ports4", (k.PROTO, k.SERVICE), (k.IPV4, k.SERVICE)),
    6: Set("ports6", (k.PROTO, k.SERVICE), (k.IPV6, k.SERVICE)),
}
"""Ports published on every local address."""
HOSTPORTS: Final = {
    4: Set(
        "hostports4",
        (k.IPV4, k.PROTO, k.SERVICE),
        (k.IPV4, k.SERVICE),
    ),
    6: Set(
        "hostports6",
        (k.IPV6, k.PROTO, k.SERVICE),
        (k.IPV6, k.SERVICE),
    ),
}
"""Ports published on one local address."""
POLICY: Final = {
    ("egress", 4): Set("pe4", (k.IPV4,), verdicts=True),
    ("egress", 6): Set("pe6", (k.IPV6,), verdicts=True),
    ("ingress", 4): Set("pi4", (k.IPV4,), verdicts=True),
    ("ingress", 6): Set("pi6", (k.IPV6,), verdicts=True),
}
"""Address of a local endpoint to the chain of its policies, for what it sends and receives."""
PEERS: Final = {4: Set("peers4", (k.IPV4,)), 6: Set("peers6", (k.IPV6,))}
"""Address of every known endpoint, here and elsewhere."""
ENDED: Final = {
    4: Set("ended4", (k.IPV4, k.SERVICE, k.IPV4, k.SERVICE), timeout=True),
    6: Set("ended6", (k.IPV6, k.SERVICE, k.IPV6, k.SERVICE), timeout=True),
}
"""Sender and receiver, with their ports, of the answers in UDP flows that policies ended. Who ends
flows fills them, and each element has its end."""
Door = Literal["address", "port"]
"""How a Service is called: at an address of its own, or at a port of the host."""
DOORS: Final[tuple[Door, ...]] = ("address", "port")


def _of_services(
    name: str,
    *more: k.Type | None,
    value: tuple[k.Type | None, ...] = (),
    interval: bool = False,
    timeout: bool = False,
    size: int = 0,
) -> dict[tuple[Door, Literal[4, 6]], Set]:
    """A set for each door and family; its key begins with where a Service is called. None stands
    for an address."""
    found: dict[tuple[Door, Literal[4, 6]], Set] = {}
    for f in FAMILIES:
        address = k.ADDRESS[f]
        for door, prefix in zip(DOORS, ("", "node"), strict=True):
            called = (address, k.PROTO, k.SERVICE)[door == "port" :]
            found[door, f] = Set(
                f"{prefix}{name}{f}",
                (*called, *[kind or address for kind in more]),
                tuple(kind or address for kind in value),
                interval=interval,
                timeout=timeout,
                size=size,
            )
    return found


SERVICES: Final = _of_services("services", value=(k.NUMBER,))
"""Frontend to the number of its shape (`desired.service_shapes`): senders inside."""
OUTSIDE: Final = _of_services("outside", value=(k.NUMBER,))
"""The same for senders outside, of frontends that have another choice for them."""
BACKENDS: Final = _of_services("backends", k.NUMBER, value=(None, k.SERVICE))
"""Frontend and slot to a backend."""
CALLERS: Final = _of_services("callers", None, interval=True)
"""Frontends that not everybody may call, and who may."""
AFFINITY: Final = _of_services(
    "affinity", None, value=(None, k.SERVICE), timeout=True, size=1 << 16
)
"""Frontend and client to the backend with which it stays. Rules fill them; where one is full a
client gets any backend. Strangers may fill them with whatever sources they write, and the kernel
lists them in a time that grows with the square: 0.5 s of a processor for so many, 5 s for four
times more, whenever a backend goes."""
VIPS: Final = {f: Set(f"vips{f}", (k.ADDRESS[f],)) for f in FAMILIES}
"""Addresses of Services."""
VIP_POOLS: Final = {f: Set(f"vippools{f}", (k.ADDRESS[f],), interval=True) for f in FAMILIES}
"""Pools of such addresses."""
ENDPOINT_SETS: Final = (SRC[4], SRC[6], KNOWN, TO_HOST)
NETWORK_SETS: Final = (FROM[4], FROM[6], TO[4], TO[6])
PORT_SETS: Final = (PORTS[4], PORTS[6], HOSTPORTS[4], HOSTPORTS[6])
BASE_SETS: Final = (*POOLS.values(), *VTEPS.values(), *VIP_POOLS.values())
ENTRY_SETS: Final = tuple(
    declared for of in (SERVICES, OUTSIDE, BACKENDS, CALLERS) for declared in of.values()
)
"""Those that say of each frontend of a Service what it is."""
SERVICE_SETS: Final = (*ENTRY_SETS, *VIPS.values(), *AFFINITY.values())
POLICY_SETS: Final = (*POLICY.values(), PEERS[4], PEERS[6], ENDED[4], ENDED[6])
SETS: Final = {
    s.name: s
    for s in (
        *ENDPOINT_SETS,
        *NETWORK_SETS,
        *PORT_SETS,
        *BASE_SETS,
        *POLICY_SETS,
        *SERVICE_SETS,
    )
}
"""Those that are always there; policies bring their own."""

EGRESS_PREFIX: Final = "e-"
INGRESS_PREFIX: Final = "i-"
POLICY_PREFIX: Final = "p-"
"""Of the sets that policies bring."""
CLASS_PREFIX: Final = "pk-"
TIER_PREFIX: Final = "pt-"
STAGED_PREFIX: Final = "ps-"
CHAIN_PREFIX: Final = "pc-"
POLICY_CHAINS: Final = (CLASS_PREFIX, TIER_PREFIX, STAGED_PREFIX, CHAIN_PREFIX)
"""Of the chains that policies bring; the first lead to the last."""
SHAPE_PREFIX: Final = "shape-"
"""Of the chains that Services bring."""
