"""What a new network begins with."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Final, Literal

from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    Cluster,
    ClusterSpec,
    Metadata,
    Namespace,
    Network,
    NetworkSpec,
    encode,
)
from plait.model.syntax import cidr
from plait.server import pools
from plait.server.admission import base, table
from plait.server.clock import Clock, rfc3339
from plait.server.state import State
from plait.store.base import Compare, Put, Store

HISTORY_KEY: Final = "/meta/history"
"""Record with the id of the store's history; see `wire.api.HISTORY_HEADER`."""
DEFAULT_NETWORK: Final = "plait"
DEFAULT_CUT: Final[dict[int, int]] = {4: 16, 6: 64}
"""Prefix length of the default network's pools, or that of the cluster's pool if longer."""


async def bootstrap(
    store: Store, spec: ClusterSpec, clock: Clock, *, default_network: bool = True
) -> bool:
    """Create Cluster `plait`, Namespace `default` and Network `plait`, in one transaction.

    Does nothing and returns False where a Cluster exists: its settings then rule, not `spec`.
    Raises `PlaitError` where the settings are not valid.
    """
    now = rfc3339(clock.now())
    context = base.Context(now, lambda: str(uuid.uuid4()))
    state = State()
    wanted: list[AnyObject] = [
        Cluster(metadata=Metadata(name=base.CLUSTER_NAME), spec=spec),
        Namespace(metadata=Metadata(name=base.DEFAULT_NAMESPACE)),
    ]
    if default_network and spec.pools:
        chosen = _default_pools(spec)
        meta = Metadata(name=DEFAULT_NETWORK)
        wanted.append(Network(metadata=meta, spec=NetworkSpec(pools=chosen)))
    puts = []
    for obj in wanted:
        admitted = table.admit(state, context, None, obj).object
        state.put(admitted.key, admitted, 0)
        puts.append(Put(admitted.key, encode(admitted)))
    done = await store.txn(
        [Compare(put.key, 0) for put in puts],
        [*puts, Put(HISTORY_KEY, uuid.uuid4().hex.encode())],
    )
    return done.succeeded


async def renew_history(store: Store) -> None:
    """Say that the store's history is another one from here on: after a restore of a backup.

    Watchers then begin anew instead of resuming from a revision that means something else.
    """
    await store.txn([], [Put(HISTORY_KEY, uuid.uuid4().hex.encode())])


def _default_pools(spec: ClusterSpec) -> tuple[str, ...]:
    forbidden = [pools.Use(ipaddress.ip_network(net), why) for net, why in pools.FORBIDDEN]
    families: tuple[Literal[4, 6], ...] = (4, 6)
    result = []
    for family in families:
        sources = [
            net
            for i, text in enumerate(spec.pools)
            if (net := cidr(text, f"spec.pools[{i}]")).version == family
        ]
        if not sources:
            continue
        found = pools.cut(sources, DEFAULT_CUT[family], forbidden)
        if found is None:
            raise PlaitError("PLAIT-NET-003", f"the cluster's pools leave no room for IPv{family}")
        result.append(str(found))
    return tuple(result)
