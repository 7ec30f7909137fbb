"""Which of our Nodes a node of Kubernetes is. Pure.

The one of its name; else the one that has its internal address, for kubelet and agent may have
been given different names; else none, until an agent joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from plait.kubernetes import objects
from plait.model.objects import Node


class Hosts:
    """Both sides' nodes. The methods that change something say whether a pairing changed."""

    def __init__(self) -> None:
        self._theirs: dict[str, tuple[str, ...]] = {}
        """Internal addresses by name in Kubernetes."""
        self._ours: dict[str, tuple[str, ...]] = {}
        """Underlay addresses by our name."""
        self._pairs: dict[str, str] = {}
        self.pairs: Mapping[str, str] = MappingProxyType(self._pairs)
        """Our names by Kubernetes' names; live."""
        self._back: dict[str, str] = {}

    def ours(self, name: str) -> str:
        """Our name of a node of Kubernetes; its own where we have none."""
        return self._pairs.get(name, name)

    def theirs(self, name: str) -> str:
        """The name in Kubernetes of a Node of ours; empty if it is none."""
        return self._back.get(name, "")

    def put_theirs(self, name: str, node: objects.Node | None) -> bool:
        """A node of Kubernetes is as it is here, or gone."""
        return self._put(self._theirs, name, None if node is None else internal_addresses(node))

    def put_ours(self, name: str, node: Node | None) -> bool:
        """A Node of ours is as it is here, or gone."""
        bare = None if node is None else tuple(a.partition("/")[0] for a in node.spec.addresses)
        return self._put(self._ours, name, bare)

    def _put(
        self, side: dict[str, tuple[str, ...]], name: str, addresses: tuple[str, ...] | None
    ) -> bool:
        if side.get(name) == addresses:
            return False
        if addresses is None:
            del side[name]
        else:
            side[name] = addresses
        pairs = dict(self._paired())
        if pairs == self._pairs:
            return False
        self._pairs.clear()
        self._pairs.update(pairs)
        self._back = {ours: theirs for theirs, ours in pairs.items()}
        return True

    def _paired(self) -> Iterator[tuple[str, str]]:
        by_name = self._theirs.keys() & self._ours.keys()
        yield from ((name, name) for name in by_name)
        free = {
            address: name
            for name in sorted(self._ours.keys() - by_name, reverse=True)
            for address in self._ours[name]
        }
        for name in sorted(self._theirs.keys() - by_name):
            found = next((free[a] for a in self._theirs[name] if a in free), None)
            if found is not None:
                free = {address: other for address, other in free.items() if other != found}
                yield name, found


def internal_addresses(node: objects.Node) -> tuple[str, ...]:
    """Addresses by which other nodes reach it."""
    return tuple(a.address for a in node.status.addresses if a.type == "InternalIP")
