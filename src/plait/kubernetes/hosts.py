"""Which of our Nodes a node of Kubernetes is. Pure.

The one of its name; else the one that has its internal address, for kubelet and agent may have
been given different names; else none, until an agent joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from types import MappingProxyType

from plait.kubernetes import objects
from plait.model.objects import Node


class Hosts:
    """Both sides' nodes. The methods that change something return the names in Kubernetes of the
    nodes whose name of ours is another than before."""

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

    def put_theirs(self, name: str, node: objects.Node | None) -> Set[str]:
        """A node of Kubernetes is as it is here, or gone."""
        return self._put(self._theirs, name, None if node is None else internal_addresses(node))

    def put_ours(self, name: str, node: Node | None) -> Set[str]:
        """A Node of ours is as it is here, or gone."""
        bare = None if node is None else tuple(a.partition("/")[0] for a in node.spec.addresses)
        return self._put(self._ours, name, bare)

    def _put(
        self, side: dict[str, tuple[str, ...]], name: str, addresses: tuple[str, ...] | None
    ) -> Set[str]:
        if side.get(name) == addresses:
            return frozenset()
        if addresses is None:
            del side[name]
        else:
            side[name] = addresses
        pairs = dict(self._paired())
        changed = {theirs for theirs, _ in pairs.items() ^ self._pairs.items()}
        # A node that has no pair goes by its own name, as one does that has a pair of this name.
        moved = {one for one in changed if pairs.get(one, one) != self._pairs.get(one, one)}
        if changed:
            self._pairs.clear()
            self._pairs.update(pairs)
            self._back = {ours: theirs for theirs, ours in pairs.items()}
        return moved

    def _paired(self) -> Iterator[tuple[str, str]]:
        by_name = self._theirs.keys() & self._ours.keys()
        yield from ((name, name) for name in by_name)
        free = {
            address: name
            for name in sorted(self._ours.keys() - by_name, reverse=True)
            for address in self._ours[name]
        }
        taken: set[str] = set()
        for name in sorted(self._theirs.keys() - by_name):
            having = (free[a] for a in self._theirs[name] if a in free)
            found = next((one for one in having if one not in taken), None)
            if found is not None:
                taken.add(found)
                yield name, found


def internal_addresses(node: objects.Node) -> tuple[str, ...]:
    """Addresses by which other nodes reach it."""
    return tuple(a.address for a in node.status.addresses if a.type == "InternalIP")
