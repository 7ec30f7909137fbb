"""Reading of our table what a single packet would meet: chains, rules and elements, as they are.

Beside the socket that owns the table and beside all that the agent believes of it: what is asked
here is the kernel. Chains are read when they are entered, elements are looked up by the kernel
itself, so that the answer costs little however many rules there are.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, Protocol

from plait.kernel.fake_nft import FakeNft
from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.model import marks
from plait.wire import nfnetlink as nl
from plait.wire import nft, nft_machine, nft_read
from plait.wire.nft_expr import NFPROTO_INET

_KIND: Final = nl.SUBSYS_NFTABLES << 8


class Inspector(nft_machine.Table, Protocol):
    """What the agent needs to say what the kernel does."""

    def begin(self) -> bool:
        """Forget what was read; False when there is no table."""

    def generation(self) -> int:
        """Number of commits to any ruleset; another one means that the answer may be torn."""

    def close(self) -> None:
        """Release the socket."""


class NftInspector:
    """The real one; of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._nl = NfnetlinkSocket()
        self._hooks: dict[str, tuple[int, int, str]] = {}
        self._chains: dict[str, tuple[nft_machine.Rule, ...]] = {}
        self._sets: dict[str, nft_read.SetInfo] = {}
        self._ranges: dict[str, dict[bytes, nft.Data]] = {}

    def begin(self) -> bool:
        """See Inspector."""
        self._chains.clear()
        self._ranges.clear()
        query = nft_read.table_query(marks.NFT_TABLE)
        found = [
            nft_read.chain_info(msg)
            for msg in self._nl.dump(_KIND | nft.GETCHAIN, query, family=NFPROTO_INET)
        ]
        chains = [chain for table, chain in found if table == marks.NFT_TABLE]
        self._hooks = {chain.name: chain.hook for chain in chains if chain.hook is not None}
        sets = [
            nft_read.set_info(msg)
            for msg in self._nl.dump(_KIND | nft.GETSET, query, family=NFPROTO_INET)
        ]
        self._sets = {info.name: info for table, info in sets if table == marks.NFT_TABLE}
        return bool(chains)

    def generation(self) -> int:
        """See Inspector."""
        return nft_read.generation(self._nl.call(_KIND | nft.GETGEN, b"")[0])

    def close(self) -> None:
        """See Inspector."""
        self._nl.close()

    def hooked(self, hook: int, kind: str) -> Sequence[str]:
        """See nft_machine.Table."""
        return _in_order(self._hooks, hook, kind)

    def rules(self, chain: str) -> Sequence[nft_machine.Rule]:
        """See nft_machine.Table."""
        found = self._chains.get(chain)
        if found is None:
            query = nl.string(1, marks.NFT_TABLE) + nl.string(2, chain)
            rules = [
                nft_read.rule_program(msg)
                for msg in self._nl.dump(_KIND | nft.GETRULE, query, family=NFPROTO_INET)
            ]
            # A kernel that does not filter what it dumps gives all of the namespace.
            found = self._chains[chain] = tuple(
                rule for table, name, rule in rules if (table, name) == (marks.NFT_TABLE, chain)
            )
        return found

    def lookup(self, name: str, key: bytes) -> tuple[bool, nft.Data]:
        """See nft_machine.Table."""
        info = self._sets.get(name)
        if info is None:
            return False, None
        if not info.flags & nft.SET_INTERVAL:
            return self._element(name, key[: info.key_size])
        held = self._ranges.get(name)
        if held is None:
            single = not info.flags & nft.SET_CONCAT
            query = nft_read.elements_query(marks.NFT_TABLE, name)
            dump = self._nl.dump(_KIND | nft.GETSETELEM, query, family=NFPROTO_INET)
            held = self._ranges[name] = nft_read.element_map(dump, interval=single)
        fields = 2 if info.flags & nft.SET_CONCAT else 1
        return nft_machine.in_ranges(held.items(), key, fields=fields)

    def _element(self, name: str, key: bytes) -> tuple[bool, nft.Data]:
        wanted = nl.nested(1, nl.nested(1, nl.attr(1, key)))
        query = nft_read.elements_query(marks.NFT_TABLE, name) + nl.nested(3, wanted)
        try:
            answers = self._nl.call(_KIND | nft.GETSETELEM, query, family=NFPROTO_INET)
        except NetfilterError as error:
            if error.errno == errno.ENOENT:
                return False, None
            raise
        for msg in answers:
            for found, data, _ in nft_read.elements(msg):
                if found == key:
                    return True, data
        return False, None


class FakeInspector:
    """The same over a fake kernel."""

    def __init__(self, nft_door: FakeNft) -> None:
        self._door = nft_door

    def begin(self) -> bool:
        """See Inspector."""
        return marks.NFT_TABLE in self._door.kernel.tables

    def generation(self) -> int:
        """See Inspector."""
        return self._door.generation()

    def close(self) -> None:
        """Nothing to release."""

    def hooked(self, hook: int, kind: str) -> Sequence[str]:
        """See nft_machine.Table."""
        chains = self._door.kernel.tables[marks.NFT_TABLE].chains.values()
        return _in_order(
            {c.name: (c.hook.number, c.hook.priority, c.hook.type) for c in chains if c.hook},
            hook,
            kind,
        )

    def rules(self, chain: str) -> Sequence[nft_machine.Rule]:
        """See nft_machine.Table."""
        return tuple(
            nft_machine.Rule(rule.comment, nft_machine.expressions(memoryview(rule.packed)))
            for rule in self._door.kernel.tables[marks.NFT_TABLE].chains[chain].rules
        )

    def lookup(self, name: str, key: bytes) -> tuple[bool, nft.Data]:
        """See nft_machine.Table."""
        table = self._door.kernel.tables[marks.NFT_TABLE]
        declared = table.sets.get(name)
        if declared is None:
            return False, None
        held = table.elements.get(name, {})
        if declared.interval:
            return nft_machine.in_ranges(held.items(), key, fields=len(declared.key))
        exact = key[: declared.key_size]
        return exact in held, held.get(exact)


def _in_order(hooks: dict[str, tuple[int, int, str]], hook: int, kind: str) -> tuple[str, ...]:
    found = [
        (priority, name)
        for name, (number, priority, of) in hooks.items()
        if number == hook and kind in ("", of)
    ]
    return tuple(name for _, name in sorted(found))
