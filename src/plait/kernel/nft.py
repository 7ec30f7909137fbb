"""The door to nf_tables: our one table, on one long-lived socket.

The socket lives as long as the agent because it owns the table (NFT_TABLE_F_OWNER): while it is
open no other process can change or flush the table. When it closes, by kill -9 too, the table
stays (NFT_TABLE_F_PERSIST) without an owner, and the next agent adopts it as it is. An orphan is
flushed by `nft flush ruleset` like any table; to rule that out, keep the socket open in a keeper
(systemd's FDSTORE) and hand it to the next agent as `sock`.

Only our table is read: libnftables reads every interval set of the namespace, which may be huge
and somebody else's.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.model import marks
from plait.model.errors import PlaitError
from plait.wire import nfnetlink as nl
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e
from plait.wire.nft_effects import Log
from plait.wire.nft_rewrite import Tproxy

_KIND: Final = nl.SUBSYS_NFTABLES << 8
_INET: Final = e.NFPROTO_INET


class Features(NamedTuple):
    """What this kernel can do."""

    owner: bool
    """Tables with an owner that persist (6.9)."""
    tproxy: bool
    """Transparent proxying in nf_tables (nft_tproxy)."""
    nflog: bool
    """Rules that hand packets to a listener (nft_log, nfnetlink_log)."""


class Refusal(NamedTuple):
    """Why a change was refused."""

    errno: int
    text: str


class NftDoor(Protocol):
    """What the filter programmer needs of nf_tables; `Nft` and `FakeNft` offer it."""

    @property
    def features(self) -> Features:
        """What this kernel can do."""

    @property
    def port(self) -> int:
        """Netlink port of our socket: the owner's, in `TableInfo.owner`."""

    def generation(self) -> int:
        """Number of commits to any ruleset of the namespace; unchanged means nothing changed."""

    def table(self) -> nft_read.TableInfo | None:
        """Our table's head, or None when there is no table."""

    def read(self) -> nft_read.TableState | None:
        """Our table whole, or None when there is none."""

    def commit(self, changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        """All changes or none, in one transaction.

        Returns the refused ones by index, empty when all were made; -1 stands for the whole.
        Raises PlaitError PLAIT-HOST-004 when a live process owns the table.
        """

    def rules(self) -> tuple[nft_read.RuleInfo, ...]:
        """Our rules with their counters."""

    def counters(self) -> dict[str, nft_read.Count]:
        """Our named counters."""

    def live(self, name: str) -> dict[bytes, int]:
        """Elements of one of our sets that have an end, with the milliseconds that are left;
        empty when there is no such set."""

    def elements(self, name: str) -> dict[bytes, nft.Data]:
        """Elements of one of our sets that holds no ranges; empty when there is no such set."""

    def close(self) -> None:
        """Close; the table stays."""


def owned_by_another(name: str, owner: int) -> PlaitError:
    """The error for a table that a live process owns."""
    return PlaitError(
        "PLAIT-HOST-004",
        f"the nftables table `inet {name}` belongs to another running process",
        why=f"netlink port {owner} owns it" if owner else "the kernel refused our changes to it",
        fix=("plait down", "plait status"),
    )


class Nft:
    """The real door; of the network namespace in which it was opened."""

    def __init__(self, table: str = marks.NFT_TABLE, *, sock: socket.socket | None = None) -> None:
        self._name = table
        self._nl = NfnetlinkSocket(sock=sock)
        self._features = Features(
            owner=self._probe_owner(), tproxy=self._probe_tproxy(), nflog=self._probe_nflog()
        )

    @property
    def features(self) -> Features:
        """See NftDoor."""
        return self._features

    @property
    def port(self) -> int:
        """See NftDoor."""
        return self._nl.port

    def fileno(self) -> int:
        """Of the socket that owns the table, for a keeper."""
        return self._nl.fileno()

    def close(self) -> None:
        """See NftDoor."""
        self._nl.close()

    def generation(self) -> int:
        """See NftDoor."""
        return nft_read.generation(self._nl.call(_KIND | nft.GETGEN, b"")[0])

    def table(self) -> nft_read.TableInfo | None:
        """See NftDoor."""
        body = nft_read.table_query(self._name)
        try:
            found = self._nl.call(_KIND | nft.GETTABLE, body, family=_INET)
        except NetfilterError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return nft_read.table_info(found[0]) if found else None

    def read(self) -> nft_read.TableState | None:
        """See NftDoor."""
        info = self.table()
        if info is None:
            return None
        query = nft_read.table_query(self._name)
        hooks = {}
        for msg in self._nl.dump(_KIND | nft.GETCHAIN, query, family=_INET):
            table, chain = nft_read.chain_info(msg)
            if table == self._name:
                hooks[chain.name] = chain.hook
        comments: dict[str, list[str]] = {name: [] for name in hooks}
        for rule in self.rules():
            comments.setdefault(rule.chain, []).append(rule.comment)
        sets = {}
        for msg in self._nl.dump(_KIND | nft.GETSET, query, family=_INET):
            table, declared = nft_read.set_info(msg)
            if table == self._name:
                sets[declared.name] = declared
        return nft_read.TableState(
            info,
            {
                name: nft_read.ChainState(hook, tuple(comments[name]))
                for name, hook in hooks.items()
            },
            sets,
            {name: self._elements(declared) for name, declared in sets.items()},
            set(self.counters()),
        )

    def _elements(self, declared: nft_read.SetInfo) -> dict[bytes, nft.Data]:
        query = nft_read.elements_query(self._name, declared.name)
        found = self._nl.dump(_KIND | nft.GETSETELEM, query, family=_INET)
        kind = declared.flags & (nft.SET_INTERVAL | nft.SET_CONCAT)
        return nft_read.element_map(found, interval=kind == nft.SET_INTERVAL)

    def counters(self) -> dict[str, nft_read.Count]:
        """See NftDoor."""
        query = nft_read.counters_query(self._name)
        found = {}
        for msg in self._nl.dump(_KIND | nft.GETOBJ, query, family=_INET):
            table, name, count = nft_read.counter_info(msg)
            if table == self._name:
                found[name] = count
        return found

    def live(self, name: str) -> dict[bytes, int]:
        """See NftDoor."""
        return {key: left for msg in self._dump(name) for key, left in nft_read.remaining(msg)}

    def elements(self, name: str) -> dict[bytes, nft.Data]:
        """See NftDoor."""
        return nft_read.element_map(self._dump(name), interval=False)

    def _dump(self, name: str) -> list[nl.Message]:
        query = nft_read.elements_query(self._name, name)
        try:
            return self._nl.dump(_KIND | nft.GETSETELEM, query, family=_INET)
        except NetfilterError as error:
            if error.errno == errno.ENOENT:
                return []
            raise

    def rules(self) -> tuple[nft_read.RuleInfo, ...]:
        """See NftDoor."""
        query = nft_read.table_query(self._name)
        found = []
        for msg in self._nl.dump(_KIND | nft.GETRULE, query, family=_INET):
            table, rule = nft_read.rule_info(msg)
            if table == self._name:
                found.append(rule)
        return tuple(found)

    def commit(self, changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        """See NftDoor."""
        requests: list[nl.Request] = []
        origin: list[int] = []
        for i, change in enumerate(changes):
            made = list(change.requests(self._name))
            requests += made
            origin += [i] * len(made)
        refused: dict[int, Refusal] = {}
        for index, reply in self._nl.transact(requests, nl.SUBSYS_NFTABLES).items():
            change_index = origin[index] if index >= 0 else -1
            refused.setdefault(change_index, Refusal(reply.errno, _explain(reply)))
        if any(r.errno == errno.EPERM for r in refused.values()):
            info = self.table()
            raise owned_by_another(self._name, info.owner if info else 0)
        return refused

    def _probe_owner(self) -> bool:
        return self._try(nft.AddTable(nft.TABLE_OWNER | nft.TABLE_PERSIST))

    def _probe_tproxy(self) -> bool:
        chain = nft.Chain(
            "probe",
            (nft.Rule("probe", (e.family(4), e.protocol("udp"), Tproxy("127.0.0.1", 53))),),
            nft.Hook("filter", "prerouting", 0, -150),
        )
        return self._try(nft.AddTable(), nft.AddChain(chain), nft.AddRules(chain))

    def _probe_nflog(self) -> bool:
        rule = nft.Rule("probe", (Log("probe", marks.LOG_GROUP, 1),))
        chain = nft.Chain("probe", (rule,))
        return self._try(nft.AddTable(), nft.AddChain(chain), nft.AddRules(chain))

    def _try(self, *changes: nft.Change) -> bool:
        # Made and removed in one transaction: nobody ever sees it.
        name = f"{self._name}-probe-{os.getpid()}"
        requests = [r for c in (*changes, nft.DeleteTable()) for r in c.requests(name)]
        return not self._nl.transact(requests, nl.SUBSYS_NFTABLES)


def _explain(reply: nl.Reply) -> str:
    return os.strerror(reply.errno) + (f": {reply.text}" if reply.text else "")


class NftMonitor:
    """Notices that somebody else changed our table, so that it is repaired at once.

    Its file descriptor becomes readable at any commit to any ruleset of the namespace.
    """

    def __init__(self, door: NftDoor, table: str = marks.NFT_TABLE) -> None:
        self._door = door
        self._table = table
        self._nl = NfnetlinkSocket([nft.GROUP_NFTABLES])

    def fileno(self) -> int:
        """For the event loop's `add_reader`."""
        return self._nl.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._nl.close()

    def drain(self) -> bool:
        """Read what arrived: True when our table may have been changed by somebody else."""
        foreign = False
        while True:
            try:
                for msg in self._nl.notifications():
                    if msg.port != self._door.port and nft_read.names_table(msg, self._table):
                        foreign = True
            except OSError as error:
                # ENOBUFS: notifications were lost, so anything may have happened.
                if error.errno != errno.ENOBUFS:
                    raise
                foreign = True
            else:
                return foreign
